"""Measured disks boot: firmware, kernel and root file system as a cloud would start them, with a TPM that
says what was measured, compared with what was predicted from the bytes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import booting
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from jewelhouse.images import disk, gpt, initrd, kernel, machine, pcrs, secure_boot, tools, uki
from jewelhouse.images.tree import Entry, Kind, from_tar, tree
from jewelhouse.model import Platform

CMDLINE = machine.COMMAND_LINE
REGISTERS = ("PCR4", "PCR7", "PCR11", "PCR12")
# The first process of the root file system: says what the TPM has and switches off.
FIRST = """#!/bin/sh
for bank in sha256 sha384; do
    for index in 4 7 11 12; do
        echo "REGISTER $bank PCR$index $(cat /sys/class/tpm/tpm0/pcr-$bank/$index)"
    done
done
while read -r device place kind options rest; do echo "MOUNT $place $kind $options"; done < /proc/mounts
for path in / /usr /run /tmp /var /var/tmp; do
    touch $path/written 2> /dev/null && echo "WRITABLE $path"
done
for process in /proc/[0-9]*; do
    line=$(tr '\\0' ' ' < $process/cmdline)
    [ -n "$line" ] && echo "PROCESS $line"
done
echo "COMMAND LINE $(cat /proc/cmdline)"
echo "WORKLOAD STARTED"
for word in $(cat /proc/cmdline); do
    case "$word" in corrupt=*)
        printf X | dd of=/dev/nvme0n1p2 bs=1 seek=${word#*=} conv=notrunc,fsync
        echo 3 > /proc/sys/vm/drop_caches
        cat /usr/share/nobody-reads-this > /dev/null
        echo "STILL RUNNING"
    esac
done
poweroff -f
"""
DONE = "WORKLOAD STARTED"


def file(path, content, mode=0o644):
    return Entry(path=path, kind=Kind.FILE, mode=mode, content=content)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a disk is made of, with the tools that make it."""

    directory: Path
    kernel: kernel.Kernel
    initrd: Path
    root: disk.Root
    stub: Path
    addon: Path
    ukify: Path

    def boot_file(self, name: str, *, cmdline: str | None = None, signer=None, **other: Path) -> Path:
        path = self.directory / f"{name}.efi"
        wanted = uki.Parts(
            stub=self.stub,
            kernel=other.get("kernel", self.kernel.image),
            initrd=other.get("initrd", self.initrd),
            cmdline=f"{CMDLINE} {self.root.command_line}" if cmdline is None else cmdline,
            os_release="ID=jewelhouse\n",
            uname=self.kernel.release,
        )
        uki.build(wanted, path, ukify=self.ukify, signer=signer)
        return path

    def disk(self, boot_file: Path) -> Path:
        path = boot_file.with_suffix(".raw")
        disk.build(disk.Disk(uki=boot_file, root=self.root), path)
        return path


@pytest.fixture(scope="module")
def parts(packages, tmp_path_factory):
    directory = tmp_path_factory.mktemp("disk")
    kernels = packages("linux-image-cloud-amd64").tar
    programs = packages(*initrd.PACKAGES).tar
    made = from_tar(packages("systemd-boot-efi", "systemd-ukify").tar)
    names = initrd.module_names(Platform.AWS_NITROTPM)
    initrd.build(
        directory / "initrd",
        tools=programs,
        modules=kernel.modules(kernels, names),
        command=("/usr/bin/first",),
    )
    busybox = b"".join(from_tar(programs)[initrd.BUSYBOX].chunks())
    files = tree(
        [
            *(Entry(path=path, kind=Kind.DIRECTORY, mode=0o755) for path in disk.MOUNTED),
            *(
                Entry(path=f"bin/{name}", kind=Kind.LINK, mode=0o777, target="busybox")
                for name in ("sh", "cat", "dd", "poweroff", "touch", "tr")
            ),
            file("bin/busybox", busybox, 0o755),
            file("usr/bin/first", FIRST.encode(), 0o755),
            file("usr/share/nobody-reads-this", b"quiet" * 100_000),
        ]
    )

    def taken(path: str, name: str) -> Path:
        (directory / name).write_bytes(b"".join(made[path].chunks()))
        return directory / name

    return Parts(
        directory=directory,
        kernel=kernel.extract(kernels, directory),
        initrd=directory / "initrd",
        root=disk.make_root(files, directory, seed="sample", epoch=1_767_225_600),
        stub=taken("usr/lib/systemd/boot/efi/linuxx64.efi.stub", "stub"),
        addon=taken("usr/lib/systemd/boot/efi/addonx64.efi.stub", "addon"),
        ukify=taken("usr/bin/ukify", "ukify"),
    )


@pytest.fixture(scope="module")
def boot_file(parts):
    return parts.boot_file("image")


@pytest.fixture(scope="module")
def image(parts, boot_file):
    return parts.disk(boot_file)


@pytest.fixture(scope="module")
def console(image):
    """What the console of the untouched image says."""
    return booting.uefi(image, until=DONE)


def reported(console: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for bank, name, value in re.findall(r"^REGISTER (\w+) (PCR\d+) ([0-9A-F]+)$", console, re.MULTILINE):
        found.setdefault(bank, {})[name] = value.lower()
    return found


def of_interest(predicted: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {bank: {name: values[name] for name in REGISTERS} for bank, values in predicted.items()}


def differing(before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Registers that differ, in both banks alike."""
    found = [{name for name in REGISTERS if before[bank][name] != after[bank][name]} for bank in before]
    assert all(one == found[0] for one in found), "the banks disagree"
    return found[0]


def test_the_registers_inside_are_those_that_were_predicted(console, boot_file):
    assert reported(console) == of_interest(pcrs.predict(boot_file))
    assert set(reported(console)) == {"sha256", "sha384"}


def test_the_root_is_read_only_and_state_is_in_memory(console):
    mounts = dict(re.findall(r"^MOUNT (\S+) (\S+ \S+)$", console, re.MULTILINE))
    assert mounts["/"].startswith("erofs ro,nosuid,nodev")
    assert {path: mounts[path].split()[0] for path in ("/run", "/tmp", "/var")} == dict.fromkeys(
        ("/run", "/tmp", "/var"), "tmpfs"
    )
    assert re.findall(r"^WRITABLE (\S+)$", console, re.MULTILINE) == ["/run", "/tmp", "/var", "/var/tmp"]


def test_nothing_runs_but_the_first_process(console):
    processes = re.findall(r"^PROCESS (.*?) *$", console, re.MULTILINE)
    assert processes[0] == "/bin/sh /usr/bin/first"
    # The subshell that reads the list, and the program that it reads with.
    assert set(processes) <= {"/bin/sh /usr/bin/first", "tr \\0"}


def test_the_kernel_has_the_measured_command_line_and_no_other(console, parts):
    assert re.findall(r"^COMMAND LINE (.*)$", console, re.MULTILINE) == [
        f"{CMDLINE} {parts.root.command_line}"
    ]


def flipped(path: Path, offset: int, to: Path) -> Path:
    shutil.copy(path, to)
    with to.open("r+b") as opened:
        opened.seek(offset)
        (byte,) = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte ^ 1]))
    return to


def changed(parts: Parts, what: str) -> Path:
    if what == "command line":
        return parts.boot_file("cmdline", cmdline=f"{CMDLINE} {parts.root.command_line} ")
    source = parts.initrd if what == "initrd" else parts.kernel.image
    # The kernel's own version string, and a name inside the ramdisk.
    needle = b"modules/order" if what == "initrd" else b"debian-kernel@lists.debian.org"
    other = flipped(source, source.read_bytes().index(needle), parts.directory / f"{what}-changed")
    return parts.boot_file(what, **{what: other})


@pytest.mark.parametrize("what", ["command line", "initrd", "kernel"])
def test_a_changed_byte_shows_in_the_registers_of_the_boot_file(parts, boot_file, what):
    before, after = pcrs.predict(boot_file), pcrs.predict(changed(parts, what))
    assert differing(before, after) == {"PCR4", "PCR11"}


@pytest.fixture(scope="module")
def corrupted(parts):
    """A boot file that has the first process change the disk below itself, and the console of it."""
    at = parts.root.data.read_bytes().index(b"quietquiet")
    other = parts.boot_file("corrupt", cmdline=f"{CMDLINE} {parts.root.command_line} corrupt={at}")
    return other, booting.uefi(parts.disk(other), until="Kernel panic.*|STILL RUNNING")


def test_another_command_line_is_measured_as_predicted(corrupted, console):
    other, said = corrupted
    assert reported(said) == of_interest(pcrs.predict(other))
    assert differing(reported(console), reported(said)) == {"PCR4", "PCR11"}


def test_a_block_that_is_changed_while_the_workload_runs_stops_the_machine(corrupted):
    said = corrupted[1]
    assert DONE in said
    assert "Kernel panic - not syncing: dm-verity device corrupted" in said
    assert "STILL RUNNING" not in said


def addon(parts: Parts) -> Path:
    """A file that adds a word to the command line."""
    path = parts.directory / "more.addon.efi"
    command = [
        sys.executable,
        parts.ukify,
        "build",
        "--stub",
        parts.addon,
        "--cmdline=added=1",
        "--output",
        path,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return path


def credential(parts: Parts) -> Path:
    path = parts.directory / "more.cred"
    path.write_text("a word for the first process")
    return path


@pytest.mark.parametrize(
    ("added", "registers", "command_line"),
    [
        # Firmware starts it as a program, so it measures it as one.
        pytest.param(addon, {"PCR4", "PCR12"}, r" added=1$", id="command-line-by-an-addon"),
        # A policy that pins PCR4 and not PCR12 opens to this one (GHSA-xrv8-2pf5-f3q7).
        pytest.param(credential, {"PCR12"}, r"", id="credential-that-pcr4-does-not-know"),
    ],
)
def test_what_lies_beside_the_boot_file_shows_in_pcr12(parts, image, console, added, registers, command_line):
    other = parts.directory / "more.raw"
    shutil.copy(image, other)
    place = f"{other}@@{gpt.read(other).partitions[0].offset}"
    for tool in ("mmd", "mcopy"):
        if tools.path(tool) is None:
            pytest.skip(f"{tool} is not installed: install mtools")
    subprocess.run(["mmd", "-i", place, "::EFI/BOOT/BOOTX64.EFI.extra.d"], check=True)
    subprocess.run(["mcopy", "-i", place, added(parts), "::EFI/BOOT/BOOTX64.EFI.extra.d/"], check=True)
    found = booting.uefi(other, until=DONE)
    assert re.search(rf"^COMMAND LINE .*{command_line}", found, re.MULTILINE)
    assert differing(reported(console), reported(found)) == registers


@pytest.mark.parametrize(
    ("index", "needle"),
    [
        pytest.param(1, b"quietquiet", id="file-that-nobody-reads"),
        pytest.param(2, None, id="hash-tree"),
    ],
)
def test_a_tampered_root_does_not_start_the_workload(parts, image, index, needle):
    data = image.read_bytes()
    start = gpt.read(image).partitions[index].offset
    # Behind the superblock of the hash tree, which nothing reads.
    at = data.index(needle, start) if needle else start + 4096
    tampered = flipped(image, at, parts.directory / "tampered.raw")
    found = booting.uefi(tampered, until="reboot: Power down|WORKLOAD")
    assert "jewelhouse: the root file system is not the measured one; switching off" in found
    assert "WORKLOAD" not in found


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    """The key and certificate that Debian's firmware with enrolled test keys trusts."""
    certificate, key = booting.SNAKEOIL
    if not key.exists():
        pytest.skip(f"{key} is not there: install ovmf")
    directory = tmp_path_factory.mktemp("keys")
    loaded = serialization.load_pem_private_key(key.read_bytes(), b"snakeoil")
    (directory / "key.pem").write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    (directory / "cert.pem").write_bytes(parsed.public_bytes(serialization.Encoding.PEM))
    return directory / "key.pem", directory / "cert.pem"


@pytest.fixture(scope="module")
def keys():
    """What the firmware with enrolled keys has."""
    if not booting.ENROLLED.exists():
        pytest.skip(f"{booting.ENROLLED} is not there: install ovmf")
    there = booting.variables(booting.ENROLLED)
    return secure_boot.SecureBoot(
        platform_key=there["PK"], exchange_keys=there["KEK"], allowed=there["db"], forbidden=there["dbx"]
    )


def test_with_secure_boot_the_registers_are_those_that_were_predicted(parts, signer, keys, console):
    signed = parts.boot_file("signed", signer=signer)
    said = booting.uefi(parts.disk(signed), variables=booting.ENROLLED, secure=True, until=DONE)
    predicted = of_interest(pcrs.predict(signed, secure_boot=keys))
    assert reported(said) == predicted
    assert {"PCR4", "PCR7"} <= differing(reported(console), predicted)


def test_with_secure_boot_nothing_unsigned_starts(image, signer):
    said = booting.uefi(image, variables=booting.ENROLLED, secure=True, until="Access Denied|WORKLOAD")
    assert "WORKLOAD" not in said
