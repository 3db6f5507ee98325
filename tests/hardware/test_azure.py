from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jewelhouse.hardware import azure
from jewelhouse.model import Enclave, Machine, Platform, Stage, StageKind, Tee

HASH = "wm9mHlvTU82e8UqoOy1Yj1FBRSNkfe99-69IYDq9eWs"


def stage(kind: str | None = "Standard_DC4as_v6", **values) -> Stage:
    defaults = {
        "name": "serve",
        "kind": StageKind.INFERENCE,
        "platform": Platform.AZURE_CVM,
        "tee": Tee.SEV_SNP,
        "operator": "operator",
        "region": "westeurope",
        "image": "server",
        "opens": ("base",),
        "machine": Machine(type=kind) if kind else None,
    }
    return Stage(**{**defaults, **values})


def found(value: Stage) -> list[tuple[str, str]]:
    return [(p.where, f"{p.what}\n{p.remedy}") for p in azure.problems(value, None, "stages.serve")]


@pytest.mark.parametrize(
    ("size", "tee"),
    [
        ("Standard_DC2as_v5", Tee.SEV_SNP),
        ("Standard_EC20ads_v5", Tee.SEV_SNP),
        ("Standard_DC96ads_v6", Tee.SEV_SNP),
        ("standard_dc4as_V6", Tee.SEV_SNP),
        ("Standard_NCC40ads_H100_v5", Tee.SEV_SNP),
        ("Standard_DC2es_v5", Tee.TDX),
        ("Standard_EC128eds_v5", Tee.TDX),
        ("Standard_DC128es_v6", Tee.TDX),
        ("Standard_D4as_v6", None),
        ("Standard_DC4s_v3", None),
        ("Standard_DC4as_cc_v5", None),
        ("Standard_DC3as_v6", None),
        ("Standard_NC40ads_H100_v5", None),
        ("", None),
    ],
)
def test_the_tee_of_a_size(size, tee):
    assert azure.tee_of(size) is tee


def test_no_size_has_two_tees():
    assert not azure.SIZES[Tee.SEV_SNP] & azure.SIZES[Tee.TDX]


@pytest.mark.parametrize(
    ("value", "where", "says"),
    [
        (stage(), None, ""),
        (stage("Standard_DC4es_v6", tee=Tee.TDX), None, ""),
        (stage("Standard_NCC40ads_H100_v5", gpu="H100"), None, ""),
        (stage("standard_ncc40ads_h100_v5", gpu="H100"), None, ""),
        (stage("Standard_D4as_v6"), "machine.type", "for example Standard_DC4as_v6"),
        (stage("Standard_DC4ds_v3"), "machine.type", "SGX"),
        (stage("Standard_EC8as_cc_v5"), "machine.type", "confidential children"),
        (stage("Standard_NCC80ads_H100_v5", gpu="H100"), "machine.type", "Standard_NCC40ads_H100_v5"),
        (stage("Standard_DC4es_v6"), "machine.type", "set tee: tdx, or choose for example Standard_DC4"),
        (stage("Standard_DC4as_v6", tee=Tee.TDX), "machine.type", "Standard_DC4es_v6"),
        (stage("Standard_NCC40ads_H100_v5", gpu="H100", tee=Tee.TDX), "machine.type", "set tee: sev-snp"),
        (stage("Standard_DC4as_v6", gpu="H100"), "machine.type", "choose Standard_NCC40ads_H100_v5"),
        (stage("Standard_NCC40ads_H100_v5"), "gpu", "must be attested"),
        (stage("Standard_NCC40ads_H100_v5", gpu="A100"), "gpu", "no confidential A100"),
        (stage(None), "machine", "Standard_DC4as_v6"),
        (stage(None, tee=Tee.TDX), "machine", "Standard_DC4es_v6"),
        (stage(None, gpu="H100"), "machine", "Standard_NCC40ads_H100_v5"),
        (stage(tee=Tee.SEV), "tee", "sev-snp or tdx"),
        (
            stage(machine=Machine(type="Standard_DC4as_v6", provisioning="spot")),
            "machine.provisioning",
            "on demand",
        ),
        (
            stage(machine=Machine(type="Standard_DC4as_v6", enclave=Enclave(cpus=2, memory=4096))),
            "machine.enclave",
            "Nitro",
        ),
    ],
)
def test_machines(value, where, says):
    result = found(value)
    assert [path for path, _ in result] == ([] if where is None else [f"stages.serve.{where}"])
    assert where is None or says in result[0][1]


@pytest.mark.parametrize(
    ("values", "where", "says"),
    [
        ({}, None, ""),
        ({"gpu": "H100"}, "gpu", "azure-cvm"),
        ({"machine": Machine(type="Standard_DC4as_v6")}, "machine", "no machine type"),
        ({"tee": Tee.TDX}, "tee", "azure-container does not offer tdx"),
    ],
)
def test_container_groups(values, where, says):
    result = found(stage(None, **{"platform": Platform.AZURE_CONTAINER, **values}))
    assert [path for path, _ in result] == ([] if where is None else [f"stages.serve.{where}"])
    assert where is None or says in result[0][1]


@pytest.mark.parametrize(
    ("values", "where", "says"),
    [
        ({"region": "West Europe"}, "region", "for example westeurope"),
        ({"region": "west-europe"}, "region", "for example westeurope"),
        ({"region": "westeurop"}, "region", "for example westeurope"),
        ({"region": "westindia"}, "region", "no shared attestation endpoint"),
        (
            {"region": "westindia", "authority": "https://own.attest.azure.net", "authority_policy": HASH},
            None,
            "",
        ),
        ({"authority": "https://own.attest.azure.net"}, "authority-policy", "x-ms-policy-hash"),
        ({"zones": ("1", "3")}, None, ""),
        ({"zones": ("1", "4")}, "zones[1]", '"1", "2" or "3"'),
        (
            {"tee": Tee.TDX, "machine": Machine(type="Standard_DC4es_v6"), "region": "uksouth"},
            "region",
            "TDX",
        ),
        ({"region": "uksouth"}, None, ""),
    ],
)
def test_regions_zones_and_authorities(values, where, says):
    result = found(stage(**values))
    assert [path for path, _ in result] == ([] if where is None else [f"stages.serve.{where}"])
    assert where is None or says in result[0][1]


@pytest.mark.parametrize("region", sorted(azure.SHARED_ATTESTATION))
def test_shared_endpoints_have_the_published_form(region):
    endpoint = azure.attestation_endpoint(region)
    assert endpoint is not None
    assert re.fullmatch(r"https://shared([a-z]+\d?)\.\1\.attest\.azure\.net", endpoint)


def test_no_two_regions_share_an_endpoint():
    assert len(set(azure.SHARED_ATTESTATION.values())) == len(azure.SHARED_ATTESTATION)
    assert set(azure.SHARED_ATTESTATION) > azure.NO_TDX_ATTESTATION


words = st.text(max_size=30) | st.sampled_from(["Standard_DC4as_v6", "Standard_DC4as_cc_v5", "westeurope"])


@given(
    kind=st.none() | words,
    region=words,
    zones=st.lists(words, max_size=2),
    gpu=st.none() | words,
    tee=st.sampled_from(Tee),
    platform=st.sampled_from([Platform.AZURE_CVM, Platform.AZURE_CONTAINER]),
    authority=st.none() | words,
)
def test_any_stage_is_judged_without_raising(kind, region, zones, gpu, tee, platform, authority):
    value = stage(
        kind,
        region=region,
        zones=tuple(zones),
        gpu=gpu,
        tee=tee,
        platform=platform,
        authority=authority,
    )
    result = list(azure.problems(value, None, "stages.serve"))
    assert all(problem.where.startswith("stages.serve.") and problem.remedy for problem in result)
    if platform is Platform.AZURE_CVM and (kind is None or azure.tee_of(kind) is None):
        assert any(problem.where.startswith("stages.serve.machine") for problem in result)
