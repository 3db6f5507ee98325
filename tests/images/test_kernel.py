"""Kernels and their modules out of a Debian package: in an order that loads, as modinfo knows it."""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import tarfile

import pytest

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import kernel

RELEASE = "6.12.1-test"
MODULES = f"./usr/lib/modules/{RELEASE}/kernel/drivers/x"


def module(depends: str) -> bytes:
    return b"\x7fELF" + bytes(60) + f"license=GPL\0depends={depends}\0name=x\0".encode()


def packed(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def package(tmp_path):
    return packed(
        tmp_path / "k.tar",
        {
            f"./boot/vmlinuz-{RELEASE}": b"kernel",
            f"{MODULES}/top.ko.xz": lzma.compress(module("middle,low-one,built_in")),
            f"{MODULES}/middle.ko": module("low_one"),
            f"{MODULES}/low-one.ko.xz": lzma.compress(module("")),
            f"./usr/lib/modules/{RELEASE}/modules.builtin": b"kernel/fs/built-in.ko\n",
        },
    )


def test_dependencies_come_first_and_once_and_what_is_built_in_is_left_out(package):
    assert [one.name for one in kernel.modules(package, ["top", "low-one", "built-in"])] == [
        "low_one",
        "middle",
        "top",
    ]


def test_modules_are_unpacked(package):
    assert all(one.data.startswith(b"\x7fELF") for one in kernel.modules(package, ["top"]))


def test_the_kernel_is_written_with_its_release(package, tmp_path):
    found = kernel.extract(package, tmp_path)
    assert (found.release, found.image.read_bytes()) == (RELEASE, b"kernel")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        pytest.param({}, "has none", id="a-package-without-a-kernel"),
        pytest.param(
            {"boot/vmlinuz-1": b"", "boot/vmlinuz-2": b""}, "has 1, 2", id="two-kernels-and-no-word-which"
        ),
    ],
)
def test_packages_that_leave_the_kernel_open_are_refused(tmp_path, files, says):
    with pytest.raises(JewelhouseError, match=says):
        kernel.extract(packed(tmp_path / "k.tar", files), tmp_path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(lzma.compress(b"\x7fELF" + bytes(999))[:-9], "cut short", id="cut-short"),
        pytest.param(b"no xz", "cannot be unpacked", id="not-packed"),
        pytest.param(lzma.compress(b"text"), "no module", id="not-elf"),
    ],
)
def test_broken_modules_are_refused(tmp_path, data, says):
    with pytest.raises(JewelhouseError, match=says):
        kernel.modules(packed(tmp_path / "k.tar", {f"{MODULES}/bad.ko.xz": data}), ["bad"])


def test_a_module_the_kernel_does_not_have_is_named(package):
    with pytest.raises(JewelhouseError, match="no module nsm, vsock"):
        kernel.modules(package, ["nsm", "top", "vsock"])


def test_debians_modules_depend_on_what_modinfo_says(packages, tmp_path):
    if shutil.which("modinfo") is None:
        pytest.skip("modinfo is not installed")
    found = kernel.modules(packages("linux-image-cloud-amd64").tar, ["vmw_vsock_virtio_transport", "nsm"])
    order = [one.name for one in found]
    for position, one in enumerate(found):
        file = tmp_path / f"{one.name}.ko"
        file.write_bytes(one.data)
        said = subprocess.run(["modinfo", "-F", "depends", file], capture_output=True, text=True, check=True)
        needed = [name.replace("-", "_") for name in said.stdout.strip().split(",") if name]
        assert set(needed) & set(order) <= set(order[:position])
    assert {"vsock", "vmw_vsock_virtio_transport_common"} <= set(order)
