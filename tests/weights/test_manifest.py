"""The manifest: one encoding, one meaning, and only what a pinned signer signed."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import timedelta

import jsonschema
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import PROJECT
from sealed import NOW, ODD, PRODUCER, YEAR, pem, signing_key, trust

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import ArtifactKind
from jewelhouse.weights import canonical, paths, schema, signing
from jewelhouse.weights.manifest import (
    SHARD,
    Extension,
    File,
    MalformedManifest,
    Manifest,
    Trust,
    Untrusted,
    Wrapped,
    associated_data,
    decode,
    encode,
    envelope,
    read,
)

DIGEST = bytes(range(32))
MANIFEST = Manifest(
    artifact="base",
    kind=ArtifactKind.WEIGHTS,
    version=7,
    wrapping=2,
    created=NOW,
    expires=NOW + YEAR,
    producer="tests",
    data="7-0123456789abcdef",
    files=(File("a/b", 5, (DIGEST,)), File("empty", 0, ()), File("large", SHARD + 1, (DIGEST, DIGEST))),
    directories=("a/void",),
    keys=(
        Wrapped(key="arn:aws:kms:x", algorithm="RSA-OAEP-256", public="ab" * 32, ciphertext=bytes(512)),
        Wrapped(
            key="https://vault/keys/k/1",
            algorithm="RSA-OAEP-256",
            public="cd" * 32,
            ciphertext=bytes(512),
            policy="ef" * 32,
        ),
    ),
)


def changed(**values):
    return dataclasses.replace(MANIFEST, **values)


def body(**values):
    """The payload with members replaced, however wrong; `...` leaves one out."""
    found = {**json.loads(encode(MANIFEST)), **values}
    return canonical.encoded({name: value for name, value in found.items() if value is not ...})


def signed(payload: bytes, *names: str) -> bytes:
    return signing.sign(payload, [signing_key(name) for name in names or ("producer",)])


def test_what_is_written_is_read():
    assert decode(encode(MANIFEST)) == MANIFEST
    assert read(envelope(MANIFEST, [PRODUCER]), trust(), now=NOW, artifact="base") == MANIFEST


def test_the_encoding_is_that_of_another_implementation_of_rfc_8785():
    odd = changed(files=tuple(File(name, 0, ()) for name in sorted(ODD)), directories=())
    assert encode(odd) == rfc8785.dumps(json.loads(encode(odd)))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-canonical.LARGEST, canonical.LARGEST)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner),
    max_leaves=20,
)


@given(values)
@settings(max_examples=100)
def test_canonical_json_is_that_of_another_implementation(value):
    assert canonical.write(value) == rfc8785.dumps(value)
    assert canonical.read(canonical.write(value)) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(b'{"a":1,"a":2}', "there twice", id="a-member-twice"),
        pytest.param(b'{"b":1,"a":2}', "canonical", id="members-in-another-order"),
        pytest.param(b'{"a": 1}', "canonical", id="blanks"),
        pytest.param(b'{"a":1.0}', "whole number", id="fractions"),
        pytest.param(b'{"a":1e3}', "whole number", id="exponents"),
        pytest.param(b'{"a":NaN}', "no number", id="not-a-number"),
        pytest.param(b'{"a":9007199254740992}', "larger", id="numbers-that-a-double-loses"),
        pytest.param(b'"\\u0041"', "canonical", id="escapes-that-are-not-needed"),
        pytest.param(b'"\\ud800"', "surrogates", id="lone-surrogates"),
        pytest.param(b'{"\xc3\xa4":1}', "name a member", id="members-whose-order-is-unclear"),
        pytest.param(b"[" * 100_000, "deep", id="nested-without-end"),
        pytest.param(b"\xff\xfe", "decode", id="not-utf-8"),
        pytest.param(b"", "Expecting value", id="nothing"),
    ],
)
def test_json_that_others_could_read_otherwise_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        canonical.read(text)


def test_the_published_schema_is_current_and_fits():
    published = json.loads((PROJECT / "docs/manifest.schema.json").read_text())
    assert published == schema.schema(), "run `make docs`"
    jsonschema.Draft202012Validator.check_schema(published)
    jsonschema.validate(json.loads(encode(MANIFEST)), published)
    odd = changed(files=tuple(File(name, 0, ()) for name in sorted(ODD)), directories=())
    jsonschema.validate(json.loads(encode(odd)), published)


FILES = json.loads(encode(MANIFEST))["files"]
KEYS = json.loads(encode(MANIFEST))["keys"]


def files(*names):
    return [{"path": name, "shards": [], "size": 0} for name in names]


@pytest.mark.parametrize(
    ("values", "says", "schema_too"),
    [
        pytest.param({"format": "jewelhouse.weights/v2"}, "this kit reads", True, id="another-format"),
        pytest.param({"cipher": "AES128_GCM"}, "this kit reads", True, id="a-weaker-cipher"),
        pytest.param({"extra": 1}, "'extra' is not known", True, id="an-unknown-member"),
        pytest.param({"expires": ...}, "'expires' is missing", True, id="no-end-of-validity"),
        pytest.param({"version": 0}, "from 1", True, id="version-zero"),
        pytest.param({"version": True}, "from 1", True, id="a-version-that-is-yes"),
        pytest.param({"version": "7"}, "from 1", True, id="a-version-that-is-text"),
        pytest.param({"wrapping": -1}, "from 1", True, id="a-negative-wrapping"),
        pytest.param({"artifact": "../base"}, "does not match", True, id="an-artifact-that-is-a-path"),
        pytest.param({"artifact": "base\n"}, "does not match", False, id="an-artifact-with-a-line-end"),
        pytest.param({"kind": "asset"}, "is none of", True, id="an-unknown-kind"),
        pytest.param({"kind": []}, "is none of", True, id="a-kind-that-is-a-list"),
        pytest.param({"created": "2026-11-23"}, "is not a time", True, id="a-day-without-time"),
        pytest.param({"expires": "2026-13-23T10:00:00Z"}, "is not a time", False, id="a-thirteenth-month"),
        pytest.param({"expires": "2025-11-23T10:00:00Z"}, "expires before", False, id="expired-at-birth"),
        pytest.param({"expires": None}, "is not a time", True, id="never-expires"),
        pytest.param({"producer": "\x1b[2J"}, "printable", False, id="a-producer-that-clears-terminals"),
        pytest.param({"data": "6-0123456789abcdef"}, "another version", False, id="data-of-another-version"),
        pytest.param({"data": "7-0123456789abcdef/.."}, "does not match", True, id="data-elsewhere"),
        pytest.param({"files": {}}, "is not a list", True, id="files-that-are-no-list"),
        pytest.param({"files": [1]}, "is not an object", True, id="a-file-that-is-a-number"),
        pytest.param({"files": [{**FILES[0], "mode": 1}]}, "not known", True, id="a-member-of-a-file"),
        pytest.param({"files": files("a", "a")}, "there twice", False, id="a-path-twice"),
        pytest.param({"files": files("d", "c")}, "not in order", False, id="files-out-of-order"),
        pytest.param({"files": files("/etc/passwd")}, "is absolute", True, id="an-absolute-path"),
        pytest.param({"files": files("../x")}, "leads out", True, id="a-path-that-leads-out"),
        pytest.param({"files": files("a/../../x")}, "leads out", True, id="a-path-that-leads-out-later"),
        pytest.param({"files": files("..")}, "leads out", True, id="the-parent"),
        pytest.param({"files": files("./a")}, "empty part", True, id="a-dot"),
        pytest.param({"files": files("a//b")}, "empty part", True, id="two-slashes"),
        pytest.param({"files": files("a/")}, "empty part", True, id="a-slash-at-the-end"),
        pytest.param({"files": files("")}, "is empty", True, id="no-path"),
        pytest.param({"files": files("a\0.txt")}, "NUL", True, id="a-path-cut-by-nul"),
        pytest.param({"files": files("A", "a")}, "only in case", False, id="case-collision"),
        pytest.param({"files": files("D/x", "d/y")}, "only in case", False, id="directories-in-another-case"),
        pytest.param(
            {"files": files("STRASSE", "straße")}, "only in case", False, id="case-collision-of-sharp-s"
        ),
        pytest.param(
            {"files": files("e\u0301", "\u00e9")}, "only in case", False, id="normalisation-collision"
        ),
        pytest.param({"files": files("a", "a/b")}, "file and a directory", False, id="a-file-as-directory"),
        pytest.param({"files": files("a/b", "a/b/c/d")}, "file and a directory", False, id="and-deeper"),
        pytest.param({"files": files("x" * 256)}, "longer than 255", False, id="a-name-too-long"),
        pytest.param({"files": files("x/" * 2000 + "x")}, "longer than 3072", False, id="a-path-too-long"),
        pytest.param(
            {"files": files(f"{paths.PARTIAL}/x")}, "unfinished", False, id="a-path-where-unsealing-works"
        ),
        pytest.param({"files": files("void"), "directories": ["void"]}, "file and a d", False, id="both"),
        pytest.param({"directories": ["a"]}, "holds something", False, id="an-empty-directory-with-files"),
        pytest.param({"directories": [7]}, "no path", True, id="a-directory-that-is-a-number"),
        pytest.param({"files": [{**FILES[0], "size": -1}]}, "no count", True, id="a-negative-size"),
        pytest.param({"files": [{**FILES[0], "size": True}]}, "no count", True, id="a-size-that-is-yes"),
        pytest.param({"files": [{**FILES[0], "shards": []}]}, "one digest", False, id="no-digest"),
        pytest.param(
            {"files": [{**FILES[2], "shards": FILES[2]["shards"][:1]}]},
            "one digest",
            False,
            id="short",
        ),
        pytest.param({"files": [{**FILES[0], "shards": ["AB" * 32]}]}, "SHA-256", True, id="upper-case-hex"),
        pytest.param({"files": [{**FILES[0], "shards": ["ab"]}]}, "SHA-256", True, id="a-digest-too-short"),
        pytest.param({"keys": []}, "1 to 64", True, id="nobody-can-open-it"),
        pytest.param({"keys": [KEYS[0], KEYS[0]]}, "different keys", False, id="a-key-twice"),
        pytest.param({"keys": [{**KEYS[0], "algorithm": "RSA1_5"}]}, "RSA-OAEP-256", True, id="pkcs1"),
        pytest.param({"keys": [{**KEYS[0], "ciphertext": "AAAA"}]}, "4096", False, id="a-small-rsa-key"),
        pytest.param({"keys": [{**KEYS[0], "ciphertext": "?"}]}, "base64", False, id="not-base64"),
        pytest.param({"keys": [{**KEYS[0], "key": "a b"}]}, "does not match", True, id="identity-with-blank"),
        pytest.param({"keys": [{**KEYS[0], "policy": "x"}]}, "does not match", True, id="a-policy-no-digest"),
        pytest.param({"extensions": {"x": {"value": "1"}}}, "missing", True, id="an-extension-that-hides"),
        pytest.param(
            {"extensions": {"x": {"value": "1", "critical": 0}}}, "critical", True, id="critical-zero"
        ),
    ],
)
def test_a_manifest_that_is_not_one_is_refused_by_its_reader(values, says, schema_too):
    """What the published schema can say it says too."""
    with pytest.raises(MalformedManifest, match=says):
        read(signed(body(**values)), trust(), now=NOW, artifact="base")
    validator = jsonschema.Draft202012Validator(schema.schema())
    if schema_too:
        assert not validator.is_valid(json.loads(body(**values)))


@pytest.mark.parametrize(
    ("manifest", "signers", "settings_", "now", "says"),
    [
        pytest.param({}, ("stranger",), {}, NOW, "signed by 0 of the pinned", id="an-unknown-signer"),
        pytest.param({"version": 7}, (), {"minimum_version": 8}, NOW, "floor is 8", id="rolled-back-version"),
        pytest.param({}, (), {"minimum_wrapping": 3}, NOW, "floor is 3", id="a-retired-wrapping"),
        pytest.param({}, (), {}, NOW + YEAR, "expired", id="expired-at-this-very-second"),
        pytest.param({}, (), {}, NOW - timedelta(hours=1), "in the future", id="a-clock-turned-back"),
        pytest.param({"artifact": "adapter"}, (), {}, NOW, "expected base", id="another-artifact"),
        pytest.param(
            {"extensions": {"quorum": Extension(value="2", critical=True)}},
            (),
            {},
            NOW,
            "does not know quorum",
            id="a-critical-extension-of-tomorrow",
        ),
    ],
)
def test_a_manifest_that_this_reader_must_not_believe(manifest, signers, settings_, now, says):
    data = signed(encode(changed(**manifest)), *signers)
    with pytest.raises(Untrusted, match=says):
        read(data, trust(**settings_), now=now, artifact="base")


def test_an_extension_that_is_not_critical_is_kept():
    found = changed(extensions={"note": Extension(value="hello", critical=False)})
    assert read(signed(encode(found)), trust(), now=NOW, artifact="base") == found


def test_the_floor_itself_is_accepted():
    assert read(signed(encode(MANIFEST)), trust(minimum_version=7), now=NOW, artifact="base").version == 7


def test_nothing_is_believed_before_the_signature():
    """Not even that it is malformed: whoever writes to the store cannot choose the reader's next step."""
    for payload in (b"", b"{", body(version=0), body(artifact="other")):
        with pytest.raises(Untrusted, match="signed by 0"):
            read(signed(payload, "stranger"), trust(), now=NOW, artifact="base")


def test_a_payload_changed_after_signing_is_refused():
    document = json.loads(envelope(MANIFEST, [PRODUCER]))
    document["payload"] = base64.b64encode(encode(changed(version=8, data="8-0123456789abcdef"))).decode()
    with pytest.raises(Untrusted, match="signed by 0"):
        read(json.dumps(document).encode(), trust(), now=NOW, artifact="base")


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        pytest.param({"signers": ()}, "among 0", id="nobody-is-pinned"),
        pytest.param({"threshold": 0}, "of 0 among", id="nobody-has-to-sign"),
        pytest.param({"threshold": 2}, "of 2 among 1", id="more-must-sign-than-are-pinned"),
        pytest.param(
            {"signers": (pem(PRODUCER), pem(PRODUCER)), "threshold": 2},
            "of 2 among 1",
            id="twice",
        ),
        pytest.param({"minimum_version": 0}, "below 1", id="a-floor-under-the-floor"),
        pytest.param({"signers": ("nonsense",)}, "no public key", id="a-signer-that-is-no-key"),
    ],
)
def test_trust_settings_that_would_accept_anything_are_refused(settings_, says):
    with pytest.raises(JewelhouseError, match=says):
        Trust(**{"signers": (pem(PRODUCER),), **settings_})


def test_a_manifest_that_no_reader_accepts_is_not_signed():
    with pytest.raises(MalformedManifest, match="printable"):
        envelope(changed(producer="\n"), [PRODUCER])


def test_what_encryption_binds_differs_with_each_of_its_parts():
    bound = {
        associated_data(artifact, version, path)
        for artifact in ("base", "base1")
        for version in (1, 11)
        for path in ("1/a", "a", 'a",1', "a\n", "模型")
    }
    assert len(bound) == 20
    assert associated_data("base", 7, 'q"模') == rfc8785.dumps(["jewelhouse.weights/v1", "base", 7, 'q"模'])


def test_a_manifest_opens_by_the_key_that_it_names():
    assert MANIFEST.wrapped("arn:aws:kms:x").public == "ab" * 32
    with pytest.raises(Untrusted, match="is not sealed to arn:other"):
        MANIFEST.wrapped("arn:other")


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)


@given(st.lists(names, max_size=8))
@settings(max_examples=60)
def test_any_names_that_do_not_meet_are_carried_exactly(found):
    if any(True for _ in paths.faults(sorted(found))):
        return
    manifest = changed(files=tuple(File(name, 0, ()) for name in sorted(found)), directories=())
    assert decode(encode(manifest)).files == manifest.files


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_a_reader_of_any_bytes_answers_with_its_own_errors(data):
    for raw in (data, signed(data)):
        with pytest.raises((MalformedManifest, Untrusted)):
            read(raw, trust(), now=NOW, artifact="base")


@given(st.data())
@settings(max_examples=150)
def test_a_signed_manifest_with_a_part_replaced_is_read_as_written_or_refused(data):
    """Fuzzing behind the signature: whatever is accepted means exactly its bytes."""
    payload = bytearray(encode(MANIFEST))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        found = read(signed(bytes(payload)), trust(), now=NOW, artifact="base")
    except (MalformedManifest, Untrusted):
        return
    assert encode(found) == payload


@given(st.data())
@settings(max_examples=100)
def test_an_envelope_with_a_part_replaced_says_the_same_or_is_refused(data):
    raw = bytearray(signed(encode(MANIFEST)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at : at + data.draw(st.integers(1, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = read(bytes(raw), trust(), now=NOW, artifact="base")
    except (MalformedManifest, Untrusted):
        return
    assert found == MANIFEST
