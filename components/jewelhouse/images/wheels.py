"""Python packages of an image, from requirements that pin every file by its digest.

pip fetches the wheels for the image's Python, whatever runs here; they are unpacked as they are, without the
scripts and byte code that an installation would add and that would name this machine
(packaging.python.org/en/latest/specifications/binary-distribution-format).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.images.tree import Entry, Kind, MalformedTree, checked

PLACE = "usr/lib/python3/dist-packages"
# Python of each Debian release (packages.debian.org/python3, 2026-11).
PYTHONS: Mapping[str, str] = {"bookworm": "3.11", "trixie": "3.13"}
# Wheels that run on a release's C library: 2.36 and 2.41.
TAGS: Mapping[str, Sequence[str]] = {
    "x86_64": ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64"),
    "aarch64": ("manylinux_2_34_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64"),
}
WHEEL = re.compile(r"(?P<name>[A-Za-z0-9._]+)-(?P<version>[\w.!+]+)(-\d\w*)?-[\w.]+-[\w.]+-[\w.]+\.whl")
# purelib and platlib lie in one place on Debian; scripts, headers and data have no use in an image.
DATA = re.compile(r"[^/]+\.data/(?P<kind>[^/]+)/(?P<path>.+)")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A Python package in an image; `sha256` is of its wheel."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Files of the packages by their place in the image, and what they came from."""

    entries: tuple[Entry, ...]
    wheels: tuple[Wheel, ...]


def platform(suite: str, architecture: str) -> list[str]:
    """pip's options for wheels of a release's Python on an architecture."""
    version = PYTHONS[suite]
    abis = (f"cp{version.replace('.', '')}", "abi3", "none")
    return [
        "--only-binary=:all:",
        f"--python-version={version}",
        "--implementation=cp",
        *(f"--abi={abi}" for abi in abis),
        *(f"--platform={tag}" for tag in TAGS[architecture]),
    ]


def install(
    requirements: bytes,
    *,
    suite: str,
    architecture: str,
    cache: Path,
    report: Callable[[str], None] = lambda line: None,
) -> Installed:
    """The packages that pinned requirements name, fetched once, kept in `cache` by the digest of the inputs.

    Raises JewelhouseError with what pip says, and for wheels that no image can hold.
    """
    if suite not in PYTHONS:
        raise JewelhouseError(
            f"the Python of {suite} is not known", where="suite", remedy=" or ".join(sorted(PYTHONS))
        )
    options = platform(suite, architecture)
    key = hashlib.sha256(requirements + b"\0" + " ".join(options).encode()).hexdigest()
    directory = cache / f"wheels-{key[:24]}"
    if not directory.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".wheels-") as temporary:
            partial = Path(temporary) / "made"
            _fetch(requirements, options, partial, report)
            shutil.rmtree(directory, ignore_errors=True)
            partial.replace(directory)
    entries: dict[str, Entry] = {}
    wheels = []
    for path in sorted(directory.glob("*.whl")):
        wheels.append(_wheel(path))
        for entry in _entries(path, directory / path.stem):
            if entry.path in entries and not _same(entries[entry.path], entry):
                raise MalformedTree("comes from two packages", where=entry.path)
            entries[entry.path] = entry
    return Installed(entries=tuple(entries.values()), wheels=tuple(wheels))


def _fetch(
    requirements: bytes, options: Sequence[str], directory: Path, report: Callable[[str], None]
) -> None:
    directory.mkdir()
    file = directory / "requirements.txt"
    file.write_bytes(requirements)
    report("Python packages")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", *options, "--dest", str(directory), "--requirement", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or [
            done.stderr[-500:]
        ]
        raise JewelhouseError(
            f"pip failed: {' '.join(lines)}",
            where="requirements",
            remedy="pin them again: python tools/pin_requirements.py",
        )
    for path in directory.glob("*.whl"):
        _unpack(path, directory / path.stem)


def _unpack(path: Path, directory: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    target = directory / checked(member.filename)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, target.open("wb") as out:
                        shutil.copyfileobj(source, out)
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise JewelhouseError(f"is no wheel: {error}", where=path.name) from error


def _entries(path: Path, directory: Path) -> list[Entry]:
    found = []
    for file in sorted(directory.rglob("*")):
        name = file.relative_to(directory).as_posix()
        if match := DATA.fullmatch(name):
            if match["kind"] not in ("purelib", "platlib"):
                continue
            name = match["path"]
        if file.is_file():
            # An installer would make shared objects executable; nothing here is run by its name.
            found.append(Entry(path=f"{PLACE}/{name}", kind=Kind.FILE, mode=0o644, content=file))
    return found


def _same(one: Entry, other: Entry) -> bool:
    return (
        isinstance(one.content, Path)
        and isinstance(other.content, Path)
        and (one.content.read_bytes() == other.content.read_bytes())
    )


def _wheel(path: Path) -> Wheel:
    match = WHEEL.fullmatch(path.name)
    if match is None:
        raise JewelhouseError("has no name of a wheel", where=path.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(name=match["name"].lower().replace("_", "-"), version=match["version"], sha256=digest)
