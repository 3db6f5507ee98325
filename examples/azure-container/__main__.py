"""A confidential container group, and a key of another subscription that opens to its policy alone."""

import base64
import hashlib
from pathlib import Path

import pulumi
import pulumi_azure_native as azure
from pulumi import ResourceOptions

from jewelhouse.azure import (
    AttestedKey,
    AttestedKeyArgs,
    EnclaveHost,
    EnclaveHostArgs,
    PrivateLink,
    PrivateLinkArgs,
    PrivateNetwork,
    PrivateNetworkArgs,
    SealedStore,
    SealedStoreArgs,
    Vault,
    VaultArgs,
    WorkloadIdentity,
    WorkloadIdentityArgs,
)
from jewelhouse.model import AttestedKey as KeyId
from jewelhouse.model import AzureAccount, Measurements, Platform, Tee
from jewelhouse.release.azure import compile
from jewelhouse.release.policy import Gate, ReleasePolicy

REGION = "westeurope"
config = pulumi.Config()
tenant = config.require("tenant")
destroyable = config.require_bool("destroyable")
owner = AzureAccount(subscription=config.require("owner-subscription"), tenant=tenant)
operator = AzureAccount(subscription=config.require("operator-subscription"), tenant=tenant)
# What the hardware measures is the policy, and the policy pins the image layer by layer.
rego = (Path(__file__).parent / "container-policy.rego").read_bytes()
hostdata = hashlib.sha256(rego).hexdigest()


def into(name: str, account: AzureAccount) -> ResourceOptions:
    provider = azure.Provider(name, subscription_id=account.subscription, tenant_id=account.tenant)
    return ResourceOptions(providers=[provider])


in_owner, in_operator = into("owner", owner), into("operator", operator)
keys = azure.resources.ResourceGroup("strongroom", location=REGION, opts=in_owner)
runtime = azure.resources.ResourceGroup("runtime", location=REGION, opts=in_operator)

policy = ReleasePolicy(
    key=KeyId("corpus", Platform.AZURE_CONTAINER, REGION),
    owner=owner,
    gates=(
        Gate(
            stage="train",
            platform=Platform.AZURE_CONTAINER,
            tee=Tee.SEV_SNP,
            account=operator,
            measurements=(Measurements(values={"hostdata": hostdata}),),
        ),
    ),
)

identity = WorkloadIdentity(
    "train",
    WorkloadIdentityArgs(location=REGION, resource_group=runtime.name, identity_name="train"),
    in_operator,
)
vault = Vault(
    "vault",
    VaultArgs(location=REGION, resource_group=keys.name, tenant=tenant, destroyable=destroyable),
    in_owner,
)
key = AttestedKey(
    "corpus",
    AttestedKeyArgs(
        resource_group=keys.name,
        subscription=owner.subscription,
        vault_name=vault.vault_name,
        document=compile(policy),
        releases={"train": identity.principal},
    ),
    in_owner,
)
store = SealedStore(
    "ciphertext",
    SealedStoreArgs(
        location=REGION,
        resource_group=keys.name,
        subscription=owner.subscription,
        readers={"train": identity.principal},
        writers={},
        destroyable=destroyable,
    ),
    in_owner,
)
network = PrivateNetwork(
    "network", PrivateNetworkArgs(location=REGION, resource_group=runtime.name), in_operator
)
links = [
    PrivateLink(
        f"to-{kind}",
        PrivateLinkArgs(
            location=REGION,
            resource_group=runtime.name,
            subnet=network.endpoints,
            zone=network.zones[kind],
            kind=kind,
            target=target,
        ),
        in_operator,
    )
    for kind, target in (("vault", vault.id_), ("blob", store.account))
]
host = EnclaveHost(
    "train-group",
    EnclaveHostArgs(
        location=REGION,
        resource_group=runtime.name,
        subnet=network.containers,
        image=config.require("image"),
        policy=base64.b64encode(rego).decode(),
        hostdata=hostdata,
        identity=identity.id_,
        depends_on=[*links, *key.assignments, *store.assignments],
    ),
    in_operator,
)

pulumi.export("wrap-to", key.versioned_uri)
pulumi.export("upload-to", store.url)
pulumi.export("host", host.id_)
