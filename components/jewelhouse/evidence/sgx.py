"""The quote of an SGX enclave, as far as it can be verified without Intel's collateral.

Offline a quote proves: an enclave of this signer, on a processor that Intel certified, put these bytes
into its report. It does not prove that the processor's firmware was current or its certificate unrevoked:
that takes TCB information and revocation lists of that day.

Layout and rules: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4 (quote version 3).
"""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from jewelhouse.evidence.verdict import Finding, moment
from jewelhouse.evidence.x5c import UNREADABLE, described, line

# SHA-256 of the public key (SubjectPublicKeyInfo) of the Intel SGX Root CA, valid 2018-05-21 to 2049-12-31:
# google/go-tdx-guest: verify/trusted_root.pem, commit 91f9a52.
INTEL = frozenset({"a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"})
# mrsigner and isvprodid of Intel's quoting enclave: api.trustedservices.intel.com/sgx/certification/v4/
# qe/identity.
QUOTING_SIGNER = "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"
QUOTING_PRODUCT = 1

DEBUG = 0x02
_HEADER, _REPORT = 48, 384
_SIGNED = _HEADER + _REPORT
_ECDSA = ec.ECDSA(hashes.SHA256())
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
# Signature data: ECDSA signature, attestation key, report of the quoting enclave and its signature.
_FIXED = 64 + 64 + _REPORT + 64


@dataclass(frozen=True, kw_only=True)
class Enclave:
    """What a verified quote says: who signed the enclave, which one, and what it put into its report.

    `chain` runs from the processor's certificate to Intel's root; `renewed` is when the youngest of these
    certificates began.
    """

    signer: str
    enclave: str
    product: int
    report_data: bytes
    chain: tuple[str, ...]
    renewed: datetime


@dataclass(frozen=True, kw_only=True)
class _Report:
    signer: str
    enclave: str
    product: int
    debug: bool
    data: bytes


def verify(
    raw: bytes, *, at: datetime, where: str, problems: list[Finding], intel: frozenset[str] = INTEL
) -> Enclave | None:
    """The enclave of a version 3 quote, or None with the reasons in `problems`.

    The certificates must not have ended at `at`. They may have begun after it: a service renews the quote of
    one and the same key, and a quote of today binds it for yesterday too, as the key has never left.
    """
    found: list[Finding] = []
    try:
        enclave = _verify(raw, at, where, found, intel)
    except UNREADABLE as error:
        found.append(Finding(where, f"the SGX quote cannot be read: {error}"))
        enclave = None
    problems.extend(found)
    return None if found else enclave


def _verify(
    raw: bytes, at: datetime, where: str, problems: list[Finding], intel: frozenset[str]
) -> Enclave | None:
    parts = _parts(raw, where, problems)
    if parts is None:
        return None
    signature, point, quoting_raw, quoting_signature, extra, chain = parts
    certificates = [x509.load_der_x509_certificate(der) for der in chain]
    body, quoting = _report(raw[_HEADER:_SIGNED]), _report(quoting_raw)
    attesting = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    if not _holds(attesting, signature, raw[:_SIGNED]):
        problems.append(Finding(where, "the signature of the quote does not hold"))
    if quoting.data != hashlib.sha256(point + extra).digest() + bytes(32):
        problems.append(Finding(where, "the quoting enclave did not vouch for the key that signed the quote"))
    if (quoting.signer, quoting.product) != (QUOTING_SIGNER, QUOTING_PRODUCT) or quoting.debug:
        problems.append(Finding(where, "the quoting enclave is not Intel's"))
    if body.debug:
        problems.append(Finding(where, "the enclave is in debug mode: its host can read and change it"))
    leaf, middle, root = certificates
    if not _holds(_key(leaf), quoting_signature, quoting_raw):
        problems.append(
            Finding(where, "the processor's certificate did not sign the quoting enclave's report")
        )
    # The root is trusted for its key; its own signature makes its dates believable.
    for below, above in ((leaf, middle), (middle, root), (root, root)):
        try:
            below.verify_directly_issued_by(above)
        except (InvalidSignature, ValueError, TypeError):
            problems.append(Finding(where, f"{line(below)} was not issued by {line(above)}"))
    anchor = _key(root).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if hashlib.sha256(anchor).hexdigest() not in intel:
        problems.append(Finding(where, f"the quote's certificates end at a foreign root: {line(root)}"))
    if not _may_issue(middle):
        problems.append(Finding(where, f"{line(middle)} may not issue certificates"))
    renewed = max(one.not_valid_before_utc for one in certificates)
    until = min(one.not_valid_after_utc for one in certificates)
    if max(at, renewed) > until:
        problems.append(
            Finding(where, f"a certificate of the quote ended at {moment(until)}, before {moment(at)}")
        )
    return Enclave(
        signer=body.signer,
        enclave=body.enclave,
        product=body.product,
        report_data=body.data,
        chain=tuple(described(one, der) for one, der in zip(certificates, chain, strict=True)),
        renewed=renewed,
    )


def _parts(
    raw: bytes, where: str, problems: list[Finding]
) -> tuple[bytes, bytes, bytes, bytes, bytes, list[bytes]] | None:
    """The fields of the signature data and the certificates, each within the quote and up to its end."""
    parsed = dcap_qvl.Quote.parse(raw)
    chain = parsed.cert_chain_pem_bytes()
    if parsed.header.version != 3 or not parsed.is_sgx() or chain is None:
        problems.append(Finding(where, "is not an SGX quote of version 3 with its certificates inside"))
        return None
    length = int.from_bytes(raw[_SIGNED : _SIGNED + 4], "little")
    rest = raw[_SIGNED + 4 :]
    extra_end = _FIXED + 2 + int.from_bytes(rest[_FIXED : _FIXED + 2], "little")
    inside = int.from_bytes(rest[extra_end + 2 : extra_end + 6], "little")
    if length != len(rest) or extra_end + 6 + inside != len(rest):
        problems.append(Finding(where, "the lengths inside the SGX quote do not add up to its size"))
        return None
    certificates = [binascii.a2b_base64(block.partition(_END)[0]) for block in chain.split(_BEGIN)[1:]]
    if len(certificates) != 3:
        problems.append(Finding(where, f"the SGX quote has {len(certificates)} certificates, expected 3"))
        return None
    extra = rest[_FIXED + 2 : extra_end]
    return rest[:64], rest[64:128], rest[128 : 128 + _REPORT], rest[_FIXED - 64 : _FIXED], extra, certificates


def _report(raw: bytes) -> _Report:
    return _Report(
        signer=raw[128:160].hex(),
        enclave=raw[64:96].hex(),
        product=int.from_bytes(raw[256:258], "little"),
        debug=bool(raw[48] & DEBUG),
        data=raw[320:384],
    )


def _key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Intel's certificates hold keys on P-256."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError(f"{line(certificate)} has no key on P-256")
    return key


def _holds(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Both signatures inside a quote are two numbers of 32 bytes: ECDSA on P-256 with SHA-256."""
    encoded = encode_dss_signature(
        int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    )
    try:
        key.verify(encoded, message, _ECDSA)
    except InvalidSignature:
        return False
    return True


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and usage.key_cert_sign
