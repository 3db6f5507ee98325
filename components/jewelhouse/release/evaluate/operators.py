"""Condition operators of IAM, as a table: how one value of a request compares with one of a policy.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html and
reference_policies_condition-single-vs-multi-valued-context-keys.html beside it (2026-10). A test answers None
where that page does not say what IAM does: then an Allow does not hold, and a Deny does.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal

from jewelhouse.release import aws_conditions
from jewelhouse.release.aws_statements import Clause, glob

Context = Mapping[str, tuple[str, ...]]
Test = Callable[[str, str], bool | None]

# Stars that are text, in patterns and in what they are compared with, must not act as wildcards.
LITERAL = str.maketrans({"*": "\ue000", "?": "\ue001", "$": "\ue002"})
VARIABLE = re.compile(r"\$\{([^}]*)\}")
# Variables belong to the String and Arn operators only.
WITH_VARIABLES = frozenset({"StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnLike"})
NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?")
DEFAULT = re.compile(r"(?P<key>[^,]+),\s*'(?P<default>[^']*)'\s*")


def holds(clause: Clause, context: Context, *, variables: bool) -> bool | None:
    """Whether a clause is met by a request. `context`: condition keys in lower case -> values. `variables`:
    whether the policy's version knows policy variables. None where it cannot be said."""
    values = context.get(clause.key.lower())
    if clause.base == "Null":
        return _null(clause, values)
    if not clause.values:
        return None
    if values and clause.quantifier:
        # An empty text is a null dataset to a quantifier, as good as no value.
        values = tuple(value for value in values if value)
    if not values:
        if clause.quantifier == "ForAnyValue":
            return clause.if_exists
        return clause.negated or clause.if_exists or clause.quantifier == "ForAllValues"
    if len(values) > 1 and not clause.quantifier:
        # Several values for an operator of one: the page says only that this must not be written.
        return None
    found = [_one(clause, value, context, variables=variables) for value in values]
    return _any(found) if clause.quantifier == "ForAnyValue" else _all(found)


def _null(clause: Clause, values: tuple[str, ...] | None) -> bool | None:
    wanted = {value.lower() for value in clause.values}
    if clause.quantifier or clause.if_exists or not wanted or not wanted <= {"true", "false"}:
        return None
    if values and not any(values):
        # Null asks for a value that "is not null", and an empty one may be.
        return None
    return ("false" if values else "true") in wanted


def _one(clause: Clause, value: str, context: Context, *, variables: bool) -> bool | None:
    """One value of the request against the list: any of it, and none of it for a negated operator."""
    test = TESTS[clause.base]
    found: list[bool | None] = []
    for written in clause.values:
        pattern = written
        if variables and "${" in written:
            pattern = substituted(written, context) if clause.base in WITH_VARIABLES else None
        found.append(None if pattern is None else test(value, pattern))
    met = _any(found)
    return met if met is None or not clause.negated else not met


def substituted(text: str, context: Context) -> str | None:
    """A policy's value with its variables filled in, or None when one of them has no value.

    docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
    """
    missing = False

    def fill(match: re.Match[str]) -> str:
        nonlocal missing
        name = match[1].strip()
        if name in ("*", "?", "$"):
            return name.translate(LITERAL)
        default = DEFAULT.fullmatch(name)
        values = context.get((default["key"] if default else name).strip().lower(), ())
        if len(values) == 1:
            return values[0].translate(LITERAL)
        if default and not values:
            return default["default"].translate(LITERAL)
        missing = True
        return ""

    found = VARIABLE.sub(fill, text)
    return None if missing or "${" in found else found


def _any(found: list[bool | None]) -> bool | None:
    return True if True in found else None if None in found else False


def _all(found: list[bool | None]) -> bool | None:
    return False if False in found else None if None in found else True


def _equals(value: str, wanted: str) -> bool:
    return value.translate(LITERAL) == wanted.translate(LITERAL)


def _equals_ignoring_case(value: str, wanted: str) -> bool:
    return value.translate(LITERAL).lower() == wanted.translate(LITERAL).lower()


def _like(value: str, pattern: str) -> bool:
    return glob(pattern, value.translate(LITERAL))


def _arn_like(value: str, pattern: str) -> bool | None:
    """Six parts, each on its own: a wildcard never crosses a colon of the first five."""
    parts, patterns = value.translate(LITERAL).split(":", 5), pattern.split(":", 5)
    if len(patterns) != 6:
        return None
    return len(parts) == 6 and all(map(glob, patterns, parts))


def _bool(value: str, wanted: str) -> bool | None:
    named = value.lower(), wanted.lower()
    return named[0] == named[1] if {*named} <= {"true", "false"} else None


def _numeric(compare: Callable[[Decimal, Decimal], bool]) -> Test:
    def test(value: str, wanted: str) -> bool | None:
        if not (NUMBER.fullmatch(value) and NUMBER.fullmatch(wanted)):
            return None
        return compare(Decimal(value), Decimal(wanted))

    return test


def _dates(compare: Callable[[datetime, datetime], bool]) -> Test:
    def test(value: str, wanted: str) -> bool | None:
        times = instant(value), instant(wanted)
        return None if times[0] is None or times[1] is None else compare(times[0], times[1])

    return test


def instant(text: str) -> datetime | None:
    """ISO 8601 as the W3C writes it, or seconds since 1970; None for anything else."""
    try:
        return aws_conditions.instant(text)
    except aws_conditions.Undecided:
        return None


def _address(value: str, wanted: str) -> bool | None:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return None


def _binary(value: str, wanted: str) -> bool | None:
    try:
        return base64.b64decode(value, validate=True) == base64.b64decode(wanted, validate=True)
    except (binascii.Error, ValueError):
        return None


TESTS: Mapping[str, Test] = {
    "StringEquals": _equals,
    "StringEqualsIgnoreCase": _equals_ignoring_case,
    "StringLike": _like,
    "ArnLike": _arn_like,
    "Bool": _bool,
    "BinaryEquals": _binary,
    "IpAddress": _address,
    "NumericEquals": _numeric(lambda value, wanted: value == wanted),
    "NumericLessThan": _numeric(lambda value, wanted: value < wanted),
    "NumericLessThanEquals": _numeric(lambda value, wanted: value <= wanted),
    "NumericGreaterThan": _numeric(lambda value, wanted: value > wanted),
    "NumericGreaterThanEquals": _numeric(lambda value, wanted: value >= wanted),
    "DateEquals": _dates(lambda value, wanted: value == wanted),
    "DateLessThan": _dates(lambda value, wanted: value < wanted),
    "DateLessThanEquals": _dates(lambda value, wanted: value <= wanted),
    "DateGreaterThan": _dates(lambda value, wanted: value > wanted),
    "DateGreaterThanEquals": _dates(lambda value, wanted: value >= wanted),
}
