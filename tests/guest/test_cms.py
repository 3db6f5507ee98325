"""What KMS answers to attested code: one shape opens, nothing else; openssl reads and writes it too."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from asn1crypto import cms as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.guest import cms
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal.envelope import enveloped

DEK = bytes(range(32))


KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]


def key(number: int = 0) -> rsa.RSAPrivateKey:
    return KEYS[number]


def public(number: int = 0) -> bytes:
    return (
        key(number)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


@cache
def answer() -> bytes:
    """As KMS writes it."""
    return enveloped(public(), DEK)


@pytest.fixture
def certificate(tmp_path) -> Path:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "recipient")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key().public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key().public_key()), critical=False)
        .sign(key(), hashes.SHA256())
    )
    path = tmp_path / "recipient.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


OAEP = ("-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256")
BOTH = (*OAEP, "-keyopt", "rsa_mgf1_md:sha256")


def openssl(certificate: Path, *options: str, plaintext: bytes = DEK) -> bytes:
    command = ["openssl", "cms", "-encrypt", "-binary", "-outform", "DER", "-recip", str(certificate)]
    done = subprocess.run([*command, *options], input=plaintext, capture_output=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "options",
    [
        ("-keyid", "-aes256", *BOTH),
        ("-aes256", *BOTH),
        ("-keyid", "-stream", "-aes256", *BOTH),
        ("-keyid", "-aes256", *OAEP),
    ],
    ids=["by key identifier", "by issuer and serial", "indefinite lengths", "mask digest follows"],
)
def test_what_openssl_encrypts_opens(certificate, options):
    assert cms.opened(openssl(certificate, *options), key()) == DEK


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 1000])
def test_every_length_comes_back(size):
    assert cms.opened(enveloped(public(), bytes(size)), key()) == bytes(size)


def test_openssl_opens_what_the_stand_in_encrypts(tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(
        key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-inkey", str(path)]
    assert subprocess.run(command, input=answer(), capture_output=True, check=True).stdout == DEK


@pytest.mark.parametrize(
    ("weakness", "options", "says"),
    [
        ("PKCS #1 version 1.5 padding", ("-keyid", "-aes256"), "its key encryption"),
        (
            "SHA-1 in the padding",
            ("-keyid", "-aes256", "-keyopt", "rsa_padding_mode:oaep"),
            "its hash",
        ),
        ("SHA-1 in the mask", ("-keyid", "-aes256", *OAEP, "-keyopt", "rsa_mgf1_md:sha1"), "its hash"),
        ("SHA-512", ("-keyid", "-aes256", *OAEP[:3], "rsa_oaep_md:sha512"), "its hash"),
        ("a label", ("-keyid", "-aes256", *BOTH, "-keyopt", "rsa_oaep_label:6162"), "its label"),
        ("AES-128", ("-keyid", "-aes128", *BOTH), "its cipher"),
        ("Triple DES", ("-keyid", "-des3", *BOTH), "its cipher"),
        ("Galois counter mode in other clothes", ("-keyid", "-aes-256-gcm", *BOTH), "its"),
        ("a password", ("-aes256", "-pwri_password", "guess", *BOTH), "its"),
    ],
)
def test_other_ways_to_encrypt_are_refused(certificate, weakness, options, says):
    with pytest.raises(Closed, match=says):
        cms.opened(openssl(certificate, *options), key())


def test_two_recipients_are_one_too_many(certificate):
    with pytest.raises(Closed, match="its recipients"):
        cms.opened(openssl(certificate, "-keyid", "-aes256", *BOTH, str(certificate)), key())


def _digested() -> bytes:
    return asn1.ContentInfo({"content_type": "data", "content": b"secret"}).dump()


def _changed(**fields: object) -> bytes:
    info = asn1.ContentInfo.load(answer())
    enveloped = info["content"]
    for name, value in fields.items():
        if name == "version":
            enveloped["version"] = value
        else:
            enveloped["encrypted_content_info"][name] = value
    return info.dump(force=True)


@pytest.mark.parametrize(
    ("attack", "data", "says"),
    [
        ("nothing", b"", "has 0 bytes"),
        ("endless", bytes(cms.LIMIT + 1), "a reply has up to"),
        ("no ASN.1", b"\xff" * 100, "is no EnvelopedData"),
        ("bytes behind the end", answer() + b"\0", "is no EnvelopedData"),
        ("cut in the middle", answer()[:300], "is no EnvelopedData"),
        ("plain data", _digested(), "content type"),
        ("another version", _changed(version="v3"), "its versions"),
        ("content of another type", _changed(content_type="signed_data"), "type of the content"),
        ("no content", _changed(encrypted_content=b""), "its content"),
        ("content no multiple of a block", _changed(encrypted_content=b"x" * 17), "its content"),
        ("content changed", _changed(encrypted_content=b"x" * 48), "is not for the key of this request"),
        ("for another key", enveloped(public(1), DEK), "is not for the key of this request"),
    ],
)
def test_other_answers_are_refused(attack, data, says):
    with pytest.raises(Closed, match=says) as caught:
        cms.opened(data, key())
    assert caught.value.where == "CiphertextForRecipient"


def test_an_answer_to_a_longer_key():
    longer = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    with pytest.raises(Closed, match="wrapped in 256 bytes"):
        cms.opened(answer(), longer)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(answer()) - 1), st.integers(1, 255))
def test_a_changed_byte_opens_nothing_or_the_same(place, change):
    """What authenticates the plaintext is TLS and, in the end, the signed digest of what it decrypts: here
    only parts that say nothing may change."""
    data = bytearray(answer())
    data[place] ^= change
    try:
        found = cms.opened(bytes(data), key())
    except Closed:
        return
    # CBC lets a changed vector or block through; the length and the padding are all that it shows.
    assert len(found) <= 48


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=700))
def test_bytes_from_outside_are_refused_in_words(data):
    with pytest.raises(Closed):
        cms.opened(data, key())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pieces_put_together_otherwise_are_refused_in_words(data):
    pieces = [data.draw(st.integers(0, len(answer()))) for _ in range(4)]
    mixed = b"".join(answer()[min(pair) : max(pair)] for pair in pairwise(pieces))
    if mixed == answer():
        return
    with pytest.raises(Closed):
        cms.opened(mixed, key())
