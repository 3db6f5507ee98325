"""Evidence and requests that a sound key policy refuses, made from the values of the policy itself.

A mistake shows where one of them is released: `jewelhouse.release.evaluate` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from jewelhouse.evidence.verdict import Verdict
from jewelhouse.model import Platform
from jewelhouse.release.aws_facts import OPENS, parse
from jewelhouse.release.aws_keys import REGISTERS, ZERO
from jewelhouse.release.aws_statements import account_of, is_root, root
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request
from jewelhouse.release.facts import Opening
from jewelhouse.release.lint.aws_counterexamples import (
    DEBUG_ZEROES,
    EVERYTHING,
    MOMENT,
    STRANGER,
    document_of,
    grant_to,
)

Case = tuple[str, Verdict | None, Request]
OTHER_KIND = {
    Platform.AWS_ENCLAVE: Platform.AWS_NITROTPM,
    Platform.AWS_NITROTPM: Platform.AWS_ENCLAVE,
}
# What opens the key later, or elsewhere, when somebody who releases may do it too.
ESCALATIONS = ("kms:CreateGrant", "kms:PutKeyPolicy", "kms:ReEncryptFrom", "kms:ReplicateKey")


def hostile(document: Document) -> Iterator[Case]:
    """Named hostile evidence: no document, debug, another image, another caller, a grant, a document of the
    other kind, an ended licence. What another opening of the document is meant to release is left out."""
    facts = parse(document.body)
    meant = [(opening, found) for opening in facts.openings if (found := _registers(opening)) is not None]
    openings = sorted(meant, key=lambda one: repr(one[0]))
    everybody = {str(opening.principal) for opening in facts.openings} | {
        power.principal for power in facts.powers
    }
    yield from _without_document(sorted(everybody | {STRANGER}))
    for number, (opening, (platform, registers)) in enumerate(openings):
        for name, verdict, request in _against(opening, platform, registers):
            yield f"opening {number}: {name}", verdict, request
        for name, verdict, request in _lookalikes(opening, platform, registers, meant):
            if not any(_means(other, found, verdict, request) for other, found in meant):
                yield f"opening {number}: {name}", verdict, request


def _without_document(principals: list[str]) -> Iterator[Case]:
    for principal in principals:
        asks = Request(at=MOMENT, principal=_caller(principal), identity_policies=(EVERYTHING,))
        for action in OPENS:
            yield f"{principal} asks for {action} without a document", None, replace(asks, action=action)
        yield f"{principal} re-wraps the data key", None, replace(asks, action="kms:ReEncryptFrom")
        yield f"{principal} creates a grant", None, replace(asks, action="kms:CreateGrant")
        granted = replace(asks, grants=(grant_to(_caller(principal)),))
        yield f"{principal} holds a grant and no document", None, granted
    owner = Request(at=MOMENT, principal=root("999999999999"), identity_policies=(EVERYTHING,))
    yield "the root of another account asks without a document", None, owner


def _against(opening: Opening, platform: Platform, registers: Mapping[str, str]) -> Iterator[Case]:
    """Evidence that no gate may ever mean."""
    request = _request(opening)
    granted = replace(request, grants=(grant_to(str(request.principal)),), identity_policies=(EVERYTHING,))
    if platform is Platform.AWS_ENCLAVE:
        kept = {name: value for name, value in registers.items() if name not in DEBUG_ZEROES}
        debug = document_of(platform, kept, request.at, debug=True)
        yield "the image in debug mode", debug, request
        yield "the image in debug mode, with a grant", debug, granted
    another = document_of(platform, {}, request.at)
    yield "another image of the same role", another, request
    yield "another image of the same role, with a grant", another, granted
    for name, value in registers.items():
        if len(registers) > 1:
            yield (
                f"another image that shares {name}",
                document_of(platform, {name: value}, request.at),
                request,
            )
    other = OTHER_KIND[platform]
    yield (
        f"a document of {other} with the same values",
        document_of(other, dict.fromkeys(registers, ZERO) | dict(registers), request.at),
        request,
    )
    for action in ESCALATIONS:
        yield f"the measured image asks for {action}", None, replace(request, action=action)
    unverified = document_of(platform, registers, request.at)
    yield "the right values, and nobody verified them", replace(unverified, verified=False), request


def _lookalikes(
    opening: Opening,
    platform: Platform,
    registers: Mapping[str, str],
    meant: list[tuple[Opening, tuple[Platform, Mapping[str, str]]]],
) -> Iterator[tuple[str, Verdict, Request]]:
    """Evidence that differs from the right one in one place, which another opening may happen to mean."""
    request = _request(opening)
    right = document_of(platform, registers, request.at)
    for name, value in registers.items():
        changed = value[:-1] + ("0" if value[-1] != "0" else "1")
        yield f"{name} differs in one digit", _with(right, name, changed), request
        yield f"{name} is of zeros", _with(right, name, ZERO), request
        for other, (kind, found) in meant:
            if kind is platform and other is not opening and name in found:
                yield f"{name} of another release", _with(right, name, found[name]), request
    account = account_of(str(request.principal))
    for caller in (
        STRANGER,
        root("999999999999"),
        *((f"arn:aws:iam::{account}:role/other", root(account)) if account else ()),
    ):
        asks = replace(request, principal=caller, identity_policies=(EVERYTHING,))
        yield f"{caller} shows the right document", right, asks
    if opening.until:
        for late in (timedelta(), timedelta(days=1), timedelta(days=3650)):
            end = _later(opening.until, late)
            yield f"the licence ended {late.days} days ago", replace(right, at=end), replace(request, at=end)


def _registers(opening: Opening) -> tuple[Platform, Mapping[str, str]] | None:
    """What evidence an opening means, or None where it needs none."""
    found = {REGISTERS[key]: value for key, value in opening.claims.items() if key in REGISTERS and value}
    kinds = {platform for platform, _ in found}
    if len(kinds) != 1:
        return None
    return kinds.pop(), {name: value for (_, name), value in found.items()}


def _means(
    opening: Opening, found: tuple[Platform, Mapping[str, str]], verdict: Verdict, request: Request
) -> bool:
    _, registers = found
    caller = str(request.principal)
    account = account_of(caller)
    named = opening.principal in ("*", caller) or (account is not None and opening.principal == root(account))
    return (
        named
        and all(verdict.measurements.get(name) == value for name, value in registers.items())
        and (opening.until is None or request.at < opening.until)
    )


def _request(opening: Opening) -> Request:
    at = opening.until - timedelta(seconds=1) if opening.until else MOMENT
    context = {
        key: (value,)
        for key, value in opening.claims.items()
        if value and key not in REGISTERS and key != "action" and not key.endswith(")")
    }
    action = opening.claims.get("action") or OPENS[0]
    return Request(at=at, principal=_caller(str(opening.principal)), action=action, context=context)


def _caller(principal: str) -> str:
    """Somebody whom a principal of a policy means."""
    if principal == "*":
        return STRANGER
    return principal.removesuffix(":root") + ":role/somebody" if is_root(principal) else principal


def _with(verdict: Verdict, name: str, value: str) -> Verdict:
    return replace(verdict, measurements={**verdict.measurements, name: value})


def _later(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment
