"""Google Cloud confidential machines, technologies and zones.

Sources: docs.cloud.google.com/confidential-computing confidential-vm/docs/supported-configurations and
create-a-confidential-vm-instance-with-gpu (2026-04); C4 and local SSD: release note of 2026-10-05; numbers of
vCPUs: docs.cloud.google.com/compute/docs/general-purpose-machines and compute-optimized-machines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jewelhouse.errors import Problem
from jewelhouse.hardware import nearest, tee_problems
from jewelhouse.model import Image, Machine, Platform, Stage, Tee

SOURCE = "Confidential VM supported configurations, 2026-10"
GPU_MACHINE = "a3-highgpu-1g"
FLEX_SECONDS = (600, 604800)
REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
CONFIDENTIAL_TYPES: Mapping[Tee, str] = {Tee.SEV: "SEV", Tee.SEV_SNP: "SEV_SNP", Tee.TDX: "TDX"}
# Confidential Space and SEV-SNP: `problems` refuses it with Google's own reason.
TEES: Mapping[Platform, tuple[Tee, ...]] = {
    Platform.GCP_CONFIDENTIAL_SPACE: (Tee.SEV, Tee.TDX),
    Platform.GCP_CVM: (Tee.SEV, Tee.SEV_SNP, Tee.TDX),
}
EXAMPLES: Mapping[Tee, str] = {
    Tee.TDX: "c3-standard-4",
    Tee.SEV: "n2d-standard-4",
    Tee.SEV_SNP: "n2d-standard-4",
}


def _zones(text: str) -> frozenset[str]:
    return frozenset(
        f"{region}-{letter}"
        for entry in text.split()
        for region, letters in [entry.split(":")]
        for letter in letters
    )


def _machines(text: str, local_ssd: bool = False) -> tuple[str, ...]:
    """`c3-standard:4,8` as machine types, with their `-lssd` twins when there are any."""
    names = [
        f"{group}-{count}"
        for entry in text.split()
        for group, counts in [entry.split(":")]
        for count in counts.split(",")
    ]
    return tuple(names + [f"{name}-lssd" for name in names] if local_ssd else names)


@dataclass(frozen=True)
class Offer:
    """Machines of one family in one technology; no zones means that any zone with the platform will do."""

    machines: tuple[str, ...]
    tee: Tee
    migrates: bool = False
    min_cpu_platform: str | None = None
    zones: frozenset[str] = frozenset()


_N2D = _machines(
    "n2d-standard:2,4,8,16,32,48,64,80,96,128,224 n2d-highcpu:2,4,8,16,32,48,64,80,96,128,224 "
    "n2d-highmem:2,4,8,16,32,48,64,80,96"
)
OFFERS = (
    Offer(_N2D, Tee.SEV, migrates=True, min_cpu_platform="AMD Milan"),
    Offer(
        _N2D,
        Tee.SEV_SNP,
        min_cpu_platform="AMD Milan",
        zones=_zones("asia-southeast1:abc europe-west3:abc europe-west4:abc us-central1:abc"),
    ),
    Offer(
        _machines(
            "c2d-standard:2,4,8,16,32,56,112 c2d-highcpu:2,4,8,16,32,56,112 c2d-highmem:2,4,8,16,32,56,112"
        ),
        Tee.SEV,
    ),
    Offer(
        (
            *_machines("c3d-standard:4 c3d-highcpu:4 c3d-highmem:4"),
            *_machines("c3d-standard:8,16,30,60,90,180 c3d-highmem:8,16,30,60,90,180", local_ssd=True),
            *_machines("c3d-highcpu:8,16,30,60,90,180"),
        ),
        Tee.SEV,
        migrates=True,
        min_cpu_platform="AMD Genoa",
    ),
    Offer(
        (
            *_machines("c4d-standard:2,4 c4d-highcpu:2,4 c4d-highmem:2,4"),
            *_machines("c4d-standard:8,16,32,48,64,96,192 c4d-highmem:8,16,32,48,64,96,192", local_ssd=True),
            *_machines("c4d-highcpu:8,16,32,48,64,96,192"),
        ),
        Tee.SEV,
    ),
    Offer(
        # Local SSD: refused by the documentation of 2026-04, allowed on C3 by the release note of 2026-10.
        _machines("c3-standard:4,8,22,44,88,176", local_ssd=True),
        Tee.TDX,
        zones=_zones(
            "asia-northeast1:b asia-south1:b asia-southeast1:abc europe-west4:abc europe-west9:ab "
            "us-central1:abc us-east1:cd us-east4:ac us-east5:bc us-west1:ab"
        ),
    ),
    Offer(
        _machines("c4-standard:2,4,8,16,24,32,48,96,144,192"),
        Tee.TDX,
        zones=_zones(
            "asia-southeast1:abc europe-west1:b europe-west3:ab europe-west4:ab us-central1:abf us-east4:abc "
            "us-west1:a"
        ),
    ),
    Offer((GPU_MACHINE,), Tee.TDX, zones=_zones("europe-west4:c us-central1:a us-east5:a")),
)
# What looks like an offer and is none: the reason instead of "not offered".
_REFUSED = (
    (r"(c3|c4|c3d|c4d)-.*-metal", "bare metal has no confidential mode"),
    (r"(c3d|c4d)-\w+-(360|384)(-lssd)?", "SEV ends at 255 vCPUs"),
    (r"c4-standard-288(-lssd)?", "TDX on C4 ends at 192 vCPUs"),
    (r"c4-\w+-\d+-lssd", "TDX goes with local SSD on c3-standard-*-lssd only"),
    (r"c[34]-high(mem|cpu)-\d+(-lssd)?", "TDX comes on the standard machines of C3 and C4 only"),
    (r"a3-(highgpu-[248]g|megagpu-8g|ultragpu-8g|edgegpu-8g)", "confidential GPUs come one at a time"),
    (r"a[24]-.*", "has no confidential mode for its GPUs"),
    (r"(ct|tpu)\w*-.*", "TPUs have no confidential mode"),
)
_BY_TEE: Mapping[Tee, Mapping[str, Offer]] = {
    tee: {machine: item for item in OFFERS if item.tee is tee for machine in item.machines} for tee in Tee
}


def offer(machine: str, tee: Tee) -> Offer | None:
    """The offer that has a machine type in a technology, or None."""
    return _BY_TEE[tee].get(machine)


def supports(machine: str, confidential_type: str) -> bool:
    """Whether Compute takes a machine with a `confidentialInstanceType`."""
    return any(offer(machine, tee) for tee, name in CONFIDENTIAL_TYPES.items() if name == confidential_type)


def zones(stage: Stage) -> tuple[str, ...]:
    """The zones a stage may use: its own, else those of its machine in its region, else the first three."""
    if stage.zones:
        return stage.zones
    found = offer(stage.machine.type, stage.tee) if stage.machine else None
    fitting = sorted(zone for zone in found.zones if _region(zone) == stage.region) if found else []
    return tuple(fitting) or tuple(f"{stage.region}-{letter}" for letter in "abc")


def _region(zone: str) -> str:
    return zone.rsplit("-", 1)[0]


def problems(stage: Stage, image: Image | None, where: str) -> Iterator[Problem]:
    """What Compute Engine or Confidential Space would refuse about a stage."""
    yield from _place(stage, where)
    if stage.platform is Platform.GCP_CONFIDENTIAL_SPACE and stage.tee is Tee.SEV_SNP:
        yield Problem(
            where=f"{where}.tee",
            what="Confidential Space does not attest SEV-SNP (UNSUPPORTED_CC_TECHNOLOGY)",
            remedy="choose tee: tdx or sev",
            source="Confidential Space deploy-workloads, 2026-06",
        )
    else:
        yield from tee_problems(stage, TEES, where)
    if stage.machine is None:
        example = GPU_MACHINE if stage.gpu else EXAMPLES.get(stage.tee, EXAMPLES[Tee.TDX])
        yield Problem(
            where=f"{where}.machine",
            what="is missing",
            remedy=f"name the machine type, for example {example}",
        )
        return
    machine = stage.machine
    found = offer(machine.type, stage.tee)
    if stage.tee in TEES[Platform.GCP_CVM]:
        if found is None:
            yield _not_offered(stage, machine, where)
        elif found.zones and REGION.fullmatch(stage.region):
            yield from _zone(stage, machine.type, found, where)
    yield from _gpu(stage, machine, where)
    yield from _capacity(machine, where)
    if machine.enclave is not None:
        yield Problem(where=f"{where}.machine.enclave", what="belongs to Nitro enclaves", remedy="remove it")
    if machine.disk and machine.disk.startswith("hyperdisk") and machine.type.startswith("c3d-"):
        yield Problem(
            where=f"{where}.machine.disk",
            what=f"SEV on C3D does not go with {machine.disk}",
            remedy="choose pd-balanced",
            source=SOURCE,
        )


def _place(stage: Stage, where: str) -> Iterator[Problem]:
    known = {_region(zone) for item in OFFERS for zone in item.zones}
    if not REGION.fullmatch(stage.region):
        zone = (
            " (that is a zone: zones go under `zones`)"
            if re.fullmatch(r".+[0-9]-[a-f]", stage.region)
            else ""
        )
        yield Problem(
            where=f"{where}.region",
            what=f"{stage.region} is not a Google Cloud region{zone}",
            remedy=f"for example {nearest(stage.region, known, 'europe-west4')}",
        )
        return
    for index, zone in enumerate(stage.zones):
        if not re.fullmatch(rf"{re.escape(stage.region)}-[a-f]", zone):
            yield Problem(
                where=f"{where}.zones[{index}]",
                what=f"{zone} is not a zone of {stage.region}",
                remedy=f"for example {stage.region}-a",
            )


def _not_offered(stage: Stage, machine: Machine, where: str) -> Problem:
    others = [tee for tee in TEES[stage.platform] if offer(machine.type, tee)]
    reason = next((says for form, says in _REFUSED if re.fullmatch(form, machine.type)), None)
    default = GPU_MACHINE if stage.gpu else EXAMPLES[stage.tee]
    known = {GPU_MACHINE} if stage.gpu else set(_BY_TEE[stage.tee]) - {GPU_MACHINE}
    return Problem(
        where=f"{where}.machine.type",
        what=f"{machine.type} is not offered with {stage.tee}" + (f": {reason}" if reason else ""),
        remedy=f"set tee: {others[0]}" if others else f"for example {nearest(machine.type, known, default)}",
        source=SOURCE,
    )


def _zone(stage: Stage, machine: str, found: Offer, where: str) -> Iterator[Problem]:
    regions = sorted({_region(zone) for zone in found.zones})
    if stage.region not in regions:
        yield Problem(
            where=f"{where}.region",
            what=f"{machine} with {stage.tee} is not offered in {stage.region}",
            remedy=f"choose one of: {', '.join(regions)}",
            source=SOURCE,
        )
        return
    here = sorted(zone for zone in found.zones if _region(zone) == stage.region)
    for index, zone in enumerate(stage.zones):
        if _region(zone) == stage.region and zone not in found.zones:
            yield Problem(
                where=f"{where}.zones[{index}]",
                what=f"{machine} with {stage.tee} is not offered in {zone}",
                remedy=f"choose one of: {', '.join(here)}",
                source=SOURCE,
            )


def _gpu(stage: Stage, machine: Machine, where: str) -> Iterator[Problem]:
    if stage.gpu and machine.type != GPU_MACHINE and offer(machine.type, stage.tee):
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{machine.type} has no confidential GPU",
            remedy=f"choose {GPU_MACHINE} with tee: tdx",
            source=SOURCE,
        )
    if machine.type == GPU_MACHINE and not stage.gpu:
        yield Problem(
            where=f"{where}.gpu",
            what="is missing: the machine has a confidential GPU that must be attested",
            remedy="set gpu: H100",
        )
    if stage.gpu and stage.gpu != "H100":
        yield Problem(
            where=f"{where}.gpu",
            what=f"Google Cloud has no confidential {stage.gpu}",
            remedy="set gpu: H100",
            source=SOURCE,
        )
    if machine.type == GPU_MACHINE and machine.provisioning == "on-demand":
        yield Problem(
            where=f"{where}.machine.provisioning",
            what=f"confidential {GPU_MACHINE} is not sold on demand",
            remedy="choose spot or flex-start",
            source=SOURCE,
        )


def _capacity(machine: Machine, where: str) -> Iterator[Problem]:
    duration = machine.run_duration
    if machine.provisioning != "flex-start":
        if duration is not None:
            yield Problem(
                where=f"{where}.machine.run-duration",
                what="belongs to flex-start capacity",
                remedy="remove it, or set provisioning: flex-start",
            )
        return
    if machine.type != GPU_MACHINE:
        yield Problem(
            where=f"{where}.machine.provisioning",
            what=f"flex-start is for GPU capacity, and {machine.type} has no GPU",
            remedy="choose on-demand or spot",
            source="Compute Engine ResizeRequest, 2026-10",
        )
    if duration is None:
        yield Problem(
            where=f"{where}.machine.run-duration",
            what="is missing",
            remedy="flex-start capacity has an end: 10m to 7d",
        )
    elif not FLEX_SECONDS[0] <= duration <= FLEX_SECONDS[1]:
        yield Problem(
            where=f"{where}.machine.run-duration",
            what=f"{duration} seconds is not between {FLEX_SECONDS[0]} and {FLEX_SECONDS[1]}",
            remedy="for example 6h; 10m to 7d",
            source="Compute Engine API v1: scheduling.maxRunDuration, 2026-10",
        )
