"""What a container policy leaves open to whoever operates the group, whoever wrote it.

Meaning of the names: github.com/Microsoft/hcsshim v0.12.9: pkg/securitypolicy/framework.rego and api.rego.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jewelhouse.errors import Problem
from jewelhouse.images.container_policy import API, FRAGMENTS, PAUSE_LAYER, POINTS, SWITCHES
from jewelhouse.images.rego import Reference, read

SOURCE = "github.com/Microsoft/hcsshim v0.12.9: pkg/securitypolicy/framework.rego"
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_OPEN_PATTERN = "is looked for anywhere in NAME=value"


def weaknesses(policy: bytes) -> tuple[Problem, ...]:
    """Everything that a policy allows beyond starting pinned containers. Raises MalformedRego for text whose
    meaning cannot be told by reading it."""
    return tuple(_found(read(policy).values))


def _problem(where: str, what: str, remedy: str = "") -> Problem:
    return Problem(where=where, what=what, remedy=remedy, source=SOURCE)


def _found(values: Mapping[str, Any]) -> Iterator[Problem]:
    version = values.get("api_version", values.get("api_svn"))
    if _numbers(version) < _numbers(API):
        yield _problem("api_version", f"is {version!r}: what came later is allowed unasked", f"write {API}")
    for point in POINTS:
        if values.get(point) != Reference(f"data.framework.{point}"):
            yield _problem(point, "is not decided by the framework", f"write data.framework.{point}")
    for name, value in values.items():
        if name.startswith("allow_") and value is not False and not (value is True and SWITCHES.get(name)):
            yield _problem(name, f"is {value!r}", "write false")
    if values.get("external_processes"):
        yield _problem("external_processes", "lets processes start beside the containers")
    known = [fragment["issuer"] for fragment in FRAGMENTS]
    for where, fragment in _objects(values, "fragments"):
        if fragment.get("issuer") not in known:
            yield _problem(f"{where}.issuer", "lets another than Microsoft add containers")
        if any(one not in ("containers", "fragments") for one in _list(fragment.get("includes"))):
            yield _problem(f"{where}.includes", "lets a fragment add more than containers")
    for where, container in _objects(values, "containers"):
        yield from _container(where, container)


def _container(where: str, container: Mapping[str, Any]) -> Iterator[Problem]:
    if container.get("allow_elevated") is not False:
        yield _problem(f"{where}.allow_elevated", "lets the container run with every privilege")
    if container.get("allow_stdio_access") is not False:
        yield _problem(f"{where}.allow_stdio_access", "lets an operator read its output and write its input")
    if container.get("exec_processes") != []:
        yield _problem(f"{where}.exec_processes", "lets an operator start processes inside")
    if not container.get("layers"):
        yield _problem(f"{where}.layers", "pins no layer")
    if not isinstance(container.get("capabilities"), dict):
        yield _problem(f"{where}.capabilities", "pins no capabilities")
    for number, rule in enumerate(_list(container.get("env_rules"))):
        pattern = rule.get("pattern") if isinstance(rule, dict) else None
        if not isinstance(pattern, str) or rule.get("strategy") not in ("string", "re2"):
            yield _problem(f"{where}.env_rules[{number}]", "is no rule that is known")
        elif rule["strategy"] == "re2" and not (pattern.startswith("^") and pattern.endswith("$")):
            yield _problem(
                f"{where}.env_rules[{number}]",
                f"{pattern} {_OPEN_PATTERN}: LD_PRELOAD may end in it",
                f"write ^{pattern}$",
            )
    # The service chooses the user of its own container, which is one program that does nothing.
    user = container.get("user")
    if container.get("layers") != [PAUSE_LAYER] and _anybody(user):
        yield _problem(f"{where}.user", "lets an operator choose the user", "pin user and groups by id")


def _anybody(user: object) -> bool:
    if not isinstance(user, dict):
        return True
    names = [user.get("user_idname"), *_list(user.get("group_idnames"))]
    return any(not isinstance(name, dict) or name.get("strategy") not in ("id", "name") for name in names)


def _objects(values: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, one in enumerate(_list(values.get(name))):
        yield f"{name}[{number}]", one if isinstance(one, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(version: object) -> tuple[int, ...]:
    """A version as numbers; what is none is older than all."""
    found = _VERSION.fullmatch(version) if isinstance(version, str) else None
    return tuple(map(int, found.groups())) if found else ()
