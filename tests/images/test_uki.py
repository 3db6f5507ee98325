"""Unified kernel images: built the same twice, holding what was given, and read strictly, anybody's."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import making_pe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making_pe import KERNEL, TABLE_AT

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import pe, uki
from jewelhouse.images.tree import from_tar

STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"


@pytest.fixture(scope="module")
def tools(packages, tmp_path_factory) -> Path:
    """Stub and ukify of the suite that images are built of."""
    directory = tmp_path_factory.mktemp("tools")
    made = from_tar(packages("systemd-boot-efi", "systemd-ukify").tar)
    (directory / "stub").write_bytes(b"".join(made[STUB].chunks()))
    (directory / "ukify").write_bytes(b"".join(made["usr/bin/ukify"].chunks()))
    return directory


@pytest.fixture
def parts(tools, tmp_path) -> uki.Parts:
    (tmp_path / "kernel").write_bytes(KERNEL)
    (tmp_path / "initrd").write_bytes(b"ramdisk" * 1000)
    return uki.Parts(
        stub=tools / "stub",
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        cmdline="console=ttyS0 roothash=1234",
        os_release="ID=jewelhouse\n",
        uname="6.12.1-cloud",
    )


def put(directory: Path, data: bytes) -> Path:
    path = directory / "image.efi"
    path.write_bytes(data)
    return path


def contents(image: uki.Uki) -> dict[str, bytes]:
    return {name: pe.data(image.image, section) for name, section in image.sections.items()}


def test_an_image_holds_what_it_was_made_of(tools, parts, tmp_path):
    uki.build(parts, tmp_path / "made.efi", ukify=tools / "ukify")
    image = uki.read(tmp_path / "made.efi")
    found = contents(image)
    assert found.pop(".sbat").startswith(b"sbat,1,SBAT Version")
    assert found == {
        ".linux": KERNEL,
        ".initrd": b"ramdisk" * 1000,
        ".cmdline": b"console=ttyS0 roothash=1234",
        ".osrel": b"ID=jewelhouse\n",
        ".uname": b"6.12.1-cloud",
    }
    assert image.stub.startswith("257.")
    assert image.cmdline == parts.cmdline
    assert image.kernel.machine is pe.Machine.X86_64


def test_the_same_parts_give_the_same_bytes(tools, parts, tmp_path, monkeypatch):
    """In another directory, with other names, another umask and another environment."""
    uki.build(parts, tmp_path / "first.efi", ukify=tools / "ukify")
    there = tmp_path / "elsewhere"
    there.mkdir()
    for name in ("kernel", "initrd"):
        (there / f"other-{name}").write_bytes((tmp_path / name).read_bytes())
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    again = replace(parts, kernel=there / "other-kernel", initrd=there / "other-initrd")
    uki.build(again, there / "second.efi", ukify=tools / "ukify")
    assert (tmp_path / "first.efi").read_bytes() == (there / "second.efi").read_bytes()
    assert sorted(path.name for path in there.iterdir()) == ["other-initrd", "other-kernel", "second.efi"]


@pytest.mark.parametrize(
    "cmdline",
    [
        pytest.param("a  b ", id="spaces-that-ukify-would-merge"),
        pytest.param("@/etc/hostname", id="name-of-a-file-that-ukify-would-read"),
        pytest.param("--help", id="option-of-ukify"),
        pytest.param("x" * uki.MOST_COMMAND_LINE, id="as-long-as-the-kernel-takes"),
    ],
)
def test_a_command_line_is_taken_as_it_is_written(tools, parts, tmp_path, cmdline):
    uki.build(replace(parts, cmdline=cmdline), tmp_path / "made.efi", ukify=tools / "ukify")
    assert contents(uki.read(tmp_path / "made.efi"))[".cmdline"] == cmdline.encode()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        pytest.param("cmdline", "root=/dev/sda\0init=/bin/sh", "printable", id="nul-that-hides-the-rest"),
        pytest.param("cmdline", "quiet\n", "printable", id="newline-that-changes-the-measurement"),
        pytest.param("cmdline", "quiet\x1b[2J", "printable", id="escape-that-writes-to-the-terminal"),
        pytest.param(
            "cmdline",
            "init=/bin/\N{CYRILLIC SMALL LETTER DZE}h",
            "printable",
            id="letter-that-looks-like-another",
        ),
        pytest.param("cmdline", "x" * 2048, "the kernel takes 2047", id="longer-than-the-kernel-reads"),
        pytest.param("cmdline", "", "empty", id="no-command-line-takes-anybodys"),
        pytest.param("os_release", "", "os-release", id="no-os-release-takes-the-hosts"),
        pytest.param("os_release", "ID=x\0", "os-release", id="nul-in-os-release"),
        pytest.param("uname", "", "uname", id="no-uname-is-guessed"),
        pytest.param("uname", "6.12 init=/bin/sh", "uname", id="uname-with-more-in-it"),
    ],
)
def test_a_part_that_no_image_can_have_is_refused(tools, parts, tmp_path, field, value, says):
    with pytest.raises(JewelhouseError, match=says):
        uki.build(replace(parts, **{field: value}), tmp_path / "made.efi", ukify=tools / "ukify")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["initrd", "kernel"]


@pytest.mark.parametrize(
    ("field", "data"),
    [
        pytest.param("kernel", b"no kernel", id="kernel"),
        pytest.param("kernel", KERNEL[:-100], id="cut-kernel"),
        pytest.param("stub", b"no stub", id="stub"),
        pytest.param("stub", KERNEL, id="stub-of-somebody-else"),
    ],
)
def test_a_part_that_is_something_else_leaves_nothing(tools, parts, tmp_path, field, data):
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "other").write_bytes(data)
    with pytest.raises(JewelhouseError):
        uki.build(replace(parts, **{field: tmp_path / "other"}), there / "made.efi", ukify=tools / "ukify")
    assert list(there.iterdir()) == []


FAKE = """#!/usr/bin/env python3
import pathlib, sys
option = dict(a[2:].split("=", 1) for a in sys.argv if a.startswith("--") and "=" in a)
pathlib.Path(option["output"]).write_bytes(pathlib.Path({source!r}).read_bytes())
"""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(
            making_pe.uki(
                (".cmdline", b"init=/bin/sh"),
                (".osrel", b"x"),
                (".initrd", b"x"),
                (".uname", b"x"),
                (".sbat", b"x"),
            ),
            "another",
            id="another-command-line",
        ),
        pytest.param(making_pe.uki((".splash", b"x")), "sections", id="section-that-nobody-asked-for"),
    ],
)
def test_what_ukify_did_otherwise_is_noticed(parts, tmp_path, data, says):
    """Whatever a tool on the way does to an input, the image is not the asked one."""
    (tmp_path / "source").write_bytes(data)
    (tmp_path / "ukify").write_text(FAKE.format(source=str(tmp_path / "source")))
    with pytest.raises(JewelhouseError, match=says):
        uki.build(parts, tmp_path / "made.efi", ukify=tmp_path / "ukify")
    assert not (tmp_path / "made.efi").exists()


def patched(data: bytes, section: int, field: int, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<I", changed, TABLE_AT + 40 * section + field, value)
    return bytes(changed)


REFUSED = {
    "addon-without-a-kernel": (making_pe.image([(".sdmagic", making_pe.magic("257"))]), "no kernel"),
    "kernel-alone": (KERNEL, "no systemd stub"),
    "stub-that-says-nothing": (making_pe.image([(".sdmagic", b"####"), (".linux", KERNEL)]), "does not say"),
    "two-stubs": (making_pe.uki((".sdmagic", making_pe.magic("252"))), "2 sections .sdmagic"),
    "boot-loader-instead-of-a-stub": (
        making_pe.image([(".sdmagic", b"#### LoaderInfo: systemd-boot 257 ####")]),
        "does not say",
    ),
    "stub-before-the-rules": (making_pe.uki(stub="251.4"), "stub of systemd 251"),
    "stub-after-the-rules": (making_pe.uki(stub="260~rc1"), "stub of systemd 260"),
    "two-command-lines": (making_pe.uki((".cmdline", b"a"), (".cmdline", b"b")), "two sections .cmdline"),
    "two-kernels": (making_pe.uki((".linux", KERNEL), (".linux", KERNEL)), "two sections .linux"),
    "no-command-line": (making_pe.uki((".cmdline", b"")), "takes anybody's"),
    "command-line-with-a-hidden-end": (making_pe.uki((".cmdline", b"quiet\0init=/bin/sh")), "plain text"),
    "command-line-of-two-lines": (making_pe.uki((".cmdline", b"a\nb")), "plain text"),
    "command-line-of-a-megabyte": (making_pe.uki((".cmdline", b"a" * (1 << 20))), "at most"),
    "section-by-machine": (making_pe.uki((".dtbauto", b"x")), "depends on the machine"),
    "firmware-by-machine": (making_pe.uki((".efifw", b"x"), stub="258"), "depends on the machine"),
    "name-that-old-stubs-take-for-linux": (making_pe.uki((".linux2", b"x"), stub="254"), "another section"),
    "kernel-that-is-none": (making_pe.uki(kernel=b"\x1f\x8b" * 100), "begin with MZ"),
    "kernel-cut-short": (making_pe.uki(kernel=KERNEL[:-4]), "end at"),
    "kernel-for-another-machine": (making_pe.uki(machine=making_pe.AARCH64), "another machine"),
    "kernel-before-the-ramdisk-protocol": (
        making_pe.uki(kernel=making_pe.image([(".text", b"x")], version=0)),
        "older than 5.8",
    ),
    "section-with-less-than-it-states": (patched(making_pe.uki(), 2, 8, 4096), "states 4096 bytes of .linux"),
    "sections-over-each-other-in-memory": (patched(making_pe.uki(), 3, 12, 4096), "over its"),
}


@pytest.mark.parametrize(("data", "says"), REFUSED.values(), ids=REFUSED)
def test_an_image_that_cannot_be_measured_beforehand_is_refused(tmp_path, data, says):
    with pytest.raises(uki.MalformedUki, match=says) as refused:
        uki.read(put(tmp_path, data))
    assert refused.value.where == f"image.efi: offset {refused.value.offset}"


@pytest.mark.parametrize(
    "end", [b"", b"\0", b"\n", b"\n\0"], ids=["as-ukify", "as-dracut", "as-echo", "as-echo-and-dracut"]
)
def test_what_other_builders_leave_behind_a_command_line_is_no_part_of_it(tmp_path, end):
    image = uki.read(put(tmp_path, making_pe.uki((".cmdline", b"quiet splash" + end))))
    assert image.cmdline == "quiet splash"
    assert contents(image)[".cmdline"] == b"quiet splash" + end


@pytest.mark.parametrize("stub", [str(version) for version in uki.RULES])
def test_stubs_of_all_known_versions_are_read(tmp_path, stub):
    image = uki.read(put(tmp_path, making_pe.uki(stub=f"{stub}.4-1~deb13u1")))
    assert image.stub == f"{stub}.4-1~deb13u1"
    assert list(image.sections) == [".linux", ".cmdline"]


def test_an_image_for_arm_is_read(tmp_path):
    kernel = making_pe.image([(".text", b"x")], machine=making_pe.AARCH64)
    image = uki.read(put(tmp_path, making_pe.uki(kernel=kernel, machine=making_pe.AARCH64)))
    assert image.image.machine is pe.Machine.AARCH64


def test_the_default_profile_is_the_first_and_overrides_what_is_for_all(tmp_path):
    data = making_pe.uki(
        (".cmdline", b"for all"),
        (".profile", b"ID=first"),
        (".cmdline", b"of the first"),
        (".profile", b"ID=rescue"),
        (".cmdline", b"init=/bin/sh"),
        (".splash", b"only of the second"),
    )
    found = contents(uki.read(put(tmp_path, data)))
    assert found == {".linux": KERNEL, ".cmdline": b"of the first", ".profile": b"ID=first"}


SAMPLE = making_pe.uki((".initrd", b"ramdisk"), (".profile", b"ID=x"))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=5),
    st.integers(0, 3000),
)
def test_no_bytes_break_the_reader(tmp_path_factory, changes, cut):
    data = bytearray(SAMPLE)
    for offset, value in changes:
        data[offset] = value
    path = put(tmp_path_factory.mktemp("fuzz"), bytes(data[: len(data) - (cut if cut % 3 == 0 else 0)]))
    try:
        image = uki.read(path)
    except uki.MalformedUki:
        return
    assert ".linux" in image.sections
    assert image.cmdline.isprintable()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_no_header_breaks_the_reader(tmp_path_factory, header):
    path = put(tmp_path_factory.mktemp("fuzz"), SAMPLE[: making_pe.HEADER_AT] + header + SAMPLE[500:])
    with pytest.raises(uki.MalformedUki):
        uki.read(path)
