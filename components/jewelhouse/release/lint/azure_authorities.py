"""Lint rules on whose tokens a Key Vault release policy believes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from jewelhouse.hardware.azure import NO_TDX_ATTESTATION, attestation_endpoint
from jewelhouse.release import azure_grammar
from jewelhouse.release.azure_grammar import Entry
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.azure_judging import hits
from jewelhouse.release.lint.azure_reading import (
    POLICY_HASH,
    POLICY_SIGNER,
    TDX,
    Alternative,
    alternatives,
    merged,
)
from jewelhouse.release.lint.azure_syntax import EXAMPLES, GRAMMAR
from jewelhouse.release.lint.rules import Check, Hit, Rule, Severity

DISK_POLICY = "Azure/confidential-computing-cvm: cvm_deployment/key/skr-policy.json, read 2026-11"
CLAIM_SETS = "learn.microsoft.com/azure/attestation/claim-sets, read 2026-11"
# The service in the public cloud and in that of the US government.
SERVICE = (".attest.azure.net", ".attest.azure.us")
SHARED = re.compile(r"https://shared(?P<code>[a-z0-9]+)\.(?P<zone>[a-z0-9]+)\.attest\.azure\.(?:net|us)")
# Codes of shared endpoints that Microsoft's own disk policies list (source: DISK_POLICY), and that of the US
# government's.
_CODES = (
    "eus wus neu weu sasia easia jpe swn itn eus2 eus2e scus cuse cus eau sau cin uaen wus3 ncus sec noe sin "
    "jpw krc dewc uks ukw frc frs cau san uaec cac cae plc saw wus2 now sbr ugv"
)
CODES = frozenset(_CODES.split())
# A stage runs in one region, and a roll-over in two; beyond this most are not in use.
USUAL = 4
_NO_TDX = frozenset(map(attestation_endpoint, NO_TDX_ATTESTATION))


def _entries(judge: Callable[[Entry], str | None]) -> Check:
    def check(document: Document) -> Iterator[Hit]:
        for entry in azure_grammar.read(document.body).entries:
            what = judge(entry)
            if what:
                yield Hit(where=f"{entry.where}.authority", what=what)

    return check


def _no_issuer(entry: Entry) -> str | None:
    if not entry.written or entry.authority is not None:
        return None
    hint = " is a placeholder of a template" if "<" in entry.written or "{" in entry.written else ""
    return (
        f"{azure_grammar.shown(entry.written)}{hint or ' is no https host'}, so no token has it as its issuer"
    )


def _spelling(entry: Entry) -> str | None:
    if entry.authority is None or entry.written.rstrip("/") == entry.authority:
        return None
    return f"{entry.written} is not how `iss` names it: {entry.authority}"


def _slash(document: Document) -> Iterator[Hit]:
    if document.disk:
        return
    found = [
        entry
        for entry in azure_grammar.read(document.body).entries
        if entry.authority is not None and entry.written.endswith("/")
    ]
    if found:
        yield Hit(
            where=f"{found[0].where}.authority",
            what=f"{len(found)} of the authorities end in a slash, `iss` never does",
        )


def _codes(entry: Entry) -> str | None:
    found = SHARED.fullmatch(entry.authority or "")
    if found and found["code"] != found["zone"]:
        return f"{entry.authority} does not exist: the two codes of a shared endpoint are the same"
    return None


def _unknown_code(entry: Entry) -> str | None:
    found = SHARED.fullmatch(entry.authority or "")
    if found and found["code"] == found["zone"] and found["code"] not in CODES:
        return f"{entry.authority} is not among the shared endpoints that Microsoft lists"
    return None


def _test_ring(entry: Entry) -> bool:
    return ".test." in (entry.authority or "")


def _foreign(entry: Entry) -> bool:
    return entry.authority is not None and not entry.authority.endswith(SERVICE)


def _custom(entry: Entry) -> bool:
    known = entry.authority is not None and not _test_ring(entry) and not _foreign(entry)
    return known and not SHARED.fullmatch(entry.authority or "")


def _shown(chosen: Callable[[Entry], bool], says: str) -> Check:
    """Hits for authorities, with a token of theirs that would be taken."""

    def check(document: Document) -> Iterator[Hit]:
        first = {one.entry.where: one for one in reversed(alternatives(document)) if chosen(one.entry)}
        found = [(one, f"{one.entry.authority} {says}") for one in reversed(first.values())]
        return hits(document, found, lambda _: {}, authority=True)

    return check


def _unpinned(document: Document) -> Iterator[Hit]:
    found = [
        (one, f"whoever owns {one.entry.authority} can loosen its policy: nothing here pins it")
        for one in alternatives(document)
        if _custom(one.entry) and not _pins_policy(one)
    ]
    return merged(hits(document, found, lambda _: {POLICY_HASH: "the-hash-of-a-looser-policy"}))


def _pins_policy(one: Alternative) -> bool:
    return POLICY_HASH in one.pins or any(claim.startswith(f"{POLICY_SIGNER}.") for claim in one.pins)


def _hash_of_shared(document: Document) -> Iterator[Hit]:
    return merged(
        Hit(where=one.where, what="pins the policy of a shared endpoint, which Microsoft changes")
        for one in alternatives(document)
        if SHARED.fullmatch(one.entry.authority or "") and POLICY_HASH in one.pins
    )


def _many(document: Document) -> Iterator[Hit]:
    found = {entry.authority for entry in azure_grammar.read(document.body).entries if entry.authority}
    if len(found) > USUAL:
        yield Hit(where="anyOf", what=f"believes {len(found)} attestation endpoints")


def _no_tdx(document: Document) -> Iterator[Hit]:
    for one in alternatives(document):
        if one.tee == TDX and one.entry.authority in _NO_TDX:
            yield Hit(where=one.where, what=f"{one.entry.authority} is not listed for tdxvm")


RULES: Sequence[Rule] = (
    Rule(
        id="JH-AZ-020",
        severity=Severity.ERROR,
        title="an authority that issues no token",
        why="A template's placeholder, http, a path or a port never is the `iss` of a token.",
        remedy="write https://shared<code>.<code>.attest.azure.net, or the URL of the own provider",
        source=GRAMMAR,
        check=_entries(_no_issuer),
    ),
    Rule(
        id="JH-AZ-021",
        severity=Severity.WARNING,
        title="an authority without scheme, or in capitals",
        why="It is compared with `iss`, which has https:// and lower case; that Key Vault adds what is "
        "missing is not documented.",
        remedy="write the authority as `iss` has it",
        source="microsoft/confidential-ai-workshop: tutorials/confidential-llm-inferencing/README.md, read "
        "2026-11",
        check=_entries(_spelling),
    ),
    Rule(
        id="JH-AZ-022",
        severity=Severity.NOTE,
        title="an authority with a trailing slash",
        why="Microsoft's own policies have it, `iss` never has, and the comparison is not documented.",
        remedy="leave the slash out",
        source=DISK_POLICY,
        check=_slash,
    ),
    Rule(
        id="JH-AZ-023",
        severity=Severity.ERROR,
        title="a shared endpoint that does not exist",
        why="The region code stands in it twice. Microsoft's example has sharedeus2.weu2, whose tokens "
        "nobody ever gets.",
        remedy="write the same code twice, such as sharedeus2.eus2",
        source=f"{EXAMPLES} (confidential VM, example 1)",
        check=_entries(_codes),
    ),
    Rule(
        id="JH-AZ-024",
        severity=Severity.WARNING,
        title="a shared endpoint with an unknown code",
        why="A misspelt region is the endpoint of nobody.",
        remedy="compare with the codes in Microsoft's disk policy",
        source=DISK_POLICY,
        check=_entries(_unknown_code),
    ),
    Rule(
        id="JH-AZ-025",
        severity=Severity.ERROR,
        title="an authority of a test ring",
        why="Test rings run what is not released yet; their tokens vouch for nothing.",
        remedy="name the production endpoint of the region",
        source="Azure-Samples/microsoft-azure-attestation: the sevsnpvm token of sharedweu.weu.test, 2025-04",
        check=_shown(_test_ring, "is a test ring of attestation"),
    ),
    Rule(
        id="JH-AZ-026",
        severity=Severity.ERROR,
        title="an authority outside of Azure Attestation",
        why="Key Vault believes any OpenID issuer with a DigiCert certificate. Whoever runs it says who "
        "opens the key.",
        remedy="name an endpoint under attest.azure.net",
        source=GRAMMAR,
        check=_shown(_foreign, "is not Azure Attestation: whoever runs it opens the key"),
    ),
    Rule(
        id="JH-AZ-027",
        severity=Severity.ERROR,
        title="an own attestation provider whose policy is not pinned",
        why="A provider's policy decides which claims its tokens have, and its owner can change it.",
        remedy="pin x-ms-policy-hash, or a member of x-ms-policy-signer, in every alternative",
        source=f"{CLAIM_SETS}; {EXAMPLES} (containers)",
        check=_unpinned,
    ),
    Rule(
        id="JH-AZ-028",
        severity=Severity.NOTE,
        title="the policy hash of a shared endpoint is pinned",
        why="The policy of a shared endpoint is Microsoft's: when it changes, the key no longer opens.",
        remedy="pin the policy of an own provider, or let the claims decide",
        source=CLAIM_SETS,
        check=_hash_of_shared,
    ),
    Rule(
        id="JH-AZ-029",
        severity=Severity.WARNING,
        title="more endpoints than are in use",
        why="Every endpoint is one more party whose word opens the key. Samples list all regions of Azure.",
        remedy="keep those of the regions where stages run",
        source="Azure/confidential-computing-cvm-guest-attestation: public_SKR_policy-datadisk.json, read "
        "2026-11",
        check=_many,
    ),
    Rule(
        id="JH-AZ-030",
        severity=Severity.WARNING,
        title="TDX at an endpoint that is not listed for it",
        why="Microsoft's disk policy has only sevsnpvm for this endpoint, so no token may meet this "
        "alternative.",
        remedy="use sevsnpvm there, or another region",
        source=DISK_POLICY,
        check=_no_tdx,
    ),
)
