"""Sealing: everything that can be in a source, what interrupts it, and who must not be able to open it."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import stat
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest
from sealed import (
    NOW,
    PRODUCER,
    Counting,
    contents,
    newest,
    opener,
    order,
    pem,
    recipient,
    rsa_key,
    sealed,
    signing_key,
    small,
    tree,
    trust,
)

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import manifest as form
from jewelhouse.weights import resume, seal, signing, sources, stores, stream, unseal, wrap
from jewelhouse.weights.seal import Order
from jewelhouse.weights.sources import Changed, NotSealable
from jewelhouse.weights.stores import StoreError


def run(source, store, states=None, now=NOW, **changes):
    return seal.seal(sources.source(source), stores.store(store), order(**changes), now=now, states=states)


def opened(store, tmp_path: Path, name="out"):
    unseal.unseal(
        stores.store(store), tmp_path / name, trust(), artifact="base", opener=opener(tmp_path), now=NOW
    )
    return contents(tmp_path / name)


@pytest.fixture
def fine(monkeypatch):
    """Time stamps that tell every change, so that fresh files count as old ones do."""
    monkeypatch.setattr(resume, "COARSE", 0)


def test_a_tree_of_odd_things_comes_back_as_it_was(tmp_path):
    source = tree(tmp_path / "source")
    progress = Counting()
    done = seal.seal(
        sources.source(source), stores.store(tmp_path / "store"), order(), now=NOW, progress=progress
    )
    assert opened(tmp_path / "store", tmp_path) == contents(source)
    assert progress.done == progress.size == done.manifest.size


def test_tink_opens_each_sealed_file(tmp_path):
    """Independent oracle: Google's own implementation, given DEK and associated data of the manifest."""
    streaming_aead = pytest.importorskip("tink.streaming_aead")
    import io

    import tink
    from tink import secret_key_access
    from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

    source = tree(tmp_path / "source")
    store, manifest = sealed(tmp_path, source)
    streaming_aead.register()
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
        version=0,
        params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=1 << 20, derived_key_size=32, hkdf_hash_type=common_pb2.SHA256
        ),
        key_value=opener(tmp_path)(manifest),
    )
    keyset = tink_pb2.Keyset(primary_key_id=1)
    keyset.key.add(
        key_data=tink_pb2.KeyData(
            type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
            value=key.SerializeToString(),
            key_material_type=tink_pb2.KeyData.SYMMETRIC,
        ),
        status=tink_pb2.ENABLED,
        key_id=1,
        output_prefix_type=tink_pb2.RAW,
    )
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    primitive = handle.primitive(streaming_aead.StreamingAead)
    for file in manifest.files:
        bound = json.dumps(["jewelhouse.weights/v1", "base", 3, file.path], ensure_ascii=False).replace(
            ", ", ","
        )
        with (
            open(store.path(manifest.object(file.path)), "rb") as ciphertext,
            primitive.new_decrypting_stream(ciphertext, bound.encode()) as plain,
        ):
            assert io.BufferedReader(plain).read() == (source / file.path).read_bytes(), file.path


def test_nothing_of_the_content_or_the_names_is_in_the_data(tmp_path):
    source = small(tmp_path / "source", **{"secret-name": b"marked plaintext" * 1000})
    store, manifest = sealed(tmp_path, source)
    for path in (tmp_path / "store" / "data").rglob("*"):
        assert "secret-name" not in path.name
        assert path.is_dir() or b"marked plaintext" not in path.read_bytes()
    assert manifest.files[0].path == "secret-name"
    assert set(store.sizes("")) == {form.name(manifest), manifest.object("secret-name")}


def test_each_version_has_a_dek_of_its_own(tmp_path):
    _, first = sealed(tmp_path)
    _, second = sealed(tmp_path, version=4)
    assert opener(tmp_path)(first) != opener(tmp_path)(second)


def test_one_file_is_sealed_under_its_own_name(tmp_path):
    file = small(tmp_path / "source", **{"weights.safetensors": b"w" * 9}) / "weights.safetensors"
    sealed(tmp_path, file)
    assert opened(tmp_path / "store", tmp_path) == {"weights.safetensors": b"w" * 9}


def test_an_empty_directory_can_be_sealed(tmp_path):
    (tmp_path / "source").mkdir()
    sealed(tmp_path, tmp_path / "source")
    assert opened(tmp_path / "store", tmp_path) == {}


@pytest.mark.parametrize("size", [(1 << 20) * 5 + 3, (1 << 20) * 4, (1 << 20) * 4 + 1])
def test_large_files_take_the_parallel_way_and_come_back(tmp_path, size):
    source = small(tmp_path / "source", large=os.urandom(size), small=b"s")
    sealed(tmp_path, source)
    assert opened(tmp_path / "store", tmp_path) == contents(source)


def test_a_safetensors_checkpoint_of_hundreds_of_files(tmp_path):
    source = small(
        tmp_path / "source",
        **{f"model-{n:05}-of-00300.safetensors": bytes([n % 256]) * n for n in range(300)},
    )
    _, manifest = sealed(tmp_path, source)
    assert len(manifest.files) == 300
    assert opened(tmp_path / "store", tmp_path) == contents(source)


# From and to where.


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.mark.parametrize("from_", ["local", "file", "memory"])
@pytest.mark.parametrize("to", ["local", "file", "memory"])
def test_between_any_kind_of_places(tmp_path, memory, from_, to):
    source = small(tmp_path / "source", large=os.urandom(5 << 20), little=b"s", empty=b"")
    (source / "deep").mkdir()
    (source / "deep" / "odd #?%.bin").write_bytes(b"odd")
    expected = contents(source)
    places = {"local": str(source), "file": f"file://{source}", "memory": "memory://bucket/source"}
    if from_ == "memory":
        memory.put(str(source), "/bucket/source", recursive=True)
    store = {"local": str(tmp_path / "s"), "file": f"file://{tmp_path}/s", "memory": "memory://bucket/store"}
    run(places[from_], store[to])
    assert opened(store[to], tmp_path) == expected


def test_unsealing_to_a_url_puts_the_files_under_their_names(tmp_path, memory):
    source = small(tmp_path / "source", large=os.urandom(5 << 20), little=b"s")
    store, _ = sealed(tmp_path, source)
    unseal.unseal(store, "memory://plain/x", trust(), artifact="base", opener=opener(tmp_path), now=NOW)
    assert {path: memory.cat_file(path) for path in memory.find("/plain/x")} == {
        f"/plain/x/{path}": data for path, data in contents(source).items()
    }


def test_a_source_url_that_is_not_there_is_not_an_empty_artifact(tmp_path, memory):
    with pytest.raises(JewelhouseError, match="is not there"):
        run("memory://bucket/nothing", tmp_path / "store")
    with pytest.raises(JewelhouseError, match="No such file"):
        run(tmp_path / "nothing", tmp_path / "store")


def test_an_unknown_scheme_says_so(tmp_path):
    with pytest.raises(JewelhouseError, match="no file system that fsspec knows"):
        run(small(tmp_path / "source"), "nowhere://bucket/x")


# What cannot be sealed.


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda path: path.symlink_to("config.json"), "is a symbolic link", id="a-link"),
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), "is a symbolic link", id="a-link-out"),
        pytest.param(lambda path: path.symlink_to("."), "is a symbolic link", id="a-link-to-a-directory"),
        pytest.param(lambda path: path.symlink_to("gone"), "is a symbolic link", id="a-link-to-nothing"),
        pytest.param(lambda path: os.mkfifo(path), "is a named pipe", id="a-pipe-that-never-ends"),
        pytest.param(_socket, "is a socket", id="a-socket"),
    ],
)
def test_what_is_no_file_is_refused_with_its_reason(tmp_path, make, says):
    source = small(tmp_path / "source")
    (source / "sub").mkdir()
    make(source / "sub" / "thing")
    with pytest.raises(NotSealable, match=f"'sub/thing': {says}"):
        run(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_device_is_refused(tmp_path):
    source = small(tmp_path / "source")
    try:
        os.mknod(source / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device node needs root")
    with pytest.raises(NotSealable, match="'null': is a character device"):
        run(source, tmp_path / "store")


def test_a_source_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(small(tmp_path / "source"))
    with pytest.raises(NotSealable, match="symbolic link"):
        run(tmp_path / "link", tmp_path / "store")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        pytest.param([b"caf\xe9"], "is not UTF-8", id="a-name-in-latin-1"),
        pytest.param([b"Model", b"model"], "only in case", id="names-in-two-cases"),
        pytest.param(["é".encode(), "e\u0301".encode()], "normalisation", id="names-in-two-normal-forms"),
        pytest.param([b".jewelhouse.partial"], "unfinished files", id="the-name-that-unsealing-uses"),
    ],
)
def test_names_that_could_not_be_unsealed_everywhere_are_refused_at_once(tmp_path, names, says):
    source = small(tmp_path / "source")
    for name in names:
        with open(os.fsencode(source) + b"/" + name, "wb"):
            pass
    with pytest.raises(NotSealable, match=says):
        run(source, tmp_path / "store")


def test_all_that_cannot_be_sealed_is_named_at_once(tmp_path):
    source = small(tmp_path / "source")
    for name in ("a", "b", "c"):
        (source / name).symlink_to("x")
    with pytest.raises(NotSealable) as raised:
        run(source, tmp_path / "store")
    assert len(raised.value.problems) == 3


# A source that changes meanwhile.


def during(monkeypatch, change):
    """Makes `change` once, while the first file is being sealed."""
    done = []
    real = seal._OneFile.seal

    def sealing(self, entry):
        found = real(self, entry)
        if not done:
            done.append(entry)
            change()
        return found

    monkeypatch.setattr(seal._OneFile, "seal", sealing)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda root: (root / "late").write_bytes(b"x"), "'late' is new", id="a-file-comes"),
        pytest.param(lambda root: (root / "config.json").unlink(), "'config.json' is gone", id="a-file-goes"),
        pytest.param(
            lambda root: (root / "config.json").write_bytes(b"[]"), "'config.json' changed", id="same-size"
        ),
        pytest.param(
            lambda root: (root / "void").mkdir(), "empty directories came", id="an-empty-directory-comes"
        ),
    ],
)
def test_a_source_that_changes_while_it_is_sealed_is_noticed(tmp_path, monkeypatch, fine, change, says):
    source = small(tmp_path / "source")
    during(monkeypatch, lambda: change(source))
    with pytest.raises(Changed, match=says):
        run(source, tmp_path / "store")
    assert not (tmp_path / "store" / "manifests").exists()


def test_a_change_that_leaves_the_same_time_stamp_is_noticed(tmp_path, monkeypatch):
    """Stamps are coarse: a file written twice within a tick has one stamp."""
    source = small(tmp_path / "source")
    monkeypatch.setattr(sources, "_mark", lambda info: (1, 2, 1 << 62, 4))
    during(monkeypatch, lambda: (source / "config.json").write_bytes(b"[]"))
    with pytest.raises(Changed, match=r"config\.json"):
        run(source, tmp_path / "store")


def test_a_file_that_grows_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    source = small(tmp_path / "source")
    real = seal._content
    monkeypatch.setattr(seal, "_content", lambda file, entry: real(file, entry) + b"more")
    with pytest.raises(Changed, match="changed while"):
        run(source, tmp_path / "store")


def test_a_file_replaced_by_a_link_while_it_is_sealed_is_not_followed(tmp_path, monkeypatch):
    source = small(tmp_path / "source")
    (tmp_path / "secret").write_bytes(b"s" * 5000)
    real = seal._OneFile.seal

    def sealing(self, entry):
        if entry.path == "weights.bin":
            (source / "weights.bin").unlink()
            (source / "weights.bin").symlink_to(tmp_path / "secret")
        return real(self, entry)

    monkeypatch.setattr(seal._OneFile, "seal", sealing)
    with pytest.raises(JewelhouseError, match=r"weights\.bin"):
        run(source, tmp_path / "store")


# Interrupted, and gone on with.


class Killed(BaseException):
    """As a signal would end the process: no handler of errors sees it."""


def interrupted(source, store, states, monkeypatch, after=3, **changes):
    """Seals until `after` files are done."""
    with monkeypatch.context() as patched:
        count = []
        real = seal._OneFile.seal

        def sealing(self, entry):
            if len(count) == after:
                raise Killed
            count.append(entry)
            return real(self, entry)

        patched.setattr(seal._OneFile, "seal", sealing)
        with pytest.raises(Killed):
            run(source, store, states, **changes)


def counted(monkeypatch):
    names = []
    real = seal._OneFile.seal
    monkeypatch.setattr(
        seal._OneFile, "seal", lambda self, entry: names.append(entry.path) or real(self, entry)
    )
    return names


@pytest.fixture
def ten(tmp_path, fine):
    return small(tmp_path / "source", **{f"file-{n}": bytes([n]) * 5000 for n in range(10)})


@pytest.mark.parametrize("to", ["local", "memory"])
def test_an_interrupted_sealing_does_only_the_rest(tmp_path, ten, memory, monkeypatch, to):
    store = tmp_path / "store" if to == "local" else "memory://bucket/store"
    interrupted(ten, store, tmp_path / "states", monkeypatch)
    if to == "local":
        assert not (tmp_path / "store" / "manifests").exists()
    names = counted(monkeypatch)
    done = run(ten, store, tmp_path / "states")
    assert done.kept >= 3
    assert len(names) == 10 - done.kept
    assert opened(store, tmp_path) == contents(ten)


def test_what_an_interrupted_sealing_leaves_does_not_hold_the_dek(tmp_path, ten, monkeypatch):
    seen = []
    real = stream.encrypt
    monkeypatch.setattr(
        seal.stream, "encrypt", lambda data, key, bound: seen.append(key) or real(data, key, bound)
    )
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    (state,) = (tmp_path / "states").iterdir()
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "states").stat().st_mode) == 0o700
    import base64

    for path in [state, *(tmp_path / "store").rglob("*")]:
        if path.is_file():
            raw = path.read_bytes()
            for form_ in (seen[0], seen[0].hex().encode(), base64.b64encode(seen[0])):
                assert form_ not in raw, path
    run(ten, tmp_path / "store", tmp_path / "states")
    assert not list((tmp_path / "states").iterdir())
    assert not list((tmp_path / "store" / "sealing").iterdir())


def test_one_half_of_the_state_is_of_no_use(tmp_path, ten, monkeypatch):
    """Without its half in the store, the local state opens nothing: the sealing begins anew."""
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    shutil.rmtree(tmp_path / "store" / "sealing")
    assert run(ten, tmp_path / "store", tmp_path / "states").kept == 0
    assert opened(tmp_path / "store", tmp_path) == contents(ten)


def test_a_state_that_is_older_than_seven_days_is_void(tmp_path, ten, monkeypatch):
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    later = NOW + timedelta(days=7, seconds=1)
    assert run(ten, tmp_path / "store", tmp_path / "states", now=later).kept == 0


def test_expired_states_of_other_sealings_are_removed(tmp_path, ten, monkeypatch):
    interrupted(ten, tmp_path / "other", tmp_path / "states", monkeypatch)
    run(ten, tmp_path / "store", tmp_path / "states", now=NOW + timedelta(days=8))
    assert not list((tmp_path / "states").iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="emptied"),
        pytest.param(lambda path: path.unlink(), id="removed"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"x"), id="grown"),
    ],
)
def test_a_torn_object_is_never_taken_for_whole(tmp_path, ten, monkeypatch, damage):
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    for path in (tmp_path / "store" / "data").rglob("*"):
        if path.is_file():
            damage(path)
    assert run(ten, tmp_path / "store", tmp_path / "states").kept == 0
    assert opened(tmp_path / "store", tmp_path) == contents(ten)


def test_after_a_restart_of_the_machine_what_was_not_yet_on_disk_is_found_out(tmp_path, ten, monkeypatch):
    """A power cut leaves files of the right size, full of zeros."""
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    first, *others = sorted(path for path in (tmp_path / "store" / "data").rglob("*") if path.is_file())
    first.write_bytes(bytes(first.stat().st_size))
    monkeypatch.setattr(resume, "_boot", lambda: "after the restart")
    done = run(ten, tmp_path / "store", tmp_path / "states")
    assert 0 < done.kept <= len(others)
    assert opened(tmp_path / "store", tmp_path) == contents(ten)


def test_a_state_whose_last_line_was_torn_goes_on_before_it(tmp_path, ten, monkeypatch):
    monkeypatch.setattr(resume, "BATCH", 1)
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    (state,) = (tmp_path / "states").iterdir()
    state.write_bytes(state.read_bytes()[:-10])
    done = run(ten, tmp_path / "store", tmp_path / "states")
    assert 0 < done.kept < 10
    assert opened(tmp_path / "store", tmp_path) == contents(ten)


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"{}\n", b"nonsense\n", b'{"format": "jewelhouse.sealing/v1"}\n']
)
def test_a_state_that_is_none_begins_anew(tmp_path, ten, monkeypatch, text):
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    (state,) = (tmp_path / "states").iterdir()
    state.write_bytes(text)
    assert run(ten, tmp_path / "store", tmp_path / "states").kept == 0


def test_a_file_that_changed_between_the_runs_is_sealed_again(tmp_path, ten, monkeypatch):
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    (ten / "file-0").write_bytes(b"new")
    names = counted(monkeypatch)
    run(ten, tmp_path / "store", tmp_path / "states")
    assert "file-0" in names
    assert opened(tmp_path / "store", tmp_path) == contents(ten)


def test_a_file_that_went_between_the_runs_is_not_in_the_store(tmp_path, ten, monkeypatch):
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    (ten / "file-0").unlink()
    done = run(ten, tmp_path / "store", tmp_path / "states")
    unseal.complete(stores.store(tmp_path / "store"), done.manifest)


def test_two_sealings_of_one_version_do_not_run_at_once(tmp_path, ten, monkeypatch):
    running = resume.begin(stores.store(tmp_path / "store"), "base", 3, tmp_path / "states", NOW)
    with pytest.raises(JewelhouseError, match="another process"):
        run(ten, tmp_path / "store", tmp_path / "states")
    running.close()
    run(ten, tmp_path / "store", tmp_path / "states")


def test_a_state_that_others_can_read_is_refused(tmp_path, ten, monkeypatch):
    interrupted(ten, tmp_path / "store", tmp_path / "states", monkeypatch)
    (state,) = (tmp_path / "states").iterdir()
    state.chmod(0o644)
    with pytest.raises(JewelhouseError, match="can be read by others"):
        run(ten, tmp_path / "store", tmp_path / "states")


def test_a_sealing_that_keeps_no_state_removes_what_it_wrote(tmp_path, ten, monkeypatch):
    interrupted(ten, tmp_path / "store", None, monkeypatch)
    assert not list((tmp_path / "store" / "data").rglob("*"))


# What the store holds already.


def test_a_manifest_that_was_kept_without_a_word_keeps_what_it_names(tmp_path, monkeypatch):
    """The store had it when the connection, or the process, went: readers must find the version whole."""
    put = stores.LocalStore.put

    def unsaid(self, name, data):
        put(self, name, data)
        if name.startswith(form.SERIES):
            raise stores.StoreError("the connection was closed", where=name)

    source = small(tmp_path / "source")
    with monkeypatch.context() as patched:
        patched.setattr(stores.LocalStore, "put", unsaid)
        with pytest.raises(stores.StoreError, match="the connection was closed"):
            run(source, tmp_path / "store")
    assert opened(tmp_path / "store", tmp_path) == contents(source)


def test_all_is_on_disk_before_the_manifest_names_it(tmp_path, monkeypatch):
    """A loss of power must not leave a signed manifest with files that are not whole."""
    store, real, seen = tmp_path / "store", stores._LIBC, []

    class Library:
        def syncfs(self, directory):
            seen.append((os.readlink(f"/proc/self/fd/{directory}"), sorted(stores.store(store).sizes(""))))
            return real.syncfs(directory)

    monkeypatch.setattr(stores, "_LIBC", Library())
    done = run(tree(tmp_path / "source"), store)
    assert seen == [(str(store), sorted(done.manifest.object(file.path) for file in done.manifest.files))]


def test_a_disk_that_fails_in_the_end_gets_no_manifest(tmp_path, ten, monkeypatch):
    class Library:
        def syncfs(self, directory):
            ctypes.set_errno(errno.EIO)
            return -1

    with monkeypatch.context() as failing:
        failing.setattr(stores, "_LIBC", Library())
        with pytest.raises(StoreError, match="cannot be written to disk: Input/output error"):
            run(ten, tmp_path / "store", tmp_path / "states")
        assert stores.store(tmp_path / "store").sizes(form.SERIES) == {}
    assert run(ten, tmp_path / "store", tmp_path / "states").kept == 10


def test_sealing_the_same_again_changes_nothing(tmp_path):
    store, first = sealed(tmp_path)
    before = contents(tmp_path / "store")
    again = run(tmp_path / "source", tmp_path / "store")
    assert again.unchanged
    assert again.manifest == first
    assert contents(tmp_path / "store") == before
    assert store


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"version": 2}, "version 3 already", id="an-older-version"),
        pytest.param({"artifact": "adapter"}, "artifact base", id="another-artifact"),
        pytest.param({"recipients": [recipient("second")]}, "sealed to other keys", id="other-keys"),
        pytest.param({"signers": [signing_key("stranger")]}, "signed by 0", id="a-version-of-somebody-else"),
    ],
)
def test_what_the_store_holds_is_not_written_over(tmp_path, changes, says):
    sealed(tmp_path)
    before = contents(tmp_path / "store")
    with pytest.raises(JewelhouseError, match=says):
        run(tmp_path / "source", tmp_path / "store", **changes)
    assert contents(tmp_path / "store") == before


def test_other_content_needs_another_version(tmp_path):
    sealed(tmp_path)
    (tmp_path / "source" / "weights.bin").write_bytes(b"v" * 5000)
    with pytest.raises(JewelhouseError, match="version 3 with other content"):
        run(tmp_path / "source", tmp_path / "store")
    assert run(tmp_path / "source", tmp_path / "store", version=4).manifest.version == 4
    assert opened(tmp_path / "store", tmp_path) == contents(tmp_path / "source")


def test_readers_of_the_version_before_keep_what_they_read(tmp_path):
    store, first = sealed(tmp_path)
    run(tmp_path / "source", tmp_path / "store", version=4)
    unseal.complete(store, first)


def test_an_expiry_before_now_makes_no_manifest(tmp_path):
    source = small(tmp_path / "source")
    with pytest.raises(form.MalformedManifest, match="expires before"):
        run(source, tmp_path / "store", expires=NOW - timedelta(days=1))
    assert not (tmp_path / "store" / "manifests").exists()


def test_sealing_needs_no_private_key_but_that_of_the_signature(tmp_path):
    public = wrap.recipient(pem(rsa_key("first")), where="key")
    order_ = order(recipients=[public])
    assert isinstance(order_, Order)
    run(small(tmp_path / "source"), tmp_path / "store", recipients=[public])
    data = newest(tmp_path / "store").read_bytes()
    assert signing.verified(data, [PRODUCER.public_key()])
