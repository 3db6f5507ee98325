"""Quotes of SGX enclaves: the signatures inside, and bytes that are none."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime

import pytest
import real
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import maa_keys, sgx
from jewelhouse.evidence.verdict import Finding
from jewelhouse.rehearsal.minting_claims import ISSUED
from jewelhouse.rehearsal.minting_sgx import Quote, ec_key, quote, spki

BOUND = b"b" * 32
MINTED = quote(Quote(), BOUND)
ROOT = frozenset({hashlib.sha256(spki(ec_key("sgx-root/root").public_key())).hexdigest()})
CHAIN = MINTED.index(b"-----BEGIN")


def judged(raw: bytes, at: datetime = ISSUED) -> tuple[sgx.Enclave | None, list[Finding]]:
    problems: list[Finding] = []
    enclave = sgx.verify(raw, at=at, where="quote", problems=problems, intel=ROOT)
    assert (enclave is None) is bool(problems)
    return enclave, problems


def test_a_quote_says_who_holds_the_report_data() -> None:
    enclave, problems = judged(MINTED)
    assert enclave is not None, problems
    assert enclave.report_data == BOUND + bytes(32)
    assert (enclave.signer, enclave.product) == (maa_keys.SERVICE_SIGNER, 1)
    assert [line.split(" sha256")[0] for line in enclave.chain] == [
        "Intel SGX PCK Certificate",
        "Intel SGX PCK Processor CA",
        "Intel SGX Root CA",
    ]


def changed(at: int, value: bytes) -> bytes:
    return MINTED[:at] + value + MINTED[at + len(value) :]


def flipped(at: int) -> bytes:
    return changed(at, bytes([MINTED[at] ^ 1]))


OTHER = quote(Quote(), BOUND, "other-root")
CASES = {
    "version-4": (changed(0, b"\4"), "quote"),
    "tdx-quote": (changed(4, b"\x81"), ""),
    "report-changed": (flipped(48 + 320), "signature of the quote"),
    "quote-signature-changed": (flipped(440), "signature of the quote"),
    "attestation-key-replaced": (changed(500, bytes(64)), "cannot be read"),
    "attestation-key-of-another-quote": (changed(436, OTHER[436:564]), "did not vouch"),
    "quoting-report-changed": (flipped(564 + 64), "did not sign the quoting"),
    "foreign-root": (OTHER, "foreign root"),
    "foreign-chain-under-our-quote": (MINTED[:CHAIN] + OTHER[CHAIN:], ""),
    "trailing-byte": (MINTED + b"\0", "do not add up"),
    "cut": (MINTED[:-1], ""),
    "length-of-2-GiB": (changed(432, b"\xff\xff\xff\x7f"), ""),
    "inner-length-of-64-KiB": (changed(436 + 576, b"\xff\xff"), ""),
    "two-certificates": (
        re.sub(
            rb"-----BEGIN.*?-----END CERTIFICATE-----",
            lambda one: b" " * len(one[0]),
            MINTED,
            count=1,
            flags=re.S,
        ),
        "certificates",
    ),
    "nothing": (b"", "cannot be read"),
}


@pytest.mark.parametrize(("raw", "what"), CASES.values(), ids=CASES)
def test_quotes_that_are_refused(raw, what) -> None:
    enclave, problems = judged(raw)
    assert enclave is None
    assert any(what in problem.what for problem in problems), problems


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_is_believed(data) -> None:
    place = data.draw(st.integers(0, len(MINTED) - 1))
    raw = bytearray(MINTED)
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    enclave, _ = judged(bytes(raw))
    if enclave is not None:
        # Nothing signs the PEM lines around the certificates, nor the bits that base64 leaves over.
        assert place >= CHAIN
        assert (enclave.report_data, enclave.signer) == (BOUND + bytes(32), maa_keys.SERVICE_SIGNER)
    judged(MINTED[:place])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64), st.integers(0, len(MINTED)), st.integers(0, len(MINTED)))
def test_spliced_bytes_never_do_more_than_be_refused(junk, start, end) -> None:
    judged(junk)
    judged(MINTED[:start] + junk + MINTED[end:])


def test_the_two_real_quotes_of_azure_attestation_hold_under_intels_root() -> None:
    text = real.evidence("azure-maa/sharedweu-certs-snapshot.jsonc").decode()
    keys = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))["keys"]
    assert len(keys) == 2
    for key in keys:
        certificate = x509.load_der_x509_certificate(base64.b64decode(key["x5c"][0]))
        value = certificate.extensions.get_extension_for_oid(maa_keys.QUOTE_EXTENSION).value
        assert isinstance(value, x509.UnrecognizedExtension)
        problems: list[Finding] = []
        raw = value.value[16:]
        enclave = sgx.verify(raw, at=datetime(2023, 4, 8, tzinfo=UTC), where="quote", problems=problems)
        assert enclave is not None, problems
        assert base64.b64encode(enclave.report_data[:32]).decode() == key["kid"]
        late: list[Finding] = []
        assert sgx.verify(raw, at=datetime(2031, 1, 1, tzinfo=UTC), where="quote", problems=late) is None
        assert "ended at 2030-02-15" in late[0].what
