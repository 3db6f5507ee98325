"""`images.lock.yaml`, written: what builds made, and what they made it of, so that others can compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import lock
from jewelhouse.images.build import Built

HEADER = """\
# Reference Values of the stages' images, written by `jewelhouse image lock`; docs/configuration.md has the
# names. Entries marked `declared` were written by hand: no build stands behind them.
"""
# Sets that several images share stand once, under a name that says what they hold.
SHARED = ("packages", "wheels", "kernel", "kit", "files", "tools")


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def read(path: Path) -> dict[str, Any]:
    """The file as values, or an empty one. Raises JewelhouseError when it is no lock file."""
    if not path.exists():
        return {"version": 1, "images": {}, "inputs": {}}
    try:
        content = lock.parsed(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise JewelhouseError(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from error
    if not isinstance(content, dict) or content.get("version") != 1:
        raise JewelhouseError("is no lock file of version 1", where=str(path))
    content.setdefault("images", {})
    content.setdefault("inputs", {})
    return content


def write(
    path: Path,
    built: Sequence[Built],
    *,
    project: Path,
    recipes: Mapping[str, Path],
    references: Mapping[tuple[str, str], str] | None = None,
    keep_previous: bool = False,
    drop_previous: bool = False,
) -> list[str]:
    """Puts built images into the lock file and returns a line for each entry that changed.

    `recipes` are the folders of the recipes by image. `references` name images that a cloud keeps under a
    name of its own (an AMI). `keep_previous` leaves the measurements so far released while hosts roll over,
    until a call with `drop_previous`. The file is replaced as a whole, and only when all of it is right.
    Raises JewelhouseError otherwise.
    """
    content = read(path)
    changes = []
    for one in built:
        targets = content["images"].setdefault(one.name, {})
        before = targets.get(str(one.platform))
        entry = _entry(one, before, project, recipes[one.name], dict(references or {}), content["inputs"])
        outgoing = [] if drop_previous or not before else list(before.get("previous", ()))
        if keep_previous and before and before.get("measurements"):
            outgoing.insert(0, before["measurements"])
        if outgoing := [values for values in outgoing if values != entry["measurements"]]:
            entry["previous"] = outgoing
        if before != entry:
            changes.append(f"{one.name} for {one.platform}: {'changed' if before else 'new'}")
        targets[str(one.platform)] = entry
    used = {
        name
        for targets in content["images"].values()
        for entry in targets.values()
        for name in (entry.get("built") or {}).get("inputs", ())
    }
    content["inputs"] = {name: value for name, value in sorted(content["inputs"].items()) if name in used}
    text = HEADER + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        lock.load(partial, stale=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return changes


def _entry(
    one: Built,
    before: Mapping[str, Any] | None,
    project: Path,
    recipe: Path,
    references: Mapping[tuple[str, str], str],
    sets: dict[str, Any],
) -> dict[str, Any]:
    reference = one.reference or references.get((one.name, str(one.platform)))
    entry: dict[str, Any] = {}
    if reference is None:
        reference, published = _published(one, before)
    else:
        published = one.digest
    entry["reference"] = reference
    if one.reference is None:
        entry["published"] = published
    entry["size"] = one.size
    entry["measurements"] = dict(sorted(one.measurements.items()))
    names = []
    for kind in SHARED:
        if values := one.inputs.get(kind):
            names.append(_shared(kind, values, sets))
    entry["built"] = {
        "digest": one.digest,
        "recipe": _relative(recipe, project),
        "recipe-digest": one.recipe_digest,
        "inputs": names,
    }
    if one.gpus is not None:
        entry["gpu"] = one.gpus
    if one.container_policy is not None:
        entry["container-policy"] = one.container_policy
    return entry


def _published(one: Built, before: Mapping[str, Any] | None) -> tuple[str, str]:
    """Name under which the cloud keeps the image, as far as it is known, and the digest it was made of."""
    if before is None or "reference" not in before:
        raise JewelhouseError(
            f"nothing says under which name the cloud keeps {one.name} for {one.platform}",
            where=f"images.{one.name}.{one.platform}.reference",
            remedy=f"import {one.path} and give --reference {one.name}/{one.platform}=NAME",
        )
    return before["reference"], before.get("published", "")


def _relative(recipe: Path, project: Path) -> str:
    try:
        return recipe.resolve().relative_to(project.resolve()).as_posix()
    except ValueError:
        raise JewelhouseError(
            "lies outside the project, so nobody else could find it",
            where=str(recipe),
            remedy="move the recipe into the project",
        ) from None


def _shared(kind: str, values: Mapping[str, str], sets: dict[str, Any]) -> str:
    said = json.dumps(values, sort_keys=True).encode()
    name = f"{kind}-{hashlib.sha256(said).hexdigest()[:12]}"
    sets[name] = dict(sorted(values.items()))
    return name


def differences(entry: Mapping[str, Any], sets: Mapping[str, Any], built: Built) -> Iterator[str]:
    """What differs between a locked image and a build of it, a line each; nothing when they are the same.

    Other tools that made the same bytes are no difference.
    """
    locked = entry.get("built") or {}
    pairs = [
        ("digest", locked.get("digest"), built.digest),
        *_pairs("", entry.get("measurements", {}), built.measurements),
    ]
    there = {name.rsplit("-", 1)[0]: sets.get(name, {}) for name in locked.get("inputs", ())}
    if any(old != new for _, old, new in pairs):
        for kind in SHARED:
            pairs += _pairs(f"{kind}: ", there.get(kind, {}), built.inputs.get(kind, {}))
    for name, old, new in pairs:
        if old != new:
            yield f"{name}: {old or 'not locked'} became {new or 'nothing'}"


def _pairs(
    prefix: str, old: Mapping[str, str], new: Mapping[str, str]
) -> list[tuple[str, str | None, str | None]]:
    return [(f"{prefix}{name}", old.get(name), new.get(name)) for name in sorted({*old, *new})]
