"""The DEK: wrapped so that key services and openssl unwrap it, and to keys that are worth it."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import rfc8785
from sealed import (
    PRODUCER,
    ec_key,
    opener,
    openssl,
    pem,
    private_pem,
    recipient,
    rsa_key,
    sealed,
    write,
)

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import wrap
from jewelhouse.weights.manifest import Untrusted
from jewelhouse.weights.wrap import NotOpened

DEK = bytes(range(32))


def test_openssl_unwraps_the_dek(tmp_path):
    """Independent oracle: RSA-OAEP with SHA-256 for the digest and for MGF1, no label."""
    (one,) = wrap.wrap(DEK, [recipient()])
    private, _ = write(tmp_path / "key", rsa_key("first"))
    options = [("rsa_padding_mode", "oaep"), ("rsa_oaep_md", "sha256"), ("rsa_mgf1_md", "sha256")]
    arguments = [part for name, value in options for part in ("-pkeyopt", f"{name}:{value}")]
    assert openssl("pkeyutl", "-decrypt", "-inkey", private, *arguments, data=one.ciphertext) == DEK


def test_what_openssl_wraps_is_opened(tmp_path):
    _, manifest = sealed(tmp_path)
    _, public = write(tmp_path / "key", rsa_key("first"))
    options = [("rsa_padding_mode", "oaep"), ("rsa_oaep_md", "sha256"), ("rsa_mgf1_md", "sha256")]
    arguments = [part for name, value in options for part in ("-pkeyopt", f"{name}:{value}")]
    theirs = openssl("pkeyutl", "-encrypt", "-pubin", "-inkey", public, *arguments, data=DEK)
    changed = dataclasses.replace(manifest.keys[0], ciphertext=theirs)
    assert opener(tmp_path)(dataclasses.replace(manifest, keys=(changed,))) == DEK


def test_each_recipient_gets_its_own_copy():
    first, second = wrap.wrap(DEK, [recipient(), recipient("second")])
    assert first.ciphertext != second.ciphertext
    assert (first.key, second.key) == ("kms:first", "kms:second")
    again, _ = wrap.wrap(DEK, [recipient(), recipient("second")])
    assert again.ciphertext != first.ciphertext


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(pem(rsa_key("small", 2048)), "RSA of 2048 bits", id="rsa-2048"),
        pytest.param(pem(rsa_key("disk", 3072)), "RSA of 3072 bits", id="rsa-3072-of-a-disk"),
        pytest.param(pem(ec_key("p256")), "not an RSA key", id="an-elliptic-key"),
        pytest.param(pem(PRODUCER), "not an RSA key", id="the-signing-key"),
        pytest.param(private_pem(rsa_key("first")), "public one only", id="the-private-half"),
        pytest.param("", "no public key", id="an-empty-file"),
    ],
)
def test_keys_that_protect_too_little_are_refused(data, says):
    with pytest.raises(JewelhouseError, match=says):
        wrap.recipient(data, where="key")


def test_a_larger_key_is_taken():
    assert wrap.recipient(pem(rsa_key("large", 4608)), where="key").public.key_size == 4608


def test_nobody_to_open_it_is_refused():
    with pytest.raises(JewelhouseError, match="nobody could open it"):
        wrap.wrap(DEK, [])


def test_two_keys_of_one_name_are_refused():
    with pytest.raises(JewelhouseError, match="kms:first is there twice"):
        wrap.wrap(DEK, [recipient(), recipient("second", "kms:first")])


def test_a_key_without_a_name_is_called_by_its_digest():
    der = openssl("pkey", "-pubin", "-outform", "DER", data=pem(rsa_key("first")).encode())
    assert wrap.recipient(pem(rsa_key("first")), where="").key == f"sha256:{hashlib.sha256(der).hexdigest()}"


def test_another_key_opens_nothing_and_learns_who_could(tmp_path):
    _, manifest = sealed(tmp_path)
    with pytest.raises(NotOpened, match="it is sealed to kms:first"):
        opener(tmp_path, "second")(manifest)


def test_a_wrapped_dek_that_was_damaged_is_not_opened(tmp_path):
    _, manifest = sealed(tmp_path)
    damaged = dataclasses.replace(manifest.keys[0], ciphertext=bytes(512))
    with pytest.raises(NotOpened, match="does not unwrap"):
        opener(tmp_path)(dataclasses.replace(manifest, keys=(damaged,)))


def test_a_wrapped_dek_of_another_length_is_not_opened(tmp_path):
    _, manifest = sealed(tmp_path)
    wrong = wrap.wrap(b"sixteen bytes...", [recipient()])
    with pytest.raises(NotOpened, match="16 bytes long"):
        opener(tmp_path)(dataclasses.replace(manifest, keys=wrong))


def test_a_release_is_asked_with_the_copy_for_its_key(tmp_path):
    _, manifest = sealed(tmp_path, recipients=[recipient(), recipient("second")])
    asked = []

    def release(wrapped: bytes) -> bytes:
        asked.append(wrapped)
        return DEK

    assert wrap.with_release("kms:second", release)(manifest) == DEK
    assert asked == [manifest.keys[1].ciphertext]
    with pytest.raises(Untrusted, match="is not sealed to kms:third"):
        wrap.with_release("kms:third", release)(manifest)


def test_a_release_that_gives_no_dek_is_refused(tmp_path):
    _, manifest = sealed(tmp_path)
    with pytest.raises(NotOpened, match="0 bytes long"):
        wrap.with_release("kms:first", lambda wrapped: b"")(manifest)


DOCUMENT = {"version": "1.0.0", "anyOf": [{"authority": "https://maa.example"}]}
OUTPUTS = {
    "artifacts": {
        "base": {
            "keys": [
                {"name": "base-aws", "id": "arn:k", "uri": "arn:k", "public_key": pem(rsa_key("first"))},
                {"name": "base-azure", "id": "/id", "uri": "https://v/keys/k/1", "public_key": None},
            ]
        },
        "adapter": {
            "keys": [{"name": "a", "id": "arn:a", "uri": "arn:a", "public_key": pem(rsa_key("first"))}]
        },
        "corpus": {"keys": []},
    },
    "policies": {"base-azure": {"document": DOCUMENT}},
}


def test_keys_come_from_the_outputs_of_a_stack_with_the_digest_of_their_policies():
    given = [recipient("second", "https://v/keys/k/1"), recipient("third")]
    found = wrap.recipients_of(OUTPUTS, "base", "outputs.json", given)
    assert [one.key for one in found] == ["arn:k", "https://v/keys/k/1", "kms:third"]
    expected = hashlib.sha256(rfc8785.dumps(DOCUMENT)).hexdigest()
    assert [one.policy for one in found] == [None, expected, None]
    assert [one.key for one in wrap.recipients_of(OUTPUTS, "adapter", "outputs.json")] == ["arn:a"]


@pytest.mark.parametrize(
    ("outputs", "artifact", "says"),
    [
        pytest.param(OUTPUTS, "base", "https://v/keys/k/1", id="a-key-vault-key-without-its-public-half"),
        pytest.param(OUTPUTS, "corpus", "any key of corpus", id="an-artifact-that-nobody-opens"),
        pytest.param(OUTPUTS, "weights", "artifacts there: base, adapter", id="an-unknown-artifact"),
        pytest.param({}, "base", "pulumi stack output --json", id="other-json"),
        pytest.param([], "base", "pulumi stack output --json", id="a-list"),
        pytest.param({"artifacts": "[secret]"}, "base", "stack output --json", id="outputs-kept-secret"),
        pytest.param(
            json.loads(json.dumps(OUTPUTS).replace("PUBLIC KEY", "CERTIFICATE")),
            "adapter",
            "no public key",
            id="a-certificate",
        ),
    ],
)
def test_outputs_that_do_not_name_every_key_are_refused(outputs, artifact, says):
    with pytest.raises(JewelhouseError, match=says):
        wrap.recipients_of(outputs, artifact, "outputs.json")


def test_an_opener_needs_an_rsa_key(tmp_path):
    private, _ = write(tmp_path / "key", PRODUCER)
    with pytest.raises(JewelhouseError, match="not an RSA key"):
        wrap.with_private_key(private)
