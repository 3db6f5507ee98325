"""GPUs attested before any key is asked for: right ones, as many as wanted, closed to their host and to
debuggers.

Each answers a nonce that only this run can have made. Its report is verified here to NVIDIA's device root;
NVIDIA's service compares what it measured with its reference values. Only then do the GPUs take work.
Order of steps: docs.nvidia.com/enterprise-reference-architectures, Deploying proprietary models with
confidential computing, required capabilities (2026-09).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jewelhouse.evidence import certificates, nvidia, nvidia_eat, tokens
from jewelhouse.evidence.certificates import Root
from jewelhouse.evidence.tokens import shown
from jewelhouse.evidence.verdict import Endorsements, Kind, MalformedEvidence, Verdict
from jewelhouse.guest import nras, nvml
from jewelhouse.guest.nvml import Driver, Evidence
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.record import Record
from jewelhouse.guest.settings import Endpoints, TrustedGpus
from jewelhouse.model import Platform

BINDING = b"jewelhouse gpu v1\0"
# The clocks of this machine and of the service are not one.
SKEW = timedelta(minutes=5)
# Modes in NVIDIA's words -> the driver's number (NVML_CC_SYSTEM_MULTIGPU_*), and what a report's feature flag
# says where it has one (NVIDIA/attestation-sdk: include/nv_attestation/gpu/evidence.h, 2026-09).
DRIVER_MODES: Mapping[str, int] = {"SPT": 0, "MPT": 2}
FEATURE_FLAGS: Mapping[int, str] = {0: "MPT", 1: "SPT", 2: "PPCIE"}
# Claims that have to be there and true: an absent one was not checked (docs.nvidia.com/attestation, Claims
# Guide, GPU claims 3.0, 2026-10).
CHECKS = (
    "x-nvidia-gpu-arch-check",
    "x-nvidia-gpu-attestation-report-nonce-match",
    "x-nvidia-gpu-attestation-report-parsed",
    "x-nvidia-gpu-attestation-report-signature-verified",
    "x-nvidia-gpu-driver-rim-measurements-available",
    "x-nvidia-gpu-driver-rim-signature-verified",
    "x-nvidia-gpu-vbios-rim-signature-verified",
)
CHAINS = (
    "x-nvidia-gpu-attestation-report-cert-chain",
    "x-nvidia-gpu-driver-rim-cert-chain",
    "x-nvidia-gpu-vbios-rim-cert-chain",
)
VERSIONS: Mapping[str, str] = {
    "driver": "x-nvidia-gpu-driver-version",
    "vbios": "x-nvidia-gpu-vbios-version",
}
# Where the platform's own launcher attests the GPUs, has them take work and starts the guest after that:
# google/go-tpm-tools: launcher/internal/gpu/attestation.go (2026-10). Containers there cannot change it.
LAUNCHED = frozenset({Platform.GCP_CONFIDENTIAL_SPACE})


@dataclass(frozen=True, kw_only=True)
class Found:
    """One GPU as its verified report has it."""

    key: str
    driver: str
    vbios: str


def attest(trusted: TrustedGpus, platform: Platform, record: Record, endpoints: Endpoints) -> None:
    """Attests all GPUs of this machine and has them take work; the record says by which evidence.

    Raises Closed, and GPUs do not take work then, or none is given to them.
    """
    nonce = bound(record.bound)
    with nvml.driver(endpoints.gpu) as driver:
        _modes(driver, trusted)
        if platform not in LAUNCHED:
            _take_no_work(driver)
        gathered = _gather(driver, trusted, nonce)
        now = datetime.now(UTC)
        report = _written(nonce, gathered)
        found = verified(report, trusted, nonce, _roots(endpoints), now)
        answer = nras.attest(endpoints, nonce, gathered)
        judged(answer, found, nonce, datetime.now(UTC))
        # What was attested is what is there: a GPU may have left or come, or changed its mode, since.
        _modes(driver, trusted)
        if platform not in LAUNCHED:
            driver.set_ready(True)
        if not driver.ready():
            raise Closed("do not take work after they were attested", where="GPUs", remedy=nvml.LOST)
    record.gpu(
        [{"key": one.key, "driver": one.driver, "vbios": one.vbios} for one in found],
        {Kind.NVIDIA_SPDM.value: report, Kind.NVIDIA_EAT.value: answer.bundle},
    )


def bound(run: bytes) -> bytes:
    """The nonce of a run, from the digest of the key that signs its record: that key is made for this run, so
    nobody had the nonce before, and whoever holds the record can tell that the evidence belongs to it."""
    return hashlib.sha256(BINDING + run).digest()


def _modes(driver: Driver, trusted: TrustedGpus) -> None:
    count = driver.count()
    if count != trusted.count:
        raise Closed(
            f"are {count}, and the image demands {trusted.count}",
            where="GPUs",
            remedy="choose the machine that trust.gpu of the image's recipe is for",
        )
    state = driver.state()
    for wrong, what in (
        (not state.confidential, "are not in confidential mode"),
        (state.developer, "are in the mode for developers, in which their memory is open"),
        (not state.production, "are not in a production environment"),
        (
            state.multiple != DRIVER_MODES[trusted.mode],
            f"are passed through in another mode than {trusted.mode}",
        ),
    ):
        if wrong:
            raise Closed(what, where="GPUs", remedy="the host sets it: ask for another machine")


def _take_no_work(driver: Driver) -> None:
    """What an earlier run left ready was attested for that run."""
    for index in range(driver.count()):
        driver.keep(index)
    if driver.ready():
        driver.set_ready(False)
    if driver.ready():
        raise Closed(
            "take work before they are attested", where="GPUs", remedy="stop and start the machine, then run"
        )


def _gather(driver: Driver, trusted: TrustedGpus, nonce: bytes) -> list[Evidence]:
    gathered = [driver.evidence(index, nonce) for index in range(trusted.count)]
    for index, one in enumerate(gathered):
        if one.architecture != trusted.architecture:
            raise Closed(
                f"is of {one.architecture}, and the image demands {trusted.architecture}",
                where=f"GPU {index}",
            )
    return gathered


def _written(nonce: bytes, gathered: Sequence[Evidence]) -> bytes:
    """As NVIDIA's tools save evidence, so that what is in the record can be looked at with them."""
    return json.dumps(
        [
            {
                "arch": one.architecture,
                "nonce": nonce.hex(),
                "evidence": base64.b64encode(one.report).decode(),
                "certificate": base64.b64encode(one.chain).decode(),
            }
            for one in gathered
        ]
    ).encode()


def _roots(endpoints: Endpoints) -> tuple[Root, ...]:
    if endpoints.gpu_roots is None:
        return nvidia.ROOTS
    try:
        data = Path(endpoints.gpu_roots).read_bytes()
    except OSError as error:
        raise Closed(f"cannot be read: {error.strerror}", where=endpoints.gpu_roots) from error
    try:
        found = [certificates.read(der, endpoints.gpu_roots) for der in certificates.blocks(data)]
    except MalformedEvidence as error:
        raise Closed(error.what, where=error.where) from error
    return tuple(Root(key=one.key_digest, name=one.name, source="given for a rehearsal") for one in found)


def verified(
    report: bytes, trusted: TrustedGpus, nonce: bytes, roots: Sequence[Root], now: datetime
) -> list[Found]:
    """The GPUs of reports that NVIDIA's devices signed for this nonce, in versions that may run.

    Raises Closed.
    """
    try:
        verdict = nvidia.verify(report, at=now, nonce=nonce, roots=roots)
        devices = nvidia.parse(report)
    except MalformedEvidence as error:
        raise Closed(error.what, where=f"evidence of the GPUs, {error.where}") from error
    for index, device in enumerate(devices):
        if device.report.request_nonce != nonce:
            raise Closed("answers another nonce: it was replayed", where=f"report of GPU {index}")
    _believed(verdict, "evidence of the GPUs")
    found: list[Found] = []
    for index, (device, said) in enumerate(zip(devices, verdict.claims["devices"], strict=True)):
        where = f"GPU {index}"
        flag = device.report.opaque.get("feature-flag")
        mode = None if flag is None else FEATURE_FLAGS.get(int.from_bytes(flag, "little"), "of no name")
        if mode not in (None, trusted.mode):
            raise Closed(f"reports mode {mode}, and the image demands {trusted.mode}", where=where)
        versions: dict[str, str] = {}
        for name, allowed in (("driver", trusted.driver), ("vbios", trusted.vbios)):
            version = str(said["opaque"].get(f"{name}-version", ""))
            if not version:
                raise Closed(f"reports no {name} version", where=where)
            if allowed and version.upper() not in {one.upper() for one in allowed}:
                raise Closed(
                    f"runs {name} {version}, and the image demands {' or '.join(allowed)}",
                    where=where,
                    remedy=f"trust.gpu.{name} of the image's recipe names what may run",
                )
            versions[name] = version
        signer = device.chain[0] if device.chain else None
        found.append(Found(key=signer.line if signer else "", **versions))
    return found


def judged(answer: nras.Answer, found: Sequence[Found], nonce: bytes, now: datetime) -> None:
    """That NVIDIA attested exactly these GPUs, for this nonce, with nothing left unchecked. Raises Closed."""
    where = "NVIDIA's attestation"
    try:
        overall = nvidia_eat.parse(answer.bundle).overall.claims
        verdict = nvidia_eat.verify(
            answer.bundle, at=_at(overall, now), endorsements=Endorsements(files=(answer.keys,)), nonce=nonce
        )
    except MalformedEvidence as error:
        raise Closed(error.what, where=f"{where}, {error.where}") from error
    _believed(verdict, where)
    if verdict.debug:
        raise Closed("finds a GPU open to a debugger", where=where, remedy="ask for another machine")
    devices: Mapping[str, Mapping[str, Any]] = verdict.claims["devices"]
    wanted = [f"GPU-{index}" for index in range(len(found))]
    if sorted(devices) != sorted(wanted):
        raise Closed(
            f"is about {', '.join(sorted(devices)) or 'nothing'}, not {', '.join(wanted)}", where=where
        )
    for name, one in zip(wanted, found, strict=True):
        _attested(devices[name], one, f"{where}, {name}")


def _at(overall: Mapping[str, Any], now: datetime) -> datetime:
    """Now, or the moment of issue where that is a little later by the service's clock."""
    issued = overall.get("iat")
    if type(issued) is int and 0 < issued <= tokens.LAST_SECOND:
        at = datetime.fromtimestamp(issued, UTC)
        if now < at <= now + SKEW:
            return at
    return now


def _attested(claims: Mapping[str, Any], one: Found, where: str) -> None:
    for name in CHECKS:
        if claims.get(name) is not True:
            raise Closed(f"says {shown(claims.get(name))} for {name}, expected true", where=where)
    for name in CHAINS:
        if not isinstance(claims.get(name), Mapping):
            raise Closed(f"says {shown(claims.get(name))} for {name}, expected its status", where=where)
    for name, claim in VERSIONS.items():
        said = claims.get(claim)
        if not isinstance(said, str) or said.upper() != getattr(one, name).upper():
            raise Closed(
                f"is for {name} {shown(said)}, and the GPU reports {getattr(one, name)}",
                where=where,
                remedy="the answer is not about this machine's GPUs",
            )


def _believed(verdict: Verdict, where: str) -> None:
    if not verdict.verified:
        first = verdict.problems[0]
        more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
        raise Closed(f"{first.where}: {first.what}{more}", where=where)
