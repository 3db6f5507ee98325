"""`jewelhouse rehearse`: every stage opens what it should, every wrong one is stopped, before deployment."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jewelhouse import stackfile, templates
from jewelhouse.cli.image import KEPT
from jewelhouse.cli.options import JsonOption, content, shown
from jewelhouse.errors import JewelhouseError
from jewelhouse.release.documents import strict


def rehearse(
    stack: Annotated[str, typer.Option("--stack", "-s", help="Stack in the project's stacks directory.")],
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", help="Play what is wrong for this stage only. Repeatable; all without it."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="`pulumi stack export` of a real stack; the sandbox's without it."),
    ] = None,
    supply: Annotated[
        list[str] | None,
        typer.Option(
            "--supply", metavar="ARTIFACT=DIR", help="Seal this directory as a supplied artifact. Repeatable."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--html", help="Write a page for a browser as well.")] = None,
    machines: Annotated[
        bool | None,
        typer.Option(
            "--machines/--no-machines",
            help="Play stages in enclaves in their built images, too; where QEMU and the images are there.",
        ),
    ] = None,
    chaos: Annotated[
        bool,
        typer.Option("--chaos", help="Kill guests, key services and stores at all points; takes minutes."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of chaos's random moments; printed, new without it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Play a stack's whole lifecycle against stand-ins of the key services, with the documents it deployed.

    Small data is sealed with public keys, each stage's guest attests under a throw-away root, opens, works
    and seals, and every wrong one is refused. Exit 1 on any surprise, 2 when part of it could not be played.
    """
    # NumPy and the vendors' clients take a second to load.
    from jewelhouse.rehearsal import play

    project = stackfile.project_directory()
    lifecycle = stackfile.read(stackfile.path_of(stack, project))
    unknown = sorted(set(stages or ()) - set(lifecycle.stages))
    if unknown:
        raise JewelhouseError(
            f"has no stage {', '.join(unknown)}",
            where=stack,
            remedy=f"stages: {', '.join(lifecycle.stages)}",
        )
    brought = {name: Path(folder) for name, _, folder in (one.partition("=") for one in supply or ())}
    if seed is not None and not chaos:
        raise JewelhouseError("is of chaos", where="--seed", remedy="give --chaos as well")
    deployed, outputs = _state(stack, project, export)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if chaos:
        seed = secrets.randbits(32) if seed is None else seed
        console.print(f"chaos: --seed {seed}")
    with console.status(f"rehearsing {lifecycle.name}"):
        result = play.rehearse(
            lifecycle,
            deployed,
            outputs,
            report=lambda line: console.print(f"[dim]{shown(line)}[/dim]"),
            stages=tuple(stages or ()),
            machines=None if machines is False else project / KEPT / "out",
            seed=seed if chaos else None,
            supplies=brought,
        )
    if out is not None:
        out.write_text(
            templates.render("reports/rehearsal.html.j2", result=result, rows=_rows(result)), encoding="utf-8"
        )
    if as_json:
        typer.echo(json.dumps({**asdict(result), "good": result.good}, indent=1, default=str))
    else:
        _print(result)
    if not result.good:
        raise typer.Exit(1)
    if result.skipped or (machines and result.not_booted):
        raise typer.Exit(2)


def _state(stack: str, project: Path, export: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Export and outputs of a stack."""
    if export is not None:
        try:
            found = strict(content(export))
            resources = found["deployment"]["resources"]
            (root,) = [one for one in resources if one.get("type") == "pulumi:pulumi:Stack"]
            return found, root["outputs"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise JewelhouseError(
                "is no export of a stack", where=str(export), remedy="write it by: pulumi stack export"
            ) from error
    from jewelhouse.errors import SandboxError
    from jewelhouse.sandbox.engine import Engine

    engine = Engine(project)
    try:
        engine.prepare()
        engine.select(stack)
        found, outputs = dict(engine.export(stack)), dict(engine.outputs(stack))
    except SandboxError as error:
        raise JewelhouseError(
            f"cannot be read from the sandbox: {error}",
            where=stack,
            remedy=f"jewelhouse sandbox up --stack {stack}",
        ) from error
    if "policies" not in outputs:
        raise JewelhouseError(
            "is not up in the sandbox", where=stack, remedy=f"jewelhouse sandbox up --stack {stack}"
        )
    return found, outputs


def _rows(result: Any) -> list[dict[str, Any]]:
    return [
        {
            "stage": scene.stage,
            "wrong": "as it should be" if scene.wrong == "nothing" else str(scene.wrong),
            "expected": scene.expected,
            "opened": ", ".join(scene.opened) or "nothing",
            "why": scene.note or "; ".join(scene.stopped[:1]),
            "stopped": list(scene.stopped),
        }
        for scene in result.scenes
    ]


def _print(result: Any) -> None:
    console = Console(highlight=False)
    table = Table(title=f"{result.lifecycle}: rehearsed", show_lines=False)
    for column in ("", "stage", "what is wrong", "opened", "why"):
        table.add_column(column, overflow="fold")
    for row in _rows(result):
        mark = "[green]✓[/]" if row["expected"] else "[red]✗[/]"
        table.add_row(
            mark, *(shown(row[name]) for name in ("stage", "wrong", "opened")), shown(row["why"][:160])
        )
    console.print(table)
    surprises = sum(not scene.expected for scene in result.scenes)
    console.print(
        f"{len(result.scenes)} runs, {surprises} surprises"
        if surprises
        else f"{len(result.scenes)} runs, no surprise: everything opened that should, nothing else did"
    )
    for stage, reason in result.not_booted.items():
        console.print(f"not in its built image: {shown(stage)}: {shown(reason)}")
    for stage, reason in result.skipped.items():
        console.print(f"[yellow]not rehearsed[/]: {shown(stage)}: {shown(reason)}")
