"""A file cut into shards of 64 MiB of plaintext, which threads work on side by side.

A shard is what one digest is taken of, so one huge file keeps all processors busy although SHA-256 cannot be
split. Segments do not end where shards do: one that reaches into the next shard belongs to the one that it
begins in, and the next takes the rest of it only for its digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from jewelhouse.weights.segments import SEGMENT, holding, span

SHARD = 64 * SEGMENT
# Each thread has a buffer of one segment; more threads than this would cost memory and no storage is so fast.
MOST_JOBS = 32

T = TypeVar("T")


class Piece(NamedTuple):
    """One segment as a shard sees it: `here` is what of its plaintext lies in the shard, `own` whether the
    segment begins there."""

    number: int
    offset: int
    length: int
    here: slice
    own: bool


def pieces(index: int, size: int) -> Iterator[Piece]:
    """The segments that hold a shard of a file of `size` bytes; the only shard of an empty file has one."""
    start, end = index * SHARD, min((index + 1) * SHARD, size)
    for number in range(holding(start), holding(max(start, end - 1)) + 1):
        offset, length = span(number, size)
        yield Piece(
            number,
            offset,
            length,
            slice(max(start - offset, 0), min(end - offset, length)),
            offset >= start,
        )


def digests(size: int, work: Callable[[int, Any], None], jobs: int | None) -> tuple[bytes, ...]:
    """Runs `work(index, digest)` for every shard, as many at a time as there are processors or `jobs`, and
    returns the digests that it fed. An empty file has a shard to be worked on and no digest."""

    def one(index: int) -> bytes:
        digest = hashlib.sha256()
        work(index, digest)
        return digest.digest()

    found = _each(max(1, -(-size // SHARD)), one, jobs)
    return found if size else ()


def _each(many: int, work: Callable[[int], T], jobs: int | None) -> tuple[T, ...]:
    workers = min(jobs or len(os.sched_getaffinity(0)), many, MOST_JOBS)
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
