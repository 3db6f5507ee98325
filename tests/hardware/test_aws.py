from __future__ import annotations

import botocore.session
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jewelhouse.hardware import aws, ec2
from jewelhouse.model import Enclave, Image, Machine, Platform, Stage, StageKind, Tee


def stage(machine: Machine | None, **values) -> Stage:
    defaults = {
        "name": "tune",
        "kind": StageKind.FINE_TUNING,
        "platform": Platform.AWS_ENCLAVE,
        "tee": Tee.NITRO,
        "operator": "operator",
        "region": "eu-central-1",
        "image": "tuner",
        "opens": ("base",),
        "machine": machine,
    }
    return Stage(**{**defaults, **values})


def found(value: Stage, image: Image | None = None) -> list[tuple[str, str]]:
    return [(p.where, f"{p.what}\n{p.remedy}") for p in aws.problems(value, image, "stages.tune")]


@pytest.mark.parametrize(
    ("kind", "hosts"),
    [
        ("m7i.xlarge", True),
        ("m7g.large", True),
        ("c8a.large", True),
        ("g5.xlarge", True),
        ("p5.48xlarge", True),
        ("trn2.3xlarge", True),
        ("m7i.large", False),
        ("c7a.large", False),
        ("m7g.medium", False),
        ("t3.xlarge", False),
        ("m7i-flex.xlarge", False),
        ("c7gn.xlarge", False),
        ("im4gn.xlarge", False),
        ("u7i-12tb.224xlarge", False),
        ("p6-b200.48xlarge", False),
        ("m5.metal", False),
        ("m8i.metal-48xl", False),
        ("m4.xlarge", False),
        ("m7i.5xlarge", False),
        ("m7i", False),
        ("", False),
    ],
)
def test_which_machines_host_an_enclave(kind, hosts):
    assert (aws.enclave_problem(kind) is None) is hosts
    assert (kind in ec2.ENCLAVE_TYPES) is hosts


@pytest.mark.parametrize(
    ("kind", "has"),
    [
        ("m7i.large", True),
        ("t3.micro", True),
        ("m7i-flex.large", True),
        ("u7i-12tb.224xlarge", True),
        ("p5.4xlarge", True),
        ("p6-b200.48xlarge", True),
        ("trn2.48xlarge", True),
        ("gr6f.4xlarge", True),
        ("trn2.3xlarge", False),
        ("p4d.24xlarge", False),
        ("p3dn.24xlarge", False),
        ("dl2q.24xlarge", False),
        ("trn1.32xlarge", False),
        ("g5g.xlarge", False),
        ("i4g.large", False),
        ("is4gen.large", False),
        ("x2gd.large", False),
        ("hpc7a.96xlarge", False),
        ("a1.large", False),
        ("i3.large", False),
        ("m4.large", False),
        ("mac2.metal", False),
        ("m7i.metal-24xl", False),
    ],
)
def test_which_machines_have_a_nitrotpm(kind, has):
    assert (aws.tpm_problem(kind) is None) is has
    assert (kind in ec2.TPM_TYPES) is has


@pytest.mark.parametrize(
    ("kind", "cpus", "gib", "threads"),
    [
        ("m7i.xlarge", 4, 16, 2),
        ("c5.18xlarge", 72, 144, 2),
        ("r8g.large", 2, 16, 1),
        ("c7a.4xlarge", 16, 32, 1),
        ("c6a.4xlarge", 16, 32, 2),
        ("g7.2xlarge", 8, 32, 1),
        ("x2iedn.xlarge", 4, 128, 2),
        ("g6e.4xlarge", 16, 128, 2),
        ("hpc6a.48xlarge", 96, None, 1),
        # These keep to no ratio of memory to vCPUs, so nothing is claimed.
        ("c5n.large", 2, None, 2),
        ("p5.4xlarge", 16, None, 2),
        ("m7i.5xlarge", None, None, 2),
    ],
)
def test_shape_by_size(kind, cpus, gib, threads):
    assert ec2.cpus(kind) == cpus
    assert ec2.memory(kind) == (gib * 1024 if gib else None)
    assert ec2.threads_per_core(kind.split(".")[0]) == threads


def test_every_type_in_the_tables_is_one_that_ec2_knows():
    model = botocore.session.get_session().get_service_model("ec2")
    assert set(ec2.TYPES) <= set(model.shape_for("InstanceType").enum)
    for kind, sizes in aws.SNP_SIZES.items():
        assert set(sizes) <= set(ec2.SIZES[kind])
    for table in (ec2.NO_ENCLAVE, ec2.LARGE_ENOUGH, ec2.NO_TPM, ec2.MEMORY_PER_CPU, ec2.GPUS):
        assert set(table) <= set(ec2.SIZES)


def test_every_region_is_one_that_botocore_knows():
    session = botocore.session.get_session()
    known = {
        region
        for partition in ("aws", "aws-cn", "aws-us-gov")
        for region in session.get_available_regions("ec2", partition_name=partition)
    }
    assert known == aws.REGIONS


@pytest.mark.parametrize(
    ("machine", "where", "says"),
    [
        (Machine(type="m7i.xlarge", enclave=Enclave(cpus=4, memory=4096)), "enclave.cpus", "at most 2"),
        (Machine(type="m7g.xlarge", enclave=Enclave(cpus=4, memory=4096)), "enclave.cpus", "at most 3"),
        (Machine(type="m7i.2xlarge", enclave=Enclave(cpus=3, memory=4096)), "enclave.cpus", "for example 4"),
        (
            Machine(type="m7i.xlarge", enclave=Enclave(cpus=2, memory=16384)),
            "enclave.memory",
            "at most 15GiB",
        ),
        (Machine(type="m7i.xlarge", enclave=Enclave(cpus=2, memory=4097)), "enclave.memory", "5GiB"),
        (Machine(type="m7i.xlarge", enclave=Enclave(cpus=2, memory=3072)), "enclave.memory", "at least 4GiB"),
        (Machine(type="m7i.xlarge"), "enclave", "is missing"),
        (Machine(type="m7j.xlarge", enclave=Enclave(cpus=2, memory=4096)), "type", "m7i.xlarge"),
        (Machine(type="m7i.xlarge", run_duration=600), "run-duration", "belongs to Google Cloud"),
    ],
)
def test_enclave_sizing_is_refused_with_a_figure_that_would_do(machine, where, says):
    image = Image(name="tuner", platform=Platform.AWS_ENCLAVE, reference="sha256:" + "ab" * 32, size=2**30)
    here = [text for path, text in found(stage(machine), image) if path == f"stages.tune.machine.{where}"]
    assert any(says in text for text in here), found(stage(machine), image)


@pytest.mark.parametrize(
    ("machine", "size"),
    [
        (Machine(type="m7i.xlarge", enclave=Enclave(cpus=2, memory=15 * 1024)), 2**30),
        (Machine(type="m7g.large", enclave=Enclave(cpus=1, memory=4096)), 2**30),
        (Machine(type="c7a.xlarge", enclave=Enclave(cpus=3, memory=4096)), 2**30),
        # Memory of these is not in the tables: only EC2 can tell.
        (Machine(type="p5.4xlarge", enclave=Enclave(cpus=14, memory=200 * 1024)), 2**30),
        # Without its size nothing can be said about the image.
        (Machine(type="m7i.xlarge", enclave=Enclave(cpus=2, memory=1024)), None),
    ],
)
def test_enclave_sizing_that_fits(machine, size):
    image = Image(name="tuner", platform=Platform.AWS_ENCLAVE, reference="sha256:" + "ab" * 32, size=size)
    assert found(stage(machine), image) == []


@pytest.mark.parametrize(
    ("kind", "gpu", "where", "says"),
    [
        ("g6e.4xlarge", "L40S", None, ""),
        ("p5.48xlarge", "H100", None, ""),
        ("m7i.xlarge", None, None, ""),
        ("g6e.4xlarge", "H100", "gpu", "set gpu: L40S, or choose machine type p5.4xlarge"),
        ("g6e.4xlarge", "X1", "gpu", "set gpu: L40S"),
        ("m7i.xlarge", "L40S", "machine.type", "g6e.xlarge"),
        ("p4d.24xlarge", "A100", "machine.type", "no NitroTPM"),
    ],
)
def test_gpus_beside_a_nitrotpm(kind, gpu, where, says):
    result = found(stage(Machine(type=kind), platform=Platform.AWS_NITROTPM, gpu=gpu))
    if where is None:
        assert result == []
    else:
        assert [path for path, _ in result] == [f"stages.tune.{where}"]
        assert says in result[0][1]


def test_an_enclave_takes_no_gpu_even_when_its_machine_has_one():
    machine = Machine(type="g6e.4xlarge", enclave=Enclave(cpus=2, memory=4096))
    (problem,) = found(stage(machine, gpu="L40S"))
    assert problem[0] == "stages.tune.gpu"
    assert "aws-nitrotpm" in problem[1]


@pytest.mark.parametrize(
    ("region", "zones", "where", "says"),
    [
        ("eu-central-1", ("eu-central-1a", "eu-central-1c"), None, ""),
        ("eu-central-9", (), "region", "eu-central-"),
        ("EU-CENTRAL-1", (), "region", "not an AWS region"),
        ("europe-west4", (), "region", "not an AWS region"),
        ("eu-central-1", ("eu-central-1",), "zones[0]", "eu-central-1a"),
        ("eu-central-1", ("eu-central-1a", "us-east-1a"), "zones[1]", "not a zone of eu-central-1"),
    ],
)
def test_regions_and_zones(region, zones, where, says):
    machine = Machine(type="m7i.xlarge", enclave=Enclave(cpus=2, memory=4096))
    result = found(stage(machine, region=region, zones=zones))
    assert [path for path, _ in result] == ([] if where is None else [f"stages.tune.{where}"])
    assert where is None or says in result[0][1]


@pytest.mark.parametrize("kind", ["m6a.large", "c6a.16xlarge", "r6a.4xlarge"])
def test_sev_snp_types(kind):
    assert aws.supports_snp(kind)


@pytest.mark.parametrize("kind", ["m6a.12xlarge", "r6a.8xlarge", "m7a.large", "m6a", "", "m6a.metal"])
def test_everything_else_has_no_sev_snp(kind):
    assert not aws.supports_snp(kind)


words = st.text(max_size=30) | st.sampled_from(
    ["m7i.xlarge", "g6e.4xlarge", "m7i.", ".xlarge", "..", "metal.metal"]
)


@given(
    kind=words,
    region=words,
    zones=st.lists(words, max_size=2),
    gpu=st.none() | words,
    tee=st.sampled_from(Tee),
    platform=st.sampled_from([Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM]),
    enclave=st.none() | st.builds(Enclave, cpus=st.integers(1, 2**40), memory=st.integers(1, 2**60)),
    size=st.none() | st.integers(1, 2**60),
)
@example(
    kind="xlarge", region="[", zones=["("], gpu="", tee=Tee.TDX, platform=Platform.AWS_ENCLAVE,
    enclave=None, size=None,
)  # fmt: skip
def test_any_stage_is_judged_without_raising(kind, region, zones, gpu, tee, platform, enclave, size):
    value = stage(
        Machine(type=kind, enclave=enclave),
        region=region,
        zones=tuple(zones),
        gpu=gpu,
        tee=tee,
        platform=platform,
    )
    image = Image(name="tuner", platform=platform, reference="", size=size)
    for problem in aws.problems(value, image, "stages.tune"):
        assert problem.where.startswith("stages.tune.")
        assert problem.what
        assert problem.remedy
    if kind not in ec2.TYPES:
        assert "stages.tune.machine.type" in {p.where for p in aws.problems(value, image, "stages.tune")}
