"""The grammar of Key Vault's secure key release, read into frozen values; every flaw with its path.

Grammar and prose: MicrosoftDocs/azure-security-docs
articles/key-vault/includes/key-management-policy-grammar.md (2023-07-20). A document outside of it is no
release policy, so it releases nothing. What the page leaves open is decided here, for the narrower reading:

- Names are those of the samples, `anyOf` and `allOf`; the grammar's own `anyof` is refused.
- Claims and values are compared by their text: true is `true`, 0 is `0`, a string is itself, case counts.
  Microsoft's samples pin booleans and numbers as strings (microsoft/confidential-sidecar-containers:
  examples/skr/aci/importkeyconfig.json), and attestation issues them as JSON booleans and numbers.
- An absent claim meets no condition, so `exists` with "false" and `notEquals` are not met by it either.
- The ordering operators compare decimal numbers and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

VERSION = "1.0.0"
OPERATORS = ("equals", "notEquals", "less", "lessOrEquals", "greater", "greaterOrEquals", "exists")
GROUPS = ("allOf", "anyOf")
# What the page's prose allows: 'In the first iteration, the only allowed condition is "equals"'.
HONOURED = "equals"
# No published policy nests deeper than 3.
DEPTH = 16

_HOST = re.compile(r"(?:https://)?([a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+)/?")
# Names with dots between them. No token of attestation has names with spaces or brackets.
_CLAIM = re.compile(r"[^\s.()\[\]]+(?:\.[^\s.()\[\]]+)*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,38})(?:\.[0-9]{1,38})?")
_EXACT = 2**53


class Fault(StrEnum):
    """What part of the grammar a flaw is against."""

    ROOT = "root"
    VERSION = "version"
    KEY = "key"
    AUTHORITY = "authority"
    BOTH = "both"
    EMPTY = "empty"
    CONDITION = "condition"
    CLAIM = "claim"
    VALUE = "value"
    DEPTH = "depth"


@dataclass(frozen=True, kw_only=True)
class Flaw:
    fault: Fault
    where: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One claim compared with one value. text: the value as it is compared, written: as it stands there."""

    where: str
    claim: str
    operator: str
    text: str
    written: str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """`allOf` or `anyOf` of its parts."""

    where: str
    kind: str
    parts: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True)
class Never:
    """A part outside the grammar: nothing meets it."""

    where: str


Node = Condition | Group | Never


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One authority with what its tokens must say. authority: as `iss` has it, None where no issuer can match
    what is `written`."""

    where: str
    authority: str | None
    written: str
    body: Node


@dataclass(frozen=True, kw_only=True)
class Policy:
    entries: tuple[Entry, ...]
    flaws: tuple[Flaw, ...]


def issuer(text: object) -> str | None:
    """An authority or `iss` in the one form in which both are compared: `https://host`, lower-case, no slash.

    None for what names no https origin of its own: another scheme, a path, a port, a template's placeholder.
    """
    found = _HOST.fullmatch(text.lower()) if isinstance(text, str) and text.isascii() else None
    return f"https://{found[1]}" if found else None


def text_of(value: object) -> str | None:
    """A scalar as it is compared; None for what cannot be: null, arrays, objects, numbers that JSON readers
    round."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else None
    if isinstance(value, float) and math.isfinite(value) and abs(value) < _EXACT:
        return str(int(value)) if value.is_integer() else repr(value)
    return None


def holds(operator: str, expected: str, found: str) -> bool:
    """Whether a claim whose text is `found` meets a condition. Both sides are given by `text_of`."""
    if operator == "equals":
        return found == expected
    if operator == "exists":
        return expected == "true"
    left, right = number(found), number(expected)
    if operator == "notEquals":
        # Key Vault may ignore case or take 1.0 for 1: only what differs either way is surely another value.
        alike = found.casefold() == expected.casefold() or (left is not None and left == right)
        return not alike
    if left is None or right is None:
        return False
    match operator:
        case "less":
            return left < right
        case "lessOrEquals":
            return left <= right
        case "greater":
            return left > right
        case "greaterOrEquals":
            return left >= right
    return False


def number(text: str) -> Decimal | None:
    """A plain decimal number, as integers of attestation are written."""
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def conditions(node: Node) -> Iterator[Condition]:
    """Every condition below a node, in the order of the document."""
    if isinstance(node, Condition):
        yield node
    elif isinstance(node, Group):
        for part in node.parts:
            yield from conditions(part)


def read(document: object) -> Policy:
    """A release policy of anybody's. Never raises: what is outside the grammar is in `flaws`."""
    flaws: list[Flaw] = []
    if not isinstance(document, Mapping):
        return Policy(entries=(), flaws=(Flaw(fault=Fault.ROOT, where="$", what="is not a JSON object"),))
    _unknown(document, ("version", *GROUPS), "", flaws)
    if document.get("version") != VERSION:
        found = f"is {shown(document['version'])}" if "version" in document else "is missing"
        flaws.append(Flaw(fault=Fault.VERSION, where="version", what=f'{found}, the grammar has "{VERSION}"'))
    if "anyOf" not in document or "allOf" in document:
        what = "a release policy is an anyOf of authorities"
        flaws.append(
            Flaw(
                fault=Fault.ROOT,
                where="allOf" if "allOf" in document else "$",
                what=f"stands at the root, {what}" if "allOf" in document else f"has no anyOf: {what}",
            )
        )
    entries = [
        entry for kind in GROUPS if kind in document for entry in _entries(document[kind], kind, flaws)
    ]
    return Policy(entries=tuple(entries), flaws=tuple(flaws))


def _entries(value: object, where: str, flaws: list[Flaw]) -> Iterator[Entry]:
    if not _filled(value, where, flaws):
        return
    for index, found in enumerate(value):  # type: ignore[arg-type]
        place = f"{where}[{index}]"
        if not isinstance(found, Mapping):
            flaws.append(Flaw(fault=Fault.AUTHORITY, where=place, what="is no authority with its conditions"))
            continue
        if "authority" not in found:
            flaws.append(
                Flaw(fault=Fault.AUTHORITY, where=place, what="has no authority, so it is nobody's token")
            )
        _unknown(found, ("authority", *GROUPS), place, flaws)
        written = found.get("authority")
        if "authority" in found and not (isinstance(written, str) and written):
            flaws.append(
                Flaw(
                    fault=Fault.AUTHORITY, where=f"{place}.authority", what=f"is {shown(written)}, not a text"
                )
            )
        yield Entry(
            where=place,
            authority=issuer(written),
            written=written if isinstance(written, str) else "",
            body=_group(found, place, flaws, 1),
        )


def _group(value: Mapping[Any, Any], where: str, flaws: list[Flaw], depth: int) -> Node:
    kinds = [kind for kind in GROUPS if kind in value]
    if len(kinds) != 1:
        flaws.append(
            Flaw(
                fault=Fault.BOTH if kinds else Fault.CONDITION,
                where=where,
                what="has both allOf and anyOf" if kinds else "has neither allOf nor anyOf",
            )
        )
        return Never(where=where)
    place = f"{where}.{kinds[0]}"
    if depth > DEPTH:
        flaws.append(Flaw(fault=Fault.DEPTH, where=place, what=f"is nested deeper than {DEPTH} groups"))
        return Never(where=where)
    parts = value[kinds[0]]
    if not _filled(parts, place, flaws):
        return Never(where=place)
    return Group(
        where=place,
        kind=kinds[0],
        parts=tuple(_node(part, f"{place}[{index}]", flaws, depth) for index, part in enumerate(parts)),
    )


def _node(value: object, where: str, flaws: list[Flaw], depth: int) -> Node:
    if not isinstance(value, Mapping):
        flaws.append(Flaw(fault=Fault.CONDITION, where=where, what=f"is {shown(value)}, not a condition"))
        return Never(where=where)
    if any(kind in value for kind in GROUPS):
        _unknown(value, GROUPS, where, flaws)
        return _group(value, where, flaws, depth + 1)
    return _condition(value, where, flaws)


def _condition(value: Mapping[Any, Any], where: str, flaws: list[Flaw]) -> Node:
    before = len(flaws)
    _unknown(value, ("claim", *OPERATORS), where, flaws)
    claim = value.get("claim")
    used = [operator for operator in OPERATORS if operator in value]
    if not isinstance(claim, str) or not _CLAIM.fullmatch(claim):
        found = shown(claim) if "claim" in value else "missing"
        what = f"its claim is {found}, not a path of names"
        if isinstance(claim, str) and "[" in claim:
            what = f"its claim {found} names an element, and paths have no arrays"
        flaws.append(Flaw(fault=Fault.CLAIM, where=where, what=what))
    if len(used) != 1:
        flaws.append(
            Flaw(
                fault=Fault.CONDITION,
                where=where,
                what=f"has several operators: {', '.join(used)}"
                if used
                else f"has no operator of the grammar: {', '.join(OPERATORS)}",
            )
        )
        return Never(where=where)
    written = value[used[0]]
    text = text_of(written)
    if text is None or (used[0] == "exists" and text not in ("true", "false")):
        wanted = '"true" or "false"' if used[0] == "exists" else "a text, a number, true or false"
        flaws.append(
            Flaw(fault=Fault.VALUE, where=where, what=f"{used[0]} is {shown(written)}, it takes {wanted}")
        )
    if len(flaws) > before or text is None or not isinstance(claim, str):
        return Never(where=where)
    return Condition(where=where, claim=claim, operator=used[0], text=text, written=written)


def _filled(value: object, where: str, flaws: list[Flaw]) -> bool:
    if not isinstance(value, list | tuple):
        flaws.append(Flaw(fault=Fault.CONDITION, where=where, what=f"is {shown(value)}, not an array"))
        return False
    if not value:
        flaws.append(
            Flaw(fault=Fault.EMPTY, where=where, what="is empty: the grammar needs one part or more")
        )
        return False
    return True


def _unknown(value: Mapping[Any, Any], known: tuple[str, ...], where: str, flaws: list[Flaw]) -> None:
    spelling = {name.lower(): name for name in known}
    for key in value:
        if key not in known:
            meant = spelling.get(key.lower()) if isinstance(key, str) else None
            hint = f", it is written {meant}" if meant else ""
            path = f"{where}.{key}" if where else str(key)
            flaws.append(Flaw(fault=Fault.KEY, where=path[:200], what=f"is not in the grammar{hint}"))


def shown(value: object) -> str:
    """A value as messages quote it, cut to a readable length."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    if value is None:
        return "null"
    text = text_of(value)
    if text is None:
        return "a number beyond what JSON readers keep"
    quoted = f'"{text}"' if isinstance(value, str) else text
    return quoted if len(quoted) <= 100 else f"{quoted[:96]}…"
