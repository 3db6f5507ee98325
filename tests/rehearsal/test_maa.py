"""The stand-in for Azure Attestation: it believes whole evidence under its own root, and no other."""

from __future__ import annotations

import base64
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from azure_rehearsed import Place, machine, place, signer

from jewelhouse.evidence import maa, snp
from jewelhouse.evidence.verdict import Endorsements
from jewelhouse.guest import azure_container, azure_cvm, tpm
from jewelhouse.guest.maa import GUEST, SNP, b64, b64url
from jewelhouse.model import Platform
from jewelhouse.rehearsal import minting_snp
from jewelhouse.rehearsal.snp_guest import statement

RUNTIME = b'{"keys":[]}'


def ask(here: Place, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and body of an answer, by nothing of the guest's."""
    context = ssl.create_default_context(cafile=here.endpoints.certificates)
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(here.maa.url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def group() -> Iterator[Place]:
    with place() as here:
        yield here


@pytest.fixture(scope="module")
def vm() -> Iterator[Place]:
    with place(Platform.AZURE_CVM) as here:
        yield here


def test_a_token_verifies_with_what_certs_answers_and_under_no_pinned_root(group):
    status, answer = ask(group, SNP, azure_container.request(group.endpoints, RUNTIME))
    assert status == 200
    saved = Endorsements(files=(json.dumps(ask(group, "/certs")[1]).encode(),))
    token, now = answer["token"].encode(), datetime.now(UTC)
    assert maa.verify(token, at=now, endorsements=saved, roots=signer().roots).verified
    production = maa.verify(token, at=now, endorsements=saved)
    assert not production.verified
    assert any("root" in one.what.lower() for one in production.problems)


def test_a_production_verifier_refuses_the_rehearsals_processor():
    report = minting_snp.report(machine(), report_data=b"nonce")
    verdict = snp.verify(report, at=datetime.now(UTC), endorsements=machine().endorsements)
    assert not verdict.verified
    assert any("no pinned root" in one.what for one in verdict.problems)
    own = snp.verify(report, at=datetime.now(UTC), endorsements=machine().endorsements, roots=machine().roots)
    assert own.verified


@pytest.mark.parametrize(
    ("endorsement", "says"),
    [
        (statement(bytes(range(48))), "azure-compliant-uvm"),
        (statement(b"\5" * 48), None),
        (statement(bytes(range(48)), minting_snp.ec_key("stranger")), None),
        (b"no statement", None),
    ],
    ids=["Microsoft's", "of another machine", "by a stranger", "none"],
)
def test_compliance_is_for_known_utility_machines(endorsement, says):
    with place(endorsement=endorsement) as here:
        ask(here, SNP, azure_container.request(here.endpoints, RUNTIME))
        (one,) = here.maa.log
    assert one.claims is not None
    assert one.claims.get("x-ms-compliance-status") == says


def test_a_debug_guest_gets_a_token_that_says_so():
    with place(debug=True) as here:
        ask(here, SNP, azure_container.request(here.endpoints, RUNTIME))
        claims = here.maa.log[0].claims or {}
    assert claims["x-ms-sevsnpvm-is-debuggable"] is True
    assert "x-ms-compliance-status" not in claims


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda body: [], "is no object", id="no object"),
        pytest.param(lambda body: {}, "report is not base64", id="nothing"),
        pytest.param(lambda body: {**body, "report": b64(b"[]")}, "report is no object", id="no report"),
        pytest.param(lambda body: {**body, "runtimeData": None}, "runtimeData is no JSON", id="no data"),
        pytest.param(
            lambda body: {**body, "runtimeData": {"data": b64(b"{}"), "dataType": "JSON"}},
            "REPORT_DATA",
            id="other runtime data",
        ),
        pytest.param(
            lambda body: {**body, "runtimeData": {**body["runtimeData"], "dataType": "Binary"}},
            "runtimeData is no JSON",
            id="data of another type",
        ),
        pytest.param(lambda body: proof(body, SnpReport="AAAA"), "SEV-SNP report has", id="short report"),
        pytest.param(lambda body: proof(body, VcekCertChain=""), "VCEK", id="no certificates"),
    ],
)
def test_evidence_of_a_container_that_does_not_hold(group, change, says):
    body = change(azure_container.request(group.endpoints, RUNTIME))
    status, answer = ask(group, SNP, body)
    assert status == 400
    assert says in answer["error"]["message"]


def proof(body: dict[str, Any], **changes: str) -> dict[str, Any]:
    inner = json.loads(base64.urlsafe_b64decode(body["report"]))
    return {**body, "report": b64(json.dumps({**inner, **changes}).encode())}


def guest_info(here: Place) -> dict[str, Any]:
    with (
        tpm.opened(here.device.path) as call,
        tpm.ephemeral(call, azure_cvm.PCRS, os.urandom(256)) as key,
    ):
        return azure_cvm.evidence(call, key, here.endpoints, {"nonce": b"1234"})


def in_tpm(**changes: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(info: dict[str, Any]) -> dict[str, Any]:
        said = info["TpmInfo"]
        return {**info, "TpmInfo": {**said, **{name: new(said[name]) for name, new in changes.items()}}}

    return change


def other_key(_: str) -> str:
    return OTHER["TpmInfo"]["EncKeyPub"]


OTHER: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(in_tpm(PcrSignature=lambda _: b64(bytes(256))), "PcrSignature is not by", id="quote"),
        pytest.param(
            in_tpm(EncKeyCertifyInfoSignature=lambda _: b64(bytes(256))),
            "EncKeyCertifyInfoSignature is not by",
            id="certification",
        ),
        pytest.param(
            in_tpm(PCRs=lambda pcrs: [{**pcrs[0], "Digest": b64(bytes(32))}, *pcrs[1:]]),
            "of other values",
            id="other registers",
        ),
        pytest.param(in_tpm(PcrSet=lambda _: [0, 1]), "other registers than PcrSet", id="fewer registers"),
        pytest.param(in_tpm(PCRs=lambda pcrs: pcrs[:2]), "other registers", id="fewer values"),
        pytest.param(in_tpm(EncKeyPub=other_key), "about another key", id="key that is not certified"),
        pytest.param(in_tpm(AikPub=other_key), "not the key that the hardware's", id="other attestation key"),
        pytest.param(in_tpm(PcrQuote=lambda _: b64(b"\xffTCG")), "PcrSignature is not by", id="other quote"),
        pytest.param(lambda info: {**info, "TcgLogs": ""}, "log of the boot is empty", id="no log"),
        pytest.param(lambda info: {**info, "TpmInfo": {}}, "lacks a part", id="no TPM"),
        pytest.param(
            lambda info: {**info, "IsolationInfo": {"Type": "TrustedLaunch"}}, "lacks a part", id="no TEE"
        ),
    ],
)
def test_evidence_of_a_vm_that_does_not_hold(vm, change, says):
    OTHER.update(guest_info(vm))
    body = {"AttestationInfo": b64url(json.dumps(change(guest_info(vm))).encode())}
    status, answer = ask(vm, GUEST, body)
    assert status == 400
    assert says in answer["error"]["message"]


def test_a_quote_is_no_certification(vm):
    """One statement of the same key in the other's place."""
    info = guest_info(vm)
    said = info["TpmInfo"]
    said["EncKeyCertifyInfo"], said["EncKeyCertifyInfoSignature"] = said["PcrQuote"], said["PcrSignature"]
    status, answer = ask(vm, GUEST, {"AttestationInfo": b64url(json.dumps(info).encode())})
    assert (status, answer["error"]["message"]) == (400, "TPMS_ATTEST is no statement of a TPM of this type")


@pytest.mark.parametrize("path", ["/attest/SgxEnclave?api-version=2022-08-01", "/attest/SevSnpVm", "/x"])
def test_what_is_not_there(group, path):
    assert ask(group, path, {})[0] == 404
