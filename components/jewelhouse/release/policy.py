"""The neutral release policy: any of its gates opens the artifact, and a gate needs all it names.

One value compiles to an Azure Key Vault release policy, an AWS KMS key policy, or a Google workload
identity provider with its principal sets (`release.azure`, `release.aws`, `release.gcp`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jewelhouse.model import Account, AttestedKey, Measurements, Platform, Tee


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One alternative: what the code of one stage must prove before a key is released to it.

    `measurements` holds alternatives (current first, then the one being rolled out of); it is empty where
    the key service cannot bind the image. `identity` is the workload identity (role ARN, service account
    email; None where a role assignment binds it). `authority` and `authority_policy` are the Azure
    attestation endpoint and the hash of its policy. `not_after` ends a licence.
    """

    stage: str
    platform: Platform
    tee: Tee
    account: Account
    measurements: tuple[Measurements, ...] = ()
    identity: str | None = None
    gpu: str | None = None
    authority: str | None = None
    authority_policy: str | None = None
    not_after: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ReleasePolicy:
    """Who may open `key`. `owner` is the account that holds it, apart from the gates' accounts."""

    key: AttestedKey
    owner: Account
    gates: tuple[Gate, ...]

    @property
    def artifact(self) -> str:
        return self.key.artifact
