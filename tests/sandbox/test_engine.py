"""The environment of a sandbox run, and that it stays apart from real deployments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from samples import PROJECT, STACKS

from jewelhouse.errors import JewelhouseError
from jewelhouse.sandbox.engine import Engine


@pytest.fixture
def quiet(cli: Path, tmp_path: Path) -> Engine:
    return Engine(PROJECT, tmp_path / "sandbox", cli=cli)


def test_nothing_of_the_user_s_own_pulumi_reaches_the_sandbox(
    quiet: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_ACCESS_TOKEN", "real")
    monkeypatch.setenv("PULUMI_BACKEND_URL", "https://api.pulumi.com")
    environment = quiet.environment()
    assert "PULUMI_ACCESS_TOKEN" not in environment
    assert environment["PULUMI_BACKEND_URL"].startswith("file://")
    assert environment["PULUMI_HOME"] == str(quiet.paths.home)
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_nothing_that_is_committed_names_the_stand_ins() -> None:
    project = yaml.safe_load((PROJECT / "Pulumi.yaml").read_text())
    assert "plugins" not in project
    assert "packages" not in project
    program = (PROJECT / "__main__.py").read_text() + (
        PROJECT / "components/jewelhouse/deploy.py"
    ).read_text()
    assert "sandbox" not in program.lower()


@pytest.mark.parametrize("package", ["aws", "azure-native", "gcp"])
def test_a_stand_in_refuses_to_start_outside_a_sandbox(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jewelhouse.sandbox.provider", package, "127.0.0.1:1"],
        capture_output=True,
        text=True,
        env={"PATH": ""},
    )
    assert done.returncode != 0
    assert "starts only in the sandbox" in done.stderr


def test_an_unknown_stack_is_named_with_those_there_are(quiet: Engine) -> None:
    with pytest.raises(JewelhouseError, match="did you mean prod-aws"):
        quiet.operate("up", "prod-was")


def test_configuration_is_copied_with_changes_and_the_original_stays(quiet: Engine) -> None:
    before = (STACKS / "Pulumi.dev.yaml").read_bytes()
    copy = quiet.config("dev", {"stages.train.region": "northeurope", "destroyable": False})
    lifecycle = yaml.safe_load(copy.read_text())["config"]["jewelhouse:lifecycle"]
    assert lifecycle["stages"]["train"]["region"] == "northeurope"
    assert lifecycle["destroyable"] is False
    assert (STACKS / "Pulumi.dev.yaml").read_bytes() == before


def test_what_does_not_come_from_a_change_is_as_committed_again(quiet: Engine) -> None:
    quiet.config("dev", {"destroyable": False})
    again = yaml.safe_load(quiet.config("dev").read_text())["config"]["jewelhouse:lifecycle"]
    assert again["destroyable"] is True


def test_the_salt_of_a_stack_survives_a_new_copy(quiet: Engine) -> None:
    quiet.select("prod-aws")
    salt = yaml.safe_load((quiet.paths.config / "Pulumi.prod-aws.yaml").read_text())["encryptionsalt"]
    quiet.select("prod-aws")
    assert yaml.safe_load((quiet.paths.config / "Pulumi.prod-aws.yaml").read_text())["encryptionsalt"] == salt


def test_state_survives_between_engines(engine: Callable[..., Engine]) -> None:
    first = engine()
    first.select("prod-gcp")
    second = Engine(PROJECT, first.paths.sandbox, cli=first.cli)
    assert second.export("prod-gcp")["version"] == 3


def test_a_run_that_is_killed_can_be_gone_on_with_unless_the_caller_gives_that_up(
    tmp_path, cli: Path
) -> None:
    careful, quick = (Engine(PROJECT, tmp_path, cli=cli, checkpoints=kept) for kept in (True, False))
    assert "PULUMI_SKIP_CHECKPOINTS" not in careful.environment()
    assert quick.environment()["PULUMI_SKIP_CHECKPOINTS"] == "1"
