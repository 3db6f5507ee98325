"""The graph of a lifecycle: order, who opens what, which keys and stores exist where, who may open them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from types import MappingProxyType

from jewelhouse.model import Artifact, AttestedKey, Cloud, Licence, Lifecycle, Platform, Stage
from jewelhouse.names import workload_identity
from jewelhouse.release.policy import Gate, ReleasePolicy


@dataclass(frozen=True, order=True)
class Store:
    """Where an artifact's ciphertext lies in one region: in its owner's account."""

    artifact: str
    cloud: Cloud
    region: str

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.cloud}-{self.region}"


def clouds(lifecycle: Lifecycle) -> tuple[Cloud, ...]:
    """The clouds that any stage runs on; only their SDKs are ever imported."""
    return tuple(cloud for cloud in Cloud if any(stage.cloud is cloud for stage in lifecycle.stages.values()))


def stages_on(lifecycle: Lifecycle, cloud: Cloud) -> tuple[Stage, ...]:
    return tuple(stage for stage in lifecycle.stages.values() if stage.cloud is cloud)


def order(lifecycle: Lifecycle) -> tuple[Stage, ...]:
    """Stages so that each comes after those that seal what it opens.

    Raises graphlib.CycleError; `jewelhouse.checks` reports a cycle by its path before anyone calls this.
    """
    sealers = sealers_of(lifecycle)
    graph = {
        stage.name: [sealer for artifact in stage.opens for sealer in sealers.get(artifact, ())]
        for stage in lifecycle.stages.values()
    }
    return tuple(lifecycle.stages[name] for name in TopologicalSorter(graph).static_order())


def sealers_of(lifecycle: Lifecycle) -> Mapping[str, tuple[str, ...]]:
    """Per artifact the stages that seal it."""
    sealers: dict[str, list[str]] = defaultdict(list)
    for stage in lifecycle.stages.values():
        for artifact in stage.seals:
            sealers[artifact].append(stage.name)
    return MappingProxyType({artifact: tuple(names) for artifact, names in sealers.items()})


def key_for(stage: Stage, artifact: str) -> AttestedKey:
    return AttestedKey(artifact, stage.platform, stage.region)


def opens_by_key(lifecycle: Lifecycle) -> Mapping[AttestedKey, tuple[Stage, ...]]:
    """Per attested key the stages that open its artifact with it, in order of name."""
    found: dict[AttestedKey, list[Stage]] = defaultdict(list)
    for stage in sorted(lifecycle.stages.values(), key=lambda stage: stage.name):
        for artifact in stage.opens:
            found[key_for(stage, artifact)].append(stage)
    return MappingProxyType({key: tuple(found[key]) for key in sorted(found)})


def keys_of(lifecycle: Lifecycle, artifact: str) -> tuple[AttestedKey, ...]:
    """Every key an artifact's data key is wrapped to: whoever seals it needs all of their public halves."""
    return tuple(key for key in opens_by_key(lifecycle) if key.artifact == artifact)


def stores(lifecycle: Lifecycle, cloud: Cloud) -> tuple[Store, ...]:
    """The stores on one cloud: wherever a stage opens or seals an artifact."""
    return tuple(
        sorted(
            {
                Store(artifact, cloud, stage.region)
                for stage in stages_on(lifecycle, cloud)
                for artifact in (*stage.opens, *stage.seals)
            }
        )
    )


def licence_for(lifecycle: Lifecycle, artifact: Artifact, stage: Stage) -> Licence | None:
    """The tier that lets a stage open an artifact: held by its operator, for its kind, the longest one."""
    fitting = [
        licence
        for licence in artifact.licences
        if stage.operator in licence.holders and stage.kind in licence.kinds
    ]
    unlimited = [licence for licence in fitting if licence.expires is None]
    if unlimited:
        return unlimited[0]
    return max(
        fitting, key=lambda licence: licence.expires.timestamp() if licence.expires else 0, default=None
    )


def release_policies(lifecycle: Lifecycle) -> Mapping[AttestedKey, ReleasePolicy]:
    """The neutral release policy of every attested key, one gate for each stage that opens with it."""
    return MappingProxyType(
        {
            key: ReleasePolicy(
                key=key,
                owner=lifecycle.owner_account(key.artifact, key.cloud),
                gates=tuple(_gate(lifecycle, key, stage) for stage in stages),
            )
            for key, stages in opens_by_key(lifecycle).items()
        }
    )


def _gate(lifecycle: Lifecycle, key: AttestedKey, stage: Stage) -> Gate:
    licence = licence_for(lifecycle, lifecycle.artifacts[key.artifact], stage)
    return Gate(
        stage=stage.name,
        platform=stage.platform,
        tee=stage.tee,
        account=lifecycle.operator_account(stage),
        measurements=lifecycle.image(stage).measurements,
        identity=workload_identity(lifecycle, stage),
        gpu=stage.gpu,
        authority=stage.authority,
        authority_policy=stage.authority_policy,
        not_after=licence.expires if licence else None,
    )


def weakenings(lifecycle: Lifecycle) -> tuple[str, ...]:
    """The settings that weaken the whole lifecycle, by their names in the stack file."""
    settings = (("allow-same-owner", lifecycle.allow_same_owner), ("destroyable", lifecycle.destroyable))
    return tuple(name for name, on in settings if on)


def platforms(lifecycle: Lifecycle) -> frozenset[Platform]:
    return frozenset(stage.platform for stage in lifecycle.stages.values())
