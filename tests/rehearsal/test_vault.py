"""The stand-in for Key Vault, asked by the vendor's own client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys import KeyClient
from azure_rehearsed import KEY, TRAIN, Place, asked, place, policy, rsa_key

from jewelhouse.guest import azure_web
from jewelhouse.model import Platform
from jewelhouse.rehearsal.minting_claims import container_claims
from jewelhouse.rehearsal.vault import KEY as KEYS

NAME = KEY.rsplit("/", 1)[1]


class Caller:
    """A credential that is a fixed token."""

    def __init__(self, token: str = TRAIN.token) -> None:
        self.token, self.scopes = token, []

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.scopes.append(scopes)
        return AccessToken(self.token, 4102444800)


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as made:
        yield made


def client(here: Place, credential: Any = None, **options: Any) -> KeyClient:
    return KeyClient(
        here.vault.url,
        credential or Caller(),
        transport=azure_web.transport(here.endpoints),
        verify_challenge_resource=False,
        **options,
    )


def token(here: Place) -> str:
    here.opener()(asked())
    return here.maa.tokens[-1].decode()


def payload(value: str) -> dict[str, Any]:
    text = value.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_the_client_is_led_to_key_vaults_own_resource(here):
    caller = Caller()
    assert client(here, caller).get_key(NAME).name == NAME
    assert caller.scopes == [("https://vault.azure.net/.default",)]


def test_the_client_itself_refuses_a_vault_elsewhere(here):
    """Unless it is told that it talks to a stand-in."""
    strict = KeyClient(here.vault.url, Caller(), transport=azure_web.transport(here.endpoints))
    with pytest.raises(ValueError, match="does not match the requested domain"):
        strict.get_key(NAME)


def test_a_keys_public_half_and_policy_are_as_deployed(here):
    found = client(here).get_key(NAME)
    numbers = rsa_key(0).public_key().public_numbers()
    assert int.from_bytes(found.key.n, "big") == numbers.n
    assert found.key_type == "RSA-HSM"
    assert found.properties.exportable is True
    assert json.loads(found.properties.release_policy.encoded_policy) == policy(Platform.AZURE_CONTAINER)
    assert KEYS.fullmatch(found.id)


@pytest.mark.parametrize("wrapping", ["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"])
def test_every_wrapping_of_the_service(here, wrapping):
    value = client(here).release_key(NAME, token(here), algorithm=wrapping, nonce="abc").value
    body = payload(value)
    assert body["request"]["enc"] == wrapping
    assert body["request"]["nonce"] == "abc"
    assert body["response"]["key"]["key"]["kid"].startswith(f"{KEY}/")


def test_strangers_get_a_challenge_and_nothing_else(here):
    with pytest.raises(HttpResponseError) as caught:
        client(here, Caller("stranger")).get_key(NAME)
    assert caught.value.status_code == 401


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("no token", 400, id="no token"),
        pytest.param("e30.e30.AA", 400, id="token of nobody"),
    ],
)
def test_targets_that_are_no_tokens(here, target, status):
    with pytest.raises(HttpResponseError) as caught:
        client(here).release_key(NAME, target)
    assert caught.value.status_code == status


def test_a_token_that_was_changed_is_denied_and_the_log_says_why(here):
    head, _, tail = token(here).partition(".")
    body = base64.urlsafe_b64encode(json.dumps(container_claims()).encode()).rstrip(b"=").decode()
    with pytest.raises(HttpResponseError) as caught:
        client(here).release_key(NAME, f"{head}.{body}.{tail.partition('.')[2]}")
    assert caught.value.status_code == 403
    judged = here.vault.log[-1]
    assert judged.code == "Forbidden"
    assert any("could not be verified" in one.what for one in judged.decision.because)


def test_keys_that_are_not_there(here):
    with pytest.raises(ResourceNotFoundError):
        client(here).get_key("other")
    with pytest.raises(ResourceNotFoundError):
        client(here).get_key(NAME, "f" * 32)


def test_nothing_but_reading_and_releasing_is_played(here):
    with pytest.raises(ResourceNotFoundError):
        client(here).create_rsa_key("new")
