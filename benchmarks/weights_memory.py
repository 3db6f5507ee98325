"""Sealing and opening in memory, against what the processor can do: AES-256-GCM and one SHA-256 pass, bare.

The limit is taken from the same libraries in the same turn: two threads, each with every other megabyte of
the same buffers, one call of `cryptography` and one of `hashlib` for each, and nothing else. 1 is that limit.
The worse of 1 GB and 4 GB counts; `python -m benchmarks.weights_memory 4` takes 4 GB alone.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any, Literal

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import turns
from jewelhouse.weights import stream

THREADS = 2
ROUNDS = 5
GIGABYTE = 10**9
AT_LEAST: Literal["at least"] = "at least"


def bare(size: int, one: Callable[[int, int], object]) -> None:
    """`one(offset, length)` for every megabyte, in two threads."""

    def work(number: int) -> None:
        for offset in range(number * stream.SEGMENT, size, THREADS * stream.SEGMENT):
            one(offset, min(stream.SEGMENT, size - offset))

    threads = [Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure() -> dict[str, tuple[Any, ...]]:
    return turns.worst(one_size(size) for size in turns.sizes((1, 4), 3))


def one_size(gigabytes: int) -> dict[str, tuple[float, float, str]]:
    size, key, bound = gigabytes * GIGABYTE, os.urandom(32), b"benchmark"
    aead, nonce = AESGCM(key), bytes(12)
    # Anonymous maps, and written to before: first use of memory is nobody's work here.
    plain, sealed, opened = (
        memoryview(mmap.mmap(-1, space))
        for space in (size, max(stream.ciphertext_size(size), size + 16 * (size // stream.SEGMENT + 1)), size)
    )
    block = os.urandom(stream.SEGMENT)
    for buffer in (plain, sealed, opened):
        for offset in range(0, len(buffer), len(block)):
            part = buffer[offset : offset + len(block)]
            part[:] = block[: len(part)]
    ciphertext = sealed[: stream.ciphertext_size(size)]

    def place(offset: int, length: int) -> memoryview:
        start = offset + 16 * (offset // stream.SEGMENT)
        return sealed[start : start + length + 16]

    def encrypt(offset: int, length: int) -> None:
        part = plain[offset : offset + length]
        hashlib.sha256(part)
        aead.encrypt_into(nonce, part, None, place(offset, length))

    def decrypt(offset: int, length: int) -> None:
        part = opened[offset : offset + length]
        aead.decrypt_into(nonce, place(offset, length), None, part)
        hashlib.sha256(part)

    digests: dict[str, tuple[bytes, ...]] = {}

    def seal() -> None:
        digests["seal"] = stream.encrypt_into(plain, ciphertext, key, bound, jobs=THREADS)

    def unseal() -> None:
        digests["unseal"] = stream.decrypt_into(ciphertext, opened, key, bound, jobs=THREADS)

    took = turns.medians(
        {
            "limit-seal": lambda: bare(size, encrypt),
            "limit-unseal": lambda: bare(size, decrypt),
            "seal": seal,
            "unseal": unseal,
        },
        ROUNDS,
    )
    if digests["seal"] != digests["unseal"]:
        raise SystemExit("what was opened is not what was sealed")
    return {
        f"{side}/memory-vs-limit": (took[f"limit-{side}"] / took[side], 0.9, AT_LEAST)
        for side in ("seal", "unseal")
    }


if __name__ == "__main__":
    print(one_size(int(sys.argv[1])) if sys.argv[1:] else measure())
