"""Everything of a lifecycle that lies on Azure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi import ResourceOptions

from jewelhouse import lifecycle as graph
from jewelhouse.azure.audit import AuditTrail, AuditTrailArgs
from jewelhouse.azure.enclave import EnclaveHost, EnclaveHostArgs
from jewelhouse.azure.gpu import ConfidentialGpu
from jewelhouse.azure.identity import WorkloadIdentity, WorkloadIdentityArgs
from jewelhouse.azure.key import AttestedKey, AttestedKeyArgs
from jewelhouse.azure.network import PrivateLink, PrivateLinkArgs
from jewelhouse.azure.places import Places
from jewelhouse.azure.roles import assign
from jewelhouse.azure.store import SealedStore, SealedStoreArgs
from jewelhouse.azure.vm import ConfidentialVm, ConfidentialVmArgs
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import AttestedKey as Key
from jewelhouse.model import AzureAccount, Cloud, Lifecycle, Platform, Stage
from jewelhouse.names import identity_name
from jewelhouse.outputs import CloudOutputs
from jewelhouse.release import azure as release
from jewelhouse.templates import render

# Azure's Confidential VM Orchestrator, which asks for disk keys: the same application in every tenant.
ORCHESTRATOR = "bf7b6499-ff71-4aa2-97a4-f372087be7f0"


def provision(lifecycle: Lifecycle) -> CloudOutputs:
    """Networks, identities, vaults, keys, stores, hosts and audit trails of the stages on Azure.

    Raises JewelhouseError before anything is registered when a release policy does not compile, a key's
    owner is in another tenant than a stage that opens it, or a tenant's orchestrator is not known.
    """
    for stage in graph.stages_on(lifecycle, Cloud.AZURE):
        _check(lifecycle, stage)
    return _Azure(lifecycle).build()


def _check(lifecycle: Lifecycle, stage: Stage) -> None:
    account = lifecycle.operator_account(stage)
    assert isinstance(account, AzureAccount)
    for artifact in dict.fromkeys((*stage.opens, *stage.seals)):
        owner = lifecycle.owner_account(artifact, Cloud.AZURE)
        assert isinstance(owner, AzureAccount)
        if owner.tenant != account.tenant:
            raise JewelhouseError(
                f"{artifact} belongs to tenant {owner.tenant}, where a managed identity of {account.tenant} "
                "can have no role",
                where=f"parties.{stage.operator}.azure.tenant",
                remedy="use subscriptions of one tenant, or open the artifact on another cloud",
                source="learn.microsoft.com/entra/identity/managed-identities-azure-resources/"
                "managed-identities-faq",
            )
    server = lifecycle.image(stage).reference.split("/")[0]
    if (
        account.registry
        and stage.platform is Platform.AZURE_CONTAINER
        and server != _server(account.registry)
    ):
        raise JewelhouseError(
            f"{stage.image} lies in {server}, not in {_server(account.registry)}",
            where=f"parties.{stage.operator}.azure.registry",
            remedy="copy the image into the operator's registry (its digest stays), and name it there",
        )
    if stage.platform is Platform.AZURE_CVM and account.orchestrator is None:
        raise JewelhouseError(
            f"is missing: {stage.name} runs on confidential VMs, whose disk keys the orchestrator releases",
            where=f"parties.{stage.operator}.azure.orchestrator",
            remedy=f"az ad sp create --id {ORCHESTRATOR} (once per tenant) prints its object id as `id`",
        )


def _server(registry: str) -> str:
    return f"{registry.rsplit('/', 1)[-1].lower()}.azurecr.io"


class _Azure(Places):
    """One run: what stages, artifacts and their owners need, made in dependency order."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        super().__init__(lifecycle)
        self.stages = graph.stages_on(lifecycle, Cloud.AZURE)
        self.policies = {
            key: policy
            for key, policy in graph.release_policies(lifecycle).items()
            if key.cloud is Cloud.AZURE
        }
        self.documents = {key: release.compile(policy) for key, policy in self.policies.items()}
        self.identities = {stage.name: self._identity(stage) for stage in self.stages}

    def build(self) -> CloudOutputs:
        stores = {store: self._store(store) for store in graph.stores(self.lifecycle, Cloud.AZURE)}
        keys = {key: self._key(key) for key in self.policies}
        links = self._links(stores)
        hosts = {stage.name: self._host(stage, keys, stores, links) for stage in self.stages}
        self._audit(stores)
        return CloudOutputs(
            keys={
                key: {
                    "id": made.id_,
                    "uri": made.uri,
                    "versioned_uri": made.versioned_uri,
                    # The control plane hands out no public half; a sealer reads it from the versioned URI.
                    "public_key": None,
                }
                for key, made in keys.items()
            },
            stores={(store.artifact, store.region): {"url": made.url} for store, made in stores.items()},
            stages=hosts,
        )

    def _account(self, stage: Stage) -> AzureAccount:
        account = self.lifecycle.operator_account(stage)
        assert isinstance(account, AzureAccount)
        return account

    def _owner(self, artifact: str) -> AzureAccount:
        account = self.lifecycle.owner_account(artifact, Cloud.AZURE)
        assert isinstance(account, AzureAccount)
        return account

    def _identity(self, stage: Stage) -> WorkloadIdentity:
        account = self._account(stage)
        return WorkloadIdentity(
            stage.name,
            WorkloadIdentityArgs(
                location=stage.region,
                resource_group=self.group(account, stage.region).name,
                identity_name=identity_name(self.lifecycle, stage),
                tags={**self.tags, "jewelhouse-stage": stage.name},
            ),
            opts=self.opts(account),
        )

    def _key(self, key: Key) -> AttestedKey:
        owner = self._owner(key.artifact)
        vault = self.vault(owner, key.region)
        return AttestedKey(
            key.name,
            AttestedKeyArgs(
                resource_group=self.group(owner, key.region).name,
                subscription=owner.subscription,
                vault_name=vault.vault_name,
                document=self.documents[key],
                releases={
                    gate.stage: self.identities[gate.stage].principal for gate in self.policies[key].gates
                },
                sealers=owner.sealers,
                tags={**self.tags, "jewelhouse-artifact": key.artifact},
            ),
            opts=self.opts(owner),
        )

    def _store(self, store: graph.Store) -> SealedStore:
        owner = self._owner(store.artifact)
        here = [stage for stage in self.stages if stage.region == store.region]
        return SealedStore(
            store.name,
            SealedStoreArgs(
                location=store.region,
                resource_group=self.group(owner, store.region).name,
                subscription=owner.subscription,
                readers={
                    stage.name: self.identities[stage.name].principal
                    for stage in here
                    if store.artifact in stage.opens
                },
                writers={
                    stage.name: self.identities[stage.name].principal
                    for stage in here
                    if store.artifact in stage.writes
                },
                sealers=owner.sealers,
                destroyable=self.lifecycle.destroyable,
                tags={**self.tags, "jewelhouse-artifact": store.artifact},
            ),
            opts=self.opts(owner),
        )

    def _links(self, stores: Mapping[graph.Store, SealedStore]) -> dict[str, list[pulumi.Resource]]:
        """Private endpoints to what each stage needs, one per network and target; by stage."""
        made: dict[tuple[str, str, str], PrivateLink] = {}
        by_stage: dict[str, list[pulumi.Resource]] = {stage.name: [] for stage in self.stages}
        for stage in self.stages:
            account = self._account(stage)
            network = self.network(account, stage.region)
            targets: dict[tuple[str, str], pulumi.Input[str]] = {}
            for artifact in stage.opens:
                owner = self._owner(artifact)
                targets["vault", f"{self.party(owner)}-{stage.region}"] = self.vault(owner, stage.region).id_
            if account.registry and stage.platform is Platform.AZURE_CONTAINER:
                targets["registry", "images"] = account.registry
            for artifact in (*stage.opens, *stage.seals):
                store = graph.Store(artifact, Cloud.AZURE, stage.region)
                for kind in ("blob", "dfs"):
                    targets[kind, store.name] = stores[store].account
            for (kind, target), resource in targets.items():
                place = (account.subscription, kind, target)
                if place not in made:
                    made[place] = PrivateLink(
                        f"{self.party(account)}-to-{target}-{kind}",
                        PrivateLinkArgs(
                            location=stage.region,
                            resource_group=self.group(account, stage.region).name,
                            subnet=network.endpoints,
                            zone=network.zones[kind],
                            kind=kind,
                            target=resource,
                            tags=self.tags,
                        ),
                        opts=self.opts(account),
                    )
                by_stage[stage.name].append(made[place])
            if self.lifecycle.image(stage).gpus and account.gpu_verifier:
                by_stage[stage.name].append(self.gpu_verifier(account, stage.region))
        return by_stage

    def _settings(
        self, stage: Stage, keys: Mapping[Key, AttestedKey], stores: Mapping[graph.Store, SealedStore]
    ) -> dict[str, Any]:
        """What the guest must know: nothing secret; its trust settings are inside the measured image."""
        opened = [graph.key_for(stage, artifact) for artifact in stage.opens]
        policy = self.policies[opened[0]]
        gate = next(gate for gate in policy.gates if gate.stage == stage.name)
        return {
            "stage": stage.name,
            "platform": stage.platform.value,
            "client_id": self.identities[stage.name].client,
            "authority": release.authority(policy, gate),
            "opens": {
                key.artifact: {
                    "key": keys[key].uri,
                    "store": stores[graph.Store(key.artifact, Cloud.AZURE, stage.region)].url,
                }
                for key in opened
            },
            "seals": {
                artifact: {"store": stores[graph.Store(artifact, Cloud.AZURE, stage.region)].url}
                for artifact in stage.seals
            },
            "rewraps": list(stage.rewraps),
        }

    def _host(
        self,
        stage: Stage,
        keys: Mapping[Key, AttestedKey],
        stores: Mapping[graph.Store, SealedStore],
        links: Mapping[str, list[pulumi.Resource]],
    ) -> dict[str, Any]:
        account = self._account(stage)
        settings = pulumi.Output.json_dumps(self._settings(stage, keys, stores))
        tags = {**self.tags, "jewelhouse-stage": stage.name}
        ready: list[pulumi.Resource] = [
            *links[stage.name],
            *(role for artifact in stage.opens for role in keys[graph.key_for(stage, artifact)].assignments),
            *(
                role
                for artifact in (*stage.opens, *stage.seals)
                for role in stores[graph.Store(artifact, Cloud.AZURE, stage.region)].assignments
            ),
        ]
        if stage.platform is Platform.AZURE_CONTAINER:
            host = self._containers(stage, account, settings, ready, tags)
        else:
            host = self._machines(stage, account, settings, ready, tags)
        return {"identity": self.identities[stage.name].principal, **host}

    def _containers(
        self,
        stage: Stage,
        account: AzureAccount,
        settings: pulumi.Output[str],
        ready: list[pulumi.Resource],
        tags: Mapping[str, str],
    ) -> dict[str, Any]:
        image = self.lifecycle.image(stage)
        assert image.container_policy is not None
        if account.registry:
            pulls = assign(
                f"{stage.name}-pulls",
                "AcrPull",
                scope=account.registry,
                principal=self.identities[stage.name].principal,
                subscription=account.subscription,
                opts=ResourceOptions.merge(
                    self.opts(account), ResourceOptions(parent=self.identities[stage.name])
                ),
            )
            ready = [*ready, pulls]
        group = EnclaveHost(
            stage.name,
            EnclaveHostArgs(
                location=stage.region,
                resource_group=self.group(account, stage.region).name,
                subnet=self.network(account, stage.region).containers,
                image=image.reference,
                policy=image.container_policy,
                hostdata=image.measurements[0]["hostdata"],
                identity=self.identities[stage.name].id_,
                settings={"JEWELHOUSE_STAGE": settings},
                private_registry=account.registry is not None,
                zone=stage.zones[0] if stage.zones else None,
                depends_on=ready,
                tags=tags,
            ),
            opts=self.opts(account),
        )
        return {"host": group.id_, "endpoint": group.address}

    def _machines(
        self,
        stage: Stage,
        account: AzureAccount,
        settings: pulumi.Output[str],
        ready: list[pulumi.Resource],
        tags: Mapping[str, str],
    ) -> dict[str, Any]:
        assert stage.machine is not None
        disks = self.disk_encryption(stage, account)
        component = ConfidentialGpu if stage.gpu else ConfidentialVm
        machines = [
            component(
                stage.name if stage.machine.count == 1 else f"{stage.name}-{number}",
                ConfidentialVmArgs(
                    location=stage.region,
                    resource_group=self.group(account, stage.region).name,
                    subnet=self.network(account, stage.region).hosts,
                    size=stage.machine.type,
                    image=self.lifecycle.image(stage).reference,
                    identity=self.identities[stage.name].id_,
                    disk_encryption=disks.id_,
                    user_data=settings.apply(
                        lambda text: render(
                            "azure/host.yaml.j2", stage=stage.name, settings=text, gpu=bool(stage.gpu)
                        )
                    ),
                    zone=stage.zones[number % len(stage.zones)] if stage.zones else None,
                    depends_on=[*ready, *disks.ready],
                    tags=tags,
                ),
                opts=self.opts(account),
            )
            for number in range(stage.machine.count)
        ]
        return {
            "host": [machine.id_ for machine in machines],
            "endpoint": [machine.address for machine in machines],
        }

    def _audit(self, stores: Mapping[graph.Store, SealedStore]) -> None:
        """A trail for each subscription and region that holds vaults or stores."""
        places = {
            *self.vaults,
            *((subscription, region) for subscription, region, _ in self.disks),
            *((self._owner(store.artifact).subscription, store.region) for store in stores),
        }
        for subscription, region in sorted(places):
            account = next(
                party.azure
                for party in self.lifecycle.parties.values()
                if party.azure and party.azure.subscription == subscription
            )
            vaults = {
                f"disks-{tee}": made.vault
                for (owner, where, tee), made in self.disks.items()
                if (owner, where) == (subscription, region)
            }
            if (subscription, region) in self.vaults:
                vaults["keys"] = self.vaults[subscription, region].id_
            stages = {
                gate.stage
                for key, policy in self.policies.items()
                if self._owner(key.artifact).subscription == subscription and key.region == region
                for gate in policy.gates
            }
            orchestrator = [ORCHESTRATOR] if any(name.startswith("disks-") for name in vaults) else []
            AuditTrail(
                f"{self.party(account)}-{region}",
                AuditTrailArgs(
                    location=region,
                    resource_group=self.group(account, region).name,
                    subscription=subscription,
                    vaults=vaults,
                    stores={
                        store.artifact: made.account
                        for store, made in stores.items()
                        if (self._owner(store.artifact).subscription, store.region) == (subscription, region)
                    },
                    known=[*(self.identities[stage].client for stage in sorted(stages)), *orchestrator],
                    emails=self.lifecycle.alarm_emails,
                    destroyable=self.lifecycle.destroyable,
                    tags=self.tags,
                ),
                opts=self.opts(account),
            )
