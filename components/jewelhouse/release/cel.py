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
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Literal:
    value: str | int | float | bool | None

    def __eq__(self, other: object) -> bool:
        # True == 1 in Python, and not in CEL.
        return (
            isinstance(other, Literal) and type(self.value) is type(other.value) and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Select:
    operand: Node
    field: str


@dataclass(frozen=True)
class Index:
    operand: Node
    index: Node


@dataclass(frozen=True)
class Has:
    operand: Node
    field: str


@dataclass(frozen=True)
class Items:
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    operand: Node


@dataclass(frozen=True)
class Many:
    """`&&`, `||` or `+` between two or more operands."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True)
class Compare:
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Choice:
    """`test ? yes : no`"""

    test: Node
    yes: Node
    no: Node


@dataclass(frozen=True)
class Call:
    """A function of `FUNCTIONS` (target is None) or of `METHODS`."""

    name: str
    target: Node | None
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Macro:
    """`target.exists(variable, body)` and its kind."""

    name: str
    target: Node
    variable: str
    body: Node


Node = Literal | Name | Select | Index | Has | Items | Not | Many | Compare | Choice | Call | Macro


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


def children(node: Node) -> tuple[Node, ...]:
    """What a node is made of, left to right."""
    match node:
        case Select(operand, _) | Has(operand, _) | Not(operand):
            return (operand,)
        case Index(left, right) | Compare(_, left, right) | Macro(_, left, _, right):
            return (left, right)
        case Items(nodes) | Many(_, nodes):
            return nodes
        case Choice(test, yes, no):
            return (test, yes, no)
        case Call(_, target, arguments):
            return arguments if target is None else (target, *arguments)
        case _:
            return ()


def depth(node: Node) -> int:
    deepest, waiting = 0, [(node, 1)]
    while waiting:
        one, level = waiting.pop()
        deepest = max(deepest, level)
        waiting.extend((child, level + 1) for child in children(one))
    return deepest


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def rebuilt(node: Node, change: Callable[[Node], Node]) -> Node:
    """The node with `change` done to each of its children."""
    match node:
        case Select(operand, field):
            return Select(change(operand), field)
        case Has(operand, field):
            return Has(change(operand), field)
        case Not(operand):
            return Not(change(operand))
        case Index(operand, index):
            return Index(change(operand), change(index))
        case Compare(operator, left, right):
            return Compare(operator, change(left), change(right))
        case Macro(name, target, variable, body):
            return Macro(name, change(target), variable, change(body))
        case Items(nodes):
            return Items(tuple(map(change, nodes)))
        case Many(operator, nodes):
            return Many(operator, tuple(map(change, nodes)))
        case Choice(test, yes, no):
            return Choice(change(test), change(yes), change(no))
        case Call(name, target, arguments):
            return Call(name, None if target is None else change(target), tuple(map(change, arguments)))
        case _:
            return node


def free_names(node: Node, bound: frozenset[str] = frozenset()) -> frozenset[str]:
    """Variables that must come from outside: `assertion`, and what is misspelt."""
    if isinstance(node, Name):
        return frozenset() if node.name in bound else frozenset({node.name})
    if isinstance(node, Macro):
        return free_names(node.target, bound) | free_names(node.body, bound | {node.variable})
    found: frozenset[str] = frozenset()
    for child in children(node):
        found |= free_names(child, bound)
    return found


def path(node: Node) -> str | None:
    """`assertion.submods.gce.project_id` for a chain of selections from a variable; None for the rest."""
    fields: list[str] = []
    while isinstance(node, Select):
        fields.append(node.field)
        node = node.operand
    return ".".join((node.name, *reversed(fields))) if isinstance(node, Name) else None


# Binding strength; operands of the same strength go without brackets on the left only.
STRENGTH = {"?": 0, "||": 1, "&&": 2, "relation": 3, "+": 4, "!": 5, "member": 6}


def _strength(node: Node) -> int:
    match node:
        case Choice():
            return STRENGTH["?"]
        case Many(operator, _):
            return STRENGTH[operator]
        case Compare():
            return STRENGTH["relation"]
        case Not():
            return STRENGTH["!"]
        case Literal(value) if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
            return STRENGTH["!"]
        case _:
            return STRENGTH["member"]


def show(node: Node) -> str:
    """The expression as text, with the brackets it needs and single quotes; `parse` gives the tree back."""

    def inside(one: Node, least: int) -> str:
        text = show(one)
        return f"({text})" if _strength(one) < least else text

    def member(one: Node) -> str:
        return inside(one, STRENGTH["member"])

    match node:
        case Literal(value):
            return _literal(value)
        case Name(name):
            return name
        case Select(operand, field):
            return f"{member(operand)}.{field}"
        case Has(operand, field):
            return f"has({member(operand)}.{field})"
        case Index(operand, index):
            return f"{member(operand)}[{show(index)}]"
        case Items(items):
            return f"[{', '.join(map(show, items))}]"
        case Not(operand):
            return f"!{inside(operand, STRENGTH['member'])}"
        case Many(operator, operands):
            return f" {operator} ".join(inside(one, STRENGTH[operator] + 1) for one in operands)
        case Compare(operator, left, right):
            relation = STRENGTH["relation"]
            return f"{inside(left, relation)} {operator} {inside(right, relation + 1)}"
        case Choice(test, yes, no):
            return f"{inside(test, STRENGTH['||'])} ? {inside(yes, STRENGTH['||'])} : {show(no)}"
        case Call(name, target, arguments):
            before = "" if target is None else f"{member(target)}."
            return f"{before}{name}({', '.join(map(show, arguments))})"
        case Macro(name, target, variable, body):
            return f"{member(target)}.{name}({variable}, {show(body)})"


def literal(value: str) -> str:
    """`value` as a CEL string literal."""
    inside = value.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", inside) + "'"


def _literal(value: str | int | float | bool | None) -> str:
    if isinstance(value, str):
        return literal(value)
    if value is None:
        return "null"
    if isinstance(value, float):
        shown = repr(value)
        return shown if "." in shown or "e" not in shown else shown.replace("e", ".0e")
    return str(value).lower()


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
