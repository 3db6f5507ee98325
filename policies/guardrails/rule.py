"""A rule: which resources it looks at, what it says about them, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pulumi_policy import ReportViolation, ResourceValidationArgs, Severity, StackValidationArgs

Check = Callable[[str, Mapping[str, Any]], Iterator[str]]
StackCheck = Callable[[StackValidationArgs], Iterator[tuple[str, str]]]


@dataclass(frozen=True, kw_only=True)
class _Described:
    name: str
    description: str
    remedy: str
    source: str
    severity: Severity

    @property
    def labels(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.description,
            "remediation_steps": self.remedy,
            "severity": self.severity,
        }


@dataclass(frozen=True, kw_only=True)
class Rule(_Described):
    """Looks at the inputs of one resource. `check` gets its type token and inputs and yields violations.

    Inputs that a preview cannot know raise UnknownValueError when they are read; the pack then says that the
    rule could not run yet, and it runs during the update.
    """

    types: tuple[str, ...]
    check: Check

    def validate(self, args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type in self.types:
            for message in self.check(args.resource_type, args.props):
                report(f"{message}. {self.remedy}", None)


@dataclass(frozen=True, kw_only=True)
class StackRule(_Described):
    """Looks at all resources together. `check` yields the URN of a resource and what is wrong with it."""

    types: tuple[str, ...]
    check: StackCheck

    def validate(self, args: StackValidationArgs, report: ReportViolation) -> None:
        for urn, message in self.check(args):
            report(f"{message}. {self.remedy}", urn)


def rule(
    rules: list[Rule],
    name: str,
    *types: str,
    remedy: str,
    source: str,
    severity: Severity = Severity.HIGH,
) -> Callable[[Check], Check]:
    """Adds the decorated check to `rules`; its docstring is the description that the engine shows."""

    def register(check: Check) -> Check:
        description = " ".join((check.__doc__ or "").split())
        rules.append(
            Rule(
                name=name,
                types=types,
                description=description,
                remedy=remedy,
                source=source,
                severity=severity,
                check=check,
            )
        )
        return check

    return register


def at(value: Any, path: str) -> Any:
    """What stands at a dotted path of inputs, or None where a part of it is missing."""
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def items(value: Any, path: str) -> Sequence[Any]:
    """The list at a dotted path; a single value, as some inputs take, counts as a list of one."""
    found = at(value, path)
    if found is None:
        return ()
    return found if isinstance(found, Sequence) and not isinstance(found, str) else (found,)


def true(value: Any) -> bool:
    """Whether an input is true; launch templates write booleans as text."""
    return value is True or value == "true"
