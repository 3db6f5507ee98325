"""`images.lock.yaml`: the Reference Values that builds record and release policies pin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StrictBool, StrictInt

from jewelhouse.errors import InvalidImages, Problem
from jewelhouse.images import folder
from jewelhouse.model import Image, Measurements, Platform
from jewelhouse.yamlpath import Settings, suggestion, validated

DIGEST = r"^sha256:[0-9a-f]{64}$"
MeasurementName = Annotated[str, Field(pattern=r"^(PCR([0-9]|1[0-9]|2[0-3])|hostdata|image_digest)$")]


class BuiltFrom(Settings):
    """What a build made an image of, so that anyone can build it again and compare."""

    digest: Annotated[str, Field(pattern=DIGEST)]
    """Digest of what was built: the EIF or disk file, or the manifest of a container image."""
    recipe: Annotated[str, Field(min_length=1)]
    """Folder of the recipe, from the project's own."""
    recipe_digest: Annotated[str, Field(pattern=DIGEST)]
    """Digest of all files in that folder."""
    inputs: tuple[str, ...] = ()
    """Names of sets under `inputs` of this file."""


class ImageEntry(Settings):
    """One image on one platform."""

    reference: Annotated[str, Field(min_length=1)]
    """What names the bytes: registry/name@sha256:..., sha256:... of an EIF, ami-..., a pinned CVM image."""
    published: Annotated[str, Field(pattern=DIGEST)] | None = None
    """Digest of the disk that the cloud's image called `reference` was made of."""
    measurements: dict[MeasurementName, str] = {}
    """Reference Values by name (PCR0, PCR4, hostdata, image_digest), lower-case hex."""
    previous: tuple[dict[MeasurementName, str], ...] = ()
    """Reference Values that are still released while hosts roll over to the current ones."""
    declared: StrictBool = False
    """True while the values are written by hand and no build stands behind them."""
    debug: StrictBool = False
    """True for images that let somebody look inside; no stage may run one."""
    size: Annotated[StrictInt, Field(gt=0)] | None = None
    """Size of the image in bytes; an enclave needs four times that much memory."""
    built: BuiltFrom | None = None
    """What the image was built from; missing where it was not built with the kit."""
    container_policy: str | None = None
    """The confidential container policy (Rego, base64) whose SHA-256 is hostdata."""
    gpu: Annotated[StrictInt, Field(gt=0)] | None = None
    """How many GPUs the guest in it attests before it asks for a key: what its recipe demands."""

    def image(self, name: str, platform: Platform) -> Image:
        alternatives = (self.measurements, *self.previous) if self.measurements else ()
        return Image(
            name=name,
            platform=platform,
            reference=self.reference,
            measurements=tuple(Measurements(values=values) for values in alternatives),
            declared=self.declared,
            debug=self.debug,
            size=self.size,
            container_policy=self.container_policy,
            gpus=self.gpu,
        )


class _File(Settings):
    version: Literal[1]
    images: dict[str, Any]
    inputs: dict[str, Any] = {}


@dataclass(frozen=True)
class ImageLock:
    """All locked images by name and platform."""

    images: Mapping[tuple[str, Platform], Image]


def load(path: Path, *, stale: bool = False) -> ImageLock:
    """Reads a lock file. Raises InvalidImages naming the file and every path in it that is wrong, and unless
    `stale` every image whose recipe has changed since it was built."""
    try:
        content = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidImages(
            [
                Problem(
                    where=str(path),
                    what="there is no image lock file",
                    remedy="write the Reference Values of the stages' images there (docs/configuration.md)",
                )
            ]
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidImages(
            [Problem(where=str(path), what=f"is not YAML: {' '.join(str(error).split())}")]
        ) from error
    problems: list[Problem] = []
    file = validated(_File, content, "", problems)
    images = entries(file.images, "images", problems) if file else {}
    if not problems and not stale:
        problems.extend(_stale(content["images"], path.parent.parent))
    if problems:
        raise InvalidImages(
            Problem(
                where=f"{path.name}: {problem.where}".rstrip(": "),
                what=problem.what,
                remedy=problem.remedy,
                source=problem.source,
            )
            for problem in problems
        )
    return ImageLock(images)


def parsed(text: str) -> Any:
    """YAML by libyaml where PyYAML has it: a lock file is long, and read at every `pulumi up`."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _stale(images: Mapping[str, Any], project: Path) -> Iterator[Problem]:
    """Built images whose recipe is here and is another one now."""
    seen: dict[str, str] = {}
    for name, targets in images.items():
        for target, entry in targets.items():
            built = entry.get("built")
            directory = project / built["recipe"] if built else None
            if built is None or directory is None or not directory.is_dir():
                continue
            if built["recipe"] not in seen:
                seen[built["recipe"]] = folder.digest(directory)
            if entry.get("published", built["digest"]) != built["digest"]:
                yield Problem(
                    where=f"images.{name}.{target}.reference",
                    what=f"{entry['reference']} was made of another disk than was measured",
                    remedy="import the new disk, then jewelhouse image lock "
                    f"{name} --reference {name}/{target}=NAME",
                )
            if seen[built["recipe"]] != built["recipe-digest"]:
                yield Problem(
                    where=f"images.{name}.{target}",
                    what=f"was built before {built['recipe']} changed",
                    remedy=f"jewelhouse image lock {name}",
                )


def entries(
    images: Mapping[str, Any], where: str, problems: list[Problem]
) -> dict[tuple[str, Platform], Image]:
    """The images under `images.<name>.<platform>`, with every problem found appended to `problems`."""
    found: dict[tuple[str, Platform], Image] = {}
    for name, targets in images.items():
        if not isinstance(targets, dict) or not targets:
            problems.append(
                Problem(
                    where=f"{where}.{name}",
                    what="must map platforms to images",
                    remedy=f"platforms: {', '.join(Platform)}",
                )
            )
            continue
        for target, value in targets.items():
            path = f"{where}.{name}.{target}"
            if target not in set(Platform):
                problems.append(
                    Problem(where=path, what="is not a platform", remedy=suggestion(str(target), Platform))
                )
                continue
            entry = validated(ImageEntry, value, path, problems)
            if entry:
                if entry.previous and not entry.measurements:
                    problems.append(
                        Problem(
                            where=f"{path}.measurements",
                            what="is missing beside `previous`, so only the outgoing image would open keys",
                            remedy="write the current values under measurements",
                        )
                    )
                platform = Platform(target)
                found[name, platform] = entry.image(name, platform)
    return found
