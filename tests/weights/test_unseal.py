"""Unsealing: exactly what was signed, whole, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import stat
from datetime import timedelta

import pytest
from sealed import (
    NOW,
    PRODUCER,
    Counting,
    contents,
    newest,
    opener,
    recipient,
    sealed,
    signing_key,
    small,
    tree,
    trust,
)

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import manifest as form
from jewelhouse.weights import signing, stores, stream, unseal
from jewelhouse.weights.manifest import MalformedManifest, Untrusted
from jewelhouse.weights.stores import Missing
from jewelhouse.weights.unseal import Incomplete, Occupied

LARGE = (5 << 20) + 7


def run(tmp_path, store=None, out="out", artifact="base", now=NOW, opener_=None, **settings):
    return unseal.unseal(
        store or stores.store(tmp_path / "store"),
        tmp_path / out,
        trust(**settings),
        artifact=artifact,
        opener=opener_ or opener(tmp_path),
        now=now,
    )


def verified(tmp_path):
    store = stores.store(tmp_path / "store")
    return unseal.verify(store, trust(), artifact="base", now=NOW, opener=opener(tmp_path))


def objects(tmp_path, manifest, path):
    return tmp_path / "store" / manifest.object(path)


@pytest.fixture
def two(tmp_path):
    """A store with files that can be mistaken for each other by size."""
    source = small(
        tmp_path / "source", first=b"1" * 5000, second=b"2" * 5000, large=os.urandom(LARGE), empty=b""
    )
    return sealed(tmp_path, source)[1]


def swap(tmp_path, manifest):
    first, second = objects(tmp_path, manifest, "first"), objects(tmp_path, manifest, "second")
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def flip(name, at):
    def damage(tmp_path, manifest):
        path = objects(tmp_path, manifest, name)
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1
        path.write_bytes(raw)

    return damage


def reordered(tmp_path, manifest):
    path = objects(tmp_path, manifest, "large")
    raw = path.read_bytes()
    segment = 1 << 20
    path.write_bytes(
        raw[:segment] + raw[2 * segment : 3 * segment] + raw[segment : 2 * segment] + raw[3 * segment :]
    )


def cut(tmp_path, manifest):
    path = objects(tmp_path, manifest, "large")
    path.write_bytes(path.read_bytes()[: 2 << 20])


def removed(tmp_path, manifest):
    objects(tmp_path, manifest, "second").unlink()


def added(tmp_path, manifest):
    objects(tmp_path, manifest, "second").with_name("extra").write_bytes(b"x")


def linked(tmp_path, manifest):
    path = objects(tmp_path, manifest, "second")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        pytest.param(swap, stream.Tampered, "", id="two-files-swapped"),
        pytest.param(flip("first", 0), stream.Tampered, "", id="header-changed"),
        pytest.param(flip("first", 20), stream.Tampered, "", id="salt-changed"),
        pytest.param(flip("first", 100), stream.Tampered, "", id="a-bit-flipped"),
        pytest.param(flip("first", -1), stream.Tampered, "", id="the-last-tag-changed"),
        pytest.param(flip("empty", 45), stream.Tampered, "", id="an-empty-file-changed"),
        pytest.param(flip("large", 3 << 20), stream.Tampered, "", id="a-bit-flipped-in-a-large-file"),
        pytest.param(reordered, stream.Tampered, "", id="segments-reordered"),
        pytest.param(cut, Incomplete, "bytes of ciphertext", id="truncated-at-a-segment"),
        pytest.param(removed, Incomplete, "'second' is missing", id="a-file-missing"),
        pytest.param(added, Incomplete, "in no manifest", id="a-file-added"),
        pytest.param(linked, JewelhouseError, "neither file nor directory", id="a-link-in-the-store"),
    ],
)
@pytest.mark.parametrize("act", [run, verified])
def test_a_store_that_was_tampered_with_opens_to_nothing(tmp_path, two, damage, error, says, act):
    damage(tmp_path, two)
    with pytest.raises(error, match=says or None):
        act(tmp_path)
    shown = [path for path in (tmp_path / "out").rglob("*") if ".jewelhouse.partial" not in path.parts]
    assert not shown
    assert not list((tmp_path / "out").rglob("*.part"))


def test_content_of_another_key_that_the_signer_did_not_sign_is_refused(tmp_path, two):
    """AES-GCM does not commit to its key: who holds the DEK can seal other bytes, and the digest says no."""
    dek = opener(tmp_path)(two)
    forged = stream.encrypt(b"9" * 5000, dek, two.associated_data("first"))
    objects(tmp_path, two, "first").write_bytes(forged)
    with pytest.raises(stream.Tampered, match="not what its manifest says"):
        run(tmp_path)


def test_content_of_a_large_file_that_the_signer_did_not_sign_is_refused(tmp_path, two):
    dek = opener(tmp_path)(two)
    forged = stream.encrypt(bytes(LARGE), dek, two.associated_data("large"))
    objects(tmp_path, two, "large").write_bytes(forged)
    with pytest.raises(stream.Tampered):
        run(tmp_path)


def resigned(tmp_path, *names, **members):
    """The manifest with members replaced, signed by others than its producer or by nobody new."""
    path = newest(tmp_path / "store")
    payload = json.loads(signing.unpack(path.read_bytes()).payload)
    raw = json.dumps({**payload, **members}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.write_bytes(signing.sign(raw.encode(), [signing_key(name) for name in names]))


@pytest.mark.parametrize(
    ("change", "settings", "error", "says"),
    [
        pytest.param({"names": ["stranger"]}, {}, Untrusted, "signed by 0", id="another-signer"),
        pytest.param({}, {"minimum_version": 4}, Untrusted, "floor is 4", id="a-rolled-back-version"),
        pytest.param({}, {"minimum_wrapping": 2}, Untrusted, "floor is 2", id="a-retired-wrapping"),
        pytest.param({}, {"artifact": "adapter"}, Untrusted, "expected adapter", id="another-artifact"),
        pytest.param({}, {"now": NOW + timedelta(days=366)}, Untrusted, "expired", id="expired"),
        pytest.param({}, {"now": NOW - timedelta(days=1)}, Untrusted, "in the future", id="clock-back"),
        pytest.param({"files": []}, {}, Incomplete, "in no manifest", id="files-left-out-by-the-signer"),
        pytest.param({"version": "3"}, {}, MalformedManifest, "from 1", id="malformed-by-the-signer"),
    ],
)
def test_a_manifest_that_must_not_be_believed_opens_nothing(tmp_path, two, change, settings, error, says):
    if change:
        resigned(tmp_path, *change.pop("names", ["producer"]), **change)

    def never(manifest):
        raise AssertionError("the key must not be asked for")

    with pytest.raises(error, match=says):
        run(tmp_path, opener_=never, **settings)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_store_without_manifest_is_none(tmp_path):
    (tmp_path / "store").mkdir()
    with pytest.raises(Missing, match="has none"):
        run(tmp_path)


def test_a_manifest_without_end_is_not_read_into_memory(tmp_path, two, monkeypatch):
    monkeypatch.setattr(signing, "LARGEST_ENVELOPE", 100)
    with pytest.raises(JewelhouseError, match="larger than 100 bytes"):
        run(tmp_path)


def test_files_are_for_their_owner_alone(tmp_path):
    sealed(tmp_path, tree(tmp_path / "source"))
    run(tmp_path)
    for path in (tmp_path / "out").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_progress_counts_every_byte_once(tmp_path, two):
    progress = Counting()
    unseal.unseal(
        stores.store(tmp_path / "store"),
        tmp_path / "out",
        trust(),
        artifact="base",
        opener=opener(tmp_path),
        now=NOW,
        progress=progress,
    )
    assert progress.done == progress.size == two.size


# The destination.


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda out: (out / "evil.py").touch(), "not of this artifact: 'evil.py'", id="a-file"),
        pytest.param(lambda out: (out / "cache").mkdir(), "'cache'", id="a-directory"),
        pytest.param(lambda out: (out / "first").write_bytes(b"0" * 5000), "other content", id="content"),
        pytest.param(lambda out: (out / "first").mkdir(), "'first'", id="a-directory-for-a-file"),
        pytest.param(lambda out: (out / "first").symlink_to("/dev/null"), "neither file", id="a-link"),
        pytest.param(
            lambda out: (out / ".jewelhouse.partial").symlink_to("/tmp"),
            "symbolic link",
            id="work-linked",
        ),
    ],
)
def test_a_destination_that_holds_something_else_is_refused(tmp_path, two, make, says):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    with pytest.raises(Occupied, match=says):
        run(tmp_path)


def test_a_link_for_a_directory_of_the_destination_is_not_followed(tmp_path):
    source = small(tmp_path / "source")
    (source / "deep").mkdir()
    (source / "deep" / "file").write_bytes(b"x")
    sealed(tmp_path, source)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Occupied, match="neither file nor directory"):
        run(tmp_path)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_unsealing_again_keeps_what_is_there(tmp_path, two):
    assert run(tmp_path).kept == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert run(tmp_path).kept == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before


class Killed(BaseException):
    pass


def test_an_interrupted_unsealing_shows_nothing_and_goes_on(tmp_path, two, monkeypatch):
    count = []
    real = unseal._Directory._unseal

    def unsealing(self, file, dek):
        if len(count) == 2:
            raise Killed
        count.append(file.path)
        real(self, file, dek)

    with monkeypatch.context() as patched:
        patched.setattr(unseal._Directory, "_unseal", unsealing)
        with pytest.raises(Killed):
            run(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".jewelhouse.partial"]
    assert run(tmp_path).kept == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "source")


def test_an_unsealing_that_ended_while_files_appeared_goes_on(tmp_path, two, monkeypatch):
    count = []
    real = os.rename

    def rename(source, target):
        if "whole" in str(source):
            if len(count) == 2:
                raise Killed
            count.append(target)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(unseal.os, "rename", rename)
        with pytest.raises(Killed):
            run(tmp_path)
    assert run(tmp_path).kept == 4
    assert contents(tmp_path / "out") == contents(tmp_path / "source")


def test_leftovers_that_are_not_what_the_manifest_says_are_unsealed_again(tmp_path, two, monkeypatch):
    run(tmp_path, out="other")
    whole = tmp_path / "out" / ".jewelhouse.partial" / "whole"
    whole.mkdir(parents=True)
    for file in two.files:
        (whole / form.paths.object_name(file.path)).write_bytes(b"x" * file.size)
    run(tmp_path)
    assert contents(tmp_path / "out") == contents(tmp_path / "source")


# Verified without writing.


def test_verification_without_a_key_looks_at_names_and_sizes(tmp_path, two):
    store = stores.store(tmp_path / "store")
    assert unseal.verify(store, trust(), artifact="base", now=NOW) == two
    flip("first", 100)(tmp_path, two)
    assert unseal.verify(store, trust(), artifact="base", now=NOW) == two


def test_verification_with_a_key_reads_every_byte(tmp_path, two):
    progress = Counting()
    unseal.verify(
        stores.store(tmp_path / "store"),
        trust(),
        artifact="base",
        now=NOW,
        opener=opener(tmp_path),
        progress=progress,
    )
    assert progress.done == two.size
    assert not (tmp_path / "out").exists()


def test_one_artifact_in_the_place_of_another_is_refused(tmp_path, two):
    """The whole store swapped: signer and key are right, the artifact is not."""
    sealed(tmp_path, to="adapter", artifact="adapter")
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "adapter").rename(tmp_path / "store")
    with pytest.raises(Untrusted, match="is adapter, expected base"):
        run(tmp_path)


def test_an_old_manifest_in_a_store_that_has_its_data_is_refused_by_the_floor(tmp_path, two):
    old = newest(tmp_path / "store").read_bytes()
    sealed(tmp_path, tmp_path / "source", version=4, recipients=[recipient("second")])
    newest(tmp_path / "store").write_bytes(old)
    with pytest.raises(Untrusted, match="3 has been retired"):
        run(tmp_path, minimum_version=4)
    assert PRODUCER
