"""What Key Vault answers with: taken apart, verified, unwrapped; and what is no answer of Key Vault's."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from azure_rehearsed import (
    DEK,
    KEY,
    VERSION,
    asked,
    certificates,
    closed,
    no_pauses,
    place,
    rsa_key,
    wrapped,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.guest import vault
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal import vault as stand_in
from jewelhouse.rehearsal.minting_claims import b64url
from jewelhouse.rehearsal.minting_tokens import jws

__all__ = ["no_pauses"]

NAME = vault.name(KEY)
WHERE = "the key"
SHA1 = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)


@cache
def signer() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def recipient() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def blob(private: rsa.RSAPrivateKey | None = None) -> bytes:
    public = recipient().public_key().public_numbers()
    return stand_in.wrapped(private or rsa_key(0), (public.n, public.e), hashes.SHA1())


def payload(
    kid: str = f"{KEY}/{VERSION}", *, header: dict[str, Any] | None = None, **key: Any
) -> dict[str, Any]:
    inner = {
        "schema_version": "1.0",
        "header": {"kid": "skr-key", "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP", **(header or {})},
        "ciphertext": b64url(b"ciphertext"),
    }
    return {
        "request": {"api-version": "7.4", "enc": "CKM_RSA_AES_KEY_WRAP", "kid": KEY},
        "response": {
            "key": {
                "key": {"kid": kid, "kty": "RSA-HSM", "key_hsm": b64url(json.dumps(inner).encode()), **key}
            }
        },
    }


def chain(authority: http.Authority, host: str = NAME.host, key: Any = None) -> list[str]:
    found = x509.load_pem_x509_certificates(authority.identity([host], key or signer()).chain)
    return [base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode() for one in found]


def reply(body: Any = None, *, by: rsa.RSAPrivateKey | None = None, **header: Any) -> str:
    members = {"alg": "RS256", "typ": "JWT", "x5c": chain(certificates()), **header}
    return jws(members, payload() if body is None else body, by or signer()).decode()


def verified(text: str, at: datetime | None = None) -> dict[str, Any]:
    return vault.verified(text, NAME, certificates().pem, at or datetime.now(UTC))


# Names of keys


@pytest.mark.parametrize(
    ("uri", "version"),
    [
        ("https://jh.vault.azure.net/keys/base", None),
        (f"https://jh.vault.azure.net/keys/base/{VERSION}", VERSION),
        ("https://hsm.managedhsm.azure.net/keys/Base-1", None),
    ],
)
def test_keys_of_vaults_and_managed_hsms(uri, version):
    assert vault.name(uri).version == version


@pytest.mark.parametrize(
    "uri",
    [
        "http://jh.vault.azure.net/keys/base",
        "https://jh.vault.azure.net.example.org/keys/base",
        "https://example.org/jh.vault.azure.net/keys/base",
        "https://user@jh.vault.azure.net/keys/base",
        "https://jh.vault.azure.net:444/keys/base",
        "https://jh.vault.azure.net/secrets/base",
        "https://jh.vault.azure.net/keys/../secrets/base",
        "https://jh.vault.azure.net/keys/base/latest",
        f"https://jh.vault.azure.net/keys/base/{VERSION}/release",
        "https://jh.vault.azure.net/keys/base?x",
        "arn:aws:kms:eu-central-1:111122223333:key/1234",
        "",
    ],
)
def test_what_is_no_key_of_key_vault(uri):
    assert "is no key of Key Vault" in closed(lambda: vault.name(uri))


# Who signed the reply


def test_a_reply_under_the_vaults_certificate():
    assert verified(reply())["request"]["kid"] == KEY


STRANGER = http.Authority("another")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        pytest.param(lambda: reply(x5c=chain(STRANGER)), "under a chain that is not", id="foreign authority"),
        pytest.param(
            lambda: reply(x5c=chain(certificates(), "evil.vault.azure.net")),
            "under a chain that is not jh-base.vault.azure.net's",
            id="certificate of another vault",
        ),
        pytest.param(lambda: reply(by=recipient()), "is not signed by the certificate", id="another signer"),
        pytest.param(
            lambda: reply(x5c=chain(certificates(), key=ec.generate_private_key(ec.SECP256R1()))),
            "is not signed by the certificate",
            id="certificate of another kind of key",
        ),
        pytest.param(lambda: reply(alg="none"), "is signed by", id="no algorithm"),
        pytest.param(lambda: reply(alg="HS256"), "is signed by", id="shared secret"),
        pytest.param(lambda: reply(x5c=[]), "brings no chain", id="empty chain"),
        pytest.param(lambda: reply(x5c=None), "brings no chain", id="no chain"),
        pytest.param(lambda: reply(x5c=chain(certificates()) * 9), "brings no chain", id="endless chain"),
        pytest.param(lambda: reply(x5c=["AAAA"]), "cannot be read", id="certificate that is none"),
        pytest.param(lambda: reply().rpartition(".")[0], "2 parts", id="no signature"),
        pytest.param(
            lambda: ".".join(
                (reply().split(".")[0], reply(payload(KEY)).split(".")[1], reply().split(".")[2])
            ),
            "is not signed by the certificate",
            id="payload of another reply",
        ),
    ],
)
def test_a_forged_reply(made, says):
    assert says in closed(lambda: verified(made()))


@pytest.mark.parametrize("days", [-2, 2], ids=["not yet", "expired"])
def test_a_certificate_at_another_time(days):
    at = datetime.now(UTC) + timedelta(days=days)
    assert "under a chain that is not" in closed(lambda: verified(reply(), at))


@given(st.text(max_size=200) | st.binary(max_size=300).map(lambda raw: f"{b64url(raw)}.{b64url(raw)}."))
@settings(max_examples=150, deadline=None)
def test_hostile_replies_are_refused(text):
    with pytest.raises(Closed):
        verified(text)


# What it is about


@pytest.mark.parametrize(
    ("uri", "kid"),
    [(KEY, f"{KEY}/{VERSION}"), (f"{KEY}/{VERSION}", f"{KEY}/{VERSION}"), (KEY, f"{KEY.upper()}/{VERSION}")],
)
def test_the_key_that_was_asked_for(uri, kid):
    kid = kid.replace("HTTPS://JH-BASE.VAULT.AZURE.NET/KEYS", "https://jh-base.vault.azure.net/keys")
    assert vault.wrapped(payload(kid), vault.name(uri), WHERE, "skr-key") == b"ciphertext"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        pytest.param(lambda: payload(KEY), "answers with the key", id="no version"),
        pytest.param(lambda: payload(f"{KEY}/{'f' * 32}"), "answers with the key", id="another version"),
        pytest.param(
            lambda: payload(f"https://evil.vault.azure.net/keys/base-key-0123456789ab/{VERSION}"),
            "answers with the key",
            id="another vault",
        ),
        pytest.param(
            lambda: payload(f"https://jh-base.vault.azure.net/keys/other/{VERSION}"),
            "answers with the key",
            id="another key",
        ),
        pytest.param(lambda: {}, "answers with the key absent", id="nothing"),
        pytest.param(lambda: payload(key_hsm=None), "key_hsm is absent", id="nothing wrapped"),
        pytest.param(lambda: payload(key_hsm="e30"), "header.enc is absent", id="empty"),
        pytest.param(lambda: payload(key_hsm="!!"), "is not base64url", id="no base64"),
        pytest.param(
            lambda: payload(header={"enc": "RSA_AES_KEY_WRAP_256"}), "header.enc is", id="another wrapping"
        ),
        pytest.param(
            lambda: payload(header={"kid": "HCLEkPub"}), "header.kid is", id="wrapped to another key"
        ),
    ],
)
def test_a_reply_about_something_else(changed, says):
    key = vault.name(f"{KEY}/{VERSION}")
    assert says in closed(lambda: vault.wrapped(changed(), key, WHERE, "skr-key"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=20),
        lambda inner: st.dictionaries(
            st.sampled_from(["response", "key", "kid", "key_hsm", "header"]), inner, max_size=3
        ),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_hostile_payloads_are_refused(body):
    with pytest.raises(Closed):
        vault.wrapped({"response": body}, NAME, WHERE, "skr-key")


# What is wrapped


def decrypt(ciphertext: bytes) -> bytes:
    return recipient().decrypt(ciphertext, SHA1)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def unwrapped(data: bytes, dek: bytes | None = None) -> bytes:
    return vault.unwrapped(data, decrypt, wrapped() if dek is None else dek, WHERE)


def test_the_data_key_opens_with_the_released_one():
    assert unwrapped(blob()) == DEK


def test_openssl_wraps_what_opens(tmp_path):
    """The HSM's mechanism by another program: RSA-OAEP with SHA-1, then AES key wrap with padding."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    aes = os.urandom(32)
    plain = rsa_key(0).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = (
        recipient()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for name, content in (("public.pem", public), ("aes", aes), ("plain", plain)):
        (tmp_path / name).write_bytes(content)
    options = "rsa_padding_mode:oaep", "rsa_oaep_md:sha1", "rsa_mgf1_md:sha1"
    outer = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", "public.pem", "-in", "aes"]
    outer += [part for option in options for part in ("-pkeyopt", option)]
    inner = ["openssl", "enc", "-id-aes256-wrap-pad", "-K", aes.hex(), "-iv", "A65959A6", "-in", "plain"]
    parts = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=False) for command in (outer, inner)
    ]
    if parts[1].returncode:
        pytest.skip("this openssl wraps no keys: " + parts[1].stderr.decode()[:80])
    assert unwrapped(parts[0].stdout + parts[1].stdout) == DEK


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(lambda: b"", "not wrapped to this run's", id="nothing"),
        pytest.param(lambda: blob()[:256], "not wrapped to this run's", id="truncated after the AES key"),
        pytest.param(lambda: blob()[:-8], "not wrapped to this run's", id="truncated"),
        pytest.param(lambda: blob() + bytes(8), "not wrapped to this run's", id="something behind"),
        pytest.param(lambda: flipped(blob(), 1), "not wrapped to this run's", id="changed in front"),
        pytest.param(lambda: flipped(blob(), -1), "not wrapped to this run's", id="changed behind"),
        pytest.param(
            lambda: recipient().public_key().encrypt(b"short", SHA1) + blob()[256:],
            "not wrapped to this run's",
            id="AES key of another length",
        ),
        pytest.param(lambda: blob(rsa_key(1)), "does not unwrap with the released key", id="another key"),
    ],
)
def test_what_does_not_unwrap(data, says):
    text = closed(lambda: unwrapped(data()))
    assert says in text


def test_a_data_key_of_another_length():
    assert "unwraps to 16 bytes" in closed(lambda: unwrapped(blob(), wrapped(bytes(16))))


def test_a_released_key_of_another_kind(monkeypatch):
    monkeypatch.setattr(vault, "load_der_private_key", lambda *_: ec.generate_private_key(ec.SECP256R1()))
    assert "releases a key that is not RSA" in closed(lambda: unwrapped(blob()))


# The same through the clients


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(body: dict[str, Any]) -> dict[str, Any]:
        body["response"]["key"]["key"][path] = value
        return body

    return change


@pytest.mark.parametrize(
    ("around", "says"),
    [
        pytest.param({"meddle": changed("kid", f"{KEY}/{'f' * 31}")}, "answers with the key", id="version"),
        pytest.param({"meddle": changed("key_hsm", "e30")}, "header.enc is absent", id="nothing wrapped"),
        pytest.param(
            {"forge": lambda text: jws({"alg": "RS256", "x5c": chain(STRANGER)}, payload(), signer())},
            "under a chain that is not",
            id="reply by a stranger",
        ),
        pytest.param({"forge": lambda text: text[:-10]}, "is not signed by", id="truncated"),
        pytest.param({"forge": lambda text: b""}, "the reply", id="empty"),
        pytest.param({"forge": lambda text: b"A" * 70_000}, "answers without a key", id="endless"),
    ],
)
def test_a_key_service_that_answers_with_a_forged_reply(around, says):
    with place(**around) as here:
        assert says in closed(lambda: here.opener()(asked()))


def test_another_version_than_the_one_asked_for_is_not_there():
    with place() as here:
        text = closed(lambda: here.opener()(asked(key=f"{KEY}/{'f' * 32}")))
    assert "is not there (KeyNotFound" in text


def test_a_vault_that_takes_no_token(no_pauses):
    with place() as here:
        here.vault.fail(401, 9, code="Unauthorized")
        assert "does not take the identity's token" in closed(lambda: here.opener()(asked()))
