"""Runs the real Pulumi CLI against the sandbox: its own home, backend and stand-in providers.

The program and Pulumi.yaml know nothing of it; only this environment makes a run a sandbox run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jewelhouse.errors import SandboxError
from jewelhouse.sandbox import install
from jewelhouse.sandbox.paths import Paths
from jewelhouse.stackfile import path_of


@dataclass(frozen=True)
class Result:
    """What a run of the CLI ended with."""

    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.code == 0


class Engine:
    """The Pulumi engine in one sandbox, for one project.

    `checkpoints` says whether the state is written after each step, so that a run that is killed can be gone
    on with, or once at the end, which takes half the time.
    """

    def __init__(
        self,
        project: Path,
        sandbox: Path | None = None,
        *,
        cli: Path | None = None,
        checkpoints: bool = True,
    ) -> None:
        self.paths = Paths(project, sandbox) if sandbox else Paths.of(project)
        self._cli = cli
        self._checkpoints = checkpoints

    @property
    def cli(self) -> Path:
        """The CLI; the sandbox is prepared on first use. Raises SandboxError."""
        return self._cli or self.prepare()

    def prepare(self, report: install.Report = lambda text: None) -> Path:
        """Finds or gets the CLI and installs the stand-in providers; nothing is done twice."""
        self._cli = install.prepare(self.paths, report)
        return self._cli

    def environment(self) -> dict[str, str]:
        """What makes a run of `pulumi` a sandbox run."""
        interpreter = Path(sys.executable).parent
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")},
            "PATH": os.pathsep.join([str(interpreter), str(self.cli.parent), os.environ.get("PATH", "")]),
            "PULUMI_HOME": str(self.paths.home),
            "PULUMI_BACKEND_URL": f"file://{self.paths.state}",
            "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "1",
            "PULUMI_IGNORE_AMBIENT_PLUGINS": "1",
            "PULUMI_SKIP_UPDATE_CHECK": "1",
            **({} if self._checkpoints else {"PULUMI_EXPERIMENTAL": "1", "PULUMI_SKIP_CHECKPOINTS": "1"}),
            "JEWELHOUSE_SANDBOX": "1",
            "JEWELHOUSE_SANDBOX_WORLD": str(self.paths.world),
            "JEWELHOUSE_SANDBOX_CACHE": str(self.paths.cache),
        }

    def run(
        self,
        *arguments: str,
        live: bool = False,
        project: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Result:
        """Runs `pulumi` with arguments; `live` lets it write to this terminal."""
        for directory in (self.paths.state, self.paths.world, self.paths.config):
            directory.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [str(self.cli), *arguments],
            cwd=project or self.paths.project,
            env={**self.environment(), **(environment or {})},
            capture_output=not live,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return Result(done.returncode, done.stdout or "", done.stderr or "")

    def config(self, stack: str, changes: Mapping[str, Any] | None = None) -> Path:
        """A fresh copy of a stack's file for the engine, which writes its salt into the file that it reads.

        `changes` are set in `jewelhouse:lifecycle` by dotted path. Raises JewelhouseError for
        an unknown stack.
        """
        source = path_of(stack, self.paths.project)
        self.paths.config.mkdir(parents=True, exist_ok=True)
        copy = self.paths.config / source.name
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        # The salt belongs to the stack's state, not to the committed file.
        if copy.is_file():
            before = yaml.safe_load(copy.read_text(encoding="utf-8")) or {}
            content |= {name: before[name] for name in ("encryptionsalt",) if name in before}
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            place = content["config"]["jewelhouse:lifecycle"]
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        draft = copy.with_suffix(".draft")
        # Dates stay text: YAML would hand them to the engine as timestamps.
        draft.write_text(json.dumps(content, default=str, indent=1), encoding="utf-8")
        draft.replace(copy)
        return copy

    def select(self, stack: str, changes: Mapping[str, Any] | None = None) -> list[str]:
        """Makes sure that a stack exists; returns the arguments that name it and its configuration."""
        arguments = ["--stack", stack, "--config-file", str(self.config(stack, changes))]
        if not (self.paths.state / ".pulumi" / "stacks" / self._project_name() / f"{stack}.json").is_file():
            # `stack init` knows no --config-file: run beside the copies, it writes the salt into them.
            (self.paths.config / "Pulumi.yaml").write_text(
                json.dumps({"name": self._project_name(), "runtime": "python"}), encoding="utf-8"
            )
            made = self.run(
                "stack", "init", stack, "--no-select", "--non-interactive", project=self.paths.config
            )
            if not made.ok and "already exists" not in made.stderr:
                raise SandboxError(f"the stack cannot be made: {made.stderr.strip()}", where=stack)
        return arguments

    def _project_name(self) -> str:
        return yaml.safe_load((self.paths.project / "Pulumi.yaml").read_text(encoding="utf-8"))["name"]

    def operate(
        self,
        operation: str,
        stack: str,
        *arguments: str,
        live: bool = False,
        changes: Mapping[str, Any] | None = None,
    ) -> Result:
        """`up`, `preview`, `refresh` or `destroy` of a stack, without questions."""
        # Only a destroy is previewed first: it then refuses a protected resource before deleting others.
        sure = {"preview": [], "destroy": ["--yes"]}.get(operation, ["--yes", "--skip-preview"])
        return self.run(
            operation, "--non-interactive", *sure, *self.select(stack, changes), *arguments, live=live
        )

    def preview(self, stack: str, changes: Mapping[str, Any] | None = None) -> Mapping[str, int]:
        """The change summary of a preview (`{"same": 12, "create": 1}`). Raises SandboxError if it fails."""
        done = self.operate("preview", stack, "--json", changes=changes)
        if not done.ok:
            raise SandboxError(
                f"the preview failed: {done.stdout[-2000:]} {done.stderr[-2000:]}", where=stack
            )
        return json.loads(done.stdout)["changeSummary"]

    def export(self, stack: str) -> Mapping[str, Any]:
        """The engine's own state of a stack."""
        done = self.run("stack", "export", "--stack", stack)
        if not done.ok:
            raise SandboxError(f"the stack cannot be exported: {done.stderr.strip()}", where=stack)
        return json.loads(done.stdout)

    def outputs(self, stack: str) -> Mapping[str, Any]:
        """What the stack exports, plain."""
        done = self.run("stack", "output", "--stack", stack, "--json", "--show-secrets")
        if not done.ok:
            raise SandboxError(f"the stack has no outputs: {done.stderr.strip()}", where=stack)
        return json.loads(done.stdout)

    def forget(self) -> None:
        """Removes the sandbox with everything in it; the CLI stays."""
        shutil.rmtree(self.paths.sandbox, ignore_errors=True)


def resources(export: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The resources of a stack export, without the stack itself and its providers."""
    return [
        resource
        for resource in export["deployment"].get("resources", [])
        if resource["type"] != "pulumi:pulumi:Stack" and not resource["type"].startswith("pulumi:providers:")
    ]
