"""Envelopes: others verify what we sign, and nothing that others signed passes for a manifest."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import PRODUCER, ec_key, openssl, pem, private_pem, rsa_key, signing_key, write

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import signing
from jewelhouse.weights.signing import MalformedManifest, Untrusted, sign, verified

PAYLOAD = b'{"artifact":"base"}'
KEYS = {
    "ed25519": PRODUCER,
    "p256": ec_key("p256"),
    "p384": ec_key("p384"),
    "p521": ec_key("p521"),
}
DIGESTS = {"p256": "-sha256", "p384": "-sha384", "p521": "-sha512"}


def envelope(**changes):
    return json.dumps({**json.loads(sign(PAYLOAD, [PRODUCER])), **changes}).encode()


@pytest.mark.parametrize("kind", KEYS)
def test_openssl_verifies_what_is_signed(kind, tmp_path):
    """Independent oracle: signature over DSSE's pre-authentication encoding, written out by hand."""
    found = json.loads(sign(PAYLOAD, [KEYS[kind]]))
    kind_of_payload = found["payloadType"]
    text = f"DSSEv1 {len(kind_of_payload)} {kind_of_payload} {len(PAYLOAD)} ".encode() + PAYLOAD
    _, public = write(tmp_path / kind, KEYS[kind])
    (tmp_path / "text").write_bytes(text)
    (tmp_path / "sig").write_bytes(base64.b64decode(found["signatures"][0]["sig"]))
    if kind == "ed25519":
        command = ["pkeyutl", "-verify", "-rawin", "-in", tmp_path / "text", "-sigfile", tmp_path / "sig"]
        said = openssl(*command, "-pubin", "-inkey", public)
        assert b"Verified Successfully" in said
    else:
        said = openssl(
            "dgst", DIGESTS[kind], "-verify", public, "-signature", tmp_path / "sig", tmp_path / "text"
        )
        assert b"Verified OK" in said


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384"])
def test_securesystemslib_verifies_the_envelope(kind):
    """Independent oracle: the implementation of DSSE that in-toto and TUF use."""
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    key = signer.SSlibKey.from_crypto(
        KEYS[kind].public_key(), keyid=signing.identity(KEYS[kind].public_key())
    )
    found = dsse.Envelope.from_dict(json.loads(sign(PAYLOAD, [KEYS[kind]])))
    assert found.payload == PAYLOAD
    assert set(found.verify([key], 1)) == {key.keyid}


def test_what_securesystemslib_signs_is_verified():
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    other = dsse.Envelope(PAYLOAD, signing.PAYLOAD_TYPE, {})
    other.sign(signer.CryptoSigner(PRODUCER))
    payload, who = verified(json.dumps(other.to_dict()).encode(), [PRODUCER.public_key()])
    assert (payload, who) == (PAYLOAD, (signing.identity(PRODUCER.public_key()),))


def test_keys_of_model_signing_sign_manifests(tmp_path):
    """The command of its README (sigstore/model-transparency) for the key method, with its own key names."""
    private = tmp_path / "key.priv"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
    (tmp_path / "key.pub").write_bytes(openssl("ec", "-in", private, "-pubout"))
    data = sign(PAYLOAD, [signing.private_key(private)])
    assert verified(data, [signing.public_key((tmp_path / "key.pub").read_bytes())])[0] == PAYLOAD


def test_a_signature_of_model_signing_by_the_same_key_is_no_manifest():
    """Its signatures are DSSE over in-toto statements: the type of the payload keeps the two apart."""
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    key = ec_key("p256")
    envelope = dsse.Envelope(PAYLOAD, "application/vnd.in-toto+json", {})
    envelope.sign(signer.CryptoSigner(key))
    theirs = envelope.to_dict()
    with pytest.raises(MalformedManifest, match="payloadType"):
        verified(json.dumps(theirs).encode(), [key.public_key()])
    relabelled = {**theirs, "payloadType": signing.PAYLOAD_TYPE}
    with pytest.raises(Untrusted, match="signed by 0"):
        verified(json.dumps(relabelled).encode(), [key.public_key()])


@pytest.mark.parametrize(
    ("signed_by", "pinned", "threshold", "holds"),
    [
        pytest.param(["a"], ["a"], 1, True, id="one-of-one"),
        pytest.param(["a", "b"], ["b"], 1, True, id="signatures-of-others-do-not-harm"),
        pytest.param(["a", "b"], ["a", "b", "c"], 2, True, id="two-of-three"),
        pytest.param(["a"], ["a", "b"], 2, False, id="one-where-two-must-sign"),
        pytest.param(["a", "a"], ["a", "b"], 2, False, id="one-that-signs-twice-is-not-two"),
        pytest.param(["b"], ["a"], 1, False, id="a-stranger"),
        pytest.param(["a"], [], 1, False, id="nobody-pinned"),
    ],
)
def test_signers_are_counted_once_and_only_when_pinned(signed_by, pinned, threshold, holds):
    data = sign(PAYLOAD, [signing_key(name) for name in signed_by])
    signers = [signing_key(name).public_key() for name in pinned]
    if holds:
        assert verified(data, signers, threshold)[0] == PAYLOAD
    else:
        with pytest.raises(Untrusted, match="pinned"):
            verified(data, signers, threshold)


def test_a_signature_under_the_name_of_a_pinned_key_is_not_by_it():
    found = json.loads(sign(PAYLOAD, [signing_key("stranger")]))
    found["signatures"][0]["keyid"] = signing.identity(PRODUCER.public_key())
    with pytest.raises(Untrusted):
        verified(json.dumps(found).encode(), [PRODUCER.public_key()])


def test_a_signature_without_a_name_counts():
    found = json.loads(sign(PAYLOAD, [PRODUCER]))
    del found["signatures"][0]["keyid"]
    assert verified(json.dumps(found).encode(), [PRODUCER.public_key()])[0] == PAYLOAD


SIGNATURE = json.loads(sign(PAYLOAD, [PRODUCER]))["signatures"][0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "not JSON", id="nothing"),
        pytest.param(b"[" * 100_000, "not JSON", id="nested-without-end"),
        pytest.param(b"\xff", "not JSON", id="not-text"),
        pytest.param(b"[]", "no DSSE envelope", id="a-list"),
        pytest.param(envelope(extra=1), "no DSSE envelope", id="an-unknown-member"),
        pytest.param(
            envelope()[:-1] + b',"payload":"e30="}', "there twice", id="two-payloads-of-which-one-is-verified"
        ),
        pytest.param(envelope(payloadType="application/json"), "payloadType", id="another-type"),
        pytest.param(envelope(payload=7), "base64", id="a-payload-that-is-a-number"),
        pytest.param(envelope(payload="e30=\n"), "base64", id="a-payload-with-a-line-end"),
        pytest.param(envelope(signatures=[]), "1 to 32", id="no-signature"),
        pytest.param(envelope(signatures=[SIGNATURE] * 33), "1 to 32", id="signatures-to-keep-a-reader-busy"),
        pytest.param(envelope(signatures=[{}]), "sig and keyid", id="a-signature-without-signature"),
        pytest.param(envelope(signatures=[{"sig": "AA==", "alg": "none"}]), "sig and", id="alg-none"),
        pytest.param(envelope(signatures=[{"sig": "AA==", "keyid": 1}]), "not text", id="a-number-as-name"),
    ],
)
def test_what_is_no_envelope_is_malformed(data, says):
    with pytest.raises(MalformedManifest, match=says):
        verified(data, [PRODUCER.public_key()])


@given(st.binary(max_size=200))
@settings(max_examples=80)
def test_any_signature_bytes_are_just_wrong(sig):
    raw = base64.b64encode(sig).decode()
    data = envelope(signatures=[{"sig": raw}])
    for key in KEYS.values():
        with pytest.raises(Untrusted):
            verified(data, [key.public_key()])


@pytest.mark.parametrize(
    ("pem_", "says"),
    [
        pytest.param(pem(rsa_key("first")), "no key that signs", id="an-rsa-key"),
        pytest.param(pem(ec_key("k1")), "no key that signs", id="a-curve-of-others"),
        pytest.param(private_pem(PRODUCER), "this is the private half", id="the-private-half"),
        pytest.param("", "no public key", id="an-empty-file"),
        pytest.param(b"\0" * 40, "no public key", id="bytes"),
    ],
)
def test_keys_that_sign_no_manifests_are_refused(pem_, says):
    with pytest.raises(JewelhouseError, match=says):
        signing.public_key(pem_)


@pytest.mark.parametrize(
    ("data", "password", "says"),
    [
        pytest.param(private_pem(PRODUCER, b"secret"), None, "locked by a password", id="locked"),
        pytest.param(private_pem(PRODUCER, b"secret"), b"guess", "not opened by", id="a-wrong-password"),
        pytest.param(private_pem(rsa_key("first")), None, "no key that signs", id="an-rsa-key"),
        pytest.param(pem(PRODUCER).encode(), None, "this is the public half", id="the-public-half"),
        pytest.param(b"", None, "no private key", id="an-empty-file"),
    ],
)
def test_a_private_key_that_cannot_sign_says_why(tmp_path, data, password, says):
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(JewelhouseError, match=says) as raised:
        signing.private_key(tmp_path / "key", password)
    assert "secret" not in str(raised.value)


def test_a_locked_key_opens_by_its_password(tmp_path):
    (tmp_path / "key").write_bytes(private_pem(PRODUCER, b"secret"))
    assert pem(signing.private_key(tmp_path / "key", b"secret")) == pem(PRODUCER)


def test_a_key_without_a_password_opens_beside_one_that_has_one(tmp_path):
    (tmp_path / "key").write_bytes(private_pem(PRODUCER))
    assert pem(signing.private_key(tmp_path / "key", b"of another key")) == pem(PRODUCER)
