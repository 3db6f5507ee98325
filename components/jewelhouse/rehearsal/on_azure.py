"""Azure in a rehearsal: attestation, Key Vault, the host's metadata service, and each platform's hardware."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from jewelhouse.evidence import tokens
from jewelhouse.guest import azure_container
from jewelhouse.model import Platform, Stage, Tee
from jewelhouse.rehearsal import http, minting_snp, relay
from jewelhouse.rehearsal.azure_imds import Identity, Metadata
from jewelhouse.rehearsal.http import Answer, Asked
from jewelhouse.rehearsal.maa import Maa
from jewelhouse.rehearsal.minting_claims import b64url, container_claims, guest_claims
from jewelhouse.rehearsal.minting_td import REPORT_DATA, Host, td_report
from jewelhouse.rehearsal.minting_tokens import MaaAuthority
from jewelhouse.rehearsal.relay import Habits
from jewelhouse.rehearsal.services import Services, Wrong
from jewelhouse.rehearsal.snp_guest import DEBUG_POLICY, POLICY, SnpGuest
from jewelhouse.rehearsal.vault import Judged, Vault, wrapped
from jewelhouse.rehearsal.vtpm import Vtpm
from jewelhouse.rehearsal.world import World
from jewelhouse.release import azure, azure_facts
from jewelhouse.release.attachments import within

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
ASSIGNMENT = "azure-native:authorization:RoleAssignment"
# Built-in roles with Microsoft.KeyVault/vaults/keys/release/action: Crypto Service Release User, Crypto
# Officer, Administrator (learn.microsoft.com/azure/role-based-access-control/built-in-roles, 2026-11).
RELEASING = {
    "08bbd89e-9f13-488c-ac41-acfcb10c90ab",
    "14b46e9e-c2b7-41b4-b07b-48a6ebf60603",
    "00482a5a-887f-4fb3-b363-3b7fe8e74483",
}
# A processor and a host of nobody's, and those that a rehearsal believes.
BELIEVED, FOREIGN = "rehearsal", "foreign"
EXPIRED = timedelta(hours=9)


@contextmanager
def services(world: World, stage: Stage, wrong: Wrong) -> Iterator[Services]:
    """Stand-ins for one run of a stage in a container group or confidential VM."""
    issuer = _authority(world, stage)
    signer = MaaAuthority.new(issuer, name="rehearsal maa", root="rehearsal maa")
    tls = http.Authority()
    own = world.outputs["stages"][stage.name]["identity"] or stage.name
    identity = Identity(
        client=secrets.token_hex(16),
        principal=f"{own}-other" if wrong in (Wrong.IDENTITY, Wrong.ACCOUNT) else own,
    )
    keys = {world.key(stage, artifact).uri: world.key(stage, artifact) for artifact in stage.opens}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jewelhouse-azure-")))
        hardware = _container if stage.platform is Platform.AZURE_CONTAINER else _vm
        endpoints, environment, thim, quote = hardware(world, stage, wrong, folder, stack)
        metadata = stack.enter_context(Metadata(identity, thim=thim, quote=quote))
        maa = stack.enter_context(
            Maa(
                signer,
                amd=minting_snp.Machine(name=BELIEVED).roots,
                quotes=lambda data: Host(name=BELIEVED).verified(data, datetime.now(UTC)),
                authority=tls,
                clock=_earlier if wrong is Wrong.STALE else _now,
                replay=_recorded(stage, signer) if wrong is Wrong.REPLAYED else None,
            )
        )
        vault = stack.enter_context(
            Vault(
                {uri: key.private for uri, key in keys.items()},
                {uri: key.document for uri, key in keys.items()},
                releasers=_releasers(world, stage),
                identities=[identity],
                issuers=signer.endorsements,
                roots=signer.roots,
                authority=tls,
                meddle=MEDDLING.get(wrong),
            )
        )
        urls = {"maa": maa.url, "vault": vault.url}
        overheard: list[list[bytes]] = []
        for name, habits in HABITS.items() if wrong in relay.WRONG else ():
            between = stack.enter_context(relay.before(urls[name], wrong, habits, tls))
            urls[name] = between.url
            overheard.append(between.heard)
        certificates = folder / "authority.pem"
        certificates.write_bytes(tls.pem)
        yield Services(
            endpoints={
                **urls,
                "imds": metadata.url,
                "certificates": str(certificates),
                **endpoints,
            },
            environment=environment,
            settings=lambda given: {**given, "client_id": identity.client, "authority": issuer},
            refused=lambda: [
                *(f"Azure Attestation: {one.refused}" for one in maa.log if one.refused),
                *(_said(one) for one in vault.log if one.code != "released"),
            ],
            overheard=lambda: [body for heard in overheard for body in heard],
        )


def _now() -> datetime:
    return datetime.now(UTC)


def _earlier() -> datetime:
    return datetime.now(UTC) - EXPIRED


def _authority(world: World, stage: Stage) -> str:
    """The attestation endpoint that the deployed document of the stage's first key names."""
    document = world.key(stage, stage.opens[0]).document
    return sorted(str(opening.claims[azure_facts.AUTHORITY]) for opening in azure.parse(document).openings)[0]


Hardware = tuple[dict[str, str], dict[str, str], bytes | None, Callable[[bytes], bytes] | None]


def _container(world: World, stage: Stage, wrong: Wrong, folder: Path, stack: ExitStack) -> Hardware:
    """Endpoints, environment, certificates of the processor, and no quotes."""
    measured = world.lifecycle.image(stage).measurements[0].values["hostdata"]
    hostdata = bytes.fromhex(measured)
    if wrong is Wrong.IMAGE:
        hostdata = hashlib.sha256(hostdata).digest()
    machine = minting_snp.Machine(name=FOREIGN if wrong is Wrong.ROOT else BELIEVED)
    group = stack.enter_context(SnpGuest(machine, folder, host_data=hostdata, debug=wrong is Wrong.DEBUG))
    return (
        {"snp": str(group.path)},
        {azure_container.CONTEXT: str(group.context)},
        group.thim,
        None,
    )


def _vm(world: World, stage: Stage, wrong: Wrong, folder: Path, stack: ExitStack) -> Hardware:
    """Endpoints, environment, certificates of the processor (SEV-SNP) or quotes by the host (TDX)."""
    name = FOREIGN if wrong is Wrong.ROOT else BELIEVED
    debug = wrong is Wrong.DEBUG
    if stage.tee is Tee.TDX:
        host = Host(name=name, fields={"td_attributes": b"\1" if debug else b""})
        machine = stack.enter_context(Vtpm(folder, td_report, kind=4))
        return _tpm(machine), {}, None, lambda found: host.quote(found[REPORT_DATA])
    chip = minting_snp.Machine(name=name)
    policy = DEBUG_POLICY if debug else POLICY

    def report(data: bytes) -> bytes:
        return minting_snp.report(chip, report_data=data, host_data=b"", policy=policy)

    machine = stack.enter_context(Vtpm(folder, report))
    return _tpm(machine), {}, minting_snp.thim(*chip.chain), None


def _tpm(machine: Vtpm) -> dict[str, str]:
    return {"tpm": str(machine.path), "event_log": str(machine.event_log)}


def _recorded(stage: Stage, signer: MaaAuthority) -> bytes:
    """A token of another run: right in everything but its key."""
    now = datetime.now(UTC).replace(microsecond=0)
    made = container_claims if stage.platform is Platform.AZURE_CONTAINER else guest_claims
    return signer.token(made(issued=now, issuer=signer.issuer))


def _releasers(world: World, stage: Stage) -> dict[str, set[str]]:
    """Who may have each key released, by the role assignments that the stack made on it or above it."""
    ids = {key["uri"]: key.get("id") for one in world.outputs["artifacts"].values() for key in one["keys"]}
    found: dict[str, set[str]] = {}
    for artifact in stage.opens:
        uri = world.key(stage, artifact).uri
        found[uri] = {
            str(outputs["principalId"])
            for outputs in (
                one.get("outputs", {}) for one in world.resources if one.get("type") == ASSIGNMENT
            )
            if str(outputs.get("roleDefinitionId", "")).rpartition("/")[2] in RELEASING
            and within(str(ids.get(uri) or ""), str(outputs.get("scope", "")))
        }
    return found


def _forged(payload: dict[str, Any]) -> dict[str, Any]:
    """What a service would answer that wants another key to be taken for this one."""
    payload["response"]["key"]["key"]["kid"] += "0"
    return payload


def _replayed(payload: dict[str, Any]) -> dict[str, Any]:
    """What Key Vault answered to another run: signed by it, and wrapped to a key that went with that run."""
    key = payload["response"]["key"]["key"]
    blob = json.loads(tokens.decode(key["key_hsm"].encode(), "key_hsm"))
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = other.public_key().public_numbers()
    blob["ciphertext"] = b64url(wrapped(other, (public.n, public.e), hashes.SHA1()))
    key["key_hsm"] = b64url(json.dumps(blob).encode())
    return payload


MEDDLING = {Wrong.FORGED: _forged, Wrong.RELAY_REPLAYS: _replayed}


def _to_another(asked: Asked) -> Asked:
    """The same request for a token, with a key of the relay's own for what is released."""
    body = json.loads(asked.body)
    if "runtimeData" in body:
        runtime = json.loads(base64.urlsafe_b64decode(body["runtimeData"]["data"]))
        runtime["keys"][0]["n"] = b64url(secrets.token_bytes(256))
        body["runtimeData"]["data"] = base64.urlsafe_b64encode(json.dumps(runtime).encode()).decode()
    else:
        info = json.loads(tokens.decode(body["AttestationInfo"].encode(), "AttestationInfo"))
        public = base64.b64decode(info["TpmInfo"]["EncKeyPub"])
        # The modulus ends the public area of an RSA key (TPMT_PUBLIC).
        info["TpmInfo"]["EncKeyPub"] = base64.b64encode(public[:-256] + secrets.token_bytes(256)).decode()
        body["AttestationInfo"] = b64url(json.dumps(info).encode())
    return replace(asked, body=json.dumps(body).encode())


def _signed_otherwise(_: Asked, reply: Answer) -> Answer:
    body = json.loads(reply.body)
    head, payload, signature = body["value"].split(".")
    changed = json.loads(relay.altered(json.dumps({"signature": signature}).encode()))["signature"]
    return replace(reply, body=json.dumps({**body, "value": f"{head}.{payload}.{changed}"}).encode())


def _attests(asked: Asked) -> bool:
    return asked.method == "POST" and bool(asked.body)


def _releases(asked: Asked) -> bool:
    return _attests(asked) and asked.path.endswith("/release")


# What is changed on the way to and from each service; the token carries the key that a release is for.
HABITS = {
    "maa": Habits(
        recipient=_to_another,
        asks=lambda asked: asked,
        answers=lambda _, reply: reply,
        relevant=_attests,
    ),
    "vault": Habits(recipient=lambda asked: asked, answers=_signed_otherwise, relevant=_releases),
}


def _said(one: Judged) -> str:
    because = (
        [
            reason.what or f"{reason.claim} {reason.found}"
            for reason in one.decision.because
            if not reason.holds
        ]
        if one.decision
        else []
    )
    return f"Key Vault: {one.code}" + (f" ({'; '.join(because[:2])})" if because else "")
