"""What would be released at one moment: the keys of a stack with what their documents let happen.

A snapshot is what `release.diff` compares. It is made from neutral policies here, and from what the engine
knows of a stack in `release.states`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from jewelhouse.model import Cloud, Image, Proof
from jewelhouse.release import compiler
from jewelhouse.release.facts import Facts
from jewelhouse.release.policy import ReleasePolicy
from jewelhouse.release.proofs import State, of_gate

# Settings that weaken a whole lifecycle, in words (docs/configuration.md).
WEAKENINGS: Mapping[str, str] = {
    "allow-same-owner": "allow-same-owner: a key may lie in the account of the stage that opens it",
    "destroyable": "destroyable: keys and stores may be destroyed with the stack",
}


@dataclass(frozen=True, kw_only=True)
class KeyView:
    """One attested key with what its document lets happen.

    owner: the account, subscription or project that holds it, None where that is not known. askers: Azure:
    who may ask for a release (a stage, or a principal), with the subscription it is in if known; Key Vault
    keeps that in role assignments and not in the document. proofs: by stage. beside: a key that the
    stack's own list of policies does not have, such as that of a disk.
    """

    name: str
    artifact: str
    cloud: Cloud
    platform: str
    region: str
    owner: str | None
    document: Mapping[str, Any]
    facts: Facts
    askers: Mapping[str, str | None] = field(default_factory=dict)
    proofs: Mapping[str, Mapping[Proof, State]] = field(default_factory=dict)
    beside: bool = False


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What one revision, export or plan would release.

    source: where it was read from. artifacts: all there are, also those that no stage opens. weakened: what
    weakens the whole stack, with its words; None where that is not known. identities: role or service account
    -> its stage. images: measurement -> name of its image. deployed: made from all resources, so that
    `beside` keys are in it too. undecided: what of the source could not be brought to any key.
    """

    source: str
    keys: Mapping[str, KeyView]
    artifacts: frozenset[str] = frozenset()
    weakened: Mapping[str, str] | None = field(default_factory=dict)
    identities: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    deployed: bool = False
    undecided: tuple[str, ...] = ()


def facts_of(cloud: Cloud, document: Mapping[str, Any]) -> Facts:
    """The facts of a native document. Only the parsers of used clouds are loaded."""
    return import_module(f"jewelhouse.release.{cloud}").parse(document)


def of_policies(
    source: str,
    policies: Iterable[ReleasePolicy],
    *,
    images: Mapping[str, Image],
    artifacts: Iterable[str] = (),
    weakened: Iterable[str] = (),
) -> Snapshot:
    """The snapshot of a lifecycle before it is deployed. `images` by stage; `artifacts`, `weakened` by name.

    Raises JewelhouseError for a policy that cannot be compiled.
    """
    keys = {}
    identities: dict[str, str] = {}
    named: dict[str, str] = {}
    for policy in policies:
        document = compiler.compile(policy)
        azure = policy.key.cloud is Cloud.AZURE
        keys[policy.key.name] = KeyView(
            name=policy.key.name,
            artifact=policy.artifact,
            cloud=policy.key.cloud,
            platform=policy.key.platform.value,
            region=policy.key.region,
            owner=policy.owner.boundary,
            document=document,
            facts=facts_of(policy.key.cloud, document),
            askers={gate.stage: gate.account.boundary for gate in policy.gates} if azure else {},
            proofs={
                gate.stage: {proof: status.state for proof, status in of_gate(policy, gate).items()}
                for gate in policy.gates
            },
        )
        for gate in policy.gates:
            if gate.identity:
                identities[gate.identity] = gate.stage
            for measurements in gate.measurements:
                named |= dict.fromkeys(measurements.values.values(), images[gate.stage].name)
    return Snapshot(
        source=source,
        keys=keys,
        artifacts=frozenset(artifacts),
        weakened=weakenings(weakened, (image.name for image in images.values() if image.declared)),
        identities=identities,
        images={value: name for value, name in named.items() if set(value) != {"0"}},
    )


def weakenings(settings: Iterable[str], declared: Iterable[str]) -> dict[str, str]:
    """What weakens a whole stack, in words: its settings, and images whose values nobody built."""
    return {
        **{name: WEAKENINGS.get(name, name) for name in settings},
        **{
            f"declared {name}": f"the measurements of image {name} are declared by hand, not built"
            for name in sorted(set(declared))
        },
    }
