"""SEV-SNP reports and the certificates of their signers, minted under a throw-away ARK.

Certificates are written with asn1crypto, because AMD's have the serial number 0 and a hwID that is no DER,
which `cryptography` does not build; the report with `struct`, field by field from AMD publication 56860.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from asn1crypto import algos, core, pem, x509
from asn1crypto import keys as asn1_keys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from jewelhouse.evidence.certificates import Root
from jewelhouse.evidence.verdict import Endorsements

ROOT_DATES = (datetime(2020, 10, 22, tzinfo=UTC), datetime(2045, 10, 22, tzinfo=UTC))
LEAF_DATES = (datetime(2026, 2, 5, tzinfo=UTC), datetime(2033, 2, 5, tzinfo=UTC))
NOW = datetime(2026, 11, 1, tzinfo=UTC)

# Product: its name in a certificate, CPUID, bytes of a hwID, and where a TCB version has which patch level.
CLASSIC = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
SHAPES: Mapping[str, tuple[str, tuple[int, int, int], int, Mapping[str, int]]] = {
    "Milan": ("Milan-B0", (0x19, 0x01, 1), 64, CLASSIC),
    "Genoa": ("Genoa", (0x19, 0x11, 1), 64, CLASSIC),
    "Bergamo": ("Bergamo-A0", (0x19, 0xA0, 2), 64, CLASSIC),
    "Turin": (
        "Turin-B1",
        (0x1A, 0x02, 1),
        8,
        {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7},
    ),
}
LINES = {"Milan": "Milan", "Genoa": "Genoa", "Bergamo": "Genoa", "Turin": "Turin"}
PATCH_LEVELS = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219, "fmc": 1}
OIDS = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}
AMD = "1.3.6.1.4.1.3704.1"

Extensions = Mapping[str, tuple[bool, bytes]]
BASIC_CONSTRAINTS = "2.5.29.19"
CA: Extensions = {
    BASIC_CONSTRAINTS: (True, bytes.fromhex("30030101ff")),
    "2.5.29.15": (True, bytes.fromhex("03020106")),
}


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key by its name, made once in a run: a key of 4,096 bits, as AMD's are, takes a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def spki(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def issue(
    subject: str,
    key: Any,
    issuer: str,
    signer: rsa.RSAPrivateKey,
    *,
    serial: int,
    dates: tuple[datetime, datetime],
    extensions: Extensions,
) -> bytes:
    """A certificate in DER, signed with RSASSA-PSS, SHA-384 and a salt of 48 bytes as AMD signs."""
    algorithm = algos.SignedDigestAlgorithm(
        {
            "algorithm": "rsassa_pss",
            "parameters": algos.RSASSAPSSParams(
                {
                    "hash_algorithm": {"algorithm": "sha384"},
                    "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": {"algorithm": "sha384"}},
                    "salt_length": 48,
                }
            ),
        }
    )
    body = x509.TbsCertificate(
        {
            "version": "v3",
            "serial_number": serial,
            "signature": algorithm,
            "issuer": x509.Name.build({"organization_name": "Throw-away", "common_name": issuer}),
            "validity": {
                "not_before": x509.Time(name="utc_time", value=dates[0]),
                "not_after": x509.Time(name="utc_time", value=dates[1]),
            },
            "subject": x509.Name.build({"organization_name": "Throw-away", "common_name": subject}),
            "subject_public_key_info": asn1_keys.PublicKeyInfo.load(spki(key)),
            "extensions": [
                {"extn_id": oid, "critical": critical, "extn_value": core.ParsableOctetString(value)}
                for oid, (critical, value) in extensions.items()
            ],
        }
    )
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
    signature = signer.sign(body.dump(), pss, hashes.SHA384())
    return x509.Certificate(
        {"tbs_certificate": body, "signature_algorithm": algorithm, "signature_value": signature}
    ).dump()


@dataclass(frozen=True, kw_only=True)
class Authority:
    """ARK, and what it signed: the ASK for VCEKs and the ASVK for VLEKs, of one product line."""

    line: str
    name: str = "amd"
    bits: int = 2048

    @property
    def ark_key(self) -> rsa.RSAPrivateKey:
        return rsa_key(f"{self.name} ark {self.line}", self.bits)

    def intermediate_key(self, vlek: bool) -> rsa.RSAPrivateKey:
        return rsa_key(f"{self.name} {'asvk' if vlek else 'ask'} {self.line}", self.bits)

    @property
    def ark(self) -> bytes:
        name = f"ARK-{self.line}"
        return issue(name, self.ark_key, name, self.ark_key, serial=65536, dates=ROOT_DATES, extensions=CA)

    def intermediate(self, vlek: bool, extensions: Extensions = CA) -> bytes:
        return issue(
            self.intermediate_name(vlek),
            self.intermediate_key(vlek),
            f"ARK-{self.line}",
            self.ark_key,
            serial=65537,
            dates=ROOT_DATES,
            extensions=extensions,
        )

    def intermediate_name(self, vlek: bool) -> str:
        return f"SEV-VLEK-{self.line}" if vlek else f"SEV-{self.line}"

    @property
    def roots(self) -> tuple[Root, ...]:
        digest = hashlib.sha256(spki(self.ark_key)).hexdigest()
        return (Root(key=digest, name=self.line, source="throw-away"),)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A chip with its key and certificate; every part of the certificate can be changed."""

    product: str = "Milan"
    vlek: bool = False
    name: str = "amd"
    chip: str = "chip"
    bits: int = 2048
    levels: Mapping[str, int] = field(default_factory=lambda: dict(PATCH_LEVELS))
    dates: tuple[datetime, datetime] = LEAF_DATES
    changed: Extensions = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def authority(self) -> Authority:
        return Authority(line=LINES[self.product], name=self.name, bits=self.bits)

    @property
    def roots(self) -> tuple[Root, ...]:
        return self.authority.roots

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return ec_key(f"{self.chip} {self.product} {self.vlek}")

    @property
    def chip_id(self) -> bytes:
        size = SHAPES[self.product][2]
        return hashlib.sha512(self.chip.encode()).digest()[:size]

    @property
    def tcb(self) -> bytes:
        value = bytearray(8)
        for name, at in SHAPES[self.product][3].items():
            value[at] = self.levels[name]
        return bytes(value)

    @property
    def extensions(self) -> Extensions:
        own = (
            {f"{AMD}.5": (False, core.IA5String("cc-us-east-2.example").dump())}
            if self.vlek
            else {f"{AMD}.4": (False, self.chip_id)}
        )
        levels = {
            f"{AMD}.3.{OIDS[name]}": (False, core.Integer(self.levels[name]).dump())
            for name in SHAPES[self.product][3]
        }
        every = {
            f"{AMD}.1": (False, core.Integer(0).dump()),
            f"{AMD}.2": (False, core.IA5String(SHAPES[self.product][0]).dump()),
            **levels,
            **own,
            **self.changed,
        }
        return {oid: value for oid, value in every.items() if oid not in self.left_out}

    @property
    def certificate(self) -> bytes:
        return issue(
            "SEV-VLEK" if self.vlek else "SEV-VCEK",
            self.key,
            self.authority.intermediate_name(self.vlek),
            self.authority.intermediate_key(self.vlek),
            serial=0,
            dates=self.dates,
            extensions=self.extensions,
        )

    @property
    def chain(self) -> tuple[bytes, bytes, bytes]:
        return self.certificate, self.authority.intermediate(self.vlek), self.authority.ark

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements(files=(armoured(self.chain[0]), armoured(*self.chain[1:])))


def armoured(*certificates: bytes) -> bytes:
    return b"".join(pem.armor("CERTIFICATE", der) for der in certificates)


def thim(leaf: bytes, *above: bytes) -> bytes:
    """As Azure's host answers: vcekCert, its TCB, and the chain above it."""
    return json.dumps(
        {
            "vcekCert": armoured(leaf).decode(),
            "tcbm": "DB18000000000004",
            "certificateChain": armoured(*above).decode(),
            "cacheControl": "86400",
        }
    ).encode()


# Fields by offset: name, struct format, and what a plain guest of a Milan machine has there.
FIELDS: tuple[tuple[int, str, str, Any], ...] = (
    (0x000, "version", "<I", 3),
    (0x004, "guest_svn", "<I", 2),
    (0x008, "policy", "<Q", 0x3001F),
    (0x010, "family_id", "16s", b"\1"),
    (0x020, "image_id", "16s", b"\2"),
    (0x030, "vmpl", "<I", 0),
    (0x034, "signature_algorithm", "<I", 1),
    (0x038, "current_tcb", "8s", None),
    (0x040, "platform_info", "<Q", 0x25),
    (0x048, "key_info", "<I", None),
    (0x04C, "reserved_4c", "<I", 0),
    (0x050, "report_data", "64s", b"nonce"),
    (0x090, "measurement", "48s", bytes(range(48))),
    (0x0C0, "host_data", "32s", bytes(range(32))),
    (0x0E0, "id_key_digest", "48s", b""),
    (0x110, "author_key_digest", "48s", b""),
    (0x140, "report_id", "32s", b"\7" * 32),
    (0x160, "report_id_ma", "32s", b"\xff" * 32),
    (0x180, "reported_tcb", "8s", None),
    (0x188, "cpuid", "3s", None),
    (0x18B, "reserved_18b", "21s", b""),
    (0x1A0, "chip_id", "64s", None),
    (0x1E0, "committed_tcb", "8s", None),
    (0x1E8, "current_version", "4s", bytes((29, 55, 1, 0))),
    (0x1EC, "committed_version", "4s", bytes((29, 55, 1, 0))),
    (0x1F0, "launch_tcb", "8s", None),
    (0x1F8, "launch_mitigations", "<Q", 0),
    (0x200, "current_mitigations", "<Q", 0),
    (0x208, "reserved_208", "152s", b""),
)


def report(machine: Machine, *, signer: ec.EllipticCurvePrivateKey | None = None, **changed: Any) -> bytes:
    """A signed report of a guest on the machine; `changed` names fields of FIELDS."""
    version = changed.get("version", 3)
    own = {
        **dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), machine.tcb),
        "key_info": 4 if machine.vlek else 0,
        "cpuid": bytes(SHAPES[machine.product][1]) if version >= 3 else b"",
        "chip_id": b"" if machine.vlek else machine.chip_id,
    }
    unknown = changed.keys() - {name for _, name, _, _ in FIELDS}
    assert not unknown, unknown
    data = bytearray(0x2A0)
    for at, name, form, usual in FIELDS:
        struct.pack_into(form, data, at, changed.get(name, own.get(name, usual)))
    return bytes(data) + signature(signer or machine.key, bytes(data))


def signature(key: ec.EllipticCurvePrivateKey, signed: bytes) -> bytes:
    """R and S, little-endian in 72 bytes each, and zeros up to 512."""
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    return (r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(512, b"\0")
