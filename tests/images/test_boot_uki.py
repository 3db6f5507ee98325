"""Unified kernel images of several stubs boot, and the TPM says what was predicted for each."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import booting
import pytest

from jewelhouse.images import esp, kernel, pcrs, rootfs, uki
from jewelhouse.images.tree import Entry, Kind, from_tar, tree, write_cpio

STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
ADDON = "usr/lib/systemd/boot/efi/addonx64.efi.stub"
DONE = "REGISTERS ARE READ"
INIT = f"""#!/bin/sh
mount -t sysfs sysfs /sys
for bank in sha256 sha384; do
    for index in 4 7 11 12; do
        echo "REGISTER $bank PCR$index $(cat /sys/class/tpm/tpm0/pcr-$bank/$index)"
    done
done
echo "{DONE}"
poweroff -f
"""


@dataclass(frozen=True, kw_only=True)
class Parts:
    directory: Path
    kernel: kernel.Kernel
    initrd: Path
    stub: Path
    old: Path
    addon: Path
    ukify: Path

    def build(self, name: str, stub: Path, *options: str) -> Path:
        """With ukify itself, for what this project does not put into images."""
        path = self.directory / f"{name}.efi"
        command = [
            *(sys.executable, self.ukify, "build", "--config=/dev/null", f"--output={path}"),
            *(f"--stub={stub}", f"--linux={self.kernel.image}", f"--initrd={self.initrd}"),
            *("--os-release=ID=x", f"--uname={self.kernel.release}", *options),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return path


@pytest.fixture(scope="module")
def parts(packages, image_cache, tmp_path_factory) -> Parts:
    directory = tmp_path_factory.mktemp("uki")
    busybox = from_tar(packages("busybox-static", "dmsetup").tar)["usr/bin/busybox"]
    names = ("sh", "mount", "cat", "poweroff")
    files = tree(
        [
            Entry(path="init", kind=Kind.FILE, mode=0o755, content=INIT.encode()),
            Entry(path="bin/busybox", kind=Kind.FILE, mode=0o755, content=b"".join(busybox.chunks())),
            *(Entry(path=f"bin/{name}", kind=Kind.LINK, mode=0o777, target="busybox") for name in names),
            Entry(path="sys", kind=Kind.DIRECTORY, mode=0o755),
            Entry(path="dev", kind=Kind.DIRECTORY, mode=0o755),
            Entry(path="dev/console", kind=Kind.CHARACTER, mode=0o600, device=(5, 1)),
        ]
    )
    with (directory / "initrd").open("wb") as out:
        write_cpio(files, out)
    old = rootfs.build(rootfs.Request(suite="bookworm", packages=("systemd-boot-efi",)), image_cache)

    def taken(tar: Path, path: str, name: str) -> Path:
        (directory / name).write_bytes(b"".join(from_tar(tar)[path].chunks()))
        return directory / name

    new = packages("systemd-boot-efi", "systemd-ukify").tar
    return Parts(
        directory=directory,
        kernel=kernel.extract(packages("linux-image-cloud-amd64").tar, directory),
        initrd=directory / "initrd",
        stub=taken(new, STUB, "stub"),
        old=taken(old.tar, STUB, "old-stub"),
        addon=taken(new, ADDON, "addon"),
        ukify=taken(new, "usr/bin/ukify", "ukify"),
    )


def measured(image: Path) -> dict[str, dict[str, str]]:
    """What a machine that starts the image has in its registers."""
    disk = image.with_suffix(".raw")
    with disk.open("wb") as out:
        esp.write(image, out, serial=1)
    console = booting.uefi(disk, until=DONE)
    found: dict[str, dict[str, str]] = {}
    for bank, name, value in re.findall(r"^REGISTER (\w+) (PCR\d+) ([0-9A-F]+)$", console, re.MULTILINE):
        found.setdefault(bank, {})[name] = value.lower()
    return found


def test_every_section_is_measured_as_predicted(parts):
    """Two profiles, of which the first starts, and sections that this project's own images do not have."""
    (parts.directory / "microcode").write_bytes((parts.directory / "initrd").read_bytes())
    (parts.directory / "hwids").write_bytes(bytes(28))
    rescue = parts.directory / "rescue.efi"
    subprocess.run(
        [
            *(sys.executable, parts.ukify, "build", "--config=/dev/null", f"--stub={parts.addon}"),
            *("--profile=ID=rescue", "--cmdline=init=/bin/sh", f"--output={rescue}"),
        ],
        check=True,
        capture_output=True,
    )
    image = parts.build(
        "every",
        parts.stub,
        "--cmdline=console=ttyS0 panic=-1",
        f"--microcode={parts.directory / 'microcode'}",
        f"--section=.hwids:@{parts.directory / 'hwids'}",
        "--section=.pcrsig:{}",
        "--section=.pcrpkey:none",
        "--profile=ID=main",
        f"--join-profile={rescue}",
    )
    sections = set(uki.read(image).sections)
    assert {".ucode", ".hwids", ".pcrsig", ".pcrpkey", ".profile"} <= sections
    assert measured(image) == pcrs.predict(image)


def test_the_stub_of_another_version_measures_as_predicted(parts):
    # No line of its own in .sbat: more than was there would lie over what follows it in this stub.
    image = parts.build("old", parts.old, "--cmdline=console=ttyS0 panic=-1", "--sbat=sbat,1,SBAT Version")
    assert uki.read(image).stub.startswith("252.")
    assert measured(image) == pcrs.predict(image)
