"""A small valid lifecycle that tests change in one place at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from jewelhouse.images.lock import ImageLock, load
from jewelhouse.model import Lifecycle
from jewelhouse.settings import parse

PROJECT = Path(__file__).parents[1]
STACKS = PROJECT / "stacks"
ALL_STACKS = sorted(path.name.split(".")[1] for path in STACKS.glob("Pulumi.*.yaml"))
Change = Callable[[dict[str, Any]], None]


def lock() -> ImageLock:
    return load(STACKS / "images.lock.yaml")


def stack(name: str) -> dict[str, Any]:
    """The raw `jewelhouse:lifecycle` of a shipped stack."""
    return yaml.safe_load((STACKS / f"Pulumi.{name}.yaml").read_text())["config"]["jewelhouse:lifecycle"]


def changed(base: dict[str, Any], *changes: Change) -> dict[str, Any]:
    value = copy.deepcopy(base)
    for change in changes:
        change(value)
    return value


def put(path: str, value: Any) -> Change:
    """Sets `stages.train.region` and the like; `...` as value removes it."""

    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for part in parents:
            config = config.setdefault(part, {})
        if value is ...:
            del config[last]
        else:
            config[last] = value

    return change


def shipped(name: str) -> Lifecycle:
    return parse(stack(name), lock())
