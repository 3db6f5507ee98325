"""dm-verity: byte for byte what veritysetup writes, and every changed byte found."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.images import verity
from jewelhouse.images.verity import BLOCK, MalformedVerity, make, read, verify

TOOL = shutil.which("veritysetup") or shutil.which("veritysetup", path="/usr/sbin:/sbin")
SALT = bytes(range(32))
NAME = UUID("8b0f5c3a-0a6a-4a0e-9e0b-2d6a3d1c9a01")


def theirs(data: Path, tree: Path, salt: bytes) -> str:
    if TOOL is None:
        pytest.skip("veritysetup is not installed: apt-get install cryptsetup-bin")
    done = subprocess.run(
        [TOOL, "format", data, tree, f"--salt={salt.hex() or '-'}", f"--uuid={NAME}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return re.search(r"Root hash:\s+([0-9a-f]{64})", done.stdout)[1]


def filled(path: Path, blocks: int, seed: int = 0) -> Path:
    path.write_bytes(random.Random(seed).randbytes(blocks * BLOCK))
    return path


# Around one block, one hash block (128 digests), and one level more.
SIZES = [1, 2, 127, 128, 129, 255, 256, 128 * 128 - 1, 128 * 128, 128 * 128 + 1]


@pytest.mark.parametrize("blocks", SIZES)
def test_the_tree_is_that_of_veritysetup(tmp_path, blocks):
    data = filled(tmp_path / "data", blocks)
    root = make(data, tmp_path / "ours", salt=SALT, uuid=NAME)
    assert root == theirs(data, tmp_path / "theirs", SALT)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    verify(data, tmp_path / "ours", root)


@pytest.mark.parametrize("salt", [b"", b"\0", b"x" * 255, b"y" * 256], ids=len)
def test_salts_of_every_length(tmp_path, salt):
    data = filled(tmp_path / "data", 200)
    root = make(data, tmp_path / "ours", salt=salt, uuid=NAME)
    assert root == theirs(data, tmp_path / "theirs", salt)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_veritysetup_verifies_what_we_write(tmp_path):
    data = filled(tmp_path / "data", 300)
    root = make(data, tmp_path / "tree", salt=SALT, uuid=NAME)
    if TOOL is None:
        pytest.skip("veritysetup is not installed: apt-get install cryptsetup-bin")
    subprocess.run([TOOL, "verify", data, tmp_path / "tree", root], check=True, capture_output=True)


def test_several_processes_make_the_same_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(verity, "SHARE", 64 * BLOCK)
    data = filled(tmp_path / "data", 1000)
    roots = {
        make(data, tmp_path / f"tree{count}", salt=SALT, uuid=NAME, processes=count) for count in (1, 2, 3)
    }
    assert len(roots) == 1
    assert len({(tmp_path / f"tree{count}").read_bytes() for count in (1, 2, 3)}) == 1


def test_the_same_data_have_the_same_tree_and_no_other(tmp_path):
    first = make(filled(tmp_path / "a", 50), tmp_path / "ta", salt=SALT, uuid=NAME)
    again = make(filled(tmp_path / "b", 50), tmp_path / "tb", salt=SALT, uuid=NAME)
    other = make(filled(tmp_path / "c", 50, seed=1), tmp_path / "tc", salt=SALT, uuid=NAME)
    assert first == again != other
    assert (tmp_path / "ta").read_bytes() == (tmp_path / "tb").read_bytes()


@pytest.mark.parametrize(
    ("size", "salt", "where"), [(0, b"", "data"), (4095, b"", "data"), (4096, b"z" * 257, "salt")]
)
def test_what_cannot_be_hashed_is_refused_and_nothing_is_left(tmp_path, size, salt, where):
    (tmp_path / "data").write_bytes(os.urandom(size))
    with pytest.raises(MalformedVerity) as raised:
        make(tmp_path / "data", tmp_path / "tree", salt=salt, uuid=NAME)
    assert where in raised.value.where
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made")
    data = filled(directory / "data", 140)
    return data, directory / "tree", make(data, directory / "tree", salt=SALT, uuid=NAME)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_is_found(made, tmp_path_factory, data):
    source, tree, root = made
    directory = tmp_path_factory.mktemp("changed")
    which = data.draw(st.sampled_from(["data", "tree", "root"]))
    copies = {"data": directory / "data", "tree": directory / "tree"}
    shutil.copy(source, copies["data"])
    shutil.copy(tree, copies["tree"])
    if which == "root":
        root = hashlib.sha256(root.encode()).hexdigest()
    else:
        content = bytearray(copies[which].read_bytes())
        # The rest of the superblock's block is not read by anybody; name, version and salt are.
        places = st.integers(0, len(content) - 1)
        if which == "tree":
            places = st.integers(0, 11) | st.integers(80, 81) | st.integers(BLOCK, len(content) - 1)
        at = data.draw(places)
        content[at] ^= data.draw(st.integers(1, 255))
        copies[which].write_bytes(content)
    with pytest.raises(MalformedVerity):
        verify(copies["data"], copies["tree"], root)


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0, b"x", "no verity superblock"),
        (8, b"\2", "version 2"),
        (12, b"\0", "hash type 0"),
        (32, b"sha512", "another algorithm"),
        (64, b"\0\2\0\0", "blocks of 512"),
        (68, b"\0\2\0\0", "4096 and 512"),
        (72, b"\0" * 8, "over no data"),
        (80, b"\1\1", "salt of 257"),
    ],
)
def test_another_superblock_is_refused_with_its_offset(made, tmp_path, offset, value, says):
    content = bytearray(made[1].read_bytes())
    content[offset : offset + len(value)] = value
    (tmp_path / "tree").write_bytes(content)
    with pytest.raises(MalformedVerity, match=says) as raised:
        read(tmp_path / "tree")
    assert raised.value.where.endswith(f"offset {64 if offset == 68 else offset}")


@given(st.binary(max_size=600))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_no_superblock(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "tree"
    path.write_bytes(content)
    with pytest.raises(MalformedVerity):
        read(path)


@pytest.mark.parametrize("change", [b"", b"\0" * BLOCK], ids=["cut", "longer"])
def test_a_tree_of_another_length_is_refused(made, tmp_path, change):
    content = made[1].read_bytes()
    (tmp_path / "tree").write_bytes(content + change if change else content[:-1])
    with pytest.raises(MalformedVerity, match="does not belong"):
        verify(made[0], tmp_path / "tree", made[2])
