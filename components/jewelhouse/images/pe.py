"""Strict reader of PE images and their Authenticode digest: what firmware measures when it loads one.

Sizes that the file states are checked against the file before anything is read, and data is read a MiB at a
time. What firmwares may hash differently (gaps, overlaps, data behind the certificates) is refused.
Sources: Microsoft, PE Format; Microsoft, Windows Authenticode Portable Executable Signature Format (2008),
"Calculating the PE Image Hash"; tianocore/edk2: SecurityPkg/Library/DxeTpm2MeasureBootLib (2026-11).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path

from jewelhouse.errors import JewelhouseError

CHUNK = 1 << 20
DOS_HEADER = 64
COFF_HEADER = 24
OPTIONAL_HEADER = 112
DIRECTORY = 8
SECTION = struct.Struct("<8sIIIIIIHHI")
# Only 64-bit images (PE32+): the stub and the kernels that it starts.
PE32_PLUS = 0x20B
# The certificate table, in the list of data directories.
SECURITY = 4
MOST_DIRECTORIES = 16
# The most that Windows and systemd's stub take.
MOST_SECTIONS = 96
CERTIFICATE = struct.Struct("<IHH")
REVISION, PKCS7 = 0x0200, 0x0002
# Far above what headers and signatures take; keeps a crafted file from filling the memory.
MOST_HEADERS = 1 << 16
MOST_CERTIFICATES = 1 << 20


class Machine(Enum):
    """What an image runs on, by its number in the COFF header."""

    X86_64 = 0x8664
    AARCH64 = 0xAA64


class MalformedPe(JewelhouseError):
    """The file is not a PE image that every firmware reads alike; says what is wrong and at which offset."""

    def __init__(self, what: str, offset: int, path: Path) -> None:
        super().__init__(what, where=f"{path.name}: offset {offset}")
        self.offset = offset


@dataclass(frozen=True, kw_only=True)
class Section:
    """`size` bytes of memory from `address`. In the file it has `raw` bytes from `offset`: less when the rest
    is zero, more when they are padded."""

    name: str
    address: int
    size: int
    offset: int
    raw: int


@dataclass(frozen=True, kw_only=True)
class Image:
    """The headers of a PE image, checked: `size` bytes of the file `path` from `start`.

    All offsets count from the beginning of the file. `version` is MajorImageVersion; `directory` where the
    place of the certificate table is stated; `certificates` offset and size of that table, if any.
    """

    path: Path
    start: int
    size: int
    machine: Machine
    version: int
    headers: int
    memory: int
    checksum: int
    directory: int
    sections: tuple[Section, ...]
    certificates: tuple[int, int] | None

    def named(self, name: str) -> tuple[Section, ...]:
        return tuple(section for section in self.sections if section.name == name)


def read(path: Path, start: int = 0, size: int | None = None) -> Image:
    """The headers of the image in `size` bytes of a file from `start`. Raises MalformedPe."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        size = length - start if size is None else size
        if start < 0 or size < 0 or start + size > length:
            raise MalformedPe(f"has {length} bytes, an image should end at {start + size}", length, path)
        file.seek(start)
        head = file.read(min(size, MOST_HEADERS))
    return _Reader(path, start, size, head).image()


class _Reader:
    """Fields of one header by their offset, with errors that say where."""

    def __init__(self, path: Path, start: int, size: int, head: bytes) -> None:
        self.path, self.start, self.size, self.head = path, start, size, head

    def wrong(self, what: str, offset: int) -> MalformedPe:
        return MalformedPe(what, self.start + offset, self.path)

    def field(self, form: str, offset: int) -> int:
        if offset + struct.calcsize(form) > len(self.head):
            raise self.wrong("ends inside its headers, or they are over 64 KiB", len(self.head))
        return struct.unpack_from(f"<{form}", self.head, offset)[0]

    def image(self) -> Image:
        if self.head[:2] != b"MZ":
            raise self.wrong("does not begin with MZ, as a PE image does", 0)
        coff = self.field("I", 60)
        if coff < DOS_HEADER or coff % 4:
            raise self.wrong(f"has its PE header at {coff}", 60)
        if self.field("I", coff) != int.from_bytes(b"PE\0\0", "little"):
            raise self.wrong("has no PE header where it says", coff)
        machine, count = self.field("H", coff + 4), self.field("H", coff + 6)
        if machine not in {known.value for known in Machine}:
            raise self.wrong(f"is for machine {machine:#06x}, only x86-64 and aarch64 are known", coff + 4)
        if not 1 <= count <= MOST_SECTIONS:
            raise self.wrong(f"states {count} sections, it must be 1 to {MOST_SECTIONS}", coff + 6)
        optional = coff + COFF_HEADER
        if self.field("H", optional) != PE32_PLUS:
            raise self.wrong("is no 64-bit image (PE32+)", optional)
        directories = self.field("I", optional + 108)
        if not SECURITY < directories <= MOST_DIRECTORIES:
            raise self.wrong(f"states {directories} data directories, it must be 5 to 16", optional + 108)
        stated = self.field("H", coff + 20)
        if stated != OPTIONAL_HEADER + directories * DIRECTORY:
            raise self.wrong(
                f"states {stated} bytes of optional header, its directories do not fit", coff + 20
            )
        table = optional + stated
        headers = self.field("I", optional + 60)
        if not table + count * SECTION.size <= headers <= self.size:
            raise self.wrong(f"states {headers} bytes of headers, they end elsewhere", optional + 60)
        directory = optional + OPTIONAL_HEADER + SECURITY * DIRECTORY
        sections = tuple(self.section(table + index * SECTION.size) for index in range(count))
        end = self.contiguous(sections, headers)
        return Image(
            path=self.path,
            start=self.start,
            size=self.size,
            machine=Machine(machine),
            version=self.field("H", optional + 44),
            headers=headers,
            memory=self.field("I", optional + 56),
            checksum=self.start + optional + 64,
            directory=self.start + directory,
            sections=sections,
            certificates=self.certificates(directory, end),
        )

    def section(self, at: int) -> Section:
        self.field(f"{SECTION.size}s", at)
        name, size, address, raw, offset, relocations, *_ = SECTION.unpack_from(self.head, at)
        plain = name.rstrip(b"\0")
        if b"\0" in plain or not plain.isascii() or not plain.decode("ascii").isprintable():
            raise self.wrong(f"has a section called {name!r}", at)
        if relocations:
            raise self.wrong(f"has relocations in section {plain.decode()}, as no image has", at + 24)
        if raw and offset + raw > self.size:
            raise self.wrong(f"has section {plain.decode()} end at {offset + raw} of {self.size}", at + 16)
        return Section(
            name=plain.decode(), address=address, size=size, offset=self.start + offset if raw else 0, raw=raw
        )

    def contiguous(self, sections: Sequence[Section], headers: int) -> int:
        """The end of the last section in the file. Without gaps and overlaps, for in those the sum of sizes,
        which firmware goes on from, is not where the sections end."""
        expected = self.start + headers
        for section in sorted((one for one in sections if one.raw), key=lambda one: one.offset):
            if section.offset != expected:
                raise self.wrong(
                    f"section {section.name} should begin at {expected - self.start}: firmwares differ in "
                    "how they hash gaps and overlaps",
                    section.offset - self.start,
                )
            expected = section.offset + section.raw
        return expected - self.start

    def certificates(self, directory: int, end: int) -> tuple[int, int] | None:
        offset, size = self.field("I", directory), self.field("I", directory + 4)
        if not offset and not size:
            return None
        if offset < end or offset % 8 or offset + size != self.size or not 0 < size <= MOST_CERTIFICATES:
            raise self.wrong(
                f"has {size} bytes of certificates at {offset}, they must be what it ends with", directory
            )
        return self.start + offset, size


def chunks(path: Path, offset: int, size: int) -> Iterator[memoryview]:
    """`size` bytes of a file from `offset`; each view is valid until the next. Raises MalformedPe when the
    file has become shorter."""
    buffer = bytearray(min(CHUNK, max(size, 1)))
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while size:
            got = file.readinto(memoryview(buffer)[: min(size, len(buffer))])
            if not got:
                raise MalformedPe("ends early: it changed while it was read", offset, path)
            size -= got
            yield memoryview(buffer)[:got]


def data(image: Image, section: Section, limit: int = CHUNK) -> bytes:
    """The bytes of a section. Raises MalformedPe when they are over `limit` or not all in the file."""
    _check_stored(image, section)
    if section.size > limit:
        raise MalformedPe(
            f"has {section.size} bytes of {section.name}, at most {limit} are allowed",
            section.offset,
            image.path,
        )
    return b"".join(map(bytes, chunks(image.path, section.offset, section.size)))


def digests(image: Image, section: Section, banks: Sequence[str]) -> dict[str, bytes]:
    """Digests of a section, without its padding, by the name of the hash function. Raises MalformedPe."""
    _check_stored(image, section)
    return _hashed(image.path, [(section.offset, section.offset + section.size)], banks)


def _check_stored(image: Image, section: Section) -> None:
    """Zeros that are only in memory are for variables; nothing that is read or measured has them."""
    if section.size > section.raw:
        raise MalformedPe(
            f"states {section.size} bytes of {section.name} and has {section.raw}", section.offset, image.path
        )


def authenticode(image: Image, banks: Sequence[str]) -> dict[str, bytes]:
    """The digests that a Secure Boot signature signs and that firmware extends PCR4 with: of all but the
    checksum, the place of the certificates and the certificates."""
    end = image.certificates[0] if image.certificates else image.start + image.size
    parts = [
        (image.start, image.checksum),
        (image.checksum + 4, image.directory),
        (image.directory + DIRECTORY, end),
    ]
    return _hashed(image.path, parts, banks)


def _hashed(path: Path, parts: Sequence[tuple[int, int]], banks: Sequence[str]) -> dict[str, bytes]:
    states = {bank: hashlib.new(bank) for bank in banks}
    for first, last in parts:
        for piece in chunks(path, first, last - first):
            for state in states.values():
                state.update(piece)
    return {bank: state.digest() for bank, state in states.items()}


def certificates(image: Image) -> tuple[bytes, ...]:
    """The PKCS #7 signatures of an image, in their order. Raises MalformedPe."""
    if image.certificates is None:
        return ()
    start, size = image.certificates
    table = b"".join(map(bytes, chunks(image.path, start, size)))
    found, at = [], 0
    while at < size:
        if at + CERTIFICATE.size > size:
            raise MalformedPe("has a certificate that is cut short", start + at, image.path)
        length, revision, kind = CERTIFICATE.unpack_from(table, at)
        if length <= CERTIFICATE.size or at + length > size:
            raise MalformedPe(f"has a certificate of {length} bytes", start + at, image.path)
        if (revision, kind) != (REVISION, PKCS7):
            raise MalformedPe(
                f"has a certificate of type {kind:#06x} and revision {revision:#06x}", start + at, image.path
            )
        found.append(table[at + CERTIFICATE.size : at + length])
        at += length + -length % 8
    if at != size:
        raise MalformedPe("has a certificate without its padding", start + size, image.path)
    return tuple(found)


def append_certificate(image: Image, signature: bytes) -> None:
    """Writes a PKCS #7 signature behind an image that is a file of its own and has none."""
    if image.start or image.certificates or image.size % 8:
        raise ValueError("only a whole file without a signature, of a multiple of 8 bytes, can get one")
    entry = CERTIFICATE.pack(CERTIFICATE.size + len(signature), REVISION, PKCS7) + signature
    entry += bytes(-len(entry) % 8)
    with image.path.open("r+b") as file:
        file.seek(image.size)
        file.write(entry)
        file.seek(image.directory)
        file.write(struct.pack("<II", image.size, len(entry)))


def in_memory(image: Image) -> None:
    """Checks that sections overlap neither each other nor the headers where they are loaded, so that memory
    has what the file has. Raises MalformedPe."""
    places = sorted(
        (section.address, section.address + section.size, section.name) for section in image.sections
    )
    for (_, end, before), (start, _, name) in pairwise([(0, image.headers, "headers"), *places]):
        if start < end:
            raise MalformedPe(f"loads {name} over its {before}", image.start, image.path)
    if places[-1][1] > image.memory:
        raise MalformedPe(f"loads {places[-1][2]} behind its {image.memory} bytes", image.start, image.path)
