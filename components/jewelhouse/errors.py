"""Errors that speak to a person: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    `where` is a YAML path (`stages.finetune.machine.type`), a file, a claim path or a resource name;
    `what` says what was found; `remedy` what to do; `source` where the rule comes from, with its date.
    """

    where: str
    what: str
    remedy: str = ""
    source: str = ""

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.remedy:
            lines.append(f"  {self.remedy}")
        if self.source:
            lines.append(f"  source: {self.source}")
        return "\n".join(lines)


class JewelhouseError(Exception):
    """Root of all errors that the kit raises on purpose; carries one or more problems."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "", source: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(where=where, what=what, remedy=remedy, source=source),)
        super().__init__(str(self.problems[0]))

    @property
    def what(self) -> str:
        return self.problems[0].what

    @property
    def where(self) -> str:
        return self.problems[0].where

    @property
    def remedy(self) -> str:
        return self.problems[0].remedy


class Problems(JewelhouseError):
    """Several problems, found in one pass and reported together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = tuple(problems)
        if not found:
            raise ValueError("Problems needs at least one problem")
        Exception.__init__(self, "\n".join(str(problem) for problem in found))
        self.problems = found


class InvalidLifecycle(Problems):
    """The stack configuration does not describe a lifecycle that may be deployed."""


class InvalidImages(Problems):
    """The image lock file cannot be read or holds values that no release policy may pin."""


class SandboxError(JewelhouseError):
    """The sandbox cannot be prepared or the engine did not finish its run."""
