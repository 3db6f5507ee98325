"""Snapshots for the release diff: from neutral policies, a stack's export, or a preview of the engine.

An export (`pulumi stack export`), a plan (`pulumi preview --save-plan`) and a preview (`pulumi preview
--json`) all hold the outputs of the stack, and among them the compiled documents with their proofs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Image, Platform, Proof
from jewelhouse.release import compiler
from jewelhouse.release.diff import KeyView, Snapshot, facts_of
from jewelhouse.release.policy import ReleasePolicy
from jewelhouse.release.proofs import State, of_gate

STACK = "pulumi:pulumi:Stack"
# The engine's marks of a secret and of a value that is not known before the deployment
# (pulumi/pulumi: sdk/go/common/resource/properties.go, plugin/rpc.go).
SECRET = "4dabf18193072939515e22adb298388d"
SECRET_VALUE = "1b47061264138c4ac30d75fd1eb44270"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


def of_policies(
    source: str,
    policies: Iterable[ReleasePolicy],
    *,
    images: Mapping[str, Image],
    weakened: Iterable[str] = (),
) -> Snapshot:
    """The snapshot of a lifecycle before it is deployed. `images` by stage."""
    keys = {}
    for policy in policies:
        document = compiler.compile(policy)
        names = {gate.identity: gate.stage for gate in policy.gates if gate.identity}
        names |= {
            value: images[gate.stage].name
            for gate in policy.gates
            for measurements in gate.measurements
            for value in measurements.values.values()
            if set(value) != {"0"}
        }
        keys[policy.key.name] = KeyView(
            artifact=policy.artifact,
            platform=policy.key.platform,
            region=policy.key.region,
            document=document,
            facts=facts_of(policy.key.platform, document),
            proofs={
                gate.stage: {proof: status.state for proof, status in of_gate(policy, gate).items()}
                for gate in policy.gates
            },
            names=names,
        )
    return Snapshot(source=source, keys=keys, weakened=tuple(weakened))


def is_engine(value: Any) -> bool:
    """Whether a JSON value is an export, a plan or a preview of the engine."""
    return isinstance(value, dict) and bool({"deployment", "resourcePlans", "steps"} & value.keys())


def of_engine(source: str, value: Mapping[str, Any]) -> Snapshot:
    """The snapshot in what the engine printed. Raises JewelhouseError when it holds no policies of the kit."""
    outputs = _outputs(source, value)
    if not isinstance(outputs, dict) or "policies" not in outputs:
        raise JewelhouseError(
            "has no output `policies`",
            where=source,
            remedy="give an export, plan or preview of a stack that this kit deploys",
        )
    policies = _plain(outputs["policies"], source, "policies")
    stages = _plain(outputs.get("stages", {}), source, "stages")
    lifecycle = _plain(outputs.get("lifecycle", {}), source, "lifecycle")
    names = _names(stages)
    if not isinstance(policies, dict):
        raise JewelhouseError("is not an object", where=f"{source}: policies")
    return Snapshot(
        source=source,
        keys={name: _view(source, name, found, names) for name, found in policies.items()},
        weakened=tuple(lifecycle.get("weakened", ())) if isinstance(lifecycle, dict) else (),
    )


def _outputs(source: str, value: Mapping[str, Any]) -> Any:
    """The outputs of the stack resource, wherever this form of the engine's output keeps them."""
    if "deployment" in value:
        resources = (value["deployment"] or {}).get("resources") or []
        found = [one.get("outputs") for one in resources if one.get("type") == STACK]
    elif "resourcePlans" in value:
        plans = value["resourcePlans"] or {}
        found = [one.get("state") for one in plans.values() if (one.get("goal") or {}).get("type") == STACK]
    else:
        states = [step.get("newState") or {} for step in value.get("steps") or []]
        found = [state.get("outputs") for state in states if state.get("type") == STACK]
    if len(found) != 1:
        raise JewelhouseError(
            f"has {len(found)} stacks, it must have one",
            where=source,
            remedy="a preview without changes of the stack's outputs does not name them: use --save-plan",
        )
    return found[0]


def _plain(value: Any, source: str, path: str) -> Any:
    """A value without the engine's marks. Refuses secrets and values that are not known yet."""
    if isinstance(value, str) and value == UNKNOWN and path.startswith("policies"):
        raise JewelhouseError("is not known before the deployment", where=f"{source}: {path}")
    if isinstance(value, dict):
        if value.get(SECRET) == SECRET_VALUE:
            raise JewelhouseError(
                "is a secret, and a policy is none",
                where=f"{source}: {path}",
                remedy="export without encryption of these outputs: pulumi stack export --show-secrets",
            )
        return {name: _plain(item, source, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, source, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def _names(stages: Any) -> dict[str, str]:
    found = {}
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        identity = stage.get("identity") if isinstance(stage, dict) else None
        if isinstance(identity, str) and identity != UNKNOWN:
            found[identity] = name
    return found


def _view(source: str, name: str, found: Any, names: Mapping[str, str]) -> KeyView:
    try:
        platform = Platform(found["platform"])
        return KeyView(
            artifact=str(found["artifact"]),
            platform=platform,
            region=str(found["region"]),
            document=found["document"],
            facts=facts_of(platform, found["document"]),
            proofs={
                str(gate["stage"]): {Proof(proof): State(state) for proof, state in gate["proofs"].items()}
                for gate in found["gates"]
            },
            names=names,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise JewelhouseError(
            f"is not the output of this kit: {error}", where=f"{source}: policies.{name}"
        ) from error
