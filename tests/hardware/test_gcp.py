from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jewelhouse.hardware import gcp
from jewelhouse.model import Enclave, Machine, Platform, Stage, StageKind, Tee

SPACE, VM = Platform.GCP_CONFIDENTIAL_SPACE, Platform.GCP_CVM
FLEX = Machine(type="a3-highgpu-1g", provisioning="flex-start", run_duration=600)


def stage(machine: Machine | str | None = "c3-standard-4", **values) -> Stage:
    defaults = {
        "name": "serve",
        "kind": StageKind.INFERENCE,
        "platform": SPACE,
        "tee": Tee.TDX,
        "operator": "operator",
        "region": "europe-west4",
        "image": "server",
        "opens": ("base",),
        "machine": Machine(type=machine) if isinstance(machine, str) else machine,
    }
    return Stage(**{**defaults, **values})


def found(value: Stage) -> list[tuple[str, str]]:
    return [(p.where, f"{p.what}\n{p.remedy}") for p in gcp.problems(value, None, "stages.serve")]


@pytest.mark.parametrize(
    ("machine", "tee", "offered"),
    [
        ("n2d-standard-4", Tee.SEV, True),
        ("n2d-highmem-96", Tee.SEV_SNP, True),
        ("n2d-highmem-128", Tee.SEV_SNP, False),
        ("n2d-standard-4", Tee.TDX, False),
        ("c2d-standard-56", Tee.SEV, True),
        ("c2d-standard-56", Tee.SEV_SNP, False),
        ("c3d-standard-180", Tee.SEV, True),
        ("c3d-standard-8-lssd", Tee.SEV, True),
        ("c3d-standard-360", Tee.SEV, False),
        ("c4d-standard-192", Tee.SEV, True),
        ("c4d-standard-384", Tee.SEV, False),
        ("c3-standard-22", Tee.TDX, True),
        ("c3-standard-22-lssd", Tee.TDX, True),
        ("c3-standard-23", Tee.TDX, False),
        ("c3-standard-192-metal", Tee.TDX, False),
        ("c3-highmem-22", Tee.TDX, False),
        ("c4-standard-192", Tee.TDX, True),
        ("c4-standard-288", Tee.TDX, False),
        ("c4-standard-8-lssd", Tee.TDX, False),
        ("c4-highcpu-8", Tee.TDX, False),
        ("a3-highgpu-1g", Tee.TDX, True),
        ("a3-highgpu-8g", Tee.TDX, False),
        ("e2-standard-4", Tee.SEV, False),
        ("n2-standard-4", Tee.SEV, False),
        ("", Tee.TDX, False),
        ("c3-standard-4", Tee.NITRO, False),
    ],
)
def test_machine_by_technology(machine, tee, offered):
    assert (gcp.offer(machine, tee) is not None) is offered


@pytest.mark.parametrize(
    ("machine", "tee", "migrates", "platform"),
    [
        ("n2d-standard-4", Tee.SEV, True, "AMD Milan"),
        ("n2d-standard-4", Tee.SEV_SNP, False, "AMD Milan"),
        ("c2d-standard-4", Tee.SEV, False, None),
        ("c3d-standard-4", Tee.SEV, True, "AMD Genoa"),
        ("c4d-standard-4", Tee.SEV, False, None),
        ("c3-standard-4", Tee.TDX, False, None),
        ("a3-highgpu-1g", Tee.TDX, False, None),
    ],
)
def test_live_migration_and_cpu_platform(machine, tee, migrates, platform):
    offer = gcp.offer(machine, tee)
    assert offer is not None
    assert (offer.migrates, offer.min_cpu_platform) == (migrates, platform)


@pytest.mark.parametrize(
    ("value", "where", "says"),
    [
        (stage(), None, ""),
        (stage("n2d-standard-4", tee=Tee.SEV, region="africa-south1"), None, ""),
        (stage("n2d-standard-4", tee=Tee.SEV_SNP, platform=VM), None, ""),
        (stage("c3-standard-8-lssd"), None, ""),
        (stage(FLEX, gpu="H100"), None, ""),
        (stage(Machine(type="a3-highgpu-1g", provisioning="spot"), gpu="H100"), None, ""),
        (stage("n2d-standard-4", tee=Tee.SEV_SNP), "tee", "UNSUPPORTED_CC_TECHNOLOGY"),
        (stage(tee=Tee.NITRO), "tee", "sev or tdx"),
        (stage("n2d-standard-4"), "machine.type", "set tee: sev"),
        (stage("c3-highmem-8"), "machine.type", "standard machines of C3 and C4"),
        (stage("c4-standard-8-lssd"), "machine.type", "c3-standard-*-lssd only"),
        (stage("c3-standard-192-metal"), "machine.type", "bare metal"),
        (stage("c3d-standard-360", tee=Tee.SEV), "machine.type", "255 vCPUs"),
        (stage("c4-standard-288"), "machine.type", "192 vCPUs"),
        (stage("ct5lp-hightpu-4t"), "machine.type", "TPUs"),
        (stage("a2-highgpu-1g", gpu="H100"), "machine.type", "a3-highgpu-1g"),
        (stage("c3-standard-4", gpu="H100"), "machine.type", "choose a3-highgpu-1g"),
        (stage(FLEX), "gpu", "must be attested"),
        (stage(FLEX, gpu="B200"), "gpu", "no confidential B200"),
        (stage("a3-highgpu-1g", gpu="H100"), "machine.provisioning", "spot or flex-start"),
        (
            stage(Machine(type="a3-highgpu-1g", provisioning="flex-start", run_duration=599), gpu="H100"),
            "machine.run-duration",
            "600",
        ),
        (
            stage(Machine(type="a3-highgpu-1g", provisioning="flex-start", run_duration=604801), gpu="H100"),
            "machine.run-duration",
            "604800",
        ),
        (
            stage(Machine(type="a3-highgpu-1g", provisioning="flex-start"), gpu="H100"),
            "machine.run-duration",
            "is missing",
        ),
        (stage(Machine(type="c3-standard-4", run_duration=600)), "machine.run-duration", "flex-start"),
        (
            stage(Machine(type="c3-standard-4", provisioning="flex-start", run_duration=600)),
            "machine.provisioning",
            "GPU capacity",
        ),
        (stage(None), "machine", "c3-standard-4"),
        (stage(None, gpu="H100"), "machine", "a3-highgpu-1g"),
        (stage(Machine(type="c3-standard-4", enclave=Enclave(cpus=2, memory=1))), "machine.enclave", "Nitro"),
        (
            stage(Machine(type="c3d-standard-8", disk="hyperdisk-balanced"), tee=Tee.SEV),
            "machine.disk",
            "pd-balanced",
        ),
    ],
)
def test_machines(value, where, says):
    result = found(value)
    assert [path for path, _ in result] == ([] if where is None else [f"stages.serve.{where}"]), result
    assert where is None or says in result[0][1]


@pytest.mark.parametrize(
    ("values", "where", "says"),
    [
        ({"zones": ("europe-west4-a", "europe-west4-c")}, None, ""),
        ({"region": "europe-west4-a"}, "region", "zones go under"),
        ({"region": "eu-central-1"}, "region", "not a Google Cloud region"),
        ({"region": "europe-west1"}, "region", "europe-west4"),
        ({"region": "us-east4", "zones": ("us-east4-b",)}, "zones[0]", "us-east4-a, us-east4-c"),
        ({"zones": ("us-east4-a",)}, "zones[0]", "not a zone of europe-west4"),
        ({"machine": "c4-standard-8", "region": "europe-west1", "zones": ("europe-west1-b",)}, None, ""),
        ({"machine": "c4-standard-8", "zones": ("europe-west4-c",)}, "zones[0]", "europe-west4-a"),
        ({"machine": FLEX, "gpu": "H100", "region": "europe-west1"}, "region", "us-east5"),
        ({"machine": FLEX, "gpu": "H100", "zones": ("europe-west4-a",)}, "zones[0]", "europe-west4-c"),
        (
            {"machine": "n2d-standard-4", "tee": Tee.SEV_SNP, "platform": VM, "region": "us-east1"},
            "region",
            "asia",
        ),
    ],
)
def test_regions_and_zones(values, where, says):
    result = found(stage(**values))
    assert [path for path, _ in result] == ([] if where is None else [f"stages.serve.{where}"]), result
    assert where is None or says in result[0][1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (stage(), ("europe-west4-a", "europe-west4-b", "europe-west4-c")),
        (stage(FLEX, gpu="H100"), ("europe-west4-c",)),
        (stage(region="us-east4"), ("us-east4-a", "us-east4-c")),
        (stage("n2d-standard-4", tee=Tee.SEV, region="us-west2"), ("us-west2-a", "us-west2-b", "us-west2-c")),
        (stage(zones=("europe-west4-b",)), ("europe-west4-b",)),
    ],
)
def test_the_zones_a_stage_gets(value, expected):
    assert gcp.zones(value) == expected


words = st.text(max_size=30) | st.sampled_from(
    ["c3-standard-4", "a3-highgpu-1g", "n2d-standard-4", "europe-west4", "europe-west4-a", "-", "a-1"]
)


@given(
    kind=st.none() | words,
    region=words,
    zones=st.lists(words, max_size=2),
    gpu=st.none() | words,
    tee=st.sampled_from(Tee),
    platform=st.sampled_from([SPACE, VM]),
    provisioning=st.sampled_from(["on-demand", "spot", "flex-start"]),
    duration=st.none() | st.integers(0, 2**40),
)
def test_any_stage_is_judged_without_raising(kind, region, zones, gpu, tee, platform, provisioning, duration):
    machine = None
    if kind is not None:
        machine = Machine(type=kind, provisioning=provisioning, run_duration=duration)
    value = stage(machine, region=region, zones=tuple(zones), gpu=gpu, tee=tee, platform=platform)
    result = list(gcp.problems(value, None, "stages.serve"))
    assert all(problem.where.startswith("stages.serve.") and problem.remedy for problem in result)
    # Whatever passes can be placed.
    if not result:
        assert machine is not None
        assert gcp.offer(machine.type, tee) is not None
        assert all(zone.startswith(f"{region}-") for zone in gcp.zones(value))
