"""Whether a key would be released to a piece of Evidence, and why: what every evaluator answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jewelhouse.evidence.verdict import Verdict, moment


@dataclass(frozen=True, kw_only=True)
class Request:
    """Who asks the key service, for what, when, beside the Evidence that is shown.

    at: the moment of the request (UTC). principal: AWS: ARN of the role or user that calls; Google: left
    out, since the token itself is the principal. action: AWS only. context: condition keys and values beside
    those of the evidence (`aws:SourceVpce`), each with one or more values. grants: AWS grants on the key, as
    ListGrants prints them. identity_policies: AWS policies attached to the principal. resource: ARN of the
    AWS key; without it, statements of identity policies about certain keys decide nothing.
    """

    at: datetime
    principal: str | None = None
    action: str = "kms:Decrypt"
    context: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grants: tuple[Mapping[str, Any], ...] = ()
    identity_policies: tuple[Mapping[str, Any], ...] = ()
    resource: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One clause that decided. where: its path in the document (`anyOf[0].allOf[2]`, `Statement[3]
    DenyOtherPCR0`, `condition`) or `evidence`; claim: the claim path compared, if any; holds: whether the
    clause was met. `what` says it in words where expected and found do not."""

    where: str
    claim: str = ""
    expected: str = ""
    found: str = ""
    what: str = ""
    holds: bool = False

    def json(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "claim": self.claim,
            "expected": self.expected,
            "found": self.found,
            "what": self.what,
            "holds": self.holds,
        }


@dataclass(frozen=True, kw_only=True)
class Decision:
    """`released` is true only on a literal yes. `because` holds the clauses that decided: those of the
    opening that was met, or everything that stood against the nearest ones."""

    released: bool
    because: tuple[Reason, ...]
    evidence: Verdict | None
    at: datetime
    proofs: Mapping[str, str] = field(default_factory=dict)
    explained: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """The machine form that `--json` prints."""
        evidence = None
        if self.evidence is not None:
            evidence = {
                "kind": self.evidence.kind.value,
                "verified": self.evidence.verified,
                "debug": self.evidence.debug,
                "at": moment(self.evidence.at),
                "chain": list(self.evidence.chain),
            }
        return {
            "decision": "release" if self.released else "deny",
            "at": moment(self.at),
            "because": [reason.json() for reason in self.because],
            "evidence": evidence,
            "proofs": dict(self.proofs),
            "explained": list(self.explained),
        }


def denied(verdict: Verdict | None, at: datetime, *reasons: Reason) -> Decision:
    return Decision(released=False, because=reasons, evidence=verdict, at=at)
