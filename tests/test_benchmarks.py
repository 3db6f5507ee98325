"""Bounds decide the exit status, in both directions, and what is registered can be measured."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import turns


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only part is a module that a test writes."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.setattr(bench, "PROJECT", tmp_path)
    monkeypatch.setattr(bench, "PARTS", {"tiny": ("tiny",)})
    return folder / "tiny.py"


def run(part: Path, body: str) -> int | str | None:
    part.write_text(f"def measure():\n    {body}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        bench.main(["tiny"])
    return ended.value.code


@pytest.mark.parametrize(
    ("found", "line", "status"),
    [
        pytest.param("(1.2, 1.5)", "tiny/one 1.200 1.5", 0, id="under-the-most"),
        pytest.param("(1.5, 1.5)", "tiny/one 1.500 1.5", 0, id="exactly-the-most"),
        pytest.param("(1.501, 1.5)", "tiny/one 1.501 1.5", 1, id="over-the-most"),
        pytest.param("(0.95, 0.9, 'at least')", "tiny/one 0.950 >=0.9", 0, id="over-the-least"),
        pytest.param("(0.9, 0.9, 'at least')", "tiny/one 0.900 >=0.9", 0, id="exactly-the-least"),
        pytest.param("(0.899, 0.9, 'at least')", "tiny/one 0.899 >=0.9", 1, id="under-the-least"),
        pytest.param("(float('nan'), 1.5)", "tiny/one nan 1.5", 1, id="no-number-under-the-most"),
        pytest.param(
            "(float('nan'), 0.9, 'at least')", "tiny/one nan >=0.9", 1, id="no-number-over-the-least"
        ),
    ],
)
def test_a_value_on_the_wrong_side_fails(
    part: Path, capsys: pytest.CaptureFixture[str], found: str, line: str, status: int
) -> None:
    assert run(part, f"return {{'tiny/one': {found}}}") == status
    assert capsys.readouterr().out.splitlines() == [line]


def test_one_value_on_the_wrong_side_is_not_made_good_by_the_next(part: Path) -> None:
    assert run(part, "return {'a': (2.0, 1.0), 'b': (0.5, 1.0), 'c': (2.0, 1.0, 'at least')}") == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param("raise ValueError('no')", "benchmarks.tiny failed", id="a-part-that-breaks"),
        pytest.param("return {}", "benchmarks.tiny measured nothing", id="a-part-for-which-nothing-fitted"),
    ],
)
def test_a_part_without_values_is_no_success(part: Path, body: str, says: str) -> None:
    assert run(part, body) == says


def test_an_unknown_part_is_named(part: Path) -> None:
    with pytest.raises(SystemExit, match="there is no wieghts: choose of program, tiny"):
        bench.main(["wieghts"])


@pytest.mark.parametrize("module", [module for modules in bench.PARTS.values() for module in modules])
def test_what_is_registered_can_be_measured(module: str) -> None:
    measure = importlib.import_module(f"benchmarks.{module}").measure
    assert callable(measure)
    assert not inspect.signature(measure).parameters


def test_the_worst_size_counts_in_both_directions() -> None:
    one = {"most": (1.0, 1.5), "least": (0.95, 0.9, "at least")}
    two = {"most": (1.4, 1.5), "least": (0.91, 0.9, "at least")}
    assert turns.worst([one, two]) == turns.worst([two, one]) == two


def test_what_does_not_fit_into_memory_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert turns.sizes((1_000_000,), 3) == []
    assert "1000000 GB do not fit into memory 3 times and were left out" in capsys.readouterr().err


def test_the_median_is_of_the_turns_that_nobody_disturbed() -> None:
    calm, disturbed = [(1.0, True), (1.1, True), (1.2, True)], [(9.0, False)] * 4
    assert turns._median(calm + disturbed, 5) == 1.1
    assert turns._median(calm[:1] + disturbed, 5) == 9.0
