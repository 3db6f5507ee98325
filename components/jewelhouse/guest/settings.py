"""What the guest is told: where things are (by the host, who is trusted with nothing) and whom it trusts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import GPU_ARCHITECTURES, GPU_MODES, MOST_GPUS, Platform

T = TypeVar("T")
LIMIT = 1024 * 1024


class InvalidSettings(JewelhouseError):
    """Settings that the guest cannot follow; it stops before it asks for any key."""


@dataclass(frozen=True, kw_only=True)
class Opens:
    """One artifact to open. `key`: the attested key as its service knows it (ARN, Key Vault key URI,
    cryptoKeyVersion). `store`: fsspec URL of the ciphertext. `credentials`: Google's external account."""

    key: str
    store: str
    credentials: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Seals:
    """One artifact to make; `store`: fsspec URL that its ciphertext goes to."""

    store: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a stage finds its keys and stores. It comes from outside the TEE: a wrong value can only make the
    guest fail, since what it opens and whom it seals for is decided by what is measured. `rewraps`: of those
    that it opens, the ones whose data keys it wraps to more keys."""

    lifecycle: str
    stage: str
    platform: Platform
    opens: Mapping[str, Opens]
    seals: Mapping[str, Seals]
    rewraps: tuple[str, ...] = ()
    region: str | None = None
    client_id: str | None = None
    authority: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrustedArtifact:
    """Keys (PEM) that may sign an artifact's manifest, and the lowest version and wrapping that open."""

    signers: tuple[str, ...]
    minimum_version: int = 1
    minimum_wrapping: int = 1


@dataclass(frozen=True, kw_only=True)
class TrustedRewrap:
    """Keys (PEM) that may sign the mandate for an artifact's rewrapping. `unseal`: whether the workload gets
    the artifact as well; a stage that rewraps alone needs no memory for it."""

    signers: tuple[str, ...]
    unseal: bool = True


@dataclass(frozen=True, kw_only=True)
class TrustedGpus:
    """GPUs that are attested before any key is asked for: so many, no fewer and no more. `mode`: how they are
    passed through, in NVIDIA's words. `driver`, `vbios`: versions that may run; empty: any that NVIDIA has
    released reference values for."""

    count: int
    architecture: str
    mode: str
    driver: tuple[str, ...] = ()
    vbios: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What the measured image trusts. `seals`: keys (PEM) that may sign the mandate for an artifact that the
    stage makes. `run`: command of the workload. `gpu`: what it demands of the machine's GPUs."""

    opens: Mapping[str, TrustedArtifact]
    seals: Mapping[str, tuple[str, ...]]
    run: tuple[str, ...]
    rewraps: Mapping[str, TrustedRewrap] = field(default_factory=dict)
    gpu: TrustedGpus | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where the services are when they are not where the cloud has them: a rehearsal's loopback stand-ins.

    URLs (`attestation`: Google Cloud Attestation), but for `launcher` (socket of Confidential Space), `nsm`
    (socket of a Nitro security module), `tpm` (a program in place of `nitro-tpm-attest`; on Azure and Google
    Cloud the socket of a TPM), `snp` and `tsm` (sockets in place of the device of a SEV-SNP guest and of the
    kernel's reports), `event_log` (file with the log of the boot), `gpu` (socket in place of the NVIDIA
    driver's library), `gpu_roots` (PEM file in place of NVIDIA's device root) and `certificates` (PEM file of
    the authorities that loopback services' certificates are from). `stores`: options of fsspec by scheme, or
    by the URL of one store.
    """

    kms: str | None = None
    sts: str | None = None
    imds: str | None = None
    maa: str | None = None
    vault: str | None = None
    snp: str | None = None
    event_log: str | None = None
    attestation: str | None = None
    tsm: str | None = None
    launcher: str | None = None
    nsm: str | None = None
    tpm: str | None = None
    nras: str | None = None
    gpu: str | None = None
    gpu_roots: str | None = None
    certificates: str | None = None
    stores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


THE_CLOUD = Endpoints()


def stage(data: bytes) -> Stage:
    """The stage's settings from JSON. Raises InvalidSettings with the place of what is wrong."""
    body = _object(_json(data, "stage"), "stage")
    _only(body, {one.name for one in fields(Stage)}, "stage")
    platform = _text(body, "platform", "stage")
    if platform not in set(Platform):
        raise InvalidSettings(f"{platform!r} is no platform", where="stage.platform")
    return Stage(
        lifecycle=_text(body, "lifecycle", "stage"),
        stage=_text(body, "stage", "stage"),
        platform=Platform(platform),
        opens=_each(body, "opens", _opens),
        seals=_each(body, "seals", _seals),
        rewraps=_texts(body, "rewraps", "stage") if "rewraps" in body else (),
        region=_optional(body, "region"),
        client_id=_optional(body, "client_id"),
        authority=_optional(body, "authority"),
    )


def _opens(body: Mapping[str, Any], where: str) -> Opens:
    _only(body, {"key", "store", "credentials"}, where)
    credentials = body.get("credentials")
    return Opens(
        key=_text(body, "key", where),
        store=_text(body, "store", where),
        credentials=None if credentials is None else _object(credentials, f"{where}.credentials"),
    )


def _seals(body: Mapping[str, Any], where: str) -> Seals:
    _only(body, {"store"}, where)
    return Seals(store=_text(body, "store", where))


def trust(data: bytes) -> Trust:
    """The trust settings from JSON. Raises InvalidSettings with the place of what is wrong."""
    body = _object(_json(data, "trust"), "trust")
    _only(body, {"opens", "seals", "rewraps", "run", "gpu"}, "trust")
    run = _texts(body, "run", "trust")
    if not run:
        raise InvalidSettings("names no command", where="trust.run")
    return Trust(
        opens=_each(body, "opens", _trusted, "trust"),
        seals=_each(body, "seals", _mandated, "trust"),
        rewraps=_each(body, "rewraps", _rewrapped, "trust"),
        run=run,
        # A `null` is no demand left out: it is refused.
        gpu=_gpus(_object(body["gpu"], "trust.gpu"), "trust.gpu") if "gpu" in body else None,
    )


def _trusted(body: Mapping[str, Any], where: str) -> TrustedArtifact:
    _only(body, {"signers", "minimum-version", "minimum-wrapping"}, where)
    floors = [body.get(name, 1) for name in ("minimum-version", "minimum-wrapping")]
    if any(type(floor) is not int or floor < 1 for floor in floors):
        raise InvalidSettings("has a floor that is no whole number from 1", where=where)
    version, wrapping = floors
    return TrustedArtifact(
        signers=_texts(body, "signers", where), minimum_version=version, minimum_wrapping=wrapping
    )


def _mandated(body: Mapping[str, Any], where: str) -> tuple[str, ...]:
    _only(body, {"signers"}, where)
    return _texts(body, "signers", where)


def _rewrapped(body: Mapping[str, Any], where: str) -> TrustedRewrap:
    _only(body, {"signers", "unseal"}, where)
    unseal = body.get("unseal", True)
    if type(unseal) is not bool:
        raise InvalidSettings("is neither true nor false", where=f"{where}.unseal")
    return TrustedRewrap(signers=_texts(body, "signers", where), unseal=unseal)


def _gpus(body: Mapping[str, Any], where: str) -> TrustedGpus:
    _only(body, {"count", "architecture", "mode", "driver", "vbios"}, where)
    count = body.get("count")
    if type(count) is not int or not 1 <= count <= MOST_GPUS:
        raise InvalidSettings(f"is no whole number from 1 to {MOST_GPUS}", where=f"{where}.count")
    for name, known in (("architecture", GPU_ARCHITECTURES), ("mode", GPU_MODES)):
        if body.get(name) not in known:
            raise InvalidSettings(f"is none of {', '.join(known)}", where=f"{where}.{name}")
    return TrustedGpus(
        count=count,
        architecture=body["architecture"],
        mode=body["mode"],
        driver=_texts(body, "driver", where) if "driver" in body else (),
        vbios=_texts(body, "vbios", where) if "vbios" in body else (),
    )


def endpoints(data: bytes) -> Endpoints:
    """Overrides from JSON, by the names of Endpoints' fields. Raises InvalidSettings."""
    body = _object(_json(data, "endpoints"), "endpoints")
    _only(body, {one.name for one in fields(Endpoints)}, "endpoints")
    stores = _object(body.get("stores", {}), "endpoints.stores")
    return Endpoints(
        **{name: _text(body, name, "endpoints") for name in body if name != "stores"},
        stores={name: _object(one, f"endpoints.stores.{name}") for name, one in stores.items()},
    )


def read(path: Path, what: str) -> bytes:
    """The bytes of a settings file. Raises InvalidSettings when it cannot be read or is too long."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise InvalidSettings(f"cannot be read: {error.strerror}", where=f"{what} {path}") from error
    if len(data) > LIMIT:
        raise InvalidSettings(f"has more than {LIMIT} bytes", where=f"{what} {path}")
    return data


def _json(data: bytes, where: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a member is there twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        if len(data) > LIMIT:
            raise ValueError(f"more than {LIMIT} bytes")
        return json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidSettings(f"is not JSON: {error}", where=where) from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidSettings("is no object", where=where)
    return value


def _only(body: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(body.keys() - known):
        raise InvalidSettings(
            f"has {', '.join(ascii(name) for name in unknown)}, not known here", where=where
        )


def _text(body: Mapping[str, Any], name: str, where: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value or len(value) > 4096 or not value.isprintable():
        raise InvalidSettings("is missing or no text", where=f"{where}.{name}")
    return value


def _optional(body: Mapping[str, Any], name: str) -> str | None:
    return None if body.get(name) is None else _text(body, name, "stage")


def _texts(body: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = body.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise InvalidSettings("is missing or no list of texts", where=f"{where}.{name}")
    return tuple(value)


def _each(
    body: Mapping[str, Any], name: str, convert: Callable[[dict[str, Any], str], T], where: str = "stage"
) -> dict[str, T]:
    found = _object(body.get(name, {}), f"{where}.{name}")
    return {
        artifact: convert(_object(one, f"{where}.{name}.{artifact}"), f"{where}.{name}.{artifact}")
        for artifact, one in found.items()
    }
