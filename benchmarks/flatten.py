"""Writes the flat program: the same resources and exports as a stack of the kit, one call after another.

It is what somebody would write by hand without components: literal values, references between resources as
outputs, explicit providers, no classes, no model. Written from a recording, so that it cannot fall behind
the kit and registers the same resources for certain.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import pulumi
from recording import Recording, Request, record
from samples import shipped

from jewelhouse.deploy import deploy
from jewelhouse.sandbox.schema import _arguments_class, _modules

# Outputs that resources of the kit read from each other, as marks that stand for them in a recording.
OUTPUTS = ("arn", "id", "bucket", "keyId", "latestVersion", "name", "prefixListId", "privateIp")
MARK = re.compile(r"<<([^<>]+)\|(\w+)>>")


def recorded(stack: str) -> Recording:
    """The requests of a stack, with marks where one resource refers to another."""
    names: dict[str, int] = {}

    def outputs(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        names.setdefault(name, len(names))
        return {output: inputs.get(output, f"<<{name}|{output}>>") for output in OUTPUTS if output != "id"}

    def call(token: str, args: dict[str, Any]) -> dict[str, Any]:
        return {"publicKeyPem": "pem"}

    def program() -> None:
        for name, value in deploy(shipped(stack)).items():
            pulumi.export(name, value)

    return record(program, outputs=outputs, call=call, identify=lambda name: f"<<{name}|id>>")


def write(recording: Recording, path: Path) -> int:
    """Writes the program; returns how many resources it registers."""
    variables: dict[str, str] = {}
    lines = ["import pulumi", "import pulumi_aws as aws", ""]
    custom = [request for request in recording.resources if request.custom]
    for index, request in enumerate(custom):
        variables[request.name] = f"r{index}"
        lines.append(f"r{index} = {_call(request, variables)}")
    lines += [
        f"pulumi.export({name!r}, {_expression(value, variables)})"
        for name, value in recording.exports.items()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(custom)


def _call(request: Request, variables: dict[str, str]) -> str:
    if request.type == "pulumi:providers:aws":
        options = {"region": request.inputs["region"]}
        return f"aws.Provider({request.name!r}, **{options!r})"
    module, name = _modules("aws")[request.type]
    loaded = __import__(module, fromlist=[name])
    from pulumi import _types

    arguments = _arguments_class(loaded, getattr(loaded, name))
    assert arguments is not None
    python = {wire: key for key, wire in _types.input_type_py_to_pulumi_names(arguments).items()}
    given = ", ".join(
        f"{python[key]}={_expression(value, variables)}" for key, value in request.inputs.items()
    )
    options = [f"provider={variables[request.provider_name]}"]
    if request.protect:
        options.append("protect=True")
    place = module.removeprefix("pulumi_")
    return f"{place}.{name}({request.name!r}, {given}, opts=pulumi.ResourceOptions({', '.join(options)}))"


def _expression(value: Any, variables: dict[str, str]) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{key!r}: {_expression(item, variables)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_expression(item, variables) for item in value) + "]"
    if not isinstance(value, str) or not MARK.search(value):
        return repr(int(value) if isinstance(value, float) and value.is_integer() else value)
    parts = [
        f"{variables[part[0]]}.{_snake(part[1])}" if isinstance(part, tuple) else repr(part)
        for part in _split(value)
    ]
    return parts[0] if len(parts) == 1 else f"pulumi.Output.concat({', '.join(parts)})"


def _split(text: str) -> list[str | tuple[str, str]]:
    found: list[str | tuple[str, str]] = []
    position = 0
    for match in MARK.finditer(text):
        if match.start() > position:
            found.append(text[position : match.start()])
        found.append((match[1], match[2]))
        position = match.end()
    return [*found, text[position:]] if position < len(text) else found


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower()
