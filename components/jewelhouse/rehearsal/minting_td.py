"""Quotes of trust domains under a throw-away root, and what of them is verified without Intel's collateral.

Version 4, Intel TDX DCAP Quoting Library API, appendix A.3 (2026-11).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography.hazmat.primitives import serialization

from jewelhouse.evidence import tdx
from jewelhouse.evidence.certificates import Root
from jewelhouse.evidence.tdx_quote import TD_REPORT_10
from jewelhouse.evidence.verdict import Verdict
from jewelhouse.rehearsal.minting_sgx import INTEL, certificate, ec_key, pem, raw_signature, report, spki

ROOT, PLATFORM, PCK = "Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX PCK Certificate"
# Version 4, ECDSA on P-256, TEE type TDX, reserved.
HEADER = (4).to_bytes(2, "little") + (2).to_bytes(2, "little") + (0x81).to_bytes(4, "little") + bytes(4)
# TD report of a TDREPORT_STRUCT: report data, then TDINFO with attributes at 512.
REPORT_DATA, DEBUG = slice(128, 192), b"\1"
COLLATERAL = "collateral"


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host with TDX. `name`: its root's; `fields`: of the TD report, over those of a plain domain."""

    name: str = "intel"
    fields: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def roots(self) -> tuple[Root, ...]:
        digest = hashlib.sha256(spki(ec_key(f"{self.name} {ROOT}").public_key())).hexdigest()
        return (Root(key=digest, name=ROOT, source="throw-away"),)

    def quote(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes."""
        fields = {"mrtd": b"\x5a" * 48, "rtmr0": b"\1" * 48, "tee_tcb_svn": b"\3", **self.fields}
        body = b"".join(
            {**fields, "reportdata": report_data}.get(name, b"").ljust(size, b"\0")
            for name, size in TD_REPORT_10
        )
        signed = HEADER + INTEL + bytes(20) + body
        attesting, pck = ec_key(f"{self.name} attestation"), ec_key(f"{self.name} {PCK}")
        point = attesting.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )[1:]
        extra = bytes(range(32))
        quoting = report("dc" * 32, 2, 0x15, hashlib.sha256(point + extra).digest())
        chain = self._chain()
        inner = quoting + raw_signature(pck, quoting) + len(extra).to_bytes(2, "little") + extra
        inner += (5).to_bytes(2, "little") + len(chain).to_bytes(4, "little") + chain
        outer = raw_signature(attesting, signed) + point
        outer += (6).to_bytes(2, "little") + len(inner).to_bytes(4, "little") + inner
        return signed + len(outer).to_bytes(4, "little") + outer

    def _chain(self) -> bytes:
        keys = {name: ec_key(f"{self.name} {name}") for name in (ROOT, PLATFORM, PCK)}
        return pem(
            *(
                certificate(subject, keys[subject].public_key(), issuer, keys[issuer], ca=subject != PCK)
                for subject, issuer in ((PCK, PLATFORM), (PLATFORM, ROOT), (ROOT, ROOT))
            )
        )

    def verified(self, quote: bytes, at: datetime) -> Verdict:
        """The verdict on a quote under this host's root, but for its TCB level: that takes collateral, which
        only Intel signs."""
        found = tdx.verify(quote, at=at, roots=self.roots)
        problems = tuple(one for one in found.problems if one.where != COLLATERAL)
        return replace(found, verified=not problems, problems=problems)


def td_report(data: bytes) -> bytes:
    """What the guest of a trust domain gets: the host makes a quote of it."""
    return (bytes(REPORT_DATA.start) + data).ljust(1024, b"\0")
