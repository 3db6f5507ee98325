"""A loopback service in a thread, plain or under TLS, and the throw-away authority for its certificate."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

LOOPBACK = "127.0.0.1"
LARGEST = 1024 * 1024
LIFE = timedelta(days=1)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request. `target`: path and query as they were sent; headers by lower-case names."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """The last value of each parameter."""
        found = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[-1] for name, values in found.items()}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One reply. `cut`: the connection ends after so many bytes of the body, as when a service dies; below 0
    it ends without a word."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


def answer(body: Any, status: int = 200, **others: Any) -> Answer:
    """A reply in JSON."""
    return Answer(status=status, body=json.dumps(body).encode(), **others)


Handler = Callable[[Asked], Answer]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A certificate's key and chain, as files that TLS is set up from."""

    key: bytes = field(repr=False)
    chain: bytes


@dataclass(frozen=True)
class Authority:
    """A throw-away certificate authority; nothing but a rehearsal's own clients is told to trust it."""

    name: str = "jewelhouse rehearsal"

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    @cached_property
    def certificate(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)])
        return (
            _builder(name, name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def identity(
        self, hosts: Sequence[str] = ("localhost", LOOPBACK), key: PrivateKey | None = None
    ) -> Identity:
        """A certificate for names and addresses, and its key: a new one, or that which is given."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0][:64])])
        own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        certificate = (
            _builder(subject, self.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return Identity(
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            chain=certificate.public_bytes(serialization.Encoding.PEM) + self.pem,
        )


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFE)
    )


def _usage(**given: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    names += ("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{**dict.fromkeys(names, False), **given})


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Service:
    """A loopback server for one handler, each connection in a thread of its own.

    `identity` puts it under TLS, `path` on a Unix socket. Used as a context manager: `url` is its address
    while it runs, and at the end all its connections are cut. A handler that raises is an error of the
    rehearsal and is raised at the end; the client sees status 500.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        identity: Identity | None = None,
        port: int = 0,
        path: Path | None = None,
    ) -> None:
        self._server = (
            _UnixServer(str(path), _protocol(handler))
            if path
            else _Server((LOOPBACK, port), _protocol(handler))
        )
        self._scheme = "http"
        if identity is not None:
            self._server.socket = _tls(identity).wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"{self._scheme}://{LOOPBACK}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in list(self._server.connections):
            # Another end that went away already has closed it.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._server.failures and kind is None:
            raise ExceptionGroup("a stand-in failed", self._server.failures)


class Standing:
    """What stands in for a service: it runs as long as its context does, at `url`."""

    _service: Service

    @property
    def url(self) -> str:
        return self._service.url

    @property
    def port(self) -> int:
        return self._service.port

    def __enter__(self) -> Self:
        self._service.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._service.__exit__(*error)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Connections that clients keep open must not hold the end of a rehearsal up.
    block_on_close = False

    def __init__(self, address: Any, protocol: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, protocol)
        self.connections: set[socket.socket] = set()
        self.failures: list[Exception] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not like the certificate, is no error of the service."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.failures.append(error)


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        # The one of HTTP looks the host's name up.
        socketserver.TCPServer.server_bind(self)


def _tls(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The library loads a key from files only.
    with tempfile.TemporaryDirectory(prefix="jewelhouse-") as directory:
        key, chain = Path(directory, "key.pem"), Path(directory, "chain.pem")
        key.touch(mode=0o600)
        key.write_bytes(identity.key)
        chain.write_bytes(identity.chain)
        context.load_cert_chain(chain, key)
    return context


def _protocol(handler: Handler) -> type[BaseHTTPRequestHandler]:
    class Protocol(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def setup(self) -> None:
            super().setup()
            # Or a body waits for the acknowledgement of its headers, which clients take their time for.
            if self.connection.family != socket.AF_UNIX:
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            self._own.connections.add(self.connection)

        def finish(self) -> None:
            self._own.connections.discard(self.connection)
            super().finish()

        @property
        def _own(self) -> _Server:
            assert isinstance(self.server, _Server)
            return self.server

        def _any(self) -> None:
            length = self.headers.get("Content-Length", "0")
            if not length.isdigit() or int(length) > LARGEST:
                self._send(Answer(status=413))
                return
            asked = Asked(
                method=self.command,
                target=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(int(length)),
            )
            try:
                reply = handler(asked)
            except Exception as error:
                self._own.failures.append(error)
                reply = Answer(status=500)
            self._send(reply)

        def _send(self, reply: Answer) -> None:
            if reply.cut is not None and reply.cut < 0:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Type": reply.kind, **reply.headers}.items():
                self.send_header(name, value)
            # What HEAD is told is the length of what GET would get.
            if "Content-Length" not in reply.headers:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body[: reply.cut])
            if reply.cut is not None:
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _any

        def log_message(self, format: str, *args: Any) -> None:
            """Services keep a log of decisions, not of lines."""

    return Protocol
