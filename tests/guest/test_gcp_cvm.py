"""Tokens for confidential VMs on Google Cloud: vTPM, metadata server, Google Cloud Attestation."""

from __future__ import annotations

import base64
import json
import shutil
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from google_cases import VM
from google_rehearsed import (
    ACCOUNT,
    DEK,
    RUN,
    asked,
    closed,
    denial,
    no_pauses,
    place,
    policies,
    signer,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import tokens
from jewelhouse.guest import gcp_cvm, google_web, tpm, tsm
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints
from jewelhouse.model import Tee
from jewelhouse.rehearsal import gce_vm, gce_vtpm, http, vtpm
from jewelhouse.rehearsal.gce_metadata import Instance
from jewelhouse.rehearsal.minting_claims import vm_claims
from jewelhouse.rehearsal.minting_td import Host
from jewelhouse.rehearsal.services import Wrong

pytestmark = [
    pytest.mark.usefixtures("no_pauses"),
    pytest.mark.skipif(not vtpm.available(), reason="swtpm is not installed"),
]
__all__ = ["no_pauses"]


@pytest.fixture(scope="module")
def running():
    """One VM on TDX for the tests that change nothing about it."""
    with place(VM) as here:
        yield here


def test_a_key_opens_for_the_right_vm(running):
    opened = running.opener()(asked())
    assert (opened.dek, opened.kind) == (DEK, "gce-vm")
    claims = tokens.read(opened.evidence).claims
    assert (claims["swname"], claims["hwmodel"]) == ("GCE", "GCP_INTEL_TDX")
    assert claims["google_service_accounts"] == [ACCOUNT]
    assert claims["eat_nonce"][1] == (b"b" * 32).hex()


def test_on_sev_there_is_no_quote_of_the_hardware():
    with place(VM, tee=Tee.SEV) as here:
        opened = here.opener()(asked())
        assert not Path(here.endpoints.tsm or "").exists()
    assert tokens.read(opened.evidence).claims["hwmodel"] == "GCP_AMD_SEV"


def test_each_release_answers_a_challenge_of_its_own(running):
    open_ = running.opener()
    first, second = open_(asked()), open_(asked())
    assert (
        tokens.read(first.evidence).claims["eat_nonce"][0]
        != tokens.read(second.evidence).claims["eat_nonce"][0]
    )


@pytest.mark.parametrize(
    ("around", "says"),
    [
        pytest.param(
            {"wrong": Wrong.ROOT}, "not from the CA of Google's VMs", id="vTPM that nobody certified"
        ),
        pytest.param({"wrong": Wrong.STALE}, "does not take the attestation token", id="stale token"),
        pytest.param(
            {"signed_by": signer("stranger")},
            "does not take the attestation token",
            id="token under a foreign root",
        ),
        pytest.param(
            {"instance": replace(RUN, account=f"other-{ACCOUNT}")},
            f"other-{ACCOUNT}",
            id="another stage's identity",
        ),
        pytest.param(
            {"instance": replace(RUN, project="evil-run", number="1")}, "evil-run", id="another project"
        ),
        pytest.param(
            {"replay": signer().token(vm_claims(account=ACCOUNT, nonce="a" * 64), flavour="oidc")},
            "another nonce",
            id="replayed token",
        ),
        pytest.param({"documents": policies(VM, Tee.SEV)}, "GCP_INTEL_TDX", id="another technology"),
        pytest.param({"documents": policies()}, "does not admit", id="key for Confidential Space"),
        pytest.param(
            {"denials": [denial("iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/x")]},
            "does not admit",
            id="pool without an exception from the deny policy",
        ),
        pytest.param(
            {"ahead": timedelta(hours=2)},
            "does not take the attestation token",
            id="token that was kept too long",
        ),
    ],
)
def test_nothing_else_opens_it(around, says):
    with place(VM, **around) as here:
        assert says in closed(lambda: here.opener()(asked()))


def test_a_quote_of_another_host_is_refused():
    """The vTPM is Google's, the hardware's quote is not: somebody runs the guest elsewhere."""
    with (
        place(VM) as here,
        gce_vm.reports(Path(here.endpoints.tpm or "").parent / "evil", Host(name="evil").quote),
    ):
        evil = str(Path(here.endpoints.tpm or "").parent / "evil")
        assert "refuses: 400" in closed(lambda: here.opener(tsm=evil)(asked()))


def test_a_recorded_quote_answers_another_challenge(running):
    recorded = Host(name=gce_vm.BELIEVED).quote(b"\1" * 64)
    folder = Path(running.endpoints.tpm or "").parent
    with gce_vm.reports(folder / "recorded", lambda data: recorded):
        text = closed(lambda: running.opener(tsm=str(folder / "recorded"))(asked()))
    assert "answers another challenge" in text


def test_a_tdx_vm_without_a_quote_is_refused(running):
    assert "no quote of the hardware" in closed(lambda: running.opener(tsm="/nowhere/tsm")(asked()))


def test_what_is_sent_is_what_the_service_documents(running):
    nonce = b"\7" * 32
    with google_web.session(running.endpoints) as connections:
        found = gcp_cvm.evidence(running.endpoints, connections, nonce)
    (quote,) = found["tpmAttestation"]["quotes"]
    assert quote["hashAlgo"] == 11
    assert sorted(map(int, quote["pcrValues"])) == list(range(24))
    statement, signature = (base64.b64decode(quote[name]) for name in ("rawQuote", "rawSignature"))
    assert vtpm.qualifying(statement) == nonce
    # TPMT_SIGNATURE as a whole: RSASSA, SHA-256, size, 2048 bit.
    assert signature[:6] == bytes.fromhex("0014000b0100")
    assert len(signature) == 6 + 256
    assert found["tpmAttestation"]["certChain"] == []
    assert json.loads(json.dumps(found))["tdCcel"]["tdQuote"]


def test_the_chain_of_the_attestation_key_is_fetched_from_where_it_says(tmp_path):
    root = gce_vtpm.authority("chain").public_bytes(Encoding.DER)
    asked_for: list[str] = []

    def serve(request: http.Asked) -> http.Answer:
        asked_for.append(request.path)
        return http.Answer(body=root) if request.path == "/root.crt" else http.Answer(status=404)

    with http.Service(serve) as certificates:
        issuers = (f"{certificates.url}/gone.crt", f"{certificates.url}/root.crt")
        with gce_vtpm.GceVtpm(tmp_path, name="chain", issuers=issuers) as machine:
            endpoints = Endpoints(
                tpm=str(machine.path), event_log=str(machine.event_log), tsm=str(tmp_path / "none")
            )
            with google_web.session(endpoints) as connections:
                found = gcp_cvm.evidence(endpoints, connections, b"n" * 32)
                machine.event_log.unlink()
                assert "event-log" in closed(lambda: gcp_cvm.evidence(endpoints, connections, b"n" * 32))
    assert found["tpmAttestation"]["certChain"] == [base64.b64encode(root).decode()]
    assert asked_for[:2] == ["/gone.crt", "/root.crt"]


def test_a_chain_without_end_is_not_followed(tmp_path):
    made: list[bytes] = []
    with http.Service(lambda request: http.Answer(body=made[0])) as certificates:
        issuers = (f"{certificates.url}/again.crt",)
        with gce_vtpm.GceVtpm(tmp_path, name="loop", issuers=issuers) as machine:
            endpoints = Endpoints(
                tpm=str(machine.path), event_log=str(machine.event_log), tsm=str(tmp_path / "x")
            )
            with tpm.opened(machine.path) as call:
                made.append(tpm.nv_read(call, gcp_cvm.CERTIFICATE))
            with google_web.session(endpoints) as connections:
                text = closed(lambda: gcp_cvm.evidence(endpoints, connections, b"n" * 32))
    assert "more than 4 certificates" in text


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        pytest.param("project/project-id", b"../../x", "names project", id="project with a path in it"),
        pytest.param("instance/zone", b"europe-west4-a", "names project", id="zone without its project"),
        pytest.param(
            "instance/zone", b"projects/1/zones/../x-1-a", "names project", id="zone with a path in it"
        ),
        pytest.param("instance/zone", b"\xff\xfe", "no text", id="zone that is no text"),
        pytest.param(
            "instance/service-accounts/default/token", b"{}", "no access token", id="no access token"
        ),
        pytest.param(
            "instance/service-accounts/default/token", b"[]", "a reply that", id="token that is no object"
        ),
        pytest.param(
            "instance/service-accounts/default/token",
            b'{"access_token": "a\\r\\nX: y"}',
            "no access token",
            id="token with a header in it",
        ),
        pytest.param(
            "instance/service-accounts/default/identity",
            b"x.y.z",
            "refuses: 400",
            id="identity token that is none",
        ),
    ],
)
def test_a_host_that_lies_in_its_metadata_gets_nowhere(running, path, body, says):
    running.machine.metadata.reply(path, body)
    assert says in closed(lambda: running.opener()(asked()))


def test_a_machine_without_a_service_account_says_so(running):
    running.machine.metadata.reply("instance/service-accounts/default/token", b"not found", 404)
    assert "404" in closed(lambda: running.opener()(asked()))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "no challenge"),
        (b'{"name": "projects/p/locations/l/challenges/c", "tpmNonce": "!"}', "not base64"),
        (b'{"name": "projects/p/locations/l/challenges/c", "tpmNonce": ""}', "nonce of 0 bytes"),
        (b'{"name": "../../v1/x", "tpmNonce": "AAAA"}', "no challenge"),
        (b'{"name": "projects/p/locations/l/challenges/c?x", "tpmNonce": "AAAA"}', "no challenge"),
        (b"[]", "a reply that"),
        (b"", "a reply that"),
    ],
)
def test_a_challenge_that_is_none_is_not_answered(running, body, says):
    running.machine.service.reply(body)
    assert says in closed(lambda: running.opener()(asked()))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["name", "tpmNonce", "oidcClaimsToken", "error"]), st.text(max_size=9) | st.none()
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([200, 400, 500]),
)
def test_no_reply_of_the_attestation_service_opens_anything(running, body, status):
    running.machine.service._faults.clear()
    for _ in range(google_web.ATTEMPTS):
        running.machine.service.reply(body, status)
    closed(lambda: running.opener()(asked()))
    running.machine.service._faults.clear()


def test_what_the_service_asks_to_try_again_is_tried_again(running, no_pauses):
    running.machine.service.fail(503, times=2)
    assert running.opener()(asked()).dek == DEK
    assert len(no_pauses) == 2


def test_the_services_own_words_are_told(running):
    running.machine.service.reply(
        b'{"error": {"code": 403, "message": "Permission denied\\u001b[31m", "status": "PERMISSION_DENIED"}}',
        403,
    )
    text = closed(lambda: running.opener()(asked()))
    assert "403: Permission denied [31m" in text
    assert "workloadUser" in text


def test_without_a_vtpm_it_says_what_is_needed(running):
    assert "needs a vTPM" in closed(lambda: running.opener(tpm="/nowhere/tpm")(asked()))


class TestTheKernelsReports:
    """configfs-tsm, by a directory in its place: what is written goes nowhere, what is read stands there."""

    def test_hardware_without_the_interface_has_no_quote(self, tmp_path):
        assert tsm.quote(Endpoints(tsm=str(tmp_path / "none")), bytes(64)) is None

    def test_another_provider_than_tdx_gives_none(self, tmp_path, monkeypatch):
        entry = self._entry(tmp_path, monkeypatch, provider="sev_guest")
        assert tsm.quote(Endpoints(tsm=str(tmp_path)), bytes(64)) is None
        assert not entry.exists()

    def test_the_data_go_in_and_the_quote_comes_out(self, tmp_path, monkeypatch):
        self._entry(tmp_path, monkeypatch, outblob=b"quote" * 1000)
        assert tsm.quote(Endpoints(tsm=str(tmp_path)), b"\1" * 64) == b"quote" * 1000
        assert self.written == b"\1" * 64

    def test_an_empty_quote_closes_the_door(self, tmp_path, monkeypatch):
        self._entry(tmp_path, monkeypatch, outblob=b"")
        assert "0 bytes" in closed(lambda: tsm.quote(Endpoints(tsm=str(tmp_path)), bytes(64)))

    def test_a_kernel_that_fails_closes_the_door(self, tmp_path, monkeypatch):
        self._entry(tmp_path, monkeypatch, outblob=None)
        assert "gives no quote" in closed(lambda: tsm.quote(Endpoints(tsm=str(tmp_path)), bytes(64)))

    written = b""

    def _entry(self, tmp_path, monkeypatch, *, provider="tdx_guest", outblob: bytes | None = b"q"):
        monkeypatch.setattr("secrets.token_hex", lambda size: "0")
        entry = tmp_path / "jewelhouse-0"
        made = type(entry).mkdir

        def mkdir(path, *arguments, **options):
            made(path, *arguments, **options)
            if path == entry:
                (path / "provider").write_text(f"{provider}\n")
                (path / "generation").write_text("1\n")
                if outblob is not None:
                    (path / "outblob").write_bytes(outblob)

        def rmdir(path):
            self.written = (path / "inblob").read_bytes() if (path / "inblob").exists() else b""
            shutil.rmtree(path)

        monkeypatch.setattr(type(entry), "mkdir", mkdir)
        monkeypatch.setattr(type(entry), "rmdir", rmdir)
        return entry


def test_a_socket_that_gives_nothing_closes_the_door(tmp_path):
    with gce_vm.reports(tmp_path / "tsm", lambda data: b""):
        assert "0 bytes" in closed(lambda: tsm.quote(Endpoints(tsm=str(tmp_path / "tsm")), bytes(64)))
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(tmp_path / "dead"))
        with pytest.raises(Closed, match="gives no quote"):
            tsm.quote(Endpoints(tsm=str(tmp_path / "dead")), bytes(64))


def test_an_instance_knows_its_region():
    assert Instance(project="p", number="1", account="a", zone="us-central1-f").region == "us-central1"
