"""Keys inside a Nitro Enclave: opened by the measured image under its role, closed to everything else.

The guest is the real one with boto's own client; KMS, the metadata service and the security module are
stand-ins, and the key's policy is the one that the kit deploys.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from aws_rehearsed import (
    DEK,
    KEY,
    OTHER_KEY,
    PLATFORMS,
    asked,
    authority,
    closed,
    credentials,
    no_pauses,
    place,
    stage,
    wrapped,
)
from cryptography.hazmat.primitives.asymmetric import rsa

from jewelhouse.evidence import nitro
from jewelhouse.guest import cms, kms, opening
from jewelhouse.guest.settings import Endpoints
from jewelhouse.guest.vsock import Relay
from jewelhouse.model import Platform
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal.ec2 import Metadata
from jewelhouse.rehearsal.envelope import enveloped
from jewelhouse.rehearsal.minting_nitro import Authority, recipient

pytestmark = pytest.mark.usefixtures("no_pauses")
__all__ = ["no_pauses"]

HOUR = timedelta(hours=1)
ENCLAVE = Platform.AWS_ENCLAVE


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_measured_image_opens_under_its_role(platform):
    with place(platform) as here:
        opened = here.opener()(asked())
        (judged,) = here.kms.log
    assert opened.dek == DEK
    assert opened.kind == PLATFORMS[platform]
    assert judged.code == "released"
    assert judged.decision is not None
    assert judged.decision.released
    verdict = nitro.verify(opened.evidence, at=None, roots=authority().roots)
    assert verdict.verified
    assert verdict.claims["user_data"] == (b"b" * 32).hex()
    assert len(verdict.nonce or b"") == 32


def test_every_release_has_a_key_and_a_nonce_of_its_own():
    with place() as here:
        open_ = here.opener()
        verdicts = [nitro.verify(open_(asked()).evidence, at=None) for _ in range(2)]
    for claim in ("public_key", "nonce"):
        assert verdicts[0].claims[claim] != verdicts[1].claims[claim]


def test_evidence_without_anything_bound():
    with place() as here:
        opened = here.opener()(asked(bound=b""))
    assert nitro.verify(opened.evidence, at=None).claims["user_data"] is None


OLD = Authority.new(now() - 4 * HOUR, "four hours ago")
NO_ADMISSION = ("the release policy does not admit", "AccessDeniedException")
# What is wrong with the machine or the caller -> what the guest says, and what KMS answered.
WRONG: dict[str, tuple[Platform, dict[str, Any], str, str | None]] = {
    "debug enclave": (ENCLAVE, {"debug": True}, "zeros, as in a debug enclave", NO_ADMISSION[1]),
    "other image": (ENCLAVE, {"pcrs": {0: b"\x01" * 48}}, f"PCR0 {'01' * 48}", NO_ADMISSION[1]),
    "other kernel": (ENCLAVE, {"pcrs": {1: b"\x01" * 48}}, *NO_ADMISSION),
    "other disk image": (
        Platform.AWS_NITROTPM,
        {"pcrs": {4: b"\x01" * 48}},
        f"PCR4 {'01' * 48}",
        NO_ADMISSION[1],
    ),
    "command line appended from outside": (
        Platform.AWS_NITROTPM,
        {"pcrs": {12: b"\x01" * 48}},
        f"PCR12 {'01' * 48}",
        NO_ADMISSION[1],
    ),
    "role of another stage": (ENCLAVE, {"role": credentials("flow-serve")}, *NO_ADMISSION),
    "same role in another account": (ENCLAVE, {"role": credentials(account="999988887777")}, *NO_ADMISSION),
    "foreign root": (ENCLAVE, {"signed_by": Authority.new(now(), "foreign")}, *NO_ADMISSION),
    "stale evidence": (
        ENCLAVE,
        {"signed_by": OLD, "believed": OLD, "at": lambda: now() - 4 * HOUR},
        *NO_ADMISSION,
    ),
    "evidence from the future": (ENCLAVE, {"at": lambda: now() + HOUR}, *NO_ADMISSION),
    "expired credentials": (
        ENCLAVE,
        {
            "role": credentials(expires=now() + timedelta(seconds=1)),
            "clock": lambda: now() + timedelta(minutes=1),
        },
        "credentials have expired",
        "ExpiredTokenException",
    ),
    "clock an hour behind": (ENCLAVE, {"clock": lambda: now() + HOUR}, "set the clock", None),
    "clock an hour ahead": (ENCLAVE, {"clock": lambda: now() - HOUR}, "set the clock", None),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_everything_else_stays_closed(wrong):
    platform, machine, says, code = WRONG[wrong]
    with place(platform, **machine) as here:
        assert says in closed(lambda: here.opener()(asked()))
        (judged,) = here.kms.log
    assert judged.code == (code or "InvalidSignatureException")
    assert judged.decision is None or not judged.decision.released


def test_a_throw_away_root_is_believed_by_nobody_else():
    with place() as here:
        evidence = here.opener()(asked()).evidence
    verdict = nitro.verify(evidence, at=None)
    assert not verdict.verified
    assert "which is not AWS Nitro Enclaves Root-G1" in verdict.problems[0].what


@pytest.mark.parametrize(
    ("attack", "change", "says"),
    [
        ("document recorded from another run", {}, "is for another public key"),
        ("document without a key", {"public_key": None}, "is for another public key"),
        ("document of a TPM", {"kind": "tpm"}, "is a document of nitro-tpm"),
        ("no document", {"data": b"\xa0"}, "is no COSE_Sign1"),
    ],
)
def test_evidence_that_is_not_of_this_request_never_leaves(attack, change, says):
    document = change.pop("data", None)
    if change.pop("kind", None):
        document = authority().document(kind=PLATFORMS[Platform.AWS_NITROTPM])
    document = document or authority().document(**{"public_key": recipient(), "nonce": b"n" * 32, **change})
    with place(replay=document) as here:
        assert says in closed(lambda: here.opener()(asked()))
        assert here.kms.log == []


def test_evidence_that_answers_another_nonce_never_leaves():
    with place() as here:
        client = kms.client(stage(), here.endpoints)
        says = closed(
            lambda: kms.release(
                client,
                asked(),
                lambda public, nonce: authority().document(public_key=public, nonce=b"an older one"),
                PLATFORMS[ENCLAVE],
                b"n" * 32,
            )
        )
        assert here.kms.log == []
    assert "answers another nonce" in says


def test_a_recorded_document_gives_its_thief_nothing():
    """KMS takes a document twice, even from a thief with the same role; the answer is for the enclave."""
    with place() as here:
        document = here.opener()(asked()).evidence
        thief = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        reply = kms.client(stage(), here.endpoints).decrypt(
            CiphertextBlob=wrapped(),
            KeyId=KEY,
            EncryptionAlgorithm=kms.ALGORITHM,
            Recipient={"KeyEncryptionAlgorithm": kms.ALGORITHM, "AttestationDocument": document},
        )
    assert "Plaintext" not in reply
    assert "not for the key of this request" in closed(
        lambda: cms.opened(reply["CiphertextForRecipient"], thief)
    )


def _someone_else(_: dict[str, Any]) -> str:
    return base64.b64encode(enveloped(recipient(), bytes(32))).decode()


FORGED: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "plaintext for everybody": (
        lambda reply: {**reply, "Plaintext": base64.b64encode(bytes(32)).decode()},
        "a plaintext that everybody",
    ),
    "plaintext alone": (
        lambda reply: {
            **{name: reply[name] for name in ("KeyId", "EncryptionAlgorithm")},
            "Plaintext": base64.b64encode(bytes(32)).decode(),
        },
        "a plaintext that everybody",
    ),
    "another key's answer": (lambda reply: {**reply, "KeyId": OTHER_KEY}, "answers for KeyId"),
    "no key named": (lambda reply: {**reply, "KeyId": None}, "answers without KeyId"),
    "weaker algorithm": (
        lambda reply: {**reply, "EncryptionAlgorithm": "RSAES_OAEP_SHA_1"},
        "answers for EncryptionAlgorithm",
    ),
    "answer for another enclave": (
        lambda reply: {**reply, "CiphertextForRecipient": _someone_else(reply)},
        "is not for the key of this request",
    ),
    "answer cut short": (
        lambda reply: {**reply, "CiphertextForRecipient": reply["CiphertextForRecipient"][:400]},
        "is no EnvelopedData",
    ),
    "no answer": (
        lambda reply: {**reply, "CiphertextForRecipient": None},
        "answers without CiphertextForRecipient",
    ),
    "endless answer": (
        lambda reply: {**reply, "CiphertextForRecipient": base64.b64encode(bytes(100_000)).decode()},
        "a reply has up to",
    ),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_key_service_that_lies_opens_nothing(forgery):
    meddle, says = FORGED[forgery]
    with place(meddle=meddle) as here:
        assert says in closed(lambda: here.opener()(asked()))


@pytest.mark.parametrize(
    ("mistake", "change", "says"),
    [
        ("wrapped to another key", {"wrapped": wrapped(number=1)}, "does not unwrap with this key"),
        ("not wrapped at all", {"wrapped": b"x" * 512}, "does not unwrap with this key"),
        ("no such key", {"key": KEY.replace("1234abcd", "0000abcd")}, "is not there"),
    ],
)
def test_what_is_asked_must_fit_the_key(mistake, change, says):
    with place() as here:
        assert says in closed(lambda: here.opener()(asked(**change)))


TROUBLES = [
    ("ThrottlingException", "was asked 5 times and throttles"),
    ("KMSInternalException", "was asked 5 times and fails with status 500"),
    ("DependencyTimeoutException", "was asked 5 times and fails with status 503"),
]


@pytest.mark.parametrize(("code", "says"), TROUBLES)
def test_trouble_that_passes_is_waited_for_within_limits(code, says):
    with place() as here:
        open_ = here.opener()
        here.kms.fail(code, 4)
        assert open_(asked()).dek == DEK
        here.kms.fail(code, 5)
        assert says in closed(lambda: open_(asked()))
        # Not one request more than said.
        assert open_(asked()).dek == DEK


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("DisabledException", "is disabled"),
        ("KMSInvalidStateException", "cannot be used in its state"),
        ("InvalidKeyUsageException", "is not an RSA key for decryption"),
        ("UnheardOfException", "refuses with 'UnheardOfException'"),
    ],
)
def test_a_refusal_is_final(code, says):
    with place() as here:
        open_ = here.opener()
        here.kms.fail(code)
        assert says in closed(lambda: open_(asked()))
        assert here.kms.log == []


def test_a_service_that_dies_while_it_answers():
    with place() as here:
        open_ = here.opener()
        here.kms.cut()
        assert "answers without KeyId" in closed(lambda: open_(asked()))
        assert open_(asked()).dek == DEK


def test_a_service_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as taken, place() as here:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        taken.close()
        assert "cannot be reached" in closed(lambda: here.opener(kms=url)(asked()))


@pytest.mark.parametrize("problem", ["no metadata service", "no instance profile"])
def test_without_credentials_nothing_is_asked(problem):
    with place() as here, Metadata(None) as empty:
        url = empty.url if problem == "no instance profile" else "http://127.0.0.1:9"
        says = closed(lambda: here.opener(imds=url)(asked()))
        assert here.kms.log == []
    assert "the metadata service gives no credentials" in says


def test_credentials_of_whoever_builds_or_rehearses_are_never_used(monkeypatch):
    for name, value in (("AWS_ACCESS_KEY_ID", "AKIDEVELOPER"), ("AWS_SECRET_ACCESS_KEY", "x" * 40)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with place() as here:
        assert here.opener()(asked()).dek == DEK
        (judged,) = here.kms.log
    assert judged.principal == credentials().principal


def test_without_a_security_module_nothing_is_asked(tmp_path):
    with place() as here:
        says = closed(lambda: here.opener(nsm=str(tmp_path / "none"))(asked()))
        assert here.kms.log == []
    assert "Attestation: does not answer" in says


def test_outside_an_enclave_there_is_no_module(monkeypatch, tmp_path):
    monkeypatch.setattr("jewelhouse.guest.nsm.DEVICE", str(tmp_path / "nsm"))
    assert "this stage runs inside a Nitro Enclave" in closed(
        lambda: opening.opener(stage(), Endpoints(kms="http://127.0.0.1:9"))
    )


def test_without_a_region_nothing_starts():
    with place() as here:
        assert "names no region" in closed(lambda: opening.opener(stage(region=None), here.endpoints))


# TLS between the enclave and KMS; everything on the way belongs to the host.
HOST = "kms.eu-central-1.amazonaws.com"
TRUSTED, IMPOSTOR = http.Authority(), http.Authority("impostor")


@pytest.fixture
def resolves(monkeypatch):
    """The service's name leads to a local address, as /etc/hosts inside an enclave has it."""
    own = socket.getaddrinfo

    def resolve(host: Any, *others: Any, **named: Any) -> Any:
        return own("127.0.0.2" if host == HOST else host, *others, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture
def relayed():
    """Starts relays to a service, over what `through` makes of the connection."""
    started: list[Relay] = []

    def start(port: int, through: Callable[[socket.socket], socket.socket] = lambda one: one) -> str:
        relay = Relay(
            ("127.0.0.2", 0), lambda: through(socket.create_connection(("127.0.0.1", port), 5))
        ).start()
        started.append(relay)
        return f"https://{HOST}:{relay.address[1]}"

    yield start
    for relay in started:
        relay.close()


@pytest.mark.usefixtures("resolves")
def test_through_the_relay_to_the_service_by_its_own_name(relayed):
    with place(secure=TRUSTED.identity([HOST]), trusted=TRUSTED) as here:
        assert here.opener(kms=relayed(here.kms.port))(asked()).dek == DEK


@pytest.mark.parametrize(
    ("middle", "identity"),
    [
        ("certificate by another authority", IMPOSTOR.identity([HOST])),
        ("certificate for another name", TRUSTED.identity(["s3.eu-central-1.amazonaws.com"])),
        ("certificate for the address alone", TRUSTED.identity(["127.0.0.2"])),
    ],
)
@pytest.mark.usefixtures("resolves")
def test_nobody_in_the_middle_is_taken_for_the_service(relayed, middle, identity):
    with place(secure=identity, trusted=TRUSTED) as here:
        assert "has no certificate of the key service" in closed(
            lambda: here.opener(kms=relayed(here.kms.port))(asked())
        )
        assert here.kms.log == []


@pytest.mark.usefixtures("resolves")
def test_nobody_in_the_middle_takes_tls_off(relayed):
    with place(trusted=TRUSTED) as here:
        says = closed(lambda: here.opener(kms=relayed(here.kms.port))(asked()))
        assert here.kms.log == []
    assert "certificate" in says or "cannot be reached" in says


def _changed(service: socket.socket) -> socket.socket:
    """A connection in which everything from the service that is long, as an answer is, has a bit changed."""
    inner, outer = socket.socketpair()

    def up() -> None:
        while data := outer.recv(65536):
            service.sendall(data)
        service.shutdown(socket.SHUT_WR)

    def down() -> None:
        seen = 0
        while data := service.recv(65536):
            seen += len(data)
            # Beyond the handshake: keys and certificate of the service have less.
            changed = data[:-1] + bytes((data[-1] ^ 1,)) if seen > 2000 else data
            outer.sendall(changed)
        outer.close()

    for work in (up, down):
        threading.Thread(target=_until_gone, args=(work,), daemon=True).start()
    return inner


def _until_gone(work: Callable[[], None]) -> None:
    try:
        work()
    except OSError:
        return


@pytest.mark.usefixtures("resolves")
def test_a_relay_that_changes_the_answer_is_noticed(relayed):
    with place(secure=TRUSTED.identity([HOST]), trusted=TRUSTED) as here:
        says = closed(lambda: here.opener(kms=relayed(here.kms.port, _changed))(asked()))
        assert {judged.code for judged in here.kms.log} == {"released"}
    assert "certificate" in says or "cannot be reached" in says


def test_requests_have_room_for_the_largest_document():
    request = {"public_key": b"k" * 294, "nonce": b"n" * kms.NONCE, "user_data": b"u" * 32}
    assert len(cbor2.dumps({"Attestation": request})) < 4096
