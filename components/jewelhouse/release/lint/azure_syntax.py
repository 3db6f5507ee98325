"""Lint rules on the form of a Key Vault release policy: what is outside the grammar, or on its edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jewelhouse.release import azure_grammar
from jewelhouse.release.azure_facts import MANY, TooMany, terms
from jewelhouse.release.azure_grammar import HONOURED, Fault, shown
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.azure_reading import ARRAYS, OBJECTS, all_conditions, merged
from jewelhouse.release.lint.rules import Check, Hit, Rule, Severity

GRAMMAR = "learn.microsoft.com/azure/key-vault/keys/policy-grammar, 2023-07-20"
EXAMPLES = "MicrosoftDocs/azure-docs articles/confidential-computing/skr-policy-examples.md, 2023-03-05"
SIDECAR = "microsoft/confidential-sidecar-containers: examples/skr/aci/importkeyconfig.json, read 2026-11"


def _flaws(*faults: Fault) -> Check:
    def check(document: Document) -> Iterator[Hit]:
        for flaw in azure_grammar.read(document.body).flaws:
            if flaw.fault in faults:
                yield Hit(where=flaw.where, what=flaw.what)

    return check


def _other_operators(document: Document) -> Iterator[Hit]:
    return merged(
        Hit(
            where=one.where,
            what=f"{one.claim} is compared by {one.operator}"
            + (", which no token meets: an absent claim meets nothing" if _never(one) else ""),
        )
        for one in all_conditions(document)
        if one.operator != HONOURED
    )


def _never(condition: azure_grammar.Condition) -> bool:
    return condition.operator == "exists" and condition.text == "false"


def _not_text(document: Document) -> Iterator[Hit]:
    return merged(
        Hit(where=one.where, what=f'{one.claim} is compared with {shown(one.written)}, not "{one.text}"')
        for one in all_conditions(document)
        if not isinstance(one.written, str) and one.operator in (HONOURED, "notEquals", "exists")
    )


def _not_a_value(document: Document) -> Iterator[Hit]:
    return merged(
        Hit(where=one.where, what=f"{one.claim} is an {kind} in every token")
        for one in all_conditions(document)
        for kind, names in (("array", ARRAYS), ("object", OBJECTS))
        if one.claim in names
        or (kind == "array" and one.claim.startswith(tuple(f"{name}." for name in names)))
    )


def _too_many(document: Document) -> Iterator[Hit]:
    by_authority: dict[str, int] = {}
    for entry in azure_grammar.read(document.body).entries:
        try:
            found = len(terms(entry))
        except TooMany:
            yield Hit(where=entry.where, what=f"has more than {MANY} alternatives")
            continue
        authority = entry.authority or entry.written
        before = by_authority.get(authority, 0)
        by_authority[authority] = before + found
        if before <= MANY < before + found:
            yield Hit(
                where=entry.where, what=f"{authority} has more than {MANY} alternatives over its entries"
            )


RULES: Sequence[Rule] = (
    Rule(
        id="JH-AZ-001",
        severity=Severity.ERROR,
        title="the root is not an anyOf",
        why="A release policy is an anyOf of authorities. A root allOf asks one token to have several "
        "issuers; Microsoft's own example has it.",
        remedy="put the authorities under anyOf",
        source=f"{GRAMMAR}; {EXAMPLES} (confidential VM, example 2)",
        check=_flaws(Fault.ROOT),
    ),
    Rule(
        id="JH-AZ-002",
        severity=Severity.ERROR,
        title="the version is missing or unknown",
        why="The grammar knows version 1.0.0 alone, and nobody can say what another one means.",
        remedy='write "version": "1.0.0"',
        source=GRAMMAR,
        check=_flaws(Fault.VERSION),
    ),
    Rule(
        id="JH-AZ-003",
        severity=Severity.ERROR,
        title="a name that the grammar does not have",
        why="What Key Vault does with an unknown member is not documented: a condition under a misspelt "
        "name may not count.",
        remedy="use version, authority, anyOf, allOf, claim and the operators, in this spelling",
        source=GRAMMAR,
        check=_flaws(Fault.KEY),
    ),
    Rule(
        id="JH-AZ-004",
        severity=Severity.ERROR,
        title="allOf and anyOf beside each other",
        why='"However, both aren\'t allowed together": which of them counts is not documented.',
        remedy="put the anyOf as one element into the allOf",
        source=GRAMMAR,
        check=_flaws(Fault.BOTH),
    ),
    Rule(
        id="JH-AZ-005",
        severity=Severity.ERROR,
        title="an empty list",
        why="An empty allOf may mean every token, an empty anyOf none; the grammar has neither.",
        remedy="name the conditions, or remove the entry",
        source=GRAMMAR,
        check=_flaws(Fault.EMPTY),
    ),
    Rule(
        id="JH-AZ-006",
        severity=Severity.ERROR,
        title="no condition of the grammar",
        why="A part that is not an authority, a group, or a claim with one operator and a scalar value "
        "cannot be judged.",
        remedy='write {"claim": "<path>", "equals": "<value>"}, in groups nested a few levels deep',
        source=GRAMMAR,
        check=_flaws(Fault.CONDITION, Fault.VALUE, Fault.AUTHORITY, Fault.DEPTH),
    ),
    Rule(
        id="JH-AZ-007",
        severity=Severity.ERROR,
        title="a claim path that is no path of names",
        why='"Array specifications aren\'t presently supported": an element of an array cannot be named.',
        remedy="pin a claim that is a text, a number or a boolean",
        source=GRAMMAR,
        check=_flaws(Fault.CLAIM),
    ),
    Rule(
        id="JH-AZ-008",
        severity=Severity.ERROR,
        title="an array or object compared with a value",
        why="Neither arrays nor objects can be compared, so no token meets the condition: a list of PCRs "
        "cannot be pinned.",
        remedy="pin claims with a single value; the image of a VM cannot be pinned, that of a container is "
        "its hostdata",
        source=GRAMMAR,
        check=_not_a_value,
    ),
    Rule(
        id="JH-AZ-009",
        severity=Severity.WARNING,
        title="an operator other than equals",
        why='The page lists it and says that "the only allowed condition is equals". Whether Key Vault '
        "refuses it, ignores it or honours it is not known.",
        remedy="use equals, with an anyOf of the values that may pass",
        source=f"{GRAMMAR}; {EXAMPLES} uses greater",
        check=_other_operators,
    ),
    Rule(
        id="JH-AZ-010",
        severity=Severity.WARNING,
        title="a boolean or number that is not written as text",
        why="Microsoft's samples pin booleans and numbers as strings. How Key Vault compares the JSON forms "
        "is not documented, and a condition that never holds shows only when the key is needed.",
        remedy='write "false" and "0", as text',
        source=SIDECAR,
        check=_not_text,
    ),
    Rule(
        id="JH-AZ-011",
        severity=Severity.WARNING,
        title="too many alternatives to judge",
        why="Nobody can review what so many combinations let through, and the other rules do not judge them.",
        remedy="split the policy by authority, or the key by stage",
        source=GRAMMAR,
        check=_too_many,
    ),
)
