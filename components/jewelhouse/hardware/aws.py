"""EC2 for Nitro enclaves, NitroTPM and SEV-SNP: what a stage asks for against what there is.

The tables of machines are in `hardware.ec2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from jewelhouse.errors import Problem
from jewelhouse.hardware import nearest, tee_problems, words
from jewelhouse.hardware.ec2 import (
    ENCLAVE_TYPES,
    GPUS,
    LARGE_ENOUGH,
    NO_ENCLAVE,
    NO_TPM,
    NO_TPM_TYPES,
    SIZES,
    SOURCE,
    TOO_SMALL,
    TPM_TYPES,
    cpus,
    graviton,
    memory,
    threads_per_core,
)
from jewelhouse.model import Image, Machine, Platform, Stage, Tee

__all__ = ["SNP_SIZES", "enclave_problem", "graviton", "problems", "supports_snp", "tpm_problem"]

TEES: Mapping[Platform, tuple[Tee, ...]] = {
    Platform.AWS_ENCLAVE: (Tee.NITRO,),
    Platform.AWS_NITROTPM: (Tee.NITRO,),
}
SNP_SIZES = {  # docs.aws.amazon.com/AWSEC2/latest/UserGuide/sev-snp.html, 2026-10
    "m6a": ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge"),
    "c6a": ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge"),
    "r6a": ("large", "xlarge", "2xlarge", "4xlarge"),
}
# botocore 1.44.5: endpoints of ec2 in the partitions aws, aws-cn and aws-us-gov, 2026-10
REGIONS = words(
    """
    af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2
    ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 ap-southeast-7
    ca-central-1 ca-west-1 eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2
    eu-west-3 il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1 us-east-1 us-east-2 us-west-1
    us-west-2 cn-north-1 cn-northwest-1 us-gov-east-1 us-gov-west-1
    """
)
PARENT_CPUS = {2: 2, 1: 1}  # by threads per core: docs.aws.amazon.com/enclaves/.../multiple-enclaves.html
EIF_MEMORY_RATIO = 4  # aws/aws-nitro-enclaves-cli: src/enclave_proc/resource_manager.rs, 2026-09
# Enough for the kernel, vsock-proxy and the enclave's supervisor of a parent; our own floor.
PARENT_MEMORY = 1024


def enclave_problem(kind: str) -> str | None:
    """Why a machine type cannot host a Nitro enclave, or None."""
    family, dot, size = kind.partition(".")
    if not dot or not size:
        return f"{kind} is not an EC2 instance type"
    if "metal" in size:
        return f"{kind} cannot host a Nitro Enclave: bare metal has no hypervisor to carve it from"
    if family in NO_ENCLAVE or family not in SIZES:
        return f"{kind} cannot host a Nitro Enclave"
    if size not in SIZES[family]:
        return f"{kind} is not an EC2 instance type: {family} comes in {', '.join(SIZES[family])}"
    if size in TOO_SMALL:
        return f"{kind} cannot host a Nitro Enclave: it has too few vCPUs"
    if size == "large" and not graviton(family) and family not in LARGE_ENOUGH:
        return f"{kind} cannot host a Nitro Enclave: its two vCPUs stay with the parent"
    return None


def tpm_problem(kind: str) -> str | None:
    """Why a machine type has no NitroTPM, or None."""
    family, dot, size = kind.partition(".")
    if not dot or not size:
        return f"{kind} is not an EC2 instance type"
    if "metal" in size:
        return f"{kind} has no NitroTPM: bare metal has none"
    if family in NO_TPM or kind in NO_TPM_TYPES or family not in SIZES:
        return f"{kind} has no NitroTPM"
    if size not in SIZES[family]:
        return f"{kind} is not an EC2 instance type: {family} comes in {', '.join(SIZES[family])}"
    return None


def supports_snp(kind: str) -> bool:
    family, _, size = kind.partition(".")
    return size in SNP_SIZES.get(family, ())


def problems(stage: Stage, image: Image | None, where: str) -> Iterator[Problem]:
    """What EC2 would refuse about a stage on aws-enclave or aws-nitrotpm."""
    yield from _place(stage, where)
    yield from tee_problems(stage, TEES, where)
    if stage.machine is None:
        yield Problem(
            where=f"{where}.machine",
            what="is missing",
            remedy="name the instance type, for example m7i.xlarge",
        )
        if stage.gpu and stage.platform is Platform.AWS_ENCLAVE:
            yield _no_gpu(where)
        return
    if stage.machine.provisioning == "flex-start" or stage.machine.run_duration is not None:
        part = "provisioning" if stage.machine.provisioning == "flex-start" else "run-duration"
        yield Problem(
            where=f"{where}.machine.{part}",
            what="flex-start capacity belongs to Google Cloud",
            remedy="choose on-demand or spot, without run-duration",
        )
    if stage.platform is Platform.AWS_ENCLAVE:
        yield from _enclave_host(stage, stage.machine, where)
        if not enclave_problem(stage.machine.type):
            yield from _enclave_size(stage.machine, image, where)
    else:
        yield from _tpm_host(stage, stage.machine, where)


def _place(stage: Stage, where: str) -> Iterator[Problem]:
    if stage.region not in REGIONS:
        yield Problem(
            where=f"{where}.region",
            what=f"{stage.region} is not an AWS region",
            remedy=f"for example {nearest(stage.region, REGIONS, 'eu-central-1')}",
            source="botocore endpoints, 2026-10",
        )
        return
    for index, zone in enumerate(stage.zones):
        if not re.fullmatch(rf"{re.escape(stage.region)}[a-z]", zone):
            yield Problem(
                where=f"{where}.zones[{index}]",
                what=f"{zone} is not a zone of {stage.region}",
                remedy=f"for example {stage.region}a",
            )


def _no_gpu(where: str) -> Problem:
    return Problem(
        where=f"{where}.gpu",
        what="a GPU cannot enter a Nitro enclave",
        remedy="choose platform: aws-nitrotpm for a GPU host, for example machine type g6e.4xlarge",
        source="aws/aws-nitro-enclaves-cli issues 252 and 543, 2026-09",
    )


def _enclave_host(stage: Stage, machine: Machine, where: str) -> Iterator[Problem]:
    if stage.gpu:
        yield _no_gpu(where)
    problem = enclave_problem(machine.type)
    if problem:
        yield Problem(
            where=f"{where}.machine.type",
            what=problem,
            remedy="needs a Nitro family with 4 or more vCPUs (2 stay with the parent), for example "
            f"{nearest(machine.type, ENCLAVE_TYPES, 'm7i.xlarge')}",
            source=SOURCE,
        )
    if machine.enclave is None:
        yield Problem(
            where=f"{where}.machine.enclave",
            what="is missing",
            remedy="give the enclave its vCPUs and memory: {cpus: 2, memory: 4GiB}",
        )


def _enclave_size(machine: Machine, image: Image | None, where: str) -> Iterator[Problem]:
    if machine.enclave is None:
        return
    total, available = cpus(machine.type), memory(machine.type)
    threads = threads_per_core(machine.type.split(".")[0])
    keep = PARENT_CPUS[threads]
    if total is not None and machine.enclave.cpus > total - keep:
        yield Problem(
            where=f"{where}.machine.enclave.cpus",
            what=f"{machine.enclave.cpus} of the {total} vCPUs of {machine.type}: "
            f"{keep} must stay with the parent",
            remedy=f"at most {total - keep}, or a larger machine",
            source="AWS Nitro Enclaves user guide: multiple enclaves, 2026-10",
        )
    if machine.enclave.cpus % threads:
        yield Problem(
            where=f"{where}.machine.enclave.cpus",
            what=f"{machine.enclave.cpus} is not a whole number of cores ({threads} threads each)",
            remedy=f"for example {machine.enclave.cpus + threads - machine.enclave.cpus % threads}",
            source="aws/aws-nitro-enclaves-cli: bootstrap/nitro-enclaves-allocator, 2026-09",
        )
    if available is not None and machine.enclave.memory > available - PARENT_MEMORY:
        yield Problem(
            where=f"{where}.machine.enclave.memory",
            what=f"{machine.enclave.memory} MiB of the {available} MiB of {machine.type} "
            "leaves too little to the parent",
            remedy=f"at most {(available - PARENT_MEMORY) // 1024}GiB, or a larger machine",
            source=SOURCE,
        )
    if machine.enclave.memory % 1024:
        yield Problem(
            where=f"{where}.machine.enclave.memory",
            what=f"{machine.enclave.memory} MiB is not a whole number of 1 GiB pages",
            remedy=f"for example {machine.enclave.memory // 1024 + 1}GiB",
            source="linux: drivers/virt/nitro_enclaves/ne_misc_dev.c; aws-nitro-enclaves-cli issue 668",
        )
    needed = -(-EIF_MEMORY_RATIO * image.size // 2**20) if image and image.size else 0
    if machine.enclave.memory < needed:
        yield Problem(
            where=f"{where}.machine.enclave.memory",
            what=f"{machine.enclave.memory} MiB is less than "
            f"{EIF_MEMORY_RATIO} times the image: {needed} MiB",
            remedy=f"at least {-(-needed // 1024)}GiB",
            source="aws/aws-nitro-enclaves-cli: src/enclave_proc/resource_manager.rs, 2026-09",
        )


def _tpm_host(stage: Stage, machine: Machine, where: str) -> Iterator[Problem]:
    family = machine.type.partition(".")[0]
    problem = tpm_problem(machine.type)
    if problem:
        known = [kind for kind in TPM_TYPES if not stage.gpu or kind.split(".")[0] in GPUS]
        example = nearest(machine.type, known, "g6e.4xlarge" if stage.gpu else "m7i.xlarge")
        yield Problem(
            where=f"{where}.machine.type",
            what=problem,
            remedy=f"choose a type with NitroTPM, for example {example}",
            source=SOURCE,
        )
    # Accepted without a problem: KMS cannot see a GPU, and the release matrix says so. The machine must have
    # the GPU that the stage names, though.
    elif stage.gpu and family not in GPUS:
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{machine.type} has no GPU",
            remedy=f"choose for example {_with_gpu(stage.gpu) or 'g6e.4xlarge'}",
            source=SOURCE,
        )
    elif stage.gpu and GPUS[family] != stage.gpu:
        other = _with_gpu(stage.gpu)
        yield Problem(
            where=f"{where}.gpu",
            what=f"{machine.type} has {GPUS[family]}, not {stage.gpu}",
            remedy=f"set gpu: {GPUS[family]}" + (f", or choose machine type {other}" if other else ""),
            source=SOURCE,
        )
    if machine.enclave is not None:
        yield Problem(
            where=f"{where}.machine.enclave",
            what="a NitroTPM host runs the workload itself",
            remedy="remove it, or choose platform: aws-enclave",
        )


def _with_gpu(gpu: str) -> str | None:
    return next((kind for kind in TPM_TYPES if GPUS.get(kind.split(".")[0]) == gpu), None)
