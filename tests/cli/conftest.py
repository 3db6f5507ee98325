"""Runs the command line in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jewelhouse.cli import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, what was printed, what was complained about."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        code = stopped.value.code
        return (code if isinstance(code, int) else 0), *capsys.readouterr()

    return command
