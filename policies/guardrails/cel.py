"""What a CEL condition demands on every way through it.

Only `&&`, `||` and parentheses are understood, so whatever else stands in a condition never counts as a
demand: a condition is judged weaker than it is rather than stronger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

CLOSING = {"(": ")", "[": "]", "{": "}"}


def demands(condition: str, holds: Callable[[str], bool]) -> bool:
    """Whether `holds` is true of some conjunct on every alternative of `condition`."""
    condition = _unwrapped(condition)
    alternatives = list(_split(condition, "||"))
    if len(alternatives) > 1:
        return all(demands(part, holds) for part in alternatives)
    parts = list(_split(condition, "&&"))
    if len(parts) > 1:
        return any(demands(part, holds) for part in parts)
    return holds(" ".join(condition.replace('"', "'").split()))


def _split(text: str, operator: str) -> Iterator[str]:
    start = 0
    for index in _outside(text):
        if text.startswith(operator, index) and index >= start:
            yield text[start:index]
            start = index + len(operator)
    yield text[start:]


def _outside(text: str) -> Iterator[int]:
    """Positions outside of brackets and quotes. A ternary swallows the whole text: nothing is outside."""
    depth: list[str] = []
    quote = ""
    positions: list[int] = []
    skip = False
    for index, character in enumerate(text):
        if skip:
            skip = False
        elif quote:
            if character == "\\":
                skip = True
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character in CLOSING:
            depth.append(CLOSING[character])
        elif depth and character == depth[-1]:
            depth.pop()
        elif not depth:
            if character == "?":
                return
            positions.append(index)
    yield from positions


def _unwrapped(text: str) -> str:
    """`text` without parentheses around the whole of it."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and not list(_outside(text)):
        inner = text[1:-1].strip()
        if not _balanced(inner):
            break
        text = inner
    return text


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0
