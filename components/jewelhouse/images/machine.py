"""Measured disks of a recipe, for hosts with a TPM: root file system, unified kernel image, registers."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import disk, enclave, initrd, pcrs, rootfs, uki
from jewelhouse.images.assemble import FIRST, Assembled
from jewelhouse.images.recipe import Recipe
from jewelhouse.model import Platform

# The stub and the tool that joins kernel, ramdisk and command line to it.
PACKAGES = ("systemd-boot-efi", "systemd-ukify")
STUBS: Mapping[str, str] = {"x86_64": "linuxx64.efi.stub", "aarch64": "linuxaa64.efi.stub"}
STUB = "usr/lib/systemd/boot/efi"
UKIFY = "usr/lib/systemd/ukify"
# A machine that panics goes off; names of network interfaces do not depend on where a card sits.
COMMAND_LINE = "console=ttyS0 panic=-1 net.ifnames=0 lockdown=confidentiality"
# The disk's unified kernel image, kept beside it: what a firmware starts and `image measure` reads.
UKI = "image.efi"
# What the key service of a platform compares: AWS, in NitroTPM's SHA-384 bank; without Secure Boot PCR7 says
# nothing (KMS developer guide, condition keys for attested platforms, 2026-10). No other compares any.
COMPARED: Mapping[Platform, tuple[str, tuple[str, ...]]] = {
    Platform.AWS_NITROTPM: ("sha384", ("PCR4", "PCR12")),
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Registers of a built disk by bank and name, Secure Boot off, and what else went into it."""

    registers: Mapping[str, Mapping[str, str]]
    inputs: Mapping[str, Mapping[str, str]]


def build(
    recipe: Recipe,
    platform: Platform,
    assembled: Assembled,
    destination: Path,
    cache: Path,
    report: Callable[[str], None] = lambda line: None,
) -> Machine:
    """Writes the raw disk, and its unified kernel image beside it.

    Raises JewelhouseError for what is missing or does not fit.
    """
    architecture = recipe.settings.targets[platform].architecture
    if architecture not in STUBS:
        raise JewelhouseError(f"disks are not built for {architecture}", where="architecture")
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".disk-") as temporary:
        directory = Path(temporary)
        boot = enclave.boot(
            recipe, platform, initrd.module_names(platform, architecture), directory, cache, report
        )
        joining = _packages(recipe, PACKAGES, architecture, cache, report)
        small = _packages(recipe, initrd.PACKAGES, architecture, cache, report)
        report("root file system")
        root = disk.make_root(assembled.whole, directory, seed=recipe.digest, epoch=recipe.epoch)
        initrd.build(
            directory / "initrd",
            tools=small.tar,
            modules=boot.modules,
            command=("/usr/bin/python3", "-IB", f"/{FIRST}"),
        )
        stub = _taken(joining.tar, f"{STUB}/{STUBS[architecture]}", directory)
        image = directory / "image.efi"
        words = (COMMAND_LINE, root.command_line, recipe.settings.kernel.command_line)
        uki.build(
            uki.Parts(
                stub=stub,
                kernel=boot.image,
                initrd=directory / "initrd",
                cmdline=" ".join(word for word in words if word),
                os_release=f"ID=jewelhouse\nNAME={recipe.name}\nVERSION_ID={recipe.digest[7:19]}\n",
                uname=boot.release,
            ),
            image,
            ukify=_taken(joining.tar, UKIFY, directory),
        )
        report("disk")
        disk.build(disk.Disk(uki=image, root=root, architecture=architecture), destination)
        registers = pcrs.predict(image)
        image.replace(destination.with_name(UKI))
    wanted = {*PACKAGES, *initrd.PACKAGES}
    used = {one.name: one for one in (*boot.packages, *joining.packages, *small.packages)}
    return Machine(
        registers=registers,
        inputs={
            "kernel": {
                name: f"{one.version} sha256:{one.sha256}"
                for name, one in sorted(used.items())
                if name in wanted or name.startswith("linux-image")
            },
        },
    )


def _packages(
    recipe: Recipe,
    names: tuple[str, ...],
    architecture: str,
    cache: Path,
    report: Callable[[str], None],
) -> rootfs.RootFs:
    request = rootfs.Request(
        suite=recipe.settings.suite,
        packages=names,
        architecture=architecture,
        epoch=recipe.epoch,
        archive=recipe.settings.archive,
    )
    return rootfs.build(request, cache, report)


def _taken(tar: Path, name: str, directory: Path) -> Path:
    """A file out of a tar, through one symbolic link."""
    with tarfile.open(tar) as opened:
        members = {member.name.removeprefix("./"): member for member in opened}
        member = members.get(name)
        if member is not None and member.issym():
            member = members.get(str((Path("/") / Path(name).parent / member.linkname).resolve())[1:])
        source = opened.extractfile(member) if member is not None and member.isreg() else None
        if source is None:
            raise JewelhouseError(f"has no {name}", where="packages", remedy=", ".join(PACKAGES))
        path = directory / Path(name).name
        path.write_bytes(source.read())
    return path
