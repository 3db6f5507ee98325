"""Memory-backed storage for what is open: it goes with the power, and nothing else keeps it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from jewelhouse.errors import JewelhouseError

# statfs(2), f_type; a ramdisk's own file system is ramfs or tmpfs.
MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
# linux prctl.h, mman.h
PR_SET_DUMPABLE, MCL_CURRENT, MCL_FUTURE = 4, 1, 2
# What is memory on hosts and enclaves, and what is in containers.
PLACES = (Path("/run"), Path("/dev/shm"))
_LIBC = ctypes.CDLL(None, use_errno=True)


class NotMemory(JewelhouseError):
    """A folder that lies on a disk, where plaintext would stay."""


def file_system(path: Path) -> int:
    """The type of the file system under a path, as statfs(2) says it."""
    # f_type is a long at the very beginning on every 64-bit Linux.
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statfs(os.fsencode(path), buffer):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return int.from_bytes(buffer.raw[:8], "little") & 0xFFFFFFFF


def somewhere() -> Path:
    """The usual folder in memory. Raises NotMemory where there is none."""
    for place in PLACES:
        if place.is_dir() and file_system(place) in MEMORY:
            return place / "jewelhouse"
    raise NotMemory("lie on disks", where=", ".join(map(str, PLACES)), remedy="mount tmpfs on one of them")


def lock_down() -> None:
    """No core dumps, no other process of the same user reads this one's memory."""
    _LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A folder of one's own in memory, emptied and removed at the end whatever happened.

    Raises NotMemory when the parent lies on a disk, JewelhouseError while there is swap that would write it
    to one.
    """
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if file_system(parent) not in MEMORY:
        raise NotMemory("lies on a disk", where=str(parent), remedy="give a folder on tmpfs, such as /run")
    if swaps := _swap():
        raise NotMemory(f"could be swapped out to {swaps}", where=str(parent), remedy="swapoff --all")
    folder = parent / "open"
    if folder.is_symlink() or (folder.exists() and not stat.S_ISDIR(folder.lstat().st_mode)):
        raise JewelhouseError("is in the way", where=str(folder))
    # What a run that was cut off left is of no use to anybody.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _swap() -> str:
    try:
        lines = Path("/proc/swaps").read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return ""
    # Compressed memory is memory.
    return ", ".join(line.split()[0] for line in lines if not line.startswith("/dev/zram"))
