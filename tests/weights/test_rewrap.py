"""Who may open an artifact, changed without touching its data, and at no moment nobody."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sealed import (
    NOW,
    PRODUCER,
    YEAR,
    contents,
    newest,
    opener,
    order,
    recipient,
    sealed,
    signing_key,
    small,
    trust,
)

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import manifest as form
from jewelhouse.weights import rewrap, seal, sources, stores, unseal
from jewelhouse.weights.manifest import Untrusted
from jewelhouse.weights.wrap import NotOpened


def add(tmp_path, *names, signers=(PRODUCER,), by="first", **settings):
    return rewrap.add(
        stores.store(tmp_path / "store"),
        trust(),
        [recipient(name) for name in names],
        artifact="base",
        opener=opener(tmp_path, by),
        signers=signers,
        now=NOW,
        **settings,
    )


def retire(tmp_path, *keys, signers=(PRODUCER,), **settings):
    return rewrap.retire(
        stores.store(tmp_path / "store"),
        trust(),
        keys,
        artifact="base",
        signers=signers,
        now=NOW,
        **settings,
    )


def opens(tmp_path, name, **settings) -> bool:
    try:
        unseal.verify(
            stores.store(tmp_path / "store"),
            trust(**settings),
            artifact="base",
            now=NOW,
            opener=opener(tmp_path, name),
        )
    except NotOpened:
        return False
    return True


def test_a_rotation_leaves_no_moment_without_a_key(tmp_path):
    _, before = sealed(tmp_path)
    data = contents(tmp_path / "store" / "data")
    seen = [(opens(tmp_path, "first"), opens(tmp_path, "second"))]
    added = add(tmp_path, "second")
    seen.append((opens(tmp_path, "first"), opens(tmp_path, "second")))
    retired = retire(tmp_path, "kms:first")
    seen.append((opens(tmp_path, "first"), opens(tmp_path, "second")))
    assert seen == [(True, False), (True, True), (False, True)]
    assert [one.wrapping for one in (before, added, retired)] == [1, 2, 3]
    assert {one.version for one in (before, added, retired)} == {3}
    assert contents(tmp_path / "store" / "data") == data
    assert opens(tmp_path, "second", minimum_wrapping=3)


def test_a_copy_of_a_retired_manifest_is_refused_by_the_floor(tmp_path):
    sealed(tmp_path)
    add(tmp_path, "second")
    newest(tmp_path / "store").unlink()
    assert opens(tmp_path, "first")
    with pytest.raises(Untrusted, match="wrapping: 1 has been retired"):
        opens(tmp_path, "first", minimum_wrapping=2)


def test_a_retired_manifest_does_not_come_back_under_a_later_name(tmp_path):
    """Who may only add objects, as another stage that seals into this store, cannot undo a rotation."""
    sealed(tmp_path)
    old = newest(tmp_path / "store").read_bytes()
    add(tmp_path, "second")
    last = newest(tmp_path / "store")
    last.with_name(last.name.replace("00002.json", "00003.json")).write_bytes(old)
    with pytest.raises(Untrusted, match="wrapping 1: somebody gave it a later name"):
        opens(tmp_path, "first")


def test_those_that_had_a_copy_keep_the_very_same(tmp_path):
    _, before = sealed(tmp_path)
    assert add(tmp_path, "second").keys[0] == before.keys[0]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        pytest.param(lambda at: add(at, "first"), JewelhouseError, "already", id="a-key-that-is-there"),
        pytest.param(lambda at: add(at), JewelhouseError, "already", id="nothing-to-add"),
        pytest.param(lambda at: add(at, "third", by="second"), NotOpened, "not sealed", id="no-opener"),
        pytest.param(lambda at: retire(at, "kms:first"), JewelhouseError, "nobody could open", id="last-key"),
        pytest.param(lambda at: retire(at, "kms:x"), JewelhouseError, "not sealed to kms:x", id="unknown"),
        pytest.param(
            lambda at: add(at, "second", signers=[signing_key("stranger")]),
            Untrusted,
            "signed by 0",
            id="a-signer-that-no-reader-pins",
        ),
        pytest.param(
            lambda at: add(at, "second", expires=NOW - timedelta(days=1)),
            form.MalformedManifest,
            "expires before",
            id="an-end-in-the-past",
        ),
    ],
)
def test_what_would_lock_readers_out_is_refused_and_changes_nothing(tmp_path, change, error, says):
    sealed(tmp_path)
    before = contents(tmp_path / "store")
    with pytest.raises(error, match=says):
        change(tmp_path)
    assert contents(tmp_path / "store") == before


def test_a_dek_that_does_not_open_the_data_is_not_handed_on(tmp_path):
    """A key service, or somebody in its place, answers with another DEK: nobody else gets it."""
    sealed(tmp_path)
    with pytest.raises(NotOpened, match="does not open the artifact"):
        rewrap.add(
            stores.store(tmp_path / "store"),
            trust(),
            [recipient("second")],
            artifact="base",
            opener=lambda manifest: bytes(32),
            signers=[PRODUCER],
            now=NOW,
        )


def test_another_key_under_the_name_of_one_that_is_there_is_refused(tmp_path):
    sealed(tmp_path)
    with pytest.raises(JewelhouseError, match="another key of that name: kms:first"):
        rewrap.add(
            stores.store(tmp_path / "store"),
            trust(),
            [recipient("second", "kms:first")],
            artifact="base",
            opener=opener(tmp_path),
            signers=[PRODUCER],
            now=NOW,
        )


def test_of_two_that_rewrap_at_once_the_slower_is_refused(tmp_path):
    sealed(tmp_path)
    inner = opener(tmp_path)

    def slow(manifest):
        add(tmp_path, "third")
        return inner(manifest)

    with pytest.raises(JewelhouseError, match="is there already"):
        rewrap.add(
            stores.store(tmp_path / "store"),
            trust(),
            [recipient("second")],
            artifact="base",
            opener=slow,
            signers=[PRODUCER],
            now=NOW,
        )
    assert opens(tmp_path, "third")


def test_an_expired_manifest_is_not_rewrapped(tmp_path):
    sealed(tmp_path, expires=NOW + timedelta(seconds=1))
    with pytest.raises(Untrusted, match="expired"):
        rewrap.retire(
            stores.store(tmp_path / "store"),
            trust(),
            ["kms:first"],
            artifact="base",
            signers=[PRODUCER],
            now=NOW + timedelta(days=1),
        )


def test_a_rewrap_can_extend_the_validity(tmp_path):
    sealed(tmp_path)
    assert add(tmp_path, "second", expires=NOW + 2 * YEAR).expires == NOW + 2 * YEAR


def test_what_the_current_manifest_does_not_name_is_obsolete(tmp_path):
    store, first = sealed(tmp_path)
    (tmp_path / "source" / "config.json").write_bytes(b"[]")
    seal.seal(sources.source(tmp_path / "source"), store, order(version=4), now=NOW)
    store.put("sealing/3-0000000000000000", b"half")
    found, names = rewrap.obsolete(store, trust(), artifact="base", now=NOW)
    expected = {first.object(file.path) for file in first.files}
    expected |= {"sealing/3-0000000000000000", form.name(first)}
    assert set(names) == expected
    for name in names:
        store.delete(name)
    unseal.complete(store, found)
    assert opens(tmp_path, "first")


def test_nothing_is_called_obsolete_by_a_store_that_is_not_complete(tmp_path):
    """Otherwise a forged store could have a good version removed for a broken one."""
    store, manifest = sealed(tmp_path, small(tmp_path / "source"))
    store.delete(manifest.object("config.json"))
    with pytest.raises(unseal.Incomplete):
        rewrap.obsolete(store, trust(), artifact="base", now=NOW)
