"""The measured disk of a confidential VM: firmware starts one file on it, and all else follows from that.

The unified kernel image lies in the EFI system partition; its command line holds the root hash of the
dm-verity tree over the root file system. Every identifier on the disk comes from its content: the root
partitions take theirs from the root hash, the way uapi-group.org's Discoverable Partitions Specification
has it, so the same parts are the same disk.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import erofs, esp, gpt, initrd, verity
from jewelhouse.images.tree import Kind, Tree, differences

SYSTEM = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
# Root file system and its hash tree by instruction set: Discoverable Partitions Specification, 2026-11.
ROOTS: Mapping[str, tuple[UUID, UUID]] = {
    "x86_64": (UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")),
    "aarch64": (UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"), UUID("df3300ce-d69f-4c92-978c-9bfb0f38d820")),
}
# Where the initial ramdisk mounts what is not part of the image.
MOUNTED = ("dev", "proc", "run", "sys", "tmp", "var")


@dataclass(frozen=True, kw_only=True)
class Root:
    """A root file system with its hash tree. `root_hash` and `salt` in hex, `blocks` of 4 KiB."""

    data: Path
    hash_tree: Path
    root_hash: str
    salt: str
    blocks: int

    @property
    def command_line(self) -> str:
        """The words of the kernel command line by which the initial ramdisk opens exactly this one."""
        words = {initrd.ROOT_HASH: self.root_hash, initrd.SALT: self.salt, initrd.BLOCKS: self.blocks}
        return " ".join(f"{name}={value}" for name, value in words.items())


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What goes on a disk."""

    uki: Path
    root: Root
    architecture: str = "x86_64"


def make_root(files: Tree, directory: Path, *, seed: str, epoch: int) -> Root:
    """Writes `root.erofs` and `root.verity` to a folder. `seed` says what the tree was built from;
    identifier and salt follow from it; `epoch` is the time of every file.

    Raises JewelhouseError for a tree that lacks the folders which are mounted over.
    """
    missing = [path for path in MOUNTED if path not in files or files[path].kind is not Kind.DIRECTORY]
    if missing:
        raise JewelhouseError(f"has no folder {', '.join(missing)}", where="root file system")
    name = uuid5(NAMESPACE_URL, f"jewelhouse:root:{seed}")
    salt = hashlib.sha256(f"jewelhouse:salt:{seed}".encode()).digest()
    data, hash_tree = directory / "root.erofs", directory / "root.verity"
    erofs.build(files, data, uuid=name, epoch=epoch)
    root_hash = verity.make(data, hash_tree, salt=salt, uuid=name)
    return Root(
        data=data,
        hash_tree=hash_tree,
        root_hash=root_hash,
        salt=salt.hex(),
        blocks=data.stat().st_size // verity.BLOCK,
    )


def build(disk: Disk, destination: Path) -> None:
    """Writes the raw disk; it appears under its name when it is whole, with holes where nothing lies.

    Raises JewelhouseError for parts that do not fit.
    """
    table = layout(disk)
    boot, data, hashes = table.partitions
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        with partial.open("w+b") as out:
            gpt.write(table, out)
            out.seek(boot.offset)
            esp.write(disk.uki, out, serial=boot.unique.fields[0], path=_boot_path(disk))
            for partition, path in ((data, disk.root.data), (hashes, disk.root.hash_tree)):
                out.seek(partition.offset)
                with path.open("rb") as source:
                    shutil.copyfileobj(source, out, 1024 * 1024)
                if out.tell() != partition.offset + partition.size:
                    raise JewelhouseError("changed while it was copied", where=str(path))
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)


def _boot_path(disk: Disk):
    if disk.architecture not in ROOTS:
        raise JewelhouseError(
            f"disks are not built for {disk.architecture}", where="architecture", remedy=" or ".join(ROOTS)
        )
    return esp.BOOT[disk.architecture]


def layout(disk: Disk) -> gpt.Table:
    """Where everything lies: the EFI system partition, the root file system, its hash tree."""
    path = _boot_path(disk)
    data, hashes = ROOTS[disk.architecture]
    root_hash = bytes.fromhex(disk.root.root_hash)
    with disk.uki.open("rb") as file:
        booted = hashlib.file_digest(file, "sha256").hexdigest()

    # The initial ramdisk finds them by these names, which the kernel shows without udev.
    short = disk.root.root_hash[:16]

    def derived(what: str) -> UUID:
        return uuid5(NAMESPACE_URL, f"jewelhouse:{what}:{booted}:{disk.root.root_hash}")

    found = (
        ("esp", SYSTEM, derived("esp"), esp.size_of(disk.uki, path), 0),
        (f"root-{short}", data, UUID(bytes=root_hash[:16]), disk.root.data.stat().st_size, gpt.READ_ONLY),
        (
            f"verity-{short}",
            hashes,
            UUID(bytes=root_hash[16:]),
            disk.root.hash_tree.stat().st_size,
            gpt.READ_ONLY,
        ),
    )
    return gpt.lay_out(
        derived("disk"),
        [
            gpt.Wanted(kind=kind, unique=unique, name=name, size=size, attributes=attributes)
            for name, kind, unique, size, attributes in found
        ],
    )


def compare(before: Path, after: Path) -> Iterator[str]:
    """What differs between two disks: partitions, and the files in the root file system.

    Raises MalformedTable and MalformedErofs for what is no disk of this kind.
    """
    first, second = gpt.read(before), gpt.read(after)
    if (first.disk, first.sectors) != (second.disk, second.sectors):
        yield f"disk: {first.disk}, {first.sectors} sectors, became {second.disk}, {second.sectors} sectors"
    for old, new in zip(first.partitions, second.partitions, strict=False):
        name = old.name.partition("-")[0]
        if old != new:
            yield f"{name}: {_said(old)} became {_said(new)}"
        at = _first_difference(before, old, after, new)
        if at is None:
            continue
        yield f"{name}: content differs from byte {at}"
        if name == "root" and old.kind == new.kind:
            yield from (f"{name}: {line}" for line in _files(before, old, after, new))
    if len(first.partitions) != len(second.partitions):
        yield f"disk: {len(first.partitions)} partitions became {len(second.partitions)}"


def _files(before: Path, old: gpt.Partition, after: Path, new: gpt.Partition) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as temporary:
        trees = []
        for index, (disk, partition) in enumerate(((before, old), (after, new))):
            path = Path(temporary) / str(index)
            gpt.copy_out(disk, partition, path)
            trees.append(erofs.read(path))
        yield from differences(*trees)


def _said(partition: gpt.Partition) -> str:
    return f"{partition.name} ({partition.unique}) in {partition.sectors} sectors from {partition.first}"


def _first_difference(before: Path, old: gpt.Partition, after: Path, new: gpt.Partition) -> int | None:
    with before.open("rb") as first, after.open("rb") as second:
        first.seek(old.offset)
        second.seek(new.offset)
        for at in range(0, min(old.size, new.size), 1024 * 1024):
            length = min(1024 * 1024, old.size - at, new.size - at)
            a, b = first.read(length), second.read(length)
            if a != b:
                return at + next(index for index, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return None if old.size == new.size else min(old.size, new.size)
