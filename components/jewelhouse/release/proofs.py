"""What is proven about the code behind a gate, and what its key service cannot prove.

The tables per cloud stand with the compilers (`PROOFS` in `release.aws`, `release.azure`, `release.gcp`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import import_module
from types import MappingProxyType

from jewelhouse.model import Platform, Proof
from jewelhouse.release.policy import Gate, ReleasePolicy


class State(StrEnum):
    ENFORCED = "enforced"
    NOT_POSSIBLE = "not-possible"
    WEAKENED = "weakened"
    NOT_NEEDED = "not-needed"


@dataclass(frozen=True)
class Status:
    """How far one proof goes; `note` says how it is enforced, or what to choose instead."""

    state: State
    note: str


@cache
def possible(platform: Platform, proof: Proof) -> Status:
    """What the key service of a platform can do about a proof at all."""
    if proof is Proof.OWNER_APART:
        return Status(State.ENFORCED, "the key lies in its owner's own account")
    # Only the compilers of used clouds are loaded.
    table = import_module(f"jewelhouse.release.{platform.cloud}").PROOFS
    state, note = table[platform][proof]
    return Status(State(state), note)


def of_gate(policy: ReleasePolicy, gate: Gate) -> Mapping[Proof, Status]:
    """The state of every proof for one gate of a policy."""
    shared = gate.account.boundary if policy.owner.boundary == gate.account.boundary else None
    return _states(gate.platform, gate.gpu is not None, shared)


@cache
def _states(platform: Platform, gpu: bool, shared: str | None) -> Mapping[Proof, Status]:
    """One value for all gates that are alike: a matrix has thousands of them."""
    found = {proof: possible(platform, proof) for proof in Proof}
    if not gpu:
        found[Proof.GPU] = Status(State.NOT_NEEDED, "the stage has no GPU")
    if shared is not None:
        found[Proof.OWNER_APART] = Status(State.WEAKENED, f"allow-same-owner: key and stage share {shared}")
    return MappingProxyType(found)
