"""`jewelhouse release diff`: who can open what after a change that could not before."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from jewelhouse import lifecycle as graph
from jewelhouse import stackfile
from jewelhouse.cli.lifecycle import JsonOption
from jewelhouse.cli.options import content
from jewelhouse.errors import JewelhouseError, Problems
from jewelhouse.model import Lifecycle
from jewelhouse.release import diff, diff_text, snapshots, states
from jewelhouse.release.snapshots import Snapshot

LOCK = "images.lock.yaml"
WORKTREE = (".", "WORKTREE")


class Format(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


SOURCE = "Stack file, export, plan or preview; a git revision with --stack; . for the files here."


def compare(
    before: Annotated[str, typer.Argument(help=SOURCE)],
    after: Annotated[str, typer.Argument(help=SOURCE)],
    stack: Annotated[
        str | None, typer.Option("--stack", "-s", help="Stack whose files are read at git revisions.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="text, markdown or json.")] = Format.TEXT,
    as_json: JsonOption = False,
) -> None:
    """Say who can newly open which key, who no longer can, and which proofs are lost or gained.

    Exit 0: nothing becomes weaker or more open. 1: something does. 2: it cannot be decided.
    """
    old, new = snapshot(before, stack), snapshot(after, stack)
    if old is None and new is None:
        raise JewelhouseError(
            f"neither {before} nor {after} has it",
            where=f"stack {stack}",
            remedy="name a stack of this project: stacks/Pulumi.<stack>.yaml",
        )
    found = diff.diff(old or _without(before, stack, new), new or _without(after, stack, old))
    form = Format.JSON if as_json else form
    if form is Format.JSON:
        typer.echo(json.dumps(found.json(), indent=2))
    elif form is Format.MARKDOWN:
        typer.echo(diff_text.markdown(found, stack), nl=False)
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in diff_text.text(found):
            console.print(line)
    if found.wider or found.unsure:
        sys.exit(1 if found.wider else 2)


def _without(source: str, stack: str | None, other: Snapshot | None) -> Snapshot:
    """A revision that does not have the stack. What weakens the other side is neither new nor gone then: a
    whole new stack is no change of one."""
    weakened = other.weakened if other else {}
    return Snapshot(source=f"{source} (which has no stack {stack})", keys={}, weakened=weakened)


def of(source: str, lifecycle: Lifecycle) -> Snapshot:
    """The snapshot of a lifecycle as it would be deployed."""
    return snapshots.of_policies(
        source,
        graph.release_policies(lifecycle).values(),
        images={name: lifecycle.image(stage) for name, stage in lifecycle.stages.items()},
        artifacts=lifecycle.artifacts,
        weakened=graph.weakenings(lifecycle),
    )


def snapshot(source: str, stack: str | None) -> Snapshot | None:
    """What an argument names; None for a revision without the stack.

    Raises JewelhouseError when it names nothing that can be read.
    """
    path = Path(source)
    if source not in WORKTREE and path.is_file():
        return _file(path)
    if stack is None:
        raise JewelhouseError(
            "is no file", where=source, remedy="for a git revision add --stack, for a file check its path"
        )
    if source in WORKTREE:
        project = stackfile.project_directory()
        here = stackfile.stacks_directory(project) / f"Pulumi.{stack}.yaml"
        return of("the files here", stackfile.read(here)) if here.is_file() else None
    return _revision(source, stack)


def _file(path: Path) -> Snapshot:
    text = content(path)
    if text.lstrip()[:1] != b"{":
        return of(str(path), stackfile.read(path))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise JewelhouseError("is not JSON", where=str(path)) from error
    if states.recognised(value):
        return states.snapshot(str(path), value)
    if "config" in value:
        return of(str(path), stackfile.read(path))
    raise JewelhouseError(
        "is no stack file, export, plan or preview",
        where=str(path),
        remedy="pulumi stack export, pulumi preview --save-plan FILE, pulumi preview --json",
    )


def _revision(revision: str, stack: str) -> Snapshot | None:
    """Stack file and lock file as they were, read with the kit as it is now."""
    project = stackfile.project_directory()
    commit = _commit(project, revision)
    settings = _show(project, commit, Path("Pulumi.yaml"))
    try:
        directory = Path((yaml.safe_load(settings or b"") or {}).get("stackConfigDir", "."))
    except (yaml.YAMLError, AttributeError) as error:
        raise JewelhouseError("is not YAML", where=f"{revision}: Pulumi.yaml") from error
    found = _show(project, commit, directory / f"Pulumi.{stack}.yaml")
    if found is None:
        return None
    lock = _show(project, commit, directory / LOCK)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / f"Pulumi.{stack}.yaml"
        file.write_bytes(found)
        if lock is not None:
            (file.parent / LOCK).write_bytes(lock)
        try:
            return of(revision, stackfile.read(file))
        except JewelhouseError as error:
            place = f"{temporary}/"
            raise Problems(
                replace(problem, where=f"{revision}: {problem.where.removeprefix(place)}")
                for problem in error.problems
            ) from error


def _commit(project: Path, revision: str) -> str:
    done = _git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode:
        raise JewelhouseError(
            "is neither a file nor a revision of this repository",
            where=revision,
            remedy="a shallow clone has few revisions: git fetch --unshallow",
        )
    return done.stdout.decode().strip()


def _show(project: Path, commit: str, path: Path) -> bytes | None:
    """A file of the project at a commit; None where that has no such file."""
    listed = _git(project, "ls-tree", "--name-only", "-z", commit, "--", f"./{path}")
    if listed.returncode or not listed.stdout:
        return None
    shown = _git(project, "show", f"{commit}:./{path}")
    if shown.returncode:
        raise JewelhouseError(
            f"git cannot show it: {shown.stderr.decode(errors='replace').strip()}", where=f"{commit}:{path}"
        )
    return shown.stdout


def _git(project: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(project), *arguments], capture_output=True)
    except FileNotFoundError as error:
        raise JewelhouseError(
            "git is not installed", where="git", remedy="install git, or name files instead of revisions"
        ) from error
