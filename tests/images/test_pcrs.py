"""Predicted TPM registers: as systemd's own tool computes them, and changing with what they should."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import making_pe
import pytest
from making_pe import KERNEL

from jewelhouse.images import pcrs, uki

REGISTERS = {"PCR4", "PCR7", "PCR11", "PCR12"}
MEASURE = "usr/lib/systemd/systemd-measure"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
# systemd-measure of 257 takes these two options for each other (seen with 257.13); the stub does not.
OPTIONS = {"hwids": "dtbauto"}


def put(directory: Path, data: bytes) -> Path:
    path = directory / "image.efi"
    path.write_bytes(data)
    return path


def predicted(directory: Path, data: bytes) -> dict[str, dict[str, str]]:
    return pcrs.predict(put(directory, data))


def differing(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> set[str]:
    """Registers that differ, in both banks alike."""
    found = [{name for name in REGISTERS if before[bank][name] != after[bank][name]} for bank in pcrs.BANKS]
    assert found[0] == found[1], "the banks disagree"
    return found[0]


@pytest.fixture(scope="module")
def systemd_measure(packages, tmp_path_factory):
    """systemd's own tool of the suite that images are built of, run with the libraries of that suite."""
    if platform.machine() != "x86_64":
        pytest.skip("systemd-measure is taken from packages for x86-64")
    there = tmp_path_factory.mktemp("systemd")
    with tarfile.open(packages("systemd").tar) as tar:
        wanted = [one for one in tar if one.name.removeprefix("./").startswith((MEASURE, f"{LIBRARIES}/"))]
        tar.extractall(there, wanted, filter="tar")
    libraries = there / LIBRARIES
    command = [
        *(libraries / "ld-linux-x86-64.so.2", "--library-path", f"{libraries}:{libraries / 'systemd'}"),
        *(there / MEASURE, "calculate", "--phase=:", "--json=short", "--bank=sha256", "--bank=sha384"),
    ]

    def calculate(sections: dict[str, bytes]) -> dict[str, str]:
        for name, data in sections.items():
            (there / name).write_bytes(data)
        done = subprocess.run(
            [*command, *(f"--{OPTIONS.get(name, name)}={there / name}" for name in sections)],
            capture_output=True,
            text=True,
        )
        assert not done.returncode, done.stderr
        return {bank: values[0]["hash"] for bank, values in json.loads(done.stdout).items()}

    return calculate


SECTIONS = {
    "linux": KERNEL,
    "osrel": b"ID=x\n",
    "cmdline": b"quiet",
    "initrd": b"ramdisk" * 1000,
    "ucode": b"microcode",
    "splash": b"BM" + bytes(100),
    "dtb": b"\xd0\r\xfe\xed",
    "uname": b"6.12",
    "sbat": b"sbat,1\n\0",
    "pcrpkey": b"-----BEGIN PUBLIC KEY-----\n",
    "profile": b"ID=main",
    "hwids": b"\1\2\3",
}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["linux", "cmdline"], id="least"),
        pytest.param(["linux", "osrel", "cmdline", "initrd", "uname", "sbat"], id="as-built-here"),
        pytest.param(list(SECTIONS), id="every-section"),
        pytest.param(list(reversed(SECTIONS)), id="every-section-in-another-order"),
    ],
)
def test_pcr11_is_what_systemd_measure_calculates(tmp_path, systemd_measure, names):
    sections = [(f".{name}", SECTIONS[name]) for name in names if name != "profile"]
    # Of several profiles the first is used, and what is before it is for all.
    if "profile" in names:
        sections.append((".profile", SECTIONS["profile"]))
        sections += [(".profile", b"ID=other"), (".cmdline", b"of the other")]
    found = predicted(tmp_path, making_pe.uki(*sections))
    wanted = systemd_measure({name: SECTIONS[name] for name in names})
    assert {bank: values["PCR11"] for bank, values in found.items()} == wanted


def extended(bank: str, *digests: bytes) -> str:
    value = bytes(hashlib.new(bank).digest_size)
    for digest in digests:
        value = hashlib.new(bank, value + digest).digest()
    return value.hex()


# What of SECTIONS each version of the stub measures, written down from systemd's src/fundamental/tpm-pcr.h
# and uki.h of each release, apart from the table in the code.
V252 = "linux osrel cmdline initrd splash dtb pcrpkey"
V254 = "linux osrel cmdline initrd splash dtb uname sbat pcrpkey"
V256 = "linux osrel cmdline initrd ucode splash dtb uname sbat pcrpkey"
V257 = "linux osrel cmdline initrd ucode splash dtb uname sbat pcrpkey profile hwids"
MEASURED = {252: V252, 253: V252, 254: V254, 255: V254, 256: V256, 257: V257, 258: V257, 259: V257}


@pytest.mark.parametrize("version", uki.RULES)
def test_pcr11_has_what_the_stub_of_that_version_knows(tmp_path, version):
    sections = [(f".{name}", data) for name, data in SECTIONS.items()]
    found = predicted(tmp_path, making_pe.uki(*sections, (".pcrsig", b"{}"), stub=str(version)))
    for bank in pcrs.BANKS:
        events = []
        for name in MEASURED[version].split():
            events += [hashlib.new(bank, f".{name}\0".encode()).digest()]
            events += [hashlib.new(bank, SECTIONS[name]).digest()]
        assert found[bank]["PCR11"] == extended(bank, *events)


def authenticode(data: bytes, bank: str) -> bytes:
    """Of an image without certificates."""
    left = bytearray(data)
    del left[making_pe.SECURITY_AT : making_pe.SECURITY_AT + 8]
    del left[making_pe.CHECKSUM_AT : making_pe.CHECKSUM_AT + 4]
    return hashlib.new(bank, left).digest()


@pytest.mark.parametrize(
    ("stub", "kernel"),
    [
        *((f"{version}.1", True) for version in range(252, 258)),
        ("257~rc2-3", True),
        ("258~rc1", False),
        ("259", False),
    ],
)
def test_the_stubs_version_decides_whether_pcr4_has_the_kernel(tmp_path, stub, kernel):
    data = making_pe.uki(stub=stub)
    found = predicted(tmp_path, data)
    for bank in pcrs.BANKS:
        events = [
            hashlib.new(bank, b"Calling EFI Application from Boot Option").digest(),
            hashlib.new(bank, bytes(4)).digest(),
            authenticode(data, bank),
        ]
        events += [authenticode(KERNEL, bank)] if kernel else []
        assert found[bank]["PCR4"] == extended(bank, *events)


def test_pcr7_without_secure_boot_is_the_same_for_all_images(tmp_path):
    """The value that OVMF machines without keys report, whatever they start."""
    found = predicted(tmp_path, making_pe.uki())
    assert found["sha256"]["PCR7"] == "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068"
    assert found == {**found, **{bank: {**found[bank], "PCR12": "00" * size} for bank, size in SIZES.items()}}


SIZES = {"sha256": 32, "sha384": 48}
BASE = [(f".{name}", data) for name, data in SECTIONS.items() if name != "profile"]


@pytest.mark.parametrize("name", [name for name in SECTIONS if name not in ("profile", "linux")])
def test_one_changed_byte_changes_its_registers_and_no_others(tmp_path, name):
    changed = [(one, data[:-1] + bytes([data[-1] ^ 1]) if one == f".{name}" else data) for one, data in BASE]
    before, after = predicted(tmp_path, making_pe.uki(*BASE)), predicted(tmp_path, making_pe.uki(*changed))
    assert differing(before, after) == {"PCR4", "PCR11"}


OTHER_KERNEL = making_pe.image([(".text", b"kernel" * 99 + b"kernem")])


@pytest.mark.parametrize(
    ("data", "registers"),
    [
        pytest.param(making_pe.uki(kernel=OTHER_KERNEL), {"PCR4", "PCR11"}, id="kernel"),
        pytest.param(making_pe.uki(stub="257.13-2"), {"PCR4"}, id="stub"),
        pytest.param(making_pe.uki((".pcrsig", b"{}")), {"PCR4"}, id="signature-of-pcr11"),
        pytest.param(making_pe.uki((".splash", b"")), {"PCR4"}, id="empty-section"),
        pytest.param(making_pe.uki((".initrd", b"x")), {"PCR4", "PCR11"}, id="ramdisk"),
        pytest.param(
            making_pe.uki((".cmdline", b"quiet\0")), {"PCR4", "PCR11"}, id="nul-behind-the-command-line"
        ),
        pytest.param(making_pe.uki(), set(), id="nothing"),
    ],
)
def test_what_changes_shows_in_its_registers(tmp_path, data, registers):
    assert differing(predicted(tmp_path, making_pe.uki()), predicted(tmp_path, data)) == registers


def test_a_large_image_is_measured_in_little_memory(tmp_path):
    path = put(tmp_path, making_pe.uki((".initrd", bytes(64 << 20))))
    tracemalloc.start()
    try:
        pcrs.predict(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
