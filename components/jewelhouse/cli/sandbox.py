"""`jewelhouse sandbox`: the real Pulumi engine against stand-in clouds, without any account."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from graphlib import TopologicalSorter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jewelhouse import stackfile
from jewelhouse.cli.lifecycle import stage_table, wide_console
from jewelhouse.errors import SandboxError
from jewelhouse.sandbox.engine import Engine, Result

app = typer.Typer(help="Try a stack without any cloud account.", no_args_is_help=True)

StackOption = Annotated[str, typer.Option("--stack", "-s", help="Stack in the project's stacks directory.")]
PulumiArguments = Annotated[list[str] | None, typer.Argument(help="Arguments for pulumi, after --.")]
PASSED_ON = {"allow_extra_args": True}


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    console.print(f"[bold]{text}[/] …")
    began = time.monotonic()
    yield
    console.print(f"  [green]done[/] in {time.monotonic() - began:.1f} s")


def _prepared(console: Console) -> Engine:
    engine = Engine(stackfile.project_directory())
    with _step(console, "Preparing the sandbox"):
        engine.prepare(lambda text: console.print(f"  {text}"))
    return engine


def _finish(result: Result) -> None:
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def prepare() -> None:
    """Get the CLI and the stand-in providers ready; `up` does so by itself."""
    engine = Engine(stackfile.project_directory())
    console = Console(highlight=False)
    began = time.monotonic()
    said: list[str] = []

    def report(text: str) -> None:
        said.append(text)
        console.print(f"{text} …")

    engine.prepare(report)
    if said:
        console.print(f"  done in {time.monotonic() - began:.1f} s")


@app.command(context_settings=PASSED_ON)
def up(
    stack: StackOption = "dev",
    as_json: Annotated[bool, typer.Option("--json", help="Print only the stack's outputs, as JSON.")] = False,
    arguments: PulumiArguments = None,
) -> None:
    """Bring a stack up and say what runs where and opens what."""
    console = wide_console(stderr=as_json)
    engine = _prepared(console)
    with _step(console, f"pulumi up {stack}"):
        # The outputs are hundreds of lines: the tables below, or --json, say what they hold.
        quiet = () if as_json else ("--suppress-outputs",)
        result = engine.operate("up", stack, *quiet, *(arguments or ()), live=not as_json)
    if as_json and not result.ok:
        console.print(result.stdout + result.stderr, markup=False)
    _finish(result)
    outputs = engine.outputs(stack)
    if as_json:
        typer.echo(json.dumps(outputs, indent=2))
        return
    console.print()
    summary(console, outputs)


@app.command(context_settings=PASSED_ON)
def preview(
    stack: StackOption = "dev",
    as_json: Annotated[bool, typer.Option("--json", help="Print the engine's steps as JSON.")] = False,
    arguments: PulumiArguments = None,
) -> None:
    """Show what `up` would change."""
    console = wide_console(stderr=as_json)
    engine = _prepared(console)
    extra = (*(("--json",) if as_json else ("--diff",)), *(arguments or ()))
    result = engine.operate("preview", stack, *extra, live=not as_json)
    if as_json:
        typer.echo(result.stdout, nl=False)
    _finish(result)


@app.command(context_settings=PASSED_ON)
def refresh(stack: StackOption = "dev", arguments: PulumiArguments = None) -> None:
    """Read back what the stand-in clouds hold, and show what drifted."""
    engine = _prepared(Console(highlight=False))
    _finish(engine.operate("refresh", stack, *(arguments or ()), live=True))


@app.command(context_settings=PASSED_ON)
def destroy(
    stack: StackOption = "dev",
    also_protected: Annotated[
        bool,
        typer.Option(
            "--also-protected", help="First let keys and stores be destroyed (destroyable: true), by an up."
        ),
    ] = False,
    arguments: PulumiArguments = None,
) -> None:
    """Take a stack down. Keys and stores of stacks that are not `destroyable` stay protected."""
    console = Console(highlight=False)
    engine = _prepared(console)
    changes = {"destroyable": True} if also_protected else None
    if also_protected:
        with _step(console, f"pulumi up {stack}, with destroyable: true"):
            _finish(engine.operate("up", stack, live=True, changes=changes))
    with _step(console, f"pulumi destroy {stack}"):
        result = engine.operate("destroy", stack, *(arguments or ()), live=True, changes=changes)
    if not result.ok and not also_protected:
        console.print(
            "keys and stores are protected unless the stack says `destroyable: true`; to take them down too: "
            f"jewelhouse sandbox destroy --stack {stack} --also-protected"
        )
    _finish(result)


@app.command()
def export(stack: StackOption = "dev") -> None:
    """Print the engine's stack export, as JSON."""
    engine = Engine(stackfile.project_directory())
    engine.prepare()
    typer.echo(json.dumps(engine.export(stack), indent=2))


@app.command()
def shell(stack: StackOption = "dev") -> None:
    """Open a shell in which `pulumi` is the sandbox's, with a stack selected."""
    console = Console(highlight=False)
    engine = _prepared(console)
    selected = engine.select(stack)
    program = os.environ.get("SHELL", "/bin/sh")
    console.print(
        f"pulumi in this shell talks to the sandbox only; configuration: {selected[-1]}; leave with exit"
    )
    environment = {**engine.environment(), "PULUMI_STACK": stack}
    done = subprocess.run([program], cwd=engine.paths.project, env=environment)
    raise typer.Exit(done.returncode)


def summary(console: Console, outputs: Mapping[str, Any]) -> None:
    """What a newcomer wants to know of a stack that is up."""
    if "stages" not in outputs:
        raise SandboxError("the stack exports no stages", remedy="run `jewelhouse sandbox up` again")
    console.print(stage_table(_in_order(outputs["stages"])))
    console.print(_artifact_table(outputs["artifacts"]))
    weakened = outputs["lifecycle"]["weakened"]
    if weakened:
        console.print(f"[yellow]weakened by configuration: {', '.join(weakened)}[/]")
    declared = sorted(
        {stage["image"]["name"] for stage in outputs["stages"].values() if stage["image"]["declared"]}
    )
    if declared:
        console.print(f"[yellow]measurements declared by hand, not built: {', '.join(declared)}[/]")
    console.print(
        "All outputs: `jewelhouse sandbox up --json`. Look further: `jewelhouse sandbox export`, "
        "`jewelhouse release matrix --stack …`, `jewelhouse lifecycle show --stack … --format svg`"
    )


def _in_order(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Stages after those that seal what they open; the engine keeps outputs by name."""
    feeds = {
        name: [other for other, sealer in stages.items() if set(sealer["seals"]) & set(stage["opens"])]
        for name, stage in stages.items()
    }
    return {name: stages[name] for name in TopologicalSorter(feeds).static_order()}


def _artifact_table(artifacts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Whose artifact it is, what its data key is wrapped to, and where its ciphertext lies."""
    table = Table(title="What is sealed to which keys, and lies where", title_justify="left", show_lines=True)
    for column in ("Artifact", "Owner", "Sealed to", "Ciphertext in"):
        table.add_column(column, overflow="fold")
    for name, artifact in artifacts.items():
        table.add_row(
            f"[bold]{name}[/]\n{artifact['kind']}",
            artifact["owner"],
            "\n".join(key["name"] for key in artifact["keys"]) or "nobody opens it here",
            "\n".join(store["url"] for store in artifact["stores"]),
        )
    return table
