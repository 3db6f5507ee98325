"""`jewelhouse release matrix` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import ALL_STACKS, PROJECT, STACKS, shipped

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.mark.parametrize("name", ALL_STACKS)
def test_every_shipped_stack_has_a_matrix(run: Run, name):
    lifecycle = shipped(name)
    code, out, _ = run("release", "matrix", "--stack", name, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["lifecycle"] == lifecycle.name
    assert len(found["cells"]) == sum(len(stage.opens) for stage in lifecycle.stages.values())


def test_the_table_says_what_weakens_the_whole_stack_first(run: Run):
    code, out, _ = run("release", "matrix", "--stack", "dev")
    assert code == 0
    assert out.index("weakened by destroyable") < out.index("stage")


def test_a_narrow_terminal_loses_nothing(run: Run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = run("release", "matrix", "--stack", "federated")
    seen = "".join(out.split())
    for stage in shipped("federated").stages.values():
        if stage.opens:
            assert stage.name in seen


@pytest.mark.parametrize("form", ["html", "markdown", "json"])
def test_a_file_holds_what_would_be_printed(run: Run, tmp_path: Path, form):
    _, printed, _ = run("release", "matrix", "--stack", "prod-aws", "--format", form)
    code, out, err = run(
        "release", "matrix", "--stack", "prod-aws", "--format", form, "--out", tmp_path / "matrix"
    )
    assert (code, out) == (0, "")
    assert "wrote" in err
    assert (tmp_path / "matrix").read_text(encoding="utf-8") == printed


def test_a_stack_file_of_elsewhere_is_read(run: Run):
    code, out, _ = run("release", "matrix", "--file", STACKS / "Pulumi.gpu.yaml", "--json")
    assert code == 0
    assert json.loads(out)["cells"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["--stack", "prd-aws"], "did you mean prod-aws?", id="misspelt-stack"),
        pytest.param([], "--stack S or by --file F", id="no-stack"),
        pytest.param(["--stack", "dev", "--out", "x"], "a table is for the terminal", id="table-into-a-file"),
        pytest.param(
            ["--stack", "dev", "--format", "html", "--out", "no/such/directory/x"],
            "cannot be written",
            id="nowhere-to-write",
        ),
        pytest.param(["--stack", "dev", "--format", "pdf"], "pdf", id="unknown-format"),
    ],
)
def test_what_cannot_be_shown_is_said(run: Run, arguments, says):
    code, out, err = run("release", "matrix", *arguments)
    assert code == 2
    assert says in err
    assert "Traceback" not in out + err
