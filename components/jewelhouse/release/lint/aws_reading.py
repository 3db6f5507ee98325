"""A key policy read once for all rules: its statements, and every way through them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jewelhouse.model import Platform
from jewelhouse.release.aws_conditions import Slot, Term, platforms
from jewelhouse.release.aws_facts import OPENS, POWERS, Ledger, Way, ways
from jewelhouse.release.aws_keys import CLOSING, REGISTERS, is_attestation
from jewelhouse.release.aws_statements import Statement, statements
from jewelhouse.release.documents import Document


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`ways` holds what remains of each Allow, by action, after all Denies."""

    statements: tuple[Statement, ...]
    ways: Mapping[str, tuple[Way, ...]]
    undecided: tuple[str, ...]

    @property
    def openings(self) -> Iterator[Way]:
        """Ways to a plaintext, by whatever action."""
        for action in OPENS:
            yield from self.ways[action]

    @property
    def attested(self) -> Iterator[Way]:
        """Ways to a plaintext that need a document."""
        return (way for way in self.openings if platforms(way.term))


def reading(document: Document) -> Reading:
    return _reading(json.dumps(document.body, default=str))


# Every rule asks for the same document.
@lru_cache(maxsize=4)
def _reading(text: str) -> Reading:
    body: Mapping[str, Any] = json.loads(text)
    found = statements(body)
    ledger = Ledger(undecided=[f"{one.where}: {what}" for one in found for what in one.odd])
    by_action = {action: tuple(ways(found, action, ledger)) for action in (*OPENS, *POWERS)}
    return Reading(statements=found, ways=by_action, undecided=tuple(dict.fromkeys(ledger.undecided)))


def names_evidence(statement: Statement) -> bool:
    """Whether a statement speaks of registers at all."""
    return any(is_attestation(clause.key) for clause in statement.clauses)


def pinned(term: Term, platform: Platform) -> dict[str, frozenset[str]]:
    """Registers of a kind of document that must have one of some values."""
    return {
        REGISTERS[key][1]: slot.values
        for key, slot in term.items()
        if key in REGISTERS and REGISTERS[key][0] is platform and not slot.absent and slot.inside is not None
    }


def closed(term: Term) -> bool:
    """Whether a term limits who may call, or from where."""
    return any(key in CLOSING and _limits(slot) for key, slot in term.items())


def _limits(slot: Slot) -> bool:
    patterns = [value for test, holds in slot.others if holds for value in test.values]
    return not slot.absent and (slot.inside is not None or any(value.strip("*") for value in patterns))
