"""Many files at once: in this thread where the processor limits, in several where a network does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol, TypeVar

from jewelhouse.weights.segments import SEGMENT

# What is this small is read, sealed and written in one piece.
WHOLE = 4 * SEGMENT
SHARD = 64 * SEGMENT
# Below this a thread costs more than it brings.
TINY = 256 * 1024
# Requests that wait for a store, over those that a processor can work on.
WAITING = 8

T = TypeVar("T")
R = TypeVar("R")


class Progress(Protocol):
    """Told how many bytes of plaintext there are, and each time how many more are done; from any thread."""

    def total(self, size: int, /) -> None: ...

    def __call__(self, done: int, /) -> None: ...


class _Silent:
    def total(self, size: int, /) -> None:
        pass

    def __call__(self, done: int, /) -> None:
        pass


silent: Progress = _Silent()


def processors(jobs: int | None) -> int:
    return jobs or len(os.sched_getaffinity(0))


def rounds(
    items: Iterable[T], size: Callable[[T], int], jobs: int, *, local: bool
) -> Iterator[tuple[list[T], int]]:
    """Items by how they are best worked on, with the number of workers for each lot.

    A file of several shards takes all processors by itself. Others share them, and where a store has to be
    waited for there are more of them under way. Tiny local files go one by one: threads would cost more.
    """
    huge, tiny, others = [], [], []
    for item in items:
        bytes_ = size(item)
        (huge if bytes_ > SHARD else tiny if local and bytes_ <= TINY else others).append(item)
    yield huge, 1
    yield others, jobs if local else max(jobs, WAITING)
    yield tiny, 1


def each(call: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[tuple[T, R]]:
    """Every item with its result, in any order, `workers` at a time.

    No more is begun than workers can take: memory stays bounded however many items there are. The first error
    ends it, once what was under way is done and has been given out: that work is not lost.
    """
    if workers <= 1:
        for item in items:
            yield item, call(item)
        return
    waiting: dict[Future[R], T] = {}
    failed: BaseException | None = None
    rest = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="weights") as pool:
        try:
            while True:
                for item in islice(rest, 0 if failed else 2 * workers - len(waiting)):
                    waiting[pool.submit(call, item)] = item
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    item = waiting.pop(future)
                    if future.cancelled():
                        continue
                    if error := future.exception():
                        failed = failed or error
                        for other in waiting:
                            other.cancel()
                    else:
                        yield item, future.result()
        finally:
            for future in waiting:
                future.cancel()
    if failed is not None:
        raise failed
