"""Would KMS release? Compiled and published key policies, on real and minted documents.

A negative case is named after the attack or mistake that it stops; a positive one after what must work.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
import real
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import policies
from samples import ALL_STACKS, shipped

from jewelhouse.evidence import appraise, nitro
from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import AttestedKey, AwsAccount, Cloud, Measurements, Platform, Tee
from jewelhouse.rehearsal.minting_nitro import AT, Authority, debug_registers, registers
from jewelhouse.release import aws, compiler
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate
from jewelhouse.release.evaluate.aws import context_of
from jewelhouse.release.policy import Gate, ReleasePolicy

OWNER, OPERATOR = "111122223333", "444455556666"
ROLE = f"arn:aws:iam::{OPERATOR}:role/flow-finetune"
SESSION = f"arn:aws:sts::{OPERATOR}:assumed-role/flow-finetune/i-0123"
OTHER = f"arn:aws:iam::{OPERATOR}:role/flow-other"
DEPLOYER = f"arn:aws:iam::{OWNER}:role/deployer"
AUTHORITY = Authority.new()
FOREIGN = Authority.new(name="foreign root")
IMAGE = {f"PCR{index}": registers()[index].hex() for index in (0, 1, 2)}
TPM_IMAGE = {f"PCR{index}": registers(Kind.NITRO_TPM)[index].hex() for index in (4, 12)}
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}


def gate(
    platform: Platform = Platform.AWS_ENCLAVE, *images: dict[str, str], identity: str = ROLE, **others: Any
) -> Gate:
    return Gate(
        stage=identity.rpartition("-")[2],
        platform=platform,
        tee=Tee.NITRO,
        account=AwsAccount(account=OPERATOR, deployer=f"arn:aws:iam::{OPERATOR}:role/deployer"),
        measurements=tuple(Measurements(values=image) for image in images),
        identity=identity,
        **others,
    )


def compiled(*gates: Gate) -> Document:
    policy = ReleasePolicy(
        key=AttestedKey("base", gates[0].platform, "eu-central-1"),
        owner=AwsAccount(account=OWNER, deployer=DEPLOYER),
        gates=gates,
    )
    return Document(name="base", cloud=Cloud.AWS, body=aws.compile(policy))


def written(*statements: dict[str, Any]) -> Document:
    """A key policy by hand: the given statements, each with what it leaves out."""
    full = [
        {"Effect": "Allow", "Principal": {"AWS": ROLE}, "Action": "kms:Decrypt", "Resource": "*", **statement}
        for statement in statements
    ]
    return Document(name="by hand", cloud=Cloud.AWS, body={"Version": "2012-10-17", "Statement": full})


def allow(operator: str, **keys: Any) -> dict[str, Any]:
    return {
        "Condition": {operator: {f"kms:RecipientAttestation:{key}": value for key, value in keys.items()}}
    }


@cache
def minted(kind: Kind = Kind.NITRO_ENCLAVE, *changes: tuple[int, bytes], **fields: Any) -> Verdict:
    verdict = nitro.verify(
        AUTHORITY.document(pcrs=dict(changes), kind=kind, **fields), at=AT, roots=AUTHORITY.roots
    )
    assert verdict.verified
    return verdict


def enclave(**changes: bytes) -> Verdict:
    return minted(Kind.NITRO_ENCLAVE, *((int(name[3:]), value) for name, value in changes.items()))


def tpm(**changes: bytes) -> Verdict:
    return minted(Kind.NITRO_TPM, *((int(name[3:]), value) for name, value in changes.items()))


def debug() -> Verdict:
    return minted(Kind.NITRO_ENCLAVE, *debug_registers().items())


def decide(document: Document, verdict: Verdict | None, principal: str | None = ROLE, **others: Any) -> Any:
    return evaluate(document, verdict, Request(at=AT, principal=principal, **others))


SOUND = compiled(gate(Platform.AWS_ENCLAVE, IMAGE))
SOUND_TPM = compiled(gate(Platform.AWS_NITROTPM, TPM_IMAGE))
ROLLING = compiled(gate(Platform.AWS_ENCLAVE, {**IMAGE, "PCR0": "1f" * 48}, IMAGE))
CROSS = "cross product of old and new values"
NEW = {"PCR0": "c0" * 48, "PCR1": "c1" * 48, "PCR2": "c2" * 48}

# name, document, evidence, request
RELEASED = [
    ("the stage with its image", SOUND, enclave(), {}),
    ("a session of the stage's role", SOUND, enclave(), {"principal": SESSION}),
    ("a register that no gate names may be anything", SOUND, enclave(PCR16=b"\1" * 48), {}),
    ("the attestable AMI with its image", SOUND_TPM, tpm(), {}),
    ("the old image during a roll-out", ROLLING, enclave(), {}),
    ("the new image during a roll-out", ROLLING, enclave(PCR0=b"\x1f" * 48), {}),
    (
        "upper-case hex, since the operator ignores case",
        written(allow("StringEqualsIgnoreCase", PCR0="A0" * 48)),
        enclave(),
        {},
    ),
    ("the register by its other name", written(allow("StringEquals", ImageSha384="a0" * 48)), enclave(), {}),
    (
        "a condition key in other case",
        written({"Condition": {"StringEquals": {"KMS:recipientattestation:IMAGESHA384": "a0" * 48}}}),
        enclave(),
        {},
    ),
    ("a value list", written(allow("StringEquals", PCR0=["ff" * 48, "a0" * 48])), enclave(), {}),
    (
        "an action in other case",
        written({**allow("StringEquals", PCR0="a0" * 48), "Action": "KMS:decrypt"}),
        enclave(),
        {},
    ),
    (
        "a licence that has not ended",
        compiled(gate(Platform.AWS_ENCLAVE, IMAGE, not_after=AT + timedelta(1))),
        enclave(),
        {},
    ),
    (
        "delegation to the account with an identity policy",
        written({"Principal": {"AWS": f"arn:aws:iam::{OPERATOR}:root"}}),
        enclave(),
        {"identity_policies": (EVERYTHING,)},
    ),
    (
        "an account by its number",
        written({"Principal": {"AWS": OPERATOR}}),
        None,
        {"identity_policies": (EVERYTHING,)},
    ),
    (
        "the vpc endpoint that a policy asks for",
        written({"Condition": {"StringEquals": {"aws:SourceVpce": "vpce-1"}}}),
        enclave(),
        {"context": {"aws:SourceVpce": ("vpce-1",)}},
    ),
    (
        "a role with a path",
        written({"Principal": {"AWS": f"arn:aws:iam::{OPERATOR}:role/team/flow-finetune"}}),
        None,
        {"principal": SESSION},
    ),
    # Policies that hold nothing shut: what is wrong with them is for lint to say, what they release is here.
    ("MISTAKE: debug under PCR3 alone", written(allow("StringEquals", PCR3="a3" * 48)), debug(), {}),
    ("MISTAKE: debug under PCR4 alone", written(allow("StringEquals", PCR4="a4" * 48)), debug(), {}),
    (
        "MISTAKE: IfExists lets a call without a document in",
        written(allow("StringEqualsIfExists", PCR0="a0" * 48)),
        None,
        {},
    ),
    (
        "MISTAKE: ForAllValues lets a call without a document in",
        written(allow("ForAllValues:StringEquals", PCR0="a0" * 48)),
        None,
        {},
    ),
    (
        "MISTAKE: a grant passes an attested Allow by",
        written(allow("StringEquals", PCR0="a0" * 48)),
        None,
        {"principal": OTHER, "grants": ({"GranteePrincipal": OTHER, "Operations": ["Decrypt"]},)},
    ),
    (
        "MISTAKE: root delegation passes an attested Allow by",
        written(
            allow("StringEquals", PCR0="a0" * 48),
            {"Principal": {"AWS": f"arn:aws:iam::{OPERATOR}:root"}, "Action": "kms:*"},
        ),
        None,
        {"principal": OTHER, "identity_policies": (EVERYTHING,)},
    ),
    (
        "MISTAKE: a second Allow without a condition",
        written(allow("StringEquals", PCR0="a0" * 48), {}),
        None,
        {},
    ),
    (
        "MISTAKE: several keys in one Deny, one of them met",
        written(
            {},
            {"Effect": "Deny", "Principal": "*", **allow("StringNotEquals", PCR0="a0" * 48, PCR1="ff" * 48)},
        ),
        enclave(),
        {},
    ),
    (
        "MISTAKE: NitroTPM PCR4 without PCR12 takes a foreign command line",
        written(allow("StringEquals", NitroTPMPCR4="b4" * 48)),
        tpm(PCR12=b"\x66" * 48),
        {},
    ),
    (
        f"MISTAKE: {CROSS}",
        written(allow("StringEquals", PCR0=["a0" * 48, NEW["PCR0"]], PCR1=["a1" * 48, NEW["PCR1"]])),
        enclave(PCR1=bytes.fromhex(NEW["PCR1"])),
        {},
    ),
]

DENIED = [
    # name, document, evidence, request, claim that decided, words
    ("a call without evidence", SOUND, None, {}, "kms:RecipientAttestation:ImageSha384", "explicit Deny"),
    ("a debug enclave", SOUND, debug(), {}, "kms:RecipientAttestation:ImageSha384", "explicit Deny"),
    ("another image", SOUND, enclave(PCR0=b"\xff" * 48), {}, "kms:RecipientAttestation:ImageSha384", ""),
    (
        "another workload on the same boot ramdisk",
        SOUND,
        enclave(PCR2=b"\xff" * 48),
        {},
        "kms:RecipientAttestation:PCR2",
        "",
    ),
    ("another kernel", SOUND, enclave(PCR1=b"\xff" * 48), {}, "kms:RecipientAttestation:PCR1", ""),
    (
        "another stage's role with the right image",
        SOUND,
        enclave(),
        {"principal": OTHER},
        "principal",
        "no Allow",
    ),
    (
        "a role of the same name in another account",
        SOUND,
        enclave(),
        {"principal": "arn:aws:iam::999999999999:role/flow-finetune"},
        "principal",
        "no Allow",
    ),
    (
        "a session of another role",
        SOUND,
        enclave(),
        {"principal": f"arn:aws:sts::{OPERATOR}:assumed-role/flow-finetune2/i-1"},
        "principal",
        "no Allow",
    ),
    (
        "the owner's administrator",
        SOUND,
        None,
        {"principal": DEPLOYER},
        "kms:RecipientAttestation:ImageSha384",
        "",
    ),
    (
        "the administrator with the right image",
        SOUND,
        enclave(),
        {"principal": DEPLOYER},
        "principal",
        "no Allow",
    ),
    (
        "the owner's root",
        SOUND,
        enclave(),
        {"principal": f"arn:aws:iam::{OWNER}:root", "identity_policies": (EVERYTHING,)},
        "principal",
        "no Allow",
    ),
    (
        "the operator's root",
        SOUND,
        enclave(),
        {"principal": f"arn:aws:iam::{OPERATOR}:root"},
        "principal",
        "",
    ),
    ("nobody in particular", SOUND, enclave(), {"principal": None}, "principal", "no Allow"),
    (
        "an identity policy where the key policy does not delegate",
        SOUND,
        enclave(),
        {"principal": OTHER, "identity_policies": (EVERYTHING,)},
        "principal",
        "no Allow",
    ),
    (
        "an identity policy that denies",
        SOUND,
        enclave(),
        {"identity_policies": ({"Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]},)},
        "",
        "explicit Deny",
    ),
    (
        "a grant under a compiled policy",
        SOUND,
        None,
        {"principal": OTHER, "grants": ({"GranteePrincipal": OTHER, "Operations": ["Decrypt"]},)},
        "kms:RecipientAttestation:ImageSha384",
        "explicit Deny",
    ),
    (
        "creating a grant",
        SOUND,
        enclave(),
        {"principal": DEPLOYER, "action": "kms:CreateGrant"},
        "",
        "explicit Deny",
    ),
    (
        "re-encrypting to a key without conditions",
        SOUND,
        enclave(),
        {"action": "kms:ReEncryptFrom"},
        "kms:RecipientAttestation:ImageSha384",
        "explicit Deny",
    ),
    ("generating a data key", SOUND, enclave(), {"action": "kms:GenerateDataKey"}, "principal", "no Allow"),
    ("deriving a secret", SOUND, enclave(), {"action": "kms:DeriveSharedSecret"}, "principal", "no Allow"),
    (
        "evidence of a NitroTPM for an enclave's key",
        SOUND,
        tpm(),
        {},
        "kms:RecipientAttestation:ImageSha384",
        "",
    ),
    (
        "evidence of an enclave for a NitroTPM's key",
        SOUND_TPM,
        enclave(),
        {},
        "kms:RecipientAttestation:NitroTPMPCR4",
        "",
    ),
    (
        "a foreign command line",
        SOUND_TPM,
        tpm(PCR12=b"\x66" * 48),
        {},
        "kms:RecipientAttestation:NitroTPMPCR12",
        "",
    ),
    (
        "another boot image",
        SOUND_TPM,
        tpm(PCR4=b"\x66" * 48),
        {},
        "kms:RecipientAttestation:NitroTPMPCR4",
        "",
    ),
    (
        "a register of the old image with one of the new",
        compiled(gate(Platform.AWS_ENCLAVE, IMAGE, NEW)),
        enclave(PCR1=bytes.fromhex(NEW["PCR1"])),
        {},
        "kms:RecipientAttestation:PCR1",
        "",
    ),
    (
        "an image after its roll-out",
        compiled(gate(Platform.AWS_ENCLAVE, NEW)),
        enclave(),
        {},
        "kms:RecipientAttestation:ImageSha384",
        "",
    ),
    (
        "a licence that has ended",
        compiled(gate(Platform.AWS_ENCLAVE, IMAGE, not_after=AT)),
        enclave(),
        {},
        "aws:CurrentTime",
        "",
    ),
    (
        "registers claimed through the context",
        SOUND,
        None,
        {"context": {"kms:RecipientAttestation:ImageSha384": ("a0" * 48,)}},
        "kms:RecipientAttestation:ImageSha384",
        "",
    ),
    (
        "a register under a case-sensitive operator",
        written(allow("StringEquals", PCR0="A0" * 48)),
        enclave(),
        {},
        "kms:RecipientAttestation:ImageSha384",
        "",
    ),
    (
        "the old page's keys for a NitroTPM",
        written(allow("StringEquals", PCR4="b4" * 48)),
        tpm(),
        {},
        "kms:RecipientAttestation:PCR4",
        "",
    ),
    (
        "kms:RecipientAttestation is no condition key",
        written({"Condition": {"StringEquals": {"kms:RecipientAttestation": "a0" * 48}}}),
        enclave(),
        {},
        "kms:recipientattestation",
        "",
    ),
    (
        "attestation of an action that takes no document",
        written({**allow("StringEquals", PCR0="a0" * 48), "Action": "kms:Sign"}),
        enclave(),
        {"action": "kms:Sign"},
        "kms:RecipientAttestation:ImageSha384",
        "",
    ),
    (
        "an unknown operator in an Allow",
        written(allow("StringMatches", PCR0="a0" * 48)),
        enclave(),
        {},
        "",
        "cannot be read",
    ),
    (
        "an unknown operator in a Deny",
        written({}, {"Effect": "Deny", "Principal": "*", **allow("StringMatches", PCR0="a0" * 48)}),
        enclave(),
        {},
        "",
        "may deny",
    ),
    ("an unknown Effect", written({"Effect": "Permit"}), enclave(), {}, "", ""),
    ("a statement without an action is void", written({"Action": []}), enclave(), {}, "", "no effect"),
    (
        "no statement",
        Document(name="x", cloud=Cloud.AWS, body={"Statement": []}),
        enclave(),
        {},
        "",
        "there is none",
    ),
    (
        "statements of another shape",
        Document(name="x", cloud=Cloud.AWS, body={"Statement": "all"}),
        enclave(),
        {},
        "",
        "there is none",
    ),
    (
        "everybody but one by NotPrincipal",
        written({}, {"Effect": "Deny", "Action": "kms:*", "Principal": ..., "NotPrincipal": {"AWS": ROLE}}),
        enclave(),
        {},
        "",
        "Deny",
    ),
    (
        "another endpoint",
        written({"Condition": {"StringEquals": {"aws:SourceVpce": "vpce-1"}}}),
        enclave(),
        {"context": {"aws:SourceVpce": ("vpce-2",)}},
        "aws:SourceVpce",
        "",
    ),
    (
        "two values for an operator of one",
        written({"Condition": {"StringEquals": {"aws:SourceVpce": "vpce-1"}}}),
        enclave(),
        {"context": {"aws:SourceVpce": ("vpce-1", "vpce-2")}},
        "aws:SourceVpce",
        "not documented",
    ),
    (
        "a grant to somebody else",
        written({"Principal": {"AWS": DEPLOYER}}),
        None,
        {"grants": ({"GranteePrincipal": OTHER, "Operations": ["Decrypt"]},)},
        "principal",
        "",
    ),
    (
        "a grant for another operation",
        written({"Principal": {"AWS": DEPLOYER}}),
        None,
        {"grants": ({"GranteePrincipal": ROLE, "Operations": ["Encrypt"]},)},
        "Operations",
        "",
    ),
    (
        "a grant whose encryption context is not that of the call",
        written({"Principal": {"AWS": DEPLOYER}}),
        None,
        {
            "grants": (
                {
                    "GranteePrincipal": ROLE,
                    "Operations": ["Decrypt"],
                    "Constraints": {"EncryptionContextSubset": {"model": "a"}},
                },
            )
        },
        "EncryptionContextSubset",
        "",
    ),
]


OPEN: dict[str, Any] = {"Principal": "*"}
DELEGATED: dict[str, Any] = {"Principal": {"AWS": f"arn:aws:iam::{OPERATOR}:root"}}
GRANT = {"GranteePrincipal": ROLE, "Operations": ["Decrypt"]}
NOT_MINE = {"Principal": {"AWS": DEPLOYER}}


def closed(**changes: Any) -> Document:
    """Open to everybody but for one Deny."""
    return written(OPEN, {"Effect": "Deny", "Principal": "*", "Action": "kms:*", **changes})


# What AWS would not take, or does not document: it must never open what the rest of the document would.
UNREAD = [
    # name, document, request, words
    ("a Deny whose action is a number", closed(Action=[42]), {}, "may deny"),
    ("a Deny with a number among its actions", closed(Action=["kms:Encrypt", 7]), {}, "may deny"),
    ("a Deny whose principal is free text", closed(Principal="somebody"), {}, "may deny"),
    ("a Deny whose resource is a number", closed(Resource=[1]), {}, "may deny"),
    ("a Deny with a misspelt element", closed(Conditions={}), {}, "may deny"),
    (
        "a statement that is no object",
        Document(name="x", cloud=Cloud.AWS, body={"Statement": [*written(OPEN).body["Statement"], "deny"]}),
        {},
        "may deny",
    ),
    (
        "a version that IAM does not know",
        Document(name="x", cloud=Cloud.AWS, body={**written(OPEN).body, "Version": "2030-01-01"}),
        {},
        "no version",
    ),
    (
        "Denies under a misspelt Statement",
        Document(name="x", cloud=Cloud.AWS, body={**written(OPEN).body, "Statments": []}),
        {},
        "not an element",
    ),
    (
        "an Allow by a negated operator of nothing",
        written({**OPEN, "Condition": {"StringNotEquals": {"aws:SourceVpce": []}}}),
        {"context": {"aws:SourceVpce": ("vpce-1",)}},
        "not documented",
    ),
    (
        "a Deny of a pattern that is no ARN",
        closed(Condition={"ArnLike": {"aws:PrincipalArn": "*"}}),
        {},
        "explicit Deny",
    ),
    (
        "a Deny by a Bool that is neither true nor false",
        closed(Condition={"Bool": {"aws:SecureTransport": "yes"}}),
        {},
        "explicit Deny",
    ),
    (
        "an identity policy without a resource",
        written(DELEGATED),
        {"identity_policies": ({"Statement": [{"Effect": "Allow", "Action": "*"}]},)},
        "none of the caller's",
    ),
    (
        "a key policy given for an identity policy",
        written(DELEGATED),
        {"identity_policies": (written(OPEN).body,)},
        "none of the caller's",
    ),
    ("an identity policy that is text", written(OPEN), {"identity_policies": ("all",)}, "not an object"),
    ("a grant that is text", written(NOT_MINE), {"grants": ("all",)}, "not an object"),
    (
        "a grant to a whole account",
        written(NOT_MINE),
        {"grants": ({**GRANT, "GranteePrincipal": f"arn:aws:iam::{OPERATOR}:root"},)},
        "",
    ),
    (
        "a grant whose encryption context has a value in other case",
        written(NOT_MINE),
        {
            "grants": ({**GRANT, "Constraints": {"EncryptionContextEquals": {"Model": "a"}}},),
            "context": {"kms:EncryptionContext:model": ("A",)},
        },
        "",
    ),
    (
        "a grant for the service of another resource",
        written(NOT_MINE),
        {
            "grants": ({**GRANT, "Constraints": {"SourceArn": "arn:aws:s3:::a"}},),
            "context": {"aws:SourceArn": ("arn:aws:s3:::b",)},
        },
        "",
    ),
    (
        "a NotPrincipal that spares a session's role but not its account",
        closed(Principal=..., NotPrincipal={"AWS": [ROLE]}),
        {"principal": SESSION},
        "explicit Deny",
    ),
    (
        "an AWS service calling by itself",
        closed(Condition={"Bool": {"aws:PrincipalIsAWSService": "true"}}),
        {"principal": "logs.amazonaws.com"},
        "explicit Deny",
    ),
]


@pytest.mark.parametrize(("name", "document", "request_", "says"), UNREAD, ids=[row[0] for row in UNREAD])
def test_what_cannot_be_read_opens_nothing(name, document, request_, says):
    decision = decide(cleaned(document), None, **request_)
    assert not decision.released
    assert any(says in reason.what and not reason.holds for reason in decision.because), decision.because


def test_each_of_these_would_be_open_if_what_cannot_be_read_were_dropped():
    assert decide(written(OPEN), None).released
    assert decide(written(DELEGATED), None, identity_policies=(EVERYTHING,)).released
    assert decide(written(NOT_MINE), None, grants=(GRANT,)).released
    equal = {**GRANT, "Constraints": {"EncryptionContextEquals": {"Model": "a"}}}
    context = {"kms:EncryptionContext:model": ("a",)}
    assert decide(written(NOT_MINE), None, grants=(equal,), context=context).released
    source = {**GRANT, "Constraints": {"SourceArn": "arn:aws:s3:::a"}}
    context = {"aws:SourceArn": ("arn:aws:s3:::a",)}
    assert decide(written(NOT_MINE), None, grants=(source,), context=context).released
    spared = closed(Principal=..., NotPrincipal={"AWS": [ROLE, f"arn:aws:iam::{OPERATOR}:root"]})
    assert decide(cleaned(spared), None, SESSION).released


def cleaned(document: Document) -> Document:
    """Without the elements that a case takes out."""
    body = dict(document.body)
    if isinstance(body["Statement"], list):
        body["Statement"] = [
            {name: value for name, value in statement.items() if value is not ...}
            if isinstance(statement, dict)
            else statement
            for statement in body["Statement"]
        ]
    return replace(document, body=body)


@pytest.mark.parametrize(
    ("name", "document", "verdict", "request_"), RELEASED, ids=[row[0] for row in RELEASED]
)
def test_released(name, document, verdict, request_):
    decision = decide(document, verdict, **request_)
    assert decision.released, decision.because
    assert decision.because
    assert all(reason.holds for reason in decision.because)


@pytest.mark.parametrize(
    ("name", "document", "verdict", "request_", "claim", "says"), DENIED, ids=[row[0] for row in DENIED]
)
def test_denied(name, document, verdict, request_, claim, says):
    decision = decide(cleaned(document), verdict, **request_)
    assert not decision.released
    assert any(
        reason.claim == claim and says in reason.what and not reason.holds for reason in decision.because
    ), decision.because


# Real documents.


def real_policy(name: str, **keys: str) -> Document:
    return written({"Principal": "*", **allow("StringEqualsIgnoreCase", **keys)})


def of_real(name: str) -> Verdict:
    return appraise.verify(real.evidence(f"aws-nitro/{name}"), at=None)


def test_a_policy_on_the_image_of_a_real_document_releases_to_it_alone():
    valid = of_real("evervault-valid.bin")
    document = written({"Principal": "*", **allow("StringEquals", ImageSha384=valid.measurements["PCR0"])})
    request = Request(at=valid.at, principal=ROLE)
    assert evaluate(document, valid, request).released
    for name in ("evervault-debug.bin", "oyster-aws.bin", "dstack-nsm-qvl.bin", "oyster-custom-root.bin"):
        assert not evaluate(document, of_real(name), request).released, name


def test_the_signer_of_a_real_document_is_pcr8():
    valid = of_real("evervault-valid.bin")
    document = written(allow("StringEquals", PCR8=valid.measurements["PCR8"]))
    assert decide(document, valid).released
    assert not decide(document, of_real("evervault-debug.bin")).released


def test_a_real_debug_enclave_passes_a_policy_on_its_role_alone():
    found = of_real("evervault-debug.bin")
    assert decide(written(allow("StringEquals", PCR3=found.measurements["PCR3"])), found).released
    both = allow(
        "StringEquals",
        PCR3=found.measurements["PCR3"],
        PCR0=of_real("evervault-valid.bin").measurements["PCR0"],
    )
    assert not decide(written(both), found).released


def test_a_policy_that_names_the_zeros_of_debug_releases_to_a_real_debug_enclave():
    document = written(allow("StringEquals", ImageSha384="0" * 96))
    assert decide(document, of_real("evervault-debug.bin")).released


@pytest.mark.parametrize("name", ["evervault-valid.bin", "oyster-aws.bin", "dstack-nsm-qvl.bin"])
def test_a_stale_real_document_is_denied_whatever_it_claims(name):
    data = real.evidence(f"aws-nitro/{name}")
    verdict = appraise.verify(data, at=datetime(2026, 11, 1, tzinfo=UTC))
    document = written({"Principal": "*", **allow("StringEquals", PCR0=verdict.measurements["PCR0"])})
    decision = decide(document, verdict)
    assert not decision.released
    assert {reason.where for reason in decision.because} == {"evidence"}


def test_a_replayed_real_document_is_denied():
    data = real.evidence("aws-nitro/evervault-valid.bin")
    verdict = appraise.verify(data, at=None, nonce=b"another challenge")
    assert not decide(written({"Principal": "*"}), verdict).released


def test_the_foreign_document_is_denied_for_its_root():
    verdict = of_real("oyster-custom-root.bin")
    decision = decide(written({"Principal": "*"}), verdict)
    assert not decision.released
    assert any("root" in reason.what for reason in decision.because)


def test_other_evidence_is_nothing_to_kms():
    verdict = Verdict(kind=Kind.SEV_SNP, verified=True, debug=False, at=AT)
    decision = decide(written({"Principal": "*"}), verdict)
    assert not decision.released
    assert "not sev-snp" in decision.because[0].what


# What a document supplies.


def test_the_context_of_each_kind_leaves_the_keys_of_the_other_absent():
    request = Request(at=AT, principal=SESSION)
    first, second = context_of(enclave(), request), context_of(tpm(), request)
    assert first["kms:RecipientAttestation:ImageSha384"] == first["kms:RecipientAttestation:PCR0"]
    assert not [key for key in first if "NitroTPM" in key]
    assert not [key for key in second if "RecipientAttestation:PCR" in key or "ImageSha384" in key]
    assert second["kms:RecipientAttestation:NitroTPMPCR4"] == ("b4" * 48,)
    assert first["aws:PrincipalArn"] == (ROLE,)
    assert first["aws:PrincipalAccount"] == first["kms:CallerAccount"] == (OPERATOR,)


# Model and evaluator agree.

AWS = (Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM)
KINDS = {Platform.AWS_ENCLAVE: Kind.NITRO_ENCLAVE, Platform.AWS_NITROTPM: Kind.NITRO_TPM}


@given(policies(AWS), st.data())
@settings(max_examples=150, deadline=None)
def test_a_policy_releases_exactly_the_evidence_that_its_gates_describe(policy, data):
    document = Document(name="p", cloud=Cloud.AWS, body=aws.compile(policy))
    one = data.draw(st.sampled_from(policy.gates))
    values = dict(data.draw(st.sampled_from(one.measurements)).values)
    change = data.draw(st.sampled_from(["", "register", "role", "kind", "time", "absent"]))
    kind, at, principal = KINDS[policy.key.platform], datetime(2026, 11, 1, tzinfo=UTC), one.identity
    if change == "register":
        name = data.draw(st.sampled_from(sorted(values)))
        values[name] = data.draw(st.sampled_from(["f" * 96, "0" * 96, values[name]]))
    elif change == "absent":
        del values[data.draw(st.sampled_from(sorted(values)))]
    elif change == "role":
        principal = data.draw(st.sampled_from([OTHER, *(gate.identity for gate in policy.gates)]))
    elif change == "kind":
        kind = next(other for other in KINDS.values() if other is not kind)
    elif change == "time":
        at = datetime(data.draw(st.sampled_from([2027, 2028, 2029])), 6, 1, tzinfo=UTC)
    verdict = Verdict(kind=kind, verified=True, debug=False, at=at, measurements=values)
    expected = kind is KINDS[policy.key.platform] and any(
        gate.identity == principal
        and (gate.not_after is None or at < gate.not_after)
        and any(
            all(values.get(name) == value for name, value in image.values.items())
            for image in gate.measurements
        )
        for gate in policy.gates
    )
    decision = evaluate(document, verdict, Request(at=at, principal=principal))
    assert decision.released is expected, decision.because


@given(policies((Platform.AWS_ENCLAVE,), ends=False), st.data())
@settings(max_examples=40, deadline=None)
def test_adding_a_gate_closes_nothing(policy, data):
    wider = replace(policy, gates=(*policy.gates, gate(Platform.AWS_ENCLAVE, NEW, identity=OTHER)))
    one = data.draw(st.sampled_from(policy.gates))
    verdict = Verdict(
        kind=Kind.NITRO_ENCLAVE, verified=True, debug=False, at=AT, measurements=one.measurements[0].values
    )
    for body in (aws.compile(policy), aws.compile(wider)):
        assert decide(Document(name="p", cloud=Cloud.AWS, body=body), verdict, one.identity).released


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.just("*") | st.just("kms:Decrypt"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Effect", "Principal", "Action", "Resource", "Condition", "AWS", "StringEquals", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(anything)
@settings(max_examples=200, deadline=None)
def test_any_document_is_decided(value):
    for body in ({"Statement": value}, {"Statement": [value]}):
        decision = decide(Document(name="x", cloud=Cloud.AWS, body=body), enclave())
        assert decision.because


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_every_gate_of_every_stack_opens_its_key(stack):
    for key, policy in release_policies(shipped(stack)).items():
        if key.cloud is Cloud.AWS:
            document = Document(name=key.name, cloud=key.cloud, body=compiler.compile(policy))
            for one in policy.gates:
                verdict = Verdict(
                    kind=KINDS[key.platform],
                    verified=True,
                    debug=False,
                    at=AT,
                    measurements=one.measurements[0].values,
                )
                assert decide(document, verdict, one.identity).released
                assert not decide(document, None, one.identity).released


REGISTERS = {Kind.NITRO_ENCLAVE: range(16), Kind.NITRO_TPM: range(24)}


@given(policies(AWS, ends=False), st.data())
@settings(max_examples=60, deadline=None)
def test_a_policy_releases_exactly_the_signed_documents_that_its_gates_describe(policy, data):
    """The same from end to end: documents are minted with every field varied, and verified to their root."""
    document = Document(name="p", cloud=Cloud.AWS, body=aws.compile(policy))
    one = data.draw(st.sampled_from(policy.gates))
    kind = data.draw(st.sampled_from([KINDS[policy.key.platform]] * 4 + list(KINDS.values())))
    wanted = data.draw(st.sampled_from(one.measurements)).values
    pcrs = {int(name[3:]): bytes.fromhex(value) for name, value in wanted.items()}
    if data.draw(st.booleans()):
        register = data.draw(st.sampled_from([*pcrs, *REGISTERS[kind]]))
        pcrs[register] = data.draw(st.sampled_from([bytes(48), b"\xff" * 48, b"\x5a" * 48]))
    found = data.draw(st.sampled_from([AUTHORITY, AUTHORITY, AUTHORITY, FOREIGN]))
    shown = found.document(
        {index: value for index, value in pcrs.items() if index in REGISTERS[kind]},
        kind,
        tagged=data.draw(st.booleans()),
        indefinite=data.draw(st.booleans()),
        nonce=data.draw(st.none() | st.binary(min_size=1, max_size=32)),
        user_data=data.draw(st.none() | st.binary(min_size=1, max_size=32)),
    )
    at = AT + timedelta(hours=data.draw(st.sampled_from([0, 0, 0, 1, 4, -1])))
    verdict = nitro.verify(shown, at=at, roots=AUTHORITY.roots)
    principal = data.draw(st.sampled_from([one.identity, OTHER]))
    genuine = found is AUTHORITY and 0 <= (at - AT) / timedelta(hours=1) <= 2
    expected = (
        genuine
        and kind is KINDS[policy.key.platform]
        and any(
            gate.identity == principal
            and any(
                all(verdict.measurements.get(name) == value for name, value in image.values.items())
                for image in gate.measurements
            )
            for gate in policy.gates
        )
    )
    decision = evaluate(document, verdict, Request(at=at, principal=principal))
    assert decision.released is expected, (decision.because, verdict.problems)
