"""What the verification of a piece of Evidence found: one form for every format.

Words follow RFC 9334. A verdict is plain values: `release.evaluate` judges policies against it, `jewelhouse
evidence` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from jewelhouse.errors import JewelhouseError


class Kind(StrEnum):
    """Formats of Evidence (signed by hardware) and of Attestation Results (signed by a verifier)."""

    NITRO_ENCLAVE = "nitro-enclave"
    NITRO_TPM = "nitro-tpm"
    MAA = "maa"
    CONFIDENTIAL_SPACE = "confidential-space"
    GCE_VM = "gce-vm"
    SEV_SNP = "sev-snp"
    TDX = "tdx"
    NVIDIA_SPDM = "nvidia-spdm"
    NVIDIA_EAT = "nvidia-eat"


class MalformedEvidence(JewelhouseError):
    """Bytes that are no evidence of the format they were read as; `where` names the field or offset."""


@dataclass(frozen=True)
class Finding:
    """One reason not to believe a piece of Evidence. `where`: field, claim path or certificate."""

    where: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Endorsements:
    """What belongs to a piece of Evidence and does not travel inside it, as the files' own bytes.

    `files`: saved JWKS, VCEK or VLEK with their chain (PEM, DER, or the JSON of Azure's THIM), TDX
    collateral, an NVIDIA chain. Each format takes those that it recognises by content and leaves the rest.
    """

    files: tuple[bytes, ...] = ()


NO_ENDORSEMENTS = Endorsements()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Evidence, what of it was verified, and what stands against it.

    verified: signature and chain hold to a pinned root at `at`, every rule of the format holds, and no
    problem was found. Debug evidence can be verified: `debug` says that hardware or image is open to a
    debugger, whatever is signed.
    at: the moment it was appraised at (UTC). issued, expires: its own time, where it states one.
    chain: from the signer to the root, one line each (subject and SHA-256 of the certificate, or the key id).
    measurements: by the names that policies use (`PCR0`, `hostdata`, `image_digest`, `MRTD`), lower-case hex;
    a digest keeps its `sha256:`.
    claims: everything the format says, as JSON values; for tokens the payload as it is.
    nonce: bytes that the evidence is bound to, if any. checked: what was verified, in words.
    """

    kind: Kind
    verified: bool
    debug: bool
    at: datetime
    issued: datetime | None = None
    expires: datetime | None = None
    chain: tuple[str, ...] = ()
    measurements: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    nonce: bytes | None = None
    checked: tuple[str, ...] = ()
    problems: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if self.verified and self.problems:
            raise ValueError("evidence with a problem is not verified")

    def json(self) -> dict[str, Any]:
        """The machine form that `--json` prints."""
        return {
            "kind": self.kind.value,
            "verified": self.verified,
            "debug": self.debug,
            "at": moment(self.at),
            "issued": moment(self.issued),
            "expires": moment(self.expires),
            "chain": list(self.chain),
            "measurements": dict(self.measurements),
            "claims": dict(self.claims),
            "nonce": self.nonce.hex() if self.nonce is not None else None,
            "checked": list(self.checked),
            "problems": [{"where": problem.where, "what": problem.what} for problem in self.problems],
        }


def moment(at: datetime | None) -> str | None:
    """A time as JSON and errors show it: UTC, to the second."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
