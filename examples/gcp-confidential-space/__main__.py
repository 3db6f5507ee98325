"""One container in Confidential Space, and a key of another project that opens to it alone."""

import pulumi
import pulumi_gcp as gcp
from pulumi import ResourceOptions

from jewelhouse.gcp import (
    AttestedKey,
    AttestedKeyArgs,
    AttestedOnly,
    AttestedOnlyArgs,
    EnclaveHost,
    EnclaveHostArgs,
    PrivateNetwork,
    PrivateNetworkArgs,
    SealedStore,
    SealedStoreArgs,
    WorkloadIdentity,
    WorkloadIdentityArgs,
)
from jewelhouse.gcp.enclave import TOKEN_FILE
from jewelhouse.gcp.identity import repository
from jewelhouse.gcp.provision import credentials
from jewelhouse.model import AttestedKey as KeyId
from jewelhouse.model import GcpAccount, Measurements, Platform, Tee
from jewelhouse.release.gcp import compile
from jewelhouse.release.policy import Gate, ReleasePolicy

REGION = "europe-west4"
config = pulumi.Config()
owner = GcpAccount(project=config.require("owner-project"), number=config.require("owner-number"))
operator = GcpAccount(project=config.require("operator-project"))
container = config.require("container")
destroyable = config.require_bool("destroyable")

in_owner = ResourceOptions(
    providers=[gcp.Provider("owner", project=owner.project, region=REGION)],
)
in_operator = ResourceOptions(
    providers=[gcp.Provider("operator", project=operator.project, region=REGION)],
)

# Who may open the key: this container on TDX, in this project, under this service account.
policy = ReleasePolicy(
    key=KeyId("base", Platform.GCP_CONFIDENTIAL_SPACE, REGION),
    owner=owner,
    gates=(
        Gate(
            stage="serve",
            platform=Platform.GCP_CONFIDENTIAL_SPACE,
            tee=Tee.TDX,
            account=operator,
            identity=f"serve-model@{operator.project}.iam.gserviceaccount.com",
            measurements=(Measurements(values={"image_digest": container.partition("@")[2]}),),
        ),
    ),
)

identity = WorkloadIdentity(
    "serve",
    WorkloadIdentityArgs(
        project=operator.project,
        account_id="serve-model",
        description="Serves the model",
        repository=repository(container),
    ),
    in_operator,
)
key = AttestedKey(
    "base",
    AttestedKeyArgs(
        project=owner.project,
        project_number=owner.number or "",
        location=REGION,
        document=compile(policy),
        destroyable=destroyable,
    ),
    in_owner,
)
guard = AttestedOnly(
    "guard", AttestedOnlyArgs(project=owner.project, pools=[key.pool], destroyable=destroyable), in_owner
)
store = SealedStore(
    "weights",
    SealedStoreArgs(project=owner.project, location=REGION, readers=key.principals, destroyable=destroyable),
    in_owner,
)
network = PrivateNetwork("network", PrivateNetworkArgs(project=operator.project, region=REGION), in_operator)
host = EnclaveHost(
    "serve",
    EnclaveHostArgs(
        project=operator.project,
        region=REGION,
        zones=[f"{REGION}-a", f"{REGION}-b"],
        machine_type="c3-standard-4",
        tee=Tee.TDX,
        subnetwork=network.subnetwork,
        service_account=identity.email,
        container=container,
        settings=pulumi.Output.json_dumps(
            {
                "stage": "serve",
                "opens": {
                    "base": {
                        "key": key.version,
                        "store": store.url,
                        "credentials": credentials(key.audience, TOKEN_FILE),
                    }
                },
                "seals": {},
            }
        ),
        after=[identity, network, key, guard, store],
    ),
    in_operator,
)

pulumi.export("wrap-to", key.public_key)
pulumi.export("upload-to", store.url)
pulumi.export("host", host.group)
