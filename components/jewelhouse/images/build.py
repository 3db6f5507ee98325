"""From a recipe to the image of each platform, with every measurement that a release policy can pin.

A finished image is kept under the digest of all its inputs and not built again; one that is cut off leaves
nothing under its name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jewelhouse import __version__
from jewelhouse.errors import JewelhouseError
from jewelhouse.images import assemble, eif, enclave, oci, tools
from jewelhouse.images.assemble import Assembled
from jewelhouse.images.recipe import Recipe
from jewelhouse.images.tree import Kind
from jewelhouse.model import Platform

Report = Callable[[str], None]
RESULT = "built.json"
SBOM = "sbom.cdx.json"
POLICY = "container-policy.rego"
PROVENANCE = "provenance.dsse.json"


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image on disk. `path` is the EIF file, the raw disk or the OCI layout; `digest` is of the file or of
    the manifest, `size` in bytes. `measurements` by name, lower-case hex. `inputs` are sets of what went in
    (packages, wheels, kernel, the kit's files, own files, tools), each from names to versions or digests.
    `gpus`: how many its guest attests."""

    name: str
    platform: Platform
    path: Path
    digest: str
    size: int
    reference: str | None
    measurements: Mapping[str, str]
    recipe_digest: str
    inputs: Mapping[str, Mapping[str, str]]
    container_policy: str | None = None
    gpus: int | None = None


def build(
    recipe: Recipe,
    platform: Platform,
    out: Path,
    *,
    cache: Path,
    trust: Mapping[str, object] | None = None,
    signer: tuple[Any, Any] | None = None,
    attested: Path | None = None,
    report: Report = lambda line: None,
) -> Built:
    """Builds the image of a recipe for a platform into the folder `out`/name/platform, with its bill of
    materials, and with provenance signed by the private key in the file `attested` when there is one.

    `trust` takes the place of the recipe's trust settings; `signer` (private key, certificate) signs an
    enclave image. Raises JewelhouseError for what is missing or does not fit; then nothing has changed.
    """
    if platform not in recipe.settings.targets:
        raise JewelhouseError(
            f"{recipe.name} has no target {platform}",
            where=str(recipe.directory / "recipe.yaml"),
            remedy=f"targets: {', '.join(sorted(recipe.settings.targets))}",
        )
    assembled = assemble.assemble(recipe, platform, cache=cache, trust=trust, report=report)
    inputs = _inputs(assembled)
    target = out / recipe.name / platform
    key = _key(recipe, inputs, trust, signer, attested)
    if kept := _kept(target, key):
        report(f"{recipe.name} for {platform}: nothing changed")
        return kept
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{platform}-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        report(f"{recipe.name} for {platform}: {assembled_size(assembled)} MB of files")
        built = _MAKERS[platform](recipe, platform, assembled, made, cache, signer, report)
        used = {"jewelhouse": __version__, **_versions(("mmdebstrap",))}
        built = {**built, "inputs": {"tools": used, **inputs, **built.get("inputs", {})}}
        beside(made, recipe, platform, assembled, built, attested)
        gpu = recipe.settings.trust.gpu
        gpus = gpu.count if gpu and trust is None else None
        record = {"key": key, "recipe": recipe.digest, "gpus": gpus, **built}
        (made / RESULT).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        made.replace(target)
    found = _kept(target, key)
    assert found is not None
    return found


def beside(
    made: Path,
    recipe: Recipe,
    platform: Platform,
    assembled: Assembled,
    built: Mapping[str, Any],
    attested: Path | None,
) -> None:
    """Writes what accompanies an image: its bill of materials and, with a key, its signed provenance."""
    from jewelhouse.images import provenance, sbom

    kernel = built["inputs"].get("kernel", {})
    bill = sbom.document(recipe, platform, assembled, kernel, digest=built["digest"])
    (made / SBOM).write_bytes(bill)
    if attested is not None:
        said = provenance.statement(
            recipe,
            platform,
            file=built["path"],
            digest=built["digest"],
            measurements=built["measurements"],
            inputs=built["inputs"],
            beside={SBOM: f"sha256:{hashlib.sha256(bill).hexdigest()}"},
        )
        (made / PROVENANCE).write_bytes(provenance.sign(said, attested))


def assembled_size(assembled: Assembled) -> int:
    """Size of all files in whole megabytes."""
    return sum(entry.size for entry in assembled.whole.values()) // 1_000_000


def _key(
    recipe: Recipe,
    inputs: Mapping[str, Any],
    trust: object,
    signer: tuple[Any, Any] | None,
    attested: Path | None,
) -> str:
    by = signer[1].signature.hex() if signer else None
    said = [recipe.digest, __version__, inputs, trust, by, attested is not None, _code()]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _code() -> str:
    """Digest of what builds images: another writer may write other bytes."""
    state = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        state.update(path.read_bytes())
    return state.hexdigest()


def _kept(target: Path, key: str) -> Built | None:
    """What stands in a folder, when it was built from the same inputs and its files are whole."""
    try:
        record = json.loads((target / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    path = target / record["path"]
    if record["key"] != key or not path.exists():
        return None
    name, platform = target.parent.name, Platform(target.name)
    found = oci.read(path).manifest if path.is_dir() else file_digest(path)
    if found != record["digest"]:
        return None
    return Built(
        name=name,
        platform=platform,
        path=path,
        digest=record["digest"],
        size=record["size"],
        reference=record["reference"],
        measurements=record["measurements"],
        recipe_digest=record["recipe"],
        inputs=record["inputs"],
        container_policy=record.get("container_policy"),
        gpus=record.get("gpus"),
    )


def measured(out: Path, recipe: Recipe, platform: Platform) -> Built:
    """What lies in `out` for a recipe and platform, measured as it is now, whatever its build said of it.

    Raises JewelhouseError when nothing is there, and for an image that is malformed.
    """
    target = out / recipe.name / platform
    try:
        record = json.loads((target / RESULT).read_text(encoding="utf-8"))
        path = target / record["path"]
        size, inputs = record["size"], record["inputs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JewelhouseError(
            "holds no image", where=str(target), remedy=f"jewelhouse image build {recipe.name}"
        ) from error
    policy: bytes | None = None
    if path.is_dir():
        digest = oci.read(path).manifest
        found = {"image_digest": digest}
        if platform is Platform.AZURE_CONTAINER:
            policy = (target / POLICY).read_bytes()
            found = {"hostdata": hashlib.sha256(policy).hexdigest()}
    elif platform is Platform.AWS_ENCLAVE:
        digest, found = file_digest(path), eif.measure(path).registers
    else:
        from jewelhouse.images import machine, pcrs

        bank, names = machine.COMPARED.get(platform, ("", ()))
        registers = pcrs.predict(target / machine.UKI)
        digest, found = file_digest(path), {name: registers[bank][name] for name in names}
    return Built(
        name=recipe.name,
        platform=platform,
        path=path,
        digest=digest,
        size=size,
        reference=record.get("reference"),
        measurements=found,
        recipe_digest=record.get("recipe", ""),
        inputs=inputs,
        container_policy=base64.b64encode(policy).decode() if policy else None,
        gpus=record.get("gpus"),
    )


def file_digest(path: Path) -> str:
    """`sha256:…` of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _inputs(assembled: Assembled) -> dict[str, dict[str, str]]:
    own = assembled.layers[-1].values()
    files = {entry.path: entry for entry in own if entry.kind is Kind.FILE}
    kit = {path: _sha(entry) for path, entry in files.items() if path.startswith(f"{assemble.KIT}/")}
    return {
        "packages": {one.name: f"{one.version} sha256:{one.sha256}" for one in assembled.packages},
        "wheels": {one.name: f"{one.version} sha256:{one.sha256}" for one in assembled.wheels},
        "kit": {path.removeprefix(f"{assemble.KIT}/"): digest for path, digest in kit.items()},
        "files": {path: _sha(entry) for path, entry in files.items() if path not in kit},
    }


def _sha(entry: Any) -> str:
    state = hashlib.sha256()
    for data in entry.chunks():
        state.update(data)
    return f"sha256:{state.hexdigest()}"


def _versions(names: Sequence[str]) -> dict[str, str]:
    """What the tools on this machine say they are."""
    return {tool.name: tools.version(tool) for tool in tools.TOOLS if tool.name in names}


def _enclave(
    recipe: Recipe,
    platform: Platform,
    assembled: Assembled,
    made: Path,
    cache: Path,
    signer: tuple[Any, Any] | None,
    report: Report,
) -> dict[str, Any]:
    path = made / "image.eif"
    with tempfile.TemporaryDirectory(dir=made.parent) as temporary:
        boot = enclave.boot(recipe, platform, enclave.MODULES, Path(temporary), cache, report)
        kernel = {
            **{one.name: f"{one.version} sha256:{one.sha256}" for one in boot.packages},
            "image": file_digest(boot.image),
        }
        registers = enclave.build(recipe, platform, assembled, boot, path, signer)
    digest = file_digest(path)
    return {
        "path": path.name,
        "digest": digest,
        "size": path.stat().st_size,
        "reference": digest,
        "measurements": registers,
        "inputs": {"kernel": kernel},
    }


def _container(
    recipe: Recipe,
    platform: Platform,
    assembled: Assembled,
    made: Path,
    cache: Path,
    signer: tuple[Any, Any] | None,
    report: Report,
) -> dict[str, Any]:
    settings = recipe.settings
    target = settings.targets[platform]
    path = made / "layout"
    command = assemble.GUEST if settings.guest else settings.run
    layout = oci.write(
        oci.Image(
            layers=assembled.layers,
            entrypoint=command,
            environment={"PATH": "/usr/bin:/bin", **settings.environment},
            labels={
                f"tee.launch_policy.{name}": value for name, value in sorted(target.launch_policy.items())
            },
            architecture=target.architecture,
            epoch=recipe.epoch,
        ),
        path,
    )
    found: dict[str, Any] = {
        "path": path.name,
        "digest": layout.manifest,
        "size": layout.size,
        "reference": f"{target.repository}@{layout.manifest}",
        "measurements": {"image_digest": layout.manifest},
    }
    if platform is Platform.AZURE_CONTAINER:
        from jewelhouse.images import container_policy

        policy = container_policy.of_layout(path, reference=found["reference"], cache=cache, report=report)
        (made / POLICY).write_bytes(policy)
        found["container_policy"] = container_policy.encoded(policy)
        found["measurements"] = {"hostdata": hashlib.sha256(policy).hexdigest()}
    return found


def _machine(
    recipe: Recipe,
    platform: Platform,
    assembled: Assembled,
    made: Path,
    cache: Path,
    signer: tuple[Any, Any] | None,
    report: Report,
) -> dict[str, Any]:
    from jewelhouse.images import machine

    path = made / "disk.raw"
    found = machine.build(recipe, platform, assembled, path, cache, report)
    (made / "registers.json").write_text(json.dumps(found.registers, indent=1, sort_keys=True))
    bank, names = machine.COMPARED.get(platform, ("", ()))
    return {
        "path": path.name,
        "digest": file_digest(path),
        "size": path.stat().st_size,
        # The cloud gives a disk its name when it is imported there.
        "reference": None,
        "measurements": {name: found.registers[bank][name] for name in names},
        "inputs": found.inputs,
    }


_MAKERS: Mapping[Platform, Callable[..., dict[str, Any]]] = {
    Platform.AWS_ENCLAVE: _enclave,
    Platform.AWS_NITROTPM: _machine,
    Platform.AZURE_CVM: _machine,
    Platform.GCP_CVM: _machine,
    Platform.AZURE_CONTAINER: _container,
    Platform.GCP_CONFIDENTIAL_SPACE: _container,
}
