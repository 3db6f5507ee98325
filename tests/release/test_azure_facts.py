from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest
import real
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import policies

from jewelhouse.model import Platform
from jewelhouse.release import azure, azure_grammar
from jewelhouse.release.azure_facts import MANY, parse
from jewelhouse.release.facts import Opening

AZURE = (Platform.AZURE_CVM, Platform.AZURE_CONTAINER)
WEU = "https://sharedweu.weu.attest.azure.net"
NEU = "https://sharedneu.neu.attest.azure.net"


def equals(claim: str, value: object) -> dict[str, object]:
    return {"claim": claim, "equals": value}


A, B, C = equals("a", "1"), equals("b", "2"), equals("c", "3")


def entry(*conditions: Any, authority: Any = WEU, kind: str = "allOf") -> dict[str, Any]:
    return {"authority": authority, kind: list(conditions)}


def document(*entries: Any, **more: Any) -> dict[str, Any]:
    return {"version": "1.0.0", "anyOf": list(entries), **more}


def any_of(*parts: Any) -> dict[str, Any]:
    return {"anyOf": list(parts)}


def all_of(*parts: Any) -> dict[str, Any]:
    return {"allOf": list(parts)}


def opening(authority: str = WEU, **claims: str | None) -> Opening:
    return Opening(claims={"authority": authority, **claims})


@settings(max_examples=60, deadline=None)
@given(policy=policies(AZURE))
def test_compiling_and_reading_back_gives_the_gates(policy) -> None:
    facts = azure.parse(azure.compile(policy))
    assert facts.openings == azure.openings(policy)
    assert not facts.undecided
    assert not facts.powers


EQUIVALENT = {
    "another order of conditions": (document(entry(A, B)), document(entry(B, A))),
    "another order of authorities": (
        document(entry(A), entry(B, authority=NEU)),
        document(entry(B, authority=NEU), entry(A)),
    ),
    "a trailing slash": (document(entry(A)), document(entry(A, authority=f"{WEU}/"))),
    "an authority without scheme": (
        document(entry(A)),
        document(entry(A, authority=WEU.removeprefix("https://"))),
    ),
    "an authority in capitals": (document(entry(A)), document(entry(A, authority=WEU.upper()))),
    "groups of one": (document(entry(A)), document(entry(any_of(all_of(any_of(A)))))),
    "allOf in allOf": (document(entry(A, B, C)), document(entry(A, all_of(B, all_of(C))))),
    "anyOf in anyOf": (
        document(entry(A, B, C, kind="anyOf")),
        document(entry(A, any_of(B, any_of(C)), kind="anyOf")),
    ),
    "alternatives as entries of their own": (
        document(entry(A, any_of(B, C))),
        document(entry(A, B), entry(A, C)),
    ),
    "the distributive law": (
        document(entry(any_of(A, B), any_of(A, C))),
        document(entry(A, all_of(B, C), kind="anyOf")),
    ),
    "the same condition twice": (document(entry(A, A)), document(entry(A))),
    "an alternative within a wider one": (
        document(entry(A, all_of(A, B), kind="anyOf")),
        document(entry(A)),
    ),
    "an entry within a wider one": (document(entry(A), entry(A, B)), document(entry(A))),
    "an alternative that nothing meets": (
        document(entry(any_of(A, all_of(B, equals("b", "other"))))),
        document(entry(A)),
    ),
    "a claim that has a value and members": (
        document(entry(any_of(A, all_of(equals("x", "1"), equals("x.y", "1"))))),
        document(entry(A)),
    ),
    "false as JSON": (document(entry(equals("d", "false"))), document(entry(equals("d", False)))),
    "a number as JSON": (document(entry(equals("v", "0"))), document(entry(equals("v", 0)))),
    "a whole number with a fraction": (document(entry(equals("v", 2))), document(entry(equals("v", 2.0)))),
}


@pytest.mark.parametrize(("one", "other"), EQUIVALENT.values(), ids=EQUIVALENT)
def test_what_releases_the_same_has_equal_facts(one: dict, other: dict) -> None:
    assert parse(one) == parse(other)
    assert parse(one).openings
    assert not parse(one).undecided


DIFFERENT = {
    "another authority": (document(entry(A)), document(entry(A, authority=NEU))),
    "another value": (document(entry(A)), document(entry(equals("a", "2")))),
    "another case of a value": (document(entry(equals("a", "x"))), document(entry(equals("a", "X")))),
    "one condition more": (document(entry(A)), document(entry(A, B))),
    "an alternative instead of a condition": (document(entry(A, B)), document(entry(A, B, kind="anyOf"))),
    "the flat claim instead of the nested": (
        document(entry(equals("x-ms-isolation-tee.x-ms-attestation-type", "sevsnpvm"))),
        document(entry(equals("x-ms-attestation-type", "sevsnpvm"))),
    ),
    "1 is not true": (document(entry(equals("v", 1))), document(entry(equals("v", True)))),
    "a text with a fraction is no number": (
        document(entry(equals("v", "2.0"))),
        document(entry(equals("v", 2))),
    ),
    "a claim called authority is not the authority": (
        document(entry(equals("authority", NEU))),
        document(entry(A, authority=NEU)),
    ),
    "notEquals is not equals": (
        document(entry({"claim": "a", "notEquals": "1"})),
        document(entry(A)),
    ),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_releases_something_else_has_other_facts(one: dict, other: dict) -> None:
    assert parse(one).openings != parse(other).openings
    assert parse(one).openings
    assert parse(other).openings


def test_operators_other_than_equals_keep_their_relation_and_are_undecided() -> None:
    found = parse(
        document(
            entry(
                {"claim": "svn", "greater": 3},
                {"claim": "svn", "greater": 5},
                {"claim": "type", "notEquals": "sgx"},
                {"claim": "type", "notEquals": "tpm"},
                {"claim": "there", "exists": "true"},
                A,
                {"claim": "a", "exists": True},
            )
        )
    )
    assert found.openings == {
        Opening(
            claims={
                "authority": WEU,
                "svn (greater)": "5",
                "type (notEquals sgx)": "sgx",
                "type (notEquals tpm)": "tpm",
                "there": None,
                "a": "1",
            }
        )
    }
    assert len(found.undecided) == 6
    assert all("only equals is allowed" in what for what in found.undecided)


@pytest.mark.parametrize(
    ("operator", "tightest"),
    [("greater", "5"), ("greaterOrEquals", "5"), ("less", "3"), ("lessOrEquals", "3")],
)
@pytest.mark.parametrize("values", [(3, 5), (5, 3)])
def test_of_two_bounds_the_tighter_one_counts(operator: str, tightest: str, values: tuple[int, int]) -> None:
    found = parse(document(entry(*({"claim": "svn", operator: value} for value in values))))
    assert found.openings == {opening(**{f"svn ({operator})": tightest})}


def test_a_claim_called_authority_does_not_hide_whose_tokens_are_believed() -> None:
    (found,) = parse(document(entry(equals("authority", NEU)))).openings
    assert found.claims == {"authority": WEU, "authority (claim)": NEU}


@pytest.mark.parametrize(
    "conditions",
    [
        (equals("svn", "3"), {"claim": "svn", "greaterOrEquals": 4}),
        (equals("type", "sgx"), {"claim": "type", "notEquals": "sgx"}),
        ({"claim": "debug", "exists": "false"},),
    ],
    ids=["a value under its own floor", "a value that is excluded", "an absent claim, which meets nothing"],
)
def test_what_no_token_meets_is_no_opening(conditions: tuple[dict, ...]) -> None:
    assert not parse(document(entry(*conditions))).openings


UNDECIDED = {
    "a root allOf": ({"version": "1.0.0", "allOf": [entry(A)]}, "allOf"),
    "no version": ({"anyOf": [entry(A)]}, "version"),
    "an unknown version": (document(entry(A), version="2.0.0"), "version"),
    "a placeholder": (
        document(entry(A, authority="https://<YOUR MAA>.weu.attest.azure.net")),
        "anyOf[0].auth",
    ),
    "allOf and anyOf": (document({**entry(A), "anyOf": [B]}), "anyOf[0]"),
    "an unknown operator": (document(entry({"claim": "a", "like": "1"})), "anyOf[0].allOf[0]"),
    "an empty list": (document(entry()), "anyOf[0].allOf"),
    "an object as value": (document(entry(equals("a", {"b": 1}))), "anyOf[0].allOf[0]"),
    "an element of an array": (document(entry(equals("pcrs[0]", "1"))), "anyOf[0].allOf[0]"),
}


@pytest.mark.parametrize(("body", "where"), UNDECIDED.values(), ids=UNDECIDED)
def test_what_cannot_be_reduced_is_named_by_its_place(body: dict, where: str) -> None:
    assert any(what.startswith(where) for what in parse(body).undecided)


def test_a_part_outside_the_grammar_opens_nothing() -> None:
    broken = {"claim": "hostdata", "like": "*"}
    assert parse(document(entry(A, broken))).openings == frozenset()
    assert parse(document(entry(A, broken, kind="anyOf"))).openings == {opening(a="1")}


class TestBounds:
    """Documents that would take for ever to write out are undecided, and soon."""

    def wide(self, groups: int, each: int) -> dict:
        return document(
            entry(*(any_of(*(equals(f"c{g}", str(v)) for v in range(each))) for g in range(groups)))
        )

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(lambda self: self.wide(40, 2), id="2 to the 40 alternatives"),
            pytest.param(lambda self: self.wide(1, 2000), id="two thousand alternatives"),
            pytest.param(
                lambda self: document(*(entry(equals("a", str(n))) for n in range(5000))),
                id="five thousand entries of one authority",
            ),
            pytest.param(
                lambda self: document(entry(*(equals(f"c{n}", "1") for n in range(5000)))),
                id="five thousand conditions",
            ),
        ],
    )
    def test_only_the_authority_is_kept(self, body) -> None:
        began = time.process_time()
        found = parse(body(self))
        assert time.process_time() - began < 2
        assert found.openings == {opening()}
        assert any("more than" in what for what in found.undecided)

    def test_just_below_the_bound_it_is_exact(self) -> None:
        found = parse(self.wide(2, 16))
        assert len(found.openings) == MANY
        assert not found.undecided

    def test_deep_nesting_is_a_flaw_and_no_crash(self) -> None:
        inner: dict[str, Any] = A
        for _ in range(400):
            inner = all_of(inner)
        found = parse(document(entry(inner)))
        assert not found.openings
        assert any("nested deeper" in what for what in found.undecided)


# Any JSON, mostly of the shape of a policy.
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
names = st.sampled_from(
    ["version", "anyOf", "allOf", "authority", "claim", *azure_grammar.OPERATORS, "anyof", "Statement", ""]
)
values = scalars | st.sampled_from(["1.0.0", WEU, "true", "a.b", "x-ms-runtime.keys"])
jsons = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(body=st.dictionaries(names, jsons, max_size=4) | jsons)
def test_any_json_is_read_without_an_error(body: Any) -> None:
    found = parse(body)
    assert found.undecided or found.openings or azure_grammar.read(body).entries


# Documents in the grammar, over few claims, so that they overlap.
leaves = st.builds(equals, st.sampled_from("abc"), st.sampled_from("12"))
nodes = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda kind, parts: {kind: parts},
        st.sampled_from(["allOf", "anyOf"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)
entries = st.builds(
    lambda authority, kind, parts: entry(*parts, authority=authority, kind=kind),
    st.sampled_from([WEU, NEU]),
    st.sampled_from(["allOf", "anyOf"]),
    st.lists(nodes, min_size=1, max_size=3),
)
documents = st.builds(lambda found: document(*found), st.lists(entries, min_size=1, max_size=3))
tokens = st.fixed_dictionaries(
    {"authority": st.sampled_from([WEU, NEU])},
    optional={name: st.sampled_from("123") for name in "abc"},
)


def meets(part: dict, token: dict[str, str]) -> bool:
    """What the grammar's page says, in five lines."""
    if "claim" in part:
        return token.get(part["claim"]) == part["equals"]
    if "allOf" in part:
        return all(meets(inner, token) for inner in part["allOf"])
    return any(meets(inner, token) for inner in part["anyOf"])


@settings(max_examples=200, deadline=None)
@given(body=documents, token=tokens)
def test_openings_let_through_what_the_document_does(body: dict, token: dict[str, str]) -> None:
    released = any(one["authority"] == token["authority"] and meets(one, token) for one in body["anyOf"])
    found = parse(body)
    assert not found.undecided
    assert released is any(one.claims.items() <= token.items() for one in found.openings)


@settings(max_examples=100, deadline=None)
@given(body=documents, data=st.data())
def test_rewriting_changes_no_facts(body: dict, data: st.DataObject) -> None:
    def rewritten(part: dict) -> dict:
        if "claim" in part:
            return data.draw(st.sampled_from([part, all_of(part), any_of(part, part)]))
        kind = "allOf" if "allOf" in part else "anyOf"
        inner = [rewritten(child) for child in data.draw(st.permutations(part[kind]))]
        return {**part, kind: inner}

    other = copy.deepcopy(body)
    other["anyOf"] = [rewritten(one) for one in data.draw(st.permutations(other["anyOf"]))]
    assert parse(other) == parse(body)


@pytest.mark.parametrize(
    ("name", "openings", "undecided"),
    [
        ("public_SKR_policy-datadisk.json", 52, False),
        ("vm-releasePolicyTemplate.json", 0, True),
        ("attestation-samples-release.json", 0, True),
    ],
)
def test_published_policies(name: str, openings: int, undecided: bool) -> None:
    found = parse(json.loads(real.evidence(f"azure-maa/policies/{name}")))
    assert len(found.openings) == openings
    assert bool(found.undecided) is undecided
    assert all(one.claims["authority"].endswith(".attest.azure.net") for one in found.openings)  # type: ignore[union-attr]
