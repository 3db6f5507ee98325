"""From a wrapped data key to the key itself, by the key service of the cloud that the guest runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest.settings import Endpoints, Stage
from jewelhouse.model import Platform


class Closed(JewelhouseError):
    """No key was released, and why: evidence that was not to be had, a denial, a reply that proves nothing.
    Its text never holds a secret."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One release. `key`: the attested key as its service knows it. `wrapped`: what is wrapped to it by
    RSA-OAEP with SHA-256. `bound`: 32 bytes that the evidence carries along where its format has room
    (the digest of the key that signs this run's record)."""

    artifact: str
    key: str
    wrapped: bytes = field(repr=False)
    credentials: Mapping[str, Any] | None = None
    bound: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What was released. `evidence` is what the key service decided by; `kind` names its format."""

    dek: bytes = field(repr=False)
    kind: str
    evidence: bytes = field(repr=False)


Opener = Callable[[Asked], Opened]

# Which module opens on which platform; each pulls in its cloud's clients, so only one is loaded.
MODULES: Mapping[Platform, str] = {
    Platform.AWS_ENCLAVE: "nitro",
    Platform.AWS_NITROTPM: "nitrotpm",
    Platform.AZURE_CVM: "azure_cvm",
    Platform.AZURE_CONTAINER: "azure_container",
    Platform.GCP_CONFIDENTIAL_SPACE: "confidential_space",
    Platform.GCP_CVM: "gcp_cvm",
}


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens keys for a stage on its platform. Raises Closed when the platform's clients are not there."""
    return _module(stage).opener(stage, endpoints)


def prepare(stage: Stage, endpoints: Endpoints) -> Endpoints:
    """What the platform needs before anything is asked for: its way out, and how stores are reached."""
    made = getattr(_module(stage), "prepare", None)
    return made(stage, endpoints) if made else endpoints


def gpus() -> ModuleType:
    """What attests GPUs: only images that demand some have it. Raises Closed where it is not there."""
    try:
        return import_module("jewelhouse.guest.gpu")
    except ImportError as error:
        raise Closed(
            f"this image cannot attest GPUs: {error.name} is not in it",
            where="trust.gpu",
            remedy="build the image from a recipe that demands GPUs",
        ) from error


def _module(stage: Stage) -> ModuleType:
    try:
        return import_module(f"jewelhouse.guest.{MODULES[stage.platform]}")
    except ImportError as error:
        raise Closed(
            f"this image cannot run on {stage.platform}: {error.name} is not in it",
            where=stage.platform,
            remedy="build the image for this platform",
        ) from error
