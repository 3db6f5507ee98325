"""Small real data for a rehearsal: two clouds of points that a line tells apart, and what is learnt of them.

The same seed gives the same data, so a rehearsal knows what a served model has to answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jewelhouse.model import ArtifactKind

FEATURES, ROWS = 8, 400
BALLAST = 3 * 1024 * 1024 + 7
RECIPE = {"steps": 400, "rate": 0.5}
# Share of right answers that a model has to give on points that it has not seen.
GOOD = 0.9


def _direction() -> np.ndarray:
    return np.linspace(-1.0, 1.0, FEATURES)


def points(seed: int, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Points (rows, FEATURES) and the side of the line that each lies on (0 or 1)."""
    generator = np.random.default_rng(seed)
    sides = generator.integers(0, 2, rows)
    found = generator.normal(size=(rows, FEATURES)) + np.outer(2.0 * sides - 1.0, _direction())
    return found, sides


def supply(kind: ArtifactKind, folder: Path, seed: int) -> None:
    """Writes what a supplier would bring: a dataset, a recipe, weights, an adapter."""
    folder.mkdir(parents=True)
    # Long enough for segments that could be put in another order.
    (folder / "ballast.bin").write_bytes(np.random.default_rng(seed).bytes(BALLAST))
    x, y = points(seed)
    if kind is ArtifactKind.RECIPE:
        (folder / "recipe.json").write_text(json.dumps(RECIPE))
    elif kind is ArtifactKind.DATASET:
        np.savez(folder / "data.npz", x=x, y=y)
    elif kind is ArtifactKind.WEIGHTS:
        np.savez(folder / "weights.npz", w=2.0 * _direction(), b=np.array(0.0))
    else:
        zeros = np.zeros(FEATURES)
        np.savez(
            folder / "adapter.npz",
            delta_w=zeros,
            delta_b=np.array(0.0),
            w=2.0 * _direction(),
            b=np.array(0.0),
            samples=np.array(len(y)),
        )


def questions(seed: int = 99, rows: int = 200) -> tuple[list[list[float]], list[int]]:
    """Points that nobody trained on, and the right answers."""
    x, y = points(seed, rows)
    return x.tolist(), [int(one) for one in y]


def right(predictions: Sequence[float], answers: Sequence[int]) -> float:
    """Share of predictions that name the right side."""
    return float(np.mean((np.asarray(predictions) > 0.5) == (np.asarray(answers) == 1)))
