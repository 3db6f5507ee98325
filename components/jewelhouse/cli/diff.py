"""`jewelhouse release diff`: who can open what after a change that could not before."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from jewelhouse import lifecycle as graph
from jewelhouse import stackfile
from jewelhouse.cli.lifecycle import JsonOption
from jewelhouse.cli.options import content
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Lifecycle
from jewelhouse.release import diff, snapshots
from jewelhouse.release.diff import Difference, Snapshot
from jewelhouse.release.show import md

LOCK = "images.lock.yaml"
WORKTREE = (".", "WORKTREE")


class Format(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


Source = Annotated[
    str,
    typer.Argument(
        help="Stack file, export, plan or preview; a git revision with --stack; . for the files here."
    ),
]


def compare(
    before: Source,
    after: Source,
    stack: Annotated[
        str | None, typer.Option("--stack", "-s", help="Stack whose files are read at git revisions.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="text, markdown or json.")] = Format.TEXT,
    as_json: JsonOption = False,
) -> None:
    """Say who can newly open which key, who no longer can, and which proofs are lost or gained.

    Exit 0: nothing becomes weaker or more open. 1: something does. 2: it cannot be decided.
    """
    found = diff.diff(snapshot(before, stack), snapshot(after, stack))
    form = Format.JSON if as_json else form
    if form is Format.JSON:
        typer.echo(json.dumps(found.json(), indent=2))
    elif form is Format.MARKDOWN:
        typer.echo(markdown(found, stack), nl=False)
    else:
        _print(found)
    if found.wider or found.unsure:
        sys.exit(1 if found.wider else 2)


def of(source: str, lifecycle: Lifecycle) -> Snapshot:
    """The snapshot of a lifecycle as it would be deployed."""
    return snapshots.of_policies(
        source,
        graph.release_policies(lifecycle).values(),
        images={name: lifecycle.image(stage) for name, stage in lifecycle.stages.items()},
        weakened=graph.weakenings(lifecycle),
    )


def snapshot(source: str, stack: str | None) -> Snapshot:
    """The snapshot that an argument names. Raises JewelhouseError when it names none."""
    path = Path(source)
    if source not in WORKTREE and path.is_file():
        return _file(path)
    if stack is None:
        raise JewelhouseError(
            "is no file", where=source, remedy="for a git revision add --stack, for a file check its path"
        )
    if source in WORKTREE:
        return of("the files here", stackfile.read(stackfile.path_of(stack)))
    return _revision(source, stack)


def _file(path: Path) -> Snapshot:
    text = content(path)
    if text.lstrip()[:1] == b"{":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise JewelhouseError("is not JSON", where=str(path)) from error
        if snapshots.is_engine(value):
            return snapshots.of_engine(str(path), value)
        raise JewelhouseError(
            "is no export, plan or preview of the engine",
            where=str(path),
            remedy="pulumi stack export, pulumi preview --save-plan, pulumi preview --json",
        )
    return of(str(path), stackfile.read(path))


def _revision(revision: str, stack: str) -> Snapshot:
    """Stack file and lock file as they were, read with the kit as it is now."""
    project = stackfile.project_directory()
    directory = stackfile.stacks_directory(project)
    if revision.startswith("-"):
        raise JewelhouseError("is no revision", where=revision)
    with tempfile.TemporaryDirectory() as temporary:
        for name in (f"Pulumi.{stack}.yaml", LOCK):
            data = _git_show(project, revision, directory / name)
            if data is None and name != LOCK:
                return Snapshot(source=f"{revision} (without this stack)", keys={})
            if data is not None:
                (Path(temporary) / name).write_bytes(data)
        return of(revision, stackfile.read(Path(temporary) / f"Pulumi.{stack}.yaml"))


def _git_show(project: Path, revision: str, path: Path) -> bytes | None:
    """A file at a revision; None where the revision has no such file."""

    def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["git", "-C", str(project), *arguments], capture_output=True)

    try:
        known = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except FileNotFoundError as error:
        raise JewelhouseError("git is not installed", where=revision) from error
    if known.returncode:
        raise JewelhouseError(
            "is neither a file nor a revision of this repository",
            where=revision,
            remedy="a shallow clone has few revisions: git fetch --unshallow",
        )
    commit = known.stdout.decode().strip()
    shown = git("show", f"{commit}:./{path.relative_to(project)}")
    return None if shown.returncode else shown.stdout


def _print(found: Difference) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"from {escape(found.before)} to {escape(found.after)}")
    if not found.changes:
        console.print("[green]no difference in who can open what[/]")
    for change in found.changes:
        mark = (
            "[red]wider[/]   "
            if change.wider
            else "[yellow]unsure[/]  "
            if change.unsure
            else "[green]tighter[/] "
        )
        console.print(f"{mark} {escape(change.key + ': ' if change.key else '')}{escape(change.what)}")


def markdown(found: Difference, stack: str | None) -> str:
    """The difference as a part of a pull request's comment."""
    name = f" of `{stack}`" if stack else ""
    lines = [f"### Release diff{name}", ""]
    if not found.changes:
        lines.append("No difference in who can open what.")
    groups = (
        ("**Weaker or more open**", [change for change in found.changes if change.wider]),
        ("**Cannot be decided**", [change for change in found.changes if change.unsure and not change.wider]),
        ("Tighter, or new", [change for change in found.changes if not change.wider and not change.unsure]),
    )
    for title, changes in groups:
        if changes:
            lines += [title, ""]
            lines += [
                f"- {md(change.key)}: {md(change.what)}" if change.key else f"- {md(change.what)}"
                for change in changes
            ]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"
