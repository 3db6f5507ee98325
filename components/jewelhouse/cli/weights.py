"""`jewelhouse weights`: artifacts sealed with public keys, checked, opened, and sealed to other keys."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from jewelhouse.cli.options import JsonOption, content, shown
from jewelhouse.cli.released import EndpointsOption, ReleaseOption, UnwrapOption, in_memory, opener
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import ArtifactKind
from jewelhouse.release.documents import strict
from jewelhouse.release.markdown import visible
from jewelhouse.weights import keygen as keys
from jewelhouse.weights import manifest as form
from jewelhouse.weights import resume, rewrap, series, signing, sources, stores, stream, unseal, wrap
from jewelhouse.weights import seal as sealing
from jewelhouse.weights.keygen import KeyKind
from jewelhouse.weights.manifest import Manifest, Trust, moment

app = typer.Typer(help="Seal artifacts with public keys; check, open and rewrap them.", no_args_is_help=True)

# A clear no: the artifact is there and is not what it should be, or not for this reader.
NO = (form.Untrusted, form.MalformedManifest, unseal.Incomplete, stream.Tampered, wrap.NotOpened)

StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", help="Directory or fsspec URL (s3, gs, abfs, file, memory).")
]
ArtifactOption = Annotated[
    str | None, typer.Option("--artifact", "-a", help="Artifact that it must be; any if left out.")
]
SignerOption = Annotated[
    list[Path],
    typer.Option("--signer", metavar="PUB.pem", help="Public key of a signer to trust. Repeatable."),
]
SignOption = Annotated[
    list[Path], typer.Option("--sign", metavar="KEY.pem", help="Signing key. Repeatable: several sign.")
]
ToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="[IDENTITY=]PUB.pem",
        help="RSA-4096 public key that shall open it, with the identity its stage knows it by. Repeatable.",
    ),
]
OutputsOption = Annotated[
    Path | None,
    typer.Option(
        "--stack-outputs", metavar="FILE", help="Seal to the artifact's keys: `pulumi stack output --json`."
    ),
]
PasswordOption = Annotated[
    Path | None, typer.Option("--password-file", help="File whose first line opens the private keys.")
]
FloorOption = Annotated[int, typer.Option("--minimum-version", min=1, help="Refuse versions below.")]
WrappingOption = Annotated[int, typer.Option("--minimum-wrapping", min=1, help="Refuse wrappings below.")]
ThresholdOption = Annotated[int, typer.Option("--threshold", min=1, help="Signers that must have signed.")]
ExpiresOption = Annotated[
    str | None,
    typer.Option("--expires", metavar="DAYSd|TIME", help="End of validity: 365d, 2027-11-23T10:00:00Z."),
]
JobsOption = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Threads; as many as processors if left out.")
]


@app.callback()
def weights() -> None:
    """Seal artifacts with public keys; check, open and rewrap them."""


@app.command()
def keygen(
    name: Annotated[Path, typer.Argument(metavar="NAME", help="Makes NAME.key.pem and NAME.pub.pem.")],
    kind: Annotated[KeyKind, typer.Option("--kind", help="rsa unwraps, the others sign.")] = KeyKind.ED25519,
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key: to sign with, or (rsa) in the place of an attested key for development."""
    made = keys.keygen(name, kind, _password(password_file))
    if as_json:
        found = {"private": str(made.private), "public": str(made.public), "identity": made.identity}
        typer.echo(json.dumps(found))
        return
    _console().print(f"{shown(str(made.private))}\n{shown(str(made.public))}  {made.identity}")


@app.command()
def seal(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Directory, file or fsspec URL.")],
    destination: StoreArgument,
    artifact: Annotated[str, typer.Option("--artifact", "-a", help="Artifact of the lifecycle.")],
    version: Annotated[int, typer.Option("--version", "-v", min=1, help="Rises with the content.")],
    sign: SignOption,
    to: ToOption = None,
    stack_outputs: OutputsOption = None,
    kind: Annotated[ArtifactKind, typer.Option("--kind", help="What it is.")] = ArtifactKind.WEIGHTS,
    producer: Annotated[str, typer.Option("--producer", help="Who or what made it, for people.")] = "",
    expires: ExpiresOption = None,
    password_file: PasswordOption = None,
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Keep nothing on this machine to go on after a break.")
    ] = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seal files as one version of an artifact. Needs public keys only, and no login at a cloud."""
    now = datetime.now(UTC)
    password = _password(password_file)
    signers = [signing.private_key(path, password) for path in sign]
    order = sealing.Order(
        artifact=artifact,
        kind=kind,
        version=version,
        recipients=_recipients(to, stack_outputs, artifact),
        signers=signers,
        producer=producer or signing.identity(signers[0].public_key()),
        expires=_expiry(expires or "365d", now),
    )
    with _progress("sealing", quiet=as_json) as progress:
        done = sealing.seal(
            sources.source(source),
            stores.store(destination),
            order,
            now=now,
            states=None if no_resume else resume.directory(),
            jobs=jobs,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps({**_summary(done.manifest), "kept": done.kept, "unchanged": done.unchanged}))
        return
    console = _console()
    console.print(f"{'already sealed' if done.unchanged else 'sealed'}: {_line(done.manifest)}")
    if done.kept:
        console.print(f"{done.kept} of its files had been sealed before the interruption")
    _print_keys(console, done.manifest)


@app.command("unseal")
def unseal_(
    source: StoreArgument,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Empty directory or fsspec URL.")],
    signer: SignerOption,
    artifact: ArtifactOption = None,
    unwrap: UnwrapOption = None,
    release: ReleaseOption = None,
    endpoints: EndpointsOption = None,
    password_file: PasswordOption = None,
    minimum_version: FloorOption = 1,
    minimum_wrapping: WrappingOption = 1,
    threshold: ThresholdOption = 1,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open the current version. Exit 1 when it is not to be trusted or tampered with.

    With a development key anywhere; by a release on attested hardware alone, and into memory. A stage of a
    lifecycle needs neither: there the guest does what this command does.
    """
    opens = opener(unwrap, _password(password_file), release, endpoints)
    if opens is None:
        raise JewelhouseError(
            "no key opens it here",
            where="--unwrap",
            remedy="name a development key, or on attested hardware the stage's settings by --release",
        )
    if release:
        in_memory(destination)
    trust = _trust(signer, minimum_version, minimum_wrapping, threshold)

    def run() -> unseal.Unsealed:
        with _progress("unsealing", quiet=as_json) as progress:
            return unseal.unseal(
                stores.store(source),
                destination,
                trust,
                artifact=artifact,
                opener=opens,
                now=datetime.now(UTC),
                jobs=jobs,
                progress=progress,
            )

    done = _judged(run, as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"verified": True, **_summary(done.manifest), "kept": done.kept}))
        return
    console = _console()
    console.print(f"unsealed: {_line(done.manifest)}")
    if done.kept:
        console.print(f"{done.kept} of its files were there already, whole")


@app.command()
def inspect(source: StoreArgument, as_json: JsonOption = False) -> None:
    """Print what the current manifest says. Nothing of it is verified."""
    _, data = series.newest(stores.store(source), form.SERIES, signing.LARGEST_ENVELOPE)
    envelope = signing.unpack(data, form.NAME)
    found = form.decode(envelope.payload)
    if as_json:
        signatures = [one.keyid for one in envelope.signatures]
        typer.echo(
            json.dumps({"verified": None, "signatures": signatures, "manifest": json.loads(envelope.payload)})
        )
        return
    console = _console()
    console.print(f"{_line(found)}\n[yellow]not verified: `jewelhouse weights verify` does[/]")
    console.print(f"created {moment(found.created)}, expires {moment(found.expires)}")
    console.print(f"producer {shown(found.producer)}")
    for one in envelope.signatures:
        console.print(f"says that it is signed by {shown(one.keyid)}")
    _print_keys(console, found)
    for file in found.files:
        console.print(f"{file.size:>15}  {shown(repr(file.path)[1:-1])}")
    for path in found.directories:
        console.print(f"{'empty directory':>15}  {shown(repr(path)[1:-1])}")
    for name, one in found.extensions.items():
        console.print(f"extension {shown(name)}{' (critical)' if one.critical else ''}: {shown(one.value)}")


@app.command()
def verify(
    source: StoreArgument,
    signer: SignerOption,
    artifact: ArtifactOption = None,
    unwrap: UnwrapOption = None,
    release: ReleaseOption = None,
    endpoints: EndpointsOption = None,
    password_file: PasswordOption = None,
    minimum_version: FloorOption = 1,
    minimum_wrapping: WrappingOption = 1,
    threshold: ThresholdOption = 1,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify signature, versions and times, and that the store is complete; with a key every byte too.

    Exit 0 verified, 1 not, 2 nothing there to judge.
    """
    opens = opener(unwrap, _password(password_file), release, endpoints)
    trust = _trust(signer, minimum_version, minimum_wrapping, threshold)

    def run() -> Manifest:
        with _progress("verifying", quiet=as_json or opens is None) as progress:
            return unseal.verify(
                stores.store(source),
                trust,
                artifact=artifact,
                now=datetime.now(UTC),
                opener=opens,
                jobs=jobs,
                progress=progress,
            )

    found = _judged(run, as_json=as_json)
    opened = opens is not None
    if as_json:
        typer.echo(json.dumps({"verified": True, "contents": opened, **_summary(found)}))
        return
    console = _console()
    console.print(f"[green]verified[/]: {_line(found)}")
    console.print(
        "every byte has been opened and is what was signed"
        if opened
        else "complete by names and sizes; what is in them shows when they are opened"
    )


@app.command("rewrap")
def rewrap_(
    store: StoreArgument,
    signer: SignerOption,
    sign: SignOption,
    to: ToOption = None,
    stack_outputs: OutputsOption = None,
    retire: Annotated[
        list[str] | None,
        typer.Option("--retire", metavar="IDENTITY", help="Key that shall open it no more. Repeatable."),
    ] = None,
    artifact: ArtifactOption = None,
    unwrap: UnwrapOption = None,
    release: ReleaseOption = None,
    endpoints: EndpointsOption = None,
    password_file: PasswordOption = None,
    minimum_version: FloorOption = 1,
    minimum_wrapping: WrappingOption = 1,
    threshold: ThresholdOption = 1,
    expires: ExpiresOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seal the DEK to more keys, or retire some, without touching the data.

    First add (--to, --unwrap), let every stage change over, then retire (--retire, no key needed).
    """
    if bool(retire) == bool(to or stack_outputs):
        raise JewelhouseError(
            "add keys by --to, or leave keys out by --retire, and never both at once",
            where="--to",
            remedy="whoever still uses the old key would be locked out in between",
        )
    now = datetime.now(UTC)
    trust = _trust(signer, minimum_version, minimum_wrapping, threshold)
    password = _password(password_file)
    signers = [signing.private_key(path, password) for path in sign]
    until = _expiry(expires, now) if expires else None
    place = stores.store(store)

    def run() -> Manifest:
        if retire:
            return rewrap.retire(
                place, trust, retire, artifact=artifact, signers=signers, now=now, expires=until
            )
        opens = opener(unwrap, _password(password_file), release, endpoints)
        if opens is None:
            raise JewelhouseError(
                "only who opens it can add a key",
                where="--unwrap",
                remedy="name a development key, or on attested hardware the stage's settings by --release",
            )
        before = unseal.current(place, trust, artifact=artifact, now=now)
        return rewrap.add(
            place,
            trust,
            _recipients(to, stack_outputs, before.artifact),
            artifact=before.artifact,
            opener=opens,
            signers=signers,
            now=now,
            expires=until,
        )

    found = _judged(run, as_json=as_json)
    if as_json:
        typer.echo(json.dumps(_summary(found)))
        return
    console = _console()
    console.print(f"rewrapped: {_line(found)}")
    _print_keys(console, found)


@app.command()
def prune(
    store: StoreArgument,
    signer: SignerOption,
    artifact: ArtifactOption = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove them; without it they are listed.")
    ] = False,
    minimum_version: FloorOption = 1,
    minimum_wrapping: WrappingOption = 1,
    threshold: ThresholdOption = 1,
    as_json: JsonOption = False,
) -> None:
    """List or remove what the current manifest does not name: versions before it, broken sealings.

    Let no sealing run meanwhile: what it has written would be taken for broken.
    """
    place = stores.store(store)
    trust = _trust(signer, minimum_version, minimum_wrapping, threshold)
    found, names = _judged(
        lambda: rewrap.obsolete(place, trust, artifact=artifact, now=datetime.now(UTC)), as_json=as_json
    )
    if delete:
        for name in names:
            place.delete(name)
    if as_json:
        typer.echo(json.dumps({**_summary(found), "obsolete": list(names), "deleted": delete}))
        return
    console = _console()
    console.print(f"{_line(found)} stays")
    for name in names:
        console.print(f"{'removed' if delete else 'obsolete'} {shown(name)}")


def _judged(run: Callable[[], Any], *, as_json: bool) -> Any:
    """What `run` returns; exit 1 with the reason when the answer is no."""
    try:
        return run()
    except NO as error:
        if as_json:
            problems = [{"where": one.where, "what": one.what} for one in error.problems]
            typer.echo(json.dumps({"verified": False, "problems": problems}))
        else:
            Console(stderr=True, highlight=False, soft_wrap=True).print(
                visible(str(error)), style="red", markup=False
            )
        sys.exit(1)


def _trust(signers: list[Path], version: int, wrapping: int, threshold: int) -> Trust:
    for path in signers:
        signing.public_key(content(path), str(path))
    return Trust(
        signers=tuple(content(path).decode() for path in signers),
        minimum_version=version,
        minimum_wrapping=wrapping,
        threshold=threshold,
    )


def _recipients(to: list[str] | None, outputs: Path | None, artifact: str) -> list[wrap.Recipient]:
    given = [_recipient(value) for value in to or ()]
    if outputs is None:
        return given
    try:
        values = strict(content(outputs))
    except (ValueError, RecursionError) as error:
        raise JewelhouseError(f"is not JSON: {error}", where=str(outputs)) from error
    return wrap.recipients_of(values, artifact, str(outputs), given)


def _recipient(value: str) -> wrap.Recipient:
    """IDENTITY=FILE or FILE; a file whose own name holds `=` is taken as one."""
    identity, separator, file = value.rpartition("=")
    if not separator or Path(value).is_file():
        identity, file = "", value
    if identity and not form.KEY.fullmatch(identity):
        raise JewelhouseError("an identity is printable, without blanks", where=f"--to {value}")
    return wrap.recipient(content(Path(file)), identity or None, where=file)


def _password(file: Path | None) -> bytes | None:
    return content(file).splitlines()[0] if file else None


def _expiry(text: str, now: datetime) -> datetime:
    try:
        if days := re.fullmatch(r"([0-9]{1,5})d", text):
            found = now + timedelta(days=int(days[1]))
        else:
            found = datetime.fromisoformat(text)
            found = found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise JewelhouseError(
            f"{text} is no time", where="--expires", remedy="write 365d or a time"
        ) from error
    if found <= now:
        raise JewelhouseError(f"{text} has passed", where="--expires")
    return found


class _Bar:
    def __init__(self, progress: Progress, title: str) -> None:
        self._progress, self._task = progress, progress.add_task(title, total=None)

    def total(self, size: int, /) -> None:
        self._progress.update(self._task, total=size)

    def __call__(self, done: int, /) -> None:
        self._progress.advance(self._task, done)


@contextmanager
def _progress(title: str, *, quiet: bool) -> Iterator[_Bar]:
    """Rate and remaining time, on a terminal's standard error."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        yield _Bar(progress, title)


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _line(found: Manifest) -> str:
    return (
        f"{found.artifact} ({found.kind}), version {found.version}, wrapping {found.wrapping}, "
        f"{len(found.files)} files, {found.size} bytes"
    )


def _print_keys(console: Console, found: Manifest) -> None:
    for one in found.keys:
        policy = f", release policy sha256:{one.policy[:16]}…" if one.policy else ""
        console.print(f"opens by {shown(one.key)}{policy}")


def _summary(found: Manifest) -> dict[str, Any]:
    return {
        "artifact": found.artifact,
        "kind": found.kind.value,
        "version": found.version,
        "wrapping": found.wrapping,
        "created": moment(found.created),
        "expires": moment(found.expires),
        "files": len(found.files),
        "bytes": found.size,
        "keys": [{"key": one.key, "public": one.public, "policy": one.policy} for one in found.keys],
    }
