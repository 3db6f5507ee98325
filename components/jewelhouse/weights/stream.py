"""Sealing and opening of files at the speed of the processor: segments side by side, digests on the way.

The work is cut into shards of plaintext, 64 MiB each, which is also what digests are taken of: every thread takes
one shard after the other, so one huge file keeps all processors busy, and memory is a few buffers a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any

from cryptography.exceptions import InvalidTag

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import segments
from jewelhouse.weights.segments import (
    FIRST,
    HEADER,
    SEGMENT,
    TAG,
    Cipher,
    Tampered,
    ciphertext_size,
    count,
    holding,
    place,
    plaintext_size,
    span,
)

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

SHARD = 64 * SEGMENT
Progress = Callable[[int], None]


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
    if len(sealed) != ciphertext_size(len(plain)):
        raise ValueError(
            f"{len(plain)} bytes become {ciphertext_size(len(plain))}, there is room for {len(sealed)}"
        )
    header, cipher = segments.new(key, associated_data)
    sealed[:HEADER] = header

    def shard(index: int) -> bytes:
        for number in _of_shard(index, len(plain)):
            offset, length = span(number, len(plain))
            at = place(number)
            _seal(cipher, number, len(plain), plain[offset : offset + length], sealed[at : at + length + TAG])
        return hashlib.sha256(plain[index * SHARD : (index + 1) * SHARD]).digest()

    return _shards(len(plain), shard, jobs)


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

    def shard(index: int) -> None:
        for number in _of_shard(index, size):
            offset, length = span(number, size)
            at = place(number)
            _open(cipher, number, size, sealed[at : at + length + TAG], plain[offset : offset + length])

    def digest(index: int) -> bytes:
        return hashlib.sha256(plain[index * SHARD : (index + 1) * SHARD]).digest()

    try:
        _shards(size, shard, jobs)
    except BaseException:
        plain[:] = bytes(len(plain))
        raise
    return _shards(size, digest, jobs)


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
        _seal(cipher, number, len(data), plain[offset : offset + length], view[at : at + length + TAG])
    return bytes(sealed)


def decrypt(data: bytes, key: bytes, associated_data: bytes) -> bytes:
    """Opens sealed bytes. Raises Tampered."""
    size = plaintext_size(len(data))
    return read_range(
        lambda offset, length: data[offset : offset + length], len(data), key, associated_data, 0, size
    )


def read_range(
    read: Callable[[int, int], bytes],
    size: int,
    key: bytes,
    associated_data: bytes,
    offset: int,
    length: int,
) -> bytes:
    """`length` bytes of the plaintext from `offset`; `read(offset, length)` gives ciphertext, of which there
    are `size` bytes.

    Only segments that hold part of the range are read, beside the header. Raises Tampered for what does not
    open, ValueError for a range outside the file.
    """
    plaintext = plaintext_size(size)
    if offset < 0 or length < 0 or offset + length > plaintext:
        raise ValueError(f"{length} bytes from {offset} are not in a file of {plaintext}")
    cipher = segments.opened(read(0, HEADER), key, associated_data)
    begin = holding(min(offset, max(plaintext - 1, 0)))
    end = holding(max(offset + length - 1, offset)) if length else begin
    first, last = place(begin), min(place(end + 1), size)
    sealed = memoryview(read(first, last - first))
    if len(sealed) != last - first:
        raise Tampered(f"ends after {first + len(sealed)} bytes of {size}", where=f"offset {first}")
    start = span(begin, plaintext)[0]
    plain = bytearray(sum(span(end, plaintext)) - start)
    view = memoryview(plain)
    for number in range(begin, end + 1):
        at, many = span(number, plaintext)
        there = place(number) - first
        _open(
            cipher,
            number,
            plaintext,
            sealed[there : there + many + TAG],
            view[at - start : at - start + many],
        )
    return bytes(view[offset - start : offset - start + length])


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

    Raises JewelhouseError when the source becomes shorter meanwhile, OSError of either side.
    """
    with _reading(source) as reading:
        size = os.fstat(reading).st_size
        header, cipher = segments.new(key, associated_data)
        with _writing(destination, ciphertext_size(size)) as writing:
            os.pwrite(writing, header, 0)
            buffers = _Buffers()

            def shard(index: int) -> bytes:
                digest = hashlib.sha256()
                end = min((index + 1) * SHARD, size)
                _digest_head(reading, digest, index, size, buffers.plain)
                for number in _of_shard(index, size):
                    offset, length = span(number, size)
                    plain, sealed = buffers.plain[:length], buffers.sealed[: length + TAG]
                    _fill(reading, plain, offset, source)
                    _seal(cipher, number, size, plain, sealed)
                    _drain(writing, sealed, place(number))
                    digest.update(plain[: max(0, end - offset)])
                    progress(length)
                return digest.digest()

            return Sealed(size=size, shards=_shards(size, shard, jobs))


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

    `shards` are the digests that its plaintext must have. Raises Tampered; then no plaintext is left.
    """
    with _reading(source) as reading:
        sealed_size = os.fstat(reading).st_size
        size = plaintext_size(sealed_size)
        cipher = segments.opened(os.pread(reading, HEADER, 0), key, associated_data)
        with _writing(destination, size) as writing:
            buffers = _Buffers()

            def shard(index: int) -> bytes:
                digest = hashlib.sha256()
                end = min((index + 1) * SHARD, size)
                _open_head(reading, cipher, digest, index, size, buffers, source)
                for number in _of_shard(index, size):
                    offset, length = span(number, size)
                    plain, sealed = buffers.plain[:length], buffers.sealed[: length + TAG]
                    _fill(reading, sealed, place(number), source)
                    _open(cipher, number, size, sealed, plain)
                    _drain(writing, plain, offset)
                    digest.update(plain[: max(0, end - offset)])
                    progress(length)
                if shards is not None and (index >= len(shards) or digest.digest() != shards[index]):
                    if size:
                        raise Tampered(
                            "is not the content that was signed", where=f"bytes from {index * SHARD}"
                        )
                return digest.digest()

            found = Sealed(size=size, shards=_shards(size, shard, jobs))
            if shards is not None and len(shards) != len(found.shards):
                raise Tampered("is not as long as what was signed", where="size")
            return found


class _Buffers(local):
    """Two buffers a thread, used over and over: fresh memory costs more than the encryption."""

    def __init__(self) -> None:
        self.plain = memoryview(bytearray(SEGMENT))
        self.sealed = memoryview(bytearray(SEGMENT))


def _of_shard(index: int, size: int) -> range:
    """Segments that begin in a shard; the last of them may reach into the next."""
    begin = 0 if index == 0 else 1 + -(-(index * SHARD - FIRST) // segments.FULL)
    end = 1 + -(-((index + 1) * SHARD - FIRST) // segments.FULL)
    return range(begin, min(end, count(size)))


def _digest_head(reading: int, digest: Any, index: int, size: int, buffer: memoryview) -> None:
    """What of a shard lies in a segment that began in the one before."""
    if index:
        start = index * SHARD
        first = span(_of_shard(index, size).start, size)[0] if _of_shard(index, size) else size
        head = buffer[: first - start]
        _fill(reading, head, start, "source")
        digest.update(head)


def _open_head(
    reading: int, cipher: Cipher, digest: Any, index: int, size: int, buffers: _Buffers, source: Any
) -> None:
    if index:
        number = _of_shard(index, size).start - 1
        offset, length = span(number, size)
        if offset + length > index * SHARD:
            sealed, plain = buffers.sealed[: length + TAG], buffers.plain[:length]
            _fill(reading, sealed, place(number), source)
            _open(cipher, number, size, sealed, plain)
            digest.update(plain[index * SHARD - offset :])


def _seal(cipher: Cipher, number: int, size: int, plain: memoryview, sealed: memoryview) -> None:
    last = number == count(size) - 1
    cipher.aead.encrypt_into(cipher.nonce(number, last), plain, None, sealed)


def _open(cipher: Cipher, number: int, size: int, sealed: memoryview, plain: memoryview) -> None:
    last = number == count(size) - 1
    try:
        cipher.aead.decrypt_into(cipher.nonce(number, last), sealed, None, plain)
    except InvalidTag:
        raise Tampered(
            "does not open: changed, or of another key, artifact, version or path",
            where=f"offset {place(number)}",
        ) from None


def _shards(size: int, work: Callable[[int], Any], jobs: int | None) -> tuple[Any, ...]:
    """`work` for every shard, as many at a time as there are processors. An empty file has one segment and no
    digest."""
    many = -(-size // SHARD)
    if not many:
        work(0)
        return ()
    workers = min(jobs or len(os.sched_getaffinity(0)), many)
    if workers == 1:
        return tuple(work(index) for index in range(many))
    with ThreadPoolExecutor(workers, thread_name_prefix="shard") as pool:
        futures = [pool.submit(work, index) for index in range(many)]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _fill(file: int, buffer: memoryview, offset: int, source: Any) -> None:
    done = 0
    while done < len(buffer):
        step = os.preadv(file, [buffer[done:]], offset + done)
        if not step:
            raise JewelhouseError("became shorter while it was read", where=str(source))
        done += step


def _drain(file: int, buffer: memoryview, offset: int) -> None:
    done = 0
    while done < len(buffer):
        done += os.pwrite(file, buffer[done:], offset + done)


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[int]:
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


@contextlib.contextmanager
def _writing(destination: str | os.PathLike[str], size: int) -> Iterator[int]:
    """A file beside the destination that takes its name at the end, or goes."""
    target = Path(destination)
    partial = target.with_name(f".{target.name}.partial")
    opened = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.ftruncate(opened, size)
            yield opened
            os.fsync(opened)
        finally:
            os.close(opened)
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise
