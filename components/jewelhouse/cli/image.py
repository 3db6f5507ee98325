"""`jewelhouse image`: enclave images, measured before they boot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jewelhouse.cli.options import JsonOption
from jewelhouse.errors import Problem, Problems
from jewelhouse.images import eif

app = typer.Typer(help="Enclave images: measured before they boot.", no_args_is_help=True)


@app.callback()
def image() -> None:
    """Enclave images: measured before they boot."""


@app.command()
def measure(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Enclave image (EIF), whatever built it.")],
    as_json: JsonOption = False,
) -> None:
    """Print the registers that an enclave from this image will report; exit 2 for a malformed file."""
    try:
        found = eif.measure(file)
    except OSError as error:
        raise Problems([Problem(where=str(file), what=f"cannot be read: {error.strerror}")]) from error
    except eif.MalformedImage as error:
        raise Problems(
            Problem(where=f"{file}: {problem.where}", what=problem.what) for problem in error.problems
        ) from error
    if as_json:
        typer.echo(json.dumps(found.registers))
        return
    console = Console(highlight=False, soft_wrap=True)
    layout = found.layout
    console.print(f"enclave image for {layout.architecture}, {layout.size} bytes, CRC {layout.crc:08x}")
    for section in layout.sections:
        console.print(f"  {section.offset:>12}  {section.kind.name.lower():<9}  {section.size} bytes")
    for name, value in found.registers.items():
        console.print(f"{name} {value}")
    if found.signature is None:
        console.print("not signed: PCR8 will be zeros")
