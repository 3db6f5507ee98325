from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from samples import ALL_STACKS, shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import AttestedKey, AwsAccount, AzureAccount, Cloud, Measurements, Platform, Proof, Tee
from jewelhouse.release import azure
from jewelhouse.release.policy import Gate, ReleasePolicy

CONTAINER, VM = Platform.AZURE_CONTAINER, Platform.AZURE_CVM
TENANT = "10000000-0000-4000-8000-0000000000aa"
OWNER = AzureAccount(subscription="10000000-0000-4000-8000-000000000001", tenant=TENANT)
OPERATOR = AzureAccount(subscription="30000000-0000-4000-8000-000000000003", tenant=TENANT)
ONE, TWO = "1" * 64, "2" * 64
POLICY_HASH = "wm9mHlvTU82e8UqoOy1Yj1FBRSNkfe99-69IYDq9eWs"
OWN = "https://mine.weu.attest.azure.net"


def measured(*digests: str) -> tuple[Measurements, ...]:
    return tuple(Measurements(values={"hostdata": digest}) for digest in digests)


def gate(platform: Platform = CONTAINER, **changes: Any) -> Gate:
    base = Gate(
        stage="train",
        platform=platform,
        tee=Tee.SEV_SNP,
        account=OPERATOR,
        measurements=measured(ONE) if platform is CONTAINER else (),
    )
    return replace(base, **changes)


def compiled(*gates: Gate, region: str = "westeurope") -> dict[str, Any]:
    key = AttestedKey("corpus", gates[0].platform if gates else CONTAINER, region)
    return azure.compile(ReleasePolicy(key=key, owner=OWNER, gates=gates))


def claims(document: dict[str, Any]) -> dict[str, Any]:
    """Claim -> value of the only authority, nested alternatives as a list."""
    found: dict[str, Any] = {}
    for condition in document["anyOf"][0]["allOf"]:
        if "anyOf" in condition:
            found[condition["anyOf"][0]["claim"]] = [entry["equals"] for entry in condition["anyOf"]]
        else:
            found[condition["claim"]] = condition["equals"]
    return found


def test_a_container_is_bound_to_its_policy_by_flat_claims() -> None:
    assert compiled(gate()) == {
        "version": "1.0.0",
        "anyOf": [
            {
                "authority": "https://sharedweu.weu.attest.azure.net",
                "allOf": [
                    {"claim": "x-ms-attestation-type", "equals": "sevsnpvm"},
                    {"claim": "x-ms-compliance-status", "equals": "azure-compliant-uvm"},
                    {"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "false"},
                    {"claim": "x-ms-sevsnpvm-vmpl", "equals": "0"},
                    {"claim": "x-ms-sevsnpvm-hostdata", "equals": ONE},
                ],
            }
        ],
    }


@pytest.mark.parametrize(("tee", "kind"), [(Tee.SEV_SNP, "sevsnpvm"), (Tee.TDX, "tdxvm")])
def test_a_vm_is_bound_by_the_nested_claims_of_a_guest_token(tee: Tee, kind: str) -> None:
    found = claims(compiled(gate(VM, tee=tee)))
    assert found["x-ms-isolation-tee.x-ms-attestation-type"] == kind
    assert found["x-ms-isolation-tee.x-ms-compliance-status"] == "azure-compliant-cvm"
    assert found["secureboot"] == "true"
    # Flat TEE claims do not exist in a guest token: such a policy would never open.
    assert not {name for name in found if name.startswith("x-ms-") and "isolation" not in name}


def test_a_disk_key_takes_the_flat_claims_of_the_platform_token() -> None:
    document = azure.disk_policy("westeurope", Tee.TDX)
    assert document["anyOf"][0]["authority"] == "https://sharedweu.weu.attest.azure.net/"
    assert claims(document) == {
        "x-ms-attestation-type": "tdxvm",
        "x-ms-compliance-status": "azure-compliant-cvm",
    }


def test_old_and_new_images_open_together_during_a_roll_out() -> None:
    found = claims(compiled(gate(measurements=measured(TWO, ONE))))
    assert found["x-ms-sevsnpvm-hostdata"] == [ONE, TWO]


def test_two_stages_are_two_alternatives_and_equal_ones_are_one() -> None:
    other = gate(stage="evaluate", measurements=measured(TWO))
    assert len(compiled(gate(), other)["anyOf"]) == 2
    assert len(compiled(gate(), gate(stage="twin"))["anyOf"]) == 1
    assert compiled(gate(), other) == compiled(other, gate())


@pytest.mark.parametrize("authority", [OWN, f"{OWN}/"])
def test_a_custom_authority_is_pinned_by_its_policy_and_written_without_slash(authority: str) -> None:
    document = compiled(gate(authority=authority, authority_policy=POLICY_HASH))
    assert document["anyOf"][0]["authority"] == OWN
    assert claims(document)["x-ms-policy-hash"] == POLICY_HASH


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        pytest.param((), "needs a gate", id="no gate at all"),
        pytest.param((gate(measurements=()),), "no measurements", id="any container would open"),
        pytest.param((gate(measurements=measured("0" * 64)),), "hostdata", id="hostdata of a VM"),
        pytest.param((gate(measurements=measured(ONE.upper() + "A")),), "hostdata", id="wrong length"),
        pytest.param((gate(measurements=measured("G" * 64)),), "hostdata", id="not hex"),
        pytest.param((gate(tee=Tee.TDX),), "sev-snp", id="containers do not run on TDX"),
        pytest.param((gate(VM, tee=Tee.NITRO),), "does not attest", id="foreign TEE"),
        pytest.param((gate(authority=OWN),), "could loosen", id="custom authority without policy hash"),
        pytest.param(
            (gate(authority="https://attest.example.com", authority_policy=POLICY_HASH),),
            "not an attestation endpoint",
            id="authority outside Azure",
        ),
        pytest.param(
            (gate(authority="mine.weu.attest.azure.net", authority_policy=POLICY_HASH),),
            "not an attestation endpoint",
            id="authority without scheme",
        ),
        pytest.param(
            (gate(not_after=datetime(2027, 1, 1, tzinfo=UTC)),), "cannot end a release", id="licence with an end"
        ),
        pytest.param(
            (gate(platform=Platform.AWS_ENCLAVE),), "cannot judge evidence", id="evidence of another cloud"
        ),
    ],
)
def test_a_gate_that_proves_too_little_is_refused(gates: tuple[Gate, ...], says: str) -> None:
    with pytest.raises(JewelhouseError, match=says):
        compiled(*gates)


def test_an_unknown_region_needs_an_authority_of_its_own() -> None:
    with pytest.raises(JewelhouseError, match="no shared attestation endpoint"):
        compiled(gate(), region="atlantis")
    own = gate(authority=OWN, authority_policy=POLICY_HASH)
    assert compiled(own, region="atlantis")["anyOf"][0]["authority"] == OWN


def test_the_owner_must_be_on_azure() -> None:
    owner = AwsAccount(account="111122223333", deployer="arn:aws:iam::111122223333:role/d")
    key = AttestedKey("corpus", CONTAINER, "westeurope")
    with pytest.raises(JewelhouseError, match="no Azure subscription"):
        azure.compile(ReleasePolicy(key=key, owner=owner, gates=(gate(),)))


def test_the_encoding_is_base64url_without_padding_of_canonical_json() -> None:
    document = compiled(gate())
    text = azure.encode(document)
    assert "=" not in text
    assert not {"+", "/"} & set(text)
    assert json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) == document
    shuffled = {"anyOf": document["anyOf"], "version": document["version"]}
    assert azure.encode(shuffled) == text
    assert azure.digest(shuffled) == azure.digest(document)


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_every_shipped_policy_uses_only_what_the_grammar_certainly_has(stack: str) -> None:
    for key, policy in release_policies(shipped(stack)).items():
        if key.cloud is not Cloud.AZURE:
            continue
        document = azure.compile(policy)
        assert set(document) == {"version", "anyOf"}
        for authority in document["anyOf"]:
            assert set(authority) == {"authority", "allOf"}
            for condition in authority["allOf"]:
                entries = condition.get("anyOf", [condition])
                assert all(set(entry) == {"claim", "equals"} for entry in entries)
                assert all(isinstance(entry["equals"], str) for entry in entries)


@pytest.mark.parametrize("platform", [CONTAINER, VM])
def test_every_proof_has_a_status_with_a_note(platform: Platform) -> None:
    table = azure.PROOFS[platform]
    assert set(table) == set(Proof) - {Proof.OWNER_APART}
    assert all(state in ("enforced", "not-possible") and note for state, note in table.values())


def test_a_vm_cannot_prove_its_image_and_says_what_can() -> None:
    state, note = azure.PROOFS[VM][Proof.IMAGE]
    assert state == "not-possible"
    assert "azure-container" in note
    assert azure.PROOFS[CONTAINER][Proof.IMAGE][0] == "enforced"
