"""Lint rules on what a Key Vault release policy leaves open: whose token passes that should not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jewelhouse.release import azure_grammar
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.azure_judging import (
    GUEST_TOKEN,
    SKR_CVM,
    TOKENS,
    Changes,
    judged,
    prefix,
)
from jewelhouse.release.lint.azure_reading import (
    COMPLIANCE,
    CVM,
    HOSTDATA,
    POLICY_SIGNER,
    SGX,
    SGX_DEBUG,
    SNP_DEBUG,
    TDX,
    TDX_DEBUG,
    TYPE,
    UVM,
    VMPL,
    Alternative,
    Shape,
    alternatives,
    merged,
    plain,
)
from jewelhouse.release.lint.azure_syntax import EXAMPLES, GRAMMAR, SIDECAR
from jewelhouse.release.lint.rules import Hit, Rule, Severity

DIGEST = re.compile(r"[0-9a-f]{64}")


def _no_compliance(one: Alternative) -> str | None:
    if one.tee == SGX or one.pinned(COMPLIANCE) is not None:
        return None
    return "does not ask for the compliance status, so firmware and paravisor may be anybody's"


def _no_type(one: Alternative) -> str | None:
    if one.tee is not None or one.pinned(COMPLIANCE) is None:
        return None
    return "does not ask for a TEE, so the compliance status alone decides"


def _only_type(one: Alternative) -> str | None:
    if set(map(plain, one.pins)) <= {TYPE, POLICY_SIGNER, "x-ms-policy-hash"} and one.pins.keys():
        return f"asks for nothing but the attestation type, which {one.tee or 'any VM'} of anybody has"
    return None


def _debug_open(one: Alternative) -> bool:
    if one.tee == SGX:
        return one.pins.get(SGX_DEBUG) != "false"
    if one.tee == TDX:
        return one.pinned(TDX_DEBUG) != "false" and one.pinned("dbgstat") != "disabled"
    return one.pinned(SNP_DEBUG) != "false"


def _no_debug(one: Alternative) -> str | None:
    if not _debug_open(one) or one.pinned(COMPLIANCE) == CVM:
        return None
    if any(plain(condition.claim) in (SNP_DEBUG, TDX_DEBUG, SGX_DEBUG) for condition in one.term):
        return "only a pin of debug that asks for it, or an operator that may not count, stands against debug"
    return "a debuggable machine passes"


def _debug_by_compliance(document: Document) -> Iterator[Hit]:
    if document.disk:
        return
    yield from merged(
        Hit(where=one.where, what="leaves debug to the compliance status")
        for one in alternatives(document)
        if _debug_open(one) and one.pinned(COMPLIANCE) == CVM and one.tee != TDX
    )


def _any_container(one: Alternative) -> str | None:
    if one.pins.get(COMPLIANCE) == UVM and HOSTDATA not in one.pins:
        return "any container group passes: nothing pins its policy"
    return None


def _bad_hostdata(one: Alternative) -> str | None:
    found = one.pinned(HOSTDATA)
    if found is None:
        return None
    if set(found) == {"0"}:
        return "hostdata is all zero, which every VM has"
    if not DIGEST.fullmatch(found):
        return f"hostdata {azure_grammar.shown(found)} is not a SHA-256 in lower-case hex"
    if one.shape is Shape.GUEST:
        return "pins hostdata of a VM, which is zero: it binds containers alone"
    return None


def _no_vmpl(one: Alternative) -> str | None:
    return "does not ask for privilege level 0" if one.container and VMPL not in one.pins else None


def _no_secure_boot(one: Alternative) -> str | None:
    if one.shape is Shape.GUEST and "secureboot" not in one.pins:
        return "does not ask for secure boot"
    return None


def _excluding(one: Alternative) -> Changes:
    return {f"{prefix(one)}{COMPLIANCE}": "somebody-else", **_debug_change(one)}


def _debug_change(one: Alternative) -> Changes:
    from jewelhouse.release.lint.hostile_azure import debugged

    return debugged(one)


def _nothing_pinned(one: Alternative) -> str | None:
    if one.pins:
        return None
    claims = ", ".join(sorted({f"{condition.claim} {condition.operator}" for condition in one.term}))
    return f"nothing is pinned: {claims} excludes some tokens and lets all others through"


RULES: Sequence[Rule] = (
    Rule(
        id="JH-AZ-045",
        severity=Severity.ERROR,
        title="no compliance status",
        why="Without it any machine with the TEE passes, whatever firmware it has below the guest: what it "
        "says of itself is then not worth more than its owner.",
        remedy='ask for x-ms-compliance-status "azure-compliant-cvm" (VM) or "azure-compliant-uvm" '
        "(container)",
        source=f"{SKR_CVM}; {EXAMPLES}",
        check=judged(
            _no_compliance, attack=lambda one: {f"{prefix(one)}{COMPLIANCE}": "not-compliant-at-all"}
        ),
    ),
    Rule(
        id="JH-AZ-046",
        severity=Severity.WARNING,
        title="no attestation type",
        why="The pair of type and compliance status is what Microsoft documents; one half of it leaves the "
        "TEE open.",
        remedy='ask for x-ms-attestation-type "sevsnpvm" or "tdxvm" too',
        source=SKR_CVM,
        check=judged(_no_type),
    ),
    Rule(
        id="JH-AZ-047",
        severity=Severity.ERROR,
        title="the attestation type alone",
        why="Every machine of that type in Azure has it, with any firmware and any image.",
        remedy="ask for compliance status, debug off, and for containers their hostdata",
        source=SKR_CVM,
        check=judged(_only_type, attack=_excluding),
    ),
    Rule(
        id="JH-AZ-048",
        severity=Severity.ERROR,
        title="debug is not excluded",
        why="The host reads the memory of a debuggable machine; its token is signed like any other.",
        remedy='ask for x-ms-sevsnpvm-is-debuggable "false", or azure-compliant-cvm with TDX',
        source=f"{SIDECAR}; {TOKENS}",
        check=judged(_no_debug, attack=_debug_change),
    ),
    Rule(
        id="JH-AZ-049",
        severity=Severity.WARNING,
        title="debug is left to the compliance status",
        why="azure-compliant-cvm excludes debuggable guests by the policy of attestation, which is not "
        "published as a promise.",
        remedy='ask for x-ms-sevsnpvm-is-debuggable "false" as well',
        source=f"{SIDECAR}; {GUEST_TOKEN}",
        check=_debug_by_compliance,
    ),
    Rule(
        id="JH-AZ-050",
        severity=Severity.ERROR,
        title="any container passes",
        why="hostdata is the digest of the container policy, and the only claim that binds code: without it "
        "everybody's container group opens the key.",
        remedy="ask for x-ms-sevsnpvm-hostdata, the SHA-256 of the group's policy",
        source=f"{EXAMPLES} (containers); {SIDECAR}",
        check=judged(_any_container, attack=lambda one: {HOSTDATA: "e" * 64}),
    ),
    Rule(
        id="JH-AZ-051",
        severity=Severity.ERROR,
        title="hostdata that binds no container",
        why="Zeros are the hostdata of every VM, and attestation writes 64 lower-case hex digits.",
        remedy="compute the SHA-256 of the decoded container policy: `jewelhouse image measure`",
        source=f"{EXAMPLES} (containers); {GUEST_TOKEN}",
        check=judged(_bad_hostdata),
    ),
    Rule(
        id="JH-AZ-052",
        severity=Severity.WARNING,
        title="no privilege level",
        why="A report may be asked for from below level 0, where the container's policy does not hold.",
        remedy='ask for x-ms-sevsnpvm-vmpl "0"',
        source=SIDECAR,
        check=judged(_no_vmpl, attack=lambda one: {VMPL: 1}),
    ),
    Rule(
        id="JH-AZ-053",
        severity=Severity.WARNING,
        title="no secure boot",
        why="Without it the guest boots any kernel. The shared endpoints refuse that today; an own provider "
        "need not.",
        remedy='ask for secureboot "true"',
        source=GUEST_TOKEN,
        check=judged(_no_secure_boot, attack=lambda _: {"secureboot": False}),
    ),
    Rule(
        id="JH-AZ-055",
        severity=Severity.ERROR,
        title="nothing but exclusions",
        why="notEquals, exists and bounds let everything through that nobody thought of.",
        remedy="pin what may pass with equals",
        source=GRAMMAR,
        check=judged(_nothing_pinned, attack=_excluding),
    ),
)
