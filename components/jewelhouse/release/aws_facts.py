"""What a KMS key policy lets happen, computed from the document: Allows, with every Deny applied to them.

The result is an upper bound: a condition of an Allow that cannot be computed is left out, a Deny that cannot
be computed is not applied, and both are named in `undecided`. So whatever the document releases lies within
one of the openings, and where nothing is undecided the openings are exactly it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from itertools import product
from typing import Any

from jewelhouse.release.aws_conditions import (
    Atom,
    Slot,
    Term,
    Test,
    Undecided,
    all_of,
    atom,
    bounds,
    described,
    possible,
)
from jewelhouse.release.aws_keys import CONDITION_KEYS, RECIPIENT_ACTIONS
from jewelhouse.release.aws_statements import Statement, account_of, is_root, root, statements
from jewelhouse.release.facts import Facts, Opening, Power, reduced
from jewelhouse.release.policy import ReleasePolicy

# What hands a plaintext to the caller. An opening of any but the first names its action.
OPENS = ("kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")
# By what a key could be opened later, or lost: a changed policy, a grant (which carries no attestation), the
# wrapped key under another key, a replica with its own policy, imported material known to its importer.
POWERS = (
    "kms:CreateGrant",
    "kms:DeleteImportedKeyMaterial",
    "kms:DisableKey",
    "kms:ImportKeyMaterial",
    "kms:PutKeyPolicy",
    "kms:ReEncryptFrom",
    "kms:ReplicateKey",
    "kms:ScheduleKeyDeletion",
    "kms:UpdatePrimaryRegion",
)
# Alternatives of one Allow beyond this are not written out; a policy of 32 KiB that is meant has 60 in all.
MANY = 256
ALL_TOGETHER = 512
# Comparisons of alternatives in one document: hostile Denies multiply what they leave of each Allow.
COMPARISONS = 200_000


@dataclass(kw_only=True)
class Ledger:
    """What could not be computed, place by place, and how much of the bounds above is used up."""

    undecided: list[str] = field(default_factory=list)
    comparisons: int = 0
    written: int = 0

    def note(self, where: str, what: object) -> None:
        self.undecided.append(f"{where}: {what}")


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way through the document to an action: an Allow and what remains of it after every Deny."""

    action: str
    principal: str
    term: Term
    where: str


def parse(document: Mapping[str, Any]) -> Facts:
    """The openings and powers of a key policy, whoever wrote it.

    Openings of `kms:Decrypt` have the condition keys of KMS as claims, in their documented spelling; those of
    another action that hands a plaintext out also have the claim `action`. Relations other than equality
    stand at the end of a path: `(absent)`, `(not)` with values that it must not have, `(>=)` of the time, or
    the operator's own name (`(StringLike)`). A principal `arn:aws:iam::ACCOUNT:root` delegates: whoever the
    identity policies of that account allow. Conditions of a power stand in its `what`, after `if`.

    Never raises for what is in the document: see `undecided`.
    """
    found = statements(document)
    ledger = Ledger(undecided=[f"{one.where}: {what}" for one in found for what in one.odd])
    openings = [
        opening for action in OPENS for opening in _openings(action, ways(found, action, ledger), ledger)
    ]
    powers = {
        _power(action, opening)
        for action in POWERS
        for opening in reduced(_openings("", ways(found, action, ledger), ledger))
    }
    return Facts(
        openings=reduced(openings),
        powers=frozenset(powers),
        undecided=tuple(dict.fromkeys(ledger.undecided)),
    )


def openings(policy: ReleasePolicy) -> frozenset[Opening]:
    """What a neutral policy is to open, from its gates alone: `parse(compile(policy))` must find the same."""
    return reduced(
        Opening(
            principal=gate.identity,
            claims={CONDITION_KEYS[gate.platform][name]: value for name, value in found.values.items()},
            until=None if gate.not_after is None else gate.not_after.astimezone(UTC).replace(microsecond=0),
        )
        for gate in policy.gates
        for found in gate.measurements
    )


def ways(
    found: Iterable[Statement], action: str, ledger: Ledger, *, allow: Statement | None = None
) -> Iterator[Way]:
    """Every way to an action. `allow` stands in for the Allows of the document: what would remain of it."""
    found = tuple(found)
    # A Deny that was not understood as a whole is not applied.
    denies = [one for one in found if not one.allow and not one.void and not one.odd and one.covers(action)]
    for statement in found if allow is None else (allow,):
        if not statement.allow or statement.void or not statement.covers(action):
            continue
        if statement.not_principal:
            ledger.note(statement.where, "an Allow with NotPrincipal means everybody else")
        for principal in ("*",) if statement.not_principal else statement.principals:
            terms = _met(statement, principal, ledger)
            for deny in denies:
                terms = _denied(terms, deny, principal, ledger)
            for term in terms:
                settled = possible(term, attested=action in RECIPIENT_ACTIONS)
                if settled is not None:
                    yield Way(action=action, principal=principal, term=settled, where=statement.where)


def _met(allow: Statement, principal: str, ledger: Ledger) -> list[Term]:
    atoms: list[Atom] = []
    for clause in allow.clauses:
        try:
            atoms.append(atom(clause))
        except Undecided as error:
            ledger.note(allow.where, error)
    term = all_of(_known(principal), atoms)
    return [] if term is None else [term]


def _known(principal: str) -> Term:
    """What the principal alone says about the context of its requests."""
    account = account_of(principal)
    if account is None:
        return {}
    known = {
        "aws:PrincipalAccount": account,
        "kms:CallerAccount": account,
        "aws:PrincipalIsAWSService": "false",
    }
    if ":iam:" in principal and not is_root(principal):
        known["aws:PrincipalArn"] = principal
    return {key: Slot(absent=False, inside=frozenset({value})) for key, value in known.items()}


def _denied(terms: list[Term], deny: Statement, principal: str, ledger: Ledger) -> list[Term]:
    """What is left of each term: the Deny must miss the principal, or one of its conditions must fail."""
    if ledger.comparisons > COMPARISONS:
        ledger.note(deny.where, "its Allows and Denies multiply beyond what is worked out")
        return terms
    misses = _misses(deny, principal, ledger)
    if misses is None:
        return terms
    try:
        alternatives = [*misses, *([-atom(clause)] for clause in deny.clauses)]
    except Undecided as error:
        ledger.note(deny.where, error)
        return terms
    left = {
        tuple(sorted(found.items())): found
        for term in terms
        for atoms in alternatives
        if (found := all_of(term, atoms)) is not None
    }
    ledger.comparisons += len(terms) * len(alternatives) + len(left) ** 2
    if len(left) > MANY:
        ledger.note(deny.where, f"leaves more than {MANY} alternatives")
        return terms
    return _widest(left.values())


def _widest(terms: Iterable[Term]) -> list[Term]:
    """Without terms that another one takes in because it asks for less."""
    found = list(terms)
    if len(found) < 2:
        return found
    return [
        one
        for one in found
        if not any(
            other is not one and other.items() <= one.items() and len(other) < len(one) for other in found
        )
    ]


def _misses(deny: Statement, principal: str, ledger: Ledger) -> list[list[Atom]] | None:
    """Alternatives by which a Deny does not mean a request of this principal: none when it always does, None
    when it never does or when nobody can tell."""
    named = set(deny.principals)
    account = account_of(principal)
    if deny.not_principal:
        if principal not in named and not (account and root(account) in named) and "*" not in named:
            if principal == "*" or is_root(principal):
                ledger.note(deny.where, f"a Deny with NotPrincipal leaves some of {principal}")
                return None
            return []
        if principal != "*" and not (account and {principal, root(account)} <= named):
            missing = "without its account" if principal in named else "by its account only"
            ledger.note(deny.where, f"NotPrincipal names {principal} {missing}")
        return None
    if "*" in named or principal in named or (account and root(account) in named):
        return []
    if account is None and principal != "*":
        return None
    inner = [one for one in sorted(named) if principal == "*" or account_of(one) == account]
    if principal == "*" or is_root(principal):
        # Denied are some of those that are meant: the rest is told by the ARN and account of the caller.
        atoms: list[Atom] = []
        for one in inner:
            if account_of(one) is None or ":sts:" in one:
                ledger.note(deny.where, f"{one} is not told apart from {principal}")
                return None
            whole = account_of(one) if is_root(one) else None
            same = Test("equals", (whole or one,))
            atoms.append(-Atom("aws:PrincipalAccount" if whole else "aws:PrincipalArn", same))
        return [atoms] if atoms else None
    if any(_session_of(one, principal) for one in inner):
        ledger.note(deny.where, f"denies a session of {principal} only")
        return None
    return [] if any(_session_of(principal, one) for one in inner) else None


def _session_of(session: str, role: str) -> bool:
    """Whether an STS ARN is a session of an IAM role; paths of roles do not show in sessions."""
    parts = session.split(":assumed-role/", 1)
    name = role.split(":role/", 1)
    return len(parts) == 2 and len(name) == 2 and parts[1].split("/")[0] == name[1].rsplit("/", 1)[-1]


def _openings(action: str, found: Iterable[Way], ledger: Ledger) -> Iterator[Opening]:
    named = {} if action in ("", OPENS[0]) else {"action": action}
    for way in found:
        known = _known(way.principal)
        slots = {key: slot for key, slot in way.term.items() if known.get(key) != slot}
        clock = slots.pop("aws:CurrentTime", None)
        since, until = bounds(clock) if clock else (None, None)
        timed: dict[str, str | None] = {"aws:CurrentTime (>=)": since.isoformat()} if since else {}
        choices = [list(_choices(key, slot)) for key, slot in slots.items()]
        count = 1
        for choice in choices:
            count *= len(choice)
        if count > MANY:
            ledger.note(way.where, f"its value lists make more than {MANY} combinations")
            choices = [choice if len(choice) == 1 else [{}] for choice in choices]
        elif ledger.written + count > ALL_TOGETHER:
            ledger.note(way.where, f"all value lists make more than {ALL_TOGETHER} combinations")
            choices = []
        else:
            ledger.written += count
        for chosen in product(*choices):
            claims = {**named, **timed}
            for one in chosen:
                claims.update(one)
            yield Opening(principal=way.principal, claims=claims, until=until)


def _choices(key: str, slot: Slot) -> Iterator[dict[str, str | None]]:
    for value in sorted(slot.values):
        rest = {
            f"{key} ({test.operator if holds else f'not {test.operator}'})": "|".join(test.values)
            for test, holds in slot.others
        }
        yield {key: value, **rest}
    if slot.inside is None or slot.absent:
        yield dict(described(key, slot))


def _power(action: str, opening: Opening) -> Power:
    conditions = [path if value is None else f"{path} = {value}" for path, value in opening.claims.items()]
    if opening.until:
        conditions.append(f"before {opening.until.isoformat()}")
    return Power(str(opening.principal), f"{action} if {' and '.join(conditions)}" if conditions else action)
