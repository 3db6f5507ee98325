"""What a deployment or the sandbox needs, whether it is here, and the command that mends what is not."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jewelhouse.images import tools
from jewelhouse.model import Cloud
from jewelhouse.sandbox import install
from jewelhouse.sandbox.paths import Paths
from jewelhouse.sandbox.schema import SDKS, version

PACKAGES = {Cloud.AWS: "aws", Cloud.AZURE: "azure-native", Cloud.GCP: "gcp"}
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for. `needed` findings that are not `ok` stop a deployment."""

    name: str
    ok: bool
    found: str
    mend: str = ""
    needed: bool = True


def look(project: Path, *, clouds: tuple[Cloud, ...], sandbox: bool) -> Iterator[Finding]:
    """Everything that a deployment to `clouds` needs, or with `sandbox` what the sandbox needs.

    Looks at files, environment and versions only: no network, no credential is read or used.
    """
    paths = Paths.of(project)
    yield _python()
    yield from _packages(project, sandbox)
    yield from _cli(paths, sandbox)
    if sandbox:
        yield from _stand_ins(paths)
        return
    yield from _tools()
    for cloud in clouds:
        yield _plugin(PACKAGES[cloud])
        yield _CREDENTIALS[cloud]()


def _python() -> Finding:
    return Finding(
        name="Python",
        ok=sys.version_info >= OLDEST_PYTHON,
        found=".".join(map(str, sys.version_info[:3])),
        mend=f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer",
    )


def _packages(project: Path, sandbox: bool) -> Iterator[Finding]:
    yield _pinned(project, "requirements.txt", "Python packages", needed=True)
    yield _pinned(project, "requirements-evidence.txt", "Python packages for evidence", needed=sandbox)
    yield _pinned(project, "requirements-guest.txt", "Python packages for weights", needed=False)
    yield _pinned(project, "requirements-images.txt", "Python packages for images", needed=False)
    if sandbox:
        yield _pinned(project, "requirements-sandbox.txt", "Python packages of the sandbox", needed=True)


def _pinned(project: Path, file: str, name: str, *, needed: bool) -> Finding:
    wrong: list[str] = []
    text = (project / file).read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", text, re.MULTILINE)
    for package, wanted in pins:
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{package} is missing")
            continue
        if found != wanted:
            wrong.append(f"{package} is {found}, pinned is {wanted}")
    return Finding(
        name=name,
        ok=not wrong,
        found="; ".join(wrong) if wrong else f"{len(pins)} as pinned",
        mend=f"{sys.executable} -m pip install -r {file}",
        needed=needed,
    )


def _cli(paths: Paths, sandbox: bool) -> Iterator[Finding]:
    cli = install.find_cli(paths)
    on_path = shutil.which("pulumi")
    if cli:
        yield Finding(name="Pulumi CLI and Python language host", ok=True, found=str(cli))
    else:
        why = install.usable(Path(on_path)) if on_path else "there is no pulumi on PATH"
        yield Finding(
            name="Pulumi CLI and Python language host",
            ok=False,
            found=str(why),
            mend="make set-up" if sandbox else "https://www.pulumi.com/docs/install/, or make set-up",
        )
        go = shutil.which("go")
        yield Finding(
            name="Go, to build the CLI",
            ok=go is not None,
            found=go or "not on PATH",
            mend=f"pip install {install.GO_PACKAGE} (set-up does so by itself)",
            needed=False,
        )


def _stand_ins(paths: Paths) -> Iterator[Finding]:
    for package in SDKS:
        launcher = (
            paths.home / "plugins" / f"resource-{package}-v{version(package)}" / f"pulumi-resource-{package}"
        )
        yield Finding(
            name=f"Stand-in provider {package}",
            ok=os.access(launcher, os.X_OK),
            found=version(package) if launcher.is_file() else "not installed",
            mend="make set-up",
        )


def _tools() -> Iterator[Finding]:
    for tool in tools.TOOLS:
        there = tools.path(tool.name)
        yield Finding(
            name=f"{Path(tool.name).name}: {tool.use}",
            ok=there is not None,
            found=tools.version(tool) if there else "not installed",
            mend=f"make tools, or install {tool.package}",
            needed=False,
        )


def _plugin(package: str) -> Finding:
    wanted = version(package)
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    there = (home / "plugins" / f"resource-{package}-v{wanted}").is_dir()
    return Finding(
        name=f"Provider plugin {package}",
        ok=there,
        found=wanted if there else f"{wanted} is not in {home / 'plugins'}",
        mend=f"pulumi plugin install resource {package} {wanted} (pulumi up also does, where it may)",
        needed=False,
    )


def _aws() -> Finding:
    ways = [
        name
        for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
        if os.environ.get(name)
    ]
    ways += [str(path) for path in _files("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", ".aws/config")]
    return _credentials("AWS", ways, "aws sso login, or set AWS_PROFILE")


def _azure() -> Finding:
    ways = [name for name in ("ARM_CLIENT_ID", "ARM_USE_OIDC", "ARM_USE_MSI") if os.environ.get(name)]
    ways += [str(path) for path in _files("AZURE_CONFIG_DIR", ".azure/azureProfile.json")]
    return _credentials("Azure", ways, "az login, or set ARM_CLIENT_ID with ARM_USE_OIDC=true")


def _google() -> Finding:
    ways = [name for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CREDENTIALS") if os.environ.get(name)]
    ways += [str(path) for path in _files("", ".config/gcloud/application_default_credentials.json")]
    return _credentials("Google Cloud", ways, "gcloud auth application-default login")


def _files(variable: str, *relative: str) -> list[Path]:
    named = os.environ.get(variable) if variable else None
    candidates = [Path(named)] if named else [Path.home() / path for path in relative]
    return [path for path in candidates if path.exists()]


def _credentials(name: str, ways: list[str], mend: str) -> Finding:
    found = ", ".join(ways) if ways else "none in environment or well-known files"
    return Finding(name=f"{name} credentials", ok=bool(ways), found=found, mend=mend)


_CREDENTIALS = {Cloud.AWS: _aws, Cloud.AZURE: _azure, Cloud.GCP: _google}
