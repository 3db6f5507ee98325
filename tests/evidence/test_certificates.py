from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import certificates
from jewelhouse.evidence.certificates import Certificate
from jewelhouse.evidence.verdict import Finding, MalformedEvidence
from jewelhouse.rehearsal import minting_nvidia as minting
from jewelhouse.rehearsal.minting_nvidia import BEGAN, NEVER, NOW, Gpu

GPU = Gpu()
DER = GPU.chain
CHAIN = tuple(map(certificates.read, DER))


def built(
    subject: str, issuer: str, *, ca: bool | None = True, length: int | None = None, signs: bool = True
) -> Certificate:
    """A certificate with its CA rules spelled out; `ca=None` leaves them away."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(minting.ec_key(f"built {subject}").public_key())
        .serial_number(7)
        .not_valid_before(BEGAN)
        .not_valid_after(NEVER)
        .add_extension(
            x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False), critical=True
        )
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=length), critical=True)
    signed = builder.sign(minting.ec_key(f"built {issuer}"), hashes.SHA384())
    return certificates.read(signed.public_bytes(Encoding.DER))


def problems_of(chain: list[Certificate]) -> list[Finding]:
    problems: list[Finding] = []
    certificates.check(chain, NOW, problems)
    return problems


def test_a_certificate_is_read_as_cryptography_reads_it() -> None:
    for der, ours in zip(DER, CHAIN, strict=True):
        theirs = x509.load_der_x509_certificate(der)
        assert ours.subject == theirs.subject.public_bytes()
        assert ours.issuer == theirs.issuer.public_bytes()
        assert ours.signed == theirs.tbs_certificate_bytes
        assert ours.signature == theirs.signature
        assert (ours.start, ours.end) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
        assert ours.line == f"{ours.name} sha256:{theirs.fingerprint(hashes.SHA256()).hex()}"
        assert ours.extensions.keys() == {one.oid.dotted_string for one in theirs.extensions}


def test_a_path_is_found_in_any_order_among_strangers() -> None:
    strangers = tuple(certificates.read(der) for der in replace(GPU, keys="foreign").chain)
    problems: list[Finding] = []
    chain, root = certificates.path(CHAIN[0], [*strangers, *reversed(CHAIN)], GPU.roots, problems)
    assert chain == CHAIN
    assert root == GPU.roots[0]
    assert not problems


def test_certificates_that_issue_each_other_are_no_endless_path() -> None:
    pool = [built("a", "b"), built("b", "a")]
    problems: list[Finding] = []
    _, root = certificates.path(pool[0], pool, GPU.roots, problems)
    assert root is None
    assert "more than 8 certificates" in problems[-1].what


def test_a_root_does_not_vouch_for_itself_as_a_device() -> None:
    problems: list[Finding] = []
    _, root = certificates.path(CHAIN[-1], CHAIN, GPU.roots, problems)
    assert root is None
    assert problems


@pytest.mark.parametrize(
    ("issuer", "fits"),
    [
        (built("issuer", "root"), True),
        (built("issuer", "root", length=0), True),
        (built("issuer", "root", ca=False), False),
        (built("issuer", "root", ca=None), False),
        (built("issuer", "root", signs=False), False),
    ],
    ids=["ca", "ca-for-leaves", "no-ca", "ca-left-out", "ca-that-may-not-sign"],
)
def test_only_a_ca_may_stand_above(issuer: Certificate, fits: bool) -> None:
    assert (not problems_of([built("leaf", "issuer", ca=None), issuer])) is fits


def test_a_path_length_is_kept() -> None:
    leaf, low, high = (
        built("leaf", "low", ca=None),
        built("low", "high"),
        built("high", "high", length=0),
    )
    assert any("may not sign" in problem.what for problem in problems_of([leaf, low, high]))
    assert not problems_of([leaf, low, built("high", "high", length=1)])


@pytest.mark.parametrize(
    ("at", "fits"),
    [(BEGAN, True), (BEGAN - timedelta(seconds=1), False), (NEVER, True)],
    ids=["first-second", "second-before", "last-second"],
)
def test_dates_are_inclusive(at: datetime, fits: bool) -> None:
    problems: list[Finding] = []
    certificates.check([CHAIN[0]], at, problems)
    assert (not problems) is fits


def test_an_algorithm_that_no_vendor_uses_signs_nothing() -> None:
    key = minting.ec_key("built weak")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak")])
    weak = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(BEGAN)
        .not_valid_after(NEVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA224())
    )
    read = certificates.read(weak.public_bytes(Encoding.DER))
    assert read.algorithm not in certificates.ALGORITHMS
    assert not certificates.signed_by(read, read)


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30\x00", DER[0] + b"\0", DER[0][:-1], b"\x30\x82\xff\xff" * 5000, b"\x30" * 20_000],
    ids=["empty", "empty-sequence", "trailing-byte", "cut", "huge-lengths", "too-large"],
)
def test_what_is_no_certificate_says_so(der: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        certificates.read(der)


def test_a_file_holds_no_endless_certificates() -> None:
    with pytest.raises(MalformedEvidence, match="more than 64"):
        list(certificates.blocks(GPU.pem * 20))


def test_a_name_that_would_change_a_terminal_is_shown_without_doing_so() -> None:
    assert certificates.common_name(built("x\x1b[2Jy", "x").subject) == "x?[2Jy"
    assert certificates.common_name(b"\x30\x00") == "3000"


@given(
    number=st.integers(0, 4), flips=st.lists(st.tuples(st.integers(0, 900), st.integers(1, 255)), max_size=4)
)
@settings(max_examples=150, deadline=None)
def test_changed_bytes_are_no_certificate_or_one_without_a_signature(
    number: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(DER[number])
    for at, bits in flips:
        data[at % len(data)] ^= bits
    try:
        read = certificates.read(bytes(data))
    except MalformedEvidence:
        return
    issuer = CHAIN[min(number + 1, 4)]
    assert certificates.signed_by(read, issuer) is (bytes(data) == DER[number])
    problems_of([read, read])
