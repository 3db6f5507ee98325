"""Walks the graph: every cloud that a stage uses gets its networks, keys, stores and hosts."""

from __future__ import annotations

import gc
import linecache
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pulumi

from jewelhouse import lifecycle as graph
from jewelhouse.images import lock
from jewelhouse.model import AttestedKey, Lifecycle, Stage
from jewelhouse.outputs import CloudOutputs
from jewelhouse.release import compiler, lint, proofs
from jewelhouse.release.documents import Document
from jewelhouse.settings import parse
from jewelhouse.stackfile import stacks_directory


def main(directory: Path) -> None:
    """The Pulumi program: the lifecycle of the selected stack's configuration, deployed.

    `directory` holds Pulumi.yaml; the lock file is `images.lock.yaml` beside the stack files. Raises
    InvalidLifecycle or InvalidImages before any resource is registered.
    """
    # Loading an SDK makes many objects that live until the end: collecting in between is a fifth of the time.
    gc.set_threshold(700, 10, 1000)
    images = lock.load(stacks_directory(directory) / "images.lock.yaml")
    lifecycle = parse(pulumi.Config("jewelhouse").get_object("lifecycle"), images)
    # What reading settings left behind, sources for its docstrings too, need not lie beside the SDKs.
    linecache.clearcache()
    gc.collect()
    for name, value in deploy(lifecycle).items():
        pulumi.export(name, value)


def deploy(lifecycle: Lifecycle) -> Mapping[str, Any]:
    """Provisions the lifecycle and returns what the other tools read.

    `lifecycle`: its name and the settings that weaken it. `artifacts`: per artifact its kind, owner, public
    wrapping keys and store locations. `stages`: per stage where it runs, its identity and endpoint.
    `policies`: the compiled release policy of every attested key with what its gates prove.
    """
    # Every document is compiled and linted before anything is registered, so that a gate that proves too
    # little leaves nothing half-done.
    policies = graph.release_policies(lifecycle)
    documents = {key: compiler.compile(policy) for key, policy in policies.items()}
    lint.refuse(Document(name=key.name, cloud=key.cloud, body=body) for key, body in documents.items())
    with _no_source_lines():
        outputs = {
            cloud: import_module(f"jewelhouse.{cloud}.provision").provision(lifecycle)
            for cloud in graph.clouds(lifecycle)
        }
    return {
        "lifecycle": {
            "name": lifecycle.name,
            "weakened": list(graph.weakenings(lifecycle)),
        },
        "artifacts": {name: _artifact(lifecycle, name, outputs) for name in lifecycle.artifacts},
        "stages": {
            stage.name: _stage(lifecycle, stage, outputs[stage.cloud]) for stage in graph.order(lifecycle)
        },
        "policies": {
            key.name: {
                "artifact": key.artifact,
                "platform": key.platform,
                "region": key.region,
                "owner": policy.owner.boundary,
                "document": documents[key],
                "gates": [
                    {
                        "stage": gate.stage,
                        "account": gate.account.boundary,
                        "identity": gate.identity,
                        "proofs": {
                            proof.value: status.state.value
                            for proof, status in proofs.of_gate(policy, gate).items()
                        },
                    }
                    for gate in policy.gates
                ],
            }
            for key, policy in policies.items()
        },
    }


@contextmanager
def _no_source_lines() -> Iterator[None]:
    """Keeps Python from reading the source of every SDK module while resources are registered.

    Pulumi notes file and line of each registration by `traceback`, which also loads the text of every file on
    the stack and keeps it: 4 MB that nobody reads. Tracebacks printed afterwards have their lines.
    """
    read = linecache.updatecache
    linecache.updatecache = lambda filename, module_globals=None: []
    try:
        yield
    finally:
        linecache.updatecache = read


def _artifact(lifecycle: Lifecycle, name: str, outputs: Mapping[Any, CloudOutputs]) -> dict[str, Any]:
    artifact = lifecycle.artifacts[name]
    return {
        "kind": artifact.kind,
        "owner": artifact.owner,
        "keys": [_key(key, outputs[key.cloud]) for key in graph.keys_of(lifecycle, name)],
        "stores": [
            {"cloud": cloud, "region": region, **place}
            for cloud, values in outputs.items()
            for (stored, region), place in values.stores.items()
            if stored == name
        ],
    }


def _key(key: AttestedKey, outputs: CloudOutputs) -> dict[str, Any]:
    return {"name": key.name, "platform": key.platform, "region": key.region, **outputs.keys[key]}


def _stage(lifecycle: Lifecycle, stage: Stage, outputs: CloudOutputs) -> dict[str, Any]:
    image = lifecycle.image(stage)
    return {
        "kind": stage.kind,
        "platform": stage.platform,
        "tee": stage.tee,
        "cloud": stage.cloud,
        "region": stage.region,
        "operator": stage.operator,
        "machine": stage.machine.type if stage.machine else None,
        "gpu": stage.gpu,
        "image": {"name": image.name, "reference": image.reference, "declared": image.declared},
        "opens": list(stage.opens),
        "seals": list(stage.seals),
        "rewraps": list(stage.rewraps),
        "keys": [graph.key_for(stage, artifact).name for artifact in stage.opens],
        **outputs.stages[stage.name],
    }
