"""Attestation documents of Nitro Enclaves and of NitroTPM: COSE_Sign1 with ES384, to AWS's root.

aws/aws-nitro-enclaves-nsm-api docs/attestation_process.md (section 3: document, section 3.2.3: validation).
Documents of NitroTPM have `nitrotpm_pcrs` in the place of `pcrs` and chain to the same root
(docs.aws.amazon.com/AWSEC2/latest/UserGuide/nitrotpm-attestation-document-validate.html).

Debug never shows in the signature: a debug enclave reports PCR0, PCR1 and PCR2 of zeros and keeps PCR3 and
PCR4.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

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

from jewelhouse.evidence.verdict import (
    NO_ENDORSEMENTS,
    Endorsements,
    Finding,
    Kind,
    MalformedEvidence,
    Verdict,
    moment,
)

# KMS takes documents of at most 256 KiB (botocore: kms RecipientInfo); real ones have under 5 KiB.
LIMIT = 256 * 1024
ES384 = -35
# `{1: -35}` in its one shortest form.
PROTECTED = b"\xa1\x01\x38\x22"
DIGESTS = {"SHA256": 32, "SHA384": 48, "SHA512": 64}
# Field -> most bytes. The document's grammar says 1024, its rules 512 for the last two: NSM takes 512.
OPTIONAL = {"public_key": 1024, "user_data": 512, "nonce": 512}
REQUIRED = ("module_id", "digest", "timestamp", "certificate", "cabundle")
REGISTERS = {"pcrs": Kind.NITRO_ENCLAVE, "nitrotpm_pcrs": Kind.NITRO_TPM}
DEBUG_REGISTERS = ("PCR0", "PCR1", "PCR2")
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


@dataclass(frozen=True, kw_only=True)
class Document:
    """An attestation document as it was read: nothing in it is verified.

    registers: index -> value. timestamp: UTC, to the millisecond. certificate and bundle: DER; the bundle
    begins with the root. protected, payload, signature: the parts of the COSE_Sign1.
    """

    kind: Kind
    module_id: str
    digest: str
    timestamp: datetime
    registers: Mapping[int, bytes]
    certificate: bytes
    bundle: Sequence[bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    protected: bytes
    payload: bytes
    signature: bytes

    @property
    def measurements(self) -> dict[str, str]:
        return {f"PCR{index}": value.hex() for index, value in sorted(self.registers.items())}


def parse(data: bytes) -> Document:
    """Reads a document to its last byte.

    Raises MalformedEvidence, naming the field, for anything that the specification does not allow.
    """
    if len(data) > LIMIT:
        raise MalformedEvidence(f"has {len(data)} bytes, a document has at most {LIMIT}")
    message = _decoded(data, "document")
    if isinstance(message, cbor2.CBORTag) and message.tag == 18:
        message = message.value
    # Inside a tag the library gives a tuple.
    if not isinstance(message, list | tuple) or len(message) != 4:
        raise MalformedEvidence("is no COSE_Sign1 of four members", where="document")
    protected, unprotected, payload, signature = message
    if not all(isinstance(part, bytes) for part in (protected, payload, signature)):
        raise MalformedEvidence("is no COSE_Sign1: a member is not a byte string", where="document")
    if unprotected != {}:
        raise MalformedEvidence("must be empty", where="unprotected header")
    if protected != PROTECTED:
        raise MalformedEvidence("names another algorithm than ES384", where="protected header")
    if len(signature) != 96:
        raise MalformedEvidence(f"has {len(signature)} bytes, ES384 has 96", where="signature")
    return _document(_decoded(payload, "payload"), protected, payload, signature)


def _decoded(data: bytes, where: str) -> Any:
    """One CBOR value and nothing behind it. Strings of indefinite length hide nothing, so maps may be too."""
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream, max_depth=8, allow_duplicate_keys=False, read_size=1).decode()
    except (cbor2.CBORDecodeError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise MalformedEvidence("is not CBOR of one value", where=where) from error
    if stream.tell() != len(data):
        raise MalformedEvidence(f"has {len(data) - stream.tell()} bytes behind its end", where=where)
    return value


def _document(value: Any, protected: bytes, payload: bytes, signature: bytes) -> Document:
    if not isinstance(value, dict):
        raise MalformedEvidence("is not a map", where="payload")
    names = [name for name in REGISTERS if name in value]
    if len(names) != 1:
        raise MalformedEvidence("must have pcrs or nitrotpm_pcrs, and not both", where="payload")
    for name in (*REQUIRED, *names):
        if name not in value:
            raise MalformedEvidence("is missing", where=name)
    unknown = [str(name)[:40] for name in value if name not in (*REQUIRED, *OPTIONAL, *names)]
    if unknown:
        raise MalformedEvidence(f"has the unknown fields {', '.join(unknown)}", where="payload")
    if not isinstance(value["module_id"], str) or not value["module_id"]:
        raise MalformedEvidence("is not text", where="module_id")
    digest = value["digest"]
    if digest not in list(DIGESTS):
        raise MalformedEvidence(f"is none of {', '.join(DIGESTS)}", where="digest")
    return Document(
        kind=REGISTERS[names[0]],
        module_id=value["module_id"],
        digest=digest,
        timestamp=_time(value["timestamp"]),
        registers=_registers(value[names[0]], DIGESTS[digest], names[0]),
        certificate=_bytes(value["certificate"], "certificate", 1, 1024),
        bundle=_bundle(value["cabundle"]),
        **{name: _optional(value.get(name), name, most) for name, most in OPTIONAL.items()},
        protected=protected,
        payload=payload,
        signature=signature,
    )


def _time(value: Any) -> datetime:
    # Milliseconds since 1970; the year 9999 is where a calendar ends.
    if type(value) is not int or not 0 < value < 253_402_300_800_000:
        raise MalformedEvidence("is no time in milliseconds", where="timestamp")
    return datetime.fromtimestamp(value / 1000, UTC)


def _registers(value: Any, length: int, where: str) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= 32:
        raise MalformedEvidence("is not a map of 1 to 32 registers", where=where)
    for index, register in value.items():
        if type(index) is not int or not 0 <= index < 32:
            raise MalformedEvidence(f"has a register {index!r:.40}", where=where)
        _bytes(register, f"{where}[{index}]", length, length)
    return value


def _bundle(value: Any) -> list[bytes]:
    if not isinstance(value, list) or not value:
        raise MalformedEvidence("is not a list of certificates", where="cabundle")
    return [_bytes(item, f"cabundle[{index}]", 1, 1024) for index, item in enumerate(value)]


def _optional(value: Any, where: str, most: int) -> bytes | None:
    return None if value is None else _bytes(value, where, 0, most)


def _bytes(value: Any, where: str, least: int, most: int) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedEvidence("is not a byte string", where=where)
    if not least <= len(value) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise MalformedEvidence(f"has {len(value)} bytes, it must have {wanted}", where=where)
    return value


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
        problems.append(Finding("module_id", f"is {document.module_id:.80}, not that of {document.kind}"))
    if document.digest != "SHA384":
        problems.append(Finding("digest", f"is {document.digest}: KMS compares SHA-384"))
    if document.timestamp > moment_of_appraisal:
        problems.append(
            Finding("timestamp", f"is {moment(document.timestamp)}, after {moment(moment_of_appraisal)}")
        )
    if nonce is None:
        checked.append("freshness was not checked: no nonce was given")
    elif document.nonce != nonce:
        found = "absent" if document.nonce is None else document.nonce.hex()
        problems.append(Finding("nonce", f"is {found}, not {nonce.hex()}"))
    else:
        checked.append("nonce is the challenge")
    measurements = document.measurements
    zeros = "00" * 48
    debug = document.kind is Kind.NITRO_ENCLAVE and all(
        measurements.get(name, zeros) == zeros for name in DEBUG_REGISTERS
    )
    return Verdict(
        kind=document.kind,
        verified=not problems,
        debug=debug,
        at=moment_of_appraisal,
        issued=document.timestamp,
        expires=leaf.not_valid_after_utc if leaf is not None else None,
        chain=chain,
        measurements=measurements,
        claims={
            "module_id": document.module_id,
            "digest": document.digest,
            "timestamp": int(document.timestamp.timestamp() * 1000),
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
    except (ValueError, UnsupportedAlgorithm):
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
        bundle = [_certificate(der) for der in document.bundle]
        # Names and dates are read when they are asked for: damage in them shows here.
        sent = tuple(line(certificate) for certificate in (leaf, *reversed(bundle)))
        late = _expired(leaf, bundle, at)
    except (ValueError, UnsupportedAlgorithm) as error:
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
        # Leaves name no authority key, which the web's profile asks for.
        .extension_policies(ca_policy=_CA, ee_policy=ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    others = [certificate for certificate in bundle if certificate not in trusted]
    try:
        verified = verifier.verify(leaf, others).chain
    except VerificationError as error:
        problems.append(Finding("certificate", late or str(error)))
        return leaf, sent
    root = pinned[_fingerprint(verified[-1])]
    checked.append(f"{len(verified)} certificates to {root.name} at {moment(at)}")
    return leaf, tuple(line(certificate) for certificate in verified)


_CA = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.CRITICAL, None)


@lru_cache(maxsize=64)
def _certificate(der: bytes) -> x509.Certificate:
    """Root and region certificates come again with every document."""
    return x509.load_der_x509_certificate(der)


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
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        problems.append(Finding("signature", "does not hold under the key of the certificate"))
        return
    checked.append("signature ES384 over the payload")


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def line(certificate: x509.Certificate) -> str:
    """A certificate in one line: its subject and the SHA-256 of its DER."""
    return f"{certificate.subject.rfc4514_string()[:120]} sha256:{_fingerprint(certificate)}"
