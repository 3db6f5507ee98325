"""The lock file, written: what a build made, what it was made of, and what stops a deployment later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from jewelhouse.errors import InvalidImages, JewelhouseError
from jewelhouse.images import folder, lock, lockfile
from jewelhouse.images.build import Built
from jewelhouse.model import Platform

BUILT = Built(
    name="tuner",
    platform=Platform.AWS_ENCLAVE,
    path=Path("image.eif"),
    digest="sha256:" + "1" * 64,
    size=1000,
    reference="sha256:" + "1" * 64,
    measurements={"PCR0": "a" * 96, "PCR1": "b" * 96, "PCR2": "c" * 96},
    recipe_digest="",
    inputs={
        "packages": {"python3": "3.13.5-1 sha256:" + "d" * 64},
        "files": {"opt/run.py": "sha256:" + "e" * 64},
        "tools": {"jewelhouse": "0.1.0"},
    },
)
NEXT = replace(
    BUILT, digest="sha256:" + "2" * 64, reference="sha256:" + "2" * 64, measurements={"PCR0": "f" * 96}
)


@pytest.fixture
def project(tmp_path):
    recipe = tmp_path / "templates" / "images" / "tuner"
    recipe.mkdir(parents=True)
    (recipe / "recipe.yaml").write_text("name: tuner\n")
    (tmp_path / "stacks").mkdir()
    return tmp_path


@pytest.fixture
def write(project):
    file = project / "stacks" / "images.lock.yaml"
    recipe = project / "templates" / "images" / "tuner"

    def written(*built, **options):
        made = [replace(one, recipe_digest=folder.digest(recipe)) for one in built]
        changes = lockfile.write(file, made, project=project, recipes={"tuner": recipe}, **options)
        return changes, yaml.safe_load(file.read_text())["images"].get("tuner", {})

    written.file, written.recipe = file, recipe
    return written


def test_a_build_is_locked_with_all_that_it_was_made_of(write):
    changes, found = write(BUILT)
    assert changes == ["tuner for aws-enclave: new"]
    entry = found["aws-enclave"]
    assert entry["measurements"] == BUILT.measurements
    assert entry["built"]["recipe"] == "templates/images/tuner"
    sets = yaml.safe_load(write.file.read_text())["inputs"]
    assert [sets[name] for name in entry["built"]["inputs"]] == [
        BUILT.inputs["packages"],
        BUILT.inputs["files"],
        BUILT.inputs["tools"],
    ]
    image = lock.load(write.file).images["tuner", Platform.AWS_ENCLAVE]
    assert (image.reference, image.declared) == (BUILT.reference, False)


def test_gpus_that_the_guest_attests_are_locked(write):
    assert "gpu" not in write(BUILT)[1]["aws-enclave"]
    assert write(replace(BUILT, gpus=2))[1]["aws-enclave"]["gpu"] == 2
    (image,) = lock.load(write.file).images.values()
    assert image.gpus == 2


def test_locking_the_same_again_changes_no_byte(write):
    write(BUILT)
    before = write.file.read_bytes()
    assert write(BUILT)[0] == []
    assert write.file.read_bytes() == before


def test_a_roll_out_keeps_the_image_before_until_it_is_dropped(write):
    write(BUILT)
    assert write(NEXT, keep_previous=True)[1]["aws-enclave"]["previous"] == [dict(BUILT.measurements)]
    assert "previous" in write(NEXT)[1]["aws-enclave"]
    assert "previous" not in write(NEXT, drop_previous=True)[1]["aws-enclave"]


def test_a_new_image_takes_over_at_once_unless_asked_otherwise(write):
    write(BUILT)
    assert "previous" not in write(NEXT)[1]["aws-enclave"]


def test_a_roll_back_in_a_roll_out_does_not_list_an_image_twice(write):
    write(BUILT)
    write(NEXT, keep_previous=True)
    assert write(BUILT, keep_previous=True)[1]["aws-enclave"]["previous"] == [dict(NEXT.measurements)]


def test_a_recipe_that_changed_stops_a_deployment_with_the_remedy(write):
    write(BUILT)
    (write.recipe / "run.py").write_text("new")
    with pytest.raises(InvalidImages, match="was built before templates/images/tuner changed") as raised:
        lock.load(write.file)
    assert raised.value.problems[0].remedy == "jewelhouse image lock tuner"


def test_images_of_recipes_that_are_elsewhere_are_taken_as_they_are(write):
    write(BUILT)
    (write.recipe / "recipe.yaml").unlink()
    write.recipe.rmdir()
    assert lock.load(write.file).images


DISK = replace(
    BUILT,
    platform=Platform.AWS_NITROTPM,
    reference=None,
    measurements={"PCR4": "a" * 96, "PCR12": "0" * 96},
)
PLACE = {("tuner", "aws-nitrotpm"): "ami-0123456789abcdef0"}


def test_a_disk_whose_name_in_the_cloud_is_not_known_is_not_locked(write):
    with pytest.raises(JewelhouseError, match="nothing says under which name") as raised:
        write(DISK)
    assert "--reference tuner/aws-nitrotpm=NAME" in raised.value.remedy
    assert not write.file.exists()


def test_a_name_of_another_disk_than_the_measured_one_stops_a_deployment(write):
    write(DISK, references=PLACE)
    assert lock.load(write.file).images
    write(replace(DISK, digest="sha256:" + "3" * 64))
    with pytest.raises(InvalidImages, match="was made of another disk than was measured"):
        lock.load(write.file)
    write(replace(DISK, digest="sha256:" + "3" * 64), references=PLACE)
    assert lock.load(write.file).images


def test_entries_of_others_and_by_hand_stay(write):
    write.file.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "images": {"other": {"azure-cvm": {"reference": "Canonical:a:b:1.2.3", "declared": True}}},
            }
        )
    )
    write(BUILT)
    assert lock.load(write.file).images["other", Platform.AZURE_CVM].declared


def test_sets_that_nothing_uses_any_more_go(write):
    write(BUILT)
    write(replace(NEXT, inputs={"packages": {"python3": "4 sha256:" + "9" * 64}}))
    assert len(yaml.safe_load(write.file.read_text())["inputs"]) == 1


def test_a_bad_value_leaves_the_file_as_it_was(write):
    write(BUILT)
    before = write.file.read_bytes()
    with pytest.raises(InvalidImages):
        write(replace(NEXT, size=0))
    assert write.file.read_bytes() == before
    assert [path.name for path in write.file.parent.iterdir()] == [write.file.name]


def test_a_recipe_outside_the_project_is_refused(write, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(JewelhouseError, match="lies outside the project"):
        lockfile.write(write.file, [BUILT], project=write.file.parents[1], recipes={"tuner": other})


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        pytest.param({}, [], id="the-same"),
        pytest.param(
            {"inputs": {**BUILT.inputs, "tools": {"jewelhouse": "0.2.0"}}}, [], id="other-tools-same-bytes"
        ),
        pytest.param(
            {
                "digest": NEXT.digest,
                "measurements": {**BUILT.measurements, "PCR0": "f" * 96},
                "inputs": {**BUILT.inputs, "files": {"opt/run.py": "sha256:" + "0" * 64, "opt/new": "x"}},
            },
            ["digest: ", "PCR0: ", "files: opt/new: not locked became x", "files: opt/run.py: "],
            id="a-changed-and-a-new-file",
        ),
        pytest.param(
            {"digest": NEXT.digest, "inputs": {**BUILT.inputs, "packages": {}}},
            ["digest: ", "packages: python3: "],
            id="a-package-that-is-gone",
        ),
    ],
)
def test_what_differs_is_named_down_to_the_file(write, changed, lines):
    _, found = write(BUILT)
    sets = yaml.safe_load(write.file.read_text())["inputs"]
    said = list(lockfile.differences(found["aws-enclave"], sets, replace(BUILT, **changed)))
    assert len(said) == len(lines)
    assert all(one.startswith(line) for one, line in zip(said, lines, strict=True)), said
