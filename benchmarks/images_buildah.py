"""One tree into a container image: ours against buildah, in turns.

Both take the same tar from the page cache to an OCI layout on the same disk, with one layer that is not
compressed. buildah does without overlay mounts (vfs), as builds without root have to, and writes the layout
straight from its working container: a commit to its own store first takes it longer.
"""

from __future__ import annotations

import json
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
from jewelhouse.images.tree import differences, from_tar

# A root file system of an image has some thousand files and 50 MB or more.
FILES, SIZE = 3000, 64 * 1024
ROUNDS = 5
COMMIT = ("--disable-compression", "--format", "oci", "--timestamp", "0", "--omit-history")


def ours(tar: Path, layout: Path) -> float:
    began = time.perf_counter()
    oci.write(oci.Image(layers=(from_tar(tar),), entrypoint=("/bin/true",)), layout)
    return time.perf_counter() - began


def theirs(tool: str, tar: Path, layout: Path) -> float:
    environment = {
        **os.environ,
        "STORAGE_DRIVER": "vfs",
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_STORAGE_CONF": "/dev/null",
    }
    base = [tool, "--root", str(layout.parent / "root"), "--runroot", str(layout.parent / "run")]

    def run(*words: str) -> str:
        done = subprocess.run([*base, *words], env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"buildah {words[0]} failed: {done.stderr}")
        return done.stdout.strip()

    began = time.perf_counter()
    container = run("from", "scratch")
    run("add", "--quiet", container, str(tar), "/")
    run("config", "--entrypoint", '["/bin/true"]', container)
    run("commit", "--quiet", *COMMIT, container, f"oci:{layout}:image")
    return time.perf_counter() - began


def layer(layout: Path) -> Path:
    """The only layer of the only image."""

    def blob(descriptor: dict[str, str]) -> Path:
        return layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")

    manifest = blob(json.loads((layout / "index.json").read_text())["manifests"][0])
    return blob(json.loads(manifest.read_text())["layers"][0])


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
        tree = from_tar(tar)
        for turn in range(ROUNDS):
            for name in times:
                layout = directory / name / "layout"
                layout.parent.mkdir()
                times[name].append(ours(tar, layout) if name == "ours" else theirs(tool, tar, layout))
                if turn == 0 and (wrong := list(differences(tree, from_tar(layer(layout))))):
                    sys.exit(f"the image of {name} holds another tree: {wrong[0]}")
                shutil.rmtree(layout.parent)
    ratio = statistics.median(times["ours"]) / statistics.median(times["theirs"])
    return {"image/wall-vs-buildah": (ratio, 1.0)}
