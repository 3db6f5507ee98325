"""Runs a Pulumi program under mocks and keeps every resource request with its options.

Assertions belong on the requests recorded here: an assertion inside `apply` never runs where preview leaves
a value unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi
from google.protobuf import json_format
from pulumi.runtime import mocks, rpc, settings
from pulumi.runtime.rpc_manager import RPCManager
from pulumi.runtime.stack import run_pulumi_func


@dataclass(frozen=True, kw_only=True)
class Request:
    """One RegisterResource request; `inputs` are plain, `secret_inputs` names those that were secret."""

    type: str
    name: str
    inputs: Mapping[str, Any]
    secret_inputs: frozenset[str]
    custom: bool
    parent: str
    provider: str
    protect: bool
    retain_on_delete: bool
    delete_before_replace: bool
    depends_on: tuple[str, ...]
    aliases: tuple[str, ...]
    replace_on_changes: tuple[str, ...]
    ignore_changes: tuple[str, ...]
    urn: str

    @property
    def parent_name(self) -> str:
        return self.parent.rsplit("::", 1)[-1]

    @property
    def provider_name(self) -> str:
        """Name of the explicit provider resource, or '' for the ambient default one."""
        return self.provider.split("::")[-2] if self.provider else ""


@dataclass
class Recording:
    resources: list[Request] = field(default_factory=list)
    component_outputs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    exports: dict[str, Any] = field(default_factory=dict)

    def of_type(self, token: str) -> list[Request]:
        return [request for request in self.resources if request.type == token]

    def one(self, token: str, name: str | None = None) -> Request:
        found = [request for request in self.of_type(token) if name in (None, request.name)]
        assert len(found) == 1, f"{len(found)} resources of {token} {name or ''}: {[r.name for r in found]}"
        return found[0]

    def named(self, name: str) -> Request:
        found = [request for request in self.resources if request.name == name]
        assert len(found) == 1, f"{len(found)} resources named {name}: {[r.type for r in found]}"
        return found[0]

    @property
    def components(self) -> list[Request]:
        return [request for request in self.resources if not request.custom]


def plain(value: Any) -> Any:
    """The value without secret envelopes."""
    if isinstance(value, Mapping):
        if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
            return plain(value.get("value"))
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _holds_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        if value.get(rpc._special_sig_key) == rpc._special_secret_sig:
            return True
        return any(_holds_secret(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_holds_secret(item) for item in value)


class _Mocks(mocks.Mocks):
    def __init__(
        self, recording: Recording, outputs: Callable[..., dict[str, Any]], call: Any, identify: Any
    ) -> None:
        self._recording = recording
        self._identify = identify
        self._outputs = outputs
        self._call = call

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        state = {**args.inputs, **self._outputs(args.typ, args.name, plain(args.inputs))}
        return self._identify(args.name), state

    def call(self, args: mocks.MockCallArgs) -> dict[str, Any]:
        self._recording.calls.append((args.token, dict(args.args)))
        return self._call(args.token, dict(args.args))


class _Monitor(mocks.MockMonitor):
    def __init__(self, recording: Recording, mock: _Mocks) -> None:
        super().__init__(mock)
        self._recording = recording

    def RegisterResource(self, request: Any) -> Any:
        response = super().RegisterResource(request)
        if request.type != "pulumi:pulumi:Stack":
            wire = json_format.MessageToDict(request.object)
            self._recording.resources.append(
                Request(
                    type=request.type,
                    name=request.name,
                    inputs=plain(wire),
                    secret_inputs=frozenset(key for key, value in wire.items() if _holds_secret(value)),
                    custom=request.custom,
                    parent=request.parent,
                    provider=request.provider or next(iter(request.providers.values()), ""),
                    protect=request.protect,
                    retain_on_delete=request.retainOnDelete,
                    delete_before_replace=request.deleteBeforeReplace,
                    depends_on=tuple(request.dependencies),
                    aliases=tuple(alias.urn or alias.spec.name for alias in request.aliases),
                    replace_on_changes=tuple(request.replaceOnChanges),
                    ignore_changes=tuple(request.ignoreChanges),
                    urn=response.urn,
                )
            )
        return response

    def RegisterResourceOutputs(self, request: Any) -> Any:
        outputs = plain(json_format.MessageToDict(request.outputs))
        self._recording.component_outputs.setdefault(request.urn, []).append(outputs)
        return super().RegisterResourceOutputs(request)


def record(
    program: Callable[[], Any],
    *,
    project: str = "jewelhouse",
    stack: str = "test",
    preview: bool = False,
    config: Mapping[str, str] | None = None,
    outputs: Callable[[str, str, dict[str, Any]], dict[str, Any]] = lambda token, name, inputs: {},
    call: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda token, args: {},
    identify: Callable[[str], str] = "{}-id".format,
) -> Recording:
    """Runs `program` in a fresh runtime; `outputs` adds provider-made values, `call` answers invokes,
    `identify` makes ids from names.

    Raises whatever the program raises, also from inside an `apply`.
    """
    recording = Recording()
    mock = _Mocks(recording, outputs, call, identify)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        settings.reset_options()
        settings.SETTINGS.rpc_manager = RPCManager()
        mocks.set_mocks(
            mock, project=project, stack=stack, preview=preview, monitor=_Monitor(recording, mock)
        )
        pulumi.runtime.set_all_config(dict(config or {}))

        async def run() -> None:
            async def body() -> None:
                program()

            await run_pulumi_func(body)
            root = settings.get_root_resource()
            assert root is not None
            exports = await rpc.serialize_properties(getattr(root, "outputs", {}), {})
            recording.exports = plain(json_format.MessageToDict(exports))

        loop.run_until_complete(run())
    finally:
        settings.reset_options()
        pulumi.runtime.set_all_config({})
        loop.close()
        asyncio.set_event_loop(None)
    seen: set[str] = set()
    for request in recording.resources:
        assert request.urn not in seen, f"two resources with one URN: {request.urn}"
        seen.add(request.urn)
    return recording
