"""Nitro enclaves in one account, and a key of another account that opens to their image alone."""

import pulumi
import pulumi_aws as aws
from pulumi import ResourceOptions

from jewelhouse.aws import (
    AttestedKey,
    AttestedKeyArgs,
    EnclaveHost,
    EnclaveHostArgs,
    PrivateNetwork,
    PrivateNetworkArgs,
    SealedStore,
    SealedStoreArgs,
    Traffic,
    WorkloadIdentity,
    WorkloadIdentityArgs,
    WorkloadPermissions,
    WorkloadPermissionsArgs,
)
from jewelhouse.model import AttestedKey as KeyId
from jewelhouse.model import AwsAccount, Measurements, Platform, Tee
from jewelhouse.release.aws import compile
from jewelhouse.release.policy import Gate, ReleasePolicy

REGION = "eu-central-1"
LOGS = "/example/finetune"
config = pulumi.Config()


def account(key: str) -> AwsAccount:
    number = config.require(key)
    return AwsAccount(account=number, deployer=f"arn:aws:iam::{number}:role/jewelhouse-deployer")


def into(name: str, target: AwsAccount) -> ResourceOptions:
    provider = aws.Provider(
        name,
        region=REGION,
        allowed_account_ids=[target.account],
        assume_roles=[{"role_arn": target.deployer, "session_name": "example"}],
    )
    return ResourceOptions(providers=[provider])


owner, operator = account("owner-account"), account("operator-account")
in_owner, in_operator = into("owner", owner), into("operator", operator)
image = config.require("image")
destroyable = config.require_bool("destroyable")

# Who may open the key: this enclave image, on hosts that run as this role.
policy = ReleasePolicy(
    key=KeyId("base", Platform.AWS_ENCLAVE, REGION),
    owner=owner,
    gates=(
        Gate(
            stage="finetune",
            platform=Platform.AWS_ENCLAVE,
            tee=Tee.NITRO,
            account=operator,
            identity=f"arn:aws:iam::{operator.account}:role/finetune",
            measurements=(Measurements(values={"PCR0": config.require("pcr0")}),),
        ),
    ),
)

identity = WorkloadIdentity(
    "finetune", WorkloadIdentityArgs(role_name="finetune", region=REGION), in_operator
)
key = AttestedKey(
    "base",
    AttestedKeyArgs(document=compile(policy), after=[identity.role], destroyable=destroyable),
    in_owner,
)
weights = SealedStore(
    "weights",
    SealedStoreArgs(
        region=REGION,
        administrator=owner.deployer,
        readers=[identity.arn],
        after=[identity.role],
        destroyable=destroyable,
    ),
    in_owner,
)
images = SealedStore(
    "images",
    SealedStoreArgs(
        region=REGION,
        administrator=operator.deployer,
        readers=[identity.arn],
        after=[identity.role],
        destroyable=destroyable,
    ),
    in_operator,
)
log_group = f"arn:aws:logs:{REGION}:{operator.account}:log-group:{LOGS}"
network = PrivateNetwork(
    "network",
    PrivateNetworkArgs(
        zones=[f"{REGION}a", f"{REGION}b"],
        traffic=Traffic(
            region=REGION,
            roles=[identity.arn],
            keys=[key.arn],
            buckets=[weights.bucket_arn, images.bucket_arn],
            log_groups=[log_group],
            parents=[identity.arn],
        ),
    ),
    in_operator,
)
permissions = WorkloadPermissions(
    "finetune-may",
    WorkloadPermissionsArgs(
        role_name=identity.role_name,
        keys=[key.arn],
        log_group=log_group,
        reads=[weights, images],
        parent=True,
    ),
    in_operator,
)
assert network.parent_group is not None
hosts = EnclaveHost(
    "finetune-hosts",
    EnclaveHostArgs(
        region=REGION,
        machine_type="m7i.xlarge",
        cpus=2,
        memory=8192,
        image_digest=image,
        image_bucket=images.bucket_name,
        stage=pulumi.Output.json_dumps({"stage": "finetune", "key": key.arn, "store": weights.url}),
        subnet_ids=network.subnet_ids,
        security_group_ids=[network.host_group, network.parent_group],
        profile_arn=identity.profile_arn,
        log_group=LOGS,
        after=[permissions.policy, *network.endpoints],
    ),
    in_operator,
)

pulumi.export("wrap-to", key.public_key)
pulumi.export("upload-weights-to", weights.url)
pulumi.export("upload-image-to", images.url)
pulumi.export("hosts", hosts.group_name)
