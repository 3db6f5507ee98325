"""Checks over lifecycles built as values, without a configuration around them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.checks import problems
from jewelhouse.errors import Problem
from jewelhouse.guest import nras
from jewelhouse.hardware import GPU_VERIFIER
from jewelhouse.lifecycle import order
from jewelhouse.model import (
    Artifact,
    ArtifactKind,
    AwsAccount,
    AzureAccount,
    Enclave,
    GcpAccount,
    Image,
    Licence,
    Lifecycle,
    Machine,
    Measurements,
    Party,
    Platform,
    Proof,
    Stage,
    StageKind,
    Tee,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32


def aws(account: str) -> AwsAccount:
    return AwsAccount(account=account, deployer=f"arn:aws:iam::{account}:role/jewelhouse-deployer")


def artifact(name: str, supplied: bool = False, **values: Any) -> Artifact:
    return Artifact(
        **{"name": name, "kind": ArtifactKind.WEIGHTS, "owner": "owner", "supplied": supplied, **values}
    )


def stage(name: str, opens: tuple[str, ...], seals: tuple[str, ...] = (), **values: Any) -> Stage:
    defaults: dict[str, Any] = {
        "name": name,
        "kind": StageKind.FINE_TUNING,
        "platform": Platform.AWS_ENCLAVE,
        "tee": Tee.NITRO,
        "operator": "operator",
        "region": "eu-central-1",
        "image": "tuner",
        "opens": opens,
        "seals": seals,
        "machine": Machine(type="m7i.xlarge", enclave=Enclave(cpus=2, memory=4096)),
    }
    return Stage(**{**defaults, **values})


def image(platform: Platform, reference: str, name: str = "tuner", **measurements: str) -> Image:
    values = (Measurements(values=measurements),) if measurements else ()
    return Image(name=name, platform=platform, reference=reference, measurements=values)


def lifecycle(artifacts: list[Artifact], stages: list[Stage], **values: Any) -> Lifecycle:
    images = [
        image(Platform.AWS_ENCLAVE, DIGEST, PCR0="1" * 96),
        image(Platform.AWS_NITROTPM, "ami-0123456789abcdef0", PCR4="1" * 96, PCR12="0" * 96),
        image(
            Platform.GCP_CONFIDENTIAL_SPACE,
            f"europe-west4-docker.pkg.dev/op-runtime/kit/tuner@{DIGEST}",
            image_digest=DIGEST,
        ),
        image(Platform.GCP_CVM, "projects/op-images/global/images/tuner-1"),
    ]
    defaults: dict[str, Any] = {
        "name": "fraud-llm",
        "parties": {
            "owner": Party(
                name="owner",
                aws=aws("111122223333"),
                gcp=GcpAccount(project="owner-keys", number="100000000001"),
            ),
            "operator": Party(name="operator", aws=aws("444455556666"), gcp=GcpAccount(project="op-run")),
        },
        "artifacts": {value.name: value for value in artifacts},
        "stages": {value.name: value for value in stages},
        "images": {(value.name, value.platform): value for value in images},
    }
    return Lifecycle(**{**defaults, **values})


def simple(**values: Any) -> Lifecycle:
    """One stage that opens `base`; `values` change the stage."""
    return lifecycle([artifact("base", supplied=True)], [stage("tune", ("base",), **values)])


def found(value: Lifecycle, **options: Any) -> list[Problem]:
    return problems(value, **{"now": NOW, **options})


def wheres(value: Lifecycle, **options: Any) -> list[str]:
    return [problem.where for problem in found(value, **options)]


def test_a_good_lifecycle_has_no_problems():
    assert found(simple()) == []


def test_what_is_sealed_need_not_be_opened():
    value = lifecycle(
        [artifact("base", supplied=True), artifact("adapter")], [stage("tune", ("base",), ("adapter",))]
    )
    assert found(value) == []


def test_a_cycle_is_named_along_its_flow():
    value = lifecycle(
        [artifact("a"), artifact("b"), artifact("c")],
        [
            stage("one", ("c",), ("a",)),
            stage("two", ("a",), ("b",)),
            stage("three", ("b",), ("c",)),
        ],
    )
    (problem,) = found(value)
    assert problem.where == "stages.one.opens"
    assert "one -> two -> three -> one" in problem.what


def test_two_separate_cycles_are_two_problems():
    value = lifecycle(
        [artifact(name) for name in "abcd"],
        [
            stage("k", ("a",), ("b",)),
            stage("l", ("b",), ("a",)),
            stage("m", ("c",), ("d",)),
            stage("n", ("d",), ("c",)),
        ],
    )
    assert wheres(value) == ["stages.k.opens", "stages.m.opens"]


def test_a_stage_that_opens_what_it_seals_is_told_so_and_not_called_a_cycle():
    value = lifecycle([artifact("base")], [stage("tune", ("base",), ("base",))])
    (problem,) = found(value)
    assert problem.where == "stages.tune.seals[0]"
    assert "next-base" in problem.remedy


def test_a_stage_rewraps_only_what_it_opens():
    stages = [stage("tune", ("base",), rewraps=("base", "other")), stage("use", ("other",))]
    value = lifecycle([artifact("base"), artifact("other")], stages)
    (problem,) = [one for one in found(value) if ".rewraps" in one.where]
    assert problem.where == "stages.tune.rewraps[1]"
    assert "add other to stages.tune.opens" in problem.remedy


def test_iteration_under_new_names_is_no_cycle():
    value = lifecycle(
        [artifact("base", supplied=True), artifact("next-base"), artifact("last-base")],
        [stage("round-1", ("base",), ("next-base",)), stage("round-2", ("next-base",), ("last-base",))],
    )
    assert found(value) == []


def test_a_chain_of_a_thousand_stages_is_judged_without_deep_recursion():
    count = 1200
    value = lifecycle(
        [artifact(f"a{n}", supplied=n == 0) for n in range(count + 1)],
        [stage(f"s{n}", (f"a{n}",), (f"a{n + 1}",)) for n in range(count)],
    )
    assert found(value) == []


def test_names_in_refused_entries_count_as_known():
    value = lifecycle(
        [artifact("base", supplied=True, owner="gone")],
        [stage("tune", ("base", "lost"), image="bad", operator="gone")],
    )
    assert {"artifacts.base.owner", "stages.tune.opens[1]", "stages.tune.image"} <= set(wheres(value))
    broken = frozenset({"parties.gone", "artifacts.lost", "images.bad"})
    assert found(value, broken=broken) == []


def test_a_refused_stage_might_have_sealed_what_nobody_seals():
    value = lifecycle([artifact("base"), artifact("spare")], [stage("tune", ("base",))])
    assert wheres(value) == ["artifacts.base", "artifacts.spare"]
    assert found(value, broken=frozenset({"stages.train"})) == []


def test_a_missing_account_is_one_problem_with_all_its_reasons():
    value = lifecycle(
        [artifact("base", supplied=True), artifact("cases", supplied=True)],
        [stage("tune", ("base", "cases")), stage("again", ("base",))],
        parties={
            "owner": Party(name="owner", gcp=GcpAccount(project="owner-keys", number="1")),
            "operator": Party(name="operator", aws=aws("444455556666")),
        },
    )
    (problem,) = found(value)
    assert problem.where == "parties.owner.aws"
    for part in ("owns base, which tune", "owns cases, which tune", "owns base, which again"):
        assert part in problem.what


def test_a_store_alone_needs_an_account_but_no_project_number():
    parties = {
        "owner": Party(name="owner", gcp=GcpAccount(project="owner-keys", number="100000000001")),
        "other": Party(name="other", gcp=GcpAccount(project="other-keys")),
        "operator": Party(name="operator", gcp=GcpAccount(project="op-run")),
    }
    run = stage(
        "tune",
        ("base",),
        ("adapter",),
        platform=Platform.GCP_CONFIDENTIAL_SPACE,
        tee=Tee.TDX,
        region="europe-west4",
        machine=Machine(type="c3-standard-4"),
    )
    artifacts = [artifact("base", supplied=True), artifact("adapter", owner="other")]
    assert found(lifecycle(artifacts, [run], parties=parties)) == []
    opened = replace(run, name="serve", opens=("adapter",), seals=())
    assert wheres(lifecycle(artifacts, [run, opened], parties=parties)) == ["parties.other.gcp.number"]


def test_a_sealed_artifact_s_store_on_azure_lies_in_the_stage_s_tenant():
    subscription, tenant = "10000000-0000-4000-8000-00000000000{}", "20000000-0000-4000-8000-00000000000{}"
    parties = {
        name: Party(
            name=name,
            azure=AzureAccount(
                subscription=subscription.format(number), tenant=tenant.format(int(number == 3))
            ),
        )
        for name, number in {"owner": 1, "operator": 2, "other": 3}.items()
    }
    run = stage("tune", ("base",), ("adapter",), platform=Platform.AZURE_CONTAINER, machine=None)
    run = replace(run, tee=Tee.SEV_SNP, region="westeurope")
    artifacts = [artifact("base", supplied=True), artifact("adapter", owner="other")]
    value = lifecycle(artifacts, [run], parties=parties)
    assert wheres(value, broken=frozenset({"images.tuner"})) == ["parties.other.azure.tenant"]


@pytest.mark.parametrize(
    ("opens", "seals", "allowed", "expected"),
    [
        (("base",), (), False, ["artifacts.base.owner"]),
        (("base",), (), True, []),
        # Sealing takes public keys only, so the owner may seal where it runs.
        (("other",), ("base",), False, []),
    ],
)
def test_an_owner_that_operates_what_opens_its_key(opens, seals, allowed, expected):
    value = lifecycle(
        [
            artifact("base", supplied=not seals),
            *([artifact("other", True, owner="operator")] if seals else []),
        ],
        [stage("tune", opens, seals, operator="owner")],
        allow_same_owner=allowed,
    )
    assert wheres(value) == expected


def test_strict_release_stands_above_allow_same_owner():
    value = lifecycle(
        [artifact("base", supplied=True, require=(Proof.OWNER_APART,))],
        [stage("tune", ("base",), operator="owner")],
        allow_same_owner=True,
    )
    (problem,) = found(value)
    assert problem.where == "stages.tune.opens[0]"
    assert "111122223333 holds its key" in problem.what


@pytest.mark.parametrize(
    ("expires", "refused"),
    [(None, False), (datetime(2026, 11, 2, tzinfo=UTC), False), (NOW, True)],
)
def test_a_licence_ends_at_the_given_time(expires, refused):
    licence = Licence(tier="research", holders=("operator",), kinds=(StageKind.FINE_TUNING,), expires=expires)
    value = lifecycle([artifact("base", supplied=True, licences=(licence,))], [stage("tune", ("base",))])
    assert wheres(value) == (["artifacts.base.licences.research.expires"] if refused else [])


@pytest.mark.parametrize(
    "gpu_stage",
    [
        {
            "platform": Platform.AWS_NITROTPM,
            "machine": Machine(type="g6e.4xlarge"),
            "gpu": "L40S",
        },
        {
            "platform": Platform.GCP_CONFIDENTIAL_SPACE,
            "tee": Tee.TDX,
            "region": "us-central1",
            "machine": Machine(type="a3-highgpu-1g", provisioning="spot"),
            "gpu": "H100",
        },
    ],
)
def test_a_gpu_is_accepted_whether_or_not_the_key_service_can_see_it(gpu_stage):
    assert found(simple(**gpu_stage)) == []


def on_vm(gpus: int | None, gpu: str | None = "H100", forwarded: str | None = "europe-west4") -> Lifecycle:
    """A confidential VM of Google Cloud, whose key service sees no GPU, and an image that attests so many."""
    machine = Machine(type="a3-highgpu-1g", provisioning="spot") if gpu else Machine(type="c3-standard-4")
    value = simple(platform=Platform.GCP_CVM, tee=Tee.TDX, region="europe-west4", machine=machine, gpu=gpu)
    if forwarded:
        attachment = f"projects/hub/regions/{forwarded}/serviceAttachments/nras"
        runs = GcpAccount(project="op-run", gpu_verifier=attachment)
        value = replace(
            value, parties={**value.parties, "operator": replace(value.parties["operator"], gcp=runs)}
        )
    key = ("tuner", Platform.GCP_CVM)
    return replace(value, images={**value.images, key: replace(value.images[key], gpus=gpus)})


def test_a_gpu_that_nobody_attests_is_refused():
    (one,) = found(on_vm(None))
    assert one.where == "stages.tune.image"
    assert "nobody attests the H100" in one.what
    assert "trust.gpu" in one.remedy
    assert found(on_vm(1)) == []


@pytest.mark.parametrize(
    ("region", "says"),
    [
        (None, "which its network does not reach"),
        ("us-central1", "lies in us-central1"),
        ("europe-west4", ""),
    ],
)
def test_a_guest_that_attests_gpus_must_reach_who_verifies_them(region, says):
    (problem,) = found(on_vm(1, forwarded=region)) or (None,)
    assert (problem is None) == (not says)
    if problem:
        assert problem.where == "parties.operator.gcp.gpu-verifier"
        assert says in problem.what
        assert "service attachment" in problem.remedy


def test_the_host_that_is_made_reachable_is_the_one_that_guests_ask():
    assert f"https://{GPU_VERIFIER}" == nras.SERVICE


def test_an_image_that_waits_for_a_gpu_needs_one():
    (one,) = found(on_vm(1, gpu=None))
    assert (one.where, "opens nothing without 1 GPU" in one.what) == ("stages.tune.image", True)
    assert found(on_vm(None, gpu=None)) == []


def test_a_proof_that_a_platform_cannot_give_is_refused_with_what_to_choose():
    value = lifecycle(
        [artifact("base", supplied=True, require=(Proof.IMAGE,))],
        [
            stage(
                "tune",
                ("base",),
                platform=Platform.GCP_CVM,
                tee=Tee.TDX,
                region="europe-west4",
                machine=Machine(type="c3-standard-4"),
            )
        ],
    )
    (problem,) = found(value)
    assert problem.where == "stages.tune.opens[0]"
    assert "gcp-cvm cannot enforce" in problem.what
    assert "gcp-confidential-space" in problem.remedy


GOOD_IMAGES = [
    image(Platform.AWS_ENCLAVE, DIGEST, PCR0="1" * 96, PCR1="2" * 96, PCR8="3" * 96),
    image(Platform.AWS_NITROTPM, "ami-0123456789abcdef0", PCR7="1" * 96),
    image(Platform.AWS_NITROTPM, "ami-01234567", PCR4="1" * 96, PCR12="0" * 96),
    image(Platform.GCP_CVM, "projects/confidential-vm-images/global/images/cos-tdx-113-18244-85-49"),
]


@pytest.mark.parametrize("value", GOOD_IMAGES, ids=lambda value: value.reference)
def test_images_that_are_pinned_are_accepted(value):
    run = {
        Platform.AWS_ENCLAVE: {},
        Platform.AWS_NITROTPM: {"machine": Machine(type="m7i.large")},
        Platform.GCP_CVM: {
            "tee": Tee.TDX,
            "region": "europe-west4",
            "machine": Machine(type="c3-standard-4"),
        },
    }[value.platform]
    base = simple(platform=value.platform, **run)
    assert found(replace(base, images={(value.name, value.platform): value})) == []


def test_only_images_that_a_stage_runs_are_judged():
    bad = image(Platform.AWS_NITROTPM, "latest", name="unused")
    base = simple()
    assert found(replace(base, images={**base.images, ("unused", Platform.AWS_NITROTPM): bad})) == []


def test_a_container_policy_gives_its_hostdata():
    policy = b"package policy"
    good = Image(
        name="tuner",
        platform=Platform.AZURE_CONTAINER,
        reference=f"europe-west4-docker.pkg.dev/op-runtime/kit/tuner@{DIGEST}",
        measurements=(Measurements(values={"hostdata": hashlib.sha256(policy).hexdigest()}),),
        container_policy=base64.b64encode(policy).decode(),
    )
    base = simple(platform=Platform.AZURE_CONTAINER, tee=Tee.SEV_SNP, region="westeurope", machine=None)
    accounts = ["parties.operator.azure", "parties.owner.azure"]
    key = ("tuner", Platform.AZURE_CONTAINER)
    assert wheres(replace(base, images={key: good})) == accounts
    other = replace(good, measurements=(Measurements(values={"hostdata": "cd" * 32}),))
    assert wheres(replace(base, images={key: other})) == [
        *accounts,
        "images.tuner.azure-container.measurements.hostdata",
    ]


def test_every_rule_of_a_cloud_names_its_source():
    value = simple(machine=Machine(type="t3.micro", enclave=Enclave(cpus=2, memory=4096)), gpu="H100")
    assert all(problem.source and problem.remedy for problem in found(value))


names = st.sampled_from(["a", "b", "c", "d"])


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        names,
        st.tuples(st.lists(names, max_size=3), st.lists(names, max_size=2)),
        max_size=4,
    ),
    st.dictionaries(names, st.booleans(), max_size=4),
)
def test_a_lifecycle_without_problems_can_be_ordered(graph, supplied):
    value = lifecycle(
        [artifact(name, supplied=given) for name, given in supplied.items()],
        [stage(name, tuple(opens), tuple(seals)) for name, (opens, seals) in graph.items()],
    )
    if not found(value):
        assert len(order(value)) == len(graph)
        for run in value.stages.values():
            assert set(run.opens) <= set(value.artifacts)
    # The other way round: whatever cannot be ordered has a problem that says so.
    elif any("cycle" in problem.what for problem in found(value)):
        with pytest.raises(Exception, match="cycle"):
            order(value)
