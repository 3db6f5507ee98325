"""The guest's own TPM commands against swtpm, tpm2-tools as the second opinion, and hostile responses."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure_rehearsed import machine
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.guest import azure_cvm, tpm
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal import minting_snp, vtpm
from jewelhouse.rehearsal.vtpm import Vtpm

AK = azure_cvm.ATTESTATION_KEY


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Iterator[Vtpm]:
    if not vtpm.available():
        pytest.skip("swtpm is not installed")
    folder = tmp_path_factory.mktemp("vtpm")
    with Vtpm(folder, lambda data: minting_snp.report(machine(), report_data=data)) as made:
        yield made


RELAY = """\
import os, socket, sys
tpm = socket.socket(socket.AF_UNIX)
tpm.connect(sys.argv[1])
while command := os.read(0, 8192):
    tpm.sendall(command)
    os.write(1, tpm.recv(8192))
"""


def tool(here: Vtpm, *command: str) -> bytes:
    """Output of one of tpm2-tools on the same TPM."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (tpm2-tools) is not installed")
    relay = here.path.with_name("relay.py")
    relay.write_text(RELAY)
    environment = {**os.environ, "TPM2TOOLS_TCTI": f"cmd:{sys.executable} {relay} {here.path}"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def pem(numbers: tuple[int, int], path: Path) -> Path:
    public = rsa.RSAPublicNumbers(numbers[1], numbers[0]).public_key()
    path.write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def test_a_quote_passes_tpm2_checkquote(here, tmp_path):
    with tpm.opened(here.path) as call:
        numbers = tpm.numbers(tpm.read_public(call, AK))
        quoted = tpm.quote(call, AK, range(8), b"\xaa" * 32)
        values = tpm.pcr_values(call, range(8))
    for name, content in (("message", quoted.statement), ("signature", quoted.signature)):
        (tmp_path / name).write_bytes(content)
    tool(
        here,
        *("tpm2_checkquote", "-u", str(pem(numbers, tmp_path / "key.pem")), "-g", "sha256", "-q", "aa" * 32),
        *("-m", str(tmp_path / "message"), "-s", str(tmp_path / "signature")),
    )
    selection, digest = vtpm.quoted(quoted.statement)
    assert selection == tpm.selection(range(8))
    assert digest == hashlib.sha256(b"".join(values)).digest()


def test_registers_and_indices_are_what_tpm2_tools_read(here):
    with tpm.opened(here.path) as call:
        values = tpm.pcr_values(call, [0, 3, 7, 16, 23, 1, 2, 4, 5, 6, 8, 9])
        report = tpm.nv_read(call, azure_cvm.REPORT)
    assert tool(here, "tpm2_nvread", "-C", "o", hex(azure_cvm.REPORT)) == report
    shown = tool(here, "tpm2_pcrread", "sha256:0,1,2,3,4,5,6,7,8,9,16,23").decode().lower()
    assert [one.hex() in shown for one in values] == [True] * 12


def test_the_template_is_what_the_tpm_makes_of_it(here):
    with (
        tpm.opened(here.path) as call,
        tpm.ephemeral(call, range(8), os.urandom(256)) as key,
    ):
        values = tpm.pcr_values(call, range(8))
        certified = tpm.certify(call, key.handle, AK, b"")
    assert vtpm.policy(key.public) == tpm.policy_of(range(8), values)
    assert vtpm.certified(certified.statement) == vtpm.name(key.public)
    assert key.numbers[0].bit_length() == 2048


def test_a_key_that_is_not_there(here):
    with (
        tpm.opened(here.path) as call,
        pytest.raises(Closed, match="ReadPublic: is refused by the TPM with 0x18b"),
    ):
        tpm.read_public(call, 0x81000099)


def test_an_index_that_is_not_there(here):
    with tpm.opened(here.path) as call, pytest.raises(Closed, match="NV_ReadPublic: is refused"):
        tpm.nv_read(call, 0x01400099)


def test_a_tpm_that_is_busy_is_asked_again():
    busy = b"\x80\x01\0\0\0\x0a\0\0\x09\x22"
    responses = [busy, busy, b"\x80\x01\0\0\0\x0c\0\0\0\0\0\7"]
    assert tpm.execute(lambda _: responses.pop(0), tpm.READ_PUBLIC, (AK,)).rest == b"\0\7"
    with pytest.raises(Closed, match="0x922"):
        tpm.execute(lambda _: busy, tpm.READ_PUBLIC, (AK,))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_hostile_responses_are_refused_or_read_to_their_end(tail):
    """Whoever stands in for the TPM can make a run fail, and nothing else."""
    response = b"\x80\x02" + (10 + len(tail)).to_bytes(4, "big") + bytes(4) + tail

    def call(_: bytes) -> bytes:
        return response

    for ask in (
        lambda: tpm.nv_read(call, azure_cvm.REPORT),
        lambda: tpm.numbers(tpm.read_public(call, AK)),
        lambda: tpm.pcr_values(call, range(8)),
        lambda: tpm.quote(call, AK, range(8), b""),
        lambda: tpm.decrypt(call, tpm.Key(handle=1, public=b"", numbers=(0, 0)), (0,), b"", tpm.PKCS1),
    ):
        try:
            ask()
        except Closed:
            continue


@pytest.mark.parametrize("response", [b"", b"\x80\x01", b"\x80\x01\0\0\0\x63" + bytes(4)])
def test_responses_that_are_none(response):
    with pytest.raises(Closed):
        tpm.execute(lambda _: response, tpm.READ_PUBLIC, (AK,))
