"""AWS in a rehearsal: KMS, the metadata service with the role's credentials, the Nitro security module."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jewelhouse.evidence.verdict import Kind
from jewelhouse.model import Platform, Stage
from jewelhouse.rehearsal import tpm
from jewelhouse.rehearsal.ec2 import Metadata
from jewelhouse.rehearsal.kms import Judged, Kms
from jewelhouse.rehearsal.minting_nitro import Authority
from jewelhouse.rehearsal.nsm import Nsm
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
                meddle=_forged if wrong is Wrong.FORGED else None,
            )
        )
        endpoints = {"kms": kms.url, "imds": metadata.url}
        if stage.platform is Platform.AWS_ENCLAVE:
            endpoints["nsm"] = str(directory / "nsm")
        else:
            endpoints["tpm"] = str(tpm.program(directory, directory / "nsm"))
        yield Services(
            endpoints=endpoints,
            refused=lambda: [_said(one) for one in kms.log if one.code != "released"],
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
    from jewelhouse.rehearsal.minting_nitro import recipient, registers

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
