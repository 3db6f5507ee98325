"""Recorded tokens of Google, and generated ones: the evaluator says what gate and documentation say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import real
from google_cases import (
    CONTAINER,
    DIGEST,
    GCE,
    GPU,
    POOL,
    SPACE,
    SUPPORT,
    VM,
    Body,
    asked,
    by_hand,
    compiled,
    gate,
    images,
    stands,
    token,
    vm,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import policies

from jewelhouse.evidence import confidential_space
from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.model import GcpAccount
from jewelhouse.rehearsal.minting_tokens import put
from jewelhouse.release import gcp
from jewelhouse.release.gcp_facts import LIMITS
from jewelhouse.release.policy import ReleasePolicy

pytest.importorskip("cel_expr_python")

DOCUMENTED = (
    "assertion.swname == 'CONFIDENTIAL_SPACE' && 'STABLE' in "
    "assertion.submods.confidential_space.support_attributes && assertion.submods.container.image_digest == "
    "'sha256:e2e5e3672f416ac9ca71aa639abf86db0b713729a48c125a925af6c808b20b5d' && "
    "'724467010559-compute@developer.gserviceaccount.com' in assertion.google_service_accounts"
)
SUBJECT = gcp.SUBJECTS[SPACE]


def documented(audience: str, text: str = DOCUMENTED) -> Body:
    """Provider and binding as Google's page has them, with the audience of a recorded token."""
    return {
        "issuer": gcp.ISSUER,
        "audiences": [audience],
        "mapping": {"google.subject": SUBJECT, "attribute.image_digest": gcp.DIGEST},
        "condition": text,
        "bindings": [{"role": gcp.ROLE, "members": [f"principalSet://{POOL}/*"]}],
    }


def recorded(name: str) -> Verdict:
    return confidential_space.verify(real.evidence(f"gcp-confidential-space/{name}"), at=None)


@real.needed
class TestReal:
    def production(self) -> Verdict:
        verdict = recorded("oak-ctf-production-tdx.jwt")
        assert verdict.verified
        return verdict

    def test_the_documented_condition_releases_to_the_production_token(self) -> None:
        verdict = self.production()
        assert asked(documented(verdict.claims["aud"]), verdict, at=verdict.at).released

    def test_it_denies_the_claims_of_a_debug_image(self) -> None:
        verdict = self.production()
        claims = put(verdict.claims, {"dbgstat": "enabled", SUPPORT: ...})
        decision = asked(documented(claims["aud"]), replace(verdict, claims=claims), at=verdict.at)
        stands(decision, "condition[1]", "support_attributes is absent")

    def test_it_denies_the_claims_of_a_plain_confidential_vm(self) -> None:
        verdict = self.production()
        claims = put(
            verdict.claims,
            {"swname": "GCE", "dbgstat": ..., ("submods", "confidential_space"): ..., CONTAINER: ...},
        )
        vm = replace(verdict, claims=claims, kind=Kind.GCE_VM)
        decision = asked(documented(claims["aud"]), vm, at=verdict.at)
        stands(decision, "condition[0]", "CONFIDENTIAL_SPACE GCE")
        stands(decision, "condition[1]", "claim assertion.submods.confidential_space is absent")

    def test_it_denies_the_token_with_a_broken_signature(self) -> None:
        verdict = recorded("oak-invalid-signature.jwt")
        document = documented("https://echo.oak.dev", "true")
        assert not verdict.verified
        stands(asked(document, verdict, at=verdict.at), "evidence", "signature")

    def test_it_denies_an_hour_later(self) -> None:
        verdict = self.production()
        later = verdict.at + timedelta(hours=2)
        stands(asked(documented(verdict.claims["aud"]), verdict, at=later), "evidence", "expired")

    def test_the_launchers_audience_is_not_that_of_a_custom_token(self) -> None:
        verdict = self.production()
        stands(asked(documented(gcp.AUDIENCE), verdict, at=verdict.at), "audiences", verdict.claims["aud"])

    def test_a_compiled_policy_for_its_image_releases_to_it(self) -> None:
        verdict = self.production()
        operator = GcpAccount(project="oak-examples-477357", number="724467010559")
        image = images(verdict.measurements["image_digest"])
        document = compiled(
            gate(
                account=operator,
                measurements=image,
                identity="flow-serve@oak-examples-477357.iam.gserviceaccount.com",
            )
        )
        document["audiences"] = [verdict.claims["aud"]]
        # The recorded workload ran with the default account of its project, which the compiler refuses.
        stands(asked(document, verdict, at=verdict.at), "condition[9]", "724467010559-compute@")
        document["condition"] = document["condition"].replace(
            "flow-serve@oak-examples-477357.iam.gserviceaccount.com",
            "724467010559-compute@developer.gserviceaccount.com",
        )
        assert asked(document, verdict, at=verdict.at).released

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            pytest.param("claims.json", "", id="plain"),
            pytest.param("uid2-null.json", "support_attributes", id="null members"),
            pytest.param("uid2-policy-valid.json", "env_override", id="an overridden environment of 2023"),
        ],
    )
    def test_claim_sets_of_others(self, name: str, says: str) -> None:
        claims = json.loads(real.evidence(f"gcp-confidential-space/synthetic-claims/{name}"))
        document = documented(claims["aud"], " && ".join(gcp.BASE[SPACE]))
        decision = asked(document, by_hand(claims))
        if says:
            stands(decision, "condition", says)
        else:
            assert decision.released

    @pytest.mark.parametrize(
        ("text", "production", "debug", "vm"),
        [
            (DOCUMENTED, True, False, False),
            ("['STABLE'].exists(a, a in $space.support_attributes)", True, False, False),
            ("has($space.support_attributes)", True, False, False),
            ("!has($space.support_attributes)", False, True, False),
            ("!has($box.env_override) || size($box.env_override) == 0", True, True, False),
            ("size($box.env_override) == 0", False, False, False),
            ("int(assertion.swversion[0]) >= 250800", True, True, True),
            ("assertion.dbgstat == 'disabled-since-boot'", True, False, False),
            ("assertion.dbgstat == 'enable'", False, False, False),
            ("assertion.hwmodel == 'INTEL_TDX'", False, False, False),
            ("assertion.hwmodel.startsWith('GCP_')", True, True, True),
            ("assertion.swname == 'CONFIDENTIAL_SPACE' ? assertion.secboot : false", True, True, False),
            ("$gpu.cc_mode == 'ON' || assertion.secboot == true", True, True, True),
            ("$gpu.gpus.exists(g, g.hwmodel == 'GCP_NVIDIA_H100')", False, False, False),
            ("asertion.swname == 'CONFIDENTIAL_SPACE'", False, False, False),
        ],
    )  # fmt: skip
    def test_expressions_on_three_tokens(self, text: str, production: bool, debug: bool, vm: bool) -> None:
        verdict = self.production()
        plain = {"swname": "GCE", "dbgstat": ..., ("submods", "confidential_space"): ..., CONTAINER: ...}
        for short, name in (("$space", "confidential_space"), ("$box", "container"), ("$gpu", "nvidia_gpu")):
            text = text.replace(short, f"assertion.submods.{name}")
        document = documented(verdict.claims["aud"], text)
        document["mapping"] = {"google.subject": "assertion.submods.gce.instance_id"}
        for expected, changes in (
            (production, {}),
            (debug, {"dbgstat": "enabled", SUPPORT: ...}),
            (vm, plain),
        ):
            token = replace(verdict, claims=put(verdict.claims, changes))
            assert asked(document, token, at=verdict.at).released is expected


def described(policy: ReleasePolicy, claims: Mapping[str, Any], at: datetime) -> bool:
    """Whether a gate describes the token, from the neutral policy and without CEL."""
    space = policy.key.platform is SPACE
    submods = claims["submods"]
    container = submods.get("container", {})
    if claims.get("secboot") is not True or claims.get("iss") != gcp.ISSUER.rstrip("/"):
        return False
    if (
        claims.get("swname") != ("CONFIDENTIAL_SPACE" if space else "GCE")
        or claims.get("aud") != gcp.AUDIENCE
    ):
        return False
    if space and (
        claims.get("dbgstat") != "disabled-since-boot"
        or "STABLE" not in submods.get("confidential_space", {}).get("support_attributes", [])
        or container.get("env_override")
        or container.get("cmd_override")
    ):
        return False
    return any(
        claims.get("hwmodel") == gcp.HARDWARE[one.tee]
        and submods["gce"]["project_id"] == one.account.project  # type: ignore[union-attr]
        and submods["gce"]["project_number"] == one.account.number  # type: ignore[union-attr]
        and one.identity in claims["google_service_accounts"]
        and (
            not space or container.get("image_digest") in {m.values["image_digest"] for m in one.measurements}
        )
        and (
            one.gpu is None
            or not space
            or (
                submods.get("nvidia_gpu", {}).get("cc_mode") == "ON"
                and any(gpu["hwmodel"] == "GCP_NVIDIA_H100" for gpu in submods["nvidia_gpu"]["gpus"])
            )
        )
        and (one.not_after is None or at < one.not_after)
        for one in policy.gates
    )


@st.composite
def shown_to(draw: st.DrawFn) -> tuple[ReleasePolicy, Body, datetime]:
    """A policy, and a token near to one of its gates: any field may be another's, or be missing."""
    policy = draw(policies(platforms=(SPACE, VM)))
    near, other = draw(st.sampled_from(policy.gates)), draw(st.sampled_from(policy.gates))
    assert isinstance(near.account, GcpAccount)
    images = [one.values["image_digest"] for one in (*near.measurements, *other.measurements)]
    make = token if policy.key.platform is SPACE else vm
    claims = make(
        digest=draw(st.sampled_from([*images, DIGEST])),
        hwmodel=gcp.HARDWARE[near.tee],
        project=near.account.project,
        number=str(near.account.number),
        account=str(near.identity),
        gpu=policy.key.platform is SPACE and draw(st.booleans()),
    )
    changes: list[dict[Any, Any]] = [
        {},
        {"dbgstat": "enabled", SUPPORT: ...},
        {"hwmodel": gcp.HARDWARE[other.tee]},
        {"hwmodel": "GCP_SHIELDED_VM"},
        {"secboot": False},
        {"google_service_accounts": [str(other.identity)]},
        {"google_service_accounts": []},
        {(*GCE, "project_number"): "1"},
        {(*GCE, "project_id"): "stranger"},
        {"aud": "https://example.com"},
        {"swname": "GCE"},
        {SUPPORT: ["LATEST", "USABLE"]},
        {"dbgstat": ...},
    ]
    if "container" in claims["submods"]:
        changes += [{(*CONTAINER, "env_override"): {"A": "b"}}, {(*CONTAINER, "cmd_override"): []}]
    if "nvidia_gpu" in claims["submods"]:
        changes += [{(*GPU, "cc_mode"): "DEVTOOLS"}, {(*GPU, "gpus"): []}]
    for change in draw(st.lists(st.sampled_from(changes), max_size=2)):
        if "confidential_space" in claims["submods"] or SUPPORT not in change:
            claims = put(claims, change)
    year = draw(st.sampled_from([2026, 2027, 2028]))
    return policy, claims, datetime(year, 6, 1, tzinfo=UTC)


@settings(max_examples=400, deadline=None)
@given(shown_to())
def test_a_policy_releases_exactly_what_its_gates_describe(
    case: tuple[ReleasePolicy, Body, datetime],
) -> None:
    policy, claims, at = case
    decision = asked(gcp.compile(policy), by_hand(claims), at=at)
    assert decision.released is described(policy, claims, at), [one.json() for one in decision.because]


def test_the_limits_are_those_of_the_compiler() -> None:
    assert (LIMITS["condition"], LIMITS["mapping"]) == (gcp.CONDITION_LIMIT, gcp.MAPPING_LIMIT)
