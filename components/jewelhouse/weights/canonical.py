"""Canonical JSON (RFC 8785) for values without fractions, read back only in that form.

The JSON of CPython's C encoder is that of RFC 8785 as long as numbers are integers that a double holds and
member names are ASCII (for others UTF-16 order is not code point order); `write` refuses anything else.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any

from jewelhouse.release.documents import strict

# RFC 8785, section 3.2.2.3: numbers are IEEE 754 doubles.
LARGEST = 2**53 - 1


def write(value: Any) -> bytes:
    """The one encoding of a value. Raises ValueError where there is none: fractions, lone surrogates."""
    _check(value)
    return encoded(value)


def read(data: bytes) -> Any:
    """What canonical JSON holds.

    Raises ValueError for anything else: members that are there twice, blanks, fractions, other orders and
    escapes. A reader that took those could see another document than the one that others see.
    """
    try:
        value = strict(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    _check(value)
    if encoded(value) != data:
        raise ValueError("is not in the canonical form of RFC 8785")
    return value


def text(value: str) -> bytes:
    """The encoding of a text. Raises ValueError for lone surrogates."""
    return encode_basestring(value).encode("utf-8")


def encoded(value: Any) -> bytes:
    """The encoding of a value that is known to have one."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.encode("utf-8")


def _check(value: Any) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str) or one is None or isinstance(one, bool):
            continue
        if isinstance(one, dict):
            for name in one:
                if not (isinstance(name, str) and name.isascii()):
                    raise ValueError(f"{name!r} cannot name a member")
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
        elif isinstance(one, int):
            if abs(one) > LARGEST:
                raise ValueError(f"{one} is larger than JSON's numbers")
        else:
            raise ValueError(f"{one!r} is neither text, whole number, list nor object")
