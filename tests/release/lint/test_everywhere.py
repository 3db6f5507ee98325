"""Rules about a whole lifecycle: each fires on its case and is silent on a sound one."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from samples import shipped

from jewelhouse.lifecycle import release_policies, weakenings
from jewelhouse.model import Lifecycle, Measurements
from jewelhouse.release.lint import Severity
from jewelhouse.release.lint.everywhere import RULES, Deployment, lint

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def deployment(lifecycle: Lifecycle) -> Deployment:
    return Deployment(
        policies=tuple(release_policies(lifecycle).values()),
        images={
            name: replace(lifecycle.image(one), declared=False) for name, one in lifecycle.stages.items()
        },
        weakened=weakenings(lifecycle),
        now=NOW,
    )


SOUND = deployment(shipped("prod-aws"))


def with_gate(**changes: object) -> Deployment:
    first, *others = SOUND.policies
    gate = replace(first.gates[0], **changes)
    return replace(SOUND, policies=(replace(first, gates=(gate,)), *others))


def same_owner() -> Deployment:
    first, *others = SOUND.policies
    return replace(SOUND, policies=(replace(first, owner=first.gates[0].account), *others))


def shared_identity() -> Deployment:
    first, *others = SOUND.policies
    gates = (first.gates[0], replace(first.gates[0], stage="another"))
    return replace(SOUND, policies=(replace(first, gates=gates), *others))


def open_container() -> Deployment:
    """An image whose policy lets everything in, with the hostdata that belongs to it."""
    azure = deployment(shipped("prod-azure"))
    policy = base64.b64encode(b'package policy\n\napi_version := "0.10.0"\ncontainers := []\n').decode()
    images = {
        name: replace(image, container_policy=policy if image.container_policy else None)
        for name, image in azure.images.items()
    }
    return replace(azure, images=images)


CASES = {
    "JH-ALL-001": (same_owner(), "which owns the key"),
    "JH-ALL-002": (deployment(shipped("dev")), "may be destroyed"),
    "JH-ALL-003": (
        replace(SOUND, images={name: replace(image, declared=True) for name, image in SOUND.images.items()}),
        "written by hand",
    ),
    "JH-ALL-004": (
        with_gate(
            measurements=(
                *SOUND.policies[0].gates[0].measurements,
                Measurements(values=dict.fromkeys(("PCR0", "PCR1", "PCR2"), "ab" * 48)),
            )
        ),
        "2 images of finetune",
    ),
    "JH-ALL-005": (deployment(shipped("gpu")), "nothing binds it to the code"),
    "JH-ALL-006": (with_gate(not_after=NOW + timedelta(days=29)), "until 2026-12-22 only"),
    "JH-ALL-007": (shared_identity(), "is the identity of another, finetune"),
    "JH-ALL-008": (open_container(), "is not decided by the framework"),
}


def test_every_rule_has_a_case():
    assert sorted(CASES) == [rule.id for rule in RULES]


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_fires_on_its_case(rule):
    case, says = CASES[rule]
    assert any(finding.rule.id == rule and says in finding.what for finding in lint(case))


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_is_silent_on_a_sound_lifecycle(rule):
    assert not [finding for finding in lint(SOUND) if finding.rule.id == rule]


def test_a_licence_that_lasts_is_no_finding():
    assert not lint(with_gate(not_after=NOW + timedelta(days=31)))


def test_no_shipped_stack_but_dev_is_weakened():
    for name in ("prod-aws", "prod-azure", "prod-gcp", "gpu", "federated"):
        found = lint(deployment(shipped(name)))
        assert not [finding for finding in found if finding.rule.severity is not Severity.NOTE], name
        # A gap that a platform leaves is told, and only where it is one.
        gaps = {finding.where for finding in found if finding.rule.id == "JH-ALL-005"}
        assert gaps == {
            policy.key.name
            for policy in deployment(shipped(name)).policies
            if policy.key.platform in ("azure-cvm", "gcp-cvm")
        }
