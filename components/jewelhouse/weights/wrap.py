"""The data key (DEK) of an artifact version, wrapped to public keys: RSA-OAEP, SHA-256 in both places.

That is what each key service unwraps after a release: RSAES_OAEP_SHA_256 (AWS KMS), RSA-OAEP-256 (Key Vault),
RSA_DECRYPT_OAEP_4096_SHA256 (Cloud KMS). None of them takes a label, so there is none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import canonical, signing
from jewelhouse.weights.manifest import WRAPPING, Manifest, Wrapped

DEK = 32
# Attested keys are RSA of this size in all three clouds.
BITS = 4096

# The verified manifest in, its DEK out: what a release, or a development key, does.
Opener = Callable[[Manifest], bytes]

_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


class NotOpened(JewelhouseError):
    """The key at hand does not open this manifest."""


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """A public key that the DEK is wrapped to.

    key: identity under which it stands in the manifest. policy: SHA-256 of its release policy, if known.
    """

    key: str
    public: rsa.RSAPublicKey
    policy: str | None = None


def recipient(
    pem: str | bytes, key: str | None = None, *, policy: str | None = None, where: str
) -> Recipient:
    """A recipient from the PEM of its public half; without identity its digest is its name.

    Raises JewelhouseError for anything but an RSA key of 4096 bits or more.
    """
    raw = pem.encode() if isinstance(pem, str) else pem
    try:
        public = serialization.load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        secret = b"PRIVATE KEY" in raw
        raise JewelhouseError(
            "holds no public key",
            where=where,
            remedy="this is the private half: sealing needs the public one only" if secret else "give PEM",
        ) from error
    if not isinstance(public, rsa.RSAPublicKey):
        raise JewelhouseError("is not an RSA key", where=where, remedy="attested keys are RSA of 4096 bits")
    if public.key_size < BITS:
        raise JewelhouseError(
            f"is RSA of {public.key_size} bits", where=where, remedy=f"attested keys have {BITS} bits"
        )
    return Recipient(key=key or f"sha256:{digest(public)}", public=public, policy=policy)


def recipients_of(
    outputs: Mapping[str, Any], artifact: str, where: str, given: Sequence[Recipient] = ()
) -> list[Recipient]:
    """The attested keys of an artifact, from `pulumi stack output --json`, with their policies' digests.

    `given` are recipients that were named besides, under the identities of the stack's keys for those whose
    public half is not in the outputs: Key Vault does not hand it out through the control plane.
    Raises JewelhouseError where the outputs are not those of a lifecycle, the artifact has no key, or a
    public half is neither there nor given.
    """
    named = {one.key: one for one in given}
    found: list[Recipient] = []
    missing: list[str] = []
    try:
        for key in outputs["artifacts"][artifact]["keys"]:
            name, uri, pem = key["name"], key["uri"], key["public_key"]
            policy = _policy(outputs, name)
            if uri in named:
                found.append(dataclasses.replace(named.pop(uri), policy=policy))
            elif pem:
                found.append(recipient(pem, uri, policy=policy, where=f"{where}: {name}"))
            else:
                missing.append(uri)
    except (KeyError, TypeError, AttributeError) as error:
        known = outputs.get("artifacts") if isinstance(outputs, Mapping) else None
        raise JewelhouseError(
            f"does not name the keys of {artifact}",
            where=where,
            remedy=f"artifacts there: {', '.join(known)}"
            if isinstance(known, Mapping)
            else "write it by: pulumi stack output --json",
        ) from error
    if missing or not found:
        raise JewelhouseError(
            f"has no public half of {', '.join(missing) or f'any key of {artifact}'}",
            where=where,
            remedy="fetch it (az keyvault key download --encoding PEM) and give it as --to IDENTITY=PUB.pem",
        )
    return [*found, *named.values()]


def policy_digest(document: Any) -> str:
    """SHA-256 of the canonical JSON of a release policy's native document."""
    return hashlib.sha256(canonical.write(document)).hexdigest()


def _policy(outputs: Mapping[str, Any], name: str) -> str | None:
    policy = outputs["policies"].get(name)
    return policy_digest(policy["document"]) if policy else None


def digest(public: rsa.RSAPublicKey) -> str:
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def wrap(dek: bytes, recipients: Iterable[Recipient]) -> tuple[Wrapped, ...]:
    """The DEK for each recipient. Raises JewelhouseError for none, and for two of one identity."""
    chosen = list(recipients)
    names = [one.key for one in chosen]
    if not chosen:
        raise JewelhouseError("nobody could open it", where="--to", remedy="name at least one public key")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise JewelhouseError(f"{twice} is there twice", where="--to")
    return tuple(
        Wrapped(
            key=one.key,
            algorithm=WRAPPING,
            public=digest(one.public),
            ciphertext=one.public.encrypt(dek, _OAEP),
            policy=one.policy,
        )
        for one in chosen
    )


def with_private_key(path: Path, password: bytes | None = None) -> Opener:
    """Opens by a private key in a file: for development, where no key service stands before the key."""
    key = signing.unlocked(path, password)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise JewelhouseError("is not an RSA key", where=str(path))
    return lambda manifest: _unwrapped(manifest, key)


def _unwrapped(manifest: Manifest, key: rsa.RSAPrivateKey) -> bytes:
    public = digest(key.public_key())
    for one in manifest.keys:
        if hmac.compare_digest(one.public, public):
            try:
                return checked(key.decrypt(one.ciphertext, _OAEP))
            except ValueError as error:
                raise NotOpened("does not unwrap with its key", where=one.key) from error
    raise NotOpened(
        f"is not sealed to this key, sha256:{public}",
        where="--unwrap",
        remedy=f"it is sealed to {', '.join(one.key for one in manifest.keys)}",
    )


def with_release(key: str, release: Callable[[bytes], bytes]) -> Opener:
    """Opens by a key service: `release` takes the wrapped DEK of the key `key` and returns the DEK."""

    def open_(manifest: Manifest) -> bytes:
        return checked(release(manifest.wrapped(key).ciphertext))

    return open_


def checked(dek: bytes) -> bytes:
    """A DEK of the right length. Raises NotOpened otherwise."""
    if len(dek) != DEK:
        raise NotOpened(f"what was released is {len(dek)} bytes long and no DEK", where="release")
    return dek


__all__ = [
    "DEK",
    "NotOpened",
    "Opener",
    "Recipient",
    "checked",
    "policy_digest",
    "recipient",
    "recipients_of",
    "with_private_key",
    "with_release",
    "wrap",
]
