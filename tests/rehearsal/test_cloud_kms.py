"""The stand-in of Cloud KMS, asked by Google's own client and by hand; and deny policies of IAM."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import google_crc32c
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.cloud import kms_v1
from google.oauth2.credentials import Credentials
from google_cases import POOL, shown, token
from google_rehearsed import (
    DEK,
    KEY,
    OTHER_KEY,
    PERMISSION,
    POOLS,
    certificates,
    denial,
    policies,
    rsa_key,
    wrapped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jewelhouse.rehearsal import google_deny
from jewelhouse.rehearsal.cloud_kms import VIEW, CloudKms, Held
from jewelhouse.rehearsal.sts import Federated

OWNER, RUNNER = "user:owner@example.com", "serviceAccount:flow-serve@mp-run.iam.gserviceaccount.com"
ACCOUNTS = {"token-of-owner": OWNER, "token-of-runner": RUNNER}
USE = "cloudkms.cryptoKeyVersions.useToDecrypt"
AT = datetime(2026, 3, 2, 12, 1, tzinfo=UTC)


def federated(key: str = KEY, **claims: Any) -> Federated:
    return Federated(
        pool=POOLS[key].removeprefix("iam.googleapis.com/"),
        provider=policies()[key],
        verdict=shown(token(**claims)),
        expires=AT + timedelta(hours=1),
    )


def service(*, bindings: Any = None, denials: Any = None, **others: Any) -> CloudKms:
    """Both keys; `bindings` are added to those of the first."""
    documents = policies()
    more = {**documents[KEY], "bindings": [*documents[KEY]["bindings"], *(bindings or [])]}
    found = {
        "attested": federated(),
        "attested-elsewhere": federated(OTHER_KEY),
        "another-image": federated(digest="sha256:" + "0d" * 32),
    }
    return CloudKms(
        [
            Held(name=KEY, private=rsa_key(0), document=more),
            Held(name=OTHER_KEY, private=rsa_key(1), document=documents[OTHER_KEY]),
        ],
        who=found.get,
        authority=certificates(),
        accounts=ACCOUNTS,
        denials=[denial()] if denials is None else denials,
        clock=lambda: AT,
        **others,
    )


@pytest.fixture(autouse=True)
def _trusted(tmp_path, monkeypatch):
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificates().pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(roots))


def client(running: CloudKms, bearer: str) -> kms_v1.KeyManagementServiceClient:
    return kms_v1.KeyManagementServiceClient(
        credentials=Credentials(bearer, universe_domain="googleapis.com"),
        transport="rest",
        client_options=ClientOptions(api_endpoint=running.url.removeprefix("https://")),
    )


def decrypt(running: CloudKms, bearer: str, key: str = KEY, **changes: Any) -> Any:
    ciphertext = changes.pop("ciphertext", wrapped())
    given_ = {
        "name": key,
        "ciphertext": ciphertext,
        "ciphertext_crc32c": google_crc32c.value(ciphertext),
        **changes,
    }
    with client(running, bearer) as found:
        return found.asymmetric_decrypt(request=given_, retry=None, timeout=10)


def test_attested_code_decrypts_and_gets_every_checksum():
    with service() as running:
        reply = decrypt(running, "attested")
    assert reply.plaintext == DEK
    assert reply.plaintext_crc32c == google_crc32c.value(DEK)
    assert reply.verified_ciphertext_crc32c is True
    assert reply.protection_level == kms_v1.ProtectionLevel.HSM


def test_without_a_checksum_it_says_that_it_verified_none():
    with service() as running:
        assert decrypt(running, "attested", ciphertext_crc32c=None).verified_ciphertext_crc32c is False


@pytest.mark.parametrize(
    ("bearer", "key"),
    [
        pytest.param("attested-elsewhere", KEY, id="token of another key's pool"),
        pytest.param("attested", OTHER_KEY, id="another key with the same policy"),
        pytest.param("another-image", KEY, id="another image of the same pool"),
        pytest.param("attested", KEY[:-1] + "2", id="version that is not there"),
        pytest.param("token-of-runner", KEY, id="the host's own service account"),
        pytest.param("token-of-owner", KEY, id="owner of the project"),
    ],
)
def test_nobody_else_decrypts(bearer, key):
    with service() as running, pytest.raises(exceptions.Forbidden, match="useToDecrypt"):
        decrypt(running, bearer, key)
    assert running.log[-1].code == "PERMISSION_DENIED"


def test_a_caller_without_a_token_is_nobody():
    with service() as running:
        reply = requests.post(f"{running.url}/v1/{KEY}:asymmetricDecrypt", json={}, timeout=10)
    assert reply.status_code == 401
    assert reply.json()["error"]["status"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "member",
    [OWNER, "allUsers", "allAuthenticatedUsers"],
    ids=["by name", "everybody", "everybody signed in"],
)
def test_a_binding_by_hand_opens_only_where_no_deny_policy_stands(member):
    by_hand = [{"role": "roles/cloudkms.cryptoKeyDecrypter", "members": [member]}]
    with service(bindings=by_hand) as running:
        with pytest.raises(exceptions.Forbidden):
            decrypt(running, "token-of-owner")
        assert "deny policy mp-keys-deny" in running.log[-1].why
    with service(bindings=by_hand, denials=[]) as running:
        assert decrypt(running, "token-of-owner").plaintext == DEK


def test_a_token_that_meets_no_gate_opens_a_key_that_is_bound_to_its_whole_pool():
    by_hand = [
        {"role": "roles/cloudkms.cryptoKeyDecrypter", "members": [f"principalSet://{POOL}/*"]},
    ]
    with service(bindings=by_hand) as running, pytest.raises(exceptions.Forbidden):
        decrypt(running, "another-image")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"ciphertext_crc32c": 1}, "checksum in field ciphertext_crc32c", id="damaged on its way"
        ),
        pytest.param({"ciphertext": wrapped(number=1)}, "ciphertext is invalid", id="wrapped to another key"),
        pytest.param({"ciphertext": b"x" * 512}, "ciphertext is invalid", id="noise"),
        pytest.param({"ciphertext": b""}, "Invalid JSON payload", id="nothing"),
    ],
)
def test_what_does_not_decrypt(changes, says):
    with service() as running, pytest.raises(exceptions.BadRequest, match=says):
        decrypt(running, "attested", **changes)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["ciphertext", "ciphertextCrc32c"]), st.text(max_size=5) | st.integers() | st.none()
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_body_but_the_right_one_is_answered_with_a_plaintext(running, body):
    reply = requests.post(
        f"{running.url}/v1/{KEY}:asymmetricDecrypt",
        data=body,
        headers={"Authorization": "Bearer attested"},
        timeout=10,
    )
    assert reply.status_code == 400
    assert "plaintext" not in reply.json()


@pytest.fixture(scope="module")
def running():
    with service() as found:
        yield found


def test_the_public_half_is_for_those_with_a_role_that_shows_it():
    viewer = [{"role": "roles/cloudkms.publicKeyViewer", "members": [OWNER]}]
    with service(bindings=viewer) as running:
        with client(running, "token-of-owner") as found:
            public = found.get_public_key(request={"name": KEY}, retry=None)
        with client(running, "attested") as found, pytest.raises(exceptions.Forbidden, match=VIEW):
            found.get_public_key(request={"name": KEY}, retry=None)
    pem = (
        rsa_key(0)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert (public.pem, public.name) == (pem.decode(), KEY)
    assert public.pem_crc32c == google_crc32c.value(pem)
    assert public.algorithm == kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.RSA_DECRYPT_OAEP_4096_SHA256


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{KEY}:asymmetricDecrypt"),
        ("POST", f"{KEY}:destroy"),
        ("GET", KEY),
        ("POST", f"{KEY}/publicKey"),
    ],
)
def test_nothing_else_is_played(method, path):
    with service() as running:
        reply = requests.request(method, f"{running.url}/v1/{path}", json={}, timeout=10)
    assert reply.status_code == 404


def test_a_service_that_lies_changes_what_it_answers():
    def lie(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "plaintext": base64.b64encode(b"evil").decode()}

    with service(meddle=lie) as running:
        assert decrypt(running, "attested").plaintext == b"evil"


class TestDenyPolicies:
    POOL_SET = f"principalSet://{POOL}/*"

    @pytest.mark.parametrize(
        ("policy", "who", "denied"),
        [
            pytest.param(denial(), POOL_SET, False, id="pool with an exception"),
            pytest.param(denial(), OWNER, True, id="owner of the project"),
            pytest.param(denial(), f"principalSet://{POOL}x/*", True, id="pool whose name begins alike"),
            pytest.param(
                denial(deniedPermissions=["cloudkms.googleapis.com/cryptoKeyVersions.destroy"]),
                OWNER,
                False,
                id="another permission",
            ),
            pytest.param(
                denial(exceptionPermissions=[PERMISSION]), OWNER, False, id="permission with an exception"
            ),
            pytest.param(denial(deniedPrincipals=[OWNER]), RUNNER, False, id="somebody else is denied"),
            pytest.param(denial(deniedPrincipals=[OWNER]), OWNER, True, id="denied by name"),
            pytest.param(
                denial(denialCondition={"expression": "false"}),
                OWNER,
                True,
                id="condition, which is not judged",
            ),
            pytest.param(
                {**denial(), "parent": "cloudresourcemanager.googleapis.com%2Fprojects%2Fother"},
                OWNER,
                False,
                id="policy of another project",
            ),
            pytest.param({**denial(), "rules": None}, OWNER, False, id="policy without rules"),
        ],
    )
    def test_who_is_denied(self, policy, who, denied):
        assert bool(google_deny.against([policy], KEY, USE, {who})) is denied

    def test_one_policy_is_enough(self):
        assert google_deny.against([denial(), denial(POOLS[OTHER_KEY])], KEY, USE, {self.POOL_SET})
