"""Mandates: what the owner of an artifact lets a stage seal, to whom, and the key that signs its manifests.

A stage that makes an artifact needs the public halves of the keys that may open it, and a key to sign with.
Neither may come from whoever runs the machine: with a key of his own he would read what is sealed, with a
signing key he would pass off weights of his own. So the owner signs both beforehand; the signing key is
wrapped to an attested key, and opens only inside code that the owner's release policy admits.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from jewelhouse.model import ArtifactKind
from jewelhouse.weights import canonical, series, signing, wrap
from jewelhouse.weights.manifest import ARTIFACT, SKEW, Wrapped, moment
from jewelhouse.weights.signing import MalformedManifest, PrivateKey, PublicKey, Untrusted
from jewelhouse.weights.stores import Store
from jewelhouse.weights.wrap import Recipient

# Of a store: for a stage that seals into it, and for one that rewraps what it opens there.
SEALS, REWRAPS = "mandates", "rewraps"
# What messages call it.
NAME = "mandate"
FORMAT = "jewelhouse.mandate/v1"
PAYLOAD_TYPE = "application/vnd.jewelhouse.weights.mandate.v1+json"
LARGEST = 1024 * 1024
MEMBERS = {"format", "artifact", "kind", "created", "expires", "recipients", "signing-key"}


@dataclass(frozen=True, kw_only=True)
class Mandate:
    """`signing_key`: the seed of an Ed25519 key, wrapped to one attested key that the stage may open.
    `signer`: its public half (PEM), what readers of the artifact pin."""

    artifact: str
    kind: ArtifactKind
    created: datetime
    expires: datetime
    recipients: tuple[Recipient, ...]
    signing_key: Wrapped
    signer: str

    def key(self, release: Callable[[bytes], bytes]) -> ed25519.Ed25519PrivateKey:
        """The signing key, once `release` has unwrapped it. Raises Untrusted when it is another one than the
        mandate says."""
        found = ed25519.Ed25519PrivateKey.from_private_bytes(
            wrap.checked(release(self.signing_key.ciphertext))
        )
        if signing.identity(found.public_key()) != signing.identity(signing.public_key(self.signer)):
            raise Untrusted("wraps another key than it names", where=f"{NAME}: signing-key")
        return found


def make(
    *,
    artifact: str,
    kind: ArtifactKind,
    recipients: Sequence[Recipient],
    stage_key: Recipient | None = None,
    before: Mandate | None = None,
    owners: Sequence[PrivateKey],
    now: datetime,
    expires: datetime,
) -> tuple[bytes, str]:
    """A signed mandate, and the public half of its signing key (PEM) for readers to pin.

    `stage_key`: an attested key that the stage may open; a fresh signing key is made, whose private half
    exists nowhere but wrapped to it. `before`: a mandate whose signing key stays, so that what readers pin
    does; one of the two. Raises JewelhouseError for no or twofold recipients.
    """
    if (stage_key is None) == (before is None):
        raise ValueError("either stage_key or before")
    wrapped, signer = (before.signing_key, before.signer) if before else _signing_key(stage_key)
    # Wrapping to them checks them: at least one, each once.
    wrap.wrap(bytes(wrap.DEK), recipients)
    body = {
        "format": FORMAT,
        "artifact": artifact,
        "kind": kind.value,
        "created": moment(now),
        "expires": moment(expires),
        "recipients": [{"key": one.key, "public": _pem(one), "policy": one.policy} for one in recipients],
        "signing-key": {
            "key": wrapped.key,
            "ciphertext": base64.b64encode(wrapped.ciphertext).decode(),
            "signer": signer,
        },
    }
    data = signing.sign(canonical.write(body), owners, PAYLOAD_TYPE)
    read(data, [key.public_key() for key in owners], artifact=artifact, now=now)
    return data, signer


def _signing_key(stage_key: Recipient | None) -> tuple[Wrapped, str]:
    assert stage_key is not None
    key = ed25519.Ed25519PrivateKey.generate()
    seed = key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    signer = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (wrapped,) = wrap.wrap(seed, [stage_key])
    return wrapped, signer.decode()


def _pem(one: Recipient) -> str:
    return one.public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def publish(store: Store, data: bytes, part: str = SEALS) -> None:
    """Makes a mandate the current one of a store. Raises JewelhouseError when a later one is there."""
    found = _decoded(canonical.read(signing.unpack(data, NAME, PAYLOAD_TYPE).payload))
    series.publish(store, name(found, part), data)


def name(found: Mandate, part: str = SEALS) -> str:
    """What a store has a mandate under."""
    return f"{part}/{moment(found.created).replace(':', '-')}.json"


def current(
    store: Store, signers: Sequence[PublicKey], *, artifact: str, now: datetime, part: str = SEALS
) -> Mandate:
    """The current mandate of a store, if it is to be followed (`read`). Raises Missing, too."""
    stored, data = series.newest(store, part, LARGEST)
    found = read(data, signers, artifact=artifact, now=now)
    if stored != name(found, part):
        raise Untrusted(
            f"is of {moment(found.created)}: somebody gave it a later name", where=f"{store.url}/{stored}"
        )
    return found


def read(data: bytes, signers: Sequence[PublicKey], *, artifact: str, now: datetime) -> Mandate:
    """A mandate that one of `signers` signed, for this artifact, valid now.

    Raises MalformedManifest for what is none, Untrusted for unknown signers, other artifacts, and times.
    """
    if len(data) > LARGEST:
        raise MalformedManifest(f"is larger than {LARGEST} bytes", where=NAME)
    payload, _ = signing.verified(data, signers, 1, NAME, PAYLOAD_TYPE)
    try:
        found = _decoded(canonical.read(payload))
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedManifest(f"is no mandate: {error}", where=NAME) from error
    for wrong, where, what in (
        (found.artifact != artifact, "artifact", f"is for {found.artifact}, not for {artifact}"),
        (now >= found.expires, "expires", f"expired at {moment(found.expires)}, now {moment(now)}"),
        (found.created > now + SKEW, "created", f"{moment(found.created)} is in the future"),
    ):
        if wrong:
            raise Untrusted(what, where=f"{NAME}: {where}")
    return found


def _decoded(body: Any) -> Mandate:
    if not isinstance(body, dict) or body.keys() != MEMBERS:
        raise ValueError(f"its members must be {', '.join(sorted(MEMBERS))}")
    if body["format"] != FORMAT or not ARTIFACT.fullmatch(body["artifact"]):
        raise ValueError(f"must be of format {FORMAT} for an artifact")
    said = body["signing-key"]
    if not isinstance(said, dict) or said.keys() != {"key", "ciphertext", "signer"}:
        raise ValueError("signing-key must have key, ciphertext, signer")
    signing.public_key(said["signer"], f"{NAME}: signing-key.signer")
    recipients = tuple(_recipient(one) for one in body["recipients"])
    if not recipients or len({one.key for one in recipients}) != len(recipients):
        raise ValueError("recipients must be different ones, at least one")
    return Mandate(
        artifact=body["artifact"],
        kind=ArtifactKind(body["kind"]),
        created=_time(body["created"]),
        expires=_time(body["expires"]),
        recipients=recipients,
        signing_key=Wrapped(
            key=str(said["key"]),
            algorithm="RSA-OAEP-256",
            public="",
            ciphertext=base64.b64decode(said["ciphertext"], validate=True),
        ),
        signer=said["signer"],
    )


def _recipient(body: Any) -> Recipient:
    if not isinstance(body, dict) or body.keys() != {"key", "public", "policy"}:
        raise ValueError("a recipient must have key, public, policy")
    return wrap.recipient(body["public"], body["key"], policy=body["policy"], where=f"{NAME}: recipients")


def _time(value: str) -> datetime:
    return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
