"""Fine-tunes weights on another's data without the data leaving, nor the weights.

Opens weights (`weights.npz`: w, b) and a dataset (`data.npz`: x, y), and leaves an adapter (`adapter.npz`):
what to add to the weights (delta_w, delta_b) and, for averaging, the tuned weights themselves (w, b) with the
number of rows (samples).
"""

import os
from pathlib import Path

import numpy as np

STEPS, RATE, DECAY = 300, 0.1, 0.01


def main() -> None:
    opened, sealing = Path(os.environ["JEWELHOUSE_OPENED"]), Path(os.environ["JEWELHOUSE_SEALING"])
    (base,) = opened.glob("*/weights.npz")
    (data,) = opened.glob("*/data.npz")
    (made,) = sealing.iterdir()
    with np.load(base) as weights, np.load(data) as rows:
        adapter = tune(weights["w"], float(weights["b"]), rows["x"], rows["y"])
    np.savez(made / "adapter.npz", **adapter)
    print(f"fine-tuned on {adapter['samples']} rows")


def tune(w, b, x, y):
    delta_w, delta_b = np.zeros_like(w), 0.0
    for _ in range(STEPS):
        wrong = 1 / (1 + np.exp(-(x @ (w + delta_w) + b + delta_b))) - y
        delta_w -= RATE * (x.T @ wrong / len(y) + DECAY * delta_w)
        delta_b -= RATE * wrong.mean()
    return {
        "delta_w": delta_w,
        "delta_b": np.array(delta_b),
        "w": w + delta_w,
        "b": np.array(b + delta_b),
        "samples": np.array(len(y)),
    }


if __name__ == "__main__":
    main()
