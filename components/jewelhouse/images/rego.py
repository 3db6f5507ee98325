"""The part of Rego that container policies are written in: a package, imports, and names with values.

A value is JSON, except that a reference (`data.framework.mount_device`) may stand in it. Rules with bodies,
defaults and functions are refused: what they decide cannot be told by reading them.
openpolicyagent.org/docs/latest/policy-reference (grammar), 2026-04.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jewelhouse.errors import JewelhouseError

LIMIT = 4 * 1024 * 1024
DEPTH = 32

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_GAP = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_REFERENCE = re.compile(r"data(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,15})(?![0-9.eE])")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*"')
_ASSIGN = re.compile(r"[ \t]*:=[ \t]*")
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}


class MalformedRego(JewelhouseError):
    """Text that is not the part of Rego that is read here; names the line and column."""


@dataclass(frozen=True)
class Reference:
    """A value that the enforcer's own rules decide."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Module:
    """`values` in the order of the text."""

    package: str
    imports: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


def read(data: bytes) -> Module:
    """Raises MalformedRego for text that holds more than a package, imports and plain values, each once."""
    if len(data) > LIMIT:
        raise MalformedRego(f"has {len(data)} bytes, a policy has at most {LIMIT}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRego(f"is no UTF-8 text: {error.reason} at byte {error.start}") from error
    reader = _Reader(text)
    reader.space()
    if not reader.take("package"):
        reader.fail("begins with no package")
    package = reader.dotted("a package name")
    reader.end()
    imports: list[str] = []
    while reader.take("import"):
        imports.append(reader.dotted("what is imported"))
        reader.end()
    values: dict[str, Any] = {}
    while not reader.done:
        name = reader.name()
        if name in values:
            reader.fail(f"gives {name} a second value")
        values[name] = reader.value(0)
        reader.end()
    return Module(package=package, imports=tuple(imports), values=values)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    @property
    def done(self) -> bool:
        return self.at == len(self.text)

    def fail(self, what: str) -> Any:
        line = self.text.count("\n", 0, self.at) + 1
        column = self.at - (self.text.rfind("\n", 0, self.at) + 1) + 1
        raise MalformedRego(what, where=f"line {line}, column {column}")

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[0]

    def space(self) -> None:
        self.match(_SPACE)

    def take(self, word: str) -> bool:
        """A keyword with the blank after it."""
        if not self.text.startswith((f"{word} ", f"{word}\t"), self.at):
            return False
        self.at += len(word) + 1
        return True

    def end(self) -> None:
        """The end of a statement, and all space after it."""
        if self.match(_GAP) is None:
            self.fail("has something after a value")
        self.space()

    def dotted(self, what: str) -> str:
        return self.match(_DOTTED) or self.fail(f"lacks {what}")

    def name(self) -> str:
        name = self.match(_NAME)
        if name is None or self.match(_ASSIGN) is None:
            self.fail("has no plain `name := value` here")
        return str(name)

    def value(self, depth: int) -> Any:
        if depth > DEPTH:
            self.fail(f"is nested more than {DEPTH} deep")
        start = self.text[self.at : self.at + 1]
        if start == "{":
            return self.members(depth)
        if start == "[":
            return self.elements(depth)
        if start == '"':
            return self.string()
        if (number := self.match(_NUMBER)) is not None:
            return int(number)
        if (reference := self.match(_REFERENCE)) is not None:
            return Reference(reference)
        word = _NAME.match(self.text, self.at)
        if word is not None and word[0] in _WORDS:
            self.at = word.end()
            return _WORDS[word[0]]
        return self.fail("has no value that is read here")

    def string(self) -> str:
        """A string in double quotes; Rego's raw strings are not read."""
        written = self.match(_STRING)
        if written is None:
            self.fail("has a string that does not end or escapes what cannot be")
        text = json.loads(str(written))
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            self.fail("has half of a character in a string")
        return text

    def elements(self, depth: int) -> list[Any]:
        found: list[Any] = []
        for _ in self.listed("]"):
            found.append(self.value(depth + 1))
        return found

    def members(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in self.listed("}"):
            name = self.string()
            if name in found:
                self.fail(f"has the member {name!r} twice")
            self.space()
            self.expect(":")
            self.space()
            found[name] = self.value(depth + 1)
        return found

    def listed(self, closing: str) -> Any:
        """Yields before each item of a list or object, until it closes."""
        self.at += 1
        self.space()
        if self.text.startswith(closing, self.at):
            self.at += 1
            return
        while True:
            yield
            self.space()
            if self.text.startswith(closing, self.at):
                self.at += 1
                return
            self.expect(",")
            self.space()

    def expect(self, letter: str) -> None:
        if not self.text.startswith(letter, self.at):
            self.fail(f"lacks {letter!r}")
        self.at += 1
