"""Google Cloud in a rehearsal: the token service, Cloud KMS, and what hands out attestation tokens.

Providers, bindings, deny policies and the external accounts that a guest gets are those that the stack
deployed, taken from its resources.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import yaml

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Cloud, GcpAccount, Platform, Stage
from jewelhouse.rehearsal import gce_vm, http, relay
from jewelhouse.rehearsal.cloud_kms import CloudKms, Held
from jewelhouse.rehearsal.cloud_kms import Judged as Decrypted
from jewelhouse.rehearsal.gce_metadata import Instance
from jewelhouse.rehearsal.http import Asked
from jewelhouse.rehearsal.launcher import Launcher, eat_nonce
from jewelhouse.rehearsal.minting_claims import debug_claims, space_claims, vm_claims
from jewelhouse.rehearsal.minting_tokens import GoogleAuthority
from jewelhouse.rehearsal.relay import Habits
from jewelhouse.rehearsal.services import Services, Wrong
from jewelhouse.rehearsal.sts import Sts
from jewelhouse.rehearsal.world import World
from jewelhouse.release import gcp, gcp_facts
from jewelhouse.release.attachments import DENY
from jewelhouse.release.google_keys import PROVIDER

WRONG = (
    Wrong.DEBUG,
    Wrong.IMAGE,
    Wrong.IDENTITY,
    Wrong.ACCOUNT,
    Wrong.ROOT,
    Wrong.REPLAYED,
    Wrong.STALE,
    Wrong.FORGED,
    # A relay that the guest took for Google would read the plaintext of a reply, which is bound to no key of
    # the guest: here TLS alone keeps it out, and what it cannot do even so is to change what passes.
    Wrong.RELAY_ASKS,
    Wrong.RELAY_ANSWERS,
    Wrong.RELAY_TLS,
)
TEMPLATE = "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate"
# A service that attests, and one that nobody believes.
BELIEVED, FOREIGN = "rehearsal google", "foreign google"
EXPIRED = timedelta(hours=2)


@contextmanager
def services(world: World, stage: Stage, wrong: Wrong) -> Iterator[Services]:
    """Stand-ins for one run of a stage in Confidential Space or in a confidential VM."""
    signer = GoogleAuthority.new(name=BELIEVED)
    tls = http.Authority()
    keys = {world.key(stage, artifact).uri: world.key(stage, artifact) for artifact in stage.opens}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jewelhouse-gcp-")))
        sts = stack.enter_context(Sts(providers(world), attestation=signer, authority=tls))
        kms = stack.enter_context(
            CloudKms(
                [Held(name=uri, private=key.private, document=key.document) for uri, key in keys.items()],
                who=sts.who,
                authority=tls,
                denials=[one.get("outputs", {}) for one in world.resources if one.get("type") == DENY],
                meddle=_forged if wrong is Wrong.FORGED else lambda body: body,
            )
        )
        urls = {"sts": sts.url, "kms": kms.url}
        for name, habits in HABITS.items() if wrong in relay.WRONG else ():
            urls[name] = stack.enter_context(relay.before(urls[name], wrong, habits, tls)).url
        certificates = folder / "authority.pem"
        certificates.write_bytes(tls.pem)
        if stage.platform is Platform.GCP_CVM:
            attesting = gce_vm.attesting(
                stage.tee,
                instance(world, stage, wrong),
                gce_vm.Around(
                    folder=folder,
                    signer=signer,
                    tls=tls,
                    wrong=wrong,
                    replay=_recorded(world, stage, signer) if wrong is Wrong.REPLAYED else None,
                ),
                stack,
            )
            endpoints, refused = attesting.endpoints, attesting.refused
        else:
            endpoints = _launcher(world, stage, wrong, folder, signer, stack)
            refused = list
        yield Services(
            endpoints={
                **urls,
                "certificates": str(certificates),
                **endpoints,
            },
            settings=lambda given: _told(world, stage, given),
            refused=lambda: [
                *refused(),
                *(
                    f"Security Token Service: {one.code}{_because(one.why)}"
                    for one in sts.log
                    if one.code != "exchanged"
                ),
                *(_said(one) for one in kms.log if one.code != "released"),
            ],
        )


def _launcher(
    world: World, stage: Stage, wrong: Wrong, folder: Path, signer: GoogleAuthority, stack: ExitStack
) -> dict[str, str]:
    one = instance(world, stage, wrong)

    def claims(audience: str, nonces: list[str]) -> dict[str, Any]:
        issued = datetime.now(UTC).replace(microsecond=0) - (EXPIRED if wrong is Wrong.STALE else timedelta())
        made = debug_claims if wrong is Wrong.DEBUG else space_claims
        return made(
            issued=issued,
            audience=audience,
            digest=_digest(world, stage, wrong),
            hwmodel=gcp.HARDWARE[stage.tee],
            project=one.project,
            number=one.number,
            account=one.account,
            nonce=eat_nonce(nonces),
            gpu=stage.gpu is not None,
        )

    attesting = GoogleAuthority.new(name=FOREIGN) if wrong is Wrong.ROOT else signer
    replay = _recorded(world, stage, signer) if wrong is Wrong.REPLAYED else None
    launcher = stack.enter_context(Launcher(attesting, folder / "teeserver.sock", claims, replay=replay))
    return {"launcher": str(launcher.path)}


def _digest(world: World, stage: Stage, wrong: Wrong) -> str:
    found = world.lifecycle.image(stage).measurements[0].values["image_digest"]
    return f"sha256:{hashlib.sha256(found.encode()).hexdigest()}" if wrong is Wrong.IMAGE else found


def instance(world: World, stage: Stage, wrong: Wrong) -> Instance:
    """The VM that a stage runs on."""
    account = world.lifecycle.operator_account(stage)
    assert isinstance(account, GcpAccount)
    own = str(world.outputs["stages"][stage.name]["identity"])
    number = account.number or "724467010559"
    if wrong is Wrong.ACCOUNT:
        project = f"{account.project[:20]}-other"
        return Instance(project=project, number=f"{number[:-1]}0", account=own)
    return Instance(
        project=account.project,
        number=number,
        account=f"other-{own}" if wrong is Wrong.IDENTITY else own,
    )


def _recorded(world: World, stage: Stage, signer: GoogleAuthority) -> bytes:
    """A token of another run: right in everything but its nonces."""
    one = instance(world, stage, Wrong.NOTHING)
    space = stage.platform is Platform.GCP_CONFIDENTIAL_SPACE
    claims = (space_claims if space else vm_claims)(
        issued=datetime.now(UTC).replace(microsecond=0),
        digest=_digest(world, stage, Wrong.NOTHING) if space else "",
        hwmodel=gcp.HARDWARE[stage.tee],
        project=one.project,
        number=one.number,
        account=one.account,
        nonce=["0" * 64, "1" * 64],
        gpu=space and stage.gpu is not None,
    )
    return signer.token(claims, flavour="oidc")


def providers(world: World) -> dict[str, Mapping[str, Any]]:
    """Providers by their full names: those in the resources, with the documents that they make up."""
    made = [
        (
            str(one["outputs"].get("workloadIdentityPoolId")),
            str(one["outputs"].get("workloadIdentityPoolProviderId")),
        )
        for one in world.resources
        if one.get("type") == PROVIDER and one.get("outputs")
    ]
    found: dict[str, Mapping[str, Any]] = {}
    for key, held in world.keys.items():
        if key.cloud is not Cloud.GCP:
            continue
        pools = {
            member.pool
            for binding in gcp_facts.provider(held.document).bindings
            for member in binding.members
            if member.pool
        }
        for pool in pools:
            for named, provider in made:
                if pool.rpartition("/")[2] == named:
                    found[f"//iam.googleapis.com/{pool}/providers/{provider}"] = held.document
    return found


def _told(world: World, stage: Stage, given: dict[str, Any]) -> dict[str, Any]:
    """A stage's settings with the external accounts that the stack told its host."""
    deployed = settings(world, stage)["opens"]
    opens = {
        artifact: {**one, "credentials": deployed[artifact]["credentials"]}
        for artifact, one in given["opens"].items()
    }
    return {**given, "opens": opens}


def settings(world: World, stage: Stage) -> dict[str, Any]:
    """What the stack wrote into the metadata of a stage's hosts. Raises JewelhouseError."""
    for one in world.resources:
        if one.get("type") != TEMPLATE:
            continue
        metadata = one.get("outputs", {}).get("metadata") or one.get("inputs", {}).get("metadata") or {}
        text = metadata.get("jewelhouse-stage") or _of_file(metadata.get("user-data"))
        found = json.loads(text) if isinstance(text, str) else None
        if isinstance(found, dict) and found.get("stage") == stage.name:
            return found
    raise JewelhouseError(
        f"has no instance template for stage {stage.name}",
        where="the stack",
        remedy="bring it up as it is in its file",
    )


def _of_file(text: Any) -> str | None:
    """The settings that cloud-init writes into their file."""
    if not isinstance(text, str):
        return None
    files = yaml.safe_load(text).get("write_files", ())
    named = [one for one in files if one.get("path") == "/etc/jewelhouse/stage.json"]
    return base64.b64decode(named[0]["content"]).decode() if named else None


def _forged(body: dict[str, Any]) -> dict[str, Any]:
    """What a service answers that wants another data key to be taken for this one."""
    plaintext = bytearray(base64.b64decode(body["plaintext"]))
    plaintext[0] ^= 1
    return {**body, "plaintext": base64.b64encode(plaintext).decode()}


def _other_token(asked: Asked) -> Asked:
    """The same request with another character in the attestation token."""
    form = dict(parse_qsl(asked.body.decode()))
    text = json.loads(relay.altered(json.dumps({"token": form["subject_token"]}).encode()))["token"]
    return replace(asked, body=urlencode({**form, "subject_token": text}).encode())


# What is changed on the way to the token service and from Cloud KMS; nothing names a recipient.
HABITS = {
    "sts": Habits(recipient=lambda asked: asked, asks=_other_token, answers=lambda _, reply: reply),
    "kms": Habits(recipient=lambda asked: asked),
}


def _said(one: Decrypted) -> str:
    return f"Cloud KMS: {one.code}{_because(one.why)}"


def _because(why: str) -> str:
    return f" ({why})" if why else ""
