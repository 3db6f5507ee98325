"""Images in a registry: pushed blob by blob, found again by their digests, never under a tag half-way.

Speaks the OCI distribution specification (github.com/opencontainers/distribution-spec: spec.md, v1.1.1) through
`requests`. oras 0.2.43 is not up to it: it writes manifests anew, under which their digest changes, reads whole
layers into memory, and shows credentials to whatever host a registry names as the place of an upload.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import requests

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import oci
from jewelhouse.images.registry_login import Credentials, Login, docker_credentials

CHUNK = 8 * 1024 * 1024
CONNECT, READ = 10, 120
TRIES = 4
# Only what a registry says about itself is tried again (spec.md, Error codes: TOOMANYREQUESTS; HTTP 5xx).
AGAIN = frozenset({429, 500, 502, 503, 504})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST = r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[::1\]:[0-9]{1,5})"
# spec.md, Pulling manifests: <name> and <reference>.
_NAME = r"(?P<name>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
_REFERENCE = re.compile(
    rf"{_HOST}/{_NAME}(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)

Progress = Callable[[str, int, int], None]
"""Called with a digest, the bytes of it that are done and its size."""


class RegistryError(JewelhouseError):
    """A registry refuses, cannot be reached, or holds something else than it should."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an image is: `host[:port]`, repository, and a tag, a digest or both."""

    host: str
    name: str
    tag: str | None = None
    digest: str | None = None

    @property
    def local(self) -> bool:
        return urlsplit(f"//{self.host}").hostname in {"localhost", "127.0.0.1", "::1"}

    @property
    def base(self) -> str:
        """TLS everywhere but on this machine."""
        return f"{'http' if self.local else 'https'}://{self.host}/v2/{self.name}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """`sent` and `present`: digests of blobs that were sent, and that the registry had."""

    reference: str
    sent: tuple[str, ...]
    present: tuple[str, ...]


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


def push(
    layout: Path,
    to: str,
    *,
    progress: Progress = lambda digest, done, size: None,
    credentials: Credentials = docker_credentials,
    session: requests.Session | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Pushed:
    """Sends the image of an OCI layout and checks what is there.

    Blobs that the registry has are not sent again; the manifest goes last, so that a push that breaks off
    leaves no tag. Raises MalformedLayout before anything is sent, RegistryError afterwards.
    """
    target = place(to)
    image = oci.read(layout)
    if target.digest not in (None, image.manifest):
        raise RegistryError(f"the layout holds {image.manifest}", where=str(target))
    blobs = layout / "blobs" / "sha256"
    with _Client(target, credentials, session, pause) as client:
        sent, present = [], []
        config_size = (blobs / _hex(image.config)).stat().st_size
        for digest, size in dict.fromkeys([*image.layers, (image.config, config_size)]):
            if client.has(digest, size):
                present.append(digest)
                progress(digest, size, size)
            else:
                client.upload(blobs / _hex(digest), digest, size, progress)
                sent.append(digest)
        manifest = (blobs / _hex(image.manifest)).read_bytes()
        client.put_manifest(manifest, image.manifest, target.tag or image.manifest)
    where = Place(host=target.host, name=target.name, tag=target.tag, digest=image.manifest)
    verify(layout, str(where), credentials=credentials, session=session, pause=pause)
    return Pushed(
        reference=f"{target.host}/{target.name}@{image.manifest}", sent=tuple(sent), present=tuple(present)
    )


def verify(
    layout: Path,
    at: str,
    *,
    content: bool = False,
    credentials: Credentials = docker_credentials,
    session: requests.Session | None = None,
    pause: Callable[[float], None] = time.sleep,
    progress: Progress = lambda digest, done, size: None,
) -> None:
    """Compares what a registry holds with an OCI layout: manifest and configuration by their bytes, layers by
    digest and size, or with `content` by reading them.

    Raises RegistryError naming the first that is missing or another.
    """
    source = place(at)
    image = oci.read(layout)
    if source.tag is None and source.digest is None:
        source = Place(host=source.host, name=source.name, digest=image.manifest)
    if source.digest not in (None, image.manifest):
        raise RegistryError(f"the layout holds {image.manifest}", where=str(source))
    blobs = layout / "blobs" / "sha256"
    with _Client(source, credentials, session, pause) as client:
        # A tag is moved by whoever may push: what stands under it is looked at as well.
        for reference in filter(None, (source.tag, source.digest)):
            found = client.manifest(reference)
            if found != (blobs / _hex(image.manifest)).read_bytes():
                digest = f"sha256:{hashlib.sha256(found).hexdigest()}"
                raise RegistryError(
                    f"is {digest}, the layout is {image.manifest}",
                    where=f"{source.host}/{source.name}:{reference}",
                )
        config_size = (blobs / _hex(image.config)).stat().st_size
        client.check(image.config, config_size, progress)
        for digest, size in image.layers:
            if content:
                client.check(digest, size, progress)
            elif not client.has(digest, size):
                raise RegistryError(
                    "lacks a layer of the image", where=f"{source.host}/{source.name}@{digest}"
                )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


class _Client:
    """One repository. Every answer is limited in size, every body that is believed is hashed."""

    def __init__(
        self,
        place: Place,
        credentials: Credentials,
        session: requests.Session | None,
        pause: Callable[[float], None],
    ) -> None:
        self.place, self.pause = place, pause
        self.own = session is None
        self.session = session or requests.Session()
        # requests would read ~/.netrc and send what stands there to any host.
        self.session.trust_env = not place.local and session is None
        self.session.auth = _nothing
        self.login = Login(place.host, place.local, credentials, self.session)

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self.own:
            self.session.close()

    def ask(
        self,
        method: str,
        url: str,
        *,
        expect: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        stream: bool = False,
        push: bool = False,
    ) -> requests.Response:
        """`body` makes the body anew for each attempt. Raises RegistryError for any other status."""
        scope = f"repository:{self.place.name}:{'pull,push' if push else 'pull'}"
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                self.pause(2.0**attempt)
            try:
                answer = self.send(method, url, headers, body, stream, scope)
                if answer.status_code == 401 and self.login.answer(answer, scope):
                    answer.close()
                    answer = self.send(method, url, headers, body, stream, scope)
            except requests.exceptions.SSLError as error:
                raise RegistryError(
                    f"its certificate is not trusted: {_kind(error)}", where=self.where(url)
                ) from error
            except requests.RequestException as error:
                reason = f"cannot be reached: {_kind(error)}"
                continue
            if answer.status_code in expect:
                return answer
            reason = _reason(answer)
            answer.close()
            if answer.status_code not in AGAIN:
                break
        raise RegistryError(f"{method} {reason}", where=self.where(url), remedy=self.login.remedy())

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: Callable[[], Any] | None,
        stream: bool,
        scope: str,
    ) -> requests.Response:
        return self.session.request(
            method,
            url,
            headers={**(headers or {}), **self.login.headers(url, scope)},
            data=body() if body else None,
            timeout=(CONNECT, READ),
            stream=stream,
            # Blobs are often served from another host; requests drops Authorization on the way there.
            allow_redirects=method in ("GET", "HEAD"),
        )

    def where(self, url: str) -> str:
        """The address without its query, in which registries put signatures."""
        return urlunsplit((*urlsplit(url)[:3], "", ""))

    def blob(self, digest: str) -> str:
        return f"{self.place.base}/blobs/{digest}"

    def has(self, digest: str, size: int) -> bool:
        answer = self.ask(
            "HEAD", self.blob(digest), expect=(200, 404), headers={"Accept-Encoding": "identity"}
        )
        if answer.status_code == 404:
            return False
        stated = answer.headers.get("Content-Length")
        if stated is not None and stated != str(size):
            raise RegistryError(
                f"has {stated} bytes where there are {size}", where=f"{self.place.host}: {digest}"
            )
        named = answer.headers.get("Docker-Content-Digest")
        if named not in (None, digest):
            raise RegistryError(f"says it is {named}", where=f"{self.place.host}: {digest}")
        return True

    def upload(self, path: Path, digest: str, size: int, progress: Progress) -> None:
        """POST, then PUT of the whole, streamed. A session that is lost is begun again: what arrives is
        checked by the registry against the digest."""
        begun = self.ask("POST", f"{self.place.base}/blobs/uploads/", expect=(202,), push=True)
        session = self.location(begun)
        query = urlencode([*parse_qsl(urlsplit(session).query, keep_blank_values=True), ("digest", digest)])
        url = urlunsplit((*urlsplit(session)[:3], query, ""))
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        answer = self.ask(
            "PUT",
            url,
            expect=(201,),
            headers=headers,
            body=lambda: _Body(path, digest, size, progress),
            push=True,
        )
        named = answer.headers.get("Docker-Content-Digest")
        if named not in (None, digest):
            raise RegistryError(f"took {digest} for {named}", where=self.place.host)

    def location(self, answer: requests.Response) -> str:
        """Where an upload goes on. Another host is taken only over TLS, and gets no credentials."""
        url = urljoin(answer.url, answer.headers.get("Location", ""))
        parts = urlsplit(url)
        if not answer.headers.get("Location") or parts.scheme not in ("http", "https"):
            raise RegistryError("begins an upload without saying where", where=self.place.host)
        if parts.scheme == "http" and not (self.place.local and parts.netloc == self.place.host):
            raise RegistryError(f"wants the upload without TLS at {parts.netloc}", where=self.place.host)
        return url

    def put_manifest(self, data: bytes, digest: str, reference: str) -> None:
        answer = self.ask(
            "PUT",
            f"{self.place.base}/manifests/{reference}",
            expect=(201,),
            headers={"Content-Type": oci.MANIFEST},
            body=lambda: data,
            push=True,
        )
        named = answer.headers.get("Docker-Content-Digest")
        if named not in (None, digest):
            raise RegistryError(f"took the manifest {digest} for {named}", where=str(self.place))

    def manifest(self, reference: str) -> bytes:
        url = f"{self.place.base}/manifests/{reference}"
        answer = self.ask("GET", url, expect=(200,), headers={"Accept": oci.MANIFEST}, stream=True)
        with answer:
            data = bytearray()
            for part in answer.iter_content(64 * 1024):
                data += part
                if len(data) > oci.DOCUMENT_LIMIT:
                    raise RegistryError(f"has more than {oci.DOCUMENT_LIMIT} bytes", where=self.where(url))
        return bytes(data)

    def check(self, digest: str, size: int, progress: Progress) -> None:
        """Reads a blob and compares it with its digest; keeps nothing."""
        where = f"{self.place.host}/{self.place.name}@{digest}"
        answer = self.ask(
            "GET", self.blob(digest), expect=(200,), headers={"Accept-Encoding": "identity"}, stream=True
        )
        state, done = hashlib.sha256(), 0
        with answer:
            try:
                for part in answer.iter_content(1024 * 1024):
                    state.update(part)
                    done += len(part)
                    if done > size:
                        break
                    progress(digest, done, size)
            except requests.RequestException as error:
                raise RegistryError(f"breaks off after {done} of {size} bytes", where=where) from error
        if done != size:
            raise RegistryError(
                f"has {'more' if done > size else done} bytes where there are {size}", where=where
            )
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


def _kind(error: Exception) -> str:
    """The kind of an error; its text may hold an address with a signature."""
    cause = getattr(error, "args", ()) or ()
    inner = getattr(cause[0], "reason", None) if cause else None
    return type(inner or error).__name__


def _reason(answer: requests.Response) -> str:
    """What a registry says is wrong: the codes of the specification, never its free text."""
    try:
        data = (
            answer.raw.read(64 * 1024, decode_content=True)
            if answer.raw and not answer._content_consumed
            else answer.content
        )
        errors = json.loads(data).get("errors", [])
        codes = [code for one in errors if re.fullmatch(r"[A-Z_]{1,40}", code := str(one.get("code", "")))]
    except (ValueError, AttributeError, TypeError, OSError):
        codes = []
    said = f" ({', '.join(codes[:5])})" if codes else ""
    return f"was answered with {answer.status_code}{said}"
