"""What surrounds a guest in a rehearsal: the relying parties of its cloud, and the machine it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
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


@dataclass(frozen=True, kw_only=True)
class Services:
    """Running stand-ins. `settings` are added to the stage's; `refused` says, after a run, what the key
    services refused and why."""

    endpoints: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Callable[[dict[str, Any]], dict[str, Any]] = lambda settings: settings
    refused: Callable[[], list[str]] = list


# Which module plays a platform's services: `services(world, stage, wrong)` gives a context with Services, and
# `WRONG` is what can be wrong there.
MODULES: Mapping[Platform, str] = {
    Platform.AWS_ENCLAVE: "on_aws",
    Platform.AWS_NITROTPM: "on_aws",
    Platform.AZURE_CONTAINER: "on_azure",
    Platform.AZURE_CVM: "on_azure_vm",
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


def services(world: World, stage: Stage, wrong: Wrong) -> AbstractContextManager[Services]:
    """Stand-ins for one run of a stage."""
    return of(stage.platform).services(world, stage, wrong)
