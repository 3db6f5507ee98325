"""The part of CEL that conditions of workload identity providers are written in: text to tree and back.

Nothing is evaluated here. Facts, lint and reports of `release` need the structure of a condition and nothing
else, and Google's CEL library takes 50 MB, which a Pulumi program should not load
(`release.evaluate.cel` runs expressions). Whatever is outside this part is refused with its place, never
guessed at. Grammar: cel-expr/cel-spec, doc/langdef.md, "Syntax", 2026-06; IAM publishes no list of functions,
so these are the ones seen in live conditions and Google's own pages (2026-04).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from jewelhouse.release.cel_tree import (
    Call,
    Choice,
    Compare,
    Has,
    Index,
    Items,
    Literal,
    Macro,
    Many,
    Name,
    Node,
    Not,
    Select,
    children,
    depth,
    free_names,
    literal,
    path,
    rebuilt,
    show,
    walk,
)

__all__ = [
    "Call",
    "CelError",
    "Choice",
    "Compare",
    "Has",
    "Index",
    "Items",
    "Literal",
    "Macro",
    "Many",
    "Name",
    "Node",
    "Not",
    "Select",
    "children",
    "depth",
    "free_names",
    "literal",
    "parse",
    "path",
    "rebuilt",
    "show",
    "walk",
]

# IAM takes 4,096 characters for a condition; conditions of bindings are shorter.
LENGTH = 16_384
# Brackets inside one another while reading, and levels of the tree that comes out.
NESTING = 40
DEPTH = 90

# Functions on a value, and free functions: name -> how many arguments.
METHODS = {"startsWith": 1, "endsWith": 1, "contains": 1, "matches": 1, "extract": 1, "size": 0}
FUNCTIONS = {"size": 1, "int": 1, "string": 1, "timestamp": 1}
MACROS = ("exists", "all", "map", "filter", "exists_one")
COMPARISONS = ("==", "!=", "<=", ">=", "<", ">", "in")

# Words that are no identifiers (langdef.md, "Syntax"); those of WORDS are no field names either.
WORDS = ("true", "false", "null", "in")
RESERVED = frozenset(
    {
        *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop"),
        *("package", "namespace", "return", "var", "void", "while"),
    }
)

TOKEN = re.compile(
    r"""
    (?P<space>(?:[ \t\r\n\f]+|//[^\n]*)+)
  | (?P<string>[rR]?(?:'{3}|"{3}|'|"))
  | (?P<number>0[xX][0-9a-fA-F]+(?![\w.])
      |[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?(?![\w.])|[0-9]+(?:[eE][+-]?[0-9]+)?(?![\w]))
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?!['"\w]))
  | (?P<operator>&&|\|\||==|!=|<=|>=|[<>!+\-?:.,()\[\]])
    """,
    re.VERBOSE | re.ASCII,
)
ESCAPE = re.compile(
    r"""\\(?:(?P<plain>[abfnrtv\\?"'`])|[xX](?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})"""
    r"""|U(?P<U>[0-9a-fA-F]{8})|(?P<octal>[0-3][0-7]{2}))"""
)
PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class CelError(ValueError):
    """Text outside the part of CEL that is read here. `at` is the offset of what cannot be read."""

    def __init__(self, what: str, at: int) -> None:
        self.what, self.at = what, at
        super().__init__(f"{what}, at character {at + 1}")


def parse(text: str) -> Node:
    """The tree of an expression. Raises CelError for anything that is not of this part of CEL."""
    if len(text) > LENGTH:
        raise CelError(f"{len(text)} characters, more than {LENGTH}", LENGTH)
    reader = _Reader(tuple(_tokens(text)))
    node = reader.expression()
    kind, _, at = reader.token
    if kind != "end":
        raise CelError("more than one expression", at)
    if depth(node) > DEPTH:
        raise CelError(f"nested deeper than {DEPTH}", 0)
    return node


Token = tuple[str, str, int]


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            raise CelError(f"{text[at]!r} is not of the CEL that conditions are written in", at)
        kind = found.lastgroup or ""
        if kind == "string":
            value, end = _string(text, at, found[0])
            yield "string", value, at
            at = end
            continue
        if kind != "space":
            yield kind, found[0], at
        at = found.end()
    yield "end", "", at


def _string(text: str, start: int, opening: str) -> tuple[str, int]:
    """The value of a string literal, and where it ends."""
    raw, quote = opening[0] in "rR", opening.lstrip("rR")
    at, found = start + len(opening), []
    while not text.startswith(quote, at):
        if at >= len(text) or (len(quote) == 1 and text[at] in "\r\n"):
            raise CelError("a string without an end", start)
        if text[at] == "\\":
            value, at = ("\\", at + 1) if raw else _escaped(text, at)
        else:
            value, at = text[at], at + 1
        if "\ud800" <= value <= "\udfff":
            raise CelError("half a character", at)
        found.append(value)
    return "".join(found), at + len(quote)


def _escaped(text: str, at: int) -> tuple[str, int]:
    found = ESCAPE.match(text, at)
    if found is None:
        raise CelError("an escape that CEL does not know", at)
    if found["plain"]:
        return PLAIN.get(found["plain"], found["plain"]), found.end()
    digits = found["x"] or found["u"] or found["U"]
    number = int(digits, 16) if digits else int(found["octal"], 8)
    if number > 0x10FFFF:
        raise CelError("an escape beyond Unicode", at)
    return chr(number), found.end()


class _Reader:
    """Recursive descent over the tokens; one method a level of the grammar."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self.tokens, self.position, self.nesting = tokens, 0, 0

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def takes(self, *texts: str) -> str | None:
        """Moves past an operator or word if it is one of `texts`."""
        kind, text, _ = self.token
        if kind in ("operator", "name") and text in texts:
            self.position += 1
            return text
        return None

    def needs(self, text: str) -> None:
        if not self.takes(text):
            raise CelError(f"expected {text!r}, found {self.token[1] or 'the end'!r}", self.token[2])

    def expression(self) -> Node:
        self.nesting += 1
        if self.nesting > NESTING:
            raise CelError(f"nested deeper than {NESTING}", self.token[2])
        test = self.many("||", lambda: self.many("&&", self.relation))
        if self.takes("?"):
            yes = self.many("||", lambda: self.many("&&", self.relation))
            self.needs(":")
            test = Choice(test, yes, self.expression())
        self.nesting -= 1
        return test

    def many(self, operator: str, operand: Callable[[], Node]) -> Node:
        first = operand()
        found = [first]
        while self.takes(operator):
            found.append(operand())
        if len(found) == 1:
            return first
        # `(a && b) && c` is `a && b && c`: the logic of CEL does not depend on the order. A sum does.
        flat = [
            inner
            for place, one in enumerate(found)
            for inner in (
                one.operands
                if isinstance(one, Many) and one.operator == operator and (operator != "+" or place == 0)
                else (one,)
            )
        ]
        return Many(operator, tuple(flat))

    def relation(self) -> Node:
        left = self.many("+", self.unary)
        while operator := self.takes(*COMPARISONS):
            left = Compare(operator, left, self.many("+", self.unary))
        return left

    def unary(self) -> Node:
        if self.takes("-"):
            kind, text, at = self.token
            if kind != "number":
                raise CelError("a minus before anything but a number", at)
            self.position += 1
            return self.members(_number(f"-{text}", at))
        negations = 0
        while self.takes("!"):
            negations += 1
        node = self.members(self.primary())
        for _ in range(negations % 2 or 2 * (negations > 0)):
            node = Not(node)
        return node

    def members(self, node: Node) -> Node:
        while True:
            at = self.token[2]
            if self.takes("["):
                index = self.expression()
                self.needs("]")
                node = Index(node, index)
            elif self.takes("."):
                kind, field, at = self.token
                if kind != "name" or field in WORDS:
                    raise CelError("expected the name of a claim", at)
                self.position += 1
                node = self.method(node, field, at) if self.takes("(") else Select(node, field)
            else:
                return node

    def method(self, target: Node, name: str, at: int) -> Node:
        arguments = self.arguments(")")
        if name in MACROS:
            if len(arguments) != 2 or not isinstance(arguments[0], Name):
                raise CelError(f"{name}() takes a variable and an expression", at)
            return Macro(name, target, arguments[0].name, arguments[1])
        if METHODS.get(name) != len(arguments):
            raise CelError(f"no function {name}() with {len(arguments)} arguments on a value", at)
        return Call(name, target, arguments)

    def arguments(self, end: str) -> tuple[Node, ...]:
        found: list[Node] = []
        while not self.takes(end):
            if found:
                self.needs(",")
                # A list may end in a comma, a call may not.
                if end == "]" and self.takes(end):
                    break
            found.append(self.expression())
        return tuple(found)

    def primary(self) -> Node:
        kind, text, at = self.token
        if self.takes("("):
            node = self.expression()
            self.needs(")")
            return node
        if self.takes("["):
            return Items(self.arguments("]"))
        if kind not in ("string", "number", "name") or (text == "in" and kind == "name"):
            raise CelError(f"expected a value, found {text or 'the end'!r}", at)
        self.position += 1
        if kind == "string":
            return Literal(text)
        if kind == "number":
            return _number(text, at)
        if text in WORDS:
            return Literal({"true": True, "false": False}.get(text))
        if self.takes("("):
            return self.function(text, at)
        if text in RESERVED:
            raise CelError(f"{text} is a reserved word", at)
        return Name(text)

    def function(self, name: str, at: int) -> Node:
        arguments = self.arguments(")")
        if name == "has":
            if len(arguments) != 1 or not isinstance(arguments[0], Select):
                raise CelError("has() takes a claim", at)
            return Has(arguments[0].operand, arguments[0].field)
        if FUNCTIONS.get(name) != len(arguments):
            raise CelError(f"no function {name}() with {len(arguments)} arguments", at)
        return Call(name, None, arguments)


def _number(text: str, at: int) -> Literal:
    if "x" not in text.lower() and any(mark in text.lower() for mark in ".e"):
        return Literal(float(text))
    value = int(text, 16 if "x" in text.lower() else 10)
    if not -(2**63) <= value < 2**63:
        raise CelError("a number beyond 64 bits", at)
    return Literal(value)
