"""Would this key be released to this Evidence? Decided offline, from the documents that are deployed.

Strict: an error, an absent claim, an unknown operator is a denial with that reason; the only allow is a
literal yes. Unverified evidence is denied whatever it claims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module

from jewelhouse.evidence.verdict import Verdict
from jewelhouse.model import Cloud
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate.decision import Decision, Reason, Request, denied

__all__ = ["Decision", "Reason", "Request", "denied", "evaluate"]


def evaluate(document: Document, verdict: Verdict | None, request: Request) -> Decision:
    """The decision of the key service that `document` belongs to.

    `verdict` is None for a request without any evidence. Never raises for what is in document or evidence:
    what cannot be judged is denied, and the reason says so.
    """
    if verdict is not None and not verdict.verified:
        return denied(
            verdict,
            request.at,
            *(
                Reason(where="evidence", claim=problem.where, what=problem.what)
                for problem in verdict.problems
            ),
            Reason(where="evidence", what="it could not be verified, so nothing that it claims counts"),
        )
    evaluator, proven = _loaded(document.cloud)
    decision = evaluator(document, verdict, request)
    if not decision.released or decision.proofs:
        return decision
    return replace(decision, proofs=proven(document.cloud, verdict, decision.because))


@cache
def _loaded(cloud: Cloud) -> tuple[Callable[..., Decision], Callable[..., dict[str, str]]]:
    """Only the evaluator of a document's cloud is loaded, and when it is asked: Google's CEL takes 50 MB."""
    evaluator = import_module(f"jewelhouse.release.evaluate.{cloud}")
    return evaluator.evaluate, import_module("jewelhouse.release.evaluate.proven").proven
