"""What a rehearsal plays with: the stack's keys with our own private halves, its documents, local stores.

The documents are those that the stack deployed, taken from its resources: what somebody changed by hand is
rehearsed as it stands.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from jewelhouse import lifecycle as graph
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Artifact, AttestedKey, Lifecycle, Stage
from jewelhouse.rehearsal import data
from jewelhouse.release import states
from jewelhouse.weights import mandate, manifest, seal, series, signing, sources, stores, unseal, wrap
from jewelhouse.weights.manifest import Manifest, Trust

BITS = 4096
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
LIFE = timedelta(days=2)


@dataclass(frozen=True, kw_only=True)
class Key:
    """An attested key: where its service has it, the document that guards it, and a private half of our own,
    as the real one never leaves its service."""

    name: str
    uri: str
    document: Mapping[str, Any]
    private: rsa.RSAPrivateKey = field(repr=False)

    @property
    def recipient(self) -> wrap.Recipient:
        return wrap.recipient(
            _pem(self.private.public_key()),
            self.uri,
            policy=wrap.policy_digest(self.document),
            where=self.name,
        )


@dataclass(frozen=True, kw_only=True)
class World:
    """`keys` by attested key. `owners` sign what artifacts' owners sign; `signers`: by artifact, the key
    (PEM) that its manifests are signed by, known once it is supplied or its mandate is made. `nobodys`: keys
    of owners that outputs go to which no stage opens. `marks`: what open content is known by wherever it
    lies."""

    lifecycle: Lifecycle
    folder: Path
    keys: Mapping[AttestedKey, Key]
    outputs: Mapping[str, Any]
    resources: Sequence[Mapping[str, Any]]
    owners: Mapping[str, ed25519.Ed25519PrivateKey]
    signers: dict[str, str] = field(default_factory=dict)
    nobodys: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict, repr=False)
    marks: set[bytes] = field(default_factory=set, repr=False)

    def key(self, stage: Stage, artifact: str) -> Key:
        return self.keys[graph.key_for(stage, artifact)]

    def store(self, stage: Stage, artifact: str) -> Path:
        """The store that a stage opens or seals an artifact in: one a cloud and region."""
        return self.folder / "stores" / f"{artifact}-{stage.cloud}-{stage.region}"

    def recipients(self, artifact: str) -> list[wrap.Recipient]:
        return [self.keys[key].recipient for key in graph.keys_of(self.lifecycle, artifact)]


def build(lifecycle: Lifecycle, export: Mapping[str, Any], outputs: Mapping[str, Any], folder: Path) -> World:
    """The world of a stack, from its export and outputs. Raises JewelhouseError when a key of the lifecycle
    is not in it."""
    snapshot = states.snapshot("the stack", export)
    uris = {key["name"]: key["uri"] for artifact in outputs["artifacts"].values() for key in artifact["keys"]}
    wanted = sorted(graph.opens_by_key(lifecycle))
    missing = [key.name for key in wanted if key.name not in snapshot.keys or not uris.get(key.name)]
    if missing:
        raise JewelhouseError(
            f"has no key {', '.join(missing)}", where="the stack", remedy="bring it up as it is in its file"
        )
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        made = list(pool.map(lambda _: rsa.generate_private_key(65537, BITS), wanted))
    return World(
        lifecycle=lifecycle,
        folder=folder,
        outputs=outputs,
        resources=export["deployment"].get("resources", []),
        keys={
            key: Key(
                name=key.name,
                uri=uris[key.name],
                document=snapshot.keys[key.name].document,
                private=private,
            )
            for key, private in zip(wanted, made, strict=True)
        },
        owners={name: ed25519.Ed25519PrivateKey.generate() for name in lifecycle.artifacts},
    )


def supply(world: World, brought: Mapping[str, Path] | None = None) -> list[str]:
    """Seals what no stage makes, with public keys alone, as suppliers do; returns the artifacts.

    `brought`: directories to seal in place of data of our own, by artifact. Raises JewelhouseError for
    artifacts that nobody supplies and for what is no directory.
    """
    made = graph.sealers_of(world.lifecycle)
    supplied = [
        artifact
        for name, artifact in sorted(world.lifecycle.artifacts.items())
        if name not in made and graph.keys_of(world.lifecycle, name)
    ]
    brought = brought or {}
    names = [artifact.name for artifact in supplied]
    for name, folder in brought.items():
        if name not in names:
            raise JewelhouseError(
                f"{name} is not supplied to this lifecycle",
                where="--supply",
                remedy=f"one of {', '.join(names)}",
            )
        if not folder.is_dir():
            raise JewelhouseError("is no directory", where=str(folder))
    for number, artifact in enumerate(supplied):
        plain = world.folder / "suppliers" / artifact.name
        if artifact.name in brought:
            shutil.copytree(brought[artifact.name], plain, symlinks=True)
        else:
            data.supply(artifact.kind, plain, seed=number)
        sealed = world.folder / "stores" / artifact.name
        _seal(world, artifact, plain, sealed)
        world.marks.update(data.marks(plain))
        # Plaintext of a supplier is at the supplier's; what follows is looked at for traces of it.
        shutil.rmtree(plain)
        for stage in _openers(world, artifact.name):
            carry(sealed, world.store(stage, artifact.name))
    return names


def _seal(world: World, artifact: Artifact, plain: Path, sealed: Path) -> None:
    now = datetime.now(UTC)
    key = world.owners[artifact.name]
    seal.seal(
        sources.source(plain),
        stores.store(sealed),
        seal.Order(
            artifact=artifact.name,
            kind=artifact.kind,
            version=1,
            recipients=world.recipients(artifact.name),
            signers=[key],
            producer=artifact.owner,
            expires=now + LIFE,
        ),
        now=now,
    )
    world.signers[artifact.name] = _pem(key.public_key())


def _openers(world: World, artifact: str) -> list[Stage]:
    return [stage for stage in graph.order(world.lifecycle) if artifact in stage.opens]


def carry(source: Path, destination: Path) -> None:
    """Ciphertext from one cloud's store to another's, as anybody may carry it."""
    if source != destination:
        shutil.copytree(source, destination, dirs_exist_ok=True)


def mandates(world: World, stage: Stage) -> None:
    """What the owners of a stage's outputs sign before it runs."""
    now = datetime.now(UTC)
    for name in stage.seals:
        artifact = world.lifecycle.artifacts[name]
        recipients = world.recipients(name) or [_nobody(world, name)]
        signed, signer = mandate.make(
            artifact=name,
            kind=artifact.kind,
            recipients=recipients,
            stage_key=world.key(stage, stage.opens[0]).recipient,
            owners=[world.owners[name]],
            now=now,
            expires=now + LIFE,
        )
        mandate.publish(stores.store(world.store(stage, name)), signed)
        world.signers[name] = signer


def _nobody(world: World, name: str) -> wrap.Recipient:
    """An output that no stage opens is sealed to its owner's own key, which is in no cloud."""
    private = world.nobodys.setdefault(name, rsa.generate_private_key(65537, BITS))
    return wrap.recipient(_pem(private.public_key()), f"owner-of-{name}", where=name)


def hand_on(world: World, stage: Stage) -> None:
    """Carries what a stage sealed to the stores of those that open it."""
    for name in stage.seals:
        for other in _openers(world, name):
            carry(world.store(stage, name), world.store(other, name))


def unsealed(world: World, stage: Stage, artifact: str, folder: Path) -> bool:
    """Unseals what a stage made, as its owner could who held the keys; whether there is anything."""
    try:
        unseal.unseal(
            stores.store(world.store(stage, artifact)),
            folder,
            Trust(signers=(world.signers[artifact],)),
            artifact=artifact,
            opener=lambda found: _dek(world, found),
            now=datetime.now(UTC),
        )
    except stores.Missing:
        return False
    return True


def verified(world: World, stage: Stage, artifact: str) -> Manifest | None:
    """The manifest that a stage's store holds, with every byte of what it names opened and as it says; None
    where there is none. Raises JewelhouseError for anything in between."""
    try:
        return unseal.verify(
            stores.store(world.store(stage, artifact)),
            Trust(signers=(world.signers[artifact],)),
            artifact=artifact,
            now=datetime.now(UTC),
            opener=lambda found: _dek(world, found),
        )
    except stores.Missing:
        return None


def _dek(world: World, found: Manifest) -> bytes:
    for key in world.keys.values():
        for one in found.keys:
            if one.key == key.uri:
                return key.private.decrypt(one.ciphertext, OAEP)
    return world.nobodys[found.artifact].decrypt(found.keys[0].ciphertext, OAEP)


def secrets(world: World, stage: Stage) -> dict[str, bytes]:
    """What opens the artifacts of a stage, by name: data keys, and the private halves of attested keys."""
    found: dict[str, bytes] = {}
    for artifact in stage.opens:
        key = world.key(stage, artifact)
        number = key.private.private_numbers().d
        found[f"the key {key.name}"] = number.to_bytes((number.bit_length() + 7) // 8)
        store = stores.store(world.store(stage, artifact))
        _, data = series.newest(store, manifest.SERIES, signing.LARGEST_ENVELOPE)
        payload, _ = signing.verified(data, [signing.public_key(world.signers[artifact])], 1, artifact)
        found[f"the data key of {artifact}"] = _dek(world, manifest.decode(payload))
    return found


def trust(world: World, stage: Stage, run: list[str]) -> dict[str, Any]:
    """What the measured image of a stage trusts in this rehearsal."""
    return {
        "opens": {
            name: {"signers": [world.signers[name]], "minimum-version": 1} for name in sorted(stage.opens)
        },
        "seals": {name: {"signers": [_pem(world.owners[name].public_key())]} for name in sorted(stage.seals)},
        "run": run,
    }


def settings(world: World, stage: Stage) -> dict[str, Any]:
    """What the host tells the guest of a stage, but for what its cloud adds."""
    return {
        "lifecycle": world.lifecycle.name,
        "stage": stage.name,
        "platform": stage.platform.value,
        "region": stage.region,
        "opens": {
            name: {"key": world.key(stage, name).uri, "store": str(world.store(stage, name))}
            for name in stage.opens
        },
        "seals": {name: {"store": str(world.store(stage, name))} for name in stage.seals},
    }


def _pem(public: Any) -> str:
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
