"""A confidential container group without its hardware: the device that gives reports, and the files that the
utility machine puts beside a container.

Reports are signed under a throw-away root. Names of the files:
microsoft/hcsshim: pkg/securitypolicy, 2026-11.
"""

from __future__ import annotations

import base64
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from jewelhouse.guest.azure_container import REPORT_AT, REQUEST, RESPONSE
from jewelhouse.rehearsal.minting_snp import Machine, report, thim

MEASUREMENT = bytes(range(48))
POLICY, DEBUG_POLICY = 0x3001F, 0xB001F
# COSE_Sign1 with ES384 (RFC 9052), as Microsoft's statements about utility machines are.
SIGN1, ES384 = 18, {1: -35}
CLAIM = "x-ms-sevsnpvm-launchmeasurement"


@cache
def statement_key() -> ec.EllipticCurvePrivateKey:
    """Whose statements about utility machines are believed in a rehearsal."""
    return ec.generate_private_key(ec.SECP384R1())


def statement(measurement: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """That a utility machine of this launch measurement is one of the platform's own."""
    header, payload = cbor2.dumps(ES384), cbor2.dumps({CLAIM: measurement.hex()})
    r, s = decode_dss_signature(
        (key or statement_key()).sign(_signed(header, payload), ec.ECDSA(hashes.SHA384()))
    )
    return cbor2.dumps(cbor2.CBORTag(SIGN1, [header, {}, payload, r.to_bytes(48) + s.to_bytes(48)]))


def stated(data: bytes) -> str | None:
    """The measurement of a statement, if it is one and signed by the right key."""
    try:
        found = cbor2.loads(data)
        header, _, payload, signature = found.value
        pair = encode_dss_signature(int.from_bytes(signature[:48]), int.from_bytes(signature[48:]))
        statement_key().public_key().verify(pair, _signed(header, payload), ec.ECDSA(hashes.SHA384()))
        return str(cbor2.loads(payload)[CLAIM])
    except (InvalidSignature, cbor2.CBORDecodeError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _signed(header: bytes, payload: bytes) -> bytes:
    return cbor2.dumps(["Signature1", header, b"", payload])


class SnpGuest:
    """`path` is the socket in place of the device, `context` the folder with the files.

    changed: fields of the report. signer: who signs it instead of the machine. replay: a report that is given
    out instead of a fresh one. A context manager.
    """

    def __init__(
        self,
        machine: Machine,
        folder: Path,
        *,
        host_data: bytes,
        debug: bool = False,
        signer: ec.EllipticCurvePrivateKey | None = None,
        endorsement: bytes | None = None,
        replay: bytes | None = None,
        **changed: Any,
    ) -> None:
        self.machine, self.path, self.context = machine, folder / "sev-guest", folder / "security-context"
        self.signer, self.replay = signer, replay
        self.fields = {
            "host_data": host_data,
            "measurement": MEASUREMENT,
            "policy": DEBUG_POLICY if debug else POLICY,
            **changed,
        }
        self.context.mkdir()
        self.thim = thim(*machine.chain)
        for name, content in (
            ("host-amd-cert-base64", self.thim),
            ("reference-info-base64", endorsement or statement(self.fields["measurement"])),
            ("security-policy-base64", b"package policy"),
        ):
            (self.context / name).write_bytes(base64.b64encode(content))
        self._server = _Server(str(self.path), _protocol(self.report))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def report(self, data: bytes) -> bytes:
        """A report over 64 bytes."""
        if self.replay is not None:
            return self.replay
        return report(self.machine, signer=self.signer, **{"report_data": data, **self.fields})


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def _protocol(made: Callable[[bytes], bytes]) -> type[socketserver.StreamRequestHandler]:
    class Protocol(socketserver.StreamRequestHandler):
        timeout = 30

        def handle(self) -> None:
            assert isinstance(self.connection, socket.socket)
            asked = self.rfile.read(REQUEST)
            if len(asked) == REQUEST:
                found = made(asked[:64])
                head = struct.pack("<II", 0, len(found)).ljust(REPORT_AT, b"\0")
                self.wfile.write((head + found).ljust(RESPONSE, b"\0"))

    return Protocol
