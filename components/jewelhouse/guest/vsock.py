"""From a TCP port inside the enclave to a vsock port of its parent, bytes as they are."""

from __future__ import annotations

import contextlib
import socket
import threading

PARENT = 3
PIECE = 256 * 1024
# Connections at a time; the guest's own clients need a few.
MOST = 64
# Seconds; S3 answers range requests at once or not at all.
CONNECT, IDLE = 10, 120


class Relay:
    """Listens on an address of the enclave's loopback and leads each connection to the parent's `port`."""

    def __init__(self, address: str, listen: int, port: int, family: int | None = None) -> None:
        self._target = (PARENT, port)
        self._family = socket.AF_VSOCK if family is None else family
        self._free = threading.BoundedSemaphore(MOST)
        self._server = socket.create_server((address, listen), backlog=MOST)

    @property
    def address(self) -> tuple[str, int]:
        return self._server.getsockname()[:2]

    def start(self) -> None:
        """In a thread of its own, until the process ends or `close`."""
        threading.Thread(target=self._serve, name=f"relay-{self._target[1]}", daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._free.acquire()
                inside, _ = self._server.accept()
                threading.Thread(target=self._lead, args=(inside,), daemon=True).start()

    def _connect(self) -> socket.socket:
        outside = socket.socket(self._family, socket.SOCK_STREAM)
        outside.settimeout(CONNECT)
        outside.connect(self._target)
        return outside

    def _lead(self, inside: socket.socket) -> None:
        try:
            # A parent that does not answer is a closed connection to the client, which says so.
            with inside, contextlib.suppress(OSError), self._connect() as outside:
                for side in (inside, outside):
                    side.settimeout(IDLE)
                back = threading.Thread(target=_pump, args=(outside, inside), daemon=True)
                back.start()
                _pump(inside, outside)
                back.join()
        finally:
            self._free.release()


def _pump(source: socket.socket, destination: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE):
            destination.sendall(data)
    with contextlib.suppress(OSError):
        destination.shutdown(socket.SHUT_WR)
