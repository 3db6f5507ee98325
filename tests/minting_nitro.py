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


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def recipient() -> bytes:
    """A public key that KMS could encrypt a reply to."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@dataclass(frozen=True)
class Authority:
    """Keys and certificates from the root to the leaf, valid around `at`."""

    at: datetime
    keys: tuple[ec.EllipticCurvePrivateKey, ...]
    certificates: tuple[x509.Certificate, ...]
    name: str = field(default="throw-away root")

    @classmethod
    def new(cls, at: datetime = AT, name: str = "throw-away root") -> Authority:
        keys = tuple(ec.generate_private_key(ec.SECP384R1()) for _ in LAYERS)
        certificates = []
        for depth, (layer, life) in enumerate(LAYERS):
            issuer = max(depth - 1, 0)
            builder = (
                x509.CertificateBuilder()
                .subject_name(_name(f"{layer} of {name}"))
                .issuer_name(_name(f"{LAYERS[issuer][0]} of {name}"))
                .public_key(keys[depth].public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(at - life / 20)
                .not_valid_after(at + life * 19 / 20)
                .add_extension(x509.BasicConstraints(ca=layer != "leaf", path_length=None), critical=True)
            )
            certificates.append(builder.sign(keys[issuer], hashes.SHA384()))
        return cls(at, keys, tuple(certificates), name)

    @property
    def roots(self) -> tuple[nitro.Root, ...]:
        fingerprint = self.certificates[0].fingerprint(hashes.SHA256()).hex()
        return (nitro.Root(name=self.name, fingerprint=fingerprint, source="made for a test"),)

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
        protected = cbor2.dumps({1: nitro.ES384} if header is None else header)
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
