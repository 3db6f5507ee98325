from __future__ import annotations

import copy

import pytest

from jewelhouse.release import cel
from jewelhouse.release.gcp_claims import changed, expression, get, meet, split

TOKEN = {"a": "x", "b": True, "n": 3, "l": ["x"], "m": {"deep": "y"}, "o": {"k": "v"}}


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("assertion.a", ("assertion.a", "")),
        ("assertion.l (has)", ("assertion.l", "has")),
        ("assertion.n (number)", ("assertion.n", "number")),
        ("size(assertion.l) (number)", ("size(assertion.l)", "number")),
        ("!has(assertion.a)", ("!has(assertion.a)", "")),
        ("f(x) == (has)", ("f(x) ==", "has")),
        ("assertion.a (other)", ("assertion.a (other)", "")),
    ],
)
def test_a_relation_stands_at_the_end(path: str, parts: tuple[str, str]) -> None:
    assert split(path) == parts


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("assertion.a", "it's", r"(assertion.a) == 'it\'s'"),
        ("assertion.b", "true", "(assertion.b) == true"),
        ("assertion.b (string)", "true", "assertion.b == 'true'"),
        ("assertion.n (number)", "3", "assertion.n == 3"),
        ("assertion.l (has)", "x", "'x' in assertion.l"),
        ("assertion.o (empty)", "true", "!has(assertion.o) || size(assertion.o) == 0"),
        ("assertion.a", None, "has(assertion.a)"),
        ("assertion.aud", "x", "assertion.aud == 'x' || 'x' in assertion.aud"),
        ("assertion.a.startsWith('x')", "true", "(assertion.a.startsWith('x')) == true"),
    ],
)
def test_claims_of_openings_are_cel_again(path: str, value: str | None, text: str) -> None:
    assert expression(path, value) == text
    assert cel.parse(text)


@pytest.mark.parametrize(
    ("path", "value", "where", "found"),
    [
        ("assertion.a", "z", "assertion.a", "z"),
        ("assertion.m.deep", "z", "assertion.m.deep", "z"),
        ("assertion.new.deep", "z", "assertion.new.deep", "z"),
        ("assertion.b", "false", "assertion.b", False),
        ("assertion.b (string)", "true", "assertion.b", "true"),
        ("assertion.n (number)", "-4", "assertion.n", -4),
        ("assertion.l (has)", "y", "assertion.l", ["x", "y"]),
        ("assertion.l (has)", "x", "assertion.l", ["x"]),
        ("'y' in assertion.l", "true", "assertion.l", ["x", "y"]),
        ("assertion.o (empty)", "true", "assertion.o", None),
        ("!has(assertion.a)", "true", "assertion.a", None),
        ("assertion.gone", None, "assertion.gone", "any"),
        ("assertion.a", None, "assertion.a", "x"),
        ("assertion.a.below", "z", "assertion.a", "x"),
        ("assertion.a.startsWith('q')", "true", "assertion.a", "x"),
    ],
)
def test_claims_are_changed_to_meet_an_opening(
    path: str, value: str | None, where: str, found: object
) -> None:
    claims = copy.deepcopy(TOKEN)
    meet(claims, path, value)
    assert get(claims, where) == found


def test_a_change_leaves_the_first_token_alone() -> None:
    other = changed(TOKEN, {"assertion.m.deep": "z", "assertion.o": ...})
    assert (get(other, "assertion.m.deep"), get(other, "assertion.o")) == ("z", None)
    assert (get(TOKEN, "assertion.m.deep"), get(TOKEN, "assertion.o")) == ("y", {"k": "v"})
