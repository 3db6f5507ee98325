"""Evidence of an instance with a NitroTPM, by AWS's program; the release itself is in test_nitro."""

from __future__ import annotations

import os

import pytest
from aws_rehearsed import asked, closed, place, stage

from jewelhouse.evidence import nitro_document
from jewelhouse.evidence.verdict import Kind
from jewelhouse.guest import nitrotpm, opening
from jewelhouse.model import Platform


def program(directory, script: str) -> str:
    path = directory / "nitro-tpm-attest"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def attest(tool: str, **changes: bytes) -> bytes:
    given = {"public_key": b"public", "nonce": b"nonce", "user_data": b"data", **changes}
    return nitrotpm.attestation(tool, **given)


def test_each_value_goes_over_in_a_file(tmp_path):
    tool = program(tmp_path, 'echo "$1 $3 $5 $#"; cat "$2" "$4" "${6:-/dev/null}"')
    assert attest(tool) == b"--public-key --nonce --user-data 6\npublicnoncedata"
    assert attest(tool, user_data=b"") == b"--public-key --nonce  4\npublicnonce"


def test_files_are_gone_and_were_nobody_elses(tmp_path):
    tool = program(tmp_path, 'stat -c %a "$(dirname "$2")"; dirname "$2"')
    mode, directory = attest(tool).decode().split()
    assert mode == "700"
    assert not os.path.exists(directory)


@pytest.mark.parametrize(
    ("wrong", "script", "says"),
    [
        ("fails", "echo no TPM here >&2; exit 3", "ended with 3 and 0 bytes: no TPM here"),
        ("says nothing", "exit 0", "ended with 0 and 0 bytes"),
        ("never ends writing", "head -c 100000 /dev/zero", "and 100000 bytes"),
        ("writes to the terminal", "printf 'clear \\033[2J' >&2; exit 1", "clear  [2J"),
        ("hangs", "exec sleep 30", "gives no document within"),
    ],
)
def test_a_tool_that_fails_is_said_so(tmp_path, monkeypatch, wrong, script, says):
    monkeypatch.setattr(nitrotpm, "TIMEOUT", 0.5 if wrong == "hangs" else 30)
    assert says in closed(lambda: attest(program(tmp_path, script)))


def test_a_tool_that_is_no_program(tmp_path):
    path = tmp_path / "nitro-tpm-attest"
    assert "is not in the image" in closed(lambda: attest(str(path)))
    path.write_bytes(b"")
    assert "cannot be started: Permission denied" in closed(lambda: attest(str(path)))


def test_the_stand_in_program_takes_the_tools_options():
    with place(Platform.AWS_NITROTPM) as here:
        found = nitro_document.parse(attest(str(here.endpoints.tpm)))
    assert found.kind is Kind.NITRO_TPM
    assert (found.public_key, found.nonce, found.user_data) == (b"public", b"nonce", b"data")


def test_evidence_of_an_enclave_is_not_taken_for_one_of_an_instance():
    with place(Platform.AWS_ENCLAVE) as here:
        open_ = opening.opener(stage(Platform.AWS_NITROTPM), here.endpoints)
        assert "is a document of nitro-enclave, not of nitro-tpm" in closed(lambda: open_(asked()))
        assert here.kms.log == []


def test_stores_find_the_region(monkeypatch):
    with place(Platform.AWS_NITROTPM) as here:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        here.opener()
        assert os.environ["AWS_DEFAULT_REGION"] == "eu-central-1"
