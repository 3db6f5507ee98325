from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from answers import answer, outputs
from recording import Recording, Request, record


@pytest.fixture(scope="session")
def recorded() -> Callable[..., Recording]:
    return partial(record, outputs=outputs, call=answer)


@pytest.fixture
def inventory() -> Path:
    return Path(__file__).parent / "inventory"


@pytest.fixture
def statements() -> Callable[..., dict[str, dict[str, Any]]]:
    """The statements of a request's policy by their Sid."""

    def read(request: Request, name: str = "policy") -> dict[str, dict[str, Any]]:
        document = json.loads(request.inputs[name])
        assert document["Version"] == "2012-10-17"
        by_sid = {statement["Sid"]: statement for statement in document["Statement"]}
        assert len(by_sid) == len(document["Statement"])
        return by_sid

    return read
