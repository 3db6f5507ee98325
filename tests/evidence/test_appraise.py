"""Evidence is recognised by its content, in every wrapping seen in the wild."""

from __future__ import annotations

import base64
import contextlib

import pytest
import real
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.evidence import appraise
from jewelhouse.evidence.verdict import MalformedEvidence

FILES = {
    "aws-nitro/evervault-valid.bin": "nitro",
    "aws-nitro/dstack-nsm-qvl.bin": "nitro",
    "aws-nitro/oyster-custom-root.bin": "nitro",
    "azure-maa/tvl-sharedweu-cvm.jwt": "maa",
    "azure-maa/ms-sevsnpvm-testring.jwt": "maa",
    "gcp-confidential-space/oak-ctf-production-tdx.jwt": "confidential_space",
    "gcp-confidential-space/oak-invalid-signature.jwt": "confidential_space",
    "amd-sev-snp/milan-report.bin": "snp",
    "amd-sev-snp/azure-aci/snp_report.bin": "snp",
    "intel-tdx/tdx_prod_quote_SPR_E4.dat": "tdx",
    "intel-tdx/quote_v5_sample.dat": "tdx",
    "nvidia/hopperAttestationReport.txt": "nvidia",
    "nvidia/evidence_hopper_590_12.json": "nvidia",
}
WRAPPINGS = {
    "as it is": lambda data: data,
    "base64": base64.b64encode,
    "base64url without padding": lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
    "base64 in lines": base64.encodebytes,
    "hex": lambda data: data.hex().encode(),
    "upper-case hex with a newline": lambda data: data.hex().upper().encode() + b"\n",
    "hex with 0x": lambda data: b"0x" + data.hex().encode(),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(("name", "module"), FILES.items())
def test_real_evidence_is_recognised(name, module, wrapping):
    assert appraise.recognise(WRAPPINGS[wrapping](real.evidence(name))).module == module


def test_framing_is_taken_off_and_said():
    found = appraise.recognise(real.evidence("aws-nitro/dstack-nsm-qvl.bin"))
    assert found.data == real.evidence("aws-nitro/dstack-nsm-qvl.bin")[4 : 4 + 4527]
    assert found.wrapping == ("155 bytes of framing",)


# Files that belong to evidence or to policies are none themselves.
@pytest.mark.parametrize(
    "name",
    [
        "aws-nitro/AWS_NitroEnclaves_Root-G1.pem",
        "azure-maa/sharedweu-certs-snapshot.jsonc",
        "azure-maa/uid2-aci-claims.json",
        "azure-maa/policies/vm-releasePolicyTemplate.json",
        "gcp-confidential-space/synthetic-claims/claims.json",
        "amd-sev-snp/milan-vcek.pem",
        "intel-tdx/dcap-qvl/tdx_quote_collateral.json",
        "nvidia/hopperCertChain.txt",
    ],
)
def test_endorsements_and_claims_alone_are_no_evidence(name):
    with pytest.raises(MalformedEvidence, match="no evidence of a format"):
        appraise.recognise(real.evidence(name))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hello", "no evidence of a format"),
        (b"a.b.c", "no evidence of a format"),
        (b"e30.e30.", "no evidence of a format"),
        (b"[" * 50_000, "no evidence of a format"),
        (b"0" * (appraise.LIMIT + 1), "evidence has at most"),
    ],
)
def test_what_is_no_evidence_is_refused(data, says):
    with pytest.raises(MalformedEvidence, match=says):
        appraise.recognise(data)


@given(st.binary(max_size=1300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_recognised_or_refused(data):
    with contextlib.suppress(MalformedEvidence):
        assert appraise.recognise(data).module in {module for module, _ in appraise.FORMATS}
