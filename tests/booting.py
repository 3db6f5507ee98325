"""Machines that boot images in tests: QEMU without hardware virtualisation, firmware and TPM in software.

Every helper returns what the serial console said; a test skips, by name, where a tool is not there.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

QEMU = "qemu-system-x86_64"
# Debian's package ovmf; the same files on Ubuntu.
FIRMWARE = Path("/usr/share/OVMF")
# Firmware variables with keys that everybody has, and these keys (their password is `snakeoil`).
ENROLLED = FIRMWARE / "OVMF_VARS_4M.snakeoil.fd"
SNAKEOIL = Path("/usr/share/ovmf/PkKek-1-snakeoil.pem"), Path("/usr/share/ovmf/PkKek-1-snakeoil.key")
# edk2 MdeModulePkg/Include/Guid/VariableFormat.h: where a store of variables begins behind the header of its
# volume, one variable in it, and the state of those that count.
STORE_AT = 28
VARIABLE = struct.Struct("<HBxI8x16x4xII16s")
VARIABLE_MARK = 0x55AA
VARIABLE_ADDED = 0x3F
# Emulation ends a boot in 5 to 15 s; the rest is for a machine that does other work.
TIMEOUT = 120
# The newest that this emulation has; an older one lacks what Debian's kernels are built for.
CPU = ("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1")
# No devices that nobody asked for, and a machine that stops where it would start again.
BARE = ("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot")


class BootError(AssertionError):
    """A machine that did not say in time what was waited for; the message has its console."""


def microvm(
    kernel: Path, initrd: Path, cmdline: str, *, memory: int = 1024, until: str, timeout: float = TIMEOUT
) -> str:
    """Boots a kernel with its ramdisks the way an enclave does, without firmware and disks.

    `memory` in MiB; `until`: what ends the boot, a pattern over the console. Raises BootError.
    """
    return _console(
        [
            *("-M", "microvm,acpi=off,rtc=on,pit=on,pic=on,isa-serial=on", "-m", str(memory)),
            *("-kernel", str(kernel), "-initrd", str(initrd), "-append", cmdline),
        ],
        until,
        timeout,
    )


def uefi(
    disk: Path,
    *,
    variables: Path | None = None,
    secure: bool = False,
    network: str = "",
    memory: int = 1024,
    until: str,
    timeout: float = TIMEOUT,
) -> str:
    """Boots a disk on a machine with UEFI firmware and a TPM whose SHA-256 and SHA-384 banks are active.

    `variables`: the firmware's, with the keys that are enrolled; `secure`: the firmware that asks for a
    signature once there are keys. `network`: model of a network card, whose network has DHCP and no way out.
    The disk itself is not written to. Raises BootError.
    """
    code = FIRMWARE / ("OVMF_CODE_4M.secboot.fd" if secure else "OVMF_CODE_4M.fd")
    variables = variables or FIRMWARE / "OVMF_VARS_4M.fd"
    for needed in (code, variables):
        if not needed.exists():
            pytest.skip(f"{needed} is not there: install ovmf")
    with tempfile.TemporaryDirectory() as temporary, _tpm(Path(temporary)) as channel:
        own = Path(temporary) / "variables"
        shutil.copy(variables, own)
        machine = "q35,smm=on" if secure else "q35"
        return _console(
            [
                *("-M", machine, "-m", str(memory)),
                *(("-global", "driver=cfi.pflash01,property=secure,value=on") if secure else ()),
                *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"),
                *("-drive", f"if=pflash,format=raw,unit=1,file={own}"),
                *("-chardev", f"socket,id=tpm,path={channel}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"),
                *("-device", "tpm-tis,tpmdev=tpm0"),
                *("-drive", f"if=none,id=disk,format=raw,file={disk},snapshot=on"),
                *("-device", "nvme,drive=disk,serial=jewelhouse"),
                *(("-nic", f"user,restrict=on,model={network}") if network else ()),
            ],
            until,
            timeout,
        )


def variables(store: Path) -> dict[str, bytes]:
    """What firmware variables are in a file, by name."""
    data = store.read_bytes()
    at = struct.unpack_from("<H", data, 48)[0] + STORE_AT
    found = {}
    while True:
        mark, state, _, name, length, _ = VARIABLE.unpack_from(data, at)
        if mark != VARIABLE_MARK:
            return found
        start = at + VARIABLE.size
        if state == VARIABLE_ADDED:
            text = data[start : start + name].decode("utf-16-le").rstrip("\0")
            found[text] = data[start + name : start + name + length]
        at = -(-(start + name + length) // 4) * 4


@contextmanager
def _tpm(directory: Path) -> Iterator[Path]:
    """A TPM of its own for one machine; its socket."""
    for tool in ("swtpm", "swtpm_setup"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: install swtpm and swtpm-tools")
    state = directory / "tpm"
    state.mkdir()
    subprocess.run(
        ["swtpm_setup", "--tpm2", "--tpmstate", state, "--pcr-banks", "sha256,sha384", "--overwrite"],
        check=True,
        capture_output=True,
    )
    channel = directory / "tpm.socket"
    tpm = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={channel}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            if channel.exists():
                break
            time.sleep(0.05)
        yield channel
    finally:
        tpm.terminate()
        tpm.wait()


def _console(arguments: Sequence[str], until: str, timeout: float) -> str:
    """Runs a machine until its console shows `until`, it ends by itself, or time is up."""
    qemu = shutil.which(QEMU)
    if qemu is None:
        pytest.skip(f"{QEMU} is not installed: install qemu-system-x86")
    wanted = re.compile(until)
    end = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryFile() as said:
        serial = Path(temporary) / "serial"
        machine = subprocess.Popen(
            [qemu, *BARE, *CPU, *arguments, "-serial", f"file:{serial}"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            ended = False
            while True:
                console = _text(serial)
                if wanted.search(console):
                    return console
                if ended or time.monotonic() > end:
                    break
                ended = machine.poll() is not None
                time.sleep(0.1)
        finally:
            machine.kill()
            machine.wait()
        said.seek(0)
        raise BootError(
            f"the console never showed {until!r}\n{console[-6000:]}\n"
            f"{said.read().decode('utf-8', 'replace')[-1000:]}"
        )


def _text(serial: Path) -> str:
    if not serial.exists():
        return ""
    return serial.read_bytes().decode("utf-8", "replace").replace("\r", "")
