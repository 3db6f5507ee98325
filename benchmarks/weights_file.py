"""Sealing and opening of one file: against `cp`, Tink's own streaming encryption, and age; and its memory.

All begin with the file in memory and write a new one into memory (/dev/shm where there is one: a stage opens
into memory, and a disk would be what is measured), taking turns in one run. Tink is fed with megabytes, at
which it is fastest; neither Tink nor age takes the SHA-256 that sealing takes on the way. So what could be
reached against Tink at best, by AES-256-GCM and SHA-256 on two threads without reading or writing anything,
is measured in the same turns and said besides. The peak is the resident memory of a process that seals,
interpreter and libraries included.
The worse of 1 GB and 4 GB counts; `python -m benchmarks.weights_file 4 /var/tmp` takes 4 GB alone, there.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyrage
import tink
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tink import streaming_aead

from benchmarks import turns
from benchmarks.weights_memory import THREADS, bare
from jewelhouse.weights import stream

# A compiled module whose types cannot be read.
age: Any = pyrage
ROUNDS = 5
GIGABYTE = 10**9
BOUND = b"benchmark"
MEMORY = Path("/dev/shm")
AT_LEAST: Literal["at least"] = "at least"
PEAK = r"""
import re, sys
from pathlib import Path
from jewelhouse.weights import stream
stream.encrypt_file(sys.argv[1], sys.argv[2], bytes(32), b"benchmark")
stream.decrypt_file(sys.argv[2], sys.argv[1], bytes(32), b"benchmark")
print(int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6)
"""


def measure() -> dict[str, tuple[Any, ...]]:
    return turns.worst(one_size(size) for size in turns.sizes((1, 4), 3))


def one_size(
    gigabytes: int, place: Path | None = None
) -> dict[str, tuple[float, float] | tuple[float, float, str]]:
    size, key = gigabytes * GIGABYTE, os.urandom(32)
    streaming_aead.register()
    template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
    primitive = tink.new_keyset_handle(template).primitive(streaming_aead.StreamingAead)
    recipient = age.x25519.Identity.generate().to_public()

    if place is None and MEMORY.is_dir():
        place = MEMORY
    with tempfile.TemporaryDirectory(dir=place) as temporary:
        root = Path(temporary)
        source, sealed, other = root / "source", root / "sealed", root / "other"
        with source.open("wb") as file:
            for offset in range(0, size, stream.SEGMENT):
                file.write(os.urandom(min(stream.SEGMENT, size - offset)))
        stream.encrypt_file(source, sealed, key, BOUND)

        # Each turn writes a file of its own, and removes the one of the turn before.
        def cp() -> None:
            subprocess.run(["cp", source, other], check=True)

        def seal() -> None:
            stream.encrypt_file(source, other, key, BOUND)

        def unseal() -> None:
            stream.decrypt_file(sealed, other, key, BOUND)

        def with_tink() -> None:
            with (
                source.open("rb") as plain,
                other.open("wb") as file,
                primitive.new_encrypting_stream(cast(BinaryIO, file), BOUND) as out,
            ):
                while piece := plain.read(stream.SEGMENT):
                    out.write(piece)

        def with_age() -> None:
            age.encrypt_file(str(source), str(other), [recipient])

        block, room, aead = (
            os.urandom(stream.SEGMENT),
            bytearray(THREADS * (stream.SEGMENT + 16)),
            AESGCM(key),
        )

        def limit() -> None:
            def one(offset: int, length: int) -> None:
                start = (offset // stream.SEGMENT) % THREADS * (stream.SEGMENT + 16)
                part = memoryview(block)[:length]
                hashlib.sha256(part)
                aead.encrypt_into(bytes(12), part, None, memoryview(room)[start : start + length + 16])

            bare(size, one)

        def clear() -> None:
            other.unlink(missing_ok=True)

        took = turns.medians(
            {
                "cp": cp,
                "seal": seal,
                "tink": with_tink,
                "unseal": unseal,
                "age": with_age,
                "limit": limit,
            },
            ROUNDS,
            before=clear,
        )
        clear()
        unseal()
        subprocess.run(["cmp", source, other], check=True)
        clear()
        done = subprocess.run(
            [sys.executable, "-c", PEAK, source, other], check=True, stdout=subprocess.PIPE, text=True
        )
    best = took["tink"] / took["limit"]
    print(
        f"{gigabytes} GB: against Tink, {THREADS} threads could reach {best:.2f} at best; "
        f"cp, which only copies, reaches {took['tink'] / took['cp']:.2f}",
        file=sys.stderr,
    )
    return {
        "seal/file-vs-cp": (took["cp"] / took["seal"], 0.7, AT_LEAST),
        "unseal/file-vs-cp": (took["cp"] / took["unseal"], 0.7, AT_LEAST),
        "seal/file-vs-tink": (took["tink"] / took["seal"], 3, AT_LEAST),
        "seal/file-vs-age": (took["age"] / took["seal"], 1.5, AT_LEAST),
        "seal/peak-mb": (float(done.stdout), 96),
    }


if __name__ == "__main__":
    size, *where = sys.argv[1:] or ["0"]
    print(one_size(int(size), *map(Path, where)) if int(size) else measure())
