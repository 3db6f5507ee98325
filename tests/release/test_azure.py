from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from samples import shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import AttestedKey, AwsAccount, AzureAccount, Cloud, Measurements, Platform, Proof, Tee
from jewelhouse.release import azure
from jewelhouse.release.policy import Gate, ReleasePolicy

VM, CONTAINER = Platform.AZURE_CVM, Platform.AZURE_CONTAINER
OWNER = AzureAccount(
    subscription="10000000-0000-4000-8000-000000000001", tenant="10000000-0000-4000-8000-0000000000aa"
)
OPERATOR = replace(OWNER, subscription="30000000-0000-4000-8000-000000000003")
WEU = "https://sharedweu.weu.attest.azure.net"
OWN = "https://bankattest.weu.attest.azure.net"
HASH = "wm9mHlvTU82e8UqoOy1Yj1FBRSNkfe99-69IYDq9eWs"
ONE, TWO, THREE = (digit * 64 for digit in "123")


def images(*digests: str) -> tuple[Measurements, ...]:
    return tuple(Measurements(values={"hostdata": digest}) for digest in digests)


def gate(stage: str = "train", platform: Platform = CONTAINER, **changes: object) -> Gate:
    base = Gate(
        stage=stage,
        platform=platform,
        tee=Tee.SEV_SNP,
        account=OPERATOR,
        measurements=images(ONE) if platform is CONTAINER else (),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def policy(*gates: Gate, region: str = "westeurope", platform: Platform | None = None) -> ReleasePolicy:
    key = AttestedKey("base", platform or (gates[0].platform if gates else CONTAINER), region)
    return ReleasePolicy(key=key, owner=OWNER, gates=gates)


def compiled(*gates: Gate) -> dict:
    return azure.compile(policy(*gates))


def equals(claim: str, value: str) -> dict[str, str]:
    return {"claim": claim, "equals": value}


FLAT = [
    equals("x-ms-attestation-type", "sevsnpvm"),
    equals("x-ms-compliance-status", "azure-compliant-uvm"),
    equals("x-ms-sevsnpvm-is-debuggable", "false"),
    equals("x-ms-sevsnpvm-vmpl", "0"),
]
SNP = [
    equals("x-ms-isolation-tee.x-ms-attestation-type", "sevsnpvm"),
    equals("x-ms-isolation-tee.x-ms-compliance-status", "azure-compliant-cvm"),
    equals("x-ms-isolation-tee.x-ms-sevsnpvm-is-debuggable", "false"),
    equals("secureboot", "true"),
]
TDX = [
    equals("x-ms-isolation-tee.x-ms-attestation-type", "tdxvm"),
    equals("x-ms-isolation-tee.x-ms-compliance-status", "azure-compliant-cvm"),
    equals("secureboot", "true"),
]


def hostdata(*digests: str) -> dict:
    conditions = [equals("x-ms-sevsnpvm-hostdata", digest) for digest in digests]
    return conditions[0] if len(conditions) == 1 else {"anyOf": conditions}


@pytest.mark.parametrize(
    ("gates", "authority", "conditions"),
    [
        pytest.param([gate()], WEU, [*FLAT, hostdata(ONE)], id="container: flat claims"),
        pytest.param([gate(platform=VM)], WEU, SNP, id="sev-snp VM: claims of the guest's token"),
        pytest.param([gate(platform=VM, tee=Tee.TDX)], WEU, TDX, id="tdx VM: claims of the guest's token"),
        pytest.param(
            [gate(measurements=images(TWO, ONE))],
            WEU,
            [*FLAT, hostdata(ONE, TWO)],
            id="roll-out: either image, nothing else loosened",
        ),
        pytest.param(
            [gate(), gate("tune", measurements=images(THREE))],
            WEU,
            [*FLAT, hostdata(ONE, THREE)],
            id="two stages: one entry for their endpoint",
        ),
        pytest.param([gate(), gate("again")], WEU, [*FLAT, hostdata(ONE)], id="two stages of one image"),
        pytest.param(
            [gate(authority=OWN, authority_policy=HASH)],
            OWN,
            [*FLAT, equals("x-ms-policy-hash", HASH), hostdata(ONE)],
            id="own endpoint: its policy is pinned",
        ),
        pytest.param(
            [gate(platform=VM, authority=f"{OWN}/", authority_policy=HASH)],
            OWN,
            [*SNP, equals("x-ms-policy-hash", HASH)],
            id="a trailing slash would never match iss",
        ),
        pytest.param(
            [gate(platform=VM), gate("tune", VM, tee=Tee.TDX)],
            WEU,
            [SNP[1], SNP[3], {"anyOf": [{"allOf": [SNP[0], SNP[2]]}, TDX[0]]}],
            id="both TEEs: the debug claim stays with the TEE that has it",
        ),
    ],
)
def test_a_policy_asks_for_everything_that_a_token_can_prove(
    gates: list[Gate], authority: str, conditions: list[dict]
) -> None:
    assert compiled(*gates) == {
        "version": "1.0.0",
        "anyOf": [{"authority": authority, "allOf": conditions}],
    }


def test_each_endpoint_has_an_entry_of_its_own() -> None:
    document = compiled(
        gate("tune", authority=OWN, authority_policy=HASH, measurements=images(TWO)), gate("train")
    )
    assert [entry["authority"] for entry in document["anyOf"]] == [OWN, WEU]
    assert hostdata(TWO) in document["anyOf"][0]["allOf"]
    assert hostdata(ONE) in document["anyOf"][1]["allOf"]


def conditions_of(part: object) -> list[dict]:
    if isinstance(part, dict) and "claim" in part:
        return [part]
    children = part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    return [condition for child in children for condition in conditions_of(child)]


SHIPPED = [
    (name, key)
    for name in ("dev", "prod-azure", "gpu", "federated")
    for key in release_policies(shipped(name))
    if key.cloud is Cloud.AZURE
]


@pytest.mark.parametrize(("name", "key"), SHIPPED, ids=[f"{name}: {key.name}" for name, key in SHIPPED])
def test_shipped_policies_keep_to_the_grammar_that_works(name: str, key: AttestedKey) -> None:
    document = azure.compile(release_policies(shipped(name))[key])
    assert set(document) == {"version", "anyOf"}, "a root allOf is not a release policy"
    for entry in document["anyOf"]:
        assert set(entry) == {"authority", "allOf"}
        assert entry["authority"].startswith("https://")
        assert not entry["authority"].endswith("/")
    found = conditions_of(document)
    assert found
    assert all(set(condition) == {"claim", "equals"} for condition in found), "only equals works today"
    assert all(isinstance(condition["equals"], str) for condition in found)
    nested = {condition["claim"].startswith(azure.NESTED) for condition in found} - {False}
    assert bool(nested) is (key.platform is VM)
    assert not any("x-ms-runtime" in condition["claim"] for condition in found)
    assert not any("[" in condition["claim"] for condition in found), "claim paths have no arrays"


REFUSED = {
    "no gate": (lambda: compiled(), "needs a gate", "base-azure-container-westeurope"),
    "a container without measurements": (
        lambda: compiled(gate(measurements=())),
        "any container would open the key",
        "stages.train.image",
    ),
    "hostdata missing": (
        lambda: compiled(gate(measurements=(Measurements(values={"PCR0": ONE}),))),
        "is not the SHA-256 of a container policy",
        "stages.train.image",
    ),
    "hostdata of a VM": (
        lambda: compiled(gate(measurements=images("0" * 64))),
        "is not the SHA-256",
        "stages.train.image",
    ),
    "hostdata in base64": (
        lambda: compiled(gate(measurements=images("iZi0FAc6eo" * 4))),
        "is not the SHA-256",
        "stages.train.image",
    ),
    "one good image and one zero": (
        lambda: compiled(gate(measurements=images(ONE, "0" * 64))),
        "is not the SHA-256",
        "stages.train.image",
    ),
    "a TDX container": (
        lambda: compiled(gate(tee=Tee.TDX)),
        "container groups run on sev-snp",
        "stages.train.tee",
    ),
    "a TEE without secure key release": (
        lambda: compiled(gate(platform=VM, tee=Tee.SEV)),
        "does not attest sev",
        "stages.train.tee",
    ),
    "evidence of another cloud": (
        lambda: compiled(gate(platform=Platform.AWS_ENCLAVE)),
        "cannot judge evidence of aws-enclave",
        "stages.train.platform",
    ),
    "both token shapes in one policy": (
        lambda: azure.compile(policy(gate(), gate("serve", VM))),
        "never opens a key for azure-container",
        "stages.serve.platform",
    ),
    "an unknown region": (
        lambda: azure.compile(policy(gate(), region="atlantiscentral")),
        "no shared attestation endpoint is known for atlantiscentral",
        "stages.train.authority",
    ),
    "own endpoint, policy not pinned": (
        lambda: compiled(gate(authority=OWN)),
        "could loosen its policy",
        "stages.train.authority-policy",
    ),
    "authority without scheme": (
        lambda: compiled(gate(authority=WEU.removeprefix("https://"), authority_policy=HASH)),
        "is not an attestation endpoint",
        "stages.train.authority",
    ),
    "authority over http": (
        lambda: compiled(gate(authority=WEU.replace("https", "http"), authority_policy=HASH)),
        "is not an attestation endpoint",
        "stages.train.authority",
    ),
    "authority with a path": (
        lambda: compiled(gate(authority=f"{WEU}/attest", authority_policy=HASH)),
        "is not an attestation endpoint",
        "stages.train.authority",
    ),
    "somebody else's host": (
        lambda: compiled(gate(authority="https://weu.attest.azure.net.evil.org", authority_policy=HASH)),
        "is not an attestation endpoint",
        "stages.train.authority",
    ),
    "a shared host whose codes differ": (
        lambda: compiled(gate(authority="https://sharedeus2.weu2.attest.azure.net", authority_policy=HASH)),
        "is not an attestation endpoint",
        "stages.train.authority",
    ),
    "a licence that ends": (
        lambda: compiled(gate(not_after=datetime(2027, 12, 31, tzinfo=UTC))),
        "ends on 2027-12-31, and Key Vault also releases expired keys",
        "artifacts.base.licences",
    ),
    "an owner without a subscription": (
        lambda: azure.compile(
            replace(policy(gate()), owner=AwsAccount(account="1" * 12, deployer="arn:aws:iam::1:role/d"))
        ),
        "has no Azure subscription",
        "base-azure-container-westeurope",
    ),
}


@pytest.mark.parametrize(("make", "what", "where"), REFUSED.values(), ids=REFUSED)
def test_a_gate_that_would_open_to_more_or_to_nobody_is_refused(make, what: str, where: str) -> None:
    with pytest.raises(JewelhouseError) as refused:
        make()
    assert what in refused.value.what
    assert refused.value.where == where


class TestDiskPolicy:
    @pytest.mark.parametrize(("tee", "kind"), [(Tee.SEV_SNP, "sevsnpvm"), (Tee.TDX, "tdxvm")])
    def test_it_has_the_shape_of_the_platform_token(self, tee: Tee, kind: str) -> None:
        # Nested claims would keep the machine from booting; the slash is in Microsoft's own policy.
        assert azure.disk_policy("westeurope", tee) == {
            "version": "1.0.0",
            "anyOf": [
                {
                    "authority": f"{WEU}/",
                    "allOf": [
                        equals("x-ms-attestation-type", kind),
                        equals("x-ms-compliance-status", "azure-compliant-cvm"),
                    ],
                }
            ],
        }

    def test_it_trusts_the_machine_s_own_region_only(self) -> None:
        (entry,) = azure.disk_policy("eastus2", Tee.TDX)["anyOf"]
        assert entry["authority"] == "https://sharedeus2.eus2.attest.azure.net/"

    @pytest.mark.parametrize(
        ("region", "tee", "what"),
        [
            ("atlantiscentral", Tee.TDX, "no shared attestation endpoint"),
            ("westeurope", Tee.NITRO, "does not attest nitro"),
        ],
    )
    def test_what_no_platform_attests_is_refused(self, region: str, tee: Tee, what: str) -> None:
        with pytest.raises(JewelhouseError, match=what):
            azure.disk_policy(region, tee)


class TestEncoding:
    def test_it_is_unpadded_base64url_of_the_document(self) -> None:
        document = {"version": "1.0.0", "anyOf": ["~~~???>>>"]}
        text = azure.encode(document)
        assert not set(text) & set("+/=")
        assert json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) == document

    def test_equal_policies_are_equal_bytes(self) -> None:
        one, two = gate(), gate("tune", measurements=images(TWO))
        assert azure.encode(compiled(one, two)) == azure.encode(compiled(two, one))
        assert azure.digest({"a": "1", "b": "2"}) == azure.digest({"b": "2", "a": "1"})

    def test_another_image_is_another_digest(self) -> None:
        assert azure.digest(compiled(gate())) != azure.digest(compiled(gate(measurements=images(TWO))))


@pytest.mark.parametrize(
    ("platform", "proof", "status", "says"),
    [
        (VM, Proof.IMAGE, "not-possible", "choose azure-container"),
        (VM, Proof.CONFIG, "not-possible", "choose azure-container"),
        (VM, Proof.GPU, "not-possible", "the guest checks it"),
        (VM, Proof.FIRMWARE, "not-possible", "equals"),
        (CONTAINER, Proof.IMAGE, "enforced", "hostdata"),
        (CONTAINER, Proof.GPU, "not-possible", "choose azure-cvm"),
        (CONTAINER, Proof.FIRMWARE, "not-possible", "equals"),
    ],
)
def test_proofs_say_what_key_vault_cannot_see(platform, proof, status, says) -> None:
    found = azure.PROOFS[platform][proof]
    assert found[0] == status
    assert says in found[1]


def test_every_other_proof_has_a_verdict() -> None:
    for table in azure.PROOFS.values():
        assert set(table) == set(Proof) - {Proof.OWNER_APART}
