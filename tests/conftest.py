"""Fixtures that need the real Pulumi CLI."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import google.rpc.status_pb2
import pytest
from samples import PROJECT

from jewelhouse.errors import SandboxError
from jewelhouse.sandbox import install
from jewelhouse.sandbox.engine import Engine
from jewelhouse.sandbox.paths import Paths

# Pulumi's provider protocol and Google's clients each bring a google.rpc.Status; one process can hold one.
# The kit never has both in one process; these tests do.
sys.modules.setdefault("pulumi.runtime.proto.status_pb2", google.rpc.status_pb2)


# Modules of few tests that take minutes: begun last, they would keep one worker busy after the others.
LONGEST = (
    "tests/test_stacks.py",
    "tests/images/test_boot_disk.py",
    "tests/sandbox/test_end_to_end.py",
    "tests/rehearsal/test_machine.py",
    "tests/test_examples.py",
    "tests/test_docs.py",
    "tests/rehearsal/test_chaos.py",
    "tests/images/test_boot_uki.py",
    "tests/images/test_boot_enclave.py",
    "tests/cli/test_sandbox.py",
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than processors: engines, emulators and servers are waited for, too."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.fixture(scope="session")
def cli() -> Path:
    """The CLI that set-up found or got. Without one, tests that need it skip; under CI they fail."""
    paths = Paths.of(PROJECT)
    try:
        return install.find_cli(paths) or install.prepare(paths)
    except SandboxError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"there is no Pulumi CLI: run `make set-up`\n{error}")


@pytest.fixture
def engine(cli: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    """Engines in sandboxes of their own: `engine()` for this project, `engine(directory)` for another."""

    def make(project: Path = PROJECT) -> Engine:
        made = Engine(project, tmp_path_factory.mktemp("sandbox"), cli=cli, checkpoints=False)
        install.install_plugins(cli, made.paths)
        return made

    return make
