"""Enclave images, written: the same parts give the same bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from jewelhouse.errors import JewelhouseError
from jewelhouse.images.eif import (
    AARCH64,
    CHUNK,
    CRC_AT,
    HEADER,
    LIMITS,
    MAGIC,
    MEASURED,
    MOST_SECTIONS,
    SECTION,
    VERSION,
    Meter,
    SectionKind,
    chunks,
)

# What AWS's builder writes; nothing reads it (src/utils/eif_builder.rs).
DEFAULT_MEMORY = 1024**3
DEFAULT_CPUS = 2


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What goes into an enclave image. `ramdisks`: the first one boots (PCR1 covers kernel, command line and
    it), the others hold the workload (PCR2). `cmdline` has neither newline nor NUL. `metadata` is JSON and
    not measured. `signer`: private key and certificate, or None."""

    kernel: Path
    cmdline: str
    ramdisks: Sequence[Path]
    metadata: Mapping[str, Any]
    architecture: str = "x86_64"
    signer: tuple[Any, Any] | None = None


def build(parts: Parts, destination: Path) -> dict[str, str]:
    """Writes the image and returns its registers (`PCR0`, `PCR1`, `PCR2`, and `PCR8` when signed).

    The file appears under its name when it is whole. Signed images differ between builds in the signature
    (ECDSA takes a random number), not in any register. Raises JewelhouseError for parts that do not fit.
    """
    _check(parts)
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        with partial.open("w+b") as out:
            registers = _write(parts, out)
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    return registers


def _check(parts: Parts) -> None:
    if not parts.ramdisks:
        raise JewelhouseError("an enclave image needs a ramdisk", where="ramdisks")
    if len(parts.ramdisks) > MOST_SECTIONS - 3 - (parts.signer is not None):
        raise JewelhouseError(
            f"{len(parts.ramdisks)} ramdisks are too many: the format has room for {MOST_SECTIONS} sections",
            where="ramdisks",
        )
    if not parts.cmdline.isascii() or any(character in parts.cmdline for character in "\n\0"):
        raise JewelhouseError("takes ASCII without newline or NUL: every byte is measured", where="cmdline")
    if parts.architecture not in ("x86_64", "aarch64"):
        raise JewelhouseError(
            f"{parts.architecture} has no enclaves", where="architecture", remedy="x86_64 or aarch64"
        )


def _write(parts: Parts, out: BinaryIO) -> dict[str, str]:
    metadata = json.dumps(parts.metadata, sort_keys=True, separators=(",", ":")).encode()
    limit = LIMITS[SectionKind.METADATA]
    if len(metadata) > limit:
        raise JewelhouseError(f"has {len(metadata)} bytes, at most {limit} fit", where="metadata")
    # Files by path, small sections by their bytes; the order of AWS's builder.
    sources: list[tuple[SectionKind, Path | bytes]] = [
        (SectionKind.KERNEL, parts.kernel),
        (SectionKind.CMDLINE, parts.cmdline.encode()),
        (SectionKind.METADATA, metadata),
        *((SectionKind.RAMDISK, path) for path in parts.ramdisks),
    ]
    out.seek(HEADER.size)
    meter = Meter()
    buffers = [bytearray(CHUNK) for _ in range(2)]
    # The header is not known before the signature is: its CRC is joined in at the end.
    crc, length = 0, 0
    offsets: list[int] = []
    sizes: list[int] = []

    def put(data: bytes | memoryview) -> None:
        nonlocal crc, length
        out.write(data)
        crc = zlib.crc32(data, crc)
        length += len(data)

    for kind, source in sources:
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        offsets.append(HEADER.size + length)
        sizes.append(size)
        put(SECTION.pack(kind, 0, size))
        if kind in MEASURED:
            meter.begin(kind)
        if isinstance(source, bytes):
            if kind in MEASURED:
                meter.update(memoryview(source))
            put(source)
            continue
        with source.open("rb", buffering=0) as file:
            for piece in chunks(file, 0, size, buffers):
                meter.wait()
                meter.update(piece)
                put(piece)
            meter.wait()
    registers = meter.registers()
    if parts.signer is not None:
        from jewelhouse.images import eif_signature

        signature = eif_signature.section(bytes.fromhex(registers["PCR0"]), *parts.signer)
        offsets.append(HEADER.size + length)
        sizes.append(len(signature))
        put(SECTION.pack(SectionKind.SIGNATURE, 0, len(signature)))
        put(signature)
        registers["PCR8"] = eif_signature.register(
            signature, bytes.fromhex(registers["PCR0"]), offsets[-1] + SECTION.size
        )
    head = _head(parts.architecture, offsets, sizes)
    out.seek(0)
    out.write(head)
    out.write(joined_crc(zlib.crc32(head), crc, length).to_bytes(4, "big"))
    return registers


def _head(architecture: str, offsets: Sequence[int], sizes: Sequence[int]) -> bytes:
    """The header without its CRC."""
    flags = AARCH64 if architecture == "aarch64" else 0
    empty = [0] * (MOST_SECTIONS - len(offsets))
    fields = (MAGIC, VERSION, flags, DEFAULT_MEMORY, DEFAULT_CPUS, 0, len(offsets))
    return HEADER.pack(*fields, *offsets, *empty, *sizes, *empty, 0, 0)[:CRC_AT]


def joined_crc(first: int, second: int, length: int) -> int:
    """CRC-32 of two pieces laid end to end, from the CRC of each and the length of the second in bytes.

    As zlib's crc32_combine, which Python does not offer: the first is multiplied by x^(8 length) modulo the
    CRC's polynomial (zlib: crc32.c, multmodp).
    """
    power, square, exponent = 1 << 31, 1 << 30, 8 * length
    while exponent:
        if exponent & 1:
            power = _multiplied(square, power)
        square = _multiplied(square, square)
        exponent >>= 1
    return _multiplied(power, first) ^ second


def _multiplied(a: int, b: int) -> int:
    """Product of two polynomials modulo that of CRC-32, bits reflected."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (0xEDB88320 if b & 1 else 0)
    return product
