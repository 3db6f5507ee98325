"""Sealing and opening of one file: against `cp`, Tink's own streaming encryption, and age; and its memory.

All begin with the file in the page cache and end when the result is on disk: sealing says so only then, and
the others are followed by `sync` of what they wrote. They take turns in one run, each into a new file.
The peak is the resident memory of a process that seals, interpreter and libraries included.
`python -m benchmarks.weights_file 4` takes 4 GB instead of 1.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyrage
import tink
from tink import streaming_aead

from jewelhouse.weights import stream

# Turns of ours and `cp`; Tink and age are far slower and need fewer.
ROUNDS = 9
SLOW_ROUNDS = 3
GIGABYTE = 10**9
BOUND = b"benchmark"
AT_LEAST: Literal["at least"] = "at least"
PEAK = """
import resource, sys
from jewelhouse.weights import stream
stream.encrypt_file(sys.argv[1], sys.argv[2], bytes(32), b"benchmark")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def with_cp(source: Path, destination: Path) -> None:
    subprocess.run(["cp", source, destination], check=True)
    synced(destination)


def synced(path: Path) -> None:
    subprocess.run(["sync", path], check=True)


def with_tink() -> Callable[[Path, Path], None]:
    streaming_aead.register()
    template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
    primitive = tink.new_keyset_handle(template).primitive(streaming_aead.StreamingAead)

    def encrypt(source: Path, destination: Path) -> None:
        with source.open("rb") as plain, destination.open("wb") as sealed:
            with primitive.new_encrypting_stream(sealed, BOUND) as out:  # pyright: ignore[reportArgumentType]
                while piece := plain.read(stream.SEGMENT):
                    out.write(piece)
        synced(destination)

    return encrypt


def with_age() -> Callable[[Path, Path], None]:
    recipient = pyrage.x25519.Identity.generate().to_public()

    def encrypt(source: Path, destination: Path) -> None:
        pyrage.encrypt_file(str(source), str(destination), [recipient])
        synced(destination)

    return encrypt


def measure(gigabytes: int = 1) -> dict[str, tuple[float, ...] | tuple[float, float, str]]:
    size, key = gigabytes * GIGABYTE, os.urandom(32)
    times: dict[str, list[float]] = {}

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        source, sealed = root / "source", root / "sealed"
        with source.open("wb") as file:
            for offset in range(0, size, stream.SEGMENT):
                file.write(os.urandom(min(stream.SEGMENT, size - offset)))
        synced(source)

        def turn(name: str, work: Callable[[Path, Path], object], begin: Path, end: Path) -> None:
            end.unlink(missing_ok=True)
            began = time.perf_counter()
            work(begin, end)
            times.setdefault(name, []).append(time.perf_counter() - began)

        slow = {"tink": with_tink(), "age": with_age()}
        for number in range(ROUNDS):
            turn("cp", with_cp, source, root / "copy")
            turn("seal", lambda a, b: stream.encrypt_file(a, b, key, BOUND), source, sealed)
            turn("unseal", lambda a, b: stream.decrypt_file(a, b, key, BOUND), sealed, root / "opened")
            if number % (ROUNDS // SLOW_ROUNDS) == 0:
                for name, work in slow.items():
                    turn(name, work, source, root / name)
        subprocess.run(["cmp", source, root / "opened"], check=True)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, source, root / "peak"], check=True, stdout=subprocess.PIPE, text=True
        )
    middle = {name: statistics.median(found) for name, found in times.items()}
    if os.environ.get("SHOW"):
        print({n: [round(x, 3) for x in v] for n, v in times.items()}, file=sys.stderr)
    return {
        "seal/file-vs-cp": (middle["cp"] / middle["seal"], 0.7, AT_LEAST),
        "unseal/file-vs-cp": (middle["cp"] / middle["unseal"], 0.7, AT_LEAST),
        "seal/file-vs-tink": (middle["tink"] / middle["seal"], 3, AT_LEAST),
        "seal/file-vs-age": (middle["age"] / middle["seal"], 1.5, AT_LEAST),
        "seal/peak-mb": (float(done.stdout), 96),
    }


if __name__ == "__main__":
    print(measure(*map(int, sys.argv[1:])))
