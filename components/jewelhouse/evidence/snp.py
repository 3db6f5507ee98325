"""SEV-SNP attestation reports: parsed, and verified to AMD's root keys.

Rules: SEV Secure Nested Paging Firmware ABI Specification (AMD publication 56860, revision 1.58, 2025). A
report does not say when it was made: only a nonce can show that it is fresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from jewelhouse.evidence import certificates, freshness
from jewelhouse.evidence.certificates import Certificate, Root
from jewelhouse.evidence.snp_certificates import (
    LAYOUTS,
    ROOTS,
    Endorsement,
    TcbLayout,
    endorsed,
    product_of_cpu,
)
from jewelhouse.evidence.snp_report import (
    PLATFORM_BITS,
    POLICY_BITS,
    POLICY_MUST_BE_ONE,
    Report,
    claims,
    measurements,
    parse,
)
from jewelhouse.evidence.verdict import (
    NO_ENDORSEMENTS,
    Endorsements,
    Finding,
    Kind,
    MalformedEvidence,
    Verdict,
    moment,
)

__all__ = ["ROOTS", "Report", "parse", "verify"]

ECDSA_P384_SHA384 = 1
# A host that asks for a report itself is given another VMPL (all ones): then REPORT_DATA is the host's.
LAST_VMPL = 3


def verify(
    data: bytes,
    *,
    at: datetime | None,
    endorsements: Endorsements = NO_ENDORSEMENTS,
    nonce: bytes | None = None,
    roots: Sequence[Root] = ROOTS,
) -> Verdict:
    """Verifies a report with its VCEK or VLEK and their chain, which are endorsements, at a moment.

    `at=None` is the first moment at which the whole chain was valid: a report has no time of its own.
    `nonce` must be REPORT_DATA, or its beginning with zeros behind. Raises MalformedEvidence for what is no
    report; all else that is wrong is in the verdict.
    """
    report = parse(data)
    problems: list[Finding] = []
    checked: list[str] = []
    _check_fields(report, problems)
    endorsement = endorsed(
        endorsements, roots, vlek=report.signing_key == "VLEK", chip_id=report.chip_id, problems=problems
    )
    product = _product(report, endorsement, problems)
    layout = LAYOUTS[product] if product else None
    if layout is not None:
        _check_tcb(report, layout, problems)
    chain = endorsement.chain if endorsement else ()
    at = _moment(at, chain, checked)
    certificates.check(chain, at, problems)
    if endorsement is not None:
        _check_endorsement(report, endorsement, layout, problems)
        if _signature_holds(report, endorsement.leaf):
            checked.append(f"the report is signed by the key of {endorsement.leaf.name}")
        else:
            problems.append(Finding("signature", f"is not made by the key of {endorsement.leaf.name}"))
        if endorsement.root is not None:
            checked.append(f"the chain ends at AMD's pinned root key for {endorsement.root.name}")
    freshness.check(report.report_data, nonce, where="REPORT_DATA", problems=problems, checked=checked)
    return Verdict(
        kind=Kind.SEV_SNP,
        verified=not problems,
        debug=report.debug,
        at=at,
        chain=tuple(one.line for one in chain),
        measurements=measurements(report),
        claims=claims(report, product, layout),
        nonce=report.report_data,
        checked=tuple(checked),
        problems=tuple(problems),
    )


def _check_fields(report: Report, problems: list[Finding]) -> None:
    problems.extend(Finding(where, "is reserved and must be zero") for where in report.reserved)
    if not report.policy >> POLICY_MUST_BE_ONE & 1:
        problems.append(Finding("policy", f"bit {POLICY_MUST_BE_ONE} is reserved and must be one"))
    known = 0xFFFF | 1 << POLICY_MUST_BE_ONE | sum(1 << bit for bit in POLICY_BITS)
    for where, value, bits in (
        ("policy", report.policy, known),
        ("platform_info", report.platform_info, sum(1 << bit for bit in PLATFORM_BITS)),
        ("key_info", report.key_info, 0x1F),
    ):
        if value & ~bits:
            problems.append(Finding(where, f"has reserved bits: {value & ~bits:#x}"))
    if report.signature_algorithm != ECDSA_P384_SHA384:
        number = report.signature_algorithm
        problems.append(Finding("signature_algorithm", f"is {number}, expected 1 (ECDSA P-384 with SHA-384)"))
    if report.signing_key not in ("VCEK", "VLEK"):
        problems.append(Finding("key_info", f"names as signing key: {report.signing_key}"))
    if report.vmpl > LAST_VMPL:
        problems.append(Finding("vmpl", f"is {report.vmpl:#x}: the host asked for it, not the guest"))


def _product(report: Report, endorsement: Endorsement | None, problems: list[Finding]) -> str | None:
    """The product line that root, certificate and (from version 3) processor agree on."""
    said: dict[str, str | None] = {}
    if report.cpuid is not None:
        family, model, _ = report.cpuid
        said["cpuid"] = product_of_cpu(family, model)
        if said["cpuid"] is None:
            problems.append(Finding("cpuid", f"family {family:#x} model {model:#x} is no known product"))
    if endorsement is not None:
        said[endorsement.leaf.name] = endorsement.product
        if endorsement.root is not None:
            said["the root key"] = endorsement.root.name
    products = {product for product in said.values() if product is not None}
    if len(products) > 1:
        listed = ", ".join(f"{who} says {product}" for who, product in said.items())
        problems.append(Finding("product", f"is not one: {listed}"))
        return None
    product = products.pop() if products else None
    return product if product in LAYOUTS else None


def _check_tcb(report: Report, layout: TcbLayout, problems: list[Finding]) -> None:
    for where in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        value = getattr(report, where)
        if any(value[at] for at in layout.reserved):
            problems.append(Finding(where, "has reserved bytes that must be zero"))


def _check_endorsement(
    report: Report, endorsement: Endorsement, layout: TcbLayout | None, problems: list[Finding]
) -> None:
    """The certificate was issued for this chip and for the firmware that the report claims."""
    where = endorsement.leaf.name
    if endorsement.chip_id is not None:
        chip, rest = report.chip_id[: len(endorsement.chip_id)], report.chip_id[len(endorsement.chip_id) :]
        if not any(report.chip_id):
            problems.append(Finding("chip_id", f"is masked: it cannot be compared with the hwID of {where}"))
        elif chip != endorsement.chip_id or any(rest):
            problems.append(Finding("chip_id", f"is not the hwID of {where}: it is of another chip"))
    if layout is None:
        return
    for name, at in layout.parts.items():
        issued, reported = endorsement.tcb.get(name), report.reported_tcb[at]
        if issued != reported:
            problems.append(
                Finding(f"reported_tcb.{name}", f"is {reported}, {where} is for {issued}: another TCB")
            )


def _signature_holds(report: Report, signer: Certificate) -> bool:
    try:
        key = signer.public_key
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            return False
        key.verify(encode_dss_signature(*report.signature), report.signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, MalformedEvidence):
        return False
    return True


def _moment(at: datetime | None, chain: Sequence[Certificate], checked: list[str]) -> datetime:
    if at is not None:
        return at
    if not chain:
        checked.append("no moment: a report has no time of its own, and no certificate gives one")
        return datetime.fromtimestamp(0, UTC)
    first = max(one.start for one in chain)
    began = moment(first)
    checked.append(f"appraised at {began}, when its chain began to be valid: a report has no time of its own")
    return first
