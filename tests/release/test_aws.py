from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from samples import ALL_STACKS, shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import (
    Account,
    AttestedKey,
    AwsAccount,
    AzureAccount,
    Cloud,
    Measurements,
    Platform,
    Proof,
    Tee,
)
from jewelhouse.release import aws
from jewelhouse.release.policy import Gate, ReleasePolicy

ENCLAVE, TPM = Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM
OWNER = AwsAccount(account="111122223333", deployer="arn:aws:iam::111122223333:role/deployer")
OPERATOR = AwsAccount(account="444455556666", deployer="arn:aws:iam::444455556666:role/deployer")
ZERO, A, B, C, D = (digit * 96 for digit in "0abcd")
ENCLAVE_KEYS = {
    "PCR0": "kms:RecipientAttestation:ImageSha384",
    "PCR1": "kms:RecipientAttestation:PCR1",
    "PCR2": "kms:RecipientAttestation:PCR2",
    "PCR8": "kms:RecipientAttestation:PCR8",
}


def values(**found: str) -> Measurements:
    return Measurements(values=found)


def gate(
    *measurements: Measurements, stage: str = "tune", platform: Platform = ENCLAVE, **changes: Any
) -> Gate:
    base = Gate(
        stage=stage,
        platform=platform,
        tee=Tee.NITRO,
        account=OPERATOR,
        measurements=measurements,
        identity=f"arn:aws:iam::444455556666:role/llm-{stage}",
    )
    return replace(base, **changes)


def compiled(*gates: Gate, owner: Account = OWNER, platform: Platform | None = None) -> dict[str, Any]:
    key = AttestedKey("base", platform or (gates[0].platform if gates else ENCLAVE), "eu-central-1")
    return aws.compile(ReleasePolicy(key=key, owner=owner, gates=gates))


def statements(document: dict[str, Any], effect: str) -> dict[str, dict[str, Any]]:
    found = [statement for statement in document["Statement"] if statement["Effect"] == effect]
    by_sid = {statement["Sid"]: statement for statement in found}
    assert len(by_sid) == len(found), "two statements with one Sid"
    return by_sid


def releases(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [statement for sid, statement in statements(document, "Allow").items() if sid != "Administration"]


def test_the_policy_of_one_enclave() -> None:
    document = compiled(gate(values(PCR0=A, PCR1=B, PCR2=C)))
    assert releases(document) == [
        {
            "Sid": "Release0Tune",
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::444455556666:role/llm-tune"},
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": {
                "StringEqualsIgnoreCase": {
                    ENCLAVE_KEYS["PCR0"]: A,
                    ENCLAVE_KEYS["PCR1"]: B,
                    ENCLAVE_KEYS["PCR2"]: C,
                }
            },
        }
    ]
    denied = statements(document, "Deny")
    assert {sid: statement.get("Condition") for sid, statement in denied.items()} == {
        "DenyWithoutDocument": {"Null": {ENCLAVE_KEYS["PCR0"]: "true"}},
        "DenyOtherPCR0": {"StringNotEqualsIgnoreCase": {ENCLAVE_KEYS["PCR0"]: [A]}},
        "DenyOtherPCR1": {"StringNotEqualsIgnoreCase": {ENCLAVE_KEYS["PCR1"]: [B]}},
        "DenyOtherPCR2": {"StringNotEqualsIgnoreCase": {ENCLAVE_KEYS["PCR2"]: [C]}},
        "DenyGrants": None,
    }


def test_nitrotpm_uses_its_own_condition_keys() -> None:
    document = compiled(gate(values(PCR4=A, PCR12=ZERO), platform=TPM))
    (release,) = releases(document)
    assert release["Condition"]["StringEqualsIgnoreCase"] == {
        "kms:RecipientAttestation:NitroTPMPCR4": A,
        "kms:RecipientAttestation:NitroTPMPCR12": ZERO,
    }
    # The names without NitroTPM, as older pages show them, belong to enclaves and never match.
    assert "kms:RecipientAttestation:PCR" not in json.dumps(document)


def test_old_and_new_image_never_mix() -> None:
    document = compiled(gate(values(PCR0=A, PCR1=B), values(PCR0=C, PCR1=D)))
    pairs = [tuple(release["Condition"]["StringEqualsIgnoreCase"].values()) for release in releases(document)]
    assert pairs == [(A, B), (C, D)]
    denied = statements(document, "Deny")
    assert denied["DenyOtherPCR0"]["Condition"]["StringNotEqualsIgnoreCase"] == {ENCLAVE_KEYS["PCR0"]: [A, C]}
    assert denied["DenyOtherPCR1"]["Condition"]["StringNotEqualsIgnoreCase"] == {ENCLAVE_KEYS["PCR1"]: [B, D]}


def test_an_image_that_did_not_change_is_named_once() -> None:
    assert len(releases(compiled(gate(values(PCR0=A), values(PCR0=A))))) == 1


def test_two_stages_open_with_their_own_image_only() -> None:
    document = compiled(gate(values(PCR0=A), stage="tune"), gate(values(PCR0=B), stage="serve"))
    opened = {
        release["Principal"]["AWS"].rsplit("-", 1)[-1]: release["Condition"]["StringEqualsIgnoreCase"]
        for release in releases(document)
    }
    assert opened == {"tune": {ENCLAVE_KEYS["PCR0"]: A}, "serve": {ENCLAVE_KEYS["PCR0"]: B}}


def test_images_with_different_registers_are_denied_by_those_they_share() -> None:
    document = compiled(gate(values(PCR0=A, PCR8=C)), gate(values(PCR0=B), stage="serve"))
    # A Deny on PCR8 would shut the unsigned image out, whose PCR8 nobody pinned.
    assert set(statements(document, "Deny")) == {"DenyWithoutDocument", "DenyOtherPCR0", "DenyGrants"}


def test_every_deny_holds_for_everyone_and_has_one_condition_key() -> None:
    document = compiled(gate(values(PCR0=A, PCR1=B, PCR2=C, PCR8=D)))
    for statement in statements(document, "Deny").values():
        assert statement["Principal"] == "*"
        assert statement["Resource"] == "*"
        # Keys inside one statement are ANDed, which would deny only who misses all of them.
        assert sum(len(block) for block in statement.get("Condition", {}).values()) <= 1


@pytest.mark.parametrize(
    "action",
    [
        "kms:Decrypt",
        "kms:DeriveSharedSecret",
        "kms:GenerateDataKey",
        "kms:GenerateDataKeyPair",
        "kms:GenerateDataKeyPairWithoutPlaintext",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom",
    ],
)
def test_denials_cover_every_way_to_a_plaintext(action: str) -> None:
    denied = statements(compiled(gate(values(PCR0=A))), "Deny")
    assert action in denied["DenyWithoutDocument"]["Action"]
    assert action in denied["DenyOtherPCR0"]["Action"]


def test_nobody_may_create_a_grant() -> None:
    # Grants carry no attestation: docs.aws.amazon.com/kms/latest/developerguide/grants.html.
    denied = statements(compiled(gate(values(PCR0=A))), "Deny")["DenyGrants"]
    assert denied["Action"] == ["kms:CreateGrant"]
    assert "Condition" not in denied


def test_the_administrator_manages_and_never_opens() -> None:
    document = compiled(gate(values(PCR0=A)))
    administration = statements(document, "Allow")["Administration"]
    assert administration["Principal"] == {"AWS": OWNER.deployer}
    actions = set(administration["Action"])
    # Without these KMS refuses the policy (lock-out check), or a refresh fails.
    assert actions >= {
        "kms:PutKeyPolicy",
        "kms:DescribeKey",
        "kms:GetKeyPolicy",
        "kms:GetKeyRotationStatus",
        "kms:ListResourceTags",
        "kms:GetPublicKey",
        "kms:TagResource",
        "kms:ScheduleKeyDeletion",
    }
    assert not actions & {*aws.OPENING_ACTIONS, "kms:CreateGrant", "kms:ReplicateKey"}
    assert not any("*" in action for action in actions)


def test_no_allow_names_an_account_or_everyone() -> None:
    for statement in statements(compiled(gate(values(PCR0=A))), "Allow").values():
        assert ":role/" in statement["Principal"]["AWS"]
        assert "*" not in statement["Principal"]["AWS"]


def test_conditions_never_pass_on_absent_keys() -> None:
    text = json.dumps(compiled(gate(values(PCR0=A, PCR1=B))))
    assert "IfExists" not in text
    assert "ForAllValues" not in text


@pytest.mark.parametrize(
    ("end", "written"),
    [
        (datetime(2027, 12, 31, tzinfo=UTC), "2027-12-31T00:00:00Z"),
        (datetime(2028, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2))), "2027-12-31T23:30:00Z"),
    ],
)
def test_a_licence_ends(end: datetime, written: str) -> None:
    document = compiled(
        gate(values(PCR0=A), values(PCR0=B), not_after=end), gate(values(PCR0=C), stage="serve")
    )
    ends = [release["Condition"].get("DateLessThan") for release in releases(document)]
    assert ends == [None, {"aws:CurrentTime": written}, {"aws:CurrentTime": written}]


SECURE_BOOT_OFF = values(PCR4=A, PCR7=aws.SECURE_BOOT_OFF)


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        pytest.param(gate(), "no measurements", id="unconditioned"),
        pytest.param(gate(values()), "nothing without PCR0", id="empty tuple"),
        pytest.param(gate(values(PCR0=A), values()), "nothing without PCR0", id="second tuple empty"),
        pytest.param(gate(values(PCR3=A)), "without PCR0", id="PCR3 alone admits a debug enclave"),
        pytest.param(gate(values(PCR3=A, PCR4=B)), "PCR3, PCR4 without PCR0", id="PCR3 and PCR4 alone"),
        pytest.param(gate(values(PCR2=aws.ONE_RAMDISK)), "every image with one ramdisk", id="PCR2 constant"),
        pytest.param(gate(values(PCR1=A, PCR2=B)), "without PCR0", id="PCR1 and PCR2 alone"),
        pytest.param(gate(values(PCR8=A)), "without PCR0", id="any image of the signer"),
        pytest.param(gate(values(PCR0=ZERO)), "PCR0 of zeros is a debug enclave", id="debug PCR0"),
        pytest.param(gate(values(PCR0=A, PCR1=ZERO)), "PCR1 of zeros", id="debug PCR1"),
        pytest.param(gate(values(PCR0=A, PCR2=ZERO)), "PCR2 of zeros", id="debug PCR2"),
        pytest.param(gate(values(PCR0=A, PCR8=ZERO)), "PCR8 of zeros", id="debug PCR8"),
        pytest.param(gate(values(PCR0=A[:64])), "not 96 lower-case hex", id="SHA-256"),
        pytest.param(gate(values(PCR0=A.upper())), "not 96 lower-case hex", id="upper case"),
        pytest.param(
            gate(values(PCR0=A, PCR5=B)), "PCR5 is not a register", id="register KMS does not compare"
        ),
        pytest.param(gate(values(image_digest=A)), "not a register", id="measurement of another platform"),
        pytest.param(gate(values(PCR4=A), platform=TPM), "PCR4 without PCR12", id="PCR4 alone"),
        pytest.param(
            gate(values(PCR4=A, PCR12=B), platform=TPM), "PCR12 other than zeros", id="command line"
        ),
        pytest.param(gate(values(PCR12=ZERO), platform=TPM), "without PCR4 or PCR7", id="PCR12 alone"),
        pytest.param(gate(values(PCR11=A), platform=TPM), "without PCR4 or PCR7", id="PCR11 alone"),
        pytest.param(gate(SECURE_BOOT_OFF, platform=TPM), "Secure Boot off", id="constant PCR7"),
        pytest.param(gate(values(PCR4=ZERO, PCR12=ZERO), platform=TPM), "never extended", id="zero PCR4"),
        pytest.param(gate(values(PCR7=ZERO), platform=TPM), "never extended", id="zero PCR7"),
        pytest.param(gate(values(PCR0=A), identity=None), "needs the role", id="no identity"),
        pytest.param(gate(values(PCR0=A), identity="*"), "needs the role", id="everyone"),
        pytest.param(
            gate(values(PCR0=A), identity="arn:aws:iam::444455556666:root"), "needs the role", id="account"
        ),
        pytest.param(
            gate(values(PCR0=A), identity="arn:aws:iam::999999999999:role/llm-tune"),
            "role of its stage in 444455556666",
            id="role of another account",
        ),
        pytest.param(
            gate(values(PCR0=A), account=AzureAccount(subscription="s", tenant="t")),
            "needs the role of its stage in an AWS account",
            id="stage of another cloud",
        ),
        pytest.param(
            gate(values(hostdata="a" * 64), platform=Platform.AZURE_CONTAINER),
            "cannot judge",
            id="azure gate",
        ),
    ],
)
def test_a_gate_that_would_open_too_far_is_refused(mistake: Gate, says: str) -> None:
    with pytest.raises(JewelhouseError, match=says) as refused:
        compiled(mistake)
    assert refused.value.where.startswith("stages.tune")


@pytest.mark.parametrize(
    "pinned",
    [
        values(PCR0=A),
        values(PCR0=A, PCR2=aws.ONE_RAMDISK),
        values(PCR0=A, PCR3=B, PCR4=C),
    ],
)
def test_enclave_tuples_that_fix_the_image(pinned: Measurements) -> None:
    assert len(releases(compiled(gate(pinned)))) == 1


@pytest.mark.parametrize(
    "pinned",
    [values(PCR4=A, PCR12=ZERO), values(PCR4=A, PCR7=B), values(PCR7=B), values(PCR4=A, PCR12=ZERO, PCR7=B)],
)
def test_nitrotpm_tuples_that_fix_the_image(pinned: Measurements) -> None:
    assert len(releases(compiled(gate(pinned, platform=TPM)))) == 1


def test_platforms_do_not_share_a_key() -> None:
    with pytest.raises(JewelhouseError, match="each platform has a key of its own"):
        compiled(gate(values(PCR4=A, PCR12=ZERO), platform=TPM), platform=ENCLAVE)


def test_gates_without_a_common_register_are_refused() -> None:
    with pytest.raises(JewelhouseError, match="no Deny can cover all of them"):
        compiled(
            gate(values(PCR4=A, PCR12=ZERO), platform=TPM), gate(values(PCR7=B), platform=TPM, stage="serve")
        )


def test_a_policy_needs_a_gate_and_an_aws_owner() -> None:
    with pytest.raises(JewelhouseError, match="needs a gate"):
        compiled()
    with pytest.raises(JewelhouseError, match="owner has no AWS account"):
        compiled(gate(values(PCR0=A)), owner=AzureAccount(subscription="s", tenant="t"))


def test_a_policy_over_32_kib_says_what_to_do() -> None:
    gates = [gate(values(PCR0=f"{n:096x}", PCR1=A, PCR2=B), stage=f"stage-{n}") for n in range(1, 80)]
    with pytest.raises(JewelhouseError, match="KMS takes 32768") as refused:
        compiled(*gates)
    assert "fewer stages" in refused.value.remedy
    assert len(json.dumps(compiled(*gates[:40]))) < aws.POLICY_LIMIT


def test_statement_ids_are_letters_and_digits() -> None:
    document = compiled(gate(values(PCR0=A), stage="fine-tune-2"), gate(values(PCR0=B), stage="serve"))
    assert all(statement["Sid"].isalnum() for statement in document["Statement"])
    assert "Release0FineTune2" in statements(document, "Allow")


def test_the_order_of_gates_does_not_show() -> None:
    one, two = gate(values(PCR0=A)), gate(values(PCR0=B), stage="serve")
    assert json.dumps(compiled(one, two)) == json.dumps(compiled(two, one))


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_shipped_stacks_compile(stack: str) -> None:
    for key, policy in release_policies(shipped(stack)).items():
        if key.cloud is Cloud.AWS:
            assert aws.compile(policy)["Id"] == key.name


def test_every_proof_has_a_state() -> None:
    for platform in (ENCLAVE, TPM):
        assert set(aws.PROOFS[platform]) == set(Proof) - {Proof.OWNER_APART}
        assert {state for state, _ in aws.PROOFS[platform].values()} <= {"enforced", "not-possible"}


def test_compiling_and_parsing_load_nothing_heavy() -> None:
    # They run inside the Pulumi program, where memory is measured.
    program = """
import sys
import jewelhouse.release.aws
heavy = ("cryptography", "cbor2", "cel_expr_python", "jewelhouse.release.evaluate", "jewelhouse.release.lint")
print(*(name for name in heavy if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
