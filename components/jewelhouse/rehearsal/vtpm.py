"""A confidential VM's vTPM without its hardware: swtpm, furnished as Azure's paravisor furnishes its own.

Attestation key at its handle, its certificate and the paravisor's report in their NV indices; the report is
bound to the key, and signed under a throw-away root. Needs `swtpm` (Debian: package swtpm).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import azure_cvm, hcl, tpm
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal.minting_claims import jwk_rsa
from jewelhouse.rehearsal.minting_sgx import certificate, rsa_key

PROGRAM = "swtpm"
NV_DEFINE, NV_WRITE, EVICT, EXTEND = 0x12A, 0x137, 0x120, 0x182
# TPMA_NV: ownerWrite, authWrite, ownerRead, authRead.
ATTRIBUTES = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
ATTESTING = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 18
VM = "6506B531-1634-431E-99D2-42B7D3414AD0"
# The firmware's first event (TCG EFI Protocol Specification, TCG_EfiSpecIDEvent), and no other.
EVENT_LOG = struct.pack("<II20sI", 0, 3, b"", 33) + b"Spec ID Event03\0".ljust(33, b"\0")
PATIENCE = 20


def available() -> bool:
    return shutil.which(PROGRAM) is not None


class Vtpm:
    """`path` is the socket of the TPM, `event_log` the file with the log of the boot.

    report: from 64 bytes of report data to the hardware's report. kind: its type in the paravisor's report (2
    SEV-SNP, 4 TDX). other_key: the report is bound to another VM's attestation key. A context manager.

    Raises JewelhouseError where swtpm is not installed.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[bytes], bytes],
        *,
        kind: int = 2,
        secure_boot: bool = True,
        other_key: bool = False,
        claims: Mapping[str, Any] | None = None,
    ) -> None:
        if not available():
            raise JewelhouseError(
                "is not installed, and stands in for the vTPM of a confidential VM",
                where=PROGRAM,
                remedy="apt install swtpm",
            )
        self.path, self.event_log = folder / "tpm", folder / "event-log"
        self.report, self.kind, self.secure_boot = report, kind, secure_boot
        self.other_key, self.claims = other_key, claims or {}
        self.event_log.write_bytes(EVENT_LOG)
        self._state = folder / "tpm-state"
        self._state.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                PROGRAM,
                "socket",
                "--tpm2",
                "--tpmstate",
                f"dir={self._state}",
                "--server",
                f"type=unixio,path={self.path}",
                "--flags",
                "not-need-init,startup-clear",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._await()
            with tpm.opened(self.path) as call:
                self._furnish(call)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)

    def _await(self) -> None:
        until = time.monotonic() + PATIENCE
        while not self._listens():
            if time.monotonic() > until or (self._process is not None and self._process.poll() is not None):
                raise JewelhouseError("does not start", where=PROGRAM)
            time.sleep(0.01)

    def _listens(self) -> bool:
        """The socket is there a moment before it takes connections."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.path)) == 0

    def _furnish(self, call: tpm.Call) -> None:
        numbers = attestation_key(call)
        public = rsa.RSAPublicNumbers(numbers[1], numbers[0]).public_key()
        bound = rsa_key("another vm").public_key() if self.other_key else public
        issuer = rsa_key("azure vtpm ca")
        named = certificate("vTPM", public, "throw-away vTPM CA", issuer, ca=False)
        store(call, azure_cvm.CERTIFICATE, named.public_bytes(serialization.Encoding.DER))
        store(call, azure_cvm.REPORT, self.paravisor(bound))
        for index in azure_cvm.PCRS:
            extend(call, index, hashlib.sha256(f"boot of register {index}".encode()).digest())

    def paravisor(self, key: rsa.RSAPublicKey) -> bytes:
        """The paravisor's report, bound to an attestation key."""
        runtime = json.dumps(
            {
                "keys": [jwk_rsa(key, kid=hcl.ATTESTATION_KEY, key_ops=["sign"])],
                "vm-configuration": {
                    "console-enabled": True,
                    "secure-boot": self.secure_boot,
                    "tpm-enabled": True,
                    "vmUniqueId": VM,
                },
                "user-data": "00" * 64,
                **self.claims,
            }
        ).encode()
        report = self.report(hashlib.sha256(runtime).digest().ljust(64, b"\0"))
        size = hcl.RUNTIME.size + len(runtime)
        header = hcl.HEADER.pack(hcl.SIGNATURE, 2, hcl.ROOM + size, 2, 0, b"")
        return (
            header
            + report.ljust(hcl.ROOM, b"\0")
            + hcl.RUNTIME.pack(size, 1, self.kind, hcl.SHA256, len(runtime))
            + runtime
        )


def attestation_key(call: tpm.Call) -> tuple[int, int]:
    """Makes the attestation key, where Azure has it, and returns its numbers."""
    template = struct.pack(">HHI", tpm.ALG_RSA, tpm.SHA256, ATTESTING) + tpm.sized(b"")
    template += struct.pack(">HHHHI", tpm.ALG_NULL, tpm.RSASSA, tpm.SHA256, tpm.BITS, 0) + tpm.sized(b"")
    body = tpm.sized(tpm.sized(b"") * 2) + tpm.sized(template) + tpm.sized(b"") + bytes(4)
    reply = tpm.execute(call, tpm.CREATE_PRIMARY, (tpm.OWNER,), body, auth=(tpm.PASSWORD,))
    handle = reply.number(4)
    reply.take(4)
    public = reply.sized()
    where = azure_cvm.ATTESTATION_KEY.to_bytes(4, "big")
    tpm.execute(call, EVICT, (tpm.OWNER, handle), where, auth=(tpm.PASSWORD,))
    tpm.execute(call, tpm.FLUSH_CONTEXT, body=handle.to_bytes(4, "big"))
    return tpm.numbers(public)


def store(call: tpm.Call, index: int, data: bytes) -> None:
    """Defines an NV index of the right size and writes it."""
    public = struct.pack(">IHI", index, tpm.SHA256, ATTRIBUTES) + tpm.sized(b"")
    public += len(data).to_bytes(2, "big")
    tpm.execute(call, NV_DEFINE, (tpm.OWNER,), tpm.sized(b"") + tpm.sized(public), auth=(tpm.PASSWORD,))
    for at in range(0, len(data), tpm.CHUNK):
        body = tpm.sized(data[at : at + tpm.CHUNK]) + at.to_bytes(2, "big")
        tpm.execute(call, NV_WRITE, (tpm.OWNER, index), body, auth=(tpm.PASSWORD,))


def extend(call: tpm.Call, index: int, digest: bytes) -> None:
    body = struct.pack(">IH", 1, tpm.SHA256) + digest
    tpm.execute(call, EXTEND, (index,), body, auth=(tpm.PASSWORD,))


def quoted(statement: bytes) -> tuple[bytes, bytes]:
    """What a quote says: the selection of registers as it stands there, and the digest of their values."""
    reader = attested(statement, tpm.ATTEST_QUOTE)
    start = reader.take(4)
    count = int.from_bytes(start, "big")
    for _ in range(count):
        head = reader.take(3)
        start += head + reader.take(head[2])
    return start, reader.sized()


def certified(statement: bytes) -> bytes:
    """The name of the key that a certification is about."""
    return attested(statement, tpm.ATTEST_CERTIFY).sized()


def qualifying(statement: bytes) -> bytes:
    """What a quote answers: the data that it was asked with."""
    reader = tpm.Reader(statement, "TPMS_ATTEST")
    reader.take(4 + 2)
    reader.sized()
    return reader.sized()


def attested(statement: bytes, kind: int) -> tpm.Reader:
    """What follows the common part of a TPMS_ATTEST. Raises Closed for another one."""
    reader = tpm.Reader(statement, "TPMS_ATTEST")
    if (reader.number(4), reader.number(2)) != (tpm.GENERATED, kind):
        raise Closed("is no statement of a TPM of this type", where="TPMS_ATTEST")
    reader.sized()
    reader.sized()
    reader.take(17 + 8)
    return reader


def name(public: bytes) -> bytes:
    """The name of an object with SHA-256 (part 1, Names)."""
    return tpm.SHA256.to_bytes(2, "big") + hashlib.sha256(public).digest()


def policy(public: bytes) -> bytes:
    """The authorization policy of a TPMT_PUBLIC."""
    reader = tpm.Reader(public, "TPMT_PUBLIC")
    reader.take(8)
    return reader.sized()
