"""Enclave images of a recipe: kernel, a first ramdisk that boots, a second that holds everything else.

The kernel unpacks the ramdisks one over the other, so a file of the second can take the place of one of the
first while PCR1 stays: keys are bound to PCR0, which covers both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jewelhouse import __version__
from jewelhouse.images import eif_build, kernel, rootfs
from jewelhouse.images.assemble import INIT, Assembled
from jewelhouse.images.recipe import Recipe
from jewelhouse.images.tree import Entry, Kind, Tree, tree, write_cpio
from jewelhouse.model import Platform

# As AWS's own images boot, but with modules, which this kernel keeps its drivers in
# (aws/aws-nitro-enclaves-cli: blobs/*/cmdline).
COMMAND_LINES: Mapping[str, str] = {
    "x86_64": (
        "reboot=k panic=30 console=ttyS0 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd "
        "random.trust_cpu=on"
    ),
    "aarch64": "reboot=k panic=30 console=ttyS0 random.trust_cpu=on",
}
# Debian's kernels for clouds' machines.
KERNELS: Mapping[str, str] = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}
# How the parent and the security module are reached (linux drivers/misc/nsm.c, net/vmw_vsock).
MODULES = ("virtio_mmio", "vmw_vsock_virtio_transport", "nsm")
PLACE = "lib/jewelhouse/modules"


@dataclass(frozen=True, kw_only=True)
class Boot:
    """A kernel as a file with the modules for it, and the packages that both came from."""

    image: Path
    release: str
    modules: tuple[kernel.Module, ...]
    packages: tuple[rootfs.Package, ...]


def boot(
    recipe: Recipe,
    platform: Platform,
    wanted: Sequence[str],
    directory: Path,
    cache: Path,
    report: Callable[[str], None] = lambda line: None,
) -> Boot:
    """The kernel that a recipe asks for, written to `directory`, with the modules `wanted` and its own."""
    settings = recipe.settings.kernel
    if settings.image is not None:
        image = directory / "kernel"
        image.write_bytes(recipe.sources[settings.image])
        own = tuple(
            kernel.Module(name=Path(name).stem, data=recipe.sources[name]) for name in settings.modules
        )
        return Boot(image=image, release=Path(settings.image).name, modules=own, packages=())
    architecture = recipe.settings.targets[platform].architecture
    request = rootfs.Request(
        suite=recipe.settings.suite,
        packages=(settings.package or KERNELS[architecture],),
        architecture=architecture,
        epoch=recipe.epoch,
        archive=recipe.settings.archive,
    )
    base = rootfs.build(request, cache, report)
    found = kernel.extract(base.tar, directory)
    modules = kernel.modules(base.tar, (*wanted, *settings.modules))
    # Most of what the package depends on serves its scripts, none of it reaches the image.
    packages = tuple(package for package in base.packages if package.name.startswith("linux-image"))
    return Boot(image=found.image, release=found.release, modules=modules, packages=packages)


def first_ramdisk(modules: Sequence[kernel.Module]) -> Tree:
    """What boots: the first process, a console to speak on, and the kernel modules."""
    order = "".join(f"{module.name}\n" for module in modules)
    return tree(
        [
            # The interpreter comes with the second ramdisk; both are unpacked before this starts.
            Entry(
                path="init",
                kind=Kind.FILE,
                mode=0o755,
                content=b"#!/usr/bin/python3 -IB\n" + INIT.read_bytes(),
            ),
            Entry(path="dev/console", kind=Kind.CHARACTER, mode=0o600, device=(5, 1)),
            # Spelled out, since a link of this name in the second ramdisk does not replace a folder.
            Entry(path=f"usr/{PLACE}/order", kind=Kind.FILE, mode=0o644, content=order.encode()),
            *(
                Entry(path=f"usr/{PLACE}/{module.name}.ko", kind=Kind.FILE, mode=0o644, content=module.data)
                for module in modules
            ),
        ]
    )


def build(
    recipe: Recipe,
    platform: Platform,
    assembled: Assembled,
    boot: Boot,
    destination: Path,
    signer: tuple[object, object] | None = None,
) -> dict[str, str]:
    """Writes the enclave image, returns its registers. Raises JewelhouseError for parts that do not fit."""
    architecture = recipe.settings.targets[platform].architecture
    more = recipe.settings.kernel.command_line
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".ramdisks-") as temporary:
        ramdisks = []
        for name, files in (("boot", first_ramdisk(boot.modules)), ("workload", assembled.whole)):
            path = Path(temporary) / name
            with path.open("wb") as out:
                write_cpio(files, out)
            ramdisks.append(path)
        return eif_build.build(
            eif_build.Parts(
                kernel=boot.image,
                cmdline=f"{COMMAND_LINES[architecture]} {more}".strip(),
                ramdisks=ramdisks,
                metadata=_metadata(recipe, boot),
                architecture=architecture,
                signer=signer,
            ),
            destination,
        )


def _metadata(recipe: Recipe, boot: Boot) -> dict[str, object]:
    return {
        "ImageName": recipe.name,
        "ImageVersion": recipe.digest.removeprefix("sha256:")[:12],
        "BuildMetadata": {
            "BuildTime": datetime.fromtimestamp(recipe.epoch, UTC).isoformat(),
            "BuildTool": "jewelhouse",
            "BuildToolVersion": __version__,
            "OperatingSystem": f"Debian {recipe.settings.suite}",
            "KernelVersion": boot.release,
        },
        "DockerInfo": {},
        "CustomMetadata": {"recipe": recipe.digest},
    }
