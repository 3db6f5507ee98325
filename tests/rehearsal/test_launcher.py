"""The launcher's stand-in: what it gives out, and what it refuses as the real one does."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from google_rehearsed import claims, signer

from jewelhouse.evidence import confidential_space, tokens
from jewelhouse.rehearsal.launcher import Launcher

STS = "https://sts.googleapis.com"


@pytest.fixture
def launcher(tmp_path):
    with Launcher(signer(), tmp_path / "tee.sock", claims()) as running:
        yield running


def call(path: Path, method: str, target: str = "/v1/token", body: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, target, data if method == "POST" else None)
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


def options(**changes: Any) -> dict[str, Any]:
    return {"audience": STS, "token_type": "OIDC", "nonces": ["n" * 64], **changes}


def test_the_default_token_is_for_the_token_service_and_has_no_nonce(launcher):
    status, body = call(launcher.path, "GET")
    found = tokens.read(body).claims
    assert (status, found["aud"]) == (200, STS)
    assert "eat_nonce" not in found


@pytest.mark.parametrize(
    ("nonces", "claim"), [(["n" * 64], "n" * 64), (["n" * 10, "m" * 74], ["n" * 10, "m" * 74]), ([], None)]
)
def test_a_custom_token_has_audience_and_nonces(launcher, nonces, claim):
    _, body = call(launcher.path, "POST", body=options(audience="https://vault.example", nonces=nonces))
    found = tokens.read(body).claims
    assert found["aud"] == "https://vault.example"
    assert found.get("eat_nonce") == claim


@pytest.mark.parametrize(("kind", "chained"), [("OIDC", False), ("PKI", True)])
def test_a_token_is_of_the_type_that_was_asked_for(launcher, kind, chained):
    _, body = call(launcher.path, "POST", body=options(token_type=kind))
    assert ("x5c" in tokens.read(body).header) is chained


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (options(audience=""), "use GET request"),
        (options(token_type=""), "token_type is a required parameter"),
        (options(token_type="LIMITED_AWS"), "not played"),
        (options(nonces=["short"]), "10 to 74"),
        (options(nonces=["n" * 75]), "10 to 74"),
        (options(nonces=[7]), "10 to 74"),
        (options(nonces=["n" * 64] * 7), "too many"),
        (options(audience="a" * 513), "too long"),
        (options(nonce=["n" * 64]), "unknown field"),
        (options(nonces="n" * 64), "cannot unmarshal"),
        ([], "unknown field"),
        (b"{", "failed to parse"),
    ],
)
def test_what_the_launcher_refuses(launcher, body, says):
    status, text = call(launcher.path, "POST", body=body)
    assert status == 400
    assert says in text.decode()


@pytest.mark.parametrize(
    ("method", "target", "status"), [("POST", "/v1/tokens", 404), ("PUT", "/v1/token", 400)]
)
def test_nothing_else_is_served(launcher, method, target, status):
    assert call(launcher.path, method, target, options())[0] == status


def test_a_production_verifier_refuses_its_tokens(launcher):
    for kind in ("OIDC", "PKI"):
        _, body = call(launcher.path, "POST", body=options(token_type=kind))
        verdict = confidential_space.verify(body, at=None)
        assert not verdict.verified


def test_the_socket_is_gone_with_it(tmp_path):
    with Launcher(signer(), tmp_path / "tee.sock", claims()) as running:
        assert running.path.is_socket()
    assert not running.path.exists()
