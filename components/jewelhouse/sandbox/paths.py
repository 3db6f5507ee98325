"""Where the sandbox keeps things: everything below `.jewelhouse/` in the project, nothing elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """`project` holds Pulumi.yaml; `sandbox` can be moved (JEWELHOUSE_SANDBOX_DIR), so tests keep apart."""

    project: Path
    sandbox: Path

    @classmethod
    def of(cls, project: Path) -> Paths:
        chosen = os.environ.get("JEWELHOUSE_SANDBOX_DIR")
        return cls(project, Path(chosen) if chosen else project / ".jewelhouse" / "sandbox")

    @property
    def tools(self) -> Path:
        """The CLI that set-up got, shared by all sandboxes of the project."""
        return self.project / ".jewelhouse" / "bin"

    @property
    def cache(self) -> Path:
        """What is slow to make and the same in every sandbox: types read from the SDKs, RSA keys."""
        return self.project / ".jewelhouse" / "cache"

    @property
    def home(self) -> Path:
        """PULUMI_HOME with the stand-in plugins."""
        return self.sandbox / "home"

    @property
    def state(self) -> Path:
        return self.sandbox / "state"

    @property
    def world(self) -> Path:
        return self.sandbox / "world"

    @property
    def config(self) -> Path:
        """Copies of the stack files: the engine writes its encryption salt into the file that it reads."""
        return self.sandbox / "config"
