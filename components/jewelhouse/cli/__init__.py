"""The `jewelhouse` command: everything around a deployment; one group of commands a module."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

import jewelhouse
from jewelhouse.cli import (
    doctor,
    evidence,
    image,
    lifecycle,
    mandate,
    rehearse,
    release,
    sandbox,
    weights,
)
from jewelhouse.errors import JewelhouseError
from jewelhouse.release.markdown import visible

app = typer.Typer(
    help="The strongroom for model weights. `pulumi up` deploys; this is for everything around it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("doctor")(doctor.doctor)
app.command("rehearse")(rehearse.rehearse)
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(lifecycle.app, name="lifecycle")
app.add_typer(release.app, name="release")
app.add_typer(evidence.app, name="evidence")
app.add_typer(image.app, name="image")
weights.app.command("mandate")(mandate.mandate)
app.add_typer(weights.app, name="weights")


def _version(shown: bool) -> None:
    if shown:
        typer.echo(jewelhouse.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The strongroom for model weights. `pulumi up` deploys; this is for everything around it."""


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line and exits: 0 yes or done, 1 no, 2 cannot tell (bad input, usage)."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app(args=arguments)
    except JewelhouseError as error:
        for problem in error.problems:
            console.print(visible(str(problem)), style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
