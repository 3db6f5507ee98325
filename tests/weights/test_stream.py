"""What is sealed opens again, here and in Tink, whatever its size."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import sys

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from samples import PROJECT
from tink_streams import tink_decrypt, tink_encrypt

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import segments, stream
from jewelhouse.weights.segments import FIRST, FULL, HEADER, TAG
from jewelhouse.weights.stream import SEGMENT, SHARD, Tampered

sys.path.append(str(PROJECT / "tools"))

import weights_vectors

KEY = bytes(range(32))
BOUND = b'["jewelhouse.weights/v1","base",1,"model.safetensors"]'
# Around every edge of the format; and where a shard ends, which is always inside a segment.
SIZES = (0, 1, 15, 16, 17, 4096, FIRST - 1, FIRST, FIRST + 1, SEGMENT, FIRST + FULL - 1, FIRST + FULL)
EDGES = (*SIZES, FIRST + FULL + 1, 3 * SEGMENT + 5)
SHARDS = (SHARD - 1, SHARD, SHARD + 1, SHARD + 2 * SEGMENT)


@functools.cache
def pool() -> bytes:
    return random.Random(1).randbytes(2 * SHARD + 3)


def content(size: int) -> bytes:
    return pool()[:size]


def shards(data: bytes) -> tuple[bytes, ...]:
    return tuple(
        hashlib.sha256(data[offset : offset + SHARD]).digest() for offset in range(0, len(data), SHARD)
    )


@pytest.mark.parametrize("size", EDGES)
def test_tink_opens_what_is_sealed_here(size):
    data = content(size)
    sealed = stream.encrypt(data, KEY, BOUND)
    assert len(sealed) == stream.ciphertext_size(size)
    assert tink_decrypt(sealed, KEY, BOUND) == data


@pytest.mark.parametrize("size", EDGES)
def test_what_tink_seals_opens_here(size):
    data = content(size)
    sealed = tink_encrypt(data, KEY, BOUND)
    assert stream.plaintext_size(len(sealed)) == size
    assert stream.decrypt(sealed, KEY, BOUND) == data
    opened = bytearray(size)
    assert stream.decrypt_into(sealed, opened, KEY, BOUND) == shards(data)
    assert opened == data


@pytest.mark.parametrize("size", SHARDS)
def test_shards_that_end_inside_a_segment_are_tinks_too(size):
    data = content(size)
    sealed = bytearray(stream.ciphertext_size(size))
    assert stream.encrypt_into(data, sealed, KEY, BOUND, jobs=2) == shards(data)
    assert hashlib.sha256(tink_decrypt(bytes(sealed), KEY, BOUND)).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("size", [*EDGES, *SHARDS, 2 * SHARD + 3])
@pytest.mark.parametrize("jobs", [1, 2])
def test_files_and_buffers_come_back(size, jobs, tmp_path):
    source, sealed, opened = tmp_path / "source", tmp_path / "sealed", tmp_path / "opened"
    source.write_bytes(content(size))
    progress: list[int] = []
    done = stream.encrypt_file(source, sealed, KEY, BOUND, jobs=jobs, progress=progress.append)
    assert done == stream.Sealed(size=size, shards=shards(content(size)))
    assert sum(progress) == size
    assert sealed.stat().st_size == stream.ciphertext_size(size)
    again = stream.decrypt_file(
        sealed, opened, KEY, BOUND, shards=done.shards, jobs=jobs, progress=progress.append
    )
    assert again == done
    assert sum(progress) == 2 * size
    assert opened.read_bytes() == source.read_bytes()
    buffer = memoryview(bytearray(size))
    assert stream.decrypt_into(sealed.read_bytes(), buffer, KEY, BOUND, jobs=jobs) == done.shards
    assert buffer == memoryview(source.read_bytes())


def test_the_same_content_is_never_sealed_alike(tmp_path):
    sealed = {stream.encrypt(b"weights", KEY, BOUND) for _ in range(100)}
    assert len({one[:HEADER] for one in sealed}) == 100


@limits(max_examples=60, deadline=None)
@given(data=st.binary(max_size=5000), key=st.binary(min_size=32, max_size=32), bound=st.binary(max_size=200))
def test_any_bytes_under_any_key_and_name(data, key, bound):
    sealed = stream.encrypt(data, key, bound)
    assert stream.decrypt(sealed, key, bound) == data
    assert tink_decrypt(sealed, key, bound) == data


@limits(max_examples=300, deadline=None)
@given(size=st.integers(min_value=0, max_value=FIRST + (2**32 - 1) * FULL))
def test_sizes_of_plaintext_and_ciphertext_are_each_others(size):
    sealed = stream.ciphertext_size(size)
    assert stream.plaintext_size(sealed) == size
    segments_ = max(1, -(-sealed // SEGMENT))
    assert sealed == HEADER + size + TAG * segments_
    offset, length = segments.span(segments_ - 1, size)
    assert offset + length == size


@limits(max_examples=300, deadline=None)
@given(sealed=st.integers(min_value=0, max_value=2**53))
def test_a_size_is_that_of_a_sealed_file_or_refused(sealed):
    try:
        size = stream.plaintext_size(sealed)
    except Tampered:
        return
    assert stream.ciphertext_size(size) == sealed


@pytest.mark.parametrize(
    "sealed",
    [
        pytest.param(0, id="nothing"),
        pytest.param(HEADER, id="a-header-alone"),
        pytest.param(HEADER + TAG - 1, id="half-a-tag"),
        pytest.param(SEGMENT + 1, id="a-byte-of-a-second-segment"),
        pytest.param(2 * SEGMENT + TAG, id="an-empty-last-segment"),
        pytest.param(SEGMENT * 2**32 + TAG + 1, id="more-segments-than-the-counter-has"),
    ],
)
def test_sizes_that_no_sealed_file_has(sealed):
    with pytest.raises(Tampered, match="size of no sealed file"):
        stream.plaintext_size(sealed)


def test_the_counter_of_segments_never_wraps():
    most = FIRST + (2**32 - 1) * FULL
    assert stream.plaintext_size(stream.ciphertext_size(most)) == most
    assert segments.count(most) == 2**32
    with pytest.raises(JewelhouseError, match="more than one file can hold"):
        stream.ciphertext_size(most + 1)
    with pytest.raises(OverflowError):
        segments.new(KEY, BOUND)[1].nonce(2**32, True)


def test_a_file_of_more_segments_than_the_counter_has_is_not_begun(tmp_path, monkeypatch):
    """No file system here holds 4 PiB: the counter is made smaller."""
    monkeypatch.setattr(segments, "MOST", 2)
    source = tmp_path / "source"
    source.write_bytes(content(FIRST + FULL + 1))
    with pytest.raises(JewelhouseError, match="more than one file can hold"):
        stream.encrypt_file(source, tmp_path / "sealed", KEY, BOUND)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31), bytes(33)], ids=len)
def test_a_key_of_another_length_seals_nothing(key):
    with pytest.raises(ValueError, match="a data key has 32 bytes"):
        stream.encrypt(b"weights", key, BOUND)


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_buffer_of_another_length_is_not_written(difference):
    with pytest.raises(ValueError, match="there is room for"):
        stream.encrypt_into(b"weights", bytearray(stream.ciphertext_size(7) + difference), KEY, BOUND)
    with pytest.raises(ValueError, match="there is room for"):
        stream.decrypt_into(stream.encrypt(b"weights", KEY, BOUND), bytearray(7 + difference), KEY, BOUND)


class TestRanges:
    SIZE = FIRST + 2 * FULL + 1234

    @functools.cached_property
    def sealed(self) -> bytes:
        return stream.encrypt(content(self.SIZE), KEY, BOUND)

    def read(self, offset: int, length: int) -> tuple[bytes, list[tuple[int, int]]]:
        asked: list[tuple[int, int]] = []

        def read(at: int, many: int) -> bytes:
            asked.append((at, many))
            return self.sealed[at : at + many]

        return stream.read_range(read, len(self.sealed), KEY, BOUND, offset, length), asked

    @limits(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_any_range_is_that_part_of_the_plaintext(self, data):
        edges = [0, FIRST, FIRST + FULL, FIRST + 2 * FULL, self.SIZE]
        near = st.builds(lambda edge, by: min(max(edge + by, 0), self.SIZE), st.sampled_from(edges), small)
        begin, end = sorted((data.draw(near), data.draw(near)))
        assert self.read(begin, end - begin)[0] == content(self.SIZE)[begin:end]

    @pytest.mark.parametrize(
        ("offset", "length", "fetched"),
        [
            pytest.param(0, 1, SEGMENT - HEADER, id="first-byte"),
            pytest.param(FIRST, FULL, SEGMENT, id="exactly-the-second-segment"),
            pytest.param(FIRST - 1, 2, 2 * SEGMENT - HEADER, id="over-an-edge"),
            pytest.param(FIRST + 2 * FULL, 1234, 1234 + TAG, id="the-last-segment"),
            pytest.param(FIRST, 0, SEGMENT, id="nothing"),
        ],
    )
    def test_only_the_segments_of_a_range_are_fetched(self, offset, length, fetched):
        assert sum(many for _, many in self.read(offset, length)[1]) == HEADER + fetched

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, SIZE + 1), (SIZE, 1)])
    def test_a_range_outside_is_refused(self, offset, length):
        with pytest.raises(ValueError, match="are not in a file of"):
            self.read(offset, length)

    def test_a_store_that_answers_with_less_is_noticed(self):
        with pytest.raises(Tampered, match="ends after"):
            stream.read_range(
                lambda at, many: self.sealed[at : at + many][: many - 1 if at else many],
                len(self.sealed),
                KEY,
                BOUND,
                FIRST,
                FULL,
            )

    def test_a_store_that_answers_with_another_place_is_noticed(self):
        with pytest.raises(Tampered, match="does not open"):
            stream.read_range(
                lambda at, many: (
                    self.sealed[at + SEGMENT : at + SEGMENT + many] if at else self.sealed[:many]
                ),
                len(self.sealed),
                KEY,
                BOUND,
                0 + FIRST,
                FULL,
            )


small = st.integers(min_value=-20, max_value=20)
VECTORS = json.loads((PROJECT / "docs" / "weights-vectors.json").read_text(encoding="utf-8"))["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
class TestVectors:
    def test_sealed_with_the_named_values_it_is_the_vector(self, vector, monkeypatch):
        fixed = bytes.fromhex(vector["salt"] + vector["nonce-prefix"])
        monkeypatch.setattr(segments.os, "urandom", lambda size: fixed if size == len(fixed) else None)
        plain = weights_vectors.plaintext(vector["name"], vector["size"])
        sealed = bytearray(vector["ciphertext-size"])
        key, bound = bytes.fromhex(vector["data-key"]), vector["associated-data"].encode()
        digests = stream.encrypt_into(plain, sealed, key, bound)
        assert [digest.hex() for digest in digests] == vector["shards"]
        assert hashlib.sha256(sealed).hexdigest() == vector["ciphertext-sha256"]
        if "ciphertext" in vector:
            assert sealed.hex() == vector["ciphertext"]
            assert plain.hex() == vector["plaintext"]

    def test_tink_opens_the_vector(self, vector):
        made, sealed = weights_vectors.vector(vector["name"], vector["size"])
        assert made == vector
        opened = tink_decrypt(sealed, bytes.fromhex(vector["data-key"]), vector["associated-data"].encode())
        assert opened == weights_vectors.plaintext(vector["name"], vector["size"])
