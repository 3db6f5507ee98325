"""Each rule fires on its bad case, and is silent on the good one."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import real
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import policies
from samples import ALL_STACKS, shipped

from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud, Platform, Tee
from jewelhouse.release import azure, documents
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate
from jewelhouse.release.lint import Severity, lint, rules
from jewelhouse.release.lint.azure_reading import alternatives
from jewelhouse.release.lint.hostile_azure import hostile, token
from jewelhouse.release.policy import ReleasePolicy

AZURE = (Platform.AZURE_CVM, Platform.AZURE_CONTAINER)
WEU = "https://sharedweu.weu.attest.azure.net"
OWN = "https://fabrikam1.weu.attest.azure.net"
NESTED = "x-ms-isolation-tee."
HOSTDATA = "532eaabd9574880dbf76b9b8cc00832c20a6ec113d682299550d7a6e0f345e25"
HASH = "wm9mHlvTU82e8UqoOy1Yj1FBRSNkfe99-69IYDq9eWs"
REMOVED = "removed"


def equals(claim: str, value: object) -> dict[str, object]:
    return {"claim": claim, "equals": value}


GUEST = {
    f"{NESTED}x-ms-attestation-type": "sevsnpvm",
    f"{NESTED}x-ms-compliance-status": "azure-compliant-cvm",
    f"{NESTED}x-ms-sevsnpvm-is-debuggable": "false",
    "secureboot": "true",
}
TDX = {
    f"{NESTED}x-ms-attestation-type": "tdxvm",
    f"{NESTED}x-ms-compliance-status": "azure-compliant-cvm",
    "secureboot": "true",
}
CONTAINER = {
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-compliance-status": "azure-compliant-uvm",
    "x-ms-sevsnpvm-is-debuggable": "false",
    "x-ms-sevsnpvm-vmpl": "0",
    "x-ms-sevsnpvm-hostdata": HOSTDATA,
}
DISK = {"x-ms-attestation-type": "sevsnpvm", "x-ms-compliance-status": "azure-compliant-cvm"}
SGX = {
    "x-ms-attestation-type": "sgx",
    "x-ms-sgx-is-debuggable": "false",
    "x-ms-sgx-mrenclave": "ab" * 32,
    "x-ms-sgx-mrsigner": "9f" * 32,
}


def pins(base: Mapping[str, str], *more: Any, **changes: Any) -> list[Any]:
    """The conditions of a good policy, without those named in `changes` (by any part of their name)."""
    kept = [
        equals(claim, value)
        for claim, value in base.items()
        if not any(name.replace("_", "-") in claim for name in changes)
    ]
    changed = [
        equals(claim, changes[name])
        for claim in base
        for name in changes
        if name.replace("_", "-") in claim and changes[name] is not REMOVED
    ]
    return [*kept, *changed, *more]


def document(*conditions: Any, authority: Any = WEU, disk: bool = False, **root: Any) -> Document:
    body = {"version": "1.0.0", "anyOf": [{"authority": authority, "allOf": list(conditions)}], **root}
    return Document(name="policy.json", cloud=Cloud.AZURE, body=body, disk=disk)


def raw(body: Any) -> Document:
    return Document(name="policy.json", cloud=Cloud.AZURE, body=body)


def ids(found: Document) -> set[str]:
    return {finding.rule.id.removeprefix("JH-AZ-") for finding in lint(found)}


GOOD: Mapping[str, Document] = {
    "a SEV-SNP VM": document(*pins(GUEST)),
    "a TDX VM": document(*pins(TDX)),
    "a container group": document(*pins(CONTAINER)),
    "a container group in a roll-out": document(
        *pins(CONTAINER, hostdata=REMOVED),
        {
            "anyOf": [
                equals("x-ms-sevsnpvm-hostdata", HOSTDATA),
                equals("x-ms-sevsnpvm-hostdata", "ab" * 32),
            ]
        },
    ),
    "an own provider, its policy pinned": document(
        *pins(CONTAINER), equals("x-ms-policy-hash", HASH), authority=OWN
    ),
    "an own provider, its signer pinned": document(
        *pins(GUEST), equals("x-ms-policy-signer.kid", "signer"), authority=OWN
    ),
    "both TEEs": document(
        equals(f"{NESTED}x-ms-compliance-status", "azure-compliant-cvm"),
        equals("secureboot", "true"),
        {
            "anyOf": [
                {
                    "allOf": [
                        equals(f"{NESTED}x-ms-attestation-type", "sevsnpvm"),
                        equals(f"{NESTED}x-ms-sevsnpvm-is-debuggable", "false"),
                    ]
                },
                equals(f"{NESTED}x-ms-attestation-type", "tdxvm"),
            ]
        },
    ),
    "an SGX enclave": document(*pins(SGX)),
    "the key of a disk": document(*pins(DISK), authority=f"{WEU}/", disk=True),
}


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
def test_a_good_policy_has_no_finding(good: Document) -> None:
    assert [finding.json() for finding in lint(good)] == []


def entries(*found: Any) -> Document:
    return raw({"version": "1.0.0", "anyOf": list(found)})


def entry(*conditions: Any, authority: Any = WEU, **more: Any) -> dict[str, Any]:
    return {"authority": authority, "allOf": list(conditions), **more}


def deep(levels: int) -> dict[str, Any]:
    part: dict[str, Any] = equals("secureboot", "true")
    for _ in range(levels):
        part = {"allOf": [part]}
    return part


# name -> rule, document, where it is found. One of each is what somebody published.
BAD: Mapping[str, tuple[str, Document, str]] = {
    "a root allOf": ("001", raw({"version": "1.0.0", "allOf": [entry(*pins(GUEST))]}), "allOf"),
    "no root at all": ("001", raw({"version": "1.0.0"}), "$"),
    "no version": ("002", raw({"anyOf": [entry(*pins(GUEST))]}), "version"),
    "an unknown version": ("002", document(*pins(GUEST), version="0.2"), "version"),
    "an unknown member": ("003", document(*pins(GUEST), description="keys"), "description"),
    "a group in the spelling of the grammar page": (
        "003",
        entries({"authority": WEU, "anyof": pins(GUEST)}),
        "anyOf[0].anyof",
    ),
    "an unknown operator": (
        "003",
        document(*pins(GUEST), {"claim": "secureboot", "in": "true"}),
        "anyOf[0].allOf[4].in",
    ),
    "allOf and anyOf in one authority": ("004", entries(entry(*pins(GUEST), anyOf=pins(GUEST))), "anyOf[0]"),
    "an empty allOf": ("005", document(), "anyOf[0].allOf"),
    "an empty anyOf": ("005", document(*pins(GUEST), {"anyOf": []}), "anyOf[0].allOf[4].anyOf"),
    "no authorities": ("005", entries(), "anyOf"),
    "a list as value": ("006", document(*pins(GUEST, secureboot=["true"])), "anyOf[0].allOf[3]"),
    "no authority": ("006", entries({"allOf": pins(GUEST)}), "anyOf[0]"),
    "nested deeper than anybody reads": ("006", document(*pins(GUEST), deep(40)), "anyOf[0].allOf[4]"),
    "an element of the PCR list": (
        "007",
        document(*pins(GUEST), equals("x-ms-azurevm-attested-pcrs[0]", "0")),
        "anyOf[0].allOf[4]",
    ),
    "the PCR list": (
        "008",
        document(*pins(GUEST), equals("x-ms-azurevm-attested-pcrs", "0")),
        "anyOf[0].allOf[4]",
    ),
    "an object": ("008", document(*pins(GUEST), equals("x-ms-isolation-tee", "x")), "anyOf[0].allOf[4]"),
    "a floor of versions": (
        "009",
        document(*pins(GUEST), {"claim": f"{NESTED}x-ms-sevsnpvm-guestsvn", "greaterOrEquals": 2}),
        "anyOf[0].allOf[4]",
    ),
    "a claim that must not be there": (
        "009",
        document(*pins(GUEST), {"claim": "x-ms-azurevm-vmid", "exists": "false"}),
        "anyOf[0].allOf[4]",
    ),
    "a JSON boolean": ("010", document(*pins(GUEST, is_debuggable=False)), "anyOf[0].allOf[3]"),
    "a JSON number": ("010", document(*pins(CONTAINER, vmpl=0)), "anyOf[0].allOf[4]"),
    "more alternatives than are reviewed": (
        "011",
        document(*({"anyOf": [equals(f"c{n}", "1"), equals(f"c{n}", "2")]} for n in range(12))),
        "anyOf[0]",
    ),
    "a template's placeholder": (
        "020",
        document(*pins(GUEST), authority="https://<YOUR MAA>.weu.attest.azure.net"),
        "anyOf[0].authority",
    ),
    "http": ("020", document(*pins(GUEST), authority=WEU.replace("https", "http")), "anyOf[0].authority"),
    "an authority with a path": (
        "020",
        document(*pins(GUEST), authority=f"{WEU}/certs"),
        "anyOf[0].authority",
    ),
    "an authority without scheme": ("021", document(*pins(GUEST), authority=WEU[8:]), "anyOf[0].authority"),
    "an authority in capitals": (
        "021",
        document(*pins(GUEST), authority=WEU.replace("weu", "WEU")),
        "anyOf[0].authority",
    ),
    "a trailing slash": ("022", document(*pins(GUEST), authority=f"{WEU}/"), "anyOf[0].authority"),
    "sharedeus2.weu2": (
        "023",
        document(*pins(GUEST), authority="https://sharedeus2.weu2.attest.azure.net"),
        "anyOf[0].authority",
    ),
    "a misspelt region": (
        "024",
        document(*pins(GUEST), authority="https://sharedwue.wue.attest.azure.net"),
        "anyOf[0].authority",
    ),
    "the test ring": (
        "025",
        document(*pins(GUEST), authority="https://sharedweu.weu.test.attest.azure.net"),
        "anyOf[0].authority",
    ),
    "somebody else's host": (
        "026",
        document(*pins(GUEST), authority=f"{WEU}.evil.org"),
        "anyOf[0].authority",
    ),
    "the example of the grammar page": (
        "026",
        document(*pins(GUEST), authority="my.attestation.com"),
        "anyOf[0].authority",
    ),
    "an own provider, nothing pinned": ("027", document(*pins(CONTAINER), authority=OWN), "anyOf[0]"),
    "a name like a shared endpoint's": (
        "027",
        document(*pins(CONTAINER), authority="https://shared-weu.weu.attest.azure.net"),
        "anyOf[0]",
    ),
    "an own provider, pinned in one alternative only": (
        "027",
        document(
            *pins(CONTAINER),
            {"anyOf": [equals("x-ms-policy-hash", HASH), equals("x-ms-sevsnpvm-guestsvn", "2")]},
            authority=OWN,
        ),
        "anyOf[0].allOf[5].anyOf[1]",
    ),
    "the hash of Microsoft's policy": (
        "028",
        document(*pins(CONTAINER), equals("x-ms-policy-hash", HASH)),
        "anyOf[0]",
    ),
    "every region of Azure": (
        "029",
        entries(
            *(
                entry(*pins(GUEST), authority=f"https://shared{c}.{c}.attest.azure.net")
                for c in ("weu", "neu", "eus", "wus", "cus")
            )
        ),
        "anyOf",
    ),
    "TDX where it is not listed": (
        "030",
        document(*pins(TDX), authority="https://sharedwus.wus.attest.azure.net"),
        "anyOf[0]",
    ),
    "both token shapes in one alternative": (
        "040",
        document(*pins(GUEST), equals("x-ms-compliance-status", "azure-compliant-cvm")),
        "anyOf[0]",
    ),
    "the guest's type with flat claims": (
        "040",
        document(*pins(CONTAINER, attestation_type="azurevm")),
        "anyOf[0]",
    ),
    "SEV-SNP with a measurement of TDX": (
        "040",
        document(*pins(GUEST), equals(f"{NESTED}tdx_mrtd", "ab" * 48)),
        "anyOf[0]",
    ),
    "a container group on TDX": (
        "040",
        document(
            equals("x-ms-attestation-type", "tdxvm"),
            equals("x-ms-compliance-status", "azure-compliant-uvm"),
        ),
        "anyOf[0]",
    ),
    "a container's compliance in a guest's token": (
        "040",
        document(*pins(GUEST, compliance_status="azure-compliant-uvm")),
        "anyOf[0]",
    ),
    "a type that nothing has": ("040", document(*pins(GUEST, attestation_type="sevsnp")), "anyOf[0]"),
    "a boolean in capitals": ("040", document(*pins(GUEST, secureboot="True")), "anyOf[0]"),
    "two values of one claim": ("041", document(*pins(GUEST), equals("secureboot", "false")), "anyOf[0]"),
    "a pin that another alternative undoes": (
        "042",
        document(
            *pins(CONTAINER, hostdata=REMOVED),
            {
                "anyOf": [
                    equals("x-ms-sevsnpvm-vmpl", "0"),
                    equals("x-ms-sevsnpvm-hostdata", HOSTDATA),
                ]
            },
        ),
        "anyOf[0].allOf[4].anyOf[0]",
    ),
    "an entry that another one undoes": (
        "042",
        entries(entry(*pins(CONTAINER)), entry(*pins(CONTAINER, hostdata=REMOVED))),
        "anyOf[0]",
    ),
    "flat claims on an application's key": ("043", document(*pins(DISK)), "anyOf[0]"),
    "nested claims on a disk's key": ("044", document(*pins(GUEST), disk=True), "anyOf[0]"),
    "no compliance status": ("045", document(*pins(GUEST, compliance_status=REMOVED)), "anyOf[0]"),
    "no compliance status of a container": (
        "045",
        document(*pins(CONTAINER, compliance_status=REMOVED)),
        "anyOf[0]",
    ),
    "the compliance status alone": (
        "046",
        document(equals("x-ms-compliance-status", "azure-compliant-cvm")),
        "anyOf[0]",
    ),
    "the attestation type alone": (
        "047",
        document(equals(f"{NESTED}x-ms-attestation-type", "sevsnpvm")),
        "anyOf[0]",
    ),
    "the flat attestation type alone": (
        "047",
        document(equals("x-ms-attestation-type", "sevsnpvm")),
        "anyOf[0]",
    ),
    "a container without debug pin": ("048", document(*pins(CONTAINER, is_debuggable=REMOVED)), "anyOf[0]"),
    "a TDX VM without compliance or debug pin": (
        "048",
        document(*pins(TDX, compliance_status=REMOVED)),
        "anyOf[0]",
    ),
    "an SGX enclave without debug pin": ("048", document(*pins(SGX, is_debuggable=REMOVED)), "anyOf[0]"),
    "debug excluded by notEquals": (
        "048",
        document(
            *pins(CONTAINER, is_debuggable=REMOVED),
            {"claim": "x-ms-sevsnpvm-is-debuggable", "notEquals": "true"},
        ),
        "anyOf[0]",
    ),
    "the published pair of claims": ("049", document(*pins(GUEST, is_debuggable=REMOVED)), "anyOf[0]"),
    "a container without hostdata": ("050", document(*pins(CONTAINER, hostdata=REMOVED)), "anyOf[0]"),
    "hostdata of a VM": ("051", document(*pins(CONTAINER, hostdata="0" * 64)), "anyOf[0]"),
    "hostdata in capitals": ("051", document(*pins(CONTAINER, hostdata="AB" * 32)), "anyOf[0]"),
    "hostdata on a VM": (
        "051",
        document(*pins(GUEST), equals(f"{NESTED}x-ms-sevsnpvm-hostdata", HOSTDATA)),
        "anyOf[0]",
    ),
    "no privilege level": ("052", document(*pins(CONTAINER, vmpl=REMOVED)), "anyOf[0]"),
    "no secure boot": ("053", document(*pins(GUEST, secureboot=REMOVED)), "anyOf[0]"),
    "debug asked for": ("054", document(*pins(CONTAINER, is_debuggable="true")), "anyOf[0]"),
    "secure boot off asked for": ("054", document(*pins(GUEST, secureboot="false")), "anyOf[0]"),
    "a low privilege level asked for": ("054", document(*pins(CONTAINER, vmpl="2")), "anyOf[0]"),
    "notEquals as the only pin": (
        "055",
        document({"claim": "x-ms-attestation-type", "notEquals": "sgx"}),
        "anyOf[0]",
    ),
    "exists as the only pin": (
        "055",
        document({"claim": f"{NESTED}x-ms-sevsnpvm-hostdata", "exists": "true"}),
        "anyOf[0]",
    ),
    "vmUniqueId": (
        "056",
        document(*pins(GUEST), equals(f"{NESTED}x-ms-runtime.vm-configuration.vmUniqueId", "6506B531")),
        "anyOf[0].allOf[4]",
    ),
    "the launch measurement": (
        "057",
        document(*pins(GUEST), equals(f"{NESTED}x-ms-sevsnpvm-launchmeasurement", "ad" * 48)),
        "anyOf[0].allOf[4]",
    ),
    "one VM": (
        "058",
        document(*pins(GUEST), equals("x-ms-azurevm-vmid", "B958DC88-E41D-47F1-8D20-E57B6B7E9825")),
        "anyOf[0].allOf[4]",
    ),
    "report data": (
        "059",
        document(*pins(GUEST), equals(f"{NESTED}x-ms-sevsnpvm-reportdata", "c6" * 64)),
        "anyOf[0].allOf[4]",
    ),
    "the name of a distribution": (
        "060",
        document(*pins(GUEST), equals("x-ms-azurevm-osdistro", "Ubuntu")),
        "anyOf[0].allOf[4]",
    ),
    "a misspelt claim": (
        "061",
        document(*pins(GUEST), equals(f"{NESTED}x-ms-sevsnpvm-is-debugable", "false")),
        "anyOf[0].allOf[4]",
    ),
    "secureboot in the wrong object": (
        "061",
        document(*pins(GUEST), equals(f"{NESTED}secureboot", "true")),
        "anyOf[0].allOf[4]",
    ),
}


@pytest.mark.parametrize(("rule", "bad", "where"), BAD.values(), ids=BAD)
def test_a_rule_fires_on_its_mistake(rule: str, bad: Document, where: str) -> None:
    found = [finding for finding in lint(bad) if finding.rule.id == f"JH-AZ-{rule}"]
    assert found, ids(bad)
    assert found[0].where.startswith(where)
    assert found[0].what


def test_both_halves_of_a_useless_choice_are_named() -> None:
    found = lint(BAD["a pin that another alternative undoes"][1])
    places = [one.where for one in found if one.rule.id == "JH-AZ-042"]
    assert places == ["anyOf[0].allOf[4].anyOf[0]", "anyOf[0].allOf[4].anyOf[1]"]


def test_every_rule_has_a_mistake_it_fires_on() -> None:
    assert {f"JH-AZ-{rule}" for rule, _, _ in BAD.values()} == {rule.id for rule in rules(Cloud.AZURE)}


# The rules beside the own one that a bad case may set off: a mistake rarely comes alone.
def test_a_single_mistake_gives_a_single_finding() -> None:
    alone = ("021", "022", "024", "028", "030", "043", "049", "052", "053", "056", "057", "058", "060", "061")
    for name, (rule, bad, _) in BAD.items():
        if rule in alone and name not in ("flat claims on an application's key",):
            assert ids(bad) == {rule}, name


# What can be shown: a token that is released and should not be.
SHOWN = {
    "a container without debug pin": ("048", lambda claims: claims["x-ms-sevsnpvm-is-debuggable"] is True),
    "an SGX enclave without debug pin": ("048", lambda claims: claims["x-ms-sgx-is-debuggable"] is True),
    "a TDX VM without compliance or debug pin": (
        "048",
        lambda claims: claims["x-ms-isolation-tee"]["tdx_td_attributes_debug"] is True,
    ),
    "a container without hostdata": ("050", lambda claims: claims["x-ms-sevsnpvm-hostdata"] == "e" * 64),
    "no privilege level": ("052", lambda claims: claims["x-ms-sevsnpvm-vmpl"] == 1),
    "no secure boot": ("053", lambda claims: claims["secureboot"] is False),
    "no compliance status": (
        "045",
        lambda claims: "not" in claims["x-ms-isolation-tee"]["x-ms-compliance-status"],
    ),
    "the attestation type alone": (
        "047",
        lambda claims: claims["x-ms-isolation-tee"]["x-ms-sevsnpvm-is-debuggable"] is True,
    ),
    "the test ring": ("025", lambda claims: ".test." in claims["iss"]),
    "somebody else's host": ("026", lambda claims: claims["iss"].endswith("evil.org")),
    "an own provider, nothing pinned": ("027", lambda claims: "looser" in claims["x-ms-policy-hash"]),
    "debug asked for": ("054", lambda claims: claims["x-ms-sevsnpvm-is-debuggable"] is True),
    "notEquals as the only pin": ("055", lambda claims: claims["x-ms-compliance-status"] == "somebody-else"),
}


@pytest.mark.parametrize(
    ("name", "rule", "shows"), [(name, *rest) for name, rest in SHOWN.items()], ids=SHOWN
)
def test_the_hole_is_shown_by_evidence_that_is_released(name: str, rule: str, shows: Any) -> None:
    (finding,) = [one for one in lint(BAD[name][1]) if one.rule.id == f"JH-AZ-{rule}"]
    example = finding.counterexample
    assert example is not None
    assert shows(example["evidence"]["claims"])
    assert example["because"]
    assert all(reason["holds"] for reason in example["because"])
    json.dumps(finding.json())


def test_a_policy_that_releases_nothing_has_no_counterexample() -> None:
    broken = document(*pins(CONTAINER, hostdata=REMOVED), version="7")
    findings = lint(broken)
    assert {"JH-AZ-002", "JH-AZ-050"} <= {one.rule.id for one in findings}
    assert all(one.counterexample is None for one in findings)


PUBLISHED: Mapping[str, set[str]] = {
    # 26 authorities, some with a slash, TDX where it is not listed; type and compliance and nothing else.
    "public_SKR_policy-datadisk": {"022", "029", "030", "049", "053"},
    # Flat claims on a VM's application key; the authority is to be filled in; no TEE.
    "vm-releasePolicyTemplate": {"020", "043", "046", "049"},
    "attestation-samples-release": {"020", "043", "049"},
}


@pytest.mark.parametrize(("name", "expected"), PUBLISHED.items(), ids=PUBLISHED)
def test_published_policies_get_the_findings_they_deserve(name: str, expected: set[str]) -> None:
    found = documents.read(real.evidence(f"azure-maa/policies/{name}.json"), name)
    assert ids(found) == expected


def test_repeated_findings_are_told_once() -> None:
    found = documents.read(real.evidence("azure-maa/policies/public_SKR_policy-datadisk.json"), "datadisk")
    (boot,) = [one for one in lint(found) if one.rule.id == "JH-AZ-053"]
    assert "at 51 more places" in boot.what


# Microsoft's page of examples, each as it stands there (skr-policy-examples.md, 2023-03-05).
EXAMPLES: Mapping[str, tuple[Document, set[str]]] = {
    "SGX, signer": (
        document(
            equals("x-ms-sgx-mrsigner", "9f" * 32), authority="https://sharedeus2.eus2.attest.azure.net"
        ),
        {"048"},
    ),
    "SGX, minimum version": (
        document(
            equals("x-ms-sgx-mrsigner", "9f" * 32),
            {"claim": "x-ms-sgx-svn", "greater": 1},
            authority="https://sharedeus2.eus2.attest.azure.net",
        ),
        {"048", "009"},
    ),
    "confidential VM, several regions": (
        entries(entry(*pins(DISK)), entry(*pins(DISK), authority="https://sharedeus2.weu2.attest.azure.net")),
        {"023", "043", "049"},
    ),
    "confidential VM, one machine": (
        raw(
            {
                "version": "1.0.0",
                "allOf": [
                    entry(
                        *pins(GUEST, is_debuggable=REMOVED, secureboot=REMOVED),
                        equals("x-ms-azurevm-vmid", "B958DC88-E41D-47F1-8D20-E57B6B7E9825"),
                    )
                ],
            }
        ),
        {"001", "049", "053", "058"},
    ),
    "containers": (
        document(
            *pins(CONTAINER, is_debuggable=REMOVED, vmpl=REMOVED),
            authority="https://fabrikam1.wus.attest.azure.net",
        ),
        {"027", "048", "052"},
    ),
}


@pytest.mark.parametrize(("example", "expected"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_of_the_documentation(example: Document, expected: set[str]) -> None:
    assert ids(example) == expected


def compiled(policy: ReleasePolicy) -> Document:
    return Document(name=policy.key.name, cloud=Cloud.AZURE, body=azure.compile(policy))


SHIPPED = [
    (f"{stack}: {key.name}", policy)
    for stack in ALL_STACKS
    for key, policy in release_policies(shipped(stack)).items()
    if key.cloud is Cloud.AZURE
]


@pytest.mark.parametrize(("name", "policy"), SHIPPED, ids=[name for name, _ in SHIPPED])
def test_the_documents_of_shipped_stacks_are_clean(name: str, policy: ReleasePolicy) -> None:
    assert lint(compiled(policy)) == ()


@pytest.mark.parametrize("tee", [Tee.SEV_SNP, Tee.TDX])
@pytest.mark.parametrize("disk", [True, False], ids=["known as a disk's", "of unknown use"])
def test_the_kit_s_disk_policies_are_never_refused(tee: Tee, disk: bool) -> None:
    body = azure.disk_policy("westeurope", tee)
    found = lint(Document(name="disk", cloud=Cloud.AZURE, body=body, disk=disk))
    assert not [one for one in found if one.rule.severity is Severity.ERROR]
    assert not (disk and found)


def released(found: Document) -> list[str]:
    return [name for name, verdict, request in hostile(found) if evaluate(found, verdict, request).released]


@settings(max_examples=40, deadline=None)
@given(policy=policies(AZURE))
def test_a_clean_policy_releases_to_no_hostile_evidence(policy: ReleasePolicy) -> None:
    found = compiled(policy)
    assert lint(found) == ()
    assert released(found) == []
    for one in alternatives(found):
        good = token(one)
        assert evaluate(found, good, Request(at=good.at)).released, "the attacks start from a good token"


def test_hostile_evidence_is_named_after_its_attack() -> None:
    names = [name for name, _, _ in hostile(GOOD["a container group"])]
    assert len(names) == len(set(names))
    for attack in (
        "a debuggable machine",
        "a token of another authority",
        "a token of the test ring",
        "another container policy",
        "flat and nested claims swapped",
        "no runtime keys",
        "code of a lower privilege level",
        "x-ms-sevsnpvm-hostdata removed",
        "x-ms-sevsnpvm-hostdata changed",
        "signature not verified",
        "expired",
    ):
        assert any(name.startswith(attack) for name in names), attack
    assert any(name.startswith("secure boot off") for name, _, _ in hostile(GOOD["a SEV-SNP VM"]))


# Weakenings that hostile evidence must find, or it proves nothing.
WEAKENED = {
    "no debug pin": (CONTAINER, "is_debuggable", "a debuggable machine"),
    "no hostdata": (CONTAINER, "hostdata", "another container policy"),
    "no privilege level": (CONTAINER, "vmpl", "code of a lower privilege level"),
    "no secure boot": (GUEST, "secureboot", "secure boot off"),
    "no compliance status": (GUEST, "compliance_status", "a platform that is not compliant"),
}


@pytest.mark.parametrize(("base", "without", "attack"), WEAKENED.values(), ids=WEAKENED)
def test_hostile_evidence_finds_a_weakened_policy(base: dict, without: str, attack: str) -> None:
    found = document(*pins(base, **{without: REMOVED}))
    assert any(name.startswith(attack) for name in released(found))
    assert ids(found), "and lint says so too"


def mutated(body: dict, path: list[Any], value: Any) -> dict:
    changed = copy.deepcopy(body)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


@settings(max_examples=80, deadline=None)
@given(
    index=st.integers(0, 4),
    member=st.sampled_from(["claim", "equals", "like"]),
    value=st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.none(), max_size=1),
)
def test_a_changed_policy_is_judged_without_an_error(index: int, member: str, value: Any) -> None:
    body = mutated(GOOD["a container group"].body, ["anyOf", 0, "allOf", index, member], value)  # type: ignore[arg-type]
    for finding in lint(raw(body)):
        json.dumps(finding.json())
    list(hostile(raw(body)))


@pytest.mark.parametrize("rule", rules(Cloud.AZURE), ids=lambda rule: rule.id)
def test_a_rule_says_why_what_to_do_and_who_says_so(rule: Any) -> None:
    assert re.fullmatch(r"JH-AZ-\d{3}", rule.id)
    assert re.search(r"20\d\d-\d\d", rule.source), "a source has a date"
    for text in (rule.title, rule.why, rule.remedy):
        assert len(text) > 10
    assert rule.why.endswith(".")


def test_ids_are_unique() -> None:
    found = [rule.id for rule in rules(Cloud.AZURE)]
    assert len(found) == len(set(found))


def test_linting_a_clean_policy_loads_no_evaluator_and_no_cryptography() -> None:
    # The Pulumi program lints in its own process, where memory is measured.
    program = (
        "import sys, json\n"
        "from jewelhouse.model import Cloud\n"
        "from jewelhouse.release.documents import Document\n"
        "from jewelhouse.release.lint import lint\n"
        "body = json.loads(sys.argv[1])\n"
        "assert lint(Document(name='p', cloud=Cloud.AZURE, body=body)) == ()\n"
        "print([m for m in sys.modules if m.startswith(('jewelhouse.release.evaluate', 'cryptography', "
        "'jewelhouse.evidence.maa', 'cel', 'jewelhouse.release.lint.hostile'))])\n"
    )
    body = json.dumps(dict(GOOD["a container group"].body))
    done = subprocess.run([sys.executable, "-c", program, body], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_document_s_measurements_are_what_the_gate_pins() -> None:
    (policy,) = [policy for name, policy in SHIPPED if name.startswith("dev: corpus")]
    pinned = {one.pins["x-ms-sevsnpvm-hostdata"] for one in alternatives(compiled(policy))}
    assert pinned == {found["hostdata"] for gate in policy.gates for found in gate.measurements}
