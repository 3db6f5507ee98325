"""Would Key Vault release? On real tokens, on tokens minted under a throw-away root, and by a small model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
import real
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import policies

from jewelhouse.evidence import maa
from jewelhouse.evidence.verdict import Endorsements, Kind, Verdict
from jewelhouse.model import Cloud, Platform, Tee
from jewelhouse.rehearsal.minting_tokens import (
    ISSUED,
    MAA_ISSUER,
    MaaAuthority,
    container_claims,
    guest_claims,
    jwk_rsa,
    platform_claims,
    put,
    rsa_key,
)
from jewelhouse.release import azure, documents
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Decision, Request, evaluate
from jewelhouse.release.evaluate import azure as evaluator
from jewelhouse.release.evaluate.azure import encryption_key
from jewelhouse.release.policy import ReleasePolicy

NESTED = "x-ms-isolation-tee"
OTHER_ISSUER = "https://sharedneu.neu.attest.azure.net"
GOOD_HOSTDATA, OTHER_HOSTDATA = "fe" * 32, "ab" * 32


def equals(claim: str, value: object) -> dict[str, object]:
    return {"claim": claim, "equals": value}


def policy(*conditions: Any, authority: str = MAA_ISSUER, kind: str = "allOf") -> dict[str, Any]:
    return {"version": "1.0.0", "anyOf": [{"authority": authority, kind: list(conditions)}]}


def document(body: Any, name: str = "policy.json") -> Document:
    return Document(name=name, cloud=Cloud.AZURE, body=body)


def decided(body: Any, verdict: Verdict | None, at: datetime | None = None) -> Decision:
    moment = at or (verdict.at if verdict is not None else ISSUED)
    return evaluate(document(body), verdict, Request(at=moment))


def said(decision: Decision) -> str:
    """Everything that a decision says, on one line per clause."""
    return "\n".join(
        f"{one.where} {one.claim} expected {one.expected} found {one.found} {one.what}"
        for one in decision.because
    )


# Real tokens ------------------------------------------------------------------------------------------------


def cvm(at: timedelta | None = timedelta(minutes=1)) -> Verdict:
    """The token of a confidential VM, at its `iat` and a little."""
    data = real.evidence("azure-maa/tvl-sharedweu-cvm.jwt")
    saved = Endorsements(files=(real.evidence("azure-maa/sharedweu-certs-snapshot.jsonc"),))
    issued = datetime(2022, 12, 23, 23, 0, 18, tzinfo=UTC)
    return maa.verify(data, at=None if at is None else issued + at, endorsements=saved)


def published(name: str, authority: str | None = None) -> Document:
    text = real.evidence(f"azure-maa/policies/{name}.json").decode()
    if authority is not None:
        text = re.sub(r"https://<[^\"]*", authority, text)
    return documents.read(text, name)


FLAT_TEMPLATES = ("vm-releasePolicyTemplate", "attestation-samples-release")


class TestRealTokens:
    def test_microsoft_s_default_policy_releases_to_a_vm_of_west_europe(self) -> None:
        verdict = cvm()
        assert verdict.verified, verdict.problems
        found = evaluate(published("public_SKR_policy-datadisk"), verdict, Request(at=verdict.at))
        assert found.released
        assert [(one.where, one.found) for one in found.because] == [
            ("anyOf[10].authority", MAA_ISSUER),
            ("anyOf[10].allOf[0].anyOf[0]", "sevsnpvm"),
            ("anyOf[10].allOf[1]", "azure-compliant-cvm"),
            ("evidence", "TpmEphemeralEncryptionKey"),
        ]
        assert all(one.holds for one in found.because)
        assert found.because[0].expected == f"{MAA_ISSUER}/", "the slash of the policy is shown"
        assert "trailing slash" in found.because[0].what

    def test_the_same_token_a_second_after_it_ended_is_denied(self) -> None:
        verdict = cvm(timedelta(hours=8, seconds=1))
        found = evaluate(published("public_SKR_policy-datadisk"), verdict, Request(at=verdict.at))
        assert not found.released
        assert "expired" in said(found)

    def test_a_token_that_verified_then_is_not_good_for_a_request_today(self) -> None:
        later = datetime(2026, 11, 1, tzinfo=UTC)
        found = evaluate(published("public_SKR_policy-datadisk"), cvm(), Request(at=later))
        assert not found.released
        assert "expired at the time of the request" in said(found)

    def test_a_token_whose_key_nobody_saved_is_denied_whatever_it_claims(self) -> None:
        verdict = maa.verify(real.evidence("azure-maa/ms-aks-cvm-sharedwus.jwt"), at=None)
        found = evaluate(published("public_SKR_policy-datadisk"), verdict, Request(at=verdict.at))
        assert not found.released
        assert "could not be verified" in said(found)
        # Its claims alone would pass: its authority is among the 26.
        trusted = replace(verdict, verified=True, problems=())
        assert evaluate(published("public_SKR_policy-datadisk"), trusted, Request(at=verdict.at)).released

    @pytest.mark.parametrize("name", FLAT_TEMPLATES)
    def test_flat_claims_never_open_to_a_guest_s_token(self, name: str) -> None:
        verdict = cvm()
        found = evaluate(published(name, MAA_ISSUER), verdict, Request(at=verdict.at))
        assert not found.released
        assert "the token has no claim x-ms-compliance-status" in said(found)

    @pytest.mark.parametrize("name", FLAT_TEMPLATES)
    def test_a_template_s_placeholder_is_nobody_s_issuer(self, name: str) -> None:
        verdict = cvm()
        found = evaluate(published(name), verdict, Request(at=verdict.at))
        assert not found.released
        assert "none of the authorities is the issuer" in said(found)

    @pytest.mark.parametrize("name", ["public_SKR_policy-datadisk", *FLAT_TEMPLATES])
    @pytest.mark.parametrize("trusted", [False, True], ids=["as it is", "taken as signed"])
    def test_a_token_of_the_test_ring_without_runtime_keys_opens_nothing(
        self, name: str, trusted: bool
    ) -> None:
        verdict = maa.verify(real.evidence("azure-maa/ms-sevsnpvm-testring.jwt"), at=None)
        assert not verdict.verified
        if trusted:
            verdict = replace(verdict, verified=True, problems=())
        found = evaluate(
            published(name, "https://sharedweu.weu.test.attest.azure.net"), verdict, Request(at=verdict.at)
        )
        assert not found.released
        assert ("no encryption key" in said(found)) is trusted

    def test_even_a_policy_that_names_the_test_ring_needs_an_encryption_key(self) -> None:
        verdict = maa.verify(real.evidence("azure-maa/ms-sevsnpvm-testring.jwt"), at=None)
        verdict = replace(verdict, verified=True, problems=())
        body = policy(
            equals("x-ms-sevsnpvm-is-debuggable", "false"),
            authority="https://sharedweu.weu.test.attest.azure.net",
        )
        found = decided(body, verdict)
        assert not found.released
        assert [one.claim for one in found.because] == ["x-ms-runtime.keys"]

    def test_claims_of_a_container_without_jwks_in_x_ms_runtime_open_nothing(self) -> None:
        # ACI, 2023: x-ms-runtime has a publicKey, not an array of keys.
        claims = json.loads(real.evidence("azure-maa/uid2-aci-claims.json"))
        verdict = Verdict(kind=Kind.MAA, verified=True, debug=False, at=ISSUED, claims=claims)
        body = policy(
            equals("x-ms-sevsnpvm-hostdata", claims["x-ms-sevsnpvm-hostdata"]), authority=claims["iss"]
        )
        found = decided(body, verdict)
        assert not found.released
        assert "nothing to wrap a released key to" in said(found)

    def test_the_kit_s_policy_for_a_vm_opens_to_a_real_vm(self) -> None:
        body = policy(
            equals(f"{NESTED}.x-ms-attestation-type", "sevsnpvm"),
            equals(f"{NESTED}.x-ms-compliance-status", "azure-compliant-cvm"),
            equals(f"{NESTED}.x-ms-sevsnpvm-is-debuggable", "false"),
            equals("secureboot", "true"),
        )
        found = decided(body, cvm())
        assert found.released
        assert found.proofs["image"] == "not-possible"
        assert found.proofs["debug-off"] == "enforced"

    REAL: Mapping[str, tuple[dict, str]] = {
        "another VM": (equals("x-ms-azurevm-vmid", "B958DC88-E41D-47F1-8D20-E57B6B7E9825"), "6506B531"),
        "a VM's id in lower case": (
            equals("x-ms-azurevm-vmid", "6506b531-1634-431e-99d2-42b7d3414ad0"),
            "differs in case alone",
        ),
        "a list of PCRs": (equals("x-ms-azurevm-attested-pcrs", "0"), "an array cannot be compared"),
        "an element of a list": (equals("x-ms-azurevm-attested-pcrs.0", "0"), "do not lead into arrays"),
        "an object as a whole": (equals(NESTED, "sevsnpvm"), "an object cannot be compared"),
        "below a claim that has no members": (equals("secureboot.on", "true"), "has no members"),
        "a misspelt claim": (equals(f"{NESTED}.x-ms-complience-status", "azure-compliant-cvm"), "no claim"),
        "a TDX machine": (equals(f"{NESTED}.x-ms-attestation-type", "tdxvm"), "found sevsnpvm"),
        "the guest's type where the TEE's is": (
            equals(f"{NESTED}.x-ms-attestation-type", "azurevm"),
            "found sevsnpvm",
        ),
        "hostdata of a container": (equals(f"{NESTED}.x-ms-sevsnpvm-hostdata", "fe" * 32), "found 0000"),
        "flat hostdata": (equals("x-ms-sevsnpvm-hostdata", "0" * 64), "no claim x-ms-sevsnpvm-hostdata"),
        "another provider's policy": (equals("x-ms-policy-hash", "abc"), "found wm9m"),
        "a higher security version": (
            {"claim": f"{NESTED}.x-ms-sevsnpvm-microcode-svn", "greater": 115},
            "found 115",
        ),
    }

    @pytest.mark.parametrize(("condition", "says"), REAL.values(), ids=REAL)
    def test_a_vm_that_is_not_what_the_policy_asks_for_is_denied(self, condition: dict, says: str) -> None:
        found = decided(policy(equals("secureboot", "true"), condition), cvm())
        assert not found.released
        assert says in said(found)
        assert [one.where for one in found.because if not one.holds] == ["anyOf[0].allOf[1]"]


# Minted tokens ----------------------------------------------------------------------------------------------


@cache
def authority(issuer: str = MAA_ISSUER) -> MaaAuthority:
    return MaaAuthority.new(issuer)


def minted(claims: Any, at: datetime | None = None) -> Verdict:
    """Verified under the throw-away root of its issuer, as far as it verifies."""
    own = authority(claims["iss"])
    return maa.verify(own.token(claims), at=at, endorsements=own.endorsements, roots=own.roots)


GUEST = policy(
    equals(f"{NESTED}.x-ms-attestation-type", "sevsnpvm"),
    equals(f"{NESTED}.x-ms-compliance-status", "azure-compliant-cvm"),
    equals(f"{NESTED}.x-ms-sevsnpvm-is-debuggable", "false"),
    equals("secureboot", "true"),
)
TDX = policy(
    equals(f"{NESTED}.x-ms-attestation-type", "tdxvm"),
    equals(f"{NESTED}.x-ms-compliance-status", "azure-compliant-cvm"),
    equals("secureboot", "true"),
)
CONTAINER = policy(
    equals("x-ms-attestation-type", "sevsnpvm"),
    equals("x-ms-compliance-status", "azure-compliant-uvm"),
    equals("x-ms-sevsnpvm-is-debuggable", "false"),
    equals("x-ms-sevsnpvm-vmpl", "0"),
    equals("x-ms-sevsnpvm-hostdata", GOOD_HOSTDATA),
)
DISK = azure.disk_policy("westeurope", Tee.SEV_SNP)


@pytest.mark.parametrize(
    ("body", "claims"),
    [
        pytest.param(GUEST, guest_claims(), id="a SEV-SNP VM"),
        pytest.param(TDX, guest_claims("tdxvm"), id="a TDX VM"),
        pytest.param(CONTAINER, container_claims(GOOD_HOSTDATA), id="a container group"),
        pytest.param(DISK, platform_claims(), id="the platform, for a disk"),
        pytest.param(azure.disk_policy("westeurope", Tee.TDX), platform_claims("tdxvm"), id="a TDX disk"),
    ],
)
def test_released_to_what_the_policy_describes(body: dict, claims: dict) -> None:
    verdict = minted(claims)
    assert verdict.verified, verdict.problems
    found = decided(body, verdict)
    assert found.released, said(found)
    assert all(one.holds for one in found.because)
    assert found.because[-1].found == claims["x-ms-runtime"]["keys"][0]["kid"]


ISOLATED = (NESTED, "x-ms-sevsnpvm-is-debuggable")
SIGNING = jwk_rsa(rsa_key("kek").public_key(), kid="sig", key_ops=["sign"], key_use="sig")
WRAPPING = jwk_rsa(rsa_key("kek").public_key(), kid="enc", key_ops=["encrypt"])
DENIED: Mapping[str, tuple[dict, dict, str]] = {
    "a debuggable VM": (GUEST, put(guest_claims(), {ISOLATED: True}), "found true"),
    "a debuggable container": (
        CONTAINER,
        put(container_claims(GOOD_HOSTDATA), {"x-ms-sevsnpvm-is-debuggable": True}),
        "x-ms-sevsnpvm-is-debuggable expected false found true",
    ),
    "another container policy": (CONTAINER, container_claims(OTHER_HOSTDATA), f"found {OTHER_HOSTDATA}"),
    "a VM's zero hostdata": (CONTAINER, container_claims("00" * 32), "found 0000"),
    "code below privilege level 0": (
        CONTAINER,
        put(container_claims(GOOD_HOSTDATA), {"x-ms-sevsnpvm-vmpl": 1}),
        "x-ms-sevsnpvm-vmpl expected 0 found 1",
    ),
    "a VM in place of a container": (
        CONTAINER,
        platform_claims(hostdata=GOOD_HOSTDATA),
        "expected azure-compliant-uvm found azure-compliant-cvm",
    ),
    "secure boot off": (GUEST, put(guest_claims(), {"secureboot": False}), "expected true found false"),
    "no secure boot claim": (GUEST, put(guest_claims(), {"secureboot": ...}), "no claim secureboot"),
    "not compliant": (
        GUEST,
        put(guest_claims(), {(NESTED, "x-ms-compliance-status"): ...}),
        "no claim x-ms-isolation-tee.x-ms-compliance-status",
    ),
    "another TEE": (GUEST, guest_claims("tdxvm"), "expected sevsnpvm found tdxvm"),
    "a container's token for a VM's policy": (GUEST, container_claims(), "no claim x-ms-isolation-tee"),
    "a guest's token for a container's policy": (
        CONTAINER,
        guest_claims(),
        "x-ms-attestation-type expected sevsnpvm found azurevm",
    ),
    "a guest's token for a disk": (DISK, guest_claims(), "no claim x-ms-compliance-status"),
    "the platform's token for an application": (GUEST, platform_claims(), "no claim x-ms-isolation-tee"),
    "another region": (GUEST, guest_claims(issuer=OTHER_ISSUER), "none of the authorities is the issuer"),
    "a custom provider of somebody": (
        GUEST,
        guest_claims(issuer="https://anybody.weu.attest.azure.net"),
        "none of the authorities is the issuer",
    ),
    "no key to wrap to": (GUEST, guest_claims(kek=None), "no encryption key"),
    "no x-ms-runtime": (GUEST, put(guest_claims(), {"x-ms-runtime": ...}), "no encryption key"),
    "a key for signatures": (
        GUEST,
        put(guest_claims(), {("x-ms-runtime", "keys"): [SIGNING]}),
        "no encryption key",
    ),
    "an encryption key without kid": (
        GUEST,
        put(
            guest_claims(),
            {("x-ms-runtime", "keys"): [{k: v for k, v in WRAPPING.items() if k != "kid"}]},
        ),
        "it has no kid",
    ),
    "a broken first key before a good one": (
        GUEST,
        put(guest_claims(), {("x-ms-runtime", "keys"): [{**WRAPPING, "n": "AQAB"}, WRAPPING]}),
        "its modulus has 17 bits",
    ),
    # 2022: the vTPM's key HCLAkPub has key_ops "encrypt"; 2025: HCLEkPub has it.
    "only the vTPM's keys are for encryption": (
        GUEST,
        put(guest_claims(kek=None), {(NESTED, "x-ms-runtime", "keys"): [WRAPPING]}),
        "no encryption key",
    ),
}


@pytest.mark.parametrize(("body", "claims", "says"), DENIED.values(), ids=DENIED)
def test_denied_what_the_policy_does_not_describe(body: dict, claims: dict, says: str) -> None:
    verdict = minted(claims)
    assert verdict.verified, verdict.problems
    found = decided(body, verdict)
    assert not found.released
    assert says in said(found)


def test_a_key_named_by_use_after_one_for_signatures_is_taken() -> None:
    named = {k: v for k, v in WRAPPING.items() if k != "key_ops"} | {"key_use": "enc"}
    found = decided(GUEST, minted(put(guest_claims(), {("x-ms-runtime", "keys"): [SIGNING, named]})))
    assert found.released
    assert found.because[-1].claim == "x-ms-runtime.keys[1]"


class TestTheEvidenceItself:
    """Whatever the policy says."""

    def test_none(self) -> None:
        assert "there is none" in said(decided(GUEST, None))

    def test_changed_after_it_was_signed(self) -> None:
        own = authority()
        head, _, signature = own.token(guest_claims()).split(b".")
        _, claims, _ = own.token(put(guest_claims(), {"secureboot": True, "extra": 1})).split(b".")
        forged = maa.verify(
            b".".join((head, claims, signature)), at=None, endorsements=own.endorsements, roots=own.roots
        )
        found = decided(GUEST, forged)
        assert not found.released
        assert "could not be verified" in said(found)

    def test_signed_under_a_foreign_root(self) -> None:
        own = authority()
        verdict = maa.verify(own.token(guest_claims()), at=None, endorsements=own.endorsements)
        assert not decided(GUEST, verdict).released

    def test_unverified_even_when_the_evaluator_is_asked_directly(self) -> None:
        verdict = replace(minted(guest_claims()), verified=False)
        found = evaluator.evaluate(document(GUEST), verdict, Request(at=verdict.at))
        assert not found.released
        assert "could not be verified" in said(found)

    def test_not_yet_valid(self) -> None:
        verdict = minted(guest_claims())
        found = decided(GUEST, verdict, at=ISSUED - timedelta(seconds=1))
        assert not found.released
        assert "not yet valid" in said(found)

    @pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.MAA])
    def test_of_another_kind(self, kind: Kind) -> None:
        found = decided(GUEST, replace(minted(guest_claims()), kind=kind))
        assert not found.released
        assert "Key Vault reads tokens of Azure Attestation" in said(found)

    @pytest.mark.parametrize("issuer", [None, 7, "", "http://sharedweu.weu.attest.azure.net"])
    def test_of_no_issuer(self, issuer: object) -> None:
        verdict = minted(guest_claims())
        claims = {**verdict.claims, "iss": issuer}
        assert not decided(GUEST, replace(verdict, claims=claims)).released


# The grammar ------------------------------------------------------------------------------------------------

CLAIMS: Mapping[str, Any] = {
    "iss": MAA_ISSUER,
    "x-ms-runtime": {"keys": [WRAPPING]},
    "text": "abc",
    "digits": "7",
    "yes": True,
    "no": False,
    "textual": "false",
    "zero": 0,
    "svn": 115,
    "part": 1.5,
    "none": None,
    "list": [1, 2],
    "a": {"b": {"c": "deep"}, "b.c": "dotted"},
    "a.d": "dotted",
}


def hypothetical(claims: Mapping[str, Any] = CLAIMS) -> Verdict:
    return Verdict(kind=Kind.MAA, verified=True, debug=False, at=ISSUED, claims=claims)


@pytest.mark.parametrize(
    ("claim", "operator", "value", "met"),
    [
        ("text", "equals", "abc", True),
        ("text", "equals", "ABC", False),
        ("text", "equals", "abcd", False),
        ("no", "equals", "false", True),
        ("no", "equals", False, True),
        ("no", "equals", "False", False),
        ("no", "equals", 0, False),
        ("no", "equals", "", False),
        ("yes", "equals", 1, False),
        ("yes", "equals", "1", False),
        ("textual", "equals", False, True),
        ("zero", "equals", "0", True),
        ("zero", "equals", 0, True),
        ("zero", "equals", False, False),
        ("zero", "equals", "00", False),
        ("svn", "equals", 115.0, True),
        ("svn", "equals", "115.0", False),
        ("digits", "equals", 7, True),
        ("none", "equals", "null", False),
        ("none", "equals", "", False),
        ("list", "equals", "1", False),
        ("a", "equals", "deep", False),
        ("a.b.c", "equals", "deep", True),
        ("a.d", "equals", "dotted", False),
        ("missing", "equals", "x", False),
        ("text", "notEquals", "x", True),
        ("text", "notEquals", "ABC", False),
        ("svn", "notEquals", "115.0", False),
        ("missing", "notEquals", "x", False),
        ("list", "notEquals", "x", False),
        ("svn", "less", 116, True),
        ("svn", "less", 115, False),
        ("svn", "lessOrEquals", 115, True),
        ("svn", "lessOrEquals", "114", False),
        ("svn", "greater", 114, True),
        ("svn", "greater", "115", False),
        ("svn", "greaterOrEquals", "115", True),
        ("svn", "greaterOrEquals", 116, False),
        ("digits", "greaterOrEquals", 10, False),
        ("part", "greater", 1, True),
        ("text", "greater", 0, False),
        ("yes", "greaterOrEquals", 0, False),
        ("missing", "less", 1, False),
        ("text", "exists", "true", True),
        ("none", "exists", "true", False),
        ("list", "exists", "true", False),
        ("missing", "exists", "true", False),
        ("missing", "exists", "false", False),
        ("text", "exists", "false", False),
    ],
)
def test_one_condition(claim: str, operator: str, value: object, met: bool) -> None:
    found = decided(policy({"claim": claim, operator: value}), hypothetical())
    assert found.released is met
    reason = next(one for one in found.because if one.where == "anyOf[0].allOf[0]")
    assert reason.claim == claim
    assert reason.holds is met
    if operator != "equals":
        assert "only equals is allowed today" in reason.what


@pytest.mark.parametrize(("policy_value", "token_value"), [("false", False), ("0", 0), (False, "false")])
def test_a_comparison_across_types_is_said(policy_value: object, token_value: object) -> None:
    found = decided(policy(equals("x", policy_value)), hypothetical({**CLAIMS, "x": token_value}))
    assert found.released
    assert "compared by its text" in found.because[1].what
    assert "importkeyconfig.json" in found.because[1].what
    assert not decided(policy(equals("text", "abc")), hypothetical()).because[1].what


@pytest.mark.parametrize(
    ("written", "matches"),
    [
        (MAA_ISSUER, True),
        (f"{MAA_ISSUER}/", True),
        (MAA_ISSUER.upper(), True),
        (MAA_ISSUER.removeprefix("https://"), True),
        (f"{MAA_ISSUER}//", False),
        (f"{MAA_ISSUER}/attest", False),
        (f"{MAA_ISSUER}:443", False),
        (f"{MAA_ISSUER}.evil.org", False),
        (f"{MAA_ISSUER}\n", False),
        (f" {MAA_ISSUER}", False),
        (MAA_ISSUER.replace("https", "http"), False),
        (MAA_ISSUER.replace("https://", "https://x@"), False),
        (MAA_ISSUER.replace(".weu.", ".weu.test."), False),
        (MAA_ISSUER.replace("sharedweu", "\u017fharedweu"), False),
        ("attest.azure.net", False),
        ("https://*.attest.azure.net", False),
    ],
)
def test_an_authority_matches_its_issuer_alone(written: str, matches: bool) -> None:
    assert decided(policy(equals("text", "abc"), authority=written), hypothetical()).released is matches


YES, NO = equals("text", "abc"), equals("text", "x")


@pytest.mark.parametrize(
    ("part", "met"),
    [
        ({"allOf": [YES, YES]}, True),
        ({"allOf": [YES, NO]}, False),
        ({"anyOf": [NO, YES]}, True),
        ({"anyOf": [NO, NO]}, False),
        ({"allOf": [YES, {"anyOf": [NO, {"allOf": [YES, YES]}]}]}, True),
        ({"allOf": [YES, {"anyOf": [NO, {"allOf": [YES, NO]}]}]}, False),
        ({"anyOf": [{"allOf": [NO]}, {"anyOf": [{"allOf": [YES]}]}]}, True),
    ],
)
def test_groups_nest(part: dict, met: bool) -> None:
    body = {"version": "1.0.0", "anyOf": [{"authority": MAA_ISSUER, **part}]}
    assert decided(body, hypothetical()).released is met
    assert decided(policy(part), hypothetical()).released is met


def test_any_of_several_entries_of_one_authority_is_enough() -> None:
    body = policy(NO)
    body["anyOf"].append({"authority": MAA_ISSUER, "allOf": [YES]})
    found = decided(body, hypothetical())
    assert found.released
    assert found.because[0].where == "anyOf[1].authority"


OUTSIDE: Mapping[str, tuple[Any, str]] = {
    "a root allOf, as in a published example": (
        {"version": "1.0.0", "allOf": policy(YES)["anyOf"]},
        "allOf",
    ),
    "anyOf and allOf at the root": ({**policy(YES), "allOf": policy(YES)["anyOf"]}, "allOf"),
    "no version": ({"anyOf": policy(YES)["anyOf"]}, "version"),
    "another version": ({**policy(YES), "version": "1.0.1"}, "version"),
    "a version that is a number": ({**policy(YES), "version": 1.0}, "version"),
    "an unknown member of the document": ({**policy(YES), "effect": "allow"}, "effect"),
    "no entries": ({"version": "1.0.0", "anyOf": []}, "anyOf"),
    "an entry without authority": ({"version": "1.0.0", "anyOf": [{"allOf": [YES]}]}, "anyOf[0]"),
    "an entry without conditions": (
        {"version": "1.0.0", "anyOf": [{"authority": MAA_ISSUER}]},
        "anyOf[0]",
    ),
    "an empty allOf, which would hold": (policy(), "anyOf[0].allOf"),
    "both allOf and anyOf": (
        {"version": "1.0.0", "anyOf": [{"authority": MAA_ISSUER, "allOf": [YES], "anyOf": [YES]}]},
        "anyOf[0]",
    ),
    "a misspelt group": (
        {"version": "1.0.0", "anyOf": [{"authority": MAA_ISSUER, "anyof": [YES]}]},
        "anyOf[0].anyof",
    ),
    "an unknown operator": (policy({"claim": "text", "like": "abc"}), "anyOf[0].allOf[0].like"),
    "an operator in another case": (policy({"claim": "text", "Equals": "abc"}), "anyOf[0].allOf[0].Equals"),
    "an unknown operator in another entry": (
        {
            "version": "1.0.0",
            "anyOf": [
                *policy(YES)["anyOf"],
                {"authority": OTHER_ISSUER, "allOf": [{"claim": "text", "in": "abc"}]},
            ],
        },
        "anyOf[1].allOf[0].in",
    ),
    "two operators": (policy({"claim": "text", "equals": "abc", "exists": "true"}), "anyOf[0].allOf[0]"),
    "no operator": (policy({"claim": "text"}), "anyOf[0].allOf[0]"),
    "a condition with a group in it": (policy({**YES, "anyOf": [YES]}), "anyOf[0].allOf[0].claim"),
    "a list of values": (policy(equals("text", ["abc"])), "anyOf[0].allOf[0]"),
    "null as value": (policy(equals("none", None)), "anyOf[0].allOf[0]"),
    "infinity as value": (policy(equals("svn", float("inf"))), "anyOf[0].allOf[0]"),
    "an element of a list": (policy(equals("list[0]", "1")), "anyOf[0].allOf[0]"),
    "an empty claim": (policy(equals("", "abc")), "anyOf[0].allOf[0]"),
    "a claim that is no text": (policy(equals(7, "abc")), "anyOf[0].allOf[0]"),  # type: ignore[arg-type]
    "a text in place of a condition": (policy("text"), "anyOf[0].allOf[0]"),
    "an array as the document": ([YES], "$"),
}


@pytest.mark.parametrize(("body", "where"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_document_outside_the_grammar_releases_nothing(body: Any, where: str) -> None:
    found = decided(body, hypothetical())
    assert not found.released
    assert where in [one.where for one in found.because]
    assert "outside the grammar" in found.because[-1].what


class TestWhatADenialSays:
    def test_of_several_alternatives_the_nearest(self) -> None:
        near = {"allOf": [YES, YES, NO]}
        far = {"allOf": [NO, equals("svn", "1")]}
        found = decided(policy({"anyOf": [far, near]}), hypothetical())
        assert [one.where for one in found.because if not one.holds] == [
            "anyOf[0].allOf[0].anyOf[1].allOf[2]"
        ]

    def test_the_authority_that_matched_comes_first(self) -> None:
        found = decided(policy(NO), hypothetical())
        assert found.because[0].where == "anyOf[0].authority"
        assert found.because[0].holds

    def test_of_many_authorities_a_few(self) -> None:
        body = policy(YES, authority=OTHER_ISSUER)
        body["anyOf"] *= 26
        found = decided(body, hypothetical())
        assert len(found.because) < 8
        assert "among 26" in said(found)

    def test_an_expected_and_a_found_value(self) -> None:
        reason = decided(policy(equals("svn", "116")), hypothetical()).because[-1]
        assert (reason.where, reason.claim, reason.expected, reason.found) == (
            "anyOf[0].allOf[0]",
            "svn",
            "116",
            "115",
        )

    def test_a_claim_with_dots_in_its_name_cannot_be_named(self) -> None:
        assert "dots in its name" in said(decided(policy(equals("a.d", "dotted")), hypothetical()))


@pytest.mark.parametrize(
    ("body", "claims", "proofs"),
    [
        (CONTAINER, container_claims(GOOD_HOSTDATA), {"image": "enforced", "config": "enforced"}),
        (GUEST, guest_claims(), {"image": "not-possible", "gpu": "not-possible", "genuine": "enforced"}),
        (
            policy(equals("x-ms-attestation-type", "sevsnpvm")),
            container_claims(GOOD_HOSTDATA),
            {"image": "weakened", "debug-off": "weakened", "genuine": "weakened"},
        ),
    ],
    ids=["a container by its hostdata", "a VM", "nothing but the type"],
)
def test_a_release_says_what_was_proven(body: dict, claims: dict, proofs: dict[str, str]) -> None:
    found = decided(body, minted(claims))
    assert found.released
    assert {name: found.proofs[name] for name in proofs} == proofs


# The key that is wrapped to is found as the verifier reports it ---------------------------------------------

MEMBERS = {
    "kty": ["RSA", "EC", None],
    "key_ops": [["encrypt"], ["sign"], "encrypt", None],
    "key_use": ["enc", "sig", None],
    "n": [WRAPPING["n"], "AQAB", "", None],
}


@settings(max_examples=150, deadline=None)
@given(
    keys=st.lists(
        st.fixed_dictionaries({name: st.sampled_from(values) for name, values in MEMBERS.items()}).map(
            lambda found: {"kid": "k", "e": "AQAB"} | {k: v for k, v in found.items() if v is not None}
        ),
        max_size=3,
    )
)
def test_the_encryption_key_is_the_one_that_verification_names(keys: list[dict]) -> None:
    claims = {"x-ms-runtime": {"keys": keys}}
    ours, theirs = encryption_key(claims), maa.release_key(claims)
    if ours.holds:
        assert theirs is not None
        assert theirs.where == ours.claim


# Model and evaluator ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine in Azure is, in the words of nobody's grammar."""

    container: bool
    tee: str = "sevsnpvm"
    region: str = MAA_ISSUER
    debug: bool = False
    secure_boot: bool = True
    compliant: bool = True
    level: int = 0
    hostdata: str = GOOD_HOSTDATA
    kek: bool = True

    def claims(self) -> dict[str, Any]:
        kek = "a-key" if self.kek else None
        if self.container:
            changes: dict[Any, Any] = {
                "x-ms-sevsnpvm-is-debuggable": self.debug,
                "x-ms-sevsnpvm-vmpl": self.level,
                **({} if self.compliant else {"x-ms-compliance-status": ...}),
            }
            return put(container_claims(self.hostdata, issuer=self.region, kek=kek), changes)
        compliance = (NESTED, "x-ms-compliance-status")
        debug = "x-ms-sevsnpvm-is-debuggable" if self.tee == "sevsnpvm" else "tdx_td_attributes_debug"
        # A debuggable TD is not compliant: attestation does not say so of it.
        compliant = self.compliant and not (self.debug and self.tee == "tdxvm")
        return put(
            guest_claims(self.tee, issuer=self.region, kek=kek),
            {
                (NESTED, debug): self.debug,
                "secureboot": self.secure_boot,
                **({} if compliant else {compliance: ...}),
            },
        )


def opens(policy: ReleasePolicy, machine: Machine) -> bool:
    """Whether a gate describes the machine. West Europe is where the made policies have their keys."""
    if not machine.kek or machine.debug or not machine.compliant or machine.region != MAA_ISSUER:
        return False
    for gate in policy.gates:
        if machine.container is not (gate.platform is Platform.AZURE_CONTAINER):
            continue
        if machine.container:
            pinned = {found["hostdata"] for found in gate.measurements}
            if machine.level == 0 and machine.hostdata in pinned:
                return True
        elif machine.secure_boot and machine.tee == {Tee.TDX: "tdxvm"}.get(gate.tee, "sevsnpvm"):
            return True
    return False


@st.composite
def situations(draw: st.DrawFn) -> tuple[ReleasePolicy, Machine]:
    """A policy, and a machine that is what it describes or differs in one or two things."""
    policy = draw(policies((Platform.AZURE_CVM, Platform.AZURE_CONTAINER)))
    gate = draw(st.sampled_from(policy.gates))
    machine = Machine(
        container=gate.platform is Platform.AZURE_CONTAINER,
        tee="tdxvm" if gate.tee is Tee.TDX else "sevsnpvm",
        hostdata=draw(st.sampled_from([found["hostdata"] for found in gate.measurements] or ["00" * 32])),
    )
    changes: list[dict[str, Any]] = [
        {"debug": True},
        {"secure_boot": False},
        {"compliant": False},
        {"level": 1},
        {"hostdata": OTHER_HOSTDATA},
        {"hostdata": "00" * 32},
        {"region": OTHER_ISSUER},
        {"kek": False},
        {"container": not machine.container, "tee": "sevsnpvm"},
    ]
    if not machine.container:
        changes.append({"tee": "sevsnpvm" if machine.tee == "tdxvm" else "tdxvm"})
    for change in draw(st.lists(st.sampled_from(changes), max_size=2)):
        machine = replace(machine, **change)
    return policy, replace(machine, tee="sevsnpvm") if machine.container else machine


@settings(max_examples=150, deadline=None)
@given(situation=situations())
def test_a_policy_releases_exactly_what_its_gates_describe(situation: tuple[ReleasePolicy, Machine]) -> None:
    policy, machine = situation
    verdict = minted(machine.claims())
    assert verdict.verified, verdict.problems
    found = decided(azure.compile(policy), verdict)
    assert found.released is opens(policy, machine), said(found)


@settings(max_examples=100, deadline=None)
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.floats() | st.sampled_from(["1.0.0", MAA_ISSUER, "text", "abc"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["version", "anyOf", "allOf", "authority", "claim", "equals", "less", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=15,
    ),
    claims=st.dictionaries(
        st.sampled_from(["iss", "x-ms-runtime", "text"]),
        st.recursive(
            st.none() | st.booleans() | st.text(max_size=3) | st.just(MAA_ISSUER),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["keys", "n", "kty", "key_ops"]), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    ),
)
def test_nothing_made_of_rubbish_is_released_and_nothing_crashes(body: Any, claims: dict) -> None:
    assert not decided(body, hypothetical(claims)).released
