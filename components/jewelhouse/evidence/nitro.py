"""Attestation documents of Nitro Enclaves and of NitroTPM: COSE_Sign1 with ES384, to AWS's root.

aws/aws-nitro-enclaves-nsm-api docs/attestation_process.md, section 3.2.3: certificates and their rules.
Documents of NitroTPM have `nitrotpm_pcrs` in the place of `pcrs` and chain to the same root
(docs.aws.amazon.com/AWSEC2/latest/UserGuide/nitrotpm-attestation-document-validate.html).

Debug never shows in the signature: a debug enclave reports PCR0, PCR1 and PCR2 of zeros and keeps PCR3 and
PCR4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from jewelhouse.evidence.nitro_document import Document, parse
from jewelhouse.evidence.verdict import NO_ENDORSEMENTS, Endorsements, Finding, Kind, Verdict, moment

__all__ = ["ROOTS", "Document", "Root", "line", "parse", "usable", "verify"]

# What the library raises, as late as when a part is asked for, for a certificate that is none.
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)
DEBUG_REGISTERS = (0, 1, 2)
MODULE_ID = {
    Kind.NITRO_ENCLAVE: re.compile(r"i-[0-9a-f]+-enc[0-9a-f]+"),
    Kind.NITRO_TPM: re.compile(r"i-[0-9a-f]+-tpm[0-9a-f]+"),
}


@dataclass(frozen=True, kw_only=True)
class Root:
    """A pinned trust anchor. `fingerprint`: SHA-256 of the root certificate's DER, lower-case hex."""

    name: str
    fingerprint: str
    source: str


ROOTS = (
    Root(
        name="AWS Nitro Enclaves Root-G1",
        fingerprint="641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",
        source="docs.aws.amazon.com/enclaves/latest/user/verify-root.html, 2026-10; commercial partition",
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
    """Verifies a document at a moment; `at=None` is its own timestamp. Documents need no endorsements.

    Raises MalformedEvidence when the bytes are no document.
    """
    document = parse(data)
    moment_of_appraisal = at or document.timestamp
    problems: list[Finding] = []
    checked: list[str] = []
    leaf, chain = _chain(document, moment_of_appraisal, roots, problems, checked)
    if leaf is not None:
        _signature(document, leaf, problems, checked)
    if not MODULE_ID[document.kind].fullmatch(document.module_id):
        problems.append(Finding("module_id", f"is {document.module_id[:80]!r}, not one of {document.kind}"))
    if document.digest != "SHA384":
        problems.append(Finding("digest", f"is {document.digest}: KMS compares SHA-384"))
    if document.timestamp > moment_of_appraisal:
        problems.append(
            Finding("timestamp", f"is {moment(document.timestamp)}, after {moment(moment_of_appraisal)}")
        )
    if nonce is None:
        checked.append("freshness was not checked: no nonce was given")
    elif not nonce or document.nonce != nonce:
        found = "absent" if document.nonce is None else document.nonce.hex() or "empty"
        problems.append(Finding("nonce", f"is {found}, not the challenge {nonce.hex() or '(empty)'}"))
    else:
        checked.append("nonce is the challenge")
    debug = document.kind is Kind.NITRO_ENCLAVE and not any(
        any(document.registers.get(index, b"")) for index in DEBUG_REGISTERS
    )
    return Verdict(
        kind=document.kind,
        verified=not problems,
        debug=debug,
        at=moment_of_appraisal,
        issued=document.timestamp,
        expires=leaf.not_valid_after_utc if leaf is not None else None,
        chain=chain,
        measurements=document.measurements,
        claims={
            "module_id": document.module_id,
            "digest": document.digest,
            "timestamp": document.milliseconds,
            "public_key": document.public_key.hex() if document.public_key is not None else None,
            "public_key_usable": usable(document.public_key),
            "user_data": document.user_data.hex() if document.user_data is not None else None,
            "nonce": document.nonce.hex() if document.nonce is not None else None,
        },
        nonce=document.nonce,
        checked=tuple(checked),
        problems=tuple(problems),
    )


def usable(key: bytes | None) -> bool:
    """Whether KMS could encrypt a reply to a document's public key: RSA, 2048 bits, SubjectPublicKeyInfo
    (aws/aws-nitro-enclaves-sdk-c: docs/kms-apis/RecipientRequest.md)."""
    if not key:
        return False
    try:
        loaded = load_der_public_key(key)
    except UNREADABLE:
        return False
    return isinstance(loaded, rsa.RSAPublicKey) and loaded.key_size >= 2048


def _chain(
    document: Document,
    at: datetime,
    roots: Sequence[Root],
    problems: list[Finding],
    checked: list[str],
) -> tuple[x509.Certificate | None, tuple[str, ...]]:
    """The leaf, and the chain from it to the root as it was verified or, failing that, as it was sent."""
    try:
        leaf = x509.load_der_x509_certificate(document.certificate)
        bundle = [x509.load_der_x509_certificate(der) for der in document.bundle]
        # Names and dates are read when they are asked for: damage in them shows here.
        sent = tuple(line(certificate) for certificate in (leaf, *reversed(bundle)))
        late = _expired(leaf, bundle, at)
    except UNREADABLE as error:
        problems.append(Finding("certificate", f"the chain cannot be read: {error}"))
        return None, ()
    pinned = {root.fingerprint: root for root in roots}
    trusted = [certificate for certificate in bundle if _fingerprint(certificate) in pinned]
    if not trusted:
        ends = line(bundle[0])
        names = ", ".join(root.name for root in roots)
        problems.append(Finding("cabundle[0]", f"the chain ends at the root {ends}, which is not {names}"))
        return leaf, sent
    verifier = (
        PolicyBuilder()
        .store(Store(trusted))
        .time(at)
        .max_chain_depth(8)
        .extension_policies(ca_policy=_CA, ee_policy=_LEAF)
        .build_client_verifier()
    )
    others = [certificate for certificate in bundle if certificate not in trusted]
    try:
        verified = verifier.verify(leaf, others).chain
    except (VerificationError, *UNREADABLE) as error:
        problems.append(Finding("certificate", late or str(error)))
        return leaf, sent
    root = pinned[_fingerprint(verified[-1])]
    checked.append(f"{len(verified)} certificates to {root.name} at {moment(at)}")
    return leaf, tuple(line(certificate) for certificate in verified)


def _signs_certificates(_policy: object, _certificate: object, usage: x509.KeyUsage) -> None:
    if not usage.key_cert_sign:
        raise ValueError("a CA's key is not for signing certificates (keyCertSign)")


def _signs_documents(_policy: object, _certificate: object, usage: x509.KeyUsage) -> None:
    if not usage.digital_signature:
        raise ValueError("the leaf's key is not for signing documents (digitalSignature)")


def _is_no_authority(
    _policy: object, _certificate: object, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("the leaf is the certificate of a CA")


# The default policies are those of the web, which no leaf fits: it names no authority key. The verifier asks
# by itself that a CA says that it is one, and counts the path's length.
_CA = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.CRITICAL, None)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
)
_LEAF = (
    ExtensionPolicy.permit_all()
    .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_no_authority)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_documents)
)


def _expired(leaf: x509.Certificate, bundle: Sequence[x509.Certificate], at: datetime) -> str | None:
    """Which certificate's time is over or has not come, the most frequent reason and the least legible."""
    for certificate in (leaf, *reversed(bundle)):
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begins <= at <= ends:
            return (
                f"{line(certificate)} is valid from {moment(begins)} to {moment(ends)}, not at {moment(at)}"
            )
    return None


def _signature(
    document: Document, leaf: x509.Certificate, problems: list[Finding], checked: list[str]
) -> None:
    """RFC 9052 section 4.4, with the key of the leaf."""
    signed = cbor2.dumps(["Signature1", document.protected, b"", document.payload])
    r, s = (int.from_bytes(half, "big") for half in (document.signature[:48], document.signature[48:]))
    try:
        key = leaf.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            problems.append(Finding("certificate", "its key is not on P-384, which ES384 takes"))
            return
        key.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, *UNREADABLE):
        problems.append(Finding("signature", "does not hold under the key of the certificate"))
        return
    checked.append("signature ES384 over the payload")


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def line(certificate: x509.Certificate) -> str:
    """A certificate in one line: its subject and the SHA-256 of its DER."""
    name = certificate.subject.rfc4514_string()[:120]
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"{shown} sha256:{_fingerprint(certificate)}"
