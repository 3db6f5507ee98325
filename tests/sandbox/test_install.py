"""Getting the CLI: which way is taken, what each failure says, and that nothing half-made is left."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import PROJECT

from jewelhouse.errors import SandboxError
from jewelhouse.sandbox import install
from jewelhouse.sandbox.paths import Paths

WANTED = "3.259.0"


def program(path: Path, prints: str = f"v{WANTED}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


def whole(directory: Path, prints: str = f"v{WANTED}") -> Path:
    for name in (install.HOST, install.SCRIPT):
        program(directory / name)
    return program(directory / "pulumi", prints)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A project of its own with the pinned versions, an empty PATH but for the shell, and an empty cache."""
    project = tmp_path / "project"
    built = shutil.ignore_patterns("target", "node_modules")
    shutil.copytree(PROJECT / "tools", project / "tools", ignore=built)
    (project / ".pulumi.version").write_text(f"{WANTED}\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # `#!/bin/sh` scripts call echo only, which is built in.
    return Paths(project, project / ".jewelhouse" / "sandbox")


def test_the_pinned_version_is_the_one_of_the_go_modules() -> None:
    wanted = install.wanted_version(PROJECT)
    modules = (PROJECT / "tools" / "pulumi-cli" / "go.mod").read_text()
    assert f"github.com/pulumi/pulumi/pkg/v3 v{wanted}" in modules
    assert f"github.com/pulumi/pulumi/sdk/v3 v{wanted}" in modules


@pytest.mark.parametrize("module", ["pulumi-cli", "pulumi-language-python"])
def test_every_module_that_is_built_is_pinned_by_its_sum(module: str) -> None:
    assert (PROJECT / "tools" / module / "go.sum").read_text().count("\n") > 50


def test_a_recent_cli_on_path_is_taken(paths: Paths, tmp_path: Path) -> None:
    cli = whole(tmp_path / "path", "v3.300.1")
    assert install.find_cli(paths) == cli


@pytest.mark.parametrize(
    ("prints", "says"),
    [("v3.100.0", "needed is 3.221.0"), ("what?", "does not run")],
    ids=["too old", "broken"],
)
def test_a_cli_that_cannot_be_used_says_why(paths: Paths, tmp_path: Path, prints: str, says: str) -> None:
    assert says in (install.usable(whole(tmp_path / "path", prints)) or "")
    assert install.find_cli(paths) is None


def test_a_cli_without_its_language_host_is_not_taken(paths: Paths, tmp_path: Path) -> None:
    cli = program(tmp_path / "path" / "pulumi")
    assert install.HOST in (install.usable(cli) or "")
    assert install.find_cli(paths) is None


def test_a_damaged_cli_is_got_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(paths.tools, "garbage")

    def built(paths: Paths, place: Path, report: install.Report) -> None:
        whole(place)

    monkeypatch.setattr(install, "_built", built)
    assert install.get_cli(paths) == paths.tools / "pulumi"
    assert install.usable(paths.tools / "pulumi") is None


def test_when_no_way_works_each_says_why_and_nothing_is_left(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_go(report: install.Report) -> str:
        raise install._Failed("there is no Go 1.25.0 or newer")

    monkeypatch.setattr(install, "_go", no_go)
    with pytest.raises(SandboxError) as caught:
        install.get_cli(paths)
    text = str(caught.value)
    assert "PATH: there is no pulumi on PATH" in text
    assert "official archive: tools/pulumi-checksums.txt pins no checksum" in text
    assert "Go build: there is no Go 1.25.0 or newer" in text
    assert "https://www.pulumi.com/docs/install/" in text
    assert not paths.tools.exists()
    assert not list(paths.tools.parent.glob("bin-*"))


def archive(directory: Path) -> bytes:
    """An archive as the release has it: everything below `pulumi/`."""
    whole(directory / "pulumi")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(directory / "pulumi", arcname="pulumi")
    return buffer.getvalue()


@pytest.fixture
def offered(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pins a checksum for the archive that the release server would hand out."""
    content = archive(tmp_path / "release")
    monkeypatch.setattr(install.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(content))
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(install.sys, "platform", "linux")

    def pin(digest: str = "") -> None:
        digest = digest or hashlib.sha256(content).hexdigest()
        file = paths.project / "tools" / "pulumi-checksums.txt"
        file.write_text(f"{digest}  pulumi-v{WANTED}-linux-x64.tar.gz\n")

    return pin


def test_a_pinned_archive_is_unpacked(paths: Paths, offered: Callable[..., None]) -> None:
    offered()
    cli = install.get_cli(paths)
    assert cli == paths.tools / "pulumi"
    assert os.access(cli, os.X_OK)
    assert sorted(path.name for path in paths.tools.iterdir()) == sorted(
        ["pulumi", install.HOST, install.SCRIPT]
    )


def test_an_archive_with_another_checksum_is_never_unpacked(
    paths: Paths, offered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered("0" * 64)
    monkeypatch.setattr(install, "_go", lambda report: (_ for _ in ()).throw(install._Failed("no Go")))
    with pytest.raises(SandboxError, match="does not have its pinned checksum"):
        install.get_cli(paths)
    assert not paths.tools.exists()


@pytest.mark.parametrize("damage", ["nothing", "a byte", "the sums"])
def test_a_cached_build_is_used_only_while_it_is_intact(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cache = install._cache(paths, WANTED)
    whole(cache)
    names = ("pulumi", install.HOST, install.SCRIPT)
    sums = {name: hashlib.sha256((cache / name).read_bytes()).hexdigest() for name in names}
    (cache / "sha256.json").write_text(json.dumps(sums))
    if damage == "a byte":
        (cache / "pulumi").write_text((cache / "pulumi").read_text() + "\n")
    if damage == "the sums":
        (cache / "sha256.json").unlink()
    asked: list[str] = []

    def go(report: install.Report) -> str:
        asked.append("go")
        raise install._Failed("no Go")

    monkeypatch.setattr(install, "_go", go)
    if damage == "nothing":
        assert install.get_cli(paths).is_file()
        assert not asked
    else:
        with pytest.raises(SandboxError):
            install.get_cli(paths)
        assert asked


def test_another_pin_is_another_cache(paths: Paths) -> None:
    before = install._cache(paths, WANTED)
    file = paths.project / "tools" / "pulumi-cli" / "go.sum"
    file.write_text(file.read_text() + "x\n")
    assert install._cache(paths, WANTED) != before


def test_plugins_are_installed_once_and_mended(cli: Path, tmp_path: Path) -> None:
    paths = Paths(PROJECT, tmp_path / "sandbox")
    said: list[str] = []
    install.install_plugins(cli, paths, said.append)
    assert len(said) == 3
    install.install_plugins(cli, paths, said.append)
    assert len(said) == 3
    launcher = next(paths.home.glob("plugins/resource-aws-*/pulumi-resource-aws"))
    assert launcher.stat().st_mode & stat.S_IXUSR
    launcher.write_text("broken")
    install.install_plugins(cli, paths, said.append)
    assert len(said) == 4
    assert "jewelhouse.sandbox.provider aws" in launcher.read_text()
