"""The initial ramdisk: what it needs and nothing else, and no way into a machine that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import initrd, kernel
from jewelhouse.images.tree import Kind, from_tar
from jewelhouse.model import Platform

COMMAND = ("/usr/bin/python3", "-IB", "/usr/lib/jewelhouse/init.py")
MODULES = (kernel.Module(name="dm_mod", data=b"\x7fELF1"), kernel.Module(name="erofs", data=b"\x7fELF2"))


@pytest.fixture(scope="module")
def programs(packages):
    return packages(*initrd.PACKAGES).tar


@pytest.fixture(scope="module")
def files(programs):
    return initrd.files(tools=programs, modules=MODULES, command=COMMAND)


def content(entry):
    return b"".join(entry.chunks())


def test_it_holds_nothing_but_busybox_dmsetup_and_their_libraries(files):
    there = {path for path, entry in files.items() if entry.kind is Kind.FILE}
    libraries = {path for path in there if ".so" in path}
    assert there - libraries == {
        *("init", "bin/busybox", "bin/dmsetup"),
        *("modules/order", "modules/dm_mod.ko", "modules/erofs.ko"),
    }
    assert {"lib/libc.so.6", "lib64/ld-linux-x86-64.so.2"} <= libraries
    assert sum(entry.size for entry in files.values()) < 10_000_000


def test_programs_find_every_library(files, tmp_path):
    """The loader itself says what is missing."""
    for path, entry in files.items():
        if entry.kind is Kind.FILE:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content(entry))
            (tmp_path / path).chmod(0o755)
    said = subprocess.run(
        [tmp_path / "lib64/ld-linux-x86-64.so.2", "--list", tmp_path / "bin/dmsetup"],
        env={"LD_LIBRARY_PATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "not found" not in said
    assert all(str(tmp_path) in line for line in said.splitlines() if "=>" in line), said


def test_links_are_all_that_the_script_calls(files, programs):
    links = {path.removeprefix("bin/") for path, entry in files.items() if entry.kind is Kind.LINK}
    assert links == set(initrd.APPLETS)
    busybox = from_tar(programs)[initrd.BUSYBOX]
    assert all(f"\0{name}\0".encode() in content(busybox) for name in links)
    script = content(files["init"]).decode()
    assert all(name in script for name in links)


def test_modules_are_loaded_in_their_order(files):
    assert content(files["modules/order"]) == b"dm_mod\nerofs\n"


def test_the_script_is_sound_for_a_shell(files, tmp_path):
    shell = shutil.which("busybox") or shutil.which("sh")
    assert shell
    (tmp_path / "init").write_bytes(content(files["init"]))
    command = [shell, "sh"] if shell.endswith("busybox") else [shell]
    subprocess.run([*command, "-n", tmp_path / "init"], check=True)


def test_a_failure_ends_in_switching_off_and_never_in_a_shell(files):
    script = content(files["init"]).decode()
    assert script.splitlines()[0] == "#!/bin/sh"
    assert "trap 'closed" in script
    body = script.split("\n", 1)[1]
    assert not any(f" {word}" in body for word in ("sh\n", "getty", "login", "sulogin", "telnetd", "udhcpc"))


def test_the_command_stands_in_quotes(files):
    assert (
        content(files["init"])
        .decode()
        .rstrip()
        .endswith(
            'exec switch_root -c /dev/console /sysroot "/usr/bin/python3" "-IB" "/usr/lib/jewelhouse/init.py"'
        )
    )


@pytest.mark.parametrize(
    "command",
    [
        pytest.param((), id="none"),
        pytest.param(("python3",), id="looked-up-in-a-path"),
        pytest.param(("/init", "$(reboot)"), id="shell-substitution"),
        pytest.param(("/init", '"; sh; "'), id="quotes"),
        pytest.param(("/init\nsh",), id="second-line"),
        pytest.param(("/init", "`sh`"), id="backticks"),
        pytest.param(("/init", ""), id="empty-argument"),
    ],
)
def test_commands_that_a_shell_would_read_otherwise_are_refused(programs, command):
    with pytest.raises(JewelhouseError, match="no command"):
        initrd.files(tools=programs, modules=(), command=command)


def test_tools_that_are_not_there_are_named(packages):
    with pytest.raises(JewelhouseError, match="has no usr/bin/busybox") as raised:
        initrd.files(tools=packages("python3-minimal").tar, modules=(), command=COMMAND)
    assert "busybox-static" in raised.value.remedy


def test_two_ramdisks_are_the_same(programs, tmp_path):
    for name in ("a", "b"):
        initrd.build(tmp_path / name, tools=programs, modules=MODULES, command=COMMAND)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("platform", initrd.MACHINES)
def test_debians_kernel_has_the_modules_of_every_platform(packages, platform):
    tar = packages("linux-image-cloud-amd64").tar
    found = [one.name for one in kernel.modules(tar, initrd.module_names(platform))]
    assert {"dm_verity", "erofs", "sha256_ssse3"} <= set(found)


def test_every_platform_that_boots_a_disk_has_its_modules():
    assert set(initrd.MACHINES) == {Platform.AWS_NITROTPM, Platform.AZURE_CVM, Platform.GCP_CVM}


def test_libraries_are_those_that_ldd_sees():
    loader, needed = initrd.linked(Path(os.path.realpath(sys.executable)).read_bytes())
    said = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, check=True).stdout
    assert loader in said
    assert needed
    assert all(name in said for name in needed)


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_is_no_program_is_refused(data, head):
    try:
        loader, needed = initrd.linked((b"\x7fELF\2\1" if head else b"") + data)
    except JewelhouseError:
        return
    # No more than headers that name nothing.
    assert head
    assert len(loader) < 300
    assert len(needed) < 300
