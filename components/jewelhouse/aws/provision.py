"""Everything of a lifecycle that lies on AWS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pulumi
import pulumi_aws as aws
from pulumi import ResourceOptions

from jewelhouse import lifecycle as graph
from jewelhouse.aws import hosts
from jewelhouse.aws.audit import AuditTrail, AuditTrailArgs
from jewelhouse.aws.enclave import EnclaveHost, EnclaveHostArgs
from jewelhouse.aws.endpoints import Traffic
from jewelhouse.aws.gpu import ConfidentialGpu, ConfidentialGpuArgs
from jewelhouse.aws.identity import (
    WorkloadIdentity,
    WorkloadIdentityArgs,
    WorkloadPermissions,
    WorkloadPermissionsArgs,
)
from jewelhouse.aws.key import AttestedKey, AttestedKeyArgs
from jewelhouse.aws.network import PrivateNetwork, PrivateNetworkArgs
from jewelhouse.aws.store import SealedStore, SealedStoreArgs
from jewelhouse.aws.userdata import image_key
from jewelhouse.errors import JewelhouseError
from jewelhouse.lifecycle import Store
from jewelhouse.model import Account, AwsAccount, Cloud, Lifecycle, Platform, Stage
from jewelhouse.model import AttestedKey as KeyId
from jewelhouse.names import aws_partition, identity_name
from jewelhouse.outputs import CloudOutputs
from jewelhouse.release import aws as release

Place = tuple[str, str]  # account, region
GIB = 2**30
# Amazon Linux with its packages; the enclave image comes on top, once while it is fetched and once for good.
PARENT_DISK_GIB = 16


def provision(lifecycle: Lifecycle) -> CloudOutputs:
    """Creates identities, keys, stores, trails, networks and hosts of the stages on AWS.

    Raises JewelhouseError before anything is registered when a release policy does not compile.
    """
    return _Provision(lifecycle).run()


class _Provision:
    """One run, with what it has made so far. Identities come before the policies that name them, and a host
    comes last: it starts only when keys, stores, network and trail are there."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.stages = graph.stages_on(lifecycle, Cloud.AWS)
        self.documents = {
            key: release.compile(policy)
            for key, policy in graph.release_policies(lifecycle).items()
            if key.cloud is Cloud.AWS
        }
        self.providers: dict[Place, aws.Provider] = {}

    def run(self) -> CloudOutputs:
        self.identities = {stage.name: self._identity(stage) for stage in self.stages}
        self.keys = {key: self._key(key) for key in self.documents}
        self.stores = {store: self._store(store) for store in graph.stores(self.lifecycle, Cloud.AWS)}
        enclaves = [stage for stage in self.stages if stage.platform is Platform.AWS_ENCLAVE]
        self.images = {
            place: self._images(place, [stage for stage in enclaves if self._place(stage) == place])
            for place in sorted({self._place(stage) for stage in enclaves})
        }
        trails = self._trails()
        self.networks = {
            place: self._network(place, [stage for stage in self.stages if self._place(stage) == place])
            for place in sorted({self._place(stage) for stage in self.stages})
        }
        return CloudOutputs(
            keys={
                key: {"id": made.arn, "uri": made.arn, "public_key": made.public_key}
                for key, made in self.keys.items()
            },
            stores={(store.artifact, store.region): {"url": made.url} for store, made in self.stores.items()},
            stages={stage.name: self._host(stage, trails) for stage in self.stages},
        )

    def _in(self, account: AwsAccount, region: str) -> ResourceOptions:
        """Options of a component in an account and region: never an ambient default provider."""
        place = (account.account, region)
        if place not in self.providers:
            self.providers[place] = aws.Provider(
                f"aws-{account.account}-{region}",
                region=region,
                # Credentials of another account must not deploy here by mistake.
                allowed_account_ids=[account.account],
                # Typed: providers get their settings as JSON, where a dictionary keeps Python's names.
                assume_roles=[
                    aws.ProviderAssumeRoleArgs(role_arn=account.deployer, session_name="jewelhouse")
                ],
                default_tags={"tags": {"jewelhouse:lifecycle": self.lifecycle.name}},
            )
        return ResourceOptions(providers=[self.providers[place]])

    def _identity(self, stage: Stage) -> WorkloadIdentity:
        return WorkloadIdentity(
            self._named(stage.name, "identity"),
            WorkloadIdentityArgs(
                role_name=identity_name(self.lifecycle, stage),
                region=stage.region,
                tags={"jewelhouse:stage": stage.name},
            ),
            self._in(self._operator(stage), stage.region),
        )

    def _key(self, key: KeyId) -> AttestedKey:
        return AttestedKey(
            self._named(key.name),
            AttestedKeyArgs(
                document=self.documents[key],
                after=self._roles(graph.opens_by_key(self.lifecycle)[key]),
                destroyable=self.lifecycle.destroyable,
                tags={"jewelhouse:artifact": key.artifact},
            ),
            self._in(self._owner(key.artifact), key.region),
        )

    def _store(self, store: Store) -> SealedStore:
        owner = self._owner(store.artifact)
        here = [stage for stage in self.stages if stage.region == store.region]
        readers = [stage for stage in here if store.artifact in stage.opens]
        writers = [stage for stage in here if store.artifact in stage.writes]
        return SealedStore(
            self._named(store.name),
            SealedStoreArgs(
                region=store.region,
                administrator=owner.deployer,
                readers=self._arns(readers),
                writers=self._arns(writers),
                after=self._roles({stage.name: stage for stage in (*readers, *writers)}.values()),
                destroyable=self.lifecycle.destroyable,
                tags={"jewelhouse:artifact": store.artifact},
            ),
            self._in(owner, store.region),
        )

    def _images(self, place: Place, stages: list[Stage]) -> SealedStore:
        """Where enclave images are uploaded to, in the operator's account; hosts fetch them by digest."""
        operator = self._operator(stages[0])
        return SealedStore(
            self._named("images", place[1]),
            SealedStoreArgs(
                region=place[1],
                administrator=operator.deployer,
                readers=self._arns(stages),
                after=self._roles(stages),
                destroyable=self.lifecycle.destroyable,
            ),
            self._in(operator, place[1]),
        )

    def _trails(self) -> list[AuditTrail]:
        """One trail in every account: those that own keys and stores, and those that stages run in."""
        accounts = {
            account.account: account
            for account in (
                *(self._owner(artifact) for artifact in sorted({store.artifact for store in self.stores})),
                *(self._operator(stage) for stage in self.stages),
            )
        }
        return [self._trail(accounts[number]) for number in sorted(accounts)]

    def _trail(self, account: AwsAccount) -> AuditTrail:
        # By number: parties may share an account under roles of their own.
        number = account.account
        keys = {key: made for key, made in self.keys.items() if self._owner(key.artifact).account == number}
        stores = {
            store: made
            for store, made in self.stores.items()
            if self._owner(store.artifact).account == number
        }
        stages = [stage for stage in self.stages if self._operator(stage).account == number]
        region = min(
            [key.region for key in keys] + [s.region for s in stores] + [stage.region for stage in stages]
        )
        return AuditTrail(
            self._named("audit", account.account),
            AuditTrailArgs(
                account=account.account,
                region=region,
                administrator=account.deployer,
                keys={key.name: made.arn for key, made in keys.items()},
                buckets=[made.bucket_arn for made in stores.values()],
                hosts=bool(stages),
                emails=self.lifecycle.alarm_emails,
                destroyable=self.lifecycle.destroyable,
            ),
            self._in(account, region),
        )

    def _network(self, place: Place, stages: list[Stage]) -> PrivateNetwork:
        account, region = place
        enclaves = [stage for stage in stages if stage.platform is Platform.AWS_ENCLAVE]
        artifacts = {artifact for stage in stages for artifact in (*stage.opens, *stage.seals)}
        buckets = [self.stores[Store(name, Cloud.AWS, region)].bucket_arn for name in sorted(artifacts)]
        if place in self.images:
            buckets.append(self.images[place].bucket_arn)
        keys = sorted({graph.key_for(stage, artifact) for stage in stages for artifact in stage.opens})
        return PrivateNetwork(
            self._named(account, region),
            PrivateNetworkArgs(
                zones=sorted(
                    {zone for stage in stages for zone in stage.zones}.union(_usual(stages, region))
                ),
                traffic=Traffic(
                    region=region,
                    roles=self._arns(stages),
                    keys=[self.keys[key].arn for key in keys],
                    buckets=buckets,
                    log_groups=[self._log_group_arn(stage) for stage in stages],
                    parents=self._arns(enclaves),
                    repositories=self._repositories(place),
                ),
            ),
            self._in(self._operator(stages[0]), region),
        )

    def _host(self, stage: Stage, trails: list[AuditTrail]) -> Mapping[str, Any]:
        identity, network = self.identities[stage.name], self.networks[self._place(stage)]
        machine = stage.machine
        if machine is None:
            raise JewelhouseError("is missing", where=f"stages.{stage.name}.machine")
        options = self._in(self._operator(stage), stage.region)
        enclave = stage.platform is Platform.AWS_ENCLAVE
        reads = [self.stores[Store(artifact, Cloud.AWS, stage.region)] for artifact in stage.opens]
        permissions = WorkloadPermissions(
            self._named(stage.name, "permissions"),
            WorkloadPermissionsArgs(
                role_name=identity.role_name,
                keys=[self.keys[graph.key_for(stage, artifact)].arn for artifact in stage.opens],
                log_group=self._log_group_arn(stage),
                reads=[*reads, self.images[self._place(stage)]] if enclave else reads,
                writes=[self.stores[Store(artifact, Cloud.AWS, stage.region)] for artifact in stage.writes],
                parent=enclave,
                repositories=self._repositories(self._place(stage)),
            ),
            options,
        )
        after: list[pulumi.Resource] = [permissions.policy, *network.endpoints, *trails]
        subnets = network.subnets(stage.zones)
        name = self._named(stage.name)
        tags = {"jewelhouse:lifecycle": self.lifecycle.name, "jewelhouse:stage": stage.name}
        image = self.lifecycle.image(stage)
        if not enclave:
            host = ConfidentialGpu(
                name,
                ConfidentialGpuArgs(
                    machine_type=machine.type,
                    image=image.reference,
                    subnet_ids=subnets,
                    security_group_ids=[network.host_group],
                    profile_name=identity.profile_name,
                    log_group=self._log_group(stage),
                    user_data=self._stage_document(stage),
                    count=machine.count,
                    spot=machine.provisioning == "spot",
                    after=after,
                    tags=tags,
                ),
                options,
            )
            return {
                "identity": identity.arn,
                "host": host.instance_ids[0],
                "endpoint": host.private_ips[0],
            }
        if machine.enclave is None or network.parent_group is None:
            raise JewelhouseError("is missing", where=f"stages.{stage.name}.machine.enclave")
        images = self.images[self._place(stage)]
        group = EnclaveHost(
            name,
            EnclaveHostArgs(
                region=stage.region,
                machine_type=machine.type,
                cpus=machine.enclave.cpus,
                memory=machine.enclave.memory,
                image_digest=image.reference,
                image_bucket=images.bucket_name,
                stage=self._stage_document(stage),
                subnet_ids=subnets,
                security_group_ids=[network.host_group, network.parent_group],
                profile_arn=identity.profile_arn,
                log_group=self._log_group(stage),
                count=machine.count,
                spot=machine.provisioning == "spot",
                disk_gib=PARENT_DISK_GIB + -(-2 * (image.size or 4 * GIB) // GIB),
                after=after,
                tags=tags,
            ),
            options,
        )
        return {
            "identity": identity.arn,
            "host": group.group_name,
            # Parents take no connections: what a stage makes it writes to its stores.
            "endpoint": None,
            "upload": pulumi.Output.concat(images.url, "/", image_key(image.reference)),
        }

    def _stage_document(self, stage: Stage) -> pulumi.Output[str]:
        """Where the guest finds its keys and stores. It trusts nothing here: what it accepts is measured."""
        return pulumi.Output.json_dumps(
            {
                "lifecycle": self.lifecycle.name,
                "stage": stage.name,
                "platform": stage.platform.value,
                "region": stage.region,
                "opens": {
                    artifact: {
                        "key": self.keys[graph.key_for(stage, artifact)].arn,
                        "store": self.stores[Store(artifact, Cloud.AWS, stage.region)].url,
                    }
                    for artifact in stage.opens
                },
                "seals": {
                    artifact: {"store": self.stores[Store(artifact, Cloud.AWS, stage.region)].url}
                    for artifact in stage.seals
                },
                "rewraps": list(stage.rewraps),
            }
        )

    def _named(self, *parts: str) -> str:
        """Accounts may hold several lifecycles, so its name stands first."""
        return "-".join((self.lifecycle.name, *parts))

    def _place(self, stage: Stage) -> Place:
        return self._operator(stage).account, stage.region

    def _operator(self, stage: Stage) -> AwsAccount:
        return _aws(self.lifecycle.operator_account(stage))

    def _owner(self, artifact: str) -> AwsAccount:
        return _aws(self.lifecycle.owner_account(artifact, Cloud.AWS))

    def _roles(self, stages: Iterable[Stage]) -> list[pulumi.Resource]:
        return [self.identities[stage.name].role for stage in stages]

    def _arns(self, stages: Iterable[Stage]) -> list[pulumi.Output[str]]:
        return [self.identities[stage.name].arn for stage in stages]

    def _log_group(self, stage: Stage) -> str:
        return f"/jewelhouse/{self.lifecycle.name}/{stage.name}"

    def _log_group_arn(self, stage: Stage) -> str:
        account, region = self._place(stage)
        return f"arn:{aws_partition(region)}:logs:{region}:{account}:log-group:{self._log_group(stage)}"

    def _repositories(self, place: Place) -> list[str]:
        """Registries of the lifecycle, for what a parent runs beside its enclave."""
        account, region = place
        return [f"arn:{aws_partition(region)}:ecr:{region}:{account}:repository/{self.lifecycle.name}/*"]


def _aws(account: Account) -> AwsAccount:
    if not isinstance(account, AwsAccount):
        raise TypeError(f"{account} is not an AWS account")
    return account


def _usual(stages: list[Stage], region: str) -> tuple[str, ...]:
    """The usual zones, where a stage names none or the named ones are too few for a network."""
    named = {zone for stage in stages for zone in stage.zones}
    return hosts.zones(region) if len(named) < 2 or any(not stage.zones for stage in stages) else ()
