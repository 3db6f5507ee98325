"""Who built an image from what: a signed in-toto statement with SLSA provenance, beside the image.

in-toto/attestation: spec/v1/statement.md, resource_descriptor.md; slsa.dev/spec/v1.0/provenance; in a DSSE
envelope signed by a local key: Ed25519, or ECDSA as sigstore/model-signing's key method makes them. The same
build says the same, so it holds no time but the image's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packageurl import PackageURL

from jewelhouse import __version__
from jewelhouse.errors import JewelhouseError
from jewelhouse.images.recipe import Recipe
from jewelhouse.model import Platform
from jewelhouse.release.documents import strict

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
# Names, not addresses: nothing is fetched from them. A change of what the parameters mean is another type.
BUILD_TYPE = "pkg:generic/jewelhouse#image/v1"
BUILDER = "pkg:generic/jewelhouse#image/build"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
LARGEST = 4 * 1024 * 1024
# Hex digits of a digest -> its name in in-toto (spec/v1/digest_set.md).
ALGORITHMS: Mapping[int, str] = {64: "sha256", 96: "sha384"}
HEX = re.compile(r"[0-9a-f]+")
# Sets of inputs whose entries are packages, with the type and namespace of their package URLs.
PACKAGES: Mapping[str, tuple[str, str | None]] = {
    "packages": ("deb", "debian"),
    "kernel": ("deb", "debian"),
    "wheels": ("pypi", None),
}
NOTHING: Mapping[str, str] = MappingProxyType({})


class BadProvenance(JewelhouseError):
    """Provenance that nobody should rely on: malformed, not signed by a pinned key, or of another image."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a verified statement says. `digest` of the image (`sha256:…`), `measurements` by name and
    `dependencies` by `set/name` in lower-case hex; `beside`: `sha256:…` of the files that accompany it."""

    file: str
    digest: str
    measurements: Mapping[str, str]
    name: str
    recipe: str
    platform: Platform
    dependencies: Mapping[str, str]
    tools: Mapping[str, str]
    beside: Mapping[str, str]


def statement(
    recipe: Recipe,
    platform: Platform,
    *,
    file: str,
    digest: str,
    measurements: Mapping[str, str],
    inputs: Mapping[str, Mapping[str, str]],
    beside: Mapping[str, str] = NOTHING,
) -> bytes:
    """The statement in JSON. `digest`: `sha256:…` of the image `file`; `inputs` as in a lock file; `beside`:
    `sha256:…` of the files that accompany the image, by name."""
    began = datetime.fromtimestamp(recipe.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    run: dict[str, Any] = {"builder": {"id": BUILDER, "version": {"jewelhouse": __version__}}}
    # Who saw a measurement in evidence finds by it what was measured.
    subjects = {file: digest, **{f"{file}#{name}": value for name, value in sorted(measurements.items())}}
    run["builder"]["version"].update(inputs.get("tools", {}))
    if beside:
        run["byproducts"] = [_descriptor(name, value) for name, value in sorted(beside.items())]
    body = {
        "_type": STATEMENT,
        "subject": [_descriptor(name, value) for name, value in subjects.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": {"name": recipe.name, "digest": recipe.digest},
                    "platform": platform.value,
                    "epoch": began,
                },
                "resolvedDependencies": list(_dependencies(inputs)),
            },
            "runDetails": run,
        },
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(name: str, value: str, **more: str) -> dict[str, Any]:
    digits = value.removeprefix("sha256:")
    return {"name": name, "digest": {ALGORITHMS[len(digits)]: digits}, **more}


def _dependencies(inputs: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    for kind, values in sorted(inputs.items()):
        for name, said in sorted(values.items()):
            version, _, digest = said.rpartition("sha256:")
            if not digest or kind == "tools":
                continue
            more = {}
            if version.strip() and kind in PACKAGES:
                more["uri"] = PackageURL(*PACKAGES[kind], name, version.strip()).to_string()
            yield _descriptor(f"{kind}/{name}", digest, **more)


def sign(payload: bytes, key: Path, password: bytes | None = None) -> bytes:
    """The statement in an envelope, signed by the private key (PEM) in a file.

    Raises JewelhouseError for files that hold no key for signing.
    """
    from jewelhouse.weights import signing

    return signing.sign(payload, [signing.private_key(key, password)], PAYLOAD_TYPE)


def verify(
    envelope: bytes,
    signers: Sequence[str],
    *,
    digest: str,
    measurements: Mapping[str, str] | None = None,
) -> Provenance:
    """What an envelope says that one of `signers` (PEM) signed about the image of this digest (`sha256:…`).

    With `measurements`, which say what a release policy pins, these must be exactly what it says too. Raises
    BadProvenance; JewelhouseError for a signer that is no key.
    """
    from jewelhouse.weights import signing

    if len(envelope) > LARGEST:
        raise BadProvenance(f"has more than {LARGEST} bytes", where="provenance")
    keys = [signing.public_key(pem, "signer") for pem in signers]
    try:
        payload, _ = signing.verified(envelope, keys, 1, "provenance", PAYLOAD_TYPE)
        body = strict(payload.decode("utf-8"))
    except (signing.MalformedManifest, signing.Untrusted) as error:
        raise BadProvenance(error.what, where=error.where, remedy=error.remedy) from error
    except (ValueError, RecursionError) as error:
        raise BadProvenance(f"is not JSON: {error}", where="provenance") from error
    found = _read(body)
    if found.digest != digest:
        raise BadProvenance(f"is about {found.digest}, not about {digest}", where="provenance: subject")
    for name in sorted({*found.measurements, *measurements} if measurements is not None else ()):
        says, wanted = found.measurements.get(name), (measurements or {}).get(name)
        if says != (wanted and wanted.removeprefix("sha256:")):
            raise BadProvenance(
                f"says {says or 'nothing'}, the image has {wanted or 'none'}",
                where=f"provenance: subject {name}",
            )
    return found


def _read(body: object) -> Provenance:
    top = _object(body, "statement", "_type", "subject", "predicateType", "predicate")
    if (top["_type"], top["predicateType"]) != (STATEMENT, PREDICATE):
        raise BadProvenance("is no SLSA provenance of version 1", where="provenance")
    predicate = _object(top["predicate"], "predicate", "buildDefinition", "runDetails")
    definition = _object(
        predicate["buildDefinition"],
        "buildDefinition",
        "buildType",
        "externalParameters",
        "resolvedDependencies",
    )
    if definition["buildType"] != BUILD_TYPE:
        raise BadProvenance(f"is no build of type {BUILD_TYPE}", where="provenance: buildType")
    parameters = _object(
        definition["externalParameters"], "externalParameters", "recipe", "platform", "epoch"
    )
    recipe = _texts(_object(parameters["recipe"], "recipe", "name", "digest"), "recipe")
    run = _object(predicate["runDetails"], "runDetails", "builder", optional=("byproducts",))
    builder = _object(run["builder"], "builder", "id", "version")
    if builder["id"] != BUILDER:
        raise BadProvenance(f"is not of the builder {BUILDER}", where="provenance: builder")
    subjects = _descriptors(top["subject"], "subject")
    files = [name for name in subjects if "#" not in name]
    if len(files) != 1 or any(not name.startswith(f"{files[0]}#") for name in subjects.keys() - {*files}):
        raise BadProvenance("must be about one image and its measurements", where="provenance: subject")
    if parameters["platform"] not in list(Platform):
        raise BadProvenance("names no platform", where="provenance: platform")
    return Provenance(
        file=files[0],
        digest=f"sha256:{subjects.pop(files[0])}",
        measurements={name.partition("#")[2]: value for name, value in subjects.items()},
        name=recipe["name"],
        recipe=recipe["digest"],
        platform=Platform(parameters["platform"]),
        dependencies=_descriptors(definition["resolvedDependencies"], "resolvedDependencies"),
        tools=_texts(builder["version"], "builder: version"),
        beside={
            name: f"sha256:{value}"
            for name, value in _descriptors(run.get("byproducts", []), "byproducts").items()
        },
    )


def _object(value: object, where: str, *names: str, optional: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict) or not {*names} <= value.keys() <= {*names, *optional}:
        raise BadProvenance(f"must have {', '.join(names)}", where=f"provenance: {where}")
    return value


def _texts(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise BadProvenance("must hold text", where=f"provenance: {where}")
    return value


def _descriptors(value: object, where: str) -> dict[str, str]:
    """Digests by name; each name is there once and has one digest, so that nobody reads another."""
    if not isinstance(value, list):
        raise BadProvenance("is no list", where=f"provenance: {where}")
    found: dict[str, str] = {}
    for one in value:
        entry = _object(one, where, "name", "digest", optional=("uri",))
        name, digest = entry["name"], entry["digest"]
        if not isinstance(name, str) or name in found:
            raise BadProvenance("has names that are missing or twice there", where=f"provenance: {where}")
        if not isinstance(digest, dict) or len(digest) != 1:
            raise BadProvenance("must have one digest", where=f"provenance: {where} {name[:80]}")
        algorithm, digits = next(iter(digest.items()))
        if (
            not isinstance(digits, str)
            or not HEX.fullmatch(digits)
            or ALGORITHMS.get(len(digits)) != algorithm
        ):
            raise BadProvenance("is no digest", where=f"provenance: {where} {name[:80]}")
        found[name] = digits
    return found
