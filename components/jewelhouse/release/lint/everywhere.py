"""Rules about a whole lifecycle, whatever the cloud: what one document alone does not show."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from jewelhouse.model import Image, Proof
from jewelhouse.release.lint.rules import Finding, Hit, Rule, Severity
from jewelhouse.release.policy import ReleasePolicy
from jewelhouse.release.proofs import State, of_gate

# A licence that ends within this time is worth a reviewer's look.
SOON = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What is about to be deployed. `images` by stage; `weakened` names the settings that weaken it."""

    policies: tuple[ReleasePolicy, ...]
    images: Mapping[str, Image]
    weakened: tuple[str, ...]
    now: datetime


def _same_owner(deployment: Deployment) -> Iterator[Hit]:
    for policy in deployment.policies:
        for gate in policy.gates:
            if gate.account.boundary == policy.owner.boundary:
                what = f"{gate.stage} runs in {policy.owner.boundary}, which owns the key"
                yield Hit(where=policy.key.name, what=what)


def _destroyable(deployment: Deployment) -> Iterator[Hit]:
    if "destroyable" in deployment.weakened:
        yield Hit(
            where="lifecycle", what="keys and stores may be destroyed, and what is wrapped to them with them"
        )


def _declared(deployment: Deployment) -> Iterator[Hit]:
    for stage, image in sorted(deployment.images.items()):
        if image.declared and image.measurements:
            yield Hit(
                where=f"stages.{stage}.image", what=f"the measurements of {image.name} were written by hand"
            )


def _rolling(deployment: Deployment) -> Iterator[Hit]:
    for policy in deployment.policies:
        for gate in policy.gates:
            if len(gate.measurements) > 1:
                yield Hit(
                    where=policy.key.name, what=f"{len(gate.measurements)} images of {gate.stage} open it"
                )


def _without_image(deployment: Deployment) -> Iterator[Hit]:
    for policy in deployment.policies:
        for gate in policy.gates:
            status = of_gate(policy, gate)[Proof.IMAGE]
            if status.state is State.NOT_POSSIBLE:
                yield Hit(
                    where=policy.key.name, what=f"nothing binds it to the code of {gate.stage}: {status.note}"
                )


def _ending(deployment: Deployment) -> Iterator[Hit]:
    for policy in deployment.policies:
        for gate in policy.gates:
            if gate.not_after is not None and gate.not_after <= deployment.now + SOON:
                yield Hit(
                    where=policy.key.name,
                    what=f"{gate.stage} may open it until {gate.not_after:%Y-%m-%d} only",
                )


def _shared_identity(deployment: Deployment) -> Iterator[Hit]:
    stages: dict[str, set[str]] = {}
    for policy in deployment.policies:
        for gate in policy.gates:
            if gate.identity is not None:
                stages.setdefault(gate.identity, set()).add(gate.stage)
    for identity, names in sorted(stages.items()):
        if len(names) > 1:
            yield Hit(where=identity, what=f"is the identity of {', '.join(sorted(names))}")


def _open_container(deployment: Deployment) -> Iterator[Hit]:
    for stage, image in sorted(deployment.images.items()):
        if image.container_policy is None:
            continue
        # Loaded only where there is a container policy to read.
        from jewelhouse.images import container_weaknesses, rego

        where = f"stages.{stage}.image"
        try:
            policy = base64.b64decode(image.container_policy, validate=True)
            for problem in container_weaknesses.weaknesses(policy):
                yield Hit(where=where, what=f"{image.name}: {problem.where} {problem.what}")
        except (ValueError, rego.MalformedRego) as error:
            yield Hit(where=where, what=f"{image.name}: its container policy cannot be read: {error}")


_DESIGN = "NIST SP 800-57 part 1 rev. 5, section 5.3.6 and 6.2.2 (separation of duties, key states), 2020-05"
_RATS = "RFC 9334, section 8.3 (reference values), 2023-01"
RULES: tuple[Rule, ...] = tuple(
    Rule(id=number, severity=severity, title=title, why=why, remedy=remedy, source=source, check=check)
    for number, severity, title, why, remedy, source, check in (
        (
            "JH-ALL-001",
            Severity.WARNING,
            "owner and operator share an account",
            "Whoever administers the machines administers the key, and can change its policy.",
            "give the owner an account, subscription or project of its own, and drop allow-same-owner",
            _DESIGN,
            _same_owner,
        ),
        (
            "JH-ALL-002",
            Severity.WARNING,
            "keys may be destroyed",
            "One `pulumi destroy` schedules the end of the keys, and of everything wrapped to them.",
            "drop destroyable outside development",
            _DESIGN,
            _destroyable,
        ),
        (
            "JH-ALL-003",
            Severity.NOTE,
            "measurements were declared, not built",
            "Nobody can rebuild the image and compare: the policy pins what somebody wrote.",
            "build the image and let its build write the lock file",
            _RATS,
            _declared,
        ),
        (
            "JH-ALL-004",
            Severity.NOTE,
            "an image is being rolled out",
            "The image that is being rolled out of opens the key as well, with whatever was wrong with it.",
            "finish the roll-out: remove the previous measurements from the lock file",
            _RATS,
            _rolling,
        ),
        (
            "JH-ALL-005",
            Severity.NOTE,
            "the key service cannot see the code",
            "Any code on such a machine that has the stage's identity opens the key.",
            "choose a platform whose evidence names the image, or check it before the key is asked for",
            _RATS,
            _without_image,
        ),
        (
            "JH-ALL-006",
            Severity.NOTE,
            "a licence ends soon",
            "The stage stops opening the artifact on that day.",
            "renew the licence, or plan the end of the stage",
            "this kit's default: 30 days",
            _ending,
        ),
        (
            "JH-ALL-007",
            Severity.ERROR,
            "stages share an identity",
            "Where evidence cannot tell two stages apart, each opens what the other may open.",
            "give each stage an identity of its own: names of stages must differ after shortening",
            _DESIGN,
            _shared_identity,
        ),
        (
            "JH-ALL-008",
            Severity.ERROR,
            "a container policy leaves a way in",
            "The hostdata is pinned, and what it stands for lets an operator look or reach inside.",
            "let `jewelhouse image lock` write the policy, or close what it names",
            "github.com/Microsoft/hcsshim v0.12.9: pkg/securitypolicy/framework.rego, 2026-11",
            _open_container,
        ),
    )
)


def lint(deployment: Deployment) -> tuple[Finding, ...]:
    """Everything that these rules find in a lifecycle."""
    return tuple(
        Finding(rule=rule, document="lifecycle", where=hit.where, what=hit.what)
        for rule in RULES
        for hit in rule.check(deployment)
    )
