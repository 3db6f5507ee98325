"""AWS KMS: a key that opens weights opens to attested code alone.

An attested key is one for RSA decryption, or any whose policy speaks of attestation. Rules of its policy:
docs.aws.amazon.com/kms/latest/developerguide/conditions-nitro-enclave.html and conditions-nitro-tpm.html.
A debug enclave keeps PCR3 and PCR4 while PCR0, 1, 2 and 8 are zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pulumi_policy import Severity

from .rule import Rule, items, rule

RULES: list[Rule] = []
KEYS = ("aws:kms/key:Key", "aws:kms/replicaKey:ReplicaKey")
ATTESTATION = "kms:recipientattestation:"
OPENING = ("kms:decrypt", "kms:derivesharedsecret", "kms:reencryptfrom")
CODE = frozenset({"imagesha384", "pcr0", "nitrotpmpcr4", "nitrotpmpcr7", "pcr17"})
# PCR7 of every NitroTPM instance with Secure Boot off (aws/NitroTPM-Tools: nitro-tpm-pcr-compute).
SECURE_BOOT_OFF = (
    "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"
)
ZERO_IN_DEBUG = frozenset({"imagesha384", "pcr0", "pcr1", "pcr2", "pcr8"})
MATCHING = frozenset({"stringequals", "stringequalsignorecase"})
NEGATED = frozenset({"stringnotequals", "stringnotequalsignorecase"})


def statements(policy: Any) -> list[Mapping[str, Any]]:
    """The statements of a policy document given as text or as a mapping; none if it is neither."""
    if isinstance(policy, str):
        try:
            policy = json.loads(policy)
        except json.JSONDecodeError:
            return []
    return [entry for entry in items(policy, "Statement") if isinstance(entry, Mapping)]


def for_anyone(statement: Mapping[str, Any]) -> bool:
    """Whether a statement speaks of every principal and sets no condition."""
    principal = statement.get("Principal")
    everyone = principal == "*" or "*" in items({"p": principal}, "p.AWS")
    return everyone and not statement.get("Condition")


def _attested(token: str, props: Mapping[str, Any]) -> bool:
    rsa = str(props.get("customerMasterKeySpec") or "").startswith("RSA")
    decrypts = (props.get("keyUsage") or "ENCRYPT_DECRYPT") == "ENCRYPT_DECRYPT"
    return (rsa and decrypts) or ATTESTATION in str(props.get("policy") or "").lower()


def _does(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        excepted = (str(pattern).lower() for pattern in items(statement, "NotAction"))
        return not any(fnmatchcase(action, pattern) for pattern in excepted)
    patterns = (str(pattern).lower() for pattern in items(statement, "Action"))
    return any(fnmatchcase(action, pattern) for pattern in patterns)


def _conditions(statement: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Operator, attestation register and values of each condition on evidence, in lower case."""
    for operator, block in (statement.get("Condition") or {}).items():
        for key, values in block.items():
            if str(key).lower().startswith(ATTESTATION):
                values = values if isinstance(values, list) else [values]
                register = str(key).lower().removeprefix(ATTESTATION)
                yield operator.lower(), register, [str(value).lower() for value in values]


@rule(
    RULES,
    "aws-kms-policy-inline",
    *KEYS,
    "aws:kms/keyPolicy:KeyPolicy",
    remedy="Write the policy inline on the key",
    source="hashicorp/terraform-provider-aws: internal/service/kms/key_policy.go",
    severity=Severity.CRITICAL,
)
def policy_inline(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """An attested key carries its policy itself: destroying a separate KeyPolicy puts `kms:*` for the account
    back, and a key without a policy begins with it."""
    if token == "aws:kms/keyPolicy:KeyPolicy":
        yield "destroying this policy would open its key to the whole account"
    elif _attested(token, props) and not statements(props.get("policy")):
        yield "the key has no policy of its own, so its account may use it freely"


@rule(
    RULES,
    "aws-kms-allow-attested",
    *KEYS,
    remedy="Allow opening actions only with StringEqualsIgnoreCase on the registers that fix the image",
    source="docs.aws.amazon.com/kms/latest/developerguide/conditions-nitro-enclave.html",
    severity=Severity.CRITICAL,
)
def allow_attested(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Every statement that opens an attested key demands evidence of the image."""
    if not _attested(token, props):
        return
    for statement in statements(props.get("policy")):
        if statement.get("Effect") != "Allow":
            continue
        name = statement.get("Sid", "without a Sid")
        if _does(statement, "kms:creategrant"):
            yield f"statement {name} allows grants, which carry no attestation"
        if any(_does(statement, action) for action in OPENING):
            yield from (f"statement {name} {problem}" for problem in _weak(statement))


def _weak(statement: Mapping[str, Any]) -> Iterator[str]:
    pinned: dict[str, list[str]] = {}
    for operator, register, values in _conditions(statement):
        if operator in MATCHING:
            pinned[register] = values
        else:
            yield f"compares {register} with {operator}, which lets other evidence or none pass"
    if not pinned:
        yield "opens the key without attestation"
        return
    if not CODE & set(pinned):
        yield f"pins {', '.join(sorted(pinned))}, which a debug enclave or another image may share"
    for register, values in pinned.items():
        if register in ZERO_IN_DEBUG and any(set(value) <= {"0"} for value in values):
            yield f"accepts zeros in {register}: that is a debug enclave"
        if register == "nitrotpmpcr7" and SECURE_BOOT_OFF in values:
            yield "accepts the PCR7 of every instance with Secure Boot off"
    if "nitrotpmpcr4" in pinned and not {"nitrotpmpcr7", "nitrotpmpcr12"} & set(pinned):
        yield "pins PCR4 without PCR12, which leaves the kernel command line open"


@rule(
    RULES,
    "aws-kms-deny-unattested",
    *KEYS,
    remedy="Deny Decrypt and ReEncryptFrom to everyone, one negated attestation condition a statement",
    source="docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html",
    severity=Severity.CRITICAL,
)
def deny_unattested(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Denials close an attested key against every other allow: identity policies, grants, mistakes."""
    if not _attested(token, props):
        return
    denied: set[str] = set()
    grants = False
    for statement in statements(props.get("policy")):
        if statement.get("Effect") != "Deny" or statement.get("Principal") not in ("*", {"AWS": "*"}):
            continue
        grants = grants or (_does(statement, "kms:creategrant") and not statement.get("Condition"))
        conditions = list(_conditions(statement))
        total = sum(len(block) for block in (statement.get("Condition") or {}).values())
        if total > 1 and conditions:
            name = statement.get("Sid", "")
            yield f"statement {name} has {total} condition keys: all must hold for it to deny"
        elif conditions and conditions[0][0] in NEGATED and conditions[0][1] in CODE:
            denied |= {action for action in OPENING if _does(statement, action)}
    for action in ("kms:decrypt", "kms:reencryptfrom"):
        if action not in denied:
            yield f"nothing denies {action} to callers with other evidence or none"
    if not grants:
        yield "nothing denies kms:CreateGrant, and a grant opens the key without attestation"


@rule(
    RULES,
    "aws-kms-no-grant",
    "aws:kms/grant:Grant",
    remedy="Name the stage's role in the key policy, under attestation conditions",
    source="docs.aws.amazon.com/kms/latest/developerguide/grants.html",
    severity=Severity.CRITICAL,
)
def no_grant(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No grants: their constraints know encryption contexts but no attestation."""
    yield "a grant opens its key without attestation"


@rule(
    RULES,
    "aws-kms-not-for-anyone",
    *KEYS,
    remedy="Name principals, and leave kms:* out of attested keys",
    source="docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html",
    severity=Severity.CRITICAL,
)
def not_for_anyone(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No key is open to everyone, and nobody may do everything with an attested key."""
    for statement in statements(props.get("policy")):
        if statement.get("Effect") != "Allow":
            continue
        if for_anyone(statement):
            yield f"statement {statement.get('Sid', '')} allows everyone without a condition"
        actions = {str(action).lower() for action in items(statement, "Action")}
        if ("NotAction" in statement or actions & {"*", "kms:*"}) and _attested(token, props):
            yield f"statement {statement.get('Sid', '')} allows everything"


@rule(
    RULES,
    "aws-kms-deletion-window",
    *KEYS,
    remedy="Leave deletionWindowInDays at 30",
    source="docs.aws.amazon.com/kms/latest/developerguide/deleting-keys.html",
)
def deletion_window(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Losing an attested key loses the weights: its deletion can be stopped for 30 days."""
    window = props.get("deletionWindowInDays")
    if _attested(token, props) and window is not None and int(window) < 30:
        yield f"the key is gone {int(window)} days after somebody deletes it"
