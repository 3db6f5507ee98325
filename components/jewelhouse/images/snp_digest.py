"""Launch digests of SEV-SNP machines: what the processor measures before the first instruction runs.

Computed by the library sev-snp-measure (github.com/virtee/sev-snp-measure) from the firmware's own bytes, so
it says something only where those are known: on hosts that start the firmware that is given here.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Platform

REMEDY = "pip install 'jewelhouse[images]' (brings sev-snp-measure)"


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """Whether a digest computed from a firmware file can be compared with evidence of a platform."""

    comparable: bool
    why: str
    instead: str = ""
    source: str = ""


# Where a launch digest computed here says something about an image, and what to pin where it does not.
OWN_HOST = "own-host"
MEANINGS: Mapping[str, Meaning] = MappingProxyType(
    {
        OWN_HOST: Meaning(
            comparable=True,
            why="QEMU starts the firmware that is measured, with kernel, ramdisk and command line by hash",
            source="github.com/virtee/sev-snp-measure: README.md, 2026-11",
        ),
        Platform.AZURE_CVM: Meaning(
            comparable=False,
            why="the launch measurement covers Microsoft's paravisor, which nobody else has as a file",
            instead="the virtual TPM's registers: PCR4, PCR7, PCR11",
            source="github.com/MicrosoftDocs/azure-docs: confidential-computing/guest-attestation-"
            "confidential-virtual-machines-design.md, 2026-11",
        ),
        Platform.AZURE_CONTAINER: Meaning(
            comparable=False,
            why="the launch measurement covers Microsoft's utility machine, endorsed by a signed document",
            instead="hostdata: the container policy's digest",
            source="github.com/microsoft/confidential-sidecar-containers: README.md, 2026-11",
        ),
        Platform.GCP_CVM: Meaning(
            comparable=False,
            why="Google starts its own firmware, whose digests it signs as launch endorsements",
            instead="Google's launch endorsement for the firmware, the virtual TPM's registers for the image",
            source="github.com/google/gce-tcb-verifier: README.md, 2026-11",
        ),
        Platform.GCP_CONFIDENTIAL_SPACE: Meaning(
            comparable=False,
            why="Google starts its own firmware and its own Confidential Space image",
            instead="image_digest of the container in the attestation token",
            source="docs.cloud.google.com/confidential-computing/confidential-space/docs/reference/"
            "token-claims, 2026-11",
        ),
        Platform.AWS_NITROTPM: Meaning(
            comparable=False,
            why="the evidence is signed by the Nitro hypervisor, the processor reports nothing in it",
            instead="the TPM's registers: PCR4 with PCR12, or PCR7",
            source="docs.aws.amazon.com/AWSEC2/latest/UserGuide/nitrotpm-attestation-document-content.html, "
            "2026-11",
        ),
        Platform.AWS_ENCLAVE: Meaning(
            comparable=False,
            why="an enclave is measured by the Nitro hypervisor, not by the processor",
            instead="PCR0, PCR1 and PCR2 of the enclave image",
            source="docs.aws.amazon.com/enclaves/latest/user/set-up-attestation.html, 2026-11",
        ),
    }
)

# The tables at the end of an OVMF image (github.com/tianocore/edk2 edk2-stable202205:
# OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm and Ia16/ResetVectorVtf0.asm).
_FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
_RESET = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
SECTIONS: Mapping[int, str] = {
    1: "SNP_SEC_MEM",
    2: "SNP_SECRETS",
    3: "CPUID",
    4: "SVSM_CAA",
    0x10: "SNP_KERNEL_HASHES",
}
_VTF = 32
_ENTRY = struct.Struct("<H16s")
_HEADER = struct.Struct("<4sIII")
_SECTION = struct.Struct("<III")
_PAGE = 4096
LIMIT = 64 * 1024 * 1024


class MalformedFirmware(JewelhouseError):
    """A file that is no OVMF image with the tables that SEV-SNP needs; names the offset."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a host starts. `vcpu_type` as QEMU names processor models; `guest_features`: SEV features of every
    virtual processor (1: SNP is on). A kernel is measured by hash, with its ramdisk and command line."""

    firmware: Path
    vcpus: int
    vcpu_type: str = "EPYC-Milan"
    guest_features: int = 0x1
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""


def sections(firmware: Path) -> tuple[str, ...]:
    """What the firmware's SEV metadata declares, in its order. Raises MalformedFirmware."""
    where = str(firmware)
    try:
        size = firmware.stat().st_size
        if not _PAGE <= size <= LIMIT or size % _PAGE:
            raise MalformedFirmware(f"has {size} bytes, which no firmware image has", where=where)
        data = firmware.read_bytes()
    except OSError as error:
        raise MalformedFirmware(f"cannot be read: {error.strerror}", where=where) from error
    tables = _tables(data, where)
    if _METADATA not in tables or _RESET not in tables:
        raise MalformedFirmware(
            "declares nothing for SEV-SNP",
            where=where,
            # Debian 12's OVMF_CODE_4M.fd (ovmf 2022.11) is built with SMM and declares nothing.
            remedy="use edk2 202205 or newer built without SMM, such as Debian 12's OVMF_CODE.fd of 2 MiB",
        )
    return _metadata(data, tables[_METADATA], where)


def _tables(data: bytes, where: str) -> dict[bytes, bytes]:
    """The entries before the reset vector, read backwards from the footer."""
    end = len(data) - _VTF
    length, name = _ENTRY.unpack_from(data, end - _ENTRY.size)
    if name != _FOOTER:
        raise MalformedFirmware("is no OVMF image: it ends in no table", where=f"{where} at {end:#x}")
    start = end - length
    if length < _ENTRY.size or start < 0:
        raise MalformedFirmware(f"has a table of {length} bytes", where=f"{where} at {end:#x}")
    at, found = end - _ENTRY.size, {}
    while at > start:
        if at - start < _ENTRY.size:
            raise MalformedFirmware("has half an entry in its table", where=f"{where} at {at:#x}")
        length, name = _ENTRY.unpack_from(data, at - _ENTRY.size)
        if length < _ENTRY.size or at - length < start:
            raise MalformedFirmware(f"has an entry of {length} bytes", where=f"{where} at {at:#x}")
        if name in found:
            raise MalformedFirmware("has an entry twice", where=f"{where} at {at:#x}")
        found[name] = data[at - length : at - _ENTRY.size]
        at -= length
    return found


def _metadata(data: bytes, entry: bytes, where: str) -> tuple[str, ...]:
    if len(entry) < 4:
        raise MalformedFirmware("has an entry without its offset", where=where)
    start = len(data) - int.from_bytes(entry[:4], "little")
    if not 0 <= start <= len(data) - _HEADER.size:
        raise MalformedFirmware("has its SEV metadata outside of itself", where=where)
    magic, length, version, count = _HEADER.unpack_from(data, start)
    here = f"{where} at {start:#x}"
    if magic != b"ASEV" or version != 1:
        raise MalformedFirmware("has SEV metadata of another kind", where=here)
    if length != _HEADER.size + count * _SECTION.size or start + length > len(data):
        raise MalformedFirmware(f"has SEV metadata of {length} bytes for {count} sections", where=here)
    found: list[str] = []
    for number in range(count):
        at = start + _HEADER.size + number * _SECTION.size
        address, size, kind = _SECTION.unpack_from(data, at)
        if kind not in SECTIONS or address % _PAGE or size % _PAGE or not size:
            raise MalformedFirmware(
                f"has a section of kind {kind:#x} with {size} bytes at {address:#x}",
                where=f"{where} at {at:#x}",
            )
        found.append(SECTIONS[kind])
    return tuple(found)


def compute(launch: Launch, *, platform: str = OWN_HOST) -> str:
    """The launch digest, 96 hex digits, as a report's `measurement` shows it.

    Raises JewelhouseError for a platform whose evidence holds no such digest, for a kernel that the firmware
    would not measure, and where the library is missing; MalformedFirmware for a bad image.
    """
    check_platform(platform)
    declared = sections(launch.firmware)
    where = str(launch.firmware)
    if launch.kernel is None and (launch.initrd is not None or launch.cmdline):
        raise JewelhouseError("a ramdisk and a command line are measured with a kernel only", where=where)
    if launch.kernel is not None and "SNP_KERNEL_HASHES" not in declared:
        raise JewelhouseError(
            "the firmware has no SNP_KERNEL_HASHES: it would start any kernel under the same digest",
            where=where,
            remedy="build edk2's OvmfPkg/AmdSev/AmdSevX64.dsc, or measure without --kernel",
            source="github.com/virtee/sev-snp-measure: README.md, 2026-11",
        )
    if not 1 <= launch.vcpus <= 512:
        raise JewelhouseError(f"a machine has 1 to 512 virtual processors, not {launch.vcpus}", where="vcpus")
    if not launch.guest_features & 1:
        raise JewelhouseError(
            "guest features without bit 0 start a machine without SNP", where="guest_features"
        )
    for path in filter(None, (launch.kernel, launch.initrd)):
        if not path.is_file():
            raise JewelhouseError("there is no such file", where=str(path))
    return _computed(launch)


def check_platform(platform: str) -> None:
    """Raises JewelhouseError with what to pin instead, unless digests of `platform` can be compared."""
    meaning = MEANINGS.get(platform)
    if meaning is None:
        raise JewelhouseError(
            f"nothing is known of launch digests on {platform}", remedy=f"one of {', '.join(MEANINGS)}"
        )
    if not meaning.comparable:
        raise JewelhouseError(
            f"a launch digest says nothing about an image on {platform}: {meaning.why}",
            where=platform,
            remedy=f"pin {meaning.instead}",
            source=meaning.source,
        )


def _computed(launch: Launch) -> str:
    try:
        from sevsnpmeasure import guest, vcpu_types
        from sevsnpmeasure.sev_mode import SevMode
    except ImportError as error:
        raise JewelhouseError("sev-snp-measure is not installed", remedy=REMEDY) from error
    if launch.vcpu_type not in vcpu_types.CPU_SIGS:
        raise JewelhouseError(
            f"{launch.vcpu_type!r} is no processor model",
            remedy=", ".join(vcpu_types.CPU_SIGS),
            where="vcpu_type",
        )
    digest = guest.calc_launch_digest(
        SevMode.SEV_SNP,
        launch.vcpus,
        vcpu_types.CPU_SIGS[launch.vcpu_type],
        str(launch.firmware),
        str(launch.kernel) if launch.kernel else "",
        str(launch.initrd) if launch.initrd else "",
        launch.cmdline,
        launch.guest_features,
    )
    return digest.hex()
