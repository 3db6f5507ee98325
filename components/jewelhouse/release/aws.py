"""The KMS key policy of an attested key.

KMS verifies documents of Nitro Enclaves and NitroTPM itself and offers their registers as condition keys:
docs.aws.amazon.com/kms/latest/developerguide/conditions-nitro-enclave.html and conditions-nitro-tpm.html.
An Allow per release tuple opens the key; Denies close every other way, because a second Allow, an identity
policy behind a root delegation, or a grant (which carries no attestation) would pass an Allow by.

There is no condition on `aws:SourceVpce`: the endpoint belongs to the operator and is not known before it is
deployed, and a role's stolen credentials open nothing without a document of the measured image. The other
direction is closed where it is known: the endpoint's own policy names the stage's keys (`jewelhouse.aws`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import AwsAccount, Measurements, Platform, Proof
from jewelhouse.release.aws_facts import openings, parse
from jewelhouse.release.aws_keys import CONDITION_KEYS, ONE_RAMDISK, SECURE_BOOT_OFF, ZERO
from jewelhouse.release.policy import Gate, ReleasePolicy

__all__ = [
    "ADMINISTRATION",
    "CONDITION_KEYS",
    "ONE_RAMDISK",
    "OPENING_ACTIONS",
    "POLICY_LIMIT",
    "PROOFS",
    "SECURE_BOOT_OFF",
    "ZERO",
    "compile",
    "openings",
    "parse",
]

# A key policy may have 32 KiB: docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html
POLICY_LIMIT = 32 * 1024

# What would give the plaintext of a data key away, or re-wrap it to a key without these conditions. Spelled
# out: a pattern in a Deny would also catch DescribeKey and the like in tools that ignore its condition.
OPENING_ACTIONS = (
    "kms:Decrypt",
    "kms:DeriveSharedSecret",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)

# What a deployment and its refresh call; nothing here opens the key. PutKeyPolicy stays, because KMS refuses
# a policy that nobody may change (lock-out check), so the owner's administrator remains trusted.
ADMINISTRATION = (
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:GetPublicKey",
    "kms:ListGrants",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
)

PROOFS: Mapping[Platform, Mapping[Proof, tuple[str, str]]] = {
    Platform.AWS_ENCLAVE: {
        Proof.GENUINE: ("enforced", "KMS verifies the document to the Nitro Enclaves root"),
        Proof.DEBUG_OFF: ("enforced", "a debug enclave has PCR0 of zeros, which no gate names"),
        Proof.FIRMWARE: ("not-possible", "documents carry no firmware version; AWS patches the Nitro System"),
        Proof.IMAGE: ("enforced", "PCR0 (kms:RecipientAttestation:ImageSha384)"),
        Proof.CONFIG: ("enforced", "command line, environment and trust settings are inside PCR0"),
        Proof.IDENTITY: ("enforced", "only the stage's role, with evidence of its image"),
        Proof.GPU: ("not-possible", "GPUs cannot enter an enclave: choose aws-nitrotpm"),
        Proof.NO_BYPASS: (
            "enforced",
            "Denies cover missing documents and grants; only the owner edits the policy",
        ),
    },
    Platform.AWS_NITROTPM: {
        Proof.GENUINE: ("enforced", "KMS verifies the document to the Nitro root"),
        Proof.DEBUG_OFF: ("enforced", "boot measurements fix an image without interactive access"),
        Proof.FIRMWARE: ("not-possible", "PCR0 and PCR1 are constant by design"),
        Proof.IMAGE: (
            "enforced",
            "PCR4 with PCR12; PCR7 alone admits every image that its Secure Boot keys signed",
        ),
        Proof.CONFIG: ("enforced", "the verity root hash is in the measured command line"),
        Proof.IDENTITY: ("enforced", "only the stage's role, with evidence of its image"),
        Proof.GPU: (
            "not-possible",
            "no GPU on AWS has a confidential mode to attest: Nitro keeps it apart, KMS sees none of it",
        ),
        Proof.NO_BYPASS: (
            "enforced",
            "Denies cover missing documents and grants; only the owner edits the policy",
        ),
    },
}


def compile(policy: ReleasePolicy) -> dict[str, Any]:
    """The key policy document, which goes inline on the key (`json.dumps` keeps its order).

    Raises JewelhouseError for gates that would open the key to anything but the measured image, and for a
    document over 32 KiB.
    """
    owner = policy.owner
    if not isinstance(owner, AwsAccount):
        raise JewelhouseError("the key's owner has no AWS account", where=policy.key.name)
    if not policy.gates:
        raise JewelhouseError("a release policy needs a gate", where=policy.key.name)
    gates = sorted(policy.gates, key=lambda gate: gate.stage)
    tuples = [(gate, measurements) for gate in gates for measurements in _tuples(policy, gate)]
    document = {
        "Version": "2012-10-17",
        "Id": policy.key.name,
        "Statement": [
            {
                "Sid": "Administration",
                "Effect": "Allow",
                "Principal": {"AWS": owner.deployer},
                "Action": sorted(ADMINISTRATION),
                "Resource": "*",
            },
            *(_allow(gate, measurements, index) for index, (gate, measurements) in enumerate(tuples)),
            *_denials(policy, [measurements for _, measurements in tuples]),
        ],
    }
    size = len(json.dumps(document, separators=(",", ":")))
    if size > POLICY_LIMIT:
        raise JewelhouseError(
            f"the key policy has {size} bytes, KMS takes {POLICY_LIMIT}",
            where=policy.key.name,
            remedy="let fewer stages open one artifact, finish a roll-out, or run stages in another region",
            source="KMS resource quotas, 2026-10",
        )
    return document


def _tuples(policy: ReleasePolicy, gate: Gate) -> Iterator[Measurements]:
    """The release tuples of a gate, refused unless each of them fixes the image."""
    where = f"stages.{gate.stage}.image"
    if gate.platform not in CONDITION_KEYS:
        raise JewelhouseError(
            f"KMS cannot judge evidence of {gate.platform}",
            where=f"stages.{gate.stage}.platform",
            remedy=f"choose {' or '.join(CONDITION_KEYS)}",
        )
    if gate.platform is not policy.key.platform:
        raise JewelhouseError(
            f"a gate of {gate.platform} cannot open {policy.key.name}: each platform has a key of its own",
            where=f"stages.{gate.stage}.platform",
        )
    account = gate.account.account if isinstance(gate.account, AwsAccount) else ""
    role = rf"arn:aws[a-z-]*:iam::{account}:role/[\w+=,.@/-]+"
    if gate.identity is None or not re.fullmatch(role, gate.identity):
        raise JewelhouseError(
            f"a gate needs the role of its stage in {account or 'an AWS account'}, found {gate.identity!r}",
            where=f"stages.{gate.stage}",
        )
    if not gate.measurements:
        raise JewelhouseError(
            "the gate has no measurements, so any image would open the key",
            where=where,
            remedy="build the image, or declare its PCRs in images.lock.yaml",
        )
    for measurements in dict.fromkeys(gate.measurements):
        problem = _weakness(gate.platform, measurements)
        if problem:
            what, remedy = problem
            raise JewelhouseError(what, where=where, remedy=remedy)
        yield measurements


def _weakness(platform: Platform, measurements: Measurements) -> tuple[str, str] | None:
    """What is wrong with a release tuple and what to do about it, or None."""
    values = measurements.values
    for name, value in values.items():
        if name not in CONDITION_KEYS[platform]:
            return f"{name} is not a register that KMS compares on {platform}", "remove it"
        if not re.fullmatch(r"[0-9a-f]{96}", value):
            return f"{name} is not 96 lower-case hex digits", "write the SHA-384 as the build prints it"
    return (_enclave_weakness if platform is Platform.AWS_ENCLAVE else _tpm_weakness)(values)


def _enclave_weakness(values: Mapping[str, str]) -> tuple[str, str] | None:
    if set(values) == {"PCR2"} and values["PCR2"] == ONE_RAMDISK:
        return "PCR2 is the value of every image with one ramdisk", "pin PCR0"
    if "PCR0" not in values:
        return (
            f"{', '.join(values) or 'nothing'} without PCR0 does not fix the image",
            "pin PCR0: a debug enclave keeps PCR3 and PCR4, and a changed ramdisk keeps PCR1 or PCR2",
        )
    zero = [name for name in ("PCR0", "PCR1", "PCR2", "PCR8") if values.get(name) == ZERO]
    if zero:
        return f"{', '.join(zero)} of zeros is a debug enclave", "pin the values of the production image"
    return None


def _tpm_weakness(values: Mapping[str, str]) -> tuple[str, str] | None:
    if values.get("PCR7") == SECURE_BOOT_OFF:
        return (
            "PCR7 is the value of every instance with Secure Boot off",
            "pin PCR4 with PCR12, or enrol Secure Boot keys",
        )
    if "PCR7" not in values and "PCR4" not in values:
        return (
            f"{', '.join(values) or 'nothing'} without PCR4 or PCR7 does not fix the image",
            "pin PCR4 and PCR12",
        )
    never = [name for name in ("PCR4", "PCR7") if values.get(name) == ZERO]
    if never:
        return f"{', '.join(never)} of zeros was never extended", "pin the values that the build predicts"
    if "PCR7" not in values and values.get("PCR12") != ZERO:
        # Secure Boot off lets a command line in from outside: PCR12 covers it, PCR4 does not.
        found = "PCR4 without PCR12" if "PCR12" not in values else "PCR12 other than zeros"
        return (
            f"{found} leaves the command line open (GHSA-xrv8-2pf5-f3q7)",
            "pin PCR12 as 96 zeros beside PCR4, or PCR7 under Secure Boot",
        )
    return None


def _allow(gate: Gate, measurements: Measurements, index: int) -> dict[str, Any]:
    keys = CONDITION_KEYS[gate.platform]
    condition: dict[str, Any] = {
        "StringEqualsIgnoreCase": {keys[name]: value for name, value in measurements.values.items()}
    }
    if gate.not_after is not None:
        end = gate.not_after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition["DateLessThan"] = {"aws:CurrentTime": end}
    return {
        "Sid": f"Release{index}{_camel(gate.stage)}",
        "Effect": "Allow",
        "Principal": {"AWS": gate.identity},
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": condition,
    }


def _denials(policy: ReleasePolicy, tuples: list[Measurements]) -> Iterator[dict[str, Any]]:
    """Denies for everyone. One condition key a statement: keys inside one block are ANDed, which would let
    through whoever meets one of them. A negated operator holds when its key is absent, so a call without
    a document is denied too; the Null statement says the same in words an auditor finds.
    docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
    """
    platform = policy.key.platform
    keys = CONDITION_KEYS[platform]
    common = sorted(set.intersection(*(set(measurements.values) for measurements in tuples)))
    anchor = next((name for name in ("PCR0", "PCR4", "PCR7") if name in common), None)
    if anchor is None:
        raise JewelhouseError(
            "its gates pin different registers, so no Deny can cover all of them",
            where=policy.key.name,
            remedy="pin the same registers for every image that opens this artifact",
        )
    yield _deny("DenyWithoutDocument", OPENING_ACTIONS, {"Null": {keys[anchor]: "true"}})
    for name in common:
        values = sorted({measurements[name] for measurements in tuples})
        yield _deny(f"DenyOther{name}", OPENING_ACTIONS, {"StringNotEqualsIgnoreCase": {keys[name]: values}})
    yield _deny("DenyGrants", ("kms:CreateGrant",), None)


def _deny(sid: str, actions: tuple[str, ...], condition: dict[str, Any] | None) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": sorted(actions),
        "Resource": "*",
    }
    return {**statement, "Condition": condition} if condition else statement


def _camel(name: str) -> str:
    """Statement ids take letters and digits only."""
    return "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", name))
