"""Azure confidential VM sizes and regions.

Sources: MicrosoftDocs/azure-compute-docs series pages and azure-docs confidential-computing/
virtual-machine-options.md, 2026-10.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from jewelhouse.errors import Problem
from jewelhouse.model import Image, Platform, Stage, Tee

SOURCE = "Azure confidential VM series pages, 2026-10"
GPU_SIZE = "Standard_NCC40ads_H100_v5"


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


def tee_of(size: str) -> Tee | None:
    """The TEE of a confidential VM size, or None for any other size."""
    return next((tee for tee, sizes in SIZES.items() if size.lower() in {name.lower() for name in sizes}), None)


def attestation_endpoint(region: str) -> str | None:
    """The shared attestation endpoint of a region, or None where it is not known."""
    code = SHARED_ATTESTATION.get(region)
    return f"https://shared{code}.{code}.attest.azure.net" if code else None


def problems(stage: Stage, image: Image | None, where: str) -> Iterator[Problem]:
    """What Azure would refuse about a stage on azure-cvm or azure-container."""
    if not re.fullmatch(r"[a-z]+\d?", stage.region):
        yield Problem(
            where=f"{where}.region", what=f"{stage.region} is not an Azure region", remedy="for example westeurope"
        )
    elif attestation_endpoint(stage.region) is None and not stage.authority:
        yield Problem(
            where=f"{where}.region",
            what=f"no shared attestation endpoint is known for {stage.region}",
            remedy="set `authority` and `authority-policy` of your own provider, or choose one of: "
            + ", ".join(sorted(SHARED_ATTESTATION)),
            source="Azure/confidential-computing-cvm skr-policy.json, 2026-10",
        )
    for index, zone in enumerate(stage.zones):
        if zone not in ("1", "2", "3"):
            yield Problem(
                where=f"{where}.zones[{index}]", what=f"{zone} is not an Azure zone", remedy="'1', '2' or '3'"
            )
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
            remedy=f"choose platform azure-cvm with machine type {GPU_SIZE}",
        )
    elif stage.machine is not None:
        yield Problem(
            where=f"{where}.machine",
            what="a confidential container group has no machine type",
            remedy="remove it, or choose platform azure-cvm",
        )


def _vm(stage: Stage, where: str) -> Iterator[Problem]:
    if stage.machine is None:
        yield Problem(
            where=f"{where}.machine", what="is missing", remedy="name the VM size, for example Standard_DC4as_v6"
        )
        return
    size = stage.machine.type
    tee = tee_of(size)
    if tee is None:
        close = difflib.get_close_matches(size, sorted(SIZES.get(stage.tee, ())), n=1, cutoff=0.4)
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{size} is not a confidential VM size",
            remedy=f"for example {close[0] if close else 'Standard_DC4as_v6'}",
            source=SOURCE,
        )
    elif tee is not stage.tee:
        example = "Standard_DC4es_v6" if stage.tee is Tee.TDX else "Standard_DC4as_v6"
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{size} has {tee}, not {stage.tee}",
            remedy=f"set tee: {tee}, or choose for example {example}",
            source=SOURCE,
        )
    if stage.gpu and size != GPU_SIZE:
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{size} has no confidential GPU",
            remedy=f"choose {GPU_SIZE}",
            source=SOURCE,
        )
    if stage.gpu and stage.gpu != "H100":
        yield Problem(where=f"{where}.gpu", what=f"Azure has no confidential {stage.gpu}", remedy="H100", source=SOURCE)
    if size == GPU_SIZE and not stage.gpu:
        yield Problem(
            where=f"{where}.gpu",
            what="is missing: the machine has a confidential GPU that must be attested",
            remedy="set gpu: H100",
        )
    if stage.machine.enclave is not None:
        yield Problem(where=f"{where}.machine.enclave", what="belongs to Nitro enclaves", remedy="remove it")
