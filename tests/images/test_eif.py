"""Enclave images: what AWS's own code says of them, and every malformed file refused with its offset."""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import json
import os
import struct
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

import oracles
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import eif, eif_build
from jewelhouse.images.eif_build import Parts, build, joined_crc

# Computed from the format's description, apart from this code (README.md of the image format).
VECTOR = {
    "PCR0": "4e0fe8a033babccd181a1ce2e0b592536ee0ff6cfcfa50d77f8888e2d99c1061"
    "d92bfe48659198333dc0cbaf3e82720a",
    "PCR1": "6e37b98d2c46c98c1630f0bc35d86ee43577562c3f033e3659fc0a279d9c64dc"
    "1b16de25f838321106a94f057097e10e",
    "PCR2": "f3b9e4b60fc5388f37bc184a220c35daf39386a0c7f9ae4668c433efb337833d"
    "fbd0917d919504d3077c4f740b7e46ec",
}
# PCR2 of every image with one ramdisk (tkhq/qos README).
ONE_RAMDISK = (
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
)
METADATA = {
    "ImageName": "test",
    "ImageVersion": "1",
    "BuildMetadata": {
        "BuildTime": "1970-01-01T00:00:00+00:00",
        "BuildTool": "jewelhouse",
        "BuildToolVersion": "1",
        "OperatingSystem": "Linux",
        "KernelVersion": "6.12",
    },
    "DockerInfo": None,
    "CustomMetadata": None,
}


def parts(
    directory: Path, *ramdisks: bytes, kernel: bytes = b"KERNEL", cmdline: str = "console=ttyS0", **others
) -> Parts:
    directory.mkdir(exist_ok=True)
    (directory / "kernel").write_bytes(kernel)
    paths = []
    for index, data in enumerate(ramdisks):
        paths.append(directory / f"ramdisk{index}")
        paths[-1].write_bytes(data)
    others.setdefault("metadata", METADATA)
    return Parts(kernel=directory / "kernel", cmdline=cmdline, ramdisks=paths, **others)


def signer(
    curve: ec.EllipticCurve | None = None,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(curve or ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
    )
    return key, made.sign(key, hashes.SHA384())


def measured(path: Path) -> eif.Measured:
    return eif.measure(path)


def measured_bytes(data: bytes) -> eif.Measured:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image.eif"
        path.write_bytes(data)
        return eif.measure(path)


def test_the_synthetic_vector(tmp_path):
    image = tmp_path / "image.eif"
    registers = build(parts(tmp_path, b"RD0", b"RD1", metadata={}), image)
    assert registers == VECTOR == measured(image).registers
    data = image.read_bytes()
    assert (len(data), data[544:548].hex()) == (635, "d92e6bcb")


def test_one_ramdisk_has_the_constant_that_no_policy_may_pin_alone(tmp_path):
    registers = build(parts(tmp_path, b"RD0"), tmp_path / "image.eif")
    assert registers["PCR2"] == ONE_RAMDISK
    assert registers["PCR0"] == registers["PCR1"]


CASES = {
    "one ramdisk": {"ramdisks": [b"RD0"]},
    "two": {"ramdisks": [b"RD0", b"RD1"]},
    "many": {"ramdisks": [bytes([n]) * n for n in range(1, 29)]},
    "an empty first ramdisk": {"ramdisks": [b"", b"RD1"]},
    "an empty last ramdisk": {"ramdisks": [b"RD0", b""]},
    "an empty kernel": {"ramdisks": [b"RD0"], "kernel": b""},
    "an empty command line": {"ramdisks": [b"RD0"], "cmdline": ""},
    "chunk edges": {"ramdisks": [b"a" * eif.CHUNK, b"b" * (eif.CHUNK + 1), b"c" * (3 * eif.CHUNK - 1)]},
    "aarch64": {"ramdisks": [b"RD0", b"RD1"], "architecture": "aarch64"},
}


@pytest.mark.parametrize("case", CASES)
def test_aws_builds_the_same_bytes_and_reads_ours(tmp_path, case):
    chosen = dict(CASES[case])
    made = parts(tmp_path, *chosen.pop("ramdisks"), **chosen)
    ours, theirs = tmp_path / "ours.eif", tmp_path / "theirs.eif"
    registers = build(made, ours)
    (tmp_path / "metadata.json").write_text(json.dumps(METADATA))
    assert registers == oracles.eif(
        "build", made.kernel, made.cmdline, tmp_path / "metadata.json", theirs, made.architecture, "-", "-",
        *made.ramdisks,
    )  # fmt: skip
    assert oracles.eif("read", ours) == registers == measured(ours).registers
    assert measured(theirs).registers == registers
    assert measured(theirs).layout.architecture == made.architecture
    # The metadata is the same JSON; serde writes its members in another order.
    first, second = (measured(path).layout for path in (ours, theirs))
    assert [(s.kind, s.size) for s in first.sections if s.kind is not eif.SectionKind.METADATA] == [
        (s.kind, s.size) for s in second.sections if s.kind is not eif.SectionKind.METADATA
    ]


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1], ids=lambda curve: curve.name)
def test_aws_verifies_our_signature_and_we_verify_theirs(tmp_path, curve):
    key, certificate = signer(curve())
    made = parts(tmp_path, b"RD0", b"RD1", signer=(key, certificate))
    registers = build(made, tmp_path / "ours.eif")
    assert (
        oracles.eif("read", tmp_path / "ours.eif") == registers == measured(tmp_path / "ours.eif").registers
    )
    (tmp_path / "metadata.json").write_text(json.dumps(METADATA))
    (tmp_path / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    theirs = oracles.eif(
        "build", made.kernel, made.cmdline, tmp_path / "metadata.json", tmp_path / "theirs.eif", "x86_64",
        tmp_path / "key.pem", tmp_path / "certificate.pem", *made.ramdisks,
    )  # fmt: skip
    assert theirs == registers == measured(tmp_path / "theirs.eif").registers


def test_two_builds_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        build(parts(tmp_path / name, b"RD0" * 999, b"RD1" * 999_999), tmp_path / f"{name}.eif")
    assert (tmp_path / "one.eif").read_bytes() == (tmp_path / "two.eif").read_bytes()


@pytest.mark.parametrize(
    ("change", "registers"),
    [
        ({"kernel": b"KERNEM"}, {"PCR0", "PCR1"}),
        ({"cmdline": "console=ttyS1"}, {"PCR0", "PCR1"}),
        ({"ramdisks": (b"RDX", b"RD1")}, {"PCR0", "PCR1"}),
        ({"ramdisks": (b"RD0", b"RDX")}, {"PCR0", "PCR2"}),
        ({"metadata": {**METADATA, "ImageName": "other"}}, set()),
        ({"architecture": "aarch64"}, set()),
    ],
    ids=["kernel", "command line", "first ramdisk", "second ramdisk", "metadata", "architecture"],
)
def test_one_changed_byte_changes_its_registers_and_no_other(tmp_path, change, registers):
    before = build(parts(tmp_path / "before", b"RD0", b"RD1"), tmp_path / "before.eif")
    change = dict(change)
    after = build(
        parts(tmp_path / "after", *change.pop("ramdisks", (b"RD0", b"RD1")), **change), tmp_path / "after.eif"
    )
    assert {name for name in before if before[name] != after[name]} == registers


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ramdisks": ()}, "needs a ramdisk"),
        ({"ramdisks": (b"x",) * 30}, "too many"),
        ({"cmdline": "console=ttyS0\n"}, "without newline"),
        ({"cmdline": "a\0b"}, "without newline"),
        ({"cmdline": "é"}, "takes ASCII"),
        ({"architecture": "riscv64"}, "has no enclaves"),
        ({"metadata": {"x": "y" * 5_000_000}}, "at most"),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, change, says):
    change = dict(change)
    made = parts(tmp_path / "parts", *change.pop("ramdisks", (b"RD0",)), **change)
    with pytest.raises(JewelhouseError, match=says):
        build(made, tmp_path / "image.eif")
    assert {path.name for path in tmp_path.iterdir()} == {"parts"}


def test_a_certificate_of_another_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match="another key"):
        build(parts(tmp_path, b"RD0", signer=(signer()[0], signer()[1])), tmp_path / "image.eif")
    assert not (tmp_path / "image.eif").exists()


# Malformed files: each is a whole image with one thing wrong and a CRC that holds.


def image(tmp_path: Path, **others) -> bytearray:
    build(parts(tmp_path, b"RD0", b"RD1", **others), tmp_path / "image.eif")
    return bytearray((tmp_path / "image.eif").read_bytes())


def resealed(data: bytearray) -> bytes:
    """With the CRC that belongs to its bytes."""
    struct.pack_into(">I", data, 544, zlib.crc32(data[548:], zlib.crc32(data[:544])))
    return bytes(data)


def put(form: str, offset: int, value: int):
    def change(data: bytearray) -> None:
        struct.pack_into(form, data, offset, value)

    return change


def append(more: bytes):
    def change(data: bytearray) -> None:
        data.extend(more)

    return change


MALFORMED = {
    "another magic": (put(">B", 0, 0x2F), 0, "begins with"),
    "version 3": (put(">H", 4, 3), 4, "format version 3"),
    "version 5": (put(">H", 4, 5), 4, "format version 5"),
    "unknown flags": (put(">H", 6, 2), 6, "unknown flags"),
    "reserved bytes": (put(">H", 24, 1), 24, "reserved"),
    "no sections": (put(">H", 26, 0), 26, "states 0 sections"),
    "33 sections": (put(">H", 26, 33), 26, "states 33 sections"),
    "a section less than there is": (put(">H", 26, 4), 60, "beyond its count"),
    "a section more than there is": (put(">H", 26, 6), 68, "should begin at"),
    "unused bytes": (put(">I", 540, 1), 540, "unused"),
    "an offset that is off by one": (put(">Q", 36, 567), 36, "should begin at"),
    "a size that the section denies": (put(">Q", 284, 7), 552, "the header 7"),
    "a huge size": (put(">Q", 284, 2**63), 548, "ends at"),
    "an unknown section type": (put(">H", 548, 6), 548, "unknown type 6"),
    "an invalid section type": (put(">H", 548, 0), 548, "unknown type 0"),
    "section flags": (put(">H", 550, 1), 550, "unknown flags"),
    "two kernels": (put(">H", 566, 1), 28, "2 kernel sections"),
    "no kernel": (put(">H", 548, 3), 28, "0 kernel sections"),
    "trailing bytes": (append(b"\0"), 635 + 186, "after its last section"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_with_its_offset(tmp_path, name):
    change, offset, says = MALFORMED[name]
    data = image(tmp_path)
    change(data)
    with pytest.raises(eif.MalformedImage, match=says) as raised:
        measured_bytes(resealed(data))
    if name != "trailing bytes":
        assert raised.value.where == f"offset {offset}"


def test_a_ramdisk_before_the_kernel_is_refused(tmp_path):
    data = image(tmp_path)
    found = eif.layout(io.BytesIO(data))
    first, last = found.sections[0], found.sections[-1]
    for section, kind in ((first, 3), (last, 1)):
        struct.pack_into(">H", data, section.offset - 12, kind)
    with pytest.raises(eif.MalformedImage, match="out of order"):
        measured_bytes(resealed(data))


def test_a_wrong_crc_is_refused(tmp_path):
    data = image(tmp_path)
    data[-1] ^= 1
    with pytest.raises(eif.MalformedImage, match="CRC") as raised:
        measured_bytes(bytes(data))
    assert raised.value.where == "offset 544"


def test_what_awss_reader_lets_pass_is_refused_here(tmp_path):
    data = image(tmp_path)
    struct.pack_into(">H", data, 26, 4)
    (tmp_path / "wrong.eif").write_bytes(resealed(data))
    assert oracles.eif("read", tmp_path / "wrong.eif") == VECTOR
    with pytest.raises(eif.MalformedImage):
        measured(tmp_path / "wrong.eif")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data.replace(b"RD1", b"RDX"), "another PCR0"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "does not hold"),
    ],
    ids=["content changed after signing", "signature changed"],
)
def test_a_signature_that_does_not_hold_is_refused(tmp_path, change, says):
    data = bytearray(change(bytes(image(tmp_path, signer=signer()))))
    with pytest.raises(eif.MalformedImage, match=says):
        measured_bytes(resealed(data))


def test_another_certificate_is_another_register(tmp_path):
    key, first = signer()
    registers = build(parts(tmp_path, b"RD0", signer=(key, first)), tmp_path / "image.eif")
    other = build(parts(tmp_path, b"RD0", signer=signer()), tmp_path / "image.eif")
    assert registers["PCR0"] == other["PCR0"]
    assert registers["PCR8"] != other["PCR8"]


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> bytes:
    return bytes(image(tmp_path_factory.mktemp("signed"), signer=signer()))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_is_refused(signed, data):
    whole = signed
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "resealed flip"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if kind == "cut":
        damaged = whole[:at]
    elif kind == "add":
        damaged = whole[:at] + b"\0" + whole[at:]
    else:
        damaged = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
        damaged = resealed(bytearray(damaged)) if kind == "resealed flip" else damaged
    if kind != "resealed flip":
        with pytest.raises(eif.MalformedImage):
            measured_bytes(damaged)
        return
    # With a CRC that holds, only what the signature does not cover can differ: memory, CPUs, architecture,
    # metadata, and the certificate, which is PCR8.
    with contextlib.suppress(eif.MalformedImage):
        found, right = measured_bytes(damaged), measured_bytes(whole)
        assert {**found.registers, "PCR8": ""} == {**right.registers, "PCR8": ""}


@given(st.binary(max_size=700))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_refused(data):
    with pytest.raises(eif.MalformedImage):
        measured_bytes(data)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_joined_crc_is_that_of_the_whole(first, second):
    assert joined_crc(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_an_interrupted_build_leaves_the_old_image(tmp_path, monkeypatch):
    made = parts(tmp_path / "parts", b"RD0")
    build(made, tmp_path / "image.eif")
    before = (tmp_path / "image.eif").read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(eif_build, "joined_crc", stop)
    with pytest.raises(KeyboardInterrupt):
        build(made, tmp_path / "image.eif")
    assert (tmp_path / "image.eif").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"parts", "image.eif"}


def test_the_oracle_refuses_what_is_no_image(tmp_path):
    (tmp_path / "no.eif").write_bytes(b"no image")
    with pytest.raises(subprocess.CalledProcessError):
        oracles.eif("read", tmp_path / "no.eif")


def test_a_disk_that_is_too_small_says_so_before_any_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(eif_build, "take", None)
    with pytest.raises(JewelhouseError, match="has no room") as caught:
        build(parts(tmp_path / "parts", b"RD0"), tmp_path / "image.eif")
    assert caught.value.where == str(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"parts"}


@pytest.mark.parametrize("change", ["shorter", "overwritten in place with its old time", "longer"])
def test_a_ramdisk_that_changes_while_it_is_read_makes_no_image(tmp_path, monkeypatch, change):
    made = parts(tmp_path / "parts", b"RD0", b"x" * (3 * eif.CHUNK))
    ramdisk = made.ramdisks[1]
    before = ramdisk.stat()
    reserve = eif_build._reserve

    def meanwhile(*arguments):
        reserve(*arguments)
        time.sleep(0.02)
        with ramdisk.open("r+b") as file:
            if change == "shorter":
                file.truncate(eif.CHUNK)
            elif change == "longer":
                file.truncate(4 * eif.CHUNK)
            else:
                file.write(b"y")
        os.utime(ramdisk, ns=(before.st_atime_ns, before.st_mtime_ns))

    monkeypatch.setattr(eif_build, "_reserve", meanwhile)
    with pytest.raises(JewelhouseError, match="changed while"):
        build(made, tmp_path / "image.eif")
    assert {path.name for path in tmp_path.iterdir()} == {"parts"}


@pytest.mark.parametrize("written", [0, 1, 4, 12])
def test_a_failed_write_is_an_error_wherever_it_happens(tmp_path, monkeypatch, written):
    """Two threads take turns at writing: neither may keep a failure to itself."""
    made = parts(tmp_path / "parts", b"RD0", b"x" * (8 * eif.CHUNK))
    left = iter(range(written))

    def put(out, data):
        if next(left, None) is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(eif_build, "_put", put)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        build(made, tmp_path / "image.eif")
    assert {path.name for path in tmp_path.iterdir()} == {"parts"}
