"""The stand-in of Google's token service, asked by Google's own library and by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from google.auth.exceptions import OAuthError
from google.auth.transport.requests import Request
from google.oauth2 import sts as library
from google_cases import DIGEST, GPU, gate, images
from google_rehearsed import ACCOUNT, AUDIENCE, POOLS, certificates, claims, deployed, policies, signer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jewelhouse.rehearsal.minting_claims import Path, put
from jewelhouse.rehearsal.sts import ACCESS, GRANT, SCOPE, Sts

JWT = "urn:ietf:params:oauth:token-type:jwt"


@pytest.fixture(scope="module")
def connections(tmp_path_factory):
    roots = tmp_path_factory.mktemp("sts") / "roots.pem"
    roots.write_bytes(certificates().pem)
    with requests.Session() as made:
        made.verify, made.trust_env = str(roots), False
        yield made


def service(providers: dict[str, Any] | None = None, **others: Any) -> Sts:
    found = providers or {f"//{POOLS[key]}/providers/attestation": body for key, body in policies().items()}
    return Sts(found, attestation=signer(), authority=certificates(), **others)


def token(change: Any = lambda found: found, *, by: Any = None, **header: Any) -> str:
    made = claims(change)("https://sts.googleapis.com", ["n" * 64])
    return (by or signer()).token(made, flavour="oidc", header=header or None).decode()


def exchange(running: Sts, connections: requests.Session, subject: str, **changes: Any) -> dict[str, Any]:
    """By the library that google-auth's credentials use."""
    given_ = {
        "subject_token_type": JWT,
        "audience": AUDIENCE,
        "scopes": [SCOPE],
        "requested_token_type": ACCESS,
    }
    client = library.Client(f"{running.url}/v1/token")
    return dict(client.exchange_token(Request(connections), GRANT, subject, **{**given_, **changes}))


def test_a_token_is_exchanged_for_one_of_its_pool(connections):
    with service() as running:
        found = exchange(running, connections, token())
        known = running.who(found["access_token"])
    assert (found["token_type"], found["issued_token_type"]) == ("Bearer", ACCESS)
    assert 0 < found["expires_in"] <= 3600
    assert known is not None
    assert f"//iam.googleapis.com/{known.pool}/providers/attestation" == AUDIENCE


def test_a_federated_token_ends_with_the_attestation_that_it_is_made_from(connections):
    subject = token()
    now = [datetime.now(UTC)]
    with service(clock=lambda: now[0]) as running:
        access = exchange(running, connections, subject)["access_token"]
        assert running.who(access) is not None
        now[0] += timedelta(hours=1)
        assert running.who(access) is None
        assert running.who("ya29.d.made-up") is None


@pytest.mark.parametrize(
    ("subject", "code"),
    [
        pytest.param(lambda: token(by=signer("stranger")), "invalid_grant", id="token under a foreign root"),
        pytest.param(
            lambda: token(kid="google-key-2"), "invalid_grant", id="key that the issuer does not have"
        ),
        pytest.param(lambda: token(alg="none"), "invalid_grant", id="algorithm none"),
        pytest.param(lambda: token()[:-6] + "AAAAAA", "invalid_grant", id="changed signature"),
        pytest.param(
            lambda: signer().token(claims()("https://sts.googleapis.com", [])).decode(),
            "invalid_grant",
            id="token with its own chain",
        ),
        pytest.param(
            lambda: token(lambda one: put(one, {"aud": "https://vault.example"})),
            "invalid_grant",
            id="token for somebody else",
        ),
        pytest.param(
            lambda: token(lambda one: put(one, {"iss": "https://accounts.google.com"})),
            "invalid_grant",
            id="token of another issuer",
        ),
        pytest.param(
            lambda: token(
                lambda one: put(
                    one, {"exp": one["iat"] - 1, "iat": one["iat"] - 3600, "nbf": one["iat"] - 3600}
                )
            ),
            "invalid_grant",
            id="stale token",
        ),
        pytest.param(
            lambda: token(
                lambda one: put(
                    one, {"iat": one["iat"] + 900, "nbf": one["iat"] + 900, "exp": one["exp"] + 900}
                )
            ),
            "invalid_grant",
            id="token from later",
        ),
        pytest.param(
            lambda: token(lambda one: put(one, {("submods", "gce"): ...})),
            "unauthorized_client",
            id="token that says nothing of its VM",
        ),
        pytest.param(
            lambda: token(lambda one: put(one, {"dbgstat": "enabled"})),
            "unauthorized_client",
            id="debug image",
        ),
        pytest.param(
            lambda: token(lambda one: put(one, {"dbgstat": "enable"})),
            "invalid_grant",
            id="value of dbgstat from Google's page",
        ),
        pytest.param(
            lambda: token(lambda one: put(one, {"hwmodel": "INTEL_TDX"})),
            "invalid_grant",
            id="value of hwmodel from Google's page",
        ),
        pytest.param(
            lambda: token(lambda one: put(one, {"hwmodel": "GCP_SHIELDED_VM"})),
            "invalid_grant",
            id="shielded VM",
        ),
        pytest.param(
            lambda: token(
                lambda one: put(one, {("submods", "confidential_space", "support_attributes"): ["USABLE"]})
            ),
            "unauthorized_client",
            id="image that is no longer stable",
        ),
        pytest.param(
            lambda: token(
                lambda one: put(one, {("submods", "container", "image_digest"): "sha256:" + "0d" * 32})
            ),
            "unauthorized_client",
            id="another image",
        ),
        pytest.param(
            lambda: token(lambda one: put(one, {("submods", "gce", "project_number"): "1"})),
            "unauthorized_client",
            id="project of the same id and another number",
        ),
        pytest.param(lambda: "x.y.z", "invalid_grant", id="no token"),
        pytest.param(lambda: "", "invalid_grant", id="nothing"),
    ],
)
def test_what_is_not_exchanged(connections, subject, code):
    with service() as running:
        with pytest.raises(OAuthError, match=code):
            exchange(running, connections, subject())
        assert [one.code for one in running.log] == [code]


def test_claims_that_are_absent_when_nothing_is_overridden_are_admitted(connections):
    """Google's published `size(env_override) == 0` would refuse these."""
    absent: dict[Path, Any] = {
        ("submods", "container", name): ... for name in ("cmd_override", "env_override")
    }
    with service() as running:
        assert exchange(running, connections, token(lambda one: put(one, absent)))["access_token"]


def test_a_gpu_clause_does_not_admit_a_debug_image(connections):
    from google_cases import compiled

    document = deployed(compiled(gate(gpu="H100", measurements=images(DIGEST))))
    on: dict[Path, Any] = {GPU: {"cc_mode": "ON", "gpus": [{"hwmodel": "GCP_NVIDIA_H100"}]}}
    with service({AUDIENCE: document}) as running:
        assert exchange(running, connections, token(lambda one: put(one, on)))["access_token"]
        worses: list[dict[Path, Any]] = [{"dbgstat": "enabled"}, {(*GPU, "cc_mode"): "DEVTOOLS"}, {GPU: ...}]
        for worse in worses:
            with pytest.raises(OAuthError, match="unauthorized_client"):
                exchange(running, connections, token(lambda one, worse=worse: put(one, {**on, **worse})))


def test_a_subject_over_googles_limit_fails_every_exchange(connections):
    key = next(iter(policies().values()))
    mapped = {**key, "mapping": {**key["mapping"], "google.subject": "assertion.sub"}}
    long: dict[Path, Any] = {"sub": "https://www.googleapis.com/compute/v1/" + "p" * 120}
    with service({AUDIENCE: mapped}) as running:
        with pytest.raises(OAuthError, match="invalid_grant"):
            exchange(running, connections, token(lambda one: put(one, long)))
        assert "every exchange fails" in running.log[0].why


def test_a_provider_that_was_opened_by_hand_takes_more(connections):
    """It decides by what is deployed, not by what should be."""
    open_ = {**next(iter(policies().values())), "condition": ""}
    with service({AUDIENCE: open_}) as running:
        assert exchange(running, connections, token(lambda one: put(one, {"dbgstat": "enabled"})))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"audience": AUDIENCE.replace("jh-base", "jh-gone")}, "invalid_target"),
        ({"audience": AUDIENCE.replace("100000000001", "100000000009")}, "invalid_target"),
        ({"audience": "https://sts.googleapis.com"}, "invalid_request"),
        ({"audience": None}, "invalid_request"),
        ({"scopes": ["openid"]}, "invalid_scope"),
        ({"scopes": None}, "invalid_scope"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
        ({"requested_token_type": "urn:x"}, "unsupported_grant_type"),
    ],
)
def test_requests_that_it_does_not_take(connections, changes, code):
    with service() as running, pytest.raises(OAuthError, match=code):
        exchange(running, connections, token(), **changes)


def test_a_provider_that_is_switched_off_takes_nothing(connections):
    off = {**next(iter(policies().values())), "disabled": True}
    with service({AUDIENCE: off}) as running, pytest.raises(OAuthError, match="invalid_grant"):
        exchange(running, connections, token())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_no_bytes_get_a_token(running, connections, body):
    reply = connections.post(f"{running.url}/v1/token", data=body)
    assert reply.status_code == 400
    assert "access_token" not in reply.json()


@pytest.fixture(scope="module")
def running():
    with service() as found:
        yield found


def test_other_paths_and_methods_are_not_there(running, connections):
    assert connections.get(f"{running.url}/v1/token").status_code == 404
    assert connections.post(f"{running.url}/v1/introspect").status_code == 404


def test_it_knows_the_account_that_was_attested(connections):
    with service() as running:
        known = running.who(exchange(running, connections, token())["access_token"])
    assert known is not None
    assert known.verdict.claims["google_service_accounts"] == [ACCOUNT]
