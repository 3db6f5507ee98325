"""Every condition operator, case by case as IAM's pages describe it.

docs.aws.amazon.com/IAM/latest/UserGuide/: reference_policies_elements_condition_operators.html (operators),
reference_policies_condition-single-vs-multi-valued-context-keys.html (quantifiers),
reference_policies_multi-value-conditions.html (lists), reference_policies_variables.html (variables).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.release.aws_statements import OPERATORS, statements
from jewelhouse.release.evaluate.operators import holds, instant


def met(operator: str, wanted: Any, found: Any, *, variables: bool = True, **others: str) -> bool | None:
    """Whether `{operator: {"aws:x": wanted}}` is met by a request with aws:x = `found` (None: absent)."""
    (statement,) = statements(
        {"Statement": {"Effect": "Allow", "Action": "a", "Condition": {operator: {"aws:x": wanted}}}}
    )
    (clause,) = statement.clauses
    values = found if isinstance(found, tuple) else (found,)
    context = {name.replace("_", ":"): (value,) for name, value in others.items()}
    if found is not None:
        context["aws:x"] = values
    return holds(clause, context, variables=variables)


CASES = [
    # operator, policy's value, request's value, holds
    ("StringEquals", "a", "a", True),
    ("StringEquals", "a", "A", False),
    ("StringEquals", "a*", "ab", False),
    ("StringEquals", ["x", "a"], "a", True),
    ("StringEquals", [], "a", None),
    ("StringNotEquals", [], "a", None),
    ("StringNotEquals", [], None, None),
    ("StringEquals", "a", None, False),
    ("StringNotEquals", "a", "b", True),
    ("StringNotEquals", "a", "a", False),
    ("StringNotEquals", ["a", "b"], "b", False),
    ("StringNotEquals", ["a", "b"], "c", True),
    ("StringNotEquals", "a", None, True),
    ("StringEqualsIgnoreCase", "AbC", "aBc", True),
    ("StringNotEqualsIgnoreCase", "AbC", "aBc", False),
    ("StringNotEqualsIgnoreCase", "AbC", None, True),
    ("StringLike", "a*c", "abbc", True),
    ("StringLike", "a?c", "abbc", False),
    ("StringLike", "A*", "ab", False),
    ("StringLike", "*", "", True),
    ("StringNotLike", "a*", "b", True),
    ("NumericEquals", 5, "5.0", True),
    ("NumericEquals", "x", "5", None),
    ("NumericNotEquals", "5", "6", True),
    ("NumericLessThan", "5", "4", True),
    ("NumericLessThan", "5", "5", False),
    ("NumericLessThanEquals", "5", "5", True),
    ("NumericGreaterThan", "10", "9", False),
    ("NumericGreaterThanEquals", "9", "10", True),
    ("NumericLessThan", "NaN", "1", None),
    ("NumericEquals", "1_0", "10", None),
    ("NumericEquals", "1e1", "10", None),
    ("NumericEquals", "-2.50", "-2.5", True),
    ("DateEquals", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", True),
    ("DateNotEquals", "2026-01-01", "2026-01-02", True),
    ("DateLessThan", "2026-01-01T00:00:00Z", "2025-12-31T23:59:59Z", True),
    ("DateLessThan", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", False),
    ("DateLessThanEquals", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", True),
    ("DateGreaterThan", "1767225600", "2026-01-01T00:00:01Z", True),
    ("DateGreaterThanEquals", "soon", "2026-01-01T00:00:01Z", None),
    ("DateLessThan", "2030-W01-1", "2026-01-01T00:00:01Z", None),
    ("DateLessThan", "20300101T000000Z", "2026-01-01T00:00:01Z", None),
    ("Bool", True, "true", True),
    ("Bool", "false", "true", False),
    ("Bool", "TRUE", "true", True),
    ("Bool", "yes", "yes", None),
    ("Bool", "true", "yes", None),
    ("Bool", "${aws:x}", "true", None),
    ("NumericEquals", "${aws:x}", "5", None),
    ("Bool", "true", None, False),
    ("BinaryEquals", "QmluYXJ5", "QmluYXJ5", True),
    ("BinaryEquals", "QmluYXJ5", "QmluYXJ6", False),
    ("BinaryEquals", "%", "QmluYXJ5", None),
    ("IpAddress", "203.0.113.0/24", "203.0.113.9", True),
    ("IpAddress", "203.0.113.0/24", "203.0.114.9", False),
    ("NotIpAddress", "203.0.113.0/24", "203.0.114.9", True),
    ("IpAddress", "2001:db8::/32", "2001:db8::1", True),
    ("IpAddress", "everywhere", "203.0.113.9", None),
    ("ArnEquals", "arn:aws:iam::1:role/a*", "arn:aws:iam::1:role/ab", True),
    ("ArnLike", "arn:aws:iam::*:role/a", "arn:aws:iam::1:role/a", True),
    ("ArnLike", "arn:aws:*", "arn:aws:iam::1:role/a", None),
    ("ArnLike", "arn:aws:iam::1:role/a", "no arn", False),
    ("ArnNotLike", "arn:aws:iam::1:role/a", "no arn", True),
    ("ArnLike", "arn:aws:iam::1*:role/a", "arn:aws:iam::1:x:role/a", False),
    ("ArnNotEquals", "arn:aws:iam::1:role/a", "arn:aws:iam::1:role/b", True),
    ("ArnNotLike", "arn:aws:iam::1:role/*", "arn:aws:iam::1:role/b", False),
    ("Null", "true", None, True),
    ("Null", "true", "a", False),
    ("Null", "false", "a", True),
    ("Null", False, None, False),
    ("Null", ["true", "false"], None, True),
    ("Null", "maybe", None, None),
    ("Null", "false", "", None),
    ("Null", "true", "", None),
    # IfExists: the absent key meets it, a present one is compared.
    ("StringEqualsIfExists", "a", None, True),
    ("StringEqualsIfExists", "a", "b", False),
    ("StringNotEqualsIfExists", "a", "a", False),
    ("BoolIfExists", "true", None, True),
    ("ArnLikeIfExists", "arn:aws:iam::1:role/*", None, True),
    # Several values in the request.
    ("StringEquals", "a", ("a", "b"), None),
    ("ForAllValues:StringEquals", ["a", "b"], ("a", "b"), True),
    ("ForAllValues:StringEquals", ["a", "b"], ("a", "c"), False),
    ("ForAllValues:StringEquals", ["a"], None, True),
    # "a null dataset, such as an empty string" counts as no value for both quantifiers.
    ("ForAllValues:StringEquals", ["a"], "", True),
    ("ForAnyValue:StringNotEquals", ["a"], "", False),
    ("ForAllValues:StringNotEquals", ["a"], ("b", "c"), True),
    ("ForAllValues:StringNotEquals", ["a"], ("a", "c"), False),
    ("ForAnyValue:StringEquals", ["a", "b"], ("c", "b"), True),
    ("ForAnyValue:StringEquals", ["a"], ("c", "b"), False),
    ("ForAnyValue:StringEquals", ["a"], None, False),
    ("ForAnyValue:StringNotEquals", ["a"], None, False),
    ("ForAnyValue:StringNotEquals", ["a"], ("a", "b"), True),
    ("ForAnyValue:StringLike", "a*", ("b", "ab"), True),
]


@pytest.mark.parametrize(("operator", "wanted", "found", "expected"), CASES)
def test_operators(operator, wanted, found, expected):
    assert met(operator, wanted, found) is expected


def test_every_operator_has_a_case():
    covered = {operator.rpartition(":")[2].removesuffix("IfExists") for operator, *_ in CASES}
    assert covered == set(OPERATORS)


@pytest.mark.parametrize(
    ("pattern", "found", "expected"),
    [
        ("${aws:username}", "ann", True),
        ("${aws:username}", "bob", False),
        ("home/${aws:username}/*", "home/ann/x", True),
        ("${aws:missing}", "anything", None),
        ("${aws:missing, 'default'}", "default", True),
        ("${*}", "*", True),
        ("${*}", "anything", False),
        ("${?}", "?", True),
        ("${$}", "$", True),
        ("${aws:star}", "anything", False),
        ("${aws:star}", "*", True),
        ("${aws:broken", "anything", None),
    ],
)
def test_variables(pattern, found, expected):
    assert met("StringLike", pattern, found, aws_username="ann", aws_star="*") is expected


def test_variables_are_text_in_the_old_version():
    assert met("StringEquals", "${aws:username}", "${aws:username}", variables=False, aws_username="a")
    assert not met("StringEquals", "${aws:username}", "a", variables=False, aws_username="a")


@given(st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_time_or_none(text):
    found = instant(text)
    assert found is None or found.tzinfo is not None


@given(st.sampled_from(sorted(OPERATORS)), st.text(max_size=8), st.text(max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_negated_operator_is_the_other_answer(operator, wanted, found):
    base, negated = OPERATORS[operator]
    if negated:
        positive, negative = met(base, wanted, found), met(operator, wanted, found)
        assert (positive is None) == (negative is None)
        assert positive is None or positive is not negative
