"""Which machines carry which TEE where: tables with source and date, and what they say about a stage."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from jewelhouse.errors import Problem
from jewelhouse.model import Platform, Stage, Tee

# Confidential GPUs are attested here: docs.nvidia.com/attestation, NRAS API, 2026-10.
GPU_VERIFIER = "nras.attestation.nvidia.com"


def words(text: str) -> frozenset[str]:
    """The names in a table row."""
    return frozenset(text.split())


def nearest(found: str, known: Iterable[str], default: str) -> str:
    """The known name closest to what was found, or `default` when none is near."""
    close = difflib.get_close_matches(found, sorted(known), n=1)
    return close[0] if close else default


def tee_problems(stage: Stage, tees: Mapping[Platform, tuple[Tee, ...]], where: str) -> Iterator[Problem]:
    """A TEE that the platform does not offer at all."""
    if stage.tee not in tees[stage.platform]:
        yield Problem(
            where=f"{where}.tee",
            what=f"{stage.platform} does not offer {stage.tee}",
            remedy=f"choose {' or '.join(tees[stage.platform])}",
        )
