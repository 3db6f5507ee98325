"""`jewelhouse release matrix`: who can open what, before anything is deployed."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jewelhouse import lifecycle as graph
from jewelhouse.cli.lifecycle import FileOption, JsonOption, StackOption, chosen, wide_console
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Lifecycle
from jewelhouse.release import show
from jewelhouse.release.matrix import Matrix, matrix


class Format(StrEnum):
    TABLE = "table"
    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"


def of(lifecycle: Lifecycle) -> Matrix:
    """The matrix of a lifecycle, stages in the order in which they run."""
    stages = [stage for stage in graph.order(lifecycle) if stage.opens]
    return matrix(
        lifecycle.name,
        graph.release_policies(lifecycle).values(),
        stages=[stage.name for stage in stages],
        artifacts=[name for name in lifecycle.artifacts if any(name in stage.opens for stage in stages)],
        images={stage.name: lifecycle.image(stage) for stage in stages},
        weakened=graph.weakenings(lifecycle),
    )


def show_matrix(
    stack: StackOption = None,
    file: FileOption = None,
    form: Annotated[Format, typer.Option("--format", help="table, markdown, html or json.")] = Format.TABLE,
    as_json: JsonOption = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to a file.")] = None,
) -> None:
    """Show stages by artifacts, and what is proven about a stage before a key is released to it."""
    found = of(chosen(stack, file))
    form = Format.JSON if as_json else form
    if form is Format.TABLE and out is None:
        console = wide_console()
        for name in found.weakened:
            console.print(f"[red]! weakened by {name}[/]")
        for table in show.tables(found, console.width):
            console.print(table)
        console.print(show.legend())
        for note in show.notes(found):
            console.print(note)
        return
    if form is Format.TABLE:
        raise JewelhouseError(
            "a table is for the terminal", where="--out", remedy="add --format html, markdown or json"
        )
    text = {
        Format.JSON: lambda: json.dumps(found.json(), indent=2) + "\n",
        Format.MARKDOWN: lambda: show.markdown(found),
        Format.HTML: lambda: show.page(found),
    }[form]()
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JewelhouseError(f"cannot be written: {error.strerror}", where=str(out)) from error
    Console(stderr=True, highlight=False).print(f"wrote {out}")
