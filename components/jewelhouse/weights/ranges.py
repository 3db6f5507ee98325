"""Parts of a sealed file, without the rest of it."""

from __future__ import annotations

from collections.abc import Callable

from jewelhouse.weights import segments
from jewelhouse.weights.segments import HEADER, TAG, Tampered, holding, place, plaintext_size, span


def read_range(
    read: Callable[[int, int], bytes | memoryview],
    size: int,
    key: bytes,
    associated_data: bytes,
    offset: int,
    length: int,
) -> bytes:
    """`length` bytes of the plaintext from `offset`; `read(offset, length)` gives ciphertext, of which there
    are `size` bytes.

    Only the header and the segments that hold part of the range are read; a range of no bytes takes one. What
    a file has behind the range is not looked at: `size` is to come from whoever vouches for the file, since a
    file cut between two segments opens up to there.

    Raises Tampered for what does not open, ValueError for a range outside the file.
    """
    plaintext = plaintext_size(size)
    if offset < 0 or length < 0 or offset + length > plaintext:
        raise ValueError(f"{length} bytes from {offset} are not in a file of {plaintext}")
    cipher = segments.opened(bytes(read(0, HEADER)), key, associated_data)
    begin = holding(min(offset, max(plaintext - 1, 0)))
    end = holding(max(offset + length - 1, offset)) if length else begin
    first, last = place(begin), min(place(end + 1), size)
    sealed = memoryview(read(first, last - first))
    if len(sealed) != last - first:
        raise Tampered(f"ends after {first + len(sealed)} bytes of {size}", where=f"offset {first}")
    start = span(begin, plaintext)[0]
    plain = memoryview(bytearray(sum(span(end, plaintext)) - start))
    for number in range(begin, end + 1):
        at, many = span(number, plaintext)
        there = place(number) - first
        cipher.open(
            number, plaintext, sealed[there : there + many + TAG], plain[at - start : at - start + many]
        )
    return bytes(plain[offset - start : offset - start + length])
