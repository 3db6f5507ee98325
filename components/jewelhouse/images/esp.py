"""The EFI system partition: a FAT32 file system with one file, the same bytes for the same file.

Written here because every tool for it stamps in times and a serial number of its own. Fields as in
Microsoft's "FAT: General Overview of On-Disk Format" 1.03; UEFI Specification 2.10, section 13.3.
"""

from __future__ import annotations

import shutil
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from jewelhouse.errors import JewelhouseError

SECTOR = 512
RESERVED = 32
# Below this number of clusters a reader takes the file system for FAT16.
LEAST_CLUSTERS = 65525
# Larger clusters would only make the smallest FAT32 larger; files up to 4 GiB fit all the same.
CLUSTER = SECTOR
FILE_LIMIT = 0xFFFFFFFF
MEDIA = 0xF8
END = 0x0FFFFFFF
DIRECTORY = 0x10
READ_ONLY = 0x01
# 1980-01-01, the first day there is.
DATE = 1 << 5 | 1
# What firmware starts from a disk that it has no boot entry for (UEFI Specification 2.10, 3.5.1.1).
BOOT = {"x86_64": PurePosixPath("EFI/BOOT/BOOTX64.EFI"), "aarch64": PurePosixPath("EFI/BOOT/BOOTAA64.EFI")}
# name, attributes, 0, tenths, time, date, date read, cluster (high), time, date, cluster (low), size
ENTRY = struct.Struct("<11sBBBHHHHHHHI")


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sectors of the parts of a file system that holds `clusters` clusters."""

    clusters: int
    table: int

    @property
    def sectors(self) -> int:
        return RESERVED + 2 * self.table + self.clusters


def geometry(size: int, path: PurePosixPath) -> Geometry:
    """What a file of `size` bytes below its directories needs."""
    clusters = max(LEAST_CLUSTERS, len(path.parts) + -(-size // CLUSTER))
    return Geometry(clusters=clusters, table=-(-(clusters + 2) * 4 // SECTOR))


def write(file: Path, out: BinaryIO, *, serial: int, path: PurePosixPath = BOOT["x86_64"]) -> int:
    """Writes the file system with `file` at `path` from where `out` stands; returns its size in bytes.

    `serial`: 32 bits that name the volume. Raises JewelhouseError for a file or a path that does not fit.
    """
    size = file.stat().st_size
    if not 0 < size <= FILE_LIMIT:
        raise JewelhouseError(
            f"has {size} bytes, FAT holds files of 1 to {FILE_LIMIT}",
            where=str(file),
            remedy="a smaller image",
        )
    shape = geometry(size, path)
    names = [_short(part) for part in path.parts]
    start = out.tell()
    boot = _boot_sector(shape, serial)
    # The first cluster is the root directory's, then each directory has one, then comes the file.
    first = 2 + len(names)
    used = -(-size // CLUSTER)
    out.write(boot)
    out.write(_information(shape.clusters - (first - 2) - used, first + used))
    out.seek(start + 6 * SECTOR)
    out.write(boot)
    out.write(_information(shape.clusters - (first - 2) - used, first + used))
    table = _table(first, used).ljust(shape.table * SECTOR, b"\0")
    out.seek(start + RESERVED * SECTOR)
    out.write(table)
    out.write(table)
    for depth, name in enumerate(names):
        out.write(_directory(depth, name, 3 + depth, size if depth == len(names) - 1 else None))
    with file.open("rb") as source:
        shutil.copyfileobj(source, out, 1024 * 1024)
    end = start + shape.sectors * SECTOR
    if out.tell() != start + (RESERVED + 2 * shape.table + len(names)) * SECTOR + size:
        raise JewelhouseError("changed while it was copied", where=str(file))
    out.seek(end - 1)
    out.write(b"\0")
    return end - start


def size_of(file: Path, path: PurePosixPath = BOOT["x86_64"]) -> int:
    """Bytes of the file system that holds a file."""
    return geometry(file.stat().st_size, path).sectors * SECTOR


def _short(part: str) -> bytes:
    stem, _, suffix = part.partition(".")
    plain = stem.isalnum() and (suffix.isalnum() or not suffix) and part.isascii() and part == part.upper()
    if not plain or len(stem) > 8 or len(suffix) > 3:
        raise JewelhouseError(f"{part!r} is no name of 8 and 3 capital letters", where="path")
    return stem.encode().ljust(8) + suffix.encode().ljust(3)


def _boot_sector(shape: Geometry, serial: int) -> bytes:
    # A jump over the parameters, which no firmware executes; heads and cylinders as mkfs.fat states them.
    head = struct.pack(
        "<3s8sHBHBHHBHHHII",
        *(b"\xeb\x58\x90", b"JEWELHSE", SECTOR, CLUSTER // SECTOR, RESERVED, 2, 0, 0, MEDIA, 0),
        *(63, 255, 0, shape.sectors),
    )
    # sectors of a table, flags, version, root directory, information, copy of the boot sector
    more = struct.pack("<IHHIHH12x", shape.table, 0, 0, 2, 1, 6)
    last = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, serial, b"ESP        ", b"FAT32   ")
    return (head + more + last).ljust(510, b"\0") + b"\x55\xaa"


def _information(free: int, following: int) -> bytes:
    body = struct.pack("<4s480x4sII12x", b"RRaA", b"rrAa", free, following if free else 0xFFFFFFFF)
    return body + b"\0\0\x55\xaa"


def _table(first: int, used: int) -> bytes:
    """Two reserved entries, one cluster for each directory, and the chain of the file."""
    entries = array(
        "I", [0x0FFFFF00 | MEDIA, END, *[END] * (first - 2), *range(first + 1, first + used), END]
    )
    if entries.itemsize != 4:
        raise JewelhouseError("this machine has no integers of 4 bytes", where="esp")
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        entries.byteswap()
    return entries.tobytes()


def _directory(depth: int, name: bytes, cluster: int, size: int | None) -> bytes:
    """A directory with one entry: another directory, or the file of `size` bytes."""
    entries = b""
    if depth:
        # The root directory, of which `..` is 0, has no entries for itself and its parent.
        parent = 1 + depth if depth > 1 else 0
        entries = _entry(b".".ljust(11), DIRECTORY, 2 + depth, 0) + _entry(
            b"..".ljust(11), DIRECTORY, parent, 0
        )
    else:
        entries = ENTRY.pack(b"ESP        ", 0x08, 0, 0, 0, DATE, DATE, 0, 0, DATE, 0, 0)
    if size is None:
        entries += _entry(name, DIRECTORY, cluster, 0)
    else:
        entries += _entry(name, READ_ONLY, cluster, size)
    return entries.ljust(CLUSTER, b"\0")


def _entry(name: bytes, attributes: int, cluster: int, size: int) -> bytes:
    high, low = cluster >> 16, cluster & 0xFFFF
    return ENTRY.pack(name, attributes, 0, 0, 0, DATE, DATE, high, 0, DATE, low, size)
