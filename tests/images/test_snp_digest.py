"""Launch digests: only where they mean something, only for firmware that measures what is claimed."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import snp_digest
from jewelhouse.images.snp_digest import MEANINGS, OWN_HOST, Launch, MalformedFirmware, compute, sections
from jewelhouse.model import Platform

PAGE = 4096
PLAIN = ((1, 0x800000, 0x9000), (2, 0x80D000, 0x1000), (3, 0x80E000, 0x1000))
HASHES = (*PLAIN, (0x10, 0x80F000, 0x1000))
TABLE_ADDRESS = 0x80FC00


def firmware(
    declared=HASHES, *, size=8 * PAGE, version=1, magic=b"ASEV", length=None, table=None, entries=None
):
    """An image of nothing but the tables that a host's QEMU and the processor's measurement look at."""
    size = 8 * PAGE
    metadata = b"".join(struct.pack("<III", address, span, kind) for kind, address, span in declared)
    stated = 16 + len(metadata) if length is None else length
    header = struct.pack("<4sIII", magic, stated, version, len(declared))
    start = size - 2048
    found = entries or {
        snp_digest._RESET: struct.pack("<I", 0x80B004),
        snp_digest._METADATA: struct.pack("<I", size - start),
        bytes.fromhex("1f3755723b3a044b927b1da6efa8d454"): struct.pack("<II", TABLE_ADDRESS, 0x400),
    }
    body = b"".join(data + struct.pack("<H16s", len(data) + 18, name) for name, data in found.items())
    footer = struct.pack("<H16s", len(body) + 18 if table is None else table, snp_digest._FOOTER)
    data = bytearray(size)
    data[start : start + len(header + metadata)] = header + metadata
    data[size - 32 - len(body + footer) : size - 32] = body + footer
    return bytes(data)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "OVMF.fd"
    path.write_bytes(firmware())
    (tmp_path / "kernel").write_bytes(b"kernel")
    (tmp_path / "initrd").write_bytes(b"ramdisk")
    return path


def test_what_the_firmware_declares_is_read(image):
    assert sections(image) == ("SNP_SEC_MEM", "SNP_SECRETS", "CPUID", "SNP_KERNEL_HASHES")


def with_kernel(image, **changes):
    values = {"kernel": image.parent / "kernel", "initrd": image.parent / "initrd", "cmdline": "ro"}
    return Launch(firmware=image, vcpus=2, **{**values, **changes})


def test_every_input_changes_the_digest(image):
    launch = with_kernel(image)
    digests = [compute(launch), compute(launch)]
    digests += [
        compute(replace(launch, **change))
        for change in (
            {"vcpus": 3},
            {"vcpu_type": "EPYC-Genoa"},
            {"guest_features": 0x21},
            {"cmdline": "rw"},
            {"initrd": None},
            {"initrd": image.parent / "kernel"},
            {"kernel": image.parent / "initrd"},
            {"kernel": None, "initrd": None, "cmdline": ""},
        )
    ]
    data = bytearray(image.read_bytes())
    data[100] ^= 1
    image.write_bytes(data)
    digests.append(compute(launch))
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == 10
    assert all(len(digest) == 96 for digest in digests)


def page_info(digest, contents, kind, address):
    """PAGE_INFO as the processor hashes each page (AMD 56860, SNP_LAUNCH_UPDATE), written from its table."""
    info = digest + contents + struct.pack("<HBBBBBBQ", 0x70, kind, 0, 0, 0, 0, 0, address)
    assert len(info) == 0x70
    return hashlib.sha384(info).digest()


def test_the_digest_of_the_pages_is_the_specification_s(image):
    """All but the pages of virtual processors, step by step after the specification, against the library."""
    from sevsnpmeasure.gctx import GCTX
    from sevsnpmeasure.guest import snp_update_metadata_pages
    from sevsnpmeasure.ovmf import OVMF
    from sevsnpmeasure.vmm_types import VMMType

    data = firmware(PLAIN)
    image.write_bytes(data)
    digest, base = bytes(48), 0x1_0000_0000 - len(data)
    for offset in range(0, len(data), PAGE):
        digest = page_info(digest, hashlib.sha384(data[offset : offset + PAGE]).digest(), 1, base + offset)
    kinds = {1: 3, 2: 5, 3: 6}  # zero pages, the secrets page, the page of processor features
    for kind, address, span in PLAIN:
        for offset in range(0, span, PAGE):
            digest = page_info(digest, bytes(48), kinds[kind], address + offset)
    context = GCTX()
    library = OVMF(str(image))
    context.update_normal_pages(library.gpa(), library.data())
    snp_update_metadata_pages(context, library, None, VMMType.QEMU)
    assert context.ld() == digest


@pytest.mark.parametrize("platform", list(Platform))
def test_no_digest_is_computed_for_a_cloud_that_starts_its_own_firmware(image, platform):
    with pytest.raises(JewelhouseError, match="says nothing about an image") as raised:
        compute(Launch(firmware=image, vcpus=2), platform=platform)
    assert raised.value.remedy.startswith("pin ")
    assert raised.value.problems[0].source


def test_every_platform_is_in_the_table_with_its_source():
    assert set(MEANINGS) == {OWN_HOST, *Platform}
    assert [name for name, meaning in MEANINGS.items() if meaning.comparable] == [OWN_HOST]
    assert all(meaning.source and meaning.why for meaning in MEANINGS.values())


def test_a_platform_that_nobody_knows_is_refused(image):
    with pytest.raises(JewelhouseError, match="nothing is known"):
        compute(Launch(firmware=image, vcpus=2), platform="other-cloud")


def test_a_kernel_that_the_firmware_would_not_measure_is_refused(image):
    image.write_bytes(firmware(PLAIN))
    with pytest.raises(JewelhouseError, match="any kernel under the same digest"):
        compute(with_kernel(image))
    assert compute(Launch(firmware=image, vcpus=2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernel": None, "cmdline": ""}, "with a kernel only"),
        ({"kernel": None, "initrd": None}, "with a kernel only"),
        ({"vcpus": 0}, "virtual processors"),
        ({"vcpus": 513}, "virtual processors"),
        ({"guest_features": 0x20}, "without SNP"),
        ({"vcpu_type": "Xeon"}, "no processor model"),
    ],
    ids=["ramdisk-alone", "command-line-alone", "no-processor", "too-many", "snp-off", "another-maker"],
)
def test_a_machine_that_cannot_start_so_is_refused(image, change, said):
    with pytest.raises(JewelhouseError, match=said):
        compute(replace(with_kernel(image), **change))


def test_a_missing_kernel_is_named(image):
    with pytest.raises(JewelhouseError, match="no such file") as raised:
        compute(with_kernel(image, kernel=image.parent / "missing"))
    assert raised.value.where.endswith("missing")


def test_a_missing_library_is_named(image, monkeypatch):
    monkeypatch.setitem(sys.modules, "sevsnpmeasure", None)
    with pytest.raises(JewelhouseError, match="sev-snp-measure is not installed"):
        compute(Launch(firmware=image, vcpus=2))


RESET = {snp_digest._RESET: struct.pack("<I", 1)}
MALFORMED = {
    "empty": (b"", "no firmware image has"),
    "half-a-page": (bytes(PAGE + 1), "no firmware image has"),
    "zeros": (bytes(PAGE * 2), "ends in no table"),
    "no-snp": (firmware(entries=RESET), "declares nothing for SEV-SNP"),
    "no-reset-vector": (firmware(entries={snp_digest._METADATA: bytes(4)}), "declares nothing for SEV-SNP"),
    "table-longer-than-the-image": (firmware(table=0xFFFF), "a table of 65535 bytes"),
    "table-shorter-than-its-footer": (firmware(table=4), "a table of 4 bytes"),
    "half-an-entry": (firmware(table=30), "half an entry"),
    "entry-longer-than-the-table": (firmware(table=40), "an entry of"),
    "metadata-before-the-image": (
        firmware(entries={**RESET, snp_digest._METADATA: struct.pack("<I", 0xFFFFFFFF)}),
        "outside of itself",
    ),
    "metadata-behind-the-image": (
        firmware(entries={**RESET, snp_digest._METADATA: struct.pack("<I", 4)}),
        "outside of itself",
    ),
    "offset-cut-short": (firmware(entries={**RESET, snp_digest._METADATA: b"\x00"}), "without its offset"),
    "another-kind-of-metadata": (firmware(magic=b"TDVF"), "another kind"),
    "another-version": (firmware(version=2), "another kind"),
    "sections-that-are-not-counted": (firmware(length=16), "for 4 sections"),
    "a-section-nobody-knows": (firmware(((7, 0x1000, 0x1000),)), "section of kind 0x7"),
    "a-section-off-its-page": (firmware(((1, 0x1001, 0x1000),)), "section of kind 0x1"),
    "a-section-of-nothing": (firmware(((1, 0x1000, 0),)), "with 0 bytes"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_file_that_is_no_firmware_is_refused(tmp_path, case):
    data, said = MALFORMED[case]
    path = tmp_path / "OVMF.fd"
    path.write_bytes(data)
    with pytest.raises(MalformedFirmware, match=said):
        compute(Launch(firmware=path, vcpus=1))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MalformedFirmware, match="cannot be read"):
        sections(tmp_path / "missing")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_are_firmware_or_malformed(data, tmp_path_factory):
    whole = bytearray(firmware())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 63) | st.integers(1900, 2200)) + 1
        whole[-min(place, len(whole))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.fd"
    path.write_bytes(whole)
    with contextlib.suppress(MalformedFirmware):
        assert set(sections(path)) <= set(snp_digest.SECTIONS.values())


def test_debian_s_firmware_is_measured_where_it_is_made_for_snp():
    from pathlib import Path

    small, large = (Path("/usr/share/OVMF") / name for name in ("OVMF_CODE.fd", "OVMF_CODE_4M.fd"))
    if not small.is_file() or not large.is_file():
        pytest.skip("ovmf of Debian 12 is not installed: apt-get install ovmf")
    assert "SNP_SECRETS" in sections(small)
    assert len(compute(Launch(firmware=small, vcpus=1))) == 96
    with pytest.raises(MalformedFirmware, match="declares nothing for SEV-SNP"):
        compute(Launch(firmware=large, vcpus=1))
