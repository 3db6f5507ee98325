"""Policies, documents and tokens of Google that tests of release change in one place at a time."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from jewelhouse.evidence import confidential_space
from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.model import AttestedKey, Cloud, GcpAccount, Measurements, Platform, Tee
from jewelhouse.rehearsal.minting_tokens import ISSUED, GoogleAuthority, debug_claims, space_claims, vm_claims
from jewelhouse.release import gcp
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Decision, Request, evaluate
from jewelhouse.release.policy import Gate, ReleasePolicy

SPACE, VM = Platform.GCP_CONFIDENTIAL_SPACE, Platform.GCP_CVM
AT = ISSUED + timedelta(minutes=1)
DIGEST = "sha256:" + "e2" * 32
OTHER = "sha256:" + "0d" * 32
CONTAINER, GCE, GPU = ("submods", "container"), ("submods", "gce"), ("submods", "nvidia_gpu")
SUPPORT = ("submods", "confidential_space", "support_attributes")
POOL = "iam.googleapis.com/projects/100000000001/locations/global/workloadIdentityPools/jh-base"
OPERATOR = GcpAccount(project="mp-run", number="724467010559")
Body = dict[str, Any]
Change = Callable[[Body], None]


def images(*digests: str) -> tuple[Measurements, ...]:
    return tuple(Measurements(values={"image_digest": digest}) for digest in digests)


def gate(stage: str = "serve", platform: Platform = SPACE, **changes: Any) -> Gate:
    base = Gate(
        stage=stage,
        platform=platform,
        tee=Tee.TDX,
        account=OPERATOR,
        measurements=images(DIGEST) if platform is SPACE else (),
        identity=f"flow-{stage}@mp-run.iam.gserviceaccount.com",
    )
    return replace(base, **changes)


def compiled(*gates: Gate) -> Body:
    key = AttestedKey("base", gates[0].platform, "europe-west4")
    owner = GcpAccount(project="mp-keys", number="100000000001")
    return gcp.compile(ReleasePolicy(key=key, owner=owner, gates=gates))


def token(**more: Any) -> Body:
    """Claims of the stage that `gate` describes."""
    return space_claims(**{"account": "flow-serve@mp-run.iam.gserviceaccount.com", **more})


def debug(**more: Any) -> Body:
    return debug_claims(**{"account": "flow-serve@mp-run.iam.gserviceaccount.com", **more})


def vm(**more: Any) -> Body:
    return vm_claims(**{"account": "flow-serve@mp-run.iam.gserviceaccount.com", **more})


@functools.cache
def authority() -> GoogleAuthority:
    return GoogleAuthority.new()


def shown(claims: Mapping[str, Any], flavour: str = "pki") -> Verdict:
    """A token with these claims, minted, signed and verified."""
    google = authority()
    return confidential_space.verify(
        google.token(claims, flavour=flavour), at=AT, endorsements=google.endorsements, roots=google.roots
    )


def asked(body: Mapping[str, Any], verdict: Verdict | None, at: datetime = AT, **request: Any) -> Decision:
    document = Document(name="base", cloud=Cloud.GCP, body=body)
    return evaluate(document, verdict, Request(at=at, **request))


def by_hand(claims: Mapping[str, Any], kind: Kind = Kind.CONFIDENTIAL_SPACE, **more: Any) -> Verdict:
    return Verdict(kind=kind, verified=True, debug=False, at=AT, claims=claims, **more)


def stands(decision: Decision, where: str, says: str) -> None:
    assert not decision.released
    found = [f"{one.where} {one.claim} {one.expected} {one.found} {one.what}" for one in decision.because]
    assert all(not one.holds for one in decision.because), found
    assert any(one.startswith(where) and says in one for one in found), found


def body(*changes: Change, **fields: Any) -> Body:
    found = {**copy.deepcopy(compiled(gate())), **fields}
    for change in changes:
        change(found)
    return found


def condition(text: str) -> Change:
    return lambda found: found.update(condition=text)


def mapped(**mapping: str) -> Change:
    return lambda found: found["mapping"].update(
        {
            f"attribute.{name}" if name != "subject" else "google.subject": text
            for name, text in mapping.items()
        }
    )


def bound(*members: str, role: str = gcp.ROLE, when: str | None = None) -> Change:
    binding: Body = {"role": role, "members": list(members)}
    if when is not None:
        binding["condition"] = {"title": "a condition", "expression": when}
    return lambda found: found.update(bindings=[binding])
