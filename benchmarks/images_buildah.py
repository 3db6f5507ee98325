"""One tree into a container image: ours against buildah, in turns.

Both take the same tar from the page cache to an OCI image on disk whose layer is not compressed; buildah
keeps it in its own store on the same disk, without overlay mounts (vfs), as builds without root have to.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from jewelhouse.images import oci
from jewelhouse.images.tree import from_tar

# A root file system of an image has some thousand files and 50 MB or more.
FILES, SIZE = 3000, 64 * 1024
ROUNDS = 5


def ours(tar: Path, directory: Path) -> float:
    began = time.perf_counter()
    oci.write(oci.Image(layers=(from_tar(tar),), entrypoint=("/bin/true",)), directory / "layout")
    return time.perf_counter() - began


def theirs(tool: str, tar: Path, directory: Path) -> float:
    environment = {
        **os.environ,
        "STORAGE_DRIVER": "vfs",
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_STORAGE_CONF": "/dev/null",
    }
    base = [tool, "--root", str(directory / "root"), "--runroot", str(directory / "run")]

    def run(*words: str) -> str:
        done = subprocess.run([*base, *words], env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"buildah {words[0]} failed: {done.stderr}")
        return done.stdout.strip()

    began = time.perf_counter()
    container = run("from", "scratch")
    run("add", "--quiet", container, str(tar), "/")
    run("config", "--entrypoint", '["/bin/true"]', container)
    run("commit", "--quiet", "--format", "oci", "--timestamp", "0", "--omit-history", container, "image")
    return time.perf_counter() - began


def measure() -> dict[str, tuple[float, float]]:
    tool = shutil.which("buildah")
    if tool is None:
        sys.exit("buildah is not installed: make tools")
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        tar = directory / "tree.tar"
        with tarfile.open(tar, "w") as opened:
            source = directory / "file"
            for number in range(FILES):
                source.write_bytes(os.urandom(SIZE // 2 + number * SIZE // FILES))
                opened.add(source, f"usr/lib/{number % 50}/{number}")
        for turn in range(ROUNDS):
            for name in times:
                place = directory / f"{name}-{turn}"
                place.mkdir()
                times[name].append(ours(tar, place) if name == "ours" else theirs(tool, tar, place))
                shutil.rmtree(place, ignore_errors=True)
    ratio = statistics.median(times["ours"]) / statistics.median(times["theirs"])
    return {"image/wall-vs-buildah": (ratio, 1.0)}
