"""`weights mandate`: an owner's word in the store, and the key that readers pin."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest
from sealed import newest, rsa_key, signing_key, write

from jewelhouse.cli import main
from jewelhouse.weights import mandate, signing


@pytest.fixture
def words(tmp_path):
    owner, public = write(tmp_path / "owner", signing_key("owner"))
    _, stage = write(tmp_path / "stage", rsa_key("stage"))
    _, following = write(tmp_path / "following", rsa_key("first"))
    (tmp_path / "store").mkdir()
    return [
        *("weights", "mandate", str(tmp_path / "store"), "--artifact", "adapter", "--kind", "adapter"),
        *("--stage-key", f"kms:stage={stage}", "--to", f"kms:next={following}"),
        *("--sign", str(owner), "--signer", str(tmp_path / "adapter.pub.pem")),
    ], public


def called(words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return stopped.value.code or 0


def test_the_stage_finds_it_and_readers_get_the_key_to_pin(words, tmp_path, capsys):
    given, public = words
    assert called([*given, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = mandate.read(
        newest(tmp_path / "store", "mandates").read_bytes(),
        [signing.public_key(public.read_text())],
        artifact="adapter",
        now=datetime.now(UTC),
    )
    pinned = (tmp_path / "adapter.pub.pem").read_text()
    assert pinned == found.signer
    assert said["identity"] == signing.identity(signing.public_key(pinned))
    assert ([one.key for one in found.recipients], found.signing_key.key) == (["kms:next"], "kms:stage")


def test_a_key_that_readers_may_pin_is_not_written_over(words, tmp_path, capsys):
    given, _ = words
    (tmp_path / "adapter.pub.pem").write_text("pinned")
    assert called(given) == 2
    assert "goes to another file" in capsys.readouterr().err
    assert not (tmp_path / "store" / "mandates").exists()


def test_the_stages_key_needs_its_identity_or_gets_its_digest(words, tmp_path):
    given, _ = words
    at = given.index("--stage-key") + 1
    given[at] = given[at].partition("=")[2]
    assert called(given) == 0


def test_a_later_mandate_keeps_what_readers_pin_when_told_to(words, tmp_path, capsys):
    given, _ = words
    assert called(given) == 0
    pinned = (tmp_path / "adapter.pub.pem").read_text()
    at = given.index("--stage-key")
    # Mandates are named by their second.
    time.sleep(1)
    assert called([*given[:at], *given[at + 2 :], "--same-signer"]) == 0
    assert (tmp_path / "adapter.pub.pem").read_text() == pinned
    assert len(list((tmp_path / "store" / "mandates").iterdir())) == 2
    assert called([*given, "--same-signer"]) == 2
    assert "either --stage-key" in capsys.readouterr().err


def test_a_mandate_to_rewrap_lies_apart(words, tmp_path):
    given, _ = words
    assert called([*given, "--rewraps"]) == 0
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["rewraps"]
