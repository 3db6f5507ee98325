"""The firmware's keys of Secure Boot, and which of them lets an image start: that one is measured into PCR7.

Databases are read as the firmware stores them: lists of signatures (EFI_SIGNATURE_LIST). An image starts when
the first entry of db that its signature leads to, or that is its digest, is found and no entry of dbx is met.
Sources: UEFI 2.10, 32.4; tianocore/edk2: SecurityPkg/Library/DxeImageVerificationLib (2026-11).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256, sha384, sha512

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import authenticode, pe

X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
# Digests of images, and of certificates (their signed part) with the time from which they are revoked.
IMAGES = {
    uuid.UUID("c1c41626-504c-4092-aca9-41f936934328"): "sha256",
    uuid.UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01"): "sha384",
    uuid.UUID("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a"): "sha512",
}
CERTIFICATES = {
    uuid.UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed"): sha256,
    uuid.UUID("7076876e-80c2-4ee6-aad2-28b349a6865b"): sha384,
    uuid.UUID("446dbf63-2502-4cda-bcfa-2465d2b0fe9d"): sha512,
}
LIST = struct.Struct("<16sIII")
OWNER = 16


class MalformedKeys(JewelhouseError):
    """A database of Secure Boot that cannot be read; says which and where."""


@dataclass(frozen=True, kw_only=True)
class SecureBoot:
    """The contents of the firmware's variables PK, KEK, db and dbx, without the four bytes of attributes that
    Linux shows before them. db and dbx may be empty."""

    platform_key: bytes
    exchange_keys: bytes
    allowed: bytes
    forbidden: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One signature of a database: its kind, who put it there, and a certificate (DER) or digest."""

    kind: uuid.UUID
    owner: bytes
    value: bytes


def key_list(certificate: x509.Certificate, owner: uuid.UUID) -> bytes:
    """A list with one certificate; a database is any number of lists."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    size = OWNER + len(der)
    return LIST.pack(X509.bytes_le, LIST.size + size, 0, size) + owner.bytes_le + der


def entries(data: bytes, name: str) -> Iterator[Entry]:
    """The signatures of a database in their order. Raises MalformedKeys."""
    at = 0
    while at < len(data):
        if at + LIST.size > len(data):
            raise MalformedKeys("ends inside a list", where=f"{name}: offset {at}")
        kind, length, header, size = LIST.unpack_from(data, at)
        body = length - LIST.size - header
        if size <= OWNER or header or body <= 0 or at + length > len(data) or body % size:
            raise MalformedKeys(
                f"has a list of {length} bytes with signatures of {size}", where=f"{name}: offset {at}"
            )
        for offset in range(at + LIST.size, at + length, size):
            yield Entry(
                kind=uuid.UUID(bytes_le=kind),
                owner=data[offset : offset + OWNER],
                value=data[offset + OWNER : offset + size],
            )
        at += length


def authority(image: pe.Image, keys: SecureBoot) -> bytes:
    """Owner and value of the entry of db that lets an image start.

    Raises JewelhouseError where the firmware would not start it, and MalformedKeys.
    """
    if not list(entries(keys.platform_key, "PK")):
        raise MalformedKeys("is empty, so Secure Boot is off", where="PK")
    list(entries(keys.exchange_keys, "KEK"))
    allowed, forbidden = list(entries(keys.allowed, "db")), list(entries(keys.forbidden, "dbx"))
    signed = list(authenticode.signatures(image))
    digests = {kind: pe.authenticode(image, [bank])[bank] for kind, bank in IMAGES.items()}
    for entry in forbidden:
        if _met(entry, signed, digests):
            raise JewelhouseError(
                "the firmware would not start the image: dbx forbids it",
                where=image.path.name,
                remedy="sign it with a key that is not revoked",
            )
    for signature in signed:
        for entry in allowed:
            if entry.kind == X509 and signature.leads_to(_certificate(entry, "db")):
                return entry.owner + entry.value
    for entry in allowed:
        if digests.get(entry.kind) == entry.value:
            return entry.owner + entry.value
    raise JewelhouseError(
        "the firmware would not start the image: "
        + ("db has no key that signed it" if signed else "it is not signed"),
        where=image.path.name,
        remedy="sign it with a key whose certificate is in db",
    )


def _met(entry: Entry, signed: list[authenticode.Signature], digests: dict[uuid.UUID, bytes]) -> bool:
    """Whether an entry of dbx forbids the image. From whatever time a certificate is revoked: images carry no
    time that could be before it."""
    if entry.kind in IMAGES:
        return digests[entry.kind] == entry.value
    if entry.kind == X509:
        anchor = _certificate(entry, "dbx")
        return any(signature.leads_to(anchor) for signature in signed)
    if entry.kind in CERTIFICATES:
        function = CERTIFICATES[entry.kind]
        return any(
            entry.value.startswith(function(one.tbs_certificate_bytes).digest())
            for signature in signed
            for one in signature.chain
        )
    raise MalformedKeys(f"has signatures of the unknown kind {entry.kind}", where="dbx")


def _certificate(entry: Entry, name: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(entry.value)
    except authenticode.UNREADABLE as error:
        raise MalformedKeys("has a certificate that cannot be read", where=name) from error
