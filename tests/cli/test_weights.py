"""`jewelhouse weights`: what its commands print and how they exit."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from sealed import contents, pem, rsa_key, small, write


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def keys(run, tmp_path):
    """A producer's signing key and a development key."""
    run("weights", "keygen", tmp_path / "producer")
    write(tmp_path / "dev", rsa_key("first"))
    return {
        "sign": tmp_path / "producer.key.pem",
        "signer": tmp_path / "producer.pub.pem",
        "to": tmp_path / "dev.pub.pem",
        "unwrap": tmp_path / "dev.key.pem",
    }


@pytest.fixture
def seal(run, tmp_path, keys):
    source = small(tmp_path / "source")

    def command(*more, to=None, version=3):
        return run(
            *("weights", "seal", source, tmp_path / "store", "--artifact", "base", "--version", version),
            *("--to", to or f"kms:dev={keys['to']}", "--sign", keys["sign"], *more),
        )

    return command


@pytest.fixture
def trusting(run, tmp_path, keys):
    """A command on the store by a reader who pins the producer."""

    def command(name, *more, signer=None):
        return run("weights", name, tmp_path / "store", *more, "--signer", signer or keys["signer"])

    return command


def test_from_keys_to_an_opened_artifact(run, seal, trusting, keys, tmp_path):
    code, text, _ = seal()
    assert code == 0
    assert "sealed: base (weights), version 3, wrapping 1, 2 files, 5002 bytes" in text
    assert "opens by kms:dev" in text
    code, text, _ = trusting("verify")
    assert (code, "complete by names and sizes" in text) == (0, True)
    code, text, _ = trusting("verify", "--unwrap", keys["unwrap"])
    assert (code, "every byte has been opened" in text) == (0, True)
    code, text, _ = trusting("unseal", tmp_path / "out", "--unwrap", keys["unwrap"])
    assert (code, "unsealed: base" in text) == (0, True)
    assert contents(tmp_path / "out") == contents(tmp_path / "source")
    assert "already sealed" in seal()[1]


def test_machines_read_what_was_done(seal, trusting, keys, tmp_path):
    code, text, complaint = seal("--json", "--kind", "adapter", "--producer", "ci", "--expires", "30d")
    found = json.loads(text)
    assert (code, complaint) == (0, "")
    assert (found["artifact"], found["kind"], found["version"], found["files"]) == ("base", "adapter", 3, 2)
    left = datetime.fromisoformat(found["expires"]) - datetime.now(UTC)
    assert 29 <= left.days <= 30
    verified = json.loads(trusting("verify", "--json")[1])
    assert (verified["verified"], verified["contents"]) == (True, False)
    opened = json.loads(trusting("unseal", tmp_path / "out", "--unwrap", keys["unwrap"], "--json")[1])
    assert (opened["verified"], opened["bytes"]) == (True, 5002)


def test_inspect_shows_and_says_that_nothing_is_verified(run, seal, tmp_path):
    (tmp_path / "source").mkdir(exist_ok=True)
    (tmp_path / "source" / "evil\x1b[2J\u202e name").touch()
    seal()
    code, text, _ = run("weights", "inspect", tmp_path / "store")
    assert code == 0
    assert "not verified" in text
    assert "weights.bin" in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    found = json.loads(run("weights", "inspect", tmp_path / "store", "--json")[1])
    assert found["verified"] is None
    assert found["manifest"]["artifact"] == "base"


def test_a_stranger_is_told_no(run, seal, trusting, keys, tmp_path):
    seal()
    run("weights", "keygen", tmp_path / "stranger")
    stranger = tmp_path / "stranger.pub.pem"
    code, _, complaint = trusting("verify", signer=stranger)
    assert (code, "signed by 0 of the pinned signers" in complaint) == (1, True)
    code, text, _ = trusting("verify", "--json", signer=stranger)
    assert (code, json.loads(text)["verified"]) == (1, False)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        pytest.param(["--artifact", "adapter"], 1, "expected adapter", id="another-artifact"),
        pytest.param(["--minimum-version", "4"], 1, "floor is 4", id="a-rolled-back-version"),
        pytest.param(["--minimum-wrapping", "2"], 1, "floor is 2", id="a-retired-wrapping"),
        pytest.param(["--threshold", "2"], 2, "of 2 among 1", id="more-signers-than-are-pinned"),
        pytest.param(["--signer", "{to}"], 2, "no key that signs", id="an-rsa-key-as-signer"),
        pytest.param(["--signer", "{sign}"], 2, "this is the private half", id="a-private-key-as-signer"),
        pytest.param(["--unwrap", "{sign}"], 2, "not an RSA key", id="a-signing-key-to-open-with"),
        pytest.param(["--unwrap", "{other}"], 1, "it is sealed to kms:dev", id="another-key"),
        pytest.param(["--unwrap", "{gone}"], 2, "cannot be read", id="no-such-key"),
    ],
)
def test_verify_says_no_with_1_and_cannot_tell_with_2(seal, trusting, keys, tmp_path, options, code, says):
    seal()
    other, _ = write(tmp_path / "other", rsa_key("second"))
    paths = {**keys, "other": other, "gone": tmp_path / "gone"}
    found, _, complaint = trusting("verify", *(option.format(**paths) for option in options))
    assert (found, says in complaint) == (code, True), complaint


def test_unsealing_tampered_weights_exits_with_1_and_leaves_nothing(seal, trusting, keys, tmp_path):
    seal()
    for path in (tmp_path / "store" / "data").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
    code, _, complaint = trusting("unseal", tmp_path / "out", "--unwrap", keys["unwrap"])
    assert code == 1
    assert complaint
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".jewelhouse.partial"]


def test_unsealing_without_a_key_names_the_way(seal, trusting, tmp_path):
    seal()
    code, _, complaint = trusting("unseal", tmp_path / "out")
    assert (code, "--unwrap" in complaint, "--release" in complaint) == (2, True, True)


def test_keys_of_a_stack_are_taken_from_its_outputs(run, tmp_path, keys):
    outputs = {
        "artifacts": {
            "base": {
                "keys": [
                    {"name": "a", "uri": "arn:aws:kms:k", "public_key": pem(rsa_key("first"))},
                    {"name": "b", "uri": "https://v.vault.azure.net/keys/k/1", "public_key": None},
                ]
            }
        },
        "policies": {"a": {"document": {"Statement": []}}},
    }
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    command = ["weights", "seal", small(tmp_path / "source"), tmp_path / "store", "--artifact", "base"]
    command += [
        "--version",
        1,
        "--sign",
        keys["sign"],
        "--stack-outputs",
        tmp_path / "outputs.json",
        "--json",
    ]
    code, _, complaint = run(*command)
    assert (code, "https://v.vault.azure.net/keys/k/1" in complaint) == (2, True)
    code, text, _ = run(*command, "--to", f"https://v.vault.azure.net/keys/k/1={keys['to']}")
    found = json.loads(text)["keys"]
    assert [one["key"] for one in found] == ["arn:aws:kms:k", "https://v.vault.azure.net/keys/k/1"]
    assert [bool(one["policy"]) for one in found] == [True, False]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"to": "{signer}"}, "is not an RSA key", id="a-signing-key-to-seal-to"),
        pytest.param({"to": "{unwrap}"}, "needs the public one only", id="a-private-key-to-seal-to"),
        pytest.param({"to": "two words={to}"}, "without blanks", id="an-identity-with-a-blank"),
        pytest.param({"to": "/nowhere.pem"}, "cannot be read", id="no-such-file"),
        pytest.param({"more": ["--expires", "soon"]}, "is no time", id="no-time"),
        pytest.param({"more": ["--expires", "2020-01-01"]}, "has passed", id="a-time-that-has-passed"),
        pytest.param({"more": ["--sign", "{unwrap}"]}, "no key that signs", id="an-rsa-key-to-sign-with"),
        pytest.param({"more": ["--stack-outputs", "{to}"]}, "is not JSON", id="outputs-that-are-no-json"),
    ],
)
def test_sealing_refuses_what_it_cannot_use(seal, keys, tmp_path, options, says):
    more = [option.format(**keys) for option in options.get("more", ())]
    code, _, complaint = seal(*more, to=options["to"].format(**keys) if "to" in options else None)
    assert (code, says in complaint) == (2, True), complaint
    assert not (tmp_path / "store").exists()


def test_a_rotation_adds_then_retires(seal, trusting, keys, tmp_path):
    seal()
    private, public = write(tmp_path / "new", rsa_key("second"))
    code, text, _ = trusting(
        "rewrap", "--to", f"kms:new={public}", "--unwrap", keys["unwrap"], "--sign", keys["sign"]
    )
    assert code == 0
    assert "wrapping 2" in text
    assert "opens by kms:dev\nopens by kms:new" in text
    code, text, _ = trusting("rewrap", "--retire", "kms:dev", "--sign", keys["sign"], "--json")
    assert (code, [one["key"] for one in json.loads(text)["keys"]]) == (0, ["kms:new"])
    assert trusting("verify", "--unwrap", keys["unwrap"])[0] == 1
    assert trusting("verify", "--unwrap", private, "--minimum-wrapping", 3)[0] == 0


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--to", "x", "--retire", "kms:dev"], id="both-at-once-would-leave-a-gap"),
        pytest.param([], id="neither"),
    ],
)
def test_a_rewrap_adds_or_retires(seal, trusting, keys, options):
    seal()
    code, _, complaint = trusting("rewrap", "--sign", keys["sign"], *options)
    assert (code, "never both at once" in complaint) == (2, True)


def test_what_is_obsolete_is_listed_and_removed(seal, trusting, keys, tmp_path):
    seal()
    (tmp_path / "source" / "config.json").write_bytes(b"[]")
    seal(version=4)
    listed = json.loads(trusting("prune", "--json")[1])["obsolete"]
    assert len([name for name in listed if name.startswith("data/3-")]) == 2
    assert len(listed) == 3
    assert all((tmp_path / "store" / name).is_file() for name in listed)
    code, text, _ = trusting("prune", "--delete")
    assert (code, text.count("removed data/3-")) == (0, 2)
    assert not any((tmp_path / "store" / name).exists() for name in listed)
    assert trusting("verify", "--unwrap", keys["unwrap"])[0] == 0


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384"])
def test_keys_that_are_made_sign(run, tmp_path, kind, keys):
    (tmp_path / "password").write_text("correct horse\n")
    secret = ["--password-file", tmp_path / "password"]
    code, text, _ = run("weights", "keygen", tmp_path / "mine", "--kind", kind, *secret, "--json")
    made = json.loads(text)
    assert (code, made["identity"].startswith("sha256:")) == (0, True)
    assert (tmp_path / "mine.key.pem").stat().st_mode & 0o777 == 0o600
    assert "ENCRYPTED" in (tmp_path / "mine.key.pem").read_text()
    command = ["weights", "seal", small(tmp_path / "source"), tmp_path / "store", "--artifact", "base"]
    command += ["--version", 1, "--to", keys["to"], "--sign", tmp_path / "mine.key.pem"]
    code, _, complaint = run(*command)
    assert (code, "locked by a password" in complaint) == (2, True)
    assert run(*command, *secret)[0] == 0
    assert run("weights", "verify", tmp_path / "store", "--signer", tmp_path / "mine.pub.pem")[0] == 0


def test_a_development_key_is_made_large_enough(run, tmp_path):
    from cryptography.hazmat.primitives import serialization

    run("weights", "keygen", tmp_path / "dev", "--kind", "rsa")
    key = serialization.load_pem_public_key((tmp_path / "dev.pub.pem").read_bytes())
    assert key.key_size == 4096


def test_a_key_is_never_written_over(run, tmp_path, keys):
    before = keys["sign"].read_bytes()
    code, _, complaint = run("weights", "keygen", tmp_path / "producer")
    assert (code, "is there already" in complaint) == (2, True)
    assert keys["sign"].read_bytes() == before
    keys["signer"].unlink()
    assert run("weights", "keygen", tmp_path / "producer")[0] == 2
    assert keys["sign"].read_bytes() == before
