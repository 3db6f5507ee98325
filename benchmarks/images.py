"""Enclave images: ours against AWS's builder (`make oracle`) and against one SHA-384 pass, on the same input.

Run as `python -m benchmarks.images build KERNEL RAMDISK0 RAMDISK1 OUT` it builds one image and prints what
that took. Times are those of the build itself, without the interpreter's start; AWS's are of its whole
process, which takes none to speak of. Both have their input in the page cache and write a new file.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ORACLE = Path(__file__).parents[1] / "tools/eif-oracle/target/release/eif-oracle"
SIZES = (64, 256, 1024)
ROUNDS = {64: 7, 256: 5, 1024: 3}
METADATA = {
    "ImageName": "benchmark",
    "ImageVersion": "1",
    "BuildMetadata": {
        "BuildTime": "1970-01-01T00:00:00+00:00",
        "BuildTool": "benchmark",
        "BuildToolVersion": "1",
        "OperatingSystem": "Linux",
        "KernelVersion": "6.12",
    },
    "DockerInfo": None,
    "CustomMetadata": None,
}


def build(kernel: str, first: str, second: str, out: str) -> None:
    from benchmarks.program import peak
    from jewelhouse.images.eif_build import Parts
    from jewelhouse.images.eif_build import build as write

    parts = Parts(
        kernel=Path(kernel), cmdline="reboot=k", ramdisks=[Path(first), Path(second)], metadata=METADATA
    )
    cpu, began = time.process_time(), time.perf_counter()
    registers = write(parts, Path(out))
    wall = time.perf_counter() - began
    print(json.dumps({"wall": wall, "cpu": time.process_time() - cpu, "peak": peak(), **registers}))


def ours(directory: Path) -> dict[str, float]:
    names = [str(directory / name) for name in ("kernel", "ramdisk0", "ramdisk1", "ours.eif")]
    (directory / "ours.eif").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.images", "build", *names],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def theirs(directory: Path) -> dict[str, float]:
    arguments = ["build", "kernel", "reboot=k", "metadata", "theirs.eif", "x86_64", "-", "-"]
    (directory / "theirs.eif").unlink(missing_ok=True)
    began = time.perf_counter()
    process = subprocess.Popen(
        [ORACLE, *arguments, "ramdisk0", "ramdisk1"], cwd=directory, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    registers = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status:
        sys.exit("AWS's builder failed")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, **registers}


def one_pass(directory: Path) -> float:
    """SHA-384 over kernel and ramdisks, read as the build reads them."""
    buffer = bytearray(1024 * 1024)
    began = time.perf_counter()
    digest = hashlib.sha384()
    for name in ("kernel", "ramdisk0", "ramdisk1"):
        with (directory / name).open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                digest.update(memoryview(buffer)[:got])
    return time.perf_counter() - began


def measure() -> dict[str, tuple[float, float]]:
    """The worst of the sizes, by name with its bound."""
    if not ORACLE.is_file():
        sys.exit("AWS's builder is not built: make oracle")
    worst: dict[str, float] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            (directory / "metadata").write_text(json.dumps(METADATA))
            (directory / "kernel").write_bytes(os.urandom(8 << 20))
            (directory / "ramdisk0").write_bytes(os.urandom(1 << 20))
            with (directory / "ramdisk1").open("wb") as file:
                for _ in range(size):
                    file.write(os.urandom(1 << 20))
            rounds = [(ours(directory), theirs(directory), one_pass(directory)) for _ in range(ROUNDS[size])]
        for mine, other, _ in rounds:
            if any(mine[name] != other[name] for name in ("PCR0", "PCR1", "PCR2")):
                sys.exit("the two builders disagree")

        def median(index: int, name: str, rounds: list = rounds) -> float:
            return statistics.median(entry[index][name] for entry in rounds)

        found = {
            "eif/cpu-vs-aws": median(0, "cpu") / median(1, "cpu"),
            "eif/wall-vs-aws": median(0, "wall") / median(1, "wall"),
            "eif/wall-vs-one-sha384-pass": median(0, "wall") / statistics.median(e[2] for e in rounds),
            "eif/peak-mb": max(entry[0]["peak"] for entry in rounds) / 1024,
        }
        worst = {name: max(value, worst.get(name, 0.0)) for name, value in found.items()}
        print(f"# {size} MB: {found}", file=sys.stderr)
    bounds = {"cpu-vs-aws": 0.55, "wall-vs-aws": 0.4, "wall-vs-one-sha384-pass": 1.4, "peak-mb": 64}
    return {name: (value, bounds[name.partition("/")[2]]) for name, value in worst.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        build(*sys.argv[2:])
    else:
        for name, (value, bound) in measure().items():
            print(f"{name} {value:.3f} {bound}")
