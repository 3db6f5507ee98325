"""Plaintext that is to be sealed: a directory, one file, or what fsspec reaches."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jewelhouse.errors import JewelhouseError, Problem, Problems
from jewelhouse.weights import paths
from jewelhouse.weights.stores import Read, RemoteStore, StoreError, file_system

# What the stores call the things that change when an object does.
_MARKS = ("ETag", "etag", "md5Hash", "crc32c", "generation", "content_md5", "LastModified", "last_modified")
_MARKS += ("mtime", "created")
_KINDS = (
    (
        stat.S_ISLNK,
        "is a symbolic link",
        "put what it points to in its place",
    ),
    (stat.S_ISFIFO, "is a named pipe", "only files can be sealed"),
    (stat.S_ISSOCK, "is a socket", "only files can be sealed"),
    (stat.S_ISBLK, "is a block device", "only files can be sealed"),
    (stat.S_ISCHR, "is a character device", "only files can be sealed"),
)


class NotSealable(Problems):
    """The source holds something that cannot be sealed; all of it is named."""


class Entry(NamedTuple):
    """A file of the source. `mark` differs after a change; `changed` is its time in ns, 0 where unknown."""

    path: str
    size: int
    mark: str | tuple[int, ...]
    changed: int


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Files by path, and the directories that hold nothing."""

    files: Mapping[str, Entry]
    directories: tuple[str, ...]


class Source(Protocol):
    url: str

    def scan(self) -> Tree:
        """Everything there is now. Raises NotSealable for what is no file, StoreError."""
        ...

    def file(self, path: str) -> str | None:
        """The file itself, where it lies on this machine."""
        ...

    def reader(self, path: str) -> Read: ...


def source(url: str | os.PathLike[str], **options: Any) -> Source:
    """The source at a path or fsspec URL. Raises StoreError."""
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme in ("file", "local"):
        return LocalSource(Path(rest if separator else text))
    return RemoteSource(text.rstrip("/"), file_system(text, **options))


class LocalSource:
    """A directory, or one file under its own name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self.alone = root.is_file() and not root.is_symlink()

    def scan(self) -> Tree:
        found: dict[str, Entry] = {}
        empty: list[str] = []
        problems: list[Problem] = []
        try:
            for path, info, holds in _walk(self.root):
                if holds == 0:
                    empty.append(path)
                elif info is not None:
                    if not stat.S_ISREG(info.st_mode):
                        what, remedy = _kind(info.st_mode)
                        problems.append(Problem(where=f"{self.url}: {path!r}", what=what, remedy=remedy))
                    mark = _mark(info)
                    found[path] = Entry(path, info.st_size, mark, max(mark[2], mark[3]))
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=str(error.filename)) from error
        if problems:
            raise NotSealable(problems)
        return _tree(found, empty)

    def file(self, path: str) -> str:
        return self.url if self.alone else f"{self.url}/{path}"

    def reader(self, path: str) -> Read:
        file = self.file(path)

        def read(offset: int, length: int) -> bytes:
            with open(file, "rb", buffering=0) as opened:
                return os.pread(opened.fileno(), length, offset)

        return read


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result | None, int | None]]:
    """Path, stat, and for directories how much they hold. Links are not followed."""
    info = os.lstat(root)
    if not stat.S_ISDIR(info.st_mode):
        yield root.name, info, None
        return
    waiting = [("", os.fspath(root))]
    while waiting:
        prefix, directory = waiting.pop()
        count = 0
        with os.scandir(directory) as entries:
            for entry in entries:
                count += 1
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{path}/", entry.path))
                else:
                    yield path, entry.stat(follow_symlinks=False), None
        if prefix:
            yield prefix[:-1], None, count


def _kind(mode: int) -> tuple[str, str]:
    return next(((what, remedy) for test, what, remedy in _KINDS if test(mode)), ("is no file", ""))


def _mark(info: os.stat_result) -> tuple[int, ...]:
    return info.st_dev, info.st_ino, info.st_mtime_ns, info.st_ctime_ns


class RemoteSource:
    """Objects below a URL, or one object."""

    def __init__(self, url: str, system: Any) -> None:
        self.url = url
        self.store = RemoteStore(url, system)
        self.alone = False

    def scan(self) -> Tree:
        system, root = self.store.system, self.store.root
        listed = self.store.listing()
        self.alone = list(listed) == [root]
        found = {}
        for full, info in listed.items():
            path = full.rsplit("/", 1)[-1] if self.alone else full.removeprefix(root).lstrip("/")
            # A marker that consoles leave for a directory is no file.
            if info.get("type") == "directory" or full.endswith("/"):
                continue
            mark = repr([(name, str(info[name])) for name in _MARKS if name in info])
            found[path] = Entry(path, info["size"], mark, 0)
        if not listed and not system.exists(root):
            raise StoreError("is not there", where=self.url)
        return _tree(found, [])

    def file(self, path: str) -> None:
        return None

    def reader(self, path: str) -> Read:
        return self.store.reader("" if self.alone else path)


def _tree(files: dict[str, Entry], empty: list[str]) -> Tree:
    return Tree(files={path: files[path] for path in sorted(files)}, directories=tuple(sorted(empty)))


def check(tree: Tree, where: str) -> None:
    """Raises NotSealable with every path that cannot stand in a manifest."""
    problems = [
        Problem(where=f"{where}: {one.where!r}", what=one.what, remedy="rename it")
        for one in paths.faults(tree.files, tree.directories)
    ]
    if problems:
        raise NotSealable(problems)


def reread(before: Tree, after: Tree, where: str) -> None:
    """Raises JewelhouseError when the source is not what it was. Names what is new, gone, changed."""
    problems = [
        *(f"{path!r} is new" for path in after.files.keys() - before.files.keys()),
        *(f"{path!r} is gone" for path in before.files.keys() - after.files.keys()),
        *(
            f"{path!r} changed"
            for path, entry in before.files.items()
            if after.files.get(path, entry) != entry
        ),
    ]
    if before.directories != after.directories and not problems:
        problems.append("empty directories came or went")
    if problems:
        raise Changed(
            f"changed while it was being sealed: {'; '.join(sorted(problems)[:20])}",
            where=where,
            remedy="let nothing write there and run again: what did not change is not sealed again",
        )


class Changed(JewelhouseError):
    """The source is not what it was when its sealing began."""
