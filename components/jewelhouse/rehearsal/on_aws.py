"""AWS in a rehearsal: KMS, the metadata service with the role's credentials, the Nitro security module."""

from __future__ import annotations

import base64
import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jewelhouse.evidence import nitro_document
from jewelhouse.evidence.verdict import Kind
from jewelhouse.model import Platform, Stage
from jewelhouse.rehearsal import http, relay, sigv4, tpm
from jewelhouse.rehearsal.ec2 import Metadata
from jewelhouse.rehearsal.envelope import enveloped
from jewelhouse.rehearsal.http import Asked
from jewelhouse.rehearsal.kms import Judged, Kms
from jewelhouse.rehearsal.minting_nitro import Authority, recipient, registers
from jewelhouse.rehearsal.nsm import Nsm
from jewelhouse.rehearsal.relay import Habits
from jewelhouse.rehearsal.services import Services, Wrong
from jewelhouse.rehearsal.sigv4 import Credentials
from jewelhouse.rehearsal.world import World

WRONG = (
    Wrong.DEBUG,
    Wrong.IMAGE,
    Wrong.IDENTITY,
    Wrong.ACCOUNT,
    Wrong.ROOT,
    Wrong.REPLAYED,
    Wrong.STALE,
    Wrong.FORGED,
    *relay.WRONG,
)
KINDS: Mapping[Platform, Kind] = {
    Platform.AWS_ENCLAVE: Kind.NITRO_ENCLAVE,
    Platform.AWS_NITROTPM: Kind.NITRO_TPM,
}


@contextmanager
def services(world: World, stage: Stage, wrong: Wrong) -> Iterator[Services]:
    """Stand-ins for one run of a stage in an enclave or on a NitroTPM host."""
    now = datetime.now(UTC)
    # Certificates of documents live three hours, and KMS says of no other limit.
    since = now - timedelta(hours=4) if wrong is Wrong.STALE else now
    authority = Authority.new(since, "rehearsal")
    attesting = Authority.new(now, "foreign") if wrong is Wrong.ROOT else authority
    kind = KINDS[stage.platform]
    caller = Credentials(
        key_id=f"ASIA{secrets.token_hex(8).upper()}",
        secret=secrets.token_urlsafe(30),
        token=secrets.token_urlsafe(60),
        principal=_role(world, stage, wrong),
        expires=now + timedelta(hours=6),
        policies=_attached(world, stage),
    )
    keys = {world.key(stage, artifact).uri: world.key(stage, artifact) for artifact in stage.opens}
    # Only a relay makes a difference between TLS and none.
    tls = http.Authority() if wrong in relay.WRONG else None
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jewelhouse-nsm-")))
        machine = stack.enter_context(
            Nsm(
                attesting,
                directory / "nsm",
                pcrs=_registers(world, stage, wrong),
                kind=kind,
                debug=wrong is Wrong.DEBUG,
                at=(lambda: since) if wrong is Wrong.STALE else lambda: datetime.now(UTC),
            )
        )
        if wrong is Wrong.REPLAYED:
            machine.replay = _recorded(world, stage, authority, kind)
        metadata = stack.enter_context(Metadata(caller))
        kms = stack.enter_context(
            Kms(
                {uri: key.private for uri, key in keys.items()},
                {uri: key.document for uri, key in keys.items()},
                roots=authority.roots,
                callers=[caller],
                region=stage.region,
                identity=tls.identity() if tls else None,
                meddle=MEDDLING.get(wrong),
            )
        )
        endpoints = {"kms": kms.url, "imds": metadata.url}
        overheard: list[bytes] = []
        if tls:
            habits = Habits(recipient=lambda asked: sigv4.signed_again(_to_another(asked), caller))
            between = stack.enter_context(relay.before(kms.url, wrong, habits, tls))
            overheard = between.heard
            certificates = directory / "authority.pem"
            certificates.write_bytes(tls.pem)
            endpoints |= {"kms": between.url, "certificates": str(certificates)}
        if stage.platform is Platform.AWS_ENCLAVE:
            endpoints["nsm"] = str(directory / "nsm")
        else:
            endpoints["tpm"] = str(tpm.program(directory, directory / "nsm"))
        yield Services(
            endpoints=endpoints,
            refused=lambda: [_said(one) for one in kms.log if one.code != "released"],
            evidence=lambda: list(machine.documents),
            overheard=lambda: overheard,
        )


def _role(world: World, stage: Stage, wrong: Wrong) -> str:
    own = world.outputs["stages"][stage.name]["identity"]
    if wrong is Wrong.IDENTITY:
        return f"{own}-other"
    if wrong is Wrong.ACCOUNT:
        parts = own.split(":")
        return ":".join([*parts[:4], "999999999999", *parts[5:]])
    return own


def _registers(world: World, stage: Stage, wrong: Wrong) -> dict[int, bytes]:
    values = world.lifecycle.image(stage).measurements[0].values
    found = {int(name.removeprefix("PCR")): bytes.fromhex(value) for name, value in values.items()}
    if wrong is Wrong.IMAGE:
        # One changed byte of an image changes these; that of a command line PCR12 is left to.
        found |= {index: bytes([0x5A]) * 48 for index in (0, 2, 4) if index in found}
    return found


def _recorded(world: World, stage: Stage, authority: Authority, kind: Kind) -> bytes:
    """A document of the right enclave, of another run: its key is not this one's."""
    return authority.document(
        {**registers(kind), **_registers(world, stage, Wrong.NOTHING)},
        kind,
        indefinite=True,
        timestamp=int(datetime.now(UTC).timestamp() * 1000),
        public_key=recipient(),
        nonce=secrets.token_bytes(32),
        user_data=None,
    )


def _forged(reply: dict[str, Any]) -> dict[str, Any]:
    """What a service would answer that wants to be taken for KMS: a key of its own choice, in the clear."""
    return {**reply, "Plaintext": "A" * 43 + "="}


def _replayed(reply: dict[str, Any]) -> dict[str, Any]:
    """What KMS answered to another run, whose key went with it."""
    recorded = enveloped(recipient(), secrets.token_bytes(32))
    return {**reply, "CiphertextForRecipient": base64.b64encode(recorded).decode()}


MEDDLING = {Wrong.FORGED: _forged, Wrong.RELAY_REPLAYS: _replayed}


def _to_another(asked: Asked) -> Asked:
    """The same request with a public key of the relay's own in the attestation document."""
    body = json.loads(asked.body)
    document = base64.b64decode(body["Recipient"]["AttestationDocument"])
    guests = nitro_document.parse(document).public_key
    assert guests is not None
    changed = document.replace(guests, recipient())
    body["Recipient"]["AttestationDocument"] = base64.b64encode(changed).decode()
    return replace(asked, body=json.dumps(body).encode())


def _attached(world: World, stage: Stage) -> tuple[dict[str, Any], ...]:
    """The policies that the stack attached to the stage's role."""
    role = world.outputs["stages"][stage.name]["identity"].rpartition("/")[2]
    return tuple(
        json.loads(one["outputs"]["policy"])
        for one in world.resources
        if one.get("type") == "aws:iam/rolePolicy:RolePolicy" and one.get("outputs", {}).get("role") == role
    )


def _said(one: Judged) -> str:
    because = (
        [reason.what or f"{reason.claim} {reason.found}" for reason in one.decision.because]
        if one.decision
        else []
    )
    return f"KMS: {one.code}" + (f" ({'; '.join(because[:2])})" if because else "")
