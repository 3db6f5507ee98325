"""EC2 machines for Nitro Enclaves, NitroTPM and SEV-SNP.

Source of the tables: EC2 DescribeInstanceTypes as recorded in getmoto/moto 5.2.5
(moto/ec2/resources/instance_types.json.gz, 2026-10-27), unless another is named.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from jewelhouse.errors import Problem
from jewelhouse.model import Image, Platform, Stage

SOURCE = "EC2 DescribeInstanceTypes, 2026-10"
ENCLAVE_FAMILIES = frozenset(
    """
    c5 c5a c5ad c5d c5n c6a c6g c6gd c6gn c6i c6id c6in c7a c7g c7gd c7i c8a c8g c8gb c8gd c8gn c8i c8ib c8id
    c8in c8ine c9g c9gd m5 m5a m5ad m5d m5dn m5n m5zn m6a m6g m6gd m6i m6id m6idn m6in m7a m7g m7gd m7i m8a
    m8azn m8g m8gb m8gd m8gn m8i m8ib m8id m8idb m8idn m8in m8ine m9g m9gd r5 r5a r5ad r5b r5d r5dn r5n r6a
    r6g r6gd r6i r6id r6idn r6in r7a r7g r7gd r7i r7iz r8a r8g r8gb r8gd r8gn r8i r8ib r8id r8idb r8idn r8in
    r9g r9gd x2gd x2idn x2iedn x2iezn x8aedz x8g x8i z1d d3 d3en i3en i4g i4i i7i i7ie i8g i8ge g4dn g5 g6 g6e
    g6f g7 g7e gr6 gr6f p3dn p4d p4de p5 p5e p5en p6-b300 inf1 inf2 trn2 trn2u dl2q f2
    """.split()
)
# x86 families whose `.large` has two whole cores, so one can go to an enclave.
LARGE_ENOUGH = frozenset({"c8a", "m8a", "r8a", "m8azn", "x8aedz"})
NO_TPM_FAMILIES = frozenset(
    "a1 i3 i4g is4gen x2gd p4d p4de p3dn dl2q trn1 trn1n g5g vt1 mac1 mac2 hpc7a hpc7g".split()
)
GPU_TPM_FAMILIES = frozenset("p5 p5e p5en p6-b300 p6-b200 g4dn g5 g6 g6e g6f g7 g7e gr6".split())
SNP_SIZES = {  # docs.aws.amazon.com/AWSEC2/latest/UserGuide/sev-snp.html, 2026-10
    "m6a": ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge"),
    "c6a": ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge"),
    "r6a": ("large", "xlarge", "2xlarge", "4xlarge"),
}
# GiB of memory per vCPU by class letter; other classes are not claimed.
MEMORY_PER_CPU = {"c": 2, "m": 4, "r": 8}
PARENT_CPUS = 2  # docs.aws.amazon.com/enclaves/latest/user/multiple-enclaves.html
EIF_MEMORY_RATIO = 4  # aws/aws-nitro-enclaves-cli: src/enclave_proc/resource_manager.rs
REGION = re.compile(r"^(af|ap|ca|cn|eu|il|me|mx|sa|us)(-gov|-iso[a-z]?)?-(central|(north|south)?(east|west)?)-\d$")


def _split(kind: str) -> tuple[str, str] | None:
    match = re.fullmatch(r"([a-z][a-z0-9-]*)\.([a-z0-9-]+)", kind)
    return (match[1], match[2]) if match else None


def graviton(family: str) -> bool:
    """Whether a family has Arm cores (one thread each): a `g` after the generation."""
    return re.match(r"^[a-z]+\d+g", family) is not None


def threads_per_core(family: str) -> int:
    """1 on Graviton and on AMD from the seventh generation, else 2."""
    match = re.match(r"^[a-z]+(\d+)(a)?", family)
    return 1 if graviton(family) or (match and match[2] and int(match[1]) >= 7) else 2


def cpus(kind: str) -> int | None:
    """vCPUs by size: large has 2, xlarge 4, Nxlarge N times 4; None for sizes that do not follow."""
    parts = _split(kind)
    match = re.fullmatch(r"(\d*)xlarge|(large)", parts[1]) if parts else None
    if not match:
        return None
    return 2 if match[2] else 4 * int(match[1] or 1)


def memory(kind: str) -> int | None:
    """MiB of memory where family and size follow the usual ratio, else None."""
    parts, count = _split(kind), cpus(kind)
    match = re.fullmatch(r"([cmr])\d[a-z]*", parts[0]) if parts else None
    return MEMORY_PER_CPU[match[1]] * count * 1024 if match and count else None


def enclave_problem(kind: str) -> str | None:
    """Why a machine type cannot host a Nitro enclave, or None."""
    parts = _split(kind)
    if parts is None:
        return f"{kind} is not an EC2 instance type"
    family, size = parts
    if family not in ENCLAVE_FAMILIES or "metal" in size or size in ("medium", "nano", "micro", "small"):
        return f"{kind} cannot host a Nitro Enclave"
    if size == "large" and not graviton(family) and family not in LARGE_ENOUGH:
        return f"{kind} cannot host a Nitro Enclave: its two vCPUs are one core, which stays with the parent"
    return None


def tpm_problem(kind: str) -> str | None:
    """Why a machine type has no NitroTPM, or None."""
    parts = _split(kind)
    if parts is None:
        return f"{kind} is not an EC2 instance type"
    if parts[0] in NO_TPM_FAMILIES or "metal" in parts[1] or kind == "trn2.3xlarge":
        return f"{kind} has no NitroTPM"
    return None


def supports_snp(kind: str) -> bool:
    parts = _split(kind)
    return bool(parts) and parts[1] in SNP_SIZES.get(parts[0], ())


def problems(stage: Stage, image: Image | None, where: str) -> Iterator[Problem]:
    """What EC2 would refuse about a stage on aws-enclave or aws-nitrotpm."""
    if not REGION.match(stage.region):
        yield Problem(
            where=f"{where}.region", what=f"{stage.region} is not an AWS region", remedy="for example eu-central-1"
        )
    for index, zone in enumerate(stage.zones):
        if not re.fullmatch(rf"{re.escape(stage.region)}[a-z]", zone):
            yield Problem(
                where=f"{where}.zones[{index}]",
                what=f"{zone} is not a zone of {stage.region}",
                remedy=f"for example {stage.region}a",
            )
    if stage.machine is None:
        yield Problem(
            where=f"{where}.machine", what="is missing", remedy="name the instance type, for example m7i.xlarge"
        )
        return
    if stage.platform is Platform.AWS_ENCLAVE:
        yield from _enclave(stage, image, where)
    else:
        yield from _tpm(stage, where)


def _enclave(stage: Stage, image: Image | None, where: str) -> Iterator[Problem]:
    machine = stage.machine
    assert machine is not None
    if stage.gpu:
        yield Problem(
            where=f"{where}.gpu",
            what="a GPU cannot enter a Nitro enclave",
            remedy="choose platform aws-nitrotpm for a GPU host",
            source="aws/aws-nitro-enclaves-cli issues 252 and 543",
        )
    problem = enclave_problem(machine.type)
    if problem:
        parts = _split(machine.type)
        close = difflib.get_close_matches(parts[0] if parts else machine.type, sorted(ENCLAVE_FAMILIES), n=1)
        yield Problem(
            where=f"{where}.machine.type",
            what=problem,
            remedy="needs a Nitro family with 4 or more vCPUs (2 stay with the parent), for example "
            f"{close[0] if close else 'm7i'}.xlarge",
            source=SOURCE,
        )
    if machine.enclave is None:
        yield Problem(
            where=f"{where}.machine.enclave",
            what="is missing",
            remedy="give the enclave its vCPUs and memory: {cpus: 2, memory: 4GiB}",
        )
        return
    if problem:
        return
    total, family = cpus(machine.type), machine.type.split(".")[0]
    threads = threads_per_core(family)
    keep = PARENT_CPUS if threads == 2 else 1
    if total is not None and machine.enclave.cpus > total - keep:
        yield Problem(
            where=f"{where}.machine.enclave.cpus",
            what=f"{machine.enclave.cpus} of the {total} vCPUs of {machine.type}: {keep} must stay with the parent",
            remedy=f"at most {total - keep}, or a larger machine",
            source="AWS Nitro Enclaves user guide, 2026-10",
        )
    if machine.enclave.cpus % threads:
        yield Problem(
            where=f"{where}.machine.enclave.cpus",
            what=f"{machine.enclave.cpus} is not a whole number of cores ({threads} threads each)",
            remedy=f"a multiple of {threads}",
            source="aws/aws-nitro-enclaves-cli: bootstrap/nitro-enclaves-allocator",
        )
    available = memory(machine.type)
    if available is not None and machine.enclave.memory >= available:
        yield Problem(
            where=f"{where}.machine.enclave.memory",
            what=f"{machine.enclave.memory} MiB of the {available} MiB of {machine.type} leaves nothing to the parent",
            remedy="a smaller enclave or a larger machine",
            source=SOURCE,
        )
    if machine.enclave.memory % 1024:
        yield Problem(
            where=f"{where}.machine.enclave.memory",
            what=f"{machine.enclave.memory} MiB is not a whole number of 1 GiB pages",
            remedy="use whole GiB",
            source="linux: drivers/virt/nitro_enclaves/ne_misc_dev.c",
        )
    needed = -(-EIF_MEMORY_RATIO * image.size // 2**20) if image and image.size else 0
    if machine.enclave.memory < needed:
        yield Problem(
            where=f"{where}.machine.enclave.memory",
            what=f"{machine.enclave.memory} MiB, but the image needs {EIF_MEMORY_RATIO} times the image: {needed} MiB",
            remedy=f"at least {-(-needed // 1024)}GiB",
            source="aws/aws-nitro-enclaves-cli: src/enclave_proc/resource_manager.rs",
        )


def _tpm(stage: Stage, where: str) -> Iterator[Problem]:
    machine = stage.machine
    assert machine is not None
    problem = tpm_problem(machine.type)
    if problem:
        yield Problem(
            where=f"{where}.machine.type",
            what=problem,
            remedy="choose a type with NitroTPM, for example m7i.xlarge or g6e.4xlarge",
            source=SOURCE,
        )
    if machine.enclave is not None:
        yield Problem(
            where=f"{where}.machine.enclave",
            what="a NitroTPM host runs the workload itself",
            remedy="remove it, or choose platform aws-enclave",
        )
    # Accepted: KMS cannot see a GPU, and the matrix says so. The machine must have one, though.
    if stage.gpu and machine.type.split(".")[0] not in GPU_TPM_FAMILIES:
        yield Problem(
            where=f"{where}.machine.type",
            what=f"{machine.type} has no GPU beside a NitroTPM",
            remedy="choose for example g6e.4xlarge or p5.4xlarge",
            source=SOURCE,
        )
