"""The stand-in of Google Cloud Attestation: only evidence that holds together gets a token."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from google_cases import VM
from google_rehearsed import RUN, place, signer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import confidential_space, tokens
from jewelhouse.guest import gcp_cvm, google_web
from jewelhouse.rehearsal import vtpm
from jewelhouse.rehearsal.gce_metadata import Metadata
from jewelhouse.rehearsal.minting_tokens import jws, rsa_key

pytestmark = pytest.mark.skipif(not vtpm.available(), reason="swtpm is not installed")

PARENT = f"projects/{RUN.project}/locations/{RUN.region}"
AUDIENCE = "https://sts.googleapis.com"


class Asking:
    """A VM that does by hand what the guest does, and leaves something out or changes it."""

    def __init__(self, here: Any) -> None:
        self.here = here
        self.session = google_web.session(here.endpoints)

    def post(self, path: str, body: Any, bearer: str = RUN.access) -> tuple[int, dict[str, Any]]:
        reply = self.session.post(
            f"{self.here.endpoints.attestation}/v1/{path}",
            data=body if isinstance(body, bytes) else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {bearer}"},
        )
        return reply.status_code, reply.json()

    def challenge(self) -> tuple[str, bytes]:
        _, found = self.post(f"{PARENT}/challenges", {})
        return found["name"], base64.b64decode(found["tpmNonce"])

    def identity(self, audience: str) -> str:
        path = f"computeMetadata/v1/{gcp_cvm.ACCOUNT}/identity"
        reply = self.session.get(
            f"{self.here.endpoints.imds}/{path}",
            params={"audience": audience},
            headers={"Metadata-Flavor": "Google"},
        )
        return reply.text

    def body(self, name: str, nonce: bytes) -> dict[str, Any]:
        return {
            **gcp_cvm.evidence(self.here.endpoints, self.session, nonce),
            "gcpCredentials": {"serviceAccountIdTokens": [self.identity(name)]},
            "tokenOptions": {"audience": AUDIENCE, "nonce": ["n" * 64], "tokenType": "TOKEN_TYPE_OIDC"},
        }


@pytest.fixture(scope="module")
def asking():
    with place(VM) as here:
        yield Asking(here)


def test_evidence_that_holds_together_gets_a_token(asking):
    name, nonce = asking.challenge()
    status, found = asking.post(f"{name}:verifyAttestation", asking.body(name, nonce))
    claims = tokens.read(found["oidcClaimsToken"].encode()).claims
    assert status == 200
    assert (claims["aud"], claims["eat_nonce"], claims["google_service_accounts"]) == (
        AUDIENCE,
        "n" * 64,
        [RUN.account],
    )
    assert "dbgstat" not in claims
    assert not confidential_space.verify(found["oidcClaimsToken"].encode(), at=None).verified


def test_a_challenge_is_answered_once(asking):
    name, nonce = asking.challenge()
    body = asking.body(name, nonce)
    assert asking.post(f"{name}:verifyAttestation", body)[0] == 200
    status, found = asking.post(f"{name}:verifyAttestation", body)
    assert status == 400
    assert "used before" in found["error"]["message"]


def _changed(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        at: Any = body
        for name in path[:-1]:
            at = at[name]
        if value is ...:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


QUOTE = ("tpmAttestation", "quotes", 0)
FOREIGN = jws({"alg": "RS256"}, {"aud": "x", "email": RUN.account}, rsa_key("nobody")).decode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            _changed(*QUOTE, "pcrValues", "4", value=_b64(b"\1" * 32)),
            "other registers or values",
            id="another register",
        ),
        pytest.param(_changed(*QUOTE, "pcrValues", "23", value=...), "23", id="register left out"),
        pytest.param(
            _changed(*QUOTE, "rawSignature", value=_b64(b"\0\x14\0\x0b\1\0" + b"\1" * 256)),
            "not by the key",
            id="signature made up",
        ),
        pytest.param(
            _changed(*QUOTE, "rawSignature", value=_b64(b"\0\x16\0\x0b\1\0" + b"\1" * 256)),
            "another scheme",
            id="another scheme",
        ),
        pytest.param(_changed("tpmAttestation", "akCert", value=_b64(b"0")), "", id="no certificate"),
        pytest.param(
            _changed("tpmAttestation", "tcgEventLog", value=""),
            "log of the boot is empty",
            id="no log of the boot",
        ),
        pytest.param(
            _changed("tdCcel", value=...), "no quote of the hardware", id="no quote of the hardware"
        ),
        pytest.param(_changed("tdCcel", "tdQuote", value="?"), "not base64", id="quote that is no base64"),
        pytest.param(
            _changed("gcpCredentials", "serviceAccountIdTokens", value=[FOREIGN]),
            "not Google's",
            id="identity token by nobody",
        ),
        pytest.param(
            _changed("gcpCredentials", "serviceAccountIdTokens", value=["x"]),
            "identity token",
            id="identity token that is none",
        ),
        pytest.param(_changed("tokenOptions", "nonce", value=["short"]), "10 to 74", id="nonce too short"),
        pytest.param(_changed("tokenOptions", value=...), "tokenOptions", id="no options"),
    ],
)
def test_evidence_that_does_not_hold_together_gets_none(asking, change, says):
    name, nonce = asking.challenge()
    body = asking.body(name, nonce)
    change(body)
    status, found = asking.post(f"{name}:verifyAttestation", body)
    assert status == 400
    assert says in found["error"]["message"]
    assert asking.here.machine.service.log[-1].refused


def test_a_quote_for_one_challenge_does_not_answer_another(asking):
    first, second = asking.challenge(), asking.challenge()
    body = asking.body(second[0], first[1])
    status, found = asking.post(f"{second[0]}:verifyAttestation", body)
    assert (status, "another challenge" in found["error"]["message"]) == (400, True)


def test_an_identity_token_for_one_challenge_does_not_go_with_another(asking):
    name, nonce = asking.challenge()
    body = asking.body(name, nonce)
    body["gcpCredentials"]["serviceAccountIdTokens"] = [
        asking.identity("projects/p/locations/l/challenges/x")
    ]
    assert "for another challenge" in asking.post(f"{name}:verifyAttestation", body)[1]["error"]["message"]


def test_only_the_vms_own_service_account_may_ask(asking):
    assert asking.post(f"{PARENT}/challenges", {}, bearer="somebody")[0] == 403
    assert asking.post("projects/other/locations/europe-west4/challenges", {})[0] == 403
    assert asking.post(f"{PARENT}/other", {})[0] == 404


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=40)
    | st.dictionaries(
        st.sampled_from(["tpmAttestation", "tokenOptions", "gcpCredentials", "tdCcel"]),
        st.none() | st.text(max_size=4) | st.dictionaries(st.sampled_from(["quotes", "nonce"]), st.none()),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_other_body_gets_a_token(asking, body):
    name, _ = asking.challenge()
    assert asking.post(f"{name}:verifyAttestation", body)[0] == 400


def test_the_metadata_server_answers_only_who_says_that_it_means_it():
    import requests

    with Metadata(RUN) as running:
        url = f"{running.url}/computeMetadata/v1"
        assert requests.get(f"{url}/project/project-id", timeout=5).status_code == 403
        headers = {"Metadata-Flavor": "Google"}
        assert requests.get(f"{url}/project/project-id", headers=headers, timeout=5).text == RUN.project
        assert requests.get(f"{url}/instance/nothing", headers=headers, timeout=5).status_code == 404


def test_tokens_are_signed_by_whom_the_token_service_believes(asking):
    name, nonce = asking.challenge()
    found = asking.post(f"{name}:verifyAttestation", asking.body(name, nonce))[1]["oidcClaimsToken"].encode()
    assert confidential_space.verify(found, at=None, endorsements=signer().endorsements).verified
