"""EC2 instance types on the Nitro hypervisor, as data.

All tables: EC2 DescribeInstanceTypes as recorded in getmoto/moto 5.2.5
(moto/ec2/resources/instance_types.json.gz, built 2026-10-27). Bare metal is left out: it carries neither
enclaves nor NitroTPM. Types that appeared later are unknown here until the tables are renewed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from jewelhouse.hardware import words

SOURCE = "EC2 DescribeInstanceTypes, 2026-10"

# Families | their sizes.
_SIZES = """
c8a c8g c8gb c8gd c8gn c9g c9gd m8a m8g m8gb m8gd m8gn m9g m9gd r8a r8g r8gb r8gd r8gn r9g r9gd x8g | medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge
c8i c8ib c8id c8in m8i m8ib m8id m8idb m8idn m8in r8i r8ib r8id r8idb r8idn r8in | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge 48xlarge 96xlarge
c5a c5ad m5 m5a m5ad m5d m5dn m5n r5 r5a r5ad r5b r5d r5dn r5n | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge
c6g c6gd c6gn c7g c7gd c7gn m6g m6gd m7g m7gd r6g r6gd r7g r7gd | medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge
c6i c6id c6in i4i m6i m6id m6idn m6in r6i r6id r6idn r6in | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge
c7i-flex c8i-flex m7i-flex m8i-flex r8i-flex x2gd | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge
c7i i7i i8g m7i r7i | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge
c6a m6a r6a | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge 48xlarge
c7a m7a r7a | medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge 48xlarge
t3 t3a t4g | nano micro small medium large xlarge 2xlarge
t8i | nano micro small medium
c5 c5d | large xlarge 2xlarge 4xlarge 9xlarge 12xlarge 18xlarge 24xlarge
c5n | large xlarge 2xlarge 4xlarge 9xlarge 18xlarge
c8ine m8ine | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge
m5zn z1d | large xlarge 2xlarge 3xlarge 6xlarge 12xlarge
m8azn | medium large xlarge 3xlarge 6xlarge 12xlarge 24xlarge
r7iz | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 32xlarge
x8i | large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge 48xlarge 64xlarge 96xlarge
x8aedz | large xlarge 3xlarge 6xlarge 12xlarge 24xlarge
x2idn | 16xlarge 24xlarge 32xlarge
x2iedn | xlarge 2xlarge 4xlarge 8xlarge 16xlarge 24xlarge 32xlarge
x2iezn | 2xlarge 4xlarge 6xlarge 8xlarge 12xlarge
d3 | xlarge 2xlarge 4xlarge 8xlarge
d3en | xlarge 2xlarge 4xlarge 6xlarge 8xlarge 12xlarge
i3en | large xlarge 2xlarge 3xlarge 6xlarge 12xlarge 24xlarge
i4g im4gn | large xlarge 2xlarge 4xlarge 8xlarge 16xlarge
i7ie i8ge | large xlarge 2xlarge 3xlarge 6xlarge 12xlarge 18xlarge 24xlarge 48xlarge
u7i-6tb u7i-8tb | 112xlarge
u7i-12tb u7in-16tb u7in-24tb u7in-32tb | 224xlarge
hpc6id | 32xlarge
hpc6a | 48xlarge
hpc8a | 96xlarge
g4dn | xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge
g5 g6 g6e | xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge
g6f | large xlarge 2xlarge 4xlarge
g7 g7e | 2xlarge 4xlarge 8xlarge 12xlarge 24xlarge 48xlarge
gr6 | 4xlarge 8xlarge
gr6f | 4xlarge
p3dn p4d p4de dl2q | 24xlarge
p5 | 4xlarge 48xlarge
p5e p5en p6-b200 p6-b300 trn2u | 48xlarge
trn2 | 3xlarge 48xlarge
inf1 | xlarge 2xlarge 6xlarge 24xlarge
inf2 | xlarge 8xlarge 24xlarge 48xlarge
f2 | 6xlarge 12xlarge 48xlarge
"""  # noqa: E501
SIZES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        family: tuple(sizes.split())
        for families, sizes in (line.split("|") for line in _SIZES.strip().splitlines())
        for family in families.split()
    }
)

NO_ENCLAVE = words(
    """
    c7gn c7i-flex c8i-flex m7i-flex m8i-flex r8i-flex im4gn t3 t3a t4g t8i hpc6a hpc6id hpc8a p6-b200
    u7i-6tb u7i-8tb u7i-12tb u7in-16tb u7in-24tb u7in-32tb
    """
)
# Two vCPUs without a sibling pair suffice on these; on every other x86 family both stay with the parent.
LARGE_ENOUGH = frozenset({"c8a", "m8a", "r8a", "m8azn", "x8aedz"})
TOO_SMALL = frozenset({"nano", "micro", "small", "medium"})

NO_TPM = frozenset({"i4g", "x2gd", "p3dn", "p4d", "p4de", "dl2q"})
NO_TPM_TYPES = frozenset({"trn2.3xlarge"})

# GiB of memory per vCPU; families that do not keep to one ratio are not claimed.
_MEMORY = {
    2: "c5 c5a c5ad c5d c6a c6g c6gd c6gn c6i c6id c6in c7a c7g c7gd c7i c8a c8g c8gb c8gd c8gn c8i c8ib "
    "c8id c8in c8ine c9g c9gd inf1",
    4: "d3en g4dn g5 g6 g6f g7 inf2 m5 m5a m5ad m5d m5dn m5n m5zn m6a m6g m6gd m6i m6id m6idn m6in m7a m7g "
    "m7gd m7i m8a m8azn m8g m8gb m8gd m8gn m8i m8ib m8id m8idb m8idn m8in m8ine m9g m9gd",
    8: "d3 dl2q g6e gr6 gr6f i3en i4g i4i i7i i7ie i8g i8ge p3dn r5 r5a r5ad r5b r5d r5dn r5n r6a r6g r6gd "
    "r6i r6id r6idn r6in r7a r7g r7gd r7i r7iz r8a r8g r8gb r8gd r8gn r8i r8ib r8id r8idb r8idn r8in r9g "
    "r9gd z1d",
    12: "p4d p4de",
    16: "x2gd x2idn x8g x8i",
    32: "x2iedn x2iezn x8aedz",
}
MEMORY_PER_CPU: Mapping[str, int] = MappingProxyType(
    {family: ratio for ratio, families in _MEMORY.items() for family in families.split()}
)

GPUS: Mapping[str, str] = MappingProxyType(
    {
        "g4dn": "T4",
        "g5": "A10G",
        "g6": "L4",
        "g6f": "L4",
        "gr6": "L4",
        "gr6f": "L4",
        "g6e": "L40S",
        "g7": "RTX-PRO-4500",
        "g7e": "RTX-PRO-6000",
        "p3dn": "V100",
        "p4d": "A100",
        "p4de": "A100",
        "p5": "H100",
        "p5e": "H200",
        "p5en": "H200",
        "p6-b200": "B200",
        "p6-b300": "B300",
    }
)

# x86 families whose vCPUs are whole cores though their generation's are not, or the other way round.
_THREADS = {"g7": 1, "hpc6a": 1, "hpc6id": 1}
# HPC families sell half of the vCPUs that their size says.
_WHOLE_CORES = frozenset({"hpc6a", "hpc6id", "hpc8a"})

TYPES = tuple(f"{family}.{size}" for family, sizes in SIZES.items() for size in sizes)
ENCLAVE_TYPES = tuple(
    kind
    for kind in TYPES
    for family, size in [kind.split(".")]
    if family not in NO_ENCLAVE
    and size not in TOO_SMALL
    and (size != "large" or family in LARGE_ENOUGH or re.match(r"[a-z]+\d+g", family))
)
TPM_TYPES = tuple(kind for kind in TYPES if kind.split(".")[0] not in NO_TPM and kind not in NO_TPM_TYPES)


def graviton(family: str) -> bool:
    """Whether a family has Arm cores: a `g` after the generation."""
    return re.match(r"[a-z]+\d+g", family) is not None


def threads_per_core(family: str) -> int:
    """1 on Graviton and on AMD from the seventh generation, else 2."""
    match = re.match(r"[a-z]+(\d+)(a)?", family)
    newer_amd = match is not None and match[2] is not None and int(match[1]) >= 7
    return _THREADS.get(family, 1 if graviton(family) or newer_amd else 2)


def cpus(kind: str) -> int | None:
    """vCPUs by size: large has 2, xlarge 4, Nxlarge N times 4; None for types that are not in the tables."""
    family, _, size = kind.partition(".")
    if size not in SIZES.get(family, ()):
        return None
    if size in TOO_SMALL:
        return 2 if family.startswith("t") else 1
    count = 2 if size == "large" else 4 * int(size.removesuffix("xlarge") or 1)
    return count // 2 if family in _WHOLE_CORES else count


def memory(kind: str) -> int | None:
    """MiB of memory, or None where the tables claim nothing."""
    count, ratio = cpus(kind), MEMORY_PER_CPU.get(kind.split(".")[0])
    return count * ratio * 1024 if count and ratio else None
