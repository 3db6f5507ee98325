from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import real
from hypothesis import given, settings
from hypothesis import strategies as st
from minting_tdx import ISSUED, NEXT, NOW, PLATFORM, Platform

from jewelhouse.evidence import tdx, tdx_collateral
from jewelhouse.evidence.certificates import Root
from jewelhouse.evidence.verdict import Endorsements, Kind, MalformedEvidence, Verdict

V4, V5 = "dcap-qvl/tdx_quote", "quote_v5_sample.dat"
OUTDATED, PRODUCTION = "dcap-qvl/tdx_quote_outdated", "tdx_prod_quote_SPR_E4.dat"
COLLATERAL_2025, COLLATERAL_2026 = (
    "dcap-qvl/tdx_quote_collateral.json",
    "dcap-qvl/tdx_quote_outdated_collateral.json",
)
JUNE_2025 = datetime(2025, 6, 20, tzinfo=UTC)
MARCH_2026 = datetime(2026, 3, 17, tzinfo=UTC)
LATER = datetime(2026, 11, 23, tzinfo=UTC)
SIGNED = "the TD report is signed by an attestation key that the platform's key vouches for"
PINNED = "the chain ends at the pinned key of Intel SGX Root CA"


def quote(name: str) -> bytes:
    return real.evidence(f"intel-tdx/{name}")


def appraised(name: str | bytes, *collateral: str, at: datetime | None = None, **how: Any) -> Verdict:
    data = name if isinstance(name, bytes) else quote(name)
    return tdx.verify(data, at=at, endorsements=Endorsements(files=tuple(map(quote, collateral))), **how)


def said(verdict: Verdict) -> str:
    return "\n".join(f"{problem.where}: {problem.what}" for problem in verdict.problems)


@real.needed
@pytest.mark.parametrize(
    ("name", "collateral", "at"),
    [
        (V4, COLLATERAL_2025, JUNE_2025),
        (V4, COLLATERAL_2025, None),
        (V5, COLLATERAL_2026, MARCH_2026),
        (V5, COLLATERAL_2026, None),
    ],
    ids=["v4", "v4-at-the-collateral's-date", "v5", "v5-at-the-collateral's-date"],
)
def test_a_real_quote_is_up_to_date_with_the_collateral_of_its_time(
    name: str, collateral: str, at: datetime | None
) -> None:
    verdict = appraised(name, collateral, at=at)
    assert verdict.verified, said(verdict)
    assert verdict.kind is Kind.TDX
    assert not verdict.debug
    assert verdict.claims["tcb"]["status"] == "UpToDate"
    assert verdict.claims["tcb"]["advisories"] == []
    assert {SIGNED, PINNED} <= set(verdict.checked)
    assert verdict.chain[0].startswith("Intel SGX PCK Certificate sha256:")
    assert verdict.expires is not None
    assert verdict.expires - verdict.at < timedelta(days=31)
    assert set(verdict.measurements) >= {"MRTD", "RTMR0", "RTMR3", "MRSEAM", "REPORTDATA", "MRCONFIGID"}
    assert ("MRSERVICETD" in verdict.measurements) is (verdict.claims["version"] == 5)
    json.dumps(verdict.json())


@real.needed
def test_a_quote_without_a_time_says_which_moment_was_taken() -> None:
    verdict = appraised(V4, COLLATERAL_2025)
    assert verdict.at == datetime(2025, 6, 19, 10, 32, 27, tzinfo=UTC)
    assert any("2025-06-19T10:32:27Z, when its collateral was issued" in one for one in verdict.checked)
    alone = appraised(V4)
    assert any("when its chain began to be valid" in one for one in alone.checked)


@real.needed
@pytest.mark.parametrize(
    ("name", "collateral", "at", "says"),
    [
        (V4, (COLLATERAL_2025,), LATER, "CrlExpired"),
        (V5, (COLLATERAL_2026,), LATER, "CrlExpired"),
        (V4, (COLLATERAL_2025,), datetime(2025, 7, 20, tzinfo=UTC), "expired"),
        (V4, (COLLATERAL_2025,), datetime(2025, 6, 1, tzinfo=UTC), "issue date is in the future"),
        (
            V4,
            (COLLATERAL_2025,),
            datetime(1960, 1, 1, tzinfo=UTC),
            "Intel SGX PCK Certificate: is valid from",
        ),
        (OUTDATED, (COLLATERAL_2026,), MARCH_2026, "No matching TCB level found"),
        (OUTDATED, (COLLATERAL_2026,), None, "No matching TCB level found"),
        (V4, (COLLATERAL_2026,), MARCH_2026, "Fmspc mismatch"),
        (V4, (), JUNE_2025, "collateral: is missing"),
        (V5, (), None, "collateral: is missing"),
        (PRODUCTION, (), None, "collateral: is missing"),
    ],
    ids=[
        "v4-collateral-of-last-year",
        "v5-collateral-of-last-spring",
        "collateral-a-day-too-old",
        "collateral-of-the-future",
        "before-time-began",
        "firmware-outdated",
        "firmware-outdated-at-the-collateral's-date",
        "collateral-of-another-platform",
        "v4-no-collateral",
        "v5-no-collateral",
        "production-no-collateral",
    ],
)
def test_a_real_quote_that_cannot_be_judged_good_is_refused(
    name: str, collateral: tuple[str, ...], at: datetime | None, says: str
) -> None:
    verdict = appraised(name, *collateral, at=at)
    assert not verdict.verified
    assert says in said(verdict)
    assert {SIGNED, PINNED} <= set(verdict.checked), "signature and chain hold all the same, and are told"


@real.needed
def test_of_several_collaterals_the_one_for_the_platform_is_taken() -> None:
    for files in ((COLLATERAL_2025, COLLATERAL_2026), (COLLATERAL_2026, COLLATERAL_2025)):
        assert appraised(V4, *files, at=JUNE_2025).verified
        assert appraised(V5, *files, at=MARCH_2026).verified


@real.needed
def test_bytes_behind_a_quote_are_refused_unless_they_are_padding() -> None:
    assert quote(V4).endswith(b"\0" * 70)
    assert "70 zero bytes behind the quote were left out" in appraised(V4, COLLATERAL_2025).checked
    more = appraised(quote(V4) + b"more", COLLATERAL_2025, at=JUNE_2025)
    assert not more.verified
    assert "end: 74 bytes stand behind the quote" in said(more)
    assert "end: 39 bytes stand behind the quote" in said(appraised(PRODUCTION))


@real.needed
def test_a_foreign_root_is_refused_for_the_root() -> None:
    roots = (Root(key="00" * 32, name="another root", source="this test"),)
    verdict = appraised(V4, COLLATERAL_2025, at=JUNE_2025, roots=roots)
    assert not verdict.verified
    assert "Intel SGX Root CA: is no pinned root" in said(verdict)
    assert SIGNED in verdict.checked


@real.needed
@pytest.mark.parametrize("fits", [True, False], ids=["the-nonce", "replayed"])
def test_report_data_answers_the_nonce(fits: bool) -> None:
    bound = appraised(V4).nonce
    assert bound is not None
    verdict = appraised(V4, COLLATERAL_2025, at=JUNE_2025, nonce=bound if fits else bytes(32))
    assert verdict.verified is fits
    assert ("REPORTDATA: is" in said(verdict)) is not fits


ATTRIBUTES = 48 + 120


@real.needed
@pytest.mark.parametrize(
    ("name", "at"), [(V4, ATTRIBUTES), (V5, ATTRIBUTES + 6)], ids=["v4", "v5-behind-its-body-header"]
)
def test_a_debug_bit_is_told_and_breaks_the_signature_when_it_was_set_later(name: str, at: int) -> None:
    changed = bytearray(quote(name))
    changed[at] |= 1
    verdict = appraised(bytes(changed), COLLATERAL_2025, COLLATERAL_2026)
    assert verdict.debug
    assert verdict.claims["td_attributes"]["debug"]
    assert not verdict.verified
    assert "signature: of the TD report is not made by the attestation key" in said(verdict)


# Each part of a quote, and the first byte of it, in a version 4 quote.
PARTS = {
    "the-vendor": 12,
    "the-TCB-of-the-module": 48,
    "MRSEAM": 64,
    "MRTD": 184,
    "RTMR3": 520,
    "REPORTDATA": 568,
    "the-signature": 636,
    "the-attestation-key": 700,
    "the-quoting-enclave": 770,
    "the-quoting-enclave's-report-data": 1100,
    "the-platform's-signature": 1154,
    "the-authentication-data": 1220,
}


@real.needed
@pytest.mark.parametrize("at", PARTS.values(), ids=PARTS.keys())
def test_a_flipped_byte_in_any_signed_part_loses_the_signature(at: int) -> None:
    changed = bytearray(quote(V4))
    changed[at] ^= 0x10
    verdict = appraised(bytes(changed), COLLATERAL_2025, at=JUNE_2025)
    assert not verdict.verified
    assert SIGNED not in verdict.checked


@real.needed
def test_every_flipped_byte_up_to_the_certificates_loses_the_verification() -> None:
    data = quote(V4)
    end = data.index(b"-----BEGIN")
    for at in range(0, end, 7):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        try:
            verdict = appraised(bytes(changed), at=JUNE_2025)
        except MalformedEvidence:
            continue
        assert SIGNED not in verdict.checked, at


@real.needed
@pytest.mark.parametrize(
    "member",
    # The chain of the PCK revocation list is not looked at: its issuer is in the quote's own chain.
    [name for name in tdx_collateral.MEMBERS if name != "pck_crl_issuer_chain"],
)
def test_collateral_that_was_changed_is_refused(member: str) -> None:
    value = json.loads(quote(COLLATERAL_2025))
    text = value[member]
    # A chain ends with a copy of the root, which nobody looks at: the root is pinned. So before the middle.
    at = len(text) // 3
    value[member] = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
    endorsements = Endorsements(files=(json.dumps(value).encode(),))
    verdict = tdx.verify(quote(V4), at=JUNE_2025, endorsements=endorsements)
    assert not verdict.verified


@real.needed
@pytest.mark.parametrize(
    "change",
    [
        {"tcb_info": None},
        {"tcb_info": "{}"},
        {"tcb_info": "["},
        {"tcb_info": '{"fmspc": "B0C06F000000", "issueDate": 7, "nextUpdate": 7}'},
        {"tcb_info": '{"fmspc": "B0C06F000000", "issueDate": "9999-99-99T", "nextUpdate": ""}'},
        {"qe_identity": 7},
        {"pck_crl": "zz"},
        {"pck_crl": ""},
        {"root_ca_crl": "3082"},
        {"pck_crl_issuer_chain": []},
        {"qe_identity": "[" * 100_000},
    ],
    ids=[
        "no-tcb-info",
        "tcb-info-empty",
        "tcb-info-cut-off",
        "dates-are-numbers",
        "dates-are-none",
        "identity-is-a-number",
        "list-not-hexadecimal",
        "list-empty",
        "list-cut-off",
        "chain-is-a-list",
        "nested-deeply",
    ],
)
def test_collateral_that_cannot_be_read_says_so(change: dict[str, Any]) -> None:
    value = {**json.loads(quote(COLLATERAL_2025)), **change}
    endorsements = Endorsements(files=(json.dumps(value).encode(),))
    verdict = tdx.verify(quote(V4), at=JUNE_2025, endorsements=endorsements)
    assert not verdict.verified
    assert "endorsement 1: is no collateral that can be read" in said(verdict)
    assert "collateral: is missing" in said(verdict)


# Minted quotes: every field varied, and a collateral that says what the case needs


def minted(platform: Platform, *, at: datetime | None = NOW, **collateral: Any) -> Verdict:
    endorsements = Endorsements(files=(platform.collateral(**collateral),))
    return tdx.verify(platform.quote(), at=at, endorsements=endorsements, roots=platform.roots)


@real.needed
@pytest.mark.parametrize("version", [4, 5])
def test_a_minted_quote_verifies_and_says_what_was_signed(version: int) -> None:
    fields = {"mrtd": b"m" * 48, "rtmr2": b"r" * 48, "mrconfigid": b"c" * 48, "reportdata": b"n" * 32}
    platform = Platform(version=version, report=fields)
    for at in (NOW, None):
        verdict = minted(platform, at=at)
        assert verdict.verified, said(verdict)
        assert not verdict.debug
        assert verdict.measurements["MRTD"] == (b"m" * 48).hex()
        assert verdict.measurements["RTMR2"] == (b"r" * 48).hex()
        assert verdict.measurements["MRCONFIGID"] == (b"c" * 48).hex()
        assert verdict.nonce == b"n" * 32 + bytes(32)
    assert verdict.at == ISSUED
    assert verdict.expires == NEXT


@real.needed
@pytest.mark.parametrize("status", ["OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded"])
def test_tcb_status_and_advisories_are_claims(status: str) -> None:
    verdict = minted(Platform(status=status, advisories=("INTEL-SA-00837",)))
    assert verdict.verified, said(verdict)
    assert verdict.claims["tcb"]["status"] == status
    assert verdict.claims["tcb"]["advisories"] == ["INTEL-SA-00837"]
    assert f"Intel's collateral: TCB status {status}, advisories INTEL-SA-00837" in verdict.checked


@real.needed
@pytest.mark.parametrize("version", [4, 5])
def test_a_td_under_debug_has_a_good_signature_and_is_refused(version: int) -> None:
    verdict = minted(Platform(version=version, report={"td_attributes": b"\1\0\0\x10\0\0\0\0"}))
    assert verdict.debug
    assert SIGNED in verdict.checked
    assert not verdict.verified
    assert "Debug mode is enabled" in said(verdict)


@real.needed
@pytest.mark.parametrize(
    ("platform", "how", "says"),
    [
        (Platform(status="Revoked"), {}, "TCB status is invalid: Revoked"),
        (Platform(revoked=True), {}, "collateral: does not verify the quote"),
        (Platform(), {"at": NEXT + timedelta(seconds=1)}, "collateral: does not verify the quote"),
        (Platform(), {"at": ISSUED - timedelta(seconds=1)}, "issue date is in the future"),
        (Platform(tcb={"fmspc": "000000000000"}), {}, "Fmspc mismatch"),
        (Platform(tcb={"tcbLevels": []}), {}, "No matching TCB level found"),
        (Platform(identity={"mrsigner": "00" * 32}), {}, "collateral: does not verify the quote"),
        (Platform(), {"tcb_info_signature": "00" * 64}, "collateral: does not verify the quote"),
        (Platform(), {"pck_crl": Platform(keys="foreign").crl(PLATFORM, ()).hex()}, "does not verify"),
        (Platform(issuer_of_signer="another"), {}, "Intel SGX TCB Signing: was issued by another"),
        (Platform(), {"tcb_info_issuer_chain": ""}, "tcb_info_issuer_chain: has no certificates"),
        (Platform(), {"qe_identity_issuer_chain": "x"}, "qe_identity_issuer_chain: has no certificates"),
    ],
    ids=[
        "platform-firmware-revoked",
        "platform-certificate-revoked",
        "collateral-ended",
        "collateral-of-the-future",
        "collateral-of-another-platform",
        "firmware-below-every-level",
        "quoting-enclave-of-another-signer",
        "tcb-info-not-signed",
        "revocation-list-of-a-foreign-ca",
        "signer-with-another-issuer",
        "signer-without-a-chain",
        "chain-of-junk",
    ],
)
def test_a_quote_that_its_collateral_speaks_against_is_refused(
    platform: Platform, how: dict[str, Any], says: str
) -> None:
    verdict = minted(platform, **how)
    assert not verdict.verified
    assert says in said(verdict)
    assert SIGNED in verdict.checked


@real.needed
def test_collateral_of_another_authority_does_not_judge_a_quote() -> None:
    foreign = Platform(keys="foreign")
    verdict = tdx.verify(
        Platform().quote(), at=NOW, endorsements=foreign.endorsements, roots=Platform().roots
    )
    assert not verdict.verified
    assert "Intel SGX Root CA: is no pinned root" in said(verdict)
    both = (*Platform().roots, *foreign.roots)
    mixed = tdx.verify(Platform().quote(), at=NOW, endorsements=foreign.endorsements, roots=both)
    assert not mixed.verified
    assert "other certificates than those from the signer to the root" in said(mixed)


@real.needed
def test_a_changed_certificate_never_reaches_the_library_that_would_end_the_process() -> None:
    """dcap-qvl 0.7.0 aborts on a root whose name was changed: this test would take pytest with it."""
    data = quote(V4)
    start = data.index(b"-----BEGIN")
    for at in range(start + 40, len(data) - 110, 23):
        changed = bytearray(data)
        changed[at] = ord("A") if changed[at] != ord("A") else ord("B")
        try:
            verdict = appraised(bytes(changed), COLLATERAL_2025, at=JUNE_2025)
        except MalformedEvidence:
            continue
        assert not verdict.verified, at


# Outside bytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\4\0\2\0\x81\0\0\0",
        b"\4\0\2\0\0\0\0\0" + bytes(5000),
        b"\3\0\2\0\x81\0\0\0" + bytes(5000),
        b"\6\0\2\0\x81\0\0\0" + bytes(5000),
        b"\4\0\3\0\x81\0\0\0" + bytes(5000),
        b"\4\0\2\0\x81\0\0\0" + bytes(624) + b"\xff\xff\xff\xff" + bytes(100),
        b"\4\0\2\0\x81\0\0\0" + bytes(624) + b"\0\0\0\0" + bytes(100),
        b"\5\0\2\0\x81\0\0\0" + bytes(40) + b"\1\0\x80\1\0\0" + bytes(5000),
        b"\5\0\2\0\x81\0\0\0" + bytes(40) + b"\2\0\xff\xff\xff\xff" + bytes(5000),
        b"\5\0\2\0\x81\0\0\0" + bytes(40) + b"\x63\0\x48\2\0\0" + bytes(5000),
        b"\4\0\2\0\x81\0\0\0" + bytes(70_000),
    ],
    ids=[
        "empty",
        "only-a-header",
        "sgx",
        "version-3",
        "version-6",
        "another-kind-of-key",
        "huge-signature",
        "no-signature",
        "sgx-body-in-version-5",
        "huge-body",
        "unknown-body",
        "too-large",
    ],
)
def test_what_is_no_tdx_quote_says_so(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        tdx.verify(data, at=LATER)


@real.needed
@given(cut=st.integers(0, 5005))
@settings(max_examples=60, deadline=None)
def test_a_quote_that_is_cut_is_no_quote_or_lost_only_padding(cut: int) -> None:
    data = quote(V4)
    try:
        verdict = appraised(data[:cut], COLLATERAL_2025, at=JUNE_2025)
    except MalformedEvidence:
        return
    assert cut >= len(data) - 70
    assert verdict.verified


@real.needed
@given(at=st.integers(0, 4935), bits=st.integers(1, 255), more=st.binary(max_size=40))
@settings(max_examples=150, deadline=None)
def test_changed_bytes_are_no_traceback_and_never_verified(at: int, bits: int, more: bytes) -> None:
    """In the certificates a changed line end or dash is the same certificate, or none."""
    data = quote(V4)
    changed = bytearray(data)
    changed[at] ^= bits
    changed[at + 1 : at + 1 + len(more)] = more
    try:
        verdict = appraised(bytes(changed), COLLATERAL_2025, at=JUNE_2025)
    except MalformedEvidence:
        return
    same = tdx.parse(bytes(changed)).certificates == tdx.parse(data).certificates
    assert not verdict.verified or (same and at > data.index(b"-----BEGIN"))


@given(data=st.binary(max_size=900), version=st.sampled_from([4, 5]))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused_without_a_traceback(data: bytes, version: int) -> None:
    shaped = bytes((version, 0, 2, 0, 0x81, 0, 0, 0)) + data
    for one in (data, shaped):
        try:
            verdict = tdx.verify(one, at=LATER)
        except MalformedEvidence:
            continue
        assert not verdict.verified
