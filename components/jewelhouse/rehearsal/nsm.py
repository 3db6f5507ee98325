"""A stand-in for the Nitro security module, behind a Unix socket, and for the one behind a NitroTPM.

The messages are the module's own (aws/aws-nitro-enclaves-nsm-api: src/api/mod.rs, 2026-10); its documents
are signed under a throw-away root.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import cbor2

from jewelhouse.evidence.verdict import Kind
from jewelhouse.guest.nsm import LENGTH, REQUEST
from jewelhouse.rehearsal.minting_nitro import Authority, debug_registers, registers

# src/api/mod.rs: fields of a request for attestation, and the most bytes each may have (nsm-lib/src/lib.rs).
CARRIED = {"user_data": 512, "nonce": 512, "public_key": 1024}
RANDOM = 256


class Nsm:
    """One machine's module, with the registers of its image. Used as a context manager; `path` is its socket.

    pcrs: registers by index, over those of some production image. debug: as an enclave in debug mode reports
    them. at: the time that documents carry. replay: a document that is given out instead of a fresh one.
    """

    def __init__(
        self,
        authority: Authority,
        path: Path,
        *,
        pcrs: Mapping[int, bytes] | None = None,
        kind: Kind = Kind.NITRO_ENCLAVE,
        debug: bool = False,
        at: Callable[[], datetime] = lambda: datetime.now(UTC),
        replay: bytes | None = None,
    ) -> None:
        self.authority, self.path, self.kind, self.at, self.replay = authority, path, kind, at, replay
        self.pcrs = {**registers(kind), **(pcrs or {}), **(debug_registers() if debug else {})}
        self.documents: list[bytes] = []
        self._server = _Server(str(path), _protocol(self.answer))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def answer(self, request: bytes) -> bytes:
        """The reply to one request, both in CBOR."""
        asked = cbor2.loads(request)
        if asked == "GetRandom":
            return cbor2.dumps({"GetRandom": {"random": os.urandom(RANDOM)}})
        name, body = next(iter(asked.items())) if isinstance(asked, dict) and len(asked) == 1 else ("", {})
        if name == "DescribePCR":
            value = self.pcrs.get(body["index"])
            if value is None:
                return cbor2.dumps({"Error": "InvalidIndex"})
            return cbor2.dumps({name: {"lock": body["index"] < 16, "data": value}})
        if name == "Attestation":
            return self._attest(body)
        return cbor2.dumps({"Error": "InvalidOperation"})

    def _attest(self, body: Mapping[str, Any]) -> bytes:
        if body.keys() != CARRIED.keys():
            return cbor2.dumps({"Error": "InvalidArgument"})
        if any(body[field] is not None and len(body[field]) > most for field, most in CARRIED.items()):
            return cbor2.dumps({"Error": "InputTooLarge"})
        document = self.replay or self.authority.document(
            self.pcrs,
            self.kind,
            indefinite=True,
            timestamp=int(self.at().timestamp() * 1000),
            **body,
        )
        self.documents.append(document)
        return cbor2.dumps({"Attestation": {"document": document}})


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def _protocol(answer: Callable[[bytes], bytes]) -> type[socketserver.StreamRequestHandler]:
    class Protocol(socketserver.StreamRequestHandler):
        timeout = 30

        def handle(self) -> None:
            assert isinstance(self.connection, socket.socket)
            (length,) = LENGTH.unpack(self.rfile.read(LENGTH.size))
            if length > REQUEST:
                return
            reply = answer(self.rfile.read(length))
            self.wfile.write(LENGTH.pack(len(reply)) + reply)

    return Protocol
