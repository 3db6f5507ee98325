"""The line between a machine without network and the stand-ins: many connections, and nothing but those."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.rehearsal import channel
from jewelhouse.rehearsal.channel import CHUNK, DATA, END, HEAD, OPEN, BrokenChannel, Channel


def echo(listener):
    """Answers each connection with what it sent, once it has said that this was all."""
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(peer,), daemon=True).start()


def answer(peer):
    with peer:
        data = b""
        while piece := peer.recv(CHUNK):
            data += piece
        peer.sendall(data[::-1])


@pytest.fixture
def ends():
    """Both ends of a line: the machine's, and the host's with one service called echo."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        threading.Thread(target=echo, args=(service,), daemon=True).start()

        def connect(name):
            if name != "echo":
                raise ConnectionRefusedError(name)
            return socket.create_connection(service.getsockname())

        inside, outside = socket.socketpair()
        with inside, outside:
            host = Channel(outside.recv, outside.sendall, connect)
            machine = Channel(inside.recv, inside.sendall)
            for one in (host, machine):
                threading.Thread(target=one.run, daemon=True).start()
            yield machine, inside
            for one in (inside, outside):
                one.shutdown(socket.SHUT_RDWR)


def asked(machine, service, data):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channel.listen(machine, service, listener)
        with socket.create_connection(listener.getsockname(), timeout=20) as peer:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            found = b""
            while piece := peer.recv(CHUNK):
                found += piece
            return found


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * 1024 * 1024 + 7])
def test_what_goes_in_comes_out_whole_and_in_order(ends, size):
    data = os.urandom(size)
    assert asked(ends[0], "echo", data) == data[::-1]


def test_many_connections_at_once_do_not_mix(ends):
    sent = [os.urandom(200_000 + number) for number in range(12)]
    with ThreadPoolExecutor(len(sent)) as pool:
        found = list(pool.map(lambda data: asked(ends[0], "echo", data), sent))
    assert found == [data[::-1] for data in sent]


@pytest.mark.parametrize("service", ["", "nobody", "echo2", "127.0.0.1:22", "x" * 500])
def test_a_service_that_the_host_does_not_name_is_a_closed_connection(ends, service):
    assert asked(ends[0], service, b"let me out") == b""
    assert asked(ends[0], "echo", b"still there") == b"ereht llits"


def run(data, connect=None):
    """What an end does with these bytes, and what it answers."""
    said = []
    rest = [data]

    def read(most):
        piece, rest[0] = rest[0][:most], rest[0][most:]
        return piece

    Channel(read, said.append, connect).run()
    return said


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(HEAD.pack(1, DATA, CHUNK + 1), id="frame-that-would-fill-the-memory"),
        pytest.param(HEAD.pack(1, OPEN, 4) + b"echo", id="connection-that-the-host-opens-into-the-machine"),
        pytest.param(HEAD.pack(1, 9, 0), id="unknown-kind"),
        pytest.param(HEAD.pack(1, DATA, 5)[:4], id="line-that-ends-within-a-head"),
    ],
)
def test_what_is_no_frame_ends_the_line(data):
    with pytest.raises(BrokenChannel):
        run(data)


def test_bytes_for_a_connection_that_is_gone_are_nobodys():
    assert run(HEAD.pack(7, DATA, 3) + b"abc" + HEAD.pack(7, END, 0)) == []


def whole(data):
    """Whether bytes are frames that may come for connections which are not there."""
    while data:
        if len(data) < 9 or data[4] not in (1, 2):
            return False
        length = int.from_bytes(data[5:9], "big")
        if length > 65536 or len(data) < 9 + length:
            return False
        data = data[9 + length :]
    return True


FRAMES = st.lists(
    st.builds(
        lambda number, kind, data: (
            number.to_bytes(4, "big") + bytes([kind]) + len(data).to_bytes(4, "big") + data
        ),
        st.integers(0, 9),
        st.sampled_from([0, 1, 2, 2, 3]),
        st.binary(max_size=9),
    ),
    max_size=4,
).map(b"".join)


@given(data=FRAMES | st.binary(max_size=40), cut=st.integers(0, 12))
@settings(max_examples=80, deadline=None)
def test_any_bytes_are_whole_frames_or_end_the_line(data, cut):
    data = data[: max(len(data) - cut, 0)]
    try:
        run(data)
    except BrokenChannel:
        assert not whole(data)
    else:
        assert whole(data)
