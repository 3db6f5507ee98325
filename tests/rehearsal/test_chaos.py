"""Runs that are cut off: what the next one finds, and what nobody finds. One small stage, some of what
`jewelhouse rehearse --chaos` does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import aws_deployed
import pytest
from samples import shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import cleaner, memory
from jewelhouse.rehearsal import chaos, disturbances, scenes, world
from jewelhouse.rehearsal.disturbances import Disturbance
from jewelhouse.rehearsal.scenes import Troubles
from jewelhouse.rehearsal.services import Wrong
from jewelhouse.weights import manifest

LIFECYCLE = shipped("prod-aws")
STAGE = LIFECYCLE.stages["finetune"]


@pytest.fixture(scope="module")
def place():
    """A world whose stage has run once, and its folder in memory."""
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")
    shared = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="jewelhouse-test-"))
    with tempfile.TemporaryDirectory() as folder:
        made = world.build(LIFECYCLE, *aws_deployed.deployed(LIFECYCLE, STAGE.name), Path(folder))
        world.supply(made)
        world.mandates(made, STAGE)
        first = scenes.right(made, STAGE, shared)
        scenes.learn(made, STAGE, shared)
        assert first.expected, first
        yield made, shared
    shutil.rmtree(shared)


@pytest.fixture(scope="module")
def undisturbed(place):
    made, shared = place
    return scenes.run(made, STAGE, shared, Wrong.NOTHING).outcome


@pytest.fixture(scope="module")
def all_of_it(undisturbed):
    return {one.name: one for one in disturbances.of(STAGE, undisturbed, seed=1)}


def test_each_signal_comes_after_everything_that_a_guest_says(all_of_it):
    for number in ("SIGKILL", "SIGTERM"):
        points = [name.removeprefix(f"guest ended by {number} ") for name in all_of_it if number in name]
        for point in (
            "as it begins",
            "after 'opened base'",
            "after 'opened cases'",
            "after 'fine-tuned on 400 rows'",
            "after 'sealed adapter'",
            "after 'its record'",
        ):
            assert point in points
        assert sum(point.endswith(" s") for point in points) == disturbances.MOMENTS


def test_the_same_seed_gives_the_same_moments(undisturbed):
    names = [[one.name for one in disturbances.of(STAGE, undisturbed, seed)] for seed in (5, 5, 6)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    "name",
    [
        "guest ended by SIGKILL after 'opened cases'",
        "guest ended by SIGKILL after 'fine-tuned on 400 rows'",
        "guest ended by SIGTERM after 'opened base'",
        "guest ended by SIGKILL before the key service answers",
        "key service fails 2 times",
        "memory full while artifacts are opened",
        "store keeps a manifest and does not say so",
    ],
)
def test_the_next_run_does_what_it_would_have_done(place, all_of_it, name):
    made, shared = place
    scene = chaos.scene(made, STAGE, shared, all_of_it[name])
    assert scene.expected, scene
    assert scene.note == "run again: sealed adapter"
    assert cleaner.workers(shared) == []
    assert [path for path in shared.rglob("*") if path.is_file()] == []


def nothing():
    return Disturbance(name="nothing", troubles=Troubles(), ends=False)


def test_a_run_that_gets_through_though_it_must_not_is_a_surprise(place):
    made, shared = place
    scene = chaos.scene(made, STAGE, shared, Disturbance(name="nothing", troubles=Troubles(), ends=True))
    assert not scene.expected
    assert "it got through all the same" in scene.note


def test_a_page_of_what_was_open_is_found_wherever_it_stays(place, tmp_path):
    """Here the guest's own temporary folder: as a library would leave it that spools to disk."""
    made, shared = place
    lost = made.folder / "guests" / STAGE.name / "temporary" / "spooled"

    def spool(process, line):
        if line.startswith("jewelhouse: opened base"):
            (ballast,) = shared.glob("*/open-*/opened/base/ballast.bin")
            lost.write_bytes(ballast.read_bytes()[:8192])

    try:
        leaking = Disturbance(name="leak", troubles=Troubles(heard=spool), ends=None)
        scene = chaos.scene(made, STAGE, shared, leaking)
    finally:
        lost.unlink()
    assert not scene.expected
    assert f"plaintext left in {lost}" in scene.note


def test_what_a_guest_leaves_open_is_a_surprise(place, monkeypatch):
    made, shared = place
    monkeypatch.setattr(chaos, "SOON", 0.1)
    left = shared / STAGE.name / "open-left" / "weights.npz"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"anything at all")
    try:
        assert any("still at work" in one for one in chaos._looked(made, shared))
        assert any(f"left open: {left}" in one for one in chaos._looked(made, shared))
    finally:
        shutil.rmtree(left.parent)


def _behind(store):
    """A version without what it names, as it was while a seal that failed took its files with it."""
    shutil.rmtree(store / "data")


def _back(store):
    newest = max((store / manifest.SERIES).iterdir())
    newest.unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(_behind, "is missing", id="half-a-version"),
        pytest.param(_back, "was there, now", id="a-version-that-goes-back"),
    ],
)
def test_a_store_that_holds_neither_the_old_version_nor_the_next_is_a_surprise(place, change, says):
    made, shared = place
    store = made.store(STAGE, "adapter")
    kept = store.with_name("kept")
    shutil.copytree(store, kept)

    def begun(process):
        process.kill()
        change(store)

    try:
        broken = Disturbance(name="broken", troubles=Troubles(begun=begun))
        scene = chaos.scene(made, STAGE, shared, broken)
    finally:
        shutil.rmtree(store)
        kept.rename(store)
    assert not scene.expected
    assert says in scene.note


def test_what_a_stage_opens_must_not_be_written_to(place):
    made, shared = place
    other = made.store(STAGE, "base") / "data" / "other"

    def begun(process):
        process.kill()
        other.write_bytes(b"")

    try:
        scene = chaos.scene(made, STAGE, shared, Disturbance(name="written", troubles=Troubles(begun=begun)))
    finally:
        other.unlink()
    assert "what it opens was written to" in scene.note


def test_a_guest_that_hangs_is_a_surprise_and_not_the_end_of_the_rehearsal(place, monkeypatch):
    made, shared = place

    def never(*_, **__):
        raise JewelhouseError("has not ended after 120 s", where="guest of finetune")

    monkeypatch.setattr(chaos, "run", never)
    scene = chaos.scene(made, STAGE, shared, nothing())
    assert not scene.expected
    assert "has not ended" in scene.note
