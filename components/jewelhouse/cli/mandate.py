"""`jewelhouse weights mandate`: what an owner lets a stage seal, to whom."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from jewelhouse.cli.options import JsonOption
from jewelhouse.cli.weights import (
    ExpiresOption,
    OutputsOption,
    PasswordOption,
    SignOption,
    ToOption,
    _console,
    _expiry,
    _password,
    _recipients,
)
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import ArtifactKind
from jewelhouse.weights import mandate as mandates
from jewelhouse.weights import signing, stores


def mandate(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Directory or fsspec URL that the stage writes to.")
    ],
    artifact: Annotated[str, typer.Option("--artifact", "-a", help="Artifact that the stage makes.")],
    kind: Annotated[ArtifactKind, typer.Option("--kind", help="What it is.")],
    sign: SignOption,
    signer: Annotated[
        Path,
        typer.Option("--signer", metavar="PUB.pem", help="File for the public key that readers are to pin."),
    ],
    stage_key: Annotated[
        str | None,
        typer.Option(
            "--stage-key",
            metavar="IDENTITY=PUB.pem",
            help="An attested key that the stage may open; what signs its output is wrapped to it.",
        ),
    ] = None,
    same_signer: Annotated[
        bool,
        typer.Option(
            "--same-signer",
            help="Go on with the signing key of the current mandate, so that what readers pin stays.",
        ),
    ] = False,
    rewraps: Annotated[
        bool,
        typer.Option("--rewraps", help="For a stage that opens the artifact and wraps it to more keys."),
    ] = False,
    to: ToOption = None,
    stack_outputs: OutputsOption = None,
    expires: ExpiresOption = None,
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say to whom a stage seals an artifact, and give it a key to sign with that opens only inside it.

    Signed by the artifact's owner, whose public key the stage's image trusts (trust.seals of its recipe; with
    --rewraps trust.rewraps).
    """
    if same_signer == (stage_key is not None):
        raise JewelhouseError(
            "needs either --stage-key, for a new signing key, or --same-signer", where="weights mandate"
        )
    now = datetime.now(UTC)
    password = _password(password_file)
    owners = [signing.private_key(path, password) for path in sign]
    place, part = stores.store(store), mandates.REWRAPS if rewraps else mandates.SEALS
    publics = [owner.public_key() for owner in owners]
    before = mandates.current(place, publics, artifact=artifact, now=now, part=part) if same_signer else None
    data, public = mandates.make(
        artifact=artifact,
        kind=kind,
        recipients=_recipients(to, stack_outputs, artifact),
        stage_key=_recipients([stage_key], None, artifact)[0] if stage_key else None,
        before=before,
        owners=owners,
        now=now,
        expires=_expiry(expires or "365d", now),
    )
    if signer.exists() and signer.read_text(encoding="ascii", errors="replace") != public:
        raise JewelhouseError(
            "exists; readers may pin it",
            where=str(signer),
            remedy="a new signing key goes to another file; --same-signer keeps the one that is in use",
        )
    mandates.publish(place, data, part)
    signer.write_text(public, encoding="ascii")
    identity = signing.identity(signing.public_key(public))
    if as_json:
        typer.echo(json.dumps({"artifact": artifact, "signer": str(signer), "identity": identity}))
        return
    _console().print(f"mandate for {artifact}; what it makes will be signed by {identity}")
