import pytest
from samples import ALL_STACKS, changed, lock, put, shipped, stack

from jewelhouse.errors import InvalidLifecycle
from jewelhouse.model import ArtifactKind, Proof, Tee
from jewelhouse.settings import STRICT, parse


@pytest.mark.parametrize("name", ALL_STACKS)
def test_every_shipped_stack_is_valid(name):
    lifecycle = shipped(name)
    assert set(lifecycle.stages) == set(stack(name)["stages"])
    assert lifecycle.destroyable is (name == "dev")
    assert not lifecycle.allow_same_owner


def test_datasets_and_recipes_are_supplied_unless_said_otherwise():
    artifacts = shipped("dev").artifacts
    assert {name: artifact.supplied for name, artifact in artifacts.items()} == {
        "corpus": True, "recipe": True, "base": False, "cases": True, "adapter": False, "open-base": True,
    }  # fmt: skip


def test_strict_release_requires_the_proofs_of_closed_weights():
    base = shipped("dev").artifacts["base"]
    assert set(base.require) == set(STRICT)
    assert {Proof.IMAGE, Proof.CONFIG, Proof.NO_BYPASS, Proof.OWNER_APART} <= set(base.require)


def test_memory_and_defaults_of_an_enclave():
    machine = shipped("dev").stages["finetune"].machine
    assert machine is not None
    assert machine.enclave is not None
    assert (machine.enclave.memory, machine.count, machine.provisioning) == (8192, 1, "on-demand")
    assert shipped("dev").stages["finetune"].tee is Tee.NITRO


def test_the_deployer_has_a_conventional_name():
    account = shipped("dev").parties["operator"].aws
    assert account is not None
    assert account.deployer == "arn:aws:iam::444455556666:role/jewelhouse-deployer"


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        (put("parties.operator.aws.account", 444455556666), "parties.operator.aws.account", "must be text"),
        (put("parties.operator.aws.account", "1234"), "parties.operator.aws.account", "has not the form"),
        (put("stages.train.platform", "azure-containr"), "stages.train.platform", "is not one of"),
        (put("stages.train.tee", ...), "stages.train.tee", "is missing"),
        (put("stages.train.opend", ["corpus"]), "stages.train.opend", "is not a known setting"),
        (put("stages.Train", {}), "stages.Train", "cannot be a name"),
        (put("stages.train", "azure"), "stages.train", "must be a mapping"),
        (put("stages", []), "stages", "must be a mapping"),
        (
            put("stages.finetune.machine.enclave.memory", "8"),
            "stages.finetune.machine.enclave.memory",
            "amount",
        ),
        (put("artifacts.base.kind", "weight"), "artifacts.base.kind", "is not one of"),
        (put("artifacts.base.require", ["gpus"]), "artifacts.base.require[0]", "is not one of"),
        (
            put("artifacts.open-base.licences.commercial.expires", "soon"),
            "artifacts.open-base.licences.commercial.expires",
            "is not a date",
        ),
        (put("name", "A name"), "name", "has not the form"),
        (put("name", ...), "name", "is missing"),
        (put("alarm-emails", ["nobody"]), "alarm-emails[0]", "has not the form"),
        (put("allow-same-owner", "yes please"), "allow-same-owner", "boolean"),
        (put("images.server", {"lock": "servr"}), "images.server.lock", "is not in images.lock.yaml"),
        (put("images.server", {"gcp-vm": {}}), "images.server.gcp-vm", "is not a platform"),
        (
            put("images.server", {"gcp-confidential-space": {}}),
            "images.server.gcp-confidential-space.reference",
            "is missing",
        ),
        (put("unheard-of", 1), "unheard-of", "is not a known setting"),
    ],
)
def test_bad_structure_is_named_by_its_yaml_path(change, where, says):
    with pytest.raises(InvalidLifecycle) as caught:
        parse(changed(stack("dev"), change), lock())
    matching = [problem for problem in caught.value.problems if problem.where == where]
    assert matching, str(caught.value)
    assert any(says in problem.what for problem in matching), str(caught.value)


def test_all_problems_are_reported_at_once():
    config = changed(
        stack("dev"),
        put("stages.train.platform", "nowhere"),
        put("stages.finetune.opens", ["bse"]),
        put("artifacts.cases.owner", "data-ownr"),
    )
    with pytest.raises(InvalidLifecycle) as caught:
        parse(config, lock())
    found = {problem.where for problem in caught.value.problems}
    assert {"stages.train.platform", "stages.finetune.opens[0]", "artifacts.cases.owner"} <= found


def test_a_broken_entry_is_not_reported_again_as_unknown():
    with pytest.raises(InvalidLifecycle) as caught:
        parse(changed(stack("dev"), put("parties.operator.aws.account", "1")), lock())
    assert [problem.where for problem in caught.value.problems] == ["parties.operator.aws.account"]


@pytest.mark.parametrize("config", [None, [], "dev", 3])
def test_a_configuration_that_is_no_mapping_is_refused(config):
    with pytest.raises(InvalidLifecycle) as caught:
        parse(config, lock())
    assert caught.value.where == "jewelhouse:lifecycle"


def test_images_can_be_given_inline_or_under_another_name():
    config = changed(
        stack("dev"),
        put("images.own", {"lock": "finetuner"}),
        put("stages.finetune.image", "own"),
    )
    lifecycle = parse(config, lock())
    locked = shipped("dev")
    own, theirs = (value.image(value.stages["finetune"]).measurements for value in (lifecycle, locked))
    assert own == theirs
    assert lifecycle.artifacts["base"].kind is ArtifactKind.WEIGHTS
