"""One run of a stage, keys in files in place of a key service: what opens, what leaves, what stays shut."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from sealed import newest, pem, recipient, rsa_key, signing_key

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import memory
from jewelhouse.guest.opening import Closed, Opened
from jewelhouse.guest.record import PAYLOAD_TYPE, Record
from jewelhouse.guest.run import Run, run
from jewelhouse.guest.settings import Opens, Seals, Stage, Trust, TrustedArtifact, TrustedRewrap
from jewelhouse.model import ArtifactKind, Platform
from jewelhouse.weights import mandate, manifest, seal, signing, sources, stores, unseal, wrap

SECRET = b"weights that nobody outside may read"
OWNER, PRODUCER = signing_key("owner"), signing_key("producer")
WORK = """
import os, pathlib, sys
opened, sealing = (pathlib.Path(os.environ["JEWELHOUSE_" + name]) for name in ("OPENED", "SEALING"))
text = (opened / "base" / "weights").read_bytes()
(sealing / "adapter" / "tuned").write_bytes(text[::-1])
(sealing / "adapter" / "environment").write_text(repr(sorted(os.environ)))
sys.exit(int(os.environ.get("FAIL", "0")))
"""


@pytest.fixture
def shm(tmp_path_factory):
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="jewelhouse-test-"))
    yield folder
    shutil.rmtree(folder)


def opener(asked, keys={"kms:stage": "stage"}):  # noqa: B006
    key: rsa.RSAPrivateKey = rsa_key(keys[asked.key])
    return Opened(dek=key.decrypt(asked.wrapped, wrap._OAEP), kind="test", evidence=b"evidence" + asked.bound)


@pytest.fixture
def given(tmp_path, shm, monkeypatch):
    """A fine-tuning stage whose base is sealed to it, with a mandate for its adapter."""
    monkeypatch.setattr(memory, "_swap", lambda: "")
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(SECRET)
    now = datetime.now(UTC)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    order = seal.Order(
        artifact="base",
        kind=ArtifactKind.WEIGHTS,
        version=3,
        recipients=[recipient("stage")],
        signers=[PRODUCER],
        producer="tests",
        expires=now + timedelta(days=1),
    )
    seal.seal(sources.source(source), stores.store(base), order, now=now)
    data, signer = mandate.make(
        artifact="adapter",
        kind=ArtifactKind.ADAPTER,
        recipients=[recipient("next")],
        stage_key=recipient("stage"),
        owners=[OWNER],
        now=now,
        expires=now + timedelta(days=1),
    )
    adapter.mkdir()
    mandate.publish(stores.store(adapter), data)
    (tmp_path / "signer.pem").write_text(signer)
    work = tmp_path / "work.py"
    work.write_text(WORK)
    return Run(
        stage=Stage(
            lifecycle="fraud",
            stage="finetune",
            platform=Platform.AWS_ENCLAVE,
            opens={"base": Opens(key="kms:stage", store=str(base))},
            seals={"adapter": Seals(store=str(adapter))},
        ),
        trust=Trust(
            opens={"base": TrustedArtifact(signers=(pem(PRODUCER),), minimum_version=2)},
            seals={"adapter": (pem(OWNER),)},
            run=(sys.executable, str(work)),
        ),
        opener=opener,
        parent=shm,
        report=lambda line: None,
    )


def record():
    return Record(lifecycle="fraud", stage="finetune", platform="aws-enclave", began=datetime.now(UTC))


def left(*folders: Path) -> list[Path]:
    """Files in which the plaintext, or what was made of it, can be found."""
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and any(text in path.read_bytes() for text in (SECRET, SECRET[::-1]))
    ]


def test_it_opens_works_and_seals_to_whom_the_owner_said(given, tmp_path):
    assert run(given, record()) == 0
    found = unseal.unseal(
        stores.store(tmp_path / "adapter"),
        tmp_path / "opened",
        manifest.Trust(signers=((tmp_path / "signer.pem").read_text(),)),
        artifact="adapter",
        opener=lambda one: rsa_key("next").decrypt(one.keys[0].ciphertext, wrap._OAEP),
        now=datetime.now(UTC),
    ).manifest
    assert (tmp_path / "opened" / "tuned").read_bytes() == SECRET[::-1]
    assert (found.version, found.producer) == (1, "fraud/finetune")


def test_nothing_open_is_left_in_memory_or_in_a_store(given, tmp_path):
    run(given, record())
    assert left(given.parent, tmp_path / "base", tmp_path / "adapter") == []
    assert list(given.parent.iterdir()) == []


def test_a_second_run_makes_the_next_version(given, tmp_path):
    for _ in range(2):
        run(given, record())
    data = json.loads(newest(tmp_path / "adapter").read_bytes())
    import base64

    assert json.loads(base64.b64decode(data["payload"]))["version"] == 2


def test_the_workload_sees_nothing_of_what_the_host_could_set(given, tmp_path, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/evil.so")
    monkeypatch.setenv("PYTHONPATH", "/evil")
    run(replace(given, environment={"LEVEL": "low"}), record())
    unsealed = unseal.unseal(
        stores.store(tmp_path / "adapter"),
        tmp_path / "opened",
        manifest.Trust(signers=((tmp_path / "signer.pem").read_text(),)),
        artifact="adapter",
        opener=lambda one: rsa_key("next").decrypt(one.keys[0].ciphertext, wrap._OAEP),
        now=datetime.now(UTC),
    )
    assert unsealed
    names = (tmp_path / "opened" / "environment").read_text()
    assert "LEVEL" in names
    assert "LD_PRELOAD" not in names
    assert "PYTHONPATH" not in names


def test_the_record_says_what_happened_without_secrets_and_is_signed(given):
    kept = record()
    run(given, kept)
    envelope = kept.signed()
    payload, _ = signing.verified(envelope, [kept.key.public_key()], payload_type=PAYLOAD_TYPE)
    body = json.loads(payload)
    assert [one["event"] for one in body["events"]] == ["released", "opened", "ran", "released", "sealed"]
    assert body["events"][0]["evidence"]["kind"] == "test"
    assert body["events"][1] | {"at": "", "manifest": ""} == {
        "event": "opened",
        "artifact": "base",
        "version": 3,
        "at": "",
        "manifest": "",
    }
    assert SECRET not in payload


def with_stage(**changes):
    return lambda given, _: replace(given, stage=replace(given.stage, **changes))


def with_trust(**changes):
    return lambda given, _: replace(given, trust=replace(given.trust, **changes))


def denying(given, _):
    def closed(asked):
        raise Closed("denied", where=asked.key)

    return replace(given, opener=closed)


def forged(given, _):
    return replace(given, opener=lambda asked: Opened(dek=bytes(32), kind="test", evidence=b""))


def cut(given, tmp_path):
    (path,) = (tmp_path / "base" / "data").rglob("*/*")
    path.write_bytes(path.read_bytes()[:-1])
    return given


def flipped(given, tmp_path):
    (path,) = (tmp_path / "base" / "data").rglob("*/*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return given


def operators_mandate(given, tmp_path):
    data, _ = mandate.make(
        artifact="adapter",
        kind=ArtifactKind.ADAPTER,
        recipients=[recipient("operator")],
        stage_key=recipient("stage"),
        owners=[signing_key("operator")],
        now=datetime.now(UTC),
        expires=datetime.now(UTC) + timedelta(days=1),
    )
    newest(tmp_path / "adapter", "mandates").write_bytes(data)
    return given


def no_mandate(given, tmp_path):
    newest(tmp_path / "adapter", "mandates").unlink()
    return given


def strange_manifest(given, tmp_path):
    shutil.copytree(tmp_path / "base" / "manifests", tmp_path / "adapter" / "manifests")
    return given


OTHERS = TrustedArtifact(signers=(pem(signing_key("stranger")),))
REFUSED = [
    pytest.param(denying, "denied", id="key-service-denies"),
    pytest.param(forged, "does not open", id="key-service-answers-with-another-key"),
    pytest.param(with_trust(opens={"base": OTHERS}), "signed by 0", id="unknown-signer"),
    pytest.param(with_trust(opens={"base": TrustedArtifact(signers=())}), "trusts nobody", id="no-signer"),
    pytest.param(
        with_trust(opens={"base": TrustedArtifact(signers=(pem(PRODUCER),), minimum_version=4)}),
        "has been retired",
        id="rolled-back-version",
    ),
    pytest.param(
        with_trust(opens={"base": TrustedArtifact(signers=(pem(PRODUCER),), minimum_wrapping=2)}),
        "has been retired",
        id="manifest-from-before-a-rewrap",
    ),
    pytest.param(
        lambda given, tmp: replace(
            given, stage=replace(given.stage, opens={"cases": given.stage.opens["base"]})
        ),
        "its image knows only base",
        id="host-names-another-artifact",
    ),
    pytest.param(
        lambda given, tmp: replace(
            given,
            stage=replace(given.stage, opens={"cases": given.stage.opens["base"]}),
            trust=replace(given.trust, opens={"cases": given.trust.opens["base"]}),
        ),
        "is base, expected cases",
        id="host-swaps-stores",
    ),
    pytest.param(
        lambda given, tmp: replace(
            given,
            stage=replace(given.stage, opens={"base": replace(given.stage.opens["base"], key="kms:other")}),
        ),
        "is not sealed to kms:other",
        id="host-names-another-key",
    ),
    pytest.param(cut, "bytes of ciphertext", id="truncated-ciphertext"),
    pytest.param(flipped, "does not open", id="changed-ciphertext"),
    pytest.param(operators_mandate, "signed by 0", id="operator-has-it-sealed-to-himself"),
    pytest.param(no_mandate, "mandates", id="mandate-removed"),
    pytest.param(with_trust(seals={"adapter": ()}), "trusts nobody to say", id="nobody-may-sign-mandates"),
    pytest.param(with_trust(seals={}), "its image knows only nothing", id="host-asks-for-an-output"),
    pytest.param(strange_manifest, "not this stage's", id="somebody-else-wrote-to-the-output-store"),
    pytest.param(
        lambda given, tmp: replace(given, environment={"FAIL": "7"}), "ended with 7", id="workload-fails"
    ),
]


@pytest.mark.parametrize(("change", "says"), REFUSED)
def test_every_door_that_must_stay_shut_does(given, tmp_path, change, says):
    kept = record()
    with pytest.raises(JewelhouseError, match=says):
        run(change(given, tmp_path), kept)
    assert left(given.parent, tmp_path / "base", tmp_path / "adapter") == []
    assert not (tmp_path / "adapter" / "data").exists() or not list(
        (tmp_path / "adapter" / "data").rglob("*/*")
    )
    assert kept.events[-1]["event"] == "refused"
    kept.signed()


def test_a_folder_on_a_disk_is_refused(given, tmp_path):
    if memory.file_system(tmp_path) in memory.MEMORY:
        pytest.skip("everything is memory here")
    with pytest.raises(memory.NotMemory, match="lies on a disk"):
        run(replace(given, parent=tmp_path / "disk"), record())


def test_swap_would_write_it_to_a_disk(given, monkeypatch):
    monkeypatch.setattr(memory, "_swap", lambda: "/dev/sda2")
    with pytest.raises(memory.NotMemory, match="swapped out to /dev/sda2"):
        run(given, record())


def test_what_a_run_that_was_killed_left_is_gone_at_the_next(given):
    (given.parent / "open-before" / "opened" / "base").mkdir(parents=True)
    (given.parent / "open-before" / "opened" / "base" / "old").write_bytes(SECRET)
    run(given, record())
    assert list(given.parent.iterdir()) == []


@pytest.fixture
def rotating(given, tmp_path):
    """The same stage; the owner of the base has mandated that it opens by another key, too."""
    now = datetime.now(UTC)
    data, signer = mandate.make(
        artifact="base",
        kind=ArtifactKind.WEIGHTS,
        recipients=[recipient("stage"), recipient("next")],
        stage_key=recipient("stage"),
        owners=[OWNER],
        now=now,
        expires=now + timedelta(days=1),
    )
    mandate.publish(stores.store(tmp_path / "base"), data, mandate.REWRAPS)
    pinned = TrustedArtifact(signers=(pem(PRODUCER), signer), minimum_version=2)
    return replace(
        given,
        stage=replace(given.stage, rewraps=("base",)),
        trust=replace(
            given.trust, opens={"base": pinned}, rewraps={"base": TrustedRewrap(signers=(pem(OWNER),))}
        ),
    )


def opens_by(tmp_path, signers):
    found = unseal.current(
        stores.store(tmp_path / "base"),
        manifest.Trust(signers=signers),
        artifact="base",
        now=datetime.now(UTC),
    )
    return found.wrapping, [one.key for one in found.keys]


def test_a_stage_wraps_what_it_opens_to_the_keys_that_the_owner_named(rotating, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "base" / "data").rglob("*")}
    written = record()
    assert run(rotating, written) == 0
    signers = rotating.trust.opens["base"].signers
    assert opens_by(tmp_path, signers) == (2, ["kms:stage", "kms:next"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "base" / "data").rglob("*")} == before
    (event,) = [one for one in written.events if one["event"] == "rewrapped"]
    assert (event["wrapping"], event["keys"]) == (2, ["kms:stage", "kms:next"])
    assert run(rotating, record()) == 0
    assert opens_by(tmp_path, signers)[0] == 2


def test_a_stage_that_rewraps_alone_opens_nothing_for_its_workload(rotating, tmp_path):
    alone = TrustedRewrap(signers=(pem(OWNER),), unseal=False)
    work = (
        sys.executable,
        "-c",
        "import os, sys; sys.exit(len(os.listdir(os.environ['JEWELHOUSE_OPENED'])))",
    )
    given = replace(
        rotating,
        stage=replace(rotating.stage, seals={}),
        trust=replace(rotating.trust, seals={}, rewraps={"base": alone}, run=work),
    )
    assert run(given, record()) == 0
    assert opens_by(tmp_path, rotating.trust.opens["base"].signers)[0] == 2


def to_the_operator(given, tmp_path):
    data, _ = mandate.make(
        artifact="base",
        kind=ArtifactKind.WEIGHTS,
        recipients=[recipient("operator")],
        stage_key=recipient("stage"),
        owners=[signing_key("operator")],
        now=datetime.now(UTC),
        expires=datetime.now(UTC) + timedelta(days=1),
    )
    newest(tmp_path / "base", "rewraps").write_bytes(data)
    return given


def of_no_owner(given, tmp_path):
    return replace(given, trust=replace(given.trust, rewraps={"base": TrustedRewrap(signers=())}))


def not_measured(given, tmp_path):
    return replace(given, trust=replace(given.trust, rewraps={}))


def not_opened(given, tmp_path):
    return replace(given, stage=replace(given.stage, rewraps=("base", "adapter")))


def no_reader_would_believe(given, tmp_path):
    base = TrustedArtifact(signers=(pem(PRODUCER),), minimum_version=2)
    return replace(given, trust=replace(given.trust, opens={"base": base}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(to_the_operator, "signed by 0", id="operator-mandates-his-own-key"),
        pytest.param(of_no_owner, "trusts nobody to say", id="image-that-trusts-no-owner"),
        pytest.param(not_measured, "was told to rewrap base", id="host-asks-for-what-is-not-measured"),
        pytest.param(not_opened, "was told to rewrap adapter", id="host-asks-for-what-is-not-opened"),
        pytest.param(no_reader_would_believe, "signed by 0", id="signer-that-readers-do-not-pin"),
    ],
)
def test_nobody_else_gets_a_copy_of_the_data_key(rotating, tmp_path, change, says):
    with pytest.raises(JewelhouseError, match=says):
        run(change(rotating, tmp_path), record())
    assert opens_by(tmp_path, rotating.trust.opens["base"].signers) == (1, ["kms:stage"])
