"""The security module: its requests are its own, its replies are read strictly, whoever gives them."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.guest import nsm
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal.minting_nitro import Authority, debug_registers, registers
from jewelhouse.rehearsal.nsm import Nsm

AUTHORITY = Authority.new()
RANDOM = {"GetRandom": {"random": b"r" * 256}}


def saying(reply: Any) -> nsm.Call:
    return lambda request: reply if isinstance(reply, bytes) else cbor2.dumps(reply)


def recorded(reply: Any, requests: list[Any]) -> nsm.Call:
    def call(request: bytes) -> bytes:
        requests.append(cbor2.loads(request))
        return cbor2.dumps(reply)

    return call


@pytest.mark.parametrize(
    ("ask", "request_", "reply", "found"),
    [
        (
            lambda call: nsm.describe(call, 4),
            {"DescribePCR": {"index": 4}},
            {"DescribePCR": {"lock": True, "data": b"x" * 48}},
            nsm.Register(value=b"x" * 48, locked=True),
        ),
        (
            lambda call: nsm.attestation(call, public_key=b"k", nonce=b"n"),
            {"Attestation": {"public_key": b"k", "nonce": b"n", "user_data": None}},
            {"Attestation": {"document": b"signed"}},
            b"signed",
        ),
        # A request without parameters is its bare name.
        (nsm.random, "GetRandom", RANDOM, b"r" * 256),
    ],
)
def test_requests_and_replies_are_the_modules_own(ask, request_, reply, found):
    requests: list[Any] = []
    assert ask(recorded(reply, requests)) == found
    assert requests == [request_]


@pytest.mark.parametrize(
    ("wrong", "reply", "says"),
    [
        ("an error", {"Error": "InputTooLarge"}, "refused with InputTooLarge"),
        ("an error nobody knows", {"Error": "Fine"}, "of another form"),
        (
            "an error beside a reply",
            {"Error": "Success", **RANDOM},
            "another form",
        ),
        ("a reply to another request", {"Attestation": {"document": b"x"}}, "another form"),
        ("text for bytes", {"GetRandom": {"random": "r" * 256}}, "another form"),
        ("numbers for bytes", {"GetRandom": {"random": [1] * 256}}, "another form"),
        ("a field too many", {"GetRandom": {"random": b"r" * 256, "more": 1}}, "another form"),
        ("a field too few", {"GetRandom": {}}, "another form"),
        ("hardly any random bytes", {"GetRandom": {"random": b"r"}}, "gave 1 random bytes"),
        ("a list", ["GetRandom"], "another form"),
        ("nothing", b"", "no CBOR|is not CBOR"),
        (
            "bytes behind the end",
            cbor2.dumps(RANDOM) + b"\0",
            "behind its end",
        ),
        ("a tag", cbor2.CBORTag(30, [1, 2]), "is not CBOR"),
    ],
)
def test_other_replies_are_refused(wrong, reply, says):
    with pytest.raises(Closed, match=says):
        nsm.random(saying(reply))


@pytest.mark.parametrize(
    ("wrong", "ask", "reply"),
    [
        ("lock is a number", lambda c: nsm.describe(c, 0), {"DescribePCR": {"lock": 1, "data": b"x" * 48}}),
        ("a short register", lambda c: nsm.describe(c, 0), {"DescribePCR": {"lock": True, "data": b"x"}}),
        ("an empty document", nsm.attestation, {"Attestation": {"document": b""}}),
        ("an endless document", nsm.attestation, {"Attestation": {"document": bytes(100_000)}}),
    ],
)
def test_values_out_of_bounds_are_refused(wrong, ask, reply):
    with pytest.raises(Closed):
        ask(saying(reply))


def test_a_request_that_the_module_would_cut_is_not_sent():
    with pytest.raises(Closed, match="is too long"):
        nsm.attestation(saying({}), user_data=bytes(5000))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_from_outside_are_refused_in_words(data):
    for ask in (nsm.random, nsm.attestation, lambda call: nsm.describe(call, 0)):
        with pytest.raises(Closed):
            ask(saying(data))


NAMES = st.sampled_from(["Error", "GetRandom", "random", "data", "lock", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=60) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Error", "GetRandom", "random", "data", "lock", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_any_value_is_a_reply_or_refused_in_words(value):
    try:
        found = nsm.random(saying(value))
    except Closed:
        return
    assert value == {"GetRandom": {"random": found}}


def test_random_numbers_go_into_the_kernels_pool(tmp_path):
    pool = tmp_path / "pool"
    nsm.seed(saying(RANDOM), str(pool))
    assert pool.read_bytes() == b"r" * 256
    with pytest.raises(Closed, match="cannot be seeded"):
        nsm.seed(saying(RANDOM), str(tmp_path / "no" / "pool"))


def test_the_device_is_asked_as_the_kernel_has_it(monkeypatch, tmp_path):
    """`struct nsm_raw` of include/uapi/linux/nsm.h: address and length of request, then of the reply."""
    device = tmp_path / "nsm"
    device.write_bytes(b"")
    monkeypatch.setattr(nsm, "DEVICE", str(device))
    calls: list[tuple[int, bytes]] = []

    def ioctl(file: int, number: int, message: bytearray, mutate: bool) -> int:
        asked, length, reply, room = struct.unpack("QQQQ", message)
        calls.append((number, ctypes.string_at(asked, length)))
        answer = cbor2.dumps({"DescribePCR": {"lock": False, "data": b"z" * 48}})
        assert room >= 0x3000
        ctypes.memmove(reply, answer, len(answer))
        message[:] = struct.pack("QQQQ", asked, length, reply, len(answer))
        return 0

    monkeypatch.setattr("jewelhouse.guest.init.fcntl.ioctl", ioctl)
    with nsm.module() as call:
        assert nsm.describe(call, 17) == nsm.Register(value=b"z" * 48, locked=False)
    # _IOWR(0x0A, 0, 32 bytes)
    assert calls == [((3 << 30) | (32 << 16) | (0x0A << 8), cbor2.dumps({"DescribePCR": {"index": 17}}))]


def test_a_device_that_fails_is_said_so(monkeypatch, tmp_path):
    device = tmp_path / "nsm"
    device.write_bytes(b"")
    monkeypatch.setattr(nsm, "DEVICE", str(device))
    # A plain file takes no such call.
    with nsm.module() as call, pytest.raises(Closed, match="GetRandom: does not answer"):
        nsm.random(call)


@pytest.mark.parametrize("debug", [False, True])
def test_the_stand_in_reports_the_registers_of_its_image(tmp_path, debug):
    with Nsm(AUTHORITY, tmp_path / "nsm", debug=debug) as here, nsm.module(str(here.path)) as call:
        found = {index: nsm.describe(call, index).value for index in range(16)}
        with pytest.raises(Closed, match="InvalidIndex"):
            nsm.describe(call, 40)
        assert len(nsm.random(call)) == 256
    assert found == registers() | (debug_registers() if debug else {})


def _serving(path: str, reply: bytes) -> Callable[[], None]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        peer, _ = listener.accept()
        with peer, listener:
            peer.recv(4096)
            peer.sendall(reply)

    return serve


@pytest.mark.parametrize(
    ("wrong", "reply"),
    [
        ("a length and nothing more", nsm.LENGTH.pack(100)),
        ("half a length", b"\0\0"),
        ("an endless reply", nsm.LENGTH.pack(2**31)),
        ("less than it says", nsm.LENGTH.pack(10) + b"\xa0"),
    ],
)
def test_a_socket_that_breaks_off_is_said_so(tmp_path, wrong, reply):
    path = str(tmp_path / "nsm")
    thread = threading.Thread(target=_serving(path, reply))
    thread.start()
    with nsm.module(path) as call, pytest.raises(Closed, match="does not answer"):
        nsm.random(call)
    thread.join()
