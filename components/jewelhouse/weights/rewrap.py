"""Who may open a sealed artifact, changed without touching its data: the manifest's `wrapping` rises.

The order that never leaves a gap, each step one more manifest:

1. `add` the new keys beside the old ones. That needs the DEK, so it runs inside an attested stage (or with a
   development key). From here both sets of keys open the artifact.
2. Deploy the stages that use the new keys, and wait until none asks for an old one (audit trail of the key).
3. `retire` the old keys. That needs no DEK: their wrapped copies are left out.
4. Raise the floor of readers (`Trust.minimum_wrapping`), so that a copy of an older manifest is refused;
   then disable the old keys, and after the time for second thoughts destroy them.

One call never does both: a step that adds and retires leaves those without a key who have not changed over.
Whoever could open the artifact before has had the chance to keep its DEK: only a new version has a new one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import manifest as form
from jewelhouse.weights import series, stream, unseal, wrap
from jewelhouse.weights.contents import contents
from jewelhouse.weights.manifest import Manifest, Trust, Wrapped
from jewelhouse.weights.signing import PrivateKey
from jewelhouse.weights.stores import Store
from jewelhouse.weights.wrap import NotOpened, Opener, Recipient


def add(
    store: Store,
    trust: Trust,
    recipients: Iterable[Recipient],
    *,
    artifact: str | None,
    opener: Opener,
    signers: Sequence[PrivateKey],
    now: datetime,
    expires: datetime | None = None,
) -> Manifest:
    """Wraps the DEK of the current version to more keys.

    The DEK that `opener` gives is tried on one file first: a manifest with a wrong one would lock everybody
    out. Keys that the manifest has already keep their wrapped copies.
    Raises Untrusted, NotOpened, JewelhouseError when there is nothing to add or another was faster.
    """
    before = unseal.current(store, trust, artifact=artifact, now=now)
    there = {one.key: one.public for one in before.keys}
    new = [one for one in recipients if there.get(one.key) != wrap.digest(one.public)]
    if clash := [one.key for one in new if one.key in there]:
        raise JewelhouseError(
            f"the manifest has another key of that name: {', '.join(clash)}",
            where="--to",
            remedy="give the new key an identity of its own, then retire the old one",
        )
    if not new:
        raise JewelhouseError("the manifest is sealed to these keys already", where="--to")
    dek = opener(before)
    _tried(store, before, dek)
    return _publish(store, trust, before, (*before.keys, *wrap.wrap(dek, new)), signers, now, expires)


def retire(
    store: Store,
    trust: Trust,
    keys: Iterable[str],
    *,
    artifact: str | None,
    signers: Sequence[PrivateKey],
    now: datetime,
    expires: datetime | None = None,
) -> Manifest:
    """Leaves keys out of the manifest of the current version. Needs no DEK.

    Raises JewelhouseError for a key that is not there and when none would be left, Untrusted.
    """
    before = unseal.current(store, trust, artifact=artifact, now=now)
    leaving = set(keys)
    if unknown := leaving - {one.key for one in before.keys}:
        raise JewelhouseError(
            f"is not sealed to {', '.join(sorted(unknown))}",
            where="--retire",
            remedy=f"its keys: {', '.join(one.key for one in before.keys)}",
        )
    left = tuple(one for one in before.keys if one.key not in leaving)
    if not left:
        raise JewelhouseError(
            "nobody could open it any more", where="--retire", remedy="add the new keys first, by --to"
        )
    return _publish(store, trust, before, left, signers, now, expires)


def obsolete(
    store: Store, trust: Trust, *, artifact: str | None, now: datetime
) -> tuple[Manifest, tuple[str, ...]]:
    """The current manifest, and the names of all that the store holds of other versions and broken runs."""
    found = unseal.current(store, trust, artifact=artifact, now=now)
    unseal.complete(store, found)
    own = f"data/{found.data}/"
    stored = (*store.sizes("data"), *store.sizes("sealing"), *series.older(store, form.name(found)))
    return found, tuple(sorted(name for name in stored if not name.startswith(own)))


def _tried(store: Store, before: Manifest, dek: bytes) -> None:
    if not before.files:
        return
    smallest = min(before.files, key=lambda file: file.size)
    try:
        for _ in contents(store, before, smallest, dek).shard(0):
            pass
    except stream.Tampered as error:
        raise NotOpened("what was released does not open the artifact", where=smallest.path) from error


def _publish(
    store: Store,
    trust: Trust,
    before: Manifest,
    keys: tuple[Wrapped, ...],
    signers: Sequence[PrivateKey],
    now: datetime,
    expires: datetime | None,
) -> Manifest:
    after = dataclasses.replace(
        before,
        keys=keys,
        wrapping=before.wrapping + 1,
        created=max(now, before.created).replace(microsecond=0),
        expires=(expires or before.expires).replace(microsecond=0),
    )
    envelope = form.envelope(after, signers)
    # Signed by others than those that readers pin, it would take the artifact away from all of them.
    form.read(envelope, trust, now=now, artifact=before.artifact)
    # Another that was faster has taken this name, or a later one.
    series.publish(store, form.name(after), envelope)
    return after
