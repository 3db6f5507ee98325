"""Certificates that endorse SEV-SNP reports: VCEK of one chip, VLEK of one cloud provider, and AMD's roots.

Extensions and product lines: AMD publication 57230 (VCEK Certificate and KDS Interface Specification, 2025);
google/go-sev-guest: kds/kds.go, commit 130884d1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat import asn1

from jewelhouse.evidence import certificates
from jewelhouse.evidence.certificates import Certificate, Root
from jewelhouse.evidence.verdict import Endorsements, Finding, MalformedEvidence

ROOTS: tuple[Root, ...] = (
    Root(
        key="9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
        name="Milan",
        source="ARK-Milan, kdsintf.amd.com/vcek/v1/Milan/cert_chain; "
        "google/go-sev-guest: verify/trust/ask_ark_milan.pem, commit af1c107a",
    ),
    Root(
        key="429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
        name="Genoa",
        source="ARK-Genoa, kdsintf.amd.com/vcek/v1/Genoa/cert_chain; "
        "google/go-sev-guest: verify/trust/ask_ark_genoa.pem, commit af1c107a",
    ),
    Root(
        key="4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
        name="Turin",
        source="ARK-Turin, kdsintf.amd.com/vlek/v1/Turin/cert_chain; "
        "google/go-sev-guest: verify/trust/ask_ark_turin_vlek.pem, commit 6953342c",
    ),
)

# Product name in a certificate, without its stepping -> product line. Bergamo and Siena are kinds of Genoa
# and chain to its root; no sample shows which name AMD writes for them, so that both are read.
PRODUCT_LINES: Mapping[str, str] = {
    "Milan": "Milan",
    "Genoa": "Genoa",
    "Bergamo": "Genoa",
    "Siena": "Genoa",
    "Turin": "Turin",
}
# CPUID family, first and last model -> product line (virtee/sev: src/types/shared, Generation, 2026-09).
PROCESSORS: tuple[tuple[int, int, int, str], ...] = (
    (0x19, 0x00, 0x0F, "Milan"),
    (0x19, 0x10, 0x1F, "Genoa"),
    (0x19, 0xA0, 0xAF, "Genoa"),
    (0x1A, 0x00, 0x11, "Turin"),
)


@dataclass(frozen=True, kw_only=True)
class TcbLayout:
    """Where a TCB version of 8 bytes holds each security patch level; what is `reserved` must be zero.
    `chip_id`: bytes of a hwID."""

    parts: Mapping[str, int]
    reserved: tuple[int, ...]
    chip_id: int


_ZEN3 = TcbLayout(
    parts={"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}, reserved=(2, 3, 4, 5), chip_id=64
)
# Turin puts the patch level of the FMC first and moves the others.
_ZEN5 = TcbLayout(
    parts={"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}, reserved=(4, 5, 6), chip_id=8
)
LAYOUTS: Mapping[str, TcbLayout] = {"Milan": _ZEN3, "Genoa": _ZEN3, "Turin": _ZEN5}

_OID = "1.3.6.1.4.1.3704.1."
STRUCT_VERSION = f"{_OID}1"
PRODUCT_NAME = f"{_OID}2"
HWID = f"{_OID}4"
CSP_ID = f"{_OID}5"
TCB: Mapping[str, str] = {
    f"{_OID}3.1": "bootloader",
    f"{_OID}3.2": "tee",
    f"{_OID}3.3": "snp",
    f"{_OID}3.8": "microcode",
    f"{_OID}3.9": "fmc",
}


@dataclass(frozen=True, kw_only=True)
class Endorsement:
    """The certificate of a report's signer, with what AMD put into it.

    `chain`: from it to the root as far as it goes; `root`: the pinned key at its end, if that was reached;
    `product`: the product line, None when it is not known; `tcb`: patch levels; `chip_id`: hwID of a VCEK.
    """

    leaf: Certificate
    chain: tuple[Certificate, ...]
    root: Root | None
    product: str | None
    tcb: Mapping[str, int]
    chip_id: bytes | None


def product_of_cpu(family: int, model: int) -> str | None:
    for known, first, last, product in PROCESSORS:
        if family == known and first <= model <= last:
            return product
    return None


def endorsed(
    endorsements: Endorsements,
    roots: Sequence[Root],
    *,
    vlek: bool,
    chip_id: bytes,
    problems: list[Finding],
) -> Endorsement | None:
    """The endorsement among the files that fits a report: its VLEK, or the VCEK of its chip.

    Of several the one for the chip is taken, else the first: the verdict then says what is wrong with it.
    """
    pool: list[Certificate] = []
    for number, raw in enumerate(endorsements.files, 1):
        try:
            pool.extend(certificates.read(der, f"endorsement {number}") for der in _der(raw))
        except MalformedEvidence as error:
            problems.append(Finding(error.where or f"endorsement {number}", error.what))
    leaves = [one for one in pool if STRUCT_VERSION in one.extensions]
    kind = "VLEK" if vlek else "VCEK"
    leaf = next((one for one in leaves if _fits(one, vlek, chip_id)), leaves[0] if leaves else None)
    if leaf is None:
        problems.append(
            Finding("signature", f"cannot be checked: no {kind} certificate among the endorsements")
        )
        return None
    chain, root = certificates.path(leaf, pool, roots, problems)
    product = _product(leaf, problems)
    tcb = {name: level for oid, name in TCB.items() if (level := _level(leaf, oid, problems)) is not None}
    return Endorsement(
        leaf=leaf,
        chain=chain,
        root=root,
        product=product,
        tcb=tcb,
        chip_id=_identity(leaf, vlek, product, problems),
    )


def _fits(leaf: Certificate, vlek: bool, chip_id: bytes) -> bool:
    if vlek:
        return CSP_ID in leaf.extensions
    _, hwid = leaf.extensions.get(HWID, (False, b""))
    return bool(hwid) and hwid in (chip_id, chip_id[:8], b"\x04\x40" + chip_id, b"\x04\x08" + chip_id[:8])


def _der(raw: bytes) -> Iterator[bytes]:
    """Certificates in a file: PEM, the JSON that Azure's THIM answers, or one in DER. Others have none."""
    if raw.lstrip()[:1] == b"{" and b"vcekCert" in raw:
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise MalformedEvidence("looks like an answer of THIM, but is not JSON") from error
        for name in ("vcekCert", "certificateChain"):
            text = value.get(name) if isinstance(value, dict) else None
            if isinstance(text, str):
                yield from certificates.blocks(text.encode("utf-8", "replace"))
    elif b"-----BEGIN CERTIFICATE-----" in raw:
        yield from certificates.blocks(raw)
    elif raw[:2] == b"\x30\x82":
        yield raw


def _product(leaf: Certificate, problems: list[Finding]) -> str | None:
    name = _text(leaf, PRODUCT_NAME)
    line = PRODUCT_LINES.get(name.partition("-")[0]) if name else None
    if line is None:
        problems.append(Finding(leaf.name, f"is for the product {name!r}, which is not known"))
    return line


def _identity(leaf: Certificate, vlek: bool, product: str | None, problems: list[Finding]) -> bytes | None:
    """hwID of a VCEK. A VLEK has none, it names a provider: one key signs for all machines of a region."""
    _, hwid = leaf.extensions.get(HWID, (False, b""))
    provider = CSP_ID in leaf.extensions
    if vlek:
        if not provider or not _text(leaf, CSP_ID):
            problems.append(Finding(leaf.name, "is no VLEK: it names no cloud provider (CSP_ID)"))
        if hwid:
            problems.append(Finding(leaf.name, "has a hwID, which a VLEK never has"))
        return None
    if provider:
        problems.append(Finding(leaf.name, "is a VLEK, the report says that a VCEK signed it"))
    size = LAYOUTS[product].chip_id if product else len(hwid)
    # AMD puts the bytes in without a tag, against RFC 5280; a tag is read too, should it come one day.
    identity = hwid.removeprefix(bytes((4, size))) if len(hwid) == size + 2 else hwid
    if not identity or len(identity) != size:
        problems.append(Finding(leaf.name, f"has a hwID of {len(hwid)} bytes, expected {size}"))
        return None
    return identity


def _level(leaf: Certificate, oid: str, problems: list[Finding]) -> int | None:
    found = leaf.extensions.get(oid)
    if found is None:
        return None
    try:
        level = asn1.decode_der(int, found[1])
    except ValueError:
        level = -1
    if not 0 <= level <= 255:
        problems.append(Finding(leaf.name, f"has no patch level in {TCB[oid]} ({oid})"))
        return None
    return level


def _text(leaf: Certificate, oid: str) -> str | None:
    found = leaf.extensions.get(oid)
    if found is None:
        return None
    try:
        return asn1.decode_der(asn1.IA5String, found[1]).as_str()
    except ValueError:
        return None
