"""PE images: read strictly, hashed as firmware hashes them."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import subprocess
import tarfile

import making_pe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making_pe import CHECKSUM_AT, HEADER_AT, OPTIONAL_AT, SECURITY_AT, TABLE_AT

from jewelhouse.images import pe

PLAIN = making_pe.image([(".text", b"a" * 700), (".data", b"b" * 3)])
FIRST, SECOND = TABLE_AT, TABLE_AT + 40
BANKS = ("sha256", "sha384")


def patched(offset: int, form: str, *values: int | bytes, image: bytes = PLAIN) -> bytes:
    changed = bytearray(image)
    struct.pack_into(f"<{form}", changed, offset, *values)
    return bytes(changed)


def put(path, data: bytes):
    path = path / "image.efi"
    path.write_bytes(data)
    return path


def certified(*entries: bytes, size: int | None = None) -> bytes:
    table = b"".join(entries)
    stated = len(table) if size is None else size
    return patched(SECURITY_AT, "II", len(PLAIN), stated, image=PLAIN + table)


def entry(data: bytes, *, length: int | None = None, kind: int = 2, revision: int = 0x200) -> bytes:
    packed = struct.pack("<IHH", 8 + len(data) if length is None else length, revision, kind) + data
    return packed + bytes(-len(packed) % 8)


MALFORMED = {
    "nothing": (b"", 0),
    "text": (b"#!/bin/sh\n" * 20, 0),
    "cut-short-in-its-headers": (PLAIN[: OPTIONAL_AT + 10], OPTIONAL_AT + 10),
    "cut-short-in-its-section-table": (PLAIN[: TABLE_AT + 50], OPTIONAL_AT + 60),
    "cut-short-in-a-section": (PLAIN[:-1], SECOND + 16),
    "header-inside-the-dos-header": (patched(60, "I", 4), 60),
    "header-behind-the-end": (patched(60, "I", 0x7FFFFFF0), len(PLAIN)),
    "header-not-aligned": (patched(60, "I", 66), 60),
    "no-pe-header": (patched(HEADER_AT, "I", 0), HEADER_AT),
    "machine-of-32-bits": (patched(HEADER_AT + 4, "H", 0x14C), HEADER_AT + 4),
    "no-sections": (patched(HEADER_AT + 6, "H", 0), HEADER_AT + 6),
    "more-sections-than-the-stub-takes": (patched(HEADER_AT + 6, "H", 97), HEADER_AT + 6),
    "more-sections-than-headers-have-room-for": (patched(HEADER_AT + 6, "H", 20), OPTIONAL_AT + 60),
    "optional-header-of-another-size": (patched(HEADER_AT + 20, "H", 248), HEADER_AT + 20),
    "header-of-32-bits": (patched(OPTIONAL_AT, "H", 0x10B), OPTIONAL_AT),
    "no-room-for-certificates": (patched(OPTIONAL_AT + 108, "I", 4), OPTIONAL_AT + 108),
    "directories-without-end": (patched(OPTIONAL_AT + 108, "I", 0xFFFFFFFF), OPTIONAL_AT + 108),
    "headers-larger-than-the-file": (patched(OPTIONAL_AT + 60, "I", 0xFFFFFFFF), OPTIONAL_AT + 60),
    "headers-without-the-section-table": (patched(OPTIONAL_AT + 60, "I", 64), OPTIONAL_AT + 60),
    "section-behind-the-end": (patched(FIRST + 20, "I", 0xFFFFF000), FIRST + 16),
    "section-larger-than-the-file": (patched(SECOND + 16, "I", 0xFFFFFE00), SECOND + 16),
    "gap-that-is-not-hashed": (
        patched(SECOND + 16, "II", 512, 512 + 1024 + 512, image=PLAIN + bytes(512)),
        2048,
    ),
    "overlap-that-is-hashed-twice": (patched(SECOND + 20, "I", 1024), 1024),
    "section-inside-the-headers": (patched(FIRST + 20, "I", 0), 0),
    "name-with-a-hidden-end": (patched(FIRST, "8s", b".a\0.b"), FIRST),
    "name-that-is-no-text": (patched(FIRST, "8s", b".\xff"), FIRST),
    "relocations-in-an-image": (patched(FIRST + 24, "I", 1), FIRST + 24),
    "certificates-before-the-end": (patched(SECURITY_AT, "II", 512, 8), SECURITY_AT),
    "bytes-behind-the-certificates": (certified(entry(b"x" * 8)) + b"more", SECURITY_AT),
    "certificates-not-aligned": (
        patched(SECURITY_AT, "II", len(PLAIN) + 1, 7, image=PLAIN + bytes(8)),
        SECURITY_AT,
    ),
    "certificates-of-no-size": (patched(SECURITY_AT, "II", len(PLAIN), 0), SECURITY_AT),
    "certificates-without-a-place": (patched(SECURITY_AT, "II", 0, 8), SECURITY_AT),
}


@pytest.mark.parametrize(("data", "offset"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_image_is_refused_with_the_offset(tmp_path, data, offset):
    with pytest.raises(pe.MalformedPe) as refused:
        pe.read(put(tmp_path, data))
    assert refused.value.offset == offset
    assert refused.value.where == f"image.efi: offset {offset}"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(certified(b"1234"), id="cut-short"),
        pytest.param(certified(entry(b"x" * 8, length=4)), id="smaller-than-its-header"),
        pytest.param(certified(entry(b"x" * 8, length=0)), id="of-no-size-for-ever"),
        pytest.param(certified(entry(b"x" * 8, length=0xFFFFFFFF)), id="larger-than-the-table"),
        pytest.param(certified(entry(b"x" * 8, kind=1)), id="of-a-type-that-no-firmware-checks"),
        pytest.param(certified(entry(b"x" * 8, revision=0x100)), id="of-another-revision"),
        pytest.param(
            certified(entry(b"x" * 8)[:-8] + b"12345678", struct.pack("<IHH", 9, 0x200, 2)), id="no-padding"
        ),
    ],
)
def test_a_malformed_certificate_is_refused(tmp_path, data):
    with pytest.raises(pe.MalformedPe):
        pe.certificates(pe.read(put(tmp_path, data)))


def test_certificates_are_read_in_their_order(tmp_path):
    image = pe.read(put(tmp_path, certified(entry(b"first"), entry(b"second, longer"))))
    assert pe.certificates(image) == (b"first", b"second, longer")


def test_every_byte_is_hashed_but_what_a_signature_changes(tmp_path):
    """One byte at a time: only the checksum, the place of the certificates and themselves may differ."""
    signed = certified(entry(b"x" * 8))
    before = pe.authenticode(pe.read(put(tmp_path, signed)), BANKS)
    left_out = {*range(CHECKSUM_AT, CHECKSUM_AT + 4), *range(SECURITY_AT, SECURITY_AT + 8)}
    left_out |= set(range(len(PLAIN), len(signed)))
    for offset in range(len(signed)):
        changed = bytearray(signed)
        changed[offset] ^= 1
        try:
            after = pe.authenticode(pe.read(put(tmp_path, bytes(changed))), BANKS)
        except pe.MalformedPe:
            continue
        assert (after == before) == (offset in left_out), offset


def test_a_part_of_a_file_is_read_like_a_file_of_its_own(tmp_path):
    alone = pe.authenticode(pe.read(put(tmp_path, PLAIN)), BANKS)
    inside = pe.read(put(tmp_path, b"before" + PLAIN + b"behind"), 6, len(PLAIN))
    assert pe.authenticode(inside, BANKS) == alone
    assert pe.data(inside, inside.sections[1]) == b"bbb"


def test_what_lies_behind_the_sections_is_hashed(tmp_path):
    """Old stubs end with a symbol table."""
    digests = {
        pe.authenticode(pe.read(put(tmp_path, PLAIN + behind)), ["sha256"])["sha256"]
        for behind in (b"", b"symbols1", b"symbols2")
    }
    assert len(digests) == 3


def test_a_file_that_becomes_shorter_is_not_measured(tmp_path):
    path = put(tmp_path, PLAIN)
    image = pe.read(path)
    path.write_bytes(PLAIN[:-10])
    with pytest.raises(pe.MalformedPe, match="ends early"):
        pe.authenticode(image, BANKS)


def test_a_section_is_measured_without_its_padding(tmp_path):
    image = pe.read(put(tmp_path, PLAIN))
    assert pe.digests(image, image.sections[0], BANKS) == {
        "sha256": hashlib.sha256(b"a" * 700).digest(),
        "sha384": hashlib.sha384(b"a" * 700).digest(),
    }


@pytest.mark.parametrize("address", [0, 511, 4096], ids=["headers", "end-of-the-headers", "another-section"])
def test_a_section_loaded_over_something_else_is_refused(tmp_path, address):
    image = pe.read(put(tmp_path, patched(SECOND + 12, "I", address)))
    with pytest.raises(pe.MalformedPe, match="over its"):
        pe.in_memory(image)


def test_the_digest_of_a_distributions_kernel_is_the_one_it_signed(packages, tmp_path):
    """Debian signs its kernels: the digest in the signature was computed by other hands."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    with tarfile.open(packages("linux-image-cloud-amd64").tar) as tar:
        member = next(one for one in tar if re.search(r"boot/vmlinuz-", one.name))
        opened = tar.extractfile(member)
        assert opened is not None
        path = put(tmp_path, opened.read())
    image = pe.read(path)
    (signature,) = pe.certificates(image)
    (tmp_path / "signature").write_bytes(signature)
    said = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER", "-in", tmp_path / "signature"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert pe.authenticode(image, ["sha256"])["sha256"].hex().upper() in said


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6), st.integers(0, len(PLAIN)))
def test_no_bytes_break_the_reader(tmp_path_factory, changes, length):
    data = bytearray(certified(entry(b"x" * 8)))
    for offset, value in changes:
        data[offset] = value
    path = put(tmp_path_factory.mktemp("fuzz"), bytes(data[:length] if length % 3 == 0 else data))
    try:
        image = pe.read(path)
        pe.certificates(image)
        pe.in_memory(image)
    except pe.MalformedPe:
        return
    pe.authenticode(image, ["sha256"])
    assert sum(section.raw for section in image.sections) <= path.stat().st_size
