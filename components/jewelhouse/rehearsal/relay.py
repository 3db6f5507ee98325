"""A relay in the middle: before any stand-in, it hands on what passes, and does to it what it is told to.

The host carries all that a guest says, so it can do each of these. Under TLS it sees nothing unless the guest
takes its certificate; here it may have one that the guest believes, to show what is still shut then.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import urlsplit

from jewelhouse.rehearsal.http import Answer, Asked, Authority, Identity, Service
from jewelhouse.rehearsal.services import Wrong

# Of each connection, not of messages (RFC 9110, 7.6.1); and what this end counts itself.
HOPS = {"connection", "keep-alive", "transfer-encoding", "content-length"}
HOPS |= {"te", "trailer", "upgrade", "expect"}
PATIENCE = 60
# What is played at every key service; a relay that reads stops nothing, and must not learn anything.
WRONG = (
    Wrong.RELAY_READS,
    Wrong.RELAY_ASKS,
    Wrong.RELAY_ANSWERS,
    Wrong.RELAY_TLS,
    Wrong.RELAY_REPLAYS,
    Wrong.RELAY_RECIPIENT,
)

Asking = Callable[[Asked], Asked]
Answering = Callable[[Asked, Answer], Answer]
Handing = Callable[[Asked], Answer]
Between = Callable[[Asked, Handing], Answer]
"""What a relay does with one request: hands it on with the second, or not."""


def unchanged(asked: Asked, hand_on: Handing) -> Answer:
    return hand_on(asked)


class Relay:
    """A loopback service before the one at `target`. `identity` is its own certificate, `believes` (PEM) says
    whose certificates it takes of the other end. `does` decides over each request.

    A context manager with `url`; `heard` is all that passed, request and reply, in the clear.
    """

    def __init__(
        self,
        target: str,
        does: Between = unchanged,
        *,
        identity: Identity | None = None,
        believes: bytes | None = None,
    ) -> None:
        self._parts = urlsplit(target)
        self._tls = ssl.create_default_context(cadata=believes.decode()) if believes else None
        self.does = does
        self.heard: list[bytes] = []
        self._service = Service(self._answer, identity=identity)

    @property
    def url(self) -> str:
        return f"{self._service.url}{self._parts.path}".rstrip("/")

    def __enter__(self) -> Self:
        self._service.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._service.__exit__(*error)

    def _answer(self, asked: Asked) -> Answer:
        self.heard.append(asked.body)
        reply = self.does(asked, self.hand_on)
        self.heard.append(reply.body)
        return reply

    def hand_on(self, asked: Asked) -> Answer:
        """Asks the real one, with the headers that were sent: the host's name in them is part of what a
        client signs."""
        host, port = self._parts.hostname or "", self._parts.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=self._tls)
            if self._parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=PATIENCE)
        )
        try:
            connection.putrequest(asked.method, asked.target, skip_host=True, skip_accept_encoding=True)
            for name, value in asked.headers.items():
                if name not in HOPS:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(asked.body)))
            connection.endheaders(asked.body)
            reply = connection.getresponse()
            length = reply.headers.get("Content-Length", "0")
            body = reply.read()
            return Answer(
                status=reply.status,
                body=body,
                kind=reply.headers.get("Content-Type", ""),
                headers={
                    # To HEAD there is a length and no content.
                    **({"Content-Length": length} if asked.method == "HEAD" else {}),
                    **{k: v for k, v in reply.headers.items() if k.lower() not in HOPS | KNOWN},
                },
            )
        finally:
            connection.close()


# What `http.Service` says itself.
KNOWN = {"content-type", "server", "date"}


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What the wrong relays of one cloud do. `recipient` puts a key of the relay's own in the place of the
    guest's; `relevant` tells the requests that are meddled with."""

    recipient: Asking
    relevant: Callable[[Asked], bool] = lambda asked: asked.method == "POST"
    asks: Asking = field(default=lambda asked: replace(asked, body=altered(asked.body)))
    answers: Answering = field(default=lambda asked, reply: replace(reply, body=altered(reply.body)))


def meddling(wrong: Wrong, habits: Habits) -> Between:
    """What a relay does in one wrong run."""

    def does(asked: Asked, hand_on: Handing) -> Answer:
        if not habits.relevant(asked):
            return hand_on(asked)
        if wrong is Wrong.RELAY_ASKS:
            return hand_on(habits.asks(asked))
        if wrong is Wrong.RELAY_RECIPIENT:
            return hand_on(habits.recipient(asked))
        reply = hand_on(asked)
        return habits.answers(asked, reply) if wrong is Wrong.RELAY_ANSWERS and reply.status == 200 else reply

    return does


def before(target: str, wrong: Wrong, habits: Habits, believed: Authority) -> Relay:
    """The relay of one wrong run before a service under TLS, with a certificate that the guest believes,
    except where that is what is tried."""
    own = Authority("a relay") if wrong is Wrong.RELAY_TLS else believed
    return Relay(target, meddling(wrong, habits), identity=own.identity(), believes=believed.pem)


def altered(body: bytes) -> bytes:
    """A JSON object in which the longest text has another character in its middle, still of base64."""
    found = json.loads(body)
    path = max(_texts(found), key=lambda one: len(one[1]))[0]
    inner: Any = found
    for name in path[:-1]:
        inner = inner[name]
    text = inner[path[-1]]
    middle = len(text) // 2
    inner[path[-1]] = f"{text[:middle]}{'A' if text[middle] != 'A' else 'B'}{text[middle + 1 :]}"
    return json.dumps(found).encode()


def _texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, str):
        yield path, value
    for name, one in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from _texts(one, (*path, name))


def learnt(overheard: Iterable[bytes], secrets: Mapping[str, bytes]) -> list[str]:
    """Names of the secrets that are in what was overheard, as they are, in base64 or in hexadecimal."""
    heard = list(overheard)
    return [
        name
        for name, secret in secrets.items()
        if any(form in one for form in _forms(secret) for one in heard)
    ]


def _forms(secret: bytes) -> Sequence[bytes]:
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # Wherever in a longer text it begins: the characters that only it decides.
        found += [encode(bytes(shift) + secret)[(shift * 4 + 2) // 3 : -4] for shift in range(3)]
    return found
