"""The JSON form of a release policy: exact both ways, and every fault named by its path."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import policies
from samples import ALL_STACKS, shipped

from jewelhouse.lifecycle import release_policies
from jewelhouse.release.policy_json import MalformedPolicy, from_json, to_json


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_every_shipped_policy_comes_back(stack):
    for policy in release_policies(shipped(stack)).values():
        assert from_json(json.loads(json.dumps(to_json(policy)))) == policy


@given(policies())
@settings(max_examples=60, deadline=None)
def test_any_policy_comes_back(policy):
    assert from_json(json.loads(json.dumps(to_json(policy)))) == policy


def good() -> dict:
    return to_json(next(iter(release_policies(shipped("prod-aws")).values())))


@pytest.mark.parametrize(
    ("path", "value", "where", "what"),
    [
        ("key", ..., "policy.key", "is missing"),
        ("key.artifact", ..., "key.artifact", "is missing"),
        ("key.artifact", None, "key.artifact", "is not text"),
        ("key.artifact", 7, "key.artifact", "is not text"),
        ("key.platform", "aws-lambda", "key.platform", "none of"),
        ("owner.cloud", "ibm", "owner.cloud", "none of"),
        ("owner.cloud", ..., "owner.cloud", "is missing"),
        ("owner.deployer", ..., "owner.deployer", "is missing"),
        ("owner.project", "p", "owner.project", "is not known"),
        ("gates", {}, "gates", "is not a list"),
        ("gates.0.tee", "sgx", "gates[0].tee", "none of"),
        ("gates.0.stage", "", "gates[0].stage", "is not text"),
        ("gates.0.debug", True, "gates[0].debug", "is not known"),
        ("gates.0.measurements", "PCR0", "gates[0].measurements", "is not a list"),
        ("gates.0.measurements.0", "PCR0", "gates[0].measurements[0]", "is not an object"),
        ("gates.0.measurements.0.PCR0", 0, "gates[0].measurements[0].PCR0", "is not text"),
        ("gates.0", None, "gates[0]", "is not an object"),
        ("gates.0.identity", None, "gates[0].identity", "is not text"),
        ("gates.0.measurements.0.PCR0", None, "gates[0].measurements[0].PCR0", "is not text"),
        ("gates.0.not_after", None, "gates[0].not_after", "is not a time"),
        ("gates.0.not_after", "soon", "gates[0].not_after", "is not a time"),
        ("gates.0.not_after", "2027-01-01T00:00:00", "gates[0].not_after", "no time zone"),
        ("gates.0.not_after", 5, "gates[0].not_after", "is not a time"),
    ],
)
def test_a_fault_is_named_by_its_path(path, value, where, what):
    whole = good()
    *parents, last = path.split(".")
    place = whole
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is ...:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    with pytest.raises(MalformedPolicy) as raised:
        from_json(whole)
    assert [(problem.where, what in problem.what) for problem in raised.value.problems] == [(where, True)]


def test_all_faults_at_once():
    whole = {**good(), "key": {"artifact": 1, "platform": "x", "region": 2}, "more": 1}
    with pytest.raises(MalformedPolicy) as raised:
        from_json(whole)
    assert len(raised.value.problems) == 4


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(values.filter(lambda value: value != []), st.sampled_from(["", "key", "owner", "gates"]))
@settings(max_examples=100, deadline=None)
def test_anything_else_is_refused_and_nothing_breaks(value, part):
    whole = value if not part else {**good(), part: value}
    with pytest.raises(MalformedPolicy):
        from_json(whole)
