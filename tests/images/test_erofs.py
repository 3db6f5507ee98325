"""Root file systems: sound for the tools of erofs, extracted as they went in, and read back strictly."""

from __future__ import annotations

import os
import random
import re
import subprocess
import tracemalloc
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import erofs, tools
from jewelhouse.images.tree import Entry, Kind, digests, from_tar, tree, write_tar

NAME = UUID("0a6a1c5e-1111-4222-8333-444455556666")
EPOCH = 1_767_225_600


def file(path, content=b"", **other):
    return Entry(path=path, kind=Kind.FILE, mode=other.pop("mode", 0o644), content=content, **other)


def sizes():
    # Around what lies beside an inode, and around blocks.
    limit, block = erofs.INLINE_LIMIT, erofs.BLOCK
    return [0, 1, 63, limit - 1, limit, limit + 1, block - 1, block, block + 1, 5 * block, 5 * block + 7]


SAMPLE = tree(
    [
        *(file(f"sizes/{size}", random.Random(size).randbytes(size)) for size in sizes()),
        # More names than a block of a directory holds.
        *(file(f"many/{'n' * 60}-{number:04}", str(number).encode()) for number in range(700)),
        # Between `.` and other names in the order of bytes.
        *(file(f"order/{name}") for name in ("!", "-", ".a", "..a", "...", "0", "a", "ä", "z" * 255)),
        Entry(path="order/sub", kind=Kind.DIRECTORY, mode=0o755),
        Entry(path="empty", kind=Kind.DIRECTORY, mode=0o1777),
        file("bin/run", b"#!/bin/sh\n", mode=0o755, owner=1000, group=70000),
        Entry(path="lib", kind=Kind.LINK, mode=0o777, target="usr/lib"),
        Entry(path="far", kind=Kind.LINK, mode=0o777, target="x/" * 1000),
        Entry(path="dev/null", kind=Kind.CHARACTER, mode=0o666, device=(1, 3)),
        Entry(path="dev/large", kind=Kind.BLOCK, mode=0o600, device=(259, 70000)),
    ]
)


@pytest.fixture
def image(tmp_path):
    erofs.build(SAMPLE, tmp_path / "root.erofs", uuid=NAME, epoch=EPOCH)
    return tmp_path / "root.erofs"


def program(name):
    found = tools.path(name)
    if found is None:
        pytest.skip(f"{name} is not installed: install erofs-utils")
    return str(found)


def test_fsck_finds_nothing_wrong_and_extracts_what_went_in(image, tmp_path):
    out = tmp_path / "out"
    subprocess.run([program("fsck.erofs"), f"--extract={out}", image], check=True, capture_output=True)
    for entry in SAMPLE.values():
        path = out / entry.path
        if entry.kind is Kind.FILE:
            assert path.read_bytes() == b"".join(entry.chunks())
        elif entry.kind is Kind.LINK:
            assert os.readlink(path) == entry.target
    names = {os.path.relpath(os.path.join(at, name), out) for at, a, b in os.walk(out) for name in (*a, *b)}
    assert names == set(SAMPLE)


def test_modes_owners_and_times_are_those_of_the_tree(image):
    # dump.erofs shows one inode by its path.
    said = subprocess.run(
        [program("dump.erofs"), "--path=/bin/run", image],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "TZ": "UTC"},
    ).stdout
    assert re.search(r"Uid: 1000\s+Gid: 70000\s+Access: 0755", said), said
    assert "Timestamp: 2026-01-01 00:00:00.000000000" in said


def test_the_file_system_has_the_identifier_that_it_was_given(image):
    said = subprocess.run([program("dump.erofs"), image], check=True, capture_output=True, text=True).stdout
    assert str(NAME) in said


def test_it_is_read_back_as_it_was_written(image):
    assert digests(erofs.read(image)) == digests(SAMPLE)


def test_the_order_of_the_tree_does_not_matter_and_nor_does_the_place(image, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    shuffled = list(SAMPLE.values())
    random.Random(1).shuffle(shuffled)
    erofs.build(tree(shuffled), other / "root", uuid=NAME, epoch=EPOCH)
    assert (other / "root").read_bytes() == image.read_bytes()


def test_the_content_of_a_tar_is_taken_from_it(tmp_path):
    with (tmp_path / "root.tar").open("wb") as out:
        write_tar(SAMPLE, out)
    erofs.build(from_tar(tmp_path / "root.tar"), tmp_path / "root", uuid=NAME, epoch=EPOCH)
    assert digests(erofs.read(tmp_path / "root")) == digests(SAMPLE)


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 255
)


@given(
    st.dictionaries(
        st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=6000), max_size=12
    )
)
@settings(max_examples=30, deadline=None)
def test_any_tree_is_read_back(tmp_path_factory, contents):
    directory = tmp_path_factory.mktemp("erofs")
    clean = {
        path: data
        for path, data in contents.items()
        if not any(other.startswith(f"{path}/") for other in contents)
    }
    files = tree(file(path, data) for path, data in clean.items())
    erofs.build(files, directory / "root", uuid=NAME, epoch=0)
    assert digests(erofs.read(directory / "root")) == digests(files)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        pytest.param(file("n" * 256), "255 fit", id="long-name"),
        pytest.param(Entry(path="l", kind=Kind.LINK, mode=0o777, target=""), "0 bytes", id="link-to-nothing"),
        pytest.param(
            Entry(path="l", kind=Kind.LINK, mode=0o777, target="x" * 2049), "2049 bytes", id="link-too-long"
        ),
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path, entry, says):
    with pytest.raises(JewelhouseError, match=says):
        erofs.build(tree([entry]), tmp_path / "root", uuid=NAME, epoch=0)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_build_leaves_nothing(tmp_path):
    class Pulled(Exception):
        pass

    source = tmp_path / "source"
    source.write_bytes(b"x" * 10_000)
    entry = file("a", source)
    files = tree([entry])

    def opened(self):
        raise Pulled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Entry, "opened", opened)
        with pytest.raises(Pulled):
            erofs.build(files, tmp_path / "root", uuid=NAME, epoch=0)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def changed(data, at, new):
    return data[:at] + new + data[at + len(new) :]


ROOT = erofs.ROOT * erofs.SLOT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda data: data[:1100], "too short", id="cut-in-the-superblock"),
        pytest.param(lambda data: data[:-4096], "blocks in", id="last-block-cut-off"),
        pytest.param(lambda data: changed(data, 1024, b"\0"), "no EROFS", id="other-magic"),
        pytest.param(lambda data: changed(data, 1024 + 12, b"\x0d"), "layout of blocks", id="other-blocks"),
        pytest.param(lambda data: changed(data, 1024 + 80, b"\1"), "features", id="compressed"),
        pytest.param(
            lambda data: changed(data, 1024 + 14, b"\xff\xff"), "unknown kind|outside", id="root-elsewhere"
        ),
        pytest.param(lambda data: changed(data, ROOT, b"\3"), "unknown kind", id="compressed-inode"),
        pytest.param(lambda data: changed(data, ROOT + 2, b"\1"), "unknown kind", id="inode-with-attributes"),
        pytest.param(lambda data: changed(data, ROOT + 8, b"\xff\xff"), "outside", id="endless-root"),
        pytest.param(lambda data: changed(data, ROOT + 64 + 8, b"\5"), "without names", id="odd-names"),
        pytest.param(
            lambda data: changed(data, ROOT + 64 + 24, erofs.ROOT.to_bytes(8, "little")), "again", id="loop"
        ),
    ],
)
def test_other_file_systems_are_refused(image, change, says):
    image.write_bytes(change(image.read_bytes()))
    with pytest.raises(erofs.MalformedErofs, match=says):
        erofs.read(image)


FEW = tree(
    [file("a/b", b"x" * 100), file("c", b"y" * 5000), Entry(path="l", kind=Kind.LINK, mode=0o777, target="c")]
)


@given(st.dictionaries(st.integers(0, 1500), st.integers(1, 255), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_damage_is_refused_or_harmless_and_never_anything_else(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("erofs") / "root"
    erofs.build(FEW, path, uuid=NAME, epoch=0)
    data = bytearray(path.read_bytes())
    for at, flip in changes.items():
        data[at + (1024 if at < 128 else ROOT - 128)] ^= flip
    path.write_bytes(data)
    try:
        found = erofs.read(path)
        digests(found)
    except JewelhouseError:
        return
    assert len(found) <= 16


def test_a_name_in_a_directory_cannot_leave_the_tree(image):
    data = image.read_bytes()
    at = data.index(b"bin", ROOT)
    image.write_bytes(changed(data, at, b"../"))
    with pytest.raises(JewelhouseError, match="no path inside"):
        erofs.read(image)


def test_a_file_of_any_size_goes_through_in_pieces(tmp_path):
    source = tmp_path / "large"
    with source.open("wb") as out:
        out.truncate(64 * 1024 * 1024)
    tracemalloc.start()
    erofs.build(tree([file("large", source)]), tmp_path / "root", uuid=NAME, epoch=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
