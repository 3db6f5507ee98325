"""What lint finds in the ways through a key policy that remain open after all its Denies.

The table with ids, severities, reasons and sources is in `release.lint.aws`. Where a hole can be shown, the
evaluator of KMS policies is asked with a hypothetical request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jewelhouse.release.aws_conditions import platforms
from jewelhouse.release.aws_facts import OPENS, Ledger, Way, ways
from jewelhouse.release.aws_keys import REGISTERS
from jewelhouse.release.aws_statements import Statement, account_of, is_root
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.aws_reading import closed, names_evidence, reading
from jewelhouse.release.lint.rules import Hit

DECRYPTS = ("kms:Decrypt", "kms:DeriveSharedSecret")
GENERATES = ("kms:GenerateDataKey", "kms:GenerateDataKeyPair")
# Each of these leads to the plaintext without evidence.
DELEGABLE = (*DECRYPTS, "kms:ReEncryptFrom", "kms:CreateGrant", "kms:PutKeyPolicy", "kms:ReplicateKey")
EDITS = ("kms:PutKeyPolicy", "kms:CreateGrant", "kms:ReplicateKey")
# Which Deny it is that closes an Allow takes a look at every pair of them.
MOST_TO_NAME = 100
TO_DENY = (*DECRYPTS, *GENERATES, "kms:ReEncryptFrom", "kms:CreateGrant")


def no_document(document: Document) -> Iterator[Hit]:
    """Also where an attested statement for the same principal stands beside it."""
    found = reading(document)
    attested = {way.principal for way in found.attested}
    for way in _ways(document, DECRYPTS):
        if platforms(way.term) or is_root(way.principal):
            continue
        beside = ", which defeats the attested statement beside it" if way.principal in attested else ""
        yield Hit(
            where=way.where,
            what=f"{way.principal} may {way.action} without any document{beside}",
            counterexample=_shown(document, way),
        )


def generates_without_document(document: Document) -> Iterator[Hit]:
    for way in _ways(document, GENERATES):
        if not platforms(way.term) and not is_root(way.principal):
            yield Hit(where=way.where, what=f"{way.principal} may {way.action} without any document")


def rewraps(document: Document) -> Iterator[Hit]:
    for way in _ways(document, ("kms:ReEncryptFrom",)):
        yield Hit(
            where=way.where,
            what=f"{way.principal} may re-wrap the data key to a key without these conditions",
            counterexample=_shown(document, way),
        )


def grants(document: Document) -> Iterator[Hit]:
    for way in _ways(document, ("kms:CreateGrant",)):
        if not _for_services(way):
            yield Hit(
                where=way.where,
                what=f"{way.principal} may create a grant, which carries no attestation",
                counterexample=_granted(document, way),
            )


def delegates(document: Document) -> Iterator[Hit]:
    by_place: dict[tuple[str, str], list[Way]] = {}
    for way in _ways(document, DELEGABLE):
        if is_root(way.principal) and not platforms(way.term) and not _for_services(way):
            by_place.setdefault((way.where, way.principal), []).append(way)
    for (where, principal), found in by_place.items():
        shown = (_shown(document, way) for way in found)
        yield Hit(
            where=where,
            what=f"leaves {', '.join(dict.fromkeys(way.action for way in found))} to identity policies of "
            f"account {account_of(principal)}",
            counterexample=next((one for one in shown if one is not None), None),
        )


def everybody(document: Document) -> Iterator[Hit]:
    found = reading(document).statements
    for statement in found:
        if not statement.allow or statement.void or not statement.everybody or names_evidence(statement):
            continue
        actions = tuple(action for action in (*OPENS, *EDITS) if statement.covers(action))
        for action in actions or statement.actions[:1]:
            open_ = [way for way in ways(found, action, Ledger(), allow=statement) if way.principal == "*"]
            # `possible` keeps the registers of a Deny, so a way may be attested all the same.
            if any(not closed(way.term) and not platforms(way.term) for way in open_):
                yield Hit(where=statement.where, what=f"everybody in every account may {action}")
                break


def not_denied(document: Document) -> Iterator[Hit]:
    """What a later Allow, an identity policy or an existing grant would open."""
    found = reading(document)
    if not any(found.attested):
        return
    anybody = Statement(where="", allow=True, principals=("*",), actions=("kms:*",))
    left = [
        action
        for action in TO_DENY
        if any(
            not platforms(way.term) and not _for_services(way)
            for way in ways(found.statements, action, Ledger(), allow=anybody)
        )
    ]
    if left:
        way = Way(action="kms:Decrypt", principal="*", term={}, where="")
        yield Hit(
            where="Statement",
            what=f"no Deny closes {', '.join(left)} to callers without a document",
            counterexample=_granted(document, way) if "kms:Decrypt" in left else None,
        )


def contradiction(document: Document) -> Iterator[Hit]:
    found = reading(document)
    for statement in found.statements:
        actions = [action for action in OPENS if statement.covers(action)]
        if not statement.allow or statement.void or not names_evidence(statement) or not actions:
            continue
        if any(way.where == statement.where for action in actions for way in found.ways[action]):
            continue
        alone = any(any(ways((), action, Ledger(), allow=statement)) for action in actions)
        blocking = [
            deny.where
            for deny in found.statements
            if alone
            and len(found.statements) <= MOST_TO_NAME
            and not deny.allow
            and not any(any(ways((deny,), action, Ledger(), allow=statement)) for action in actions)
        ]
        kinds = {REGISTERS[clause.key][0] for clause in statement.clauses if clause.key in REGISTERS}
        if blocking:
            why = f"because of {', '.join(blocking)}"
        elif alone:
            why = "after all Denies together"
        elif len(kinds) > 1:
            why = "a document has registers of an enclave or of a NitroTPM"
        else:
            why = "its own conditions leave nothing"
        yield Hit(where=statement.where, what=f"no document can meet it: {why}")


def releasing_account_edits(document: Document) -> Iterator[Hit]:
    found = reading(document)
    releasing = {account for way in found.attested if (account := account_of(way.principal))}
    for way in _ways(document, EDITS):
        account = account_of(way.principal)
        if account in releasing and not _for_services(way):
            yield Hit(
                where=way.where,
                what=f"{way.principal} of the account that the key is released to may {way.action}",
            )


def locked(document: Document) -> Iterator[Hit]:
    if not reading(document).ways["kms:PutKeyPolicy"]:
        yield Hit(where="Statement", what="nobody may change this policy")


def _ways(document: Document, actions: tuple[str, ...]) -> Iterator[Way]:
    """Ways to some actions. Alternatives of one Allow that need no document are one mistake."""
    found = reading(document)
    seen: set[tuple[str, str, str]] = set()
    for action in actions:
        for way in found.ways[action]:
            place = (way.where, way.principal, action)
            if platforms(way.term) or place not in seen:
                yield way
            if not platforms(way.term):
                seen.add(place)


def _for_services(way: Way) -> bool:
    """Limited to grants that AWS services make for themselves, and to grants at all."""
    slot = way.term.get("kms:GrantIsForAWSResource")
    return (
        way.action == "kms:CreateGrant" and slot is not None and not slot.absent and slot.values == {"true"}
    )


def _shown(document: Document, way: Way) -> dict[str, Any] | None:
    from jewelhouse.release.lint import aws_counterexamples as counterexamples

    return counterexamples.released(document, None, counterexamples.request_of(way))


def _granted(document: Document, way: Way) -> dict[str, Any] | None:
    from jewelhouse.release.lint import aws_counterexamples as counterexamples

    stranger = counterexamples.STRANGER
    asked = counterexamples.request_of(
        Way(action="kms:Decrypt", principal=stranger, term={}, where=way.where),
        grants=(counterexamples.grant_to(stranger),),
    )
    return counterexamples.released(document, None, asked)
