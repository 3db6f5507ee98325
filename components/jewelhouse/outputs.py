"""What a cloud package hands back to `deploy`: plain structured values, some of them Pulumi outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jewelhouse.model import AttestedKey


@dataclass(frozen=True, kw_only=True)
class CloudOutputs:
    """Results of one cloud's `provision`.

    keys: per attested key `{"id", "uri", "public_key"}`: the resource, what the guest calls, the PEM of the
    public half (None where the key service does not hand it out through the control plane).
    stores: per (artifact, region) `{"url"}`: the fsspec URL of the ciphertext.
    stages: per stage `{"identity", "host", "endpoint"}`: workload identity, host resource, private address.
    """

    keys: Mapping[AttestedKey, Mapping[str, Any]] = field(default_factory=dict)
    stores: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
