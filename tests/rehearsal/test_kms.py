"""The stand-in for KMS: it opens what the stack's own policies open, to boto as it is, and nothing else.

Clients here are boto's own, without the guest; what the guest makes of the answers is in tests/guest.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from aws_rehearsed import (
    DEK,
    KEY,
    OTHER_KEY,
    PLATFORMS,
    REGION,
    asked,
    authority,
    closed,
    credentials,
    place,
    policy,
    rsa_key,
    wrapped,
)
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization
from samples import ALL_STACKS, shipped

from jewelhouse.guest import where
from jewelhouse.guest.opening import Opened
from jewelhouse.guest.settings import Endpoints
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud, Platform
from jewelhouse.rehearsal.ec2 import Metadata
from jewelhouse.rehearsal.http import LARGEST, Answer, Asked, Service, answer
from jewelhouse.rehearsal.http import Authority as Certificates
from jewelhouse.rehearsal.minting_nitro import recipient
from jewelhouse.rehearsal.sigv4 import Credentials
from jewelhouse.release import compiler
from jewelhouse.release.policy import Gate, ReleasePolicy

DEPLOYER = credentials(
    "deployer", "111122223333", principal="arn:aws:iam::111122223333:role/deployer", token=None
)
ALGORITHM = "RSAES_OAEP_SHA_256"


def boto(url: str, by: Credentials, region: str = REGION, **changes: Any) -> Any:
    return boto3.Session(by.key_id, changes.get("secret", by.secret), changes.get("token", by.token)).client(
        "kms", region_name=region, endpoint_url=url, config=Config(retries={"total_max_attempts": 1})
    )


def decrypt(client: Any, document: bytes | None = None, **changes: Any) -> dict[str, Any]:
    given = {"CiphertextBlob": wrapped(), "KeyId": KEY, "EncryptionAlgorithm": ALGORITHM, **changes}
    if document is not None:
        given["Recipient"] = {"KeyEncryptionAlgorithm": ALGORITHM, "AttestationDocument": document}
    return client.decrypt(**given)


def document(**changes: Any) -> bytes:
    now = int(datetime.now(UTC).timestamp() * 1000)
    return authority().document(**{"public_key": recipient(), "timestamp": now, **changes})


def refused(attempt: Any) -> str:
    with pytest.raises(ClientError) as caught:
        attempt()
    return caught.value.response["Error"]["Code"]


def test_a_role_without_evidence_opens_nothing():
    with place() as here:
        client = boto(here.kms.url, credentials())
        assert refused(lambda: decrypt(client)) == "AccessDeniedException"
        (judged,) = here.kms.log
    assert judged.decision is not None
    assert "DenyWithoutDocument" in judged.decision.because[0].where


def test_evidence_without_the_role_opens_nothing():
    with place(callers=(DEPLOYER,)) as here:
        assert refused(lambda: decrypt(boto(here.kms.url, DEPLOYER), document())) == "AccessDeniedException"


def test_evidence_and_role_open_to_the_key_in_the_evidence():
    with place() as here:
        reply = decrypt(boto(here.kms.url, credentials()), document())
    assert reply["KeyId"] == KEY
    assert "Plaintext" not in reply
    assert reply["CiphertextForRecipient"][:2] == b"\x30\x80"


def test_openssl_reads_the_answer(tmp_path):
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", path, "2048"], check=True, capture_output=True)
    public = serialization.load_pem_private_key(path.read_bytes(), None).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with place() as here:
        reply = decrypt(boto(here.kms.url, credentials()), document(public_key=der))
    done = subprocess.run(
        ["openssl", "cms", "-decrypt", "-inform", "DER", "-inkey", path],
        input=reply["CiphertextForRecipient"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == DEK


@pytest.mark.parametrize(
    ("evidence", "changes", "code"),
    [
        ("no document at all", {"data": b"\0"}, "ValidationException"),
        ("no key to answer to", {"public_key": None}, "ValidationException"),
        ("a key too short", {"public_key": recipient(1024)}, "ValidationException"),
        ("bytes for a key", {"public_key": b"k" * 100}, "ValidationException"),
        ("a changed signature", {"flip": True}, "AccessDeniedException"),
        ("a debug enclave", {"pcrs": dict.fromkeys((0, 1, 2), bytes(48))}, "AccessDeniedException"),
    ],
)
def test_evidence_that_does_not_do(evidence, changes, code):
    data = changes.pop("data", None)
    flip = changes.pop("flip", False)
    data = data or document(**changes)
    if flip:
        data = data[:-1] + bytes((data[-1] ^ 1,))
    with place() as here:
        assert refused(lambda: decrypt(boto(here.kms.url, credentials()), data)) == code


@pytest.mark.parametrize(
    ("wrong", "changes", "code"),
    [
        ("another key", {"KeyId": OTHER_KEY}, "InvalidCiphertextException"),
        ("no such key", {"KeyId": "alias/base"}, "NotFoundException"),
        ("another algorithm", {"EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}, "InvalidKeyUsageException"),
        ("an encryption context", {"EncryptionContext": {"a": "b"}}, "ValidationException"),
        ("what was not wrapped", {"CiphertextBlob": b"x" * 512}, "InvalidCiphertextException"),
    ],
)
def test_requests_that_do_not_fit_the_key(wrong, changes, code):
    with place() as here:
        assert refused(lambda: decrypt(boto(here.kms.url, credentials()), document(), **changes)) == code


@pytest.mark.parametrize(
    ("attack", "by", "changes", "code"),
    [
        ("a guessed secret", credentials(), {"secret": "guess"}, "InvalidSignatureException"),
        ("no session token", credentials(), {"token": None}, "UnrecognizedClientException"),
        ("another session token", credentials(), {"token": "x"}, "UnrecognizedClientException"),
        ("an unknown key id", credentials("other"), {}, "UnrecognizedClientException"),
        ("signed for another region", credentials(), {"region": "us-east-1"}, "InvalidSignatureException"),
    ],
)
def test_callers_are_those_whose_signature_holds(attack, by, changes, code):
    with place() as here:
        assert refused(lambda: decrypt(boto(here.kms.url, by, **changes), document())) == code


def test_a_body_changed_on_its_way_is_not_what_was_signed():
    with place() as here:
        client = boto(here.kms.url, credentials())
        client.meta.events.register(
            "before-send",
            lambda request, **_: setattr(request, "body", request.body.replace(b"/1234", b"/9999")),
        )
        assert refused(lambda: decrypt(client, document())) == "InvalidSignatureException"


def test_an_unsigned_request():
    with place() as here:
        request = urllib.request.Request(
            here.kms.url, json.dumps({"KeyId": KEY}).encode(), {"X-Amz-Target": "TrentService.Decrypt"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert json.loads(caught.value.read())["__type"] == "MissingAuthenticationTokenException"
        caught.value.close()


def test_the_public_half_is_for_whom_the_policy_says():
    with place(callers=(DEPLOYER,)) as here:
        found = boto(here.kms.url, DEPLOYER).get_public_key(KeyId=KEY)
        loaded = serialization.load_der_public_key(found["PublicKey"])
        assert loaded == rsa_key(0).public_key()
        assert (found["KeySpec"], found["KeyUsage"]) == ("RSA_4096", "ENCRYPT_DECRYPT")
        code = refused(lambda: boto(here.kms.url, credentials()).get_public_key(KeyId=KEY))
        assert code == "AccessDeniedException"


def test_what_is_not_played_is_said():
    with place() as here:
        assert refused(lambda: boto(here.kms.url, credentials()).list_keys()) == "NotFoundException"
        assert (
            refused(lambda: boto(here.kms.url, credentials()).describe_key(KeyId=KEY))
            == "UnsupportedOperationException"
        )


def test_a_policy_widened_by_hand_opens_as_it_stands():
    """The rehearsal plays what is deployed, not what should be: a hole shows as an opening."""
    widened = policy(Platform.AWS_ENCLAVE)
    widened["Statement"] = [one for one in widened["Statement"] if one["Effect"] == "Allow"]
    for one in widened["Statement"]:
        one.pop("Condition", None)
    with place(policies={KEY: widened, OTHER_KEY: widened}) as here:
        assert decrypt(boto(here.kms.url, credentials()))["Plaintext"] == DEK


def test_an_identity_policy_that_denies_counts():
    denying = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"}],
    }
    with place(role=replace(credentials(), policies=(denying,))) as here:
        assert "AccessDeniedException" in closed(lambda: here.opener()(asked()))


# Every stage of the shipped stacks, by the policies that they deploy.


def _gates() -> list[Any]:
    found = []
    for name in ALL_STACKS:
        for key, rule in release_policies(shipped(name)).items():
            if key.cloud is Cloud.AWS:
                found += [
                    pytest.param(rule, gate, id=f"{name}-{gate.stage}-{key.artifact}") for gate in rule.gates
                ]
    return found


GATES = _gates()


def _pcrs(gate: Gate) -> dict[int, bytes]:
    values = gate.measurements[0].values
    return {int(name.removeprefix("PCR")): bytes.fromhex(value) for name, value in values.items()}


def _caller(gate: Gate, role: str = "", account: str = "") -> Credentials:
    _, _, _, _, own, name = str(gate.identity).split(":")
    return credentials(role or name.removeprefix("role/"), account or own)


def _open(rule: ReleasePolicy, gate: Gate, **machine: Any) -> Opened:
    given = {"role": _caller(gate), "pcrs": _pcrs(gate), **machine}
    document = compiler.compile(rule)
    with place(gate.platform, policies={KEY: document, OTHER_KEY: document}, **given) as here:
        return here.opener()(asked())


def test_the_shipped_stacks_have_stages_on_both_platforms():
    assert {param.values[1].platform for param in GATES} == set(PLATFORMS)


@pytest.mark.parametrize(("rule", "gate"), GATES)
def test_every_stage_of_the_shipped_stacks_opens(rule, gate):
    assert _open(rule, gate).dek == DEK


@pytest.mark.parametrize(
    ("wrong", "machine"),
    [
        ("debug", lambda gate: {"debug": True, "pcrs": {}}),
        ("other image", lambda gate: {"pcrs": dict.fromkeys(_pcrs(gate), b"Z" * 48)}),
        ("other stage's role", lambda gate: {"role": _caller(gate, "fraud-llm-serve")}),
        ("other account", lambda gate: {"role": _caller(gate, account="999988887777")}),
        ("foreign root", lambda gate: {"signed_by": authority("foreign")}),
    ],
    ids=["debug", "other image", "other stage's role", "other account", "foreign root"],
)
@pytest.mark.parametrize(("rule", "gate"), GATES[-3:])
def test_every_wrong_stage_is_refused(rule, gate, wrong, machine):
    assert "AccessDeniedException" in closed(lambda: _open(rule, gate, **machine(gate)))


@pytest.mark.parametrize(("rule", "gate"), GATES[-1:])
def test_registers_one_by_one(rule, gate):
    for index in _pcrs(gate):
        changed = {**_pcrs(gate), index: b"\x5a" * 48}
        assert "AccessDeniedException" in closed(lambda pcrs=changed: _open(rule, gate, pcrs=pcrs))


# What stands around it.


def test_a_service_shows_its_own_mistakes():
    def broken(_: Asked) -> Answer:
        raise ZeroDivisionError

    service = Service(broken)
    service.__enter__()
    with pytest.raises(urllib.error.HTTPError, match="500") as caught:
        urllib.request.urlopen(service.url)
    caught.value.close()
    with pytest.raises(ExceptionGroup, match="a stand-in failed"):
        service.__exit__(None)


def test_a_service_that_ends_cuts_its_connections():
    with Service(lambda asked: answer({"path": asked.path, **asked.query})) as here:
        client = http.client.HTTPConnection("127.0.0.1", here.port, timeout=5)
        client.request("GET", "/a%20b?c=d")
        assert json.loads(client.getresponse().read()) == {"path": "/a b", "c": "d"}
    with pytest.raises((http.client.HTTPException, OSError)):
        _again(client)


def _again(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/")
    client.getresponse()


def test_a_request_without_end_is_not_read():
    with Service(lambda asked: answer({})) as here:
        request = urllib.request.Request(here.url, b"x" * (LARGEST + 1))
        with pytest.raises((urllib.error.HTTPError, OSError)):
            urllib.request.urlopen(request)


@pytest.mark.parametrize("trusted", [True, False])
def test_only_those_who_are_told_trust_its_certificate(trusted):
    authority = Certificates()
    context = ssl.create_default_context(cadata=authority.pem.decode() if trusted else None)
    with Service(lambda asked: answer({"fine": True}), identity=authority.identity()) as here:
        if trusted:
            with urllib.request.urlopen(here.url, context=context) as reply:
                assert json.loads(reply.read()) == {"fine": True}
        else:
            with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
                urllib.request.urlopen(here.url, context=context)


def test_metadata_only_with_a_token():
    """Version 2 of the service: a plain GET, as a server tricked into fetching URLs makes, gets nothing."""
    with Metadata(credentials(), user_data=b"settings") as here:
        for path in ("/latest/user-data", "/latest/meta-data/iam/security-credentials/"):
            with pytest.raises(urllib.error.HTTPError, match="401") as caught:
                urllib.request.urlopen(here.url + path)
            caught.value.close()
        endpoints = Endpoints(imds=here.url)
        assert where.stage(Platform.AWS_NITROTPM, endpoints) == b"settings"
