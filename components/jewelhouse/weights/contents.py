"""The plaintext of sealed files, read from wherever their ciphertext lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from jewelhouse.weights import manifest as form
from jewelhouse.weights import stream
from jewelhouse.weights.manifest import File, Manifest
from jewelhouse.weights.stores import Read, Store
from jewelhouse.weights.work import WHOLE

# Bytes in front of the first segment that every range needs (Tink: header of the streaming format).
_HEAD = 64


def contents(store: Store, found: Manifest, file: File, dek: bytes) -> Contents:
    """The reading of one file of a verified manifest."""
    return Contents(store.reader(found.object(file.path)), file, dek, found.associated_data(file.path))


class Contents:
    """The plaintext of one sealed file, piece by piece, each shard's digest checked when it ends.

    What was read before a digest did not match has been given out: callers keep it from sight until the end.
    """

    def __init__(self, read: Read, file: File, dek: bytes, bound: bytes, piece: int = WHOLE) -> None:
        self.read, self.file, self.dek, self.bound, self.piece = read, file, dek, bound, piece
        self.size = stream.ciphertext_size(file.size)
        self._head = b""

    @property
    def shards(self) -> int:
        """Parts that can be read on their own; an empty file has one, whose header is verified."""
        return max(len(self.file.shards), 1)

    def pieces(self) -> Iterator[bytes]:
        """Raises Tampered where the file is not what its manifest says."""
        for index in range(self.shards):
            yield from self.shard(index)

    def shard(self, index: int) -> Iterator[bytes]:
        """One shard of the plaintext. Raises Tampered."""
        if self.file.size <= self.piece:
            data = stream.decrypt(self.read(0, self.size + 1), self.dek, self.bound)
            expected = (hashlib.sha256(data).digest(),) if data else ()
            if len(data) != self.file.size or expected != self.file.shards:
                raise self._tampered()
            yield data
            return
        digest = hashlib.sha256()
        end = min((index + 1) * form.SHARD, self.file.size)
        for offset in range(index * form.SHARD, end, self.piece):
            length = min(self.piece, end - offset)
            data = stream.read_range(self._range, self.size, self.dek, self.bound, offset, length)
            digest.update(data)
            yield data
        if digest.digest() != self.file.shards[index]:
            raise self._tampered()

    def _range(self, offset: int, length: int) -> bytes:
        # Every range of the plaintext needs the header: it is fetched once.
        if offset + length <= _HEAD:
            if not self._head:
                self._head = self.read(0, _HEAD)
            return self._head[offset : offset + length]
        return self.read(offset, length)

    def _tampered(self) -> stream.Tampered:
        return stream.Tampered("is not what its manifest says", where=self.file.path)
