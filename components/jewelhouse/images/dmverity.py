"""Root hashes of container layers as confidential containers mount them: ext4 made of the layer's tar, with a
dm-verity tree.

The file system's exact layout is hcsshim's, so its own tool computes it: `dmverity-vhd` of
github.com/Microsoft/hcsshim v0.12.9 (cmd/dmverity-vhd), which `az confcom` runs as well.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jewelhouse.errors import JewelhouseError

TOOL = "dmverity-vhd"
VERSION = "hcsshim-0.12.9"
PLACE = Path(__file__).parents[3] / ".jewelhouse" / "built" / TOOL
REMEDY = (
    "run `make dmverity` (needs Go 1.25 or newer), or name a built dmverity-vhd in JEWELHOUSE_DMVERITY_VHD"
)
# A layer of some gigabytes takes a minute; a tool that says nothing for an hour hangs.
PATIENCE = 3600
HASH = re.compile(r"[0-9a-f]{64}")
_SAID = re.compile(r"Layer (\d+) root hash: ([0-9a-f]{64})")
_NAME = "jewelhouse.invalid/layers:latest"


def tool() -> Path | None:
    """Where the tool is: by JEWELHOUSE_DMVERITY_VHD, as `make dmverity` builds it, or on PATH."""
    if named := os.environ.get("JEWELHOUSE_DMVERITY_VHD"):
        return Path(named) if Path(named).is_file() else None
    if PLACE.is_file():
        return PLACE
    found = shutil.which(TOOL)
    return Path(found) if found else None


def root_hashes(
    blobs: Path, layers: Sequence[str], cache: Path, report: Callable[[str], None] = lambda text: None
) -> tuple[str, ...]:
    """Root hashes (64 hex digits) of uncompressed layers `sha256:…` in the folder `blobs`, in their order.

    Kept in `cache` by the layers' digests. Raises JewelhouseError where the tool is missing or fails.
    """
    kept = cache / VERSION
    known = {layer: found for layer in layers if (found := _kept(kept, layer)) is not None}
    missing = [layer for layer in dict.fromkeys(layers) if layer not in known]
    if missing:
        report(f"hashing {len(missing)} layers as confidential containers mount them")
        for layer, found in zip(missing, _computed(blobs, missing, cache), strict=True):
            known[layer] = found
            _keep(kept, layer, found)
    return tuple(known[layer] for layer in layers)


def _hex(layer: str) -> str:
    return layer.removeprefix("sha256:")


def _kept(kept: Path, layer: str) -> str | None:
    """A hash that was computed before; whatever else the file holds is computed again."""
    try:
        text = (kept / _hex(layer)).read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if HASH.fullmatch(text) else None


def _keep(kept: Path, layer: str, found: str) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept, delete=False, encoding="ascii") as file:
        file.write(f"{found}\n")
    Path(file.name).replace(kept / _hex(layer))


def _computed(blobs: Path, layers: Sequence[str], cache: Path) -> tuple[str, ...]:
    program = tool()
    if program is None:
        raise JewelhouseError(
            "the tool that hashes container layers is missing",
            where=os.environ.get("JEWELHOUSE_DMVERITY_VHD") or TOOL,
            remedy=REMEDY,
            source="github.com/Microsoft/hcsshim v0.12.9: cmd/dmverity-vhd",
        )
    cache.mkdir(parents=True, exist_ok=True)
    # Layers are copied and converted, which a small /tmp would not hold.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".layers-") as temporary:
        tarball = Path(temporary) / "image.tar"
        _write_tarball(blobs, layers, tarball)
        command = [str(program), "--tarball", str(tarball), "roothash", "--image", _NAME]
        environment = {**os.environ, "TMPDIR": temporary}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise JewelhouseError(f"cannot run: {error}", where=str(program), remedy=REMEDY) from error
    if done.returncode:
        raise JewelhouseError(
            f"failed with {done.returncode}: {done.stderr.strip()[-500:]}", where=str(program)
        )
    found = {int(number): value for number, value in _SAID.findall(done.stdout)}
    if sorted(found) != list(range(len(layers))):
        raise JewelhouseError(
            f"printed hashes of {len(found)} layers where there are {len(layers)}", where=str(program)
        )
    return tuple(found[number] for number in range(len(layers)))


def _write_tarball(blobs: Path, layers: Sequence[str], destination: Path) -> None:
    """The layers in the form of `docker save`, the only one that the tool reads from a file."""
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": list(layers)}}
    ).encode()
    names = [f"{_hex(layer)}.tar" for layer in layers]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [_NAME], "Layers": names}]).encode()
    with tarfile.open(destination, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (("manifest.json", manifest), ("config.json", config)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for layer, name in zip(layers, names, strict=True):
            tar.add(blobs / _hex(layer), arcname=name, recursive=False)
