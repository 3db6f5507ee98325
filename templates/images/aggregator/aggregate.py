"""Averages what parties fine-tuned on their own data, each by the number of its rows (federated averaging,
McMahan and others, arXiv:1602.05629); no party sees another's update.

Opens updates (`adapter.npz`: w, b, samples) and leaves weights (`weights.npz`: w, b).
"""

import os
from pathlib import Path

import numpy as np


def main() -> None:
    opened, sealing = Path(os.environ["JEWELHOUSE_OPENED"]), Path(os.environ["JEWELHOUSE_SEALING"])
    (made,) = sealing.iterdir()
    updates = [dict(np.load(path)) for path in sorted(opened.glob("*/adapter.npz"))]
    if len(updates) < 2:
        raise SystemExit(f"{len(updates)} updates are too few to hide any one of them")
    np.savez(made / "weights.npz", **average(updates))
    print(f"averaged {len(updates)} updates")


def average(updates):
    shares = np.array([float(update["samples"]) for update in updates])
    shares = shares / shares.sum()
    return {
        "w": sum(share * update["w"] for share, update in zip(shares, updates, strict=True)),
        "b": np.array(sum(share * float(update["b"]) for share, update in zip(shares, updates, strict=True))),
    }


if __name__ == "__main__":
    main()
