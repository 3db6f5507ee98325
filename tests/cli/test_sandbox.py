"""The sandbox commands as a person types them, through the real CLI."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import PROJECT, STACKS

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(cli: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    import os

    environment = {**os.environ, "JEWELHOUSE_SANDBOX_DIR": str(tmp_path_factory.mktemp("sandbox"))}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from jewelhouse.cli import main; main()", "sandbox", *arguments],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
        )

    return call


def test_a_stack_up_looked_at_and_down(run: Run) -> None:
    before = {path.name: path.read_bytes() for path in STACKS.iterdir()}
    up = run("up", "--stack", "prod-gcp")
    assert up.returncode == 0, up.stdout + up.stderr
    for words in ("Preparing the sandbox", "done in", "Who opens what, where", "serve-open", "Ciphertext in"):
        assert words in up.stdout

    again = run("up", "--stack", "prod-gcp", "--json", "--", "--expect-no-changes")
    assert again.returncode == 0, again.stderr
    outputs = json.loads(again.stdout)
    assert outputs["stages"]["serve"]["keys"] == [
        "base-gcp-confidential-space-europe-west4",
        "adapter-gcp-confidential-space-europe-west4",
    ]

    preview = run("preview", "--stack", "prod-gcp", "--json")
    assert json.loads(preview.stdout)["changeSummary"].keys() == {"same"}

    export = run("export", "--stack", "prod-gcp")
    assert json.loads(export.stdout)["deployment"]["resources"]

    refused = run("destroy", "--stack", "prod-gcp")
    assert refused.returncode == 1
    assert "--also-protected" in refused.stdout
    assert json.loads(run("export", "--stack", "prod-gcp").stdout)["deployment"]["resources"]

    down = run("destroy", "--stack", "prod-gcp", "--also-protected")
    assert down.returncode == 0, down.stdout
    assert not json.loads(run("export", "--stack", "prod-gcp").stdout)["deployment"].get("resources")
    assert {path.name: path.read_bytes() for path in STACKS.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("up", "--stack", "prod-gpc"), "did you mean prod-gcp?"),
        (("export", "--stack", "prod-aws"), "cannot be exported"),
    ],
)
def test_what_cannot_be_done_is_exit_2_without_a_traceback(
    run: Run, arguments: tuple[str, ...], says: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
