"""The memory of the stand-in clouds."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from jewelhouse.sandbox.world import Thing, World

BUCKET = "aws:s3/bucket:Bucket"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def bucket(name: str, scope: str = "1 eu") -> Thing:
    return Thing(BUCKET, name, scope, {"bucket": name}, {"arn": f"arn:aws:s3:::{name}"})


def test_what_one_process_makes_the_next_one_finds(world: World, tmp_path: Path) -> None:
    world.put("aws", bucket("weights"))
    again = World(tmp_path)
    assert again.get("aws", BUCKET, "1 eu", "weights") == bucket("weights")
    assert again.get("aws", BUCKET, "2 eu", "weights") is None
    assert again.get("gcp", BUCKET, "1 eu", "weights") is None
    world.remove("aws", BUCKET, "1 eu", "weights")
    assert again.get("aws", BUCKET, "1 eu", "weights") is None


@pytest.mark.parametrize(
    ("prepare", "free", "deleted"),
    [
        pytest.param(lambda world: None, True, None, id="nobody"),
        pytest.param(lambda world: world.take("s3", "n", "other"), False, False, id="held"),
        pytest.param(
            lambda world: (world.take("s3", "n", "other"), world.give_back("s3", "n")),
            True,
            None,
            id="given-back",
        ),
        pytest.param(
            lambda world: (world.take("s3", "n", "other"), world.give_back("s3", "n", after=60)),
            False,
            True,
            id="soft-deleted",
        ),
        pytest.param(
            lambda world: (world.take("s3", "n", "other"), world.give_back("s3", "n", after=-1)),
            True,
            None,
            id="soft-deletion-over",
        ),
        pytest.param(lambda world: world.take("other space", "n", "other"), True, None, id="other-space"),
    ],
)
def test_names_are_held(
    world: World, prepare: Callable[[World], object], free: bool, deleted: bool | None
) -> None:
    prepare(world)
    assert world.holder("s3", "n") == (None if free else ("other", deleted))
    assert world.take("s3", "n", "mine") is free


def test_ids_are_found_without_case_and_with_their_users(world: World) -> None:
    group = "/subscriptions/s/resourceGroups/g"
    vault = f"{group}/providers/Microsoft.KeyVault/vaults/v"
    world.put("azure-native", Thing("azure-native:resources:ResourceGroup", group, "s", {}, {}))
    world.put("azure-native", Thing("azure-native:keyvault:Vault", vault, "s", {"id": group}, {}))
    found = world.find("azure-native", group.upper())
    assert found is not None
    assert found.id == group
    assert [thing.id for thing in world.users("azure-native", group)] == [vault]
    world.remove_below("azure-native", group)
    assert world.find("azure-native", vault) is None
    assert world.find("azure-native", group) is not None


def test_removing_below_takes_underscores_literally(world: World) -> None:
    for group in ("a_b", "axb"):
        world.put("azure-native", Thing("t", f"/groups/{group}/vaults/v", "s", {}, {}))
    world.remove_below("azure-native", "/groups/a_b")
    assert world.find("azure-native", "/groups/axb/vaults/v") is not None


def _begin(directory: Path, index: int) -> int:
    return World(directory).number("key", str(index))


def test_many_processes_may_begin_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as processes:
        found = [processes.submit(_begin, tmp_path / "world", index) for index in range(16)]
        assert sorted(one.result() for one in found) == list(range(16))


def test_numbers_of_a_series_stay_with_their_names(world: World) -> None:
    assert [world.number("key", name) for name in ("a", "b", "a", "c")] == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("wish", "kind", "name", "outcomes"),
    [
        pytest.param(
            {"type": BUCKET, "times": 2},
            BUCKET,
            "store",
            ["ThrottlingException: Rate exceeded"] * 2 + [None],
            id="counted",
        ),
        pytest.param(
            {"type": BUCKET, "name": "sto.*", "times": 1, "message": "no"},
            BUCKET,
            "store",
            ["no", None],
            id="name",
        ),
        pytest.param({"type": BUCKET, "name": "tor", "times": 1}, BUCKET, "store", [None], id="whole-name"),
        pytest.param({"type": "aws:kms/key:Key", "times": 1}, BUCKET, "store", [None], id="other-type"),
    ],
)
def test_failures_on_request(
    world: World, wish: dict[str, object], kind: str, name: str, outcomes: list[str | None]
) -> None:
    (world.directory / "fail.json").write_text(json.dumps(wish))
    assert [world.fails(kind, name) for _ in outcomes] == outcomes
