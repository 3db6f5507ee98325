"""`jewelhouse release diff` on the command line: files, git revisions, and what the real engine writes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from samples import ALL_STACKS, PROJECT, STACKS

from jewelhouse.sandbox.engine import Engine

Run = Callable[..., tuple[int, str, str]]
LIFECYCLE = "jewelhouse:lifecycle"


def git(project: Path, *words: str) -> str:
    settings = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(project), *settings, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the stack files of this one, at its first revision `before`."""
    made = tmp_path / "project"
    shutil.copytree(STACKS, made / "stacks")
    shutil.copy(PROJECT / "Pulumi.yaml", made)
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(made))
    commit(made, "before")
    monkeypatch.chdir(made)
    return made


def commit(project: Path, tag: str) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--allow-empty", "--message", tag)
    git(project, "tag", tag)


def edit(project: Path, stack: str, change: Callable[[dict[str, Any]], None]) -> None:
    file = project / f"stacks/Pulumi.{stack}.yaml"
    value = yaml.safe_load(file.read_text())
    change(value["config"][LIFECYCLE])
    file.write_text(yaml.safe_dump(value))


def destroyable(lifecycle: dict[str, Any]) -> None:
    lifecycle["destroyable"] = True


def rebuilt(project: Path) -> None:
    """Another image in the lock file, as a build writes it."""
    file = project / "stacks/images.lock.yaml"
    text = file.read_text()
    old = yaml.safe_load(text)["images"]["finetuner"]["aws-enclave"]["measurements"]["PCR0"]
    file.write_text(text.replace(old, "7a" * 48))


@pytest.mark.parametrize("name", ALL_STACKS)
def test_a_stack_that_did_not_change_exits_0(run: Run, project, name):
    code, out, _ = run("release", "diff", "before", ".", "--stack", name)
    assert code == 0
    assert "No difference" in out


def test_formatting_alone_exits_0(run: Run, project):
    edit(project, "prod-aws", lambda _: None)
    assert git(project, "status", "--short")
    code, out, _ = run("release", "diff", "before", "WORKTREE", "--stack", "prod-aws")
    assert code == 0, out


@pytest.mark.parametrize("here", [".", "WORKTREE"])
def test_a_widening_that_is_not_yet_committed_exits_1(run: Run, project, here):
    edit(project, "prod-aws", destroyable)
    code, out, _ = run("release", "diff", "HEAD", here, "--stack", "prod-aws")
    assert code == 1
    assert "destroyed" in out


def test_a_widening_between_two_revisions_exits_1_and_back_0(run: Run, project):
    edit(project, "prod-aws", destroyable)
    commit(project, "after")
    edit(project, "prod-aws", lambda lifecycle: lifecycle.update(destroyable=False))
    code, out, _ = run("release", "diff", "before", "after", "--stack", "prod-aws", "--json")
    assert code == 1
    assert json.loads(out)["verdict"] == "wider"
    code, out, _ = run("release", "diff", "after", "before", "--stack", "prod-aws", "--json")
    assert code == 0
    assert json.loads(out)["verdict"] == "not wider"


def test_a_new_image_in_the_lock_file_alone_is_a_change_of_the_image(run: Run, project):
    rebuilt(project)
    code, out, _ = run("release", "diff", "HEAD", ".", "--stack", "prod-aws", "--json")
    assert code == 1
    found = json.loads(out)
    assert "image" in {change["kind"] for change in found["changes"]}
    assert "7a7a7a7a7a7a" in json.dumps(found, ensure_ascii=False)


def test_a_new_stack_is_no_widening(run: Run, project):
    shutil.copy(project / "stacks/Pulumi.prod-aws.yaml", project / "stacks/Pulumi.fresh.yaml")
    code, out, _ = run("release", "diff", "HEAD", ".", "--stack", "fresh", "--json")
    assert code == 0
    assert {change["kind"] for change in json.loads(out)["changes"]} == {"new-artifact"}


def test_a_stack_that_is_gone_is_no_widening(run: Run, project):
    (project / "stacks/Pulumi.prod-aws.yaml").unlink()
    code, out, _ = run("release", "diff", "HEAD", ".", "--stack", "prod-aws", "--json")
    assert code == 0
    assert {change["kind"] for change in json.loads(out)["changes"]} == {"gone-artifact"}


def test_a_revision_whose_stack_is_broken_says_where(run: Run, project):
    edit(project, "prod-aws", lambda lifecycle: lifecycle["stages"]["finetune"].update(platform="nowhere"))
    commit(project, "broken")
    code, _, err = run("release", "diff", "before", "broken", "--stack", "prod-aws")
    assert code == 2
    assert "broken" in err
    assert "stages.finetune.platform" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("revision", "says"),
    [
        pytest.param("nowhere", "neither a file nor a revision", id="unknown-revision"),
        pytest.param("f" * 40, "neither a file nor a revision", id="commit-beyond-a-shallow-clone"),
        pytest.param("HEAD:stacks", "neither a file nor a revision", id="a-tree"),
        pytest.param("before..HEAD", "neither a file nor a revision", id="a-range"),
    ],
)
def test_what_is_no_revision_exits_2(run: Run, project, revision, says):
    code, out, err = run("release", "diff", revision, ".", "--stack", "prod-aws")
    assert code == 2
    assert says in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("revision", ["--output=written", "-O", "--exec=touch written"])
def test_a_revision_is_never_an_option_of_git(run: Run, project, revision):
    code, _, err = run("release", "diff", "--stack", "prod-aws", "--", revision, ".")
    assert code == 2
    assert revision in err
    assert not (project / "written").exists()
    assert not git(project, "status", "--short")


@pytest.mark.parametrize("stack", ["../stacks/Pulumi", "nowhere", ""])
def test_a_stack_that_is_nowhere_exits_2(run: Run, project, stack):
    code, _, err = run("release", "diff", "HEAD", ".", "--stack", stack)
    assert code == 2
    assert "Traceback" not in err


def test_a_shallow_clone_says_what_to_do(run: Run, project, tmp_path, monkeypatch):
    first = git(project, "rev-parse", "before")
    commit(project, "second")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{project}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    code, _, err = run("release", "diff", first, ".", "--stack", "prod-aws")
    assert code == 2
    assert "git fetch --unshallow" in err


def test_a_revision_needs_a_stack(run: Run, project):
    code, _, err = run("release", "diff", "HEAD", ".")
    assert code == 2
    assert "--stack" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("{}", "is no stack file, export, plan or preview", id="empty-object"),
        pytest.param('{"deployment": null}', "", id="export-without-a-deployment"),
        pytest.param(
            '{"deployment": {"resources": []}}', "has no attested key", id="export-of-an-empty-stack"
        ),
        pytest.param('{"deployment": {"resources": [{}]}}', "is not what the engine writes", id="no-urn"),
        pytest.param(
            '{"deployment": {"resources": [{"urn": "x"}]}}', "is not what the engine writes", id="odd-urn"
        ),
        pytest.param('{"resourcePlans": []}', "is not what the engine writes", id="plans-as-a-list"),
        pytest.param('{"steps": [1]}', "is not what the engine writes", id="steps-of-numbers"),
        pytest.param('{"steps": []}', "has no attested key", id="preview-without-steps"),
        pytest.param("{", "is not JSON", id="cut-off"),
        pytest.param("[" * 100000, "", id="nested-without-end"),
        pytest.param('{"a":' * 100000, "is not JSON", id="objects-without-end"),
        pytest.param("\x00\x01", "", id="binary"),
        pytest.param("", "", id="empty"),
    ],
)
def test_a_file_that_is_something_else_exits_2(run: Run, project, tmp_path, text, says):
    (tmp_path / "file").write_text(text)
    code, out, err = run("release", "diff", tmp_path / "file", STACKS / "Pulumi.prod-aws.yaml")
    assert code == 2
    assert says in err
    assert "Traceback" not in out + err


def test_markdown_is_for_a_comment(run: Run, project):
    edit(project, "prod-aws", destroyable)
    code, out, _ = run("release", "diff", "HEAD", ".", "--stack", "prod-aws", "--format", "markdown")
    assert code == 1
    assert out.startswith("### Release diff of prod-aws\n")
    assert "- **the whole stack**" in out


def test_the_exit_code_is_the_same_in_every_form(run: Run, project):
    edit(project, "prod-aws", destroyable)
    for form in ("text", "markdown", "json"):
        assert run("release", "diff", "HEAD", ".", "--stack", "prod-aws", "--format", form)[0] == 1


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, default=str), encoding="utf-8")
    return path


def opened(run: Engine) -> None:
    """Somebody opens a key by hand in the cloud's console."""
    database = sqlite3.connect(run.paths.world / "world.sqlite")
    with database:
        rows = database.execute("SELECT id, inputs FROM resources WHERE type = 'aws:kms/key:Key'").fetchall()
        for identity, inputs in rows:
            value = json.loads(inputs)
            policy = json.loads(value["policy"])
            if "RecipientAttestation" in value["policy"]:
                policy["Statement"] = [
                    {
                        "Sid": "Hole",
                        "Effect": "Allow",
                        "Principal": "*",
                        "Action": "kms:Decrypt",
                        "Resource": "*",
                    }
                ]
                value["policy"] = json.dumps(policy)
                database.execute(
                    "UPDATE resources SET inputs = ? WHERE id = ?", (json.dumps(value), identity)
                )
    database.close()


def test_export_plan_preview_and_stack_file_of_one_stack_say_the_same(
    run: Run, engine: Callable[..., Engine], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(PROJECT)
    sandbox = engine()
    plan, preview = tmp_path / "plan.json", tmp_path / "preview.json"
    done = sandbox.operate("preview", "prod-aws", "--save-plan", str(plan))
    assert done.ok, done.stdout + done.stderr
    done = sandbox.operate("preview", "prod-aws", "--json")
    assert done.ok, done.stderr
    preview.write_text(done.stdout[done.stdout.index("{") :], encoding="utf-8")
    done = sandbox.operate("up", "prod-aws")
    assert done.ok, done.stdout[-4000:]
    export = written(tmp_path / "export.json", sandbox.export("prod-aws"))
    file = STACKS / "Pulumi.prod-aws.yaml"
    # A preview does not say what weakens the whole stack, and that is told rather than passed over.
    code, out, _ = run("release", "diff", preview, export, "--json")
    assert code in (0, 2)
    assert {change["key"] for change in json.loads(out)["changes"]} <= {""}
    for one, other in ((plan, export), (file, export), (export, file), (file, plan)):
        code, out, err = run("release", "diff", one, other)
        assert code == 0, f"{one.name} {other.name}: {out}{err}"
        assert "No difference" in out, f"{one.name} {other.name}: {out}"

    opened(sandbox)
    sandbox.operate("refresh", "prod-aws")
    drifted = written(tmp_path / "drifted.json", sandbox.export("prod-aws"))
    code, out, _ = run("release", "diff", export, drifted)
    assert code == 1
    assert "anyone" in out
