"""What a lint rule is, and what it finds. The rules stand in a module for each cloud, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """error: somebody could have the key released who should not, or nobody ever could. warning: a weakening
    that may be meant. note: what a reviewer should know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Hit:
    """Where a rule fires, and what was found there. `counterexample`: evidence that would be released and
    should not be, as `{"evidence": {...}, "principal": ..., "because": [...]}`."""

    where: str
    what: str
    counterexample: Mapping[str, Any] | None = None


# Rules look at a document; those about a whole lifecycle at `everywhere.Deployment`.
Check = Callable[[Any], Iterator[Hit]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule with a stable id. `title`: the mistake, in a few words; `why`: what it lets happen;
    `remedy`: what to write instead; `source`: page, advisory or repository path, with its date."""

    id: str
    severity: Severity
    title: str
    why: str
    remedy: str
    source: str
    check: Check


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule that fired on a document."""

    rule: Rule
    document: str
    where: str
    what: str
    counterexample: Mapping[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        found = {
            "id": self.rule.id,
            "severity": self.rule.severity.value,
            "document": self.document,
            "where": self.where,
            "what": self.what,
            "remedy": self.rule.remedy,
            "source": self.rule.source,
        }
        return (
            found if self.counterexample is None else {**found, "counterexample": dict(self.counterexample)}
        )
