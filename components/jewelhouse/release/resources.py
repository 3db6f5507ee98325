"""Resources and outputs of a stack as the engine writes them down, in one form for its three files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jewelhouse.errors import JewelhouseError

STACK = "pulumi:pulumi:Stack"
# The engine's marks of a secret, and of a value that is not known before the deployment
# (pulumi/pulumi: sdk/go/common/resource/sig/sig.go, sdk/go/common/resource/plugin/rpc.go).
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
REMOVALS = {"delete", "delete-replaced", "discard", "discard-replaced", "remove-pending-replace"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Resource:
    """One resource. `inputs` as the program gives them, `outputs` as the cloud told them; `gone` says that it
    is deleted. `after` are the resources that each input comes from, by URN."""

    urn: str
    type: str
    name: str
    parent: str = ""
    id: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gone: bool = False

    def value(self, name: str) -> Any:
        """A property as it is: what the cloud told last, else what the program gives."""
        told = self.outputs.get(name, UNKNOWN)
        return self.inputs.get(name) if told in (UNKNOWN, None) else told


@dataclass(frozen=True, kw_only=True)
class EngineState:
    """`outputs` are those of the stack that are compared, without secrets. `whole` says that all resources
    are here; a preview in JSON has those alone that change."""

    resources: tuple[Resource, ...]
    outputs: Mapping[str, Any]
    artifacts: frozenset[str]
    whole: bool


def read(value: Mapping[str, Any], source: str) -> EngineState:
    """The state in an export, a plan or a preview.

    Raises JewelhouseError for outputs of the kit that are secrets, and errors of types and names for a value
    in another form, which `release.states` tells.
    """
    if "deployment" in value:
        found = tuple(_exported(value["deployment"]["resources"]))
    elif "resourcePlans" in value:
        found = tuple(_planned(value["resourcePlans"]))
    else:
        found = tuple(_previewed(value["steps"]))
    stack = next((one.outputs for one in found if one.type == STACK), {})
    return EngineState(
        resources=found,
        outputs=_outputs(stack, source),
        artifacts=frozenset(stack["artifacts"] if isinstance(stack.get("artifacts"), dict) else ()),
        whole="steps" not in value,
    )


def _exported(resources: Any) -> Iterator[Resource]:
    for one in resources:
        # What is pending deletion was replaced already.
        yield _resource(
            one["urn"],
            one.get("parent"),
            one.get("id"),
            one.get("inputs"),
            one.get("outputs"),
            one.get("propertyDependencies"),
            gone=bool(one.get("delete")),
        )


def _planned(plans: Any) -> Iterator[Resource]:
    for urn, plan in plans.items():
        goal, state = plan.get("goal"), dict(plan.get("state") or {})
        wanted: dict[str, Any] = goal or {}
        changes: dict[str, Any] = wanted.get("inputDiff") or {}
        inputs = {**state.pop("__inputs", {}), **changes.get("adds", {}), **changes.get("updates", {})}
        for name in changes.get("deletes", ()):
            inputs.pop(name, None)
        # Outputs of an update are guesses from its inputs, so these decide where both are known.
        told = {name: item for name, item in state.items() if name not in inputs}
        yield _resource(
            urn,
            wanted.get("parent"),
            wanted.get("id"),
            inputs,
            told,
            wanted.get("propertyDependencies"),
            gone=goal is None,
        )


def _previewed(steps: Any) -> Iterator[Resource]:
    """The last step of each resource; a replacement deletes after it creates."""
    last: dict[str, Resource] = {}
    for step in steps:
        new, old = step.get("newState") or {}, step.get("oldState") or {}
        gone = step["op"] in REMOVALS or not new
        if gone and step["urn"] in last:
            continue
        state = old if gone else new
        # The outputs of the stack are those of the last deployment: the preview is over before it knows more.
        outputs = (
            {**(old.get("outputs") or {}), **(state.get("outputs") or {})} if _is_stack(step["urn"]) else {}
        )
        last[step["urn"]] = _resource(
            step["urn"],
            state.get("parent"),
            state.get("id"),
            state.get("inputs"),
            outputs,
            state.get("propertyDependencies"),
            gone=gone,
        )
    yield from last.values()


def _is_stack(urn: str) -> bool:
    return urn.split("::")[2] == STACK


def _resource(
    urn: str, parent: Any, identity: Any, inputs: Any, outputs: Any, after: Any, *, gone: bool
) -> Resource:
    _, _, kind, name = urn.split("::", 3)
    return Resource(
        urn=urn,
        type=kind.rpartition("$")[2],
        name=name,
        parent=str(parent or ""),
        id=str(identity or ""),
        inputs=dict(inputs or {}),
        outputs=dict(outputs or {}),
        after={key: tuple(urns or ()) for key, urns in (after or {}).items()},
        gone=gone,
    )


def _outputs(stack: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """What the stack exports of what is compared. Keys' ids and public halves are not looked at."""
    return {
        name: plain(stack[name], f"{source}: {name}")
        for name in ("lifecycle", "policies", "stages")
        if name in stack
    }


def plain(value: Any, where: str) -> Any:
    """A value without secrets in it. Raises JewelhouseError for a secret: what it says cannot be compared."""
    if isinstance(value, dict):
        if value.get(SIGNATURE) == SECRET:
            raise JewelhouseError(
                "is a secret in this file, so nobody can tell what it releases",
                where=where,
                remedy="a release policy is public: export it without pulumi.Output.secret",
            )
        return {name: plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    return value
