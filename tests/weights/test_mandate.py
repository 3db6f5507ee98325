"""Mandates: only what the owner signed says to whom a stage seals and which key signs it."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import NOW, YEAR, ec_key, pem, recipient, rsa_key, signing_key

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import ArtifactKind
from jewelhouse.weights import canonical, mandate, signing, stores, wrap
from jewelhouse.weights.signing import MalformedManifest, Untrusted

OWNER = signing_key("owner")


def release(wrapped: bytes) -> bytes:
    return rsa_key("stage").decrypt(wrapped, wrap._OAEP)


def make(**changes):
    given = {
        "artifact": "adapter",
        "kind": ArtifactKind.ADAPTER,
        "recipients": [recipient("first"), recipient("second")],
        "stage_key": recipient("stage"),
        "owners": [OWNER],
        "now": NOW,
        "expires": NOW + YEAR,
    }
    return mandate.make(**{**given, **changes})


MADE = make()


def read(data=MADE[0], *, signers=(OWNER,), artifact="adapter", now=NOW):
    return mandate.read(data, [key.public_key() for key in signers], artifact=artifact, now=now)


def test_what_the_owner_said_comes_back():
    found = read()
    assert [one.key for one in found.recipients] == ["kms:first", "kms:second"]
    assert found.recipients[0].public == rsa_key("first").public_key()
    assert (found.artifact, found.kind, found.expires) == ("adapter", ArtifactKind.ADAPTER, NOW + YEAR)


def test_the_signing_key_opens_only_by_the_stages_key_and_is_the_one_that_readers_pin():
    key = read().key(release)
    assert pem(key) == MADE[1] == read().signer
    with pytest.raises(ValueError, match="Decryption failed"):
        read().key(lambda wrapped: rsa_key("first").decrypt(wrapped, wrap._OAEP))


def test_every_mandate_has_a_signing_key_of_its_own():
    assert make()[1] != MADE[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"signers": (signing_key("operator"),)}, "signed by 0", id="operator-signed-his-own"),
        pytest.param({"signers": ()}, "signed by 0", id="nobody-is-trusted"),
        pytest.param({"artifact": "base"}, "is for adapter", id="mandate-for-another-artifact"),
        pytest.param({"now": NOW + YEAR}, "expired", id="mandate-that-ran-out"),
        pytest.param({"now": NOW - timedelta(hours=1)}, "in the future", id="clock-turned-back"),
    ],
)
def test_mandates_that_a_guest_must_not_follow(changes, says):
    with pytest.raises(Untrusted, match=says):
        read(**changes)


def changed(edit):
    """A mandate whose content was changed and signed by the owner: what the form itself must refuse."""
    envelope = json.loads(MADE[0])
    body = json.loads(base64.b64decode(envelope["payload"]))
    edit(body)
    return signing.sign(canonical.write(body), [OWNER], mandate.PAYLOAD_TYPE)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda body: body["recipients"].clear(), id="sealed-to-nobody"),
        pytest.param(lambda body: body["recipients"].append(body["recipients"][0]), id="recipient-twice"),
        pytest.param(lambda body: body.update(more=1), id="unknown-member"),
        pytest.param(lambda body: body.pop("expires"), id="without-an-end"),
        pytest.param(lambda body: body.update(format="jewelhouse.mandate/v2"), id="another-format"),
        pytest.param(lambda body: body.update(artifact="../base"), id="artifact-that-is-a-path"),
        pytest.param(lambda body: body.update(kind="key"), id="unknown-kind"),
        pytest.param(lambda body: body.update(created="yesterday"), id="time-that-is-none"),
        pytest.param(lambda body: body["signing-key"].update(signer="x"), id="signer-that-is-no-key"),
        pytest.param(lambda body: body["signing-key"].update(ciphertext="%%"), id="key-that-is-no-base64"),
        pytest.param(
            lambda body: body["recipients"][0].update(public=pem(rsa_key("small", 2048))), id="weak-recipient"
        ),
        pytest.param(
            lambda body: body["recipients"][0].update(public=pem(ec_key("p256"))),
            id="recipient-that-is-not-rsa",
        ),
    ],
)
def test_content_that_is_no_mandate_is_refused_whoever_signed_it(edit):
    with pytest.raises(JewelhouseError):
        read(changed(edit))


def test_a_signing_key_other_than_the_named_one_is_refused():
    other = make()[0]
    body = json.loads(base64.b64decode(json.loads(other)["payload"]))
    data = changed(lambda mine: mine["signing-key"].update(ciphertext=body["signing-key"]["ciphertext"]))
    with pytest.raises(Untrusted, match="wraps another key"):
        read(data).key(release)


def test_a_manifest_is_no_mandate_whoever_signed_it():
    data = signing.sign(canonical.write({"artifact": "adapter"}), [OWNER])
    with pytest.raises(MalformedManifest, match="payloadType"):
        read(data)


def test_a_mandate_to_nobody_cannot_be_made():
    with pytest.raises(JewelhouseError, match="nobody could open it"):
        make(recipients=[])


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300) | st.integers(0, len(MADE[0]) - 1).map(lambda at: _flipped(at)))
def test_other_bytes_are_refused_in_words(data):
    with pytest.raises(JewelhouseError):
        read(data)


def _flipped(at: int) -> bytes:
    # The name of a signing key is a hint, which a reader does not need.
    hint = MADE[0].index(b'"keyid":"') + len(b'"keyid":"')
    if hint <= at < MADE[0].index(b'"', hint):
        at = 0
    data = bytearray(MADE[0])
    data[at] ^= 1
    return bytes(data)


def current(store, now=NOW, part=mandate.SEALS):
    return mandate.current(store, [OWNER.public_key()], artifact="adapter", now=now, part=part)


def test_the_last_mandate_counts_and_none_is_replaced(tmp_path):
    store = stores.store(tmp_path)
    mandate.publish(store, MADE[0])
    later = NOW + timedelta(days=1)
    mandate.publish(store, make(now=later, recipients=[recipient("third")])[0])
    assert [one.key for one in current(store, later).recipients] == ["kms:third"]
    assert len(store.sizes(mandate.SEALS)) == 2
    with pytest.raises(JewelhouseError, match="is there already"):
        mandate.publish(store, MADE[0])


def test_an_old_mandate_under_a_later_name_is_not_followed(tmp_path):
    """Who may only add to a store cannot bring back recipients that the owner left out since."""
    store = stores.store(tmp_path)
    mandate.publish(store, MADE[0])
    store.put("mandates/2999-01-01T00-00-00Z.json", MADE[0])
    with pytest.raises(Untrusted, match="somebody gave it a later name"):
        current(store)


def test_a_later_mandate_can_keep_the_key_that_readers_pin():
    before = read()
    data, signer = make(stage_key=None, before=before, recipients=[recipient("third")])
    found = read(data)
    assert signer == before.signer == found.signer
    assert pem(found.key(release)) == signer
    for both in ({"before": before}, {"stage_key": None}):
        with pytest.raises(ValueError, match="either"):
            make(**both)
