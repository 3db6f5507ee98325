"""Releases by Google Cloud, by the real clients: the token's way, the federated one's, and Cloud KMS's reply.

The guest is the real one with google-auth and google-cloud-kms; the token service and Cloud KMS are stand-ins
that decide by what the kit deploys.
"""

from __future__ import annotations

import base64
import json
import os
from datetime import timedelta
from typing import Any

import google_crc32c
import pytest
from gcsfs.credentials import GoogleCredentials
from google.auth.transport.requests import Request
from google_rehearsed import (
    ACCOUNT,
    AUDIENCE,
    DEK,
    KEY,
    OTHER_KEY,
    POOLS,
    asked,
    claims,
    closed,
    denial,
    external_account,
    no_pauses,
    place,
    policies,
    rsa_key,
    signer,
    stage,
    wrapped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jewelhouse.guest import confidential_space, google, google_web, opening
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints, Opens
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal.minting_claims import put, space_claims

pytestmark = pytest.mark.usefixtures("no_pauses")
__all__ = ["no_pauses"]

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NONCES = ["a" * 64, "b" * 64]


def test_a_key_opens_for_the_right_token():
    with place() as here:
        opened = here.opener()(asked())
        (exchanged,), (judged,) = here.sts.log, here.kms.log
    assert opened.dek == DEK
    assert (exchanged.code, judged.code, opened.kind) == ("exchanged", "released", "confidential-space")
    assert DEK.hex() not in repr(opened)


def test_each_key_takes_a_token_of_its_own_pool():
    account = external_account(audience=f"//{POOLS[OTHER_KEY]}/providers/attestation")
    with place() as here:
        open_ = here.opener()
        other = asked(key=OTHER_KEY, wrapped=wrapped(b"\7" * 32, 1), credentials=account)
        assert open_(other).dek == b"\7" * 32
        text = closed(lambda: open_(asked(key=OTHER_KEY, wrapped=wrapped(b"\7" * 32, 1))))
    assert "the release policy does not admit this stage" in text
    assert "not known to be the pool" in here.kms.log[-1].why


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"token_url": "https://sts.googleapis.com.evil.example/v1/token"},
            "goes to Google",
            id="token sent to somebody else",
        ),
        pytest.param(
            {"token_url": "http://sts.googleapis.com/v1/token"},
            "goes to Google",
            id="token sent in the clear",
        ),
        pytest.param({"token_url": ...}, "token_url is absent", id="no address"),
        pytest.param({"universe_domain": "evil.example"}, "universe_domain", id="another universe"),
        pytest.param(
            {
                "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/x:generateAccessToken"
            },
            "without impersonation",
            id="impersonation of an account",
        ),
        pytest.param({"workforce_pool_user_project": "p"}, "not followed", id="another kind of pool"),
        pytest.param({"type": "service_account"}, "external_account", id="key of a service account"),
        pytest.param({"type": "authorized_user"}, "external_account", id="credentials of a person"),
        pytest.param(
            {"subject_token_type": "urn:ietf:params:aws:token-type:aws4_request"},
            "subject_token_type",
            id="request signed by AWS",
        ),
        pytest.param(
            {"audience": "//iam.googleapis.com/locations/global/workforcePools/p/providers/q"},
            "no workload identity provider",
            id="workforce pool",
        ),
        pytest.param(
            {"audience": f"{AUDIENCE}?x"}, "no workload identity provider", id="audience with more behind it"
        ),
        pytest.param({"audience": 1}, "no workload identity provider", id="audience that is no text"),
    ],
)
def test_settings_cannot_lead_a_token_elsewhere(changes, says):
    with place() as here:
        text = closed(lambda: here.opener()(asked(credentials=external_account(**changes))))
        assert says in text
        assert "stage.opens.base.credentials" in text
        assert (here.machine.log, here.sts.log, here.kms.log) == ([], [], [])


def test_without_an_external_account_nothing_is_asked():
    with place() as here:
        assert "missing" in closed(lambda: here.opener()(asked(credentials=None)))
        assert here.machine.log == []


def test_where_the_settings_say_that_the_token_is_does_not_count(tmp_path):
    stolen = tmp_path / "token"
    stolen.write_text("somebody's token")
    account = external_account(
        credential_source={"file": str(stolen), "executable": {"command": "/bin/false"}}
    )
    with place() as here:
        assert here.opener()(asked(credentials=account)).dek == DEK
        assert here.machine.log[0].method == "POST"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "arn:aws:kms:eu-central-1:1:key/x",
        KEY.rpartition("/")[0],
        f"{KEY}:destroy",
        KEY + "/../2",
        KEY + "\n",
    ],
)
def test_only_a_version_of_a_key_is_asked_for(name):
    with place() as here:
        assert "no version of a key" in closed(lambda: here.opener()(asked(key=name)))
        assert here.kms.log == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"iss": "https://accounts.google.com"}, "is issued by", id="token of another issuer"),
        pytest.param({"aud": "https://vault.example"}, "expected https://sts", id="token for somebody else"),
        pytest.param(
            {"aud": ["https://sts.googleapis.com", "https://x"]},
            "expected https://sts",
            id="token for others, too",
        ),
        pytest.param({"eat_nonce": ...}, "another nonce", id="token without a nonce"),
        pytest.param({"eat_nonce": NONCES[:1]}, "another nonce", id="token of another record"),
        pytest.param({"eat_nonce": "".join(NONCES)}, "another nonce", id="nonces glued together"),
        pytest.param({"eat_nonce": [["a" * 64], {}]}, "another nonce", id="nonces of another type"),
        pytest.param({"eat_nonce": {"a" * 64: 1}}, "another nonce", id="nonces as an object"),
    ],
)
def test_a_token_that_is_no_answer_is_not_sent_on(changes, says):
    token = signer().token(put(space_claims(nonce=NONCES), changes), flavour="oidc")
    with pytest.raises(Closed, match=says):
        google.check(token, NONCES)


def test_a_nonce_is_text_where_one_was_asked_for_and_a_list_where_several_were():
    for nonces, claim in ((NONCES[:1], NONCES[0]), (NONCES[:1], NONCES[:1]), (NONCES, NONCES[::-1])):
        seen = google.check(signer().token(space_claims(nonce=claim), flavour="oidc"), nonces)
        assert "GCP_INTEL_TDX" in seen


@FEW
@given(st.one_of(st.binary(max_size=60), st.builds(lambda a: b"eyJ." + a + b".x", st.binary(max_size=60))))
def test_no_bytes_pass_for_a_token(data):
    with pytest.raises(Closed):
        google.check(data, NONCES)


@pytest.mark.parametrize(
    ("around", "says"),
    [
        pytest.param({"ahead": timedelta(hours=2)}, "does not take the attestation token", id="stale token"),
        pytest.param(
            {"signed_by": signer("stranger")},
            "does not take the attestation token",
            id="token under a foreign root",
        ),
        pytest.param(
            {"container": claims(lambda found: put(found, {"dbgstat": "enabled"}))},
            'dbgstat "enabled"',
            id="debug image",
        ),
        pytest.param({"container": claims(digest="sha256:" + "0d" * 32)}, "0d0d0d", id="another image"),
        pytest.param(
            {"container": claims(account="flow-train@mp-run.iam.gserviceaccount.com")},
            "flow-train@",
            id="another stage's identity",
        ),
        pytest.param(
            {"container": claims(project="evil", number="1")}, 'project_id "evil"', id="another project"
        ),
        pytest.param({"container": claims(hwmodel="GCP_AMD_SEV")}, "GCP_AMD_SEV", id="another technology"),
        pytest.param(
            {
                "container": claims(
                    lambda found: put(found, {("submods", "container", "env_override"): {"X": "1"}})
                )
            },
            "the release policy does not admit this stage",
            id="environment that the host overrides",
        ),
        pytest.param(
            {
                "container": claims(
                    lambda found: put(found, {("submods", "container", "cmd_override"): ["sh"]})
                )
            },
            "the release policy does not admit this stage",
            id="command that the host overrides",
        ),
        pytest.param(
            {
                "container": claims(
                    lambda found: put(
                        found, {("submods", "confidential_space", "support_attributes"): ["EXPERIMENTAL"]}
                    )
                )
            },
            "the release policy does not admit this stage",
            id="preview image",
        ),
        pytest.param(
            {"container": claims(hwmodel="GCP_SHIELDED_VM")},
            "does not take the attestation token",
            id="shielded VM, which is not confidential",
        ),
    ],
)
def test_the_token_service_exchanges_nothing_else(around, says):
    with place(**around) as here:
        text = closed(lambda: here.opener()(asked()))
        assert here.kms.log == []
        assert here.sts.log[0].code != "exchanged"
    assert says in text


@pytest.mark.parametrize(
    ("around", "says", "why"),
    [
        pytest.param(
            {
                "denials": [
                    denial("iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/other")
                ]
            },
            "does not admit",
            "deny policy mp-keys-deny",
            id="pool without an exception from the deny policy",
        ),
        pytest.param(
            {"documents": {key: {**body, "bindings": []} for key, body in policies().items()}},
            "does not admit",
            "no binding",
            id="binding taken away",
        ),
        pytest.param(
            {
                "documents": {
                    key: {
                        **body,
                        "bindings": [
                            {
                                **one,
                                "condition": {
                                    "expression": "request.time < timestamp('2020-01-01T00:00:00Z')"
                                },
                            }
                            for one in body["bindings"]
                        ],
                    }
                    for key, body in policies().items()
                }
            },
            "does not admit",
            "",
            id="licence that has ended",
        ),
        pytest.param(
            {
                "documents": {
                    key: {
                        **body,
                        "bindings": [{**one, "role": "roles/cloudkms.viewer"} for one in body["bindings"]],
                    }
                    for key, body in policies().items()
                }
            },
            "does not admit",
            "",
            id="role that only looks",
        ),
        pytest.param({"disabled": True}, "is not enabled", "", id="version that is disabled"),
        pytest.param({"keys": {OTHER_KEY: rsa_key(1)}}, "does not admit", "", id="key that is not there"),
        pytest.param({"keys": {KEY: rsa_key(1)}}, "ciphertext is invalid", "", id="wrapped to another key"),
    ],
)
def test_cloud_kms_releases_nothing(around, says, why):
    with place(**around) as here:
        text = closed(lambda: here.opener()(asked()))
        assert here.sts.log[0].code == "exchanged"
        assert here.kms.log[-1].code != "released"
        assert why in here.kms.log[-1].why
    assert says in text
    assert KEY in text


def changed(**members: Any) -> Any:
    """A reply with other members; `...` takes one away."""
    return lambda body: {name: value for name, value in {**body, **members}.items() if value is not ...}


EVIL = base64.b64encode(b"\6" * 32).decode()


@pytest.mark.parametrize(
    ("meddle", "says"),
    [
        pytest.param(changed(plaintext=EVIL), "another checksum", id="another plaintext"),
        pytest.param(changed(plaintextCrc32c=...), "another checksum", id="no checksum"),
        pytest.param(changed(plaintextCrc32c="1"), "another checksum", id="wrong checksum"),
        pytest.param(
            changed(verifiedCiphertextCrc32c=...), "did not verify", id="ciphertext that was not verified"
        ),
        pytest.param(
            changed(verifiedCiphertextCrc32c=False), "did not verify", id="ciphertext damaged on its way"
        ),
        pytest.param(changed(protectionLevel="SOFTWARE"), "protection level 1", id="key in software"),
        pytest.param(changed(protectionLevel="EXTERNAL"), "protection level 3", id="key outside of Google"),
        pytest.param(changed(protectionLevel=...), "protection level 0", id="no protection level"),
        pytest.param(
            changed(protectionLevel=77), "protection level 77", id="protection level that nobody knows"
        ),
        pytest.param(changed(plaintext="", plaintextCrc32c="0"), "without a plaintext", id="empty plaintext"),
        pytest.param(changed(plaintext="?"), "another checksum", id="plaintext that is no base64"),
        pytest.param(changed(plaintext=[EVIL]), "no reply of Cloud KMS", id="plaintext of another type"),
    ],
)
def test_a_reply_that_is_not_whole_is_not_used(meddle, says):
    with place(meddle=meddle) as here:
        assert says in closed(lambda: here.opener()(asked()))


def test_what_it_cannot_tell_is_a_consistent_forgery_which_the_manifest_stops():
    """A reply names no key and is bound to no request: only TLS says who answers."""
    forged = changed(plaintext=EVIL, plaintextCrc32c=str(google_crc32c.value(b"\6" * 32)))
    with place(meddle=forged) as here:
        assert here.opener()(asked()).dek == b"\6" * 32


@FEW
@given(
    st.one_of(
        st.binary(max_size=80),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "plaintext",
                            "plaintextCrc32c",
                            "protectionLevel",
                            "error",
                            "access_token",
                            "expires_in",
                        ]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.sampled_from(["sts", "kms"]),
    st.sampled_from([200, 400, 403, 418]),
)
def test_every_reply_of_a_service_opens_or_closes_and_nothing_else(services, body, which, status):
    getattr(services, which).reply(body, status)
    closed(lambda: services.opener()(asked()))


@pytest.fixture(scope="module")
def services():
    with place() as here:
        yield here


@pytest.mark.parametrize(
    ("service", "status"),
    [("sts", 429), ("sts", 500), ("sts", 503), ("kms", 429), ("kms", 503), ("kms", 504)],
)
def test_what_google_asks_to_try_again_is_tried_again(service, status, no_pauses):
    with place() as here:
        getattr(here, service).fail(status, times=2)
        assert here.opener()(asked()).dek == DEK
    assert len(no_pauses) >= 2


@pytest.mark.parametrize("service", ["sts", "kms"])
def test_a_service_that_stays_away_is_given_up(service, no_pauses):
    with place() as here:
        getattr(here, service).fail(503, times=60)
        text = closed(lambda: here.opener()(asked()))
    assert sum(no_pauses) < 60
    assert ("503" in text) or ("does not say why" in text) or ("cannot be reached" in text), text


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_what_is_refused_is_asked_once(status, no_pauses):
    with place() as here:
        here.kms.fail(status, "INTERNAL", times=9)
        closed(lambda: here.opener()(asked()))
    assert no_pauses == []


def test_a_connection_that_breaks_is_tried_again():
    with place() as here:
        here.kms.cut(2)
        assert here.opener()(asked()).dek == DEK
        here.sts.cut(1)
        assert "cannot be reached" in closed(lambda: here.opener()(asked()))


def test_somebody_in_the_middle_has_no_certificate():
    with place(trusted=http.Authority(name="somebody")) as here:
        assert "no certificate of the service" in closed(lambda: here.opener()(asked()))
        assert here.sts.log == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"access_token": ...}, "without a token", id="no token"),
        pytest.param({"access_token": 7}, "without a token", id="token of another type"),
        pytest.param({"access_token": "a\u00e4"}, "without a token", id="token that is no header"),
        pytest.param({"expires_in": ...}, "no token that could be read", id="no end"),
        pytest.param({"expires_in": "soon"}, "no token that could be read", id="end that is no number"),
        pytest.param({"expires_in": 10**30}, "no token that could be read", id="end after all time"),
    ],
)
def test_a_token_service_that_answers_nonsense_is_not_followed(change, says):
    with place(meddle_sts=changed(**change)) as here:
        assert says in closed(lambda: here.opener()(asked()))
        assert here.kms.log == []


def test_nothing_that_the_environment_says_is_followed(monkeypatch):
    with place() as here:
        for name in google_web.VARIABLES:
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("GOOGLE_API_USE_MTLS_ENDPOINT", "always")
        assert here.opener()(asked()).dek == DEK
        assert "HTTPS_PROXY" not in os.environ


def test_a_redirect_is_not_followed_with_a_token():
    with place() as here:
        elsewhere: list[http.Asked] = []

        def catch(request: http.Asked) -> http.Answer:
            elsewhere.append(request)
            return http.answer({"access_token": "x", "expires_in": 9})

        with http.Service(catch) as other:
            moved = http.Answer(status=307, headers={"Location": f"{other.url}/v1/token"})
            here.sts._faults.append(moved)
            closed(lambda: here.opener()(asked()))
        assert elsewhere == []


def test_buckets_are_read_as_attested_code_and_written_as_the_service_account():
    with place() as here:
        prepared = opening.prepare(here.stage, here.endpoints)
        token = prepared.stores["gs://base"]["token"]
        here.opener()
        token.refresh(Request(google_web.session(here.endpoints)))
        known = here.sts.who(token.token)
        assert known is not None
        assert known.verdict.claims["google_service_accounts"] == [ACCOUNT]
        assert prepared.stores["gs://adapter"] == {"token": "cloud"}
        assert GoogleCredentials("p", "full_control", token).credentials is token


def test_buckets_of_a_rehearsal_are_left_alone():
    given_ = stage(
        opens={"base": Opens(key=KEY, store="/somewhere", credentials=external_account())}, seals={}
    )
    endpoints = Endpoints(stores={"s3": {"endpoint_url": "x"}})
    assert confidential_space.prepare(given_, endpoints) == endpoints
