"""Container images as an OCI layout: uncompressed layers, sorted JSON, so that equal trees are equal digests.

github.com/opencontainers/image-spec: image-layout.md, manifest.md, config.md (v1.1). A layer without
compression has its own digest as `diff_id`, and no version of gzip has a say. Confidential Space attests the
digest of the manifest; a tag says nothing about it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.images.tree import Tree, write_tar

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYOUT = {"imageLayoutVersion": "1.0.0"}
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}
# Manifests and configurations are read as a whole; layers never.
DOCUMENT_LIMIT = 4 * 1024 * 1024
CHUNK = 1024 * 1024

# Labels by which an image permits what its operator may set, with what each may hold; without them
# Confidential Space refuses the launch.
# docs.cloud.google.com/confidential-computing/confidential-space/docs/reference/launch-policies, 2026-04.
LAUNCH_POLICIES: Mapping[str, re.Pattern[str]] = {
    "tee.launch_policy.allow_cmd_override": re.compile("true|false"),
    "tee.launch_policy.allow_env_override": re.compile(r"[A-Za-z_]\w*(,[A-Za-z_]\w*)*"),
    "tee.launch_policy.allow_mount_destinations": re.compile(r"/[^:]+(:/[^:]+)*"),
    "tee.launch_policy.allow_capabilities": re.compile("true|false"),
    "tee.launch_policy.allow_cgroups": re.compile("true|false"),
    "tee.launch_policy.log_redirect": re.compile("debugonly|always|never"),
    "tee.launch_policy.monitoring_memory_allow": re.compile("debugonly|always|never"),
    "tee.launch_policy.hardened_monitoring": re.compile("none|memoryonly|all"),
    "tee.launch_policy.debug_monitoring": re.compile("none|memoryonly|all"),
}


class MalformedLayout(JewelhouseError):
    """A directory that is no OCI layout, or whose blobs are not what their digests say."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """What runs in a container. `entrypoint` and `environment` are measured with it; `epoch` dates it."""

    layers: Sequence[Tree]
    entrypoint: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = "0:0"
    directory: str = "/"
    architecture: str = "x86_64"
    epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout on disk: digest of its manifest, of its configuration, and of its layers with their sizes."""

    manifest: str
    config: str
    layers: tuple[tuple[str, int], ...]
    labels: Mapping[str, str]
    entrypoint: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.layers)


def write(image: Image, destination: Path) -> Layout:
    """Writes the layout as a directory, which appears under its name when it is whole.

    Raises JewelhouseError for an image without an entry point and for launch policies that are not known.
    """
    _check(image)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".oci-") as temporary:
        made = Path(temporary) / "layout"
        blobs = made / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        layers = [_layer(layer, image.epoch, blobs) for layer in image.layers]
        config = _put(_config(image, [digest for digest, _ in layers]), blobs)
        manifest = _put(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _descriptor(CONFIG, *config),
                "layers": [_descriptor(LAYER, *layer) for layer in layers],
            },
            blobs,
        )
        platform = {"architecture": ARCHITECTURES[image.architecture], "os": "linux"}
        entry = {**_descriptor(MANIFEST, *manifest), "platform": platform}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
        (made / "index.json").write_bytes(_json(index))
        (made / "oci-layout").write_bytes(_json(LAYOUT))
        shutil.rmtree(destination, ignore_errors=True)
        made.replace(destination)
    return Layout(
        manifest=manifest[0],
        config=config[0],
        layers=tuple(layers),
        labels=dict(image.labels),
        entrypoint=tuple(image.entrypoint),
    )


def _check(image: Image) -> None:
    if not image.entrypoint:
        raise JewelhouseError("an image needs an entry point", where="entrypoint")
    if image.architecture not in ARCHITECTURES:
        raise JewelhouseError(f"images are not built for {image.architecture}", where="architecture")
    for label, value in image.labels.items():
        if label.startswith("tee.") and label not in LAUNCH_POLICIES:
            raise JewelhouseError(
                f"{label} is no launch policy", where="labels", remedy=", ".join(LAUNCH_POLICIES)
            )
        if label in LAUNCH_POLICIES and not LAUNCH_POLICIES[label].fullmatch(value):
            raise JewelhouseError(
                f"{label} cannot be {value!r}", where="labels", remedy=LAUNCH_POLICIES[label].pattern
            )


def _layer(files: Tree, epoch: int, blobs: Path) -> tuple[str, int]:
    partial = blobs / ".layer"
    with partial.open("wb") as out:
        write_tar(files, out, epoch)
    digest, size = _digest(partial)
    partial.replace(blobs / digest.removeprefix("sha256:"))
    return digest, size


def _config(image: Image, layers: Sequence[str]) -> dict[str, Any]:
    created = datetime.fromtimestamp(image.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "architecture": ARCHITECTURES[image.architecture],
        "os": "linux",
        "created": created,
        "config": {
            "User": image.user,
            "WorkingDir": image.directory,
            "Entrypoint": list(image.entrypoint),
            "Env": [f"{name}={value}" for name, value in sorted(image.environment.items())],
            "Labels": dict(sorted(image.labels.items())),
        },
        "rootfs": {"type": "layers", "diff_ids": list(layers)},
    }


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest, "size": size}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _put(value: Any, blobs: Path) -> tuple[str, int]:
    data = _json(value)
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return f"sha256:{digest}", len(data)


def _digest(path: Path) -> tuple[str, int]:
    state, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            state.update(data)
            size += len(data)
    return f"sha256:{state.hexdigest()}", size


def read(directory: Path) -> Layout:
    """A layout with one image, every blob compared with its digest and size, layers by streaming.

    Raises MalformedLayout naming the blob, for whatever is missing, changed, left over or of another kind.
    """
    if _document(directory / "oci-layout") != LAYOUT:
        raise MalformedLayout("is no layout of version 1.0.0", where=str(directory / "oci-layout"))
    index = _document(directory / "index.json")
    manifests = index.get("manifests")
    if not isinstance(manifests, list) or len(manifests) != 1:
        raise MalformedLayout("must name one manifest", where=str(directory / "index.json"))
    manifest_digest, manifest = _blob(directory, manifests[0], MANIFEST, "manifest")
    config_digest, config = _blob(directory, manifest.get("config"), CONFIG, "config")
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not layers:
        raise MalformedLayout("has no layers", where=manifest_digest)
    found = tuple(_checked(directory, layer, LAYER, "layer") for layer in layers)
    rootfs, settings = config.get("rootfs"), config.get("config")
    if not isinstance(rootfs, dict) or rootfs.get("diff_ids") != [digest for digest, _ in found]:
        raise MalformedLayout("its diff_ids are not its layers, which are uncompressed", where=config_digest)
    if not isinstance(settings, dict) or not isinstance(settings.get("Entrypoint"), list):
        raise MalformedLayout("has no entry point", where=config_digest)
    labels = settings.get("Labels")
    known = {manifest_digest, config_digest, *(digest for digest, _ in found)}
    for path in sorted((directory / "blobs" / "sha256").iterdir()):
        if f"sha256:{path.name}" not in known:
            raise MalformedLayout("belongs to nothing", where=str(path))
    return Layout(
        manifest=manifest_digest,
        config=config_digest,
        layers=found,
        labels=dict(labels) if isinstance(labels, dict) else {},
        entrypoint=tuple(map(str, settings["Entrypoint"])),
    )


def _blob(directory: Path, descriptor: Any, kind: str, what: str) -> tuple[str, dict[str, Any]]:
    digest, _ = _checked(directory, descriptor, kind, what)
    return digest, _document(_path(directory, digest))


def _checked(directory: Path, descriptor: Any, kind: str, what: str) -> tuple[str, int]:
    """Digest and size of a blob that is what its descriptor says."""
    if not isinstance(descriptor, dict) or descriptor.get("mediaType") != kind:
        raise MalformedLayout(f"has no {what} of type {kind}", where=str(directory))
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest) or type(size) is not int:
        raise MalformedLayout(f"names its {what} by no digest and size", where=str(directory))
    path = _path(directory, digest)
    if path.is_symlink() or not path.is_file():
        raise MalformedLayout(f"has no {what}", where=digest)
    if path.stat().st_size != size:
        raise MalformedLayout(f"has {path.stat().st_size} bytes, its descriptor says {size}", where=digest)
    found, _ = _digest(path)
    if found != digest:
        raise MalformedLayout(f"is {found} by its content", where=digest)
    return digest, size


def _path(directory: Path, digest: str) -> Path:
    return directory / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _document(path: Path) -> dict[str, Any]:
    """A JSON object, whose members are each there once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a member is there twice")
        return dict(pairs)

    try:
        if path.stat().st_size > DOCUMENT_LIMIT:
            raise MalformedLayout(f"has more than {DOCUMENT_LIMIT} bytes", where=str(path))
        value = json.loads(path.read_bytes(), object_pairs_hook=once)
    except OSError as error:
        raise MalformedLayout(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise MalformedLayout(f"is no JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise MalformedLayout("is no JSON object", where=str(path))
    return value
