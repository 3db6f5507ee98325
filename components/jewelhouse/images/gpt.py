"""GUID partition tables: written from given identifiers alone, and read strictly.

Protective MBR, header and 128 entries at the front, the same again at the back, CRC-32 over each: UEFI
Specification 2.10, chapter 5. Everything is little-endian, also the first three fields of a GUID.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from jewelhouse.errors import JewelhouseError

SECTOR = 512
# Partitions begin at whole MiB, whatever the blocks of the machine's storage.
ALIGNMENT = 1024 * 1024
COUNT = 128
# signature, revision, header size, CRC, reserved, this header, other header, first and last usable sector,
# disk, entries, number and size of entries, CRC of entries
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
# type, identifier, first and last sector, attributes, name
ENTRY = struct.Struct("<16s16sQQQ72s")
ENTRIES = COUNT * ENTRY.size // SECTOR
SIGNATURE = b"EFI PART"
REVISION = 0x00010000
# boot indicator, first in cylinders, type, last in cylinders (every tool counts that its own way), first
# sector, number of sectors
RECORD = struct.Struct("<B3sB3sII")
RECORDS_AT = 446
PROTECTIVE = 0xEE
# Attributes of discoverable partitions (uapi-group.org, Discoverable Partitions Specification).
READ_ONLY = 1 << 60
NAME_LIMIT = 36


class MalformedTable(JewelhouseError):
    """A disk whose partition table is not what the format says; `where` names the offset."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what, where=f"offset {offset}")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition. `first`: its first sector of 512 bytes; `sectors`: how many it has."""

    kind: UUID
    unique: UUID
    name: str
    first: int
    sectors: int
    attributes: int = 0

    @property
    def offset(self) -> int:
        """In bytes."""
        return self.first * SECTOR

    @property
    def size(self) -> int:
        """In bytes."""
        return self.sectors * SECTOR


@dataclass(frozen=True, kw_only=True)
class Table:
    """A partition table. `sectors`: of the whole disk."""

    disk: UUID
    sectors: int
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A partition to be laid out: `size` in bytes."""

    kind: UUID
    unique: UUID
    name: str
    size: int
    attributes: int = 0


def lay_out(disk: UUID, wanted: Sequence[Wanted]) -> Table:
    """Partitions one after the other, on a disk that is just large enough; its size is whole MiB, as clouds
    want it. Raises JewelhouseError for what the table cannot hold."""
    if len(wanted) > COUNT:
        raise JewelhouseError(f"{len(wanted)} partitions are too many, {COUNT} fit", where="partitions")
    if len({one.unique for one in wanted} | {disk}) != len(wanted) + 1:
        raise JewelhouseError("two of them have the same identifier", where="partitions")
    at = ALIGNMENT
    found = []
    for one in wanted:
        if one.size < 1:
            raise JewelhouseError("has no content", where=f"partition {one.name}")
        if len(one.name.encode("utf-16-le")) > 2 * NAME_LIMIT:
            raise JewelhouseError(f"has a name of more than {NAME_LIMIT} characters", where=one.name)
        found.append(
            Partition(
                kind=one.kind,
                unique=one.unique,
                name=one.name,
                first=at // SECTOR,
                sectors=-(-one.size // SECTOR),
                attributes=one.attributes,
            )
        )
        at = _aligned(at + one.size)
    return Table(disk=disk, sectors=(at + ALIGNMENT) // SECTOR, partitions=tuple(found))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def write(table: Table, out: BinaryIO) -> None:
    """Writes the protective MBR and both copies of the table; the file gets its full size, the partitions
    keep what is in them."""
    last = table.sectors - 1
    entries = b"".join(_entry(one) for one in table.partitions).ljust(ENTRIES * SECTOR, b"\0")
    record = RECORD.pack(0, b"\0\2\0", PROTECTIVE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    front = bytes(RECORDS_AT) + record.ljust(64, b"\0") + b"\x55\xaa"
    out.truncate(table.sectors * SECTOR)
    out.seek(0)
    out.write(front + _header(table, 1, last, 2, entries) + entries)
    out.seek((last - ENTRIES) * SECTOR)
    out.write(entries + _header(table, last, 1, last - ENTRIES, entries))


def _entry(one: Partition) -> bytes:
    name = one.name.encode("utf-16-le")
    last = one.first + one.sectors - 1
    return ENTRY.pack(one.kind.bytes_le, one.unique.bytes_le, one.first, last, one.attributes, name)


def _header(table: Table, here: int, there: int, at: int, entries: bytes) -> bytes:
    def packed(crc: int) -> bytes:
        first, last = _usable(table.sectors)
        return HEADER.pack(
            *(SIGNATURE, REVISION, HEADER.size, crc, 0, here, there, first, last, table.disk.bytes_le),
            *(at, COUNT, ENTRY.size, zlib.crc32(entries)),
        )

    return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")


def _usable(sectors: int) -> tuple[int, int]:
    return 2 + ENTRIES, sectors - 2 - ENTRIES


def read(disk: Path) -> Table:
    """The partition table of a disk image.

    Raises MalformedTable for everything that a firmware or kernel would repair, guess or overlook: a damaged
    copy, copies that disagree, partitions that overlap, boot code, bytes where none belong.
    """
    with disk.open("rb") as file:
        return read_from(file)


def read_from(file: BinaryIO) -> Table:
    """As `read`, of an open file."""
    size = file.seek(0, os.SEEK_END)
    least = 2 * (2 + ENTRIES) * SECTOR
    if size % SECTOR or size < least:
        raise MalformedTable(f"a disk has whole sectors and at least {least} bytes, this has {size}", size)
    sectors = size // SECTOR
    file.seek(0)
    _check_front(file.read(SECTOR), sectors)
    here, back = 1, sectors - 1
    disk, entries = _copy(file, here, back, 2, sectors)
    again, same = _copy(file, back, here, back - ENTRIES, sectors)
    if disk != again:
        raise MalformedTable("the copy names another disk", back * SECTOR + 56)
    if entries != same:
        raise MalformedTable("the copy has other partitions", (back - ENTRIES) * SECTOR)
    partitions = _partitions(entries, sectors)
    return Table(disk=disk, sectors=sectors, partitions=tuple(partitions))


def _check_front(front: bytes, sectors: int) -> None:
    boot, kind_first, kind, _, first, length = RECORD.unpack_from(front, RECORDS_AT)
    for wrong, what, offset in (
        (any(front[:440]), "has boot code, which nothing measures", 0),
        (any(front[440:RECORDS_AT]), "has an MBR signature", 440),
        (front[510:] != b"\x55\xaa", "has no MBR", 510),
        (kind != PROTECTIVE, f"has an MBR partition of type {kind:#04x}", RECORDS_AT + 4),
        (boot, "has a protective partition marked to boot", RECORDS_AT),
        (kind_first != b"\0\2\0", "has a protective partition that begins elsewhere", RECORDS_AT + 1),
        (first != 1, f"has a protective partition that begins at sector {first}", RECORDS_AT + 8),
        (
            length != min(sectors - 1, 0xFFFFFFFF),
            f"has a protective partition of {length} sectors on a disk of {sectors}",
            RECORDS_AT + 12,
        ),
        (any(front[RECORDS_AT + 16 : 510]), "has more MBR partitions", RECORDS_AT + 16),
    ):
        if wrong:
            raise MalformedTable(what, offset)


def _copy(file: BinaryIO, here: int, there: int, at: int, sectors: int) -> tuple[UUID, bytes]:
    """One header with its entries, each checked against where it lies."""
    offset = here * SECTOR
    file.seek(offset)
    head = file.read(SECTOR)
    (
        signature,
        revision,
        size,
        crc,
        reserved,
        own,
        other,
        first,
        last,
        disk,
        start,
        count,
        length,
        entries_crc,
    ) = HEADER.unpack_from(head)
    for wrong, what, position in (
        (signature != SIGNATURE, "has no partition table header", 0),
        (revision != REVISION, f"has revision {revision:#x}", 8),
        (size != HEADER.size, f"states a header of {size} bytes", 12),
        (zlib.crc32(head[:16] + bytes(4) + head[20 : HEADER.size]) != crc, "has a wrong header CRC", 16),
        (reserved, "has reserved bytes set", 20),
        (own != here, f"says it lies in sector {own}", 24),
        (other != there, f"has its copy in sector {other}, not {there}", 32),
        ((first, last) != _usable(sectors), f"gives sectors {first} to {last} to partitions", 40),
        (disk == bytes(16), "names no disk", 56),
        (start != at, f"has its entries in sector {start}, not {at}", 72),
        ((count, length) != (COUNT, ENTRY.size), f"has {count} entries of {length} bytes", 80),
        (any(head[HEADER.size :]), "has bytes after the header", HEADER.size),
    ):
        if wrong:
            raise MalformedTable(what, offset + position)
    file.seek(at * SECTOR)
    entries = file.read(ENTRIES * SECTOR)
    if zlib.crc32(entries) != entries_crc:
        raise MalformedTable("has a wrong CRC of its entries", offset + 88)
    return UUID(bytes_le=disk), entries


def _partitions(entries: bytes, sectors: int) -> list[Partition]:
    found: list[Partition] = []
    front, back = _usable(sectors)
    for index, (kind, unique, first, last, attributes, name) in enumerate(ENTRY.iter_unpack(entries)):
        offset = 2 * SECTOR + index * ENTRY.size
        if kind == bytes(16):
            if any(entries[index * ENTRY.size : (index + 1) * ENTRY.size]):
                raise MalformedTable("is an unused entry with bytes in it", offset)
            continue
        if not front <= first <= last <= back:
            raise MalformedTable(f"lies in sectors {first} to {last}, outside {front} to {back}", offset + 32)
        if unique == bytes(16):
            raise MalformedTable("has no identifier", offset + 16)
        found.append(
            Partition(
                kind=UUID(bytes_le=kind),
                unique=UUID(bytes_le=unique),
                name=_name(name, offset + 56),
                first=first,
                sectors=last - first + 1,
                attributes=attributes,
            )
        )
        for other in found[:-1]:
            if other.unique == found[-1].unique:
                raise MalformedTable(f"has the identifier of {other.name!r}", offset + 16)
            if first < other.first + other.sectors and other.first <= last:
                raise MalformedTable(f"overlaps {other.name!r}", offset + 32)
    return found


def _name(data: bytes, offset: int) -> str:
    try:
        name, _, rest = data.decode("utf-16-le").partition("\0")
    except UnicodeDecodeError as error:
        raise MalformedTable("has a name that is not UTF-16", offset + error.start) from error
    if rest.strip("\0"):
        raise MalformedTable("has characters after the end of its name", offset)
    return name


def copy_out(disk: Path, partition: Partition, destination: Path) -> None:
    """Writes the content of a partition to a file of its own."""
    with disk.open("rb") as source, destination.open("wb") as out:
        source.seek(partition.offset)
        left = partition.size
        while left:
            data = source.read(min(left, 8 * io.DEFAULT_BUFFER_SIZE))
            if not data:
                raise MalformedTable(f"ends inside the partition {partition.name!r}", source.tell())
            out.write(data)
            left -= len(data)
