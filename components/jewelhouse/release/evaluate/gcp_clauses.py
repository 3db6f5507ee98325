"""The clauses of a condition in the words of a report: which claim, what was wanted, what the token says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jewelhouse.release import cel
from jewelhouse.release.cel import Compare, Has, Items, Literal, Many, Node, Not
from jewelhouse.release.clauses import FLIPPED
from jewelhouse.release.evaluate.decision import Reason

SHOWN = 200
EMPTY = "absent or empty"
ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One clause with its place in the condition.

    `claim` is the path it compares, `expected` what it wants of it, `fields` the way to it below the token;
    `needs` are all paths it reads, `inner` its own parts where it is made of `operator`. `held` is the reason
    for a clause that holds, where that says already what the token has.
    """

    where: str
    text: str
    claim: str = ""
    expected: str = ""
    fields: tuple[str, ...] = ()
    operator: str = ""
    inner: tuple[Part, ...] = ()
    needs: tuple[tuple[str, ...], ...] = ()
    names: frozenset[str] = frozenset()
    held: Reason | None = None

    def absent(self, claims: Mapping[str, Any]) -> Iterator[str]:
        """Paths that it reads and the token has not, as far as they go."""
        for fields in self.needs:
            value: Any = claims
            for number, field in enumerate(fields, 1):
                value = value.get(field, ABSENT) if isinstance(value, Mapping) else ABSENT
                if value is ABSENT:
                    yield ".".join(("assertion", *fields[:number]))
                    break


def part(node: Node, where: str) -> Part:
    """A clause made ready for reports."""
    inner: tuple[Part, ...] = ()
    operator = ""
    claim, expected = _wanted(node)
    if isinstance(node, Many) and node.operator != "+" and expected != EMPTY:
        operator = node.operator
        mark = ".any" if operator == "||" else ""
        inner = tuple(part(one, f"{where}{mark}[{number}]") for number, one in enumerate(node.operands))
    text, held = cel.show(node), None
    match node:
        case _ if expected == text:
            held = reason(where, claim, expected, "true", "", True)
        case Compare("==", _, _) if claim:
            held = reason(where, claim, expected, expected, "", True)
    return Part(
        where=where,
        text=text,
        claim=claim,
        expected=expected,
        fields=tuple(claim.split(".")[1:]) if claim.startswith("assertion.") else (),
        operator=operator,
        inner=inner,
        needs=tuple(_needs(node)),
        names=cel.free_names(node),
        held=held,
    )


def described(one: Part, claims: Mapping[str, Any], holds: bool, what: str = "") -> Reason:
    """A clause with what the token says."""
    if holds and one.held is not None:
        return one.held
    found = ""
    if one.fields:
        value: Any = claims
        for field in one.fields:
            value = value.get(field, ABSENT) if isinstance(value, dict) else ABSENT
        found = _text(value)
    return reason(one.where, one.claim, one.expected, found, what, holds)


@lru_cache(maxsize=4096)
def reason(where: str, claim: str, expected: str, found: str, what: str, holds: bool) -> Reason:
    """A reason, kept: the same document is asked about again and again, and mostly says the same."""
    return Reason(where=where, claim=claim, expected=expected, found=found, what=what, holds=holds)


def _text(value: Any) -> str:
    if value.__class__ is str:
        return value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
    if value is ABSENT:
        return "absent"
    if value.__class__ is list and all(one.__class__ is str for one in value):
        return ", ".join(value)[:SHOWN]
    return json.dumps(value, default=str)[:SHOWN]


def _wanted(node: Node) -> tuple[str, str]:
    """The claim that a clause is about, and what it wants of it; the text of the clause for all others."""
    match node:
        case Compare("in", left, right) if isinstance(left, Literal) and (path := cel.path(right)):
            return path, f"a list with {_plain(left)}"
        case Compare("in", left, Items(items)) if path := cel.path(left):
            return path, " or ".join(map(_plain, items))
        case Compare(operator, left, right) if isinstance(right, Literal) and (path := cel.path(left)):
            return path, {"==": "", "!=": "not "}.get(operator, f"{operator} ") + _plain(right)
        case Compare(operator, left, right) if isinstance(left, Literal) and operator in FLIPPED:
            return _wanted(Compare(FLIPPED[operator], right, left)) if cel.path(right) else _text_of(node)
        case Has(operand, field):
            return cel.path(cel.Select(operand, field)) or "", "there"
        case Not(Has(operand, field)):
            return cel.path(cel.Select(operand, field)) or "", "absent"
        case Many("||", (Not(Has(operand, field)), Compare("==", cel.Call("size", None, (sized,)), end))):
            if sized == cel.Select(operand, field) and end == Literal(0):
                return cel.path(sized) or "", EMPTY
        case _:
            pass
    return _text_of(node)


def _text_of(node: Node) -> tuple[str, str]:
    paths = (path for one in cel.walk(node) if (path := cel.path(one)) and "." in path)
    return next(paths, ""), cel.show(node)


def _plain(node: Node) -> str:
    return node.value if isinstance(node, Literal) and isinstance(node.value, str) else cel.show(node)


def _needs(node: Node) -> Iterator[tuple[str, ...]]:
    path = cel.path(node)
    if path is not None:
        if path.startswith("assertion."):
            yield tuple(path.split(".")[1:])
        return
    for child in cel.children(node):
        yield from _needs(child)
