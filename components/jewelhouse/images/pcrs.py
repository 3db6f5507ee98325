"""The TPM registers that a unified kernel image will have, computed from its bytes.

They hold where the firmware starts the image by itself, as clouds' virtual machines do: no boot loader or
shim before it, and nothing beside it on the EFI system partition. What else is started or handed over shows
in PCR4 or PCR12, so a policy pins both (GHSA-xrv8-2pf5-f3q7).
Sources: TCG PC Client Platform Firmware Profile 1.06, 3.3.4; uapi-group.org, Linux TPM PCR Registry;
systemd/systemd: src/boot/stub.c; tianocore/edk2: DxeTpm2MeasureBootLib and Tcg2Dxe (2026-11).
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from jewelhouse.images import pe, uki
from jewelhouse.images.secure_boot import SecureBoot, authority

BANKS = ("sha256", "sha384")
BOOT_OPTION = b"Calling EFI Application from Boot Option"
SEPARATOR = bytes(4)
GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")

# One event: its digest in each bank.
Event = Mapping[str, bytes]


def predict(path: Path, *, secure_boot: SecureBoot | None = None) -> dict[str, dict[str, str]]:
    """PCR4, PCR7, PCR11 and PCR12 by bank (`sha256`, `sha384`), lower-case hex, as the first process finds
    them.

    `secure_boot`: the keys that the firmware has; None where it has none, so that Secure Boot is off. Raises
    MalformedUki for an image that cannot be measured beforehand, JewelhouseError for one that the firmware
    would not start.
    """
    return measure(uki.read(path), secure_boot=secure_boot)


def measure(image: uki.Uki, *, secure_boot: SecureBoot | None = None) -> dict[str, dict[str, str]]:
    """`predict` of an image that has been read."""
    registers = {
        "PCR4": tuple(_boot(image, secure_boot)),
        "PCR7": tuple(_policy(image, secure_boot)),
        "PCR11": tuple(_sections(image)),
        # Of the image itself nothing: only what lies beside it or is handed over at start.
        "PCR12": (),
    }
    return {
        bank: {name: extended(bank, events).hex() for name, events in registers.items()} for bank in BANKS
    }


def extended(bank: str, events: tuple[Event, ...]) -> bytes:
    """A register after a number of events, from zero."""
    value = bytes(hashlib.new(bank).digest_size)
    for event in events:
        value = hashlib.new(bank, value + event[bank]).digest()
    return value


def _of(data: bytes) -> Event:
    return {bank: hashlib.new(bank, data).digest() for bank in BANKS}


def _boot(image: uki.Uki, secure_boot: SecureBoot | None) -> Iterator[Event]:
    yield _of(BOOT_OPTION)
    yield _of(SEPARATOR)
    yield pe.authenticode(image.image, BANKS)
    # With Secure Boot on the stub goes round the firmware's check of the kernel, which is what measures it.
    if image.rules.kernel_by_firmware and secure_boot is None:
        yield pe.authenticode(image.kernel, BANKS)


def _policy(image: uki.Uki, secure_boot: SecureBoot | None) -> Iterator[Event]:
    keys = secure_boot or SecureBoot(platform_key=b"", exchange_keys=b"", allowed=b"")
    yield variable(GLOBAL, "SecureBoot", bytes([secure_boot is not None]))
    yield variable(GLOBAL, "PK", keys.platform_key)
    yield variable(GLOBAL, "KEK", keys.exchange_keys)
    yield variable(IMAGE_SECURITY, "db", keys.allowed)
    yield variable(IMAGE_SECURITY, "dbx", keys.forbidden)
    yield _of(SEPARATOR)
    if secure_boot is not None:
        yield variable(IMAGE_SECURITY, "db", authority(image.image, secure_boot))


def variable(vendor: uuid.UUID, name: str, value: bytes) -> Event:
    """A variable of the firmware as it is measured: UEFI_VARIABLE_DATA."""
    head = vendor.bytes_le + struct.pack("<QQ", len(name), len(value))
    return _of(head + name.encode("utf-16-le") + value)


def _sections(image: uki.Uki) -> Iterator[Event]:
    for section in image.measured:
        yield _of(section.name.encode() + b"\0")
        yield pe.digests(image.image, section, BANKS)
