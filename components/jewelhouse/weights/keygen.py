"""Keys made here: for signing manifests, and for development the pair that a key service would hold."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import signing, wrap


class KeyKind(StrEnum):
    """`rsa` unwraps; the others sign. P-256 and P-384 are also those of sigstore/model-signing."""

    ED25519 = "ed25519"
    P256 = "p256"
    P384 = "p384"
    RSA = "rsa"


@dataclass(frozen=True, kw_only=True)
class Made:
    private: Path
    public: Path
    identity: str


def keygen(name: Path, kind: KeyKind, password: bytes | None = None) -> Made:
    """Makes `name.key.pem` (PKCS #8, 0600, under the password if one is given) and `name.pub.pem`.

    Raises JewelhouseError where one of the two is there: a key that is written over is lost.
    """
    key = _MAKERS[kind]()
    private, public = name.with_name(f"{name.name}.key.pem"), name.with_name(f"{name.name}.pub.pem")
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    half = key.public_key()
    if public.exists():
        raise JewelhouseError("is there already", where=str(public), remedy="choose another name")
    _create(private, pem, 0o600)
    _create(
        public,
        half.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        0o644,
    )
    identity = f"sha256:{wrap.digest(half)}" if isinstance(half, rsa.RSAPublicKey) else signing.identity(half)
    return Made(private=private, public=public, identity=identity)


_MAKERS = {
    KeyKind.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeyKind.P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyKind.P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyKind.RSA: lambda: rsa.generate_private_key(public_exponent=65537, key_size=wrap.BITS),
}


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise JewelhouseError("is there already", where=str(path), remedy="choose another name") from error
    except OSError as error:
        raise JewelhouseError(f"cannot be written: {error.strerror}", where=str(path)) from error
