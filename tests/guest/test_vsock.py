"""The way out of an enclave: names, relays and their limits; what the relays carry is in test_nitro."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import boto3
import pytest
from aws_rehearsed import closed, stage
from botocore.config import Config

from jewelhouse import templates
from jewelhouse.aws import userdata
from jewelhouse.guest import vsock, where
from jewelhouse.guest.settings import Opens, Seals


def opens(*stores: str) -> dict[str, Opens]:
    return {f"a{number}": Opens(key="k", store=store) for number, store in enumerate(stores)}


@pytest.mark.parametrize("region", ["eu-central-1", "us-east-1", "cn-north-1", "us-gov-west-1"])
def test_every_way_leads_to_a_proxy_of_the_parent(region):
    """What the guest connects to and what its parent is set up with are two programs: here they meet."""
    ways = {way.vsock: way for way in vsock.routes(stage(region=region))}
    for proxy in userdata.proxies(region):
        way = ways.pop(proxy.vsock_port)
        assert way.port == proxy.port
        assert proxy.host in (*way.names, userdata.METADATA_SERVICE)
    assert not ways
    assert where.PORT == userdata.STAGE_PORT


def test_the_parents_proxies_serve_as_many_connections_as_the_relays_let_through():
    unit = templates.render("aws/units/jewelhouse-proxy@.service.j2")
    assert f"--num_workers {vsock.CONNECTIONS} " in unit


@pytest.mark.parametrize("region", ["eu-central-1", "us-east-1", "cn-north-1", "us-gov-west-1"])
def test_names_are_those_that_the_client_asks_for(region, monkeypatch):
    monkeypatch.setenv("AWS_S3_US_EAST_1_REGIONAL_ENDPOINT", "regional")
    session = boto3.Session("AKIATEST", "secret", region_name=region)
    asked: list[str] = []

    def ask(request, **_):
        asked.append(request.url.split("/")[2])
        raise InterruptedError

    for service, call in (
        ("kms", lambda client: client.list_keys()),
        ("s3", lambda client: client.get_object(Bucket="base-bucket", Key="k")),
        ("s3", lambda client: client.get_object(Bucket="base.with.dots", Key="k")),
    ):
        client = session.client(service, config=Config(retries={"total_max_attempts": 1}))
        client.meta.events.register("before-send", ask)
        with pytest.raises(InterruptedError):
            call(client)
    ways = vsock.routes(stage(region=region, opens=opens("s3://base-bucket/v1", "s3://base.with.dots")))
    assert set(asked) <= {name for way in ways for name in way.names}


def test_each_address_answers_for_one_service():
    ways = vsock.routes(stage(seals={"adapter": Seals(store="s3://adapter-bucket")}))
    assert len({way.address for way in ways}) == len(ways)
    assert all(way.address.startswith("127.0.0.") for way in ways)
    (s3,) = [way for way in ways if way.vsock == vsock.S3]
    assert "adapter-bucket.s3.eu-central-1.amazonaws.com" in s3.names


@pytest.mark.parametrize(
    ("attack", "change", "says"),
    [
        ("a line break in a bucket", {"opens": opens("s3://b\n127.0.0.9 x")}, "is no bucket"),
        ("a space in a bucket", {"opens": opens("s3://b b")}, "is no bucket"),
        ("no bucket at all", {"opens": opens("s3://")}, "is no bucket"),
        ("a port in a bucket", {"opens": opens("s3://bucket:1")}, "is no bucket"),
        ("a name for a region", {"region": "evil.example"}, "is no region"),
        ("a line break in a region", {"region": "eu-central-1\n"}, "is no region"),
        ("no region", {"region": None}, "names no region"),
    ],
)
def test_settings_of_the_host_name_nothing_else(attack, change, says):
    assert says in closed(lambda: vsock.routes(stage(**change)))


def test_names_are_written_once(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost")
    for _ in range(2):
        vsock.name(vsock.routes(stage()), hosts)
    assert hosts.read_text().splitlines() == [
        "127.0.0.1 localhost",
        "::1 localhost",
        "127.0.0.2 kms.eu-central-1.amazonaws.com",
        "127.0.0.3 s3.eu-central-1.amazonaws.com",
        "127.0.0.3 base-bucket.s3.eu-central-1.amazonaws.com",
    ]


def test_names_where_there_were_none(tmp_path):
    vsock.name(vsock.routes(stage()), tmp_path / "hosts")
    assert (tmp_path / "hosts").read_text().startswith("127.0.0.1 localhost\n127.0.0.2 kms.")


def test_names_that_cannot_be_written(tmp_path):
    assert "cannot be written" in closed(lambda: vsock.name([], tmp_path / "no" / "hosts"))


def test_all_is_set_up_before_a_key_is_asked_for(monkeypatch, tmp_path):
    """As in an enclave, but for the ports, which take a right, and vsock, which takes a parent."""
    relays: list[tuple[tuple[str, int], Callable[[], socket.socket]]] = []
    reached: list[tuple[int, int]] = []

    class Recorded:
        def __init__(self, address: tuple[str, int], target: Callable[[], socket.socket]) -> None:
            relays.append((address, target))

        def start(self) -> Recorded:
            return self

    class Peer:
        def __init__(self, family: int, kind: int) -> None:
            assert (family, kind) == (socket.AF_VSOCK, socket.SOCK_STREAM)

        def settimeout(self, seconds: float) -> None:
            assert 0 < seconds <= 30

        def connect(self, address: tuple[int, int]) -> None:
            reached.append(address)

    for name in (
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AWS_DEFAULT_REGION",
        "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
    ):
        monkeypatch.setenv(name, "what was there before")
    monkeypatch.setattr(vsock, "Relay", Recorded)
    vsock.connect(stage(), tmp_path / "hosts")
    monkeypatch.setattr(socket, "socket", Peer)
    for _, target in relays:
        target()
    assert [address for address, _ in relays] == [("127.0.0.2", 443), ("127.0.0.3", 443), ("127.0.0.4", 80)]
    # The parent, and the ports that its proxies listen on.
    assert reached == [(3, 8000), (3, 8001), (3, 8002)]
    assert os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] == "http://127.0.0.4:80"
    assert os.environ["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert os.environ["AWS_S3_US_EAST_1_REGIONAL_ENDPOINT"] == "regional"
    assert "kms.eu-central-1.amazonaws.com" in (tmp_path / "hosts").read_text()


@contextmanager
def service(answer) -> Iterator[tuple[str, int]]:
    """Something behind the relay: `answer` has each connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=run, args=(peer,), daemon=True).start()

    def run(peer: socket.socket) -> None:
        with peer:
            answer(peer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def relay(target: tuple[str, int]) -> Iterator[vsock.Relay]:
    made = vsock.Relay(("127.0.0.1", 0), lambda: socket.create_connection(target, 5)).start()
    try:
        yield made
    finally:
        made.close()


def everything(peer: socket.socket) -> bytes:
    data = b""
    while piece := peer.recv(65536):
        data += piece
    return data


def echo(peer: socket.socket) -> None:
    """Answers when the client has said all that it has to say."""
    peer.sendall(everything(peer)[::-1])


@pytest.mark.parametrize("size", [0, 1, vsock.CHUNK, 3 * vsock.CHUNK + 1])
def test_bytes_arrive_whole_both_ways_and_ends_are_handed_on(size):
    sent = bytes(index % 251 for index in range(size))
    with service(echo) as target, relay(target) as here, socket.create_connection(here.address, 5) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == sent[::-1]


def test_many_connections_at_once():
    sent = [f"{number:03}".encode() for number in range(40)]
    with service(echo) as target, relay(target) as here:
        clients = [socket.create_connection(here.address, 5) for _ in sent]
        for client, data in zip(clients, sent, strict=True):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        assert [everything(client) for client in clients] == [data[::-1] for data in sent]
        for client in clients:
            client.close()


def test_connections_over_the_limit_wait_for_their_turn(monkeypatch):
    monkeypatch.setattr(vsock, "CONNECTIONS", 2)
    running: list[int] = []
    most: list[int] = []

    def answer(peer: socket.socket) -> None:
        running.append(1)
        most.append(len(running))
        data = everything(peer)
        time.sleep(0.05)
        running.pop()
        peer.sendall(data)

    with service(answer) as target, relay(target) as here:
        clients = [socket.create_connection(here.address, 5) for _ in range(6)]
        for client in clients:
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
        assert [everything(client) for client in clients] == [b"x"] * 6
        for client in clients:
            client.close()
    assert max(most) <= 2


def test_a_parent_without_a_proxy_ends_the_connection():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = taken.getsockname()
    with relay(nowhere) as here, socket.create_connection(here.address, 5) as client:
        assert ended(client)


def test_a_service_that_goes_away_ends_the_connection():
    with (
        service(lambda peer: peer.recv(1)) as target,
        relay(target) as here,
        socket.create_connection(here.address, 5) as client,
    ):
        client.sendall(b"hello")
        assert ended(client)


def test_a_silent_connection_is_given_up(monkeypatch):
    monkeypatch.setattr(vsock, "IDLE", 0.2)
    with (
        service(lambda peer: time.sleep(5)) as target,
        relay(target) as here,
        socket.create_connection(here.address, 5) as client,
    ):
        began = time.monotonic()
        assert ended(client)
        assert time.monotonic() - began < 4


def test_a_long_download_is_not_silent(monkeypatch):
    """The client says nothing for longer than IDLE while it is being served."""
    monkeypatch.setattr(vsock, "IDLE", 0.3)

    def slowly(peer: socket.socket) -> None:
        for _ in range(9):
            peer.sendall(b"piece")
            time.sleep(0.1)

    with (
        service(slowly) as target,
        relay(target) as here,
        socket.create_connection(here.address, 5) as client,
    ):
        assert everything(client) == b"piece" * 9


def test_closing_ends_everything():
    with service(echo) as target, relay(target) as here, socket.create_connection(here.address, 5) as client:
        client.sendall(b"x")
        time.sleep(0.05)
        address = here.address
        here.close()
        assert ended(client)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 1)


def test_an_address_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot be listened on" in closed(lambda: vsock.Relay(taken.getsockname(), socket.socket))


def ended(client: socket.socket) -> bool:
    """Whether the other side is gone, by an end or a reset."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True
