"""One whole decision of Google's release against its bare expressions.

Bare: mapping, condition and the end of the licence, compiled beforehand, each run by the CEL library with the
claims given to it, as its documentation does. Whole: the same, with issuer, audience, limits, the binding
and a report that names every clause.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from jewelhouse.evidence.verdict import Kind, Verdict
from jewelhouse.model import AttestedKey, Cloud, GcpAccount, Measurements, Platform, Tee
from jewelhouse.release import gcp
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import cel, evaluate
from jewelhouse.release.lint.hostile_gcp import attested, example
from jewelhouse.release.policy import Gate, ReleasePolicy

BOUND = 1.5
ROUNDS = 301
CALLS = 20
AT = datetime(2026, 11, 1, tzinfo=UTC)


def policy() -> ReleasePolicy:
    """One stage with a GPU, a licence and the image that it is rolled out of."""
    images = tuple(Measurements(values={"image_digest": f"sha256:{digit * 64}"}) for digit in "12")
    gate = Gate(
        stage="serve",
        platform=Platform.GCP_CONFIDENTIAL_SPACE,
        tee=Tee.TDX,
        account=GcpAccount(project="op-runtime", number="100000000003"),
        measurements=images,
        identity="llm-serve@op-runtime.iam.gserviceaccount.com",
        gpu="H100",
        not_after=datetime(2028, 1, 1, tzinfo=UTC),
    )
    owner = GcpAccount(project="mp-keys", number="100000000001")
    key = AttestedKey("base", Platform.GCP_CONFIDENTIAL_SPACE, "europe-west4")
    return ReleasePolicy(key=key, owner=owner, gates=(gate,))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        work()
    return time.perf_counter() - began


def measure() -> dict[str, tuple[float, float]]:
    """The ratio of medians, whole against bare, taken in turns; with its bound."""
    body = gcp.compile(policy())
    claims, request = example(attested(gcp.openings(policy()))[0])
    document = Document(name="base", cloud=Cloud.GCP, body=body)
    verdict = Verdict(kind=Kind.CONFIDENTIAL_SPACE, verified=True, debug=False, at=AT, claims=claims)
    programs = [cel.PROVIDER.compile(text) for text in (*body["mapping"].values(), body["condition"])]
    ends = [cel.BINDING.compile(one["condition"]["expression"]) for one in body["bindings"]]

    def bare() -> list[Any]:
        found = [program.eval(data={"assertion": claims}).value() for program in programs]
        return found + [program.eval(data={"request.time": request.at}).value() for program in ends]

    def whole() -> bool:
        return evaluate(document, verdict, request).released

    assert whole()
    assert bare()[-2:] == [True, True]
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(whole))
        theirs.append(seconds(bare))
    return {"release/gcp-vs-bare-cel": (statistics.median(ours) / statistics.median(theirs), BOUND)}


if __name__ == "__main__":
    for name, (value, bound) in measure().items():
        print(f"{name} {value:.3f} {bound}")
