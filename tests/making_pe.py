"""PE images of a few kilobytes for tests: unified kernel images with any stub, sections and order."""

from __future__ import annotations

import struct
from collections.abc import Sequence

X86_64, AARCH64 = 0x8664, 0xAA64
ALIGNMENT, PAGE = 512, 4096
HEADER_AT = 64
OPTIONAL_AT = HEADER_AT + 24
TABLE_AT = OPTIONAL_AT + 240
CHECKSUM_AT = OPTIONAL_AT + 64
SECURITY_AT = OPTIONAL_AT + 112 + 4 * 8


def up(value: int, to: int) -> int:
    return -(-value // to) * to


def image(
    sections: Sequence[tuple[str, bytes]], *, machine: int = X86_64, version: int = 3, behind: bytes = b""
) -> bytes:
    """An image with these sections in this order. `version`: MajorImageVersion; `behind`: what follows the
    sections."""
    headers = up(TABLE_AT + 40 * len(sections), ALIGNMENT)
    table, body = b"", b""
    address = up(headers, PAGE)
    for name, data in sections:
        padded = data + bytes(-len(data) % ALIGNMENT)
        table += struct.pack(
            "<8sIIIIIIHHI", name.encode(), len(data), address, len(padded), headers + len(body), 0, 0, 0, 0, 0
        )
        body += padded
        address += up(max(len(data), 1), PAGE)
    dos = b"MZ" + bytes(58) + struct.pack("<I", HEADER_AT)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, len(sections), 0, 0, 0, 240, 0x22E)
    optional = bytearray(240)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<II", optional, 32, PAGE, ALIGNMENT)
    struct.pack_into("<H", optional, 44, version)
    struct.pack_into("<II", optional, 56, address, headers)
    struct.pack_into("<I", optional, 108, 16)
    return (dos + coff + bytes(optional) + table).ljust(headers, b"\0") + body + behind


KERNEL = image([(".text", b"kernel" * 100)])


def magic(version: str) -> bytes:
    return f"#### LoaderInfo: systemd-stub {version} ####".encode()


def uki(
    *sections: tuple[str, bytes], stub: str = "257.13-1", kernel: bytes = KERNEL, machine: int = X86_64
) -> bytes:
    """A unified kernel image: a stub of this version, kernel, command line, and `sections` behind them."""
    own = [(".text", b"stub"), (".sdmagic", magic(stub))]
    given = {name for name, _ in sections}
    base = [(".linux", kernel), (".cmdline", b"quiet")]
    return image([*own, *(one for one in base if one[0] not in given), *sections], machine=machine)
