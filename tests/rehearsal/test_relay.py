"""A relay before the key services: what passes, what it can change, and what it cannot learn."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.rehearsal import relay
from jewelhouse.rehearsal.http import Answer, Asked, Authority, Service, answer
from jewelhouse.rehearsal.relay import Habits, Relay
from jewelhouse.rehearsal.services import Wrong

SECRET = bytes(range(7, 39))


def echo(asked: Asked) -> Answer:
    return answer(
        {"method": asked.method, "target": asked.target, "body": asked.body.decode(), "seen": "A" * 40}
    )


def sent(url, body=b"hello", method="POST", authority=None):
    context = ssl.create_default_context(cadata=authority.pem.decode()) if authority else None
    asked = urllib.request.Request(f"{url}/release?x=1", body, {"Content-Type": "text/plain"}, method=method)
    with urllib.request.urlopen(asked, timeout=10, context=context) as reply:
        return json.loads(reply.read())


def test_what_passes_is_as_it_was_and_all_of_it_is_heard():
    with Service(echo) as service, Relay(service.url) as between:
        found = sent(between.url)
    assert (found["method"], found["target"], found["body"]) == ("POST", "/release?x=1", "hello")
    assert between.heard[0] == b"hello"
    assert json.loads(between.heard[1]) == found


def test_the_length_of_what_is_only_asked_about_is_that_of_the_whole():
    with Service(lambda _: Answer(body=b"x" * 100)) as service, Relay(service.url) as between:
        asked = urllib.request.Request(between.url, method="HEAD")
        with urllib.request.urlopen(asked, timeout=10) as reply:
            assert reply.headers["Content-Length"] == "100"


def test_a_service_that_dies_takes_the_relays_answer_with_it():
    with (
        Service(echo) as service,
        Relay(service.url, lambda asked, on: replace(on(asked), cut=-1)) as between,
        pytest.raises(OSError, match=r"closed|reset"),
    ):
        sent(between.url)


HABITS = Habits(
    recipient=lambda asked: replace(asked, body=b"mine"), asks=lambda asked: replace(asked, body=b"other")
)


@pytest.mark.parametrize(
    ("wrong", "body", "seen"),
    [
        pytest.param(Wrong.RELAY_READS, "hello", True, id="reads"),
        pytest.param(Wrong.RELAY_ASKS, "other", True, id="changes-the-request"),
        pytest.param(Wrong.RELAY_RECIPIENT, "mine", True, id="swaps-the-recipients-key"),
        pytest.param(Wrong.RELAY_ANSWERS, None, False, id="changes-the-reply"),
    ],
)
def test_each_relay_does_its_own_wrong_and_no_other(wrong, body, seen):
    authority = Authority()
    with (
        Service(echo, identity=authority.identity()) as service,
        relay.before(service.url, wrong, HABITS, authority) as between,
    ):
        found = sent(between.url, authority=authority)
    assert (found["seen"] == "A" * 40) is seen
    if body is not None:
        assert found["body"] == body


def test_a_relay_with_a_certificate_of_its_own_is_seen_by_who_looks():
    authority = Authority()
    with (
        Service(echo, identity=authority.identity()) as service,
        relay.before(service.url, Wrong.RELAY_TLS, HABITS, authority) as between,
        pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        sent(between.url, authority=authority)
    assert between.heard == []


def test_a_relay_does_not_take_another_service_for_the_real_one():
    believed = Authority()
    with (
        Service(echo, identity=Authority("foreign").identity()) as service,
        pytest.raises(ExceptionGroup, match="a stand-in failed"),
        relay.before(service.url, Wrong.RELAY_READS, HABITS, believed) as between,
        pytest.raises(urllib.error.HTTPError),
    ):
        sent(between.url, authority=believed)


LETTERS = st.text(alphabet="ABCDabcd0123+/", min_size=1, max_size=60)
FORMS = st.sampled_from(["raw", "hex", "b64", "url"])


@given(st.dictionaries(st.text(max_size=5), LETTERS, min_size=1))
@settings(max_examples=50)
def test_exactly_one_character_of_the_longest_text_is_altered(body):
    found = json.loads(relay.altered(json.dumps(body).encode()))
    changed = [name for name in body if found[name] != body[name]]
    assert found.keys() == body.keys()
    (name,) = changed
    assert len(body[name]) == max(map(len, body.values()))
    assert sum(a != b for a, b in zip(found[name], body[name], strict=True)) == 1


@given(before=st.binary(max_size=7), after=st.binary(max_size=7), form=FORMS)
@settings(max_examples=80)
def test_a_secret_is_recognised_however_it_is_carried(before, after, form):
    whole = before + SECRET + after
    carried = {
        "raw": whole,
        "hex": whole.hex().encode(),
        "b64": base64.b64encode(whole),
        "url": base64.urlsafe_b64encode(whole),
    }[form]
    assert relay.learnt([b"harmless", b'{"key": "' + carried + b'"}'], {"the key": SECRET}) == ["the key"]


def test_what_is_wrapped_is_not_taken_for_the_secret():
    assert relay.learnt([SECRET[:-1], bytes(reversed(SECRET)), b""], {"the key": SECRET}) == []
