"""Root file systems: twice the same bytes, nothing half-written, bad requests named."""

from __future__ import annotations

import hashlib
import shutil
import tarfile

import pytest

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import rootfs
from jewelhouse.images.rootfs import Request, build

needed = pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed")
SMALL = Request(suite="bookworm", packages=("busybox-static",), epoch=1_760_000_000)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    try:
        return [build(SMALL, tmp_path_factory.mktemp(name)) for name in ("one", "two")]
    except JewelhouseError as error:
        if "Failed to fetch" in error.what or "Temporary failure" in error.what:
            pytest.skip(f"no Debian archive can be reached: {error.what[:200]}")
        raise


def test_two_builds_are_the_same_bytes(made):
    digests = {hashlib.sha256(one.tar.read_bytes()).hexdigest() for one in made}
    assert len(digests) == 1
    assert made[0].packages == made[1].packages


def test_every_package_is_recorded_with_its_version_and_digest(made):
    found = {package.name: package for package in made[0].packages}
    assert "busybox-static" in found
    assert all(len(package.sha256) == 64 and package.version for package in found.values())


def test_every_file_has_the_date_of_the_request_and_nothing_that_differs_is_left(made):
    with tarfile.open(made[0].tar) as tar:
        members = tar.getmembers()
    assert max(member.mtime for member in members) <= SMALL.epoch
    names = {member.name.removeprefix("./") for member in members}
    assert "bin/busybox" in names or "usr/bin/busybox" in names
    assert not [name for name in names if name.startswith(rootfs.REMOVED)]
    assert not [name for name in names if name.startswith("usr/share/doc/")]


def test_a_finished_one_is_not_made_again(made, monkeypatch):
    monkeypatch.setattr(rootfs, "_run", lambda *_: pytest.fail("made again"))
    cache = made[0].tar.parents[1]
    assert build(SMALL, cache) == made[0]


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def stop(request, directory, report):
        (directory / "root.tar").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(rootfs, "_run", stop)
    with pytest.raises(KeyboardInterrupt):
        build(SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


@needed
def test_a_package_that_is_not_there_is_named(tmp_path):
    with pytest.raises(JewelhouseError, match="mmdebstrap failed"):
        build(Request(suite="bookworm", packages=("no-such-package-at-all",)), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("rootfs-")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"suite": "--help"}, "is no suite"),
        ({"packages": ("--include=x",)}, "is no package"),
        ({"packages": ("a;b",)}, "is no package"),
        ({"architecture": "riscv64"}, "not built for"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(tmp_path, changes, says):
    request = Request(**{"suite": "bookworm", "packages": ("busybox",), **changes})
    with pytest.raises(JewelhouseError, match=says):
        build(request, tmp_path)


def test_a_missing_tool_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(rootfs.tools, "path", lambda name: None)
    with pytest.raises(JewelhouseError, match="mmdebstrap") as raised:
        build(SMALL, tmp_path)
    assert raised.value.remedy == "make tools, or apt-get install mmdebstrap"


@pytest.mark.parametrize(
    "changes",
    [
        {"packages": ("busybox-static", "python3")},
        {"epoch": 1},
        {"suite": "trixie"},
        {"archive": "https://x"},
    ],
)
def test_other_inputs_are_another_key(changes):
    assert Request(**{**SMALL.__dict__, **changes}).key != SMALL.key
    assert Request(**{**SMALL.__dict__, "packages": tuple(reversed(SMALL.packages))}).key == SMALL.key
