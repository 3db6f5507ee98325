"""The layout of a TDX quote, versions 4 and 5.

Intel TDX DCAP Quoting Library API, appendix A.3 (quote 4) and A.4 (quote 5), 2024; Intel TDX Module 1.5 ABI
Specification (TD report and attributes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jewelhouse.evidence import certificates
from jewelhouse.evidence.certificates import Certificate
from jewelhouse.evidence.verdict import MalformedEvidence

TEE_TDX = 0x81
ECDSA_P256 = 2
HEADER = 48
QE_REPORT = 384
PEM_CHAIN = 5
QE_REPORT_DATA = 6
# A real quote has about 5 KiB, most of it certificates; go-tdx-guest reads buffers of 16 KiB.
SIZE_LIMIT = 64 * 1024

# Fields of a TD report: name, bytes. Version 1.5 of the module adds the second list.
TD_REPORT_10: tuple[tuple[str, int], ...] = (
    ("tee_tcb_svn", 16),
    ("mrseam", 48),
    ("mrsignerseam", 48),
    ("seam_attributes", 8),
    ("td_attributes", 8),
    ("xfam", 8),
    ("mrtd", 48),
    ("mrconfigid", 48),
    ("mrowner", 48),
    ("mrownerconfig", 48),
    ("rtmr0", 48),
    ("rtmr1", 48),
    ("rtmr2", 48),
    ("rtmr3", 48),
    ("reportdata", 64),
)
TD_REPORT_15: tuple[tuple[str, int], ...] = (*TD_REPORT_10, ("tee_tcb_svn_2", 16), ("mrservicetd", 48))
# Type of the body in a version 5 quote; a version 4 quote has a TD report 1.0.
BODIES: Mapping[int, tuple[tuple[str, int], ...]] = {2: TD_REPORT_10, 3: TD_REPORT_15}

MEASUREMENTS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrsignerseam", "mrconfigid")
MEASUREMENTS += ("mrowner", "mrownerconfig", "reportdata", "mrservicetd")
ATTRIBUTES: Mapping[int, str] = {
    0: "debug",
    27: "lass",
    28: "sept-ve-disabled",
    29: "migratable",
    30: "pks",
    31: "key-locker",
    63: "performance-monitoring",
}


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A quote taken apart. `report`: fields of the TD report by name; `signed`: what the attestation key
    signed; `certificates`: the chain inside, leaf first. `padding` counts the bytes behind the quote, `rest`
    those up to the last that is not zero."""

    version: int
    key_type: int
    vendor: bytes
    user_data: bytes
    report: Mapping[str, bytes]
    signed: bytes
    signature: bytes
    attestation_key: bytes
    quoting_report: bytes
    quoting_signature: bytes
    quoting_data: bytes
    certificates: tuple[Certificate, ...]
    padding: int
    rest: int

    @property
    def debug(self) -> bool:
        return bool(self.report["td_attributes"][0] & 1)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) != size:
            raise MalformedEvidence(
                f"ends inside {what}: {len(taken)} of {size} bytes", where=f"byte {self.at}"
            )
        self.at += size
        return taken

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")


def parse(data: bytes) -> Quote:
    """Reads a quote to the end of its signature data. Raises MalformedEvidence for anything else."""
    if len(data) > SIZE_LIMIT:
        raise MalformedEvidence(f"has {len(data)} bytes, a TDX quote has at most {SIZE_LIMIT}")
    reader = _Reader(data)
    version, key_type = reader.number(2, "the version"), reader.number(2, "the key type")
    tee = reader.number(4, "the TEE type")
    if version not in (4, 5) or tee != TEE_TDX:
        raise MalformedEvidence(
            f"has version {version} and TEE type {tee:#x}, a TDX quote has 4 or 5 and {TEE_TDX:#x}"
        )
    if key_type != ECDSA_P256:
        raise MalformedEvidence(f"is {key_type}, expected 2 (ECDSA P-256)", where="attestation key type")
    reader.take(4, "the header")
    vendor, user_data = reader.take(16, "the vendor"), reader.take(20, "the user data")
    body, size = (
        (2, 584) if version == 4 else (reader.number(2, "the body's type"), reader.number(4, "its size"))
    )
    fields = BODIES.get(body)
    if fields is None:
        raise MalformedEvidence(f"is {body}: known are {sorted(BODIES)}", where="type of the body")
    if size != sum(length for _, length in fields):
        raise MalformedEvidence(f"is {size}, which is not that of type {body}", where="size of the body")
    report = {name: reader.take(length, name) for name, length in fields}
    signed = data[: reader.at]
    inner = _Reader(reader.take(reader.number(4, "the length of the signature"), "the signature data"))
    quote = _signature(inner, version, key_type, vendor, user_data, report, signed, data[reader.at :])
    if inner.at != len(inner.data):
        raise MalformedEvidence("has bytes behind the certification data", where="signature data")
    return quote


def _signature(
    reader: _Reader,
    version: int,
    key_type: int,
    vendor: bytes,
    user_data: bytes,
    report: Mapping[str, bytes],
    signed: bytes,
    behind: bytes,
) -> Quote:
    signature, key = reader.take(64, "the signature"), reader.take(64, "the attestation key")
    kind, size = reader.number(2, "certification data"), reader.number(4, "certification data")
    if kind != QE_REPORT_DATA:
        raise MalformedEvidence(f"has type {kind}, expected {QE_REPORT_DATA}", where="certification data")
    if size != len(reader.data) - reader.at:
        raise MalformedEvidence(f"claims {size} bytes", where="certification data")
    quoting_report = reader.take(QE_REPORT, "the quoting enclave's report")
    quoting_signature = reader.take(64, "the quoting enclave's signature")
    quoting_data = reader.take(reader.number(2, "authentication data"), "authentication data")
    kind, size = reader.number(2, "the chain's type"), reader.number(4, "the chain's size")
    if kind != PEM_CHAIN:
        raise MalformedEvidence(
            f"has type {kind}, expected {PEM_CHAIN}: a quote that holds its certificates",
            where="certification data of the quoting enclave",
        )
    text = reader.take(size, "the certificates")
    return Quote(
        version=version,
        key_type=key_type,
        vendor=vendor,
        user_data=user_data,
        report=report,
        signed=signed,
        signature=signature,
        attestation_key=key,
        quoting_report=quoting_report,
        quoting_signature=quoting_signature,
        quoting_data=quoting_data,
        certificates=tuple(certificates.read(der, "PCK chain") for der in certificates.blocks(text)),
        padding=len(behind),
        rest=len(behind.rstrip(b"\0")),
    )


def claims(quote: Quote) -> dict[str, Any]:
    """Everything the quote says, as JSON values."""
    attributes = int.from_bytes(quote.report["td_attributes"], "little")
    return {
        "version": quote.version,
        "qe_vendor_id": quote.vendor.hex(),
        "user_data": quote.user_data.hex(),
        **{name: value.hex() for name, value in quote.report.items()},
        "td_attributes": {
            "raw": quote.report["td_attributes"].hex(),
            **{name: bool(attributes >> bit & 1) for bit, name in ATTRIBUTES.items()},
        },
    }
