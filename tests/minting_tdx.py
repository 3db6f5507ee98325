"""TDX quotes and collateral under a throw-away root: fields of a real quote and levels of real collateral,
changed at will and signed again. The real files are read where they lie; without them such tests are skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import real
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from jewelhouse.evidence import tdx
from jewelhouse.evidence.certificates import Root
from jewelhouse.evidence.tdx_collateral import SGX_EXTENSION
from jewelhouse.evidence.tdx_quote import TD_REPORT_10, TD_REPORT_15
from jewelhouse.evidence.verdict import Endorsements

BEGAN, ENDED = datetime(2020, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, tzinfo=UTC)
ISSUED, NEXT = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 15, tzinfo=UTC)
ROOT, PLATFORM, PCK = "Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX PCK Certificate"
SIGNER = "Intel SGX TCB Signing"
TEMPLATES = {
    4: ("dcap-qvl/tdx_quote", "dcap-qvl/tdx_quote_collateral.json"),
    5: ("quote_v5_sample.dat", "dcap-qvl/tdx_quote_outdated_collateral.json"),
}


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A machine with Intel's whole side of it. `report` changes fields of the TD report, `tcb` and `identity`
    members of the TCB information and of the quoting enclave's identity, `status` that of every TCB level."""

    version: int = 4
    keys: str = "intel"
    report: Mapping[str, bytes] = field(default_factory=dict)
    tcb: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    status: str | None = None
    advisories: tuple[str, ...] = ()
    revoked: bool = False
    issuer_of_signer: str = ROOT

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        return ec_key(f"{self.keys} {name}")

    @property
    def roots(self) -> tuple[Root, ...]:
        spki = self.key(ROOT).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return (Root(key=hashlib.sha256(spki).hexdigest(), name=ROOT, source="minted for this test"),)

    def issue(self, subject: str, issuer: str, extra: bytes | None = None) -> x509.Certificate:
        ca = subject in (ROOT, PLATFORM)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(self.issuer_of_signer if subject == SIGNER else issuer))
            .public_key(self.key(subject).public_key())
            .serial_number({ROOT: 1, PLATFORM: 2, PCK: 3, SIGNER: 4}[subject])
            .not_valid_before(BEGAN)
            .not_valid_after(ENDED)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True
            )
        )
        if extra is not None:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_EXTENSION), extra)
            builder = builder.add_extension(unknown, critical=False)
        return builder.sign(self.key(issuer), hashes.SHA256())

    def template(self) -> tuple[tdx.Quote, bytes]:
        data = real.evidence(f"intel-tdx/{TEMPLATES[self.version][0]}")
        return tdx.parse(data), data

    @property
    def pem(self) -> bytes:
        quote, _ = self.template()
        _, extension = quote.certificates[0].extensions[SGX_EXTENSION]
        chain = (
            self.issue(PCK, PLATFORM, extension),
            self.issue(PLATFORM, ROOT),
            self.issue(ROOT, ROOT),
        )
        return b"".join(one.public_bytes(Encoding.PEM) for one in chain)

    def quote(self) -> bytes:
        real_quote, data = self.template()
        fields = TD_REPORT_10 if self.version == 4 else TD_REPORT_15
        start = 48 if self.version == 4 else 54
        body = b"".join(
            self.report.get(name, real_quote.report[name]).ljust(size, b"\0") for name, size in fields
        )
        signed = data[:start] + body
        key = self.key("attestation")
        vouched = hashlib.sha256(point(key) + real_quote.quoting_data).digest().ljust(64, b"\0")
        quoting = real_quote.quoting_report[:-64] + vouched
        pem = self.pem
        inner = (
            quoting
            + raw_signature(self.key(PCK), quoting)
            + len(real_quote.quoting_data).to_bytes(2, "little")
            + real_quote.quoting_data
            + b"\5\0"
            + len(pem).to_bytes(4, "little")
            + pem
        )
        outer = raw_signature(key, signed) + point(key) + b"\6\0" + len(inner).to_bytes(4, "little") + inner
        return signed + len(outer).to_bytes(4, "little") + outer

    def collateral(self, **changed: Any) -> bytes:
        saved = json.loads(real.evidence(f"intel-tdx/{TEMPLATES[self.version][1]}"))
        dates = {"issueDate": f"{ISSUED:%Y-%m-%dT%H:%M:%SZ}", "nextUpdate": f"{NEXT:%Y-%m-%dT%H:%M:%SZ}"}
        tcb = {**json.loads(saved["tcb_info"]), **dates, **self.tcb}
        for level in tcb["tcbLevels"] if self.status else ():
            level.update(tcbStatus=self.status, advisoryIDs=list(self.advisories))
        texts = {
            "tcb_info": json.dumps(tcb),
            "qe_identity": json.dumps({**json.loads(saved["qe_identity"]), **dates, **self.identity}),
        }
        signer = (self.issue(SIGNER, ROOT), self.issue(ROOT, ROOT))
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in signer).decode()
        return json.dumps(
            {
                "pck_crl_issuer_chain": chain,
                "root_ca_crl": self.crl(ROOT, ()).hex(),
                "pck_crl": self.crl(PLATFORM, (3,) if self.revoked else ()).hex(),
                "tcb_info_issuer_chain": chain,
                "qe_identity_issuer_chain": chain,
                **texts,
                **{
                    f"{name}_signature": raw_signature(self.key(SIGNER), text.encode()).hex()
                    for name, text in texts.items()
                },
                **changed,
            }
        ).encode()

    def crl(self, issuer: str, serials: tuple[int, ...]) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(named(issuer))
            .last_update(ISSUED)
            .next_update(NEXT)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key(issuer).public_key()),
                critical=False,
            )
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(ISSUED).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.key(issuer), hashes.SHA256()).public_bytes(Encoding.DER)

    @property
    def endorsements(self) -> Endorsements:
        return Endorsements(files=(self.collateral(),))
