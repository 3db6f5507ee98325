"""Everything of a lifecycle that lies on Google Cloud."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_gcp as gcp
from pulumi import ResourceOptions

from jewelhouse import lifecycle as graph
from jewelhouse import model
from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp import enclave, vm
from jewelhouse.gcp.audit import AuditTrail, AuditTrailArgs
from jewelhouse.gcp.enclave import EnclaveHost, EnclaveHostArgs
from jewelhouse.gcp.gpu import ConfidentialGpu, ConfidentialGpuArgs
from jewelhouse.gcp.identity import Repository, WorkloadIdentity, WorkloadIdentityArgs, repository
from jewelhouse.gcp.key import AttestedKey, AttestedKeyArgs, AttestedOnly, AttestedOnlyArgs
from jewelhouse.gcp.network import PrivateNetwork, PrivateNetworkArgs
from jewelhouse.gcp.store import SealedStore, SealedStoreArgs
from jewelhouse.gcp.verifier import GpuVerifierLink, GpuVerifierLinkArgs
from jewelhouse.gcp.vm import ConfidentialVm, ConfidentialVmArgs
from jewelhouse.hardware import gcp as hardware
from jewelhouse.model import Account, Cloud, GcpAccount, Lifecycle, Machine, Platform, Stage, StageKind
from jewelhouse.names import identity_name, short
from jewelhouse.outputs import CloudOutputs
from jewelhouse.release import gcp as release
from jewelhouse.release.policy import ReleasePolicy

# What is left of Google's 63 characters after a child's own suffix and the engine's random one.
NAME_LIMIT = 38
# How keys of a platform are called; the platform's own name would use up half of the limit.
SHORT_PLATFORMS = {Platform.GCP_CONFIDENTIAL_SPACE: "space", Platform.GCP_CVM: "vm"}


def provision(lifecycle: Lifecycle) -> CloudOutputs:
    """Creates networks, identities, keys, stores, hosts and audit trails of the stages on Google Cloud.

    Raises JewelhouseError before anything is registered when a release policy does not compile, a key's
    owner has no project number, or a container lies where the stages' network does not reach.
    """
    return _Provision(lifecycle).run()


class _Provision:
    """One run, with what it has made so far."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.stages = graph.stages_on(lifecycle, Cloud.GCP)
        self.policies = {
            key: policy for key, policy in graph.release_policies(lifecycle).items() if key.cloud is Cloud.GCP
        }
        self.documents = {key: release.compile(policy) for key, policy in self.policies.items()}
        self.numbers = {key: _number(lifecycle, policy) for key, policy in self.policies.items()}
        self.repositories = {stage.name: _repository(lifecycle, stage) for stage in self.stages}
        self.machines = {stage.name: _machine(stage) for stage in self.stages}
        self.providers: dict[tuple[str, str], gcp.Provider] = {}
        self.networks: dict[tuple[str, str], PrivateNetwork] = {}
        self.verifiers: dict[tuple[str, str], GpuVerifierLink] = {}
        self.guards: dict[str, AttestedOnly] = {}

    def run(self) -> CloudOutputs:
        self.identities = {stage.name: self._identity(stage) for stage in self.stages}
        self.keys = {key: self._key(key) for key in self.policies}
        for project in sorted({_project(policy.owner) for policy in self.policies.values()}):
            self._watch(project)
        self.stores = {store: self._store(store) for store in graph.stores(self.lifecycle, Cloud.GCP)}
        hosts = {stage.name: self._host(stage) for stage in self.stages}
        return CloudOutputs(
            keys={
                key: {"id": made.key, "uri": made.version, "public_key": made.public_key}
                for key, made in self.keys.items()
            },
            stores={(store.artifact, store.region): {"url": made.url} for store, made in self.stores.items()},
            stages={
                stage.name: {
                    "identity": self.identities[stage.name].email,
                    "host": hosts[stage.name].group,
                    # Nothing may open a connection to a host, so no address is worth exporting.
                    "endpoint": None,
                }
                for stage in self.stages
            },
        )

    def _in(self, project: str, region: str) -> ResourceOptions:
        """Options of a component in a project and region: never an ambient default provider."""
        if (project, region) not in self.providers:
            self.providers[project, region] = gcp.Provider(
                f"{project}-{region}", project=project, region=region
            )
        return ResourceOptions(providers=[self.providers[project, region]])

    def _labels(self, **labels: str) -> dict[str, str]:
        return {"lifecycle": self.lifecycle.name, **labels}

    def _identity(self, stage: Stage) -> WorkloadIdentity:
        project = _project(self.lifecycle.operator_account(stage))
        return WorkloadIdentity(
            short(f"{self.lifecycle.name}-{stage.name}", NAME_LIMIT),
            WorkloadIdentityArgs(
                project=project,
                account_id=identity_name(self.lifecycle, stage),
                description=f"Stage {stage.name} of {self.lifecycle.name}",
                repository=self.repositories[stage.name],
            ),
            self._in(project, stage.region),
        )

    def _key(self, key: model.AttestedKey) -> AttestedKey:
        project = _project(self.policies[key].owner)
        return AttestedKey(
            short(f"{key.artifact}-{SHORT_PLATFORMS[key.platform]}-{key.region}", NAME_LIMIT),
            AttestedKeyArgs(
                project=project,
                project_number=self.numbers[key],
                location=key.region,
                document=self.documents[key],
                labels=self._labels(artifact=key.artifact),
                destroyable=self.lifecycle.destroyable,
            ),
            self._in(project, key.region),
        )

    def _watch(self, project: str) -> None:
        """Closes and watches the project of an owner: once for all of its keys."""
        keys = [key for key, policy in self.policies.items() if _project(policy.owner) == project]
        pools = [self.keys[key].pool for key in keys]
        region = min(key.region for key in keys)
        options = self._in(project, region)
        name = short(project, NAME_LIMIT)
        self.guards[project] = AttestedOnly(
            name,
            AttestedOnlyArgs(project=project, pools=pools, destroyable=self.lifecycle.destroyable),
            options,
        )
        AuditTrail(
            name,
            AuditTrailArgs(
                project=project,
                location=region,
                pools=pools,
                emails=self.lifecycle.alarm_emails,
                labels=self._labels(),
                destroyable=self.lifecycle.destroyable,
            ),
            options,
        )

    def _store(self, store: graph.Store) -> SealedStore:
        project = _project(self.lifecycle.owner_account(store.artifact, Cloud.GCP))
        return SealedStore(
            short(f"{store.artifact}-{store.region}", NAME_LIMIT),
            SealedStoreArgs(
                project=project,
                location=store.region,
                readers=[
                    reader
                    for key, made in self.keys.items()
                    if key.artifact == store.artifact and key.region == store.region
                    for reader in made.principals
                ],
                writers={
                    stage.name: self.identities[stage.name].member
                    for stage in self.stages
                    if store.artifact in stage.seals and stage.region == store.region
                },
                rewrapped=any(
                    store.artifact in stage.rewraps for stage in self.stages if stage.region == store.region
                ),
                labels=self._labels(artifact=store.artifact),
                destroyable=self.lifecycle.destroyable,
            ),
            self._in(project, store.region),
        )

    def _network(self, project: str, region: str) -> PrivateNetwork:
        if (project, region) not in self.networks:
            self.networks[project, region] = PrivateNetwork(
                short(f"{project}-{region}", NAME_LIMIT),
                PrivateNetworkArgs(project=project, region=region, labels=self._labels()),
                self._in(project, region),
            )
        return self.networks[project, region]

    def _verifier(self, stage: Stage) -> list[pulumi.Resource]:
        """The way of a guest that attests GPUs to NVIDIA's attestation service, one for a network."""
        account = self.lifecycle.operator_account(stage)
        assert isinstance(account, GcpAccount)
        if not self.lifecycle.image(stage).gpus or account.gpu_verifier is None:
            return []
        place = (account.project, stage.region)
        if place not in self.verifiers:
            network = self._network(*place)
            self.verifiers[place] = GpuVerifierLink(
                short(f"{account.project}-{stage.region}-nras", NAME_LIMIT),
                GpuVerifierLinkArgs(
                    project=account.project,
                    region=stage.region,
                    network=network.network,
                    subnetwork=network.subnetwork,
                    forwarder=account.gpu_verifier,
                    labels=self._labels(),
                ),
                self._in(*place),
            )
        return [self.verifiers[place]]

    def _host(self, stage: Stage) -> EnclaveHost | ConfidentialVm | ConfidentialGpu:
        project = _project(self.lifecycle.operator_account(stage))
        network = self._network(project, stage.region)
        keys = [self.keys[graph.key_for(stage, artifact)] for artifact in stage.opens]
        guards = {_project(self.lifecycle.owner_account(artifact, Cloud.GCP)) for artifact in stage.opens}
        stores = [self._store_of(stage, artifact) for artifact in dict.fromkeys((*stage.opens, *stage.seals))]
        machine = self.machines[stage.name]
        common: dict[str, Any] = {
            "project": project,
            "region": stage.region,
            "zones": hardware.zones(stage),
            "machine_type": machine.type,
            "tee": stage.tee,
            "subnetwork": network.subnetwork,
            "service_account": self.identities[stage.name].email,
            "count": machine.count,
            "disk_type": machine.disk,
            # A serving stage goes on for ever; the others are done when they end.
            "repair": stage.kind is StageKind.INFERENCE,
            "provisioning": machine.provisioning,
            "run_duration": machine.run_duration,
            "labels": self._labels(stage=stage.name),
            "after": [
                self.identities[stage.name],
                network,
                *self._verifier(stage),
                *keys,
                *(self.guards[guard] for guard in sorted(guards)),
                *stores,
            ],
            "settings": self._settings(stage),
        }
        image = self.lifecycle.image(stage).reference
        name = short(f"{self.lifecycle.name}-{stage.name}", NAME_LIMIT)
        options = self._in(project, stage.region)
        space = stage.platform is Platform.GCP_CONFIDENTIAL_SPACE
        if stage.gpu is not None and space:
            return ConfidentialGpu(name, ConfidentialGpuArgs(**common, container=image), options)
        if stage.gpu is not None:
            return ConfidentialGpu(name, ConfidentialGpuArgs(**common, boot_image=image), options)
        if space:
            return EnclaveHost(name, EnclaveHostArgs(**common, container=image), options)
        return ConfidentialVm(name, ConfidentialVmArgs(**common, boot_image=image), options)

    def _store_of(self, stage: Stage, artifact: str) -> SealedStore:
        return self.stores[graph.Store(artifact, Cloud.GCP, stage.region)]

    def _settings(self, stage: Stage) -> pulumi.Output[str]:
        """What the guest must find: keys, credentials and stores. None of it is secret or trusted."""
        space = stage.platform is Platform.GCP_CONFIDENTIAL_SPACE
        token_file = enclave.TOKEN_FILE if space else vm.TOKEN_FILE
        return pulumi.Output.json_dumps(
            {
                "lifecycle": self.lifecycle.name,
                "stage": stage.name,
                "platform": stage.platform.value,
                "opens": {
                    artifact: {
                        "key": self.keys[graph.key_for(stage, artifact)].version,
                        "store": self._store_of(stage, artifact).url,
                        "credentials": credentials(
                            self.keys[graph.key_for(stage, artifact)].audience, token_file
                        ),
                    }
                    for artifact in stage.opens
                },
                "seals": {
                    artifact: {"store": self._store_of(stage, artifact).url} for artifact in stage.seals
                },
                "rewraps": list(stage.rewraps),
            }
        )


def credentials(audience: pulumi.Input[str], token_file: str) -> Mapping[str, Any]:
    """What Google's client libraries exchange an attestation token with, for one key's pool."""
    return {
        "type": "external_account",
        "audience": audience,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": token_file},
    }


def _project(account: Account) -> str:
    assert isinstance(account, GcpAccount)
    return account.project


def _number(lifecycle: Lifecycle, policy: ReleasePolicy) -> str:
    owner = policy.owner
    assert isinstance(owner, GcpAccount)
    if owner.number is None:
        raise JewelhouseError(
            f"{owner.project} owns a key, and principal sets name its project by number",
            where=f"parties.{lifecycle.artifacts[policy.artifact].owner}.gcp.number",
            remedy=f"add the number that `gcloud projects describe {owner.project}` prints",
        )
    return owner.number


def _repository(lifecycle: Lifecycle, stage: Stage) -> Repository | None:
    if stage.platform is not Platform.GCP_CONFIDENTIAL_SPACE:
        return None
    return repository(lifecycle.image(stage).reference, f"images.{stage.image}.{stage.platform}.reference")


def _machine(stage: Stage) -> Machine:
    if stage.machine is None:
        raise JewelhouseError("is missing", where=f"stages.{stage.name}.machine")
    return stage.machine
