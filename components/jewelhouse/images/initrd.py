"""The initial ramdisk of a measured disk: finds, checks and mounts the root file system, and nothing else.

No shell on failure, no network, no login. Its programs are Debian's busybox and dmsetup; the table of the
verity device is made of measured values alone, so nothing on the unmeasured disk is parsed before it is
checked (the superblock that veritysetup would read is).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from jewelhouse.errors import JewelhouseError
from jewelhouse.images.kernel import Module
from jewelhouse.images.tree import Entry, Kind, Tree, from_tar, tree, write_cpio
from jewelhouse.model import Platform
from jewelhouse.templates import render

PACKAGES = ("busybox-static", "dmsetup")
BUSYBOX = "usr/bin/busybox"
DMSETUP = "usr/sbin/dmsetup"
APPLETS = (
    *("cat", "grep", "head", "insmod", "mkdir", "mount"),
    *("poweroff", "sh", "sleep", "switch_root"),
)
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib")
# Words of the measured command line: what the verity device is made of.
ROOT_HASH, SALT, BLOCKS = "roothash", "jewelhouse.salt", "jewelhouse.blocks"
# How long disks may take to show up, in seconds.
WAIT = 60
# The digest in plain code is several times slower than the one with the processor's own instructions.
VERITY = ("dm_verity", "erofs")
DIGEST: Mapping[str, tuple[str, ...]] = {"x86_64": ("sha256_ssse3",), "aarch64": ()}
# Disks and network of the machines, and the device that their reports come from. Debian's cloud kernel has
# nvme, virtio_pci and the TPM drivers built in, so every image boots from an NVMe disk.
# docs.aws.amazon.com/AWSEC2 "Nitro-based instances"; learn.microsoft.com "Linux support for MANA";
# cloud.google.com/compute "Creating custom images"; linux Documentation/virt/coco (2026-11).
MACHINES: Mapping[Platform, tuple[str, ...]] = {
    Platform.AWS_NITROTPM: ("ena",),
    Platform.AZURE_CVM: (
        *("hv_vmbus", "hv_storvsc", "sd_mod", "hv_netvsc", "hv_utils", "pci_hyperv", "mana", "mlx5_core"),
        *("tdx_guest", "sev_guest"),
    ),
    Platform.GCP_CVM: ("virtio_scsi", "sd_mod", "virtio_net", "gve", "tdx_guest", "sev_guest"),
}
# What a command of the root file system may look like: it stands in the script as it is.
WORD = re.compile(r"[\w@%+=:,./-]+")


def module_names(platform: Platform, architecture: str = "x86_64") -> tuple[str, ...]:
    """Names of the kernel modules that the ramdisk loads on a platform."""
    return (*DIGEST[architecture], *VERITY, *MACHINES[platform])


def build(destination: Path, *, tools: Path, modules: Sequence[Module], command: Sequence[str]) -> None:
    """Writes the ramdisk. `tools`: tar with PACKAGES; `command`: the first process of the root file system,
    an absolute path with its arguments. Raises JewelhouseError for tools that are not there."""
    with destination.open("wb") as out:
        write_cpio(files(tools=tools, modules=modules, command=command), out)


def files(*, tools: Path, modules: Sequence[Module], command: Sequence[str]) -> Tree:
    """What lies in the ramdisk."""
    if not command or not command[0].startswith("/") or not all(map(WORD.fullmatch, command)):
        raise JewelhouseError(
            f"{list(command)} is no command of the root file system",
            where="command",
            remedy="an absolute path, and arguments without blanks and quotes",
        )
    script = render(
        "images/verity/init.sh.j2", command=command, root_hash=ROOT_HASH, salt=SALT, blocks=BLOCKS, wait=WAIT
    )
    order = "".join(f"{module.name}\n" for module in modules)
    return tree(
        [
            _file("init", script.encode(), 0o755),
            _file("modules/order", order.encode()),
            *(_file(f"modules/{module.name}.ko", module.data) for module in modules),
            *(_programs(from_tar(tools))),
            *(Entry(path=f"bin/{name}", kind=Kind.LINK, mode=0o777, target="busybox") for name in APPLETS),
            *(
                Entry(path=path, kind=Kind.DIRECTORY, mode=0o755)
                for path in ("dev", "proc", "run", "sys", "sysroot")
            ),
            # The kernel opens it for the first process before anything is mounted.
            Entry(path="dev/console", kind=Kind.CHARACTER, mode=0o600, device=(5, 1)),
        ]
    )


def _file(path: str, content: bytes, mode: int = 0o644) -> Entry:
    return Entry(path=path, kind=Kind.FILE, mode=mode, content=content)


def _programs(tools: Tree) -> Iterator[Entry]:
    """busybox and dmsetup, with the loader and the libraries of the latter."""
    yield _file("bin/busybox", _content(tools, BUSYBOX), 0o755)
    program = _content(tools, DMSETUP)
    yield _file("bin/dmsetup", program, 0o755)
    loader, waiting = linked(program)
    if loader:
        path = str(PurePosixPath(loader).relative_to("/"))
        yield _file(path, _content(tools, _merged(path)), 0o755)
    there: set[str] = {PurePosixPath(loader).name}
    while waiting:
        name = waiting.pop(0)
        if name in there:
            continue
        there.add(name)
        data = _library(tools, name)
        yield _file(f"lib/{name}", data, 0o755)
        waiting.extend(linked(data)[1])


def _merged(path: str) -> str:
    return path if path.startswith("usr/") else f"usr/{path}"


def _library(tools: Tree, name: str) -> bytes:
    for directory in LIBRARIES:
        if f"{directory}/{name}" in tools:
            return _content(tools, f"{directory}/{name}")
    raise JewelhouseError(f"has no library {name}", where="initrd", remedy=f"packages {', '.join(PACKAGES)}")


def _content(tools: Tree, path: str) -> bytes:
    """A file of the tools, through symbolic links."""
    for _ in range(8):
        entry = tools.get(path)
        if entry is None or entry.kind is Kind.DIRECTORY:
            break
        if entry.kind is Kind.FILE:
            return b"".join(entry.chunks())
        target = PurePosixPath("/") / PurePosixPath(path).parent / entry.target
        path = _merged(_normal(target))
    raise JewelhouseError(f"has no {path}", where="initrd", remedy=f"packages {', '.join(PACKAGES)}")


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return "/".join(parts)


# Types of program headers and tags of the dynamic section (System V ABI, chapter 5).
LOAD, DYNAMIC, INTERPRETER = 1, 2, 3
NEEDED, STRINGS = 1, 5
PROGRAM = struct.Struct("<IIQQQQQQ")


def linked(data: bytes) -> tuple[str, list[str]]:
    """The loader that a 64-bit ELF file names ("" for none), and the libraries that it is linked to.

    Raises JewelhouseError for what is no such file.
    """
    try:
        return _linked(data)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise JewelhouseError(f"is no program that can be read: {error}", where="initrd") from error


def _linked(data: bytes) -> tuple[str, list[str]]:
    if data[:6] != b"\x7fELF\2\1":
        raise ValueError("it does not begin as one for 64 bits, little-endian")
    start = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [PROGRAM.unpack_from(data, start + index * size) for index in range(count)]
    loader, tags = "", []
    for kind, _, offset, _, _, length, _, _ in headers:
        if kind == INTERPRETER:
            loader = _string(data, offset)
        elif kind == DYNAMIC:
            tags = list(struct.iter_unpack("<QQ", data[offset : offset + length]))
    strings = next((value for tag, value in tags if tag == STRINGS), 0)
    for kind, _, offset, address, _, length, _, _ in headers:
        # The table of strings is given by where it lies in memory.
        if kind == LOAD and address <= strings < address + length:
            strings += offset - address
            break
    return loader, [_string(data, strings + value) for tag, value in tags if tag == NEEDED]


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("ascii")
