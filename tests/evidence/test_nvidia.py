from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
import real
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import nvidia
from jewelhouse.evidence.verdict import Endorsements, Kind, MalformedEvidence, Verdict
from jewelhouse.rehearsal import minting_nvidia as minting
from jewelhouse.rehearsal.minting_nvidia import NONCE, NOW, Gpu, evidence, opaque

GPU = Gpu()


@cache
def endorsed() -> Endorsements:
    return GPU.endorsements


def verified(gpu: Gpu = GPU, **how: Any) -> Verdict:
    how = {"at": NOW, "endorsements": gpu.endorsements, "roots": gpu.roots, **how}
    return nvidia.verify(gpu.report(), **how)


def said(verdict: Verdict) -> str:
    return "\n".join(f"{problem.where}: {problem.what}" for problem in verdict.problems)


# Real reports


@real.needed
@pytest.mark.parametrize("form", ["hex", "raw"])
def test_a_real_report_verifies_with_its_chain(form: str) -> None:
    data = real.evidence("nvidia/hopperAttestationReport.txt")
    if form == "raw":
        data = bytes.fromhex(data.decode())
    chain = Endorsements(files=(real.evidence("nvidia/hopperCertChain.txt"),))
    nonce = bytes.fromhex("27a328247bf7935c993341cf587be6f05986ccce4fe7ba2c54100bd616a58f66")
    for at in (None, NOW):
        verdict = nvidia.verify(data, at=at, endorsements=chain, nonce=nonce)
        assert verdict.verified, said(verdict)
        assert verdict.kind is Kind.NVIDIA_SPDM
        assert len(verdict.chain) == 5
        assert verdict.chain[-1].startswith("NVIDIA Device Identity CA")
        assert len(verdict.measurements) == 64
        assert verdict.nonce == nonce
        (device,) = verdict.claims["devices"]
        assert device["opaque"]["driver-version"] == "535.86.09"
        assert device["opaque"]["vbios-version"] == "96.00.5E.00.01"


@real.needed
def test_the_real_evidence_json_verifies_with_the_chain_inside_it() -> None:
    verdict = nvidia.verify(real.evidence("nvidia/evidence_hopper_590_12.json"), at=NOW)
    assert verdict.verified, said(verdict)
    (device,) = verdict.claims["devices"]
    assert device["opaque"]["driver-version"] == "590.12"
    assert device["unsigned"]["arch"] == "HOPPER"
    assert any("revocation was not checked" in one for one in verdict.checked)


@real.needed
def test_the_real_report_with_an_invalid_signature_is_refused_for_it() -> None:
    verdict = nvidia.verify(
        real.evidence("nvidia/hopperAttestationReportInvalidSignature.txt"),
        at=None,
        endorsements=Endorsements(files=(real.evidence("nvidia/hopperCertChain.txt"),)),
    )
    assert not verdict.verified
    assert "signature: is not made by the key" in said(verdict)


@real.needed
@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((), "no certificate of the device"),
        (("nvidia/verifier_device_root.pem",), "no certificate of the device"),
        (("amd-sev-snp/milan-vcek.pem",), "is not made by the key of SEV-VCEK"),
    ],
    ids=["no-chain", "only-the-root", "chain-of-a-processor"],
)
def test_a_real_report_without_its_chain_is_refused(files: tuple[str, ...], says: str) -> None:
    endorsements = Endorsements(files=tuple(real.evidence(name) for name in files))
    data = real.evidence("nvidia/hopperAttestationReport.txt")
    verdict = nvidia.verify(data, at=None, endorsements=endorsements)
    assert not verdict.verified
    assert says in said(verdict)


# Minted reports


def test_a_minted_report_says_what_it_holds() -> None:
    verdict = verified(nonce=NONCE)
    assert verdict.verified, said(verdict)
    assert verdict.measurements == {f"index {n}": v.hex() for n, v in GPU.measurements.items()}
    assert verdict.claims["devices"][0]["opaque"] == {
        "driver-version": "590.12",
        "vbios-version": "96.00.A5.00.01",
        "fwid": minting.FWID.hex(),
        "feature-flag": "0200",
    }
    json.dumps(verdict.json())


def test_opaque_data_with_a_header_is_read_and_of_unknown_form_kept_raw() -> None:
    newer = replace(GPU, opaque=opaque({3: b"600.1\0", 99: b"\1"}, header=True))
    told = verified(newer).claims["devices"][0]["opaque"]
    assert told == {"driver-version": "600.1", "field-99": "01"}
    unknown = verified(replace(GPU, opaque=b"\xff" * 9))
    assert unknown.verified
    assert unknown.claims["devices"][0]["opaque"] == {"raw": "ff" * 9}


def test_a_report_has_no_time_of_its_own() -> None:
    verdict = verified(at=None)
    assert verdict.at == minting.BEGAN
    assert any("no time of its own" in one for one in verdict.checked)
    alone = nvidia.verify(GPU.report(), at=None)
    assert alone.at == datetime.fromtimestamp(0, UTC)
    assert not alone.verified


def test_several_devices_verify_together() -> None:
    gpus = [replace(GPU, name=f"gpu{number}") for number in range(3)]
    verdict = nvidia.verify(evidence(*gpus), at=NOW, nonce=NONCE, roots=GPU.roots)
    assert verdict.verified, said(verdict)
    assert len(verdict.claims["devices"]) == 3
    assert "device 2 index 1" in verdict.measurements


FOREIGN = Gpu(keys="foreign")


@pytest.mark.parametrize(
    ("gpu", "how", "says"),
    [
        (GPU, {"nonce": bytes(32)}, "nonce: is 000102"),
        (GPU, {"nonce": NONCE[:16]}, "nonce: is 000102"),
        (GPU, {"nonce": b""}, "(empty)"),
        (FOREIGN, {"roots": GPU.roots}, "Device Identity CA: is no pinned root"),
        (replace(GPU, name="other"), {"endorsements": endorsed()}, "is not made by the key of gpu FMC LF"),
        (replace(GPU, fwid=bytes(48)), {}, "fwid: gpu FMC LF was issued for other firmware"),
        (
            replace(GPU, dates=(NOW - timedelta(days=9), NOW - timedelta(days=1))),
            {},
            "gpu FMC LF: is valid from 2026-10-23",
        ),
        (replace(GPU, dates=(NOW + timedelta(days=1), minting.NEVER)), {}, "gpu FMC LF: is valid from"),
    ],
    ids=[
        "replayed",
        "nonce-cut",
        "nonce-empty",
        "foreign-root",
        "signed-by-another-device",
        "firmware-other-than-certified",
        "certificate-ended",
        "certificate-of-the-future",
    ],
)
def test_a_report_that_does_not_fit_is_refused(gpu: Gpu, how: dict[str, Any], says: str) -> None:
    verdict = verified(gpu, **how)
    assert not verdict.verified
    assert says in said(verdict)


def test_a_leaf_may_not_issue_a_leaf() -> None:
    """A device that signs a certificate for a key of its own making is no CA."""
    leaf = GPU.certificates[0]
    fake = minting.issue("fake", "gpu FMC LF", ca=False, extra=b"")
    pem = GPU.pem + fake.public_bytes(minting.Encoding.PEM)
    data = replace(GPU, opaque=b"").report(signer=minting.ec_key("nvidia fake"))
    verdict = nvidia.verify(data, at=NOW, endorsements=Endorsements(files=(pem,)), roots=GPU.roots)
    assert leaf.subject == fake.issuer
    assert not verdict.verified
    assert "gpu FMC LF: may not sign the certificate below it" in said(verdict)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (lambda: [GPU.entry(), GPU.entry()], "two reports are signed by one key"),
        (lambda: [GPU.entry(nonce="00" * 32)], "nonce: beside the report is not the one inside it"),
        (lambda: [GPU.entry(nonce=7)], "nonce: beside the report is not the one inside it"),
        (
            lambda: [GPU.entry(), replace(GPU, name="two", nonce=bytes(32)).entry()],
            "nonce: is not the same for all devices",
        ),
        (
            lambda: [GPU.entry(certificate=replace(GPU, name="two").entry()["certificate"])],
            "is not made by the key of two FMC LF",
        ),
        (lambda: [GPU.entry(certificate="")], "no certificate of the device"),
    ],
    ids=[
        "one-gpu-counted-twice",
        "nonce-beside-is-another",
        "nonce-beside-is-a-number",
        "answers-to-two-requests",
        "chain-of-another-device",
        "chain-empty",
    ],
)
def test_evidence_of_devices_that_does_not_fit_is_refused(entries: Any, says: str) -> None:
    verdict = nvidia.verify(json.dumps(entries()).encode(), at=NOW, roots=GPU.roots)
    assert not verdict.verified
    assert says in said(verdict)


# Outside bytes


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"[7]",
        b"{}",
        b'[{"evidence": 1, "certificate": 2}]',
        b'[{"evidence": "AAAA", "certificate": ""}]',
        b'[{"evidence": "*", "certificate": ""}]',
        b'[{"evidence": "", "evidence": "", "certificate": ""}]',
        b"[" * 100_000,
        b"[" + b"{}," * 64 + b"{}]",
        b"",
        b"\x11\xe0",
        b"11e0",
        b"\x11\xe0" + bytes(100),
        b"\x12\xe0" + bytes(200),
        b"\x11\xe0" + b"\xff" * 70_000,
        b" " * 2_000_000,
    ],
    ids=[
        "no-device",
        "device-is-a-number",
        "empty-object",
        "members-are-numbers",
        "report-of-nothing",
        "not-base64",
        "member-twice",
        "nested-deeply",
        "too-many-devices",
        "empty",
        "two-bytes",
        "two-bytes-in-hex",
        "no-answer",
        "another-version-of-spdm",
        "huge-lengths",
        "too-large",
    ],
)
def test_what_is_no_evidence_says_so(data: bytes) -> None:
    with pytest.raises(MalformedEvidence):
        nvidia.verify(data, at=NOW)


@pytest.mark.parametrize("more", [b"\0", b"\0" * 96, GPU.report()], ids=["a-byte", "zeros", "a-report"])
def test_bytes_behind_the_signature_are_no_report(more: bytes) -> None:
    with pytest.raises(MalformedEvidence, match="do not add up"):
        nvidia.verify(GPU.report() + more, at=NOW, endorsements=endorsed(), roots=GPU.roots)


def test_a_measurement_that_stands_twice_is_no_report() -> None:
    data = GPU.report()
    twice = data.replace(b"\2\1\x33\0\1\x30\0", b"\1\1\x33\0\1\x30\0")
    assert twice != data
    with pytest.raises(MalformedEvidence, match="twice"):
        nvidia.parse(twice)


def test_every_flipped_byte_loses_the_verification() -> None:
    data = GPU.report()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        try:
            verdict = nvidia.verify(bytes(flipped), at=NOW, endorsements=endorsed(), roots=GPU.roots)
        except MalformedEvidence:
            continue
        assert not verdict.verified, at


@given(cut=st.integers(0, 2000))
@settings(max_examples=40, deadline=None)
def test_a_report_that_is_cut_is_no_report(cut: int) -> None:
    data = GPU.report()
    with pytest.raises(MalformedEvidence):
        nvidia.parse(data[: cut % len(data)])


@given(data=st.binary(max_size=400))
@example(data=b"\x11\x60" + b"\xff" * 300)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused_without_a_traceback(data: bytes) -> None:
    shaped = b"\x11\xe0" + bytes(35) + b"\x11\x60" + data
    entry = json.dumps([{"evidence": base64.b64encode(shaped).decode(), "certificate": ""}]).encode()
    for one in (data, shaped, entry):
        try:
            verdict = nvidia.verify(one, at=NOW, endorsements=endorsed(), roots=GPU.roots)
        except MalformedEvidence:
            continue
        assert not verdict.verified


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON, certificate=JSON)
@settings(max_examples=60, deadline=None)
def test_any_json_is_refused_without_a_traceback(value: Any, certificate: Any) -> None:
    for one in (value, [{"evidence": value, "certificate": certificate}]):
        data = json.dumps(one).encode()
        try:
            verdict = nvidia.verify(data, at=NOW, roots=GPU.roots)
        except MalformedEvidence:
            continue
        assert not verdict.verified
