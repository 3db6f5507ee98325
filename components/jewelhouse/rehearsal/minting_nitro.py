"""Mints attestation documents of Nitro Enclaves and NitroTPM under a throw-away root, every field variable.

The chain is that of real documents: root, region, zone, instance, leaf. What is minted verifies with `roots`
of its authority, and never under the pinned root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from jewelhouse.evidence import nitro
from jewelhouse.evidence.verdict import Kind

ES384 = -35
AT = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MODULES = {
    Kind.NITRO_ENCLAVE: "i-0123456789abcdef0-enc0189abcdef012345",
    Kind.NITRO_TPM: "i-0123456789abcdef0-tpm0000000000000000",
}
FIELDS = {Kind.NITRO_ENCLAVE: "pcrs", Kind.NITRO_TPM: "nitrotpm_pcrs"}
LAYERS = (
    ("root", timedelta(days=10_000)),
    ("region", timedelta(days=20)),
    ("zone", timedelta(days=6)),
    ("instance", timedelta(days=1)),
    ("leaf", timedelta(hours=3)),
)


NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def recipient(bits: int = 2048) -> bytes:
    """A public key that KMS could encrypt a reply to."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def certificate(
    key: Any,
    name: str,
    signer: ec.EllipticCurvePrivateKey,
    issuer: str,
    *,
    since: datetime,
    until: datetime,
    ca: bool = False,
    usage: str | None = "",
) -> x509.Certificate:
    """`usage`: one of the names of KeyUsage, instead of what a CA or a leaf has; None leaves it out."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if usage is not None:
        usage = usage or ("key_cert_sign" if ca else "digital_signature")
        builder = builder.add_extension(x509.KeyUsage(**{**NO_USAGE, usage: True}), critical=True)
    return builder.sign(signer, hashes.SHA384())


@dataclass(frozen=True)
class Authority:
    """Keys and certificates from the root to the leaf, valid around `at`."""

    at: datetime
    keys: tuple[ec.EllipticCurvePrivateKey, ...]
    certificates: tuple[x509.Certificate, ...]
    name: str = field(default="throw-away root")

    @classmethod
    def new(cls, at: datetime = AT, name: str = "throw-away root", ca_usage: str = "") -> Authority:
        keys = tuple(ec.generate_private_key(ec.SECP384R1()) for _ in LAYERS)
        certificates = []
        for depth, (layer, life) in enumerate(LAYERS):
            issuer = max(depth - 1, 0)
            certificates.append(
                certificate(
                    keys[depth],
                    f"{layer} of {name}",
                    keys[issuer],
                    f"{LAYERS[issuer][0]} of {name}",
                    since=at - life / 20,
                    until=at + life * 19 / 20,
                    ca=layer != "leaf",
                    usage="" if layer == "leaf" else ca_usage,
                )
            )
        return cls(at, keys, tuple(certificates), name)

    def below(
        self, depth: int, curve: ec.EllipticCurve | None = None, **changes: Any
    ) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
        """Another leaf and its key, issued by the certificate at `depth`: 0 is the root, 4 the leaf."""
        key = ec.generate_private_key(curve or ec.SECP384R1())
        made = certificate(
            key,
            "another leaf",
            self.keys[depth],
            f"{LAYERS[depth][0]} of {self.name}",
            **{"since": self.at - timedelta(hours=1), "until": self.at + timedelta(hours=1), **changes},
        )
        return made.public_bytes(serialization.Encoding.DER), key

    def maze(self, *, width: int, depth: int) -> list[bytes]:
        """A leaf, then layers of certificates that all could have issued any of the layer before, all signed
        by one key: the ways through them are `width` to the power of `depth`, and none ends."""
        key, made = self.keys[0], []
        for layer in range(depth + 1):
            for _ in range(width if layer else 1):
                one = certificate(
                    key,
                    f"layer {layer}",
                    key,
                    f"layer {layer + 1}",
                    since=self.at - timedelta(hours=1),
                    until=self.at + timedelta(hours=1),
                    ca=layer > 0,
                )
                made.append(one.public_bytes(serialization.Encoding.DER))
        return made

    @property
    def roots(self) -> tuple[nitro.Root, ...]:
        fingerprint = self.certificates[0].fingerprint(hashes.SHA256()).hex()
        return (nitro.Root(name=self.name, fingerprint=fingerprint, source="throw-away root"),)

    def fields(self, kind: Kind = Kind.NITRO_ENCLAVE, **changes: Any) -> dict[str, Any]:
        """The payload's fields; a change to `...` leaves one out."""
        ders = [one.public_bytes(serialization.Encoding.DER) for one in self.certificates]
        found: dict[str, Any] = {
            "module_id": MODULES[kind],
            "digest": "SHA384",
            "timestamp": int(self.at.timestamp() * 1000),
            FIELDS[kind]: registers(kind),
            "certificate": ders[-1],
            "cabundle": ders[:-1],
            "public_key": None,
            "user_data": None,
            "nonce": None,
        }
        return {name: value for name, value in {**found, **changes}.items() if value is not ...}

    def document(
        self,
        pcrs: Mapping[int, bytes] | None = None,
        kind: Kind = Kind.NITRO_ENCLAVE,
        *,
        tagged: bool = False,
        indefinite: bool = False,
        signer: ec.EllipticCurvePrivateKey | None = None,
        protected: Any = None,
        **changes: Any,
    ) -> bytes:
        """A signed document; `pcrs` change single registers."""
        values = self.fields(kind, **changes)
        if pcrs is not None:
            values[FIELDS[kind]] = {**registers(kind), **pcrs}
        return self.sign(
            encoded(values, indefinite=indefinite), tagged=tagged, signer=signer, header=protected
        )

    def sign(
        self,
        payload: bytes,
        *,
        tagged: bool = False,
        signer: ec.EllipticCurvePrivateKey | None = None,
        header: Any = None,
    ) -> bytes:
        protected = cbor2.dumps({1: ES384} if header is None else header)
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        r, s = utils.decode_dss_signature((signer or self.keys[-1]).sign(signed, ec.ECDSA(hashes.SHA384())))
        message = [protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")]
        return cbor2.dumps(cbor2.CBORTag(18, message) if tagged else message)


def registers(kind: Kind = Kind.NITRO_ENCLAVE) -> dict[int, bytes]:
    """Registers of a production image: enclaves carry 0 to 15, NitroTPM 0 to 23."""
    zeros = dict.fromkeys(range(16 if kind is Kind.NITRO_ENCLAVE else 24), bytes(48))
    if kind is Kind.NITRO_ENCLAVE:
        return {**zeros, **{index: bytes([0xA0 + index]) * 48 for index in (0, 1, 2, 3, 4)}}
    return {**zeros, **{index: bytes([0xB0 + index]) * 48 for index in (0, 1, 4, 7)}}


def debug_registers() -> dict[int, bytes]:
    """What a debug enclave changes: PCR3 and PCR4 keep their values."""
    return dict.fromkeys((0, 1, 2, 8), bytes(48))


def encoded(values: Mapping[str, Any], *, indefinite: bool = False) -> bytes:
    """The payload's map, with its length or without one, as documents since 2025 have it."""
    if not indefinite:
        return cbor2.dumps(dict(values))
    inside = b"".join(cbor2.dumps(name) + cbor2.dumps(value) for name, value in values.items())
    return b"\xbf" + inside + b"\xff"
