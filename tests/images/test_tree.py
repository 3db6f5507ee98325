"""File trees: the same bytes whatever the machine, read by the tools that others wrote."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.images.tree import (
    Entry,
    Kind,
    MalformedTree,
    differences,
    from_tar,
    tree,
    write_cpio,
    write_tar,
)


def file(path: str, content: bytes = b"", mode: int = 0o644, **others) -> Entry:
    return Entry(path=path, kind=Kind.FILE, mode=mode, content=content, **others)


SMALL = tree(
    [
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        file("init", b"#!/bin/sh\n", 0o755),
        Entry(path="bin", kind=Kind.LINK, mode=0o777, target="usr/bin"),
        Entry(path="dev/console", kind=Kind.CHARACTER, mode=0o600, device=(5, 1)),
        file("usr/bin/é", b"x" * 4097, 0o4755, owner=1, group=2),
        Entry(path="tmp", kind=Kind.DIRECTORY, mode=0o1777),
    ]
)


def cpio(files) -> bytes:
    out = io.BytesIO()
    write_cpio(files, out)
    return out.getvalue()


def tarred(files, epoch: int = 0) -> bytes:
    out = io.BytesIO()
    write_tar(files, out, epoch)
    return out.getvalue()


def test_directories_that_nobody_named_are_there_and_everything_is_in_order():
    assert list(SMALL) == sorted(SMALL, key=str.encode)
    assert SMALL["usr"].kind is SMALL["dev"].kind is Kind.DIRECTORY


def test_order_and_origin_of_the_files_change_nothing(tmp_path):
    (tmp_path / "init").write_bytes(b"#!/bin/sh\n")
    os.utime(tmp_path / "init", (1, 1))
    again = tree(
        [*reversed(SMALL.values()), Entry(path="init", kind=Kind.FILE, mode=0o755, content=tmp_path / "init")]
    )
    assert cpio(again) == cpio(SMALL)
    assert tarred(again) == tarred(SMALL)


def test_cpio_reads_what_is_written(tmp_path):
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed")
    done = subprocess.run(["cpio", "-itv", "--quiet"], input=cpio(SMALL), capture_output=True, check=True)
    listed = done.stdout.decode("utf-8", "replace")
    assert "usr/bin" in listed
    assert "crw-------" in listed
    subprocess.run(
        ["cpio", "-idm", "--quiet", "--no-absolute-filenames", "init", "usr/bin/*", "bin"],
        input=cpio(SMALL), cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert os.readlink(tmp_path / "bin") == "usr/bin"


def test_tar_reads_what_is_written():
    with tarfile.open(fileobj=io.BytesIO(tarred(SMALL, 1_760_000_000))) as tar:
        assert tar.getnames() == list(SMALL)
        assert {member.mtime for member in tar} == {1_760_000_000}
        assert tar.getmember("usr/bin/é").mode == 0o4755
        assert (tar.getmember("usr/bin/é").uid, tar.getmember("usr/bin/é").uname) == (1, "")
        assert tar.extractfile("etc/passwd").read().startswith(b"root")
    system = subprocess.run(["tar", "tf", "-"], input=tarred(SMALL), capture_output=True, check=True)
    assert len(system.stdout.splitlines()) == len(SMALL)


def test_a_tar_comes_back(tmp_path):
    (tmp_path / "a.tar").write_bytes(tarred(SMALL))
    read = from_tar(tmp_path / "a.tar")
    assert not list(differences(SMALL, read))
    assert cpio(read) == cpio(SMALL)


def test_hard_links_become_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("./one")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("./two")
        link.type, link.linkname = tarfile.LNKTYPE, "./one"
        tar.addfile(link)
    read = from_tar(tmp_path / "a.tar")
    assert [b"".join(read[name].chunks()) for name in ("one", "two")] == [b"abc", b"abc"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (file("init", b"#!/bin/sx\n", 0o755), "init: file 0755 0:0 10 sha256:"),
        (file("init", b"#!/bin/sh\n", 0o700), "became file 0700"),
        (file("new", b""), "new: only after"),
        (file("init", b"#!/bin/sh\n", 0o755, owner=7), "7:0"),
        (
            Entry(path="bin", kind=Kind.LINK, mode=0o777, target="sbin"),
            "-> usr/bin became link",
        ),
    ],
)
def test_what_differs_is_told_by_its_path(change, says):
    (line,) = differences(SMALL, tree([*SMALL.values(), change]))
    assert says in line
    assert cpio(SMALL) != cpio(tree([*SMALL.values(), change]))


@pytest.mark.parametrize("path", ["", "/etc", "../up", "a/../b", "a//b", "./a", "a/", "a\0b", "."])
def test_paths_that_leave_the_tree_are_refused(path):
    with pytest.raises(MalformedTree):
        tree([file(path)])


def test_a_file_below_a_file_is_refused():
    with pytest.raises(MalformedTree, match="which is a file"):
        tree([file("a"), file("a/b")])


def member(**changes) -> tarfile.TarInfo:
    made = tarfile.TarInfo(changes.pop("name", "x"))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (member(type=tarfile.FIFOTYPE), "neither file"),
        (member(name="../escape"), "no path inside"),
        (member(name="/../escape"), "no path inside"),
        (member(type=tarfile.LNKTYPE, linkname="nowhere"), "which is not there"),
    ],
)
def test_what_no_image_can_hold_is_refused(tmp_path, one, says):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(one)
    with pytest.raises(MalformedTree, match=says):
        from_tar(tmp_path / "a.tar")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    entry = Entry(path="f", kind=Kind.FILE, mode=0o644, content=(tmp_path / "f", 0, 6))
    with pytest.raises(MalformedTree, match="changed"):
        cpio(tree([entry]))


def test_a_file_too_large_for_cpio_is_refused(tmp_path):
    entry = Entry(path="f", kind=Kind.FILE, mode=0o644, content=(tmp_path / "f", 0, 2**32))
    with pytest.raises(MalformedTree, match="cpio holds"):
        cpio(tree([entry]))


@given(st.binary(max_size=2000))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    path.write_bytes(data)
    with contextlib.suppress(MalformedTree):
        assert from_tar(path) is not None


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_tar_is_read_or_refused(tmp_path_factory, data):
    whole = bytearray(tarred(SMALL))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    path.write_bytes(whole)
    with contextlib.suppress(MalformedTree):
        cpio(from_tar(path))


def test_the_bytes_are_these():
    """A change here changes every measurement that was ever locked."""
    assert hashlib.sha256(cpio(tree([file("init", b"x", 0o755)]))).hexdigest() == (
        "b5d854197515c42f39acb34e67deddc7b4e102d35065b2977bd7bd55007278be"
    )
