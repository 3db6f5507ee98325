"""Registers of a TPM after a unified kernel image booted, known before it boots.

Firmware measures the program it starts into PCR 4 and its Secure Boot settings into PCR 7; systemd's stub
measures the parts of the image into PCR 11, and into PCR 12 what came from outside it, where nothing may come.
TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4 and 10; systemd: src/boot/efi/measure.c, stub.c.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from jewelhouse.images import pe, uki

BANKS = ("sha256", "sha384")
CALLING = b"Calling EFI Application from Boot Option"
SEPARATOR = bytes(4)
GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
VARIABLES = (("SecureBoot", GLOBAL), ("PK", GLOBAL), ("KEK", GLOBAL), ("db", DATABASE), ("dbx", DATABASE))
# From this version on the stub starts the kernel by itself, and with Secure Boot on older ones do, too; then
# firmware does not measure it again (aws/NitroTPM-Tools: nitro-tpm-pcr-compute, src/main.rs; systemd NEWS 258).
STARTS_BY_ITSELF = 258


@dataclass(frozen=True, kw_only=True)
class SecureBoot:
    """Secure Boot that is on: contents of its variables as firmware stores them (EFI signature lists), and
    the signatures in `db` (owner and certificate, as in the list) that the image was accepted by."""

    pk: bytes
    kek: bytes
    db: bytes
    dbx: bytes = b""
    authorities: Sequence[bytes] = field(default=())


def predict(path: Path, *, secure_boot: SecureBoot | None = None) -> Mapping[str, Mapping[str, str]]:
    """PCR4, PCR7, PCR11 and PCR12 by bank (`sha256`, `sha384`), lower-case hex.

    PCR 11 is its value before the first phase of systemd; an initial ramdisk without systemd leaves it so.
    Raises MalformedUki for images whose registers cannot be known.
    """
    found = uki.read(path)
    with path.open("rb") as file:
        return {
            bank: {
                "PCR4": _fold(bank, _fourth(file, found, bank, secure_boot)),
                "PCR7": _fold(bank, _seventh(bank, secure_boot)),
                "PCR11": _fold(bank, _eleventh(file, found, bank)),
                "PCR12": bytes(hashlib.new(bank).digest_size).hex(),
            }
            for bank in BANKS
        }


def _fold(bank: str, digests: Iterator[bytes]) -> str:
    """A register after it was extended with each digest, from zeros."""
    value = bytes(hashlib.new(bank).digest_size)
    for digest in digests:
        value = hashlib.new(bank, value + digest).digest()
    return value.hex()


def _fourth(file, found: uki.Uki, bank: str, secure_boot: SecureBoot | None) -> Iterator[bytes]:
    yield hashlib.new(bank, CALLING).digest()
    yield hashlib.new(bank, SEPARATOR).digest()
    yield pe.authenticode(file, found.program, bank)
    if found.stub < STARTS_BY_ITSELF and secure_boot is None:
        kernel = found.program.section(".linux")
        assert kernel is not None
        inner = pe.parse(file, kernel.size, kernel.offset)
        yield pe.authenticode(file, inner, bank, kernel.offset)


def _seventh(bank: str, secure_boot: SecureBoot | None) -> Iterator[bytes]:
    values = (
        (b"\0", b"", b"", b"", b"")
        if secure_boot is None
        else (b"\1", secure_boot.pk, secure_boot.kek, secure_boot.db, secure_boot.dbx)
    )
    for (name, guid), value in zip(VARIABLES, values, strict=True):
        yield hashlib.new(bank, variable(name, guid, value)).digest()
    yield hashlib.new(bank, SEPARATOR).digest()
    for authority in secure_boot.authorities if secure_boot else ():
        yield hashlib.new(bank, variable("db", DATABASE, authority)).digest()


def variable(name: str, guid: UUID, value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA, as it is measured: owner, lengths in characters and bytes, name, value."""
    text = name.encode("utf-16-le")
    return guid.bytes_le + struct.pack("<QQ", len(name), len(value)) + text + value


def _eleventh(file, found: uki.Uki, bank: str) -> Iterator[bytes]:
    for name in uki.MEASURED:
        section = found.program.section(name)
        if section is None:
            continue
        yield hashlib.new(bank, name.encode() + b"\0").digest()
        state = hashlib.new(bank)
        for data in pe.content(file, section):
            state.update(data)
        yield state.digest()
