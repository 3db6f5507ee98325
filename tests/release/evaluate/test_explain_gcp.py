"""What would flip a decision of Google, said only where the evaluator agrees."""

from __future__ import annotations

import pytest
from google_cases import CONTAINER, DIGEST, OTHER, Body, asked, by_hand, compiled, debug, gate, token

from jewelhouse.model import Cloud
from jewelhouse.rehearsal.minting_tokens import put
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request
from jewelhouse.release.evaluate.explain import explain

pytest.importorskip("cel_expr_python")


def explained(claims: Body) -> tuple[str, ...]:
    body, verdict = compiled(gate()), by_hand(claims)
    decision = asked(body, verdict)
    return explain(
        Document(name="base", cloud=Cloud.GCP, body=body), verdict, Request(at=decision.at), decision
    )


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        pytest.param(
            token(digest=OTHER), f"image_digest would have to be {DIGEST}, it is {OTHER}", id="image"
        ),
        pytest.param(debug(), "dbgstat would have to be disabled-since-boot, it is enabled", id="debug"),
        pytest.param(
            put(token(), {(*CONTAINER, "env_override"): {"A": "b"}}), "env_override (empty)", id="override"
        ),
        pytest.param(put(token(), {"hwmodel": ...}), "hwmodel would have to be GCP_INTEL_TDX", id="hardware"),
    ],
)
def test_a_denial_says_what_is_missing(claims: Body, says: str) -> None:
    assert any(says in one for one in explained(claims)), explained(claims)


def test_a_release_says_what_it_rests_on() -> None:
    assert any("any other assertion.dbgstat than disabled-since-boot" in one for one in explained(token()))
