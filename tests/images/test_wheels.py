"""Python packages of an image: what was pinned and nothing else, the same on every machine."""

from __future__ import annotations

import hashlib
import zipfile

import pytest

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import wheels


def wheel(folder, name="tool", files=None, tag="py3-none-any"):
    path = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    content = {f"{name}/__init__.py": b"x = 1\n", **(files or {})}
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    content[f"{info}/RECORD"] = b""
    with zipfile.ZipFile(path, "w") as archive:
        for inside, data in content.items():
            archive.writestr(inside, data)
    return path


def pin(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name, version, *_ = path.name.split("-")
    return f"{name}=={version} --hash=sha256:{digest}\n"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes packages from, and no other place."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def install(tmp_path, requirements):
    return wheels.install(
        requirements.encode(), suite="trixie", architecture="x86_64", cache=tmp_path / "cache"
    )


def test_packages_lie_where_debians_python_looks_without_scripts_and_byte_code(index, tmp_path):
    path = wheel(
        index,
        files={
            "tool-1.0.data/scripts/tool": b"#!python\n",
            "tool-1.0.data/purelib/more.py": b"y = 2\n",
            "tool-1.0.data/headers/x.h": b"",
        },
    )
    found = install(tmp_path, pin(path))
    assert sorted(entry.path for entry in found.entries) == [
        f"usr/lib/python3/dist-packages/{name}"
        for name in (
            "more.py",
            "tool-1.0.dist-info/METADATA",
            "tool-1.0.dist-info/RECORD",
            "tool-1.0.dist-info/WHEEL",
            "tool/__init__.py",
        )
    ]
    assert [(one.name, one.version) for one in found.wheels] == [("tool", "1.0")]


def test_a_wheel_other_than_the_pinned_one_is_refused(index, tmp_path):
    requirement = pin(wheel(index))
    wheel(index, files={"tool/evil.py": b""})
    with pytest.raises(JewelhouseError, match="pip failed") as raised:
        install(tmp_path, requirement)
    assert "pin_requirements" in raised.value.remedy
    assert not list((tmp_path / "cache").iterdir())


def test_wheels_for_another_python_are_not_taken(index, tmp_path):
    with pytest.raises(JewelhouseError, match="pip failed"):
        install(tmp_path, pin(wheel(index, tag="cp311-cp311-manylinux2014_x86_64")))


def test_a_wheel_that_climbs_out_is_refused(index, tmp_path):
    with pytest.raises(JewelhouseError, match="no path inside"):
        install(tmp_path, pin(wheel(index, files={"../../evil.py": b""})))


def test_two_packages_with_one_file_are_refused(index, tmp_path):
    one = wheel(index, "one", {"shared.py": b"1"})
    two = wheel(index, "two", {"shared.py": b"2"})
    with pytest.raises(JewelhouseError, match="comes from two packages"):
        install(tmp_path, pin(one) + pin(two))


def test_what_was_fetched_is_not_fetched_again(index, tmp_path, monkeypatch):
    requirement = pin(wheel(index))
    first = install(tmp_path, requirement)
    monkeypatch.setattr(wheels, "_fetch", lambda *_: pytest.fail("fetched again"))
    assert install(tmp_path, requirement) == first


def test_an_unknown_release_is_named(tmp_path):
    with pytest.raises(JewelhouseError, match="Python of sid"):
        wheels.install(b"", suite="sid", architecture="x86_64", cache=tmp_path)
