"""Stand-in providers over a world of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driving import Driver
from samples import PROJECT

from jewelhouse.sandbox.paths import Paths

# Types of the SDKs and RSA keys, as sandbox runs keep them.
CACHE = Paths.of(PROJECT).cache


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Driver]:
    """`start("aws")` starts a provider; all of a test share one world."""

    def begin(package: str, **configuration: Any) -> Driver:
        return Driver(package, tmp_path / "world", CACHE, **configuration)

    return begin


@pytest.fixture
def aws(start: Callable[..., Driver]) -> Driver:
    return start("aws")


@pytest.fixture
def azure(start: Callable[..., Driver]) -> Driver:
    return start("azure-native")


@pytest.fixture
def gcp(start: Callable[..., Driver]) -> Driver:
    return start("gcp")
