"""Memory-backed storage for what is open: it goes with the power, and nothing else keeps it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import cleaner

# statfs(2), f_type; a ramdisk's own file system is ramfs or tmpfs.
MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
# linux prctl.h, mman.h
PR_SET_DUMPABLE, MCL_CURRENT, MCL_FUTURE = 4, 1, 2
# What is memory on hosts and enclaves, and what is in containers.
PLACES = (Path("/run"), Path("/dev/shm"))
# What is open lies in folders whose names begin so.
OPEN = "open-"
# Seconds that an earlier run has to be gone.
PATIENCE = 20
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

    Also when this process is killed: another one (`guest.cleaner`) waits for its end, ends what it has
    started and removes the folder. Should both be killed at once, the next run does (`clear`), and a machine
    that goes off with its guest forgets.

    Raises NotMemory when the parent lies on a disk, JewelhouseError while there is swap that would write it
    to one, or when another run is at work there.
    """
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if file_system(parent) not in MEMORY:
        raise NotMemory("lies on a disk", where=str(parent), remedy="give a folder on tmpfs, such as /run")
    if swaps := _swap():
        raise NotMemory(f"could be swapped out to {swaps}", where=str(parent), remedy="swapoff --all")
    with _alone(parent) as lock:
        _remove_all(parent)
        folder = parent / f"{OPEN}{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        watching = subprocess.Popen(
            [sys.executable, "-I", "-S", str(cleaner.__file__), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={},
            pass_fds=(lock,),
            start_new_session=True,
        )
        try:
            yield folder
        finally:
            # What it is told by the end of its input it would be told by the end of this process, too.
            watching.communicate()
            _remove_all(parent)


def clear(parent: Path) -> None:
    """Removes what runs that were killed have left. Raises JewelhouseError where that cannot be done, or
    another run is at work there."""
    if parent.is_dir() and file_system(parent) in MEMORY:
        with _alone(parent):
            _remove_all(parent)


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[int]:
    """Holds a folder against other runs; the cleaner of one that was killed holds it until it is done."""
    opened = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise JewelhouseError(
                        "another run is at work",
                        where=str(parent),
                        remedy="let it end, or give another folder",
                    ) from error
                time.sleep(0.05)
        yield opened
    finally:
        os.close(opened)


def _remove_all(parent: Path) -> None:
    for folder in parent.glob(f"{OPEN}*"):
        if folder.is_symlink() or not stat.S_ISDIR(folder.lstat().st_mode):
            raise JewelhouseError("is in the way", where=str(folder))
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise JewelhouseError(
                f"is of an earlier run, and cannot be removed: {error.strerror}", where=str(folder)
            ) from error


def _swap() -> str:
    try:
        lines = Path("/proc/swaps").read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return ""
    # Compressed memory is memory.
    return ", ".join(line.split()[0] for line in lines if not line.startswith("/dev/zram"))
