"""What a machine's serial console says, told apart from what a workload makes it say.

Kernel, guest and workload write to one console, so a workload can print whatever the guest would. What counts
is the record of the run, signed by the key whose digest is in the first evidence that was asked for: nothing
but the guest ran before that. Only where no evidence was asked for, so that no workload was started, lines
alone are believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization

from jewelhouse.errors import JewelhouseError, Problem
from jewelhouse.evidence import nitro_document
from jewelhouse.evidence.verdict import MalformedEvidence
from jewelhouse.guest.record import PAYLOAD_TYPE
from jewelhouse.rehearsal.process import CLOSED, RECORD
from jewelhouse.weights import signing

# What the first process says last.
ENDED = "jewelhouse: the guest ended with "
# A machine that a kernel gives up says so, and goes on no more.
PANIC = "Kernel panic - "


@dataclass(frozen=True, kw_only=True)
class Said:
    """`record` is the content of the guest's own record, empty without one; `closed` what stayed shut, in
    the guest's words; `status` what the first process said of the guest."""

    status: int
    record: Mapping[str, Any]
    closed: tuple[str, ...]


def bound(document: bytes) -> bytes | None:
    """The digest that an attestation document carries along for a record's key. Raises JewelhouseError."""
    try:
        return nitro_document.parse(document).user_data
    except MalformedEvidence as error:
        raise JewelhouseError(f"gave out what is no document: {error.what}", where="stand-in") from error


def read(text: str, evidence: Sequence[bytes]) -> Said:
    """The outcome of a run by its console; `evidence`: the attestation documents that it was given, in order.

    Raises JewelhouseError when the machine has not ended by itself, and for a console on which evidence was
    asked for and whose records are all of another key.
    """
    lines = text.replace("\r", "").split("\n")
    ended = [line for line in lines if line.startswith(ENDED)]
    if not ended:
        panic = next((line for line in lines if PANIC in line), "")
        raise JewelhouseError(
            f"ended without a word of its first process{': ' + panic[:200] if panic else ''}", where="machine"
        )
    # The first process speaks after everything else has ended.
    status = ended[-1].removeprefix(ENDED).partition(";")[0]
    candidates = [
        found for line in lines if line.startswith(RECORD) and (found := _signed(line.removeprefix(RECORD)))
    ]
    said = tuple(line.removeprefix(CLOSED).strip() for line in lines if line.startswith(CLOSED))
    number = int(status) if status.lstrip("-").isdigit() else 1
    if not evidence:
        return Said(status=number, record=candidates[-1][1] if candidates else {}, closed=said)
    own = bound(evidence[0])
    records = [body for key, body in candidates if key == own]
    if not records:
        raise JewelhouseError(
            f"has shown {len(candidates)} records, none by the key that its evidence names", where="machine"
        )
    shut = [
        str(Problem(where=one["where"], what=one["what"])).partition("\n")[0]
        for event in records[-1]["events"]
        if event["event"] == "refused"
        for one in event["problems"]
    ]
    return Said(
        status=number,
        record=records[-1],
        closed=tuple(line for line in said if any(line.startswith(one) for one in shut)),
    )


def _signed(text: str) -> tuple[bytes, Mapping[str, Any]] | None:
    """Digest of the key that signed a record, and its content; None for what is none, cut off or changed."""
    try:
        data = text.encode("utf-8")
        body = json.loads(signing.unpack(data, "record", PAYLOAD_TYPE).payload)
        key = signing.public_key(body["signer"], "record")
        signing.verified(data, [key], 1, "record", PAYLOAD_TYPE)
        events = [(one["event"], one.get("problems", ())) for one in body["events"]]
        [(problem["where"], problem["what"]) for _, problems in events for problem in problems]
    except (JewelhouseError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # A workload's line; whether one is missing that has to be there is decided by all of them.
        return None
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest(), body
