"""A stand-in for NVIDIA's Remote Attestation Service on loopback: evidence of GPUs in, signed tokens out.

Evidence is verified for real, under the throw-away root of a rehearsal; reference values are those of the
GPUs that it mints. docs.nvidia.com/attestation, NRAS API and Claims Guide (2026-10).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jewelhouse.evidence import nvidia
from jewelhouse.evidence.certificates import Root
from jewelhouse.evidence.nvidia_report import claims as readable
from jewelhouse.evidence.verdict import MalformedEvidence
from jewelhouse.guest.nras import ATTEST, KEYS
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal.http import Answer, Asked, Service, answer
from jewelhouse.rehearsal.minting_nvidia import Gpu, written
from jewelhouse.rehearsal.minting_nvidia import Service as Signer

MODELS: Mapping[str, str] = {"HOPPER": "GH100 A01 GSP BROM", "BLACKWELL": "GB100 A01 GSP BROM"}
VERSIONS = ("2.0", "3.0")
# The service certifies its keys for two days.
LIFE = timedelta(days=1)
Change = Callable[[str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Attested:
    """One request: whether the GPUs were attested, and if not, why."""

    good: bool
    because: tuple[str, ...] = ()


class Nras(http.Standing):
    """`roots`: of devices that are believed. `reference`: measurements that were released. `change` alters
    claims before they are signed, by the name of their token ("" for the whole); `forging` has them signed by
    a key that is not in its set; `replay` is a bundle that is given out instead.

    A context manager with `url`; `fail` and `cut` disturb the next answers.
    """

    def __init__(
        self,
        roots: Sequence[Root],
        *,
        authority: http.Authority,
        reference: Mapping[int, bytes] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        change: Change = lambda name, claims: claims,
        forging: bool = False,
        replay: bytes | None = None,
    ) -> None:
        self.roots, self.clock, self.change = roots, clock, change
        self.reference = dict(reference if reference is not None else Gpu().measurements)
        self.forging, self.replay = forging, replay
        self.log: list[Attested] = []
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer, identity=authority.identity())

    def fail(self, status: int, times: int = 1, message: str = "try again") -> None:
        """The next answers have this status, whatever they ask."""
        self._faults += [answer({"message": message}, status)] * times

    def cut(self, times: int = 1) -> None:
        """The next answers lose their connection in the middle."""
        self._faults += [Answer(body=b'[["JWT", "', cut=4)] * times

    def signer(self) -> Signer:
        now = self.clock().replace(microsecond=0)
        return Signer(
            name="rehearsal nras", kid="nv-eat-kid-rehearsal", issued=now, certified=(now - LIFE, now + LIFE)
        )

    def _answer(self, asked: Asked) -> Answer:
        if self._faults:
            return self._faults.popleft()
        if (asked.method, asked.path) == ("GET", KEYS):
            return answer({"keys": [self.signer().jwk()]})
        if (asked.method, asked.path) != ("POST", ATTEST):
            return answer({"message": "no such resource"}, 404)
        try:
            return Answer(body=self.replay or self._attest(json.loads(asked.body)))
        except (MalformedEvidence, ValueError, KeyError, TypeError, AttributeError) as error:
            said = error.what if isinstance(error, MalformedEvidence) else str(error)
            self.log.append(Attested(good=False, because=(said,)))
            return answer({"message": said}, 400)

    def _attest(self, body: Mapping[str, Any]) -> bytes:
        arch, version = body["arch"], body["claims_version"]
        if arch not in MODELS or version not in VERSIONS:
            raise ValueError(f"unsupported architecture {arch} or claims {version}")
        nonce = bytes.fromhex(body["nonce"])
        data = json.dumps([{"nonce": nonce.hex(), "arch": arch, **one} for one in body["evidence_list"]])
        verdict = nvidia.verify(data.encode(), at=self.clock(), nonce=nonce, roots=self.roots)
        because = [f"{one.where}: {one.what}" for one in verdict.problems]
        signer = replace(self.signer(), nonce=nonce, version=version)
        claims = {
            f"GPU-{index}": self._device(signer, device, arch, verdict.verified)
            for index, device in enumerate(nvidia.parse(data.encode()))
        }
        because += [f"{name}: measurements" for name, one in claims.items() if one["measres"] != "success"]
        key = replace(signer, name="somebody's nras") if self.forging else signer
        tokens = {name: key.sign(self.change(name, one)) for name, one in claims.items()}
        whole = signer.overall(tokens, **{"x-nvidia-overall-att-result": not because})
        self.log.append(Attested(good=not because, because=tuple(because)))
        return written(key.sign(self.change("", whole)), tokens)

    def _device(self, signer: Signer, device: nvidia.Device, arch: str, genuine: bool) -> dict[str, Any]:
        opaque = readable(device.report)["opaque"]
        released = dict(device.report.measurements) == self.reference
        found = signer.device(
            **{
                "hwmodel": MODELS[arch],
                "measres": "success" if released else "fail",
                "x-nvidia-gpu-driver-version": opaque.get("driver-version"),
                "x-nvidia-gpu-vbios-version": opaque.get("vbios-version"),
                "x-nvidia-gpu-attestation-report-signature-verified": genuine,
            }
        )
        # The service says nothing of secure boot and debugging when it does not know the measurements.
        return found if released else {**found, "secboot": None, "dbgstat": None}
