import pytest
from samples import ALL_STACKS, changed, lock, put, shipped, stack

from jewelhouse import lifecycle as graph
from jewelhouse.model import Cloud, Platform, StageKind
from jewelhouse.settings import parse


@pytest.mark.parametrize("name", ALL_STACKS)
def test_every_stage_comes_after_what_seals_its_artifacts(name):
    lifecycle = shipped(name)
    done = []
    for stage in graph.order(lifecycle):
        for artifact in stage.opens:
            assert set(graph.sealers_of(lifecycle).get(artifact, ())) <= set(done)
        done.append(stage.name)
    assert sorted(done) == sorted(lifecycle.stages)


def test_an_artifact_has_one_key_for_each_platform_and_region_that_opens_it():
    keys = graph.keys_of(shipped("dev"), "base")
    assert [(key.platform, key.region) for key in keys] == [
        (Platform.AWS_ENCLAVE, "eu-central-1"),
        (Platform.GCP_CONFIDENTIAL_SPACE, "europe-west4"),
    ]


def test_evidence_of_two_kinds_never_shares_a_key():
    config = stack("prod-aws")
    config["stages"]["gpu"] = {
        "kind": "inference", "platform": "aws-nitrotpm", "region": "eu-central-1", "image": "server",
        "machine": {"type": "g6e.4xlarge"}, "opens": ["adapter", "base"],
    }  # fmt: skip
    openers = graph.opens_by_key(parse(config, lock()))
    for key, stages in openers.items():
        assert {stage.platform for stage in stages} == {key.platform}
    assert len([key for key in openers if key.artifact == "base"]) == 2


def test_an_artifact_that_nobody_opens_has_no_key():
    lifecycle = shipped("prod-aws")
    assert graph.keys_of(lifecycle, "adapter") == ()
    assert "adapter" in {store.artifact for store in graph.stores(lifecycle, Cloud.AWS)}


def test_gates_carry_what_the_stage_proves():
    lifecycle = shipped("dev")
    policy = graph.release_policies(lifecycle)[graph.keys_of(lifecycle, "base")[0]]
    (gate,) = policy.gates
    assert gate.identity == "arn:aws:iam::444455556666:role/fraud-dev-finetune"
    assert gate.measurements == lifecycle.image(lifecycle.stages["finetune"]).measurements
    assert policy.owner.boundary == "111122223333"
    assert gate.account.boundary == "444455556666"


def test_the_end_of_a_licence_reaches_the_gate():
    lifecycle = shipped("prod-gcp")
    (key,) = graph.keys_of(lifecycle, "open-base")
    (gate,) = graph.release_policies(lifecycle)[key].gates
    assert gate.not_after is not None
    assert gate.not_after.isoformat() == "2027-12-31T00:00:00+00:00"


@pytest.mark.parametrize(
    ("licences", "tier"),
    [
        ({"a": ("operator", "inference", "2027-01-01"), "b": ("operator", "inference", "2028-01-01")}, "b"),
        ({"a": ("operator", "inference", "2028-01-01"), "b": ("operator", "inference", None)}, "b"),
        ({"a": ("operator", "training", None), "b": ("operator", "inference", "2028-01-01")}, "b"),
        ({"a": ("data-owner", "inference", None), "b": ("operator", "inference", "2028-01-01")}, "b"),
    ],
)
def test_the_widest_fitting_tier_applies(licences, tier):
    config = changed(
        stack("prod-gcp"),
        put(
            "artifacts.open-base.licences",
            {
                name: {"holders": [holder], "kinds": [kind], **({"expires": end} if end else {})}
                for name, (holder, kind, end) in licences.items()
            },
        ),
    )
    lifecycle = parse(config, lock())
    found = graph.licence_for(lifecycle, lifecycle.artifacts["open-base"], lifecycle.stages["serve-open"])
    assert found is not None
    assert found.tier == tier
    assert StageKind.INFERENCE in found.kinds


def test_only_used_clouds_are_named():
    assert graph.clouds(shipped("prod-gcp")) == (Cloud.GCP,)
    assert graph.clouds(shipped("dev")) == (Cloud.AWS, Cloud.AZURE, Cloud.GCP)
