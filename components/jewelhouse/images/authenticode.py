"""Secure Boot signatures of PE images: written, and read with everything that a firmware checks in them.

PKCS #7 over the image's digest, without a signing time, so that the same key and image give the same file.
Sources: Microsoft, Windows Authenticode Portable Executable Signature Format (2008); UEFI 2.10, 32.2.4;
tianocore/edk2: CryptoPkg/Library/BaseCryptLib/Pk/CryptAuthenticode.c (2026-11).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asn1crypto import algos, cms, core
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import pe

SIGNED_DATA = "1.2.840.113549.1.7.2"
INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
PE_IMAGE_DATA = "1.3.6.1.4.1.311.2.1.15"
# SpcPeImageData with no flags and a file without name: what it says is nowhere read.
PE_IMAGE = bytes.fromhex("3009030100a004a2028000")
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
LEAST_KEY = 2048
# What the readers of DER and of certificates raise for bytes that are neither.
UNREADABLE = (
    *(ValueError, TypeError, KeyError, OverflowError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
# From signer to anchor; public hierarchies have three.
LONGEST_CHAIN = 8


class _TypeAndValue(core.Sequence):
    _fields = [("type", core.ObjectIdentifier), ("value", core.Any)]


class _IndirectData(core.Sequence):
    _fields = [("data", _TypeAndValue), ("digest", algos.DigestInfo)]


class _Content(core.Sequence):
    _fields = [("type", core.ObjectIdentifier), ("value", _IndirectData, {"explicit": 0})]


class _SignedData(core.Sequence):
    _fields = [
        ("version", cms.CMSVersion),
        ("digest_algorithms", cms.DigestAlgorithms),
        ("content", _Content),
        ("certificates", cms.CertificateSet, {"implicit": 0, "optional": True}),
        ("signers", cms.SignerInfos),
    ]


class _Message(core.Sequence):
    _fields = [("type", core.ObjectIdentifier), ("value", _SignedData, {"explicit": 0})]


class MalformedSignature(JewelhouseError):
    """A Secure Boot signature that no firmware takes."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A signature that holds over its image: who signed, and the certificates that came with it."""

    signer: x509.Certificate
    others: tuple[x509.Certificate, ...]

    def leads_to(self, anchor: x509.Certificate) -> bool:
        """Whether the signer is `anchor` or its chain of certificates leads there. Dates do not matter: most
        firmware has no clock that it trusts."""
        current, left = self.signer, list(self.others)
        for _ in range(LONGEST_CHAIN):
            if current == anchor or _issued(current, anchor):
                return True
            above = next((one for one in left if one != current and _issued(current, one)), None)
            if above is None:
                return False
            left.remove(above)
            current = above
        return False

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        return (self.signer, *self.others)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        if not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        certificate.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, InvalidSignature, *UNREADABLE):
        return False
    return True


def sign(path: Path, *, key: Path, certificate: Path) -> None:
    """Appends a signature to an image that has none. `key` and `certificate`: PEM, RSA of 2048 bits or more.

    Raises JewelhouseError for a key that does not fit its certificate or that firmware does not take.
    """
    private, own = _pair(key, certificate)
    image = pe.read(path)
    if image.certificates is not None or image.size % 8:
        raise JewelhouseError("has a signature, or no place for one", where=path.name)
    indirect = _IndirectData(
        {
            "data": {"type": PE_IMAGE_DATA, "value": core.Any.load(PE_IMAGE)},
            "digest": {
                "digest_algorithm": {"algorithm": "sha256", "parameters": core.Null()},
                "digest": pe.authenticode(image, ["sha256"])["sha256"],
            },
        }
    )
    attributes = cms.CMSAttributes(
        [
            {"type": "content_type", "values": [INDIRECT_DATA]},
            {"type": "message_digest", "values": [_content_digest(indirect, "sha256")]},
        ]
    )
    loaded = cms.Certificate.load(own.public_bytes(serialization.Encoding.DER))
    rsa_sha256 = {"algorithm": "sha256", "parameters": core.Null()}
    signer = {
        "version": "v1",
        "sid": {"issuer_and_serial_number": {"issuer": loaded.issuer, "serial_number": loaded.serial_number}},
        "digest_algorithm": rsa_sha256,
        "signed_attrs": attributes,
        "signature_algorithm": {"algorithm": "rsassa_pkcs1v15", "parameters": core.Null()},
        "signature": private.sign(attributes.dump(), padding.PKCS1v15(), hashes.SHA256()),
    }
    message = _Message(
        {
            "type": SIGNED_DATA,
            "value": {
                "version": "v1",
                "digest_algorithms": [rsa_sha256],
                "content": {"type": INDIRECT_DATA, "value": indirect},
                "certificates": [loaded],
                "signers": [signer],
            },
        }
    ).dump()
    pe.append_certificate(image, message)


def _pair(key: Path, certificate: Path) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        own = x509.load_pem_x509_certificate(certificate.read_bytes())
        public = own.public_key()
    except UNREADABLE as error:
        raise JewelhouseError(
            "the key of Secure Boot or its certificate cannot be read",
            where=f"{key.name}, {certificate.name}",
            remedy="PEM, the key without a password",
        ) from error
    if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < LEAST_KEY:
        raise JewelhouseError(
            "firmware takes no such key for Secure Boot",
            where=key.name,
            remedy=f"RSA, {LEAST_KEY} bits or more",
        )
    if private.public_key() != public:
        raise JewelhouseError("is the certificate of another key", where=certificate.name)
    return private, own


def _content_digest(indirect: _IndirectData, algorithm: str) -> bytes:
    """Taken of what is inside the sequence, as PKCS #7 does it, and not of the sequence."""
    return hashlib.new(algorithm, indirect.contents or b"").digest()


def signatures(image: pe.Image) -> Iterator[Signature]:
    """The signatures of an image, each after all that a firmware checks held: the digest in it is the
    image's, and its signer signed it. Raises MalformedSignature for any other."""
    for index, data in enumerate(pe.certificates(image)):
        try:
            yield _signature(image, data)
        except UNREADABLE as error:
            raise MalformedSignature(
                f"signature {index} cannot be read: {error}", where=image.path.name
            ) from error
        except InvalidSignature as error:
            raise MalformedSignature(f"signature {index} does not hold", where=image.path.name) from error


def _signature(image: pe.Image, data: bytes) -> Signature:
    parsed = _Message.load(data)
    # What is left of its eight bytes may be counted as the signature's.
    if len(data) - len(parsed.dump()) >= 8 or data[len(parsed.dump()) :].strip(b"\0"):
        raise ValueError("it has something behind it")
    signed, content = parsed["value"], parsed["value"]["content"]
    if parsed["type"].native != SIGNED_DATA or content["type"].native != INDIRECT_DATA:
        raise ValueError("it is no Authenticode signature")
    if len(signed["signers"]) != 1:
        raise ValueError(f"it has {len(signed['signers'])} signers")
    signer = signed["signers"][0]
    algorithm = signer["digest_algorithm"]["algorithm"].native
    stated = content["value"]["digest"]
    if algorithm not in HASHES or stated["digest_algorithm"]["algorithm"].native != algorithm:
        raise ValueError(f"it has digest {algorithm}, not one of {', '.join(HASHES)}")
    if stated["digest"].native != pe.authenticode(image, [algorithm])[algorithm]:
        raise InvalidSignature
    attributes = {attribute["type"].native: attribute["values"] for attribute in signer["signed_attrs"]}
    if len(attributes) != len(signer["signed_attrs"]):
        raise ValueError("it has an attribute twice")
    if [one.native for one in attributes["content_type"]] != [INDIRECT_DATA]:
        raise ValueError("it signs something else")
    digest = _content_digest(content["value"], algorithm)
    if [one.native for one in attributes["message_digest"]] != [digest]:
        raise InvalidSignature
    certificates = [
        x509.load_der_x509_certificate(one.chosen.dump())
        for one in signed["certificates"]
        if one.name == "certificate"
    ]
    wanted = signer["sid"].chosen
    own = [one for one in certificates if one.serial_number == wanted["serial_number"].native]
    own = [one for one in own if one.issuer.public_bytes() == wanted["issuer"].dump()]
    if len(own) != 1:
        raise ValueError("it does not have its signer's certificate")
    key = own[0].public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("its key is not RSA")
    key.verify(
        signer["signature"].native,
        signer["signed_attrs"].untag().dump(),
        padding.PKCS1v15(),
        HASHES[algorithm],
    )
    return Signature(signer=own[0], others=tuple(one for one in certificates if one != own[0]))
