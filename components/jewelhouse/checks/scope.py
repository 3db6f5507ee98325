"""What a check looks at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jewelhouse.model import Account, Artifact, Cloud, Lifecycle, Stage


@dataclass(frozen=True)
class Scope:
    """A lifecycle, the YAML paths of what was already refused in it, and the time that counts."""

    lifecycle: Lifecycle
    broken: frozenset[str]
    now: datetime

    def known(self, part: str) -> set[str]:
        """The names declared under `parties`, `artifacts` or `stages`, refused entries included."""
        declared = getattr(self.lifecycle, part)
        refused = (path.split(".", 1)[1] for path in self.broken if path.startswith(f"{part}."))
        return {*declared, *refused}

    def whole(self, part: str) -> bool:
        """Whether nothing under `part` was refused, so that absence there means something."""
        return not any(path == part or path.startswith(f"{part}.") for path in self.broken)

    def artifacts(self, names: tuple[str, ...]) -> list[tuple[int, Artifact]]:
        """The declared artifacts among `names`, each with its index."""
        return [
            (index, self.lifecycle.artifacts[name])
            for index, name in enumerate(names)
            if name in self.lifecycle.artifacts
        ]

    def account(self, party: str, cloud: Cloud) -> Account | None:
        """A party's account, or None when there is no such party or account."""
        found = self.lifecycle.parties.get(party)
        return found.account(cloud) if found else None

    def shared(self, artifact: Artifact, stage: Stage) -> str | None:
        """The account, subscription or project that would both hold an artifact's key and run the stage."""
        owner, runs_in = self.account(artifact.owner, stage.cloud), self.account(stage.operator, stage.cloud)
        if owner is None or runs_in is None or owner.boundary != runs_in.boundary:
            return None
        return owner.boundary
