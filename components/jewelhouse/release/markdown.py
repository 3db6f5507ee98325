"""Text of others inside Markdown, so that it stays text. Needs nothing that would have to be installed."""

from __future__ import annotations

import re

# What GitHub makes a link, a mention or an e-mail of without being asked (GFM: extended autolinks).
LINKING = ("@", "://", "www.")
WORD = re.compile(r"""[^\s()"',`|\\]+""")
SPECIAL = re.compile(r"[\\|`*_\[\]#~!<>&]")


def md(text: str) -> str:
    """Text that no table, tag, link or mention can be made of. What would link itself becomes code."""
    text = visible(" ".join(text.split()))
    found, end = [], 0
    for word in WORD.finditer(text):
        if any(mark in word[0] for mark in LINKING):
            found += [_escaped(text[end : word.start()]), f"`{word[0]}`"]
            end = word.end()
    return "".join([*found, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return SPECIAL.sub(lambda one: f"&#{ord(one[0])};" if one[0] in "<>&" else f"\\{one[0]}", text)


def visible(text: str) -> str:
    """Text with what cannot be seen spelled out: marks that turn the writing direction, escapes."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
