"""How lint rules judge a Key Vault release policy alternative by alternative, and what they cite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jewelhouse.release.documents import Document
from jewelhouse.release.lint.azure_reading import NESTED, Alternative, Shape, alternatives, merged
from jewelhouse.release.lint.rules import Check, Hit

SKR_CVM = (
    "MicrosoftDocs/azure-docs articles/confidential-computing/skr-flow-confidential-vm-sev-snp.md, "
    "read 2026-11"
)
TOKENS = "learn.microsoft.com/azure/attestation/attestation-token-examples, read 2026-11"
GUEST_TOKEN = (
    "Azure/confidential-computing-cvm-guest-attestation: cvm-guest-attestation.md, "
    "aks-linux-sample/README.md, read 2026-11"
)
DM_VERITY = (
    "MicrosoftDocs/azure-docs articles/confidential-computing/how-to-attest-linux-workload-dm-verity-ima.md, "
    "read 2026-11"
)

# Claim path -> what it should not be able to say instead.
Changes = Mapping[str, Any]


# Counter-examples that are tried for one rule: the first places of a repeated mistake are enough.
TRIED = 4


def judged(
    judge: Callable[[Alternative], str | None], *, attack: Callable[[Alternative], Changes] | None = None
) -> Check:
    """A check of one alternative at a time. `attack`: how its token is changed to show the hole."""

    def check(document: Document) -> Iterator[Hit]:
        found = [(one, what) for one in alternatives(document) if (what := judge(one)) is not None]
        return merged(hits(document, found, attack))

    return check


def hits(
    document: Document,
    found: Iterable[tuple[Alternative, str]],
    attack: Callable[[Alternative], Changes] | None,
    *,
    authority: bool = False,
) -> Iterator[Hit]:
    """Hits for alternatives, at their authority or at their own place, the first with a counter-example."""
    for index, (one, what) in enumerate(found):
        shown = None
        if attack is not None and index < TRIED:
            # The evaluator is loaded only when a rule has fired.
            from jewelhouse.release.lint.hostile_azure import counterexample

            shown = counterexample(document, one, attack(one))
        where = f"{one.entry.where}.authority" if authority else one.where
        yield Hit(where=where, what=what, counterexample=shown)


def prefix(one: Alternative) -> str:
    """What stands before the TEE's claims in the tokens of an alternative."""
    return NESTED if one.shape is Shape.GUEST else ""
