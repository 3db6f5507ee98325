"""Enclave images, written: the same parts give the same bytes."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.images.eif import (
    AARCH64,
    CRC_AT,
    HEADER,
    LIMITS,
    MAGIC,
    MOST_SECTIONS,
    SECTION,
    VERSION,
    Piece,
    SectionKind,
    take,
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
    unfinished = destination.with_name(f".{destination.name}.partial")
    try:
        with unfinished.open("wb", buffering=0) as out:
            registers = _write(parts, out)
        unfinished.replace(destination)
    finally:
        unfinished.unlink(missing_ok=True)
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


def _write(parts: Parts, out: FileIO) -> dict[str, str]:
    metadata = json.dumps(parts.metadata, sort_keys=True, separators=(",", ":")).encode()
    limit = LIMITS[SectionKind.METADATA]
    if len(metadata) > limit:
        raise JewelhouseError(f"has {len(metadata)} bytes, at most {limit} fit", where="metadata")
    out.seek(HEADER.size)
    small = ((SectionKind.CMDLINE, parts.cmdline.encode()), (SectionKind.METADATA, metadata))
    # The order of AWS's builder.
    pieces = [
        _file(SectionKind.KERNEL, parts.kernel),
        *(Piece(kind=kind, source=data, size=len(data)) for kind, data in small),
        *(_file(SectionKind.RAMDISK, path) for path in parts.ramdisks),
    ]
    files = [piece.source for piece in pieces if isinstance(piece.source, Path)]
    before = [_state(path) for path in files]
    _reserve(out, HEADER.size + sum(SECTION.size + piece.size for piece in pieces))
    registers, crc = take(pieces, put=partial(_put, out))
    for path, state in zip(files, before, strict=True):
        if _state(path) != state:
            raise JewelhouseError("changed while the image was built", where=str(path))
    if parts.signer is not None:
        from jewelhouse.images import eif_signature

        pcr0 = bytes.fromhex(registers["PCR0"])
        signature = eif_signature.section(pcr0, *parts.signer)
        piece = Piece(kind=SectionKind.SIGNATURE, source=signature, size=len(signature))
        pieces.append(piece)
        registers["PCR8"] = eif_signature.register(signature, pcr0, out.tell() + SECTION.size)
        _put(out, piece.header + signature)
        crc = zlib.crc32(signature, zlib.crc32(piece.header, crc))
    head = _head(parts.architecture, pieces)
    length = sum(SECTION.size + piece.size for piece in pieces)
    out.seek(0)
    # The header is not known before the signature is, so its CRC is joined in at the end.
    _put(out, head + joined_crc(zlib.crc32(head), crc, length).to_bytes(4, "big"))
    return registers


def _file(kind: SectionKind, path: Path) -> Piece:
    return Piece(kind=kind, source=path, size=path.stat().st_size)


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_ctime_ns


def _reserve(out: FileIO, size: int) -> None:
    """A disk that is too small says so before any work; blocks that are there already are filled faster."""
    try:
        os.posix_fallocate(out.fileno(), 0, size)
    except OSError as error:
        folder = Path(str(out.name)).parent
        raise JewelhouseError(
            f"has no room for an image of {size} bytes: {error.strerror}",
            where=str(folder),
            remedy="free space or build into another folder",
        ) from error


def _put(out: FileIO, data: bytes | memoryview) -> None:
    """All of it behind what is written: one call may take less."""
    left = memoryview(data)
    while left:
        left = left[out.write(left) :]


def _head(architecture: str, pieces: Sequence[Piece]) -> bytes:
    """The header without its CRC."""
    sizes = [piece.size for piece in pieces]
    offsets = [HEADER.size]
    for size in sizes[:-1]:
        offsets.append(offsets[-1] + SECTION.size + size)
    flags = AARCH64 if architecture == "aarch64" else 0
    empty = [0] * (MOST_SECTIONS - len(pieces))
    fields = (MAGIC, VERSION, flags, DEFAULT_MEMORY, DEFAULT_CPUS, 0, len(pieces))
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
