"""What stands against a lifecycle as a whole: names, the graph, accounts, machines, images, licences.

Everything is found in one pass; each problem names the YAML path and a remedy.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from jewelhouse.errors import Problem
from jewelhouse.hardware import aws, azure, gcp
from jewelhouse.lifecycle import licence_for, sealers_of
from jewelhouse.model import Artifact, Cloud, Image, Lifecycle, Measurements, Platform, Proof, Stage, Tee
from jewelhouse.release import proofs
from jewelhouse.release.aws import ONE_RAMDISK, SECURE_BOOT_OFF
from jewelhouse.yamlpath import suggestion

TEES: Mapping[Platform, tuple[Tee, ...]] = {
    Platform.AWS_ENCLAVE: (Tee.NITRO,),
    Platform.AWS_NITROTPM: (Tee.NITRO,),
    Platform.AZURE_CVM: (Tee.SEV_SNP, Tee.TDX),
    Platform.AZURE_CONTAINER: (Tee.SEV_SNP,),
    Platform.GCP_CONFIDENTIAL_SPACE: (Tee.SEV, Tee.TDX, Tee.SEV_SNP),
    Platform.GCP_CVM: (Tee.SEV, Tee.SEV_SNP, Tee.TDX),
}
# Platform -> names a measurement may have, and those of which one set must be complete.
MEASUREMENTS: Mapping[Platform, tuple[frozenset[str], tuple[frozenset[str], ...]]] = {
    Platform.AWS_ENCLAVE: (
        frozenset({"PCR0", "PCR1", "PCR2", "PCR3", "PCR4", "PCR8"}),
        (frozenset({"PCR0"}),),
    ),
    Platform.AWS_NITROTPM: (
        frozenset(f"PCR{n}" for n in range(24)),
        (frozenset({"PCR4", "PCR12"}), frozenset({"PCR7"})),
    ),
    Platform.AZURE_CONTAINER: (frozenset({"hostdata"}), (frozenset({"hostdata"}),)),
    Platform.GCP_CONFIDENTIAL_SPACE: (frozenset({"image_digest"}), (frozenset({"image_digest"}),)),
    Platform.AZURE_CVM: (frozenset(), ()),
    Platform.GCP_CVM: (frozenset(), ()),
}
# Platform -> form of an image reference that names fixed bytes, and how to say it.
REFERENCES: Mapping[Platform, tuple[str, str]] = {
    Platform.AWS_ENCLAVE: (r"sha256:[0-9a-f]{64}", "sha256:<digest of the EIF file>"),
    Platform.AWS_NITROTPM: (r"ami-[0-9a-f]{8}([0-9a-f]{9})?", "ami-<id>"),
    Platform.AZURE_CONTAINER: (r"[^@\s]+@sha256:[0-9a-f]{64}", "registry/name@sha256:<digest>"),
    Platform.GCP_CONFIDENTIAL_SPACE: (r"[^@\s]+@sha256:[0-9a-f]{64}", "registry/name@sha256:<digest>"),
    Platform.AZURE_CVM: (
        r"[\w-]+:[\w-]+:[\w-]+:\d+\.\d+\.\d+|/subscriptions/.+/galleries/.+/images/.+/versions/\d+\.\d+\.\d+",
        "publisher:offer:sku:<version>, or the version of a gallery image",
    ),
    Platform.GCP_CVM: (r"projects/[a-z0-9-]+/global/images/[a-z0-9-]+", "projects/<project>/global/images/<name>"),
}
HARDWARE = {Cloud.AWS: aws.problems, Cloud.AZURE: azure.problems, Cloud.GCP: gcp.problems}


def problems(
    lifecycle: Lifecycle, *, broken: frozenset[str] = frozenset(), now: datetime | None = None
) -> list[Problem]:
    """Everything that stands against a lifecycle.

    `broken` holds the YAML paths of entries that failed on their own: their names count as known, and
    nothing more is said about them. `now` decides about expired licences.
    """
    check = _Check(lifecycle, broken, now or datetime.now(UTC))
    return [
        *check.emptiness(),
        *check.parties(),
        *check.artifacts(),
        *check.cycle(),
        *(problem for stage in lifecycle.stages.values() for problem in check.stage(stage)),
        *check.images(),
    ]


class _Check:
    def __init__(self, lifecycle: Lifecycle, broken: frozenset[str], now: datetime) -> None:
        self.lifecycle = lifecycle
        self.broken = broken
        self.now = now

    def known(self, part: str, names: Iterable[str]) -> set[str]:
        return {*names, *(path.split(".", 1)[1] for path in self.broken if path.startswith(f"{part}."))}

    def emptiness(self) -> Iterator[Problem]:
        for part, entries in (
            ("parties", self.lifecycle.parties),
            ("artifacts", self.lifecycle.artifacts),
            ("stages", self.lifecycle.stages),
        ):
            if not self.known(part, entries):
                yield Problem(where=part, what="is empty", remedy=f"a lifecycle needs {part}")

    def parties(self) -> Iterator[Problem]:
        for party in self.lifecycle.parties.values():
            if not any(party.account(cloud) for cloud in Cloud):
                yield Problem(
                    where=f"parties.{party.name}",
                    what="has no account on any cloud",
                    remedy="add aws, azure or gcp, or remove the party",
                )

    def artifacts(self) -> Iterator[Problem]:
        sealed = sealers_of(self.lifecycle)
        opened = {name for stage in self.lifecycle.stages.values() for name in stage.opens}
        parties = self.known("parties", self.lifecycle.parties)
        whole = not any(path.startswith("stages.") for path in self.broken)
        for artifact in self.lifecycle.artifacts.values():
            where = f"artifacts.{artifact.name}"
            if artifact.owner not in parties:
                yield Problem(
                    where=f"{where}.owner",
                    what=f"{artifact.owner} is not a party",
                    remedy=suggestion(artifact.owner, parties),
                )
            if whole and artifact.name not in sealed and not artifact.supplied:
                yield Problem(
                    where=where,
                    what="nobody seals or supplies it",
                    remedy="let a stage seal it, or set supplied: true when its owner brings it",
                )
            if artifact.supplied and artifact.name in sealed:
                yield Problem(
                    where=f"{where}.supplied",
                    what=f"is supplied by its owner and sealed by {', '.join(sealed[artifact.name])}",
                    remedy="one source only: set supplied: false, or let the stage seal another artifact",
                )
            if whole and artifact.name not in opened and artifact.name not in sealed:
                yield Problem(where=where, what="no stage opens or seals it", remedy="use it or remove it")
            for licence in artifact.licences:
                for index, holder in enumerate(licence.holders):
                    if holder not in parties:
                        yield Problem(
                            where=f"{where}.licences.{licence.tier}.holders[{index}]",
                            what=f"{holder} is not a party",
                            remedy=suggestion(holder, parties),
                        )

    def cycle(self) -> Iterator[Problem]:
        sealers = sealers_of(self.lifecycle)
        feeds = {
            stage.name: sorted({sealer for name in stage.opens for sealer in sealers.get(name, ())})
            for stage in self.lifecycle.stages.values()
        }
        found = _cycle(feeds)
        if found:
            yield Problem(
                where=f"stages.{found[0]}.opens",
                what=f"the stages form a cycle: {' -> '.join(found)}",
                remedy="give the result of a later round a name of its own (base, next-base)",
            )

    def stage(self, stage: Stage) -> Iterator[Problem]:
        where = f"stages.{stage.name}"
        lifecycle = self.lifecycle
        artifacts = self.known("artifacts", lifecycle.artifacts)
        parties = self.known("parties", lifecycle.parties)
        if not stage.opens:
            yield Problem(
                where=f"{where}.opens", what="a stage that opens nothing needs no TEE", remedy="name what it opens"
            )
        for part, names in (("opens", stage.opens), ("seals", stage.seals)):
            for index, name in enumerate(names):
                if name not in artifacts:
                    yield Problem(
                        where=f"{where}.{part}[{index}]",
                        what=f"{name} is not an artifact",
                        remedy=suggestion(name, artifacts),
                    )
                if name in names[:index]:
                    yield Problem(where=f"{where}.{part}[{index}]", what=f"{name} is named twice", remedy="remove one")
        if stage.operator not in parties:
            yield Problem(
                where=f"{where}.operator",
                what=f"{stage.operator} is not a party",
                remedy=suggestion(stage.operator, parties),
            )
        elif (party := lifecycle.parties.get(stage.operator)) and party.account(stage.cloud) is None:
            yield Problem(
                where=f"parties.{stage.operator}.{stage.cloud}",
                what=f"is missing: {stage.name} runs on {stage.cloud}",
                remedy=f"give {stage.operator} an account there, or name another operator",
            )
        if stage.tee not in TEES[stage.platform]:
            yield Problem(
                where=f"{where}.tee",
                what=f"{stage.platform} does not offer {stage.tee}",
                remedy=f"choose {' or '.join(TEES[stage.platform])}",
            )
            return
        image = lifecycle.images.get((stage.image, stage.platform))
        yield from HARDWARE[stage.cloud](stage, image, where)
        yield from self.image_of(stage, image, where)
        yield from self.owners(stage)
        yield from self.licences(stage, where)
        yield from self.required(stage, where)

    def image_of(self, stage: Stage, image: Image | None, where: str) -> Iterator[Problem]:
        if image is None:
            if f"images.{stage.image}" in self.broken:
                return
            names = {name for name, platform in self.lifecycle.images if platform is stage.platform}
            yield Problem(
                where=f"{where}.image",
                what=f"there is no image {stage.image} for {stage.platform}",
                remedy=suggestion(stage.image, names) or "add it to images.lock.yaml",
            )

    def owners(self, stage: Stage) -> Iterator[Problem]:
        operator = self.lifecycle.parties.get(stage.operator)
        runs_in = operator.account(stage.cloud) if operator else None
        for name in dict.fromkeys((*stage.opens, *stage.seals)):
            artifact = self.lifecycle.artifacts.get(name)
            owner = self.lifecycle.parties.get(artifact.owner) if artifact else None
            if artifact is None or owner is None:
                continue
            account = owner.account(stage.cloud)
            if account is None:
                yield Problem(
                    where=f"parties.{owner.name}.{stage.cloud}",
                    what=f"is missing: {stage.name} opens or seals {name} there, whose keys and store it owns",
                    remedy=f"give {owner.name} an account on {stage.cloud}",
                )
            elif name in stage.opens and getattr(account, "number", "") is None:
                yield Problem(
                    where=f"parties.{owner.name}.gcp.number",
                    what=f"is missing: {owner.name} owns the key of {name}, and principal sets name projects by number",
                    remedy="add the project number, in quotes",
                )
            if (
                account is not None
                and runs_in is not None
                and name in stage.opens
                and account.boundary == runs_in.boundary
                and not self.lifecycle.allow_same_owner
            ):
                yield Problem(
                    where=f"artifacts.{name}.owner",
                    what=f"{owner.name} keeps the key in the same account that runs {stage.name}: {account.boundary}",
                    remedy="use an account apart from the operator's (an administrator of one account can change "
                    "key policies and make grants), or set allow-same-owner: true, which is shown everywhere",
                    source="Dstack-TEE/dstack docs/aws-attested-instance-security-evaluation.md, 2026-08",
                )

    def licences(self, stage: Stage, where: str) -> Iterator[Problem]:
        for index, name in enumerate(stage.opens):
            artifact = self.lifecycle.artifacts.get(name)
            if artifact is None or not artifact.licences:
                continue
            licence = licence_for(self.lifecycle, artifact, stage)
            if licence is None:
                yield Problem(
                    where=f"{where}.opens[{index}]",
                    what=f"no licence of {name} lets {stage.operator} use it for {stage.kind}",
                    remedy=f"tiers: {_tiers(artifact)}",
                )
            elif licence.expires is not None and licence.expires <= self.now:
                yield Problem(
                    where=f"artifacts.{name}.licences.{licence.tier}.expires",
                    what=f"the licence ended on {licence.expires:%Y-%m-%d}, and {stage.name} opens the artifact",
                    remedy="renew the licence, or remove the artifact from the stage",
                )

    def required(self, stage: Stage, where: str) -> Iterator[Problem]:
        operator = self.lifecycle.parties.get(stage.operator)
        for index, name in enumerate(stage.opens):
            artifact = self.lifecycle.artifacts.get(name)
            if artifact is None:
                continue
            for proof in artifact.require:
                status = proofs.possible(stage.platform, proof)
                if proof is Proof.GPU and stage.gpu is None:
                    yield Problem(
                        where=f"{where}.opens[{index}]",
                        what=f"{name} requires an attested GPU, and the stage has none",
                        remedy="open it in a stage with a confidential GPU",
                    )
                elif status.state is not proofs.State.ENFORCED:
                    yield Problem(
                        where=f"{where}.opens[{index}]",
                        what=f"{name} requires proof of {proof}, which {stage.platform} cannot enforce",
                        remedy=status.note,
                    )
            same = operator is not None and self.lifecycle.allow_same_owner
            if same and Proof.OWNER_APART in artifact.require and self._shared(artifact, stage):
                yield Problem(
                    where=f"{where}.opens[{index}]",
                    what=f"{name} requires proof of owner-apart, but its key lies in the account of {stage.name}",
                    remedy="use an account apart: allow-same-owner does not go together with strict release",
                )

    def _shared(self, artifact: Artifact, stage: Stage) -> bool:
        owner, operator = self.lifecycle.parties.get(artifact.owner), self.lifecycle.parties.get(stage.operator)
        left = owner.account(stage.cloud) if owner else None
        right = operator.account(stage.cloud) if operator else None
        return left is not None and right is not None and left.boundary == right.boundary

    def images(self) -> Iterator[Problem]:
        used = {(stage.image, stage.platform) for stage in self.lifecycle.stages.values()}
        for key in sorted(used & set(self.lifecycle.images)):
            image = self.lifecycle.images[key]
            where = f"images.{image.name}.{image.platform}"
            if image.debug or re.search(r"\bdebug\b", image.reference):
                yield Problem(
                    where=where,
                    what="is a debug image: its operator can look inside",
                    remedy="use the production image",
                )
            form, said = REFERENCES[image.platform]
            if not re.fullmatch(form, image.reference):
                yield Problem(
                    where=f"{where}.reference",
                    what=f"{image.reference} does not fix the bytes",
                    remedy=f"write it as {said}",
                )
            if MEASUREMENTS[image.platform][1] and not image.measurements:
                yield Problem(
                    where=f"{where}.measurements",
                    what="is missing, so nothing would tell this image from another",
                    remedy=f"add {_either(image.platform)}",
                )
            for index, measurements in enumerate(image.measurements):
                part = "measurements" if index == 0 else f"previous[{index - 1}]"
                yield from _measured(image, measurements, f"{where}.{part}")
            yield from _policy(image, where)


def _measured(image: Image, measurements: Measurements, where: str) -> Iterator[Problem]:
    allowed, complete = MEASUREMENTS[image.platform]
    values = measurements.values
    for name, value in values.items():
        if name not in allowed:
            yield Problem(
                where=f"{where}.{name}",
                what=f"is not a measurement that the key service compares on {image.platform}",
                remedy=f"known: {', '.join(sorted(allowed)) or 'none'}",
            )
            continue
        length = 96 if name.startswith("PCR") else 64
        digest = value.removeprefix("sha256:") if name == "image_digest" else value
        if name == "image_digest" and not value.startswith("sha256:"):
            yield Problem(where=f"{where}.{name}", what="has no sha256: before it", remedy="sha256:<64 hex digits>")
        elif len(digest) != length:
            yield Problem(
                where=f"{where}.{name}",
                what=f"has {len(digest)} hex digits, not {length}",
                remedy="copy the whole value from the build",
            )
        elif not re.fullmatch(r"[0-9a-f]+", digest):
            yield Problem(where=f"{where}.{name}", what="is not lower-case hex", remedy="digits 0-9 and a-f only")
        elif set(digest) == {"0"} and not (image.platform is Platform.AWS_NITROTPM and name == "PCR12"):
            yield Problem(
                where=f"{where}.{name}",
                what="is all zero: that is a debug enclave, or a register nobody extended",
                remedy="pin the value of the production image",
            )
        elif value == SECURE_BOOT_OFF:
            yield Problem(
                where=f"{where}.{name}",
                what="is the value of every machine with Secure Boot off, so it proves nothing",
                remedy="pin PCR4 with PCR12, or enrol Secure Boot keys",
                source="aws/NitroTPM-Tools nitro-tpm-pcr-compute, 2026-09",
            )
        elif value == ONE_RAMDISK and set(values) == {"PCR2"}:
            yield Problem(
                where=f"{where}.{name}",
                what="is the value of every image with one ramdisk",
                remedy="pin PCR0",
            )
    if complete and values and not any(names <= set(values) for names in complete):
        yield Problem(
            where=where,
            what=f"{', '.join(values)} does not fix the image",
            remedy=f"add {_either(image.platform)}",
            source="GHSA-xrv8-2pf5-f3q7" if image.platform is Platform.AWS_NITROTPM else "",
        )


def _policy(image: Image, where: str) -> Iterator[Problem]:
    if image.platform is not Platform.AZURE_CONTAINER:
        return
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
        yield Problem(where=f"{where}.container-policy", what="is not base64", remedy="encode the Rego text")
        return
    current = image.measurements[0].get("hostdata") if image.measurements else None
    if current is not None and hashlib.sha256(policy).hexdigest() != current:
        yield Problem(
            where=f"{where}.measurements.hostdata",
            what="is not the SHA-256 of container-policy",
            remedy=f"hostdata would be {hashlib.sha256(policy).hexdigest()}",
        )


def _either(platform: Platform) -> str:
    return " or ".join(" and ".join(sorted(names, key=_by_number)) for names in MEASUREMENTS[platform][1])


def _by_number(name: str) -> tuple[int, str]:
    match = re.search(r"\d+", name)
    return (int(match[0]) if match else 0, name)


def _tiers(artifact: Artifact) -> str:
    return "; ".join(
        f"{licence.tier} ({', '.join(licence.holders)}: {', '.join(licence.kinds)})" for licence in artifact.licences
    )


def _cycle(feeds: Mapping[str, list[str]]) -> list[str]:
    """One cycle as the stages along it, the first repeated at the end; empty when there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for feeder in feeds.get(name, []):
            found = walk(feeder, [*path, name])
            if found:
                return found
        done.add(name)
        return []

    for name in sorted(feeds):
        found = walk(name, [])
        if found:
            return found
    return []
