"""Signatures over manifests: DSSE v1 envelopes, by keys that the reader pins.

The signed bytes bind the type of the payload, so that a signature over anything else that the same key signs
(a model, a build record) is never one over a manifest.
Source: github.com/secure-systems-lab/dsse, protocol.md and envelope.md, v1.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from jewelhouse.errors import JewelhouseError
from jewelhouse.release.documents import strict

PAYLOAD_TYPE = "application/vnd.jewelhouse.weights.manifest.v1+json"
# Whoever writes to the store chooses these numbers: they bound the work of one reader.
LARGEST_ENVELOPE = 96 * 1024 * 1024
MOST_SIGNATURES = 32
# Curve -> digest: those of sigstore/model-signing's key method
# (sigstore/model-transparency: src/model_signing/_signing/sign_ec_key.py, 2026-08).
CURVES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class MalformedManifest(JewelhouseError):
    """The bytes are no manifest, whoever signed them."""


class Untrusted(JewelhouseError):
    """A manifest that this reader must not believe: signer, artifact, version or time."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """`keyid` is a hint of the sender's and decides nothing."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, kw_only=True)
class Envelope:
    payload: bytes
    signatures: tuple[Signature, ...]


def signed_bytes(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """DSSE's pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, keys: Sequence[PrivateKey], payload_type: str = PAYLOAD_TYPE) -> bytes:
    """An envelope with one signature of each key."""
    if not keys:
        raise ValueError("an envelope needs a signature")
    text = signed_bytes(payload, payload_type)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [
            {"keyid": identity(key.public_key()), "sig": base64.b64encode(_signature(key, text)).decode()}
            for key in keys
        ],
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


def unpack(data: bytes, where: str = "manifest", payload_type: str = PAYLOAD_TYPE) -> Envelope:
    """The parts of an envelope, none of which is to be believed yet. Raises MalformedManifest."""
    if len(data) > LARGEST_ENVELOPE:
        raise MalformedManifest(f"is larger than {LARGEST_ENVELOPE} bytes", where=where)
    try:
        found = strict(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedManifest(f"is not JSON: {error}", where=where) from error
    if not isinstance(found, dict) or set(found) != {"payload", "payloadType", "signatures"}:
        raise MalformedManifest("is no DSSE envelope: payload, payloadType, signatures", where=where)
    if found["payloadType"] != payload_type:
        raise MalformedManifest(f"payloadType is not {payload_type}", where=where)
    signatures = found["signatures"]
    if not isinstance(signatures, list) or not 0 < len(signatures) <= MOST_SIGNATURES:
        raise MalformedManifest(f"must have 1 to {MOST_SIGNATURES} signatures", where=where)
    return Envelope(
        payload=_bytes(found["payload"], f"{where}: payload"),
        signatures=tuple(_read_signature(one, where) for one in signatures),
    )


def _read_signature(value: object, where: str) -> Signature:
    if not isinstance(value, dict) or not {"sig"} <= value.keys() <= {"sig", "keyid"}:
        raise MalformedManifest("a signature has sig and keyid", where=f"{where}: signatures")
    keyid = value.get("keyid", "")
    if not isinstance(keyid, str):
        raise MalformedManifest("keyid is not text", where=f"{where}: signatures")
    return Signature(keyid=keyid, sig=_bytes(value["sig"], f"{where}: signatures"))


def _bytes(value: object, where: str) -> bytes:
    """DSSE: standard or URL-safe base64, either accepted."""
    if not isinstance(value, str):
        raise MalformedManifest("is not base64", where=where)
    try:
        return base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedManifest("is not base64", where=where) from error


def verified(
    data: bytes,
    signers: Iterable[PublicKey],
    threshold: int = 1,
    where: str = "manifest",
    payload_type: str = PAYLOAD_TYPE,
) -> tuple[bytes, tuple[str, ...]]:
    """The payload of an envelope, and which of `signers` signed it.

    Raises MalformedManifest for what is no envelope, Untrusted where fewer than `threshold` different pinned
    keys signed. Signatures of others count for nothing; the same key twice counts once.
    """
    envelope = unpack(data, where, payload_type)
    text = signed_bytes(envelope.payload, payload_type)
    pinned = {identity(key): key for key in signers}
    found = tuple(
        name
        for name, key in pinned.items()
        if any(_verifies(key, one.sig, text) for one in envelope.signatures)
    )
    if len(found) < max(threshold, 1):
        claimed = ", ".join(
            ascii(one.keyid[:80])[1:-1] or "a key without name" for one in envelope.signatures
        )
        raise Untrusted(
            f"is signed by {len(found)} of the pinned signers and needs {max(threshold, 1)}",
            where=where,
            remedy=f"pinned: {', '.join(pinned) or 'nobody'}; it says that it is signed by {claimed}",
        )
    return envelope.payload, found


def identity(key: PublicKey) -> str:
    """Name of a key: the SHA-256 of its SubjectPublicKeyInfo."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def public_key(pem: str | bytes, where: str = "signer") -> PublicKey:
    """A public signing key. Raises JewelhouseError for other kinds."""
    raw = pem.encode() if isinstance(pem, str) else pem
    try:
        key = serialization.load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "this is the private half; give the public one" if b"PRIVATE KEY" in raw else "give a PEM file"
        raise JewelhouseError("holds no public key", where=where, remedy=hint) from error
    if isinstance(key, ed25519.Ed25519PublicKey) or _of_curve(key):
        return key  # pyright: ignore[reportReturnType]
    raise JewelhouseError("is no key that signs manifests", where=where, remedy=_REMEDY)


def private_key(path: Path, password: bytes | None = None) -> PrivateKey:
    """A signing key from a PEM file, also one made for sigstore/model-signing. Raises JewelhouseError."""
    key = unlocked(path, password)
    if isinstance(key, ed25519.Ed25519PrivateKey) or _of_curve(key):
        return key  # pyright: ignore[reportReturnType]
    raise JewelhouseError("is no key that signs manifests", where=str(path), remedy=_REMEDY)


def unlocked(path: Path, password: bytes | None) -> PrivateKeyTypes:
    """Any private key from a PEM file; the password is for those that are locked. Raises JewelhouseError."""
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise JewelhouseError(f"cannot be read: {error.strerror}", where=str(path)) from error
    locked = b"ENCRYPTED" in pem
    if locked and password is None:
        raise JewelhouseError(
            "is locked by a password",
            where=str(path),
            remedy="name the file that holds the password by --password-file",
        )
    try:
        return serialization.load_pem_private_key(pem, password if locked else None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        remedy = "this is the public half" if b"PUBLIC KEY" in pem else ""
        what = "is not opened by this password" if locked else "holds no private key"
        raise JewelhouseError(what, where=str(path), remedy=remedy) from error


_REMEDY = "take Ed25519 or ECDSA on P-256, P-384 or P-521: jewelhouse weights keygen"


def _of_curve(key: object) -> bool:
    return (
        isinstance(key, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)) and key.curve.name in CURVES
    )


def _signature(key: PrivateKey, text: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(text)
    return key.sign(text, ec.ECDSA(CURVES[key.curve.name]))


def _verifies(key: PublicKey, signature: bytes, text: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, text)
        else:
            key.verify(signature, text, ec.ECDSA(CURVES[key.curve.name]))
    except InvalidSignature:
        return False
    return True
