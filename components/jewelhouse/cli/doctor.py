"""`jewelhouse doctor`: what is here, what is missing or too old, and how to get it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jewelhouse import lifecycle as graph
from jewelhouse import stackfile
from jewelhouse.doctor import look
from jewelhouse.model import Cloud


def doctor(
    stack: Annotated[
        str | None, typer.Option("--stack", "-s", help="Look only for what this stack's clouds need.")
    ] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Look only for what the sandbox needs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Show what is present, missing or too old; exit 1 when a deployment would fail."""
    project = stackfile.project_directory()
    clouds = graph.clouds(stackfile.read(stackfile.path_of(stack, project))) if stack else tuple(Cloud)
    findings = list(look(project, clouds=clouds, sandbox=sandbox))
    failing = [finding for finding in findings if finding.needed and not finding.ok]
    if as_json:
        typer.echo(
            json.dumps({"ok": not failing, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        table = Table(show_lines=False)
        for column in ("", "What", "Found", "To mend"):
            table.add_column(column, overflow="fold")
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[red]no[/]" if finding.needed else "[yellow]--[/]"
            table.add_row(mark, finding.name, finding.found, "" if finding.ok else finding.mend)
        Console().print(table)
    if failing:
        raise typer.Exit(1)
