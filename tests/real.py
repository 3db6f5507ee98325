"""Real attestation evidence, used in place. It is no part of the project: tests skip where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()


def directory() -> Path | None:
    """Where the evidence lies: JEWELHOUSE_EVIDENCE, or `shared/evidence` beside the project."""
    named = os.environ.get("JEWELHOUSE_EVIDENCE")
    candidates = [Path(named)] if named else [HERE.parents[1].parent / "shared" / "evidence"]
    return next((path for path in candidates if (path / "MANIFEST.json").is_file()), None)


def evidence(name: str) -> bytes:
    """The bytes of one file. Skips the test when the evidence is not there."""
    return path(name).read_bytes()


def path(name: str) -> Path:
    found = directory()
    if found is None:
        pytest.skip("no real evidence here: set JEWELHOUSE_EVIDENCE to a directory with its MANIFEST.json")
    return found / name


needed = pytest.mark.skipif(
    directory() is None,
    reason="no real evidence here: set JEWELHOUSE_EVIDENCE to a directory with its MANIFEST.json",
)
