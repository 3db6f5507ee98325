"""The way out of an enclave: connections to local addresses, led to the parent's proxies over vsock.

An enclave has no network. The names of the few hosts that it needs stand in /etc/hosts with addresses of the
loopback interface, a relay listens there and hands bytes on to the parent, whose `vsock-proxy` leads each
port to one host (components/jewelhouse/aws/userdata.py). The relay sees what the parent sees: TLS is between
the client in here, with the host's real name and certificate, and the service.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from jewelhouse.guest import kms
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Stage

PARENT = 3
KMS, S3, IMDS = 8000, 8001, 8002
HOSTS = Path("/etc/hosts")
# docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
CONNECTIONS = 64
CONNECT = 10
# A connection over which nothing comes for so long is given up; the services close theirs earlier.
IDLE = 300
CHUNK = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Route:
    """Names, and the local address and port where they are answered, and the parent's port they lead to."""

    names: tuple[str, ...]
    address: str
    port: int
    vsock: int


def routes(stage: Stage) -> tuple[Route, ...]:
    """All that a stage reaches. Buckets have names of their own under S3's, all behind one proxy.

    Raises Closed for a region or a bucket that can be none.
    """
    region = kms.region_of(stage)
    if not REGION.fullmatch(region):
        raise Closed(f"{ascii(region)[:80]} is no region", where="stage.region")
    # As the parent's proxies are set up: China has a domain of its own.
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    s3 = f"s3.{region}.{suffix}"
    urls = [one.store for one in (*stage.opens.values(), *stage.seals.values())]
    buckets = sorted({urlsplit(url).netloc for url in urls if url.startswith("s3://")})
    for bucket in buckets:
        if not BUCKET.fullmatch(bucket):
            raise Closed(f"{ascii(bucket)[:80]} is no bucket", where="stage")
    return (
        Route(names=(f"kms.{region}.{suffix}",), address="127.0.0.2", port=443, vsock=KMS),
        Route(names=(s3, *(f"{bucket}.{s3}" for bucket in buckets)), address="127.0.0.3", port=443, vsock=S3),
        Route(names=(), address="127.0.0.4", port=80, vsock=IMDS),
    )


def connect(stage: Stage, hosts: Path = HOSTS) -> list[Relay]:
    """Starts the relays of a stage and has the clients in this process find them.

    Raises Closed when an address cannot be listened on or names cannot be written down.
    """
    ways = routes(stage)
    name(ways, hosts)
    relays = [Relay((one.address, one.port), lambda port=one.vsock: _parent(port)).start() for one in ways]
    metadata = next(one for one in ways if one.vsock == IMDS)
    # boto's, and fsspec's S3, whose sessions are its own. The workload gets none of them.
    os.environ[kms.METADATA] = f"http://{metadata.address}:{metadata.port}"
    os.environ["AWS_DEFAULT_REGION"] = kms.region_of(stage)
    os.environ["AWS_S3_US_EAST_1_REGIONAL_ENDPOINT"] = "regional"
    return relays


def name(ways: Sequence[Route], hosts: Path = HOSTS) -> None:
    """Writes the names down, beside those that are there. Raises Closed."""
    lines = [f"{way.address} {name}" for way in ways for name in way.names]
    try:
        before = hosts.read_text(encoding="ascii") if hosts.exists() else "127.0.0.1 localhost\n"
        known = set(before.splitlines())
        missing = "".join(f"{line}\n" for line in lines if line not in known)
        hosts.write_text(before.rstrip("\n") + "\n" + missing, encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Closed(f"cannot be written: {error}", where=str(hosts)) from error


def _parent(port: int) -> socket.socket:
    peer = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        peer.settimeout(CONNECT)
        peer.connect((PARENT, port))
    except OSError:
        peer.close()
        raise
    return peer


class Relay:
    """Listens on a local address and leads each connection to where `target` connects to.

    At most CONNECTIONS at a time: more wait in the listener's queue. Either side that ends, fails or is
    silent for IDLE seconds ends its connection, and the client sees that.
    """

    def __init__(self, address: tuple[str, int], target: Callable[[], socket.socket]) -> None:
        self._target = target
        self._free = threading.Semaphore(CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = False
        try:
            self._listener = socket.create_server(address, backlog=socket.SOMAXCONN)
        except OSError as error:
            raise Closed(
                f"cannot be listened on: {error.strerror}", where=f"{address[0]}:{address[1]}"
            ) from error

    @property
    def address(self) -> tuple[str, int]:
        return self._listener.getsockname()[:2]

    def start(self) -> Self:
        threading.Thread(target=self._serve, name="relay", daemon=True).start()
        return self

    def close(self) -> None:
        """Ends the relay and all its connections."""
        self._closing = True
        # Wakes the thread that waits for connections; closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                _end(one)

    def _serve(self) -> None:
        while not self._closing:
            self._free.acquire()
            try:
                client, _ = self._listener.accept()
            except OSError:
                self._free.release()
                # Closed, no file descriptors left, or a client that was gone before it was taken.
                time.sleep(0.05)
                continue
            threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        try:
            with client:
                try:
                    service = self._target()
                except OSError:
                    # The parent has no proxy there; the client sees its connection closed, and says so.
                    return
                with service:
                    self._between(client, service)
        finally:
            self._free.release()

    def _between(self, client: socket.socket, service: socket.socket) -> None:
        pair = {client, service}
        with self._lock:
            self._open |= pair
        clock = Clock()
        try:
            for one in pair:
                one.settimeout(IDLE)
            back = threading.Thread(target=_pump, args=(service, client, clock), daemon=True)
            back.start()
            _pump(client, service, clock)
            back.join()
        finally:
            with self._lock:
                self._open -= pair


class Clock:
    """When bytes last went either way: a download is silent in one direction for long."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def tick(self) -> None:
        self._last = time.monotonic()

    @property
    def silent(self) -> bool:
        return time.monotonic() - self._last >= IDLE


def _pump(source: socket.socket, destination: socket.socket, clock: Clock) -> None:
    """Hands bytes on until the source has no more; then says so to the other side."""
    buffer = memoryview(bytearray(CHUNK))
    try:
        while True:
            try:
                length = source.recv_into(buffer)
            except TimeoutError:
                if clock.silent:
                    raise
                continue
            if not length:
                break
            clock.tick()
            destination.sendall(buffer[:length])
        destination.shutdown(socket.SHUT_WR)
    except OSError:
        # One side is gone or silent: the other has nobody to talk to.
        _end(source)
        _end(destination)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
