"""The release diff: who can open which key after a change that could not before, and what is proven less.

Compares facts (`release.facts`), not text: reordering, renaming and formatting that change nothing are no
difference. What cannot be reduced to facts is equal only to the same document, and is said otherwise.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from jewelhouse.evidence.verdict import moment
from jewelhouse.model import Cloud, Platform, Proof
from jewelhouse.release.facts import Facts, Opening, Power
from jewelhouse.release.proofs import State

SERVICE_ACCOUNTS = "google_service_accounts (has)"
# How much a state proves: to fall is to lose a proof. What is not needed is neither won nor lost.
RANK: Mapping[State, int] = {State.WEAKENED: 0, State.NOT_POSSIBLE: 1, State.ENFORCED: 2}


@dataclass(frozen=True, kw_only=True)
class KeyView:
    """One attested key as it would be deployed. `proofs`: by stage. `names`: what a principal or a
    measurement in the document is called: the stage behind a role, the image behind a digest."""

    artifact: str
    platform: Platform
    region: str
    document: Mapping[str, Any]
    facts: Facts
    proofs: Mapping[str, Mapping[Proof, State]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What one revision, export or plan would release. `source` says where it was read from."""

    source: str
    keys: Mapping[str, KeyView]
    weakened: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference. `key` is empty for what concerns the whole lifecycle. `wider`: something becomes weaker
    or more open; `unsure`: it cannot be decided whether it does."""

    key: str
    what: str
    wider: bool = False
    unsure: bool = False

    def json(self) -> dict[str, Any]:
        return {"key": self.key, "what": self.what, "wider": self.wider, "unsure": self.unsure}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Everything that differs, the dangerous first."""

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def wider(self) -> bool:
        return any(change.wider for change in self.changes)

    @property
    def unsure(self) -> bool:
        return any(change.unsure for change in self.changes)

    def json(self) -> dict[str, Any]:
        return {
            "before": self.before,
            "after": self.after,
            "wider": self.wider,
            "undecided": self.unsure,
            "changes": [change.json() for change in self.changes],
        }


def facts_of(platform: Platform, document: Mapping[str, Any]) -> Facts:
    """The facts of a native document."""
    return import_module(f"jewelhouse.release.{platform.cloud}").parse(document)


def diff(before: Snapshot, after: Snapshot) -> Difference:
    """What `after` releases that `before` did not, and the other way round."""
    changes = [*_weakenings(before, after), *_keys(before, after)]
    changes.sort(key=lambda change: (not change.wider, not change.unsure, change.key, change.what))
    return Difference(before=before.source, after=after.source, changes=tuple(dict.fromkeys(changes)))


def _weakenings(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    for name in sorted(set(after.weakened) - set(before.weakened)):
        yield Change(key="", what=f"the lifecycle is now weakened by {name}", wider=True)
    for name in sorted(set(before.weakened) - set(after.weakened)):
        yield Change(key="", what=f"the lifecycle is no longer weakened by {name}")


def _keys(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    gone, new = set(before.keys) - set(after.keys), set(after.keys) - set(before.keys)
    for old, fresh in _renamed(before, after, gone, new):
        gone.discard(old)
        new.discard(fresh)
    for name in sorted(set(before.keys) & set(after.keys)):
        yield from _key(name, before.keys[name], after.keys[name])
    known = {key.artifact for key in before.keys.values()}
    for name in sorted(new):
        view = after.keys[name]
        wider = view.artifact in known
        word = "new key" if wider else f"new artifact {view.artifact}"
        for opening in _ordered(view.facts.openings):
            yield Change(key=name, what=f"{word}: {describe(opening, view)} can open it", wider=wider)
        yield from _undecided(name, view, "new")
    for name in sorted(gone):
        view = before.keys[name]
        for opening in _ordered(view.facts.openings):
            yield Change(key=name, what=f"key removed: {describe(opening, view)} can no longer open it")


def _renamed(before: Snapshot, after: Snapshot, gone: set[str], new: set[str]) -> Iterator[tuple[str, str]]:
    """Keys that only changed their name: same place, same facts, nothing undecided."""
    left = set(new)
    for old in sorted(gone):
        view = before.keys[old]
        for fresh in sorted(left):
            other = after.keys[fresh]
            same = (view.platform, view.region, view.facts) == (other.platform, other.region, other.facts)
            if same and not view.facts.undecided and _counted(view) == _counted(other):
                left.discard(fresh)
                yield old, fresh
                break


def _counted(view: KeyView) -> Counter[frozenset[tuple[Proof, State]]]:
    """The proofs of a key's stages without their names."""
    return Counter(frozenset(proofs.items()) for proofs in view.proofs.values())


def _key(name: str, before: KeyView, after: KeyView) -> Iterator[Change]:
    same = canonical(before.document) == canonical(after.document)
    if not same:
        yield from _openings(name, before, after)
        yield from _powers(name, before.facts.powers, after.facts.powers)
        for side, view in (("before", before), ("after", after)):
            yield from _undecided(name, view, side)
    yield from _proofs(name, before, after)


def _openings(name: str, before: KeyView, after: KeyView) -> Iterator[Change]:
    gained = list(_not_within(after.facts.openings, before.facts.openings))
    lost = list(_not_within(before.facts.openings, after.facts.openings))
    for opening in _ordered(gained):
        ends = [
            old
            for old in before.facts.openings
            if (old.principal, old.claims) == (opening.principal, opening.claims)
        ]
        whom = describe(opening, after)
        if ends:
            until = "without an end" if opening.until is None else f"until {moment(opening.until)}"
            since = moment(max((old.until for old in ends if old.until), default=None))
            yield Change(key=name, what=f"{whom} can open it {until}, before until {since}", wider=True)
        else:
            yield Change(key=name, what=f"{whom} can newly open it", wider=True)
    for opening in _ordered(lost):
        yield Change(key=name, what=f"{describe(opening, before)} can no longer open it")


def _not_within(ours: Iterable[Opening], theirs: Iterable[Opening]) -> Iterator[Opening]:
    """Openings that admit something which none of the others does. A claim of one document that the other
    does not name at all makes them comparable only as a whole, and then the wider one is told."""
    theirs = tuple(theirs)
    exact = set(theirs)
    for opening in ours:
        if opening not in exact and not any(opening.within(other) for other in theirs):
            yield opening


def _powers(name: str, before: Iterable[Power], after: Iterable[Power]) -> Iterator[Change]:
    before, after = set(before), set(after)
    for power in sorted(after - before):
        yield Change(key=name, what=f"{power.principal} may newly use {power.what}", wider=True)
    for power in sorted(before - after):
        yield Change(key=name, what=f"{power.principal} may no longer use {power.what}")


def _undecided(name: str, view: KeyView, side: str) -> Iterator[Change]:
    for what in view.facts.undecided:
        yield Change(key=name, what=f"cannot be decided ({side}): {what}", unsure=True)


def _proofs(name: str, before: KeyView, after: KeyView) -> Iterator[Change]:
    if before.facts == after.facts and _counted(before) == _counted(after):
        return
    for stage in sorted(set(before.proofs) & set(after.proofs)):
        old, new = before.proofs[stage], after.proofs[stage]
        for proof in Proof:
            first, second = old.get(proof), new.get(proof)
            if first is None or second is None or not {first, second} <= set(RANK) or first is second:
                continue
            if RANK[second] < RANK[first]:
                yield Change(key=name, what=f"{stage} loses the proof {proof}: {second}", wider=True)
            else:
                yield Change(key=name, what=f"{stage} gains the proof {proof}")


def _ordered(openings: Iterable[Opening]) -> list[Opening]:
    return sorted(openings, key=repr)


def canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


def describe(opening: Opening, view: KeyView) -> str:
    """An opening in a reviewer's words: the stage behind its identity, the images behind its digests."""
    accounts = [value for path, value in opening.claims.items() if path.endswith(SERVICE_ACCOUNTS)]
    who = opening.principal if opening.principal is not None else next(iter(accounts), None)
    words = [_person(who, view)]
    images = [
        f"{view.names.get(value) or _short(path)} {digest(value)}"
        for path, value in opening.claims.items()
        if value is not None and (view.names.get(value) or _is_digest(value)) and value not in accounts
    ]
    others = [
        _short(path) if value is None else f"{_short(path)}={value}"
        for path, value in opening.claims.items()
        if value not in accounts
    ]
    if images:
        words.append(f"with {', '.join(dict.fromkeys(images))}")
    elif others:
        words.append(f"with any image, where {', '.join(others[:8])}" + (" …" if len(others) > 8 else ""))
    else:
        words.append("with any evidence or none")
    if opening.until is not None:
        words.append(f"until {moment(opening.until)}")
    return " ".join(words)


def _person(who: str | None, view: KeyView) -> str:
    if who is None:
        azure = view.platform.cloud is Cloud.AZURE
        return "whoever holds the release role on the key" if azure else "anybody"
    named = view.names.get(who)
    return "anybody" if who == "*" else f"{named} ({_short(who)})" if named else _short(who)


def _is_digest(value: str) -> bool:
    bare = value.removeprefix("sha256:")
    return len(bare) in (64, 96) and all(character in "0123456789abcdef" for character in bare)


def digest(value: str) -> str:
    """A digest as people compare it."""
    bare = value.removeprefix("sha256:")
    return "zeros" if not bare.strip("0") else f"{bare[:12]}…"


def _short(text: str) -> str:
    """The end of a name, which is what tells it from others."""
    if text.startswith("arn:"):
        return text.rpartition(":")[2]
    return text.removeprefix("assertion.").removeprefix("kms:RecipientAttestation:")
