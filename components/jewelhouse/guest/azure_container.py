"""Releases in a confidential container group on Azure, by the guest itself, without a sidecar.

Microsoft's sidecar hands the released key out over HTTP to every container of the group, in the clear. Here a
group has one container, whose measured policy is `hostdata`, and so the guest does what the sidecar does: the
processor's report on a key of this run, a token for it, the release to it.
Sources, 2026-11: microsoft/confidential-sidecar-containers: pkg/attest, pkg/common/info.go;
microsoft/hcsshim: internal/guest/spec (every container under a policy gets the device), pkg/securitypolicy
(the files).
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.evidence import snp_report, tokens
from jewelhouse.evidence.verdict import Kind, MalformedEvidence
from jewelhouse.guest import azure_web, maa
from jewelhouse.guest.opening import Asked, Closed, Opened, Opener
from jewelhouse.guest.settings import Endpoints, Stage
from jewelhouse.guest.vault import Vaults

KID = "skr-key"
BITS, NONCE = 2048, 32
CONTEXT = "UVM_SECURITY_CONTEXT_DIR"
FILE_LIMIT = 1024 * 1024
DEVICES = (Path("/dev/sev-guest"), Path("/dev/sev"))
# include/uapi/linux/sev-guest.h: SNP_GET_REPORT; and of the 5.x driver SEV_SNP_GUEST_MSG_REPORT.
GET_REPORT, OLD_GET_REPORT = 0xC0205300, 0xC0285301
# struct snp_guest_request_ioctl; the 5.x driver's struct with types and lengths of both messages.
CALL = struct.Struct("<B7xQQQ")
OLD_CALL = struct.Struct("<BBBxH2xQH6xQI4x")
REPORT_REQUEST, REPORT_RESPONSE = 5, 6
# MSG_REPORT_REQ and MSG_REPORT_RSP: publication 56860, tables of the same names; the driver's room for them.
REQUEST, RESPONSE, ROOM, REPORT_AT = 96, 1280, 4000, 32
_OAEP_SHA1 = padding.OAEP(mgf=padding.MGF1(algorithm=hashes.SHA1()), algorithm=hashes.SHA1(), label=None)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the utility machine puts beside a container: certificates of its processor with their TCB, and
    Microsoft's signed statement about the machine's own image."""

    certificates: bytes
    tcb: str
    endorsement: bytes


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens keys by reports of this container group. Raises Closed for settings that lead nowhere."""
    authority = maa.authority(stage)
    vaults = Vaults(stage, endpoints)

    def opened(asked: Asked) -> Opened:
        key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
        public = key.public_key().public_numbers()
        nonce = secrets.token_hex(NONCE)
        runtime = json.dumps(
            {"keys": [maa.jwk((public.n, public.e), KID)], "nonce": nonce, "record": asked.bound.hex()},
            separators=(",", ":"),
        ).encode()
        token = maa.attest(endpoints, authority, maa.SNP, request(endpoints, runtime))
        seen = maa.check(
            token.encode(),
            maa.Asked(authority=authority, kind="sevsnpvm", key=(public.n, public.e), nonce=nonce),
        )
        dek = vaults.release(asked, token, lambda wrapped: key.decrypt(wrapped, _OAEP_SHA1), seen, KID)
        return Opened(dek=dek, kind=Kind.MAA.value, evidence=token.encode())

    return opened


def request(endpoints: Endpoints, runtime: bytes) -> dict[str, Any]:
    """The request for a token: the report whose data are the digest of `runtime`, and what endorses it.

    Raises Closed.
    """
    found = report(endpoints, hashlib.sha256(runtime).digest().ljust(64, b"\0"))
    around = context()
    chain = _chain(endpoints, found, around)
    endorsements = json.dumps({"Uvm": [_padded(around.endorsement)]}).encode()
    proof = {
        "SnpReport": _padded(found),
        "VcekCertChain": _padded(chain),
        "Endorsements": _padded(endorsements),
    }
    return {
        "report": _padded(json.dumps(proof).encode()),
        "runtimeData": {"data": _padded(runtime), "dataType": "JSON"},
    }


def _padded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _chain(endpoints: Endpoints, found: bytes, around: Context) -> bytes:
    """Certificates for the firmware that the report names: after an update of the host those in the files
    are of the one before."""
    try:
        tcb = snp_report.parse(found).reported_tcb[::-1].hex()
    except MalformedEvidence as error:
        raise Closed(f"{error.where} {error.what}".strip(), where="SEV-SNP report") from error
    if around.tcb.lower() == tcb:
        return around.certificates
    fresh = azure_web.metadata(endpoints, "GET", "/metadata/THIM/amd/certification")
    if str(fresh.get("tcbm", "")).lower() != tcb:
        raise Closed(
            f"gives certificates for TCB {tokens.shown(fresh.get('tcbm'))}, the report names {tcb}",
            where="THIM",
            remedy="the host's firmware was just updated: start the group again",
        )
    return azure_web.certificates(fresh)


def context() -> Context:
    """The files of the security context. Raises Closed where they are not."""
    named = os.environ.get(CONTEXT)
    if not named:
        raise Closed(
            f"{CONTEXT} is not set",
            where="environment",
            remedy="run in a container group of SKU Confidential",
        )
    thim = _file(Path(named, "host-amd-cert-base64"))
    try:
        answer = tokens.json_object(thim, "host-amd-cert-base64")
    except MalformedEvidence as error:
        raise Closed(error.what, where=error.where) from error
    return Context(
        certificates=azure_web.certificates(answer),
        tcb=str(answer.get("tcbm", "")),
        endorsement=_file(Path(named, "reference-info-base64")),
    )


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_LIMIT + 1)
        if len(text) > FILE_LIMIT:
            raise ValueError("is too long")
        found = base64.b64decode(text.strip(), validate=True)
    except OSError as error:
        raise Closed(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (binascii.Error, ValueError) as error:
        raise Closed("is no base64 of a reasonable length", where=str(path)) from error
    if not found:
        raise Closed("is empty", where=str(path))
    return found


def report(endpoints: Endpoints, data: bytes) -> bytes:
    """A fresh SEV-SNP report over 64 bytes. Raises Closed."""
    devices = (Path(endpoints.snp),) if endpoints.snp else DEVICES
    device = next((path for path in devices if path.exists()), None)
    if device is None:
        raise Closed(
            "is not there", where=str(devices[0]), remedy="run in a container group of SKU Confidential"
        )
    body = data.ljust(REQUEST, b"\0")
    try:
        response = (_over if stat.S_ISSOCK(device.stat().st_mode) else _ioctl)(device, body)
    except OSError as error:
        raise Closed(
            f"gives no report: {os.strerror(error.errno or errno.EIO)}", where=str(device)
        ) from error
    status, size = struct.unpack_from("<II", response)
    if status or size != snp_report.SIZE:
        raise Closed(f"gives no report: status {status:#x}, {size} bytes", where=str(device))
    found = response[REPORT_AT : REPORT_AT + size]
    try:
        bound = snp_report.parse(found).report_data
    except MalformedEvidence as error:
        raise Closed(f"{error.where} {error.what}".strip(), where=str(device)) from error
    if bound != data:
        raise Closed("gives a report on other data: it was replayed", where=str(device))
    return found


def _ioctl(device: Path, body: bytes) -> bytes:
    message, room = ctypes.create_string_buffer(body, REQUEST), ctypes.create_string_buffer(ROOM)
    addresses: Mapping[str, int] = {"message": ctypes.addressof(message), "room": ctypes.addressof(room)}
    if device == DEVICES[1]:
        number = OLD_GET_REPORT
        call = OLD_CALL.pack(
            REPORT_REQUEST, REPORT_RESPONSE, 1, REQUEST, addresses["message"], RESPONSE, addresses["room"], 0
        )
    else:
        number, call = GET_REPORT, CALL.pack(1, addresses["message"], addresses["room"], 0)
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, number, bytearray(call))
    finally:
        os.close(descriptor)
    return room.raw[:RESPONSE]


def _over(path: Path, body: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(body)
        found = b""
        while len(found) < RESPONSE:
            piece = connection.recv(RESPONSE - len(found))
            if not piece:
                raise OSError(errno.EIO, "cut off")
            found += piece
    return found
