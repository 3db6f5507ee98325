"""The Nitro security module of an enclave: registers, attestation documents, random numbers.

One request and one reply in CBOR over an ioctl of /dev/nsm (linux drivers/misc/nsm.c, include/uapi/linux/
nsm.h); the messages are those of aws/aws-nitro-enclaves-nsm-api: src/api/mod.rs (2026-10). A rehearsal has
the same messages over a Unix socket, each with its length in four bytes before it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cbor2

from jewelhouse.evidence.nitro_document import LIMIT, decoded
from jewelhouse.evidence.verdict import MalformedEvidence
from jewelhouse.guest import init
from jewelhouse.guest.opening import Closed

DEVICE = "/dev/nsm"
# drivers/misc/nsm.c: NSM_REQUEST_MAX_SIZE, NSM_RESPONSE_MAX_SIZE
REQUEST, REPLY = 0x1000, 0x3000
LENGTH = struct.Struct(">I")
TIMEOUT = 30
WHERE = "Nitro security module"
# src/api/mod.rs, ErrorCode; anything else is no reply of a module.
CODES = (
    "Success",
    "InvalidArgument",
    "InvalidIndex",
    "InvalidResponse",
    "ReadOnlyIndex",
    "InvalidOperation",
    "BufferTooSmall",
    "InputTooLarge",
    "InternalError",
)
DIGEST_SIZES = (32, 48, 64)

# One request in CBOR to its reply in CBOR.
Call = Callable[[bytes], bytes]


@dataclass(frozen=True, kw_only=True)
class Register:
    """A PCR. `locked`: nothing extends it any more."""

    value: bytes
    locked: bool


@contextlib.contextmanager
def module(stand_in: str | None = None) -> Iterator[Call]:
    """The module of this enclave, or a rehearsal's at a Unix socket. Raises Closed where there is none."""
    if stand_in is not None:
        yield lambda request: _over_socket(stand_in, request)
        return
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Closed(
            f"cannot be opened: {error.strerror}",
            where=DEVICE,
            remedy="this stage runs inside a Nitro Enclave, with the module nsm in its first ramdisk",
        ) from error
    try:
        yield lambda request: _over_device(device, request)
    finally:
        os.close(device)


def describe(call: Call, index: int) -> Register:
    """The value of a register. Raises Closed."""
    body = _asked(call, "DescribePCR", {"index": index}, {"lock": bool, "data": bytes})
    if len(body["data"]) not in DIGEST_SIZES:
        raise Closed(f"PCR{index} has {len(body['data'])} bytes", where=WHERE)
    return Register(value=body["data"], locked=body["lock"])


def attestation(
    call: Call,
    *,
    public_key: bytes | None = None,
    nonce: bytes | None = None,
    user_data: bytes | None = None,
) -> bytes:
    """A fresh attestation document that carries these. Raises Closed."""
    asked = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
    document = _asked(call, "Attestation", asked, {"document": bytes})["document"]
    if not 0 < len(document) <= LIMIT:
        raise Closed(f"its document has {len(document)} bytes", where=WHERE)
    return document


def random(call: Call) -> bytes:
    """Random bytes of the hardware, as many as it gives at once (256). Raises Closed."""
    found = _asked(call, "GetRandom", None, {"random": bytes})["random"]
    if len(found) < 32:
        raise Closed(f"gave {len(found)} random bytes", where=WHERE)
    return found


def seed(call: Call, pool: str = "/dev/urandom") -> None:
    """Mixes the hardware's random numbers into the kernel's: an enclave starts without a seed, and keys are
    made soon after. What is written to the pool can only add to it (random(4))."""
    try:
        with open(pool, "wb") as file:
            file.write(random(call))
    except OSError as error:
        raise Closed(f"cannot be seeded: {error.strerror}", where=pool) from error


def _asked(call: Call, name: str, body: Any, fields: Mapping[str, type]) -> dict[str, Any]:
    """The body of a reply to one request, with exactly these fields."""
    request = cbor2.dumps(name if body is None else {name: body})
    if len(request) > REQUEST:
        raise Closed(f"a request of {len(request)} bytes is too long", where=WHERE)
    try:
        reply = decoded(call(request), "reply")
    except MalformedEvidence as error:
        raise Closed(f"{name}: its reply {error.what}", where=WHERE) from error
    except OSError as error:
        raise Closed(f"{name}: does not answer: {error.strerror or error}", where=WHERE) from error
    if isinstance(reply, dict) and reply.keys() == {"Error"} and reply["Error"] in CODES:
        raise Closed(f"{name}: refused with {reply['Error']}", where=WHERE)
    inside = reply.get(name) if isinstance(reply, dict) and reply.keys() == {name} else None
    if (
        not isinstance(inside, dict)
        or inside.keys() != fields.keys()
        or any(type(inside[field]) is not kind for field, kind in fields.items())
    ):
        raise Closed(f"{name}: its reply is of another form", where=WHERE)
    return inside


def _over_device(device: int, request: bytes) -> bytes:
    return init.nsm_call(device, request)


def _over_socket(path: str, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(TIMEOUT)
        peer.connect(path)
        peer.sendall(LENGTH.pack(len(request)) + request)
        (length,) = LENGTH.unpack(_exactly(peer, LENGTH.size))
        if length > REPLY:
            raise OSError(f"a reply of {length} bytes")
        return _exactly(peer, length)


def _exactly(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = peer.recv(length - len(data))
        if not piece:
            raise OSError("the reply ends early")
        data += piece
    return data
