"""EFI system partitions: sound for fsck.fat, read by mtools, the same bytes for the same file."""

from __future__ import annotations

import io
import subprocess
from pathlib import PurePosixPath

import pytest

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import esp, tools

SERIAL = 0x1234ABCD


def program(name, package):
    found = tools.path(name)
    if found is None:
        pytest.skip(f"{name} is not installed: install {package}")
    return str(found)


def made(tmp_path, size, path=esp.BOOT["x86_64"]):
    file = tmp_path / "boot.efi"
    # Every sector differs, so that one in the wrong place shows.
    file.write_bytes(b"".join(number.to_bytes(8, "little") * 64 for number in range(-(-size // 512)))[:size])
    image = tmp_path / "esp"
    with image.open("wb") as out:
        assert esp.write(file, out, serial=SERIAL, path=path) == esp.size_of(file, path)
    assert image.stat().st_size == esp.size_of(file, path)
    return file, image


# One byte, around a cluster, small enough for the least size, and beyond it.
SIZES = [1, 511, 512, 513, 5_000_000, 40_000_001]


@pytest.mark.parametrize("size", SIZES)
def test_fsck_finds_nothing_wrong(tmp_path, size):
    _, image = made(tmp_path, size)
    done = subprocess.run(
        [program("fsck.fat", "dosfstools"), "-n", "-V", image], capture_output=True, text=True
    )
    assert (done.returncode, "4 files" in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize("size", SIZES)
def test_mtools_reads_the_file_where_firmware_looks(tmp_path, size):
    file, image = made(tmp_path, size)
    copy = tmp_path / "copy"
    mcopy = program("mcopy", "mtools")
    subprocess.run([mcopy, "-n", "-i", image, "::EFI/BOOT/BOOTX64.EFI", copy], check=True)
    assert copy.read_bytes() == file.read_bytes()


def test_the_volume_has_the_name_and_serial_that_it_was_given(tmp_path):
    _, image = made(tmp_path, 100)
    said = subprocess.run(
        [program("mdir", "mtools"), "-i", image, "::"], check=True, capture_output=True, text=True
    )
    assert "1234-ABCD" in said.stdout
    assert "is ESP" in said.stdout


def test_it_begins_where_the_partition_does(tmp_path):
    file, image = made(tmp_path, 70_000)
    out = io.BytesIO(bytes(4096))
    out.seek(4096)
    esp.write(file, out, serial=SERIAL)
    assert out.getvalue()[4096:] == image.read_bytes()


def test_the_same_file_gives_the_same_bytes(tmp_path):
    images = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        images.append(made(tmp_path / name, 10_000)[1].read_bytes())
    assert images[0] == images[1]


@pytest.mark.parametrize("path", ["EFI/Linux/x.efi", "EFI/BOOT/LONGER-NAME.EFI", "A/B.LONG", "EFI/ß.EFI"])
def test_names_that_need_more_than_eight_capitals_are_refused(tmp_path, path):
    with pytest.raises(JewelhouseError, match="8 and 3 capital letters"):
        made(tmp_path, 10, PurePosixPath(path))


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(JewelhouseError, match="has 0 bytes"):
        made(tmp_path, 0)


def test_a_file_that_fat_cannot_hold_is_refused(tmp_path):
    file = tmp_path / "large"
    with file.open("wb") as out:
        out.truncate(2**32)
    with pytest.raises(JewelhouseError, match="FAT holds"):
        esp.write(file, io.BytesIO(), serial=1)
