"""Images: that a reference fixes the bytes, and that the measurements fix the image."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jewelhouse.checks.scope import Scope
from jewelhouse.errors import Problem
from jewelhouse.model import GPU_PLATFORMS, Image, Measurements, Platform, Proof, Stage
from jewelhouse.release import proofs
from jewelhouse.release.aws import ONE_RAMDISK, SECURE_BOOT_OFF
from jewelhouse.yamlpath import suggestion

_DIGEST = r"sha256:[0-9a-f]{64}"
_CONTAINER = (rf"[^@\s]+@{_DIGEST}", "registry/name@sha256:<64 hex digits>")
# Platform -> form of an image reference that names fixed bytes, and how to say it.
REFERENCES: Mapping[Platform, tuple[str, str]] = {
    Platform.AWS_ENCLAVE: (_DIGEST, "sha256:<digest of the EIF file>"),
    Platform.AWS_NITROTPM: (r"ami-[0-9a-f]{8}([0-9a-f]{9})?", "ami-<17 hex digits>"),
    Platform.AZURE_CONTAINER: _CONTAINER,
    Platform.GCP_CONFIDENTIAL_SPACE: _CONTAINER,
    Platform.AZURE_CVM: (
        r"[\w.-]+:[\w.-]+:[\w.-]+:[0-9]+\.[0-9]+\.[0-9]+"
        r"|/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Compute"
        r"/galleries/[^/]+/images/[^/]+/versions/[0-9]+\.[0-9]+\.[0-9]+",
        "publisher:offer:sku:<version>, or the resource id of a gallery image's version",
    ),
    Platform.GCP_CVM: (
        r"projects/[a-z][a-z0-9:.-]*/global/images/[a-z][a-z0-9-]*",
        "projects/<project>/global/images/<name>",
    ),
}
# Why a reference that looks right does not fix the bytes: Confidential Space, Azure documentation (2026-10).
_MOVING = (
    (r".*/images/family/.*", "is an image family, which points to another image tomorrow"),
    (r".*[:/]latest", "is whatever is latest, not fixed bytes"),
    (r"[^@]*", "has no digest or version, so it does not fix the bytes"),
)
# The private networks on Google Cloud reach Google's own services only.
_ARTIFACT_REGISTRY = re.compile(r"[a-z0-9-]+-docker\.pkg\.dev/[a-z0-9-]+/[a-z0-9-]+/")
_DEBUG = re.compile(r"(?<![a-z0-9])debug(?![a-z0-9])")


@dataclass(frozen=True)
class Registers:
    """Measurements of a platform: names it may have, and sets of which one must be complete."""

    allowed: frozenset[str]
    complete: tuple[frozenset[str], ...]


_NONE = Registers(frozenset(), ())
# Which values the key services compare. Nitro Enclaves and NitroTPM: KMS developer guide, condition keys for
# attested platforms, 2026-10; hostdata and image_digest: the claims of Azure Attestation and Google Cloud
# Attestation. No key service compares a value of the image of a confidential VM.
MEASUREMENTS: Mapping[Platform, Registers] = {
    Platform.AWS_ENCLAVE: Registers(
        frozenset({"PCR0", "PCR1", "PCR2", "PCR3", "PCR4", "PCR8"}), (frozenset({"PCR0"}),)
    ),
    Platform.AWS_NITROTPM: Registers(
        frozenset(f"PCR{n}" for n in range(24)), (frozenset({"PCR4", "PCR12"}), frozenset({"PCR7"}))
    ),
    Platform.AZURE_CONTAINER: Registers(frozenset({"hostdata"}), (frozenset({"hostdata"}),)),
    Platform.GCP_CONFIDENTIAL_SPACE: Registers(frozenset({"image_digest"}), (frozenset({"image_digest"}),)),
    Platform.AZURE_CVM: _NONE,
    Platform.GCP_CVM: _NONE,
}


def of_stage(scope: Scope, stage: Stage, where: str) -> Iterator[Problem]:
    """That there is the image a stage names, for the platform it runs on."""
    images = scope.lifecycle.images
    if (stage.image, stage.platform) in images or f"images.{stage.image}" in scope.broken:
        image = images.get((stage.image, stage.platform))
        if image is not None:
            yield from _gpus(stage, image, where)
        return
    elsewhere = sorted(platform for name, platform in images if name == stage.image)
    if elsewhere:
        remedy = f"it is there for {', '.join(elsewhere)}: add {stage.platform}, or choose another image"
    else:
        names = {name for name, platform in images if platform is stage.platform}
        remedy = suggestion(stage.image, names) or "add it to images.lock.yaml"
    yield Problem(
        where=f"{where}.image", what=f"there is no image {stage.image} for {stage.platform}", remedy=remedy
    )


def _gpus(stage: Stage, image: Image, where: str) -> Iterator[Problem]:
    """That somebody attests a confidential GPU before weights are on it: the key service, or the guest."""
    if stage.gpu is None:
        if image.gpus is not None:
            yield Problem(
                where=f"{where}.image",
                what=f"{image.name} opens nothing without {image.gpus} GPU, and the stage has none",
                remedy="choose an image whose recipe demands no GPU, or a machine with one",
            )
        return
    if stage.platform not in GPU_PLATFORMS or image.gpus is not None:
        return
    if proofs.possible(stage.platform, Proof.GPU).state is not proofs.State.ENFORCED:
        yield Problem(
            where=f"{where}.image",
            what=f"nobody attests the {stage.gpu} before weights are on it: the guest in {image.name} does "
            f"not, and the key service of {stage.platform} cannot see it",
            remedy="choose an image whose recipe demands it (trust.gpu), and lock it: jewelhouse image lock",
        )


def problems(scope: Scope) -> Iterator[Problem]:
    """What is wrong with the images that stages run."""
    used = {(stage.image, stage.platform) for stage in scope.lifecycle.stages.values()}
    for key in sorted(used & set(scope.lifecycle.images)):
        image = scope.lifecycle.images[key]
        where = f"images.{image.name}.{image.platform}"
        yield from _reference(image, where)
        yield from _measurements(image, where)
        if image.platform is Platform.AZURE_CONTAINER:
            yield from _container_policy(image, where)


def _reference(image: Image, where: str) -> Iterator[Problem]:
    if image.debug or _DEBUG.search(image.reference):
        yield Problem(
            where=where if image.debug else f"{where}.reference",
            what="is a debug image: its operator can look inside",
            remedy="use the production image",
            source="Confidential Space images: the debug family has root SSH, 2026-04"
            if image.platform.cloud == "gcp"
            else "",
        )
    form, said = REFERENCES[image.platform]
    if not re.fullmatch(form, image.reference):
        moving = next((says for shape, says in _MOVING if re.fullmatch(shape, image.reference)), None)
        yield Problem(
            where=f"{where}.reference",
            what=f"{image.reference} {moving or 'does not fix the bytes'}",
            remedy=f"write it as {said}",
        )
    elif image.platform is Platform.GCP_CONFIDENTIAL_SPACE and image.measurements:
        digest = image.reference.rsplit("@", 1)[1]
        measured = image.measurements[0].get("image_digest")
        if measured is not None and measured != digest:
            yield Problem(
                where=f"{where}.measurements.image_digest",
                what="is not the digest in the reference, so the container that runs would never get a key",
                remedy=f"set it to {digest}, or correct the reference",
            )
    if image.platform is Platform.GCP_CONFIDENTIAL_SPACE and not _ARTIFACT_REGISTRY.match(image.reference):
        yield Problem(
            where=f"{where}.reference",
            what=f"{image.reference.split('/')[0]} is not Artifact Registry, and stages reach nothing else",
            remedy="push the image to <location>-docker.pkg.dev/<project>/<repository>/; its digest stays",
        )


def _measurements(image: Image, where: str) -> Iterator[Problem]:
    if MEASUREMENTS[image.platform].complete and not image.measurements:
        yield Problem(
            where=f"{where}.measurements",
            what="is missing, so nothing would tell this image from another",
            remedy=f"add {_either(image.platform)}",
        )
    for index, measurements in enumerate(image.measurements):
        part = "measurements" if index == 0 else f"previous[{index - 1}]"
        yield from _alternative(image.platform, measurements, f"{where}.{part}")


def _alternative(platform: Platform, measurements: Measurements, where: str) -> Iterator[Problem]:
    registers, values = MEASUREMENTS[platform], measurements.values
    for name, value in values.items():
        if name not in registers.allowed:
            yield Problem(
                where=f"{where}.{name}",
                what=f"is not a measurement that the key service compares on {platform}",
                remedy=f"known: {', '.join(sorted(registers.allowed, key=_by_number)) or 'none'}",
            )
        else:
            yield from _value(platform, name, value, f"{where}.{name}")
    if registers.complete and not any(names <= set(values) for names in registers.complete):
        yield Problem(
            where=where,
            what=_incomplete(platform, measurements),
            remedy=f"add {_either(platform)}",
            source="GHSA-xrv8-2pf5-f3q7" if platform is Platform.AWS_NITROTPM else "",
        )


def _incomplete(platform: Platform, measurements: Measurements) -> str:
    names = set(measurements.values)
    listed = ", ".join(sorted(names, key=_by_number))
    if not names:
        return "is empty, so nothing would tell this image from another"
    if platform is Platform.AWS_NITROTPM and "PCR4" in names:
        return f"{listed} does not cover a command line that is added from outside"
    if platform is Platform.AWS_ENCLAVE and names <= {"PCR3", "PCR4"}:
        return f"{listed} does not fix the image: a debug enclave keeps PCR3 and PCR4"
    if platform is Platform.AWS_ENCLAVE and measurements.get("PCR2") == ONE_RAMDISK:
        return f"{listed} does not fix the image: PCR2 is that of every image with one ramdisk"
    return f"{listed} does not fix the image"


def _value(platform: Platform, name: str, value: str, where: str) -> Iterator[Problem]:
    """One measurement: form first, then the values that prove nothing."""
    length = 96 if name.startswith("PCR") else 64
    digest = value.removeprefix("sha256:") if name == "image_digest" else value
    # PCR12 stays at zero when nothing was added to the measured command line, and has to be pinned so.
    may_be_zero = platform is Platform.AWS_NITROTPM and name == "PCR12"
    what = remedy = source = ""
    if name == "image_digest" and not value.startswith("sha256:"):
        what, remedy = "has no sha256: before it", f"sha256:<{length} hex digits>"
    elif len(digest) != length:
        what = f"has {len(digest)} digits, not {length}"
        remedy = f"copy the whole value from the build ({'SHA-384' if length == 96 else 'SHA-256'} in hex)"
    elif not re.fullmatch(r"[0-9a-f]+", digest):
        what, remedy = "is not lower-case hex", "digits 0-9 and a-f only"
    elif set(digest) == {"0"} and not may_be_zero:
        what = "is all zero: that is a debug enclave, or a register that nobody extended"
        remedy = "pin the value of the production image"
    elif value == SECURE_BOOT_OFF:
        what = "is the value of every machine with Secure Boot off, so it proves nothing"
        remedy = "pin PCR4 with PCR12 instead, or enrol Secure Boot keys"
        source = "aws/NitroTPM-Tools: nitro-tpm-pcr-compute/src/main.rs, 2026-09"
    if what:
        yield Problem(where=where, what=what, remedy=remedy, source=source)


def _container_policy(image: Image, where: str) -> Iterator[Problem]:
    if image.container_policy is None:
        yield Problem(
            where=f"{where}.container-policy",
            what="is missing",
            remedy="add the confidential container policy (Rego, base64) whose SHA-256 is hostdata",
        )
        return
    try:
        policy = base64.b64decode(image.container_policy, validate=True)
    except (binascii.Error, ValueError):
        yield Problem(
            where=f"{where}.container-policy", what="is not base64", remedy="encode the Rego text in base64"
        )
        return
    digest = hashlib.sha256(policy).hexdigest()
    current = image.measurements[0].get("hostdata") if image.measurements else None
    if current is not None and current != digest:
        yield Problem(
            where=f"{where}.measurements.hostdata",
            what="is not the SHA-256 of container-policy, so the container that runs would never get a key",
            remedy=f"hostdata of this policy is {digest}",
        )


def _either(platform: Platform) -> str:
    return " or ".join(
        " and ".join(sorted(names, key=_by_number)) for names in MEASUREMENTS[platform].complete
    )


def _by_number(name: str) -> tuple[int, str]:
    match = re.search(r"\d+", name)
    return (int(match[0]) if match else 0, name)
