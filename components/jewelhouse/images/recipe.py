"""Recipes: what a platform team writes to have an image built for each platform.

A recipe is a folder with a `recipe.yaml` and the files that it names. Everything in it is measured; errors
name the file and the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StrictBool, StrictInt, StrictStr, field_validator

from jewelhouse.errors import Problem, Problems
from jewelhouse.images import folder, oci, rootfs
from jewelhouse.images.tree import MalformedTree, checked
from jewelhouse.model import GPU_PLATFORMS, MOST_GPUS, Platform
from jewelhouse.yamlpath import Settings, join, validated

FILE = "recipe.yaml"
NAME = r"^[a-z][a-z0-9-]{0,39}$"
# What the kit itself puts into every image; a recipe cannot replace it unseen.
RESERVED = ("etc/jewelhouse", "init", "usr/lib/jewelhouse", "usr/lib/python3/dist-packages/jewelhouse")
CONTAINERS = (Platform.AZURE_CONTAINER, Platform.GCP_CONFIDENTIAL_SPACE)
Text = Annotated[StrictStr, Field(min_length=1)]


class InvalidRecipe(Problems):
    """A recipe that no image can be built from; each problem names file, line and what to do."""


class RecipeFile(Settings):
    """One file of the image: exactly one of `source`, `template` or `text`."""

    source: Text | None = None
    """File in the recipe's folder, taken as it is."""
    template: Text | None = None
    """Jinja2 template in the recipe's folder; it sees `name`, `platform` and `environment`."""
    text: StrictStr | None = None
    """The content itself."""
    mode: Annotated[StrictStr, Field(pattern=r"^0[0-7]{3}$")] = "0644"
    """Permissions in octal, in quotes."""


class TrustedArtifact(Settings):
    """What the guest accepts as one artifact."""

    signers: tuple[Text, ...] = ()
    """Files in the recipe's folder with the public keys (PEM) that may sign it; none: it stays shut."""
    minimum_version: Annotated[StrictInt, Field(ge=1)] = 1
    """Older versions are refused, so nobody can roll the artifact back."""
    minimum_wrapping: Annotated[StrictInt, Field(ge=1)] = 1
    """Manifests from before this wrapping are refused: keys that were retired since stay so."""


class TrustedMandate(Settings):
    """Whose mandates the guest follows when it seals one artifact."""

    signers: tuple[Text, ...] = ()
    """Files with the public keys (PEM) that may sign the mandate; none: it seals nothing."""


class TrustedRewrap(TrustedMandate):
    """Whose mandates the guest follows when it wraps the data key of an opened artifact to more keys."""

    unseal: StrictBool = True
    """Whether the workload gets the artifact too; a stage that rewraps alone needs no memory for it."""


class TrustedGpus(Settings):
    """GPUs that the guest attests before it asks for any key."""

    count: Annotated[StrictInt, Field(ge=1, le=MOST_GPUS)]
    """How many the machine has, no fewer and no more."""
    architecture: Literal["HOPPER", "BLACKWELL"]
    """NVIDIA's name of their architecture: an H100 is a HOPPER."""
    mode: Literal["SPT", "MPT"] = "SPT"
    """How they are passed through: SPT, or MPT where their links are encrypted."""
    driver: tuple[Annotated[StrictStr, Field(pattern=r"^[0-9]+(\.[0-9]+)+$")], ...] = ()
    """Versions of the driver that may run; without them any that NVIDIA has reference values for."""
    vbios: tuple[Annotated[StrictStr, Field(pattern=r"^[0-9A-Fa-f]{2}(\.[0-9A-Fa-f]{2}){4}$")], ...] = ()
    """Versions of the firmware that may run; without them any that NVIDIA has reference values for."""


class Trust(Settings):
    """What the guest trusts; inside the image, hence measured."""

    opens: dict[Text, TrustedArtifact] = {}
    """By artifact, those that the workload may open."""
    seals: dict[Text, TrustedMandate] = {}
    """By artifact, those that the workload makes."""
    rewraps: dict[Text, TrustedRewrap] = {}
    """By artifact, those of `opens` whose data keys are wrapped to more keys."""
    gpu: TrustedGpus | None = None
    """What it demands of the machine's GPUs; without it the guest attests none."""


class KernelSettings(Settings):
    """The kernel of images that boot by themselves."""

    package: Text | None = None
    """Debian package of the kernel; the cloud kernel of the target's architecture without it."""
    image: Text | None = None
    """Kernel file in the recipe's folder instead of a package, such as AWS's own bzImage."""
    modules: tuple[Text, ...] = ()
    """Modules beyond those that the platform needs; file names where `image` is given."""
    command_line: StrictStr = ""
    """What follows the platform's own kernel command line."""


class Target(Settings):
    """How the image is made for one platform."""

    repository: Annotated[StrictStr, Field(pattern=r"^[a-z0-9.:-]+(/[a-z0-9._-]+)+$")] | None = None
    """Where a container image is pushed: registry/path, without tag or digest."""
    launch_policy: dict[Text, StrictStr] = {}
    """Labels of Confidential Space without `tee.launch_policy.`: what its operator may set."""
    architecture: Literal["x86_64", "aarch64"] = "x86_64"
    """Instruction set."""


class _File(Settings):
    name: Annotated[StrictStr, Field(pattern=NAME)]
    """Name of the image in lock file and stacks: lower case letters, digits and hyphens."""
    description: StrictStr = ""
    """What the image does, in a sentence."""
    suite: Annotated[StrictStr, Field(pattern=rootfs.SUITE.pattern)] = "trixie"
    """Debian release that packages come from."""
    archive: Annotated[StrictStr, Field(pattern=r"^https?://\S+$")] | None = None
    """Debian archive, or a day of a snapshot archive; Debian's own when left out."""
    epoch: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """Date that every file gets."""
    packages: tuple[Annotated[StrictStr, Field(pattern=f"^{rootfs.PACKAGE.pattern}$")], ...] = ("python3",)
    """Debian packages, `name` or `name=version`."""
    requirements: Text | None = None
    """Python requirements with hashes, a file in the recipe's folder."""
    files: dict[Text, RecipeFile] = {}
    """Files by their path in the image."""
    environment: dict[Annotated[StrictStr, Field(pattern=r"^[A-Za-z_]\w*$")], StrictStr] = {}
    """Environment of the workload."""
    run: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Command of the workload, started by the guest when its artifacts are open."""
    trust: Trust = Trust()
    """What the guest accepts."""
    kernel: KernelSettings = KernelSettings()
    """Kernel of images that boot by themselves."""
    targets: Annotated[dict[Platform, Target], Field(min_length=1)]
    """Platforms to build for."""
    guest: StrictBool = True
    """Whether the guest, which attests and has keys released, is put into the image."""

    @field_validator("epoch")
    @classmethod
    def _with_zone(cls, value: datetime) -> datetime:
        return value if value.tzinfo else value.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe whose every file is there. `sources` holds the content of the files it names, `trust` the
    guest's trust settings as they stand in the image."""

    directory: Path
    settings: _File
    sources: Mapping[str, bytes]

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def epoch(self) -> int:
        """Seconds since 1970 that every file is dated with."""
        return int(self.settings.epoch.timestamp())

    @property
    def digest(self) -> str:
        """`sha256:…` over all files of the recipe's folder."""
        return folder.digest(self.directory)

    def trust(self) -> dict[str, Any]:
        """The guest's trust settings: signers as PEM, floors of versions, and what runs."""
        trust = self.settings.trust
        return {
            "opens": {
                name: {
                    "signers": self._keys(one.signers),
                    "minimum-version": one.minimum_version,
                    "minimum-wrapping": one.minimum_wrapping,
                }
                for name, one in sorted(trust.opens.items())
            },
            "seals": {
                name: {"signers": self._keys(one.signers)} for name, one in sorted(trust.seals.items())
            },
            "rewraps": {
                name: {"signers": self._keys(one.signers), "unseal": one.unseal}
                for name, one in sorted(trust.rewraps.items())
            },
            "run": list(self.settings.run),
            **({"gpu": trust.gpu.model_dump(mode="json")} if trust.gpu else {}),
        }

    def _keys(self, signers: tuple[str, ...]) -> list[str]:
        return [self.sources[signer].decode("ascii") for signer in signers]


def schema() -> dict[str, Any]:
    """JSON Schema of recipes."""
    return _File.model_json_schema(by_alias=True)


def load(directory: Path) -> Recipe:
    """Reads `recipe.yaml` in a folder with all files that it names.

    Raises InvalidRecipe with everything that is wrong at once.
    """
    path = directory / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise InvalidRecipe(
            [
                Problem(
                    where=str(path), what=f"cannot be read: {reason}", remedy="docs/images.md shows a recipe"
                )
            ]
        ) from error
    problems: list[Problem] = []
    content, lines = _parsed(text, str(path), problems)
    settings = None if problems else validated(_File, content, "", problems)
    sources: dict[str, bytes] = {}
    if settings:
        problems.extend(_checked(settings))
        problems.extend(_gather(directory, settings, sources))
    if problems or settings is None:
        raise InvalidRecipe(_placed(problem, path, lines) for problem in problems)
    return Recipe(directory=directory, settings=settings, sources=sources)


def _placed(problem: Problem, path: Path, lines: Mapping[str, int]) -> Problem:
    """The same problem with the line of the nearest part of the file that is there."""
    where = problem.where
    while where and where not in lines:
        where = where[: max(where.rfind("."), where.rfind("["), 0)]
    place = f"{path.name}:{lines.get(where, 1)}" if not problem.where.startswith(str(path)) else ""
    return Problem(
        where=f"{path.parent / place}: {problem.where}".rstrip(": ") if place else problem.where,
        what=problem.what,
        remedy=problem.remedy,
        source=problem.source,
    )


def _parsed(text: str, name: str, problems: list[Problem]) -> tuple[Any, dict[str, int]]:
    """The content with the line of each YAML path; a key written twice is a problem."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problems.append(
            Problem(where=f"{name}:{line}", what=f"is not YAML: {error.problem or error.context}")
        )
        return None, {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problems.append(Problem(where=f"{name}:1", what=f"is not YAML: {' '.join(str(error).split())}"))
        return None, {}
    lines: dict[str, int] = {}
    for where, line, twice in _walk(root, ""):
        lines[where] = line
        if twice:
            problems.append(Problem(where=where, what="is written twice", remedy="keep one of them"))
    return content, lines


def _walk(node: yaml.Node | None, where: str, depth: int = 0) -> Iterator[tuple[str, int, bool]]:
    if isinstance(node, yaml.MappingNode) and depth < 16:
        seen: set[str] = set()
        for key, value in node.value:
            path = join(where, [str(key.value)])
            yield path, key.start_mark.line + 1, path in seen
            seen.add(path)
            yield from _walk(value, path, depth + 1)
    elif isinstance(node, yaml.SequenceNode) and depth < 16:
        for index, value in enumerate(node.value):
            path = join(where, [index])
            yield path, value.start_mark.line + 1, False
            yield from _walk(value, path, depth + 1)


def _checked(settings: _File) -> Iterator[Problem]:
    for path, file in settings.files.items():
        where = f"files.{path}"
        given = [name for name in ("source", "template", "text") if getattr(file, name) is not None]
        if len(given) != 1:
            yield Problem(
                where=where,
                what=f"has {' and '.join(given) or 'no content'}",
                remedy="give exactly one of source, template, text",
            )
        if not path.startswith("/"):
            yield Problem(where=where, what="is not absolute", remedy=f"write /{path}")
            continue
        try:
            inside = checked(path[1:])
        except MalformedTree:
            yield Problem(
                where=where, what="is no path inside the image", remedy="leave out empty parts, . and .."
            )
            continue
        for reserved in RESERVED:
            if inside == reserved or inside.startswith(f"{reserved}/"):
                yield Problem(
                    where=where,
                    what=f"belongs to the kit, which writes /{reserved} itself",
                    remedy="trust settings go under trust, the command under run",
                )
    for platform, target in settings.targets.items():
        yield from _target(platform, target, f"targets.{platform}")
        if settings.trust.gpu and platform not in GPU_PLATFORMS:
            yield Problem(
                where=f"targets.{platform}",
                what="has no GPU that can be attested, and trust.gpu demands one: its guest would never open "
                "anything",
                remedy=f"leave it out, or choose {', '.join(sorted(GPU_PLATFORMS))}",
            )
    if settings.trust.gpu and not settings.guest:
        yield Problem(
            where="trust.gpu",
            what="is a demand of the guest, and guest is false",
            remedy="leave one of them out",
        )
    if settings.kernel.image and not settings.kernel.image.strip():
        yield Problem(where="kernel.image", what="is empty")
    if any(character in settings.kernel.command_line for character in "\n\0"):
        yield Problem(
            where="kernel.command-line",
            what="has a newline or NUL, and every byte of it is measured",
            remedy="write it in one line",
        )


def _target(platform: Platform, target: Target, where: str) -> Iterator[Problem]:
    if platform in CONTAINERS and target.repository is None:
        yield Problem(
            where=f"{where}.repository", what="is missing", remedy="registry/path the image is pushed to"
        )
    if platform not in CONTAINERS and target.repository is not None:
        yield Problem(
            where=f"{where}.repository", what=f"has no meaning on {platform}", remedy="leave it out"
        )
    if target.launch_policy and platform is not Platform.GCP_CONFIDENTIAL_SPACE:
        yield Problem(where=f"{where}.launch-policy", what=f"has no meaning on {platform}")
    for name, value in target.launch_policy.items():
        pattern = oci.LAUNCH_POLICIES.get(f"tee.launch_policy.{name}")
        if pattern is None:
            known = ", ".join(sorted(key.removeprefix("tee.launch_policy.") for key in oci.LAUNCH_POLICIES))
            yield Problem(
                where=f"{where}.launch-policy.{name}",
                what="is no launch policy of Confidential Space",
                remedy=f"known: {known}",
            )
        elif not pattern.fullmatch(value):
            yield Problem(
                where=f"{where}.launch-policy.{name}",
                what=f"{value!r} is not one of its values",
                remedy=pattern.pattern,
            )
    if target.architecture == "aarch64" and platform is not Platform.AWS_ENCLAVE:
        yield Problem(
            where=f"{where}.architecture",
            what=f"{platform} has no aarch64 machines with confidential computing here",
            remedy="x86_64",
        )


def _gather(directory: Path, settings: _File, sources: dict[str, bytes]) -> Iterator[Problem]:
    for where, name in _named(settings):
        path = directory / name
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            yield Problem(
                where=where, what=f"{name} lies outside the recipe's folder", remedy="copy it into the folder"
            )
            continue
        if path.is_symlink() or not path.is_file():
            yield Problem(where=where, what=f"there is no file {name}", remedy=f"looked in {directory}")
            continue
        sources[name] = path.read_bytes()
        if ".signers" in where and b"-----BEGIN PUBLIC KEY-----" not in sources[name]:
            yield Problem(
                where=where,
                what=f"{name} is no public key",
                remedy="the PEM that `jewelhouse weights keygen` writes as .pub.pem",
            )
    if settings.requirements and settings.requirements in sources:
        yield from _requirements(sources[settings.requirements], settings.requirements)


def _named(settings: _File) -> Iterator[tuple[str, str]]:
    """Each file of the recipe's folder that is named, with where."""
    if settings.requirements:
        yield "requirements", settings.requirements
    for path, file in settings.files.items():
        for kind in ("source", "template"):
            if name := getattr(file, kind):
                yield f"files.{path}.{kind}", name
    for part in ("opens", "seals", "rewraps"):
        for artifact, one in getattr(settings.trust, part).items():
            for index, signer in enumerate(one.signers):
                yield f"trust.{part}.{artifact}.signers[{index}]", signer
    if settings.kernel.image:
        yield "kernel.image", settings.kernel.image
        for index, name in enumerate(settings.kernel.modules):
            yield f"kernel.modules[{index}]", name


# One requirement with the digests of the files that may be installed for it.
REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?==[\w.!+-]+( --hash=sha256:[0-9a-f]{64})+")


def _requirements(data: bytes, name: str) -> Iterator[Problem]:
    text = re.sub(r"\s*\\\r?\n\s*", " ", data.decode("utf-8", "replace"))
    for line in text.splitlines():
        said = line.split(" #")[0].strip()
        if said and not said.startswith("#") and not REQUIREMENT.fullmatch(said):
            yield Problem(
                where="requirements",
                what=f"{name} has {said[:60]!r}, which pins no file",
                remedy="name==version --hash=sha256:…, as `python tools/pin_requirements.py` writes it",
            )
