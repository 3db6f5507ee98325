"""Prints `name value bound` for each measurement; exit 1 when a value is on the wrong side of its bound.

Every value is a ratio of two things measured in this run, one after the other in turns, by their medians. The
words behind `python -m benchmarks` choose what is measured: `python -m benchmarks evidence images`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import flatten
from jewelhouse.sandbox import install
from jewelhouse.sandbox.engine import Engine
from jewelhouse.sandbox.paths import Paths
from jewelhouse.stackfile import configuration, path_of

PROJECT = Path(__file__).parents[1]
STACK = "prod-aws"
ROUNDS = 5
# Part -> modules with a `measure()`.
PARTS: dict[str, tuple[str, ...]] = {
    "evidence": ("evidence_nitro", "evidence_maa", "evidence_snp"),
    "release": ("release_aws", "release_azure", "release_gcp"),
    "matrix": ("release_matrix",),
    "weights": ("weights_memory", "weights_file", "weights_small_files"),
    "guest": ("guest_time",),
    "images": ("images", "images_verity", "images_buildah"),
}


def measure(kind: str, value: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.program", kind, value],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def programs(flat: Path, config: Path) -> dict[str, tuple[float, float]]:
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(measure("kit", str(config)))
        theirs.append(measure("flat", str(flat)))
    assert ours[0]["resources"] == theirs[0]["resources"], "the flat program must register the same resources"

    def ratio(value: str) -> float:
        return statistics.median(one[value] for one in ours) / statistics.median(one[value] for one in theirs)

    unused = sum(count for sdk, count in ours[0]["sdk_modules"].items() if sdk != "pulumi_aws")
    return {
        # The number of resources is the same, so the ratio of times is the ratio per resource.
        "program/time-per-resource-vs-flat": (ratio("seconds"), 1.2),
        "program/peak-memory-vs-flat": (ratio("peak"), 1.1),
        "import/only-used-clouds": (float(unused), 0),
    }


def growth() -> dict[str, tuple[float, float]]:
    small, large = [], []
    for _ in range(ROUNDS):
        small.append(measure("chain", "10")["deploy"])
        large.append(measure("chain", "100")["deploy"])
    return {"program/growth-100-vs-10": (statistics.median(large) / statistics.median(small), 11)}


def previews(flat: Path, directory: Path) -> dict[str, tuple[float, float]]:
    paths = Paths.of(PROJECT)
    cli = install.prepare(paths)
    kit = Engine(PROJECT, directory / "kit", cli=cli)
    project = directory / "flat-project"
    (project / "stacks").mkdir(parents=True)
    (project / "Pulumi.yaml").write_text(
        "name: jewelhouse-flat\nruntime: {name: python, options: {toolchain: pip}}\nstackConfigDir: stacks\n"
    )
    (project / "stacks" / f"Pulumi.{STACK}.yaml").write_text('config: {"jewelhouse:lifecycle": {}}\n')
    (project / "__main__.py").write_text(flat.read_text())
    plain = Engine(project, directory / "flat-sandbox", cli=cli)
    times: dict[str, list[float]] = {"kit": [], "flat": []}
    for engine in (kit, plain):
        install.install_plugins(cli, engine.paths)
        engine.preview(STACK)
    for _ in range(ROUNDS):
        for name, engine in (("kit", kit), ("flat", plain)):
            began = time.perf_counter()
            engine.preview(STACK)
            times[name].append(time.perf_counter() - began)
    return {
        "preview/wall-vs-flat": (statistics.median(times["kit"]) / statistics.median(times["flat"]), 1.15)
    }


def program() -> dict[str, tuple[float, float]]:
    """The kit's program against a flat one that registers the same resources."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        flat = directory / "flat.py"
        flatten.write(flatten.recorded(STACK), flat)
        config = directory / "config.json"
        lifecycle = configuration(path_of(STACK, PROJECT))
        config.write_text(json.dumps(lifecycle, default=str), encoding="utf-8")
        return {**previews(flat, directory), **programs(flat, config), **growth()}


def measured(module: str) -> dict[str, tuple[Any, ...]]:
    """A part in a process of its own, so that what one part loads is not another's memory or time.

    A value with its bound, which is the most that it may be; with "at least" behind them, the least.
    """
    code = f"import json; from benchmarks import {module}; print(json.dumps({module}.measure()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"benchmarks.{module} failed")
    found = json.loads(done.stdout.splitlines()[-1])
    if not found:
        sys.exit(f"benchmarks.{module} measured nothing")
    return {name: tuple(one) for name, one in found.items()}


def main(chosen: list[str]) -> None:
    if unknown := set(chosen) - {"program", *PARTS}:
        sys.exit(f"there is no {', '.join(sorted(unknown))}: choose of program, {', '.join(PARTS)}")
    failed = False
    for part in chosen or ["program", *PARTS]:
        modules = PARTS.get(part, ())
        for found in [measured(module) for module in modules] if modules else [program()]:
            for name, (value, bound, *sense) in found.items():
                print(f"{name} {value:.3f} {'>=' if sense else ''}{bound}", flush=True)
                # Not a number is on neither side.
                failed |= not (value >= bound if sense else value <= bound)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
