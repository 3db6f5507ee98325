"""Provenance: others read and verify what we sign, and nothing else passes for it."""

from __future__ import annotations

import base64
import contextlib
import copy
import functools
import json
from typing import Any

import attested
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import PRODUCER, ec_key, openssl, pem, rsa_key, signing_key, write

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Platform
from jewelhouse.weights import signing

pytest.importorskip("packageurl")
from jewelhouse.images import provenance
from jewelhouse.images.provenance import BadProvenance, sign, verify

DIGEST = f"sha256:{'9' * 64}"
MEASUREMENTS = {"PCR0": "1" * 96, "PCR1": "2" * 96, "PCR2": "3" * 96}
INPUTS = {
    "tools": {"mmdebstrap": "1.5.7", "jewelhouse": "0.1"},
    "packages": {"libc6": f"2.41-12+deb13u1 sha256:{'b' * 64}"},
    "wheels": {"numpy": f"2.4.6 sha256:{'e' * 64}"},
    "kernel": {"image": f"sha256:{'a' * 64}"},
    "files": {attested.FILE: f"sha256:{'c' * 64}"},
}
BILL = {"sbom.cdx.json": f"sha256:{'7' * 64}"}
KEYS = {"ed25519": PRODUCER, "p256": ec_key("p256"), "p384": ec_key("p384"), "p521": ec_key("p521")}
SIGNERS = [pem(PRODUCER)]


@pytest.fixture(scope="module")
def stated(tmp_path_factory) -> bytes:
    return provenance.statement(
        attested.recipe(tmp_path_factory.mktemp("recipe")),
        Platform.AWS_ENCLAVE,
        file="image.eif",
        digest=DIGEST,
        measurements=MEASUREMENTS,
        inputs=INPUTS,
        beside=BILL,
    )


def enveloped(payload: bytes, key=PRODUCER, kind: str = provenance.PAYLOAD_TYPE) -> bytes:
    return signing.sign(payload, [key], kind)


@pytest.mark.parametrize("kind", KEYS)
def test_what_is_signed_by_a_key_file_is_read_back(stated, tmp_path, kind):
    private, public = write(tmp_path / "key", KEYS[kind])
    found = verify(sign(stated, private), [public.read_text()], digest=DIGEST, measurements=MEASUREMENTS)
    assert (found.file, found.digest, found.measurements) == ("image.eif", DIGEST, MEASUREMENTS)
    assert (found.name, found.platform) == ("server", Platform.AWS_ENCLAVE)
    assert found.dependencies == {
        "packages/libc6": "b" * 64,
        "wheels/numpy": "e" * 64,
        "kernel/image": "a" * 64,
        f"files/{attested.FILE}": "c" * 64,
    }
    assert (found.tools, found.beside) == (INPUTS["tools"], BILL)


def test_a_key_that_openssl_made_for_model_signing_signs_provenance(stated, tmp_path):
    """The command of its README (sigstore/model-transparency) for the key method."""
    private = tmp_path / "key.priv"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
    public = openssl("ec", "-in", private, "-pubout").decode()
    assert verify(sign(stated, private), [public], digest=DIGEST).digest == DIGEST


def test_in_toto_s_own_types_take_the_statement_without_a_member_left_over(stated):
    """Independent oracle: the protocol buffers of in-toto/attestation, which refuse unknown members."""
    json_format = pytest.importorskip("google.protobuf.json_format")
    types = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    wrapper = pytest.importorskip("in_toto_attestation.v1.statement")
    predicates = pytest.importorskip("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    wrapper.Statement.copy_from_pb(json_format.Parse(stated, types.Statement())).validate()
    predicate = json_format.ParseDict(json.loads(stated)["predicate"], predicates.Provenance())
    assert predicate.build_definition.build_type == provenance.BUILD_TYPE
    assert predicate.run_details.builder.id == provenance.BUILDER
    dependencies = {one.name: one for one in predicate.build_definition.resolved_dependencies}
    assert dependencies["packages/libc6"].uri == "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1"
    assert dependencies["packages/libc6"].digest["sha256"] == "b" * 64
    with pytest.raises(json_format.ParseError):
        json_format.Parse(stated.replace(b'"subject"', b'"subjects"', 1), types.Statement())


@pytest.mark.parametrize("kind", KEYS)
def test_securesystemslib_verifies_it(stated, tmp_path, kind):
    """Independent oracle: the implementation of DSSE that in-toto and TUF use."""
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    public = KEYS[kind].public_key()
    key = signer.SSlibKey.from_crypto(public, keyid=signing.identity(public))
    data = json.loads(sign(stated, write(tmp_path / "key", KEYS[kind])[0]))
    found = dsse.Envelope.from_dict(copy.deepcopy(data))
    assert set(found.verify([key], 1)) == {key.keyid}
    found.payload += b" "
    with pytest.raises(pytest.importorskip("securesystemslib.exceptions").VerificationError):
        found.verify([key], 1)


def test_what_securesystemslib_signs_is_verified(stated):
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    other = dsse.Envelope(stated, provenance.PAYLOAD_TYPE, {})
    other.sign(signer.CryptoSigner(PRODUCER))
    assert verify(json.dumps(other.to_dict()).encode(), SIGNERS, digest=DIGEST).digest == DIGEST


def test_openssl_verifies_the_encoding_that_dsse_signs(stated, tmp_path):
    """Independent oracle: the pre-authentication encoding, written out by hand."""
    private, public = write(tmp_path / "key", KEYS["p384"])
    envelope = json.loads(sign(stated, private))
    kind = "application/vnd.in-toto+json"
    (tmp_path / "text").write_bytes(f"DSSEv1 {len(kind)} {kind} {len(stated)} ".encode() + stated)
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    said = openssl("dgst", "-sha384", "-verify", public, "-signature", tmp_path / "sig", tmp_path / "text")
    assert b"Verified OK" in said


def test_the_same_build_is_said_the_same(stated, tmp_path):
    again = provenance.statement(
        attested.recipe(tmp_path / "elsewhere"),
        Platform.AWS_ENCLAVE,
        file="image.eif",
        digest=DIGEST,
        measurements=dict(reversed(MEASUREMENTS.items())),
        inputs=dict(reversed(INPUTS.items())),
        beside=BILL,
    )
    assert again == stated
    private, _ = write(tmp_path / "key", PRODUCER)
    assert sign(again, private) == sign(stated, private)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        pytest.param(
            {"digest": f"sha256:{'8' * 64}"}, "is about sha256:999", id="provenance-of-another-image"
        ),
        pytest.param({"digest": "9" * 64}, "is about", id="digest-without-its-algorithm"),
        pytest.param(
            {"digest": DIGEST, "measurements": {**MEASUREMENTS, "PCR0": "4" * 96}},
            "the image has 444",
            id="released-measurement-that-nobody-built",
        ),
        pytest.param(
            {"digest": DIGEST, "measurements": {**MEASUREMENTS, "PCR8": "4" * 96}},
            "says nothing",
            id="signed-enclave-that-was-built-unsigned",
        ),
        pytest.param(
            {"digest": DIGEST, "measurements": {"PCR0": "1" * 96}},
            "the image has none",
            id="fewer-measurements",
        ),
    ],
)
def test_it_must_be_about_the_image_that_is_asked_for(stated, asked, says):
    with pytest.raises(BadProvenance, match=says) as caught:
        verify(enveloped(stated), SIGNERS, **asked)
    assert "subject" in caught.value.where


@pytest.mark.parametrize(
    ("signers", "says"),
    [
        pytest.param([], "signed by 0", id="nobody-pinned"),
        pytest.param([pem(signing_key("stranger"))], "signed by 0", id="signed-by-a-stranger"),
        pytest.param([pem(rsa_key("first", 2048))], "is no key that signs", id="key-of-a-kind-nobody-uses"),
        pytest.param(["-----BEGIN"], "no public key", id="signer-that-is-no-key"),
    ],
)
def test_only_pinned_keys_count(stated, signers, says):
    with pytest.raises(JewelhouseError, match=says):
        verify(enveloped(stated), signers, digest=DIGEST)


def test_a_manifest_of_weights_by_the_same_key_is_no_provenance(stated):
    data = enveloped(stated, kind=signing.PAYLOAD_TYPE)
    relabelled = data.replace(signing.PAYLOAD_TYPE.encode(), provenance.PAYLOAD_TYPE.encode())
    with pytest.raises(BadProvenance, match="payloadType"):
        verify(data, SIGNERS, digest=DIGEST)
    with pytest.raises(BadProvenance, match="signed by 0"):
        verify(relabelled, SIGNERS, digest=DIGEST)


def changed(path: str, value: object):
    """Sets `predicate/runDetails.builder/id` and the like, numbers index lists; `...` removes."""

    def change(body):
        parts: list[Any] = [int(part) if part.isdigit() else part for part in path.split("/")]
        *parents, last = parts
        inner: Any = functools.reduce(lambda found, part: found[part], parents, body)
        if value is ...:
            del inner[last]
        elif isinstance(inner, list) and last == len(inner):
            inner.append(value)
        else:
            inner[last] = value
        return body

    return change


DEFINITION = "predicate/buildDefinition"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(changed("_type", "https://in-toto.io/Statement/v0.1"), "no SLSA", id="older-statement"),
        pytest.param(
            changed("predicateType", "https://slsa.dev/verification_summary/v1"),
            "no SLSA",
            id="summary-that-is-no-provenance",
        ),
        pytest.param(changed(f"{DEFINITION}/buildType", "other"), "build of type", id="build-by-other-rules"),
        pytest.param(
            changed("predicate/runDetails/builder/id", "other"), "not of the builder", id="other-builder"
        ),
        pytest.param(changed("subject", []), "one image", id="about-nothing"),
        pytest.param(changed("subject", {}), "no list", id="subject-that-is-no-list"),
        pytest.param(
            changed("subject/4", {"name": "other.eif", "digest": {"sha256": "8" * 64}}),
            "one image",
            id="two-images-in-one-statement",
        ),
        pytest.param(
            changed("subject/4", {"name": "other.eif#PCR0", "digest": {"sha384": "8" * 96}}),
            "one image",
            id="measurement-of-another-image",
        ),
        pytest.param(
            changed("subject/4", {"name": "image.eif", "digest": {"sha256": "8" * 64}}),
            "twice",
            id="one-image-with-two-digests",
        ),
        pytest.param(changed("subject/0/digest/sha512", "0" * 128), "one digest", id="second-digest"),
        pytest.param(changed("subject/0/digest", {"sha1": "9" * 40}), "no digest", id="weak-digest"),
        pytest.param(changed("subject/0/digest", {"sha384": "9" * 64}), "no digest", id="mislabelled-digest"),
        pytest.param(changed("subject/0/digest/sha256", "G" * 64), "no digest", id="digits-that-are-none"),
        pytest.param(changed("subject/0/digest/sha256", "A" * 64), "no digest", id="upper-case-twin"),
        pytest.param(changed("subject/0/digest/sha256", 9), "no digest", id="number-for-a-digest"),
        pytest.param(changed("predicate", []), "must have", id="predicate-that-is-no-object"),
        pytest.param(changed("signed", True), "must have", id="member-that-nobody-reads"),
        pytest.param(changed(f"{DEFINITION}/resolvedDependencies", ...), "must have", id="no-dependencies"),
        pytest.param(
            changed(f"{DEFINITION}/externalParameters/platform", "aws"), "no platform", id="unknown-platform"
        ),
        pytest.param(
            changed(f"{DEFINITION}/externalParameters/platform", ["aws-enclave"]),
            "no platform",
            id="list-of-platforms",
        ),
        pytest.param(
            changed(f"{DEFINITION}/externalParameters/recipe/digest", None), "hold text", id="recipe-of-null"
        ),
    ],
)
def test_a_pinned_key_does_not_make_a_malformed_statement_right(stated, change, says):
    body = change(json.loads(stated))
    with pytest.raises(BadProvenance, match=says):
        verify(enveloped(json.dumps(body).encode()), SIGNERS, digest=DIGEST)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        pytest.param(b'{"_type": 1, "_type": 2}', "there twice", id="member-twice"),
        pytest.param(b'{"_type": NaN}', "no number", id="number-that-is-none"),
        pytest.param(b"\xff", "not JSON", id="no-text"),
        pytest.param(b"[" * 100_000, "not JSON", id="nested-without-end"),
        pytest.param(b"[]", "must have", id="list"),
        pytest.param(b"", "not JSON", id="nothing"),
    ],
)
def test_payloads_that_are_no_statement_are_refused(payload, says):
    with pytest.raises(BadProvenance, match=says):
        verify(enveloped(payload), SIGNERS, digest=DIGEST)


def test_a_subject_that_is_there_twice_is_refused_whichever_is_read(stated):
    other = stated.replace(b"9" * 64, b"8" * 64)
    first = stated[:-1] + b"," + other[1:]
    with pytest.raises(BadProvenance, match="there twice"):
        verify(enveloped(first), SIGNERS, digest=DIGEST)


def test_an_envelope_without_end_is_not_read():
    with pytest.raises(BadProvenance, match="more than"):
        verify(b" " * (provenance.LARGEST + 1), SIGNERS, digest=DIGEST)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_of_an_envelope_is_refused_or_says_the_same(stated, data):
    whole = enveloped(stated)
    right = verify(whole, SIGNERS, digest=DIGEST)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    with contextlib.suppress(BadProvenance):
        # The hint of who signed is not signed, and base64 has two alphabets.
        assert verify(damaged, SIGNERS, digest=DIGEST) == right


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_stands_anywhere_in_a_signed_statement_is_refused_or_read(stated, data):
    """A pinned key that signs nonsense: an answer, never a crash, and never about another image."""
    body: Any = json.loads(stated)
    inner, steps = body, data.draw(st.integers(0, 5))
    for _ in range(steps):
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(inner[key], (dict, list)) or not inner[key]:
            break
        inner = inner[key]
    keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
    inner[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    with contextlib.suppress(BadProvenance):
        assert verify(enveloped(json.dumps(body).encode()), SIGNERS, digest=DIGEST).digest == DIGEST


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused(data):
    with pytest.raises(BadProvenance):
        verify(data, SIGNERS, digest=DIGEST)
