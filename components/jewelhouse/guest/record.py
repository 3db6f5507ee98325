"""The record of one run: what was opened and made, by which evidence, how it ended; signed, no secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import canonical, signing
from jewelhouse.weights.manifest import Manifest, moment

PAYLOAD_TYPE = "application/vnd.jewelhouse.run.v1+json"


@dataclass(kw_only=True)
class Record:
    """Grows while the guest runs. Its signing key lives in this process alone; the digest of the public half
    (`bound`) is inside the evidence where the format has room, so that the record is this code's."""

    lifecycle: str
    stage: str
    platform: str
    began: datetime
    key: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate, repr=False)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bound(self) -> bytes:
        der = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(der).digest()

    def released(self, artifact: str, key: str, kind: str, evidence: bytes) -> None:
        """A key service released a key on this evidence."""
        digest = f"sha256:{hashlib.sha256(evidence).hexdigest()}"
        self._add("released", artifact=artifact, key=key, evidence={"kind": kind, "digest": digest})

    def gpu(self, devices: Sequence[Mapping[str, str]], evidence: Mapping[str, bytes]) -> None:
        """GPUs were attested before any key was asked for; `evidence` by the name of its format."""
        digests = [
            {"kind": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}
            for kind, data in evidence.items()
        ]
        self._add("gpu", devices=[dict(one) for one in devices], evidence=digests)

    def opened(self, found: Manifest) -> None:
        self._add("opened", artifact=found.artifact, version=found.version, manifest=_digest(found))

    def sealed(self, found: Manifest) -> None:
        self._add("sealed", artifact=found.artifact, version=found.version, manifest=_digest(found))

    def rewrapped(self, found: Manifest) -> None:
        """The data key of an opened artifact was wrapped to more keys."""
        keys = [one.key for one in found.keys]
        self._add(
            "rewrapped",
            artifact=found.artifact,
            version=found.version,
            wrapping=found.wrapping,
            keys=keys,
            manifest=_digest(found),
        )

    def ran(self, status: int) -> None:
        self._add("ran", status=status)

    def refused(self, error: JewelhouseError) -> None:
        self._add(
            "refused",
            problems=[{"where": one.where, "what": one.what} for one in error.problems],
            kind=type(error).__name__,
        )

    def _add(self, event: str, **values: Any) -> None:
        self.events.append({"event": event, "at": moment(datetime.now(UTC)), **values})

    def signed(self) -> bytes:
        """The record in an envelope (DSSE) signed by its own key, whose public half it names."""
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        body = {
            "lifecycle": self.lifecycle,
            "stage": self.stage,
            "platform": self.platform,
            "began": moment(self.began),
            "ended": moment(datetime.now(UTC)),
            "signer": public.decode(),
            "events": self.events,
        }
        return signing.sign(canonical.write(body), [self.key], PAYLOAD_TYPE)


def _digest(found: Manifest) -> str:
    from jewelhouse.weights import manifest

    return f"sha256:{hashlib.sha256(manifest.encode(found)).hexdigest()}"
