"""A condition in CEL as alternatives of clauses, the form in which conditions are compared.

Two conditions that pass the same tokens should give the same alternatives, however they are written: the
order of operands, brackets, quotes, `==` the other way round, lists against `||`. The steps keep what CEL
says of errors (an absent claim): `&&` and `||` absorb them, so distribution and De Morgan's laws hold, and an
expression passes when it is true and never when it is an error (cel-expr/cel-spec, doc/langdef.md, "Logical
Operators", 2026-06).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jewelhouse.release import cel
from jewelhouse.release.cel import Choice, Compare, Has, Index, Items, Literal, Macro, Many, Name, Node, Not

# Beyond it a document is not compared but called undecided.
LIMIT = 500
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FLIPPED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
BOOLEAN = ("startsWith", "endsWith", "contains", "matches")


class TooMany(ValueError):
    """More alternatives than are worth comparing."""


@dataclass(frozen=True, order=True)
class Clause:
    """One thing that must hold. relation: `==`, `!=`, `has` (a list holds the value), `not has`, `exists`,
    `absent`, `empty` (absent, or of size 0), and `holds` for an expression that stays as its text."""

    path: str
    relation: str
    value: str = ""

    def claim(self) -> tuple[str, str | None]:
        """Path and value as an `Opening` has them."""
        quoted = cel.literal(self.value)
        match self.relation:
            case "==":
                return self.path, self.value
            case "exists":
                return self.path, None
            case "has" | "empty":
                return f"{self.path} ({self.relation})", self.value or "true"
            case "absent":
                return f"!has({self.path})", "true"
            case "not has":
                return f"!({quoted} in {self.path})", "true"
            case "!=":
                return f"{self.path} != {self.value}", "true"
            case _:
                return self.path, "true"


Alternative = frozenset[Clause]


def alternatives(node: Node) -> frozenset[Alternative]:
    """What passes `node`: any of these, each of which needs all of its clauses.

    Raises TooMany where there are more than `LIMIT`.
    """
    return simplified(_distributed(_normal(canonical(node), True)))


def both(left: Iterable[Alternative], right: Iterable[Alternative]) -> frozenset[Alternative]:
    """What passes the one and the other. Raises TooMany."""
    rights = list(right)
    lefts = list(left)
    if len(lefts) * len(rights) > LIMIT * 8:
        raise TooMany(f"more than {LIMIT} alternatives")
    return simplified(one | other for one in lefts for other in rights)


def simplified(found: Iterable[Alternative]) -> frozenset[Alternative]:
    """Without what can never hold, what follows from the rest, and what lies within another alternative."""
    distinct = {lean for one in found if (lean := _lean(one)) is not None}
    if len(distinct) > LIMIT:
        raise TooMany(f"more than {LIMIT} alternatives")
    return frozenset(one for one in distinct if not any(other < one for other in distinct))


def needed(node: Node) -> frozenset[Clause]:
    """The claims without which `node` has no value: those it reads whatever the others say."""
    found: set[Clause] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        path = cel.path(one)
        if path is not None:
            if "." in path:
                found.add(Clause(path, "exists"))
        elif isinstance(one, Choice):
            waiting.append(one.test)
        elif isinstance(one, Macro):
            waiting.append(one.target)
        elif isinstance(one, Many) and one.operator != "+":
            continue
        else:
            waiting.extend(cel.children(one))
    return frozenset(found)


def substituted(node: Node, values: Mapping[str, Node]) -> Node:
    """`node` with paths such as `attribute.image_digest` replaced by what they stand for."""
    path = cel.path(node)
    if path is not None and path in values:
        return values[path]
    if isinstance(node, Macro) and node.variable in {name.partition(".")[0] for name in values}:
        return Macro(node.name, substituted(node.target, values), node.variable, node.body)
    return cel.rebuilt(node, lambda child: substituted(child, values))


def _lean(one: Alternative) -> Alternative | None:
    """Without clauses that follow from others; None if the clauses exclude each other."""
    values: dict[str, str] = {}
    for clause in one:
        if clause.relation == "==" and values.setdefault(clause.path, clause.value) != clause.value:
            return None
    there = {clause.path for clause in one if clause.relation in ("==", "has", "!=", "not has")}
    read = {clause.path for clause in one if clause.relation != "holds"}
    kept = set()
    for clause in one:
        path, relation = clause.path, clause.relation
        if relation == "absent" and (path in there or Clause(path, "exists") in one):
            return None
        if relation == "not has" and Clause(path, "has", clause.value) in one:
            return None
        if relation == "!=" and path in values:
            if _shown(path, values[path]) == clause.value:
                return None
            if _comparable(path, values[path], clause.value):
                continue
        if relation == "exists" and (
            path in there or any(other.startswith((f"{path}.", f"{path}[")) for other in read)
        ):
            continue
        if relation == "empty" and Clause(path, "absent") in one:
            continue
        kept.add(clause)
    return frozenset(kept)


def _shown(path: str, value: str) -> str:
    """The value of an `==` clause as `!=` holds it: the text of a literal."""
    return value if path.endswith(" (number)") or value in ("true", "false") else cel.literal(value)


def _comparable(path: str, value: str, other: str) -> bool:
    return _shown(path, value).startswith("'") and other.startswith("'")


def canonical(node: Node, names: Mapping[str, str] | None = None) -> Node:
    """One writing for expressions that mean the same: operands in order, literals on the right."""
    names = names or {}
    if isinstance(node, Name):
        return Name(names.get(node.name, node.name))
    if isinstance(node, Macro):
        inner = {**names, node.variable: f"item{len(names) + 1}"}
        return Macro(
            node.name, canonical(node.target, names), inner[node.variable], canonical(node.body, inner)
        )
    node = cel.rebuilt(node, lambda child: canonical(child, names))
    match node:
        case Index(operand, Literal(str(field))) if IDENTIFIER.fullmatch(field) and field not in cel.WORDS:
            return cel.Select(operand, field)
        case cel.Call("size", target, ()) if target is not None:
            return cel.Call("size", None, (target,))
        case Many("+", operands):
            return _sum(operands)
        case Many(operator, operands):
            flat = [
                inner
                for one in operands
                for inner in (one.operands if isinstance(one, Many) and one.operator == operator else (one,))
            ]
            distinct = {cel.show(one): one for one in flat}
            ordered = tuple(distinct[text] for text in sorted(distinct))
            if len(ordered) == 1:
                # `a && a` is no `a`: it is an error where a is no boolean.
                return ordered[0] if _boolean(ordered[0]) else Many(operator, ordered * 2)
            return Many(operator, ordered)
        case Compare("in", left, Items(items)) if all(isinstance(item, Literal) for item in items):
            distinct = {cel.show(item): item for item in items}
            return Compare("in", left, Items(tuple(distinct[text] for text in sorted(distinct))))
        case Compare(operator, left, right) if operator != "in" and _turn(operator, left, right):
            return Compare(FLIPPED[operator], right, left)
        case Not(Compare("==", left, right)):
            return Compare("!=", left, right)
        case Not(Compare("!=", left, right)):
            return Compare("==", left, right)
        case Not(Not(inner)) if _boolean(inner):
            return inner
        case _:
            return node


def _turn(operator: str, left: Node, right: Node) -> bool:
    if isinstance(left, Literal) != isinstance(right, Literal):
        return isinstance(left, Literal)
    if _constant(left) != _constant(right):
        return _constant(left)
    return operator in ("==", "!=") and cel.show(right) < cel.show(left)


def _constant(node: Node) -> bool:
    return not cel.free_names(node)


def _sum(operands: tuple[Node, ...]) -> Node:
    found: list[Node] = []
    for one in operands:
        for inner in one.operands if isinstance(one, Many) and one.operator == "+" else (one,):
            last = found[-1] if found else None
            match last, inner:
                case Literal(str(before)), Literal(str(after)):
                    found[-1] = Literal(before + after)
                case _:
                    found.append(inner)
    return found[0] if len(found) == 1 else Many("+", tuple(found))


# The tree of clauses: text of an operator and its parts, or a clause, or a constant.
Tree = tuple[str, tuple["Tree", ...]] | Clause | bool


def _any(parts: Iterable[Tree]) -> Tree:
    return ("||", tuple(parts))


def _all(parts: Iterable[Tree]) -> Tree:
    return ("&&", tuple(parts))


def _normal(node: Node, positive: bool) -> Tree:
    """Negations pushed down to the clauses."""
    match node:
        case Literal(bool(value)):
            return value is positive
        case Not(inner):
            return _normal(inner, not positive)
        case Many(("&&" | "||") as operator, operands):
            parts = [_normal(one, positive) for one in operands]
            return _all(parts) if (operator == "&&") is positive else _any(_joined(parts))
        case Choice(test, yes, no):
            return _any(
                (
                    _all((_normal(test, True), _normal(yes, positive))),
                    _all((_normal(test, False), _normal(no, positive))),
                )
            )
        case Compare(operator, left, right):
            return _compared(operator, left, right, positive)
        case Macro(("exists" | "all") as name, target, variable, body):
            return _macro(name, target, variable, body, positive)
        case Has(operand, field):
            path = cel.show(cel.Select(operand, field))
            return Clause(path, "exists" if positive else "absent")
        case cel.Select() | Index() | Name():
            return Clause(cel.show(node), "==", "true" if positive else "false")
        case _:
            return _text(node, positive)


def _text(node: Node, positive: bool) -> Clause:
    return Clause(cel.show(node if positive else Not(node)), "holds")


def _compared(operator: str, left: Node, right: Node, positive: bool) -> Tree:
    match operator, left, right:
        case (("==" | "!="), Literal(one), Literal(other)) if type(one) is type(other):
            return ((one == other) is (operator == "==")) is positive
        case (("==" | "!="), Choice(test, yes, no), Literal()):
            return _normal(
                Choice(
                    test,
                    canonical(Compare(operator, yes, right)),
                    canonical(Compare(operator, no, right)),
                ),
                positive,
            )
        case (("==" | "!="), _, Literal(bool(value))) if _boolean(left):
            return _normal(left, (value is (operator == "==")) is positive)
        case (("==" | "!="), _, Literal(value)):
            return _equal(cel.show(left), value, (operator == "==") is positive)
        case "in", _, Items(items) if items and all(isinstance(item, Literal) for item in items):
            parts = [_compared("==", left, item, positive) for item in items]
            return _any(parts) if positive else _all(parts)
        case "in", Literal(str(value)), _ if cel.path(right) is not None:
            return Clause(cel.show(right), "has" if positive else "not has", value)
        case _:
            return _text(Compare(operator, left, right), positive)


def _equal(path: str, value: str | int | float | bool | None, positive: bool) -> Clause:
    if not positive:
        return Clause(path, "!=", cel.show(Literal(value)))
    if isinstance(value, bool):
        return Clause(path, "==", str(value).lower())
    if isinstance(value, str):
        # The text 'true' is not the value true.
        return Clause(f"{path} (string)" if value in ("true", "false") else path, "==", value)
    if value is None:
        return Clause(f"{path} == null", "holds")
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    return Clause(f"{path} (number)", "==", str(number))


def _boolean(node: Node) -> bool:
    match node:
        case Compare() | Not() | Has() | Macro(("exists" | "all" | "exists_one"), _, _, _):
            return True
        case Many(operator, _):
            return operator != "+"
        case cel.Call(name, _, _):
            return name in BOOLEAN
        case _:
            return False


def _macro(name: str, target: Node, variable: str, body: Node, positive: bool) -> Tree:
    either = (name == "exists") is positive
    if isinstance(target, Items) and all(isinstance(item, Literal) for item in target.items):
        parts = [_normal(canonical(substituted(body, {variable: item})), positive) for item in target.items]
        return _any(parts) if either else _all(parts)
    match name, body:
        case "exists", Many("||", operands):
            parts = [_macro(name, target, variable, one, positive) for one in operands]
            return _any(parts) if positive else _all(parts)
        case "exists", Compare("in", Name(one), Items(items)) if one == variable:
            parts = [
                _macro(name, target, variable, Compare("==", Name(one), item), positive) for item in items
            ]
            return _any(parts) if positive else _all(parts)
        case "exists", Compare("==", Name(one), Literal(str())) if one == variable:
            return _compared("in", body.right, target, positive)
        case _:
            return _text(Macro(name, target, variable, body), positive)


def _joined(parts: list[Tree]) -> list[Tree]:
    """`!has(x) || size(x) == 0` as one clause: it is how an override is refused."""
    paths = [part.path for part in parts if isinstance(part, Clause) and part.relation == "absent"]
    for path in paths:
        size = Clause(f"size({path}) (number)", "==", "0")
        if size in parts:
            parts = [part for part in parts if part not in (size, Clause(path, "absent"))]
            parts.append(Clause(path, "empty"))
    return parts


def _distributed(tree: Tree) -> frozenset[Alternative]:
    if isinstance(tree, bool):
        return frozenset([frozenset()]) if tree else frozenset()
    if isinstance(tree, Clause):
        return frozenset([frozenset([tree])])
    operator, parts = tree
    found = map(_distributed, parts)
    if operator == "||":
        return simplified(one for part in found for one in part)
    return functools.reduce(both, found, frozenset([frozenset()]))
