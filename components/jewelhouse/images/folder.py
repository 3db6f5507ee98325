"""One digest for all files of a folder: what a lock file knows a recipe by."""

from __future__ import annotations

import hashlib
from pathlib import Path

LEFT_OUT = "__pycache__"


def digest(directory: Path) -> str:
    """`sha256:…` over the paths and contents of the folder's files, but hidden ones and byte code."""
    state = hashlib.sha256()
    for path in sorted(
        directory.rglob("*"), key=lambda path: path.relative_to(directory).as_posix().encode()
    ):
        relative = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") or part == LEFT_OUT for part in relative.parts):
            state.update(f"{relative.as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{state.hexdigest()}"
