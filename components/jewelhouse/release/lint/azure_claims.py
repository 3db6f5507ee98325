"""Lint rules on single claims of a Key Vault release policy: what they prove, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jewelhouse.release import azure_grammar
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.azure_judging import (
    DM_VERITY,
    GUEST_TOKEN,
    TOKENS,
    judged,
)
from jewelhouse.release.lint.azure_reading import (
    COMMON,
    COMPLIANCE,
    FLEETING,
    LAUNCH,
    NESTED,
    POLICY_SIGNER,
    SAFE,
    SNP_CLAIMS,
    TDX_CLAIMS,
    TYPE,
    VALUES,
    VM_CLAIMS,
    Alternative,
    all_conditions,
    merged,
    plain,
)
from jewelhouse.release.lint.azure_syntax import EXAMPLES, GRAMMAR
from jewelhouse.release.lint.rules import Check, Hit, Rule, Severity

# Operating system names, versions: what any VM of the same image family has too.
WEAK = ("x-ms-azurevm-os",)


def _unsafe(one: Alternative) -> str | None:
    for claim, value in one.pins.items():
        safe = SAFE.get(plain(claim))
        if safe is not None and value != safe and value in VALUES.get(claim, {value}):
            return f'asks for {claim} {azure_grammar.shown(value)}, where only "{safe}" is safe'
    return None


def _claims(judge: Callable[[str], str | None]) -> Check:
    def check(document: Document) -> Iterator[Hit]:
        return merged(
            Hit(where=condition.where, what=what)
            for condition in all_conditions(document)
            if (what := judge(condition.claim)) is not None
        )

    return check


def _runtime(claim: str) -> str | None:
    if plain(claim).startswith("x-ms-runtime."):
        return f"{claim} may not be evaluated at all"
    return None


def _launch(claim: str) -> str | None:
    return f"{claim} is firmware of Azure's, not the image" if plain(claim) == LAUNCH else None


def _one_vm(claim: str) -> str | None:
    return "pins one VM by its id" if claim == "x-ms-azurevm-vmid" else None


def _fleeting(claim: str) -> str | None:
    return f"{claim} is another one in the next token" if plain(claim) in FLEETING else None


def _weak(claim: str) -> str | None:
    return f"{claim} is what the guest says about itself" if claim.startswith(WEAK) else None


def _unknown(claim: str) -> str | None:
    name = plain(claim)
    if claim.startswith(NESTED):
        known = name in SNP_CLAIMS | TDX_CLAIMS | {TYPE, COMPLIANCE}
    else:
        known = name in SNP_CLAIMS | TDX_CLAIMS | VM_CLAIMS | COMMON | {COMPLIANCE, NESTED.removesuffix(".")}
        known = known or name.startswith(("x-ms-sgx-", f"{POLICY_SIGNER}.", "x-ms-sevsnpvm-uvm-endorsement"))
    if known or name == "x-ms-runtime" or name.startswith("x-ms-runtime."):
        return None
    return f"no published token has the claim {claim}"


RULES: Sequence[Rule] = (
    Rule(
        id="JH-AZ-054",
        severity=Severity.ERROR,
        title="a pin that asks for the weakness",
        why="Only debuggable, migratable or unprotected machines meet it.",
        remedy="turn the value round",
        source=GUEST_TOKEN,
        check=judged(_unsafe, attack=lambda _: {}),
    ),
    Rule(
        id="JH-AZ-056",
        severity=Severity.WARNING,
        title="a claim under x-ms-runtime",
        why="Published samples contradict each other: one pins vmUniqueId, its later version says that Key "
        "Vault does not evaluate x-ms-runtime.",
        remedy="pin claims outside of it, such as x-ms-azurevm-vmid",
        source=f"{GRAMMAR}; {GUEST_TOKEN}",
        check=_claims(_runtime),
    ),
    Rule(
        id="JH-AZ-057",
        severity=Severity.WARNING,
        title="the launch measurement is pinned",
        why="It covers Azure's firmware, which changes often and without notice, and not the disk: the key "
        "stops opening, and no image is bound.",
        remedy="pin hostdata of a container, or let the guest check its image",
        source=f"{GUEST_TOKEN}; {DM_VERITY}",
        check=_claims(_launch),
    ),
    Rule(
        id="JH-AZ-058",
        severity=Severity.NOTE,
        title="one VM is pinned",
        why="The key must be made after the VM, and is lost to every other one, a re-created one too.",
        remedy="keep it only where that is meant, written as the token has it (capitals)",
        source=f"{EXAMPLES} (confidential VM, example 2)",
        check=_claims(_one_vm),
    ),
    Rule(
        id="JH-AZ-059",
        severity=Severity.WARNING,
        title="a value that does not last is pinned",
        why="Times, identifiers of a token and report data change with every token or start: the key opens "
        "once or never.",
        remedy="remove the condition",
        source=TOKENS,
        check=_claims(_fleeting),
    ),
    Rule(
        id="JH-AZ-060",
        severity=Severity.NOTE,
        title="name and version of an operating system",
        why="They are read from the guest's boot log and identify no image.",
        remedy="do not count on it",
        source=GUEST_TOKEN,
        check=_claims(_weak),
    ),
    Rule(
        id="JH-AZ-061",
        severity=Severity.WARNING,
        title="a claim that no published token has",
        why="A misspelt or misplaced claim is absent from every token, so its condition is never met.",
        remedy="compare its name with a token; the policy of an own provider may add claims",
        source=f"{TOKENS}; {GUEST_TOKEN}",
        check=_claims(_unknown),
    ),
)
