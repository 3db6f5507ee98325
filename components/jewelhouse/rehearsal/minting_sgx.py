"""Mints certificates, and quotes of SGX enclaves, under throw-away keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from jewelhouse.evidence import maa_keys, sgx

OPEN = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2049, 12, 31, tzinfo=UTC)
# Version 3, ECDSA on P-256, TEE type SGX, versions of quoting enclave and PCE; then Intel's vendor id.
HEADER = bytes.fromhex("030002000000000009000d00")
INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key a name and process: making them is slow. `name` only tells keys apart."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, kw_only=True)
class Quote:
    """What goes into the quote of the attestation service's own enclave; every field can be made wrong."""

    signer: str = maa_keys.SERVICE_SIGNER
    product: int = maa_keys.SERVICE_PRODUCT
    flags: int = 0x05
    quoting_signer: str = sgx.QUOTING_SIGNER
    quoting_product: int = 1
    quoting_flags: int = 0x15
    report_data: bytes | None = None
    binding: bytes | None = None
    certificate_start: datetime = OPEN
    certificate_end: datetime = END


def report(signer: str, product: int, flags: int, data: bytes) -> bytes:
    """An SGX report body: 384 bytes (Intel SGX SDK, sgx_report.h)."""
    body = bytearray(384)
    body[48:56] = flags.to_bytes(8, "little")
    body[56:64] = (7).to_bytes(8, "little")
    body[64:96] = bytes.fromhex("0d" * 32)
    body[128:160] = bytes.fromhex(signer)
    body[256:258] = product.to_bytes(2, "little")
    body[258:260] = (1).to_bytes(2, "little")
    body[320:384] = data.ljust(64, b"\0")
    return bytes(body)


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def certificate(
    subject: str,
    key: Any,
    issuer: str,
    signer: Any,
    *,
    ca: bool,
    start: datetime = OPEN,
    end: datetime = END,
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if ca:
        usage = dict.fromkeys(
            (
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True
        )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def spki(key: Any) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def quote(recipe: Quote, bound: bytes, root: str = "sgx-root") -> bytes:
    """An SGX quote, version 3 (Intel SGX ECDSA QuoteLibReference DCAP API), under a throw-away root."""
    root_key, ca_key, pck_key, attesting = (ec_key(f"{root}/{name}") for name in ("root", "ca", "pck", "ak"))
    names = ("Intel SGX PCK Certificate", "Intel SGX PCK Processor CA", "Intel SGX Root CA")
    chain = pem(
        certificate(
            names[0],
            pck_key.public_key(),
            names[1],
            ca_key,
            ca=False,
            start=recipe.certificate_start,
            end=recipe.certificate_end,
        ),
        certificate(names[1], ca_key.public_key(), names[2], root_key, ca=True),
        certificate(names[2], root_key.public_key(), names[2], root_key, ca=True),
    )
    header = (HEADER + INTEL).ljust(48, b"\0")
    bound = bound if recipe.report_data is None else recipe.report_data
    signed = header + report(recipe.signer, recipe.product, recipe.flags, bound)
    point = attesting.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )[1:]
    extra = bytes(range(32))
    binding = hashlib.sha256(point + extra).digest() if recipe.binding is None else recipe.binding
    quoting = report(recipe.quoting_signer, recipe.quoting_product, recipe.quoting_flags, binding)
    signature = (
        raw_signature(attesting, signed)
        + point
        + quoting
        + raw_signature(pck_key, quoting)
        + len(extra).to_bytes(2, "little")
        + extra
        + (5).to_bytes(2, "little")
        + len(chain).to_bytes(4, "little")
        + chain
    )
    return signed + len(signature).to_bytes(4, "little") + signature
