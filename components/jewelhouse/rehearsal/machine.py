"""A guest in its built enclave image, on an emulated processor: `process` with the image itself.

Kernel, command line and ramdisks are those of the image file, cut out of it unchanged, after its measurements
were found to be those that are locked. One ramdisk of the rehearsal's own is unpacked over them, and that is
all that differs from the image:

- `etc/jewelhouse/image.json`: the guest is started with settings and endpoints from files, as there is no
  parent to ask over vsock, and before it what leads to the stand-ins;
- `etc/jewelhouse/trust.json`: the keys of the rehearsal's owners, as a shipped recipe names no signers;
- the settings, the endpoints, and `channel`, which leads local addresses over a serial line to the host.

So the registers of the evidence are those of the image without that ramdisk, as the lock file says and as the
stand-in for the security module is told. What this shows is that the image's own kernel, Python, libraries,
guest and workload do the work. That the hypervisor measures what it starts, and that an image with one more
ramdisk has other registers, it cannot show (the latter: `images.eif`).

The machine has no network. The line leads to the stand-ins and to nothing else.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jewelhouse import templates
from jewelhouse.errors import JewelhouseError
from jewelhouse.images import assemble, build, eif, recipe
from jewelhouse.images.eif import SectionKind
from jewelhouse.images.recipe import Recipe
from jewelhouse.images.tree import Entry, Kind, Tree, tree, write_cpio
from jewelhouse.model import Image, Lifecycle, Platform, Stage, StageKind
from jewelhouse.rehearsal import channel, console, qemu
from jewelhouse.rehearsal.process import Guest, Outcome
from jewelhouse.rehearsal.s3 import Folders, s3

ARCHITECTURE = "x86_64"
IN_IMAGE = "in its built image"
# Seconds: a tenth of it where nothing else runs; an emulated processor shares a real one with much else.
PATIENCE = 300
# MiB; ramdisks are unpacked while they are still there.
MEMORY = 1536
PLACE = "etc/jewelhouse"
RELAY = "usr/lib/jewelhouse/rehearsal/channel.py"
# Where the guest finds each service in the machine; `channel` listens there.
LOCAL: Mapping[str, str] = {
    "kms": "127.0.0.2:8000",
    "store": "127.0.0.3:8001",
    "imds": "127.0.0.4:8002",
    "nsm": "/run/nsm",
}


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """A built enclave image whose measurements are the locked ones, and the recipe it was built from."""

    path: Path
    recipe: Recipe

    @property
    def run(self) -> list[str]:
        """The workload's command in the image."""
        return list(self.recipe.settings.run)


def plays(stage: Stage) -> bool:
    """Whether stages on a platform have images that boot here."""
    return stage.platform is Platform.AWS_ENCLAVE


def image_of(out: Path, lifecycle: Lifecycle, stage: Stage) -> BuiltImage:
    """The image to play a stage in. Raises JewelhouseError that says why there is none, and what to do."""
    if shutil.which(qemu.QEMU) is None:
        raise JewelhouseError("is not installed", where=qemu.QEMU, remedy="install qemu-system-x86")
    if stage.kind is StageKind.INFERENCE:
        raise JewelhouseError("serves, and nothing leads into a machine without network", where=stage.name)
    found = recipe.load(templates.directory() / "images" / stage.image)
    architecture = found.settings.targets[stage.platform].architecture
    if architecture != ARCHITECTURE:
        raise JewelhouseError(
            f"is for {architecture}", where=f"image {stage.image}", remedy=f"{ARCHITECTURE} is emulated"
        )
    return find(out, found, lifecycle.image(stage))


def find(out: Path, source: Recipe, image: Image) -> BuiltImage:
    """The built image of a recipe in the folder of images.

    Raises JewelhouseError when it is not built, is malformed, or measures anything but what is locked.
    """
    command = f"jewelhouse image build {source.name} --platform {Platform.AWS_ENCLAVE}"
    try:
        built = build.measured(out, source, Platform.AWS_ENCLAVE)
    except (eif.MalformedImage, OSError) as error:
        raise JewelhouseError(
            f"is no enclave image: {error}", where=f"built image of {source.name}", remedy=command
        ) from error
    locked = image.measurements[0].values if image.measurements else {}
    wrong = [name for name, value in sorted(locked.items()) if built.measurements.get(name) != value]
    if wrong or not locked:
        said = ", ".join(f"{name} {str(built.measurements.get(name))[:16]}…" for name in wrong)
        raise JewelhouseError(
            f"measures {said}, which is not locked" if wrong else "is not locked",
            where=str(built.path),
            remedy=f"{command}, or if recipe or kit have changed: jewelhouse image lock {source.name}",
        )
    return BuiltImage(path=built.path, recipe=source)


def start(
    guest: Guest,
    image: BuiltImage,
    evidence: Callable[[], Sequence[bytes]],
    *,
    patience: float = PATIENCE,
) -> Outcome:
    """Runs a guest in its built image to its end; stores of the stage are folders of the host, which the
    machine sees as buckets. `evidence`: the documents that the security module gave out, asked at the end.

    Raises JewelhouseError when the machine does not end in time, and when its console shows no record that
    the evidence vouches for.
    """
    stage, folders = buckets(guest.stage)
    with ExitStack() as stack:
        store = stack.enter_context(s3(Folders(folders)))
        ways = {
            "kms": _to(guest.endpoints["kms"]),
            "imds": _to(guest.endpoints["imds"]),
            "nsm": _to(guest.endpoints["nsm"]),
            "store": _to(store.url),
        }
        files = overlay(guest, image.recipe, stage)
        began = time.monotonic()
        text = boot(image.path, files, connect=qemu.to(ways), patience=patience)
        seconds = time.monotonic() - began
    said = console.read(text, evidence())
    return Outcome(status=said.status, closed=said.closed, record=said.record, output=text, seconds=seconds)


def alone(image: BuiltImage, *, patience: float = PATIENCE) -> Outcome:
    """Boots an image as it is, in a machine that is no enclave: no parent, no security module, no line."""
    began = time.monotonic()
    text = boot(image.path, None, connect=None, patience=patience)
    said = console.read(text, ())
    return Outcome(
        status=said.status,
        closed=said.closed,
        record=said.record,
        output=text,
        seconds=time.monotonic() - began,
    )


def boot(
    file: Path, over: Tree | None, *, connect: channel.Connect | None, patience: float = PATIENCE
) -> str:
    """Boots what lies in the sections of an image file, with a tree unpacked over it if there is one, and
    returns the console. Raises JewelhouseError."""
    with tempfile.TemporaryDirectory(prefix="jewelhouse-machine-") as temporary:
        kernel, ramdisks = Path(temporary) / "kernel", Path(temporary) / "ramdisks"
        with file.open("rb") as opened:
            found = eif.layout(opened)
        _copy(file, found, SectionKind.KERNEL, kernel)
        # One after the other in memory, the way a hypervisor lays them out for the kernel.
        _copy(file, found, SectionKind.RAMDISK, ramdisks)
        if over is not None:
            with ramdisks.open("ab") as out:
                write_cpio(over, out)
        (section,) = found.of_kind(SectionKind.CMDLINE)
        cmdline = b"".join(map(bytes, _piece(file, section).read())).decode("ascii")
        return qemu.boot(kernel, ramdisks, cmdline, memory=MEMORY, patience=patience, connect=connect)


def _piece(file: Path, section: eif.Section) -> eif.Piece:
    return eif.Piece(kind=section.kind, source=file, offset=section.offset, size=section.size)


def _copy(file: Path, found: eif.Layout, kind: SectionKind, destination: Path) -> None:
    with destination.open("wb") as out:
        for section in found.of_kind(kind):
            for data in _piece(file, section).read():
                out.write(data)


def overlay(guest: Guest, source: Recipe, stage: Mapping[str, Any]) -> Tree:
    """The rehearsal's own ramdisk: all that differs from the image."""
    settings = [f"/{PLACE}/stage.json", f"/{PLACE}/endpoints.json"]
    python = assemble.GUEST[0]
    said = {
        f"{PLACE}/image.json": {
            "name": source.name,
            "platform": guest.platform,
            "before": [[python, "-IB", f"/{RELAY}", f"/{PLACE}/services.json"]],
            "run": [*assemble.GUEST, "--settings", settings[0], "--endpoints", settings[1]],
            "environment": dict(source.settings.environment),
        },
        f"{PLACE}/trust.json": guest.trust,
        f"{PLACE}/stage.json": stage,
        f"{PLACE}/services.json": dict(LOCAL),
        f"{PLACE}/endpoints.json": {
            "kms": f"http://{LOCAL['kms']}",
            "imds": f"http://{LOCAL['imds']}",
            "nsm": LOCAL["nsm"],
            "stores": {"s3": bucket_options(f"http://{LOCAL['store']}", stage["region"])},
        },
    }
    return tree(
        [
            *(_file(path, json.dumps(value).encode()) for path, value in said.items()),
            _file(RELAY, Path(channel.__file__).read_bytes()),
        ]
    )


def _file(path: str, content: bytes) -> Entry:
    return Entry(path=path, kind=Kind.FILE, mode=0o644, content=content)


def bucket_options(url: str, region: str) -> dict[str, Any]:
    """How fsspec reaches the stand-in for S3. That looks at no signature; the client wants a key to make one
    with."""
    return {
        "endpoint_url": url,
        "key": "rehearsal",
        "secret": "rehearsal",
        "client_kwargs": {"region_name": region},
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }


def buckets(stage: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """A stage's settings with a bucket in place of each folder, and the folders by bucket."""
    folders: dict[str, Path] = {}

    def bucket(one: Mapping[str, Any]) -> dict[str, Any]:
        path = Path(one["store"])
        name = next((name for name, known in folders.items() if known == path), f"store-{len(folders)}")
        folders[name] = path
        return {**one, "store": f"s3://{name}"}

    changed = {
        part: {artifact: bucket(one) for artifact, one in stage[part].items()} for part in ("opens", "seals")
    }
    return {**stage, **changed}, folders


def _to(endpoint: str) -> Callable[[], socket.socket]:
    """Connects to a stand-in: a URL on the loopback, or the path of a Unix socket."""

    def connect() -> socket.socket:
        if endpoint.startswith("/"):
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.connect(endpoint)
            except OSError:
                made.close()
                raise
            return made
        parts = urlsplit(endpoint)
        return socket.create_connection((parts.hostname or "", parts.port or 0))

    return connect
