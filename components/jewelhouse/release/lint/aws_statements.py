"""What lint finds in the statements of a key policy as they are written, each on its own.

The table with ids, severities, reasons and sources is in `release.lint.aws`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from jewelhouse.model import Platform
from jewelhouse.release.aws import POLICY_LIMIT
from jewelhouse.release.aws_conditions import TIME, Undecided, instant
from jewelhouse.release.aws_facts import OPENS
from jewelhouse.release.aws_keys import ATTESTATION, NETWORK, RECIPIENT_ACTIONS, REGISTERS, is_attestation
from jewelhouse.release.aws_statements import Clause, Statement
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.aws_reading import Reading, names_evidence, reading
from jewelhouse.release.lint.rules import Hit

# Patterns of actions are a mistake where they take one of these in.
GUARDED = (*OPENS, "kms:CreateGrant", "kms:PutKeyPolicy", "kms:ReEncryptFrom", "kms:ReplicateKey")
# Registers of an enclave that image, role and instance never set; a NitroTPM has them all.
TPM_NUMBERS = {"PCR4", "PCR7", "PCR11", "PCR12"}


def passes_when_absent(document: Document) -> Iterator[Hit]:
    for statement, clause in _attested_clauses(document, allow=True):
        if clause.if_exists or clause.quantifier == "ForAllValues":
            yield Hit(
                where=_at(statement, clause),
                what=f"{clause.operator} holds for a call without any document",
            )


def several_registers_in_one_deny(document: Document) -> Iterator[Hit]:
    for statement in _active(document, allow=False):
        for platform in Platform:
            keys = sorted(
                clause.key
                for clause in statement.clauses
                if REGISTERS.get(clause.key, (None,))[0] is platform
                # `Null false` beside a value means a document of this kind with another value.
                and not (clause.base == "Null" and clause.values == ("false",))
            )
            if len(keys) > 1:
                yield Hit(
                    where=statement.where,
                    what=f"denies only who misses {' and '.join(keys)} all at once",
                )


def deny_with_exceptions(document: Document) -> Iterator[Hit]:
    for statement in _active(document, allow=False):
        others = [clause for clause in statement.clauses if not is_attestation(clause.key)]
        if names_evidence(statement) and others:
            named = ", ".join(f"{clause.operator} {clause.key}" for clause in others)
            yield Hit(where=statement.where, what=f"spares every call that {named} does not hold for")


def no_such_key(document: Document) -> Iterator[Hit]:
    for statement, clause in _attested_clauses(document):
        if clause.key not in REGISTERS:
            hint = " (it names no register)" if clause.key == ATTESTATION else ""
            yield Hit(where=_at(statement, clause), what=f"{clause.written} is no condition key of KMS{hint}")


def tpm_register_with_enclave_key(document: Document) -> Iterator[Hit]:
    for statement in _active(document, allow=True):
        found = {
            REGISTERS[clause.key][1]
            for clause in statement.clauses
            if REGISTERS.get(clause.key, (None,))[0] is Platform.AWS_ENCLAVE and clause.base != "Null"
        }
        if found and found <= TPM_NUMBERS:
            yield Hit(
                where=statement.where,
                what=f"{', '.join(sorted(found))} of an enclave, where no image is measured; "
                "a NitroTPM has NitroTPMPCR keys",
            )


def action_without_recipient(document: Document) -> Iterator[Hit]:
    carries = {action.lower() for action in RECIPIENT_ACTIONS}
    for statement in _active(document, allow=True):
        if not names_evidence(statement) or statement.not_action:
            continue
        # What a pattern takes in beside is never granted either, but nobody meant it by name.
        plain = [one for one in statement.actions if "*" not in one and "?" not in one]
        void = [one for one in plain if one.lower() not in carries]
        if void:
            yield Hit(where=statement.where, what=f"{', '.join(void)} cannot carry a document")


def whole_service(document: Document) -> Iterator[Hit]:
    for statement in _active(document, allow=True):
        if statement.not_action:
            yield Hit(
                where=statement.where, what=f"allows everything but {', '.join(sorted(statement.actions))}"
            )
        elif any(one.strip("*") in ("", "kms:") for one in map(str.lower, statement.actions)):
            yield Hit(where=statement.where, what="allows every action of KMS")


def action_pattern(document: Document) -> Iterator[Hit]:
    for statement in _active(document, allow=True):
        if statement.not_action or names_evidence(statement):
            continue
        for pattern in statement.actions:
            if "*" not in pattern or pattern.lower().strip("*") in ("", "kms:"):
                continue
            one = Statement(where="", allow=True, actions=(pattern,))
            taken = [action for action in GUARDED if one.covers(action)]
            if taken:
                yield Hit(where=statement.where, what=f"{pattern} takes in {', '.join(taken)}")


def malformed_value(document: Document) -> Iterator[Hit]:
    for statement, clause in _attested_clauses(document):
        if clause.base == "Null":
            continue
        if not clause.base.startswith("String"):
            yield Hit(where=_at(statement, clause), what=f"{clause.operator} does not compare registers")
            continue
        for value in clause.values:
            if clause.base == "StringLike" and ("*" in value or "?" in value):
                continue
            problem = _malformed(value, clause)
            if problem:
                yield Hit(where=_at(statement, clause), what=f"{value:.20}… {problem}")


def pattern_value(document: Document) -> Iterator[Hit]:
    for statement, clause in _attested_clauses(document):
        wild = [value for value in clause.values if "*" in value or "?" in value]
        if clause.base == "StringLike" and wild:
            yield Hit(where=_at(statement, clause), what=f"{wild[0]:.40} admits more than one measurement")


def via_service(document: Document) -> Iterator[Hit]:
    for statement, clause in _clauses(document, allow=True):
        if clause.key == "kms:ViaService" and names_evidence(statement) and not clause.negated:
            yield Hit(
                where=_at(statement, clause), what="no call with a document comes by way of another service"
            )


def encryption_context(document: Document) -> Iterator[Hit]:
    for statement, clause in _clauses(document, allow=True):
        if clause.key.startswith("kms:EncryptionContext") and names_evidence(statement):
            yield Hit(where=_at(statement, clause), what=f"{clause.written} is absent for an RSA key")


def malformed_time(document: Document) -> Iterator[Hit]:
    for statement, clause in _clauses(document):
        if clause.base.startswith("Date") or clause.key in TIME:
            for value in clause.values:
                try:
                    instant(value)
                except Undecided as error:
                    yield Hit(where=_at(statement, clause), what=str(error))


def deny_for_some(document: Document) -> Iterator[Hit]:
    denies = list(_active(document, allow=False))
    for statement in denies:
        # The same for everybody beside it makes it harmless.
        general = [deny for deny in denies if deny.everybody and deny.clauses in ((), statement.clauses)]
        about = GUARDED if names_evidence(statement) else ("kms:CreateGrant",)
        left = [
            action
            for action in about
            if statement.covers(action) and not any(deny.covers(action) for deny in general)
        ]
        if left and not statement.everybody:
            who = ", ".join(statement.principals)
            whom = f"everybody but {who}" if statement.not_principal else f"only {who}"
            yield Hit(where=statement.where, what=f"denies {', '.join(left)} to {whom}")


def network_locks_administration(document: Document) -> Iterator[Hit]:
    for statement in _active(document, allow=False):
        keys = {clause.key for clause in statement.clauses}
        if keys & NETWORK and keys <= NETWORK and statement.covers("kms:PutKeyPolicy"):
            yield Hit(where=statement.where, what="denies PutKeyPolicy outside a network, to its owner too")


def two_kinds(document: Document) -> Iterator[Hit]:
    kinds = {
        REGISTERS[clause.key][0]
        for _, clause in _attested_clauses(document, allow=True)
        if clause.key in REGISTERS
    }
    if len(kinds) > 1:
        yield Hit(where="Statement", what="Allows for enclaves and for NitroTPM share one key")


def without_effect(document: Document) -> Iterator[Hit]:
    for statement in reading(document).statements:
        if statement.void and not statement.odd:
            yield Hit(where=statement.where, what=statement.void)


def too_large(document: Document) -> Iterator[Hit]:
    size = len(json.dumps(document.body, separators=(",", ":"), default=str))
    if size > POLICY_LIMIT:
        yield Hit(where="Statement", what=f"the document has {size} bytes, KMS takes {POLICY_LIMIT}")


def cannot_be_judged(document: Document) -> Iterator[Hit]:
    for entry in reading(document).undecided:
        where, _, what = entry.partition(": ")
        yield Hit(where=where, what=what)


def _malformed(value: str, clause: Clause) -> str:
    if len(value) != 96:
        return f"has {len(value)} characters: SHA-384 has 96"
    if any(character not in "0123456789abcdefABCDEF" for character in value):
        return "is not hexadecimal"
    if clause.base != "StringEqualsIgnoreCase" and value != value.lower():
        return f"has capitals, and {clause.operator} minds them"
    return ""


def _active(document: Document, *, allow: bool) -> Iterator[Statement]:
    found: Reading = reading(document)
    return (one for one in found.statements if one.allow is allow and not one.void and one.actions)


def _clauses(document: Document, *, allow: bool | None = None) -> Iterator[tuple[Statement, Clause]]:
    for statement in reading(document).statements:
        if allow in (None, statement.allow):
            for clause in statement.clauses:
                yield statement, clause


def _attested_clauses(document: Document, *, allow: bool | None = None) -> Iterator[tuple[Statement, Clause]]:
    return (found for found in _clauses(document, allow=allow) if is_attestation(found[1].key))


def _at(statement: Statement, clause: Clause) -> str:
    return f"{statement.where} Condition.{clause.operator}.{clause.written}"
