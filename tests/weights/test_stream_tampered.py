"""Everything that is not exactly what was sealed, for this place, with this key, stays closed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from tink_streams import tink_decrypt, tink_refuses

from jewelhouse.weights import stream
from jewelhouse.weights.segments import FIRST, FULL, HEADER, TAG
from jewelhouse.weights.stream import SEGMENT, Tampered

KEY = bytes(range(32))
BOUND = b'["jewelhouse.weights/v1","base",1,"model.safetensors"]'
SIZE = FIRST + 2 * FULL + 777


@functools.cache
def plain() -> bytes:
    return random.Random(2).randbytes(SIZE)


@functools.cache
def sealed() -> bytes:
    return stream.encrypt(plain(), KEY, BOUND)


@functools.cache
def other() -> bytes:
    """Other content under the same key and name."""
    return stream.encrypt(bytes(SIZE), KEY, BOUND)


def segment(number: int) -> slice:
    return slice(number * SEGMENT if number else HEADER, (number + 1) * SEGMENT)


def flipped(data: bytes, at: int, bit: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


ATTACKS: dict[str, Callable[[bytes], bytes]] = {
    "nothing-left": lambda data: b"",
    "header-alone": lambda data: data[:HEADER],
    "header-cut": lambda data: data[: HEADER - 1],
    "header-of-another-length": lambda data: b"\x27" + data[1:],
    "salt-changed": lambda data: flipped(data, 1),
    "nonce-prefix-changed": lambda data: flipped(data, HEADER - 1),
    "header-of-another-file": lambda data: other()[:HEADER] + data[HEADER:],
    "first-bit-of-content": lambda data: flipped(data, HEADER),
    "bit-of-first-tag": lambda data: flipped(data, SEGMENT - 1, 128),
    "bit-of-the-middle": lambda data: flipped(data, SEGMENT + 1000),
    "last-bit": lambda data: flipped(data, len(data) - 1, 128),
    "last-byte-missing": lambda data: data[:-1],
    "last-segment-missing": lambda data: data[: 3 * SEGMENT],
    "last-two-segments-missing": lambda data: data[: 2 * SEGMENT],
    "first-segment-missing": lambda data: data[:HEADER] + data[SEGMENT:],
    "middle-segment-missing": lambda data: data[:SEGMENT] + data[2 * SEGMENT :],
    "last-segment-cut-to-its-tag": lambda data: data[: 3 * SEGMENT] + data[-TAG:],
    "a-byte-more": lambda data: data + b"\0",
    "a-segment-more": lambda data: data + data[segment(1)],
    "last-segment-twice": lambda data: data + data[segment(3)],
    "two-files-one-behind-the-other": lambda data: data + other(),
    "segments-swapped": lambda data: data[:SEGMENT] + data[segment(2)] + data[segment(1)] + data[segment(3)],
    "segment-repeated": lambda data: data[: 2 * SEGMENT] + data[segment(1)] + data[segment(3)],
    "segment-of-another-file": lambda data: data[:SEGMENT] + other()[segment(1)] + data[2 * SEGMENT :],
    "all-segments-of-another-file": lambda data: data[:HEADER] + other()[HEADER:],
    "zeroes": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_was_changed_stays_closed(attack, tmp_path):
    data = attack(sealed())
    source, opened = tmp_path / "sealed", tmp_path / "opened"
    source.write_bytes(data)
    with pytest.raises(Tampered):
        stream.decrypt(data, KEY, BOUND)
    with pytest.raises(Tampered) as refused:
        stream.decrypt_file(source, opened, KEY, BOUND)
    assert str(source) in refused.value.where
    assert list(tmp_path.iterdir()) == [source]
    with pytest.raises(Tampered):
        stream.decrypt_into(data, bytearray(stream.plaintext_size(len(data))), KEY, BOUND)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_tink_refuses_the_same(attack):
    with tink_refuses():
        tink_decrypt(attack(sealed()), KEY, BOUND)


OTHERS: dict[str, tuple[bytes, bytes]] = {
    "other-key": (bytes(32), BOUND),
    "key-with-one-bit-changed": (flipped(KEY, 31), BOUND),
    "no-associated-data": (KEY, b""),
    "other-artifact": (KEY, BOUND.replace(b"base", b"tune")),
    "other-version": (KEY, BOUND.replace(b",1,", b",2,")),
    "other-path": (KEY, BOUND.replace(b"model", b"other")),
    "associated-data-with-a-byte-more": (KEY, BOUND + b"\0"),
}


@pytest.mark.parametrize(("key", "bound"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("size", [0, 100, SIZE])
def test_what_is_not_meant_for_this_place_stays_closed(key, bound, size, tmp_path):
    data = stream.encrypt(plain()[:size], KEY, BOUND)
    (tmp_path / "sealed").write_bytes(data)
    with pytest.raises(Tampered, match="does not open"):
        stream.decrypt(data, key, bound)
    with pytest.raises(Tampered, match="does not open"):
        stream.decrypt_file(tmp_path / "sealed", tmp_path / "opened", key, bound)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


def test_bytes_of_an_opened_buffer_are_wiped_when_a_later_segment_is_changed():
    opened = bytearray(b"\xaa") * SIZE
    with pytest.raises(Tampered):
        stream.decrypt_into(flipped(sealed(), len(sealed()) - 1), opened, KEY, BOUND)
    assert opened == bytes(SIZE)


def test_every_truncation_of_a_small_file_stays_closed():
    data = stream.encrypt(b"weights", KEY, BOUND)
    for length in range(len(data)):
        with pytest.raises(Tampered):
            stream.decrypt(data[:length], KEY, BOUND)


def test_every_flipped_bit_of_a_small_file_stays_closed():
    data = stream.encrypt(b"weights", KEY, BOUND)
    for at in range(len(data)):
        for bit in range(8):
            with pytest.raises(Tampered):
                stream.decrypt(flipped(data, at, 1 << bit), KEY, BOUND)


@limits(max_examples=60, deadline=None)
@given(length=st.integers(min_value=0, max_value=3 * SEGMENT + 777))
def test_any_truncation_stays_closed(length):
    with pytest.raises(Tampered):
        stream.decrypt(sealed()[:length], KEY, BOUND)


@limits(max_examples=60, deadline=None)
@given(
    at=st.integers(min_value=0, max_value=SIZE + HEADER + 4 * TAG - 1),
    bit=st.sampled_from([1 << place for place in range(8)]),
)
def test_any_flipped_bit_stays_closed(at, bit):
    with pytest.raises(Tampered):
        stream.decrypt(flipped(sealed(), at, bit), KEY, BOUND)


@limits(max_examples=60, deadline=None)
@given(order=st.lists(st.integers(min_value=0, max_value=3), min_size=1, max_size=5))
def test_any_other_order_of_segments_stays_closed(order):
    data = sealed()[:HEADER] + b"".join(sealed()[segment(number)] for number in order)
    if order == [0, 1, 2, 3]:
        assert stream.decrypt(data, KEY, BOUND) == plain()
    else:
        with pytest.raises(Tampered):
            stream.decrypt(data, KEY, BOUND)


@limits(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_foreign_bytes_stay_closed(data):
    with pytest.raises(Tampered):
        stream.decrypt(data, KEY, BOUND)


@pytest.mark.parametrize(
    ("digests", "what"),
    [
        pytest.param([bytes(32)], "not the content that was signed", id="content-that-nobody-signed"),
        pytest.param([], "not what was signed", id="signed-as-empty"),
        pytest.param([bytes(32)] * 2, "not what was signed", id="signed-as-longer"),
    ],
)
def test_what_opens_but_is_not_what_was_signed_is_not_shown(digests, what, tmp_path):
    """Whoever has the data key can make other content that opens: the signed digest fixes it."""
    (tmp_path / "sealed").write_bytes(sealed())
    with pytest.raises(Tampered, match=what):
        stream.decrypt_file(tmp_path / "sealed", tmp_path / "opened", KEY, BOUND, shards=digests)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


def test_an_empty_file_that_was_signed_with_content_is_not_shown(tmp_path):
    (tmp_path / "sealed").write_bytes(stream.encrypt(b"", KEY, BOUND))
    with pytest.raises(Tampered, match="not what was signed"):
        stream.decrypt_file(tmp_path / "sealed", tmp_path / "opened", KEY, BOUND, shards=[bytes(32)])
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]
