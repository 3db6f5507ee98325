"""The root file system of an image, from Debian packages: the same packages give the same bytes.

Made by mmdebstrap, which extracts packages without running their scripts and honours SOURCE_DATE_EPOCH. The
live archive moves on, so packages are pinned by what the lock file records; an archive of snapshots keeps
them to be had: `archive` takes one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import tools

SUITE = re.compile(r"[a-z][a-z0-9-]{1,30}")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,60}(=[A-Za-z0-9.+:~-]{1,80})?")
ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}
# What no workload reads, and what differs between two builds of the same packages.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
REMOVED = (
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/lib/apt",
    "var/log/apt",
)
# Name, version and architecture of each package, with the digest of its file, in the order of names.
RECORD = (
    'for file in "$1"/var/cache/apt/archives/*.deb; do '
    'dpkg-deb --show --showformat="\\${Package} \\${Version} \\${Architecture} " "$file"; '
    'sha256sum < "$file"; done | sort > "$1"/{record}'
)
# Inside the tree, since in a user namespace the hook may write nowhere else; it leaves with what is removed.
KEPT = "jewelhouse-packages"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a root file system is made of. `epoch`: seconds since 1970 that every file is dated with.
    `archive`: URL of a Debian archive or of a day of a snapshot archive; None for Debian's own."""

    suite: str
    packages: tuple[str, ...]
    architecture: str = "x86_64"
    epoch: int = 0
    archive: str | None = None

    @property
    def key(self) -> str:
        """Digest of the inputs; a finished root file system is kept under it."""
        values = [self.suite, sorted(self.packages), self.architecture, self.epoch, self.archive]
        return hashlib.sha256(json.dumps([values, LEFT_OUT, REMOVED]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package in a root file system; `sha256` is of its .deb file."""

    name: str
    version: str
    architecture: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RootFs:
    """A root file system as a tar, with the packages in it."""

    tar: Path
    packages: tuple[Package, ...]


def build(request: Request, cache: Path, report: Callable[[str], None] = lambda line: None) -> RootFs:
    """Makes the tar, or finds it in `cache` under the key of its inputs. An interrupted run leaves nothing.

    Raises JewelhouseError for a bad request, a missing tool, and whatever mmdebstrap says.
    """
    _check(request)
    directory = cache / f"rootfs-{request.key[:24]}"
    if not (directory / "packages").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".rootfs-") as temporary:
            partial = Path(temporary) / "made"
            partial.mkdir()
            _run(request, partial, report)
            shutil.rmtree(directory, ignore_errors=True)
            partial.replace(directory)
    return RootFs(tar=directory / "root.tar", packages=tuple(_packages(directory / "packages")))


def _check(request: Request) -> None:
    if not SUITE.fullmatch(request.suite):
        raise JewelhouseError(f"{request.suite!r} is no suite of Debian", where="suite", remedy="bookworm")
    for package in request.packages:
        if not PACKAGE.fullmatch(package):
            raise JewelhouseError(
                f"{package!r} is no package", where="packages", remedy="name or name=version"
            )
    if request.architecture not in ARCHITECTURES:
        raise JewelhouseError(
            f"images are not built for {request.architecture}",
            where="architecture",
            remedy=" or ".join(ARCHITECTURES),
        )


def command(request: Request, directory: Path, tool: str) -> Sequence[str]:
    """The call of mmdebstrap; as root, or in a user namespace of its own."""
    record = RECORD.replace("{record}", KEPT)
    found = [
        tool,
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--variant=extract",
        "--format=tar",
        f"--architectures={ARCHITECTURES[request.architecture]}",
        f"--include={','.join(sorted(request.packages))}",
        '--aptopt=APT::Install-Recommends "false"',
        f"--extract-hook={record}",
        *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
        request.suite,
        str(directory / "raw.tar"),
    ]
    return found if request.archive is None else [*found, request.archive]


def _run(request: Request, directory: Path, report: Callable[[str], None]) -> None:
    tool = tools.path("mmdebstrap")
    if tool is None:
        raise JewelhouseError(
            "mmdebstrap is not installed", where="rootfs", remedy="make tools, or apt-get install mmdebstrap"
        )
    report(f"packages of {request.suite}: {', '.join(sorted(request.packages))}")
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(request.epoch), "LC_ALL": "C.UTF-8"}
    environment["PATH"] = f"{environment.get('PATH', '')}:{tools.ELSEWHERE}"
    done = subprocess.run(
        command(request, directory, str(tool)), capture_output=True, text=True, env=environment
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or [done.stderr[-500:]]
        raise JewelhouseError(f"mmdebstrap failed: {' '.join(lines)}", where="rootfs")
    _strip(directory / "raw.tar", directory / "root.tar", directory / "packages")
    (directory / "raw.tar").unlink()


def _strip(source: Path, destination: Path, record: Path) -> None:
    """Without what is removed, which mmdebstrap makes again in part after its last hook, with the record of
    packages in a file of its own."""
    with tarfile.open(source) as before, tarfile.open(destination, "w", format=tarfile.PAX_FORMAT) as after:
        for member in before:
            name = member.name.removeprefix("./")
            if name == KEPT and (listed := before.extractfile(member)):
                record.write_bytes(listed.read())
            elif not any(name == path or name.startswith(f"{path}/") for path in REMOVED):
                after.addfile(member, before.extractfile(member) if member.isreg() else None)


def _packages(record: Path) -> list[Package]:
    found = []
    for line in record.read_text(encoding="utf-8").splitlines():
        name, version, architecture, digest, *_ = line.split()
        found.append(Package(name=name, version=version, architecture=architecture, sha256=digest))
    return found
