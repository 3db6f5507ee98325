"""A root file tree as values, written the same way every time: as cpio for a kernel, as tar for a layer.

What differs between two builds of the same files is left out: order, times, inode and device numbers, names
of owners. newc: kernel.org Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from jewelhouse.errors import JewelhouseError

# st_mode of each kind.
MODES = {"directory": 0o040000, "file": 0o100000, "link": 0o120000, "character": 0o020000, "block": 0o060000}
TRAILER = "TRAILER!!!"
# newc states sizes in 8 hex digits.
LIMIT = 0xFFFFFFFF
CHUNK = 1024 * 1024


class Kind(StrEnum):
    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    CHARACTER = "character"
    BLOCK = "block"


class MalformedTree(JewelhouseError):
    """Files that no image can hold; `where` names the path inside the tree."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file. `path` has no leading slash. `content`: bytes, a file, or a member of a tar by its offset and
    size. `target`: of a symbolic link. `device`: major and minor number."""

    path: str
    kind: Kind
    mode: int
    owner: int = 0
    group: int = 0
    target: str = ""
    content: bytes | Path | tuple[Path, int, int] = b""
    device: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        if self.kind is Kind.LINK:
            return len(self.target.encode())
        if self.kind is not Kind.FILE:
            return 0
        if isinstance(self.content, bytes):
            return len(self.content)
        return self.content.stat().st_size if isinstance(self.content, Path) else self.content[2]

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The content of a file, from its beginning; at most `size` bytes of it belong to the entry."""
        if isinstance(self.content, bytes):
            yield io.BytesIO(self.content)
            return
        path, offset = (self.content, 0) if isinstance(self.content, Path) else self.content[:2]
        with path.open("rb") as file:
            file.seek(offset)
            yield file

    def chunks(self) -> Iterator[bytes]:
        """Exactly `size` bytes. Raises MalformedTree when the file has become shorter or longer."""
        left = self.size
        with self.opened() as file:
            while left:
                data = file.read(min(left, CHUNK))
                if not data:
                    raise MalformedTree("changed while it was read", where=self.path)
                left -= len(data)
                yield data


Tree = Mapping[str, Entry]


def tree(entries: Iterable[Entry]) -> Tree:
    """Entries by path in the order of their bytes, with the directories that nobody named.

    A later entry replaces an earlier one of the same path. Raises MalformedTree for a path that leaves the
    tree, and for a file below what is no directory.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        checked(entry.path)
        found[entry.path] = entry
    for path in list(found):
        for parent in PurePosixPath(path).parents:
            name = str(parent)
            if name == ".":
                continue
            there = found.setdefault(name, Entry(path=name, kind=Kind.DIRECTORY, mode=0o755))
            if there.kind is not Kind.DIRECTORY:
                raise MalformedTree(f"lies below {name}, which is a {there.kind}", where=path)
    return dict(sorted(found.items(), key=lambda item: item[0].encode()))


def checked(path: str) -> str:
    """A path inside a tree: relative, without empty, `.` or `..` parts. Raises MalformedTree."""
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise MalformedTree(f"{path!r:.200} is no path inside the tree", where=path[:200])
    return path


def from_tar(path: Path) -> Tree:
    """The tree in a tar file; contents stay in it. Hard links become files of their own.

    Raises MalformedTree for what an image cannot hold: sockets, pipes, paths that leave the tree.
    """
    found: dict[str, Entry] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = member.name.removeprefix("./").strip("/")
                if name in ("", "."):
                    continue
                found[checked(name)] = _entry(path, name, member, found)
    except (tarfile.TarError, EOFError, OverflowError, UnicodeError) as error:
        raise MalformedTree(f"is no tar: {error}", where=str(path)) from error
    return tree(found.values())


def _entry(path: Path, name: str, member: tarfile.TarInfo, found: Mapping[str, Entry]) -> Entry:
    common = {"path": name, "mode": member.mode & 0o7777, "owner": member.uid, "group": member.gid}
    if member.isdir():
        return Entry(kind=Kind.DIRECTORY, **common)
    if member.issparse():
        raise MalformedTree("is sparse", where=name, remedy="write it out in full")
    if member.isreg():
        return Entry(kind=Kind.FILE, content=(path, member.offset_data, member.size), **common)
    if member.issym():
        return Entry(kind=Kind.LINK, target=member.linkname, **{**common, "mode": 0o777})
    if member.islnk():
        linked = found.get(member.linkname.removeprefix("./").strip("/"))
        if linked is None or linked.kind is not Kind.FILE:
            raise MalformedTree(f"is a link to {member.linkname}, which is not there", where=name)
        return Entry(kind=Kind.FILE, content=linked.content, **common)
    if member.ischr() or member.isblk():
        kind = Kind.CHARACTER if member.ischr() else Kind.BLOCK
        return Entry(kind=kind, device=(member.devmajor, member.devminor), **common)
    raise MalformedTree("is neither file, directory, link nor device", where=name)


def write_cpio(files: Tree, out: BinaryIO) -> None:
    """newc without any number of the machine that built it: inodes count up, times are 0, one link each."""
    written = 0

    def put(data: bytes) -> None:
        nonlocal written
        out.write(data)
        written += len(data)

    def pad() -> None:
        put(b"\0" * (-written % 4))

    for number, entry in enumerate(files.values(), 1):
        size = entry.size
        if size > LIMIT:
            raise MalformedTree(f"has {size} bytes, cpio holds {LIMIT}", where=entry.path)
        mode = MODES[entry.kind] | entry.mode
        put(_header(number, mode, entry.owner, entry.group, size, entry.device, entry.path))
        pad()
        for data in [entry.target.encode()] if entry.kind is Kind.LINK else _content(entry):
            put(data)
        pad()
    put(_header(0, 0, 0, 0, 0, (0, 0), TRAILER))
    pad()


def _content(entry: Entry) -> Iterable[bytes]:
    return entry.chunks() if entry.kind is Kind.FILE else ()


def _header(
    number: int, mode: int, owner: int, group: int, size: int, device: tuple[int, int], path: str
) -> bytes:
    name = path.encode() + b"\0"
    fields = (number, mode, owner, group, 1, 0, size, 0, 0, *device, len(name), 0)
    return b"070701" + b"".join(b"%08X" % field for field in fields) + name


TYPES = {
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.FILE: tarfile.REGTYPE,
    Kind.LINK: tarfile.SYMTYPE,
    Kind.CHARACTER: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
}


def write_tar(files: Tree, out: BinaryIO, epoch: int = 0) -> None:
    """A tar in PAX form with one time for everything and no names of owners."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in files.values():
            member = tarfile.TarInfo(entry.path)
            member.type = TYPES[entry.kind]
            member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.owner, entry.group, epoch
            member.linkname = entry.target
            member.devmajor, member.devminor = entry.device
            if entry.kind is Kind.FILE:
                member.size = entry.size
                with entry.opened() as file:
                    tar.addfile(member, file)
            else:
                tar.addfile(member)


def digests(files: Tree) -> Sequence[tuple[str, str]]:
    """Each path with a line that says everything about it, in order: what two builds are compared by."""
    lines = []
    for entry in files.values():
        said = f"{entry.kind} {entry.mode:04o} {entry.owner}:{entry.group}"
        if entry.kind is Kind.FILE:
            state = hashlib.sha256()
            for data in entry.chunks():
                state.update(data)
            said += f" {entry.size} sha256:{state.hexdigest()}"
        elif entry.kind is Kind.LINK:
            said += f" -> {entry.target}"
        elif entry.kind is not Kind.DIRECTORY:
            said += f" {entry.device[0]}:{entry.device[1]}"
        lines.append((entry.path, said))
    return lines


def differences(before: Tree, after: Tree) -> Iterator[str]:
    """What differs between two trees, a line for each path."""
    first, second = dict(digests(before)), dict(digests(after))
    for path in sorted(first.keys() | second.keys()):
        if path not in second:
            yield f"{path}: only before ({first[path]})"
        elif path not in first:
            yield f"{path}: only after ({second[path]})"
        elif first[path] != second[path]:
            yield f"{path}: {first[path]} became {second[path]}"
