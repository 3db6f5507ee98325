"""Releases in a confidential VM: a TPM that is swtpm, the real clients, and what stays closed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta

import minting_tdx
import pytest
from azure_rehearsed import (
    DEK,
    KEY,
    MAA_ISSUER,
    OTHER_KEY,
    TRAIN,
    asked,
    closed,
    machine,
    no_pauses,
    place,
    policy,
    signer,
)
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import tdx
from jewelhouse.evidence.verdict import Verdict
from jewelhouse.guest import azure_cvm, hcl, tpm
from jewelhouse.guest.opening import Closed
from jewelhouse.model import Platform, Tee
from jewelhouse.rehearsal import maa, minting_snp, vtpm
from jewelhouse.rehearsal.minting_sgx import rsa_key

__all__ = ["no_pauses"]

CVM = Platform.AZURE_CVM


def test_a_key_opens_for_the_right_evidence():
    with place(CVM) as here:
        opened = here.opener()(asked())
        (judged,) = here.vault.log
    assert opened.dek == DEK
    assert (opened.kind, judged.code, judged.principal) == ("maa", "released", TRAIN.principal)
    assert judged.decision.evidence.claims["x-ms-isolation-tee"]["x-ms-attestation-type"] == "sevsnpvm"


def test_every_run_has_a_key_of_its_own_and_leaves_none_behind():
    """Below the null seed a TPM makes the same key until it is reset, and it has room for three."""
    with place(CVM) as here:
        open_ = here.opener()
        for _ in range(4):
            assert open_(asked()).dek == DEK
        runs = [one.claims["x-ms-runtime"] for one in here.maa.log]
    assert len({one["keys"][0]["n"] for one in runs}) == 4
    assert len({one["client-payload"]["nonce"] for one in runs}) == 4
    assert {one["client-payload"]["record"] for one in runs} == {base64.b64encode(b"b" * 32).decode()}


@pytest.mark.parametrize(
    ("around", "says"),
    [
        pytest.param({"debug": True}, "is-debuggable true", id="debug guest"),
        pytest.param(
            {"policies": dict.fromkeys((KEY, OTHER_KEY), policy(Platform.AZURE_CONTAINER))},
            "releases nothing",
            id="policy for containers",
        ),
        pytest.param(
            {"policies": dict.fromkeys((KEY, OTHER_KEY), policy(CVM, tee=Tee.TDX))},
            "releases nothing",
            id="policy for another TEE",
        ),
        pytest.param(
            {"vault_believes": signer("stranger")}, "releases nothing", id="token by a foreign service"
        ),
        pytest.param({"releasers": {KEY: set()}}, "Caller is not authorized", id="identity without the role"),
        pytest.param(
            {"change": lambda claims: {**claims, "secureboot": False}},
            "secureboot false",
            id="no secure boot",
        ),
    ],
)
def test_key_vault_releases_nothing(around, says):
    with place(CVM, **around) as here:
        assert says in closed(lambda: here.opener()(asked()))


@pytest.mark.parametrize(
    ("around", "says"),
    [
        pytest.param({"hardware": machine("foreign")}, "is no pinned root", id="foreign root"),
        pytest.param({"secure_boot": False}, "VMs without secure boot", id="secure boot off"),
        pytest.param(
            {"other_key": True}, "not the key that the hardware vouches for", id="report of another VM"
        ),
        pytest.param({"kind": 3}, "this VM is not confidential", id="trusted launch"),
        pytest.param({"kind": 1}, "this VM is not confidential", id="VBS"),
        pytest.param(
            {"report": lambda data: minting_snp.report(machine(), report_data=bytes(64))},
            "not bound to",
            id="report on other runtime data",
        ),
        pytest.param(
            {"maa_clock": lambda: datetime.now(UTC) - timedelta(hours=9)}, "it is stale", id="stale token"
        ),
    ],
)
def test_the_guest_gets_no_token(around, says):
    with place(CVM, **around) as here:
        assert says in closed(lambda: here.opener()(asked()))
        assert here.vault.log == []


def test_a_replayed_token_is_for_a_key_of_another_run():
    with place(CVM) as here:
        open_ = here.opener()
        open_(asked())
        here.maa.replay = here.maa.tokens[0]
        assert "is for another key (TpmEphemeralEncryptionKey)" in closed(lambda: open_(asked()))


def test_a_replayed_envelope_does_not_open(monkeypatch):
    kept = maa.encrypted(b"token", (rsa_key("stranger").public_key().public_numbers().n, 65537))
    monkeypatch.setattr(maa, "encrypted", lambda *_: kept)
    with place(CVM) as here:
        text = closed(lambda: here.opener()(asked()))
    # swtpm says TPM_RC_VALUE for padding that does not fit, or gives some other number of bytes.
    assert "RSA_Decrypt: is refused by the TPM" in text or "not for this run's key" in text
    assert here.vault.log == []


def test_registers_that_change_close_the_key():
    """Software that is started after the evidence was taken gets nothing out of the key."""
    with (
        place(CVM) as here,
        tpm.opened(here.device.path) as call,
        tpm.ephemeral(call, azure_cvm.PCRS, os.urandom(256)) as key,
    ):
        secret = encrypted(key)
        assert tpm.decrypt(call, key, azure_cvm.PCRS, secret, tpm.OAEP_SHA1) == b"secret"
        vtpm.extend(call, 4, bytes(32))
        with pytest.raises(Closed, match="RSA_Decrypt"):
            tpm.decrypt(call, key, azure_cvm.PCRS, secret, tpm.OAEP_SHA1)


def encrypted(key: tpm.Key) -> bytes:
    sha1 = hashes.SHA1()
    public = rsa.RSAPublicNumbers(key.numbers[1], key.numbers[0]).public_key()
    return public.encrypt(b"secret", padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None))


def test_a_machine_without_a_tpm(tmp_path):
    with place(CVM) as here:
        assert "cannot be used: No such file" in closed(lambda: here.opener(tpm="/nowhere/tpm")(asked()))
        plain = tmp_path / "plain"
        plain.write_bytes(b"")
        assert "less than a header" in closed(lambda: here.opener(tpm=str(plain))(asked()))


@pytest.mark.parametrize("content", [None, b""], ids=["unreadable", "empty"])
def test_without_the_log_of_the_boot_nobody_understands_the_registers(content):
    with place(CVM) as here:
        here.device.event_log.unlink()
        if content is not None:
            here.device.event_log.write_bytes(content)
        assert str(here.device.event_log) in closed(lambda: here.opener()(asked()))


@pytest.mark.parametrize(
    ("answer", "says"),
    [(None, "refuses with status 404"), (b"{}", "gives no certificates"), (b"[]", "is not a JSON object")],
)
def test_a_host_without_certificates_of_its_processor(answer, says):
    with place(CVM) as here:
        here.metadata.thim = answer
        assert says in closed(lambda: here.opener()(asked()))


def test_the_request_has_the_members_that_the_service_wants():
    """Azure/azure-guest-attestation-sdk: crates/azure-guest-attestation-sdk/src/guest_attest/mod.rs."""
    with (
        place(CVM) as here,
        tpm.opened(here.device.path) as call,
        tpm.ephemeral(call, azure_cvm.PCRS, os.urandom(256)) as key,
    ):
        info = azure_cvm.evidence(call, key, here.endpoints, {"nonce": b"1234"})
    assert info["AttestationProtocolVersion"] == "2.0"
    assert base64.b64decode(info["OSType"]) == b"Linux"
    assert info["ClientPayload"] == {"nonce": "MTIzNA=="}
    assert info["IsolationInfo"]["Type"] == "SevSnp"
    assert set(info["TpmInfo"]) == {
        *("AikCert", "AikPub", "PcrQuote", "PcrSignature", "PcrSet", "PCRs"),
        *("EncKeyPub", "EncKeyCertifyInfo", "EncKeyCertifyInfoSignature"),
    }
    assert [one["Index"] for one in info["TpmInfo"]["PCRs"]] == list(range(8))
    assert "=" not in info["IsolationInfo"]["Evidence"]["Proof"]


def test_tdx_attests_by_a_quote_of_the_host():
    intel = minting_tdx.Platform()

    def quoted(report: bytes) -> bytes:
        return minting_tdx.Platform(report={"reportdata": report[128:192]}).quote()

    def verified(quote: bytes) -> Verdict:
        return tdx.verify(quote, at=minting_tdx.NOW, endorsements=intel.endorsements, roots=intel.roots)

    # TDREPORT_STRUCT: report data at 128, 1,024 bytes in all.
    with place(
        CVM,
        kind=4,
        report=lambda data: (bytes(128) + data).ljust(1024, b"\0"),
        quote=quoted,
        quotes=verified,
        policies=dict.fromkeys((KEY, OTHER_KEY), policy(CVM, tee=Tee.TDX)),
    ) as here:
        assert here.opener()(asked()).dek == DEK
        assert here.metadata.log[0] == "/acc/tdquote"
        here.metadata.quote = lambda _: intel.quote()
        assert "not bound to the runtime data" in closed(lambda: here.opener()(asked()))
        here.metadata.quote = None
        assert "refuses with status 404" in closed(lambda: here.opener()(asked()))


def paravisor() -> bytes:
    made = vtpm.Vtpm.__new__(vtpm.Vtpm)
    made.report = lambda data: minting_snp.report(machine(), report_data=data)
    made.kind, made.secure_boot, made.claims = 2, True, {}
    return made.paravisor(rsa_key("ak").public_key())


def test_the_paravisors_report_is_read():
    found = hcl.parse(paravisor().ljust(2600, b"\0"))
    assert found.tee.name == "SevSnp"
    assert found.key == (rsa_key("ak").public_key().public_numbers().n, 65537)
    assert json.loads(found.runtime)["vm-configuration"]["secure-boot"] is True


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:1000], "has 1000 bytes"),
        (lambda data: b"HCLB" + data[4:], "begins with b'HCLB'"),
        (lambda data: data[:4] + b"\x09" + data[5:], "version 9"),
        (lambda data: data[: 32 + 0x4A0 + 12] + b"\2" + data[32 + 0x4A0 + 13 :], "by hash 2"),
        (lambda data: data[:-1], "bytes of runtime data"),
        (lambda data: data[:-10] + b"}" + data[-9:], "is not bound to"),
    ],
)
def test_a_report_whose_parts_do_not_belong_together(change, says):
    with pytest.raises(Closed) as caught:
        hcl.parse(change(paravisor()))
    assert says in str(caught.value)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_hostile_reports_of_the_paravisor_are_refused(data):
    good = bytearray(PARAVISOR)
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = hcl.parse(bytes(good))
    except Closed:
        return
    # What is still read is bound as before.
    assert hashlib.sha256(found.runtime).digest() == found.report[0x50:0x70]


PARAVISOR = paravisor()


@given(st.one_of(st.text(max_size=200), st.binary(max_size=300).map(lambda raw: azure_cvm.b64url(raw))))
@settings(max_examples=150, deadline=None)
def test_hostile_envelopes_are_refused(reply):
    with pytest.raises(Closed):
        azure_cvm.decrypted(reply, lambda wrapped: bytes(32), MAA_ISSUER)


@given(
    st.fixed_dictionaries(
        {
            "Jwt": st.binary(max_size=40),
            "EncryptedInnerKey": st.binary(max_size=40),
            "Iv": st.binary(max_size=16),
            "AuthenticationData": st.binary(max_size=20),
        }
    ),
    st.binary(max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_envelopes_under_another_key_are_refused(parts, key):
    text = {name: base64.b64encode(value).decode() for name, value in parts.items()}
    envelope = {**text, "EncryptionParams": {"Iv": text.pop("Iv")}}
    with pytest.raises(Closed):
        azure_cvm.decrypted(azure_cvm.b64url(json.dumps(envelope).encode()), lambda wrapped: key, MAA_ISSUER)
