"""The release diff: who can open which key after a change that could not before, and what is proven less.

Compares facts (`release.facts`) and not text, so that reordering, renaming and formatting that change nothing
are no difference. The same document is equal to itself whatever is in it; of different documents that cannot
be reduced to facts nothing is called equal.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jewelhouse.model import Proof
from jewelhouse.release import words
from jewelhouse.release.difference import Change, Difference, Kind
from jewelhouse.release.facts import Opening
from jewelhouse.release.openings import Nearest, Within, order
from jewelhouse.release.proofs import State
from jewelhouse.release.snapshots import KeyView, Snapshot

# What is not needed is as good as proven: a stage without a GPU leaves nothing open.
RANK: Mapping[State, int] = {
    State.NOT_POSSIBLE: 0,
    State.WEAKENED: 0,
    State.NOT_NEEDED: 1,
    State.ENFORCED: 1,
}


def diff(before: Snapshot, after: Snapshot) -> Difference:
    """What `after` releases that `before` did not, and the other way round."""
    comparison = _Comparison(before, after)
    found = sorted(
        dict.fromkeys(comparison.changes()),
        key=lambda change: (not change.wider, not change.unsure, change.artifact, change.key),
    )
    return Difference(
        before=before.source,
        after=after.source,
        changes=tuple(found),
        renamed=tuple(sorted({pair for pair in comparison.artifacts.items() if pair[0] != pair[1]})),
    )


class _Comparison:
    """Two snapshots, with which key of one is which of the other."""

    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        self.before, self.after = before, after
        both = before.deployed and after.deployed
        self.old = {name: key for name, key in before.keys.items() if both or not key.beside}
        self.new = {name: key for name, key in after.keys.items() if both or not key.beside}
        self.pairs = {name: name for name in self.old.keys() & self.new.keys()}
        # What an artifact of before is called after.
        self.artifacts = {self.old[name].artifact: self.new[name].artifact for name in self.pairs}
        self._pair_renamed()
        self.gone = sorted(self.old.keys() - self.pairs.keys())
        self.fresh = sorted(self.new.keys() - set(self.pairs.values()))

    def _pair_renamed(self) -> None:
        """Pairs keys that are only called otherwise: the same but for their names.

        Keys of an artifact that goes on existing are only paired with keys of the same artifact: otherwise
        whoever opens one artifact could come to open another without a word.
        """
        waiting: dict[Any, list[str]] = defaultdict(list)
        artifacts_before = {key.artifact for key in self.old.values()}
        artifacts_after = {key.artifact for key in self.new.values()}
        called_before = {new: old for old, new in self.artifacts.items()}
        for name in sorted(self.new.keys() - self.pairs.values()):
            waiting[_sameness(self.new[name])].append(name)
        for name in sorted(self.old.keys() - self.pairs.keys()):
            key = self.old[name]
            for other in waiting.get(_sameness(key), ()):
                called = self.new[other].artifact
                fits = called == key.artifact or (
                    key.artifact not in artifacts_after
                    and called not in artifacts_before
                    and self.artifacts.get(key.artifact, called) == called
                    and called_before.get(called, key.artifact) == key.artifact
                )
                if fits:
                    self.artifacts[key.artifact], called_before[called] = called, key.artifact
                    self.pairs[name] = other
                    waiting[_sameness(key)].remove(other)
                    break

    def changes(self) -> Iterator[Change]:
        yield from self._weakenings()
        for side in (self.before, self.after):
            for what in side.undecided:
                yield Change(kind=Kind.UNDECIDED, what=f"{side.source}: {what}", unsure=True)
        for name in sorted(self.pairs):
            yield from self._key(self.old[name], self.new[self.pairs[name]])
        yield from self._fresh()
        yield from self._gone()

    def _weakenings(self) -> Iterator[Change]:
        before, after = self.before.weakened, self.after.weakened
        unknown = [side.source for side in (self.before, self.after) if side.weakened is None]
        if before is None or after is None:
            if before or after or before is after is None:
                what = f"what weakens the whole stack is not in {' and '.join(unknown)}"
                yield Change(kind=Kind.UNDECIDED, what=what, unsure=True)
            return
        for name in sorted(after.keys() - before.keys()):
            yield Change(kind=Kind.WEAKENED, what=f"newly weakened by {after[name]}", wider=True)
        for name in sorted(before.keys() - after.keys()):
            yield Change(kind=Kind.STRENGTHENED, what=f"no longer weakened by {before[name]}")

    def _key(self, old: KeyView, new: KeyView) -> Iterator[Change]:
        place: dict[str, Any] = {"key": new.name, "artifact": new.artifact}
        if old.owner and new.owner and old.owner != new.owner:
            yield Change(
                kind=Kind.OWNER,
                what=f"{new.owner} holds the key instead of {old.owner}, and may change who opens it",
                wider=True,
                **place,
            )
        same = old.document is new.document or _text(old.document) == _text(new.document)
        if not same or old.facts != new.facts:
            # The same document is equal to itself; what is attached to it may differ all the same.
            undecided = tuple(
                f"{side}: {what}"
                for side, key, other in (("before", old, new), ("after", new, old))
                for what in key.facts.undecided
                if not same or what not in other.facts.undecided
            )
            yield from self._documents(old, new, unsure=bool(undecided))
            if undecided:
                yield Change(
                    kind=Kind.UNDECIDED,
                    what="something differs, and it cannot be decided whether the same is released",
                    details=undecided,
                    unsure=True,
                    **place,
                )
        yield from self._askers(old, new)
        yield from self._proofs(old, new)

    def _documents(self, old: KeyView, new: KeyView, *, unsure: bool) -> Iterator[Change]:
        place: dict[str, Any] = {"key": new.name, "artifact": new.artifact}
        before, after = Within(old.facts.openings), Within(new.facts.openings)
        added = [one for one in new.facts.openings if not before.holds(one)]
        lost = [one for one in old.facts.openings if not after.holds(one)]
        nearest = Nearest(old.facts.openings) if added else None
        for opening in sorted(added, key=order):
            assert nearest is not None
            yield self._widened(opening, nearest.to(opening), frozenset(lost), old, new, unsure=unsure)
        for opening in sorted(lost, key=order):
            yield Change(
                kind=Kind.CLOSED,
                what=f"{words.opened(opening, old, self.before)} can no longer open it",
                **place,
            )
        yield from self._powers(old, new)

    def _powers(self, old: KeyView, new: KeyView) -> Iterator[Change]:
        place: dict[str, Any] = {"key": new.name, "artifact": new.artifact}
        for power in sorted(new.facts.powers - old.facts.powers):
            what = words.may(power, self.after)
            yield Change(kind=Kind.POWER_GAINED, what=f"newly: {what}", wider=True, **place)
        for power in sorted(old.facts.powers - new.facts.powers):
            yield Change(kind=Kind.POWER_LOST, what=f"no longer: {words.may(power, self.before)}", **place)

    def _widened(
        self,
        opening: Opening,
        near: Opening | None,
        lost: frozenset[Opening],
        old: KeyView,
        new: KeyView,
        *,
        unsure: bool,
    ) -> Change:
        """An opening that was not there, told by how it differs from the nearest that was."""
        place: dict[str, Any] = {"key": new.name, "artifact": new.artifact, "wider": True, "unsure": unsure}
        whole = words.opened(opening, new, self.after)
        if near is None:
            return Change(kind=Kind.OPENS, what=f"{whole} may newly open it", **place)
        who = words.who(opening, new, self.after)
        image, earlier = words.measured(opening, self.after), words.measured(near, self.before)
        if image == earlier:
            image = words.measured(opening, self.after, whole=True)
            earlier = words.measured(near, self.before, whole=True)
        less = tuple(words.less(near, opening))
        longer = near.until is not None and (opening.until is None or opening.until > near.until)
        ends = (
            (f"may open it {words.until(opening.until)}, before {words.until(near.until)}",) if longer else ()
        )
        if opening.principal != near.principal:
            same = opening.claims == near.claims
            note = f"with what {words.who(near, old, self.before)} showed" if same else ""
            return Change(
                kind=Kind.OPENS,
                what=f"{whole} may newly open it",
                details=(*((note,) if note else ()), *less, *ends),
                **place,
            )
        if image and image != earlier:
            beside = "in place of" if near in lost else "beside"
            return Change(
                kind=Kind.IMAGE,
                what=f"a new image may open it: {image}, for {who}",
                details=(f"{beside} {earlier or 'any image'}", *less, *ends),
                **place,
            )
        if less:
            return Change(
                kind=Kind.LESS_PROOF,
                what=f"{who} has to prove less to open it",
                details=(*less, *ends),
                **place,
            )
        if longer:
            return Change(
                kind=Kind.LONGER,
                what=f"{who} may open it {words.until(opening.until)}, before {words.until(near.until)}",
                **place,
            )
        return Change(kind=Kind.OPENS, what=f"{whole} may newly open it", **place)

    def _askers(self, old: KeyView, new: KeyView) -> Iterator[Change]:
        """Who may ask, where the document does not say. A stage under another name is no change."""
        place: dict[str, Any] = {"key": new.name, "artifact": new.artifact}
        before, after = dict(old.askers), dict(new.askers)
        for name in sorted(before.keys() & after.keys()):
            if before[name] == after[name] or None in (before[name], after[name]):
                del before[name], after[name]
        for name in sorted(after):
            twin = next((other for other in sorted(before) if before[other] == after[name]), None)
            if twin is not None:
                del before[twin], after[name]
        for name, account in sorted(after.items()):
            where = f" in {account}" if account else ""
            yield Change(kind=Kind.ASKS, what=f"{name}{where} may newly ask for it", wider=True, **place)
        for name, account in sorted(before.items()):
            where = f" in {account}" if account else ""
            yield Change(kind=Kind.CLOSED, what=f"{name}{where} may no longer ask for it", **place)

    def _proofs(self, old: KeyView, new: KeyView) -> Iterator[Change]:
        before, after = dict(old.proofs), dict(new.proofs)
        if not before or not after:
            return
        place: dict[str, Any] = {"key": new.name, "artifact": new.artifact}
        for stage in sorted(before.keys() & after.keys()):
            was, now = before.pop(stage), after.pop(stage)
            for proof in Proof:
                first, second = was.get(proof), now.get(proof)
                if first is None or second is None or RANK[first] == RANK[second]:
                    continue
                if RANK[second] < RANK[first]:
                    what = f"{proof} is no longer proven about stage {stage}: {second.replace('-', ' ')}"
                    yield Change(kind=Kind.PROOF_LOST, what=what, wider=True, **place)
                else:
                    what = f"{proof} is now proven about stage {stage}"
                    yield Change(kind=Kind.PROOF_GAINED, what=what, **place)
        # A stage under another name proves what it proved; a further one must prove what all others did.
        earlier = Counter(frozenset(proofs.items()) for proofs in before.values())
        for stage, proofs in sorted(after.items()):
            if earlier[frozenset(proofs.items())] > 0:
                earlier[frozenset(proofs.items())] -= 1
                continue
            for proof, state in proofs.items():
                known = [RANK[one[proof]] for one in old.proofs.values() if proof in one]
                if known and RANK[state] < min(known):
                    what = f"{proof} is not proven about stage {stage}: {state.replace('-', ' ')}"
                    yield Change(kind=Kind.PROOF_LOST, what=what, wider=True, **place)

    def _fresh(self) -> Iterator[Change]:
        """Keys that were not there. For a new artifact that is no widening: nothing is sealed to it yet."""
        earlier = _by_artifact(self.old.values())
        names = {new: old for old, new in self.artifacts.items()}
        for name in self.fresh:
            key = self.new[name]
            siblings = earlier.get(names.get(key.artifact, key.artifact), [])
            place: dict[str, Any] = {"key": name, "artifact": key.artifact}
            who = tuple(words.opened(one, key, self.after) for one in sorted(key.facts.openings, key=order))
            if not siblings and names.get(key.artifact, key.artifact) not in self.before.artifacts:
                yield Change(
                    kind=Kind.NEW_ARTIFACT, what="a new artifact; who may open it:", details=who, **place
                )
                continue
            alike = [one for one in siblings if one.cloud is key.cloud and one.owner == key.owner]
            before = Within(opening for one in alike for opening in one.facts.openings)
            powers = frozenset(power for one in alike for power in one.facts.powers)
            added = [one for one in sorted(key.facts.openings, key=order) if not before.holds(one)]
            asked = {account for one in alike for account in one.askers.values()}
            askers = [stage for stage, account in sorted(key.askers.items()) if account not in asked]
            details = [f"{words.opened(one, key, self.after)} may newly open it" for one in added]
            details += [f"{stage} may newly ask for it" for stage in askers if not added]
            # A first key of an owner has the powers that all of its keys have.
            details += [
                f"newly: {words.may(one, self.after)}" for one in sorted(key.facts.powers - powers) if alike
            ]
            details += key.facts.undecided
            if details:
                certain = bool(added or askers) and not key.facts.undecided
                what = f"a {'further' if siblings else 'first'} key for {key.artifact}, which opens to more"
                yield Change(
                    kind=Kind.NEW_KEY,
                    what=what,
                    details=tuple(details),
                    wider=True,
                    unsure=bool(key.facts.undecided) and not certain,
                    **place,
                )
            else:
                what = f"a further key for {key.artifact}, for those who could open it already"
                yield Change(kind=Kind.NEW_KEY, what=what, details=who, **place)

    def _gone(self) -> Iterator[Change]:
        later = _by_artifact(self.new.values())
        for name in self.gone:
            key = self.old[name]
            siblings = later.get(self.artifacts.get(key.artifact, key.artifact), [])
            place: dict[str, Any] = {"key": name, "artifact": key.artifact}
            after = Within(opening for one in siblings for opening in one.facts.openings)
            lost = [one for one in sorted(key.facts.openings, key=order) if not after.holds(one)]
            yield Change(
                kind=Kind.GONE_KEY if siblings else Kind.GONE_ARTIFACT,
                what=f"the key is gone{'' if siblings else ', and the artifact with it'}",
                details=tuple(f"{words.opened(one, key, self.before)} can no longer open it" for one in lost),
                **place,
            )


def _by_artifact(keys: Iterable[KeyView]) -> dict[str, list[KeyView]]:
    found: dict[str, list[KeyView]] = defaultdict(list)
    for key in keys:
        found[key.artifact].append(key)
    return found


def _sameness(key: KeyView) -> Any:
    """All of a key but its names. A document that is not understood as a whole is only itself."""
    return (
        key.cloud,
        key.platform,
        key.region,
        key.owner,
        key.facts,
        _text(key.document) if key.facts.undecided else "",
        frozenset(Counter(key.askers.values()).items()),
        frozenset(Counter(frozenset(proofs.items()) for proofs in key.proofs.values()).items()),
    )


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, default=str)
