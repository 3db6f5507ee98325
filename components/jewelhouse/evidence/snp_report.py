"""The layout of a SEV-SNP attestation report, versions 2, 3 and 5.

SEV Secure Nested Paging Firmware ABI Specification (AMD publication 56860, revision 1.58, 2025): table
ATTESTATION_REPORT, guest policy, platform information.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jewelhouse.evidence.snp_certificates import TcbLayout
from jewelhouse.evidence.verdict import MalformedEvidence

SIZE = 0x4A0
SIGNED = 0x2A0
VERSIONS = (2, 3, 5)

# Offsets 0x000 to 0x2A0, then R and S of the signature, each in 72 bytes, and the rest of its 512 bytes.
LAYOUT = struct.Struct("<IIQ16s16sII8sQII64s48s32s48s48s32s32s8sBBB21s64s8sBBBBBBBB8sQQ152s72s72s368s")

# Guest policy and platform information, by bit (publication 56860, tables of the same names).
POLICY_BITS: Mapping[int, str] = {
    16: "smt-allowed",
    18: "migration-agent-allowed",
    19: "debug-allowed",
    20: "single-socket-required",
    21: "cxl-allowed",
    22: "mem-aes-256-xts-required",
    23: "rapl-disabled-required",
    24: "ciphertext-hiding-required",
    25: "page-swap-disabled",
}
POLICY_MUST_BE_ONE = 17
DEBUG = 19
PLATFORM_BITS: Mapping[int, str] = {
    0: "smt-enabled",
    1: "tsme-enabled",
    2: "ecc-enabled",
    3: "rapl-disabled",
    4: "ciphertext-hiding-enabled",
    5: "alias-check-complete",
    7: "sev-tio-enabled",
}
SIGNING_KEYS: Mapping[int, str] = {0: "VCEK", 1: "VLEK", 7: "none"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report's fields by the names of the specification, numbers decoded and the rest as bytes.

    `cpuid`: family, model and stepping, from version 3; `mitigations`: at launch and now, from version 5.
    `reserved`: names of fields that must be zero and are not.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    current_tcb: bytes
    platform_info: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    current_version: tuple[int, int, int]
    committed_version: tuple[int, int, int]
    launch_tcb: bytes
    mitigations: tuple[int, int] | None
    signed: bytes
    signature: tuple[int, int]
    reserved: tuple[str, ...]

    @property
    def debug(self) -> bool:
        return bool(self.policy >> DEBUG & 1)

    @property
    def signing_key(self) -> str:
        number = self.key_info >> 2 & 7
        return SIGNING_KEYS.get(number, f"unknown ({number})")


def parse(data: bytes) -> Report:
    """Reads the 1,184 bytes of a report. Raises MalformedEvidence for another size or an unknown version."""
    if len(data) != SIZE:
        raise MalformedEvidence(f"has {len(data)} bytes, a SEV-SNP report has {SIZE}")
    (
        version,
        guest_svn,
        policy,
        family_id,
        image_id,
        vmpl,
        signature_algorithm,
        current_tcb,
        platform_info,
        key_info,
        reserved_4c,
        report_data,
        measurement,
        host_data,
        id_key_digest,
        author_key_digest,
        report_id,
        report_id_ma,
        reported_tcb,
        family,
        model,
        stepping,
        reserved_18b,
        chip_id,
        committed_tcb,
        current_build,
        current_minor,
        current_major,
        reserved_1eb,
        committed_build,
        committed_minor,
        committed_major,
        reserved_1ef,
        launch_tcb,
        launch_mitigations,
        current_mitigations,
        reserved_208,
        r,
        s,
        reserved_330,
    ) = LAYOUT.unpack(data)
    if version not in VERSIONS:
        raise MalformedEvidence(f"is {version}: known are {', '.join(map(str, VERSIONS))}", where="version")
    zero = {
        "0x04c": reserved_4c,
        "0x188": version < 3 and (family or model or stepping),
        "0x18b": any(reserved_18b),
        "0x1eb": reserved_1eb,
        "0x1ef": reserved_1ef,
        "0x1f8": version < 5 and (launch_mitigations or current_mitigations),
        "0x208": any(reserved_208),
        "0x330": any(reserved_330),
    }
    return Report(
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        signature_algorithm=signature_algorithm,
        current_tcb=current_tcb,
        platform_info=platform_info,
        key_info=key_info,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key_digest,
        author_key_digest=author_key_digest,
        report_id=report_id,
        report_id_ma=report_id_ma,
        reported_tcb=reported_tcb,
        cpuid=(family, model, stepping) if version >= 3 else None,
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        current_version=(current_major, current_minor, current_build),
        committed_version=(committed_major, committed_minor, committed_build),
        launch_tcb=launch_tcb,
        mitigations=(launch_mitigations, current_mitigations) if version >= 5 else None,
        signed=data[:SIGNED],
        signature=(int.from_bytes(r, "little"), int.from_bytes(s, "little")),
        reserved=tuple(name for name, filled in zero.items() if filled),
    )


def measurements(report: Report) -> dict[str, str]:
    """By the names that Azure Attestation gives to the same fields."""
    return {
        "launchmeasurement": report.measurement.hex(),
        "hostdata": report.host_data.hex(),
        "reportdata": report.report_data.hex(),
        "idkeydigest": report.id_key_digest.hex(),
        "authorkeydigest": report.author_key_digest.hex(),
    }


def claims(report: Report, product: str | None, layout: TcbLayout | None) -> dict[str, Any]:
    """Everything the report says, as JSON values; patch levels by name where the product is known."""

    def tcb(value: bytes) -> dict[str, Any]:
        parts = {name: value[at] for name, at in layout.parts.items()} if layout else {}
        return {"raw": value[::-1].hex(), **parts}

    def version(value: tuple[int, int, int]) -> str:
        return ".".join(map(str, value))

    said: dict[str, Any] = {
        "version": report.version,
        "product": product,
        "guest_svn": report.guest_svn,
        "policy": {
            "raw": f"{report.policy:#x}",
            "abi": f"{report.policy >> 8 & 0xFF}.{report.policy & 0xFF}",
            **{name: bool(report.policy >> bit & 1) for bit, name in POLICY_BITS.items()},
        },
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "vmpl": report.vmpl,
        "current_tcb": tcb(report.current_tcb),
        "platform_info": {
            "raw": f"{report.platform_info:#x}",
            **{name: bool(report.platform_info >> bit & 1) for bit, name in PLATFORM_BITS.items()},
        },
        "signing_key": report.signing_key,
        "chip_key_masked": bool(report.key_info >> 1 & 1),
        "author_key_enabled": bool(report.key_info & 1),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "reported_tcb": tcb(report.reported_tcb),
        "chip_id": report.chip_id.hex(),
        "committed_tcb": tcb(report.committed_tcb),
        "current_version": version(report.current_version),
        "committed_version": version(report.committed_version),
        "launch_tcb": tcb(report.launch_tcb),
        "report_sha384": hashlib.sha384(report.signed).hexdigest(),
    }
    if report.cpuid is not None:
        family, model, stepping = report.cpuid
        said["cpuid"] = {"family": family, "model": model, "stepping": stepping}
    if report.mitigations is not None:
        launch, current = report.mitigations
        said["mitigations"] = {"launch": f"{launch:#x}", "current": f"{current:#x}"}
    return said
