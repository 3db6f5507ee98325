"""The kernel of an image and its modules, taken from the tar of a Debian kernel package.

Debian packs modules with xz and keeps their dependencies in a file that only a maintainer script makes; an
image loads a handful of them by hand, so each is unpacked here and its dependencies are read from itself
(`.modinfo`, kernel.org Documentation/kbuild/modules.rst).
"""

from __future__ import annotations

import lzma
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jewelhouse.errors import JewelhouseError

IMAGE = re.compile(r"(?:\./)?boot/vmlinuz-([\w.+~-]+)")
MODULE = re.compile(r"(?:\./)?(?:usr/)?lib/modules/([^/]+)/kernel/.*/([\w-]+)\.ko(\.xz)?")
BUILT_IN = re.compile(r"(?:\./)?(?:usr/)?lib/modules/[^/]+/modules\.builtin")
DEPENDS = re.compile(rb"\0depends=([\w,-]*)\0")
# No module of Debian's kernels comes near; keeps a crafted package from filling the memory.
LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel outside its package. `release` is what `uname -r` says; `image` the bzImage."""

    release: str
    image: Path


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module ready to be loaded: `data` is the ELF file, not packed."""

    name: str
    data: bytes


def extract(tar: Path, directory: Path) -> Kernel:
    """Writes the kernel of a tar to `directory`. Raises JewelhouseError unless there is exactly one."""
    with tarfile.open(tar) as opened:
        found = [
            (match[1], member)
            for member in opened
            if member.isreg() and (match := IMAGE.fullmatch(member.name))
        ]
        if len(found) != 1:
            names = ", ".join(release for release, _ in found) or "none"
            raise JewelhouseError(
                f"must hold exactly one kernel, has {names}",
                where="kernel.package",
                remedy="name a package of one kernel, such as linux-image-cloud-amd64",
            )
        release, member = found[0]
        source = opened.extractfile(member)
        assert source is not None
        image = directory / f"vmlinuz-{release}"
        image.write_bytes(source.read())
    return Kernel(release=release, image=image)


def modules(tar: Path, names: Sequence[str]) -> tuple[Module, ...]:
    """The modules called `names` with all they depend on, in the order in which they can be loaded.

    What is built into the kernel is left out. Raises JewelhouseError for names that the kernel does not have.
    """
    with tarfile.open(tar) as opened:
        there: dict[str, tarfile.TarInfo] = {}
        built_in: set[str] = set()
        for member in opened:
            if match := MODULE.fullmatch(member.name):
                there[_plain(match[2])] = member
            elif BUILT_IN.fullmatch(member.name) and (listing := opened.extractfile(member)):
                built_in = {_plain(PurePosixPath(line.decode()).stem) for line in listing.read().split()}
        loaded: dict[str, Module] = {}
        unknown: list[str] = []
        seen = set(built_in)
        for name in names:
            _load(opened, there, seen, _plain(name), loaded, unknown)
    if unknown:
        raise JewelhouseError(
            f"the kernel has no module {', '.join(unknown)}",
            where="kernel.modules",
            remedy="leave it out, or name another kernel",
        )
    return tuple(loaded.values())


def _load(
    opened: tarfile.TarFile,
    there: Mapping[str, tarfile.TarInfo],
    seen: set[str],
    name: str,
    loaded: dict[str, Module],
    unknown: list[str],
) -> None:
    if name in seen:
        return
    seen.add(name)
    if name not in there:
        unknown.append(name)
        return
    module = Module(name=name, data=_unpacked(opened, there[name]))
    depends = DEPENDS.search(module.data)
    for needed in (depends[1].decode() if depends else "").split(","):
        if needed:
            _load(opened, there, seen, _plain(needed), loaded, unknown)
    loaded[name] = module


def _unpacked(opened: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    source = opened.extractfile(member)
    assert source is not None
    data = source.read()
    if member.name.endswith(".xz"):
        try:
            unpacker = lzma.LZMADecompressor()
            data = unpacker.decompress(data, LIMIT)
            whole = unpacker.eof
        except lzma.LZMAError as error:
            raise JewelhouseError(f"cannot be unpacked: {error}", where=member.name) from error
        if not whole:
            raise JewelhouseError(f"is cut short or over {LIMIT} bytes", where=member.name)
    if not data.startswith(b"\x7fELF"):
        raise JewelhouseError("is no module", where=member.name)
    return data


def _plain(name: str) -> str:
    """The kernel treats - and _ in names of modules alike."""
    return name.replace("-", "_")
