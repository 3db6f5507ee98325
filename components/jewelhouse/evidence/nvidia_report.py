"""The layout of NVIDIA's SPDM reports: GET_MEASUREMENTS of SPDM 1.1 and its answer (DMTF DSP0274 1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jewelhouse.evidence.verdict import MalformedEvidence

SPDM_11 = 0x11
GET_MEASUREMENTS = 0xE0
MEASUREMENTS = 0x60
NONCE = 32
REQUEST = 4 + NONCE + 1
SIGNATURE = 96
DMTF = 1
# A report of an H100 has 4 KiB.
SIZE_LIMIT = 64 * 1024

# Fields of the opaque data: number, name, and how they read.
# Source: NVIDIA/attestation-sdk: nv-attestation-sdk-cpp/include/nv_attestation/gpu/spdm/
# gpu_opaque_data_parser.hpp, 2026-09.
OPAQUE: Mapping[int, tuple[str, str]] = {
    3: ("driver-version", "text"),
    4: ("gpu-info", "hex"),
    5: ("sku", "text"),
    6: ("vbios-version", "vbios"),
    7: ("manufacturer-id", "hex"),
    8: ("tamper-detection", "hex"),
    9: ("smc", "hex"),
    10: ("vpr", "hex"),
    11: ("nvdec0-status", "hex"),
    12: ("measurement-counts", "hex"),
    13: ("cprinfo", "hex"),
    14: ("board-id", "hex"),
    15: ("chip-sku", "text"),
    16: ("chip-sku-mod", "text"),
    17: ("project", "text"),
    18: ("project-sku", "text"),
    19: ("project-sku-mod", "text"),
    20: ("fwid", "hex"),
    21: ("protected-pcie-status", "hex"),
    22: ("switch-pdis", "hex"),
    23: ("floorswept-ports", "hex"),
    24: ("position-id", "hex"),
    25: ("lock-switch-status", "hex"),
    32: ("gpu-link-connections", "hex"),
    33: ("system-enable-status", "hex"),
    34: ("opaque-data-version", "hex"),
    35: ("chip-info", "hex"),
    36: ("feature-flag", "hex"),
}
READ_AS: Mapping[str, str] = dict(OPAQUE.values())
# Newer devices put a header before the fields, and a value type into each (same source).
OPAQUE_HEADER = b"NVDAOD"
OPAQUE_HEADER_SIZE = 12


@dataclass(frozen=True, kw_only=True)
class Report:
    """Request and answer. `measurements` by SPDM index; `opaque` by the names of OPAQUE, empty where the form
    of that part is not known; `signed` are all bytes before the signature."""

    request_nonce: bytes
    nonce: bytes
    slot: int
    measurements: Mapping[int, bytes]
    opaque: Mapping[str, bytes]
    opaque_raw: bytes
    signed: bytes
    signature: bytes


def is_json(data: bytes) -> bool:
    return data.lstrip()[:1] in (b"{", b"[")


def read_report(data: bytes, where: str = "report") -> Report:
    """Reads a report to its last byte. Raises MalformedEvidence."""
    if not REQUEST + 8 <= len(data) <= SIZE_LIMIT:
        raise MalformedEvidence(f"has {len(data)} bytes, a report has at most {SIZE_LIMIT}", where=where)
    if data[:2] != bytes((SPDM_11, GET_MEASUREMENTS)):
        raise MalformedEvidence("does not begin with a GET_MEASUREMENTS request of SPDM 1.1", where=where)
    answer = data[REQUEST:]
    if answer[:2] != bytes((SPDM_11, MEASUREMENTS)):
        raise MalformedEvidence("has no MEASUREMENTS answer behind its request", where=where)
    record = answer[8 : 8 + int.from_bytes(answer[5:8], "little")]
    behind = answer[8 + len(record) :]
    nonce, size = behind[:NONCE], int.from_bytes(behind[NONCE : NONCE + 2], "little")
    opaque = behind[NONCE + 2 : NONCE + 2 + size]
    signature = behind[NONCE + 2 + size :]
    if len(record) != int.from_bytes(answer[5:8], "little") or len(signature) != SIGNATURE:
        raise MalformedEvidence("has lengths inside that do not add up to its size", where=where)
    return Report(
        request_nonce=data[4 : 4 + NONCE],
        nonce=nonce,
        slot=data[REQUEST - 1],
        measurements=_blocks(record, answer[4], where),
        opaque=_fields(opaque),
        opaque_raw=opaque,
        signed=data[:-SIGNATURE],
        signature=signature,
    )


def _blocks(record: bytes, count: int, where: str) -> dict[int, bytes]:
    """Measurement blocks: index, specification, size, then type, size and value of the DMTF form."""
    found: dict[int, bytes] = {}
    at = 0
    for _ in range(count):
        size = int.from_bytes(record[at + 2 : at + 4], "little")
        block = record[at + 4 : at + 4 + size]
        if len(record) - at < 4 or len(block) != size or size < 3 or record[at + 1] != DMTF:
            raise MalformedEvidence("is no measurement block in the DMTF form", where=f"{where} byte {at}")
        if int.from_bytes(block[1:3], "little") != size - 3 or record[at] in found:
            raise MalformedEvidence("is a measurement of another size or twice", where=f"{where} byte {at}")
        found[record[at]] = block[3:]
        at += 4 + size
    if at != len(record) or not found:
        raise MalformedEvidence(f"has {len(found)} measurements that do not fill their record", where=where)
    return found


def _fields(opaque: bytes) -> dict[str, bytes]:
    """Opaque data as far as its form is known: it is signed in any case, and nothing is decided by it."""
    header = opaque.startswith(OPAQUE_HEADER)
    at = OPAQUE_HEADER_SIZE if header else 0
    head = 6 if header else 4
    found: dict[str, bytes] = {}
    while at < len(opaque):
        number = int.from_bytes(opaque[at : at + 2], "little")
        size = int.from_bytes(opaque[at + head - 2 : at + head], "little")
        value = opaque[at + head : at + head + size]
        name, _ = OPAQUE.get(number, (f"field-{number}", "hex"))
        if len(opaque) - at < head or len(value) != size or name in found:
            return {}
        found[name] = value
        at += head + size
    return found


def claims(report: Report) -> dict[str, Any]:
    """Everything the report says, as JSON values."""
    return {
        "request_nonce": report.request_nonce.hex(),
        "answer_nonce": report.nonce.hex(),
        "slot": report.slot,
        "measurements": {str(index): value.hex() for index, value in report.measurements.items()},
        "opaque": {name: _readable(name, value) for name, value in report.opaque.items()}
        or {"raw": report.opaque_raw.hex()},
    }


def _readable(name: str, value: bytes) -> str:
    how = READ_AS.get(name, "hex")
    if how == "vbios" and len(value) >= 5:
        # Stored as two little-endian words: 00 a5 00 96, 01 is written 96.00.A5.00.01.
        return ".".join(f"{one:02X}" for one in (*value[3::-1], value[4]))
    text = value.rstrip(b"\0")
    if how == "text" and text.isascii() and text.decode("ascii").isprintable():
        return text.decode("ascii")
    return value.hex()
