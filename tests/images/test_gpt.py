"""Partition tables: what fdisk and gdisk find right, and nothing that firmware would have to guess."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import zlib
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import gpt, tools
from jewelhouse.images.gpt import MalformedTable, Wanted

DISK = UUID("0a6a1c5e-1111-4222-8333-444455556666")
KIND = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")


def wanted(number: int, size: int = 1000, **other) -> Wanted:
    return Wanted(kind=KIND, unique=UUID(int=number + 1), name=f"part-{number}", size=size, **other)


SIZES = [1, 511, 512, 4096 * 300, 1024 * 1024, 3 * 1024 * 1024 + 1]


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    table = gpt.lay_out(DISK, [wanted(index, size) for index, size in enumerate(SIZES)])
    with path.open("w+b") as out:
        gpt.write(table, out)
    return path


def program(name):
    found = tools.path(name)
    if found is None:
        pytest.skip(f"{name} is not installed: install {({'sfdisk': 'fdisk', 'sgdisk': 'gdisk'})[name]}")
    return str(found)


def test_fdisk_reads_what_we_write(disk):
    said = subprocess.run([program("sfdisk"), "--json", disk], capture_output=True, text=True, check=True)
    theirs = json.loads(said.stdout)["partitiontable"]
    assert UUID(theirs["id"]) == DISK
    ours = gpt.read(disk)
    assert [
        (UUID(one["type"]), UUID(one["uuid"]), one["name"], one["start"], one["size"])
        for one in theirs["partitions"]
    ] == [(one.kind, one.unique, one.name, one.first, one.sectors) for one in ours.partitions]


def test_gdisk_finds_no_problem(disk):
    said = subprocess.run([program("sgdisk"), "--verify", disk], capture_output=True, text=True, check=True)
    assert "No problems found" in said.stdout


def test_what_gdisk_writes_is_read_alike(tmp_path):
    path = tmp_path / "theirs"
    with path.open("wb") as out:
        out.truncate(8 * 1024 * 1024)
    subprocess.run(
        [
            *(program("sgdisk"), f"--disk-guid={DISK}", "--new=1:2048:4095", f"--typecode=1:{KIND}"),
            *(f"--partition-guid=1:{UUID(int=1)}", "--change-name=1:part-0", "--attributes=1:set:60", path),
        ],
        check=True,
        capture_output=True,
    )
    found = gpt.read(path)
    part = gpt.lay_out(DISK, [wanted(0, 1024 * 1024, attributes=gpt.READ_ONLY)]).partitions
    assert (found.disk, found.partitions) == (DISK, part)


@given(
    st.lists(st.integers(1, 3 * gpt.ALIGNMENT), min_size=1, max_size=6),
    st.integers(0, 2**64 - 1),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=18),
)
@settings(max_examples=25, deadline=None)
def test_a_table_is_read_back_as_it_was_written(sizes, attributes, name):
    table = gpt.lay_out(
        DISK,
        [
            Wanted(kind=KIND, unique=UUID(int=index + 1), name=name, size=size, attributes=attributes)
            for index, size in enumerate(sizes)
        ],
    )
    file = io.BytesIO()
    gpt.write(table, file)
    file.truncate(table.sectors * gpt.SECTOR)
    assert gpt.read_from(file) == table
    assert all(one.offset % gpt.ALIGNMENT == 0 for one in table.partitions)
    assert table.sectors * gpt.SECTOR % gpt.ALIGNMENT == 0


def test_writing_keeps_what_is_in_the_partitions(disk):
    partition = gpt.read(disk).partitions[3]
    with disk.open("r+b") as file:
        file.seek(partition.offset)
        file.write(b"content")
        gpt.write(gpt.read(disk), file)
    gpt.copy_out(disk, partition, disk.with_name("out"))
    assert disk.with_name("out").read_bytes() == b"content".ljust(partition.size, b"\0")


def resealed(data: bytearray) -> bytearray:
    """Both CRCs of both copies made to fit again: what is wrong is the content, not the sum."""
    for at in (512, len(data) - 512):
        start = struct.unpack_from("<Q", data, at + 72)[0] * 512
        struct.pack_into("<I", data, at + 88, zlib.crc32(data[start : start + 128 * 128]))
        struct.pack_into("<I", data, at + 16, 0)
        struct.pack_into("<I", data, at + 16, zlib.crc32(data[at : at + 92]))
    return data


def patched(at: int, new: bytes):
    """Bytes at an offset (from the end when negative), with CRCs as they were."""

    def change(data: bytearray) -> bytearray:
        start = at if at >= 0 else len(data) + at
        data[start : start + len(new)] = new
        return data

    return change


def both(at: int, new: bytes):
    """The same bytes of the entries in both copies, sums made to fit."""

    def change(data: bytearray) -> bytearray:
        for start in (1024, len(data) - 33 * 512):
            data[start + at : start + at + len(new)] = new
        return resealed(data)

    return change


def header(at: int, new: bytes, copy: int = 0):
    """Bytes of one header, its sum made to fit."""

    def change(data: bytearray) -> bytearray:
        base = (512, len(data) - 512)[copy]
        data[base + at : base + at + len(new)] = new
        struct.pack_into("<I", data, base + 16, 0)
        struct.pack_into("<I", data, base + 16, zlib.crc32(data[base : base + 92]))
        return data

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda data: data[:-1], "whole sectors", id="half-a-sector"),
        pytest.param(lambda data: data[:512], "at least", id="nothing-but-an-mbr"),
        pytest.param(lambda data: data[:-512], "on a disk of", id="last-sector-cut-off"),
        pytest.param(lambda data: data + bytes(512), "on a disk of", id="disk-grown-behind-the-copy"),
        pytest.param(patched(0, b"\xeb"), "boot code", id="boot-code-for-a-firmware-without-measurement"),
        pytest.param(patched(440, b"\1"), "MBR signature", id="mbr-signature"),
        pytest.param(patched(510, b"\0"), "no MBR", id="no-mbr"),
        pytest.param(patched(446, b"\x80"), "marked to boot", id="active-mbr-partition"),
        pytest.param(patched(450, b"\x0c"), "type 0x0c", id="hybrid-mbr"),
        pytest.param(patched(447, b"\1"), "begins elsewhere", id="other-cylinder"),
        pytest.param(patched(454, b"\2"), "begins at sector 2", id="protective-partition-moved"),
        pytest.param(patched(466, b"\0\1"), "more MBR", id="second-mbr-partition"),
        pytest.param(patched(512, b"\0"), "no partition table", id="main-header-wiped"),
        pytest.param(patched(-512, b"\0"), "no partition table", id="copy-wiped"),
        pytest.param(patched(528, b"\0"), "wrong header CRC", id="header-crc"),
        pytest.param(patched(1024 + 200, b"\xaa"), "CRC of its entries", id="entries-crc"),
        pytest.param(patched(700, b"\1"), "bytes after the header", id="hidden-behind-the-header"),
        pytest.param(header(8, b"\0\0\2\0"), "revision", id="other-revision"),
        pytest.param(header(20, b"\1"), "reserved", id="reserved-bytes"),
        pytest.param(header(24, b"\3"), "says it lies in sector 3", id="header-of-another-place"),
        pytest.param(header(32, b"\5"), "copy in sector", id="copy-elsewhere"),
        pytest.param(header(40, b"\x20"), "gives sectors", id="usable-area-over-the-table"),
        pytest.param(header(56, bytes(16)), "names no disk", id="no-disk-identifier"),
        pytest.param(header(72, b"\3"), "entries in sector 3", id="entries-elsewhere"),
        pytest.param(header(80, b"\xff"), "255 entries", id="more-entries"),
        pytest.param(header(56, b"\1", copy=1), "names another disk", id="copy-of-another-disk"),
        pytest.param(both(16, bytes(16)), "no identifier", id="partition-without-identifier"),
        pytest.param(both(128 + 16, UUID(int=1).bytes_le), "identifier of", id="twice-the-same-identifier"),
        pytest.param(both(32, b"\1"), "outside", id="partition-over-the-table"),
        pytest.param(both(40, b"\xff\xff\xff\xff\xff\xff\xff\x7f"), "outside", id="partition-past-the-end"),
        pytest.param(both(128 + 32, struct.pack("<Q", 2048)), "overlaps", id="overlapping-partitions"),
        pytest.param(both(20 * 128 + 60, b"\1"), "unused entry", id="hidden-in-an-unused-entry"),
        pytest.param(both(56, b"\0\xd8a\0"), "not UTF-16", id="broken-name"),
        pytest.param(both(126, b"x"), "after the end of its name", id="hidden-behind-a-name"),
    ],
)
def test_other_tables_are_refused(disk, change, says):
    disk.write_bytes(change(bytearray(disk.read_bytes())))
    with pytest.raises(MalformedTable, match=says) as raised:
        gpt.read(disk)
    assert raised.value.where.startswith("offset ")


def test_a_copy_with_other_partitions_is_refused(disk):
    data = bytearray(disk.read_bytes())
    data[len(data) - 33 * 512 + 56 : len(data) - 33 * 512 + 58] = b"x\0"
    disk.write_bytes(resealed(data))
    with pytest.raises(MalformedTable, match="the copy has other partitions"):
        gpt.read(disk)


SMALL = io.BytesIO()
gpt.write(gpt.lay_out(DISK, [wanted(0)]), SMALL)
WHOLE = SMALL.getvalue()
# Where there is something to break: both copies of the table.
PLACES = st.one_of(st.integers(0, 34 * 512 - 1), st.integers(len(WHOLE) - 33 * 512, len(WHOLE) - 1))


@given(st.dictionaries(PLACES, st.integers(1, 255), min_size=1, max_size=4), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_change_is_refused_or_read_as_it_stands(changes, sums):
    data = bytearray(WHOLE)
    for at, flip in changes.items():
        data[at] ^= flip
    if sums and data[512 + 72 : 512 + 80] == WHOLE[512 + 72 : 512 + 80]:
        try:
            data = resealed(data)
        except struct.error:
            return
    try:
        found = gpt.read_from(io.BytesIO(data))
    except MalformedTable:
        return
    again = io.BytesIO(data)
    gpt.write(found, again)
    # Where the protective partition ends in cylinders and heads, which every tool counts its own way.
    data[451:454] = WHOLE[451:454]
    assert again.getvalue() == bytes(data), "what was read is not all that there is"


@given(st.binary(max_size=2000))
@settings(max_examples=50, deadline=None)
def test_other_files_are_refused(data):
    with pytest.raises(MalformedTable):
        gpt.read_from(io.BytesIO(data + WHOLE[len(data) : len(data)]))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        pytest.param([wanted(index) for index in range(129)], "too many", id="too-many"),
        pytest.param([wanted(0), wanted(0)], "same identifier", id="twice-the-same-identifier"),
        pytest.param([wanted(0, 0)], "no content", id="empty"),
        pytest.param(
            [Wanted(kind=KIND, unique=UUID(int=1), name="n" * 37, size=1)], "36 characters", id="long-name"
        ),
    ],
)
def test_partitions_that_do_not_fit_are_refused(parts, says):
    with pytest.raises(JewelhouseError, match=says):
        gpt.lay_out(DISK, parts)
