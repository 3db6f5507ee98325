"""Azure confidential VM sizes and regions.

Sources: MicrosoftDocs/azure-compute-docs series pages and azure-docs confidential-computing/
virtual-machine-options.md, 2026-10.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from jewelhouse.errors import Problem
from jewelhouse.hardware import nearest, tee_problems
from jewelhouse.model import Image, Machine, Platform, Stage, Tee

SOURCE = "Azure confidential VM series pages, 2026-10"
GPU_SIZE = "Standard_NCC40ads_H100_v5"
TEES: Mapping[Platform, tuple[Tee, ...]] = {
    Platform.AZURE_CVM: (Tee.SEV_SNP, Tee.TDX),
    Platform.AZURE_CONTAINER: (Tee.SEV_SNP,),
}
EXAMPLES: Mapping[Tee, str] = {Tee.SEV_SNP: "Standard_DC4as_v6", Tee.TDX: "Standard_DC4es_v6"}


def _sizes(pattern: str, counts: str) -> list[str]:
    return [pattern.format(count) for count in counts.split()]


SIZES: Mapping[Tee, frozenset[str]] = {
    Tee.SEV_SNP: frozenset(
        [
            *_sizes("Standard_DC{}as_v5", "2 4 8 16 32 48 64 96"),
            *_sizes("Standard_DC{}ads_v5", "2 4 8 16 32 48 64 96"),
            *_sizes("Standard_EC{}as_v5", "2 4 8 16 20 32 48 64 96"),
            *_sizes("Standard_EC{}ads_v5", "2 4 8 16 20 32 48 64 96"),
            *_sizes("Standard_DC{}as_v6", "2 4 8 16 32 48 64 96"),
            *_sizes("Standard_DC{}ads_v6", "2 4 8 16 32 48 64 96"),
            GPU_SIZE,
        ]
    ),
    Tee.TDX: frozenset(
        [
            *_sizes("Standard_DC{}es_v5", "2 4 8 16 32 48 64 96"),
            *_sizes("Standard_DC{}eds_v5", "2 4 8 16 32 48 64 96"),
            *_sizes("Standard_EC{}es_v5", "2 4 8 16 32 48 64 128"),
            *_sizes("Standard_EC{}eds_v5", "2 4 8 16 32 48 64 128"),
            *_sizes("Standard_DC{}es_v6", "2 4 8 16 32 48 64 96 128"),
            *_sizes("Standard_EC{}es_v6", "2 4 8 16 32 48 64"),
        ]
    ),
}
# Region -> code of its shared attestation endpoint. Codes: Azure/confidential-computing-cvm
# cvm_deployment/key/skr-policy.json; only those whose region is plain from the code.
SHARED_ATTESTATION: Mapping[str, str] = {
    "eastus": "eus",
    "eastus2": "eus2",
    "westus": "wus",
    "westus2": "wus2",
    "westus3": "wus3",
    "centralus": "cus",
    "northcentralus": "ncus",
    "southcentralus": "scus",
    "northeurope": "neu",
    "westeurope": "weu",
    "uksouth": "uks",
    "ukwest": "ukw",
    "francecentral": "frc",
    "francesouth": "frs",
    "germanywestcentral": "dewc",
    "switzerlandnorth": "swn",
    "swedencentral": "sec",
    "norwayeast": "noe",
    "italynorth": "itn",
    "polandcentral": "plc",
    "southeastasia": "sasia",
    "eastasia": "easia",
    "japaneast": "jpe",
    "japanwest": "jpw",
    "koreacentral": "krc",
    "centralindia": "cin",
    "southindia": "sin",
    "australiaeast": "eau",
    "australiasoutheast": "sau",
    "uaenorth": "uaen",
    "canadacentral": "cac",
}
# Shared endpoints that Microsoft's own disk policy trusts for SEV-SNP only (same file).
NO_TDX_ATTESTATION = frozenset({"westus", "southcentralus", "australiaeast", "uksouth"})
_TEE_OF = {name.lower(): tee for tee, names in SIZES.items() for name in names}
# Sizes with a TEE that Key Vault's secure key release has no evidence for, or that only host children.
_LOOKALIKES = (
    (r"standard_dc\d+d?s_v[23]", "has SGX enclaves, not a confidential VM"),
    (r"standard_[de]c\d+\w*_cc_v5", "hosts confidential children and is no confidential VM itself"),
    (r"standard_ncc80\w*", "is not offered: confidential H100s come as one per machine"),
)


def tee_of(size: str) -> Tee | None:
    """The TEE of a confidential VM size, or None for any other size."""
    return _TEE_OF.get(size.lower())


def attestation_endpoint(region: str) -> str | None:
    """The shared attestation endpoint of a region, or None where it is not known."""
    code = SHARED_ATTESTATION.get(region)
    return f"https://shared{code}.{code}.attest.azure.net" if code else None


def problems(stage: Stage, image: Image | None, where: str) -> Iterator[Problem]:
    """What Azure would refuse about a stage on azure-cvm or azure-container."""
    yield from _place(stage, where)
    yield from tee_problems(stage, TEES, where)
    if stage.authority and not stage.authority_policy:
        yield Problem(
            where=f"{where}.authority-policy",
            what="is missing, so whoever owns the attestation provider could loosen its policy",
            remedy="pin the x-ms-policy-hash of the provider's policy",
        )
    if stage.platform is Platform.AZURE_CVM:
        yield from _vm(stage, where)
    elif stage.gpu:
        yield Problem(
            where=f"{where}.gpu",
            what="confidential container groups have no GPU",
            remedy=f"choose platform: azure-cvm with machine type {GPU_SIZE}",
        )
    elif stage.machine is not None:
        yield Problem(
            where=f"{where}.machine",
            what="a confidential container group has no machine type",
            remedy="remove it, or choose platform: azure-cvm",
        )


def _place(stage: Stage, where: str) -> Iterator[Problem]:
    near = nearest(stage.region.lower().replace(" ", "").replace("-", ""), SHARED_ATTESTATION, "westeurope")
    if not re.fullmatch(r"[a-z]+[0-9]?", stage.region):
        yield Problem(
            where=f"{where}.region",
            what=f"{stage.region} is not an Azure region",
            remedy=f"for example {near}",
        )
    elif attestation_endpoint(stage.region) is None and not stage.authority:
        yield Problem(
            where=f"{where}.region",
            what=f"no shared attestation endpoint is known for {stage.region}",
            remedy=f"for example {near}; or set `authority` and `authority-policy` of your own provider",
            source="Azure/confidential-computing-cvm skr-policy.json, 2026-10",
        )
    elif stage.tee is Tee.TDX and stage.region in NO_TDX_ATTESTATION and not stage.authority:
        yield Problem(
            where=f"{where}.region",
            what=f"the shared attestation endpoint of {stage.region} is not listed for TDX",
            remedy="choose tee: sev-snp, another region such as westeurope, or an `authority` of your own",
            source="Azure/confidential-computing-cvm skr-policy.json, 2026-10",
        )
    for index, zone in enumerate(stage.zones):
        if zone not in ("1", "2", "3"):
            yield Problem(
                where=f"{where}.zones[{index}]",
                what=f"{zone} is not an Azure zone",
                remedy='"1", "2" or "3", in quotes',
            )


def _vm(stage: Stage, where: str) -> Iterator[Problem]:
    machine = stage.machine
    if machine is None:
        yield Problem(
            where=f"{where}.machine",
            what="is missing",
            remedy=f"name the VM size, for example {GPU_SIZE if stage.gpu else EXAMPLES.get(stage.tee, '')}",
        )
        return
    yield from _size(stage, machine, where)
    if stage.gpu and stage.gpu != "H100":
        yield Problem(
            where=f"{where}.gpu",
            what=f"Azure has no confidential {stage.gpu}",
            remedy="set gpu: H100",
            source=SOURCE,
        )
    if machine.enclave is not None:
        yield Problem(where=f"{where}.machine.enclave", what="belongs to Nitro enclaves", remedy="remove it")
    if machine.provisioning != "on-demand" or machine.run_duration is not None:
        part = "run-duration" if machine.provisioning == "on-demand" else "provisioning"
        yield Problem(
            where=f"{where}.machine.{part}",
            what="confidential VMs on Azure are deployed on demand here",
            remedy="remove it",
        )


def _size(stage: Stage, machine: Machine, where: str) -> Iterator[Problem]:
    size, tee = machine.type, tee_of(machine.type)
    gpu_size = size.lower() == GPU_SIZE.lower()
    if tee is None:
        looks = next((says for form, says in _LOOKALIKES if re.fullmatch(form, size.lower())), None)
        default = GPU_SIZE if stage.gpu else EXAMPLES.get(stage.tee, EXAMPLES[Tee.SEV_SNP])
        known = {GPU_SIZE} if stage.gpu else SIZES.get(stage.tee, frozenset())
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{size} {looks or 'is not a confidential VM size'}",
            remedy=f"for example {nearest(size, known, default)}",
            source=SOURCE,
        )
    elif stage.gpu and not gpu_size:
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{size} has no confidential GPU",
            remedy=f"choose {GPU_SIZE} with tee: sev-snp",
            source=SOURCE,
        )
    elif tee is not stage.tee and stage.tee in EXAMPLES:
        # The confidential H100 comes with SEV-SNP only, so there is no other size to choose.
        other = "" if gpu_size else f", or choose for example {_same(size, stage.tee)}"
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{size} has {tee}, not {stage.tee}",
            remedy=f"set tee: {tee}{other}",
            source=SOURCE,
        )
    if gpu_size and not stage.gpu:
        yield Problem(
            where=f"{where}.gpu",
            what="is missing: the machine has a confidential GPU that must be attested",
            remedy="set gpu: H100",
        )


def _same(size: str, tee: Tee) -> str:
    """A size of about the same shape in another TEE."""
    return nearest(size, SIZES[tee] - {GPU_SIZE}, EXAMPLES[tee])
