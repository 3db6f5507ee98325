"""Lint rules on Key Vault release policies that no token meets, or not the token that is meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jewelhouse.release import azure_grammar
from jewelhouse.release.azure_facts import MANY, TooMany, meaning, terms
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.azure_judging import (
    SKR_CVM,
    TOKENS,
    judged,
)
from jewelhouse.release.lint.azure_reading import (
    COMPLIANCE,
    CVM,
    TDX,
    UVM,
    VALUES,
    Alternative,
    Shape,
    alternatives,
    merged,
)
from jewelhouse.release.lint.azure_syntax import EXAMPLES, GRAMMAR
from jewelhouse.release.lint.rules import Hit, Rule, Severity


def _unmeetable(one: Alternative) -> str | None:
    if one.shape is Shape.MIXED:
        return "asks for claims of a guest token and of a platform token at once"
    if len(one.families) > 1:
        return f"asks for claims of {' and '.join(sorted(one.families))} at once"
    if one.pins.get(COMPLIANCE) == UVM and one.tee == TDX:
        return "asks for a container group on TDX, and they run on SEV-SNP"
    for claim, value in one.pins.items():
        known = VALUES.get(claim)
        if known is not None and value not in known:
            return f"{claim} is never {azure_grammar.shown(value)}: it is {' or '.join(sorted(known))}"
    return None


def _no_way(document: Document) -> Iterator[Hit]:
    for entry in azure_grammar.read(document.body).entries:
        try:
            found = terms(entry)
        except TooMany:
            continue
        if not found:
            yield Hit(where=entry.where, what="no token meets its conditions: they exclude each other")


def _useless(document: Document) -> Iterator[Hit]:
    """Conditions that no alternative needs, within an authority and across entries of the same one."""
    by_authority: dict[str | None, list[Alternative]] = {}
    expanded = set()
    for one in alternatives(document):
        by_authority.setdefault(one.entry.authority, []).append(one)
        expanded.add(one.entry.where)
    used = {condition.where for found in by_authority.values() for one in found for condition in one.term}
    for entry in azure_grammar.read(document.body).entries:
        if entry.where not in expanded:
            continue
        for condition in azure_grammar.conditions(entry.body):
            if condition.where not in used:
                yield Hit(
                    where=condition.where,
                    what=f"{condition.claim} narrows nothing: another alternative lets more through or says "
                    "it already, or no token meets it here",
                )
    for found in by_authority.values():
        if len(found) > MANY:
            continue
        meanings = [(one, meaning(one.term)) for one in found]
        for index, (one, own) in enumerate(meanings):
            for place, (other, wide) in enumerate(meanings):
                if one.entry.where != other.entry.where and (wide < own or (wide == own and place < index)):
                    yield Hit(where=one.where, what=f"narrows nothing: {other.where} lets the same through")
                    break


def _flat_vm(document: Document) -> Iterator[Hit]:
    if document.disk:
        return
    yield from merged(
        Hit(where=one.where, what="asks for a confidential VM by claims that its guest's token has nested")
        for one in alternatives(document)
        if one.shape is Shape.PLATFORM and (one.pins.get(COMPLIANCE) == CVM or one.tee == TDX)
    )


def _nested_disk(document: Document) -> Iterator[Hit]:
    if document.disk:
        yield from merged(
            Hit(where=one.where, what="asks for a guest's token before there is a guest")
            for one in alternatives(document)
            if one.shape in (Shape.GUEST, Shape.MIXED)
        )


RULES: Sequence[Rule] = (
    Rule(
        id="JH-AZ-040",
        severity=Severity.ERROR,
        title="a condition that no token can meet",
        why="Guest tokens have the TEE's claims nested, platform tokens have them on top, and no token is "
        "of two TEEs: the key never opens.",
        remedy="ask for the claims of one token: nested for a confidential VM's own token, flat for "
        "containers and disks",
        source=f"{SKR_CVM}; {TOKENS}",
        check=judged(_unmeetable),
    ),
    Rule(
        id="JH-AZ-041",
        severity=Severity.ERROR,
        title="conditions that exclude each other",
        why="A claim has one value, so the key never opens under this authority.",
        remedy="put alternatives into an anyOf",
        source=GRAMMAR,
        check=_no_way,
    ),
    Rule(
        id="JH-AZ-042",
        severity=Severity.WARNING,
        title="a condition that narrows nothing",
        why="What it asks for is undone by another alternative, or cannot be met: it looks like protection "
        "and is none.",
        remedy="remove it, or the wider alternative beside it",
        source=GRAMMAR,
        check=_useless,
    ),
    Rule(
        id="JH-AZ-043",
        severity=Severity.WARNING,
        title="flat claims for a confidential VM",
        why="A guest's own token has these claims under x-ms-isolation-tee, so an application in the VM "
        "never gets the key. Only the platform's token has them on top: right for the key of a VM's disk.",
        remedy="for a key that an application asks for, write x-ms-isolation-tee. before the claims",
        source=f"{EXAMPLES} (confidential VM, example 1); {SKR_CVM}",
        check=_flat_vm,
    ),
    Rule(
        id="JH-AZ-044",
        severity=Severity.ERROR,
        title="nested claims on a disk key",
        why="The platform's own token opens the disk before the guest runs, and its claims are on top: the "
        "VM would not start.",
        remedy="write the claims without x-ms-isolation-tee.",
        source="Azure/confidential-computing-cvm: cvm_deployment/key/skr-policy.json, read 2026-11",
        check=_nested_disk,
    ),
)
