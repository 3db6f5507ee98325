"""Enclave images boot: kernel and ramdisks cut from the file start as a machine without firmware and disks.

What measures an enclave is Amazon's hardware; here it is shown that what the registers cover is what runs,
and what happens to an image whose PCR1 alone is looked at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import booting
import pytest

from jewelhouse.images import assemble, eif, eif_build, enclave, kernel
from jewelhouse.images.eif import SectionKind
from jewelhouse.images.tree import Entry, Kind, from_tar, tree, write_cpio

WORKLOAD = """
import os
print("WORKLOAD runs as process", os.getpid(), "with", open("/etc/secret-of-the-model").read(), flush=True)
"""
SETTINGS = {
    "name": "sample",
    "platform": "aws-enclave",
    "before": [],
    "run": ["/usr/bin/python3", "-IB", "/usr/lib/workload.py"],
    "environment": {},
}
ENDED = "the guest ended with|TAKEN OVER|Kernel panic"


def text(path, content, mode=0o644):
    return Entry(path=path, kind=Kind.FILE, mode=mode, content=content.encode())


@dataclass(frozen=True, kw_only=True)
class Image:
    path: Path
    registers: dict[str, str]


@pytest.fixture(scope="module")
def parts(packages, tmp_path_factory):
    """Kernel, first ramdisk and the tree of the workload."""
    directory = tmp_path_factory.mktemp("enclave")
    tar = packages("linux-image-cloud-amd64").tar
    first = enclave.first_ramdisk(kernel.modules(tar, enclave.MODULES))
    files = from_tar(packages("python3").tar)
    links = (
        Entry(path=path, kind=Kind.LINK, mode=0o777, target=target)
        for path, target in assemble.MERGED.items()
        if path not in files
    )
    workload = tree(
        [
            *files.values(),
            *links,
            text("etc/jewelhouse/image.json", json.dumps(SETTINGS)),
            text("etc/secret-of-the-model", "42"),
            text("usr/lib/workload.py", WORKLOAD),
        ]
    )
    return directory, kernel.extract(tar, directory).image, first, workload


@pytest.fixture(scope="module")
def made(parts):
    directory, image, first, workload = parts

    def build(name, extra=(), cmdline=enclave.COMMAND_LINES["x86_64"], below=()):
        ramdisks = []
        trees = (tree([*first.values(), *below]), tree([*workload.values(), *extra]))
        for index, files in enumerate(trees):
            path = directory / f"{name}-{index}"
            with path.open("wb") as out:
                write_cpio(files, out)
            ramdisks.append(path)
        destination = directory / f"{name}.eif"
        wanted = eif_build.Parts(kernel=image, cmdline=cmdline, ramdisks=ramdisks, metadata={})
        registers = eif_build.build(wanted, destination)
        for path in ramdisks:
            path.unlink()
        return Image(path=destination, registers=registers)

    return build


@pytest.fixture(scope="module")
def image(made):
    return made("image")


# Could do anything with what is released to the image; this one only says that it is there.
INTRUDER = text(
    "init", "#!/usr/bin/python3 -IB\nprint('TAKEN OVER', flush=True)\nimport time\ntime.sleep(99)\n", 0o755
)


@pytest.fixture(scope="module")
def intruded(made):
    return made("intruded", extra=[INTRUDER])


def boot(image: Image, directory: Path) -> str:
    """Boots what lies in the sections of an image file and nothing else."""
    with image.path.open("rb") as file:
        layout = eif.layout(file)

        def content(*kinds: SectionKind) -> bytes:
            found = b""
            for section in layout.sections:
                if section.kind in kinds:
                    file.seek(section.offset)
                    found += file.read(section.size)
            return found

        (directory / "kernel").write_bytes(content(SectionKind.KERNEL))
        # One after the other in memory, the way a hypervisor lays them out for the kernel.
        (directory / "ramdisks").write_bytes(content(SectionKind.RAMDISK))
        cmdline = content(SectionKind.CMDLINE).decode()
    return booting.microvm(directory / "kernel", directory / "ramdisks", cmdline, until=ENDED)


def test_an_enclave_image_boots_and_its_first_process_reports(image, tmp_path):
    console = boot(image, tmp_path)
    assert "jewelhouse: sample on aws-enclave, kernel 6.12." in console
    # No security module here: nothing that could be mistaken for a measurement.
    assert "jewelhouse: measurements {}" in console
    assert "with 42" in console
    assert "jewelhouse: the guest ended with 0; switching off" in console


def test_the_first_process_of_a_later_ramdisk_takes_over_the_boot(intruded, tmp_path):
    """Why a key is never bound to PCR1 alone: the kernel unpacks ramdisks one over the other."""
    console = boot(intruded, tmp_path)
    assert "TAKEN OVER" in console
    assert "jewelhouse:" not in console


def test_a_later_ramdisk_that_takes_over_shows_in_all_registers_but_pcr1(image, intruded):
    changed = {name for name in image.registers if image.registers[name] != intruded.registers[name]}
    assert changed == {"PCR0", "PCR2"}


@pytest.mark.parametrize(
    ("change", "registers"),
    [
        pytest.param({"cmdline": enclave.COMMAND_LINES["x86_64"] + " "}, {"PCR0", "PCR1"}, id="command-line"),
        pytest.param(
            {"below": [text("usr/lib/jewelhouse/modules/order", "vsock\n")]},
            {"PCR0", "PCR1"},
            id="first-ramdisk",
        ),
        pytest.param(
            {"extra": [text("etc/secret-of-the-model", "43")]}, {"PCR0", "PCR2"}, id="workload-by-one-byte"
        ),
    ],
)
def test_a_changed_input_changes_its_registers_and_no_others(made, image, change, registers):
    other = made("other", **change)
    assert {name for name in image.registers if image.registers[name] != other.registers[name]} == registers


def test_the_same_parts_are_the_same_image(made, image):
    again = made("again")
    assert again.path.read_bytes() == image.path.read_bytes()
    assert again.registers == eif.measure(image.path).registers
