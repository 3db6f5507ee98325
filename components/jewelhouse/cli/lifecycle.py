"""`jewelhouse lifecycle`: check, show and describe a stack's configuration without deploying it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jewelhouse import lifecycle as graph
from jewelhouse import picture, settings, stackfile
from jewelhouse.model import Lifecycle

app = typer.Typer(help="Check, show and describe a lifecycle.", no_args_is_help=True)

StackOption = Annotated[
    str | None, typer.Option("--stack", "-s", help="Stack in the project's stacks directory.")
]
FileOption = Annotated[Path | None, typer.Option("--file", "-f", help="Stack file anywhere.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


class Format(StrEnum):
    TABLE = "table"
    MERMAID = "mermaid"
    SVG = "svg"


def chosen(stack: str | None, file: Path | None) -> Lifecycle:
    """The lifecycle named by --stack or --file; exactly one of them."""
    if (stack is None) == (file is None):
        raise typer.BadParameter("name a lifecycle by --stack S or by --file F")
    return stackfile.read(file if file else stackfile.path_of(stack or ""))


@app.command()
def check(stack: StackOption = None, file: FileOption = None, as_json: JsonOption = False) -> None:
    """Say whether a lifecycle may be deployed, and everything that stands against it."""
    lifecycle = chosen(stack, file)
    weakened = list(graph.weakenings(lifecycle))
    declared = sorted({stage.image for stage in lifecycle.stages.values() if lifecycle.image(stage).declared})
    if as_json:
        typer.echo(json.dumps({"valid": True, "weakened": weakened, "declared-images": declared}))
        return
    console = Console(highlight=False)
    console.print(
        f"{lifecycle.name}: {len(lifecycle.stages)} stages, {len(lifecycle.artifacts)} artifacts, "
        f"{len(graph.opens_by_key(lifecycle))} attested keys on {', '.join(graph.clouds(lifecycle))}: valid"
    )
    for name in weakened:
        console.print(f"[yellow]weakened by {name}[/]")
    if declared:
        console.print(f"[yellow]measurements declared by hand, not built: {', '.join(declared)}[/]")


@app.command()
def show(
    stack: StackOption = None,
    file: FileOption = None,
    form: Annotated[Format, typer.Option("--format", help="table, mermaid or svg.")] = Format.TABLE,
    as_json: JsonOption = False,
) -> None:
    """Draw who opens and seals what, where."""
    lifecycle = chosen(stack, file)
    if as_json:
        typer.echo(json.dumps(summary(lifecycle), indent=2))
    elif form is Format.MERMAID:
        typer.echo(picture.mermaid(lifecycle), nl=False)
    elif form is Format.SVG:
        typer.echo(picture.svg(lifecycle), nl=False)
    else:
        wide_console().print(stage_table(summary(lifecycle)["stages"]))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a stack file, for editors."""
    typer.echo(json.dumps(settings.schema(), indent=2))


def summary(lifecycle: Lifecycle) -> dict[str, Any]:
    """The graph as plain values, in the shape of the stack's own outputs."""
    return {
        "lifecycle": lifecycle.name,
        "stages": {
            stage.name: {
                "kind": stage.kind.value,
                "platform": stage.platform.value,
                "tee": stage.tee.value,
                "region": stage.region,
                "machine": stage.machine.type if stage.machine else None,
                "gpu": stage.gpu,
                "operator": stage.operator,
                "opens": list(stage.opens),
                "seals": list(stage.seals),
                "rewraps": list(stage.rewraps),
                "keys": [graph.key_for(stage, artifact).name for artifact in stage.opens],
            }
            for stage in graph.order(lifecycle)
        },
        "artifacts": {
            artifact.name: {
                "kind": artifact.kind.value,
                "owner": artifact.owner,
                "supplied": artifact.supplied,
                "require": [proof.value for proof in artifact.require],
                "keys": [key.name for key in graph.keys_of(lifecycle, artifact.name)],
            }
            for artifact in lifecycle.artifacts.values()
        },
    }


def wide_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables into 80 columns where no terminal says how wide it is."""
    console = Console(highlight=False, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, stderr=stderr, width=132)


def stage_table(stages: Mapping[str, Mapping[str, Any]]) -> Table:
    """Which stage runs where, in which TEE, what it opens under which key, and what it seals."""
    table = Table(title="Who opens what, where", title_justify="left", show_lines=True)
    for column in ("Stage", "Runs on", "TEE", "Opens", "under key", "Seals"):
        table.add_column(column, overflow="fold")
    for name, stage in stages.items():
        where = [stage["platform"], stage["region"], stage["machine"] or ""]
        tee = f"{stage['tee']} + {stage['gpu']}" if stage["gpu"] else stage["tee"]
        table.add_row(
            f"[bold]{name}[/]\n{stage['kind']}",
            _lines(where),
            tee,
            _lines(stage["opens"]),
            _lines(stage["keys"]),
            _lines(stage["seals"]) or "-",
        )
    return table


def _lines(values: Iterable[str]) -> str:
    return "\n".join(value for value in values if value)
