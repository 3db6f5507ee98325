"""The report that Azure's paravisor keeps for the guest of a confidential VM: hardware's, and what it binds.

Layout: Azure/azure-guest-attestation-sdk: crates/azure-guest-attestation-sdk/src/report.rs (2026-11). A
header, room for a hardware report, a header of the runtime data, and these: JSON with the attestation key of
the vTPM, whose SHA-256 is in the hardware report. So the hardware vouches for the vTPM.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from jewelhouse.evidence import tokens
from jewelhouse.evidence.verdict import MalformedEvidence
from jewelhouse.guest.opening import Closed

WHERE = "report of the paravisor"
# Signature, version, size, request type, status, reserved; then size, version, report type, hash, size.
HEADER, RUNTIME = struct.Struct("<4sIIII12s"), struct.Struct("<IIIII")
SIGNATURE, VERSIONS = b"HCLA", (1, 2)
ROOM = 0x4A0
SHA256 = 1
ATTESTATION_KEY = "HCLAkPub"


@dataclass(frozen=True, kw_only=True)
class Tee:
    """What stands in the room for a hardware report. `at`: offset of its 64 bytes of report data."""

    name: str
    size: int
    at: int


# TDREPORT_STRUCT: Intel TDX Module ABI specification; the SNP report: AMD publication 56860.
TEES: Mapping[int, Tee] = {
    2: Tee(name="SevSnp", size=0x4A0, at=0x50),
    4: Tee(name="Tdx", size=1024, at=128),
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """`report`: the hardware's; `runtime`: what it is bound to; `key`: numbers of the attestation key."""

    tee: Tee
    report: bytes
    runtime: bytes
    key: tuple[int, int]


def parse(data: bytes) -> Report:
    """Raises Closed for what is no such report, or whose parts do not belong together."""
    fixed = HEADER.size + ROOM + RUNTIME.size
    if len(data) < fixed:
        raise Closed(f"has {len(data)} bytes, at least {fixed} are needed", where=WHERE)
    signature, version, *_ = HEADER.unpack_from(data)
    if signature != SIGNATURE or version not in VERSIONS:
        raise Closed(f"begins with {signature!r} version {version}", where=WHERE)
    _, _, kind, algorithm, size = RUNTIME.unpack_from(data, HEADER.size + ROOM)
    tee = TEES.get(kind)
    if tee is None:
        raise Closed(
            f"is of type {kind}: this VM is not confidential",
            where=WHERE,
            remedy="run on a size with SEV-SNP or TDX and security type ConfidentialVM",
        )
    if algorithm != SHA256:
        raise Closed(f"binds its runtime data by hash {algorithm}, expected SHA-256", where=WHERE)
    if not 0 < size <= len(data) - fixed:
        raise Closed(f"says {size} bytes of runtime data and has {len(data) - fixed}", where=WHERE)
    report = data[HEADER.size :][: tee.size]
    runtime = data[fixed:][:size]
    if report[tee.at : tee.at + 32] != hashlib.sha256(runtime).digest():
        raise Closed("has runtime data that the hardware's report is not bound to", where=WHERE)
    return Report(tee=tee, report=report, runtime=runtime, key=_key(runtime))


def _key(runtime: bytes) -> tuple[int, int]:
    try:
        keys = tokens.json_object(runtime, "runtime data").get("keys")
        for key in keys if isinstance(keys, list) else ():
            if isinstance(key, dict) and key.get("kid") == ATTESTATION_KEY:
                return tokens.rsa_numbers(key, ATTESTATION_KEY)
    except MalformedEvidence as error:
        raise Closed(f"{error.where} {error.what}", where=WHERE) from error
    raise Closed(f"names no key {ATTESTATION_KEY}", where=WHERE)
