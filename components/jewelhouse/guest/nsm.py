"""The Nitro security module: attestation documents, by its device inside an enclave.

aws/aws-nitro-enclaves-nsm-api: src/api/mod.rs (requests and replies in CBOR); linux drivers/misc/nsm.c.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cbor2

from jewelhouse.guest.init import nsm_call
from jewelhouse.guest.opening import Closed

DEVICE = Path("/dev/nsm")
# Largest fields of a request (aws-nitro-enclaves-nsm-api: src/api/mod.rs).
LIMITS: Mapping[str, int] = {"public_key": 1024, "nonce": 512, "user_data": 512}
REPLY = 16 * 1024
TIMEOUT = 10

Call = Callable[[bytes], bytes]


@contextmanager
def module(stand_in: str | None = None):
    """How to call the module: its device, or for a rehearsal a Unix socket that takes one request a
    connection. Raises Closed where there is none."""
    if stand_in is not None:
        yield lambda request: _by_socket(stand_in, request)
        return
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Closed(
            f"cannot be opened: {error.strerror}", where=str(DEVICE), remedy="run inside a Nitro Enclave"
        ) from error
    try:
        yield lambda request: nsm_call(device, request)
    finally:
        os.close(device)


def _by_socket(path: str, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        reply = b""
        while len(reply) <= REPLY and (piece := connection.recv(65536)):
            reply += piece
        return reply


def document(call: Call, *, public_key: bytes, nonce: bytes, user_data: bytes) -> bytes:
    """An attestation document over these fields. Raises Closed for any other answer of the module."""
    fields = {"public_key": public_key, "nonce": nonce, "user_data": user_data}
    for name, value in fields.items():
        if len(value) > LIMITS[name]:
            raise ValueError(f"{name} has {len(value)} bytes, the module takes {LIMITS[name]}")
    try:
        reply = call(cbor2.dumps({"Attestation": fields}))
    except OSError as error:
        raise Closed(f"does not answer: {error.strerror or error}", where="Nitro security module") from error
    found = _reply(reply).get("Attestation")
    data = found.get("document") if isinstance(found, dict) else None
    if not isinstance(data, bytes) or not data:
        raise Closed("answered without a document", where="Nitro security module")
    return data


def _reply(data: bytes) -> dict[str, Any]:
    if len(data) > REPLY:
        raise Closed(f"answered more than {REPLY} bytes", where="Nitro security module")
    try:
        found = cbor2.loads(data)
    except (cbor2.CBORError, ValueError, RecursionError, OverflowError, MemoryError) as error:
        raise Closed("answered something that is no CBOR", where="Nitro security module") from error
    if isinstance(found, dict) and isinstance(found.get("Error"), str):
        raise Closed(f"refused: {found['Error'][:80]!r}", where="Nitro security module")
    if not isinstance(found, dict):
        raise Closed("answered something else", where="Nitro security module")
    return found
