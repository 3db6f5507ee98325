"""Test vectors of the format of sealed files, made by its description and not by the kit's own code.

`docs/weights-vectors.json` holds them; `make docs` writes it. Whoever implements the format elsewhere takes
the named values for the random ones and compares what comes out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MEGABYTE = 1024 * 1024
# Header and tag take from the first segment, the tag from every other.
FIRST, OTHER = MEGABYTE - 40 - 16, MEGABYTE - 16
SHARD = 64 * MEGABYTE
# Name -> bytes of plaintext.
SIZES = {
    "empty": 0,
    "one byte": 1,
    "text": 43,
    "one byte less than a first segment": FIRST - 1,
    "a whole first segment": FIRST,
    "one byte more than a first segment": FIRST + 1,
    "two whole segments": FIRST + OTHER,
    "one byte more than two segments": FIRST + OTHER + 1,
    "a whole shard": SHARD,
    "one byte more than a shard": SHARD + 1,
}


def plaintext(name: str, size: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def derived(name: str, what: str, size: int) -> bytes:
    """Fixed values in the place of random ones."""
    return hashlib.shake_128(f"{name}: {what}".encode()).digest(size)


def subkey(key: bytes, salt: bytes, associated_data: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869): 32 bytes are the first block of the expansion."""
    extracted = hmac.digest(salt, key, "sha256")
    return hmac.digest(extracted, associated_data + b"\1", "sha256")


def segments(plain: bytes) -> list[bytes]:
    parts, rest = [plain[:FIRST]], plain[FIRST:]
    while rest:
        parts.append(rest[:OTHER])
        rest = rest[OTHER:]
    return parts


def vector(name: str, size: int) -> tuple[dict[str, Any], bytes]:
    """The vector, and its ciphertext, which a page cannot hold."""
    key, salt, prefix = (derived(name, *of) for of in (("data key", 32), ("salt", 32), ("nonce prefix", 7)))
    associated_data = json.dumps(
        ["jewelhouse.weights/v1", "base", 1, f"{name}.bin"], separators=(",", ":")
    ).encode()
    plain = plaintext(name, size)
    sealing, parts = AESGCM(subkey(key, salt, associated_data)), segments(plain)
    ciphertext = bytes([40]) + salt + prefix
    sealed = [
        sealing.encrypt(prefix + number.to_bytes(4, "big") + bytes([part is parts[-1]]), part, None)
        for number, part in enumerate(parts)
    ]
    ciphertext += b"".join(sealed)
    made: dict[str, Any] = {
        "name": name,
        "size": size,
        "data-key": key.hex(),
        "associated-data": associated_data.decode(),
        "salt": salt.hex(),
        "nonce-prefix": prefix.hex(),
        "subkey": subkey(key, salt, associated_data).hex(),
        "segments": len(parts),
        "tag-of-first": sealed[0][-16:].hex(),
        "tag-of-last": sealed[-1][-16:].hex(),
        "ciphertext-size": len(ciphertext),
        "ciphertext-sha256": hashlib.sha256(ciphertext).hexdigest(),
        "shards": [
            hashlib.sha256(plain[offset : offset + SHARD]).hexdigest() for offset in range(0, size, SHARD)
        ],
    }
    if size <= 64:
        made |= {"plaintext": plain.hex(), "ciphertext": ciphertext.hex()}
    return made, ciphertext


def text() -> str:
    document = {
        "format": "Tink AES256_GCM_HKDF_1MB",
        "plaintext": "SHAKE-128 of the name in UTF-8, so many bytes of it as the size says",
        "vectors": [vector(name, size)[0] for name, size in SIZES.items()],
    }
    return json.dumps(document, indent=2) + "\n"
