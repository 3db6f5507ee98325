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
        str, typer.Argument(metavar="STORE", help="Directory or fsspec URL that the stage seals into.")
    ],
    artifact: Annotated[str, typer.Option("--artifact", "-a", help="Artifact that the stage makes.")],
    kind: Annotated[ArtifactKind, typer.Option("--kind", help="What it is.")],
    stage_key: Annotated[
        str,
        typer.Option(
            "--stage-key",
            metavar="IDENTITY=PUB.pem",
            help="An attested key that the stage may open; what signs its output is wrapped to it.",
        ),
    ],
    sign: SignOption,
    signer: Annotated[
        Path,
        typer.Option("--signer", metavar="PUB.pem", help="File for the public key that readers are to pin."),
    ],
    to: ToOption = None,
    stack_outputs: OutputsOption = None,
    expires: ExpiresOption = None,
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say to whom a stage seals an artifact, and give it a key to sign with that opens only inside it.

    Signed by the artifact's owner, whose public key the stage's image trusts (trust.seals of its recipe).
    """
    now = datetime.now(UTC)
    password = _password(password_file)
    (wrapped_to,) = _recipients([stage_key], None, artifact)
    data, public = mandates.make(
        artifact=artifact,
        kind=kind,
        recipients=_recipients(to, stack_outputs, artifact),
        stage_key=wrapped_to,
        owners=[signing.private_key(path, password) for path in sign],
        now=now,
        expires=_expiry(expires or "365d", now),
    )
    if signer.exists():
        raise JewelhouseError(
            "exists; readers may pin it",
            where=str(signer),
            remedy="each mandate has a signing key of its own: name another file",
        )
    stores.store(store).put(mandates.NAME, data)
    signer.write_text(public, encoding="ascii")
    identity = signing.identity(signing.public_key(public))
    if as_json:
        typer.echo(json.dumps({"artifact": artifact, "signer": str(signer), "identity": identity}))
        return
    _console().print(f"mandate for {artifact}; what it makes will be signed by {identity}")
