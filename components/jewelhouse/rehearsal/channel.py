"""Many connections over one line of bytes: how a machine without any network reaches the stand-ins.

The same file works at both ends, so it needs the standard library and nothing else: on the host it is
imported; in the machine `before` starts it, and the line is a port of virtio-serial. A frame is the number of
a connection, what happens to it, the length of what follows, and that: the name of a service for one that
opens, bytes for one that goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

HEAD = struct.Struct(">IBI")
OPEN, DATA, END = range(3)
# Most bytes that a frame may have; a longer one is no frame of this channel.
CHUNK = 64 * 1024
# The port of the machine that the line ends at, by its name.
PORT = "jewelhouse.rehearsal"
PORTS = Path("/sys/class/virtio-ports")

# Connects to a service by its name; raises OSError where there is none.
Connect = Callable[[str], socket.socket]


class BrokenChannel(OSError):
    """The other end sent what is no frame."""


class Channel:
    """One end of the line. `read` returns some bytes, at most as many as asked for, and none at the end;
    `write` takes all it is given. `connect` leads where connections go that the other end opens."""

    def __init__(
        self, read: Callable[[int], bytes], write: Callable[[bytes], object], connect: Connect | None = None
    ) -> None:
        self._read, self._write, self._connect = read, write, connect
        self._lock = threading.Lock()
        self._open: dict[int, queue.SimpleQueue[bytes]] = {}
        self._next = 0

    def lead(self, service: str, peer: socket.socket) -> None:
        """Opens a connection at the other end and leads this one there; returns when it has ended."""
        with self._lock:
            self._next += 1
            number = self._next
            incoming = self._open[number] = queue.SimpleQueue()
        self._send(number, OPEN, service.encode())
        self._between(number, peer, incoming)

    def run(self) -> None:
        """Takes what the other end sends until the line ends. Raises BrokenChannel."""
        while head := self._exactly(HEAD.size):
            number, kind, length = HEAD.unpack(head)
            if length > CHUNK:
                raise BrokenChannel(f"a frame of {length} bytes")
            data = self._exactly(length)
            if kind == OPEN and self._connect is not None:
                incoming = self._open[number] = queue.SimpleQueue()
                threading.Thread(target=self._lead_on, args=(number, data, incoming), daemon=True).start()
            elif kind in (DATA, END):
                # What comes for a connection that has ended meanwhile is nobody's.
                if number in self._open:
                    self._open[number].put(data if kind == DATA else b"")
            else:
                raise BrokenChannel(f"a frame of kind {kind}")

    def _lead_on(self, number: int, service: bytes, incoming: queue.SimpleQueue[bytes]) -> None:
        assert self._connect is not None
        try:
            peer = self._connect(service.decode("utf-8", "replace"))
        except OSError:
            self._send(number, END)
            self._open.pop(number, None)
            return
        self._between(number, peer, incoming)

    def _between(self, number: int, peer: socket.socket, incoming: queue.SimpleQueue[bytes]) -> None:
        with peer:
            back = threading.Thread(target=_hand_over, args=(incoming, peer), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := peer.recv(CHUNK):
                    self._send(number, DATA, data)
            self._send(number, END)
            back.join()
        self._open.pop(number, None)

    def _send(self, number: int, kind: int, data: bytes = b"") -> None:
        # A line that is gone is told by the end of what it reads.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._write(HEAD.pack(number, kind, len(data)) + data)

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._read(length - len(data))
            if not piece:
                if data:
                    raise BrokenChannel("the line ends within a frame")
                return b""
            data += piece
        return data


def _hand_over(incoming: queue.SimpleQueue[bytes], peer: socket.socket) -> None:
    """Gives a connection what came for it, and its end; one that takes no more is emptied all the same."""
    gone = False
    while data := incoming.get():
        if not gone:
            try:
                peer.sendall(data)
            except OSError:
                gone = True
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_WR)


def listen(channel: Channel, service: str, listener: socket.socket) -> None:
    """Leads every connection to a listening socket to a service at the other end, in threads."""

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=channel.lead, args=(service, peer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def main(file: str) -> None:
    """In the machine: listens where the file of services says, then leaves a process of its own behind."""
    services: Mapping[str, str] = json.loads(Path(file).read_text(encoding="utf-8"))
    (port,) = [one for one in PORTS.iterdir() if (one / "name").read_text().strip() == PORT]
    line = os.open(f"/dev/{port.name}", os.O_RDWR | os.O_CLOEXEC)
    listening = {name: _listener(where) for name, where in services.items()}
    if os.fork():
        return
    channel = Channel(lambda most: os.read(line, most), lambda data: _all(line, data))
    for name, listener in listening.items():
        listen(channel, name, listener)
    channel.run()


def _listener(where: str) -> socket.socket:
    """A listening socket at ADDRESS:PORT or at the path of a Unix socket."""
    if where.startswith("/"):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(where)
        made.listen()
        return made
    address, _, number = where.rpartition(":")
    return socket.create_server((address, int(number)))


def _all(line: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(line, view) :]


if __name__ == "__main__":
    main(sys.argv[1])
