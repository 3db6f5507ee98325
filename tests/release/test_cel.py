"""The CEL core: what is read, what is refused, and that Google's library agrees."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jewelhouse.release import cel, clauses
from jewelhouse.release.cel import CelError, Compare, Literal, Many, Name, Not, Select

TOKEN = {
    "a": "x",
    "b": True,
    "n": 3,
    "list": ["x", "y"],
    "empty": [],
    "m": {"a": "y", "deep": {"b": False, "text": "abc"}},
    "things": [{"k": "x"}, {"k": "y"}],
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.b=='x'", "a.b == 'x'"),
        ('a.b == "x"', "a.b == 'x'"),
        ("(((a)))", "a"),
        ("a && (b && c)", "a && b && c"),
        ("a && (b || c)", "a && (b || c)"),
        ("a || b && c", "a || b && c"),
        ("!(a == b)", "!(a == b)"),
        ("!!a", "!(!a)"),
        ("!!!a", "!a"),
        ("a ? b : c ? d : e", "a ? b : c ? d : e"),
        ("(a ? b : c) ? d : e", "(a ? b : c) ? d : e"),
        ("'x' in a.b", "'x' in a.b"),
        ("a in ['x', 'y',]", "a in ['x', 'y']"),
        ("a+b+c", "a + b + c"),
        ("a+(b+c)", "a + (b + c)"),
        ("a[0].b['c']", "a[0].b['c']"),
        ("-5 < a", "-5 < a"),
        ("0x10 == a", "16 == a"),
        ("1e3 == a", "1000.0 == a"),
        ("has(a.b.c)", "has(a.b.c)"),
        ("a.exists(x, x.k == 'v')", "a.exists(x, x.k == 'v')"),
        ("a.map(x, x.k + ':' + x.v)", "a.map(x, x.k + ':' + x.v)"),
        ("size(a) == 0 && a.size() > 1", "size(a) == 0 && a.size() > 1"),
        ("int(a[0]) >= 250100", "int(a[0]) >= 250100"),
        ("r'a\\d'", r"'a\\d'"),
        ("'''it's'''", r"'it\'s'"),
        (r"'\x41\101\u00e9\n'", r"'AAé\u000a'"),
        ("a // what this is\n == b", "a == b"),
        ("timestamp('2027-01-01T00:00:00Z')>t", "timestamp('2027-01-01T00:00:00Z') > t"),
        ("a.if.package", "a.if.package"),
    ],
)
def test_what_is_read_is_shown_in_one_form(text: str, shown: str) -> None:
    tree = cel.parse(text)
    assert cel.show(tree) == shown
    assert cel.parse(shown) == tree


def test_the_tree_of_a_condition() -> None:
    assert cel.parse("a.b == 'x' && !c") == Many(
        "&&", (Compare("==", Select(Name("a"), "b"), Literal("x")), Not(Name("c")))
    )
    assert Literal(True) != Literal(1)


@pytest.mark.parametrize(
    ("text", "says", "at"),
    [
        pytest.param("", "found 'the end'", 1, id="nothing"),
        pytest.param("a ==", "expected a value", 5, id="half a comparison"),
        pytest.param("a = 'x'", "'=' is not of", 3, id="one equals sign"),
        pytest.param("a & b", "'&' is not of", 3, id="one ampersand"),
        pytest.param("(a", "expected ')'", 3, id="open bracket"),
        pytest.param("a)", "more than one expression", 2, id="closing bracket"),
        pytest.param("a b", "more than one expression", 3, id="two expressions"),
        pytest.param("'x", "without an end", 1, id="open string"),
        pytest.param("'x\n'", "without an end", 1, id="string over a line"),
        pytest.param(r"'\q'", "an escape", 2, id="unknown escape"),
        pytest.param(r"'\ud800'", "half a character", 8, id="lone surrogate"),
        pytest.param(r"'\U00110000'", "beyond Unicode", 2, id="beyond Unicode"),
        pytest.param("b'x'", "'b' is not of", 1, id="bytes"),
        pytest.param("5u", "'5' is not of", 1, id="unsigned number"),
        pytest.param("9223372036854775808", "64 bits", 1, id="huge number"),
        pytest.param("{'a': 1}", "'{' is not of", 1, id="map"),
        pytest.param("a * b", "'*' is not of", 3, id="product"),
        pytest.param("a - b", "more than one expression", 3, id="difference"),
        pytest.param(".a", "expected a value", 1, id="leading dot"),
        pytest.param("a.in", "name of a claim", 3, id="word as a field"),
        pytest.param("for == a", "reserved word", 1, id="reserved word"),
        pytest.param("a.lowerAscii()", "no function lowerAscii()", 3, id="function of an extension"),
        pytest.param("startsWith(a, 'x')", "no function startsWith()", 1, id="method as a function"),
        pytest.param("a.startsWith()", "with 0 arguments", 3, id="too few arguments"),
        pytest.param("has(a)", "takes a claim", 1, id="has of a variable"),
        pytest.param("has(a['b'])", "takes a claim", 1, id="has of an index"),
        pytest.param("a.exists(x.y, true)", "takes a variable", 3, id="macro without a variable"),
        pytest.param("a.map(x, true, x)", "takes a variable", 3, id="filtering map"),
        pytest.param("a.startsWith('x',)", "expected a value", 18, id="comma at the end of a call"),
        pytest.param("(" * 60 + "a" + ")" * 60, "nested deeper", 41, id="brackets without end"),
        pytest.param("a" + ".b" * 200, "nested deeper", 1, id="chain without end"),
        pytest.param("a" + " == a" * 200, "nested deeper", 1, id="comparisons without end"),
        pytest.param("!" * 3000 + "(" * 60, "nested deeper", 3041, id="negations and brackets"),
        pytest.param("a" * 20_000, "more than 16384", 16385, id="a novel"),
    ],
)
def test_what_is_refused_says_where(text: str, says: str, at: int) -> None:
    with pytest.raises(CelError) as caught:
        cel.parse(text)
    assert says in str(caught.value)
    assert caught.value.at + 1 == at


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.text(alphabet="abx.'\"()[]!&|=<>?:+-, \n\\r0159uin", max_size=120))
@example("a" + "[a" * 400)
@example("a ? " * 500)
@example("[" * 500)
@example("-" * 500)
def test_no_text_gives_anything_but_a_tree_or_the_one_error(text: str) -> None:
    try:
        tree = cel.parse(text)
    except CelError:
        return
    assert cel.parse(cel.show(tree)) == tree


# Expressions that a condition may hold, over the claims of TOKEN and some that it lacks.
names = st.sampled_from(
    [
        *("assertion.a", "assertion.b", "assertion.n", "assertion.list", "assertion.gone", "assertion.m.a"),
        *("assertion.m.deep.b", "assertion.m.deep.text", "assertion.m.gone", "assertion.gone.b"),
        "assertion.things",
    ]
)
texts = st.sampled_from(["'x'", '"y"', "'abc'", "r'z'", "''", "'true'"])
values = texts | st.sampled_from(["true", "false", "3", "0", "3.0"])


def _pairs(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    return st.one_of(
        two.map(" && ".join),
        two.map(" || ".join),
        two.map(lambda both: f"({both[0]}) && ({both[1]})"),
        two.map(lambda both: f"({both[0]}) || ({both[1]})"),
        inner.map("!({})".format),
        inner.map("({}) == true".format),
        inner.map("false != ({})".format),
        st.tuples(inner, inner, inner).map(lambda all: f"({all[0]}) ? ({all[1]}) : ({all[2]})"),
    )


leaves = st.one_of(
    st.tuples(names, st.sampled_from(["==", "!="]), values).map(" ".join),
    st.tuples(values, st.sampled_from(["==", "!="]), names).map(" ".join),
    st.tuples(names, names).map(" == ".join),
    names,
    st.sampled_from(["true", "false"]),
    st.tuples(texts, names).map(" in ".join),
    st.tuples(names, st.lists(texts, max_size=3)).map(lambda both: f"{both[0]} in [{', '.join(both[1])}]"),
    names.map(lambda name: f"has({name})"),
    names.map(lambda name: f"!has({name}) || size({name}) == 0"),
    names.map(lambda name: f"size({name}) > 1"),
    st.tuples(names, texts).map(lambda both: f"{both[0]}.startsWith({both[1]})"),
    st.tuples(names, texts).map(lambda both: f"{both[0]}.exists(i, i == {both[1]})"),
    st.tuples(names, texts, texts).map(lambda all: f"{all[0]}.exists(i, i == {all[1]} || i == {all[2]})"),
    st.tuples(names, texts).map(lambda both: f"{both[0]}.exists(i, i in [{both[1]}, 'q'])"),
    st.tuples(names, texts).map(lambda both: f"{both[0]}.all(i, i != {both[1]})"),
    st.tuples(texts, names).map(lambda both: f"[{both[0]}, 'y'].exists(i, i in {both[1]})"),
    st.tuples(texts, names).map(lambda both: f"[{both[0]}].all(i, i == {both[1]})"),
    st.tuples(texts, names, texts).map(lambda all: f"{all[0]} + {all[1]} == {all[2]}"),
    st.tuples(names, texts).map(lambda both: f"({both[0]} == 'x' ? 'p' : {both[0]}) == {both[1]}"),
    st.tuples(names, texts).map(
        lambda both: f"assertion.things.exists(t, t.k == {both[1]} && {both[0]} != '')"
    ),
)
expressions = st.recursive(leaves, _pairs, max_leaves=5)


@functools.cache
def library() -> Any:
    return pytest.importorskip("jewelhouse.release.evaluate.cel")


def passes(text: str, token: dict[str, Any]) -> bool:
    ours = library()
    values = ours.activation(ours.PROVIDER, {"assertion": token})
    return ours.run(ours.compiled(ours.PROVIDER, text), values) is True


def compiles(text: str) -> bool:
    library()
    try:
        library().PROVIDER.compile(text, disable_check=True)
    except RuntimeError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_the_core_compiles_with_googles_library(text: str) -> None:
    assert cel.parse(text)
    assert compiles(text)
    assert compiles(cel.show(cel.parse(text)))


@settings(max_examples=300, deadline=None)
@given(expressions, st.integers(0, 60), st.sampled_from(list("()[]!&|=.,'\"? :xin-5u")))
def test_what_is_read_is_cel_after_any_typing_error(text: str, at: int, typed: str) -> None:
    wrong = text[:at] + typed + text[at + 1 :]
    try:
        cel.parse(wrong)
    except CelError:
        return
    assert compiles(wrong)


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_shown_and_canonical_expressions_pass_the_same_tokens(text: str) -> None:
    tree = cel.parse(text)
    expected = passes(text, TOKEN)
    assert passes(cel.show(tree), TOKEN) == expected
    assert passes(cel.show(clauses.canonical(tree)), TOKEN) == expected


def of(found: frozenset[clauses.Alternative]) -> str:
    """Alternatives as an expression again."""
    shown = {
        "==": lambda one: f"{one.path.split(' (')[0]} == {written(one)}",
        "!=": lambda one: f"{one.path} != {one.value}",
        "has": lambda one: f"{cel.literal(one.value)} in {one.path}",
        "not has": lambda one: f"!({cel.literal(one.value)} in {one.path})",
        "exists": lambda one: f"has({one.path})",
        "absent": lambda one: f"!has({one.path})",
        "empty": lambda one: f"(!has({one.path}) || size({one.path}) == 0)",
        "holds": lambda one: f"({one.path})",
    }
    alternatives = [
        "(" + (" && ".join(shown[one.relation](one) for one in alternative) or "true") + ")"
        for alternative in found
    ]
    return " || ".join(alternatives) or "false"


def written(one: clauses.Clause) -> str:
    if one.path.endswith(" (number)") or (
        one.value in ("true", "false") and not one.path.endswith("(string)")
    ):
        return one.value
    return cel.literal(one.value)


@settings(max_examples=500, deadline=None)
@given(expressions)
def test_alternatives_pass_exactly_the_tokens_of_the_condition(text: str) -> None:
    """Also where claims are absent: errors are never turned into a yes, and never hide one."""
    try:
        found = clauses.alternatives(cel.parse(text))
    except clauses.TooMany:
        return
    for token in (TOKEN, {**TOKEN, "gone": "x"}, {"a": "y", "b": False, "list": ["abc"]}, {}):
        assert passes(of(found), token) == passes(text, token), of(found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("assertion.a == 'x' && assertion.b == true", "assertion.b == true && assertion.a == 'x'"),
        ("assertion.a == 'x'", "'x' == assertion.a"),
        ("assertion.a == 'x'", '((assertion . a=="x"))'),
        ("assertion.a == 'x'", "assertion['a'] == 'x'"),
        ("assertion.a == 'x'", r"assertion.a == '\x78'"),
        ("assertion.a in ['x', 'y']", "assertion.a == 'y' || assertion.a == 'x'"),
        ("assertion.a in ['x', 'y']", "assertion.a in ['y', 'x', 'y']"),
        ("assertion.b", "assertion.b == true"),
        ("!assertion.b", "assertion.b == false"),
        ("!(assertion.a == 'x' && assertion.b)", "assertion.a != 'x' || !assertion.b"),
        ("['S'].exists(i, i in assertion.l)", "'S' in assertion.l"),
        ("assertion.l.exists(i, i == 'S')", "'S' in assertion.l"),
        ("assertion.l.exists(a, a.k == 'x')", "assertion.l.exists(b, 'x' == b.k)"),
        ("has(assertion.a) && assertion.a == 'x'", "assertion.a == 'x'"),
        ("size(assertion.a) == 0 || !has(assertion.a)", "!has(assertion.a) || assertion.a.size() == 0"),
        ("assertion.b ? assertion.a == 'x' : false", "assertion.b && assertion.a == 'x'"),
        ("assertion.a == 'x' && (assertion.b || assertion.n == 1)",
         "assertion.a == 'x' && assertion.b || assertion.n == 1 && assertion.a == 'x'"),
        ("assertion.a == 'x' || assertion.a == 'x' && assertion.b", "assertion.a == 'x'"),
        ("assertion.a == 'x' && assertion.a != 'y'", "assertion.a == 'x'"),
        ("assertion.a == 'x' && assertion.a == 'y' || assertion.b", "assertion.b"),
        ("1 < assertion.n", "assertion.n > 1"),
        ("'a' + 'b' == assertion.a", "assertion.a == 'ab'"),
    ],
)  # fmt: skip
def test_the_same_condition_written_in_two_ways_is_one(one: str, other: str) -> None:
    assert clauses.alternatives(cel.parse(one)) == clauses.alternatives(cel.parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("assertion.b == true", "assertion.b == 'true'", id="the text true"),
        pytest.param("assertion.n == 3", "assertion.n == '3'", id="a number as a text"),
        pytest.param("assertion.a == 'x'", "assertion.a == 'X'", id="upper case"),
        pytest.param("assertion.a == 'x'", "assertion.a == 'x '", id="a space"),
        pytest.param("!(assertion.b)", "assertion.b != true", id="not true is not false"),
        pytest.param(
            "!has(assertion.a)", "!has(assertion.a) || size(assertion.a) == 0", id="absent, or empty"
        ),
        pytest.param(
            "size(assertion.a) == 0", "!has(assertion.a) || size(assertion.a) == 0", id="empty only"
        ),
        pytest.param("assertion.a == 'x' && assertion.b", "assertion.a == 'x' || assertion.b", id="and, or"),
        pytest.param("'x' in assertion.l", "assertion.l == 'x'", id="in a list, and the list"),
        pytest.param("assertion.l.exists(i, i == 'x')", "assertion.l.all(i, i == 'x')", id="one, all"),
    ],
)
def test_conditions_that_differ_are_not_taken_for_one(one: str, other: str) -> None:
    assert clauses.alternatives(cel.parse(one)) != clauses.alternatives(cel.parse(other))


def test_alternatives_are_bounded() -> None:
    text = " && ".join(f"assertion.a{number} in ['x', 'y', 'z']" for number in range(12))
    with pytest.raises(clauses.TooMany, match="500 alternatives"):
        clauses.alternatives(cel.parse(text))


def test_what_an_expression_needs() -> None:
    def needed(text: str) -> set[str]:
        return {one.path for one in clauses.needed(cel.parse(text))}

    assert needed("'a' + assertion.b + assertion.c.d") == {"assertion.b", "assertion.c.d"}
    assert needed("assertion.a == 'x' ? assertion.b : assertion.c") == {"assertion.a"}
    assert needed("assertion.a == 'x' || assertion.b") == set()
    assert needed("assertion.l.map(i, i.k + assertion.x)") == {"assertion.l"}
