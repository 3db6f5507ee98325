"""Writes the generated parts of the documentation from the code: `python tools/generate_docs.py [--check]`.

Whole files: JSON Schemas, test vectors and the picture of the lifecycle. Sections between
`<!-- generated: NAME -->` and `<!-- end -->`: configuration keys, command reference, policies. With --check
nothing is written, and the exit code is 1 when something is out of date.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi
import typer.main
import weights_vectors
from rich.console import Console

from jewelhouse import picture, settings, stackfile
from jewelhouse.images import lock, recipe, tools
from jewelhouse.images.lock import BuiltFrom, ImageEntry
from jewelhouse.model import Cloud, Platform, Proof
from jewelhouse.release import lint, proofs
from jewelhouse.release.lint import everywhere
from jewelhouse.weights import schema as manifest_schema

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"

# Heading, definition in the schema, where it stands in the stack file.
TABLES = (
    ("Lifecycle", "Lifecycle", "`jewelhouse:lifecycle`"),
    ("Party", "PartySettings", "`parties.<name>`"),
    ("AWS account", "AwsAccountSettings", "`parties.<name>.aws`"),
    ("Azure account", "AzureAccountSettings", "`parties.<name>.azure`"),
    ("Google Cloud account", "GcpAccountSettings", "`parties.<name>.gcp`"),
    ("Artifact", "ArtifactSettings", "`artifacts.<name>`"),
    ("Licence", "LicenceSettings", "`artifacts.<name>.licences.<tier>`"),
    ("Stage", "StageSettings", "`stages.<name>`"),
    ("Machine", "MachineSettings", "`stages.<name>.machine`"),
    ("Enclave", "EnclaveSettings", "`stages.<name>.machine.enclave`"),
)


def files() -> Mapping[Path, str]:
    """Generated files, whole."""
    return {
        DOCS / "lifecycle.schema.json": json.dumps(settings.schema(), indent=2) + "\n",
        DOCS / "widened" / "Pulumi.prod-aws.yaml": widened(),
        DOCS / "manifest.schema.json": json.dumps(manifest_schema.schema(), indent=2) + "\n",
        DOCS / "weights-vectors.json": weights_vectors.text(),
        DOCS / "lifecycle.svg": picture.svg(stackfile.read(PROJECT / "stacks/Pulumi.dev.yaml")),
    }


def sections() -> Mapping[str, Callable[[], str]]:
    """Generated sections by name."""
    return {
        "up": up,
        "configuration": configuration,
        "images": images,
        "recipes": recipes,
        "tools": image_tools,
        "proofs": proof_table,
        "cli": commands,
        "components": components,
        "policies": policies,
        "lint": lint_rules,
    }


def up() -> str:
    """The end of what `make up` prints: the same table as `jewelhouse lifecycle show`."""
    from jewelhouse.cli.lifecycle import stage_table, summary

    lifecycle = stackfile.read(PROJECT / "stacks/Pulumi.dev.yaml")
    printed = io.StringIO()
    Console(file=printed, width=132).print(stage_table(summary(lifecycle)["stages"]))
    table = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
    return f"```text\nPreparing the sandbox …\npulumi up dev …\n…\n\n{table}\n…\n```\n"


def configuration() -> str:
    definitions = settings.schema()["$defs"]
    names = {definition: heading for heading, definition, _ in TABLES}
    parts = []
    for heading, definition, where in TABLES:
        model = definitions[definition]
        parts.append(f"### {heading}\n\n{where}\n\n{_table(model, names)}")
    return "\n".join(parts)


def images() -> str:
    return "\n".join(
        [
            _table(ImageEntry.model_json_schema(by_alias=True), {"BuiltFrom": "Built from"}),
            "### Built from\n",
            "Under `built` of an image: what `jewelhouse image lock` writes, and `image verify` compares.\n",
            _table(BuiltFrom.model_json_schema(by_alias=True), {}),
        ]
    )


# Heading, definition in the schema of recipes, where it stands in recipe.yaml.
RECIPES = (
    ("File", "RecipeFile", "`files.<path>`"),
    ("Trust", "Trust", "`trust`"),
    ("Trusted artifact", "TrustedArtifact", "`trust.opens.<artifact>`"),
    ("Trusted mandate", "TrustedMandate", "`trust.seals.<artifact>`"),
    ("Trusted rewrap", "TrustedRewrap", "`trust.rewraps.<artifact>`"),
    ("Trusted GPUs", "TrustedGpus", "`trust.gpu`"),
    ("Kernel", "KernelSettings", "`kernel`"),
    ("Target", "Target", "`targets.<platform>`"),
)


def recipes() -> str:
    schema = recipe.schema()
    names = {definition: heading for heading, definition, _ in RECIPES}
    parts = [_table(schema, names)]
    for heading, definition, where in RECIPES:
        parts.append(f"### {heading}\n\n{where}\n\n{_table(schema['$defs'][definition], names)}")
    return "\n".join(parts)


def image_tools() -> str:
    rows = ["| program | package | for | needed to |", "|---|---|---|---|"]
    for tool in tools.TOOLS:
        need = "build" if tool.builds else "boot and compare"
        rows.append(f"| `{Path(tool.name).name}` | `{tool.package}` | {tool.use} | {need} |")
    return "\n".join(rows) + "\n"


def widened() -> str:
    """The stack file of docs/widened, whose outgoing image is the one that is locked now."""
    path = PROJECT / "docs" / "widened" / "Pulumi.prod-aws.yaml"
    text = path.read_text(encoding="utf-8")
    image = lock.load(PROJECT / "stacks" / "images.lock.yaml").images["finetuner", Platform.AWS_ENCLAVE]
    head, mark, _ = text.partition("          previous:\n")
    lines = [f"{name}: {image.measurements[0][name]}" for name in ("PCR0", "PCR1", "PCR2")]
    return f"{head}{mark}            - " + "\n              ".join(lines) + "\n"


def _table(model: Mapping[str, Any], names: Mapping[str, str]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = set(model.get("required", ()))
    for key, value in model["properties"].items():
        default = "required" if key in required else _default(value.get("default"))
        rows.append(
            f"| `{key}` | {_type(value, names)} | {default} | {_cell(value.get('description', ''))} |"
        )
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value in (None, [], {}, ""):
        return ""
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def _type(value: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        if name in names:
            return f"[{names[name].lower()}](#{names[name].lower().replace(' ', '-')})"
        return {"Platform": "[platform](#images)", "Proof": "[proof](#proofs)"}.get(name, _values(name))
    if "anyOf" in value:
        return " or ".join(_type(part, names) for part in value["anyOf"] if part.get("type") != "null")
    if "enum" in value:
        return ", ".join(f"`{item}`" for item in value["enum"])
    if value.get("type") == "array":
        return f"list of {_type(value['items'], names)}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties") or next(
            iter(value.get("patternProperties", {}).values()), {}
        )
        return f"names to {_type(inner, names)}" if isinstance(inner, dict) and inner else "mapping"
    return {"string": "text", "integer": "number", "boolean": "true or false"}.get(value.get("type", ""), "")


def _values(name: str) -> str:
    """The values of an enumeration, or the name of a definition without a table of its own in words."""
    definition = settings.schema()["$defs"][name]
    if "enum" in definition:
        return ", ".join(f"`{value}`" for value in definition["enum"])
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Settings")).lower()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def proof_table() -> str:
    rows = ["| platform | proof | at the key service | how, or what to choose instead |", "|---|---|---|---|"]
    for platform in Platform:
        for proof in Proof:
            status = proofs.possible(platform, proof)
            rows.append(
                f"| `{platform}` | {proof} | {status.state.replace('-', ' ')} | {_cell(status.note)} |"
            )
    return "\n".join(rows) + "\n"


def commands() -> str:
    from jewelhouse.cli import app

    root = typer.main.get_command(app)
    return "\n".join(_command(root, ["jewelhouse"]))


def _command(command: Any, path: list[str]) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, inner in sorted(command.commands.items()):
            yield from _command(inner, [*path, name])
        return
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join(
        [*path, *(f"[{a.name.upper()}]" if not a.required else a.name.upper() for a in arguments)]
    )
    yield f"### `{usage}`\n\n{inspect.cleandoc(command.help or '')}\n"
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    if options:
        yield "| option | meaning |\n|---|---|"
        for option in options:
            yield f"| `{', '.join(option.opts)}` | {_cell(option.help or '')} |"
        yield ""


def components() -> str:
    """Arguments of every component, cloud by cloud, from its dataclass."""
    parts = []
    for cloud in Cloud:
        package = importlib.import_module(f"jewelhouse.{cloud}")
        parts.append(f"### {picture.CLOUD_NAMES[cloud]}\n")
        for name in sorted(package.__all__):
            component = getattr(package, name)
            if issubclass(component, pulumi.ComponentResource):
                annotation = inspect.signature(component).parameters["args"].annotation
                parts.append(f"#### `jewelhouse.{cloud}.{name}`\n\n{_paragraph(component)}\n")
                parts.append(f"`{annotation}`:\n\n| argument | type | default |\n|---|---|---|")
                parts += [_argument(field) for field in dataclasses.fields(getattr(package, annotation))]
                parts.append("")
    return "\n".join(parts)


def _paragraph(documented: Any) -> str:
    return _filled(inspect.cleandoc(documented.__doc__ or "").split("\n\n")[0])


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        115,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _argument(field: dataclasses.Field[Any]) -> str:
    kind = str(field.type).replace("pulumi.", "").replace("|", "\\|")
    if field.default is not dataclasses.MISSING:
        default = f"`{field.default!r}`"
    else:
        default = "empty" if field.default_factory is not dataclasses.MISSING else "required"
    return f"| `{field.name}` | `{kind}` | {default} |"


def policies() -> str:
    sys.path.append(str(PROJECT / "policies"))
    guardrails = importlib.import_module("guardrails")
    rows = ["| rule | what it holds | what to do | source |", "|---|---|---|---|"]
    rows += [
        f"| `{rule.name}` | {_cell(rule.description)} | {_cell(rule.remedy)} | {_cell(rule.source)} |"
        for rule in (*guardrails.RULES, *guardrails.STACK_RULES)
    ]
    return "\n".join(rows) + "\n"


def lint_rules() -> str:
    """Every lint rule of every cloud, with what it lets happen and what to write instead."""
    parts = []
    groups = [("The whole lifecycle", everywhere.RULES)]
    groups += [(picture.CLOUD_NAMES[cloud], lint.rules(cloud)) for cloud in Cloud]
    for title, rules in groups:
        parts.append(f"### {title}\n")
        for rule in rules:
            parts.append(f"#### {rule.id}: {rule.title}\n")
            parts.append(_filled(f"{rule.severity.capitalize()}. {rule.why}") + "\n")
            parts.append(_filled(f"- Instead: {rule.remedy}", "  "))
            parts.append(_filled(f"- Source: {rule.source}", "  ") + "\n")
    return "\n".join(parts)


def pages() -> Mapping[Path, str]:
    """Every generated file and every page with generated sections, as they should be."""
    wanted = dict(files())
    made = sections()
    for path in (PROJECT / "README.md", *sorted(DOCS.glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        wanted_text = re.sub(
            r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)",
            lambda match: f"{match[1]}\n{made[match[2]]()}\n{match[3]}",
            text,
            flags=re.DOTALL,
        )
        if "<!-- generated:" in text:
            wanted[path] = wanted_text
    return wanted


def outdated() -> list[Path]:
    """Generated files that differ from what the code says."""
    return [
        path
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    stale = outdated()
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(PROJECT)} is out of date: run python tools/generate_docs.py")
        return 1 if stale else 0
    wanted = pages()
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(PROJECT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
