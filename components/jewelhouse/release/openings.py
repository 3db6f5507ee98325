"""Looking up openings among many: what lies within them, and which of them one most likely came from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from jewelhouse.release import words
from jewelhouse.release.facts import Opening


class Within:
    """Looks up whether an opening lies within one of many, without trying all of them.

    An opening lies within another only if it has all of its claims, so each is filed under the one of its
    claims that the fewest others have.
    """

    def __init__(self, openings: Iterable[Opening]) -> None:
        self.openings = tuple(openings)
        self.exact = frozenset(self.openings)
        self._filed: dict[tuple[str, str | None], list[Opening]] | None = None

    def holds(self, opening: Opening) -> bool:
        if opening in self.exact:
            return True
        return any(opening.within(other) for other in self._candidates(opening))

    def _candidates(self, opening: Opening) -> Iterator[Opening]:
        if self._filed is None:
            often = Counter(claim for one in self.openings for claim in _claims(one))
            self._filed = defaultdict(list)
            for one in self.openings:
                self._filed[min(_claims(one), key=lambda claim: (often[claim], claim[0]))].append(one)
        for path, value in _claims(opening):
            yield from self._filed.get((path, value), ())
            if value is not None:
                yield from self._filed.get((path, None), ())


def _claims(opening: Opening) -> list[tuple[str, str | None]]:
    """The claims with the one that every opening has."""
    return [("", ""), *opening.claims.items()]


class Nearest:
    """The opening of before that one of after most likely came from."""

    def __init__(self, openings: Iterable[Opening]) -> None:
        self._people: dict[tuple[str | None, str | None], list[Opening]] = defaultdict(list)
        self._claims: dict[frozenset[tuple[str, str | None]], list[Opening]] = defaultdict(list)
        self._alone: list[Opening] = []
        for one in openings:
            self._people[_person(one)].append(one)
            self._claims[frozenset(one.claims.items())].append(one)
            self._alone.append(one)

    def to(self, opening: Opening) -> Opening | None:
        """Of the same person, else with the same evidence; None where nobody like it could open."""
        near = self._people.get(_person(opening)) or self._claims.get(frozenset(opening.claims.items()))
        if not near and opening.claims.get(words.ACCOUNT) is None:
            # Nobody in particular any more: what it asks for tells where it came from.
            near = self._alone
        if not near:
            return None
        items = set(opening.claims.items())
        return max(near, key=lambda one: (len(items & set(one.claims.items())), order(one)))


def _person(opening: Opening) -> tuple[str | None, str | None]:
    return opening.principal, opening.claims.get(words.ACCOUNT)


def order(opening: Opening) -> tuple[Any, ...]:
    until = opening.until.isoformat() if opening.until else ""
    return (
        opening.principal or "",
        tuple((path, value or "") for path, value in opening.claims.items()),
        until,
    )
