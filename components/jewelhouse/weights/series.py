"""What a newer object takes the place of without replacing it: manifests and mandates.

A store that keeps what was written (a retention period, write-once) lets nobody replace an object, and
writers that may only add have no right to. So each has a name of its own, and the last name in order is the
current one. Whoever holds the store can hide the last ones, as he could bring back an old object: floors of
versions and times are for that. He cannot give an old one a later name, since readers compare it with the
content.
"""

from __future__ import annotations

import re

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights.stores import Missing, Store

NAME = re.compile(r"[0-9TZ-]{1,64}\.json")
# Digits of a number in a name, so that the order of names is that of numbers.
DIGITS = 16


def number(value: int) -> str:
    """A number as part of a name. Raises JewelhouseError for one that is too long."""
    text = f"{value:0{DIGITS}}"
    if len(text) > DIGITS:
        raise JewelhouseError(f"{value} has more than {DIGITS} digits", where="version")
    return text


def newest(store: Store, series: str, limit: int) -> tuple[str, bytes]:
    """Name and content of the current object of a series. Raises Missing; StoreError above `limit` bytes."""
    names = _names(store, series)
    if not names:
        raise Missing("has none", where=f"{store.url}/{series}")
    return names[-1], store.get(names[-1], limit)


def publish(store: Store, name: str, data: bytes) -> None:
    """Makes an object the current one of its series by one write, once all that it names is on disk.

    Raises JewelhouseError when it or a later one is there.
    """
    series, _, _ = name.rpartition("/")
    if (names := _names(store, series)) and names[-1] >= name:
        raise JewelhouseError(
            f"{names[-1]} is there already",
            where=f"{store.url}/{name}",
            remedy="another process writes to this store: let one do so at a time",
        )
    store.sync()
    store.put(name, data)


def older(store: Store, name: str) -> list[str]:
    """Everything of a series but its object of this name."""
    series, _, _ = name.rpartition("/")
    return [one for one in sorted(store.sizes(series)) if one != name]


def _names(store: Store, series: str) -> list[str]:
    return sorted(name for name in store.sizes(series) if NAME.fullmatch(name.removeprefix(f"{series}/")))
