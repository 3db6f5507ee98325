"""dm-verity: the hash tree over a root file system, and its root hash, which the measured command line pins.

Format 1 with SHA-256 and blocks of 4 KiB, as `veritysetup format` writes it: superblock, then the levels of
the tree from the top down (cryptsetup: lib/verity/verity_hash.c, lib/verity/verity.c).
Salt and UUID are given, so that the same data have the same tree.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from uuid import UUID

from jewelhouse.errors import JewelhouseError

BLOCK = 4096
DIGEST = 32
FANOUT = BLOCK // DIGEST
SALT_LIMIT = 256
# signature, version, hash type, UUID, algorithm, sizes of data and hash blocks, data blocks, salt size, salt
SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
MAGIC = b"verity\0\0"
# A piece of work for one process: 64 MiB of data, 512 KiB of digests.
SHARE = 64 * 1024 * 1024


class MalformedVerity(JewelhouseError):
    """Data or a hash tree that do not belong together, or are none; `where` names file and offset."""


@dataclass(frozen=True, kw_only=True)
class Superblock:
    """What the head of a hash area states. Sizes in bytes, `data_blocks` in blocks."""

    uuid: UUID
    salt: bytes
    data_blocks: int

    def encoded(self) -> bytes:
        return SUPERBLOCK.pack(
            MAGIC,
            1,
            1,
            self.uuid.bytes,
            b"sha256",
            BLOCK,
            BLOCK,
            self.data_blocks,
            len(self.salt),
            self.salt,
        )


def make(data: Path, tree: Path, *, salt: bytes, uuid: UUID, processes: int | None = None) -> str:
    """Writes the hash area of `data` to `tree` and returns the root hash in hex.

    Raises MalformedVerity for data that are no whole number of blocks, and a salt that is too long.
    """
    blocks = _blocks(data)
    if len(salt) > SALT_LIMIT:
        raise MalformedVerity(f"has {len(salt)} bytes, at most {SALT_LIMIT} fit", where="salt")
    levels = _levels(data, blocks, salt, processes)
    root = hashlib.sha256(salt + (levels[-1] if levels else _only(data))).hexdigest()
    partial = tree.with_name(f".{tree.name}.partial")
    try:
        with partial.open("wb") as out:
            head = Superblock(uuid=uuid, salt=salt, data_blocks=blocks).encoded()
            out.write(head.ljust(BLOCK, b"\0"))
            for level in reversed(levels):
                out.write(level)
        partial.replace(tree)
    finally:
        partial.unlink(missing_ok=True)
    return root


def read(tree: Path) -> Superblock:
    """The superblock of a hash area. Raises MalformedVerity for any other format than the one made here."""
    with tree.open("rb") as file:
        head = file.read(SUPERBLOCK.size)
    if len(head) < SUPERBLOCK.size:
        raise MalformedVerity("is too short for a superblock", where=f"{tree}: offset {len(head)}")
    magic, version, kind, uuid, algorithm, data, hashes, blocks, size, salt = SUPERBLOCK.unpack(head)
    for wrong, what, offset in (
        (magic != MAGIC, "has no verity superblock", 0),
        (version != 1, f"has superblock version {version}", 8),
        (kind != 1, f"has hash type {kind}", 12),
        (algorithm.rstrip(b"\0") != b"sha256", "has another algorithm than sha256", 32),
        ((data, hashes) != (BLOCK, BLOCK), f"has blocks of {data} and {hashes} bytes, not {BLOCK}", 64),
        (blocks == 0, "is over no data", 72),
        (size > SALT_LIMIT, f"states a salt of {size} bytes", 80),
    ):
        if wrong:
            raise MalformedVerity(what, where=f"{tree}: offset {offset}")
    return Superblock(uuid=UUID(bytes=uuid), salt=salt[:size], data_blocks=blocks)


def verify(data: Path, tree: Path, root: str, processes: int | None = None) -> None:
    """Checks data and tree against a root hash. Raises MalformedVerity, naming the offset that differs."""
    head = read(tree)
    blocks = _blocks(data)
    if head.data_blocks != blocks:
        raise MalformedVerity(f"is over {head.data_blocks} blocks, the data have {blocks}", where=f"{tree}")
    levels = _levels(data, blocks, head.salt, processes)
    wanted = b"".join(reversed(levels))
    with tree.open("rb") as file:
        file.seek(BLOCK)
        found = file.read(len(wanted) + 1)
    if found[: len(wanted)] != wanted or len(found) != len(wanted):
        first = next(
            (index for index, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
            min(len(found), len(wanted)),
        )
        raise MalformedVerity("does not belong to the data", where=f"{tree}: offset {BLOCK + first}")
    if hashlib.sha256(head.salt + (levels[-1] if levels else _only(data))).hexdigest() != root.lower():
        raise MalformedVerity(f"has another root hash than {root}", where=f"{tree}")


def _blocks(data: Path) -> int:
    size = data.stat().st_size
    if not size or size % BLOCK:
        raise MalformedVerity(
            f"has {size} bytes, it must be whole blocks of {BLOCK}",
            where=str(data),
            remedy="make the file system with blocks of 4096 bytes",
        )
    return size // BLOCK


def _only(data: Path) -> bytes:
    """The one block that is its own top."""
    with data.open("rb") as file:
        return file.read(BLOCK)


def _levels(data: Path, blocks: int, salt: bytes, processes: int | None) -> list[bytes]:
    """The levels of the tree from the bottom up, each padded to whole blocks; none over a single block."""
    if blocks == 1:
        return []
    levels = [_padded(_data_digests(data, salt, processes or os.cpu_count() or 1))]
    while len(levels[-1]) > BLOCK:
        levels.append(_padded(_digests(memoryview(levels[-1]), salt)))
    return levels


def _padded(digests: bytes) -> bytes:
    return digests.ljust(-(-len(digests) // BLOCK) * BLOCK, b"\0")


def _data_digests(data: Path, salt: bytes, processes: int) -> bytes:
    size = data.stat().st_size
    shares = [(data, start, min(SHARE, size - start), salt) for start in range(0, size, SHARE)]
    if processes < 2 or len(shares) < 2:
        return b"".join(_share(*share) for share in shares)
    # Hashing a block takes less time than handing it to a thread.
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        return b"".join(pool.map(_share, *zip(*shares, strict=True)))


def _share(data: Path, start: int, size: int, salt: bytes) -> bytes:
    with (
        data.open("rb") as file,
        mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=start) as mapped,
        memoryview(mapped) as view,
    ):
        return _digests(view, salt)


def _digests(view: memoryview, salt: bytes) -> bytes:
    return b"".join(_each(view, salt))


def _each(view: memoryview, salt: bytes) -> Iterator[bytes]:
    salted = hashlib.sha256(salt)
    for start in range(0, len(view), BLOCK):
        state = salted.copy()
        state.update(view[start : start + BLOCK])
        yield state.digest()
