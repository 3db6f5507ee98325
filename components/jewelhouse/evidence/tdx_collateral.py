"""Intel's collateral for a TDX platform, as dcap-qvl saves it.

It holds TCB information, the identity of the quoting enclave, revocation lists, and the chains that sign
them. Intel's Provisioning Certification Service issues it for 30 days, so a quote of last year can only be
judged at a moment of last year.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dcap_qvl
from cryptography import x509

from jewelhouse.evidence import certificates
from jewelhouse.evidence.certificates import Certificate, Root
from jewelhouse.evidence.verdict import Endorsements, Finding, MalformedEvidence, moment

# Real collateral has 20 KiB; revocation lists may grow.
SIZE_LIMIT = 4 * 1024 * 1024
MEMBERS = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
)
SIGNERS = ("tcb_info_issuer_chain", "qe_identity_issuer_chain")
# FMSPC in the SGX extension of a PCK certificate: its identifier 1.2.840.113741.1.13.1.4, then 6 bytes.
SGX_EXTENSION = "1.2.840.113741.1.13.1"
FMSPC = re.compile(rb"\x06\x0a\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01\x04\x04\x06(.{6})", re.DOTALL)
DATES = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, kw_only=True)
class Collateral:
    """`members`: as dcap-qvl reads them; `fmspc`: the platforms it is for; `issued`: when the youngest of its
    parts was; `expires`: when the first of them is no longer believed."""

    members: Mapping[str, str]
    fmspc: str
    issued: datetime
    expires: datetime

    def judge(
        self,
        quote: bytes,
        chain: Sequence[Certificate],
        roots: Sequence[Root],
        at: datetime,
        problems: list[Finding],
        checked: list[str],
    ) -> dict[str, Any]:
        """What Intel says of the platform of a quote at a moment.

        The quote and its `chain` must have been verified, and the chains of the collateral are verified here:
        dcap-qvl 0.7.0 ends the whole process (a Rust panic, built to abort) on a certificate whose issuer has
        another name than the one above it.
        """
        claims: dict[str, Any] = {"fmspc": self.fmspc, "issued": moment(self.issued)}
        found: list[Finding] = []
        for name in SIGNERS:
            _check_chain(name, self.members[name], chain[-1], roots, at, found)
        problems.extend(found)
        if found:
            return claims
        try:
            saved = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(self.members))
            seconds = max(0, int(at.timestamp()))
            report = dcap_qvl.verify_with_root_ca(quote, saved, chain[-1].der, seconds)
        except ValueError as error:
            what = str(error).removeprefix("Verification failed: ").splitlines()[0][:200]
            problems.append(Finding("collateral", f"does not verify the quote at {moment(at)}: {what}"))
            return claims
        advisories = list(report.advisory_ids)
        claims |= {"status": report.status, "advisories": advisories}
        named = f", advisories {', '.join(advisories)}" if advisories else ""
        checked.append(f"Intel's collateral: TCB status {report.status}{named}")
        return claims


def fmspc(chain: Sequence[Certificate]) -> str | None:
    """Family, model, stepping, platform and custom SKU, which say what TCB information is for a platform.
    Only to choose by: dcap-qvl reads it again from the verified certificate."""
    _, extension = chain[0].extensions.get(SGX_EXTENSION, (False, b"")) if chain else (False, b"")
    found = FMSPC.search(extension)
    return found.group(1).hex() if found else None


def fitting(endorsements: Endorsements, platform: str | None, problems: list[Finding]) -> Collateral | None:
    """The collateral for a platform; of another platform's the first, so that the verdict can say so."""
    found = list(_found(endorsements, problems))
    fits = (one for one in found if platform is not None and one.fmspc.lower() == platform)
    return next(fits, found[0] if found else None)


def _found(endorsements: Endorsements, problems: list[Finding]) -> Iterator[Collateral]:
    for number, raw in enumerate(endorsements.files, 1):
        where = f"endorsement {number}"
        if raw.lstrip()[:1] != b"{" or b'"tcb_info"' not in raw or b'"qe_identity"' not in raw:
            continue
        if len(raw) > SIZE_LIMIT:
            problems.append(Finding(where, f"has {len(raw)} bytes, collateral has at most {SIZE_LIMIT}"))
            continue
        try:
            yield _read(raw)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"[:120]
            problems.append(Finding(where, f"is no collateral that can be read: {reason}"))


def _read(raw: bytes) -> Collateral:
    value = json.loads(raw)
    missing = [name for name in MEMBERS if not isinstance(value.get(name), str)]
    if missing:
        raise ValueError(f"no text in {', '.join(missing)}")
    tcb, identity = json.loads(value["tcb_info"]), json.loads(value["qe_identity"])
    issued = [_date(one["issueDate"]) for one in (tcb, identity)]
    expires = [_date(one["nextUpdate"]) for one in (tcb, identity)]
    for name in ("root_ca_crl", "pck_crl"):
        listed = x509.load_der_x509_crl(binascii.unhexlify(value[name]))
        issued.append(listed.last_update_utc)
        if listed.next_update_utc is None:
            raise ValueError(f"{name} does not say when it ends")
        expires.append(listed.next_update_utc)
    # A PCK chain beside these is left out: it would stand in for the one inside the quote.
    members = {name: value[name] for name in MEMBERS}
    return Collateral(members=members, fmspc=str(tcb["fmspc"])[:32], issued=max(issued), expires=min(expires))


def _check_chain(
    name: str,
    text: str,
    root: Certificate,
    roots: Sequence[Root],
    at: datetime,
    problems: list[Finding],
) -> None:
    """A signer of collateral, certified by the root of the quote's own chain."""
    found: list[Finding] = []
    try:
        pool = [certificates.read(der, name) for der in certificates.blocks(text.encode("utf-8", "replace"))]
        if not pool:
            raise MalformedEvidence("has no certificates", where=name)
        chain, pinned = certificates.path(pool[0], pool, roots, found)
        certificates.check(chain, at, found)
        if pinned is not None and (chain != tuple(pool) or chain[-1].key != root.key):
            found.append(Finding(name, "holds other certificates than those from the signer to the root"))
    except MalformedEvidence as error:
        found.append(Finding(error.where or name, error.what))
    problems.extend(Finding(f"collateral {name}: {one.where}", one.what) for one in found)


def _date(text: str) -> datetime:
    return datetime.strptime(text, DATES).replace(tzinfo=UTC)
