"""Our dm-verity tree against veritysetup's, over 1 GB in the page cache, in turns."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

from jewelhouse.images.verity import make

SIZE = 1024
ROUNDS = 3
SALT = bytes(range(32))
NAME = UUID("8b0f5c3a-0a6a-4a0e-9e0b-2d6a3d1c9a01")


def measure() -> dict[str, tuple[float, float]]:
    tool = shutil.which("veritysetup") or shutil.which("veritysetup", path="/usr/sbin:/sbin")
    if tool is None:
        sys.exit("veritysetup is not installed: apt-get install cryptsetup-bin")
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with (directory / "data").open("wb") as file:
            for _ in range(SIZE):
                file.write(os.urandom(1 << 20))
        for _ in range(ROUNDS):
            for name in times:
                (directory / name).unlink(missing_ok=True)
                began = time.perf_counter()
                if name == "ours":
                    make(directory / "data", directory / name, salt=SALT, uuid=NAME)
                else:
                    command = [tool, "format", "data", name, f"--salt={SALT.hex()}", f"--uuid={NAME}"]
                    subprocess.run(command, cwd=directory, check=True, capture_output=True)
                times[name].append(time.perf_counter() - began)
        if (directory / "ours").read_bytes() != (directory / "theirs").read_bytes():
            sys.exit("the two trees differ")
    ratio = statistics.median(times["ours"]) / statistics.median(times["theirs"])
    return {"verity/wall-vs-veritysetup": (ratio, 1.0)}
