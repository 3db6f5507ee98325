"""The job that judges a pull request: whatever is not known to be harmless needs somebody's agreement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from samples import ALL_STACKS, PROJECT

sys.path.append(str(PROJECT / "tools"))

import release_diff

EQUAL = {"before": "x", "after": "y", "verdict": "equal", "renamed": [], "changes": []}


class Kit:
    """A command line that writes plans and answers with one difference."""

    def __init__(self, answer: Any, code: int = 0, *, plans: bool = True) -> None:
        self.answer, self.code, self.plans = answer, code, plans
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        self.asked.append(words)
        if words[0] == "sandbox":
            if self.plans:
                Path(words[-1]).write_text("{}")
            return subprocess.CompletedProcess(words, 0 if self.plans else 255, "it broke", "")
        text = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return subprocess.CompletedProcess(words, self.code, text, "what went wrong")


def compared(kit: Kit, plans: Path, *names: str) -> dict[str, Any]:
    return release_diff.compared(names, plans, kit)


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    for name in ALL_STACKS:
        (tmp_path / f"{name}.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("verdict", ["equal", "not wider"])
def test_what_is_harmless_passes(plans, verdict):
    found = compared(Kit({**EQUAL, "verdict": verdict}), plans, "dev")
    assert not release_diff.refused(found)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param({**EQUAL, "verdict": "wider"}, 1, id="wider"),
        pytest.param({**EQUAL, "verdict": "undecided"}, 2, id="undecided"),
        pytest.param({**EQUAL, "verdict": "a new word"}, 0, id="unknown-verdict"),
        pytest.param("", 2, id="no-answer"),
        pytest.param("Traceback", 1, id="a-traceback"),
    ],
)
def test_what_is_not_known_to_be_harmless_is_refused(plans, answer, code):
    found = compared(Kit(answer, code), plans, "dev")
    assert release_diff.refused(found) == ["dev"]


def test_a_branch_that_cannot_be_planned_is_refused(plans):
    found = compared(Kit(EQUAL, plans=False), plans, "dev")
    assert "cannot be planned" in found["dev"]["error"]
    assert release_diff.refused(found) == ["dev"]


def test_both_plans_are_compared(plans):
    kit = Kit(EQUAL)
    compared(kit, plans, "dev")
    (_, (_, _, before, after, *_)) = kit.asked
    assert Path(before).name == Path(after).name == "dev.json"
    assert Path(after).parent == plans
    assert Path(before).parent != plans


def test_a_new_stack_is_compared_with_a_branch_that_has_none(plans):
    (plans / "fresh.json").write_text("{}")
    kit = Kit(EQUAL)
    compared(kit, plans, "fresh")
    (words,) = kit.asked
    assert words[2:4] == ("HEAD", str(plans / "fresh.json"))


def test_a_plan_that_is_missing_is_read_from_the_files_of_the_pull_request(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGED", "c" * 40)
    kit = Kit(EQUAL)
    compared(kit, tmp_path, "dev")
    assert kit.asked[-1][3] == "c" * 40


@pytest.mark.parametrize("name", ["--help.json", "a b.json", "$(id).json", ".json"])
def test_a_file_name_is_no_option_and_no_command(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(SystemExit, match="no names of stacks"):
        release_diff.stacks(tmp_path, plans=True)


def test_every_stack_of_the_project_is_compared():
    assert release_diff.stacks(PROJECT / "stacks") == set(ALL_STACKS)


@pytest.mark.parametrize(
    ("environment", "agreed"),
    [
        pytest.param({"AGREED": "true", "ACTION": "labeled"}, True, id="label-just-set"),
        pytest.param({"AGREED": "true", "ACTION": "unlabeled"}, True, id="another-label-taken-off"),
        pytest.param({"AGREED": "true", "ACTION": "synchronize"}, False, id="label-from-before-the-push"),
        pytest.param({"AGREED": "true", "ACTION": "reopened"}, False, id="label-from-before-it-was-closed"),
        pytest.param({"AGREED": "true", "ACTION": "opened"}, False, id="label-set-at-opening"),
        pytest.param({"AGREED": "false", "ACTION": "labeled"}, False, id="another-label"),
        pytest.param({"AGREED": "", "ACTION": "labeled"}, False, id="nothing"),
        pytest.param({}, False, id="no-environment"),
    ],
)
def test_only_a_fresh_label_agrees(environment, agreed):
    assert release_diff.agreed(environment) is agreed


@pytest.mark.parametrize(("action", "code"), [("labeled", None), ("synchronize", 1)])
def test_the_result_is_written_whatever_the_verdict(plans, tmp_path, monkeypatch, capsys, action, code):
    wider = {**EQUAL, "verdict": "wider", "changes": [{"what": "::error::\na new image"}]}
    monkeypatch.setenv("AGREED", "true")
    monkeypatch.setenv("ACTION", action)
    monkeypatch.setattr(release_diff.compared, "__defaults__", (Kit(wider, 1),))
    result = tmp_path / "result" / "release-diff.json"
    result.parent.mkdir()
    if code is None:
        release_diff.main(plans, result)
    else:
        with pytest.raises(SystemExit, match=release_diff.LABEL):
            release_diff.main(plans, result)
    assert set(json.loads(result.read_text())["stacks"]) == set(ALL_STACKS)
    # A line of the log that begins with `::` is a command to the runner.
    assert not [line for line in capsys.readouterr().out.splitlines() if line.lstrip().startswith("::")]
