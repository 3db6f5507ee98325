"""TDX quotes, versions 4 and 5: parsed, and verified to Intel's root with saved collateral.

A quote holds the chain of its signer, so signature and chain can be checked offline. Whether the platform's
firmware was up to date and its certificates not revoked takes Intel's collateral of that time, which lives
for 30 days; dcap-qvl judges it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from jewelhouse.evidence import certificates, freshness, tdx_collateral
from jewelhouse.evidence.certificates import Certificate, Root
from jewelhouse.evidence.tdx_quote import MEASUREMENTS, Quote, claims, parse
from jewelhouse.evidence.verdict import (
    NO_ENDORSEMENTS,
    Endorsements,
    Finding,
    Kind,
    MalformedEvidence,
    Verdict,
    moment,
)

__all__ = ["ROOTS", "Quote", "parse", "verify"]

ROOTS: tuple[Root, ...] = (
    Root(
        key="a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e",
        name="Intel SGX Root CA",
        source="certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem; "
        "google/go-tdx-guest: verify/trusted_root.pem, commit 91f9a52f",
    ),
)


def verify(
    data: bytes,
    *,
    at: datetime | None,
    endorsements: Endorsements = NO_ENDORSEMENTS,
    nonce: bytes | None = None,
    roots: Sequence[Root] = ROOTS,
) -> Verdict:
    """Verifies a quote at a moment, with the collateral for its platform, which is an endorsement.

    `at=None` is the moment at which that collateral was complete: a quote has no time of its own. Without
    collateral it is not verified; the verdict says what holds all the same. Raises MalformedEvidence for what
    is no TDX quote.
    """
    quote = parse(data)
    problems: list[Finding] = []
    checked: list[str] = []
    if quote.rest:
        problems.append(Finding("end", f"{quote.padding} bytes stand behind the quote, which nothing signs"))
    elif quote.padding:
        checked.append(f"{quote.padding} zero bytes behind the quote were left out")
    found: list[Finding] = []
    chain = _chain(quote, roots, found, checked)
    _check_signatures(quote, chain, found, checked)
    collateral = tdx_collateral.fitting(endorsements, tdx_collateral.fmspc(chain), problems)
    at = _moment(at, collateral, chain, checked)
    certificates.check(chain, at, found)
    problems.extend(found)
    said = claims(quote)
    if collateral is None:
        problems.append(
            Finding(
                "collateral", "is missing: TCB status and revocation are not known; save it with the quote"
            )
        )
    elif not found:
        said["tcb"] = collateral.judge(data[: len(data) - quote.padding], chain, roots, at, problems, checked)
    freshness.check(quote.report["reportdata"], nonce, where="REPORTDATA", problems=problems, checked=checked)
    return Verdict(
        kind=Kind.TDX,
        verified=not problems,
        debug=quote.debug,
        at=at,
        expires=collateral.expires if collateral else None,
        chain=tuple(one.line for one in chain),
        measurements={
            name.upper(): quote.report[name].hex() for name in MEASUREMENTS if name in quote.report
        },
        claims=said,
        nonce=quote.report["reportdata"],
        checked=tuple(checked),
        problems=tuple(problems),
    )


def _chain(
    quote: Quote, roots: Sequence[Root], problems: list[Finding], checked: list[str]
) -> tuple[Certificate, ...]:
    if not quote.certificates:
        problems.append(Finding("PCK chain", "has no certificates"))
        return ()
    chain, root = certificates.path(quote.certificates[0], quote.certificates, roots, problems)
    if root is not None:
        checked.append(f"the chain ends at the pinned key of {root.name}")
        if chain != quote.certificates:
            problems.append(Finding("PCK chain", "holds other certificates than those from platform to root"))
    return chain


def _check_signatures(
    quote: Quote, chain: Sequence[Certificate], problems: list[Finding], checked: list[str]
) -> None:
    """TD report by the attestation key, that key by the quoting enclave, and that enclave by the platform."""
    wrong: list[Finding] = []
    key = _point(quote.attestation_key)
    if key is None or not _signed(key, quote.signature, quote.signed):
        wrong.append(Finding("signature", "of the TD report is not made by the attestation key"))
    vouched = hashlib.sha256(quote.attestation_key + quote.quoting_data).digest().ljust(64, b"\0")
    if quote.quoting_report[-64:] != vouched:
        wrong.append(Finding("attestation key", "is not the one that the quoting enclave vouches for"))
    if not chain or not _signed(_public_key(chain[0]), quote.quoting_signature, quote.quoting_report):
        wrong.append(Finding("quoting enclave", "its report is not signed by the key of the platform"))
    if not wrong:
        checked.append("the TD report is signed by an attestation key that the platform's key vouches for")
    problems.extend(wrong)


def _point(raw: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError:
        return None


def _public_key(certificate: Certificate) -> Any:
    try:
        return certificate.public_key
    except MalformedEvidence:
        return None


def _signed(key: Any, signature: bytes, message: bytes) -> bool:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _moment(
    at: datetime | None,
    collateral: tdx_collateral.Collateral | None,
    chain: Sequence[Certificate],
    checked: list[str],
) -> datetime:
    if at is not None:
        return at
    if collateral is not None:
        issued = moment(collateral.issued)
        checked.append(
            f"appraised at {issued}, when its collateral was issued: a quote has no time of its own"
        )
        return collateral.issued
    if not chain:
        checked.append("no moment: a quote has no time of its own, and no certificate gives one")
        return datetime.fromtimestamp(0, UTC)
    first = max(one.start for one in chain)
    began = moment(first)
    checked.append(f"appraised at {began}, when its chain began to be valid: a quote has no time of its own")
    return first
