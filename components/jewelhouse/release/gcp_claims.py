"""Claims of a Google token by their paths, in the way that the openings of a document name them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from jewelhouse.release import cel

PLAIN = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+", re.ASCII)
# Texts that stay as they are in an opening, and that a token can be changed for.
ONE_MORE = re.compile(r"'(?P<value>[^'\\]*)' in (?P<path>[\w.]+)", re.ASCII)
NOT_THERE = re.compile(r"!has\((?P<path>[\w.]+)\)", re.ASCII)
RELATIONS = ("has", "empty", "string", "number")

Claims = dict[str, Any]


def split(path: str) -> tuple[str, str]:
    """Path and relation of a claim of an opening: `assertion.x (has)` is `assertion.x` and `has`."""
    plain, _, relation = path.removesuffix(")").rpartition(" (")
    return (plain, relation) if path.endswith(")") and relation in RELATIONS else (path, "")


def expression(path: str, value: str | None) -> str:
    """What a claim of an opening asks, in CEL again."""
    plain, relation = split(path)
    if value is None:
        return f"has({plain})"
    quoted = cel.literal(value)
    match relation:
        case "has":
            return f"{quoted} in {plain}"
        case "empty":
            return f"!has({plain}) || size({plain}) == 0"
        case "number":
            return f"{plain} == {value}"
        case "string":
            return f"{plain} == {quoted}"
        case _ if plain == "assertion.aud":
            # A token may be for several; the provider takes it when one is its own.
            return f"{plain} == {quoted} || {quoted} in {plain}"
        case _:
            return f"({plain}) == {value if value in ('true', 'false') else quoted}"


def meet(claims: Claims, path: str, value: str | None) -> None:
    """Changes claims so that they meet one claim of an opening, where it is known how."""
    plain, relation = split(path)
    absent, more = NOT_THERE.fullmatch(path), ONE_MORE.fullmatch(path)
    if absent:
        put(claims, absent["path"], ...)
    elif more or relation == "has":
        plain, wanted = (more["path"], more["value"]) if more else (plain, value)
        found = get(claims, plain)
        if not isinstance(found, list) or wanted not in found:
            put(claims, plain, [*(found if isinstance(found, list) else ()), wanted])
    elif not PLAIN.fullmatch(plain):
        return
    elif relation == "empty":
        put(claims, plain, ...)
    elif relation == "number":
        put(claims, plain, int(value) if value and re.fullmatch(r"-?\d{1,18}", value, re.ASCII) else 0)
    elif value is None:
        if get(claims, plain) is None:
            put(claims, plain, "any")
    elif value in ("true", "false") and not relation:
        put(claims, plain, value == "true")
    else:
        put(claims, plain, value)


def changed(claims: Mapping[str, Any], changes: Mapping[str, Any]) -> Claims:
    """A copy with other values at some paths; `...` takes a claim away."""
    found = copy.deepcopy(dict(claims))
    for path, value in changes.items():
        put(found, path, value)
    return found


def get(claims: Mapping[str, Any], path: str) -> Any:
    """The value at a path, None where there is none."""
    value: Any = claims
    for field in path.split(".")[1:]:
        if not isinstance(value, Mapping):
            return None
        value = value.get(field)
    return value


def put(claims: Claims, path: str, value: Any) -> None:
    """Sets a claim below `assertion`, or takes it away. Leaves alone what is below no object."""
    *parents, last = path.split(".")[1:]
    place: Any = claims
    for field in parents:
        if not isinstance(place, dict) or (value is ... and field not in place):
            return
        place = place.setdefault(field, {})
    if not isinstance(place, dict):
        return
    if value is ...:
        place.pop(last, None)
    else:
        place[last] = copy.deepcopy(value)
