"""The root file system of a measured disk: a file tree as EROFS, the same bytes for the same tree.

Written here rather than by mkfs.erofs: that one wants the files unpacked with their owners, which takes root,
and each of its releases lays them out another way, so that only its exact version could repeat an image.
Uncompressed, with small files beside their inodes: kernel.org
Documentation/filesystems/erofs.rst; linux fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from uuid import UUID

from jewelhouse.errors import JewelhouseError
from jewelhouse.images.tree import MODES, Entry, Kind, Tree, checked, tree

BLOCK = 4096
BLOCK_BITS = 12
SLOT = 32
SUPERBLOCK_AT = 1024
MAGIC = 0xE0F5E1E2
# magic, checksum, compatible features, bits of a block, extra slots, root inode, inodes, time, nanoseconds,
# blocks, where inodes and shared attributes begin, UUID, name, incompatible features, and fields of features
# that are not used
SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sI44x")
# format, attributes, mode, reserved, size, first block or device, number, owner, group, time, nanoseconds,
# links
INODE = struct.Struct("<HHHHQIIIIQII16x")
# inode, where its name begins, type, reserved
DIRENT = struct.Struct("<QHBx")
# Layouts of data, with bit 0 for inodes of 64 bytes.
PLAIN, INLINE = 0 << 1 | 1, 2 << 1 | 1
# Larger files begin in a block of their own and so lie in one piece.
INLINE_LIMIT = 2048
# What every directory is found under first: block 0 holds the superblock alone.
ROOT = BLOCK // SLOT
TYPES = {Kind.FILE: 1, Kind.DIRECTORY: 2, Kind.CHARACTER: 3, Kind.BLOCK: 4, Kind.LINK: 7}


@dataclass(slots=True)
class _Node:
    """An entry where it is going to lie. `place`: of its inode, in slots. `block`: where its content begins
    when it is not inline."""

    entry: Entry
    parent: _Node | None
    children: list[tuple[bytes, _Node]]
    size: int = 0
    links: int = 1
    place: int = 0
    block: int = 0

    @property
    def inline(self) -> bool:
        """Whether the content lies behind the inode."""
        return 0 < self.size <= INLINE_LIMIT

    @property
    def blocks(self) -> int:
        return 0 if self.inline else -(-self.size // BLOCK)


def build(files: Tree, destination: Path, *, uuid: UUID, epoch: int) -> None:
    """Writes the file system; `epoch` is the time of every file, in seconds since 1970.

    The file appears under its name when it is whole. Raises JewelhouseError for what EROFS cannot hold,
    MalformedTree for a file that changes while it is read.
    """
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        with partial.open("wb") as out:
            _write(files, out, uuid, epoch)
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)


def _write(files: Tree, out: BinaryIO, uuid: UUID, epoch: int) -> None:
    nodes = _nodes(files)
    end = _place_inodes(nodes)
    blocks = _place_data(nodes, -(-end // BLOCK))
    if blocks > 0xFFFFFFFF:
        raise JewelhouseError("has more than 16 TiB", where="root file system")
    out.seek(SUPERBLOCK_AT)
    features, root = 0, nodes[0].place
    head = (MAGIC, 0, features, BLOCK_BITS, 0, root, len(nodes), epoch, 0, blocks, 0, 0)
    out.write(SUPERBLOCK.pack(*head, uuid.bytes, b"", features))
    for number, node in enumerate(nodes, 1):
        _write_inode(node, number, epoch, out)
    # Contents follow in the order of their inodes, each from a new block.
    for node in nodes:
        if node.entry.kind is Kind.FILE:
            _write_file(node, out)
    out.truncate(blocks * BLOCK)


def _nodes(files: Tree) -> list[_Node]:
    """All inodes, the root first; children of a directory in the order of the bytes of their names."""
    top = _Node(Entry(path="", kind=Kind.DIRECTORY, mode=0o755), None, [])
    found = {".": top}
    for path, entry in files.items():
        parts = PurePosixPath(path)
        parent = found[str(parts.parent)]
        node = found[path] = _Node(entry, parent, [])
        name = parts.name.encode()
        if len(name) > 255:
            raise JewelhouseError(f"has a name of {len(name)} bytes, 255 fit", where=path)
        parent.children.append((name, node))
        parent.links += entry.kind is Kind.DIRECTORY
    for node in found.values():
        if node.entry.kind is Kind.DIRECTORY:
            node.links += 1
            node.children.sort(key=lambda child: child[0])
            pages = list(_pages(node))
            node.size = (len(pages) - 1) * BLOCK + _used(pages[-1])
        else:
            node.size = node.entry.size
            if node.entry.kind is Kind.LINK and not 0 < node.size <= INLINE_LIMIT:
                raise JewelhouseError(f"points to a path of {node.size} bytes", where=node.entry.path)
    return list(found.values())


def _pages(node: _Node) -> Iterator[Sequence[tuple[bytes, _Node]]]:
    """The names of a directory, as many to a block as fit, `.` and `..` in their places."""
    everything = [(b".", node), (b"..", node.parent or node), *node.children]
    page: list[tuple[bytes, _Node]] = []
    used = 0
    for name, child in sorted(everything, key=lambda one: one[0]):
        needs = DIRENT.size + len(name)
        if used + needs > BLOCK:
            yield page
            page, used = [], 0
        page.append((name, child))
        used += needs
    yield page


def _used(page: Sequence[tuple[bytes, _Node]]) -> int:
    return sum(DIRENT.size + len(name) for name, _ in page)


def _place_inodes(nodes: Sequence[_Node]) -> int:
    """Gives each inode its place; what lies behind it shares its block. Returns where they end, in bytes."""
    at = ROOT * SLOT
    for node in nodes:
        room = INODE.size + (node.size if node.inline else 0)
        if at % BLOCK + room > BLOCK:
            at = -(-at // BLOCK) * BLOCK
        node.place = at // SLOT
        at += -(-room // SLOT) * SLOT
    return at


def _place_data(nodes: Sequence[_Node], block: int) -> int:
    # Directories before files, so that a look-up reads what lies together.
    for kinds in ((Kind.DIRECTORY,), (Kind.FILE,)):
        for node in nodes:
            if node.entry.kind in kinds and node.blocks:
                node.block = block
                block += node.blocks
    return block


def _write_inode(node: _Node, number: int, epoch: int, out: BinaryIO) -> None:
    entry = node.entry
    if entry.kind in (Kind.CHARACTER, Kind.BLOCK):
        major, minor = entry.device
        data = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    else:
        data = node.block
    out.seek(node.place * SLOT)
    out.write(
        INODE.pack(
            *(
                INLINE if node.inline else PLAIN,
                0,
                MODES[entry.kind] | entry.mode,
                0,
                node.size,
                data,
                number,
            ),
            *(entry.owner, entry.group, epoch, 0, node.links),
        )
    )
    if entry.kind is Kind.LINK:
        out.write(entry.target.encode())
    elif entry.kind is Kind.DIRECTORY:
        if not node.inline:
            out.seek(node.block * BLOCK)
        out.write(b"".join(_page(page) for page in _pages(node))[: node.size])


def _page(page: Sequence[tuple[bytes, _Node]]) -> bytes:
    at = DIRENT.size * len(page)
    head, names = b"", b""
    for name, node in page:
        head += DIRENT.pack(node.place, at + len(names), TYPES[node.entry.kind])
        names += name
    return (head + names).ljust(BLOCK, b"\0")


def _write_file(node: _Node, out: BinaryIO) -> None:
    out.seek(node.place * SLOT + INODE.size if node.inline else node.block * BLOCK)
    for data in node.entry.chunks():
        out.write(data)


class MalformedErofs(JewelhouseError):
    """A file system that this module did not write; `where` names the offset."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what, where=f"offset {offset}")


def read(path: Path) -> Tree:
    """The tree in a file system that `build` wrote; contents stay in the file.

    Raises MalformedErofs for any other, with compressed files and all that the format offers besides.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(SUPERBLOCK_AT)
        head = file.read(SUPERBLOCK.size)
        if len(head) < SUPERBLOCK.size:
            raise MalformedErofs("is too short for a superblock", size)
        magic, _, compatible, bits, extra, root, count, _, _, blocks, meta, _, _, _, features = (
            SUPERBLOCK.unpack(head)
        )
        for wrong, what in (
            (magic != MAGIC, "has no EROFS superblock"),
            ((bits, extra, meta) != (BLOCK_BITS, 0, 0), "has another layout of blocks"),
            (compatible or features or any(head[84:]), "uses features that are not used here"),
            (blocks * BLOCK > size, f"has {blocks} blocks in {size} bytes"),
        ):
            if wrong:
                raise MalformedErofs(what, SUPERBLOCK_AT)
        found: dict[str, Entry] = {}
        seen = {root}
        waiting = [("", _read_inode(file, path, "", root, size))]
        while waiting:
            prefix, directory = waiting.pop()
            for name, place, kind in _read_directory(file, directory):
                inside = f"{prefix}{name}"
                if place in seen or len(seen) >= count:
                    raise MalformedErofs(f"holds {inside!r:.200} again", place * SLOT)
                seen.add(place)
                entry = _read_inode(file, path, checked(inside), place, size)
                if TYPES[entry.kind] != kind:
                    raise MalformedErofs(f"calls {inside!r:.200} another type", place * SLOT)
                if entry.kind is Kind.DIRECTORY:
                    waiting.append((f"{inside}/", entry))
                    entry = replace(entry, content=b"")
                found[inside] = entry
    return tree(found.values())


def _read_inode(file: BinaryIO, path: Path, name: str, place: int, size: int) -> Entry:
    """An inode as an entry; a directory has its pages as content."""
    at = place * SLOT
    if at + INODE.size > size:
        raise MalformedErofs("has an inode outside the file", at)
    file.seek(at)
    layout, attributes, mode, _, length, data, _, owner, group, _, _, _ = INODE.unpack(file.read(INODE.size))
    kind = next((kind for kind, bits in MODES.items() if bits == mode & 0o170000), None)
    if kind is None or layout not in (PLAIN, INLINE) or attributes:
        raise MalformedErofs("is an inode of an unknown kind", at)
    common = {"path": name, "kind": Kind(kind), "mode": mode & 0o7777, "owner": owner, "group": group}
    if kind in (Kind.CHARACTER, Kind.BLOCK):
        return Entry(device=(data >> 8 & 0xFFF, data & 0xFF | data >> 12 & ~0xFF), **common)
    start = at + INODE.size if layout == INLINE else data * BLOCK
    if start + length > size or (layout == INLINE and length > INLINE_LIMIT):
        raise MalformedErofs("has content outside the file", at)
    if kind == Kind.LINK:
        if length > INLINE_LIMIT:
            raise MalformedErofs("is a link that is too long", at)
        file.seek(start)
        return Entry(target=_text(file.read(length), start), **common)
    return Entry(content=(path, start, length), **common)


def _read_directory(file: BinaryIO, directory: Entry) -> Iterator[tuple[str, int, int]]:
    """Name, place and type of what a directory holds, without itself and its parent."""
    assert isinstance(directory.content, tuple)
    _, start, length = directory.content
    if directory.kind is not Kind.DIRECTORY:
        raise MalformedErofs("is no directory", start)
    for at in range(start, start + length, BLOCK):
        file.seek(at)
        page = file.read(min(BLOCK, start + length - at))
        if len(page) < DIRENT.size:
            raise MalformedErofs("is a directory that ends early", at)
        first = DIRENT.unpack_from(page)[1]
        if not first or first % DIRENT.size or first > len(page):
            raise MalformedErofs("is a directory without names", at)
        entries = list(DIRENT.iter_unpack(page[:first]))
        ends = [offset for _, offset, _ in entries[1:]] + [len(page)]
        for (place, begin, kind), end in zip(entries, ends, strict=True):
            if not first <= begin < end <= len(page):
                raise MalformedErofs("is a directory with names in each other", at)
            name = page[begin:end].rstrip(b"\0")
            if name not in (b".", b".."):
                yield _text(name, at), place, kind


def _text(data: bytes, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedErofs("has a name that is not UTF-8", offset) from error
