"""Hypothetical requests that show a hole in a key policy: the evaluator says whether they are released.

Loaded only when a rule has fired, since the evaluator is not needed to lint a policy that is in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.model import Platform
from jewelhouse.release.aws_conditions import Slot, Term, bounds
from jewelhouse.release.aws_facts import Way
from jewelhouse.release.aws_keys import ZERO, is_attestation
from jewelhouse.release.aws_statements import account_of, is_root, root
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate

KINDS: Mapping[Platform, Kind] = {
    Platform.AWS_ENCLAVE: Kind.NITRO_ENCLAVE,
    Platform.AWS_NITROTPM: Kind.NITRO_TPM,
}
# A moment for policies that name none, so that findings do not change from run to run.
MOMENT = datetime(2026, 11, 1, tzinfo=UTC)
# What another image measures to, in place of every register that nobody pinned.
OTHER = hashlib.sha384(b"another image").hexdigest()
STRANGER = "arn:aws:iam::999999999999:role/stranger"
# A debug enclave reports zeros in these (aws/aws-nitro-enclaves-nsm-api: docs/attestation_process.md).
DEBUG_ZEROES = ("PCR0", "PCR1", "PCR2", "PCR8")
EVERYTHING: Mapping[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}],
}


def document_of(
    platform: Platform, registers: Mapping[str, str], at: datetime, *, debug: bool = False
) -> Verdict:
    """Verified evidence of `platform` with these registers; the others are those of another image."""
    if platform is Platform.AWS_ENCLAVE:
        found = {f"PCR{n}": OTHER if n < 5 else ZERO for n in range(16)}
    else:
        found = {f"PCR{n}": OTHER for n in range(24)}
    if debug:
        found |= dict.fromkeys(DEBUG_ZEROES, ZERO)
    return Verdict(
        kind=KINDS[platform], verified=True, debug=debug, at=at, measurements={**found, **registers}
    )


def request_of(way: Way, **changes: Any) -> Request:
    """A request that meets everything of a way that is not evidence."""
    clock = way.term.get("aws:CurrentTime")
    since, until = bounds(clock) if clock else (None, None)
    at = until - timedelta(seconds=1) if until else since or MOMENT
    principal = _somebody(way)
    delegated = (EVERYTHING,) if is_root(way.principal) else ()
    return Request(
        at=at,
        principal=principal,
        action=changes.pop("action", way.action),
        context=_context(way.term),
        identity_policies=changes.pop("identity_policies", delegated),
        **changes,
    )


def released(document: Document, verdict: Verdict | None, request: Request) -> dict[str, Any] | None:
    """The counter-example for a finding, or None where the document does not release to this."""
    decision = evaluate(document, verdict, request)
    if not decision.released:
        return None
    evidence = None
    if verdict is not None:
        evidence = {
            "kind": verdict.kind.value,
            "debug": verdict.debug,
            "measurements": dict(verdict.measurements),
        }
    found = {
        "evidence": evidence,
        "principal": request.principal,
        "action": request.action,
        "because": [reason.json() for reason in decision.because],
    }
    if request.grants:
        found["grants"] = [dict(grant) for grant in request.grants]
    if request.identity_policies:
        found["identity_policies"] = [dict(policy) for policy in request.identity_policies]
    return found


def grant_to(principal: str) -> dict[str, Any]:
    """A grant as ListGrants prints it: it names operations and cannot name a measurement."""
    return {"GrantId": "0" * 64, "GranteePrincipal": principal, "Operations": ["Decrypt"], "Constraints": {}}


def _somebody(way: Way) -> str:
    """Anybody whom the principal of a way means, other than those that it is meant for."""
    named = way.term.get("aws:PrincipalArn")
    if named is not None and named.values:
        return min(named.values)
    account = account_of(way.principal)
    if way.principal == "*":
        accounts = way.term.get("aws:PrincipalAccount") or way.term.get("kms:CallerAccount")
        account = min(accounts.values) if accounts and accounts.values else account_of(STRANGER)
    elif not is_root(way.principal):
        return way.principal
    return root(str(account)).replace(":root", ":role/somebody")


def _context(term: Term) -> dict[str, tuple[str, ...]]:
    found = {
        key: _value(slot)
        for key, slot in term.items()
        if not slot.absent
        and not is_attestation(key)
        and not key.startswith(("aws:Principal", "aws:CurrentTime"))
    }
    return {key: (value,) for key, value in found.items() if value is not None}


def _value(slot: Slot) -> str | None:
    if slot.values:
        return min(slot.values)
    patterns = [test.values[0] for test, holds in slot.others if holds and test.values]
    return patterns[0].replace("*", "x").replace("?", "x") if patterns else "anything"
