"""`jewelhouse image`: built twice the same, measured before they boot, locked, verified."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from jewelhouse import stackfile
from jewelhouse.cli.options import JsonOption, shown
from jewelhouse.cli.options import content as file_content
from jewelhouse.errors import JewelhouseError, Problem, Problems
from jewelhouse.images import build as builder
from jewelhouse.images import eif, lockfile, recipe
from jewelhouse.images.build import Built
from jewelhouse.images.recipe import Recipe
from jewelhouse.model import Platform
from jewelhouse.yamlpath import suggestion

LOCK = "images.lock.yaml"
KEPT = Path(".jewelhouse") / "images"

app = typer.Typer(
    help="Enclave images: built twice the same, measured before they boot, locked, verified.",
    no_args_is_help=True,
)
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]…", help="Recipes by name or folder; all of templates/images without any."),
]
PlatformOption = Annotated[
    list[Platform] | None, typer.Option("--platform", help="Only for this platform. Repeatable.")
]
SignOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--sign-enclave",
        metavar="KEY CERTIFICATE",
        help="ECDSA key and its certificate (PEM) to sign enclave images with; adds PCR8.",
    ),
]
ProvenanceOption = Annotated[
    Path | None,
    typer.Option(
        "--provenance-key",
        metavar="KEY",
        help="Private key (PEM, Ed25519 or ECDSA) to sign an in-toto provenance beside each image with.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the images; .jewelhouse/images/out without it.")
]


@app.callback()
def image() -> None:
    """Enclave images: built twice the same, measured before they boot, locked, verified."""


@app.command()
def measure(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Enclave image (.eif) or unified kernel image (.efi).")
    ],
    keys: Annotated[
        tuple[Path, Path, Path] | None,
        typer.Option(
            "--secure-boot",
            metavar="PK KEK DB",
            help="Secure Boot variables (EFI signature lists) of the machine, for a unified kernel image.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the registers that a machine started from this image will report; exit 2 for a malformed file."""
    try:
        with file.open("rb") as opened:
            start = opened.read(2)
        if start == b"MZ":
            _firmware(file, keys, as_json)
        else:
            _enclave(file, as_json)
    except OSError as error:
        raise Problems([Problem(where=str(file), what=f"cannot be read: {error.strerror}")]) from error


def _firmware(file: Path, keys: tuple[Path, Path, Path] | None, as_json: bool) -> None:
    from jewelhouse.images import pcrs
    from jewelhouse.images.secure_boot import SecureBoot

    boot = SecureBoot(**dict(zip(_VARIABLES, map(Path.read_bytes, keys), strict=True))) if keys else None
    found = pcrs.predict(file, secure_boot=boot)
    if as_json:
        typer.echo(json.dumps(found))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"unified kernel image, Secure Boot {'on' if boot else 'off'}")
    for bank, registers in found.items():
        for name, value in registers.items():
            console.print(f"{bank}:{name} {value}")


_VARIABLES = ("platform_key", "exchange_keys", "allowed")


def _enclave(file: Path, as_json: bool) -> None:
    try:
        found = eif.measure(file)
    except eif.MalformedImage as error:
        raise Problems(
            Problem(where=f"{file}: {problem.where}", what=problem.what) for problem in error.problems
        ) from error
    if as_json:
        typer.echo(json.dumps(found.registers))
        return
    console = Console(highlight=False, soft_wrap=True)
    layout = found.layout
    console.print(f"enclave image for {layout.architecture}, {layout.size} bytes, CRC {layout.crc:08x}")
    for section in layout.sections:
        console.print(f"  {section.offset:>12}  {section.kind.name.lower():<9}  {section.size} bytes")
    for name, value in found.registers.items():
        console.print(f"{name} {value}")
    if found.signature is None:
        console.print("not signed: PCR8 will be zeros")


@app.command()
def build(
    names: NamesArgument = None,
    platforms: PlatformOption = None,
    out: OutOption = None,
    sign: SignOption = None,
    provenance: ProvenanceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build images and print what they measure. The same recipe and packages give the same bytes."""
    project = stackfile.project_directory()
    made = [
        _build(one, platform, out or project / KEPT / "out", project, sign, provenance)
        for one, platform in _chosen(project, names, platforms)
    ]
    if as_json:
        typer.echo(json.dumps([_said(one) for one in made], indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for one in made:
        console.print(f"[bold]{one.name}[/bold] for {one.platform}: {shown(str(one.path))}")
        console.print(f"  {one.digest}, {_size(one.size)}")
        for name, value in one.measurements.items():
            console.print(f"  {name} {value}")


@app.command()
def lock(
    names: NamesArgument = None,
    platforms: PlatformOption = None,
    out: OutOption = None,
    references: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="NAME/PLATFORM=REFERENCE",
            help="Name that a cloud gave to an imported disk, such as server/aws-nitrotpm=ami-…. Repeatable.",
        ),
    ] = None,
    sign: SignOption = None,
    provenance: ProvenanceOption = None,
    keep_previous: Annotated[
        bool,
        typer.Option(
            "--keep-previous", help="Keep releasing to the measurements so far, while hosts roll over."
        ),
    ] = False,
    drop_previous: Annotated[
        bool, typer.Option("--drop-previous", help="End a roll-out: release to the new measurements alone.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build images and write their measurements to images.lock.yaml, which the stacks' policies read."""
    project = stackfile.project_directory()
    chosen = list(_chosen(project, names, platforms))
    built = [
        _build(one, platform, out or project / KEPT / "out", project, sign, provenance)
        for one, platform in chosen
    ]
    changes = lockfile.write(
        stackfile.stacks_directory(project) / LOCK,
        built,
        project=project,
        recipes={one.name: one.directory for one, _ in chosen},
        references=_references(references or []),
        keep_previous=keep_previous,
        drop_previous=drop_previous,
    )
    if as_json:
        typer.echo(json.dumps(changes))
        return
    for change in changes or ["nothing changed"]:
        typer.echo(change)


@app.command()
def verify(
    names: NamesArgument = None,
    platforms: PlatformOption = None,
    out: OutOption = None,
    built_already: Annotated[
        bool, typer.Option("--built", help="Measure what lies in the folder of images instead of building.")
    ] = False,
    registry: Annotated[
        bool, typer.Option("--registry", help="Compare container images with what their registry holds, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build locked images again and compare; exit 1 with what differs, down to the file."""
    project = stackfile.project_directory()
    content = lockfile.read(stackfile.stacks_directory(project) / LOCK)
    found: dict[str, list[str]] = {}
    for one, platform in _chosen(project, names, platforms):
        entry = content["images"].get(one.name, {}).get(str(platform))
        what = f"{one.name} for {platform}"
        if entry is None or "built" not in entry:
            found[what] = [f"is not locked: jewelhouse image lock {one.name}"]
            continue
        if built_already:
            built = builder.measured(out or project / KEPT / "out", one, platform)
        else:
            pinned = _pinned(one, entry, content["inputs"])
            built = _build(pinned, platform, out or project / KEPT / "verified", project)
        found[what] = list(lockfile.differences(entry, content["inputs"], built))
        if registry and built.path.is_dir():
            found[what] += _registered(built)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for what, lines in found.items():
            console.print(f"{what}: {'differs' if lines else 'the same'}")
            for line in lines:
                console.print(f"  {shown(line)}")
    if any(found.values()):
        raise typer.Exit(1)


def _registered(built: Built) -> Iterator[str]:
    from jewelhouse.images import registry
    from jewelhouse.images.registry_client import RegistryError

    assert built.reference is not None
    try:
        registry.verify(built.path, built.reference)
    except RegistryError as error:
        yield f"registry: {error}"


@app.command()
def push(
    names: NamesArgument = None,
    platforms: PlatformOption = None,
    out: OutOption = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Tag to set besides, once all is there.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build container images and send them to their registries; check what is there.

    What a registry has is not sent again. Logins are those of docker: its configuration and its helpers.
    """
    from jewelhouse.images import registry

    project = stackfile.project_directory()
    wanted = [pair for pair in _chosen(project, names, platforms) if pair[1] in recipe.CONTAINERS]
    if not wanted:
        raise JewelhouseError("only container images go to a registry", where="--platform")
    sent = []
    for one, platform in wanted:
        built = _build(one, platform, out or project / KEPT / "out", project)
        assert built.reference is not None
        to = f"{built.reference.partition('@')[0]}:{tag}" if tag else built.reference
        with _transfer(to, quiet=as_json) as progress:
            sent.append(registry.push(built.path, to, progress=progress))
        registry.verify(built.path, built.reference)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in sent], indent=1))
        return
    for one in sent:
        typer.echo(f"{one.reference}: {len(one.sent)} blobs sent, {len(one.present)} were there")


@contextmanager
def _transfer(to: str, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def moved(digest: str, done: int, size: int) -> None:
            if digest not in tasks:
                tasks[digest] = progress.add_task(digest[:19], total=size)
            progress.update(tasks[digest], completed=done)

        yield moved


@app.command("provenance")
def provenance_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="provenance.dsse.json beside an image.")],
    name: Annotated[str, typer.Option("--name", help="Image in the lock file.")],
    platform: Annotated[Platform, typer.Option("--platform", help="Platform of the image.")],
    signers: Annotated[
        list[Path],
        typer.Option("--signer", metavar="PUB.pem", help="Public key of a builder to trust. Repeatable."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Verify signed provenance of a locked image; exit 1 when it is another's, or signed by others."""
    from jewelhouse.images import provenance

    project = stackfile.project_directory()
    content = lockfile.read(stackfile.stacks_directory(project) / LOCK)
    entry = content["images"].get(name, {}).get(str(platform), {})
    if "built" not in entry:
        raise JewelhouseError(
            "is not locked by a build",
            where=f"images.{name}.{platform}",
            remedy=f"jewelhouse image lock {name}",
        )
    try:
        found = provenance.verify(
            file_content(file),
            [file_content(one).decode("ascii", "replace") for one in signers],
            digest=entry["built"]["digest"],
            measurements=entry.get("measurements", {}),
        )
    except provenance.BadProvenance as error:
        if as_json:
            typer.echo(json.dumps({"verified": False, "problem": str(error)}))
        else:
            Console(stderr=True, highlight=False, soft_wrap=True).print(shown(str(error)))
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"verified": True, **asdict(found)}))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{found.name} for {found.platform}: built from recipe {found.recipe}")
    console.print(f"  {len(found.dependencies)} packages and files by their digests; {shown(found.digest)}")


@app.command("launch-digest")
def launch_digest(
    firmware: Annotated[Path, typer.Argument(metavar="OVMF.fd", help="Firmware image of the machine.")],
    vcpus: Annotated[int, typer.Option("--vcpus", min=1, help="Virtual processors of the machine.")],
    vcpu_type: Annotated[
        str, typer.Option("--vcpu-type", help="Processor model as QEMU names it.")
    ] = "EPYC-Milan",
    kernel: Annotated[Path | None, typer.Option("--kernel", help="Kernel that is measured by hash.")] = None,
    initrd: Annotated[Path | None, typer.Option("--initrd", help="Its ramdisk.")] = None,
    cmdline: Annotated[str, typer.Option("--cmdline", help="Its command line.")] = "",
    platform: Annotated[
        str | None,
        typer.Option("--platform", help="Where it runs; refuses where no evidence holds such a digest."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the SEV-SNP launch digest of a machine of one's own, as its reports will show it."""
    from jewelhouse.images import snp_digest

    launch = snp_digest.Launch(
        firmware=firmware, vcpus=vcpus, vcpu_type=vcpu_type, kernel=kernel, initrd=initrd, cmdline=cmdline
    )
    found = snp_digest.compute(launch, platform=platform or snp_digest.OWN_HOST)
    typer.echo(json.dumps({"measurement": found}) if as_json else found)


def _pinned(one: Recipe, entry: dict[str, Any], sets: dict[str, Any]) -> Recipe:
    """The recipe with every Debian package at the version that is locked, as the archive moves on."""
    for name in entry["built"].get("inputs", ()):
        if name.startswith("packages-") and name in sets:
            pins = tuple(f"{package}={said.split()[0]}" for package, said in sets[name].items())
            return replace(one, settings=one.settings.model_copy(update={"packages": pins}))
    return one


def _chosen(
    project: Path, names: list[str] | None, platforms: list[Platform] | None
) -> Iterator[tuple[Recipe, Platform]]:
    """Each recipe that is asked for with each of its platforms; all problems of all recipes at once."""
    folder = project / "templates" / "images"
    known = sorted(path.parent.name for path in folder.glob(f"*/{recipe.FILE}"))
    problems: list[Problem] = []
    loaded: list[Recipe] = []
    for name in names or known:
        directory = Path(name) if (Path(name) / recipe.FILE).is_file() else folder / name
        if not (directory / recipe.FILE).is_file():
            problems.append(Problem(where=name, what="is no recipe", remedy=suggestion(name, known)))
            continue
        try:
            loaded.append(recipe.load(directory))
        except recipe.InvalidRecipe as error:
            problems.extend(error.problems)
    if problems:
        raise Problems(problems)
    pairs = [
        (one, platform)
        for one in loaded
        for platform in sorted(one.settings.targets)
        if not platforms or platform in platforms
    ]
    if not pairs:
        there = sorted({target for one in loaded for target in one.settings.targets})
        raise JewelhouseError(
            "no recipe has such a target", where="--platform", remedy=f"there are {', '.join(there)}"
        )
    yield from pairs


def _build(
    one: Recipe,
    platform: Platform,
    out: Path,
    project: Path,
    sign: tuple[Path, Path] | None = None,
    provenance: Path | None = None,
) -> Built:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with console.status(f"{one.name} for {platform}"):
        return builder.build(
            one,
            platform,
            out,
            cache=project / KEPT,
            signer=_signer(sign) if platform is Platform.AWS_ENCLAVE else None,
            attested=provenance,
            report=lambda line: console.print(f"[dim]{shown(line)}[/dim]"),
        )


def _signer(sign: tuple[Path, Path] | None) -> tuple[Any, Any] | None:
    if sign is None:
        return None
    from jewelhouse.images import eif_signature

    return eif_signature.load(*sign)


def _references(given: list[str]) -> dict[tuple[str, str], str]:
    found = {}
    for text in given:
        what, _, reference = text.partition("=")
        name, _, platform = what.partition("/")
        if not (name and reference and platform in set(Platform)):
            raise JewelhouseError(
                f"{text} names no image", where="--reference", remedy="NAME/PLATFORM=REFERENCE"
            )
        found[name, platform] = reference
    return found


def _said(one: Built) -> dict[str, Any]:
    return {
        "name": one.name,
        "platform": str(one.platform),
        "path": str(one.path),
        "digest": one.digest,
        "size": one.size,
        "reference": one.reference,
        "measurements": dict(one.measurements),
    }


def _size(size: int) -> str:
    return f"{size / 1_000_000:.1f} MB"
