"""Tokens of Azure Attestation judged under a throw-away authority, for the tests that ask what is refused."""

from __future__ import annotations

import functools
import json
from typing import Any

from jewelhouse.evidence import maa
from jewelhouse.evidence.verdict import Endorsements, MalformedEvidence, Verdict
from jewelhouse.rehearsal.minting_claims import b64url
from jewelhouse.rehearsal.minting_tokens import MaaAuthority


@functools.cache
def authority(**changes: Any) -> MaaAuthority:
    return MaaAuthority.new(**changes)


def judged(data: bytes, **options: Any) -> Verdict:
    options.setdefault("endorsements", authority().endorsements)
    options.setdefault("roots", authority().roots)
    return maa.verify(data, at=options.pop("at", None), **options)


def says(verdict: Verdict, where: str, what: str) -> None:
    assert not verdict.verified
    assert any(where in one.where and what in one.what for one in verdict.problems), verdict.problems


def passes(data: bytes, **options: Any) -> bool:
    """Whether hostile bytes are believed. Anything but a verdict or MalformedEvidence fails the test."""
    try:
        verdict = judged(data, **options)
    except MalformedEvidence:
        return False
    json.dumps(verdict.json())
    return verdict.verified


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> bytes:
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in (header, claims))
    return ".".join(b64url(part) for part in parts).encode()


def jwks_of(*keys: dict[str, Any]) -> Endorsements:
    return Endorsements(files=(json.dumps({"keys": list(keys)}).encode(),))


def entry(**members: Any) -> dict[str, Any]:
    return {**authority().jwks["keys"][0], **members}
