"""Enclave image files: read strictly, measured by streaming, whatever built them.

Format version 4, big-endian throughout: aws/aws-nitro-enclaves-image-format README.md, src/defs/mod.rs,
src/utils. AWS's own reader walks the sections one after the other and lets a wrong section count, wrong
offsets and trailing bytes pass; here header and sections must agree, or the file is refused with the offset.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

from jewelhouse.errors import JewelhouseError

MAGIC = b".eif"
VERSION = 4
AARCH64 = 1
MOST_SECTIONS = 32
# magic, version, flags, default memory and CPUs, reserved, number of sections, offsets, sizes, unused, CRC
HEADER = struct.Struct(f">4sHHQQHH{MOST_SECTIONS}Q{MOST_SECTIONS}QII")
CRC_AT = HEADER.size - 4
SECTION = struct.Struct(">HHQ")
CHUNK = 1024 * 1024
REGISTER = bytes(48)


class SectionKind(IntEnum):
    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


# Bytes. The format limits the signature; metadata is JSON that a person reads, held in memory as a whole.
LIMITS = {SectionKind.SIGNATURE: 32768, SectionKind.METADATA: 4 * 1024 * 1024}
# Kinds whose bytes are measured into PCR0.
MEASURED = (SectionKind.KERNEL, SectionKind.CMDLINE, SectionKind.RAMDISK)


class MalformedImage(JewelhouseError):
    """An image file that is not what its format says; `where` names the offset."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what, where=f"offset {offset}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section: `offset` of its data (its header is 12 bytes before), `size` in bytes."""

    kind: SectionKind
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An enclave image's header, checked: `crc` is what it states. `default_memory` in bytes."""

    architecture: str
    default_memory: int
    default_cpus: int
    sections: tuple[Section, ...]
    crc: int
    size: int

    def of_kind(self, kind: SectionKind) -> tuple[Section, ...]:
        return tuple(section for section in self.sections if section.kind is kind)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `measure` found. `registers`: `PCR0`, `PCR1`, `PCR2` and, when signed, `PCR8`, lower-case hex."""

    layout: Layout
    registers: dict[str, str]
    metadata: Any
    signature: bytes | None


def extend(digest: bytes) -> bytes:
    """A register after its first extension: SHA-384 over 48 zero bytes and a digest."""
    return hashlib.sha384(REGISTER + digest).digest()


def layout(file: BinaryIO) -> Layout:
    """Header and section headers of an image. Raises MalformedImage; reads no section's data."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        raise MalformedImage(f"has {len(head)} bytes, the header alone takes {HEADER.size}", len(head))
    magic, version, flags, memory, cpus, reserved, count, *rest = HEADER.unpack(head)
    offsets, sizes = rest[:MOST_SECTIONS], rest[MOST_SECTIONS : 2 * MOST_SECTIONS]
    unused, crc = rest[-2:]
    for wrong, what, offset in (
        (magic != MAGIC, f"begins with {magic!r}, an enclave image with {MAGIC!r}", 0),
        (version != VERSION, f"has format version {version}, only {VERSION} is known", 4),
        (flags & ~AARCH64, f"has unknown flags {flags:#06x}", 6),
        (reserved, f"has {reserved:#06x} in reserved bytes", 24),
        (not 2 <= count <= MOST_SECTIONS, f"states {count} sections, it must be 2 to {MOST_SECTIONS}", 26),
        (unused, f"has {unused:#010x} in unused bytes", 540),
    ):
        if wrong:
            raise MalformedImage(what, offset)
    sections = []
    expected = HEADER.size
    for index, (offset, length) in enumerate(zip(offsets, sizes, strict=True)):
        if index >= count:
            if offset or length:
                raise MalformedImage(f"lists section {index} beyond its count of {count}", 28 + 8 * index)
            continue
        if offset != expected:
            raise MalformedImage(
                f"section {index} should begin at {expected}, not at {offset}", 28 + 8 * index
            )
        sections.append(_section(file, index, offset, length, size))
        expected = offset + SECTION.size + length
    if expected != size:
        raise MalformedImage(f"has {size - expected} bytes after its last section", expected)
    _check_order(sections)
    return Layout(
        architecture="aarch64" if flags & AARCH64 else "x86_64",
        default_memory=memory,
        default_cpus=cpus,
        sections=tuple(sections),
        crc=crc,
        size=size,
    )


def _section(file: BinaryIO, index: int, offset: int, length: int, size: int) -> Section:
    if offset + SECTION.size + length > size:
        raise MalformedImage(f"section {index} ends at {offset + SECTION.size + length} of {size}", offset)
    file.seek(offset)
    number, flags, stated = SECTION.unpack(file.read(SECTION.size))
    if number not in list(SectionKind):
        raise MalformedImage(f"section {index} has unknown type {number}", offset)
    if flags:
        raise MalformedImage(f"section {index} has unknown flags {flags:#06x}", offset + 2)
    if stated != length:
        raise MalformedImage(f"section {index} states {stated} bytes, the header {length}", offset + 4)
    return Section(kind=SectionKind(number), offset=offset + SECTION.size, size=length)


def _check_order(sections: Sequence[Section]) -> None:
    """One kernel, then one command line, before any ramdisk: the order in which PCR0 is taken."""
    kinds = [section.kind for section in sections]
    for kind, least, most in (
        (SectionKind.KERNEL, 1, 1),
        (SectionKind.CMDLINE, 1, 1),
        (SectionKind.METADATA, 1, 1),
        (SectionKind.RAMDISK, 1, MOST_SECTIONS),
        (SectionKind.SIGNATURE, 0, 1),
    ):
        found = kinds.count(kind)
        if not least <= found <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise MalformedImage(f"has {found} {kind.name.lower()} sections, it must have {wanted}", 28)
    measured = [(kind, section) for kind, section in zip(kinds, sections, strict=True) if kind in MEASURED]
    if [kind for kind, _ in measured] != sorted(kind for kind, _ in measured):
        wrong = next(
            section
            for (kind, section), right in zip(measured, sorted(k for k, _ in measured), strict=True)
            if kind is not right
        )
        raise MalformedImage("has its kernel, command line and ramdisks out of order", wrong.offset)
    for section in sections:
        limit = LIMITS.get(section.kind)
        if limit is not None and section.size > limit:
            raise MalformedImage(
                f"{section.kind.name.lower()} has {section.size} bytes, at most {limit} are allowed",
                section.offset,
            )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A section's data where it lies: `size` bytes from `offset` of a file, or in memory."""

    kind: SectionKind
    source: Path | bytes
    offset: int = 0
    size: int

    def read(self) -> Iterator[memoryview]:
        """The data, a MiB at a time; each view is valid until the next one. Raises MalformedImage when the
        file has become shorter."""
        if isinstance(self.source, bytes):
            yield memoryview(self.source)
            return
        buffer = bytearray(CHUNK)
        with self.source.open("rb", buffering=0) as file:
            file.seek(self.offset)
            left = self.size
            while left:
                got = file.readinto(memoryview(buffer)[: min(left, CHUNK)])
                if not got:
                    raise MalformedImage("ends early: it changed while it was read", self.offset + self.size)
                left -= got
                yield memoryview(buffer)[:got]

    @property
    def header(self) -> bytes:
        return SECTION.pack(self.kind, 0, self.size)


def take(
    pieces: Sequence[Piece], crc: int = 0, put: Callable[[Any], object] | None = None
) -> tuple[dict[str, str], int]:
    """The registers of an image's sections in their order, and the CRC over them with their headers.

    PCR0 covers kernel, command line and all ramdisks, PCR1 is its state after the first ramdisk, PCR2 covers
    the other ramdisks. `put` is given the sections with their headers, in order: what the CRC is of.

    Two passes of SHA-384 side by side are most of the work: hashlib, zlib and files let go of the interpreter
    lock. CRC and `put` are shared between the two, a MiB at a time: a thread of their own would have to
    share a processor with one of the passes, which all then wait for.
    """
    measured = [piece for piece in pieces if piece.kind in MEASURED]
    ramdisks = [piece for piece in measured if piece.kind is SectionKind.RAMDISK]
    everything, others = hashlib.sha384(), hashlib.sha384()
    first = everything
    between = _Between(_sum(pieces, crc, put), crc)
    with ThreadPoolExecutor(1) as side:
        second = side.submit(_digest, others, ramdisks[1:], between)
        split = measured.index(ramdisks[0]) + 1
        _digest(everything, measured[:split], between, last=False)
        first = everything.copy()
        _digest(everything, measured[split:], between)
        second.result()
    found = {"PCR0": everything, "PCR1": first, "PCR2": others}
    return {name: extend(state.digest()).hex() for name, state in found.items()}, between.value


class _Between:
    """Work in small steps, for several threads that have other work too; only one is at it at a time."""

    def __init__(self, steps: Iterator[int], value: int) -> None:
        self.value = value
        self._steps = steps
        self._turn = threading.Lock()

    def step(self) -> None:
        """One step, unless another thread is at it."""
        if self._turn.acquire(blocking=False):
            try:
                self.value = next(self._steps, self.value)
            finally:
                self._turn.release()

    def rest(self) -> None:
        """All that is left."""
        with self._turn:
            for value in self._steps:
                self.value = value


def _digest(state: Any, pieces: Sequence[Piece], between: _Between, *, last: bool = True) -> None:
    for piece in pieces:
        for data in piece.read():
            state.update(data)
            between.step()
    if last:
        between.rest()


def _sum(pieces: Sequence[Piece], crc: int, put: Callable[[Any], object] | None) -> Iterator[int]:
    """The CRC so far, after each step."""
    for piece in pieces:
        for data in itertools.chain((piece.header,), piece.read()):
            crc = zlib.crc32(data, crc)
            if put is not None:
                put(data)
            yield crc


def measure(path: Path) -> Measured:
    """The registers that an enclave from this image will report.

    Reads a MiB at a time. The signature section, if any, must sign PCR0 with the key of its certificate.
    Raises MalformedImage for whatever is wrong with the file, a wrong CRC included.
    """
    with path.open("rb") as file:
        found = layout(file)
        file.seek(0)
        head = file.read(CRC_AT)
        small = {}
        for section in found.sections:
            if section.kind in LIMITS:
                file.seek(section.offset)
                small[section.kind] = file.read(section.size)
    pieces = [
        Piece(kind=section.kind, source=path, offset=section.offset, size=section.size)
        for section in found.sections
    ]
    registers, crc = take(pieces, zlib.crc32(head))
    if crc != found.crc:
        raise MalformedImage(f"has CRC {crc:#010x}, its header states {found.crc:#010x}", CRC_AT)
    metadata_at = found.of_kind(SectionKind.METADATA)[0].offset
    try:
        metadata = json.loads(small[SectionKind.METADATA])
    except (ValueError, RecursionError) as error:
        raise MalformedImage("has metadata that is not JSON", metadata_at) from error
    signature = small.get(SectionKind.SIGNATURE)
    if signature is not None:
        from jewelhouse.images import eif_signature

        offset = found.of_kind(SectionKind.SIGNATURE)[0].offset
        registers["PCR8"] = eif_signature.register(signature, bytes.fromhex(registers["PCR0"]), offset)
    return Measured(layout=found, registers=registers, metadata=metadata, signature=signature)
