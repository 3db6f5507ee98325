"""Secure Boot: signatures that other tools take, and the key that lets an image start."""

from __future__ import annotations

import datetime
import hashlib
import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import making_pe
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import authenticode, pcrs, pe, secure_boot
from jewelhouse.images.secure_boot import SecureBoot, key_list

OWNER = uuid.UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")
OTHER_OWNER = uuid.UUID("11111111-2222-3333-4444-555555555555")
GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")


class Party:
    """A key with its certificate, and what it signs."""

    def __init__(self, name: str, issuer: Party | None = None, *, ca: bool = False) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        by = issuer or self
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(by.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime(2020, 1, 1))
            .not_valid_after(datetime.datetime(2021, 1, 1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(by.key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def files(self, directory: Path) -> tuple[Path, Path]:
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return key, certificate

    def list(self, owner: uuid.UUID = OWNER) -> bytes:
        return key_list(self.certificate, owner)


@pytest.fixture(scope="module")
def root() -> Party:
    return Party("root", ca=True)


@pytest.fixture(scope="module")
def signer(root) -> Party:
    return Party("signer", root)


@pytest.fixture(scope="module")
def stranger() -> Party:
    return Party("stranger", ca=True)


@pytest.fixture
def unsigned(tmp_path) -> Path:
    path = tmp_path / "image.efi"
    path.write_bytes(making_pe.uki())
    return path


@pytest.fixture
def signed(unsigned, tmp_path, signer) -> Path:
    key, certificate = signer.files(tmp_path)
    authenticode.sign(unsigned, key=key, certificate=certificate)
    return unsigned


def keys(allowed: bytes, forbidden: bytes = b"", owner: bytes | None = None) -> SecureBoot:
    platform = owner if owner is not None else allowed
    return SecureBoot(platform_key=platform, exchange_keys=platform, allowed=allowed, forbidden=forbidden)


def test_a_signature_changes_no_register(tmp_path, unsigned, signer):
    """Authenticode leaves the signature out of the digest that it signs, which PCR4 is made of."""
    before = pcrs.predict(unsigned)
    key, certificate = signer.files(tmp_path)
    authenticode.sign(unsigned, key=key, certificate=certificate)
    assert pcrs.predict(unsigned) == before


def test_the_same_key_and_image_give_the_same_file(tmp_path, signer):
    made = []
    for name in ("first", "second"):
        directory = tmp_path / name
        directory.mkdir()
        path = directory / f"{name}.efi"
        path.write_bytes(making_pe.uki())
        key, certificate = signer.files(directory)
        authenticode.sign(path, key=key, certificate=certificate)
        made.append(path.read_bytes())
    assert made[0] == made[1]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def test_sbverify_takes_our_signature_and_no_other_key(signed, tmp_path, stranger):
    certificate = tmp_path / "certificate.pem"
    assert run(tool("sbverify"), "--cert", certificate, signed).returncode == 0
    other = tmp_path / "other.pem"
    other.write_bytes(stranger.certificate.public_bytes(serialization.Encoding.PEM))
    assert run(tool("sbverify"), "--cert", other, signed).returncode != 0


def test_osslsigncode_computes_the_digest_that_we_sign(signed):
    said = run(tool("osslsigncode"), "verify", "-in", signed).stdout
    wanted = pe.authenticode(pe.read(signed), ["sha256"])["sha256"].hex().upper()
    assert f"Calculated message digest : {wanted}" in said
    assert f"Current message digest    : {wanted}" in said


def test_signatures_of_sbsign_are_taken(unsigned, tmp_path, signer):
    key, certificate = signer.files(tmp_path)
    output = tmp_path / "by-sbsign.efi"
    done = run(tool("sbsign"), "--key", key, "--cert", certificate, "--output", output, unsigned)
    assert not done.returncode, done.stderr
    (found,) = authenticode.signatures(pe.read(output))
    assert found.signer == signer.certificate
    assert pcrs.predict(output) == pcrs.predict(unsigned)


def measured(bank: str, vendor: uuid.UUID, name: str, value: bytes) -> bytes:
    head = vendor.bytes_le + struct.pack("<QQ", len(name), len(value))
    return hashlib.new(bank, head + name.encode("utf-16-le") + value).digest()


def test_pcr7_has_the_keys_and_the_one_that_let_the_image_start(signed, signer, stranger, root):
    given = SecureBoot(
        platform_key=stranger.list(),
        exchange_keys=stranger.list() + root.list(),
        allowed=stranger.list() + signer.list(OTHER_OWNER),
        forbidden=key_list(Party("revoked", ca=True).certificate, OWNER),
    )
    found = pcrs.predict(signed, secure_boot=given)
    for bank in pcrs.BANKS:
        value = bytes(hashlib.new(bank).digest_size)
        for event in (
            measured(bank, GLOBAL, "SecureBoot", b"\1"),
            measured(bank, GLOBAL, "PK", given.platform_key),
            measured(bank, GLOBAL, "KEK", given.exchange_keys),
            measured(bank, IMAGE_SECURITY, "db", given.allowed),
            measured(bank, IMAGE_SECURITY, "dbx", given.forbidden),
            hashlib.new(bank, bytes(4)).digest(),
            measured(bank, IMAGE_SECURITY, "db", OTHER_OWNER.bytes_le + signer.der),
        ):
            value = hashlib.new(bank, value + event).digest()
        assert found[bank]["PCR7"] == value.hex()


def test_with_secure_boot_the_firmware_does_not_measure_the_kernel(signed, signer):
    """The stub goes round the check of the kernel, which it has in itself and which nobody signed."""
    off, on = pcrs.predict(signed), pcrs.predict(signed, secure_boot=keys(signer.list()))
    differing = {name for name in off["sha384"] if off["sha384"][name] != on["sha384"][name]}
    assert differing == {"PCR4", "PCR7"}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (("signer",), "signer"),
        (("root",), "root"),
        (("stranger", "root", "signer"), "root"),
        (("stranger", "signer", "root"), "signer"),
    ],
)
def test_the_first_entry_that_leads_to_the_signer_is_measured(
    signed, root, signer, stranger, order, expected
):
    parties = {"root": root, "signer": signer, "stranger": stranger}
    allowed = b"".join(parties[name].list() for name in order)
    assert secure_boot.authority(pe.read(signed), keys(allowed)) == OWNER.bytes_le + parties[expected].der


def digest_list(kind: str, *digests: bytes) -> bytes:
    size = 16 + len(digests[0])
    head = struct.pack("<16sIII", uuid.UUID(kind).bytes_le, 28 + size * len(digests), 0, size)
    return head + b"".join(OWNER.bytes_le + digest for digest in digests)


SHA256 = "c1c41626-504c-4092-aca9-41f936934328"
REVOKED_SHA256 = "3bd2a492-96c0-4079-b420-fcf98ef103ed"


def test_an_unsigned_image_starts_by_its_digest(unsigned):
    image = pe.read(unsigned)
    digest = pe.authenticode(image, ["sha256"])["sha256"]
    allowed = digest_list(SHA256, bytes(32), digest)
    assert secure_boot.authority(image, keys(allowed)) == OWNER.bytes_le + digest


def revoked(party: Party) -> bytes:
    """Digest of the signed part of a certificate, and a time of revocation."""
    return hashlib.sha256(party.certificate.tbs_certificate_bytes).digest() + bytes(16)


def image_digest(image: pe.Image) -> bytes:
    return pe.authenticode(image, ["sha256"])["sha256"]


UNKNOWN_KIND = "00000000-1111-2222-3333-444444444444"
# From root, signer, stranger and the image that the signer signed.
REFUSED = {
    "key-of-a-stranger": (lambda r, s, o, i: keys(o.list()), "db has no key"),
    "stranger-with-the-name-of-the-issuer": (
        lambda r, s, o, i: keys(Party("root", ca=True).list()),
        "db has no",
    ),
    "empty-db": (lambda r, s, o, i: keys(b"", owner=o.list()), "db has no key"),
    "no-platform-key-so-it-is-off": (lambda r, s, o, i: keys(r.list(), owner=b""), "PK: is empty"),
    "digest-of-another-image": (lambda r, s, o, i: keys(digest_list(SHA256, bytes(32))), "db has no key"),
    "revoked-signer": (lambda r, s, o, i: keys(r.list(), s.list()), "dbx forbids"),
    "revoked-issuer": (lambda r, s, o, i: keys(s.list(), r.list()), "dbx forbids"),
    "revoked-by-digest-of-the-certificate": (
        lambda r, s, o, i: keys(r.list(), digest_list(REVOKED_SHA256, revoked(s))),
        "dbx forbids",
    ),
    "revoked-by-digest-of-the-image": (
        lambda r, s, o, i: keys(r.list(), digest_list(SHA256, bytes(32), image_digest(i))),
        "dbx forbids",
    ),
    "revocation-of-an-unknown-kind": (
        lambda r, s, o, i: keys(r.list(), digest_list(UNKNOWN_KIND, bytes(32))),
        "unknown kind",
    ),
    "list-cut-short": (lambda r, s, o, i: keys(r.list()[:-1], owner=r.list()), "db: offset 0"),
    "list-of-no-size-for-ever": (
        lambda r, s, o, i: keys(r.list() + bytes(28), owner=r.list()),
        "has a list of 0 bytes",
    ),
    "attributes-that-linux-shows-before-it": (
        lambda r, s, o, i: keys(b"\x27\0\0\0" + r.list(), owner=r.list()),
        "db: offset 0",
    ),
    "certificate-that-is-none": (
        lambda r, s, o, i: keys(digest_list(str(secure_boot.X509), b"no certificate"), owner=r.list()),
        "certificate that cannot be read",
    ),
}


@pytest.mark.parametrize(("given", "says"), REFUSED.values(), ids=REFUSED)
def test_an_image_that_the_firmware_would_not_start_is_not_predicted(
    signed, root, signer, stranger, given, says
):
    with pytest.raises(JewelhouseError, match=says):
        pcrs.predict(signed, secure_boot=given(root, signer, stranger, pe.read(signed)))


def test_an_unsigned_image_is_not_predicted_with_secure_boot(unsigned, signer):
    with pytest.raises(JewelhouseError, match="it is not signed"):
        pcrs.predict(unsigned, secure_boot=keys(signer.list()))


def test_an_issuer_that_may_not_issue_is_none(unsigned, tmp_path, root):
    middle = Party("middle", root)
    key, certificate = Party("end", middle).files(tmp_path)
    authenticode.sign(unsigned, key=key, certificate=certificate)
    with pytest.raises(JewelhouseError, match="db has no key"):
        pcrs.predict(unsigned, secure_boot=keys(middle.list()))


def sections_of(path: Path) -> list[int]:
    """An offset in each section's data."""
    return [section.offset for section in pe.read(path).sections]


def test_a_signature_does_not_hold_over_a_changed_image(signed, signer):
    for offset in sections_of(signed):
        data = bytearray(signed.read_bytes())
        data[offset] ^= 1
        changed = signed.with_name("changed.efi")
        changed.write_bytes(data)
        with pytest.raises(authenticode.MalformedSignature, match="does not hold"):
            list(authenticode.signatures(pe.read(changed)))


def test_a_signature_of_another_image_does_not_hold(signed, tmp_path):
    image = pe.read(signed)
    (signature,) = pe.certificates(image)
    other = tmp_path / "other.efi"
    other.write_bytes(making_pe.uki((".cmdline", b"init=/bin/sh")))
    pe.append_certificate(pe.read(other), signature)
    with pytest.raises(authenticode.MalformedSignature, match="does not hold"):
        list(authenticode.signatures(pe.read(other)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_changed_byte_of_a_signature_makes_it_somebody_elses(tmp_path_factory, prepared, data):
    """Whatever is changed in it, it does not hold, or it is the same signer's over the same image."""
    content, signer = prepared
    table = pe.read(content).certificates
    assert table is not None
    start = table[0] + 8
    changed = bytearray(content.read_bytes())
    offset = data.draw(st.integers(start, len(changed) - 1))
    changed[offset] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "image.efi"
    path.write_bytes(changed)
    try:
        found = list(authenticode.signatures(pe.read(path)))
    except (authenticode.MalformedSignature, pe.MalformedPe):
        return
    assert [one.signer.public_key() for one in found] == [signer.key.public_key()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, signer) -> tuple[Path, Party]:
    directory = tmp_path_factory.mktemp("prepared")
    path = directory / "image.efi"
    path.write_bytes(making_pe.uki())
    key, certificate = signer.files(directory)
    authenticode.sign(path, key=key, certificate=certificate)
    return path, signer


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_databases(data):
    try:
        found = list(secure_boot.entries(data, "db"))
    except secure_boot.MalformedKeys:
        return
    assert sum(16 + len(one.value) for one in found) <= len(data)


def pem(
    path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None
) -> Path:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda: (ec.generate_private_key(ec.SECP256R1()), None), "RSA", id="elliptic-curve"),
        pytest.param(lambda: (rsa.generate_private_key(65537, 1024), None), "2048", id="short-key"),
        pytest.param(
            lambda: (rsa.generate_private_key(65537, 2048), None), "another key", id="key-of-another"
        ),
        pytest.param(
            lambda: (rsa.generate_private_key(65537, 2048), b"x"), "without a password", id="password"
        ),
    ],
)
def test_a_key_that_firmware_does_not_take_signs_nothing(unsigned, tmp_path, signer, make, says):
    _, certificate = signer.files(tmp_path)
    before = unsigned.read_bytes()
    key, password = make()
    with pytest.raises(JewelhouseError, match=says):
        authenticode.sign(unsigned, key=pem(tmp_path / "other.pem", key, password), certificate=certificate)
    assert unsigned.read_bytes() == before


def test_a_signed_image_is_not_signed_again(signed, tmp_path, signer):
    key, certificate = signer.files(tmp_path)
    with pytest.raises(JewelhouseError, match="has a signature"):
        authenticode.sign(signed, key=key, certificate=certificate)
