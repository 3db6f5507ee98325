"""Compiles a release policy with the compiler of the cloud that holds its key."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from jewelhouse.release.policy import ReleasePolicy


def compile(policy: ReleasePolicy) -> dict[str, Any]:
    """The native document of a policy: KMS key policy, Key Vault release policy, or the provider and
    members of a workload identity pool. Raises JewelhouseError where a gate cannot be expressed."""
    # Only the compilers of used clouds are loaded.
    return import_module(f"jewelhouse.release.{policy.key.cloud}").compile(policy)
