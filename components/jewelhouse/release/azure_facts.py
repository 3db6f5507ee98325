"""What a Key Vault release policy lets happen: its alternatives, one by one.

With `equals` alone the alternatives are a normal form: claims have no finite set of values, so two documents
release the same tokens exactly when these sets are equal. Other operators are kept with their relation and
named in `undecided`: the grammar lists them, its prose says that only `equals` is allowed today.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jewelhouse.release import azure_grammar
from jewelhouse.release.azure_grammar import HONOURED, Condition, Entry, Group, Node, holds, number
from jewelhouse.release.facts import Facts, Opening, reduced

# Alternatives of one authority beyond this are not written out; Microsoft's own policies have two.
MANY = 256
AUTHORITY = "authority"

Term = tuple[Condition, ...]


class TooMany(ValueError):
    """More alternatives than are written out."""


def parse(document: Mapping[str, Any]) -> Facts:
    """The openings of a release policy, whoever wrote it. Who may ask is a role assignment: no principal.

    Claims: `authority` as `iss` has it, then claim paths with the text that is compared; any operator but
    `equals` stands behind the path: `x-ms-sgx-svn (greater)`, `secureboot (notEquals false)`. `exists` is a
    claim whose value is None. A part outside the grammar opens nothing and is named in `undecided`, as is a
    body with more alternatives than are written out, of which only the authority is kept.

    Never raises for what is in the document.
    """
    policy = azure_grammar.read(document)
    undecided = [f"{flaw.where}: {flaw.what}" for flaw in policy.flaws]
    openings: dict[str, list[Opening]] = {}
    for entry in policy.entries:
        if entry.authority is None:
            undecided.append(f"{entry.where}.authority: {entry.written or 'it'} is no issuer of tokens")
            continue
        try:
            found = terms(entry)
        except TooMany:
            undecided.append(f"{entry.where}: has more than {MANY} alternatives")
            openings.setdefault(entry.authority, []).append(Opening(claims={AUTHORITY: entry.authority}))
            continue
        undecided.extend(
            f"{condition.where}: {condition.operator} is in the grammar, and its page says that only "
            "equals is allowed today"
            for condition in azure_grammar.conditions(entry.body)
            if condition.operator != HONOURED
        )
        openings.setdefault(entry.authority, []).extend(
            Opening(claims={AUTHORITY: entry.authority, **_claims(term)}) for term in found
        )
    for authority, found in openings.items():
        if len(found) > MANY:
            undecided.append(f"{authority}: has more than {MANY} alternatives over its entries")
            openings[authority] = [Opening(claims={AUTHORITY: authority})]
    return Facts(
        # Openings of two authorities never lie within each other.
        openings=frozenset(one for found in openings.values() for one in reduced(found)),
        undecided=tuple(dict.fromkeys(undecided)),
    )


def terms(entry: Entry) -> tuple[Term, ...]:
    """The alternatives of an authority that some token could meet; conditions keep their places.

    Raises TooMany beyond `MANY`.
    """
    if sum(1 for _ in azure_grammar.conditions(entry.body)) > MANY * 2:
        raise TooMany
    return tuple(_widest(_terms(entry.body)))


def _terms(node: Node) -> list[Term]:
    if isinstance(node, Condition):
        return _possible([(node,)])
    if not isinstance(node, Group):
        return []
    if node.kind == "anyOf":
        return _distinct(term for part in node.parts for term in _terms(part))
    parts = sorted((_terms(part) for part in node.parts), key=len)
    if not parts or not parts[0]:
        return []
    single = tuple(one for part in parts if len(part) == 1 for one in part[0])
    found = _possible([single])
    for alternatives in parts:
        if len(alternatives) == 1:
            continue
        if len(found) * len(alternatives) > MANY * 4:
            raise TooMany
        found = _distinct(_possible((*one, *other) for one in found for other in alternatives))
    return found


def _distinct(found: Iterable[Term]) -> list[Term]:
    distinct: dict[frozenset[tuple[str, str, str]], Term] = {}
    for term in found:
        distinct.setdefault(meaning(term), term)
        if len(distinct) > MANY:
            raise TooMany
    return list(distinct.values())


def meaning(term: Term) -> frozenset[tuple[str, str, str]]:
    """What a term asks for, without its places."""
    return frozenset((one.claim, one.operator, one.text) for one in term)


def _widest(found: list[Term]) -> Iterator[Term]:
    meanings = [meaning(term) for term in found]
    for term, own in zip(found, meanings, strict=True):
        if not any(other < own for other in meanings):
            yield term


def _possible(found: Iterable[Term]) -> list[Term]:
    """Terms that a token could meet, each without the conditions that its other ones imply."""
    return [settled for term in found if (settled := settle(term)) is not None]


def settle(term: Term) -> Term | None:
    """A term without what it says twice; None where no token meets all of it."""
    values: dict[str, Condition] = {}
    for one in term:
        if one.operator == "equals":
            if values.setdefault(one.claim, one).text != one.text:
                return None
        elif one.operator == "exists" and one.text != "true":
            return None
    kept: dict[tuple[str, str, str], Condition] = {}
    for one in term:
        exact = values.get(one.claim)
        if exact is None:
            slot = one.text if one.operator == "notEquals" else ""
            kept[one.claim, one.operator, slot] = _tighter(one, kept.get((one.claim, one.operator, slot)))
        elif not holds(one.operator, one.text, exact.text):
            return None
        else:
            kept[one.claim, "equals", ""] = exact
    paths = {one.claim for one in kept.values()}
    # A claim with a value has no members: `a` and `a.b` are never both met.
    if any(parent in paths for path in paths for parent in _parents(path)):
        return None
    stronger = {one.claim for one in kept.values() if one.operator != "exists"}
    return tuple(one for one in kept.values() if one.operator != "exists" or one.claim not in stronger)


def _parents(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _tighter(one: Condition, other: Condition | None) -> Condition:
    """Of two conditions of one operator, the one that implies the other."""
    if other is None:
        return one
    left, right = number(one.text), number(other.text)
    if left is None or right is None:
        return one if left is None else other
    below = one.operator in ("less", "lessOrEquals")
    return one if (left < right) is below else other


def _claims(term: Term) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for one in term:
        if one.operator == "equals":
            # A claim may be called like the authority, which is no claim.
            found[one.claim if one.claim != AUTHORITY else f"{AUTHORITY} (claim)"] = one.text
        elif one.operator == "exists":
            found[one.claim if one.claim != AUTHORITY else f"{AUTHORITY} (exists)"] = None
        elif one.operator == "notEquals":
            found[f"{one.claim} (notEquals {one.text})"] = one.text
        else:
            found[f"{one.claim} ({one.operator})"] = one.text
    return found
