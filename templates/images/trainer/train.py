"""Trains a small classifier: logistic regression by gradient descent, enough to rehearse a lifecycle with.

Opens a dataset (`data.npz`: x of shape (n, features), y of 0 and 1) and a recipe (`recipe.json`: steps,
rate), and leaves weights (`weights.npz`: w, b). The guest says where: JEWELHOUSE_OPENED and
JEWELHOUSE_SEALING hold a folder for each artifact.
"""

import json
import os
from pathlib import Path

import numpy as np


def main() -> None:
    opened, sealing = Path(os.environ["JEWELHOUSE_OPENED"]), Path(os.environ["JEWELHOUSE_SEALING"])
    (data,) = opened.glob("*/data.npz")
    (recipe,) = opened.glob("*/recipe.json")
    (made,) = sealing.iterdir()
    settings = json.loads(recipe.read_text())
    with np.load(data) as rows:
        weights = fit(rows["x"], rows["y"], steps=int(settings["steps"]), rate=float(settings["rate"]))
    np.savez(made / "weights.npz", **weights)
    print(f"trained for {settings['steps']} steps")


def fit(x, y, *, steps, rate):
    w, b = np.zeros(x.shape[1]), 0.0
    for _ in range(steps):
        wrong = 1 / (1 + np.exp(-(x @ w + b))) - y
        w -= rate * x.T @ wrong / len(y)
        b -= rate * wrong.mean()
    return {"w": w, "b": np.array(b)}


if __name__ == "__main__":
    main()
