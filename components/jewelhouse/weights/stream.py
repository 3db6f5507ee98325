"""Sealing and opening of files at the speed of the processor: shards side by side, digests on the way.

Every byte is in one buffer of a thread, where it is read, hashed, encrypted in place and written from: memory
is one segment a thread however large a file is, and nothing but the digest takes time worth naming.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import local
from typing import Any

from jewelhouse.weights import segments
from jewelhouse.weights.appearing import appearing, drain, fill, reading
from jewelhouse.weights.ranges import read_range
from jewelhouse.weights.segments import (
    FIRST,
    HEADER,
    SEGMENT,
    TAG,
    Tampered,
    ciphertext_size,
    count,
    place,
    plaintext_size,
    span,
)
from jewelhouse.weights.shards import SHARD, digests, pieces

__all__ = [
    "SEGMENT",
    "SHARD",
    "Sealed",
    "Tampered",
    "ciphertext_size",
    "decrypt",
    "decrypt_file",
    "decrypt_into",
    "encrypt",
    "encrypt_file",
    "encrypt_into",
    "plaintext_size",
    "read_range",
]

# Told how many more bytes of plaintext are done, from any thread.
Progress = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What was sealed: its size in bytes and the SHA-256 of each 64 MiB of it."""

    size: int
    shards: tuple[bytes, ...]


def encrypt_into(
    source: Any, destination: Any, key: bytes, associated_data: bytes, *, jobs: int | None = None
) -> tuple[bytes, ...]:
    """Seals a buffer into another of `ciphertext_size` bytes and returns the digests of its shards."""
    plain, sealed = memoryview(source).cast("B"), memoryview(destination).cast("B")
    size = len(plain)
    if len(sealed) != ciphertext_size(size):
        raise ValueError(f"{size} bytes become {ciphertext_size(size)}, there is room for {len(sealed)}")
    header, cipher = segments.new(key, associated_data)
    sealed[:HEADER] = header

    def work(index: int, digest: Any) -> None:
        for number, offset, length, here, own in pieces(index, size):
            part = plain[offset : offset + length]
            digest.update(part[here])
            if own:
                at = place(number)
                cipher.seal(number, size, part, sealed[at : at + length + TAG])

    return digests(size, work, jobs)


def decrypt_into(
    source: Any, destination: Any, key: bytes, associated_data: bytes, *, jobs: int | None = None
) -> tuple[bytes, ...]:
    """Opens a sealed buffer into another of `plaintext_size` bytes and returns the digests of its shards.

    Raises Tampered; then the destination is zeroed.
    """
    sealed, plain = memoryview(source).cast("B"), memoryview(destination).cast("B")
    size = plaintext_size(len(sealed))
    if len(plain) != size:
        raise ValueError(f"{len(sealed)} bytes hold {size}, there is room for {len(plain)}")
    cipher = segments.opened(bytes(sealed[:HEADER]), key, associated_data)
    buffers = _Buffers()

    def work(index: int, digest: Any) -> None:
        for number, offset, length, here, own in pieces(index, size):
            at = place(number)
            # A segment that begins in the shard before is written by that shard's thread, at its own time.
            part = plain[offset : offset + length] if own else buffers.one[:length]
            cipher.open(number, size, sealed[at : at + length + TAG], part)
            digest.update(part[here])

    try:
        return digests(size, work, jobs)
    except BaseException:
        for offset in range(0, size, SEGMENT):
            part = plain[offset : offset + SEGMENT]
            part[:] = bytes(len(part))
        raise


def encrypt(data: bytes, key: bytes, associated_data: bytes) -> bytes:
    """Seals bytes."""
    header, cipher = segments.new(key, associated_data)
    if len(data) <= FIRST:
        # Most files of a tree: one segment needs no buffers.
        return header + cipher.aead.encrypt(cipher.nonce(0, True), data, None)
    sealed = bytearray(ciphertext_size(len(data)))
    sealed[:HEADER] = header
    plain, view = memoryview(data), memoryview(sealed)
    for number in range(count(len(data))):
        offset, length = span(number, len(data))
        at = place(number)
        cipher.seal(number, len(data), plain[offset : offset + length], view[at : at + length + TAG])
    return bytes(sealed)


def decrypt(data: bytes, key: bytes, associated_data: bytes) -> bytes:
    """Opens sealed bytes. Raises Tampered."""
    size = plaintext_size(len(data))
    view = memoryview(data)
    return read_range(
        lambda offset, length: view[offset : offset + length], len(data), key, associated_data, 0, size
    )


def encrypt_file(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    key: bytes,
    associated_data: bytes,
    *,
    jobs: int | None = None,
    progress: Progress = lambda done: None,
) -> Sealed:
    """Seals a file into another, which appears under its name when it is whole.

    `jobs`: threads, one for every processor when None. `progress` is told how many more bytes are done, from
    any thread. Like `cp` this does not wait for the disk: sync before the source is removed. Raises
    JewelhouseError when the source becomes shorter meanwhile, OSError of either side.
    """
    with reading(source) as plaintext:
        size = os.fstat(plaintext).st_size
        header, cipher = segments.new(key, associated_data)
        with appearing(destination, ciphertext_size(size), 0o644) as ciphertext:
            os.pwrite(ciphertext, header, 0)
            buffers, name = _Buffers(), os.fspath(source)

            def work(index: int, digest: Any) -> None:
                for number, offset, length, here, own in pieces(index, size):
                    if not own:
                        part = buffers.one[here]
                        fill(plaintext, part, offset + here.start, name)
                        digest.update(part)
                        continue
                    part, sealed = buffers.one[:length], buffers.one[: length + TAG]
                    fill(plaintext, part, offset, name)
                    digest.update(part[here])
                    cipher.seal(number, size, part, sealed)
                    drain(ciphertext, sealed, place(number))
                    progress(length)

            found = Sealed(size=size, shards=digests(size, work, jobs))
    return found


def decrypt_file(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    key: bytes,
    associated_data: bytes,
    *,
    shards: Sequence[bytes] | None = None,
    jobs: int | None = None,
    progress: Progress = lambda done: None,
) -> Sealed:
    """Opens a sealed file into another, which appears under its name when all of it has been verified.

    `shards` are the digests that its plaintext must have. Raises Tampered, and OSError of either side; then
    no plaintext is left.
    """
    name = os.fspath(source)
    with reading(source) as ciphertext:
        sealed_size = os.fstat(ciphertext).st_size
        size = plaintext_size(sealed_size, name)
        if shards is not None and len(shards) != -(-size // SHARD):
            raise Tampered(f"holds {size} bytes, which is not what was signed", where=name)
        cipher = segments.opened(os.pread(ciphertext, HEADER, 0), key, associated_data, name)
        with appearing(destination, size, 0o600) as plaintext:
            buffers = _Buffers()

            def work(index: int, digest: Any) -> None:
                for number, offset, length, here, own in pieces(index, size):
                    part, sealed = buffers.one[:length], buffers.one[: length + TAG]
                    fill(ciphertext, sealed, place(number), name)
                    cipher.open(number, size, sealed, part, name)
                    digest.update(part[here])
                    if own:
                        drain(plaintext, part, offset)
                        progress(length)
                if shards and digest.digest() != shards[index]:
                    raise Tampered(
                        "is not the content that was signed",
                        where=f"{name}, byte {index * SHARD} of plaintext",
                    )

            found = Sealed(size=size, shards=digests(size, work, jobs))
    return found


class _Buffers(local):
    """A buffer for each thread, used over and over: fresh memory costs more than the encryption."""

    def __init__(self) -> None:
        self.one = memoryview(bytearray(SEGMENT))
