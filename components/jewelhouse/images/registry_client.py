"""One repository of a registry over HTTP: logins, redirects, second attempts, limits.

github.com/opencontainers/distribution-spec: spec.md, v1.1.1. Every answer is limited in size; errors hold the
specification's codes, and no text, query or header that came from others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import requests
from urllib3.exceptions import HTTPError

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import oci
from jewelhouse.images.registry_login import Credentials, Login

CHUNK = 8 * 1024 * 1024
CONNECT, READ = 10, 120
TRIES = 4
# Only what a registry says about itself is tried again (spec.md, Error codes: TOOMANYREQUESTS; HTTP 5xx).
AGAIN = frozenset({429, 500, 502, 503, 504})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# A registry's answer that is no blob and no manifest.
ANSWER_LIMIT = 64 * 1024
REDIRECTS = 5

_HOST = r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[::1\]:[0-9]{1,5})"
# spec.md, Pulling manifests: <name> and <reference>.
_NAME = r"(?P<name>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
_REFERENCE = re.compile(
    rf"{_HOST}/{_NAME}(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)

# Blobs are hashed as they are stored.
PLAIN: Mapping[str, str] = {"Accept-Encoding": "identity"}

Progress = Callable[[str, int, int], None]
"""Called with a digest, the bytes of it that are done and its size."""


class RegistryError(JewelhouseError):
    """A registry refuses, cannot be reached, or holds something else than it should."""


class Unsettled(RegistryError):
    """A registry that could not be reached, or says itself that it cannot answer now."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an image is: `host[:port]`, repository, and a tag, a digest or both."""

    host: str
    name: str
    tag: str | None = None
    digest: str | None = None

    @property
    def local(self) -> bool:
        return urlsplit(f"//{self.host}").hostname in LOOPBACK

    @property
    def base(self) -> str:
        """TLS everywhere but on this machine."""
        return f"{'http' if self.local else 'https'}://{self.host}/v2/{self.name}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def place(text: str) -> Place:
    """`registry/name[:tag][@sha256:…]`; the registry is never guessed. Raises RegistryError."""
    found = _REFERENCE.fullmatch(text)
    if found is None or len(found["name"]) > 255 or not _host(found["host"]):
        raise RegistryError(
            f"{text!r} names no image in a registry",
            remedy="write registry.example/name:tag or name@sha256:…",
        )
    return Place(host=found["host"], name=found["name"], tag=found["tag"], digest=found["digest"])


def _host(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"


class Client:
    """One repository. `pause` waits for some seconds between attempts."""

    def __init__(
        self,
        place: Place,
        credentials: Credentials,
        pause: Callable[[float], None],
    ) -> None:
        self.place, self.pause = place, pause
        self.session = requests.Session()
        # Proxies of the environment are for what is not on this machine.
        self.session.trust_env = not place.local
        # With an authentication of its own, requests sends nobody what ~/.netrc holds.
        self.session.auth = _nothing
        self.login = Login(place.host, place.local, credentials, self.session)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def ask(
        self,
        method: str,
        url: str,
        *,
        expect: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        push: bool = False,
        tries: int = TRIES,
    ) -> requests.Response:
        """An answer whose body is still to be read. `body` makes what is sent anew for each attempt. Raises
        RegistryError for any status that is not expected, Unsettled where another attempt might do."""
        scope = f"repository:{self.place.name}:{'pull,push' if push else 'pull'}"
        reason = ""
        for attempt in range(1, tries + 1):
            wait = 2.0**attempt
            try:
                answer = self.send(method, url, headers, body, scope)
                if answer.status_code == 401 and self.login.answer(answer, scope):
                    answer.close()
                    answer = self.send(method, url, headers, body, scope)
            except requests.exceptions.SSLError as error:
                raise RegistryError("has no trusted certificate for TLS", where=self.where(url)) from error
            except requests.RequestException as error:
                reason = f"cannot be reached: {type(error).__name__}"
            else:
                if answer.status_code in expect:
                    return answer
                reason, wait = _reason(answer), max(wait, _asked_pause(answer))
                if answer.status_code not in AGAIN:
                    raise RegistryError(
                        f"{method} {reason}",
                        where=self.where(url),
                        remedy=self.login.remedy(answer.status_code),
                    )
            if attempt < tries:
                self.pause(wait)
        raise Unsettled(f"{method} {reason}", where=self.where(url), remedy="try again later")

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: Callable[[], Any] | None,
        scope: str,
    ) -> requests.Response:
        """One request. Blobs are often served from another host, to which no credentials go."""
        for _ in range(REDIRECTS + 1):
            answer = self.session.request(
                method,
                url,
                headers={**(headers or {}), **self.login.headers(url, scope)},
                data=body() if body else None,
                timeout=(CONNECT, READ),
                stream=True,
                allow_redirects=False,
            )
            if method not in ("GET", "HEAD") or not answer.is_redirect:
                return answer
            answer.close()
            url = self.location(answer)
        raise RegistryError(f"{method} was sent on more than {REDIRECTS} times", where=self.where(url))

    def where(self, url: str) -> str:
        """The address without its query, in which registries put signatures."""
        return urlunsplit((*urlsplit(url)[:3], "", ""))

    def blob(self, digest: str) -> str:
        return f"{self.place.base}/blobs/{digest}"

    def has(self, digest: str, size: int) -> bool:
        where = f"{self.place.host}/{self.place.name}@{digest}"
        answer = self.ask("HEAD", self.blob(digest), expect=(200, 404), headers=PLAIN)
        answer.close()
        if answer.status_code == 404:
            return False
        stated = answer.headers.get("Content-Length")
        if stated not in (None, str(size)):
            raise RegistryError(f"has {stated} bytes where there are {size}", where=where)
        self.agreed(answer, digest)
        return True

    def upload(self, path: Path, digest: str, size: int, progress: Progress) -> None:
        """POST, then PUT of the whole, streamed. An upload that breaks off is begun anew; what arrives is
        compared with the digest by the registry."""
        for attempt in range(1, TRIES + 1):
            with self.ask("POST", f"{self.place.base}/blobs/uploads/", expect=(202,), push=True) as begun:
                parts = urlsplit(self.location(begun))
            query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", digest)])
            try:
                with self.ask(
                    "PUT",
                    urlunsplit((*parts[:3], query, "")),
                    expect=(201,),
                    headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
                    body=lambda: _Body(path, digest, size, progress),
                    push=True,
                    tries=1,
                ) as answer:
                    self.agreed(answer, digest)
                return
            except Unsettled:
                if attempt == TRIES:
                    raise
                self.pause(2.0**attempt)

    def agreed(self, answer: requests.Response, digest: str) -> None:
        named = answer.headers.get("Docker-Content-Digest")
        if named not in (None, digest):
            raise RegistryError(
                f"takes it for {named}", where=f"{self.place.host}/{self.place.name}@{digest}"
            )

    def location(self, answer: requests.Response) -> str:
        """Where a request goes on: over TLS, but on this machine."""
        named = answer.headers.get("Location")
        parts = urlsplit(urljoin(answer.url, named or ""))
        if not named or parts.scheme not in ("http", "https"):
            raise RegistryError("does not say where the request goes on", where=self.where(answer.url))
        if parts.scheme == "http" and not (self.place.local and parts.hostname in LOOPBACK):
            raise RegistryError(f"sends the request on to {parts.netloc} without TLS", where=self.place.host)
        return parts.geturl()

    def put_manifest(self, data: bytes, digest: str, reference: str) -> None:
        with self.ask(
            "PUT",
            f"{self.place.base}/manifests/{reference}",
            expect=(201,),
            headers={"Content-Type": oci.MANIFEST},
            body=lambda: data,
            push=True,
        ) as answer:
            self.agreed(answer, digest)

    def manifest(self, reference: str) -> bytes:
        url = f"{self.place.base}/manifests/{reference}"
        headers = {**PLAIN, "Accept": oci.MANIFEST}
        with self.ask("GET", url, expect=(200,), headers=headers) as answer:
            return b"".join(self.parts(answer, oci.DOCUMENT_LIMIT))

    def parts(self, answer: requests.Response, limit: int) -> Iterator[bytes]:
        """A body of at most `limit` bytes."""
        done = 0
        try:
            for part in answer.iter_content(1024 * 1024):
                done += len(part)
                if done > limit:
                    raise RegistryError(f"has more than {limit} bytes", where=self.where(answer.url))
                yield part
        except requests.RequestException as error:
            raise RegistryError(f"breaks off after {done} bytes", where=self.where(answer.url)) from error

    def check(self, digest: str, size: int, progress: Progress) -> None:
        """Reads a blob and compares it with its digest; keeps nothing."""
        where = f"{self.place.host}/{self.place.name}@{digest}"
        state, done = hashlib.sha256(), 0
        with self.ask("GET", self.blob(digest), expect=(200,), headers=PLAIN) as answer:
            for part in self.parts(answer, size):
                state.update(part)
                done += len(part)
                progress(digest, done, size)
        if done != size:
            raise RegistryError(f"has {done} bytes where there are {size}", where=where)
        if (found := f"sha256:{state.hexdigest()}") != digest:
            raise RegistryError(f"is {found} by its content", where=where)


class _Body:
    """A file as the body of a request, with its length known and its progress told."""

    def __init__(self, path: Path, digest: str, size: int, progress: Progress) -> None:
        self.path, self.digest, self.size, self.progress = path, digest, size, progress

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        with self.path.open("rb") as file:
            for data in _chunks(file):
                yield data
                done += len(data)
                self.progress(self.digest, done, self.size)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while data := file.read(CHUNK):
        yield data


def _nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _asked_pause(answer: requests.Response) -> float:
    """Seconds that a registry asks one to wait, a minute at most."""
    text = answer.headers.get("Retry-After", "")
    return min(float(text), 60.0) if re.fullmatch("[0-9]{1,6}", text) else 0.0


def _reason(answer: requests.Response) -> str:
    """What a registry says is wrong: the codes of the specification, never its free text."""
    with answer:
        try:
            data = answer.raw.read(ANSWER_LIMIT, decode_content=True)
            errors = json.loads(data)["errors"]
            codes = [str(one["code"]) for one in errors]
        except (ValueError, TypeError, KeyError, RecursionError, HTTPError):
            codes = []
    said = ", ".join(code for code in codes[:5] if re.fullmatch("[A-Z_]{1,40}", code))
    return f"was answered with {answer.status_code}" + (f" ({said})" if said else "")
