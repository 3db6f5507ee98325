"""Strict reader of PE images and their Authenticode digest: what firmware measures when it loads one.

Sizes in the file are checked against the file before anything is read, and data is read a MiB at a time. An
image that firmwares may hash differently (gaps, overlaps, data behind the certificates) is refused.
Source: Microsoft, PE Format and Windows Authenticode Portable Executable Signature Format (2008), "Calculating
the PE Image Hash"; tianocore/edk2: SecurityPkg/Library/DxeTpm2MeasureBootLib, MeasurePeImageAndExtend.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from jewelhouse.errors import JewelhouseError

CHUNK = 1 << 20
DOS = struct.Struct("<2s58xI")
COFF = struct.Struct("<4sHHIIIHH")
# Magic, then what lies between alignment of sections and number of data directories, PE32+ only.
OPTIONAL = struct.Struct("<H30xIII2xHHHHH4xIIIHH32xII")
OPTIONAL_MAGIC = 0x20B
CHECKSUM = 64
DIRECTORIES = 112
DIRECTORY = struct.Struct("<II")
SECURITY = 4
# The number of data directories that an image can have, and of sections that Windows and the stub take.
MOST_DIRECTORIES = 16
MOST_SECTIONS = 96
HEADER = struct.Struct("<8sIIIIIIHHI")
CERTIFICATE = struct.Struct("<IHH")
REVISION, PKCS7 = 0x0200, 0x0002
# Far above what any signature takes; keeps a crafted file from filling the memory.
MOST_CERTIFICATES = 1 << 20


class Machine(Enum):
    """What an image runs on."""

    X86_64 = 0x8664
    AARCH64 = 0xAA64


class MalformedPe(JewelhouseError):
    """The file is not a PE image that every firmware reads alike; says what is wrong and at which offset."""

    def __init__(self, what: str, offset: int, path: Path | str = "") -> None:
        super().__init__(what, where=f"{path}: offset {offset}" if path else f"offset {offset}")
        self.offset = offset


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section: `size` bytes of memory from `address`, of which the first `stored` lie in the file from
    `offset` (counted from the beginning of the file); the others are zero."""

    name: str
    address: int
    size: int
    offset: int
    stored: int


@dataclass(frozen=True, kw_only=True)
class Image:
    """A PE image, checked: `size` bytes from `start` of the file `path`.

    Offsets count from the beginning of the file. `certificates` is where its certificate table is, (0, 0)
    without one; `version` is MajorImageVersion, which Linux uses for the version of its EFI entry.
    """

    path: Path
    start: int
    size: int
    machine: Machine
    version: int
    headers: int
    checksum: int
    directory: int
    sections: tuple[Section, ...]
    certificates: tuple[int, int]

    def named(self, name: str) -> tuple[Section, ...]:
        return tuple(section for section in self.sections if section.name == name)


def read(path: Path, start: int = 0, size: int | None = None) -> Image:
    """Headers of the image in `size` bytes of a file from `start`. Raises MalformedPe."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        end = length if size is None else start + size
        if not 0 <= start <= end <= length:
            raise MalformedPe(f"has {length} bytes, an image should lie from {start} to {end}", start, path)
        try:
            return _image(file, path, start, end - start)
        except struct.error as error:
            raise MalformedPe("ends inside its headers", end, path) from error


def _image(file: BinaryIO, path: Path, start: int, size: int) -> Image:
    def take(layout: struct.Struct, offset: int) -> tuple[int, ...]:
        file.seek(start + offset)
        return layout.unpack(file.read(min(layout.size, max(0, size - offset))))

    def wrong(what: str, offset: int) -> MalformedPe:
        return MalformedPe(what, start + offset, path)

    magic, at = take(DOS, 0)
    if magic != b"MZ":
        raise wrong(f"begins with {magic!r}, a PE image with b'MZ'", 0)
    if at % 8 or at < DOS.size:
        raise wrong(f"has its PE header at {at}, which no firmware takes", 60)
    signature, number, count, _, symbols, _, optional, _ = take(COFF, at)
    if signature != b"PE\0\0":
        raise wrong(f"has {signature!r} where the PE header should be", at)
    if number not in {machine.value for machine in Machine}:
        raise wrong(f"is for machine {number:#06x}, only x86-64 and aarch64 are known", at + 4)
    if not 1 <= count <= MOST_SECTIONS:
        raise wrong(f"states {count} sections, it must be 1 to {MOST_SECTIONS}", at + 6)
    body = at + COFF.size
    found = take(OPTIONAL, body)
    kind, alignment, file_alignment = found[0], found[1], found[2]
    version, headers, directories = found[4], found[9], found[14]
    if kind != OPTIONAL_MAGIC:
        raise wrong(f"has optional header {kind:#06x}, 64-bit images have {OPTIONAL_MAGIC:#06x}", body)
    del alignment, file_alignment, symbols
    return Image(  # type: ignore[call-arg]
        path=path,
        start=start,
        size=size,
        machine=Machine(number),
        version=version,
        headers=headers,
        checksum=body + CHECKSUM,
        directory=directories,
        sections=(),
        certificates=(optional, 0),
    )
