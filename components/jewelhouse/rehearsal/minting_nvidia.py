"""NVIDIA reports with their chains, and bundles of tokens, minted under a throw-away root and key set."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from jewelhouse.evidence.certificates import Root
from jewelhouse.evidence.verdict import Endorsements

BEGAN = datetime(2022, 3, 1, tzinfo=UTC)
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
NONCE = bytes(range(32))
FWID = hashlib.sha384(b"firmware").digest()
ISSUER = "https://nras.attestation.nvidia.com"


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def issue(
    subject: str,
    issuer: str,
    *,
    ca: bool,
    keys: str = "nvidia",
    extra: bytes | None = None,
    dates: tuple[datetime, datetime] = (BEGAN, NEVER),
    serial: int = 1,
) -> x509.Certificate:
    """A certificate; the keys of subject and issuer go by their names and by whose they are (`keys`)."""
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (subject, issuer)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(ec_key(f"{keys} {subject}").public_key())
        .serial_number(serial)
        .not_valid_before(dates[0])
        .not_valid_after(dates[1])
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if extra is not None:
        oid = x509.ObjectIdentifier("2.23.133.5.4.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extra), critical=False)
    return builder.sign(ec_key(f"{keys} {issuer}"), hashes.SHA384())


def opaque(fields: Mapping[int, bytes], *, header: bool = False) -> bytes:
    """Type, length and value of each field; newer devices put a header before and a value type into each."""
    start = b"NVDAOD" + bytes((0, 0, 2, 0, 0, 0)) if header else b""
    kind = bytes(2) if header else b""
    return start + b"".join(
        number.to_bytes(2, "little") + kind + len(value).to_bytes(2, "little") + value
        for number, value in fields.items()
    )


USUAL_OPAQUE: Mapping[int, bytes] = {
    3: b"590.12\0",
    6: bytes.fromhex("00a5009601000000"),
    20: FWID,
    36: b"\2\0",
}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A device with its chain of five; every part of report and chain can be changed."""

    name: str = "gpu"
    keys: str = "nvidia"
    fwid: bytes = FWID
    nonce: bytes = NONCE
    measurements: Mapping[int, bytes] = field(
        default_factory=lambda: {index: hashlib.sha384(bytes([index])).digest() for index in (1, 2, 3)}
    )
    opaque: bytes = opaque(USUAL_OPAQUE)
    dates: tuple[datetime, datetime] = (BEGAN, NEVER)

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return ec_key(f"{self.keys} {self.name} FMC LF")

    @property
    def chain(self) -> tuple[bytes, ...]:
        return tuple(one.public_bytes(Encoding.DER) for one in self.certificates)

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        above = ["Provisioner ICA", "Identity", "Device Identity CA", "Device Identity CA"]
        middle = [
            issue(subject, issuer, ca=True, keys=self.keys, serial=number)
            for number, (subject, issuer) in enumerate(pairwise(above), 3)
        ]
        brom = issue(f"{self.name} BROM", above[0], ca=True, keys=self.keys, serial=2)
        info = b"\x30\x34\xa6\x32" + self.fwid
        leaf = issue(
            f"{self.name} FMC LF",
            f"{self.name} BROM",
            ca=False,
            keys=self.keys,
            extra=info,
            dates=self.dates,
        )
        return (leaf, brom, *middle)

    @property
    def roots(self) -> tuple[Root, ...]:
        key = ec_key(f"{self.keys} Device Identity CA")
        digest = hashlib.sha256(spki(key)).hexdigest()
        return (Root(key=digest, name="Device Identity CA", source="minted for a rehearsal"),)

    @property
    def pem(self) -> bytes:
        return b"".join(one.public_bytes(Encoding.PEM) for one in self.certificates)

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements(files=(self.pem,))

    def unsigned(self) -> bytes:
        record = b"".join(
            bytes((index, 1))
            + (len(value) + 3).to_bytes(2, "little")
            + b"\1"
            + len(value).to_bytes(2, "little")
            + value
            for index, value in self.measurements.items()
        )
        answer = b"\x11\x60\0\0" + bytes([len(self.measurements)]) + len(record).to_bytes(3, "little")
        behind = bytes(32) + len(self.opaque).to_bytes(2, "little") + self.opaque
        return b"\x11\xe0\x01\xff" + self.nonce + b"\0" + answer + record + behind

    def report(self, signer: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        signed = self.unsigned()
        return signed + raw_signature(signer or self.key, signed)

    def entry(self, **more: Any) -> dict[str, Any]:
        """As NVIDIA's tools save one device."""
        return {
            "arch": "HOPPER",
            "nonce": self.nonce.hex(),
            "evidence": base64.b64encode(self.report()).decode(),
            "certificate": base64.b64encode(self.pem).decode(),
            **more,
        }


def evidence(*gpus: Gpu) -> bytes:
    return json.dumps([gpu.entry() for gpu in gpus]).encode()


# Tokens

GPU_CHECKS = (
    "arch-check",
    "attestation-report-parsed",
    "attestation-report-nonce-match",
    "attestation-report-signature-verified",
    "driver-rim-fetched",
    "driver-rim-signature-verified",
    "driver-rim-measurements-available",
    "vbios-rim-fetched",
    "vbios-rim-signature-verified",
    "vbios-index-no-conflict",
)
CHAINS = ("attestation-report-cert-chain", "driver-rim-cert-chain", "vbios-rim-cert-chain")


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True, kw_only=True)
class Service:
    """NVIDIA's attestation service: signs with a key that was certified for two days."""

    name: str = "nras"
    kid: str = "nv-eat-kid-test-1"
    version: str = "3.0"
    nonce: bytes = NONCE
    issued: datetime = NOW
    header: Mapping[str, Any] = field(default_factory=dict)
    certified: tuple[datetime, datetime] = (NOW - timedelta(days=1), NOW + timedelta(days=1))

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return ec_key(f"{self.name} leaf")

    def jwk(self, **more: Any) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        chain = (
            issue("leaf", "intermediate", ca=False, keys=self.name, dates=self.certified),
            issue("intermediate", "ca", ca=True, keys=self.name),
        )
        return {
            "kty": "EC",
            "crv": "P-384",
            "kid": self.kid,
            "x5c": [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in chain],
            "x": b64url(numbers.x.to_bytes(48, "big")),
            "y": b64url(numbers.y.to_bytes(48, "big")),
            **more,
        }

    def endorsements(self, **more: Any) -> Endorsements:
        others = [
            replace(self, name=f"rotated {number}", kid=f"nv-eat-kid-{number}").jwk() for number in (1, 2)
        ]
        return Endorsements(files=(json.dumps({"keys": [*others, self.jwk(**more)]}).encode(),))

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        parts = [{"kid": self.kid, "alg": "ES384", **self.header, **header}, claims]
        signed = ".".join(b64url(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{b64url(raw_signature(self.key, signed.encode()))}"

    def times(self) -> dict[str, int]:
        second = int(self.issued.timestamp())
        return {"iat": second, "nbf": second - 5, "exp": second + 3600}

    def device(self, **changed: Any) -> dict[str, Any]:
        """Claims of one GPU; a claim that is changed to ABSENT is left out."""
        chain = {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}
        claims = {
            "iss": ISSUER,
            **self.times(),
            "eat_nonce": self.nonce.hex(),
            "ueid": "642960189298007511250958030500749152730221142468",
            "oemid": "5703",
            "hwmodel": "GH100",
            "secboot": True,
            "dbgstat": "disabled",
            "measres": "success",
            "x-nvidia-gpu-driver-version": "590.12",
            "x-nvidia-gpu-vbios-version": "96.00.A5.00.01",
            "x-nvidia-attestation-warning": None,
            **{f"x-nvidia-gpu-{name}": True for name in GPU_CHECKS},
            **({f"x-nvidia-gpu-{name}": chain for name in CHAINS} if self.version != "2.0" else {}),
        }
        return {name: value for name, value in {**claims, **changed}.items() if value is not ABSENT}

    def overall(self, devices: Mapping[str, str], **changed: Any) -> dict[str, Any]:
        claims = {
            "sub": "NVIDIA-PLATFORM-ATTESTATION",
            "x-nvidia-ver": self.version,
            "iss": ISSUER,
            **self.times(),
            "x-nvidia-overall-att-result": True,
            "eat_nonce": self.nonce.hex(),
            "submods": {name: digest(token) for name, token in devices.items()},
            "jti": "c1a3cdc9-ee22-42ad-9cd1-44a1199f2dee",
        }
        return {name: value for name, value in {**claims, **changed}.items() if value is not ABSENT}

    def bundle(self, *devices: Mapping[str, Any], **changed: Any) -> bytes:
        """The service's answer for GPU-0, GPU-1, ... with these claims; `changed` is in the first token."""
        claims = devices or (self.device(),)
        named = {f"GPU-{number}": self.sign(one) for number, one in enumerate(claims)}
        return written(self.sign(self.overall(named, **changed)), named)


ABSENT = object()


def digest(token: str) -> list[Any]:
    return ["DIGEST", ["SHA-256", hashlib.sha256(token.encode()).hexdigest()]]


def written(overall: str, devices: Mapping[str, str]) -> bytes:
    return json.dumps([["JWT", overall], devices]).encode()
