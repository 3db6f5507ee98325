"""Names of sealed files: what they may be, and how their objects are called in a store."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator

from jewelhouse.errors import Problem

# Where unsealing collects what is not whole yet, inside the destination.
PARTIAL = ".jewelhouse.partial"
# Linux: NAME_MAX and PATH_MAX (limits.h), in bytes; the path stays clear of PATH_MAX for the destination.
LONGEST_NAME = 255
LONGEST_PATH = 3072


def fault(path: str) -> str | None:
    """Why a path cannot name a sealed file or directory; None when it can.

    Relative, in UTF-8, with `/` between its parts. Blanks, quotes, control characters and leading dashes may
    be in it: nothing of a path is ever given to a shell, and objects in stores have names of their own.
    """
    if not path:
        return "is empty"
    if "\0" in path:
        return "holds a NUL"
    if path.startswith("/"):
        return "is absolute"
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8"
    if len(raw) > LONGEST_PATH:
        return f"is longer than {LONGEST_PATH} bytes"
    parts = path.split("/")
    if ".." in parts:
        return "leads out of its directory"
    if "" in parts or "." in parts:
        return "has an empty part"
    if parts[0] == PARTIAL:
        return f"begins with {PARTIAL}, where unsealing keeps unfinished files"
    if len(raw) > LONGEST_NAME and any(len(part.encode()) > LONGEST_NAME for part in parts):
        return f"has a part longer than {LONGEST_NAME} bytes"
    return None


def faults(files: Iterable[str], directories: Iterable[str] = ()) -> Iterator[Problem]:
    """Everything that is wrong with a set of paths: each by itself, and those that would meet.

    Two paths meet when they differ only in case or Unicode normalisation, in any of their parts (a file
    system that folds them makes one of two), or when a file stands where another path has a directory.
    """
    seen: dict[str, tuple[str, bool]] = {}
    parents: set[str] = set()
    everything = [(path, True) for path in files] + [(path, False) for path in directories]
    for path, is_file in everything:
        if wrong := fault(path):
            yield Problem(where=path, what=wrong)
            continue
        slash = path.rfind("/")
        while slash > 0 and (parent := path[:slash]) not in parents:
            parents.add(parent)
            yield from _meeting(seen, parent, is_file=False)
            slash = path.rfind("/", 0, slash)
        if not is_file and path in parents:
            yield Problem(where=path, what="is listed as empty and holds something")
        elif seen.get(_folded(path)) == (path, is_file):
            yield Problem(where=path, what="is there twice")
        else:
            yield from _meeting(seen, path, is_file=is_file)


def _meeting(seen: dict[str, tuple[str, bool]], path: str, *, is_file: bool) -> Iterator[Problem]:
    other, other_is_file = seen.setdefault(_folded(path), (path, is_file))
    if other != path:
        yield Problem(where=path, what=f"differs from {other} only in case or Unicode normalisation")
    elif other_is_file != is_file:
        yield Problem(where=path, what="is a file and a directory")


def _folded(path: str) -> str:
    """Canonical caseless form (The Unicode Standard, section 3.13, D145)."""
    if path.isascii():
        return path.lower()
    decomposed = unicodedata.normalize("NFD", path)
    return unicodedata.normalize("NFD", decomposed.casefold())


def object_name(path: str) -> str:
    """Name of a file's object in a store, below the data directory of its version.

    A digest and not the path: every store takes it, whatever the path holds, and a listing tells no names.
    """
    return hashlib.sha256(path.encode("utf-8")).hexdigest()[:40]
