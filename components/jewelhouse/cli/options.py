"""Arguments that several commands share, read once and the same way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from jewelhouse.errors import JewelhouseError
from jewelhouse.release.markdown import visible

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
AtOption = Annotated[
    str,
    typer.Option(
        "--at",
        metavar="now|evidence|TIME",
        help="Moment of the appraisal: now, the evidence's own time, or an ISO 8601 time.",
    ),
]
WithOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        metavar="ENDORSEMENT",
        help="What belongs to the evidence: saved JWKS, VCEK or VLEK with chain, TDX collateral. Repeatable.",
    ),
]
NonceOption = Annotated[
    str | None, typer.Option("--nonce", metavar="HEX", help="The challenge that the evidence must answer.")
]


def moment(at: str) -> datetime | None:
    """The time that --at means; None is the evidence's own."""
    if at == "now":
        return datetime.now(UTC)
    if at == "evidence":
        return None
    try:
        found = datetime.fromisoformat(at)
    except ValueError as error:
        raise JewelhouseError(
            f"{at} is no time", where="--at", remedy="write now, evidence, or 2026-11-23T10:00:00Z"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def nonce(value: str | None) -> bytes | None:
    """The bytes of --nonce."""
    if value is None:
        return None
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise JewelhouseError("is not hex", where="--nonce", remedy="write pairs of hex digits") from error


def shown(text: str) -> str:
    """Text of others for the terminal: it can neither style it, nor move its cursor, nor turn its lines."""
    return escape(visible(text))


def content(path: Path) -> bytes:
    """The bytes of a file, or of standard input for `-`."""
    try:
        return typer.get_binary_stream("stdin").read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise JewelhouseError(f"cannot be read: {error.strerror}", where=str(path)) from error
