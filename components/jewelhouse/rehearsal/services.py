"""What surrounds a guest in a rehearsal: the relying parties of its cloud, and the machine it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Platform, Stage
from jewelhouse.rehearsal.world import World


class Wrong(StrEnum):
    """What is wrong about a machine, its identity, its evidence or the services that it meets."""

    NOTHING = "nothing"
    DEBUG = "debug evidence"
    IMAGE = "another image"
    IDENTITY = "another stage's identity"
    ACCOUNT = "another account"
    ROOT = "evidence under a foreign root"
    REPLAYED = "replayed evidence"
    STALE = "stale evidence"
    FORGED = "key service that answers with a forged reply"
    WIDENED = "policy widened by hand"
    RELAY_READS = "relay in the middle that reads"
    RELAY_ASKS = "relay in the middle that changes requests"
    RELAY_ANSWERS = "relay in the middle that changes replies"
    RELAY_TLS = "relay in the middle with a certificate of its own"
    RELAY_REPLAYS = "relay in the middle that replays a recorded reply"
    RELAY_RECIPIENT = "relay in the middle that swaps the recipient's key"
    GPU_DEBUG = "GPU in the mode for developers"
    GPU_ROOT = "GPU under a foreign root"
    GPU_REPLAYED = "replayed report of a GPU"
    GPU_MISSING = "a GPU missing"
    GPU_FORGED = "GPU attestation with forged tokens"


@dataclass(frozen=True, kw_only=True)
class Services:
    """Running stand-ins. `settings` are added to the stage's; `refused` says, after a run, what the key
    services refused and why, `evidence` which documents a security module gave out, `overheard` all that a
    relay in the middle has seen."""

    endpoints: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Callable[[dict[str, Any]], dict[str, Any]] = lambda settings: settings
    refused: Callable[[], list[str]] = list
    evidence: Callable[[], list[bytes]] = list
    overheard: Callable[[], list[bytes]] = list


# Which module plays a platform's services: `services(world, stage, wrong)` gives a context with Services, and
# `WRONG` is what can be wrong there.
MODULES: Mapping[Platform, str] = {
    Platform.AWS_ENCLAVE: "on_aws",
    Platform.AWS_NITROTPM: "on_aws_tpm",
    Platform.AZURE_CONTAINER: "on_azure",
    Platform.AZURE_CVM: "on_azure_vm",
    Platform.GCP_CONFIDENTIAL_SPACE: "on_gcp",
    Platform.GCP_CVM: "on_gcp_vm",
}


def of(platform: Platform) -> Any:
    """The module of a platform. Raises JewelhouseError where there is none yet."""
    if platform not in MODULES:
        raise JewelhouseError(
            f"stages on {platform} cannot be rehearsed yet",
            where=platform,
            remedy=f"those on {', '.join(MODULES)} can",
        )
    return import_module(f"jewelhouse.rehearsal.{MODULES[platform]}")


def wrongs(stage: Stage) -> tuple[Wrong, ...]:
    """All that can be wrong around a stage."""
    gpus = _gpus()
    return (*of(stage.platform).WRONG, *(gpus.WRONG if gpus.demanded(stage) else ()))


@contextmanager
def services(world: World, stage: Stage, wrong: Wrong) -> Iterator[Services]:
    """Stand-ins for one run of a stage, with GPUs where its image demands them."""
    gpus = _gpus()
    platform = Wrong.NOTHING if wrong in gpus.WRONG else wrong
    with ExitStack() as stack:
        given = stack.enter_context(of(stage.platform).services(world, stage, platform))
        if gpus.demanded(stage):
            given = stack.enter_context(gpus.around(given, stage, wrong))
        yield given


def _gpus() -> Any:
    # It needs what is declared here.
    return import_module("jewelhouse.rehearsal.gpus")
