"""NVIDIA GPU and NVSwitch attestation reports: SPDM measurements, verified to NVIDIA's device root.

A report is the SPDM 1.1 request with the verifier's nonce and the device's answer; the last 96 bytes sign all
before them (DMTF DSP0274; NVIDIA/attestation-sdk: nv-attestation-sdk-cpp/src/spdm, 2026-09). Whether the
measurements are those of a firmware that NVIDIA released, and so whether a debugger is locked out, takes its
reference values: NVIDIA's attestation service judges by them (`nvidia_eat`), a report alone does not tell.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from jewelhouse.evidence import certificates
from jewelhouse.evidence.certificates import Certificate, Root
from jewelhouse.evidence.nvidia_report import NONCE, Report, claims, is_json, read_report
from jewelhouse.evidence.tokens import strict_json
from jewelhouse.evidence.verdict import (
    NO_ENDORSEMENTS,
    Endorsements,
    Finding,
    Kind,
    MalformedEvidence,
    Verdict,
    moment,
)

__all__ = ["ROOTS", "Device", "parse", "verify"]

ROOTS: tuple[Root, ...] = (
    Root(
        key="a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4",
        name="NVIDIA Device Identity CA",
        source="NVIDIA/nvtrust: guest_tools/gpu_verifiers/local_gpu_verifier/src/verifier/certs/"
        "verifier_device_root.pem, commit 02817309",
    ),
)

# The largest machine has 8 GPUs and 4 switches; each piece has about 16 KiB of JSON.
DEVICE_LIMIT = 64
SIZE_LIMIT = 1024 * 1024
NOT_CHECKED = (
    "revocation was not checked: that takes NVIDIA's OCSP responder",
    "measurements were not compared with NVIDIA's reference values, which alone show debugging",
)
# DICE TcbInfo of the leaf (Trusted Computing Group): holds the digest of the firmware that got the key.
TCB_INFO = "2.23.133.5.4.1"


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device's report, and what came with it: its chain, and what the file says besides (`said`), which
    nothing signs."""

    name: str
    report: Report
    chain: tuple[Certificate, ...]
    said: Mapping[str, Any]


def parse(data: bytes) -> tuple[Device, ...]:
    """The reports in raw bytes, in hexadecimal text, or in NVIDIA's JSON of one or several devices.

    Raises MalformedEvidence when it is none of them, or a part of it cannot be read.
    """
    if len(data) > SIZE_LIMIT:
        raise MalformedEvidence(f"has {len(data)} bytes, evidence of devices has at most {SIZE_LIMIT}")
    if is_json(data):
        return tuple(_devices(strict_json(data, "evidence")))
    text = b"".join(data.split())
    raw = binascii.unhexlify(text) if re.fullmatch(rb"(?:[0-9A-Fa-f]{2})+", text) else data
    return (Device(name="device", report=read_report(raw), chain=(), said={}),)


def _devices(value: Any) -> Iterator[Device]:
    entries = value if isinstance(value, list) else [value]
    if not 0 < len(entries) <= DEVICE_LIMIT:
        raise MalformedEvidence(f"has {len(entries)} devices, expected 1 to {DEVICE_LIMIT}")
    for number, entry in enumerate(entries):
        name = f"device {number}"
        if not isinstance(entry, dict):
            raise MalformedEvidence("is no JSON object", where=name)
        pem = _decoded(entry.get("certificate"), f"{name}.certificate")
        yield Device(
            name=name,
            report=read_report(_decoded(entry.get("evidence"), f"{name}.evidence"), name),
            chain=tuple(certificates.read(der, name) for der in certificates.blocks(pem)),
            said={key: text for key, text in entry.items() if key not in ("certificate", "evidence")},
        )


def _decoded(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise MalformedEvidence("is absent or no text", where=where)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedEvidence("is not base64", where=where) from error


def verify(
    data: bytes,
    *,
    at: datetime | None,
    endorsements: Endorsements = NO_ENDORSEMENTS,
    nonce: bytes | None = None,
    roots: Sequence[Root] = ROOTS,
) -> Verdict:
    """Verifies the reports of one or several devices, each with its chain: from the JSON, or an endorsement.

    `at=None` is the first moment at which all chains were valid: a report has no time of its own. `nonce`:
    the 32 bytes of the request, the same for all devices. Raises MalformedEvidence for anything else.
    """
    devices = parse(data)
    several = len(devices) != 1
    problems: list[Finding] = []
    checked: list[str] = []
    saved = _saved(endorsements, problems)
    chains: list[tuple[Certificate, ...]] = []
    for device in devices:
        found: list[Finding] = []
        chains.append(_verify(device, saved, nonce, roots, found, checked))
        prefix = f"{device.name}: " if several else ""
        problems.extend(Finding(f"{prefix}{one.where}", one.what) for one in found)
    _check_distinct(devices, chains, problems)
    at = _moment(at, chains, checked)
    for chain in chains:
        certificates.check(chain, at, problems)
    if nonce is None:
        checked.append("freshness was not checked: no nonce was given")
    checked.extend(NOT_CHECKED)
    return Verdict(
        kind=Kind.NVIDIA_SPDM,
        verified=not problems,
        debug=False,
        at=at,
        chain=tuple(one.line for chain in chains for one in chain),
        measurements=_measurements(devices),
        claims={"devices": [{**claims(device.report), "unsigned": dict(device.said)} for device in devices]},
        nonce=devices[0].report.request_nonce,
        checked=tuple(checked),
        problems=tuple(problems),
    )


def _verify(
    device: Device,
    saved: Sequence[Certificate],
    nonce: bytes | None,
    roots: Sequence[Root],
    problems: list[Finding],
    checked: list[str],
) -> tuple[Certificate, ...]:
    report = device.report
    said = device.said.get("nonce")
    if said is not None and (not isinstance(said, str) or said.lower() != report.request_nonce.hex()):
        problems.append(Finding("nonce", "beside the report is not the one inside it"))
    if nonce is not None and nonce != report.request_nonce:
        other = nonce.hex() or "(empty)"
        problems.append(Finding("nonce", f"is {report.request_nonce.hex()}, not {other} ({NONCE} bytes)"))
    pool = [*device.chain, *saved]
    leaves = [one for one in pool if certificates.BASIC_CONSTRAINTS not in one.extensions]
    signer = next((one for one in leaves if _signature_holds(report, one)), None)
    if signer is None:
        if not leaves:
            problems.append(
                Finding("signature", "cannot be checked: no certificate of the device is at hand")
            )
            return ()
        problems.append(Finding("signature", f"is not made by the key of {leaves[0].name}"))
    else:
        checked.append(f"{device.name}: its report is signed by the key of {signer.name}")
    leaf = signer or leaves[0]
    chain, root = certificates.path(leaf, pool, roots, problems)
    if root is not None:
        checked.append(f"{device.name}: the chain ends at the pinned key of {root.name}")
    firmware = report.opaque.get("fwid")
    _, info = leaf.extensions.get(TCB_INFO, (False, b""))
    if firmware and firmware not in info:
        problems.append(Finding("fwid", f"{leaf.name} was issued for other firmware ({TCB_INFO})"))
    return chain


def _saved(endorsements: Endorsements, problems: list[Finding]) -> list[Certificate]:
    found: list[Certificate] = []
    for number, raw in enumerate(endorsements.files, 1):
        where = f"endorsement {number}"
        try:
            found.extend(certificates.read(der, where) for der in certificates.blocks(raw))
        except MalformedEvidence as error:
            problems.append(Finding(error.where or where, error.what))
    return found


def _signature_holds(report: Report, signer: Certificate) -> bool:
    """ECDSA P-384 with SHA-384 over request and answer."""
    r, s = (int.from_bytes(report.signature[at : at + 48], "big") for at in (0, 48))
    try:
        key = signer.public_key
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            return False
        key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, MalformedEvidence):
        return False
    return True


def _check_distinct(
    devices: Sequence[Device], chains: Sequence[Sequence[Certificate]], problems: list[Finding]
) -> None:
    """One GPU must not stand for several, and all must have answered one request."""
    signers = [chain[0].key for chain in chains if chain]
    if len(set(signers)) != len(signers):
        problems.append(Finding("devices", "are not different ones: two reports are signed by one key"))
    if len({device.report.request_nonce for device in devices}) > 1:
        problems.append(Finding("nonce", "is not the same for all devices"))


def _moment(at: datetime | None, chains: Sequence[Sequence[Certificate]], checked: list[str]) -> datetime:
    if at is not None:
        return at
    starts = [one.start for chain in chains for one in chain]
    if not starts:
        checked.append("no moment: a report has no time of its own, and no certificate gives one")
        return datetime.fromtimestamp(0, UTC)
    began = moment(max(starts))
    checked.append(f"appraised at {began}, when its chain began to be valid: a report has no time of its own")
    return max(starts)


def _measurements(devices: Sequence[Device]) -> dict[str, str]:
    """By their SPDM index, and by device where there are several."""
    return {
        (f"{device.name} index {index}" if len(devices) > 1 else f"index {index}"): value.hex()
        for device in devices
        for index, value in device.report.measurements.items()
    }
