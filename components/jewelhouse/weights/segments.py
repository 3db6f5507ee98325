"""The form of a sealed file: Google Tink's AES-GCM-HKDF streaming encryption with segments of 1 MiB.

    header   1 byte 40 | 32 bytes salt | 7 bytes nonce prefix
    segment  AES-256-GCM(subkey, nonce = prefix | counter, 4 bytes | 1 when it is the last, else 0)

The subkey is HKDF-SHA256(data key, salt, associated data). Every segment of ciphertext has 1 MiB, the first
one together with the header, the last one what is left; an empty file has one empty segment.
developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming; AES256_GCM_HKDF_1MB.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from jewelhouse.errors import JewelhouseError

SEGMENT = 1024 * 1024
KEY = 32
SALT = 32
PREFIX = 7
HEADER = 1 + SALT + PREFIX
_LENGTH = bytes([HEADER])
TAG = 16
# Plaintext of the first segment and of every other full one.
FIRST = SEGMENT - HEADER - TAG
FULL = SEGMENT - TAG
# The counter has 32 bits.
MOST = 2**32


class Tampered(JewelhouseError):
    """Ciphertext that was not made with this key for this place, or not in this order or length."""


class Cipher(NamedTuple):
    """The keys of one file."""

    aead: AESGCM
    prefix: bytes

    def nonce(self, number: int, last: bool) -> bytes:
        return self.prefix + number.to_bytes(4, "big") + (b"\1" if last else b"\0")

    def seal(self, number: int, size: int, plain: memoryview, sealed: memoryview) -> None:
        """Seals one segment of a file of `size` bytes. The buffers may begin at the same place."""
        self.aead.encrypt_into(self.nonce(number, number == count(size) - 1), plain, None, sealed)

    def open(self, number: int, size: int, sealed: memoryview, plain: memoryview, file: str = "") -> None:
        """Opens one segment. The buffers may begin at the same place. Raises Tampered; then what the buffer
        for the plaintext holds is not to be used."""
        try:
            self.aead.decrypt_into(self.nonce(number, number == count(size) - 1), sealed, None, plain)
        except InvalidTag:
            at = f"offset {place(number)}"
            raise Tampered(
                "does not open: changed, or of another key, artifact, version or path",
                where=f"{file}, {at}" if file else at,
            ) from None


def new(key: bytes, associated_data: bytes) -> tuple[bytes, Cipher]:
    """A header with fresh salt and prefix, and the keys that follow from it."""
    fresh = os.urandom(SALT + PREFIX)
    return _LENGTH + fresh, Cipher(_subkey(key, fresh[:SALT], associated_data), fresh[SALT:])


def opened(header: bytes, key: bytes, associated_data: bytes, file: str = "") -> Cipher:
    """The keys that follow from a header. Raises Tampered for what is none."""
    if len(header) != HEADER or header[0] != HEADER:
        raise Tampered("does not begin with a header of this format", where=file or "offset 0")
    return Cipher(_subkey(key, header[1 : 1 + SALT], associated_data), header[1 + SALT :])


def _subkey(key: bytes, salt: bytes, associated_data: bytes) -> AESGCM:
    if len(key) != KEY:
        raise ValueError(f"a data key has {KEY} bytes, this one {len(key)}")
    derived = HKDF(algorithm=hashes.SHA256(), length=KEY, salt=salt, info=associated_data).derive(key)
    return AESGCM(derived)


def count(plaintext: int) -> int:
    """Segments that so many bytes of plaintext take. Raises JewelhouseError for more than can be counted."""
    found = 1 if plaintext <= FIRST else 1 + -(-(plaintext - FIRST) // FULL)
    if found > MOST:
        raise JewelhouseError(f"{plaintext} bytes are more than one file can hold", remedy="split it")
    return found


def ciphertext_size(plaintext: int) -> int:
    """Bytes of ciphertext that so many bytes of plaintext become."""
    return HEADER + plaintext + TAG * count(plaintext)


def plaintext_size(ciphertext: int, file: str = "") -> int:
    """Bytes of plaintext in so many bytes of ciphertext. Raises Tampered where no plaintext has that size."""
    segments = max(1, -(-ciphertext // SEGMENT))
    found = ciphertext - HEADER - TAG * segments
    if found < 0 or segments > MOST or ciphertext_size(found) != ciphertext:
        raise Tampered(f"{ciphertext} bytes are the size of no sealed file", where=file or "size")
    return found


def span(index: int, plaintext: int) -> tuple[int, int]:
    """Offset and length in the plaintext of one segment."""
    if index == 0:
        return 0, min(FIRST, plaintext)
    offset = FIRST + (index - 1) * FULL
    return offset, min(FULL, plaintext - offset)


def place(index: int) -> int:
    """Offset in the ciphertext of one segment, behind the header for the first."""
    return index * SEGMENT if index else HEADER


def holding(offset: int) -> int:
    """The segment that holds an offset of the plaintext."""
    return 0 if offset < FIRST else 1 + (offset - FIRST) // FULL
