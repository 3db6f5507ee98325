"""GPUs attested before any key is asked for: what a guest believes of a driver, of reports and of NVIDIA."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pynvml
import pytest
import real
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.evidence import nvidia
from jewelhouse.guest import gpu, nras, nvml
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.record import Record
from jewelhouse.guest.run import Run, run
from jewelhouse.guest.settings import Endpoints, Stage, Trust, TrustedGpus
from jewelhouse.model import Platform
from jewelhouse.rehearsal import gpus, http
from jewelhouse.rehearsal.minting_nvidia import ABSENT, USUAL_OPAQUE, Gpu, Service, opaque
from jewelhouse.rehearsal.nras import Nras
from jewelhouse.rehearsal.nvml import NvidiaDriver

ONE = TrustedGpus(count=1, architecture="HOPPER", mode="SPT", driver=("590.12",), vbios=("96.00.a5.00.01",))
SET_READY, READY = "nvmlSystemSetConfComputeGpusReadyState", "nvmlSystemGetConfComputeGpusReadyState"
REPORT = "nvmlDeviceGetConfComputeGpuAttestationReport"
BOUND = hashlib.sha256(b"the key of a run").digest()
NONCE = gpu.bound(BOUND)
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@cache
def authority() -> http.Authority:
    return http.Authority()


def machine(count: int = 1, keys: str = gpus.BELIEVED) -> list[Gpu]:
    return gpus.gpus({"count": count, "mode": "SPT"}, keys=keys)


def reporting(**fields: bytes | None) -> Gpu:
    """A GPU whose report says something else, by the numbers of its fields (`f36=...`)."""
    changed: dict[int, bytes | None] = {**USUAL_OPAQUE, 36: b"\1\0"}
    changed |= {int(name[1:]): value for name, value in fields.items()}
    return replace(machine()[0], opaque=opaque({n: v for n, v in changed.items() if v is not None}))


@dataclass
class Host:
    """A machine with its driver, and NVIDIA's service around it."""

    driver: NvidiaDriver
    service: Nras
    endpoints: Endpoints
    record: Record = field(
        default_factory=lambda: Record(
            lifecycle="fraud", stage="serve", platform="azure-cvm", began=datetime.now(UTC)
        )
    )

    def attest(self, trusted: TrustedGpus = ONE, platform: Platform = Platform.AZURE_CVM) -> None:
        gpu.attest(trusted, platform, self.record, self.endpoints)


@contextmanager
def host(
    devices: list[Gpu] | None = None, *, service: dict[str, Any] | None = None, **driver: Any
) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="jewelhouse-gpu-") as name:
        folder = Path(name)
        believed = Gpu(keys=gpus.BELIEVED)
        roots, certificates = folder / "roots.pem", folder / "authority.pem"
        roots.write_bytes(believed.certificates[-1].public_bytes(Encoding.PEM))
        certificates.write_bytes(authority().pem)
        with (
            NvidiaDriver(folder / "nvml", machine() if devices is None else devices, **driver) as one,
            Nras(believed.roots, authority=authority(), **(service or {})) as other,
        ):
            yield Host(
                driver=one,
                service=other,
                endpoints=Endpoints(
                    gpu=str(one.path), gpu_roots=str(roots), nras=other.url, certificates=str(certificates)
                ),
            )


def position(calls: list[tuple[str, int]], name: str) -> int:
    return [one for one, _ in calls].index(name)


# What opens


def test_gpus_take_work_once_nvidia_has_attested_them_and_the_record_says_by_what():
    with host() as there:
        there.attest()
        assert there.driver.ready
        assert there.driver.persistent == {0}
        calls = there.driver.calls
    assert position(calls, REPORT) < position(calls, SET_READY)
    (event,) = there.record.events
    assert event["event"] == "gpu"
    assert [one["driver"] for one in event["devices"]] == ["590.12"]
    assert [one["kind"] for one in event["evidence"]] == ["nvidia-spdm", "nvidia-eat"]
    assert all(one["digest"].startswith("sha256:") for one in event["evidence"])


def test_the_nonce_is_that_of_the_key_that_signs_the_record():
    asked: list[str] = []

    def seen(name: str, claims: dict[str, Any]) -> dict[str, Any]:
        asked.append(claims["eat_nonce"])
        return claims

    nonces = set()
    for _ in range(2):
        with host(service={"change": seen}) as there:
            there.attest()
            assert asked[-1] == hashlib.sha256(b"jewelhouse gpu v1\0" + there.record.bound).hexdigest()
            nonces.add(asked[-1])
    assert len(nonces) == 2


def test_several_gpus_are_attested_together():
    with host(machine(3)) as there:
        there.attest(replace(ONE, count=3))
        (event,) = there.record.events
    assert len({one["key"] for one in event["devices"]}) == 3


def test_what_an_earlier_run_left_ready_is_attested_again():
    with host(ready=True) as there:
        there.attest()
        assert there.driver.ready
        sets = [number for number, (name, _) in enumerate(there.driver.calls) if name == SET_READY]
    assert len(sets) == 2
    assert sets[0] < position(there.driver.calls, REPORT) < sets[1]


def test_where_a_launcher_has_gpus_take_work_the_guest_attests_and_leaves_that_alone():
    with host(ready=True) as there:
        there.attest(platform=Platform.GCP_CONFIDENTIAL_SPACE)
        assert SET_READY not in [name for name, _ in there.driver.calls]
        assert there.record.events


# Machines


def twins() -> list[Gpu]:
    return machine() * 2


@pytest.mark.parametrize(
    ("devices", "driver", "trusted", "says"),
    [
        pytest.param(None, {"developer": True}, ONE, "mode for developers", id="devtools-mode"),
        pytest.param(
            None, {"confidential": False}, ONE, "not in confidential mode", id="confidential-mode-off"
        ),
        pytest.param(None, {"production": False}, ONE, "not in a production", id="simulated-environment"),
        pytest.param(None, {"multiple": 1}, ONE, "another mode than SPT", id="links-in-the-clear"),
        pytest.param(
            None, {"multiple": 0}, replace(ONE, mode="MPT"), "another mode than MPT", id="links-not-encrypted"
        ),
        pytest.param(None, {}, replace(ONE, count=2), "are 1, and the image demands 2", id="a-gpu-missing"),
        pytest.param([], {}, ONE, "are 0, and the image demands 1", id="no-gpu-at-all"),
        pytest.param(machine(2), {}, ONE, "are 2, and the image demands 1", id="a-gpu-too-many"),
        pytest.param(
            None,
            {"architecture": pynvml.NVML_DEVICE_ARCH_ADA},
            ONE,
            "is of ADA, and the image demands HOPPER",
            id="a-gpu-without-confidential-mode",
        ),
        pytest.param(
            None, {"architecture": 99}, ONE, "is of architecture 99", id="an-architecture-of-no-name"
        ),
        pytest.param(machine(keys="foreign"), {}, ONE, "no pinned root", id="foreign-root"),
        pytest.param(
            None,
            {"replay": replace(machine()[0], nonce=bytes(32)).report()},
            ONE,
            "answers another nonce: it was replayed",
            id="replayed-report",
        ),
        pytest.param(twins(), {}, replace(ONE, count=2), "signed by one key", id="one-gpu-standing-for-two"),
        pytest.param(
            [replace(machine()[0], fwid=hashlib.sha384(b"other").digest())],
            {},
            ONE,
            "was issued for other firmware",
            id="certificate-of-other-firmware",
        ),
        pytest.param(
            None, {}, replace(ONE, driver=("575.32",)), "runs driver 590.12", id="a-driver-that-may-not-run"
        ),
        pytest.param(
            None,
            {},
            replace(ONE, vbios=("96.00.CF.00.01",)),
            "runs vbios 96.00.A5.00.01",
            id="firmware-rolled-back",
        ),
        pytest.param([reporting(f36=b"\2\0")], {}, ONE, "reports mode PPCIE", id="report-of-another-mode"),
        pytest.param([reporting(f36=b"\7\0")], {}, ONE, "reports mode of no name", id="mode-of-no-name"),
        pytest.param([reporting(f3=None)], {}, ONE, "reports no driver version", id="version-left-out"),
        pytest.param(
            None,
            {"failing": {REPORT: 999}},
            ONE,
            f"{REPORT} ends with UNKNOWN",
            id="session-broken-by-a-reboot",
        ),
        pytest.param(
            None,
            {"failing": {"nvmlSystemGetConfComputeSettings": 3}},
            ONE,
            "nvmlSystemGetConfComputeSettings ends with NOT_SUPPORTED",
            id="a-driver-that-does-not-tell-its-modes",
        ),
        pytest.param(
            None, {"failing": {SET_READY: 4}}, ONE, "ends with NO_PERMISSION", id="guest-that-may-not-set-it"
        ),
    ],
)
def test_a_wrong_machine_gets_no_work(devices, driver, trusted, says):
    with host(devices, **driver) as there:
        with pytest.raises(Closed, match=says):
            there.attest(trusted)
        assert not there.driver.ready
        assert there.record.events == []


def test_gpus_that_stay_ready_before_they_are_attested_are_refused(monkeypatch):
    with host(ready=True) as there:
        monkeypatch.setattr(there.driver, "_set_ready", lambda arguments: (0, [None]))
        with pytest.raises(Closed, match="take work before they are attested"):
            there.attest()
        assert REPORT not in [name for name, _ in there.driver.calls]


def test_gpus_that_do_not_become_ready_are_refused(monkeypatch):
    with host() as there:
        monkeypatch.setattr(there.driver, "_set_ready", lambda arguments: (0, [None]))
        with pytest.raises(Closed, match="do not take work after"):
            there.attest()
        assert there.record.events == []


def test_where_a_launcher_should_have_made_them_ready_others_are_refused():
    with host(ready=False) as there, pytest.raises(Closed, match="do not take work after"):
        there.attest(platform=Platform.GCP_CONFIDENTIAL_SPACE)


def test_a_gpu_that_leaves_while_it_is_attested_is_noticed():
    with host() as there:

        def leaves(name: str, claims: dict[str, Any]) -> dict[str, Any]:
            there.driver.gpus.clear()
            return claims

        there.service.change = leaves
        with pytest.raises(Closed, match="are 0, and the image demands 1"):
            there.attest()
        assert not there.driver.ready


def test_a_production_guest_refuses_the_rehearsals_root():
    with host() as there, pytest.raises(Closed, match="no pinned root"):
        replace(there, endpoints=replace(there.endpoints, gpu_roots=None)).attest()
    report = gpu._written(NONCE, [evidence_of(machine()[0])])
    with pytest.raises(Closed, match="no pinned root"):
        gpu.verified(report, ONE, NONCE, nvidia.ROOTS, NOW)


@pytest.mark.parametrize("content", [b"", b"no certificate"])
def test_roots_that_are_none_trust_nobody(tmp_path, content):
    (tmp_path / "roots").write_bytes(content)
    with host() as there, pytest.raises(Closed):
        replace(there, endpoints=replace(there.endpoints, gpu_roots=str(tmp_path / "roots"))).attest()


# What NVIDIA says


def changing(name: str, **changed: Any) -> dict[str, Any]:
    """A service that says something else in one of its tokens ("" for the whole)."""

    def change(token: str, claims: dict[str, Any]) -> dict[str, Any]:
        if token != name:
            return claims
        return {key: value for key, value in {**claims, **changed}.items() if value is not ABSENT}

    return {"change": change}


def at(delta: timedelta) -> dict[str, Any]:
    return {"clock": lambda: datetime.now(UTC) + delta}


def renamed(token: str, claims: dict[str, Any]) -> dict[str, Any]:
    if token:
        return claims
    return {**claims, "submods": {"GPU-1": claims["submods"]["GPU-0"]}}


@pytest.mark.parametrize(
    ("service", "says"),
    [
        pytest.param({"forging": True}, "is not made by the key", id="forged-tokens"),
        pytest.param({"replay": Service().bundle()}, "expired at", id="tokens-of-another-time"),
        pytest.param(
            {"reference": {1: b"other"}}, "NVIDIA did not attest it", id="measurements-nobody-released"
        ),
        pytest.param(
            changing("", **{"x-nvidia-overall-att-result": False}), "did not attest", id="overall-no"
        ),
        pytest.param(changing("", eat_nonce="00" * 32), "eat_nonce", id="another-nonce"),
        pytest.param(changing("", iss="https://nras.example"), "iss", id="another-issuer"),
        pytest.param(changing("GPU-0", dbgstat="enabled"), "open to a debugger", id="debugging-enabled"),
        pytest.param(changing("GPU-0", dbgstat=ABSENT), "open to a debugger", id="debugging-not-told"),
        pytest.param(changing("GPU-0", secboot=False), "secboot", id="no-secure-boot"),
        pytest.param(changing("GPU-0", measres="fail"), "measres", id="other-measurements"),
        *(
            pytest.param(
                changing("GPU-0", **{name: ABSENT}), f"absent for {name}", id=f"unchecked-{name[13:]}"
            )
            for name in (*gpu.CHECKS, *gpu.CHAINS)
        ),
        pytest.param(
            changing("GPU-0", **{gpu.CHECKS[0]: False}),
            f"{gpu.CHECKS[0]}: is false",
            id="a-check-that-failed",
        ),
        pytest.param(changing("GPU-0", **{gpu.CHECKS[0]: "true"}), "expected true", id="a-check-in-text"),
        pytest.param(
            changing(
                "GPU-0",
                **{gpu.CHAINS[0]: {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "revoked"}},
            ),
            "is .revoked., expected good",
            id="revoked-certificate",
        ),
        pytest.param(
            changing("GPU-0", **{"x-nvidia-gpu-driver-version": "575.32"}),
            "is for driver .575.32., and the GPU reports 590.12",
            id="verdict-about-another-machine",
        ),
        pytest.param({"change": renamed}, "is not named in the token", id="token-of-another-gpu"),
        pytest.param(at(timedelta(hours=-2)), "expired", id="stale-tokens"),
        pytest.param(at(timedelta(minutes=10)), "was issued at", id="tokens-of-tomorrow"),
    ],
)
def test_what_nvidia_does_not_attest_gets_no_work(service, says):
    with host(service=service) as there:
        with pytest.raises(Closed, match=says):
            there.attest()
        assert not there.driver.ready
        assert there.record.events == []


def test_a_bundle_about_fewer_gpus_is_refused():
    fewer: list[bytes] = []
    with host(machine(2)) as there:
        answered = there.service._attest

        def shortened(body: Any) -> bytes:
            fewer.append(answered({**body, "evidence_list": body["evidence_list"][:1]}))
            return fewer[-1]

        there.service._attest = shortened  # type: ignore[method-assign]
        with pytest.raises(Closed, match="is about GPU-0, not GPU-0, GPU-1"):
            there.attest(replace(ONE, count=2))
    assert fewer


def test_a_service_whose_clock_is_a_minute_ahead_is_believed():
    with host(service=at(timedelta(minutes=1))) as there:
        there.attest()
        assert there.driver.ready


def test_a_relay_in_the_middle_is_not_spoken_to():
    with host() as there, Nras((), authority=http.Authority(name="somebody")) as relay:
        with pytest.raises(Closed, match="no certificate of the service"):
            replace(there, endpoints=replace(there.endpoints, nras=relay.url)).attest()
        assert relay.log == []
        assert not there.driver.ready


# A whole run


def test_no_key_is_asked_for_while_a_gpu_is_not_attested(tmp_path):
    asked: list[Any] = []

    def opener(one: Any) -> Any:
        asked.append(one)
        raise AssertionError("a key was asked for")

    with host(developer=True) as there:
        given = Run(
            stage=Stage(lifecycle="fraud", stage="serve", platform=Platform.AZURE_CVM, opens={}, seals={}),
            trust=Trust(opens={}, seals={}, run=("/bin/false",), gpu=ONE),
            opener=opener,
            parent=tmp_path,
            endpoints=there.endpoints,
        )
        with pytest.raises(JewelhouseError, match="mode for developers"):
            run(given, there.record)
    assert asked == []
    assert [one["event"] for one in there.record.events] == ["refused"]


# Real evidence


def evidence_of(one: Gpu) -> Any:
    answered = replace(one, nonce=NONCE)
    return nvml.Evidence(architecture="HOPPER", report=answered.report(), chain=answered.pem)


@real.needed
def test_a_real_gpu_is_believed_for_its_own_nonce_alone():
    report = bytes.fromhex(real.evidence("nvidia/hopperAttestationReport.txt").decode())
    chain = real.evidence("nvidia/hopperCertChain.txt")
    nonce = bytes.fromhex("27a328247bf7935c993341cf587be6f05986ccce4fe7ba2c54100bd616a58f66")
    written = gpu._written(nonce, [nvml.Evidence(architecture="HOPPER", report=report, chain=chain)])
    trusted = TrustedGpus(count=1, architecture="HOPPER", mode="SPT", driver=("535.86.09",))
    (found,) = gpu.verified(written, trusted, nonce, nvidia.ROOTS, NOW)
    assert (found.driver, found.vbios) == ("535.86.09", "96.00.5E.00.01")
    assert found.key.startswith("GH100 A01 GSP FMC LF")
    with pytest.raises(Closed, match="replayed"):
        gpu.verified(written, trusted, NONCE, nvidia.ROOTS, NOW)
    bad = bytes.fromhex(real.evidence("nvidia/hopperAttestationReportInvalidSignature.txt").decode())
    written = gpu._written(nonce, [nvml.Evidence(architecture="HOPPER", report=bad, chain=chain)])
    with pytest.raises(Closed):
        gpu.verified(written, trusted, nonce, nvidia.ROOTS, NOW)


@real.needed
def test_a_real_gpu_with_its_links_in_the_clear_is_refused():
    data = real.evidence("nvidia/evidence_hopper_590_12.json")
    (device, *_) = nvidia.parse(data)
    trusted = TrustedGpus(count=1, architecture="HOPPER", mode="SPT")
    with pytest.raises(Closed, match="reports mode PPCIE"):
        gpu.verified(data, trusted, device.report.request_nonce, nvidia.ROOTS, NOW)


# Whatever bytes come


@cache
def answered() -> tuple[nras.Answer, tuple[gpu.Found, ...]]:
    service = Service(nonce=NONCE)
    (keys,) = service.endorsements().files
    found = gpu.Found(key="k", driver="590.12", vbios="96.00.A5.00.01")
    return nras.Answer(bundle=service.bundle(), keys=keys), (found,)


def test_the_answer_that_is_changed_below_is_right():
    answer, found = answered()
    gpu.judged(answer, found, NONCE, NOW)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_changed_byte_of_an_answer_is_believed(data):
    answer, found = answered()
    place = data.draw(st.integers(0, len(answer.bundle) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda one: one != answer.bundle[place]))
    bundle = answer.bundle[:place] + bytes([value]) + answer.bundle[place + 1 :]
    if json_or_none(bundle) == json_or_none(answer.bundle):
        return
    with pytest.raises(Closed):
        gpu.judged(replace(answer, bundle=bundle), found, NONCE, NOW)


def json_or_none(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


@given(bundle=st.binary(max_size=200), keys=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_no_bytes_are_an_answer(bundle, keys):
    with pytest.raises(Closed):
        gpu.judged(nras.Answer(bundle=bundle, keys=keys), answered()[1], NONCE, NOW)


@given(report=st.binary(max_size=400), chain=st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_no_bytes_are_evidence(report, chain):
    written = gpu._written(NONCE, [nvml.Evidence(architecture="HOPPER", report=report, chain=chain)])
    with pytest.raises(Closed):
        gpu.verified(written, ONE, NONCE, nvidia.ROOTS, NOW)


@given(place=st.integers(0, 3000), value=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_no_changed_byte_of_a_report_is_believed(place, value):
    one = minted()
    report = bytearray(one.report)
    report[place % len(report)] ^= value
    written = gpu._written(NONCE, [replace(one, report=bytes(report))])
    with pytest.raises(Closed):
        gpu.verified(written, ONE, NONCE, machine()[0].roots, NOW)


@cache
def minted() -> Any:
    return evidence_of(machine()[0])


def test_the_report_that_is_changed_above_is_right():
    written = gpu._written(NONCE, [minted()])
    assert base64.b64encode(minted().report) in written
    assert gpu.verified(written, ONE, NONCE, machine()[0].roots, NOW)
