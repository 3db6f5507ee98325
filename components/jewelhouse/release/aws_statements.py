"""Statements of a KMS key policy as values: read once, for `release.aws_facts` and the lint rules.

Follows docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html and, for what a key policy
takes, docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html (2026-10).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jewelhouse.release.aws_keys import canonical

# Operators by the positive form that they state or negate.
# docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
OPERATORS: Mapping[str, tuple[str, bool]] = {
    **{
        name: (name, False)
        for name in (
            "StringEquals",
            "StringEqualsIgnoreCase",
            "StringLike",
            "NumericEquals",
            "NumericLessThan",
            "NumericLessThanEquals",
            "NumericGreaterThan",
            "NumericGreaterThanEquals",
            "DateEquals",
            "DateLessThan",
            "DateLessThanEquals",
            "DateGreaterThan",
            "DateGreaterThanEquals",
            "Bool",
            "BinaryEquals",
            "IpAddress",
            "ArnLike",
            "Null",
        )
    },
    # The two Arn operators behave identically, wildcards included.
    "ArnEquals": ("ArnLike", False),
    "ArnNotEquals": ("ArnLike", True),
    "ArnNotLike": ("ArnLike", True),
    "StringNotEquals": ("StringEquals", True),
    "StringNotEqualsIgnoreCase": ("StringEqualsIgnoreCase", True),
    "StringNotLike": ("StringLike", True),
    "NumericNotEquals": ("NumericEquals", True),
    "DateNotEquals": ("DateEquals", True),
    "NotIpAddress": ("IpAddress", True),
}
ELEMENTS = frozenset(
    {
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    }
)
# A key policy speaks about its own key only; a pattern for any key means that one too.
OWN_KEY = re.compile(r"\*|arn:(aws[a-z-]*|\*):kms:\*:\*:(key/)?\*")


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One key of a Condition block. `base` is the positive operator that `operator` (as written) states or,
    when `negated`, denies; `quantifier` is `ForAnyValue`, `ForAllValues` or empty."""

    operator: str
    base: str
    negated: bool
    if_exists: bool
    quantifier: str
    key: str
    written: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement. `where` names it by index and Sid.

    principals: ARNs, `*`, names of services; those that it does *not* mean when `not_principal`.
    actions: as written; those that it does *not* mean when `not_action`.
    void: why it has no effect at all. odd: what of it could not be read, so that nobody can tell its effect.
    """

    where: str
    allow: bool
    principals: tuple[str, ...] = ()
    not_principal: bool = False
    actions: tuple[str, ...] = ()
    not_action: bool = False
    clauses: tuple[Clause, ...] = ()
    void: str = ""
    odd: tuple[str, ...] = ()
    sid: str = field(default="", compare=False)

    @property
    def everybody(self) -> bool:
        return not self.not_principal and "*" in self.principals

    def covers(self, action: str) -> bool:
        """Whether its actions include this one. IAM compares action names without regard to case."""
        named = any(matches(pattern, action) for pattern in self.actions)
        return named is not self.not_action


# Said of a statement whose reach depends on which key it is attached to or evaluated for.
ELSEWHERE = 'Resource is not "*", so it takes the ARN of the key to tell what it covers'


def statements(document: Mapping[str, Any]) -> tuple[Statement, ...]:
    """The statements of a key policy, of which nothing is dropped: `void` and `odd` say what is wrong."""
    found = document.get("Statement")
    items = found if isinstance(found, list) else [found]
    return tuple(_statement(item, index) for index, item in enumerate(items))


def matches(pattern: str, text: str) -> bool:
    """IAM's wildcards, without regard to case: `*` for any text and `?` for one character."""
    return glob(pattern.lower(), text.lower())


def glob(pattern: str, text: str) -> bool:
    """The same, with regard to case. Takes time of pattern times text at most, whatever the stars: a regular
    expression would try every way to share the text out among them."""
    at, star, resume, index = 0, -1, 0, 0
    while index < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, index
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[index]):
            at, index = at + 1, index + 1
        elif star >= 0:
            resume += 1
            at, index = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")


def root(account: str) -> str:
    return f"arn:aws:iam::{account}:root"


def account_of(principal: str) -> str | None:
    """The account of an IAM or STS ARN, or None for anything else."""
    found = re.match(r"arn:aws[a-z-]*:(?:iam|sts)::(\d{12}):", principal)
    return found[1] if found else None


def is_root(principal: str) -> bool:
    """Whether a principal stands for an account: whoever its identity policies allow."""
    return re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:root", principal) is not None


def _statement(value: Any, index: int) -> Statement:
    where = f"Statement[{index}]"
    if not isinstance(value, Mapping):
        return Statement(where=where, allow=False, odd=("is not an object",))
    sid = value.get("Sid")
    sid = sid if isinstance(sid, str) else ""
    where = f"{where} {sid}" if sid else where
    odd = [f"{name} is not an element of a policy" for name in sorted(value.keys() - ELEMENTS, key=str)]
    effect = value.get("Effect")
    if effect not in ("Allow", "Deny"):
        odd.append(f"Effect is {effect!r:.40}, not Allow or Deny")
    for name in ("Principal", "Action", "Resource"):
        if name in value and f"Not{name}" in value:
            odd.append(f"has both {name} and Not{name}")
    principals = tuple(_principals(value.get("Principal", value.get("NotPrincipal")), odd))
    actions = tuple(_texts(value.get("Action", value.get("NotAction", [])), "Action", odd))
    resources = tuple(_texts(value.get("Resource", value.get("NotResource", [])), "Resource", odd))
    if "NotResource" in value or not (resources == () or any(OWN_KEY.fullmatch(one) for one in resources)):
        odd.append(ELSEWHERE)
    clauses = tuple(_clauses(value.get("Condition"), odd))
    missing = [
        name
        for name, there in (("Principal", principals), ("Action", actions), ("Resource", resources))
        if not there
    ]
    return Statement(
        where=where,
        allow=effect == "Allow",
        principals=principals,
        not_principal="NotPrincipal" in value,
        actions=actions,
        not_action="NotAction" in value,
        clauses=clauses,
        void=f"has no {' and no '.join(missing)}" if missing else "",
        odd=tuple(odd),
        sid=sid,
    )


def _texts(value: Any, name: str, odd: list[str]) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield item
        else:
            odd.append(f"{name} holds {item!r:.40}, which is not text")


def _principals(value: Any, odd: list[str]) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, str):
        if value == "*":
            yield value
        else:
            odd.append(f"Principal {value!r:.80} is neither * nor an object")
        return
    if not isinstance(value, Mapping):
        odd.append("Principal is neither * nor an object")
        return
    for kind, found in value.items():
        if kind not in ("AWS", "Service", "Federated", "CanonicalUser"):
            odd.append(f"Principal has {kind!r:.40}, which IAM does not know")
            continue
        for item in _texts(found, "Principal", odd):
            if kind == "AWS" and item != "*" and ("*" in item or "?" in item):
                odd.append(f"Principal {item} is a pattern, which IAM does not match")
            yield root(item) if kind == "AWS" and re.fullmatch(r"\d{12}", item) else item


def _clauses(value: Any, odd: list[str]) -> Iterator[Clause]:
    if value is None:
        return
    if not isinstance(value, Mapping):
        odd.append("Condition is not an object")
        return
    for operator, block in value.items():
        quantifier, _, name = str(operator).rpartition(":")
        base, negated = OPERATORS.get(name.removesuffix("IfExists"), ("", False))
        if not base or quantifier not in ("", "ForAnyValue", "ForAllValues") or name == "NullIfExists":
            odd.append(f"Condition.{operator!s:.60} is not an operator of IAM")
            continue
        if not isinstance(block, Mapping):
            odd.append(f"Condition.{operator} is not an object")
            continue
        for key, found in block.items():
            values = tuple(_values(found, f"Condition.{operator}.{key}", odd))
            yield Clause(
                operator=str(operator),
                base=base,
                negated=negated,
                if_exists=name.endswith("IfExists"),
                quantifier=quantifier,
                key=canonical(str(key)),
                written=str(key),
                values=values,
            )


def _values(found: Any, where: str, odd: list[str]) -> Iterator[str]:
    """IAM takes numbers and booleans for text."""
    for item in found if isinstance(found, list) else [found]:
        if isinstance(item, bool):
            yield str(item).lower()
        elif isinstance(item, str | int | float):
            yield str(item)
        else:
            odd.append(f"{where} holds {item!r:.40}, which is no value")
