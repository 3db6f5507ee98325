"""Conditions of key policies as sets of values, so that conjunction and negation of them can be computed.

An `Atom` is one condition key with one test; a `Term` holds everything that a request must meet, key by key.
A Deny is the negation of its atoms, which gives alternatives: that is how `release.aws_facts` applies it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from jewelhouse.model import Platform
from jewelhouse.release.aws_keys import ALWAYS_THERE, REGISTERS, is_attestation, is_digest
from jewelhouse.release.aws_statements import Clause, glob

TIME = frozenset({"aws:CurrentTime", "aws:EpochTime"})
BEFORE = "before"
# What a key of the Bool operators can be, so that not one of them is the other.
BOOLEANS = frozenset({"true", "false"})
INSTANT = timedelta(microseconds=1)


class Undecided(Exception):
    """A clause whose meaning cannot be computed; the text says why."""


@dataclass(frozen=True)
class Test:
    """A positive test of one value against a list, met by any of it. `any` is met by every value."""

    operator: str
    values: tuple[str, ...] = ()

    def meets(self, value: str) -> bool | None:
        """None where the operator's rule for this key is not known here."""
        if self.operator == "any":
            return True
        if self.operator == "equals":
            return value in self.values
        if any("${" in one for one in self.values):
            return None
        if self.operator == "StringEqualsIgnoreCase":
            return value.lower() in self.values
        if self.operator == "StringLike":
            return any(glob(one, value) for one in self.values)
        if self.operator == "ArnLike":
            return any(arn_like(one, value) for one in self.values)
        return None


@dataclass(frozen=True)
class Atom:
    """True when the key is absent and `absent`, or when it is there and the test's outcome is `holds`."""

    key: str
    test: Test
    absent: bool = False
    holds: bool = True

    def __neg__(self) -> Atom:
        return replace(self, absent=self.key not in ALWAYS_THERE and not self.absent, holds=not self.holds)


@dataclass(frozen=True)
class Slot:
    """What one key may be: absent or not, one of `inside` (None: anything) and none of `outside`. `others`
    are tests, with the outcome they must have, that name no finite set."""

    absent: bool = True
    inside: frozenset[str] | None = None
    outside: frozenset[str] = frozenset()
    others: frozenset[tuple[Test, bool]] = frozenset()

    @property
    def empty(self) -> bool:
        return not self.absent and self.inside == frozenset()

    @property
    def values(self) -> frozenset[str]:
        return self.inside if self.inside is not None else frozenset()


Term = Mapping[str, Slot]


def conjoin(term: Term, atom: Atom) -> Term | None:
    """The term with one more condition, or None when no request can meet both."""
    slot = _narrowed(term.get(atom.key, Slot(absent=atom.key not in ALWAYS_THERE)), atom)
    return None if slot.empty or _no_time(slot) else {**term, atom.key: slot}


def all_of(term: Term, atoms: Iterable[Atom]) -> Term | None:
    for atom in atoms:
        found = conjoin(term, atom)
        if found is None:
            return None
        term = found
    return term


def possible(term: Term, *, attested: bool) -> Term | None:
    """The term without what Evidence decides by itself, or None when no document can meet it.

    KMS fills in the registers of one document, so those of the other kind are absent; a call that takes no
    document (`attested` false) has none of them, and a key that KMS does not know is never there.
    """
    needed = {
        REGISTERS[key][0] for key, slot in term.items() if key in REGISTERS and not slot.absent and attested
    }
    if len(needed) > 1:
        return None
    kept: dict[str, Slot] = {}
    for key, slot in term.items():
        if is_attestation(key):
            known = key in REGISTERS and attested
            if not known or (needed and REGISTERS[key][0] not in needed):
                if not slot.absent:
                    return None
                continue
        kept[key] = slot
    return kept


def platforms(term: Term) -> frozenset[Platform]:
    """The kinds of document that a request must show to meet the term."""
    return frozenset(REGISTERS[key][0] for key, slot in term.items() if key in REGISTERS and not slot.absent)


def atom(clause: Clause) -> Atom:
    """The meaning of one clause. Raises Undecided."""
    if clause.key in TIME:
        return _time(clause)
    if clause.base == "Null":
        wanted = {value.lower() for value in clause.values}
        if clause.quantifier or not wanted <= {"true", "false"} or len(wanted) != 1:
            raise Undecided(f"{clause.operator} of {clause.written} is neither true nor false")
        null = Atom(clause.key, Test("any"))
        return -null if wanted == {"true"} else null
    holds = not clause.negated
    # A negated operator holds when its key is absent, and so do IfExists and ForAllValues.
    absent = clause.negated or clause.if_exists or clause.quantifier == "ForAllValues"
    if clause.quantifier == "ForAnyValue":
        absent = clause.if_exists
    if clause.quantifier and not is_attestation(clause.key):
        # Several values in one request: no test of one value says what the quantifier says of all.
        name = clause.operator.removesuffix("IfExists")
        return Atom(clause.key, Test(name, tuple(sorted(set(clause.values)))), absent)
    return Atom(clause.key, _test(clause), absent and clause.key not in ALWAYS_THERE, holds)


def _test(clause: Clause) -> Test:
    values = set(clause.values)
    variables = any("${" in value for value in values)
    plain = not variables and not any("*" in value or "?" in value for value in values)
    if clause.base == "StringEquals" and not variables:
        return _equals(clause.key, values)
    if clause.base == "StringLike" and plain:
        return _equals(clause.key, values)
    if clause.base == "ArnLike" and plain:
        # What is no ARN never matches: each of its six parts is compared.
        return _equals(clause.key, {value for value in values if value.count(":") >= 5})
    if clause.base == "StringEqualsIgnoreCase" and not variables:
        if clause.key in REGISTERS:
            return _equals(clause.key, {value.lower() for value in values})
        return Test(clause.base, tuple(sorted(value.lower() for value in values)))
    if clause.base == "Bool" and not variables:
        return Test("Bool", tuple(sorted({value.lower() for value in values} & BOOLEANS)))
    return Test(clause.base, tuple(sorted(values)))


def _equals(key: str, values: set[str]) -> Test:
    """KMS shows registers in lower-case hex, so any other value is one that no document has."""
    return Test("equals", tuple(sorted(one for one in values if key not in REGISTERS or is_digest(one))))


def _narrowed(slot: Slot, atom: Atom) -> Slot:
    inside, outside, others = slot.inside, slot.outside, slot.others
    if atom.test.operator == "any":
        inside = inside if atom.holds else frozenset()
    elif atom.test.operator == "Bool" or (atom.test.operator == "equals" and atom.holds):
        named = frozenset(atom.test.values) if atom.holds else BOOLEANS - set(atom.test.values)
        inside = named if inside is None else inside & named
    elif atom.test.operator == "equals":
        outside |= frozenset(atom.test.values)
    else:
        others |= {(atom.test, atom.holds)}
    if inside is not None:
        inside = frozenset(
            value
            for value in inside - outside
            if not any(test.meets(value) is (not holds) for test, holds in others)
        )
        outside = frozenset()
        # A test that every remaining value was found to meet says nothing more.
        others = frozenset(
            (test, holds) for test, holds in others if any(test.meets(value) is None for value in inside)
        )
    return Slot(slot.absent and atom.absent, inside, outside, others)


def instant(text: str) -> datetime:
    """A time of a Date operator: ISO 8601 or seconds since 1970. Raises Undecided.

    docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html (Date)
    """
    try:
        if re.fullmatch(r"\d{1,12}", text):
            return datetime.fromtimestamp(int(text), UTC)
        if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", text):
            raise ValueError(text)
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Undecided(f"{text!r:.60} is no time in ISO 8601") from error


def _time(clause: Clause) -> Atom:
    """Every bound on the time of the request as `before` one instant, met or not met."""
    relation = clause.base.removeprefix("Date").removeprefix("Numeric")
    if (
        relation not in ("LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals")
        or clause.quantifier
    ):
        raise Undecided(f"{clause.operator} of {clause.written} is no bound in time")
    if not clause.values:
        raise Undecided(f"{clause.operator} of {clause.written} has no value")
    times = [instant(value) for value in clause.values]
    less = relation.startswith("Less")
    # Any value of a list is enough, so the widest bound counts.
    bound = max(times) if less else min(times)
    try:
        bound += INSTANT if relation in ("LessThanEquals", "GreaterThan") else timedelta()
    except OverflowError as error:
        raise Undecided(f"{clause.operator} of {clause.written} lies beyond all calendars") from error
    return Atom("aws:CurrentTime", Test(BEFORE, (bound.isoformat(),)), holds=less)


def bounds(slot: Slot) -> tuple[datetime | None, datetime | None]:
    """Since when (inclusive) and until when (exclusive) a slot of `aws:CurrentTime` is open."""
    times = [
        (datetime.fromisoformat(test.values[0]), holds)
        for test, holds in slot.others
        if test.operator == BEFORE
    ]
    since = max((time for time, before in times if not before), default=None)
    until = min((time for time, before in times if before), default=None)
    return since, until


def _no_time(slot: Slot) -> bool:
    since, until = bounds(slot)
    return since is not None and until is not None and until <= since


def arn_like(pattern: str, value: str) -> bool:
    """Each of the six parts on its own, as IAM does: a star does not cross a colon of the first five."""
    patterns, parts = pattern.split(":", 5), value.split(":", 5)
    return len(patterns) == len(parts) and all(map(glob, patterns, parts))


def described(key: str, slot: Slot) -> Iterator[tuple[str, str | None]]:
    """The claims of a slot that names no finite set of values, as paths with their relation."""
    if slot.inside is not None:
        yield f"{key} (absent)", "true"
        return
    if not slot.absent:
        yield key, None
    if slot.outside:
        yield f"{key} (not)", ", ".join(sorted(slot.outside))
    for relation in sorted({_relation(test, holds, slot.absent) for test, holds in slot.others}):
        named = sorted(
            "|".join(test.values)
            for test, holds in slot.others
            if _relation(test, holds, slot.absent) == relation
        )
        yield f"{key} ({relation})", " & ".join(named)


def _relation(test: Test, holds: bool, absent: bool) -> str:
    name = test.operator if holds else f"not {test.operator}"
    return f"{name} or absent" if absent and holds else name
