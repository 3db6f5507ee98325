"""Signed tokens as bytes and headers: algorithms, encodings, JSON, and damage anywhere."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from judging_maa import authority, judged, passes, says, unsigned

from jewelhouse.evidence.verdict import Endorsements, MalformedEvidence
from jewelhouse.rehearsal.minting_tokens import (
    MAA_ISSUER,
    b64url,
    guest_claims,
    jwk_rsa,
    platform_claims,
    put,
    rsa_key,
)

HEADERS = {
    "alg-none": ({"alg": "none"}, "header.alg"),
    "alg-absent": ({"alg": None}, "header.alg"),
    "alg-lower-case": ({"alg": "rs256"}, "header.alg"),
    "alg-RS384": ({"alg": "RS384"}, "header.alg"),
    "alg-PS256": ({"alg": "PS256"}, "header.alg"),
    "alg-list": ({"alg": ["RS256"]}, "header.alg"),
    "critical-extension": ({"crit": ["exp"]}, "header.crit"),
    "key-in-the-header": ({"jwk": jwk_rsa(rsa_key("maa").public_key())}, "header.jwk"),
    "address-of-a-certificate": ({"x5u": "https://example.com/c"}, "header.x5u"),
    "compressed": ({"zip": "DEF"}, "header.zip"),
    "unencoded-payload": ({"b64": False}, "header.b64"),
    "another-type": ({"typ": "at+jwt"}, "header.typ"),
    "jku-of-an-attacker": ({"jku": "https://example.com/certs"}, "header.jku"),
    "jku-of-another-instance": ({"jku": "https://x.weu.attest.azure.net/certs"}, "header.jku"),
    "jku-with-query": ({"jku": f"{MAA_ISSUER}/certs?x"}, "header.jku"),
    "no-kid": ({"kid": None}, "header.kid"),
    "kid-as-number": ({"kid": 1}, "header.kid"),
    "kid-of-nobody": ({"kid": "AAAA"}, "signature"),
}


@pytest.mark.parametrize(("header", "where"), HEADERS.values(), ids=HEADERS)
def test_headers_that_are_refused(header, where) -> None:
    says(judged(authority().token(header=header)), where, "")


@pytest.mark.parametrize("jku", [None, f"{MAA_ISSUER}/certs"])
def test_jku_may_be_absent(jku) -> None:
    assert judged(authority().token(header={"jku": jku})).verified


def test_alg_none_without_a_signature() -> None:
    header = {"alg": "none", "kid": authority().kid, "typ": "JWT"}
    says(judged(unsigned(header, guest_claims()) + b"."), "header.alg", "only RS256")


@pytest.mark.parametrize("encoding", ["PEM", "DER"])
def test_hs256_keyed_with_the_public_key(encoding) -> None:
    signed = unsigned({"alg": "HS256", "kid": authority().kid, "typ": "JWT"}, guest_claims())
    secret = (
        authority()
        .key.public_key()
        .public_bytes(
            getattr(serialization.Encoding, encoding), serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    mac = hmac.new(secret, signed, hashlib.sha256).digest()
    verdict = judged(signed + b"." + b64url(mac).encode())
    says(verdict, "header.alg", "HS256")
    says(verdict, "signature", "is not by")


def test_hs256_mac_under_a_header_that_says_rs256() -> None:
    signed = unsigned({"alg": "RS256", "kid": authority().kid, "typ": "JWT"}, guest_claims())
    mac = hmac.new(authority().certificate, signed, hashlib.sha256).digest()
    says(judged(signed + b"." + b64url(mac).encode()), "signature", "is not by")


def test_claims_of_one_token_under_the_signature_of_another() -> None:
    good, other = (authority().token(claims).split(b".") for claims in (guest_claims(), platform_claims()))
    says(judged(b".".join((good[0], other[1], good[2]))), "signature", "was changed")


RAW = {
    "doubled-claim": b'{"x-ms-ver":"1.0","iss":"a","iss":"b"}',
    "doubled-nested-claim": b'{"x-ms-ver":"1.0","x":{"a":1,"a":2}}',
    "NaN": b'{"x-ms-ver":NaN}',
    "infinity": b'{"x-ms-ver":-Infinity}',
    "number-that-overflows": b'{"x-ms-ver":1e999}',
    "integer-of-5000-digits": b'{"x-ms-ver":' + b"9" * 5000 + b"}",
    "nested-deeper-than-the-stack": b'{"x-ms-ver":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "nested-33-deep": b'{"x-ms-ver":' + b"[" * 33 + b"]" * 33 + b"}",
    "half-a-surrogate": b'{"x-ms-ver":"\\ud800"}',
    "not-utf-8": b'{"x-ms-ver":"\xff"}',
    "utf-16": '{"x-ms-ver":"1.0"}'.encode("utf-16"),
    "byte-order-mark": b'\xef\xbb\xbf{"x-ms-ver":"1.0"}',
    "two-documents": b'{"x-ms-ver":"1.0"}{"x-ms-ver":"1.0"}',
    "comment": b'{"x-ms-ver":"1.0"}//',
    "single-quotes": b"{'x-ms-ver':'1.0'}",
    "a-list": b'["x-ms-ver"]',
    "null": b"null",
    "nothing": b"",
    "no-claim-of-the-service": b'{"iss":"https://example.com","exp":1}',
}


@pytest.mark.parametrize("payload", RAW.values(), ids=RAW)
def test_payloads_that_two_readers_could_read_differently(payload) -> None:
    with pytest.raises(MalformedEvidence):
        judged(authority().token(payload))


SHAPES = {
    "empty": lambda token: b"",
    "one-part": lambda token: token.split(b".")[0],
    "two-parts": lambda token: token.rsplit(b".", 1)[0],
    "trailing-dot": lambda token: token + b".",
    "trailing-byte-after-dot": lambda token: token + b".A",
    "leading-dot": lambda token: b"." + token,
    "padding": lambda token: token + b"==",
    "blank-inside": lambda token: token.replace(b".", b". ", 1),
    "newline-inside": lambda token: token[:100] + b"\n" + token[100:],
    "plus-and-slash": lambda token: token.replace(b"-", b"+").replace(b"_", b"/") + b"+/AA",
    "null-byte-after": lambda token: token + b"\0",
    "bearer": lambda token: b"Bearer " + token,
    "quoted": lambda token: b'"' + token + b'"',
    "utf-16": lambda token: token.decode().encode("utf-16"),
    "too-long": lambda token: token + b"A" * 70_000,
    "letters-left-over": lambda token: token + b"A" * (4 - len(token.rsplit(b".", 1)[1]) % 4 + 1),
}


@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
def test_what_is_no_compact_token(change) -> None:
    with pytest.raises(MalformedEvidence):
        judged(change(authority().token()))


def test_white_space_of_a_file_around_a_token_is_no_part_of_it() -> None:
    assert judged(b"\n " + authority().token() + b"\r\n").verified


def test_the_last_letter_of_a_signature_has_one_spelling() -> None:
    """256 bytes leave 4 unused bits in the last letter: 16 letters would decode alike."""
    token = authority().token()
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [token[:-1] + bytes([letter]) for letter in alphabet if letter != token[-1]]
    for other in others:
        assert not passes(other)


def test_control_characters_of_a_token_do_not_reach_a_terminal() -> None:
    verdict = judged(
        authority().token(
            put(guest_claims(), {"iss": "\x1b[2J", "x-ms-ver": "1.0"}), {"kid": "\x1b[2J", "typ": "\x07"}
        )
    )
    told = [f"{one.where} {one.what}" for one in verdict.problems] + list(verdict.checked)
    assert all(line.isprintable() for line in told), told


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_flipped_bit_and_no_cut_is_believed(data) -> None:
    token = authority().token()
    place = data.draw(st.integers(0, len(token) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = token[:place] + bytes([token[place] ^ 1 << bit]) + token[place + 1 :]
    assert not passes(flipped)
    assert not passes(token[:place])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_change_inside_a_part_is_believed(data) -> None:
    parts = authority().token().split(b".")
    which = data.draw(st.integers(0, 2))
    raw = bytearray(base64.urlsafe_b64decode(parts[which] + b"=="))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255).filter(lambda value: value != raw[place]))
    parts[which] = b64url(bytes(raw)).encode()
    assert not passes(b".".join(parts))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_bytes_never_do_more_than_be_refused(first, second, third) -> None:
    assert not passes(first)
    assert not passes(b".".join(b64url(part).encode() for part in (first, second, third)))
    assert not passes(authority().token(), endorsements=Endorsements(files=(b'{"keys":' + first, second)))
