"""A registry on loopback, in memory, by github.com/opencontainers/distribution-spec: spec.md v1.1.1.

It keeps what is sent, checks digests as the specification asks, and does on demand what bad registries do.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NAME = r"(?P<name>[a-z0-9._/-]+?)"
ROUTES = (
    ("root", re.compile(r"/v2/")),
    ("uploads", re.compile(rf"/v2/{NAME}/blobs/uploads/")),
    ("upload", re.compile(rf"/v2/{NAME}/blobs/uploads/(?P<session>[0-9]+)")),
    ("blob", re.compile(rf"/v2/{NAME}/blobs/(?P<digest>sha256:[0-9a-f]{{64}})")),
    ("manifest", re.compile(rf"/v2/{NAME}/manifests/(?P<reference>[A-Za-z0-9._:-]+)")),
    ("tags", re.compile(rf"/v2/{NAME}/tags/list")),
    ("token", re.compile(r"/token")),
)


@dataclass
class Registry:
    """`users`: who may do anything, nobody being asked where it is None; `scheme`: how they log in.
    `failures`: status codes to answer with first, by method and route. `before`: looked at on each request,
    whatever it returns is answered instead."""

    users: dict[str, str] | None = None
    scheme: str = "bearer"
    failures: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    before: Callable[[str, str, BaseHTTPRequestHandler], bool] | None = None
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    sessions: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    host: str = ""

    def tags(self, name: str) -> list[str]:
        return sorted(key for owner, key in self.manifests if owner == name and not key.startswith("sha256:"))


@contextmanager
def serving(registry: Registry, *, certificate: Path | None = None) -> Iterator[Registry]:
    """On a free port of loopback until the block ends; over TLS with a `certificate` and its key."""

    class Handler(_Handler):
        state = registry

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Registry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, ssl.SSLError):
            self.close_connection = True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        # The free text is what a registry likes to put requests into.
        message = f"you sent {self.headers.get('Authorization')}"
        self.answer(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), **headers)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def serve(self) -> None:
        parts = urlsplit(self.path)
        kind, found = next(
            ((kind, match) for kind, route in ROUTES if (match := route.fullmatch(parts.path))), ("", None)
        )
        self.state.log.append(f"{self.command} {kind}")
        self.state.headers.append(dict(self.headers.items()))
        if self.state.before and self.state.before(self.command, kind, self):
            return
        if waiting := self.state.failures.get((self.command, kind)):
            self.body()
            return self.refuse(waiting.pop(0), "TOOMANYREQUESTS", Retry_After="1")
        if found is None:
            self.body()
            return self.refuse(404, "NAME_UNKNOWN")
        if kind != "token" and not self.known():
            self.body()
            return self.refuse(401, "UNAUTHORIZED", WWW_Authenticate=self.challenge(found))
        getattr(self, f"on_{kind}")(found, parse_qs(parts.query))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = serve

    def known(self) -> bool:
        if self.state.users is None:
            return True
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if self.state.scheme == "bearer":
            return scheme == "Bearer" and value in self.state.tokens
        return scheme == "Basic" and self.person(value)

    def person(self, value: str) -> bool:
        user, _, password = base64.b64decode(value).decode().partition(":")
        return (self.state.users or {}).get(user) == password

    def challenge(self, found: re.Match[str]) -> str:
        if self.state.scheme == "basic":
            return 'Basic realm="registry"'
        scope = f',scope="repository:{found["name"]}:pull"' if "name" in found.groupdict() else ""
        return f'Bearer realm="http://{self.state.host}/token",service="stand-in"{scope}'

    def on_token(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
        form = parse_qs(self.body().decode())
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        refresh = form.get("refresh_token", [""])[0]
        if (
            not (scheme == "Basic" and self.person(value))
            and (self.state.users or {}).get("<token>") != refresh
        ):
            return self.refuse(401, "UNAUTHORIZED")
        token = f"token-{len(self.state.tokens)}"
        self.state.tokens.add(token)
        self.answer(200, json.dumps({"token": token, "expires_in": 60}).encode())

    def on_root(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
        self.answer(200, b"{}")

    def on_tags(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
        tags = self.state.tags(found["name"])
        self.answer(200, json.dumps({"name": found["name"], "tags": tags}).encode())

    def on_blob(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
        data = self.state.blobs.get((found["name"], found["digest"]))
        if data is None:
            return self.refuse(404, "BLOB_UNKNOWN")
        self.answer(200, data, Docker_Content_Digest=found["digest"])

    def on_uploads(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
        self.body()
        session = str(len(self.state.sessions) + 1)
        self.state.sessions[session] = b""
        # A query of the registry's own must survive until the last request of the upload.
        self.answer(202, Location=f"/v2/{found['name']}/blobs/uploads/{session}?state=kept")

    def on_upload(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
        data = self.body()
        if found["session"] not in self.state.sessions or query.get("state") != ["kept"]:
            return self.refuse(404, "BLOB_UPLOAD_UNKNOWN")
        whole = self.state.sessions[found["session"]] + data
        if self.command == "PATCH":
            self.state.sessions[found["session"]] = whole
            place = f"/v2/{found['name']}/blobs/uploads/{found['session']}?state=kept"
            return self.answer(202, Location=place, Range=f"0-{len(whole) - 1}")
        digest = query.get("digest", [""])[0]
        if digest != f"sha256:{hashlib.sha256(whole).hexdigest()}":
            return self.refuse(400, "DIGEST_INVALID")
        del self.state.sessions[found["session"]]
        self.state.blobs[found["name"], digest] = whole
        place = f"/v2/{found['name']}/blobs/{digest}"
        self.answer(201, Location=place, Docker_Content_Digest=digest)

    def on_manifest(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
        name, reference = found["name"], found["reference"]
        if self.command != "PUT":
            kept = self.state.manifests.get((name, reference))
            if kept is None:
                return self.refuse(404, "MANIFEST_UNKNOWN")
            digest = f"sha256:{hashlib.sha256(kept[1]).hexdigest()}"
            return self.answer(200, kept[1], Content_Type=kept[0], Docker_Content_Digest=digest)
        data = self.body()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        manifest = json.loads(data)
        wanted = [manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
        if any((name, one) not in self.state.blobs for one in wanted):
            return self.refuse(400, "MANIFEST_BLOB_UNKNOWN")
        if reference.startswith("sha256:") and reference != digest:
            return self.refuse(400, "DIGEST_INVALID")
        for key in {reference, digest}:
            self.state.manifests[name, key] = (self.headers["Content-Type"], data)
        self.answer(201, Location=f"/v2/{name}/manifests/{digest}", Docker_Content_Digest=digest)
