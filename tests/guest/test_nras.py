"""How the guest reaches NVIDIA's attestation service: with limits, and nobody else in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jewelhouse.guest import nras
from jewelhouse.guest.nvml import Evidence
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal.http import Answer, Asked, Service, answer

GPU = Evidence(architecture="HOPPER", report=b"report", chain=b"chain")
AUTHORITY = http.Authority()


@contextmanager
def service(*answers: Answer, always: Callable[[Asked], Answer] | None = None) -> Iterator[tuple]:
    """A service with these answers in their order, the last one again and again."""
    asked: list[Asked] = []

    def handler(one: Asked) -> Answer:
        asked.append(one)
        return always(one) if always else answers[min(len(asked), len(answers)) - 1]

    with Service(handler, identity=AUTHORITY.identity()) as running:
        yield running.url, asked


@pytest.fixture
def trusting(tmp_path):
    path = tmp_path / "authority.pem"
    path.write_bytes(AUTHORITY.pem)
    return lambda url: Endpoints(nras=url, certificates=str(path))


@pytest.fixture
def waited(monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_what_is_sent_is_what_the_service_wants(trusting):
    with service(Answer(body=b"tokens"), Answer(body=b"keys")) as (url, asked):
        found = nras.attest(trusting(url), bytes(range(32)), [GPU, GPU])
    assert (found.bundle, found.keys) == (b"tokens", b"keys")
    post, get = asked
    assert (post.method, post.target) == ("POST", "/v4/attest/gpu")
    assert (get.method, get.target) == ("GET", "/.well-known/jwks.json")
    assert json.loads(post.body) == {
        "nonce": bytes(range(32)).hex(),
        "arch": "HOPPER",
        "claims_version": "3.0",
        "evidence_list": [{"evidence": "cmVwb3J0", "certificate": "Y2hhaW4="}] * 2,
    }


def test_without_a_rehearsal_it_is_nvidias_own(monkeypatch, waited):
    hosts: list[tuple[str, int | None]] = []

    def once(context, host, port, *_):
        hosts.append((host, port))
        return 200, b"tokens"

    monkeypatch.setattr(nras, "_once", once)
    nras.attest(Endpoints(), bytes(32), [GPU])
    assert set(hosts) == {("nras.attestation.nvidia.com", None)}


@pytest.mark.parametrize(
    "disturbed",
    [
        pytest.param(answer({}, 429), id="throttled"),
        pytest.param(answer({}, 503), id="overloaded"),
        pytest.param(Answer(body=b"tokens", cut=2), id="connection-lost-in-the-middle"),
    ],
)
def test_what_passes_is_waited_out(trusting, waited, disturbed):
    with service(disturbed, disturbed, Answer(body=b"tokens")) as (url, asked):
        assert nras.asked(trusting(url), "GET", "/") == b"tokens"
    assert len(asked) == 3
    assert waited == [1.0, 2.0]


@pytest.mark.parametrize(
    ("disturbed", "says"),
    [
        pytest.param(answer({}, 429), "was asked 5 times and throttles", id="throttled-for-good"),
        pytest.param(answer({}, 500), "was asked 5 times and fails with status 500", id="broken"),
        pytest.param(Answer(body=b"tokens", cut=2), "was tried 5 times and cannot be reached", id="cut-off"),
    ],
)
def test_what_does_not_pass_ends(trusting, waited, disturbed, says):
    with service(disturbed) as (url, asked), pytest.raises(Closed, match=says):
        nras.asked(trusting(url), "GET", "/")
    assert len(asked) == 5
    assert sum(waited) == 15


def test_nobody_there(trusting, waited):
    with service(Answer()) as (url, _):
        pass
    with pytest.raises(Closed, match=r"cannot be reached: ConnectionRefusedError\n.*port 443"):
        nras.asked(trusting(url), "GET", "/")


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        pytest.param(
            answer({"message": "bad nonce"}, 400), "does not take the evidence .*bad nonce", id="400"
        ),
        pytest.param(answer({}, 401), "wants a service key", id="service-key-wanted"),
        pytest.param(answer({}, 403), "wants a service key", id="service-key-refused"),
        pytest.param(answer({"message": "RIM"}, 404), "no reference values .*RIM", id="no-reference-values"),
        pytest.param(answer({"message": 7}, 418), "refuses .*does not say why", id="words-that-are-none"),
        pytest.param(
            Answer(status=302, headers={"Location": "https://nras.example/"}), "refuses", id="sent-elsewhere"
        ),
        pytest.param(Answer(body=bytes(nras.LARGEST + 1)), "answers with more than", id="flood"),
    ],
)
def test_a_refusal_is_not_asked_again(trusting, waited, refusal, says):
    with service(refusal) as (url, asked), pytest.raises(Closed, match=says):
        nras.asked(trusting(url), "GET", "/")
    assert len(asked) == 1
    assert waited == []


def test_a_relay_with_a_certificate_of_its_own_gets_no_evidence(tmp_path, waited):
    path: Path = tmp_path / "other.pem"
    path.write_bytes(http.Authority(name="other").pem)
    with service(Answer(body=b"tokens")) as (url, asked):
        with pytest.raises(Closed, match="no certificate of the service"):
            nras.asked(Endpoints(nras=url, certificates=str(path)), "POST", "/", b"evidence")
        assert asked == []
    assert waited == []


def test_a_proxy_of_the_environment_does_not_count(trusting, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with service(Answer(body=b"tokens")) as (url, _):
        assert nras.asked(trusting(url), "GET", "/") == b"tokens"


@given(body=st.binary(max_size=300), status=st.sampled_from([200, 201, 204, 302, 400, 404, 451]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_answered_is_a_body_or_a_closed_door(trusting, body, status):
    with service(Answer(status=status, body=body if status != 204 else b"")) as (url, _):
        if status == 200:
            assert nras.asked(trusting(url), "GET", "/") == body
            return
        with pytest.raises(Closed) as caught:
            nras.asked(trusting(url), "GET", "/")
    assert all(line.isprintable() for line in str(caught.value).splitlines())
