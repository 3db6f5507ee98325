"""Tokens by the launcher of Confidential Space, asked for on its socket."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import real
from google_rehearsed import asked, claims, closed, no_pauses, place, signer, stage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import confidential_space as evidence
from jewelhouse.evidence import tokens
from jewelhouse.guest import confidential_space, google, opening
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints
from jewelhouse.rehearsal.launcher import Launcher
from jewelhouse.rehearsal.minting_claims import Path as ClaimPath
from jewelhouse.rehearsal.minting_claims import put, space_claims

pytestmark = pytest.mark.usefixtures("no_pauses")
__all__ = ["no_pauses"]

NONCES = ["a" * 64, "b" * 64]


@pytest.fixture
def launcher(tmp_path):
    with Launcher(signer(), tmp_path / "tee.sock", claims()) as running:
        yield running


def ask(launcher: Launcher) -> bytes:
    return confidential_space.token(Endpoints(launcher=str(launcher.path)), NONCES)


def test_a_token_is_for_the_token_service_and_carries_the_nonces_of_this_run(launcher):
    found = tokens.read(ask(launcher)).claims
    assert found["aud"] == "https://sts.googleapis.com"
    assert found["eat_nonce"] == NONCES
    assert "x5c" not in tokens.read(ask(launcher)).header


def test_every_release_has_a_token_of_its_own_with_the_key_of_the_record():
    with place() as here:
        open_ = here.opener()
        first, second = open_(asked()), open_(asked())
        given_ = [one.nonces for one in here.machine.log]
    assert first.evidence != second.evidence
    assert given_[0][0] != given_[1][0]
    assert {nonces[1] for nonces in given_} == {(b"b" * 32).hex()}
    assert all(len(nonce) in range(10, 75) for nonces in given_ for nonce in nonces)


def test_a_recorded_token_is_not_sent_on():
    recorded = signer().token(space_claims(nonce=NONCES), flavour="oidc")
    with place(replay=recorded) as here:
        text = closed(lambda: here.opener()(asked()))
        assert here.sts.log == []
    assert "answers another nonce" in text
    assert "replayed" in text


def test_the_default_token_of_the_file_is_no_answer():
    """It has no nonce: whoever once saw it could show it again."""
    with place(replay=signer().token(space_claims(), flavour="oidc")) as here:
        assert "another nonce" in closed(lambda: here.opener()(asked()))


@pytest.mark.parametrize("status", [500, 503])
def test_what_fails_behind_the_launcher_is_tried_again(launcher, status, no_pauses):
    launcher.fail(status, times=3)
    assert ask(launcher).count(b".") == 2
    assert no_pauses == list(confidential_space.PAUSES)


def test_a_launcher_that_goes_on_failing_is_given_up(launcher):
    launcher.fail(500, times=9)
    text = closed(lambda: ask(launcher))
    assert "500: failed to retrieve custom attestation service token" in text
    assert "confidentialcomputing.workloadUser" in text


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_the_launcher_refuses_is_asked_once(launcher, status, no_pauses):
    launcher.fail(status)
    assert str(status) in closed(lambda: ask(launcher))
    assert no_pauses == []


def test_without_a_launcher_it_says_where_to_run(tmp_path):
    text = closed(lambda: confidential_space.token(Endpoints(launcher=str(tmp_path / "none")), NONCES))
    assert "Confidential Space" in text
    assert str(tmp_path / "none") in text


def test_a_launcher_that_dies_in_the_middle_closes_the_door(launcher):
    launcher.cut()
    closed(lambda: ask(launcher))


def test_an_answer_without_end_is_not_read_to_its_end(launcher):
    launcher.reply(b"a" * (tokens.TOKEN_LIMIT + 5))
    assert "no token" in closed(lambda: ask(launcher))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120))
def test_no_answer_of_the_launcher_passes_for_a_token(services, body):
    services.machine.reply(body)
    closed(lambda: services.opener()(asked()))
    assert services.sts.log == []


@pytest.fixture(scope="module")
def services():
    with place() as here:
        yield here


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"\0" * 99],
    ids=["nothing", "half a line", "another protocol", "cut off", "zeros"],
)
def test_what_speaks_no_http_closes_the_door(tmp_path, answer):
    path = tmp_path / "tee.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        closed(lambda: confidential_space.token(Endpoints(launcher=str(path)), NONCES))
        thread.join()


def test_the_socket_is_the_launchers_own_where_nothing_else_is_said():
    assert confidential_space.LAUNCHER == "/run/container_launcher/teeserver.sock"
    if not Path(confidential_space.LAUNCHER).exists():
        assert confidential_space.LAUNCHER in closed(lambda: confidential_space.token(Endpoints(), NONCES))


def test_the_image_needs_no_other_clouds_clients():
    assert opening.MODULES[stage().platform] == "confidential_space"


def test_a_real_token_of_another_run_is_no_answer_and_its_claims_with_our_nonces_are():
    """Real tokens leave out what is not used, and have claims that no gate asks for."""
    recorded = real.evidence("gcp-confidential-space/oak-ctf-production-tdx.jwt").strip()
    with pytest.raises(Closed):
        google.check(recorded, NONCES)
    own: dict[ClaimPath, Any] = {"iss": evidence.ISSUER, "aud": google.AUDIENCE, "eat_nonce": NONCES}
    made = signer().token(put(dict(tokens.read(recorded).claims), own), flavour="oidc")
    assert "GCP_INTEL_TDX" in google.check(made, NONCES)
