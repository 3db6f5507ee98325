"""Releases in a confidential container group, by the real clients; and what stays closed."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
import real
from azure_rehearsed import (
    DEK,
    KEY,
    OTHER_KEY,
    TRAIN,
    asked,
    closed,
    machine,
    no_pauses,
    place,
    policy,
    signer,
    stage,
    wrapped,
)

from jewelhouse.evidence import snp_report
from jewelhouse.guest import azure_container, opening
from jewelhouse.guest.settings import Endpoints
from jewelhouse.model import Platform
from jewelhouse.rehearsal import http, minting_snp
from jewelhouse.rehearsal.azure_imds import Identity
from jewelhouse.rehearsal.snp_guest import statement

__all__ = ["no_pauses"]

OTHER_ISSUER = "https://sharedneu.neu.attest.azure.net"
OTHER = Identity(client="bbbbbbbb-0000-4000-8000-000000000002", principal="other")


def test_a_key_opens_for_the_right_evidence():
    with place() as here:
        opened = here.opener()(asked())
        (judged,) = here.vault.log
    assert opened.dek == DEK
    assert (opened.kind, judged.code, judged.principal) == ("maa", "released", "train")
    assert DEK.hex() not in repr(opened)


def test_evidence_is_fresh_and_carries_the_key_of_the_record():
    with place() as here:
        open_ = here.opener()
        open_(asked())
        open_(asked())
        first, second = (one.claims["x-ms-runtime"] for one in here.maa.log if one.claims)
    assert first["record"] == (b"b" * 32).hex()
    assert first["nonce"] != second["nonce"]
    assert first["keys"][0]["n"] != second["keys"][0]["n"]


def test_each_key_is_unwrapped_with_its_own():
    with place() as here:
        open_ = here.opener()
        assert open_(asked(key=OTHER_KEY, wrapped=wrapped(b"\7" * 32, 1))).dek == b"\7" * 32
        assert "does not unwrap with the released key" in closed(lambda: open_(asked(key=OTHER_KEY)))


@pytest.mark.parametrize(
    ("around", "says"),
    [
        pytest.param({"debug": True}, ("is-debuggable true",), id="debug guest"),
        pytest.param({"host_data": b"\1" * 32}, ("hostdata", "01" * 32), id="another container policy"),
        pytest.param({"host_data": b""}, ("hostdata", "00" * 32), id="no container policy"),
        pytest.param({"vmpl": 1}, ("x-ms-sevsnpvm-vmpl 1",), id="report of a lower privilege level"),
        pytest.param(
            {"endorsement": statement(b"\5" * 48)},
            ("releases nothing",),
            id="utility machine that is not Microsoft's",
        ),
        pytest.param(
            {"vault_believes": signer("stranger")}, ("releases nothing",), id="token by a foreign service"
        ),
        pytest.param(
            {"vault_clock": lambda: datetime.now(UTC) + timedelta(hours=9)},
            ("releases nothing",),
            id="stale token, guest with a wrong clock",
        ),
        pytest.param(
            {"releasers": {KEY: {"serve"}, OTHER_KEY: {"serve"}}},
            ("Caller is not authorized", "Release User"),
            id="identity without the role",
        ),
        pytest.param(
            {"policies": dict.fromkeys((KEY, OTHER_KEY), policy(Platform.AZURE_CVM))},
            ("releases nothing",),
            id="policy for virtual machines",
        ),
    ],
)
def test_key_vault_releases_nothing(around, says):
    with place(**around) as here:
        text = closed(lambda: here.opener()(asked()))
        assert here.vault.log[-1].code == "Forbidden"
    for part in says:
        assert part in text


def test_the_refusal_says_what_gates_saw():
    with place(host_data=b"\1" * 32) as here:
        text = closed(lambda: here.opener()(asked()))
    assert 'x-ms-compliance-status "azure-compliant-uvm"' in text
    assert "jewelhouse release evaluate" in text


def test_tokens_of_another_authority_open_nothing():
    elsewhere = signer("neu", OTHER_ISSUER)
    with place(signed_by=elsewhere, vault_believes=elsewhere) as here:
        text = closed(lambda: here.opener(stage={"authority": OTHER_ISSUER})(asked()))
        (judged,) = here.vault.log
    assert "releases nothing" in text
    assert any("authority" in one.where for one in judged.decision.because)


@pytest.mark.parametrize(
    ("around", "says"),
    [
        pytest.param({"hardware": machine("foreign")}, "is no pinned root", id="foreign root"),
        pytest.param(
            {"signer": minting_snp.ec_key("stranger")}, "signature", id="report by another processor"
        ),
        pytest.param(
            {"signed_by": signer("neu", OTHER_ISSUER)}, "is issued by", id="another authority's token"
        ),
        pytest.param(
            {"maa_clock": lambda: datetime.now(UTC) - timedelta(hours=9)}, "it is stale", id="stale token"
        ),
        pytest.param(
            {"maa_clock": lambda: datetime.now(UTC) + timedelta(hours=1)},
            "is valid from",
            id="token of the future",
        ),
        pytest.param(
            {"change": lambda claims: {**claims, "x-ms-runtime": {**claims["x-ms-runtime"], "nonce": "1"}}},
            "answers another nonce",
            id="another nonce",
        ),
        pytest.param(
            {"change": lambda claims: {**claims, "x-ms-runtime": {}}}, "has no key", id="token without a key"
        ),
        pytest.param(
            {"change": lambda claims: {**claims, "x-ms-attestation-type": "azurevm"}},
            "is of type",
            id="token of another kind",
        ),
        pytest.param({"trusted": http.Authority("another")}, "has no certificate", id="relay in the middle"),
    ],
)
def test_the_guest_stops_before_it_asks_for_a_key(around, says, no_pauses):
    with place(**around) as here:
        text = closed(lambda: here.opener()(asked()))
        assert here.vault.log == []
    assert says in text


def test_a_replayed_token_is_for_a_key_of_another_run():
    with place() as here:
        open_ = here.opener()
        open_(asked())
        here.maa.replay = here.maa.tokens[0]
        assert "is for another key" in closed(lambda: open_(asked()))
        assert len(here.vault.log) == 1


def test_a_replayed_report_is_on_other_data():
    recorded = minting_snp.report(machine(), report_data=b"of another run", host_data=b"\xfe" * 32)
    with place(replay=recorded) as here:
        assert "report on other data" in closed(lambda: here.opener()(asked()))
        assert here.maa.log == []


@pytest.mark.parametrize("identities", [(), (OTHER,)], ids=["no identity", "another stage's identity"])
def test_a_host_without_the_stages_identity_gets_nothing(identities):
    with place(identities=identities) as here:
        assert "managed identity gives no token" in closed(lambda: here.opener()(asked()))


def test_the_stages_own_client_is_asked_for():
    with place(identities=(OTHER, TRAIN)) as here:
        assert here.opener()(asked()).dek == DEK
        text = closed(lambda: here.opener(stage={"client_id": OTHER.client})(asked()))
    assert "Caller is not authorized" in text


@pytest.mark.parametrize("service", ["vault", "maa", "metadata"])
def test_what_is_throttled_is_asked_again_and_then_given_up(service, no_pauses):
    with place() as here:
        busy = getattr(here, service)
        busy.fail(429, 2)
        assert here.opener()(asked()).dek == DEK
        busy.fail(429, 99)
        text = closed(lambda: here.opener()(asked()))
    assert "throttle" in text or "gives no token" in text
    assert 0 < sum(no_pauses) < 120


@pytest.mark.parametrize("service", ["vault", "maa"])
def test_a_service_that_dies_is_asked_again_and_then_given_up(service, no_pauses):
    with place() as here:
        dying = getattr(here, service)
        dying.cut(2)
        assert here.opener()(asked()).dek == DEK
        dying.cut(99)
        assert "cannot be reached" in closed(lambda: here.opener()(asked()))


@pytest.mark.parametrize("name", ["maa", "vault"])
def test_a_service_that_is_not_there(name, no_pauses):
    with place() as here:
        text = closed(lambda: here.opener(**{name: "https://127.0.0.1:9"})(asked()))
    assert "cannot be reached" in text


def test_denials_are_not_asked_again(no_pauses):
    with place(debug=True) as here:
        closed(lambda: here.opener()(asked()))
        assert len(here.vault.log) == 1
    assert no_pauses == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"authority": None}, "no attestation endpoint"),
        ({"authority": "https://sharedweu.weu.attest.azure.net.example.org"}, "no attestation endpoint"),
        ({"authority": "http://sharedweu.weu.attest.azure.net"}, "no attestation endpoint"),
        ({"client_id": None}, "names no managed identity"),
    ],
)
def test_settings_that_lead_nowhere(changes, says):
    assert says in closed(lambda: opening.opener(stage(**changes), Endpoints()))


def test_certificates_of_an_updated_host_are_fetched_again():
    with place() as here:
        stale = json.loads(here.device.thim) | {"tcbm": "DB18000000000003"}
        path = here.device.context / "host-amd-cert-base64"
        path.write_bytes(base64.b64encode(json.dumps(stale).encode()))
        assert here.opener()(asked()).dek == DEK
        assert "/metadata/THIM/amd/certification" in here.metadata.log
        here.metadata.thim = json.dumps(stale).encode()
        assert "the report names db18000000000004" in closed(lambda: here.opener()(asked()))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("host-amd-cert-base64", None, "cannot be read"),
        ("host-amd-cert-base64", b"!!", "is no base64"),
        ("host-amd-cert-base64", base64.b64encode(b"[]"), "is not a JSON object"),
        ("host-amd-cert-base64", base64.b64encode(b"{}"), "no certificates"),
        ("reference-info-base64", None, "cannot be read"),
        ("reference-info-base64", b"", "is empty"),
    ],
)
def test_a_security_context_that_is_not_whole(name, content, says):
    with place() as here:
        path = here.device.context / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert says in closed(lambda: here.opener()(asked()))


def test_outside_of_a_confidential_group_nothing_opens(monkeypatch):
    with place() as here:
        assert "is not there" in closed(lambda: here.opener(snp="/nowhere/sev-guest")(asked()))
        monkeypatch.delenv(azure_container.CONTEXT)
        assert "is not set" in closed(lambda: here.opener()(asked()))


def test_the_real_files_beside_a_container_are_read(tmp_path, monkeypatch):
    thim = real.evidence("amd-sev-snp/azure-aci/uvm_host_amd_certificate.json")
    report = real.evidence("amd-sev-snp/azure-aci/snp_report.bin")
    (tmp_path / "host-amd-cert-base64").write_bytes(base64.b64encode(thim))
    (tmp_path / "reference-info-base64").write_bytes(base64.b64encode(b"statement"))
    monkeypatch.setenv(azure_container.CONTEXT, str(tmp_path))
    around = azure_container.context()
    # No service is asked: file and report name the same firmware.
    assert azure_container._chain(Endpoints(), report, around) == around.certificates
    assert around.certificates.count(b"BEGIN CERTIFICATE") == 3


@pytest.mark.parametrize("device", azure_container.DEVICES, ids=lambda path: path.name)
def test_the_device_is_asked_as_the_kernel_headers_say(device, monkeypatch, tmp_path):
    """The calls by which a container's kernel, 6.x or 5.x, gives a report; seen from inside of the kernel."""
    made = minting_snp.report(machine(), report_data=b"\x11" * 64)
    seen = {}

    def kernel(_, number, argument):
        old = device.name == "sev"
        layout = azure_container.OLD_CALL if old else azure_container.CALL
        fields = layout.unpack(argument)
        seen["number"] = number
        request, response = (fields[4], fields[6]) if old else (fields[1], fields[2])
        seen["data"] = ctypes.string_at(request, 96)
        reply = (0).to_bytes(4, "little") + len(made).to_bytes(4, "little") + bytes(24) + made
        ctypes.memmove(response, reply, len(reply))
        return 0

    monkeypatch.setattr("fcntl.ioctl", kernel)
    monkeypatch.setattr("os.open", lambda *_: os.dup(0))
    response = azure_container._ioctl(device, b"\x11" * 64 + bytes(32))
    assert response[32 : 32 + snp_report.SIZE] == made
    # _IOWR('S', 0, 32 bytes) of sev-guest.h; _IOWR('S', 1, 40 bytes) of the driver before it.
    size, number = {"sev-guest": (32, 0), "sev": (40, 1)}[device.name]
    assert seen["number"] == 3 << 30 | size << 16 | ord("S") << 8 | number
    assert seen["data"] == b"\x11" * 64 + bytes(32)


def test_a_report_that_the_firmware_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(azure_container, "_over", lambda *_: b"\x16\0\0\0" + bytes(1276))
    with place() as here:
        assert "status 0x16" in closed(lambda: here.opener()(asked()))


def test_the_request_is_what_the_sidecar_sends():
    """microsoft/confidential-sidecar-containers: pkg/attest/maa.go; base64url with padding throughout."""
    with place() as here:
        body = azure_container.request(here.endpoints, b'{"keys":[]}')
    proof = json.loads(base64.urlsafe_b64decode(body["report"]))
    assert set(proof) == {"SnpReport", "VcekCertChain", "Endorsements"}
    report = snp_report.parse(base64.urlsafe_b64decode(proof["SnpReport"]))
    assert report.report_data[:32] == hashlib.sha256(b'{"keys":[]}').digest()
    assert not any(report.report_data[32:])
    assert list(json.loads(base64.urlsafe_b64decode(proof["Endorsements"]))) == ["Uvm"]
    assert body["runtimeData"]["dataType"] == "JSON"


def test_a_rehearsals_certificates_are_no_public_ones(no_pauses):
    with place() as here:
        text = closed(lambda: here.opener(certificates=None)(asked()))
    assert "has no certificate of the service" in text
