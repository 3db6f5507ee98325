"""What the stand-in Google Cloud makes and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from driving import Driver, Made

from jewelhouse.sandbox.clouds.common import Refused

RING = "gcp:kms/keyRing:KeyRing"
KEY = "gcp:kms/cryptoKey:CryptoKey"
KEY_MEMBER = "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember"
POOL = "gcp:iam/workloadIdentityPool:WorkloadIdentityPool"
POOL_PROVIDER = "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider"
INSTANCE = "gcp:compute/instance:Instance"
ACCOUNT = "gcp:serviceaccount/account:Account"
DECRYPT = {
    "purpose": "ASYMMETRIC_DECRYPT",
    "versionTemplate": {"algorithm": "RSA_DECRYPT_OAEP_4096_SHA256", "protectionLevel": "HSM"},
}
MAPPED = {"google.subject": "assertion.sub"}


def key(gcp: Driver, name: str = "kek", **changes: Any) -> Made:
    ring = gcp.create(RING, {"location": "europe-west4", "name": f"ring-{name}"}, f"ring-{name}")
    return gcp.create(KEY, {"keyRing": ring.id, "name": name, **DECRYPT, **changes}, name)


def instance(machine: str = "c3-standard-4", kind: str = "TDX", **changes: Any) -> dict[str, Any]:
    return {
        "name": "host",
        "machineType": machine,
        "zone": "europe-west4-a",
        "bootDisk": {"initializeParams": {"image": "i"}},
        "networkInterfaces": [{"network": "n"}],
        "confidentialInstanceConfig": {"confidentialInstanceType": kind},
        "scheduling": {"onHostMaintenance": "TERMINATE"},
        **changes,
    }


def test_ids_and_links_have_the_real_shapes(gcp: Driver) -> None:
    made = key(gcp)
    assert made.id == "projects/weights-owner/locations/europe-west4/keyRings/ring-kek/cryptoKeys/kek"
    account = gcp.create(ACCOUNT, {"accountId": "serve-stage"})
    email = "serve-stage@weights-owner.iam.gserviceaccount.com"
    assert (account["email"], account["member"]) == (email, f"serviceAccount:{email}")
    network = gcp.create("gcp:compute/network:Network", {"name": "private"})
    assert network["selfLink"] == (
        "https://www.googleapis.com/compute/v1/projects/weights-owner/global/networks/private"
    )
    assert (
        gcp.create("gcp:storage/bucket:Bucket", {"name": "sealed", "location": "EU"})["url"] == "gs://sealed"
    )


@pytest.mark.parametrize(
    ("kind", "collection", "inputs"),
    [
        ("subnetwork:Subnetwork", "subnetworks", {"network": "n", "ipCidrRange": "10.0.0.0/24"}),
        ("address:Address", "addresses", {}),
        ("forwardingRule:ForwardingRule", "forwardingRules", {}),
    ],
)
def test_two_of_what_stacks_make_in_one_project_do_not_collide(
    gcp: Driver, kind: str, collection: str, inputs: dict[str, Any]
) -> None:
    """Documentation of these types names formats of other things before their own."""
    made = [gcp.create(f"gcp:compute/{kind}", {"name": name, **inputs}, name) for name in ("one", "two")]
    place = f"projects/weights-owner/regions/europe-west4/{collection}"
    assert [one.id for one in made] == [f"{place}/one", f"{place}/two"]


def test_a_resource_may_name_another_project(gcp: Driver) -> None:
    ring = gcp.create(RING, {"location": "global", "name": "ring", "project": "other"})
    assert ring.id == "projects/other/locations/global/keyRings/ring"
    gcp.create(RING, {"location": "global", "name": "ring"}, "mine")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        pytest.param(instance("n2-standard-4"), "not supported on n2-standard-4", id="machine"),
        pytest.param(instance("c3-highcpu-4"), "not supported on c3-highcpu-4", id="c3-highcpu"),
        pytest.param(
            instance("c3-standard-4", "SEV_SNP"), "SEV_SNP is not supported on c3-standard-4", id="technology"
        ),
        pytest.param(instance(scheduling={}), "does not support live migration", id="migrates-by-default"),
        pytest.param(
            instance(scheduling={"onHostMaintenance": "MIGRATE"}),
            "does not support live migration",
            id="tdx-migrate",
        ),
        pytest.param(
            instance(
                "n2d-standard-4",
                "SEV_SNP",
                scheduling={"onHostMaintenance": "MIGRATE"},
                minCpuPlatform="AMD Milan",
            ),
            "does not support live migration",
            id="snp-migrate",
        ),
        pytest.param(
            instance("n2d-standard-4", "SEV_SNP"), "requires minCpuPlatform AMD Milan", id="snp-platform"
        ),
        pytest.param(instance(zone="us-west2-a"), "does not exist in zone us-west2-a", id="zone"),
        pytest.param(
            instance("a3-highgpu-1g", zone="europe-west4-c"), "SPOT or FLEX_START only", id="a3-on-demand"
        ),
        pytest.param(
            instance(
                "a3-highgpu-1g",
                zone="europe-west4-c",
                scheduling={
                    "onHostMaintenance": "TERMINATE",
                    "provisioningModel": "FLEX_START",
                    "maxRunDuration": {"seconds": 60},
                },
            ),
            "must be 600 to 604800",
            id="flex-start-duration",
        ),
        pytest.param(instance(scratchDisks=[{"interface": "SCSI"}]), "NVME only", id="scsi"),
    ],
)
def test_confidential_instances_that_compute_refuses(gcp: Driver, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        gcp.create(INSTANCE, inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param(instance(), id="tdx"),
        pytest.param(instance("n2d-standard-4", "SEV", scheduling={}), id="sev-migrates"),
        pytest.param(instance("n2d-standard-4", "SEV_SNP", minCpuPlatform="AMD Milan"), id="snp"),
        pytest.param(
            instance(
                "a3-highgpu-1g",
                zone="europe-west4-c",
                scheduling={"onHostMaintenance": "TERMINATE", "provisioningModel": "SPOT"},
            ),
            id="a3-spot",
        ),
    ],
)
def test_confidential_instances_that_compute_takes(gcp: Driver, inputs: dict[str, Any]) -> None:
    made = gcp.create(INSTANCE, inputs)
    assert made.id == f"projects/weights-owner/zones/{inputs['zone']}/instances/host"
    # The zone is part of the id, the metadata is not.
    moved = gcp.diff(made, {**inputs, "zone": "us-central1-a"})
    assert moved.replaces == ["zone"]
    assert moved.delete_before_replace
    assert not gcp.diff(made, {**inputs, "metadata": {"a": "b"}}).replaces


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {"attributeMapping": MAPPED, "attributeCondition": "x" * 4097},
            "4097 characters, the limit is 4096",
        ),
        ({"attributeMapping": {"attribute.a": "assertion.a"}}, r"must have google\.subject"),
        ({"attributeMapping": {**MAPPED, "attribute.a": "x" * 2049}}, "more than 2048 characters"),
        ({"attributeMapping": MAPPED, "workloadIdentityPoolProviderId": "gca"}, "must be 4-32"),
        ({"attributeMapping": MAPPED, "workloadIdentityPoolProviderId": "gcp-own"}, "not begin with gcp-"),
        ({"attributeMapping": MAPPED, "workloadIdentityPoolId": "none-such"}, "none-such not found"),
    ],
)
def test_identity_providers_that_iam_refuses(gcp: Driver, inputs: dict[str, Any], words: str) -> None:
    gcp.create(POOL, {"workloadIdentityPoolId": "stage-pool"})
    good = {
        "workloadIdentityPoolId": "stage-pool",
        "workloadIdentityPoolProviderId": "attestation",
        "oidc": {"issuerUri": "https://confidentialcomputing.googleapis.com/"},
    }
    with pytest.raises(Refused, match=words):
        gcp.create(POOL_PROVIDER, {**good, **inputs})
    gcp.create(POOL_PROVIDER, {**good, "attributeMapping": MAPPED, "attributeCondition": "x" * 4096})


@pytest.mark.parametrize("identity", ["abc", "gcp-pool", "Pool-one", "p" * 33])
def test_pool_ids_that_iam_refuses(gcp: Driver, identity: str) -> None:
    with pytest.raises(Refused, match="must be 4-32"):
        gcp.create(POOL, {"workloadIdentityPoolId": identity})


def test_ids_of_deleted_pools_and_rings_stay_taken(gcp: Driver) -> None:
    pool = gcp.create(POOL, {"workloadIdentityPoolId": "stage-pool"})
    gcp.delete(pool)
    with pytest.raises(Refused, match="soft-deleted for 30 days"):
        gcp.create(POOL, {"workloadIdentityPoolId": "stage-pool"})
    ring = gcp.create(RING, {"location": "global", "name": "ring"})
    gcp.delete(ring)
    with pytest.raises(Refused, match="Error 409: KeyRing ring already exists"):
        gcp.create(RING, {"location": "global", "name": "ring"})
    gcp.create(RING, {"location": "europe-west4", "name": "ring"})


def test_a_key_that_is_prevented_is_not_destroyed(gcp: Driver) -> None:
    made = key(gcp, deletionPolicy="PREVENT")
    with pytest.raises(Refused, match="deletion_policy to another value than PREVENT"):
        gcp.delete(made)
    assert gcp.read(made).resource_id == made.id
    open_key = gcp.update(made, {**made.given(), "deletionPolicy": "DELETE"})
    gcp.delete(open_key)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keyRing": "projects/p/locations/l/keyRings/none"}, "KeyRing .* not found"),
        ({"purpose": "ASYMMETRIC_SIGN"}, "is not valid for purpose ASYMMETRIC_SIGN"),
        ({"rotationPeriod": "7776000s"}, "take no rotation_period"),
    ],
)
def test_keys_that_kms_refuses(gcp: Driver, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        key(gcp, **changes)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ("allUsers", "allowedPolicyMemberDomains"),
        (
            "principalSet://iam.googleapis.com/projects/weights-owner/locations/global/workloadIdentityPools/pool-1/*",
            "project NUMBER",
        ),
        (
            "principalSet://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool-1",
            "principal set",
        ),
        (
            "principalSet://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool-1/attribute.image_digest/sha256:ab",
            None,
        ),
        ("serviceAccount:a@b.iam.gserviceaccount.com", None),
    ],
)
def test_members_of_a_key(gcp: Driver, member: str, words: str | None) -> None:
    inputs = {"cryptoKeyId": key(gcp).id, "role": "roles/cloudkms.cryptoKeyDecrypter", "member": member}
    if words is None:
        made = gcp.create(KEY_MEMBER, inputs)
        assert gcp.diff(made, {**inputs, "role": "roles/viewer"}).replaces == ["role"]
    else:
        with pytest.raises(Refused, match=words):
            gcp.create(KEY_MEMBER, inputs)


@pytest.mark.parametrize("account", ["short", "Serve-stage", "s" * 31, "1-serve-stage"])
def test_service_account_ids_that_iam_refuses(gcp: Driver, account: str) -> None:
    with pytest.raises(Refused, match="doesn't match regexp"):
        gcp.create(ACCOUNT, {"accountId": account})


@pytest.mark.parametrize(
    ("kind", "inputs", "where"),
    [
        (KEY, {"keyRing": "r", **DECRYPT, "purpose": "DECRYPT"}, "purpose: 'DECRYPT' is not one of"),
        (
            KEY,
            {"keyRing": "r", "versionTemplate": {"algorithm": "RSA_8192"}},
            "versionTemplate.algorithm: 'RSA_8192' is not one of",
        ),
        (
            INSTANCE,
            instance(kind="SGX"),
            "confidentialInstanceConfig.confidentialInstanceType: 'SGX' is not one of",
        ),
        (INSTANCE, instance(scheduling={"provisioningModel": "ON_DEMAND"}), "scheduling.provisioningModel"),
    ],
)
def test_values_outside_the_discovery_document(
    gcp: Driver, kind: str, inputs: dict[str, Any], where: str
) -> None:
    found = gcp.failures(kind, inputs)
    assert found
    assert found[0].startswith(where)


def test_public_keys_are_real_and_lasting(gcp: Driver) -> None:
    token = "gcp:kms/getKMSCryptoKeyVersion:getKMSCryptoKeyVersion"
    made = key(gcp)
    answer = gcp.invoke(token, cryptoKey=made.id)
    public = load_pem_public_key(answer["publicKeys"][0]["pem"].encode())
    assert isinstance(public, RSAPublicKey)
    assert public.key_size == 4096
    assert answer["protectionLevel"] == "HSM"
    assert gcp.invoke(token, cryptoKey=made.id) == answer
    symmetric = key(
        gcp, "plain", purpose="ENCRYPT_DECRYPT", versionTemplate={"algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}
    )
    assert gcp.invoke(token, cryptoKey=symmetric.id)["publicKeys"] == []
    with pytest.raises(Refused, match=r"Error 404: CryptoKey .* not found"):
        gcp.invoke(token, cryptoKey=f"{made.id}-not")


@pytest.mark.parametrize(
    ("token", "args", "expected"),
    [
        (
            "gcp:compute/getZones:getZones",
            {"region": "us-east1"},
            {"names": ["us-east1-a", "us-east1-b", "us-east1-c"]},
        ),
        (
            "gcp:organizations/getClientConfig:getClientConfig",
            {},
            {"project": "weights-owner", "region": "europe-west4"},
        ),
        ("gcp:organizations/getProject:getProject", {"projectId": "p"}, {"projectId": "p"}),
        (
            "gcp:compute/getImage:getImage",
            {"name": "cs-1", "project": "images"},
            {"id": "projects/images/global/images/cs-1"},
        ),
    ],
)
def test_functions_answer(gcp: Driver, token: str, args: dict[str, Any], expected: dict[str, Any]) -> None:
    found = gcp.invoke(token, **args)
    assert {name: found[name] for name in expected} == expected


def test_the_number_of_a_project_is_its_own_and_stays(gcp: Driver) -> None:
    def number(project: str) -> str:
        return gcp.invoke("gcp:organizations/getProject:getProject", projectId=project)["number"]

    assert number("one").isdigit()
    assert number("one") == number("one") != number("two")
    account = gcp.invoke("gcp:storage/getProjectServiceAccount:getProjectServiceAccount", project="one")
    assert account["emailAddress"] == f"service-{number('one')}@gs-project-accounts.iam.gserviceaccount.com"
