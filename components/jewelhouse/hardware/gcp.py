"""Google Cloud confidential machines, technologies and zones.

Sources: docs.cloud.google.com/confidential-computing confidential-vm/docs/supported-configurations and
create-a-confidential-vm-instance-with-gpu (2026-04); C4 and local SSD: release note of 2026-10-05.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jewelhouse.errors import Problem
from jewelhouse.model import Image, Platform, Stage, Tee

SOURCE = "Confidential VM supported configurations, 2026-10"
GPU_MACHINE = "a3-highgpu-1g"
FLEX_SECONDS = (600, 604800)
CONFIDENTIAL_TYPES: Mapping[Tee, str] = {Tee.SEV: "SEV", Tee.SEV_SNP: "SEV_SNP", Tee.TDX: "TDX"}


def _zones(text: str) -> frozenset[str]:
    return frozenset(
        f"{region}-{letter}"
        for entry in text.split()
        for region, letters in [entry.split(":")]
        for letter in letters
    )


@dataclass(frozen=True)
class Offer:
    """Machines of one family in one technology; no zones means that any zone with the platform will do."""

    machines: str
    tee: Tee
    migrates: bool = False
    min_cpu_platform: str | None = None
    zones: frozenset[str] = frozenset()
    max_cpus: int | None = None


OFFERS = (
    Offer(r"n2d-(standard|highmem|highcpu)-\d+", Tee.SEV, migrates=True, min_cpu_platform="AMD Milan"),
    Offer(
        r"n2d-(standard|highmem|highcpu)-\d+",
        Tee.SEV_SNP,
        min_cpu_platform="AMD Milan",
        zones=_zones("asia-southeast1:abc europe-west3:abc europe-west4:abc us-central1:abc"),
    ),
    Offer(r"c2d-(standard|highmem|highcpu)-\d+", Tee.SEV),
    Offer(
        r"c3d-(standard|highmem|highcpu)-\d+(-lssd)?",
        Tee.SEV,
        migrates=True,
        min_cpu_platform="AMD Genoa",
        max_cpus=255,
    ),
    Offer(r"c4d-(standard|highmem|highcpu)-\d+(-lssd)?", Tee.SEV, max_cpus=255),
    Offer(
        r"c3-standard-\d+(-lssd)?",
        Tee.TDX,
        zones=_zones(
            "asia-northeast1:b asia-south1:b asia-southeast1:abc europe-west4:abc europe-west9:ab us-central1:abc "
            "us-east1:cd us-east4:ac us-east5:bc us-west1:ab"
        ),
    ),
    Offer(
        r"c4-standard-\d+",
        Tee.TDX,
        zones=_zones(
            "asia-southeast1:abc europe-west1:b europe-west3:ab europe-west4:ab us-central1:abf us-east4:abc "
            "us-west1:a"
        ),
        max_cpus=192,
    ),
    Offer(r"a3-highgpu-1g", Tee.TDX, zones=_zones("europe-west4:c us-central1:a us-east5:a")),
)


def offer(machine: str, tee: Tee) -> Offer | None:
    """The offer that has a machine type in a technology, or None."""
    found = (item for item in OFFERS if item.tee is tee and re.fullmatch(item.machines, machine))
    return next((item for item in found if item.max_cpus is None or (_cpus(machine) or 0) <= item.max_cpus), None)


def supports(machine: str, confidential_type: str) -> bool:
    """Whether Compute takes a machine with a `confidentialInstanceType`."""
    return any(offer(machine, tee) for tee, name in CONFIDENTIAL_TYPES.items() if name == confidential_type)


def zones(stage: Stage) -> tuple[str, ...]:
    """The zones a stage may use: its own, else those of its machine in its region, else the first three."""
    if stage.zones:
        return stage.zones
    found = offer(stage.machine.type, stage.tee) if stage.machine else None
    fitting = sorted(zone for zone in found.zones if zone.rsplit("-", 1)[0] == stage.region) if found else []
    return tuple(fitting) or tuple(f"{stage.region}-{letter}" for letter in "abc")


def _cpus(machine: str) -> int | None:
    match = re.search(r"-(\d+)(-lssd)?$", machine)
    return int(match[1]) if match else None


def problems(stage: Stage, image: Image | None, where: str) -> Iterator[Problem]:
    """What Compute Engine or Confidential Space would refuse about a stage."""
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+", stage.region):
        yield Problem(
            where=f"{where}.region",
            what=f"{stage.region} is not a Google Cloud region",
            remedy="for example europe-west4 (zones go under `zones`)",
        )
    if stage.platform is Platform.GCP_CONFIDENTIAL_SPACE and stage.tee is Tee.SEV_SNP:
        yield Problem(
            where=f"{where}.tee",
            what="Confidential Space does not attest SEV-SNP (UNSUPPORTED_CC_TECHNOLOGY)",
            remedy="choose tee: tdx or sev",
            source="Confidential Space deploy-workloads, 2026-06",
        )
    for index, zone in enumerate(stage.zones):
        if not re.fullmatch(rf"{re.escape(stage.region)}-[a-f]", zone):
            yield Problem(
                where=f"{where}.zones[{index}]",
                what=f"{zone} is not a zone of {stage.region}",
                remedy=f"for example {stage.region}-a",
            )
    if stage.machine is None:
        yield Problem(
            where=f"{where}.machine", what="is missing", remedy="name the machine type, for example c3-standard-4"
        )
        return
    machine = stage.machine.type
    found = offer(machine, stage.tee)
    if found is None:
        others = [tee for tee in Tee if offer(machine, tee)]
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{machine} is not offered with {stage.tee}",
            remedy=f"set tee: {others[0]}" if others else _example(stage.tee),
            source=SOURCE,
        )
    elif found.zones:
        yield from _zone(stage, machine, found, where)
    yield from _gpu(stage, machine, where)
    if stage.machine.enclave is not None:
        yield Problem(where=f"{where}.machine.enclave", what="belongs to Nitro enclaves", remedy="remove it")


def _example(tee: Tee) -> str:
    examples = {Tee.TDX: "c3-standard-4", Tee.SEV: "n2d-standard-4", Tee.SEV_SNP: "n2d-standard-4"}
    return f"for example {examples.get(tee, 'c3-standard-4 with tee: tdx')}"


def _zone(stage: Stage, machine: str, found: Offer, where: str) -> Iterator[Problem]:
    regions = sorted({zone.rsplit("-", 1)[0] for zone in found.zones})
    if stage.region not in regions:
        yield Problem(
            where=f"{where}.region",
            what=f"{machine} with {stage.tee} is not offered in {stage.region}",
            remedy=f"choose one of: {', '.join(regions)}",
            source=SOURCE,
        )
        return
    here = sorted(zone for zone in found.zones if zone.rsplit("-", 1)[0] == stage.region)
    for index, zone in enumerate(stage.zones):
        if zone not in found.zones:
            yield Problem(
                where=f"{where}.zones[{index}]",
                what=f"{machine} with {stage.tee} is not offered in {zone}",
                remedy=f"choose one of: {', '.join(here)}",
                source=SOURCE,
            )


def _gpu(stage: Stage, machine: str, where: str) -> Iterator[Problem]:
    assert stage.machine is not None
    if stage.gpu and machine != GPU_MACHINE:
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{machine} has no confidential GPU",
            remedy=f"choose {GPU_MACHINE}",
            source=SOURCE,
        )
    if machine == GPU_MACHINE and not stage.gpu:
        yield Problem(
            where=f"{where}.gpu",
            what="is missing: the machine has a confidential GPU that must be attested",
            remedy="set gpu: H100",
        )
    if stage.gpu and stage.gpu != "H100":
        yield Problem(
            where=f"{where}.gpu", what=f"Google Cloud has no confidential {stage.gpu}", remedy="H100", source=SOURCE
        )
    if machine == GPU_MACHINE and stage.machine.provisioning == "on-demand":
        yield Problem(
            where=f"{where}.machine.provisioning",
            what=f"confidential {GPU_MACHINE} is not sold on demand",
            remedy="choose spot or flex-start",
            source=SOURCE,
        )
    duration = stage.machine.run_duration
    if stage.machine.provisioning == "flex-start":
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
                remedy="10m to 7d",
                source="Compute Engine API, 2026-10",
            )
    elif duration is not None:
        yield Problem(
            where=f"{where}.machine.run-duration",
            what="belongs to flex-start capacity",
            remedy="remove it, or set provisioning: flex-start",
        )
