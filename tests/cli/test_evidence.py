"""`jewelhouse evidence show|verify`: every real file gets the verdict of its manifest, by exit code."""

from __future__ import annotations

import base64
import io
import json
import sys
from types import SimpleNamespace

import pytest
import real

SNP, TDX, MAA, GPU = "amd-sev-snp", "intel-tdx", "azure-maa", "nvidia"
JWKS = f"{MAA}/sharedweu-certs-snapshot.jsonc"
# file, endorsements, when, exit code of verify, kind, debug
FILES = [
    ("aws-nitro/evervault-valid.bin", (), "evidence", 0, "nitro-enclave", False),
    ("aws-nitro/evervault-valid.bin", (), "now", 1, "nitro-enclave", False),
    ("aws-nitro/evervault-valid.bin", (), "2022-10-13T09:30:00Z", 0, "nitro-enclave", False),
    ("aws-nitro/evervault-debug.bin", (), "evidence", 0, "nitro-enclave", True),
    ("aws-nitro/oyster-aws.bin", (), "evidence", 0, "nitro-enclave", False),
    ("aws-nitro/dstack-nsm-qvl.bin", (), "evidence", 0, "nitro-enclave", False),
    ("aws-nitro/oyster-custom-root.bin", (), "evidence", 1, "nitro-enclave", False),
    (f"{MAA}/tvl-sharedweu-cvm.jwt", (JWKS,), "2022-12-24T01:00:00Z", 0, "maa", False),
    (f"{MAA}/tvl-sharedweu-cvm.jwt", (JWKS,), "now", 1, "maa", False),
    (f"{MAA}/tvl-sharedweu-cvm.jwt", (), "evidence", 1, "maa", False),
    (f"{MAA}/ms-aks-cvm-sharedwus.jwt", (JWKS,), "evidence", 1, "maa", False),
    (f"{MAA}/ms-sevsnpvm-testring.jwt", (), "evidence", 1, "maa", False),
    ("gcp-confidential-space/oak-ctf-production-tdx.jwt", (), "evidence", 0, "confidential-space", False),
    ("gcp-confidential-space/oak-ctf-production-tdx.jwt", (), "now", 1, "confidential-space", False),
    ("gcp-confidential-space/oak-invalid-signature.jwt", (), "evidence", 1, "confidential-space", True),
    (
        f"{SNP}/milan-report.bin",
        (f"{SNP}/milan-vcek.pem", f"{SNP}/roots/ask_ark_milan.pem"),
        "evidence",
        0,
        "sev-snp",
        False,
    ),
    (
        f"{SNP}/genoa-report.bin",
        (f"{SNP}/genoa-vcek.pem", f"{SNP}/roots/ask_ark_genoa.pem"),
        "evidence",
        0,
        "sev-snp",
        False,
    ),
    (
        f"{SNP}/genoa-report.bin",
        (f"{SNP}/milan-vcek.pem", f"{SNP}/roots/ask_ark_milan.pem"),
        "evidence",
        1,
        "sev-snp",
        False,
    ),
    (
        f"{SNP}/azure-aci/snp_report.bin",
        (f"{SNP}/azure-aci/uvm_host_amd_certificate.json",),
        "evidence",
        0,
        "sev-snp",
        False,
    ),
    (f"{SNP}/milan-report.bin", (), "evidence", 1, "sev-snp", False),
    (
        f"{TDX}/dcap-qvl/tdx_quote",
        (f"{TDX}/dcap-qvl/tdx_quote_collateral.json",),
        "2025-06-19T12:00:00Z",
        0,
        "tdx",
        False,
    ),
    (f"{TDX}/dcap-qvl/tdx_quote", (f"{TDX}/dcap-qvl/tdx_quote_collateral.json",), "now", 1, "tdx", False),
    (
        f"{TDX}/dcap-qvl/tdx_quote_outdated",
        (f"{TDX}/dcap-qvl/tdx_quote_outdated_collateral.json",),
        "evidence",
        1,
        "tdx",
        False,
    ),
    (f"{TDX}/tdx_prod_quote_SPR_E4.dat", (), "evidence", 1, "tdx", False),
    (
        f"{GPU}/hopperAttestationReport.txt",
        (f"{GPU}/hopperCertChain.txt",),
        "evidence",
        0,
        "nvidia-spdm",
        False,
    ),
    (
        f"{GPU}/hopperAttestationReportInvalidSignature.txt",
        (f"{GPU}/hopperCertChain.txt",),
        "evidence",
        1,
        "nvidia-spdm",
        False,
    ),
    (f"{GPU}/evidence_hopper_590_12.json", (), "evidence", 0, "nvidia-spdm", False),
]


@pytest.mark.parametrize(
    ("name", "endorsements", "at", "code", "kind", "debug"),
    FILES,
    ids=[f"{row[0].rpartition('/')[2]} {row[2]} {'with' if row[1] else 'alone'}" for row in FILES],
)
def test_every_real_file_gets_the_verdict_of_its_manifest(run, name, endorsements, at, code, kind, debug):
    options = [word for one in endorsements for word in ("--with", real.path(one))]
    found, printed, _ = run("evidence", "verify", real.path(name), *options, "--at", at, "--json")
    verdict = json.loads(printed)
    assert (found, verdict["kind"], verdict["debug"]) == (code, kind, debug), verdict["problems"]
    assert verdict["verified"] is (code == 0) is (not verdict["problems"])
    assert set(verdict) >= {"kind", "verified", "debug", "at", "chain", "measurements", "claims", "problems"}
    assert all(set(problem) == {"where", "what"} for problem in verdict["problems"])
    shown, text, _ = run("evidence", "show", real.path(name), *options, "--at", at)
    assert shown == 0
    assert kind in text
    assert ("not verified at" in text) is (code == 1)


@pytest.mark.parametrize("kind", ["base64", "hex", "stdin"])
def test_other_forms_of_the_same_file(run, tmp_path, monkeypatch, kind):
    data = real.evidence("aws-nitro/evervault-valid.bin")
    path = tmp_path / "evidence"
    if kind == "stdin":
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        monkeypatch.setattr("typer.get_binary_stream", lambda name: io.BytesIO(data))
        path = "-"
    else:
        path.write_bytes(base64.b64encode(data) if kind == "base64" else data.hex().encode())
    assert run("evidence", "verify", path, "--at", "evidence")[0] == 0


def test_the_challenge_must_be_answered(run):
    path = real.path("aws-nitro/evervault-valid.bin")
    _, printed, _ = run("evidence", "show", path, "--json")
    nonce = json.loads(printed)["nonce"]
    assert run("evidence", "verify", path, "--at", "evidence", "--nonce", nonce)[0] == 0
    assert run("evidence", "verify", path, "--at", "evidence", "--nonce", "00ff")[0] == 1


def test_the_words_are_those_of_rats(run):
    _, text, _ = run("evidence", "show", real.path(f"{MAA}/tvl-sharedweu-cvm.jwt"))
    assert "Attestation Result" in text
    assert "signed by the Verifier, Microsoft Azure Attestation" in text
    _, text, _ = run("evidence", "show", real.path("aws-nitro/evervault-debug.bin"))
    assert "Evidence of a Nitro Enclave" in text
    assert "debug: its memory is open" in text


@pytest.mark.parametrize(
    ("arguments", "content", "says"),
    [
        ((), b"", "is empty"),
        ((), b"not evidence", "no evidence of a format"),
        ((), b"\x84\x44\xa1\x01\x38\x22\xa0", "document"),
        (("--at", "yesterday"), b"x", "is no time"),
        (("--nonce", "xyz"), b"x", "is not hex"),
        (("--with", "/nowhere/jwks.json"), b"x", "cannot be read"),
    ],
)
def test_what_cannot_be_judged_exits_with_2_and_says_why(run, tmp_path, arguments, content, says):
    path = tmp_path / "evidence"
    path.write_bytes(content)
    code, _, complaint = run("evidence", "verify", path, *arguments)
    assert code == 2
    assert says in complaint
    assert "Traceback" not in complaint


def test_a_missing_file_exits_with_2(run, tmp_path):
    code, _, complaint = run("evidence", "verify", tmp_path / "nothing")
    assert (code, "cannot be read" in complaint) == (2, True)
