"""The tree of a CEL expression, and its text. `release.cel` reads expressions into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


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
