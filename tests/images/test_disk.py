"""Measured disks: every part where firmware and kernel look for it, the same bytes for the same parts, and a
word for what differs when they are not."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import disk, erofs, gpt, tools
from jewelhouse.images.disk import Disk
from jewelhouse.images.tree import Entry, Kind, digests, tree

EPOCH = 1_767_225_600


def file(path, content=b"", mode=0o644):
    return Entry(path=path, kind=Kind.FILE, mode=mode, content=content)


def folders(*paths):
    return [Entry(path=path, kind=Kind.DIRECTORY, mode=0o755) for path in paths]


FILES = tree(
    [
        *folders(*disk.MOUNTED),
        file("usr/bin/guest", b"#!/usr/bin/python3\n" * 9, 0o755),
        file("usr/lib/large", b"weights" * 100_000),
        file("etc/jewelhouse/trust.json", b"{}"),
    ]
)
KERNEL = b"MZ" + b"kernel" * 10_000


def made(directory: Path, files=FILES, kernel=KERNEL, seed="recipe") -> tuple[Disk, Path]:
    directory.mkdir(parents=True, exist_ok=True)
    uki = directory / "boot.efi"
    uki.write_bytes(kernel)
    parts = Disk(uki=uki, root=disk.make_root(files, directory, seed=seed, epoch=EPOCH))
    disk.build(parts, directory / "disk.raw")
    return parts, directory / "disk.raw"


@pytest.fixture
def built(tmp_path):
    return made(tmp_path / "built")


def cut(image: Path, index: int) -> Path:
    path = image.with_name(f"partition-{index}")
    gpt.copy_out(image, gpt.read(image).partitions[index], path)
    return path


def program(name, package):
    found = tools.path(name)
    if found is None:
        pytest.skip(f"{name} is not installed: install {package}")
    return str(found)


def test_partitions_have_discoverable_types_and_the_names_of_their_root_hash(built):
    parts, image = built
    root_hash = parts.root.root_hash
    boot, root, hashes = gpt.read(image).partitions
    assert (boot.kind, (root.kind, hashes.kind)) == (disk.SYSTEM, disk.ROOTS["x86_64"])
    assert (root.unique, hashes.unique) == (UUID(root_hash[:32]), UUID(root_hash[32:]))
    assert (root.name, hashes.name) == (f"root-{root_hash[:16]}", f"verity-{root_hash[:16]}")
    assert root.attributes == hashes.attributes == gpt.READ_ONLY


def test_gdisk_finds_no_problem(built):
    said = subprocess.run(
        [program("sgdisk", "gdisk"), "--verify", built[1]], capture_output=True, text=True, check=True
    )
    assert "No problems found" in said.stdout


def test_firmware_finds_the_kernel(built):
    _, image = built
    at = gpt.read(image).partitions[0].offset
    copy = image.with_name("copy")
    mcopy = program("mcopy", "mtools")
    subprocess.run([mcopy, "-n", "-i", f"{image}@@{at}", "::EFI/BOOT/BOOTX64.EFI", copy], check=True)
    assert copy.read_bytes() == KERNEL


def test_veritysetup_verifies_the_partitions_against_the_command_line(built):
    parts, image = built
    words = dict(word.split("=", 1) for word in parts.root.command_line.split())
    veritysetup = program("veritysetup", "cryptsetup-bin")
    data, hashes = cut(image, 1), cut(image, 2)
    subprocess.run([veritysetup, "verify", data, hashes, words["roothash"]], check=True, capture_output=True)
    said = subprocess.run([veritysetup, "dump", hashes], check=True, capture_output=True, text=True).stdout
    shown = {line.partition(":")[0]: line.partition(":")[2].split() for line in said.splitlines()}
    assert shown["Salt"] == [words["jewelhouse.salt"]]
    assert shown["Data blocks"] == [words["jewelhouse.blocks"]]


def test_the_root_file_system_holds_the_tree(built):
    assert digests(erofs.read(cut(built[1], 1))) == digests(FILES)


def test_two_builds_in_different_places_and_times_are_the_same(built, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
    mask = os.umask(0o077)
    try:
        _, other = made(tmp_path / "a" / "longer" / "place")
    finally:
        os.umask(mask)
    assert list(disk.compare(built[1], other)) == []
    assert other.read_bytes() == built[1].read_bytes()


def without(path):
    return tree(entry for entry in FILES.values() if entry.path != path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            {"files": tree([*FILES.values(), file("usr/bin/guest", b"other", 0o755)])},
            ["root: usr/bin/guest: file 0755 0:0 171 sha256:", "verity: content differs"],
            id="program-replaced",
        ),
        pytest.param(
            {"files": tree([*FILES.values(), file("etc/jewelhouse/trust.json", b"{}", 0o666)])},
            ["root: etc/jewelhouse/trust.json: file 0644"],
            id="mode-changed",
        ),
        pytest.param(
            {"files": tree([*FILES.values(), file("usr/sbin/sshd")])},
            ["root: usr/sbin/sshd: only after"],
            id="program-added",
        ),
        pytest.param(
            {"files": without("usr/lib/large")}, ["root: usr/lib/large: only before"], id="file-left-out"
        ),
        pytest.param(
            {"kernel": KERNEL + b"\0"}, ["esp: content differs from byte", "disk: "], id="kernel-grown"
        ),
        pytest.param(
            {"seed": "other"}, ["verity: content differs", "root: content differs"], id="other-seed"
        ),
    ],
)
def test_what_differs_is_named_down_to_the_file(built, tmp_path, change, says):
    _, other = made(tmp_path / "other", **change)
    lines = list(disk.compare(built[1], other))
    for said in says:
        assert any(line.startswith(said) for line in lines), (said, lines)
    if change.keys() == {"kernel"}:
        assert not any(line.startswith(("root", "verity: content")) for line in lines), lines


def test_a_changed_byte_in_a_file_is_found_there(built, tmp_path):
    _, image = built
    other = tmp_path / "tampered"
    other.write_bytes(image.read_bytes())
    with other.open("r+b") as opened:
        at = image.read_bytes().index(b"weightsweights")
        opened.seek(at)
        opened.write(b"W")
    lines = list(disk.compare(image, other))
    assert [line.split(":")[0:2] for line in lines] == [
        ["root", f" content differs from byte {at - gpt.read(image).partitions[1].offset}"],
        ["root", " usr/lib/large"],
    ]


@pytest.mark.parametrize("path", disk.MOUNTED)
def test_a_tree_without_a_folder_to_mount_over_is_refused(tmp_path, path):
    with pytest.raises(JewelhouseError, match=f"no folder {path}"):
        disk.make_root(without(path), tmp_path, seed="x", epoch=0)


def test_other_instruction_sets_are_refused(built, tmp_path):
    with pytest.raises(JewelhouseError, match="not built for riscv64"):
        disk.build(replace(built[0], architecture="riscv64"), tmp_path / "disk")
    assert not (tmp_path / "disk").exists()


def test_arm_machines_find_their_own_file_and_partitions(built, tmp_path):
    disk.build(replace(built[0], architecture="aarch64"), tmp_path / "disk")
    assert b"BOOTAA64EFI" in (tmp_path / "disk").read_bytes()
    kinds = tuple(one.kind for one in gpt.read(tmp_path / "disk").partitions[1:])
    assert kinds == disk.ROOTS["aarch64"]


def test_a_build_that_is_cut_off_leaves_the_old_disk(built, monkeypatch):
    parts, image = built
    before = image.read_bytes()
    parts.root.data.write_bytes(parts.root.data.read_bytes() + bytes(4096))
    monkeypatch.setattr(disk, "layout", lambda _: gpt.read(image))
    with pytest.raises(JewelhouseError, match="changed while it was copied"):
        disk.build(parts, image)
    assert image.read_bytes() == before
    assert not list(image.parent.glob(".*"))
