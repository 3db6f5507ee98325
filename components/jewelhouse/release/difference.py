"""What a release diff finds: changes, each a sentence for a reviewer, and the verdict over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What kind of thing changed."""

    IMAGE = "image"
    OPENS = "opens"
    LESS_PROOF = "less-proof"
    LONGER = "longer"
    ASKS = "asks"
    CLOSED = "closed"
    PROOF_LOST = "proof-lost"
    PROOF_GAINED = "proof-gained"
    POWER_GAINED = "power-gained"
    POWER_LOST = "power-lost"
    OWNER = "owner"
    WEAKENED = "weakened"
    STRENGTHENED = "strengthened"
    NEW_KEY = "new-key"
    GONE_KEY = "gone-key"
    NEW_ARTIFACT = "new-artifact"
    GONE_ARTIFACT = "gone-artifact"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference. `key` is empty for what concerns the whole stack. `wider`: something becomes weaker or
    more open; `unsure`: it cannot be decided whether it does. `details` say more, a line each."""

    kind: Kind
    what: str
    key: str = ""
    artifact: str = ""
    details: tuple[str, ...] = ()
    wider: bool = False
    unsure: bool = False

    def json(self) -> dict[str, Any]:
        return {
            "kind": self.kind.value,
            "key": self.key,
            "artifact": self.artifact,
            "what": self.what,
            "details": list(self.details),
            "wider": self.wider,
            "unsure": self.unsure,
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Everything that differs, the dangerous first. `renamed`: artifacts that are only called otherwise."""

    before: str
    after: str
    changes: tuple[Change, ...]
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def wider(self) -> bool:
        return any(change.wider and not change.unsure for change in self.changes)

    @property
    def unsure(self) -> bool:
        return any(change.unsure for change in self.changes)

    @property
    def verdict(self) -> str:
        """`wider` (certainly), `undecided`, `narrower` or otherwise no wider, `equal`."""
        if self.wider:
            return "wider"
        if self.unsure:
            return "undecided"
        return "not wider" if self.changes else "equal"

    def json(self) -> dict[str, Any]:
        return {
            "before": self.before,
            "after": self.after,
            "verdict": self.verdict,
            "renamed": [list(pair) for pair in self.renamed],
            "changes": [change.json() for change in self.changes],
        }
