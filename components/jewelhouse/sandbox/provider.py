"""One resource provider that stands in for aws, azure-native and gcp towards the real Pulumi engine.

Run as `python -m jewelhouse.sandbox.provider PACKAGE ENGINE`; the engine does so through the plugins that
`jewelhouse.sandbox.install` puts into a throw-away PULUMI_HOME. It refuses to start outside a sandbox.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pulumi.provider.experimental import provider as protocol
from pulumi.provider.experimental.property_value import PropertyValue, PropertyValueType
from pulumi.runtime.rpc import UNKNOWN

from jewelhouse.sandbox import server
from jewelhouse.sandbox.clouds.common import Cloud, Refused, Request
from jewelhouse.sandbox.schema import SDKS, Schema, Schemas, undated, version
from jewelhouse.sandbox.world import Thing, World

# Where an applied resource keeps the inputs it was made from; azure-native does the same under this name.
INPUTS = "__inputs"
# How the real providers mark an input that they named themselves; a replacement gets a new such name, so the
# old resource need not go first. azure-native: provider/pkg/provider/provider.go (createBeforeDeleteFlag).
AUTONAMED: Mapping[str, str] = {
    "aws": "__defaults",
    "gcp": "__defaults",
    "azure-native": "__createBeforeDelete",
}


class StandIn(protocol.Provider):
    """Answers the engine for one package in one account, subscription or project."""

    def __init__(self, package: str, directory: Path, cache: Path) -> None:
        self._package = package
        self._schemas = Schemas(package, cache / "schemas")
        self._world = World(directory, cache)
        self._cloud: Cloud = importlib.import_module(
            f"jewelhouse.sandbox.clouds.{package.split('-')[0]}"
        ).cloud(self._world)
        self._scope: dict[str, str] = {}

    async def get_schema(self, request: protocol.GetSchemaRequest) -> protocol.GetSchemaResponse:
        return protocol.GetSchemaResponse(
            json.dumps({"name": self._package, "version": version(self._package)})
        )

    async def configure(self, request: protocol.ConfigureRequest) -> protocol.ConfigureResponse:
        self._scope = self._cloud.scope({name: _json(plain(value)) for name, value in request.args.items()})
        return protocol.ConfigureResponse(accept_secrets=True, supports_preview=True)

    async def check(self, request: protocol.CheckRequest) -> protocol.CheckResponse:
        schema = self._schema(_type(request))
        inputs = {name: value for name, value in request.new_inputs.items() if not _null(value)}
        old = {name: plain(value) for name, value in request.old_inputs.items()}
        name = self._cloud.autoname(_type(request), schema)
        if name and name.property not in inputs:
            inputs[name.property] = PropertyValue(
                old.get(name.property) or name.make(request.name, random.Random(request.random_seed))
            )
            inputs[AUTONAMED[self._package]] = self._mark(name.property)
        values = {name: plain(value) for name, value in inputs.items()}
        failures = [*schema.problems(values)]
        if not failures:
            failures = [*self._cloud.limits(_type(request), values)]
        return protocol.CheckResponse(
            inputs,
            [
                protocol.CheckFailure(where, f"{reason} (resource {request.name})")
                for where, reason in failures
            ],
        )

    async def diff(self, request: protocol.DiffRequest) -> protocol.DiffResponse:
        schema = self._schema(_type(request))
        old = plain(request.old_state[INPUTS]) if INPUTS in request.old_state else {}
        new = {name: plain(value) for name, value in request.new_inputs.items()}
        fixed = {*schema.immutable, *self._cloud.immutable(schema, new)}
        detailed: dict[str, protocol.PropertyDiff] = {}
        replaces: set[str] = set()
        for path, kind in differences(old, new):
            if path.startswith("__"):
                continue
            top = path.split(".")[0].split("[")[0]
            if top in request.ignore_changes:
                continue
            replace = top in fixed or path in fixed
            if replace:
                replaces.add(top)
            detailed[path] = protocol.PropertyDiff(_KINDS[kind, replace], input_diff=True)
        return protocol.DiffResponse(
            changes=bool(detailed),
            replaces=sorted(replaces),
            delete_before_replace=bool(replaces) and self._blocks_its_successor(schema, old, new),
            diffs=sorted({path.split(".")[0].split("[")[0] for path in detailed}),
            detailed_diff=detailed,
        )

    async def create(self, request: protocol.CreateRequest) -> protocol.CreateResponse:
        schema = self._schema(_type(request))
        given = dict(request.properties)
        if request.preview:
            unknown = {name: PropertyValue(UNKNOWN) for name in schema.outputs if name not in given}
            return protocol.CreateResponse("", {**self._at_preview(schema, given), **unknown})
        what = self._request(_type(request), request.name, given, schema)
        failure = self._world.fails(_type(request), request.name)
        if failure:
            raise Refused(f"{request.name}: {failure}")
        self._cloud.refuse(what)
        identity, computed = self._cloud.create(what)
        self._world.put(
            self._package, Thing(what.type, identity, self._scope["name"], _visible(what.inputs), computed)
        )
        return protocol.CreateResponse(identity, self._outputs(schema, given, computed))

    async def read(self, request: protocol.ReadRequest) -> protocol.ReadResponse:
        schema = self._schema(_type(request))
        thing = self._world.get(self._package, _type(request), self._scope["name"], request.resource_id)
        if thing is None:
            return protocol.ReadResponse("", {}, {})
        state = request.properties or {}
        kept = request.inputs or state
        # What the world holds wins (that is drift), but a value that did not drift keeps its secrecy.
        inputs = {
            name: kept[name] if name in kept and plain(kept[name]) == value else property_value(value)
            for name, value in thing.inputs.items()
        }
        marks = {name: value for name, value in kept.items() if name == AUTONAMED[self._package]}
        return protocol.ReadResponse(
            request.resource_id,
            self._outputs(schema, {**inputs, **marks}, dict(thing.outputs)),
            {**inputs, **marks},
        )

    async def update(self, request: protocol.UpdateRequest) -> protocol.UpdateResponse:
        schema = self._schema(_type(request))
        given = dict(request.news)
        if request.preview:
            kept = {
                name: value
                for name, value in request.olds.items()
                if name not in given and name != INPUTS and name not in schema.inputs
            }
            return protocol.UpdateResponse({**self._at_preview(schema, given), **kept})
        what = self._request(_type(request), request.name, given, schema, identity=request.resource_id)
        self._cloud.refuse_update(what)
        computed = self._cloud.update(what)
        self._world.put(
            self._package,
            Thing(what.type, request.resource_id, self._scope["name"], _visible(what.inputs), computed),
        )
        return protocol.UpdateResponse(self._outputs(schema, given, computed))

    async def delete(self, request: protocol.DeleteRequest) -> None:
        schema = self._schema(_type(request))
        inputs = request.properties.get(INPUTS)
        given = {name: property_value(value) for name, value in plain(inputs).items()} if inputs else {}
        what = self._request(_type(request), request.name, given, schema, identity=request.resource_id)
        self._cloud.delete(what)
        self._world.remove(self._package, _type(request), self._scope["name"], request.resource_id)

    async def invoke(self, request: protocol.InvokeRequest) -> protocol.InvokeResponse:
        args = {name: plain(value) for name, value in request.args.items() if not _null(value)}
        token = undated(request.tok)
        answers = self._cloud.answers.get(token)
        if answers is None:
            raise Refused(f"the sandbox does not answer {token}; docs/sandbox.md lists what it answers")
        problems = list(self._schemas.arguments(token, args))
        if problems:
            return protocol.InvokeResponse(None, [protocol.CheckFailure(*problem) for problem in problems])
        # In a thread, since a first RSA key takes seconds and the engine has other requests meanwhile.
        answer = await asyncio.to_thread(answers, args, self._scope, self._world)
        return protocol.InvokeResponse({name: property_value(value) for name, value in answer.items()})

    def _mark(self, property: str) -> PropertyValue:
        if self._package == "azure-native":
            return PropertyValue(True)
        return PropertyValue([PropertyValue(property)])

    def _blocks_its_successor(self, schema: Schema, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        """Whether the old resource must go before the new one is made, as the real provider decides it."""
        mark = AUTONAMED[self._package]
        if self._package == "azure-native":
            return not old.get(mark)
        name = self._cloud.autoname(schema.token, schema)
        return bool(name) and mark not in new and old.get(name.property) == new.get(name.property)

    def _at_preview(self, schema: Schema, given: Mapping[str, PropertyValue]) -> dict[str, PropertyValue]:
        """Inputs as they will come back, unknown where the service adds something inside them."""
        shown = _visible(given)
        for name, more in schema.added.items():
            value = given[name].value if name in given else None
            if isinstance(value, Mapping):
                unknown = {key: PropertyValue(UNKNOWN) for key in more if key not in value}
                shown[name] = PropertyValue({**value, **unknown}).with_secret(given[name].is_secret)
        found = self._cloud.reshaped({name: plain(value) for name, value in given.items()})
        for name, value in found.items():
            shown[name] = PropertyValue(UNKNOWN) if value is None else property_value(value)
        return shown

    def _schema(self, token: str) -> Schema:
        schema = self._schemas.get(token)
        if schema is None:
            raise Refused(f"{token} is not a resource type of {SDKS[self._package]} {version(self._package)}")
        return schema

    def _request(
        self,
        kind: str,
        name: str,
        given: Mapping[str, PropertyValue],
        schema: Schema,
        identity: str = "",
    ) -> Request:
        inputs = {key: plain(value) for key, value in given.items()}
        previous = self._world.get(self._package, kind, self._scope["name"], identity) if identity else None
        return Request(
            type=kind,
            name=name,
            inputs=inputs,
            scope=self._scope,
            schema=schema,
            id=identity,
            previous=previous,
        )

    def _outputs(
        self, schema: Schema, given: Mapping[str, PropertyValue], computed: Mapping[str, Any]
    ) -> dict[str, PropertyValue]:
        # A service may return more under an input's name than it was given (a vault's properties, its URI).
        known = {
            name: property_value(value)
            for name, value in computed.items()
            if name not in given or (value is not None and plain(given[name]) != value)
        }
        outputs = {**_visible(given), **known}
        for name in schema.secret_outputs:
            if name in outputs:
                outputs[name] = outputs[name].with_secret(True)
        outputs[INPUTS] = PropertyValue(dict(given))
        return outputs


_KINDS = {
    ("add", False): protocol.PropertyDiffKind.ADD,
    ("add", True): protocol.PropertyDiffKind.ADD_REPLACE,
    ("delete", False): protocol.PropertyDiffKind.DELETE,
    ("delete", True): protocol.PropertyDiffKind.DELETE_REPLACE,
    ("update", False): protocol.PropertyDiffKind.UPDATE,
    ("update", True): protocol.PropertyDiffKind.UPDATE_REPLACE,
}


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, str]]:
    """(path, add | delete | update) wherever two plain values differ; an unknown differs from everything."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[tuple[str, str]] = []
        for key in sorted({*old, *new}):
            here = f"{path}.{key}" if path else key
            if key not in old:
                found.append((here, "add"))
            elif key not in new:
                found.append((here, "delete"))
            else:
                found += differences(old[key], new[key], here)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            change
            for index, (left, right) in enumerate(zip(old, new, strict=True))
            for change in differences(left, right, f"{path}[{index}]")
        ]
    same = old == new and old is not None
    return [] if same else [(path, "update")]


def plain(value: PropertyValue) -> Any:
    """A property as plain data; None stands for a value that is not known yet."""
    if value.type in (PropertyValueType.COMPUTED, PropertyValueType.NULL) or value.value == UNKNOWN:
        return None
    if value.type is PropertyValueType.MAP:
        assert isinstance(value.value, Mapping)
        return {key: plain(item) for key, item in value.value.items() if not _null(item)}
    if value.type is PropertyValueType.ARRAY:
        assert isinstance(value.value, Sequence)
        assert not isinstance(value.value, str)
        return [plain(item) for item in value.value]
    if value.type is PropertyValueType.NUMBER:
        assert isinstance(value.value, float | int)
        return int(value.value) if float(value.value).is_integer() else value.value
    if value.type in (PropertyValueType.ASSET, PropertyValueType.ARCHIVE):
        return f"{value.type.value}:{hashlib.sha256(repr(vars(value.value)).encode()).hexdigest()}"
    return value.value


def property_value(value: Any) -> PropertyValue:
    """Plain data as a property; the protocol knows no integers."""
    if isinstance(value, dict):
        return PropertyValue({key: property_value(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return PropertyValue([property_value(item) for item in value])
    if isinstance(value, int) and not isinstance(value, bool):
        return PropertyValue(float(value))
    return PropertyValue(value) if value is not None else PropertyValue.null()


def _type(request: Any) -> str:
    """The type token; below a component the URN holds the whole chain of parents."""
    return undated(request.type.rsplit("$", 1)[-1])


def _visible(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the marks that a provider keeps in the inputs for itself."""
    return {name: value for name, value in values.items() if not name.startswith("__")}


def _null(value: PropertyValue) -> bool:
    return value.type is PropertyValueType.NULL


def _json(value: Any) -> Any:
    """Provider configuration arrives with its nested values as JSON text."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def main(arguments: list[str]) -> None:
    package = arguments[0] if arguments else ""
    if os.environ.get("JEWELHOUSE_SANDBOX") != "1":
        sys.exit(
            f"this is a stand-in for {package or 'a cloud provider'}: it starts only in the sandbox "
            "(`jewelhouse sandbox up`); install the real provider for a deployment"
        )
    if package not in SDKS:
        sys.exit(f"{package!r} is not one of {', '.join(SDKS)}")
    directory = os.environ.get("JEWELHOUSE_SANDBOX_WORLD")
    if not directory:
        sys.exit("JEWELHOUSE_SANDBOX_WORLD does not name the directory of the stand-in clouds")
    cache = os.environ.get("JEWELHOUSE_SANDBOX_CACHE") or directory
    server.run(arguments[1:], version(package), StandIn(package, Path(directory), Path(cache)))


if __name__ == "__main__":
    main(sys.argv[1:])
