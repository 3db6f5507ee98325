"""Tokens that a sound document of Google refuses, made from the values of the document itself.

A mistake shows where one of them is released: `jewelhouse.release.evaluate` says so. Forms of tokens:
docs.cloud.google.com/confidential-computing/confidential-space/docs/reference/token-claims and
.../confidential-vm/docs/token-claims, 2026-04; project-oak/oak: ctf_sha2/confidential_space/samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate.decision import Request
from jewelhouse.release.facts import Opening
from jewelhouse.release.gcp_claims import PLAIN, Claims, changed, get, meet, split
from jewelhouse.release.gcp_facts import parse

Case = tuple[str, Verdict | None, Request]

# A moment for documents that name none, so that findings do not change from run to run.
MOMENT = datetime(2026, 11, 1, tzinfo=UTC)
# Documents have a handful of openings; beyond this nothing new is shown.
OPENINGS = 40
STRANGER = "workload@stranger-project.iam.gserviceaccount.com"
OTHER_DIGEST = "sha256:" + "0d" * 32

GPU: Mapping[str, Any] = {
    "cc_mode": "ON",
    "cc_feature": "SPT",
    "gpus": [
        {"hwmodel": "GCP_NVIDIA_H100", "driver_version": "575.57.08", "vbios_version": "96.00.CF.00.02"}
    ],
}


def hostile(document: Document) -> Iterator[Case]:
    """Named hostile evidence against each opening of a document.

    No token, debug and other images, other projects and accounts, hardware that is not confidential,
    overrides, a GPU out of its confidential mode, a foreign issuer or audience, an ended licence, each pinned
    claim changed or missing. What another opening is meant to release is left out.
    """
    request = Request(at=MOMENT)
    yield "no token", None, request
    yield "no token, any Google account", None, replace(request, principal="user:stranger@example.com")
    openings = attested(parse(document.body).openings)
    for number, opening in enumerate(openings[:OPENINGS]):
        claims, request = example(opening)
        for name, other in _changes(opening, claims):
            yield f"opening {number}: {name}", _verdict(other), request
        for name, other, at in _lookalikes(opening, claims, request.at):
            if not any(_may_meet(one, other, at) for one in openings):
                yield f"opening {number}: {name}", _verdict(other), replace(request, at=at)


def attested(openings: Iterable[Opening]) -> list[Opening]:
    """The openings that ask for a token, in a fixed order."""
    return sorted((one for one in openings if one.principal is None), key=repr)


def example(opening: Opening) -> tuple[Claims, Request]:
    """A token that an opening is meant for, and a moment at which it is open."""
    space = opening.claims.get("assertion.swname") != "GCE"
    claims = _space() if space else _vm()
    if any("nvidia_gpu" in path for path in opening.claims):
        claims["submods"]["nvidia_gpu"] = copy.deepcopy(dict(GPU))
    for path, value in opening.claims.items():
        meet(claims, path, value)
    at = MOMENT if opening.until is None else min(MOMENT, opening.until - timedelta(days=1))
    return claims, Request(at=at)


def counterexample(document: Document, *names: str) -> dict[str, Any] | None:
    """Hostile evidence of one of `names`, in their order, that is released; in the form that findings show.

    None when there is none, and where the CEL library is not installed: a rule stands without it.
    """
    try:
        from jewelhouse.release.evaluate.gcp import evaluate
    except ImportError:
        return None
    cases = [(case[0].rpartition(": ")[2], *case[1:]) for case in hostile(document)]
    wanted = [case for name in names for case in cases if case[0] == name]
    for name, verdict, request in wanted:
        decision = evaluate(document, verdict, request)
        if decision.released:
            evidence = None
            if verdict is not None:
                evidence = {
                    "kind": verdict.kind.value,
                    "debug": verdict.debug,
                    "claims": dict(verdict.claims),
                }
            return {
                "name": name,
                "evidence": evidence,
                "principal": request.principal,
                "because": [reason.json() for reason in decision.because],
            }
    return None


def _space() -> Claims:
    """A hardened Confidential Space workload on TDX."""
    return {
        "aud": "https://sts.googleapis.com",
        "iss": "https://confidentialcomputing.googleapis.com",
        "sub": "https://www.googleapis.com/compute/v1/projects/example-project/zones/europe-west4-a/instances/one",
        "secboot": True,
        "oemid": 11129,
        "hwmodel": "GCP_INTEL_TDX",
        "swname": "CONFIDENTIAL_SPACE",
        "swversion": ["260100"],
        "attester_tcb": ["INTEL"],
        "dbgstat": "disabled-since-boot",
        "submods": {
            "confidential_space": {
                "support_attributes": ["LATEST", "STABLE", "USABLE"],
                "monitoring_enabled": {"memory": False},
            },
            "container": {
                "image_reference": f"europe-docker.pkg.dev/example-project/images/one@{OTHER_DIGEST}",
                "image_digest": OTHER_DIGEST,
                "restart_policy": "Never",
                "image_id": "sha256:" + "1d" * 32,
                "env": {"HOSTNAME": "one"},
                "args": ["/one"],
            },
            "gce": {
                "zone": "europe-west4-a",
                "project_id": "example-project",
                "project_number": "100000000000",
                "instance_name": "one",
                "instance_id": "3087957179640521392",
            },
        },
        "google_service_accounts": [],
    }


def _vm() -> Claims:
    """A plain Confidential VM: no container, no Confidential Space, no dbgstat."""
    claims = _space()
    claims["swname"] = "GCE"
    del claims["dbgstat"], claims["submods"]["confidential_space"], claims["submods"]["container"]
    return claims


def _verdict(claims: Claims) -> Verdict:
    debug = claims.get("dbgstat") not in (None, "disabled-since-boot")
    kind = Kind.GCE_VM if claims.get("swname") == "GCE" else Kind.CONFIDENTIAL_SPACE
    return Verdict(kind=kind, verified=True, debug=debug, at=MOMENT, claims=claims)


_SUPPORT = "assertion.submods.confidential_space.support_attributes"
_CONTAINER = "assertion.submods.container"
_GCE = "assertion.submods.gce"
_GPU = "assertion.submods.nvidia_gpu"

# Name -> claims that differ. `...` takes a claim away.
ANY_TOKEN: Mapping[str, Mapping[str, Any]] = {
    "hardware that is not confidential": {"assertion.hwmodel": "GCP_SHIELDED_VM"},
    "secure boot off": {"assertion.secboot": False},
    "another project": {
        f"{_GCE}.project_id": "stranger-project",
        f"{_GCE}.project_number": "999999999999",
        "assertion.google_service_accounts": [STRANGER],
    },
    "another project with the same service account": {
        f"{_GCE}.project_id": "stranger-project",
        f"{_GCE}.project_number": "999999999999",
    },
    "another service account": {"assertion.google_service_accounts": [STRANGER]},
    "a foreign issuer": {"assertion.iss": "https://accounts.example.com"},
    "a token for another audience": {"assertion.aud": "https://relying-party.example.com"},
}
SPACE_TOKEN: Mapping[str, Mapping[str, Any]] = {
    "the debug image": {"assertion.dbgstat": "enabled", _SUPPORT: ...},
    # One write-up of 2026-06 saw these attributes on a debug image; Google's pages say that it has none.
    "the debug image with support attributes": {
        "assertion.dbgstat": "enabled",
        _SUPPORT: ["LATEST", "STABLE", "USABLE"],
    },
    "an experimental image": {_SUPPORT: ["EXPERIMENTAL"]},
    "an image out of support": {_SUPPORT: ...},
    "another image": {f"{_CONTAINER}.image_digest": "sha256:" + "e7" * 32},
    "another image under the same tag": {
        f"{_CONTAINER}.image_digest": "sha256:" + "e7" * 32,
        f"{_CONTAINER}.image_id": "sha256:" + "e8" * 32,
    },
    "an overridden environment": {f"{_CONTAINER}.env_override": {"LD_PRELOAD": "/tmp/mine.so"}},
    "an overridden command": {f"{_CONTAINER}.cmd_override": ["/bin/sh"]},
    "a plain Confidential VM": {
        "assertion.swname": "GCE",
        "assertion.dbgstat": ...,
        "assertion.submods.confidential_space": ...,
        _CONTAINER: ...,
    },
}
GPU_TOKEN: Mapping[str, Mapping[str, Any]] = {
    "a GPU with its mode off": {f"{_GPU}.cc_mode": "OFF"},
    "a GPU in developer mode": {f"{_GPU}.cc_mode": "DEVTOOLS"},
    "no GPU": {_GPU: ...},
    "the debug image with a confidential GPU": {
        "assertion.dbgstat": "enabled",
        _SUPPORT: ...,
        f"{_GPU}.cc_mode": "ON",
    },
}


def _changes(opening: Opening, claims: Claims) -> Iterator[tuple[str, Claims]]:
    """Tokens that no gate may ever mean, for what this opening asks."""
    tables: list[Mapping[str, Mapping[str, Any]]] = [ANY_TOKEN]
    if claims.get("swname") != "GCE":
        tables.append(SPACE_TOKEN)
    if "nvidia_gpu" in claims["submods"]:
        tables.append(GPU_TOKEN)
    for table in tables:
        for name, changes in table.items():
            yield name, changed(claims, changes)


def _lookalikes(opening: Opening, claims: Claims, at: datetime) -> Iterator[tuple[str, Claims, datetime]]:
    """Tokens of this opening with one pinned claim changed or missing, and after its end."""
    for path, value in opening.claims.items():
        plain, relation = split(path)
        if not PLAIN.fullmatch(plain) or relation == "empty":
            continue
        yield f"{plain} missing", changed(claims, {plain: ...}), at
        if value is not None and not relation:
            other: Any = value == "false" if value in ("true", "false") else f"{value}x"
            yield f"{plain} changed", changed(claims, {plain: other}), at
    if opening.until is not None:
        yield "after the end of its licence", claims, opening.until
        yield "a year after the end of its licence", claims, opening.until + timedelta(days=365)


def _may_meet(opening: Opening, claims: Claims, at: datetime) -> bool:
    """Whether a token may pass an opening: false only where a claim it asks for certainly differs."""
    if opening.until is not None and at >= opening.until:
        return False
    return all(_may_hold(path, value, claims) for path, value in opening.claims.items())


def _may_hold(path: str, value: str | None, claims: Claims) -> bool:
    plain, relation = split(path)
    if not PLAIN.fullmatch(plain):
        return True
    found = get(claims, plain)
    tests: Mapping[str, Callable[[], bool]] = {
        "": lambda: found == {"true": True, "false": False}.get(str(value), value),
        "has": lambda: isinstance(found, list) and value in found,
        "empty": lambda: not found,
        "string": lambda: found == value,
        "number": lambda: found is not None and str(found) == value,
    }
    if value is None:
        return found is not None
    return tests[relation]() if relation in tests else True
