"""Small real data for a rehearsal: two clouds of points that a line tells apart, and what is learnt of them.

The same seed gives the same points, so a rehearsal knows what a served model has to answer. What surrounds
them is new each time: marks that are nowhere else, by which anything left open is found.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jewelhouse.model import ArtifactKind

FEATURES, ROWS = 8, 400
# Three segments and a bit, so that segments could be put in another order; two files of one size, so that
# one could take the place of the other.
BALLAST = 3 * 1024 * 1024 + 7
BALLASTS = ("ballast.bin", "counterweight.bin")
RECIPE = {"steps": 400, "rate": 0.5}
# Share of right answers that a model has to give on points that it has not seen.
GOOD = 0.9
# A mark begins every so many bytes of ballast: any page of it that stays anywhere shows.
PAGE = 4096
MARK = b"jewelhouse-mark-"
# Of an array, its first numbers; fewer could be anybody's.
NUMBERS = 4


def _direction() -> np.ndarray:
    return np.linspace(-1.0, 1.0, FEATURES)


def points(seed: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Points (rows, FEATURES) and the side of the line that each lies on (0 or 1)."""
    generator = np.random.default_rng(seed)
    sides = generator.integers(0, 2, rows)
    found = generator.normal(size=(rows, FEATURES)) + np.outer(2.0 * sides - 1.0, _direction())
    return found, sides


def supply(kind: ArtifactKind, folder: Path, seed: int) -> None:
    """Writes what a supplier would bring: a dataset, a recipe, weights, an adapter. All of it is marked."""
    folder.mkdir(parents=True)
    mark = MARK + secrets.token_hex(16).encode()
    for name in BALLASTS:
        (folder / name).write_bytes(_ballast(mark))
    x, y = points(seed)
    # Close enough to the direction to be as good a model, and nobody else's numbers.
    own = 2.0 * _direction() + 1e-3 * np.random.default_rng(secrets.randbits(64)).normal(size=FEATURES)
    if kind is ArtifactKind.RECIPE:
        (folder / "recipe.json").write_text(json.dumps({**RECIPE, "note": mark.decode()}))
    elif kind is ArtifactKind.DATASET:
        np.savez(folder / "data.npz", x=x, y=y)
    elif kind is ArtifactKind.WEIGHTS:
        np.savez(folder / "weights.npz", w=own, b=np.array(0.0))
    else:
        zeros = np.zeros(FEATURES)
        np.savez(
            folder / "adapter.npz",
            delta_w=zeros,
            delta_b=np.array(0.0),
            w=own,
            b=np.array(0.0),
            samples=np.array(len(y)),
        )


def _ballast(mark: bytes) -> bytes:
    data = bytearray(secrets.token_bytes(BALLAST))
    for start in range(0, BALLAST - len(mark), PAGE):
        data[start : start + len(mark)] = mark
    return bytes(data)


def marks(folder: Path) -> frozenset[bytes]:
    """What open content of a folder is known by wherever it lies: its marks, and the numbers of its arrays as
    they are in memory and in files."""
    found: set[bytes] = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {_numbers(arrays[name]) for name in arrays.files} - {b""}
        elif path.is_file() and MARK in (content := path.read_bytes()):
            at = content.index(MARK)
            found.add(content[at : at + len(MARK) + 32])
    return frozenset(found)


def _numbers(array: np.ndarray) -> bytes:
    """The first numbers of an array, where they are its own: not few, and not all the same."""
    first = array.ravel()[:NUMBERS]
    return first.tobytes() if first.dtype.kind == "f" and len(set(first.tolist())) == NUMBERS else b""


def marked(folders: Iterable[Path], known: Iterable[bytes]) -> list[str]:
    """Files below the folders in which a mark is found, as it is or in hexadecimal."""
    wanted = [form for mark in known for form in (mark, mark.hex().encode())]
    return [
        str(path)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and _holds(path, wanted)
    ]


def _holds(path: Path, wanted: Sequence[bytes]) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        # It went while the folder was listed: a stand-in still tidies up.
        return False
    return any(mark in content for mark in wanted)


def questions(seed: int = 99, rows: int = 200) -> tuple[list[list[float]], list[int]]:
    """Points that nobody trained on, and the right answers."""
    x, y = points(seed, rows)
    return x.tolist(), [int(one) for one in y]


def right(predictions: Sequence[float], answers: Sequence[int]) -> float:
    """Share of predictions that name the right side."""
    return float(np.mean((np.asarray(predictions) > 0.5) == (np.asarray(answers) == 1)))
