"""Documents of Nitro Enclaves and NitroTPM: real ones by their own time, minted ones with one thing wrong."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import timedelta
from typing import Any

import cbor2
import pytest
import real
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import appraise, nitro
from jewelhouse.evidence.verdict import Kind, MalformedEvidence
from jewelhouse.rehearsal.minting_nitro import AT, Authority, debug_registers, encoded, recipient, registers

AUTHORITY = Authority.new()
OTHER = Authority.new(name="other root")
CURVE = OTHER.keys[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
TPM = Kind.NITRO_TPM


def judged(data: bytes, **others):
    return nitro.verify(data, **{"at": AT, "roots": AUTHORITY.roots, **others})


# Real documents.


@pytest.mark.parametrize(
    ("name", "debug", "nonzero", "issued"),
    [
        ("evervault-valid.bin", False, {0, 1, 2, 3, 4, 8}, "2022-10-13T08:58:02Z"),
        ("evervault-debug.bin", True, {3, 4}, "2022-10-12T13:50:06Z"),
        ("oyster-aws.bin", False, {0, 1, 2, 4}, "2024-12-13T07:37:58Z"),
        ("dstack-nsm-qvl.bin", False, {0, 1, 2, 4}, "2025-12-25T13:15:37Z"),
    ],
)
def test_documents_signed_by_aws_verify_at_their_own_time_and_not_now(name, debug, nonzero, issued):
    data = real.evidence(f"aws-nitro/{name}")
    verdict = appraise.verify(data, at=None)
    assert (verdict.kind, verdict.verified, verdict.debug) == (Kind.NITRO_ENCLAVE, True, debug)
    assert {f"PCR{index}" for index in nonzero} == {
        register for register, value in verdict.measurements.items() if int(value, 16)
    }
    assert verdict.json()["issued"] == issued
    assert "aws.nitro-enclaves" in verdict.chain[-1]
    assert verdict.issued is not None
    later = appraise.verify(data, at=verdict.issued + timedelta(days=2))
    assert not later.verified
    assert "is valid from" in later.problems[0].what


def test_the_foreign_document_is_refused_for_its_root_and_nothing_else():
    verdict = appraise.verify(real.evidence("aws-nitro/oyster-custom-root.bin"), at=None)
    assert not verdict.verified
    assert [problem.where for problem in verdict.problems if problem.where != "module_id"] == ["cabundle[0]"]
    assert "CN=root" in verdict.problems[0].what
    assert "Root-G1" in verdict.problems[0].what


def test_the_pinned_root_is_the_published_certificate():
    pem = real.evidence("aws-nitro/AWS_NitroEnclaves_Root-G1.pem")
    fingerprint = x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()
    assert [root.fingerprint for root in nitro.ROOTS] == [fingerprint]


def test_pcr4_is_that_of_the_instance_in_the_module_id():
    verdict = appraise.verify(real.evidence("aws-nitro/oyster-aws.bin"), at=None)
    instance = verdict.claims["module_id"].split("-enc")[0].encode()
    assert verdict.measurements["PCR4"] == hashlib.sha384(bytes(48) + instance).hexdigest()


# Minted documents that hold.


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("indefinite", [False, True])
@pytest.mark.parametrize("kind", [Kind.NITRO_ENCLAVE, Kind.NITRO_TPM])
def test_every_encoding_of_both_kinds_verifies(kind, tagged, indefinite):
    verdict = judged(AUTHORITY.document(kind=kind, tagged=tagged, indefinite=indefinite))
    assert verdict.verified, verdict.problems
    assert (verdict.kind, verdict.debug) == (kind, False)
    assert verdict.measurements == {f"PCR{index}": value.hex() for index, value in registers(kind).items()}
    assert len(verdict.chain) == 5


def test_the_document_decides_the_moment_when_asked():
    verdict = judged(AUTHORITY.document(), at=None)
    assert (verdict.verified, verdict.at) == (True, AT)


def test_the_challenge_is_compared():
    data = AUTHORITY.document(nonce=b"challenge")
    assert judged(data, nonce=b"challenge").verified
    assert judged(data).verified
    assert any("freshness" in line for line in judged(data).checked)


@pytest.mark.parametrize(
    ("key", "usable"),
    [(None, False), (b"x" * 19, False), (CURVE, False), (recipient(1024), False), (recipient(), True)],
    ids=["none", "junk", "P-384", "RSA 1024", "RSA 2048"],
)
def test_a_public_key_may_be_anything_and_the_claims_say_whether_kms_could_use_it(key, usable):
    verdict = judged(AUTHORITY.document(public_key=key))
    assert verdict.verified
    assert verdict.claims["public_key_usable"] is usable


def test_a_debug_enclave_is_verified_and_called_debug():
    verdict = judged(AUTHORITY.document(pcrs=debug_registers()))
    assert (verdict.verified, verdict.debug) == (True, True)
    assert int(verdict.measurements["PCR3"], 16)


def test_a_document_that_leaves_out_the_registers_of_the_image_is_called_debug():
    only_role = {3: b"\x03" * 48}
    assert judged(AUTHORITY.sign(encoded(AUTHORITY.fields(pcrs=only_role)))).debug


@pytest.mark.parametrize("milliseconds", [1, 7, 123, 999])
def test_the_timestamp_is_shown_to_the_millisecond(milliseconds):
    stated = int(AT.timestamp() * 1000) + milliseconds
    verdict = judged(AUTHORITY.document(timestamp=stated), at=None)
    assert verdict.claims["timestamp"] == stated
    assert verdict.at == AT + timedelta(milliseconds=milliseconds)


def test_registers_that_the_guest_extended_are_shown():
    verdict = judged(AUTHORITY.document(pcrs={16: b"\x01" * 48}))
    assert verdict.measurements["PCR16"] == "01" * 48


# Minted documents with one thing wrong.


@pytest.mark.parametrize(
    ("attack", "data", "where", "says"),
    [
        ("foreign root", OTHER.document(), "cabundle[0]", "other root"),
        ("signed by another key", AUTHORITY.document(signer=OTHER.keys[-1]), "signature", "does not hold"),
        (
            "leaf of another chain",
            AUTHORITY.document(certificate=OTHER.fields()["certificate"], signer=OTHER.keys[-1]),
            "certificate",
            "",
        ),
        (
            "intermediate left out",
            AUTHORITY.document(cabundle=AUTHORITY.fields()["cabundle"][:2]),
            "certificate",
            "",
        ),
        (
            "from the future",
            AUTHORITY.document(timestamp=int(AT.timestamp() * 1000) + 60_000),
            "timestamp",
            "after",
        ),
        ("enclave says it is a TPM", AUTHORITY.document(module_id="i-01-tpm0"), "module_id", "not one of"),
        ("no certificate", AUTHORITY.document(certificate=b"junk"), "certificate", "cannot be read"),
        ("junk in the bundle", AUTHORITY.document(cabundle=[b"junk"]), "certificate", "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_hold_is_not_verified(attack, data, where, says):
    verdict = judged(data)
    assert not verdict.verified
    assert any(problem.where == where and says in problem.what for problem in verdict.problems)


def issued(depth: int, **changes: Any) -> bytes:
    """A document under another leaf, which the certificate at `depth` issued."""
    leaf, key = AUTHORITY.below(depth, **changes)
    bundle = [one.public_bytes(Encoding.DER) for one in AUTHORITY.certificates[: depth + 1]]
    return AUTHORITY.document(certificate=leaf, cabundle=bundle, signer=key)


def test_another_leaf_of_the_instance_is_as_good():
    assert judged(issued(3)).verified


@pytest.mark.parametrize(
    ("attack", "data", "says"),
    [
        ("leaf issues a leaf", issued(4), "cA must be asserted"),
        ("leaf issues a CA", issued(4, ca=True), ""),
        ("CA in the place of the leaf", issued(3, ca=True, usage="digital_signature"), "of a CA"),
        ("leaf for certificates", issued(3, usage="key_cert_sign"), "digitalSignature"),
        ("leaf for nothing", issued(3, usage=None), ""),
        ("leaf before its time", issued(3, since=AT + timedelta(minutes=1)), "is valid from"),
        ("leaf after its time", issued(3, until=AT - timedelta(minutes=1)), "is valid from"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rules_of_the_chain(attack, data, says):
    (problem,) = judged(data).problems
    assert problem.where == "certificate"
    assert says in problem.what


def test_a_ca_whose_key_is_not_for_certificates_issues_nothing():
    made = Authority.new(ca_usage="crl_sign")
    (problem,) = judged(made.document(), roots=made.roots).problems
    assert "keyCertSign" in problem.what


def test_a_leaf_on_another_curve_signs_nothing():
    leaf, key = AUTHORITY.below(3, curve=ec.SECP256R1())
    verdict = judged(AUTHORITY.document(certificate=leaf, signer=key))
    assert any("not on P-384" in problem.what for problem in verdict.problems)


def test_a_maze_of_certificates_ends_soon():
    maze = Authority.new(name="maze").maze(width=4, depth=6)
    bundle = [AUTHORITY.fields()["cabundle"][0], *maze[1:]]
    (problem,) = [
        one
        for one in judged(AUTHORITY.document(certificate=maze[0], cabundle=bundle)).problems
        if one.where == "certificate"
    ]
    assert "validation failed" in problem.what


def test_names_of_foreign_certificates_do_not_reach_the_terminal_as_they_are():
    hostile = Authority.new(name="root\x1b[2J\u202e")
    verdict = judged(hostile.document(module_id="i-\x1b[2J"))
    assert not verdict.verified
    shown = [*verdict.chain, *(problem.what for problem in verdict.problems)]
    assert all(text.isprintable() for text in shown)


def test_registers_of_another_digest_are_not_what_kms_compares():
    values = AUTHORITY.fields(digest="SHA256", pcrs={0: b"\x01" * 32})
    verdict = judged(AUTHORITY.sign(encoded(values)))
    assert [problem.where for problem in verdict.problems] == ["digest"]


@pytest.mark.parametrize(
    ("shown", "asked"), [(b"old", b"new"), (None, b"new"), (b"", b"new"), (b"", b""), (b"newer", b"new")]
)
def test_a_replayed_document_does_not_answer_the_challenge(shown, asked):
    verdict = judged(AUTHORITY.document(nonce=shown), nonce=asked)
    assert [problem.where for problem in verdict.problems] == ["nonce"]


@pytest.mark.parametrize("hours", [3, 24, 24 * 400])
def test_a_stale_document_is_refused(hours):
    verdict = judged(AUTHORITY.document(), at=AT + timedelta(hours=hours))
    assert [problem.where for problem in verdict.problems] == ["certificate"]


def test_all_problems_at_once():
    data = AUTHORITY.document(module_id="x", nonce=b"a", signer=OTHER.keys[-1])
    found = {problem.where for problem in judged(data, at=AT - timedelta(hours=5), nonce=b"b").problems}
    assert found == {"certificate", "signature", "module_id", "timestamp", "nonce"}


# Bytes that are no document.


# A tag for a positive number, then its 3,000 bytes: Python refuses to print it.
HUGE = b"\xc2" + cbor2.dumps(b"\xff" * 3000)


@pytest.mark.parametrize(
    ("mistake", "data", "where"),
    [
        ("trailing byte", AUTHORITY.document() + b"\0", "document"),
        ("trailing byte in the payload", AUTHORITY.sign(encoded(AUTHORITY.fields()) + b"\0"), "payload"),
        ("twice the same field", AUTHORITY.sign(b"\xa2" + (cbor2.dumps("nonce") + b"\xf6") * 2), "payload"),
        ("another algorithm", AUTHORITY.document(protected={1: -7}), "protected header"),
        ("more in the header", AUTHORITY.document(protected={1: -35, 4: b"k"}), "protected header"),
        ("payload is a list", AUTHORITY.sign(cbor2.dumps([])), "payload"),
        ("no registers", AUTHORITY.sign(encoded(AUTHORITY.fields(pcrs=...))), "payload"),
        (
            "both kinds of registers",
            AUTHORITY.sign(encoded({**AUTHORITY.fields(), "nitrotpm_pcrs": registers(TPM)})),
            "payload",
        ),
        ("unknown field", AUTHORITY.sign(encoded({**AUTHORITY.fields(), "extra": 1})), "payload"),
        ("no timestamp", AUTHORITY.sign(encoded(AUTHORITY.fields(timestamp=...))), "timestamp"),
        ("timestamp of zero", AUTHORITY.sign(encoded(AUTHORITY.fields(timestamp=0))), "timestamp"),
        (
            "timestamp beyond any calendar",
            AUTHORITY.sign(encoded(AUTHORITY.fields(timestamp=2**63))),
            "timestamp",
        ),
        ("timestamp is true", AUTHORITY.sign(encoded(AUTHORITY.fields(timestamp=True))), "timestamp"),
        ("empty module", AUTHORITY.sign(encoded(AUTHORITY.fields(module_id=""))), "module_id"),
        ("unknown digest", AUTHORITY.sign(encoded(AUTHORITY.fields(digest="MD5"))), "digest"),
        ("short register", AUTHORITY.sign(encoded(AUTHORITY.fields(pcrs={0: b"x"}))), "pcrs[0]"),
        ("register 32", AUTHORITY.sign(encoded(AUTHORITY.fields(pcrs={32: bytes(48)}))), "pcrs"),
        ("register by name", AUTHORITY.sign(encoded(AUTHORITY.fields(pcrs={"PCR0": bytes(48)}))), "pcrs"),
        ("register true", AUTHORITY.sign(encoded(AUTHORITY.fields(pcrs={True: bytes(48)}))), "pcrs"),
        ("no register at all", AUTHORITY.sign(encoded(AUTHORITY.fields(pcrs={}))), "pcrs"),
        ("empty bundle", AUTHORITY.sign(encoded(AUTHORITY.fields(cabundle=[]))), "cabundle"),
        (
            "huge certificate",
            AUTHORITY.sign(encoded(AUTHORITY.fields(certificate=b"x" * 1025))),
            "certificate",
        ),
        ("empty key", AUTHORITY.document(public_key=b""), "public_key"),
        ("payload beyond 16 KiB", AUTHORITY.sign(bytes(16 * 1024 + 1)), "payload"),
        ("megabytes", AUTHORITY.document(cabundle=[b"x" * 1024] * 2000), ""),
        ("huge user data", AUTHORITY.sign(encoded(AUTHORITY.fields(user_data=b"x" * 513))), "user_data"),
        ("nonce is text", AUTHORITY.sign(encoded(AUTHORITY.fields(nonce="x"))), "nonce"),
        ("signature cut", cbor2.dumps([*cbor2.loads(AUTHORITY.document())[:3], b"x" * 95]), "signature"),
        ("three members", cbor2.dumps(cbor2.loads(AUTHORITY.document())[:3]), "document"),
        ("member is text", cbor2.dumps([*cbor2.loads(AUTHORITY.document())[:3], "x"]), "document"),
        (
            "unprotected header",
            cbor2.dumps([b"\xa1\x01\x38\x22", {4: b"k"}, b"", b"x" * 96]),
            "unprotected header",
        ),
        ("deep nesting", b"\x84\x44\xa1\x01\x38\x22\xa0" + b"\x81" * 5000, "document"),
        ("huge length", b"\x84\x44\xa1\x01\x38\x22\xa0\x5b" + b"\xff" * 8, "document"),
        ("huge array", b"\x9b" + b"\xff" * 8, "document"),
        ("number without bound as a field", AUTHORITY.sign(b"\xa1" + HUGE + b"\x00"), "payload"),
        (
            "number without bound as a register",
            AUTHORITY.sign(b"\xa1\x64pcrs\xa1" + HUGE + b"\x00"),
            "payload",
        ),
        ("decimal of billions of digits", AUTHORITY.sign(b"\xc4\x82\x1a\x7f\xff\xff\xff\x01"), "payload"),
        ("list that holds itself", AUTHORITY.sign(b"\xd8\x1c\x81\xd8\x1d\x00"), "payload"),
        ("described as CBOR by a tag", b"\xd9\xd9\xf7" + AUTHORITY.document(), "document"),
        ("tagged twice", b"\xd2" + AUTHORITY.document(tagged=True), "document"),
        ("nothing", b"", "document"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_document_is_refused_by_its_field(mistake, data, where):
    with pytest.raises(MalformedEvidence) as raised:
        judged(data)
    assert raised.value.where == where


WHOLE = AUTHORITY.document(nonce=b"n", public_key=recipient())


def test_a_document_cut_anywhere_is_refused():
    for length in range(len(WHOLE)):
        with pytest.raises(MalformedEvidence):
            judged(WHOLE[:length])


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(WHOLE) * 8 - 1))
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_is_never_verified(bit):
    damaged = bytearray(WHOLE)
    damaged[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(MalformedEvidence):
        assert not judged(bytes(damaged)).verified


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, 8 * 1024 - 1), st.sampled_from([0, 1, 2, 3, 4]))
@settings(max_examples=300, deadline=None)
def test_a_certificate_with_a_flipped_bit_under_a_signature_that_holds_is_never_verified(bit, depth):
    damaged = [bytearray(one.public_bytes(Encoding.DER)) for one in AUTHORITY.certificates]
    bit %= len(damaged[depth]) * 8
    damaged[depth][bit // 8] ^= 1 << bit % 8
    *bundle, leaf = (bytes(one) for one in damaged)
    verdict = judged(AUTHORITY.document(cabundle=bundle, certificate=leaf))
    assert not verdict.verified
    assert {problem.where for problem in verdict.problems} <= {"certificate", "cabundle[0]", "signature"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=60) | st.text(max_size=8) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(sorted(AUTHORITY.fields())), values)
@settings(max_examples=200, deadline=None)
def test_any_value_in_any_field_is_judged_or_refused(name, value):
    with contextlib.suppress(MalformedEvidence):
        verdict = judged(AUTHORITY.sign(encoded(AUTHORITY.fields(**{name: value}))))
        assert verdict.verified or verdict.problems


@given(st.integers(0, 400) | st.integers(0, 2**64 - 1), values)
@settings(max_examples=200, deadline=None)
def test_a_tag_is_refused_wherever_it_stands(number, value):
    tagged = cbor2.dumps(cbor2.CBORTag(number, 0))[:-1] + cbor2.dumps(value)
    fields = encoded(AUTHORITY.fields(nonce=...), indefinite=True)[:-1]
    for payload in (tagged, fields + cbor2.dumps("nonce") + tagged + b"\xff", fields + tagged + b"\x00\xff"):
        with pytest.raises(MalformedEvidence):
            judged(AUTHORITY.sign(payload))


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_behind_the_header_are_refused(data):
    with pytest.raises(MalformedEvidence):
        judged(b"\x84\x44\xa1\x01\x38\x22\xa0" + data)
