"""`jewelhouse evidence`: what a piece of evidence says, and whether it holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jewelhouse.cli.options import (
    AtOption,
    JsonOption,
    NonceOption,
    WithOption,
    content,
    moment,
    nonce,
    shown,
)
from jewelhouse.errors import Problem, Problems
from jewelhouse.evidence import appraise
from jewelhouse.evidence.verdict import Endorsements, Kind, MalformedEvidence, Verdict
from jewelhouse.evidence.verdict import moment as text_of

app = typer.Typer(help="Attestation evidence: shown and verified, offline.", no_args_is_help=True)

# What each format is in the words of RFC 9334: who attests, and who signed.
ROLES: Mapping[Kind, tuple[str, str]] = {
    Kind.NITRO_ENCLAVE: ("Evidence of a Nitro Enclave", "signed by the Nitro Hypervisor"),
    Kind.NITRO_TPM: ("Evidence of an EC2 instance with NitroTPM", "signed by the Nitro Hypervisor"),
    Kind.MAA: ("Attestation Result", "signed by the Verifier, Microsoft Azure Attestation"),
    Kind.CONFIDENTIAL_SPACE: (
        "Attestation Result about a Confidential Space workload",
        "signed by the Verifier, Google Cloud Attestation",
    ),
    Kind.GCE_VM: (
        "Attestation Result about a Confidential VM",
        "signed by the Verifier, Google Cloud Attestation",
    ),
    Kind.SEV_SNP: ("Evidence of a SEV-SNP guest", "signed by the AMD security processor"),
    Kind.TDX: ("Evidence of a TDX trust domain", "signed by Intel's quoting enclave"),
    Kind.NVIDIA_SPDM: ("Evidence of an NVIDIA GPU", "signed by the GPU"),
    Kind.NVIDIA_EAT: ("Attestation Result about NVIDIA GPUs", "signed by the Verifier, NVIDIA NRAS"),
}
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Evidence; - for standard input.")]


@app.callback()
def evidence() -> None:
    """Attestation evidence: shown and verified, offline."""


@app.command()
def show(
    file: FileArgument,
    endorsements: WithOption = None,
    at: AtOption = "evidence",
    challenge: NonceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what evidence claims and how far it can be verified. Exit 0 for whatever can be read."""
    print_verdict(appraised(file, endorsements, at, challenge), at, as_json=as_json)


@app.command()
def verify(
    file: FileArgument,
    endorsements: WithOption = None,
    at: AtOption = "now",
    challenge: NonceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify evidence to its pinned root: exit 0 verified, 1 not, 2 no evidence at all."""
    verdict = appraised(file, endorsements, at, challenge)
    print_verdict(verdict, at, as_json=as_json)
    if not verdict.verified:
        sys.exit(1)


def appraised(file: Path, endorsements: list[Path] | None, at: str, challenge: str | None) -> Verdict:
    """The verdict on a file. Its problems name the file when it is no evidence."""
    try:
        return appraise.verify(
            content(file),
            at=moment(at),
            endorsements=Endorsements(files=tuple(content(path) for path in endorsements or ())),
            nonce=nonce(challenge),
        )
    except MalformedEvidence as error:
        raise Problems(
            Problem(
                where=f"{file}: {problem.where}" if problem.where else str(file),
                what=problem.what,
                remedy=problem.remedy,
                source=problem.source,
            )
            for problem in error.problems
        ) from error


def print_verdict(verdict: Verdict, at: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(verdict.json(), indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    what, signer = ROLES[verdict.kind]
    console.print(f"[bold]{what}[/] ({verdict.kind}), {signer}")
    own = ", its own time and not now" if at == "evidence" else ""
    state = "[green]verified[/]" if verdict.verified else "[red]not verified[/]"
    console.print(f"{state} at {text_of(verdict.at)}{own}")
    if verdict.debug:
        console.print("[red]debug: its memory is open to whoever debugs it[/]")
    for name, value in (("issued", verdict.issued), ("expires", verdict.expires)):
        if value is not None:
            console.print(f"{name} {text_of(value)}")
    _lines(console, "Chain", verdict.chain)
    _lines(console, "Checked", verdict.checked)
    _lines(console, "Problems", [f"{problem.where}: {problem.what}" for problem in verdict.problems], "red")
    for title, values in (("Measurements", verdict.measurements), ("Claims", verdict.claims)):
        if values:
            table = Table(
                title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
            )
            for name, value in _flat(values):
                table.add_row(shown(name), shown(value))
            console.print(table)


def _lines(console: Console, title: str, lines: Any, style: str = "") -> None:
    if lines:
        console.print(f"[italic]{title}[/]")
        for line in lines:
            console.print(f"  {shown(line)}", style=style)


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested claims by their paths, as policies name them."""
    if isinstance(values, Mapping) and values:
        return [
            row
            for name, value in values.items()
            for row in _flat(value, f"{prefix}.{name}" if prefix else name)
        ]
    text = values if isinstance(values, str) else json.dumps(values)
    return [(prefix, text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)")]
