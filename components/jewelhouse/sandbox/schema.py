"""What a resource type takes and gives, read from the pinned SDKs themselves and kept on disk.

Importing an SDK's module costs up to 2.5 s and 229 MB, so a type is extracted once and cached by the SDK's
version; a provider process that finds its types in the cache imports no SDK.
"""

from __future__ import annotations

import collections.abc
import difflib
import enum
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

SDKS: Mapping[str, str] = {"aws": "pulumi_aws", "azure-native": "pulumi_azure_native", "gcp": "pulumi_gcp"}
FORMAT = 11
CATALOGUE = 40
# Enumerations that an SDK has from another API under the same name, and what the property takes.
MISTAKEN: Mapping[str, list[str]] = {
    # learn.microsoft.com/azure/templates/microsoft.insights/scheduledqueryrules, 2026-10
    "pulumi_azure_native.monitor._enums.ConditionOperator": [
        "Equals",
        "GreaterThan",
        "GreaterThanOrEqual",
        "LessThan",
        "LessThanOrEqual",
    ],
}
# How the SDKs' documentation says that a property cannot change in place.
IMMUTABLE = re.compile(r"forces (a )?new resource|changing this (forces|will force)", re.IGNORECASE)
# The first format under this heading, in the documentation of Google's types, is the shape of the id. Other
# parts name formats of other things: a subnetwork's, those of the prefixes that it can be made from.
IMPORT_HEADING = "## Import"
IMPORT_FORMAT = re.compile(r"^\s*\* `([^`]*\{\{\w+\}\}[^`]*)`$", re.MULTILINE)
# "string", "integer", "number", "boolean", "any", {"list" or "map": Type}, {"enum": [..]}, {"ref": name}
Type = Any


@dataclass(frozen=True)
class Schema:
    """Inputs, outputs and replacement rules of one resource type, by wire name.

    `added` names, per property, what the service adds inside it (`identity` comes back with `principalId`).
    """

    token: str
    inputs: Mapping[str, Type]
    required: list[str]
    outputs: list[str]
    immutable: list[str] = field(default_factory=list)
    secret_outputs: list[str] = field(default_factory=list)
    types: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    id_format: str = ""
    added: Mapping[str, list[str]] = field(default_factory=dict)

    def problems(self, values: Mapping[str, Any], *, partial: bool = False) -> Iterator[tuple[str, str]]:
        """(property path, reason) for everything in `values` that the SDK's types do not allow.

        Unknown values (None stands for them) pass, as they do at preview. `partial` skips required ones.
        """
        yield from _object(self, "", values, self.inputs, [] if partial else self.required)


def _object(
    schema: Schema, path: str, values: Mapping[str, Any], known: Mapping[str, Type], required: list[str]
) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if name.startswith("__"):
            continue
        where = f"{path}.{name}" if path else name
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            yield (
                where,
                f"is not a property of {schema.token}" + (f"; did you mean {close[0]}?" if close else ""),
            )
        else:
            yield from _value(schema, where, value, known[name])
    for name in required:
        if name not in values:
            yield (f"{path}.{name}" if path else name), "is required"


def _value(schema: Schema, path: str, value: Any, kind: Type) -> Iterator[tuple[str, str]]:
    if value is None or kind == "any":
        return
    if isinstance(kind, str):
        fits = {
            "string": isinstance(value, str),
            "boolean": isinstance(value, bool) or value in ("true", "false"),
            "number": _number(value) is not None,
            "integer": (found := _number(value)) is not None and float(found).is_integer(),
        }[kind]
        if not fits:
            yield path, f"must be of type {kind}, found {_named(value)}"
    elif "list" in kind:
        if not isinstance(value, list):
            yield path, f"must be a list, found {_named(value)}"
        else:
            for index, item in enumerate(value):
                yield from _value(schema, f"{path}[{index}]", item, kind["list"])
    elif "map" in kind:
        if not isinstance(value, dict):
            yield path, f"must be a map, found {_named(value)}"
        else:
            for key, item in value.items():
                yield from _value(schema, f'{path}["{key}"]', item, kind["map"])
    elif "union" in kind:
        found = [list(_value(schema, path, value, choice)) for choice in kind["union"]]
        if all(found):
            yield from found[0]
    elif "enum" in kind:
        if value not in kind["enum"]:
            close = difflib.get_close_matches(str(value), [str(item) for item in kind["enum"]], n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; one of {', '.join(map(str, kind['enum']))}"
            yield path, f"{value!r} is not allowed{hint}"
    else:
        definition = schema.types[kind["ref"]]
        if not isinstance(value, dict):
            yield path, f"must be an object ({kind['ref']}), found {_named(value)}"
        else:
            yield from _object(schema, path, value, definition["properties"], definition["required"])


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _named(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else repr(value)


def version(package: str) -> str:
    """Version of the pinned SDK of a package."""
    return importlib.metadata.version(SDKS[package])


class Schemas:
    """The resource types of one package, from the cache or from the SDK."""

    def __init__(self, package: str, directory: Path) -> None:
        self._package = package
        self._directory = directory / f"{package}-{version(package)}-{FORMAT}"
        self._loaded: dict[str, Schema | None] = {}

    def get(self, token: str) -> Schema | None:
        """The schema of a type token, or None when the SDK has no such type."""
        token = undated(token)
        if token not in self._loaded:
            self._loaded[token] = self._cached(token)
        return self._loaded[token]

    def arguments(self, token: str, args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(argument, reason) for everything in the arguments of a function that the SDK's does not take."""
        path = self._path(token)
        stored = _read(path)
        function = Function(**stored) if stored is not None else extract_function(self._package, token)
        if function is None:
            yield "", f"{token} is not a function of {SDKS[self._package]} {version(self._package)}"
            return
        if stored is None:
            _write(path, asdict(function))
        for name in args:
            if name not in function.arguments:
                close = difflib.get_close_matches(name, function.arguments, n=1)
                yield (
                    name,
                    f"is not an argument of {token}" + (f"; did you mean {close[0]}?" if close else ""),
                )
        for name in function.required:
            if name not in args:
                yield name, f"is required by {token}"

    def _path(self, token: str) -> Path:
        return self._directory / f"{re.sub(r'[^A-Za-z0-9]+', '-', token)}.json"

    def _cached(self, token: str) -> Schema | None:
        path = self._path(token)
        stored = _read(path)
        if stored is not None:
            return Schema(**stored)
        schema = extract(self._package, token)
        if schema is not None:
            _write(path, asdict(schema))
        return schema


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several provider processes may write the same type at once; a rename keeps each file whole.
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(path)


def undated(token: str) -> str:
    """azure-native:compute/v20251101:VirtualMachine is azure-native:compute:VirtualMachine."""
    return re.sub(r"^(azure-native:\w+)/v\d{8}\w*:", r"\1:", token)


@dataclass(frozen=True)
class Function:
    """Arguments of a function (`aws:kms/getPublicKey:getPublicKey`), by wire name."""

    arguments: list[str]
    required: list[str]


@cache
def _modules(package: str) -> Mapping[str, tuple[str, str]]:
    """Type token -> (module, class), from the table that the SDK registers itself with."""
    spec = importlib.util.find_spec(SDKS[package])
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    match = re.search(r'resource_modules="""(.*?)"""', source, re.DOTALL)
    assert match is not None, f"{SDKS[package]} registers no resource modules"
    return {
        token: (entry["fqn"], name)
        for entry in json.loads(match[1])
        for token, name in entry["classes"].items()
    }


def extract(package: str, token: str) -> Schema | None:
    """Reads a type from the SDK by importing its module."""
    from pulumi import _types

    found = _modules(package).get(token)
    if found is None:
        return None
    module = importlib.import_module(found[0])
    resource = getattr(module, found[1])
    arguments = _arguments_class(module, resource)
    types: dict[str, Mapping[str, Any]] = {}
    inputs, required = _properties(arguments, types) if arguments else ({}, [])
    source = inspect.getsource(resource._internal_init)
    return Schema(
        token=token,
        inputs=inputs,
        required=required,
        outputs=sorted(_types.resource_py_to_pulumi_names(resource).values()),
        immutable=sorted(_immutable(arguments, source) & set(inputs)) if arguments else [],
        secret_outputs=_strings(source, "additional_secret_outputs"),
        types=types,
        id_format=_id_format(resource),
        added=_added(resource, inputs, types),
    )


def extract_function(package: str, token: str) -> Function | None:
    """Reads a function's arguments from the SDK's source, without importing it."""
    spec = importlib.util.find_spec(SDKS[package])
    assert spec is not None
    assert spec.origin is not None
    module = token.split(":")[1].split("/")[0]
    directory = Path(spec.origin).parent / ("" if module == "index" else module)
    for path in sorted([*directory.glob("get_*.py"), *directory.glob("list_*.py")]):
        source = path.read_text(encoding="utf-8")
        if f"'{token}'" in source:
            break
    else:
        return None
    # The variant for outputs says what may be left out: `Input[Optional[Optional[...]]]`, where a required
    # argument has one Optional.
    signature = source[source.index("_output(") :]
    wire = {python: name for name, python in re.findall(r"__args__\['(\w+)'\] = (\w+)", signature)}
    required = re.findall(r"[(\s](\w+): pulumi\.Input\[Optional\[(?!Optional\[)", signature)
    return Function(sorted(wire.values()), [wire[python] for python in required if python in wire])


def _added(
    resource: type, inputs: Mapping[str, Type], types: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    from pulumi import _types

    found: dict[str, list[str]] = {}
    for name, annotation in _types.resource_types(resource).items():
        kind, given = _types.unwrap_type(annotation), inputs.get(name)
        if (
            isinstance(kind, type)
            and _types.is_output_type(kind)
            and isinstance(given, dict)
            and "ref" in given
        ):
            more = set(_types.output_type_types(kind)) - set(types[given["ref"]]["properties"])
            if more:
                found[name] = sorted(more)
    return found


def _id_format(resource: type) -> str:
    # The SDKs have a file for each resource.
    _, _, text = Path(inspect.getfile(resource)).read_text(encoding="utf-8").partition(IMPORT_HEADING)
    match = IMPORT_FORMAT.search(text)
    return match[1] if match else ""


def _arguments_class(module: Any, resource: type) -> type | None:
    """The Args class: named after the resource, or `<Resource>InitArgs` where that name was taken."""
    own = inspect.getmodule(resource)
    for name in (f"{resource.__name__}InitArgs", f"{resource.__name__}Args"):
        for place in (own, module):
            candidate = getattr(place, name, None)
            if candidate is not None and hasattr(candidate, "_pulumi_input_type"):
                return candidate
    return None


def _properties(cls: type, types: dict[str, Mapping[str, Any]]) -> tuple[dict[str, Type], list[str]]:
    from pulumi import _types

    names = _types.input_type_py_to_pulumi_names(cls)
    parameters = inspect.signature(cls.__init__).parameters
    required = [
        wire
        for python, wire in names.items()
        if python in parameters and parameters[python].default is inspect.Parameter.empty
    ]
    kinds = {wire: _kind(kind, types) for wire, kind in _types.input_type_types(cls).items()}
    return kinds, required


def _kind(annotation: Any, types: dict[str, Mapping[str, Any]]) -> Type:
    from pulumi import Asset, Output

    origin = typing.get_origin(annotation)
    if origin is not None and origin not in (list, dict) and type(None) is not annotation:
        arguments = typing.get_args(annotation)
        if origin is collections.abc.Sequence:
            return {"list": _kind(arguments[0], types)}
        if origin is collections.abc.Mapping:
            return {"map": _kind(arguments[1], types)}
        # Input[T] is T | Awaitable[T] | Output[T]; an open enumeration is str | Enum.
        choices = [
            choice
            for choice in arguments
            if choice is not type(None)
            and typing.get_origin(choice) not in (collections.abc.Awaitable, Output)
            and choice is not Output
        ]
        kinds = [_kind(choice, types) for choice in choices]
        enums = [kind for kind in kinds if isinstance(kind, dict) and "enum" in kind]
        if enums:
            # A catalogue that grows (VM sizes, regions) is listed as it was when the SDK was made.
            return enums[0] if len(enums[0]["enum"]) <= CATALOGUE else "string"
        # The typed dictionary beside each Args class says the same again and is read as "any".
        objects = any(isinstance(kind, dict) and "ref" in kind for kind in kinds)
        distinct = {
            json.dumps(kind, sort_keys=True): kind for kind in kinds if not (objects and kind == "any")
        }
        return next(iter(distinct.values())) if len(distinct) == 1 else {"union": list(distinct.values())}
    if origin in (list, dict):
        inner = _kind(typing.get_args(annotation)[-1], types)
        return {"list": inner} if origin is list else {"map": inner}
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            mistaken = MISTAKEN.get(f"{annotation.__module__}.{annotation.__name__}")
            return {"enum": mistaken or [member.value for member in annotation]}
        if hasattr(annotation, "_pulumi_input_type"):
            name = annotation.__name__
            if name not in types:
                types[name] = {}  # recursive types end here
                properties, required = _properties(annotation, types)
                types[name] = {"properties": properties, "required": required}
            return {"ref": name}
        simple = {str: "string", bool: "boolean", int: "integer", float: "number"}.get(annotation)
        if simple:
            return simple
        if issubclass(annotation, Asset):
            return "any"
    return "any"


def _immutable(arguments: type, source: str) -> set[str]:
    from pulumi import _types

    names = _types.input_type_py_to_pulumi_names(arguments)
    text = inspect.getdoc(arguments.__init__) or ""
    documented = {
        names[match[1]]
        for match in re.finditer(r":param [^:]*? (\w+): (.*?)(?=\n:param |\Z)", text, re.DOTALL)
        if match[1] in names and IMMUTABLE.search(match[2])
    }
    # `properties.uniqueId` and `siteInfo[*].location` name nested ones; the whole property is compared.
    return documented | {re.split(r"[.\[]", name)[0] for name in _strings(source, "replace_on_changes")}


def _strings(source: str, option: str) -> list[str]:
    match = re.search(rf"{option}=\[([^\]]*(?:\[\*\][^\]]*)*)\]", source)
    return re.findall(r'"([^"]+)"', match[1]) if match else []
