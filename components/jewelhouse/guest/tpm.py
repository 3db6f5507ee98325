"""The few TPM 2.0 commands that attestation on Azure and Google Cloud takes, spoken to the kernel.

Trusted Platform Module Library, parts 2 (structures) and 3 (commands), version 1.59. Written out here so that
an image needs neither tpm2-tools nor their libraries, and so that no secret passes through another process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jewelhouse.guest.opening import Closed

DEVICE = Path("/dev/tpmrm0")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
LOG_LIMIT = 1024 * 1024
Call = Callable[[bytes], bytes]
"""One command to a TPM, and its response."""

NO_SESSIONS, SESSIONS = 0x8001, 0x8002
OWNER, NULL, PASSWORD, ENDORSEMENT = 0x40000001, 0x40000007, 0x40000009, 0x4000000B
NV_READ_PUBLIC, NV_READ, READ_PUBLIC = 0x169, 0x14E, 0x173
QUOTE, CERTIFY, PCR_READ, CREATE_PRIMARY = 0x158, 0x148, 0x17E, 0x131
START_AUTH_SESSION, POLICY_PCR, RSA_DECRYPT, FLUSH_CONTEXT = 0x176, 0x17F, 0x159, 0x165
NAMES = {
    NV_READ_PUBLIC: "NV_ReadPublic",
    NV_READ: "NV_Read",
    READ_PUBLIC: "ReadPublic",
    QUOTE: "Quote",
    CERTIFY: "Certify",
    PCR_READ: "PCR_Read",
    CREATE_PRIMARY: "CreatePrimary",
    START_AUTH_SESSION: "StartAuthSession",
    POLICY_PCR: "PolicyPCR",
    RSA_DECRYPT: "RSA_Decrypt",
    FLUSH_CONTEXT: "FlushContext",
}
SHA1, SHA256, ALG_RSA, ALG_NULL = 0x4, 0xB, 0x1, 0x10
RSASSA, RSAES, OAEP = 0x14, 0x15, 0x17
POLICY_SESSION = 1
# fixedTPM, fixedParent, sensitiveDataOrigin, noDA, decrypt: a key that is born in the TPM and never leaves.
EPHEMERAL = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 17
BITS = 2048
# Part 2, TPM_GENERATED_VALUE and TPM_ST_ATTEST_*.
GENERATED, ATTEST_CERTIFY, ATTEST_QUOTE = 0xFF544347, 0x8017, 0x8018
# Microsoft's own client reads no more at once, and a TPM has at least so much.
CHUNK, LARGEST = 512, 16 * 1024
RESPONSE = 8192
RETRY, RETRIES = 0x922, 5
_HEADER = struct.Struct(">HII")


class Reader:
    """Fields of a TPM structure in their order. Raises Closed where they run out."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data, self._at, self._where = data, 0, where

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise Closed("answers with a structure that is cut off", where=self._where)
        found = self._data[self._at : end]
        self._at = end
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """A TPM2B: two bytes of size and so many bytes."""
        return self.take(self.number(2))

    @property
    def rest(self) -> bytes:
        return self._data[self._at :]


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What a key of the TPM said: a TPMS_ATTEST and its RSASSA signature with SHA-256."""

    statement: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key in the TPM. `public`: its TPMT_PUBLIC; `numbers`: modulus and exponent."""

    handle: int
    public: bytes
    numbers: tuple[int, int]


@contextlib.contextmanager
def opened(path: Path = DEVICE) -> Iterator[Call]:
    """The way to a TPM: the kernel's device, or a Unix socket in its place. Raises Closed where it is not."""
    with contextlib.ExitStack() as stack:
        try:
            if stat.S_ISSOCK(path.stat().st_mode):
                connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                connection.settimeout(60)
                connection.connect(str(path))
                way: Call = partial(_over, connection)
            else:
                device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, device)
                way = partial(_through, device)
        except OSError as error:
            raise _unusable(path, error) from error

        def call(command: bytes) -> bytes:
            try:
                return way(command)
            except OSError as error:
                raise _unusable(path, error) from error

        yield call


def _unusable(path: Path, error: OSError) -> Closed:
    return Closed(
        f"cannot be used: {error.strerror or error}",
        where=str(path),
        remedy="the VM needs a vTPM, and the guest the right to its device",
    )


def _through(device: int, command: bytes) -> bytes:
    os.write(device, command)
    return os.read(device, RESPONSE)


def _over(connection: socket.socket, command: bytes) -> bytes:
    connection.sendall(command)
    found = b""
    while len(found) < _HEADER.size or len(found) < _HEADER.unpack_from(found)[1]:
        piece = connection.recv(RESPONSE)
        if not piece:
            raise ConnectionResetError("the other end closed the connection")
        found += piece
        if len(found) > RESPONSE:
            raise ConnectionError("the response has no end")
    return found


def execute(
    call: Call, command: int, handles: Sequence[int] = (), body: bytes = b"", *, auth: Sequence[int] = ()
) -> Reader:
    """Runs one command and returns what follows the response's code (with sessions: its parameters).

    `auth`: a session for each handle that needs one; PASSWORD is the empty password. Raises Closed for a
    refusal, with the TPM's code.
    """
    area = b"".join(struct.pack(">IHBH", session, 0, 1, 0) for session in auth)
    tail = b"".join(handle.to_bytes(4, "big") for handle in handles)
    tail += (len(area).to_bytes(4, "big") + area if auth else b"") + body
    message = _HEADER.pack(SESSIONS if auth else NO_SESSIONS, _HEADER.size + len(tail), command) + tail
    where = f"TPM2_{NAMES.get(command, hex(command))}"
    code, response = RETRY, b""
    for _ in range(RETRIES):
        response = call(message)
        if len(response) < _HEADER.size:
            raise Closed("answers with less than a header", where=where)
        _, size, code = _HEADER.unpack_from(response)
        if size != len(response):
            raise Closed(f"says {size} bytes and answers with {len(response)}", where=where)
        if code != RETRY:
            break
    if code:
        raise Closed(f"is refused by the TPM with {code:#x}", where=where)
    return Reader(response[_HEADER.size :], where)


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return len(data).to_bytes(2, "big") + data


def selection(pcrs: Sequence[int]) -> bytes:
    """TPML_PCR_SELECTION of one SHA-256 bank."""
    bits = sum(1 << index for index in pcrs)
    return struct.pack(">IHB", 1, SHA256, 3) + bits.to_bytes(3, "little")


def policy_of(pcrs: Sequence[int], values: Sequence[bytes]) -> bytes:
    """The policy digest of a key that works only while registers hold these values (part 3, PolicyPCR)."""
    digest = hashlib.sha256(b"".join(values)).digest()
    start = bytes(32) + POLICY_PCR.to_bytes(4, "big")
    return hashlib.sha256(start + selection(pcrs) + digest).digest()


def nv_read(call: Call, index: int) -> bytes:
    """All of an NV index, with the owner's empty password as on every Azure VM. Raises Closed."""
    public = Reader(execute(call, NV_READ_PUBLIC, (index,)).sized(), "TPM2_NV_ReadPublic")
    public.take(4 + 2 + 4)
    public.sized()
    size = public.number(2)
    if size > LARGEST:
        raise Closed(f"has {size} bytes", where=f"NV index {index:#x}")
    data = b""
    while len(data) < size:
        body = struct.pack(">HH", min(CHUNK, size - len(data)), len(data))
        reply = execute(call, NV_READ, (OWNER, index), body, auth=(PASSWORD,))
        reply.take(4)
        piece = reply.sized()
        if not piece:
            raise Closed("ends early", where=f"NV index {index:#x}")
        data += piece
    return data


def read_public(call: Call, handle: int) -> bytes:
    """TPMT_PUBLIC of a key. Raises Closed."""
    return execute(call, READ_PUBLIC, (handle,)).sized()


def numbers(public: bytes) -> tuple[int, int]:
    """Modulus and exponent of an RSA key's TPMT_PUBLIC. Raises Closed for another kind of key."""
    reader = Reader(public, "public key of the TPM")
    kind, _, _ = reader.number(2), reader.number(2), reader.number(4)
    reader.sized()
    if kind != ALG_RSA:
        raise Closed(f"is of type {kind:#x}, expected RSA", where="public key of the TPM")
    if reader.number(2) != ALG_NULL:
        reader.take(4)
    if reader.number(2) != ALG_NULL:
        reader.take(2)
    reader.take(2)
    exponent = reader.number(4) or 65537
    return int.from_bytes(reader.sized(), "big"), exponent


def pcr_values(call: Call, pcrs: Sequence[int]) -> list[bytes]:
    """The SHA-256 values of registers, in the order of their indices. Raises Closed."""
    found: dict[int, bytes] = {}
    wanted = sorted(pcrs)
    while left := [index for index in wanted if index not in found]:
        reply = execute(call, PCR_READ, body=selection(left))
        reply.take(4)
        count = reply.number(4)
        bits = 0
        for _ in range(count):
            reply.take(2)
            bits = int.from_bytes(reply.take(reply.number(1)), "little")
        read = [index for index in left if bits >> index & 1]
        values = [reply.sized() for _ in range(reply.number(4))]
        if count != 1 or not read or len(read) != len(values) or any(len(one) != 32 for one in values):
            raise Closed("has no SHA-256 values of the registers that were asked for", where="TPM2_PCR_Read")
        found.update(zip(read, values, strict=True))
    return [found[index] for index in wanted]


def quote(call: Call, key: int, pcrs: Sequence[int], qualifying: bytes) -> Signed:
    """What registers hold, signed by an attestation key. Raises Closed."""
    body = sized(qualifying) + ALG_NULL.to_bytes(2, "big") + selection(pcrs)
    return _signed(execute(call, QUOTE, (key,), body, auth=(PASSWORD,)))


def certify(call: Call, key: int, by: int, qualifying: bytes) -> Signed:
    """That a key is in this TPM, signed by an attestation key. Raises Closed."""
    body = sized(qualifying) + ALG_NULL.to_bytes(2, "big")
    return _signed(execute(call, CERTIFY, (key, by), body, auth=(PASSWORD, PASSWORD)))


def _signed(reply: Reader) -> Signed:
    reply.take(4)
    statement = reply.sized()
    scheme, digest = reply.number(2), reply.number(2)
    if (scheme, digest) != (RSASSA, SHA256):
        raise Closed(
            f"signs by scheme {scheme:#x} with {digest:#x}, expected RSASSA with SHA-256",
            where="attestation key",
        )
    return Signed(statement=statement, signature=reply.sized())


@contextlib.contextmanager
def ephemeral(call: Call, pcrs: Sequence[int], unique: bytes) -> Iterator[Key]:
    """An RSA key for decryption, gone with the block, that works while the registers stay as they are.

    The template is Microsoft's (Azure/confidential-computing-cvm-guest-attestation: client-library/src/
    Attestation/LinuxTpm/lib/Tss2Util.cpp) but for `unique`, 256 bytes by which every run gets another key:
    keys below the null seed are otherwise the same until the VM is started again. Raises Closed.
    """
    template = struct.pack(">HHI", ALG_RSA, SHA256, EPHEMERAL)
    template += sized(policy_of(pcrs, pcr_values(call, pcrs)))
    template += struct.pack(">HHHI", ALG_NULL, ALG_NULL, BITS, 0) + sized(unique)
    with primary(call, NULL, template) as key:
        yield key


@contextlib.contextmanager
def primary(call: Call, hierarchy: int, template: bytes) -> Iterator[Key]:
    """An RSA key of a hierarchy by its TPMT_PUBLIC, loaded for the block. Raises Closed."""
    body = sized(sized(b"") + sized(b"")) + sized(template) + sized(b"") + (0).to_bytes(4, "big")
    reply = execute(call, CREATE_PRIMARY, (hierarchy,), body, auth=(PASSWORD,))
    handle = reply.number(4)
    try:
        reply.take(4)
        public = reply.sized()
        yield Key(handle=handle, public=public, numbers=numbers(public))
    finally:
        _flush(call, handle)


def decrypt(call: Call, key: Key, pcrs: Sequence[int], ciphertext: bytes, scheme: bytes) -> bytes:
    """What is encrypted to an ephemeral key. `scheme`: OAEP_SHA1 or PKCS1. Raises Closed."""
    body = sized(os.urandom(32)) + sized(b"") + struct.pack(">BHH", POLICY_SESSION, ALG_NULL, SHA256)
    session = execute(call, START_AUTH_SESSION, (NULL, NULL), body).number(4)
    try:
        execute(call, POLICY_PCR, (session,), sized(b"") + selection(pcrs))
        reply = execute(
            call, RSA_DECRYPT, (key.handle,), sized(ciphertext) + scheme + sized(b""), auth=(session,)
        )
        reply.take(4)
        return reply.sized()
    finally:
        _flush(call, session)


def boot_log(path: Path) -> bytes:
    """The firmware's log of the boot, by which the registers are understood: without it there is no claim of
    secure boot, and no gate opens. Raises Closed."""
    try:
        with path.open("rb") as file:
            found = file.read(LOG_LIMIT + 1)
    except OSError as error:
        raise Closed(
            f"cannot be read: {error.strerror}", where=str(path), remedy="mount securityfs; run as root"
        ) from error
    if not 0 < len(found) <= LOG_LIMIT:
        raise Closed(f"has {len(found)} bytes", where=str(path))
    return found


def _flush(call: Call, handle: int) -> None:
    """Frees room in the TPM. Where that fails, the kernel does it when the device is closed."""
    with contextlib.suppress(Closed):
        execute(call, FLUSH_CONTEXT, body=handle.to_bytes(4, "big"))


OAEP_SHA1 = struct.pack(">HH", OAEP, SHA1)
PKCS1 = struct.pack(">H", RSAES)
