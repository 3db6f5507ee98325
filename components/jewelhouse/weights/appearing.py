"""Files that are read where they lie, and files that appear under their name only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from jewelhouse.errors import JewelhouseError

# File systems without nameless files say one of these (open(2), O_TMPFILE).
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[int]:
    """An open file; a symbolic link is none."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


@contextlib.contextmanager
def appearing(destination: str | os.PathLike[str], size: int, mode: int) -> Iterator[int]:
    """A file of `size` bytes to write into, which takes the place of the destination once all is written.

    Until then it has no name, so that nothing is left of it when this fails, nor when the process is killed
    or the machine stops. Where the file system has no nameless files it has a name of its own, which only a
    kill can leave behind. Nothing here waits for the disk: who must know that it is there syncs, once for all
    files (`Store.sync`).
    """
    target = Path(destination)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        opened, partial = _fresh(target.parent, directory, mode)
        try:
            os.ftruncate(opened, size)
            yield opened
            if partial is None:
                partial = _named(opened, target.name, directory)
            if partial is not None:
                os.replace(partial, target.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            if partial is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=directory)
            raise
        finally:
            os.close(opened)
    finally:
        os.close(directory)


def _fresh(parent: Path, directory: int, mode: int) -> tuple[int, str | None]:
    try:
        return os.open(parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode), None
    except OSError as error:
        if error.errno not in _NO_NAMELESS:
            raise
    name = f".{secrets.token_hex(16)}.partial"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(name, flags, mode, dir_fd=directory), name


def _named(opened: int, name: str, directory: int) -> str | None:
    """Gives a nameless file the name, or another one beside it when the name is taken, which is returned."""
    nameless = f"/proc/self/fd/{opened}"
    # With a directory given Python calls linkat, and only that follows the link to the open file.
    try:
        os.link(nameless, name, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        beside = f".{secrets.token_hex(16)}.partial"
        os.link(nameless, beside, dst_dir_fd=directory, follow_symlinks=True)
        return beside
    return None


def fill(file: int, buffer: memoryview, offset: int, where: str) -> None:
    """Reads until the buffer is full. Raises JewelhouseError when the file ends before."""
    done = os.preadv(file, [buffer], offset) if buffer else 0
    while done < len(buffer):
        step = os.preadv(file, [buffer[done:]], offset + done)
        if not step:
            raise JewelhouseError(
                "became shorter while it was read",
                where=where,
                remedy="let nothing write there and run again",
            )
        done += step


def drain(file: int, buffer: memoryview, offset: int) -> None:
    """Writes all of the buffer."""
    done = os.pwrite(file, buffer, offset) if buffer else 0
    while done < len(buffer):
        done += os.pwrite(file, buffer[done:], offset + done)
