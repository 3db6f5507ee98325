"""Images in a registry: pushed blob by blob, found again by their digests, never under a tag half-way.

Speaks the OCI distribution specification (github.com/opencontainers/distribution-spec: spec.md, v1.1.1) by
`requests`. oras 0.2.43 is not up to it: it writes manifests anew, under another digest, reads whole layers
into memory, and shows credentials to whatever host a registry names as the place of an upload.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jewelhouse.images import oci
from jewelhouse.images.registry_client import Client, Place, Progress, RegistryError, place
from jewelhouse.images.registry_login import Credentials, docker_credentials


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """`sent` and `present`: digests of blobs that were sent, and that the registry had."""

    reference: str
    sent: tuple[str, ...]
    present: tuple[str, ...]


def push(
    layout: Path,
    to: str,
    *,
    progress: Progress = lambda digest, done, size: None,
    credentials: Credentials = docker_credentials,
    pause: Callable[[float], None] = time.sleep,
) -> Pushed:
    """Sends the image of an OCI layout and checks what is there.

    Blobs that the registry has are not sent again; the manifest goes last, so that a push that breaks off
    leaves no tag. Raises MalformedLayout before anything is sent, RegistryError afterwards.
    """
    target = place(to)
    image = oci.read(layout)
    if target.digest not in (None, image.manifest):
        raise RegistryError(f"the layout holds {image.manifest}", where=str(target))
    blobs = layout / "blobs" / "sha256"
    with Client(target, credentials, pause) as client:
        sent, present = [], []
        config_size = (blobs / _hex(image.config)).stat().st_size
        for digest, size in dict.fromkeys([*image.layers, (image.config, config_size)]):
            if client.has(digest, size):
                present.append(digest)
                progress(digest, size, size)
            else:
                client.upload(blobs / _hex(digest), digest, size, progress)
                sent.append(digest)
        manifest = (blobs / _hex(image.manifest)).read_bytes()
        client.put_manifest(manifest, image.manifest, target.tag or image.manifest)
    where = Place(host=target.host, name=target.name, tag=target.tag, digest=image.manifest)
    verify(layout, str(where), credentials=credentials, pause=pause)
    return Pushed(
        reference=f"{target.host}/{target.name}@{image.manifest}", sent=tuple(sent), present=tuple(present)
    )


def verify(
    layout: Path,
    at: str,
    *,
    content: bool = False,
    credentials: Credentials = docker_credentials,
    pause: Callable[[float], None] = time.sleep,
    progress: Progress = lambda digest, done, size: None,
) -> None:
    """Compares what a registry holds with an OCI layout: manifest and configuration by their bytes, layers by
    digest and size, or with `content` by reading them.

    Raises RegistryError naming the first that is missing or another.
    """
    source = place(at)
    image = oci.read(layout)
    if source.tag is None and source.digest is None:
        source = Place(host=source.host, name=source.name, digest=image.manifest)
    if source.digest not in (None, image.manifest):
        raise RegistryError(f"the layout holds {image.manifest}", where=str(source))
    blobs = layout / "blobs" / "sha256"
    with Client(source, credentials, pause) as client:
        # A tag is moved by whoever may push: what stands under it is looked at as well.
        for reference in filter(None, (source.tag, source.digest)):
            found = client.manifest(reference)
            if found != (blobs / _hex(image.manifest)).read_bytes():
                digest = f"sha256:{hashlib.sha256(found).hexdigest()}"
                raise RegistryError(
                    f"is {digest}, the layout is {image.manifest}",
                    where=f"{source.host}/{source.name}:{reference}",
                )
        config_size = (blobs / _hex(image.config)).stat().st_size
        client.check(image.config, config_size, progress)
        for digest, size in image.layers:
            if content:
                client.check(digest, size, progress)
            elif not client.has(digest, size):
                raise RegistryError(
                    "lacks a layer of the image", where=f"{source.host}/{source.name}@{digest}"
                )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
