from __future__ import annotations

import base64
import hashlib
import json
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
import real
from asn1crypto import core
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import snp
from jewelhouse.evidence.snp_certificates import LAYOUTS, product_of_cpu
from jewelhouse.evidence.snp_report import POLICY_BITS
from jewelhouse.evidence.verdict import Endorsements, Kind, MalformedEvidence, Verdict
from jewelhouse.rehearsal import minting_snp as minting
from jewelhouse.rehearsal.minting_snp import CLASSIC, LINES, NOW, SHAPES, Machine, armoured, report, thim

MILAN = Machine()
# Real evidence: report, endorsements, product, and when the youngest certificate of its chain begins.
REAL = [
    ("milan", "milan-report.bin", ("milan-vcek.pem", "roots/ask_ark_milan.pem"), "Milan", "2026-02-05"),
    ("genoa", "genoa-report.bin", ("genoa-vcek.pem", "roots/ask_ark_genoa.pem"), "Genoa", "2026-02-05"),
    (
        "azure-aci",
        "azure-aci/snp_report.bin",
        ("azure-aci/uvm_host_amd_certificate.json",),
        "Milan",
        "2022-11-29",
    ),
]


def files(*names: str) -> Endorsements:
    return Endorsements(files=tuple(real.evidence(f"amd-sev-snp/{name}") for name in names))


def verified(machine: Machine = MILAN, **changed: Any) -> Verdict:
    data = report(machine, **changed)
    return snp.verify(data, at=NOW, endorsements=machine.endorsements, roots=machine.roots)


def said(verdict: Verdict) -> str:
    return "\n".join(f"{problem.where}: {problem.what}" for problem in verdict.problems)


@cache
def endorsed() -> Endorsements:
    return MILAN.endorsements


@pytest.fixture(scope="module")
def plain() -> bytes:
    return report(MILAN)


# Real reports


@real.needed
@pytest.mark.parametrize(("name", "endorsed", "product", "began"), [row[1:] for row in REAL])
def test_a_real_report_verifies_to_amd(
    name: str, endorsed: tuple[str, ...], product: str, began: str
) -> None:
    data = real.evidence(f"amd-sev-snp/{name}")
    with warnings.catch_warnings():
        # A VCEK has the serial number 0, for which `cryptography` warns and will one day raise.
        warnings.simplefilter("error")
        verdict = snp.verify(data, at=None, endorsements=files(*endorsed))
    assert verdict.verified, said(verdict)
    assert not verdict.debug
    assert verdict.kind is Kind.SEV_SNP
    assert verdict.claims["product"] == product
    assert verdict.claims["vmpl"] == 0
    assert verdict.claims["policy"]["raw"] == "0x3001f"
    assert verdict.at.date().isoformat() == began
    assert any("no time of its own" in one for one in verdict.checked)
    assert [line.split()[0] for line in verdict.chain] == ["SEV-VCEK", f"SEV-{product}", f"ARK-{product}"]


@real.needed
@pytest.mark.parametrize(("name", "endorsed"), [row[1:3] for row in REAL])
def test_a_real_report_is_refused_when_its_certificates_have_ended(
    name: str, endorsed: tuple[str, ...]
) -> None:
    data = real.evidence(f"amd-sev-snp/{name}")
    verdict = snp.verify(data, at=datetime(2034, 1, 1, tzinfo=UTC), endorsements=files(*endorsed))
    assert not verdict.verified
    assert "SEV-VCEK: is valid from" in said(verdict)


@real.needed
def test_host_data_of_a_confidential_container_is_the_digest_of_its_policy() -> None:
    policy = base64.b64decode(real.evidence("amd-sev-snp/azure-aci/uvm_security_policy.base64"))
    verdict = snp.verify(
        real.evidence("amd-sev-snp/azure-aci/snp_report.bin"),
        at=None,
        endorsements=files("azure-aci/uvm_host_amd_certificate.json"),
    )
    assert verdict.verified
    assert verdict.measurements["hostdata"] == hashlib.sha256(policy).hexdigest()


@real.needed
@pytest.mark.parametrize(
    ("endorsed", "says"),
    [
        ((), "no VCEK certificate"),
        (("genoa-vcek.pem", "roots/ask_ark_genoa.pem"), "of another chip"),
        (("milan-vcek.pem",), "whose certificate is not at hand"),
        (("milan-vcek.pem", "roots/ask_ark_genoa.pem"), "whose certificate is not at hand"),
        (("azure-aci/uvm_host_amd_certificate.json",), "of another chip"),
    ],
    ids=[
        "no-certificate",
        "other-product",
        "no-chain",
        "chain-of-another-product",
        "vcek-of-another-machine",
    ],
)
def test_a_real_report_without_what_endorses_it_is_refused(endorsed: tuple[str, ...], says: str) -> None:
    data = real.evidence("amd-sev-snp/milan-report.bin")
    verdict = snp.verify(data, at=NOW, endorsements=files(*endorsed))
    assert not verdict.verified
    assert says in said(verdict)


@real.needed
def test_of_several_vceks_the_one_of_the_chip_is_taken() -> None:
    everything = files(*(name for row in REAL for name in row[2]))
    for _, name, _, product, _ in REAL:
        verdict = snp.verify(real.evidence(f"amd-sev-snp/{name}"), at=NOW, endorsements=everything)
        assert verdict.verified, said(verdict)
        assert verdict.claims["product"] == product


# Every layout


@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("vlek", [False, True], ids=["vcek", "vlek"])
@pytest.mark.parametrize("product", SHAPES)
def test_every_version_signer_and_product_verifies(product: str, vlek: bool, version: int) -> None:
    machine = Machine(product=product, vlek=vlek)
    mitigations = {"launch_mitigations": 1, "current_mitigations": 3} if version == 5 else {}
    data = report(machine, version=version, **mitigations)
    verdict = snp.verify(data, at=NOW, endorsements=machine.endorsements, nonce=b"nonce", roots=machine.roots)
    assert verdict.verified, said(verdict)
    claims = verdict.claims
    assert claims["product"] == LINES[product]
    assert claims["signing_key"] == ("VLEK" if vlek else "VCEK")
    tcb = {name: value for name, value in claims["reported_tcb"].items() if name != "raw"}
    assert tcb == {name: machine.levels[name] for name in SHAPES[product][3]}
    assert claims.get("mitigations") == ({"launch": "0x1", "current": "0x3"} if version == 5 else None)
    assert ("cpuid" in claims) == (version >= 3)


def test_all_fields_are_told() -> None:
    verdict = verified(
        version=5,
        guest_svn=9,
        policy=0x1F011F | 1 << 17,
        vmpl=2,
        platform_info=0xBF,
        key_info=1,
        measurement=b"m" * 48,
        host_data=b"h" * 32,
        report_data=b"r" * 64,
        id_key_digest=b"i" * 48,
        author_key_digest=b"a" * 48,
        report_id=b"x" * 32,
        current_version=bytes((1, 2, 3, 0)),
    )
    assert verdict.verified, said(verdict)
    assert verdict.measurements == {
        "launchmeasurement": (b"m" * 48).hex(),
        "hostdata": (b"h" * 32).hex(),
        "reportdata": (b"r" * 64).hex(),
        "idkeydigest": (b"i" * 48).hex(),
        "authorkeydigest": (b"a" * 48).hex(),
    }
    assert verdict.nonce == b"r" * 64
    claims = verdict.claims
    assert claims["policy"]["abi"] == "1.31"
    assert all(claims["policy"][name] for bit, name in POLICY_BITS.items() if 16 <= bit <= 20)
    assert not claims["policy"]["cxl-allowed"]
    assert claims["platform_info"]["sev-tio-enabled"]
    assert claims["author_key_enabled"]
    assert (claims["guest_svn"], claims["vmpl"], claims["current_version"]) == (9, 2, "3.2.1")
    assert json.loads(json.dumps(verdict.json()))["measurements"]["hostdata"] == (b"h" * 32).hex()


@pytest.mark.parametrize(("policy", "debug"), [(0x3001F, False), (0xB0000, True), (0xB001F, True)])
def test_debug_is_only_in_the_policy_never_in_the_signature(policy: int, debug: bool) -> None:
    verdict = verified(policy=policy)
    assert verdict.verified
    assert verdict.debug is debug
    assert verdict.claims["policy"]["debug-allowed"] is debug


def test_a_migration_agent_is_told() -> None:
    assert verified(policy=0x7001F).claims["policy"]["migration-agent-allowed"]


# What may not be in a signed report


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"policy": 0x1001F}, "policy: bit 17 is reserved and must be one"),
        ({"policy": 0x3001F | 1 << 26}, "policy: has reserved bits"),
        ({"policy": 0x3001F | 1 << 63}, "policy: has reserved bits"),
        ({"platform_info": 1 << 6}, "platform_info: has reserved bits"),
        ({"key_info": 1 << 5}, "key_info: has reserved bits"),
        ({"key_info": 7 << 2}, "key_info: names as signing key: none"),
        ({"key_info": 3 << 2}, "key_info: names as signing key: unknown (3)"),
        ({"signature_algorithm": 2}, "signature_algorithm: is 2"),
        ({"reserved_4c": 1}, "0x04c: is reserved"),
        ({"reserved_18b": b"\1"}, "0x18b: is reserved"),
        ({"reserved_208": b"\1"}, "0x208: is reserved"),
        ({"current_version": bytes((29, 55, 1, 9))}, "0x1eb: is reserved"),
        ({"committed_version": bytes((29, 55, 1, 9))}, "0x1ef: is reserved"),
        ({"launch_mitigations": 1}, "0x1f8: is reserved"),
        ({"version": 2, "cpuid": b"\x19\1\1"}, "0x188: is reserved"),
        ({"vmpl": 0xFFFFFFFF}, "vmpl: is 0xffffffff: the host asked for it"),
        ({"vmpl": 4}, "vmpl: is 0x4"),
        ({"cpuid": b"\x17\1\1"}, "no known product"),
        ({"cpuid": b"\x19\x11\1"}, "product: is not one"),
        ({"current_tcb": bytes((4, 0, 1, 0, 0, 0, 24, 219))}, "current_tcb: has reserved bytes"),
        ({"chip_id": b""}, "chip_id: is masked"),
        ({"chip_id": b"\1" * 64}, "of another chip"),
    ],
    ids=[
        "policy-without-its-one-bit",
        "policy-bit-unknown",
        "policy-last-bit",
        "platform-bit-unknown",
        "key-bit-unknown",
        "not-signed",
        "unknown-signer",
        "other-algorithm",
        "reserved-4c",
        "reserved-18b",
        "reserved-208",
        "reserved-1eb",
        "reserved-1ef",
        "mitigations-before-version-5",
        "cpuid-before-version-3",
        "asked-for-by-the-host",
        "vmpl-that-does-not-exist",
        "processor-unknown",
        "processor-of-another-product",
        "tcb-reserved-bytes",
        "chip-masked",
        "chip-of-another-machine",
    ],
)
def test_a_signed_report_that_breaks_a_rule_is_refused(changed: dict[str, Any], says: str) -> None:
    verdict = verified(**changed)
    assert not verdict.verified
    assert says in said(verdict)


def test_turin_has_its_own_byte_order_of_patch_levels() -> None:
    turin = Machine(product="Turin")
    milan_order = bytes(
        turin.levels.get(name, 0) if name else 0
        for name in ("bootloader", "tee", None, None, None, None, "snp", "microcode")
    )
    verdict = verified(turin, reported_tcb=milan_order)
    assert not verdict.verified
    assert "reported_tcb: has reserved bytes" in said(verdict)
    assert "reported_tcb.fmc: is 4" in said(verdict)


@pytest.mark.parametrize("name", CLASSIC)
def test_a_vcek_for_other_firmware_is_refused(name: str) -> None:
    older = replace(MILAN, levels={**MILAN.levels, name: MILAN.levels[name] + 1})
    verdict = snp.verify(report(older), at=NOW, endorsements=MILAN.endorsements, roots=MILAN.roots)
    assert not verdict.verified
    assert f"reported_tcb.{name}" in said(verdict)


# Certificates


def changed(number: int, value: bytes) -> dict[str, tuple[bool, bytes]]:
    return {f"{minting.AMD}.{number}": (False, value)}


TURIN = Machine(product="Turin")
VLEK = Machine(vlek=True)


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (replace(VLEK, changed=changed(4, bytes(64))), "has a hwID, which a VLEK never has"),
        (replace(VLEK, left_out=(f"{minting.AMD}.5",)), "names no cloud provider"),
        (replace(MILAN, changed=changed(5, core.IA5String("csp").dump())), "is a VLEK, the report says"),
        (replace(MILAN, left_out=(f"{minting.AMD}.4",)), "has a hwID of 0 bytes, expected 64"),
        (replace(MILAN, changed=changed(4, MILAN.chip_id[:8])), "has a hwID of 8 bytes, expected 64"),
        (replace(TURIN, changed=changed(4, TURIN.chip_id + bytes(56))), "has a hwID of 64 bytes, expected 8"),
        (replace(MILAN, changed=changed(2, core.IA5String("Venice-A0").dump())), "which is not known"),
        (replace(MILAN, changed=changed(2, core.UTF8String("Milan-B0").dump())), "which is not known"),
        (replace(MILAN, changed=changed(2, core.IA5String("Genoa").dump())), "product: is not one"),
        (replace(MILAN, left_out=(f"{minting.AMD}.3.3",)), "is for None: another TCB"),
        (
            replace(MILAN, changed={f"{minting.AMD}.3.8": (False, core.Integer(-37).dump())}),
            "has no patch level in microcode",
        ),
        (
            replace(MILAN, changed={f"{minting.AMD}.3.8": (False, core.Integer(219 + 256).dump())}),
            "has no patch level in microcode",
        ),
        (replace(MILAN, changed={"1.2.3.4": (True, b"")}), "has the critical extension 1.2.3.4"),
        (
            replace(MILAN, dates=(NOW + timedelta(days=1), NOW + timedelta(days=9))),
            "SEV-VCEK: is valid from 2026-11-02",
        ),
        (
            replace(MILAN, dates=(NOW - timedelta(days=9), NOW - timedelta(days=1))),
            "SEV-VCEK: is valid from 2026-10-23",
        ),
    ],
    ids=[
        "vlek-with-a-hwid",
        "vlek-without-a-provider",
        "vlek-for-a-report-of-a-vcek",
        "vcek-without-a-hwid",
        "milan-with-a-hwid-of-turin",
        "turin-with-a-hwid-of-milan",
        "product-unknown",
        "product-in-another-string-type",
        "product-of-another-root",
        "patch-level-left-out",
        "patch-level-negative",
        "patch-level-beyond-a-byte",
        "critical-extension-unknown",
        "not-yet-valid",
        "ended",
    ],
)
def test_a_certificate_that_does_not_fit_is_refused(machine: Machine, says: str) -> None:
    verdict = verified(machine)
    assert not verdict.verified
    assert says in said(verdict)


def test_a_hwid_that_is_wrapped_as_an_octet_string_is_read() -> None:
    wrapped = replace(MILAN, changed=changed(4, core.OctetString(MILAN.chip_id).dump()))
    assert verified(wrapped).verified


def test_keys_are_pinned_and_not_certificates() -> None:
    """AMD re-issues VCEKs and chains over the same keys with new dates."""
    again = replace(MILAN, dates=(NOW - timedelta(days=2), NOW + timedelta(days=7)))
    assert again.certificate != MILAN.certificate
    verdict = snp.verify(report(MILAN), at=NOW, endorsements=again.endorsements, roots=MILAN.roots)
    assert verdict.verified, said(verdict)


@cache
def other() -> Machine:
    return Machine(name="foreign")


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        (lambda: other().chain, "ARK-Milan: is no pinned root"),
        (lambda: (MILAN.chain[0], *other().chain[1:]), "SEV-VCEK: is not signed by the key of SEV-Milan"),
        (lambda: (*MILAN.chain[:2], other().chain[2]), "SEV-Milan: is not signed by the key of ARK-Milan"),
        (lambda: (other().chain[0], *MILAN.chain[1:]), "SEV-VCEK: is not signed by the key of SEV-Milan"),
        (lambda: MILAN.chain[1:], "no VCEK certificate"),
        (lambda: (MILAN.chain[0],), "SEV-VCEK: was issued by SEV-Milan, whose certificate is not at hand"),
        (
            lambda: (MILAN.chain[0], MILAN.authority.intermediate(False, {}), MILAN.chain[2]),
            "SEV-Milan: may not sign the certificate below it",
        ),
        (
            lambda: (
                MILAN.chain[0],
                MILAN.authority.intermediate(
                    False, {**minting.CA, "2.5.29.15": (True, bytes.fromhex("03020780"))}
                ),
                MILAN.chain[2],
            ),
            "SEV-Milan: may not sign the certificate below it",
        ),
    ],
    ids=[
        "foreign-root",
        "foreign-intermediate",
        "foreign-root-of-the-same-name",
        "foreign-leaf",
        "leaf-missing",
        "chain-missing",
        "intermediate-is-no-ca",
        "intermediate-may-not-sign",
    ],
)
def test_a_chain_that_does_not_reach_the_pinned_key_is_refused(chain: Any, says: str) -> None:
    endorsements = Endorsements(files=(armoured(*chain()),))
    verdict = snp.verify(report(MILAN), at=NOW, endorsements=endorsements, roots=MILAN.roots)
    assert not verdict.verified
    assert says in said(verdict)


def test_a_root_certificate_made_over_the_pinned_key_without_it_is_refused() -> None:
    """Only its own signature makes the dates in a root certificate believable."""
    vcek, ask, ark = MILAN.chain
    forged = bytearray(ark)
    forged[-1] ^= 1
    endorsements = Endorsements(files=(armoured(vcek, ask, bytes(forged)),))
    verdict = snp.verify(report(MILAN), at=NOW, endorsements=endorsements, roots=MILAN.roots)
    assert not verdict.verified
    assert "not signed by its own key" in said(verdict)


def test_the_key_of_another_chip_does_not_sign_for_this_one() -> None:
    thief = Machine(chip="thief")
    data = report(MILAN, signer=thief.key)
    for machine in (MILAN, thief):
        verdict = snp.verify(data, at=NOW, endorsements=machine.endorsements, roots=MILAN.roots)
        assert not verdict.verified
    assert "of another chip" in said(verdict)


@pytest.mark.parametrize(
    "written",
    [
        lambda chain: (armoured(*chain),),
        lambda chain: tuple(armoured(one) for one in reversed(chain)),
        lambda chain: chain,
        lambda chain: (thim(*chain),),
        lambda chain: (b"\xef\xbb\xbf# a comment\r\n" + armoured(*chain).replace(b"\n", b"\r\n"),),
        lambda chain: (b'{"keys": []}', b"", b"\x30\x03", b"text", armoured(*chain)),
    ],
    ids=["one-pem", "a-pem-each-in-any-order", "der", "thim", "pem-with-a-comment-and-crlf", "among-others"],
)
def test_endorsements_are_read_however_they_were_saved(written: Any, plain: bytes) -> None:
    endorsements = Endorsements(files=written(MILAN.chain))
    verdict = snp.verify(plain, at=NOW, endorsements=endorsements, roots=MILAN.roots)
    assert verdict.verified, said(verdict)


@pytest.mark.parametrize(
    "junk",
    [
        b'{"vcekCert": ',
        b'{"vcekCert": 7, "certificateChain": {}}',
        b'{"vcekCert": ' + b"[" * 100_000,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\n=AAA\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----" * 50_000,
        b"\x30\x82\xff\xff" + bytes(70_000),
        b"\x30\x82" * 30_000,
        b"\x30\x84\xff\xff\xff\xff",
    ],
    ids=[
        "thim-cut-off",
        "thim-of-other-types",
        "thim-nested-deeply",
        "pem-of-nothing",
        "pem-not-base64",
        "pem-that-never-ends",
        "der-of-huge-length",
        "der-nested-deeply",
        "der-of-indefinite-size",
    ],
)
def test_junk_among_the_endorsements_is_no_traceback_and_no_help(junk: bytes, plain: bytes) -> None:
    verdict = snp.verify(plain, at=NOW, endorsements=Endorsements(files=(junk,)), roots=MILAN.roots)
    assert not verdict.verified


# Time and nonce


def test_a_report_has_no_time_of_its_own() -> None:
    verdict = snp.verify(report(MILAN), at=None, endorsements=MILAN.endorsements, roots=MILAN.roots)
    assert verdict.verified
    assert verdict.at == minting.LEAF_DATES[0]
    assert verdict.issued is None
    assert verdict.expires is None
    assert any("2026-02-05T00:00:00Z" in one and "no time of its own" in one for one in verdict.checked)


def test_without_a_certificate_there_is_no_moment_either() -> None:
    verdict = snp.verify(report(MILAN), at=None)
    assert not verdict.verified
    assert verdict.at == datetime.fromtimestamp(0, UTC)
    assert any(one.startswith("no moment") for one in verdict.checked)


@pytest.mark.parametrize(
    ("data", "nonce", "fits"),
    [
        (b"n" * 64, b"n" * 64, True),
        (b"n" * 32, b"n" * 32, True),
        (b"n" * 64, b"n" * 32, False),
        (b"n" * 32, b"n" * 31, False),
        (b"n" * 64, b"o" * 64, False),
        (b"n" * 64, b"n" * 65, False),
        (b"", b"", False),
    ],
    ids=["whole", "padded", "only-a-prefix", "cut", "replayed", "longer-than-the-field", "empty"],
)
def test_report_data_answers_the_nonce(data: bytes, nonce: bytes, fits: bool) -> None:
    verdict = snp.verify(
        report(MILAN, report_data=data),
        at=NOW,
        endorsements=MILAN.endorsements,
        nonce=nonce,
        roots=MILAN.roots,
    )
    assert verdict.verified is fits
    assert ("REPORT_DATA" in said(verdict)) is not fits


def test_without_a_nonce_the_verdict_says_that_freshness_is_open() -> None:
    assert any("freshness was not checked" in one for one in verified().checked)


# Outside bytes


@pytest.mark.parametrize("version", [0, 1, 4, 6, 2**32 - 1])
def test_an_unknown_version_is_no_report(version: int) -> None:
    with pytest.raises(MalformedEvidence, match=f"version: is {version}"):
        snp.parse(report(MILAN, version=version))


@pytest.mark.parametrize("size", [0, 1, 672, 1183, 1185, 1188, 4000])
def test_another_size_is_no_report(size: int, plain: bytes) -> None:
    with pytest.raises(MalformedEvidence, match="1184"):
        snp.verify((plain * 4)[:size], at=NOW)


def test_every_flipped_byte_loses_the_verification(plain: bytes) -> None:
    """All 1,184, also those that no signature covers."""
    endorsements, roots = MILAN.endorsements, MILAN.roots
    for at in range(len(plain)):
        flipped = bytearray(plain)
        flipped[at] ^= 1 << at % 8
        try:
            verdict = snp.verify(bytes(flipped), at=NOW, endorsements=endorsements, roots=roots)
        except MalformedEvidence:
            assert at < 4
            continue
        assert not verdict.verified, hex(at)


@given(data=st.binary(min_size=1184, max_size=1184), version=st.sampled_from([2, 3, 5]))
@example(data=b"\xff" * 1184, version=5)
@settings(max_examples=60, deadline=None)
def test_any_bytes_of_the_size_are_refused_without_a_traceback(data: bytes, version: int) -> None:
    shaped = version.to_bytes(4, "little") + data[4:]
    for bytes_ in (data, shaped):
        try:
            verdict = snp.verify(bytes_, at=NOW, endorsements=endorsed(), roots=MILAN.roots)
        except MalformedEvidence:
            continue
        assert not verdict.verified
        json.dumps(verdict.json())


@given(at=st.integers(0, 2), flip=st.integers(0, 3000), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_changed_certificate_is_no_traceback_and_no_other_verdict(
    at: int, flip: int, bit: int, cut: bool
) -> None:
    chain = list(MILAN.chain)
    changed = bytearray(chain[at])
    place = flip % len(changed)
    if cut:
        del changed[place:]
    else:
        changed[place] ^= 1 << bit
    chain[at] = bytes(changed)
    endorsements = Endorsements(files=(armoured(*chain),))
    verdict = snp.verify(report(MILAN), at=NOW, endorsements=endorsements, roots=MILAN.roots)
    assert not verdict.verified


@given(
    fields=st.fixed_dictionaries(
        {
            "version": st.sampled_from([2, 3, 5]),
            "guest_svn": st.integers(0, 2**32 - 1),
            "policy": st.integers(0, 0x3FFFFFF).map(lambda bits: bits | 1 << 17),
            "vmpl": st.integers(0, 3),
            "report_data": st.binary(max_size=64),
            "measurement": st.binary(max_size=48),
            "host_data": st.binary(max_size=32),
            "report_id": st.binary(max_size=32),
        }
    ),
    product=st.sampled_from(sorted(SHAPES)),
    vlek=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_what_a_machine_signs_is_what_the_verdict_says(
    fields: dict[str, Any], product: str, vlek: bool
) -> None:
    machine = Machine(product=product, vlek=vlek)
    verdict = verified(machine, **fields)
    assert verdict.verified, said(verdict)
    assert verdict.debug is bool(fields["policy"] & 1 << 19)
    assert verdict.measurements["hostdata"] == fields["host_data"].ljust(32, b"\0").hex()
    assert verdict.measurements["launchmeasurement"] == fields["measurement"].ljust(48, b"\0").hex()
    assert verdict.nonce == fields["report_data"].ljust(64, b"\0")
    assert verdict.claims["guest_svn"] == fields["guest_svn"]


def test_each_processor_has_one_product_with_a_layout() -> None:
    for family in range(256):
        for model in range(256):
            product = product_of_cpu(family, model)
            assert product is None or product in LAYOUTS
    assert [product_of_cpu(0x19, model) for model in (0x01, 0x11, 0xA0)] == ["Milan", "Genoa", "Genoa"]
    assert product_of_cpu(0x1A, 0x02) == "Turin"
