"""`jewelhouse rehearse`: which runs are asked for, and what the status says of those that were not played."""

from __future__ import annotations

import json

import pytest
from samples import PROJECT

from jewelhouse.rehearsal import play
from jewelhouse.rehearsal.play import Result, Scene

WHY = "qemu-system-x86_64: is not installed install qemu-system-x86"
RIGHT = Scene(stage="finetune", wrong="nothing", expected=True, opened=("base", "cases"))


@pytest.fixture
def rehearse(run, monkeypatch, tmp_path):
    """Runs the command on a play whose result is given; returns its status, what it
    printed, and what was asked of the play."""
    export = tmp_path / "export.json"
    stack = {"type": "pulumi:pulumi:Stack", "outputs": {"policies": {}}}
    export.write_text(json.dumps({"deployment": {"resources": [stack]}}))

    def ended(result, *arguments):
        asked = {}

        def played(*_, **options):
            asked.update(options)
            return result

        monkeypatch.setattr(play, "rehearse", played)
        code, out, _ = run("rehearse", "--stack", "prod-aws", "--export", export, *arguments)
        return code, " ".join(out.split()), asked

    return ended


@pytest.mark.parametrize(
    ("options", "not_booted", "status"),
    [
        pytest.param([], {}, 0, id="all-played"),
        pytest.param([], {"finetune": WHY}, 0, id="no-emulator-here"),
        pytest.param(["--machines"], {}, 0, id="asked-for-and-played"),
        pytest.param(["--machines"], {"finetune": WHY}, 2, id="asked-for-and-no-emulator-here"),
        pytest.param(["--no-machines"], {}, 0, id="left-out"),
    ],
)
def test_a_stage_that_is_not_played_in_its_image_ends_with_2_only_where_it_was_asked_for(
    rehearse, options, not_booted, status
):
    code, out, asked = rehearse(Result(lifecycle="flow", scenes=(RIGHT,), not_booted=not_booted), *options)
    assert code == status
    folder = PROJECT / ".jewelhouse" / "images" / "out"
    assert asked["machines"] == (None if "--no-machines" in options else folder)
    for stage, why in not_booted.items():
        assert f"not in its built image: {stage}: {why}" in out


def test_a_surprise_in_a_built_image_ends_with_1(rehearse):
    surprise = Scene(stage="finetune", wrong="nothing", expected=False, note="in its built image")
    code, _, _ = rehearse(Result(lifecycle="flow", scenes=(RIGHT, surprise)), "--machines")
    assert code == 1


@pytest.mark.parametrize(
    ("options", "seeded"),
    [
        pytest.param([], False, id="no-chaos-unless-asked-for"),
        pytest.param(["--chaos"], True, id="a-seed-of-its-own"),
    ],
)
def test_chaos_is_asked_for(rehearse, options, seeded):
    _, _, asked = rehearse(Result(lifecycle="flow", scenes=(RIGHT,)), *options)
    assert isinstance(asked["seed"], int) is seeded


def test_the_same_chaos_is_played_again_by_its_seed(rehearse):
    _, _, asked = rehearse(Result(lifecycle="flow", scenes=(RIGHT,)), "--chaos", "--seed", "7")
    assert asked["seed"] == 7


def test_a_seed_of_nothing_is_refused(rehearse):
    code, _, asked = rehearse(Result(lifecycle="flow", scenes=(RIGHT,)), "--seed", "7")
    assert code == 2
    assert asked == {}
