"""The workflows: minimal permissions, pinned actions, no stored secrets, the sandbox for forks."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import yaml
from samples import ALL_STACKS, PROJECT

sys.path.append(str(PROJECT / "tools"))

import release_comment
import release_diff

WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
FORKS_EXCLUDED = "github.event.pull_request.head.repo.full_name == github.repository"


def workflow(path: Any) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    content["on"] = content.pop(True)
    return content


def jobs() -> list[Any]:
    return [
        pytest.param(workflow(path), job, id=f"{path.stem}-{name}")
        for path in WORKFLOWS
        for name, job in workflow(path)["jobs"].items()
    ]


def test_the_workflows_are_there():
    assert [path.stem for path in WORKFLOWS] == ["preview", "release-comment", "release-diff", "tests"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_code_of_strangers_never_runs_with_this_repositorys_rights(path):
    triggers = set(workflow(path)["on"])
    if path.stem == "release-comment":
        assert triggers == {"workflow_run"}
    else:
        assert triggers <= {"push", "pull_request", "workflow_dispatch"}
    assert workflow(path)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_secret_is_stored(path):
    assert "secrets." not in path.read_text()
    assert not re.search(r"AKIA|aws-secret|client-secret|credentials_json", path.read_text(), re.IGNORECASE)


@pytest.mark.parametrize(("flow", "job"), jobs())
def test_only_own_branches_may_ask_for_credentials(flow, job):
    rights = job.get("permissions", flow["permissions"])
    if rights.get("id-token") == "write":
        assert FORKS_EXCLUDED in " ".join(job["if"].split())
        assert job["environment"], "credentials are bound to an environment"
    elif "workflow_run" in flow["on"]:
        assert rights == {"contents": "read", "actions": "read", "pull-requests": "write"}
    else:
        assert rights == {"contents": "read"}
        assert not any("pulumi/actions" in str(step.get("uses")) for step in job["steps"])


@pytest.mark.parametrize(("flow", "job"), jobs())
def test_actions_are_pinned_and_take_no_token_along(flow, job):
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_pin_says_its_version(path):
    for line in path.read_text().splitlines():
        if "uses:" in line:
            assert re.search(r"# v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize(("flow", "job"), jobs())
def test_every_job_is_bounded_and_superseded(flow, job):
    assert 0 < job["timeout-minutes"] <= 60
    concurrency = job.get("concurrency") or flow["concurrency"]
    if "workflow_run" in flow["on"]:
        # Its ref is the default branch for all. One after the other, so that there stays one comment.
        assert concurrency["cancel-in-progress"] is False
        assert "workflow_run.head_repository" in concurrency["group"]
        assert "workflow_run.head_branch" in concurrency["group"]
        return
    assert concurrency["cancel-in-progress"] is True
    assert "${{ github.ref }}" in concurrency["group"]


@pytest.mark.parametrize(("flow", "job"), jobs())
def test_expressions_name_what_is_there(flow, job):
    text = yaml.safe_dump(job)
    for expression in re.findall(r"\$\{\{(.*?)\}\}", text):
        assert re.fullmatch(
            r" (matrix|vars|github)\.[\w.]+ | fromJSON\(vars\.\w+\) "
            r"| contains\(github\.event\.pull_request\.labels\.\*\.name, '[\w-]+'\) ",
            expression,
        ), expression
        if match := re.match(r" matrix\.(\w+) ", expression):
            assert match[1] in job["strategy"]["matrix"]
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step)
        # Values of an event are written by strangers: they reach a shell through its environment only.
        assert "${{" not in step.get("run", "")
    needs = job.get("needs", [])
    assert {*([needs] if isinstance(needs, str) else needs)} <= set(flow["jobs"])


@pytest.mark.parametrize(("flow", "job"), jobs())
def test_steps_call_targets_and_files_that_exist(flow, job):
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for step in job["steps"]:
        for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
            assert target in targets
        for path in re.findall(r"-r (\S+)", step.get("run", "")):
            assert (PROJECT / path).is_file()
        for key in ("pulumi-version-file", "policyPacks"):
            if key in step.get("with", {}):
                assert (PROJECT / step["with"][key]).exists()


def test_every_stack_is_previewed_in_the_sandbox():
    preview = workflow(PROJECT / ".github/workflows/preview.yml")["jobs"]
    assert sorted(preview["sandbox"]["strategy"]["matrix"]["stack"]) == ALL_STACKS
    assert "if" not in preview["sandbox"], "forks get the sandbox too"


def diff_jobs() -> dict[str, Any]:
    return workflow(PROJECT / ".github/workflows/release-diff.yml")["jobs"]


def test_code_of_the_pull_request_does_not_judge_itself():
    steps = diff_jobs()["diff"]["steps"]
    left = next(
        n for n, step in enumerate(steps) if "git checkout --quiet --detach HEAD^1" in step.get("run", "")
    )
    first = next(n for n, step in enumerate(steps) if re.search(r"make|\.venv|python ", step.get("run", "")))
    assert left < first, "the pull request's own code would run"
    # Two commits are fetched, or there would be no parent to go to.
    assert steps[0]["with"]["fetch-depth"] == 2
    assert "ref" not in steps[0]["with"]


def test_a_diff_that_cannot_be_made_is_not_a_skipped_check():
    assert diff_jobs()["diff"]["if"] == "!cancelled()"
    assert diff_jobs()["diff"]["needs"] == "plan"


def test_setting_the_label_judges_anew():
    triggers = workflow(PROJECT / ".github/workflows/release-diff.yml")["on"]["pull_request"]["types"]
    assert {"opened", "synchronize", "reopened", "labeled", "unlabeled"} == set(triggers)
    (step,) = [step for step in diff_jobs()["diff"]["steps"] if step.get("name") == "Compare"]
    assert f"'{release_diff.LABEL}'" in step["env"]["AGREED"]
    assert release_diff.LABEL == release_comment.LABEL


def test_the_job_that_may_write_runs_nothing_of_a_pull_request():
    flow = workflow(PROJECT / ".github/workflows/release-comment.yml")
    assert flow["on"]["workflow_run"]["workflows"] == [
        workflow(PROJECT / ".github/workflows/release-diff.yml")["name"]
    ]
    (job,) = flow["jobs"].values()
    assert job["if"] == "github.event.workflow_run.event == 'pull_request'"
    for step in job["steps"]:
        assert "ref" not in step.get("with", {}), "another commit than the default branch's"
        assert "repository" not in step.get("with", {})
        assert "artifact" not in step.get("uses", ""), (
            "artifacts are read in memory, not unpacked into the tree"
        )
    assert [step["run"] for step in job["steps"] if "run" in step] == ["python tools/release_comment.py"]
    assert [step.get("env") for step in job["steps"] if "run" in step] == [
        {"GITHUB_TOKEN": "${{ github.token }}"}
    ]


def test_the_artifact_is_the_one_that_the_comment_reads():
    (upload,) = [
        step
        for step in diff_jobs()["diff"]["steps"]
        if step.get("uses", "").startswith("actions/upload-artifact@")
    ]
    assert upload["if"] == "always()"
    assert upload["with"]["path"] == release_comment.FILE
    (run,) = [step["run"] for step in diff_jobs()["diff"]["steps"] if step.get("name") == "Compare"]
    assert run.split()[-1] == release_comment.FILE
