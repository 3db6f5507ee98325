"""Would this key be released to this Evidence? Decided offline, from the documents that are deployed.

Strict: an error, an absent claim, an unknown operator is a denial with that reason; the only allow is a
literal yes. Unverified evidence is denied whatever it claims.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from jewelhouse.evidence.verdict import Verdict
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
    # Only the evaluator of the document's cloud is loaded: Google's CEL takes 50 MB.
    decision = import_module(f"jewelhouse.release.evaluate.{document.cloud}").evaluate(
        document, verdict, request
    )
    if not decision.released or decision.proofs:
        return decision
    # Only where something is released: lint of a sound document needs none of it.
    proven = import_module("jewelhouse.release.evaluate.proven").proven
    return replace(decision, proofs=proven(document.cloud, verdict, decision.because))
