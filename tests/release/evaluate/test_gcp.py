"""Would Cloud KMS release the key to this token? Every mistake by its name."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from google_cases import (
    AT,
    CONTAINER,
    DIGEST,
    GCE,
    GPU,
    OTHER,
    POOL,
    SUPPORT,
    VM,
    Body,
    asked,
    authority,
    body,
    bound,
    by_hand,
    compiled,
    condition,
    debug,
    gate,
    images,
    mapped,
    shown,
    stands,
    token,
    vm,
)

from jewelhouse.evidence import confidential_space
from jewelhouse.evidence.verdict import Finding, Kind
from jewelhouse.model import GcpAccount, Tee
from jewelhouse.rehearsal.minting_tokens import ISSUED, put
from jewelhouse.release import gcp

pytest.importorskip("cel_expr_python")


@pytest.mark.parametrize("flavour", ["pki", "oidc"])
def test_the_stage_that_the_gate_describes(flavour: str) -> None:
    decision = asked(compiled(gate()), shown(token(), flavour))
    assert decision.released
    assert all(one.holds for one in decision.because)
    said = {one.where: (one.claim, one.expected, one.found) for one in decision.because}
    assert said["condition[2]"] == ("assertion.dbgstat", "disabled-since-boot", "disabled-since-boot")
    assert said["condition[4]"] == ("assertion.submods.container.cmd_override", "absent or empty", "absent")
    assert said["bindings[0]"] == ("attribute.image_digest", DIGEST, DIGEST)
    assert json.dumps(decision.json())


GOOD: Mapping[str, tuple[Body, Mapping[str, Any]]] = {
    "the image that is rolled out of": (
        compiled(gate(measurements=images(OTHER, DIGEST))),
        token(),
    ),
    "one of two stages": (
        compiled(gate(), gate("tune", account=GcpAccount(project="op-tune", number="1"),
                              identity="flow-tune@op-tune.iam.gserviceaccount.com")),
        token(),
    ),
    "a stage with a confidential GPU": (compiled(gate(gpu="H100")), token(gpu=True)),
    "SEV": (compiled(gate(tee=Tee.SEV)), token(hwmodel="GCP_AMD_SEV")),
    "empty overrides": (
        compiled(gate()),
        put(token(), {(*CONTAINER, "env_override"): {}, (*CONTAINER, "cmd_override"): []}),
    ),
    "an image that aged from LATEST": (compiled(gate()), put(token(), {SUPPORT: ["STABLE", "USABLE"]})),
    "a plain Confidential VM where the gate asks for one": (compiled(gate(platform=VM)), vm()),
    "an audience among others": (
        body(audiences=["https://example.com", "https://sts.googleapis.com"]), token()
    ),
    "a token with several audiences": (
        compiled(gate()), {**token(), "aud": ["https://example.com", "https://sts.googleapis.com"]}
    ),
    "an issuer without the slash": (body(issuer="https://confidentialcomputing.googleapis.com"), token()),
    "a member with its pool": (
        body(bound(f"principalSet://{POOL}/attribute.image_digest/{DIGEST}")), token()
    ),
    "the whole pool": (body(bound(f"principalSet://{POOL}/*")), token()),
    "one subject": (
        body(bound(f"principal://{POOL}/subject/gcpcs::{DIGEST}::724467010559::3087957179640521392")),
        token(),
    ),
    "extract of a claim": (
        body(mapped(project="assertion.sub.extract('/projects/{name}/')"), bound("attribute.project/mp-run")),
        token(),
    ),
    "a condition on a mapped attribute": (
        body(condition(f"attribute.image_digest == '{DIGEST}' && google.subject.startsWith('gcpcs::')")),
        token(),
    ),
    "the published signature clause": (
        body(condition(
            "['ECDSA_P256_SHA256:ab'].exists(s, s in assertion.submods.container.image_signatures"
            ".map(sig, sig.signature_algorithm+':'+sig.key_id))")),
        put(token(), {(*CONTAINER, "image_signatures"): [
            {"key_id": "ab", "signature": "c2ln", "signature_algorithm": "ECDSA_P256_SHA256"}]}),
    ),
    "a licence that still runs": (
        compiled(gate(not_after=AT + timedelta(days=1))), token()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_released(name: str) -> None:
    document, claims = GOOD[name]
    decision = asked(document, shown(claims))
    assert decision.released, [one.json() for one in decision.because if not one.holds]


BAD_TOKENS: Mapping[str, tuple[Mapping[str, Any], str, str]] = {
    "the debug image with the same digest": (debug(), "condition[2]", "disabled-since-boot enabled"),
    "the debug image, by its absent attributes": (
        debug(), "condition[1]", "claim assertion.submods.confidential_space.support_attributes is absent"
    ),
    "a debug image that shows STABLE": (
        put(debug(), {SUPPORT: ["STABLE"]}), "condition[2] assertion.dbgstat", "enabled"
    ),
    "an experimental image": (put(token(), {SUPPORT: ["EXPERIMENTAL"]}), "condition[1]", "EXPERIMENTAL"),
    "an image out of support": (put(token(), {SUPPORT: []}), "condition[1]", "a list with STABLE"),
    "support attributes of null, as in 2023": (put(token(), {SUPPORT: None}), "condition[1]", "null"),
    "a plain Confidential VM": (vm(), "condition[0]", "CONFIDENTIAL_SPACE GCE"),
    "a plain Confidential VM, its subject": (
        vm(), "mapping.google.subject", "claim assertion.submods.container is absent"
    ),
    "a Shielded VM": (
        put(token(), {"hwmodel": "GCP_SHIELDED_VM"}), "condition[6] assertion.hwmodel", "GCP_SHIELDED_VM"
    ),
    "another technology": (token(hwmodel="GCP_AMD_SEV"), "condition[6]", "GCP_INTEL_TDX GCP_AMD_SEV"),
    "Secure Boot off": (put(token(), {"secboot": False}), "condition[3]", "true false"),
    "Secure Boot as a text": (put(token(), {"secboot": "true"}), "condition[3]", "secboot"),
    "another image": (token(digest=OTHER), "condition[10]", OTHER),
    "another project": (token(project="stranger"), "condition[7]", "mp-run stranger"),
    "a project of the same name and another number": (token(number="1"), "condition[8]", "724467010559 1"),
    "another service account": (
        token(account="mallory@mp-run.iam.gserviceaccount.com"), "condition[9]", "mallory"
    ),
    "service accounts as a text": (
        put(token(), {"google_service_accounts": "flow-serve@mp-run.iam.gserviceaccount.com"}),
        "condition[9]", "",
    ),
    "an overridden environment": (
        put(token(), {(*CONTAINER, "env_override"): {"LD_PRELOAD": "/tmp/x.so"}}),
        "condition[5]", 'absent or empty {"LD_PRELOAD"',
    ),
    "an overridden command": (
        put(token(), {(*CONTAINER, "cmd_override"): ["/bin/sh"]}), "condition[4]", "/bin/sh"
    ),
    "overrides of null, as in 2023": (
        put(token(), {(*CONTAINER, "env_override"): None}), "condition[5]", "null"
    ),
    "no container at all": (put(token(), {CONTAINER: ...}), "condition[10]", "is absent"),
    "no instance": (
        put(token(), {(*GCE, "instance_id"): ...}), "mapping.google.subject", "instance_id is absent"
    ),
    "no hwmodel": (put(token(), {"hwmodel": ...}), "condition[6]", "claim assertion.hwmodel is absent"),
    "no dbgstat": (put(token(), {"dbgstat": ...}), "condition[2]", "claim assertion.dbgstat is absent"),
    "a token for another audience": (
        token(audience="https://relying-party.example.com"), "audiences", "https://sts.googleapis.com"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_denied_by_the_token(name: str) -> None:
    claims, where, says = BAD_TOKENS[name]
    verdict = shown(claims)
    # What the verifier takes for a problem of the evidence is denied before any policy is looked at.
    stands(asked(compiled(gate()), verdict if verdict.verified else by_hand(claims)), where, says)


GPU_TOKENS = {
    "no GPU": (token(), "claim assertion.submods.nvidia_gpu is absent"),
    "confidential mode off": (put(token(gpu=True), {(*GPU, "cc_mode"): "OFF"}), "ON OFF"),
    "developer mode": (put(token(gpu=True), {(*GPU, "cc_mode"): "DEVTOOLS"}), "ON DEVTOOLS"),
    "another GPU": (
        put(token(gpu=True), {(*GPU, "gpus"): [{"hwmodel": "GCP_NVIDIA_B200"}]}),
        "gpus.exists(gpu, gpu.hwmodel == 'GCP_NVIDIA_H100')",
    ),
    "no list of GPUs": (put(token(gpu=True), {(*GPU, "gpus"): []}), "gpus.exists"),
}


@pytest.mark.parametrize("name", GPU_TOKENS)
def test_denied_by_the_gpu(name: str) -> None:
    claims, says = GPU_TOKENS[name]
    stands(asked(compiled(gate(gpu="H100")), shown(claims)), "condition[1", says)


def test_each_stage_needs_its_own_image() -> None:
    """The image of one stage under the account of another meets neither alternative."""
    tune = gate("tune", measurements=images(OTHER))
    document = compiled(gate(), tune)
    assert asked(document, shown(token())).released
    decision = asked(document, shown(token(account="flow-tune@mp-run.iam.gserviceaccount.com")))
    stands(decision, "condition[6].any[0][3] assertion.google_service_accounts", "flow-tune@mp-run")
    assert [one.where for one in decision.because] == ["condition[6].any[0][3]"]


BAD_DOCUMENTS: Mapping[str, tuple[Body, str, str]] = {
    "another issuer": (body(issuer="https://accounts.google.com"), "issuer", "https://accounts.google.com"),
    "no issuer": (body(issuer=""), "issuer", ""),
    "no audience": (body(audiences=[]), "audiences", "the provider's own name"),
    "another audience": (body(audiences=["https://example.com"]), "audiences", "https://example.com"),
    "dbgstat 'enable', of Google's page": (
        body(condition("assertion.dbgstat == 'enable'")), "condition", "enable disabled-since-boot"
    ),
    "hwmodel 'INTEL_TDX', of Google's page": (
        body(condition("assertion.hwmodel == 'INTEL_TDX'")), "condition", "INTEL_TDX GCP_INTEL_TDX"
    ),
    "size() of an override that tokens leave out": (
        body(condition("size(assertion.submods.container.env_override) == 0")),
        "condition", "claim assertion.submods.container.env_override is absent",
    ),
    "a GPU clause for a token without one": (
        body(condition("assertion.submods.nvidia_gpu.cc_mode == 'ON'")),
        "condition", "claim assertion.submods.nvidia_gpu is absent",
    ),
    "a negated claim that is absent": (
        body(condition("!(assertion.submods.nvidia_gpu.cc_mode == 'OFF')")), "condition", "is absent"
    ),
    "has() below an absent object": (
        body(condition("!has(assertion.submods.nvidia_gpu.cc_mode)")), "condition", "nvidia_gpu is absent"
    ),
    "an error that is a truthy value": (body(condition("assertion.gone")), "condition", "gone is absent"),
    "a truthy text": (body(condition("assertion.swname")), "condition", "CONFIDENTIAL_SPACE"),
    "a number": (body(condition("size(assertion.swname)")), "condition", ""),
    "a misspelt variable": (body(condition("asertion.swname == 'x'")), "condition", "undeclared reference"),
    "a function that nobody declared": (
        body(condition("assertion.swname.lowerAscii() == 'x'")), "condition", "lowerAscii"
    ),
    "half a condition": (body(condition("assertion.swname ==")), "condition", "does not compile"),
    "a condition over the limit": (
        body(condition("true" + " || true" * 600)), "condition", "Google takes 4096"
    ),
    "a mapping over the limit": (body(mapped(x=f"'{2047 * 'x'}'")), "mapping.attribute.x", "takes 2048"),
    "brackets without end": (body(condition("(" * 300 + "true" + ")" * 300)), "condition", "not compile"),
    "loops in loops": (
        body(condition(functools.reduce(
            lambda inner, n: f"[1,2,3,4,5,6,7,8,9].all(x{n}, {inner})", range(9), "true"))),
        "condition", "budget",
    ),
    "no subject": (body(lambda found: found["mapping"].pop("google.subject")), "mapping", "google.subject"),
    "a subject over 127 bytes": (
        body(mapped(subject="assertion.sub + assertion.sub")), "mapping.google.subject", "1 to 127 bytes"
    ),
    "an empty subject": (body(mapped(subject="''")), "mapping.google.subject", "0 bytes"),
    "an error mapped as if it were a text": (
        body(mapped(gpu="assertion.submods.nvidia_gpu.cc_mode")), "mapping.attribute.gpu", "is absent"
    ),
    "signatures mapped": (
        body(mapped(signed="assertion.google_service_accounts.map(s, s)")), "mapping.attribute.signed", "list"
    ),
    "a boolean mapped": (body(mapped(boot="assertion.secboot")), "mapping.attribute.boot", "bool"),
    "groups that are a text": (
        body(lambda found: found["mapping"].update({"google.groups": "assertion.swname"})),
        "mapping.google.groups", "",
    ),
    "a name that Google does not know": (
        body(lambda found: found["mapping"].update({"attribute.Stage": "'x'"})), "mapping", "no attribute"
    ),
    "more mapped than 8 KB": (
        body(mapped(**{f"a{n}": "'" + "x" * 2000 + "'" for n in range(5)})), "mapping", "8192 bytes"
    ),
    "more than 50 attributes": (body(mapped(**{f"a{n}": "'x'" for n in range(50)})), "mapping", "takes 50"),
    "no binding": (body(bindings=[]), "bindings", "no binding"),
    "another image bound": (
        body(bound(f"attribute.image_digest/{OTHER}")), "bindings[0] attribute.image_digest", DIGEST
    ),
    "an attribute that is not mapped": (body(bound("attribute.stage/serve")), "bindings[0]", "not mapped"),
    "a user bound": (body(bound("user:ops@example.com")), "bindings", "no binding"),
    "a set named as one subject": (
        body(bound(f"principal://{POOL}/attribute.image_digest/{DIGEST}")), "bindings", "no binding"
    ),
    "two pools, of which one is the provider's": (
        body(bound(f"principalSet://{POOL}/*", f"principalSet://{POOL}-debug/*")), "bindings[0]", "not known"
    ),
    "another pool than the provider's": (
        body(bound(f"principalSet://{POOL}-debug/*"), pool=POOL.removeprefix("iam.googleapis.com/")),
        "bindings[0]", "not known to be",
    ),
    "a role that encrypts": (
        body(bound("*", role="roles/cloudkms.cryptoKeyEncrypter")), "bindings[0]", "encrypts"
    ),
    "a role that administers": (body(bound("*", role="roles/cloudkms.admin")), "bindings[0]", "setIamPolicy"),
    "a role for other services": (
        body(bound("*", role="roles/cloudkms.cryptoKeyDecrypterViaDelegation")), "bindings[0]", "other Goo"
    ),
    "impersonation": (body(bound("*", role="roles/iam.workloadIdentityUser")), "bindings[0]", "impersonates"),
    "a custom role": (body(bound("*", role="projects/p/roles/mine")), "bindings[0]", "not known"),
    "a licence that has ended": (
        body(bound("*", when="request.time < timestamp('2020-01-01T00:00:00Z')")),
        "bindings[0].condition request.time", "",
    ),
    "a condition on a resource that nobody named": (
        body(bound("*", when="resource.name.startsWith('projects/p/')")), "bindings[0].condition", "--context"
    ),
    "a condition that does not compile": (body(bound("*", when="request.when")), "bindings[0]", "undecl"),
    "a time that is none": (
        body(bound("*", when="request.time < timestamp('soon')")), "bindings[0].condition", "Timestamp"
    ),
    "a disabled provider": (body(disabled=True), "disabled", "disabled"),
    "a deleted provider": (body(state="DELETED"), "disabled", "deleted"),
    "uploaded keys": (body(jwks='{"keys": []}'), "jwks", "uploaded"),
    "a mapping that is no object": (body(mapping=["google.subject"]), "mapping", "not an object"),
    "a condition that is no text": (body(condition=True), "condition", "not text"),  # type: ignore[arg-type]
    "bindings that are no list": (body(bindings={"role": "x"}), "bindings", "not a list"),
    "a binding without members": (body(bindings=[{"role": gcp.ROLE}]), "bindings[0]", "no role and members"),
    "a member that is no text": (
        body(bindings=[{"role": gcp.ROLE, "members": [7]}]), "bindings[0].members", "not a list of texts"
    ),
    "a binding whose condition says nothing": (
        body(bindings=[{"role": gcp.ROLE, "members": ["*"], "condition": {"expression": 7}}]),
        "bindings[0].condition", "no expression",
    ),
    "nothing at all": ({}, "mapping", "google.subject"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_denied_by_the_document(name: str) -> None:
    document, where, says = BAD_DOCUMENTS[name]
    stands(asked(document, shown(token())), where, says)


HOLES: Mapping[str, tuple[Body, Mapping[str, Any]]] = {
    "swname alone admits the debug image": (
        body(condition("assertion.swname == 'CONFIDENTIAL_SPACE'")), debug()
    ),
    "cc_mode ON or STABLE admits a debug image with a GPU": (
        body(condition(
            "assertion.swname=='CONFIDENTIAL_SPACE' && (assertion.submods.nvidia_gpu.cc_mode=='ON' || "
            "'STABLE' in assertion.submods.confidential_space.support_attributes)")),
        debug(gpu=True),
    ),
    "no hwmodel admits a Shielded VM": (
        body(condition("assertion.swname == 'CONFIDENTIAL_SPACE'")),
        put(token(), {"hwmodel": "GCP_SHIELDED_VM"}),
    ),
    "not OFF admits developer mode": (
        body(condition("assertion.submods.nvidia_gpu.cc_mode != 'OFF'")),
        put(token(gpu=True), {(*GPU, "cc_mode"): "DEVTOOLS"}),
    ),
    "no condition admits everybody": (body(condition("")), token(project="stranger")),
    "a pattern without ends admits a name around it": (
        body(condition("assertion.submods.gce.project_id.matches('mp-run')")),
        token(project="not-mp-run-at-all"),
    ),
    "a prefix of a repository admits its neighbour": (
        body(condition("assertion.submods.container.image_reference.startsWith("
                       "'europe-west4-docker.pkg.dev/mp-run/images/serv')")),
        token(),
    ),
    "an error beside a yes is a yes": (
        body(condition("assertion.gone == 'x' || assertion.swname == 'CONFIDENTIAL_SPACE'")), token()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOLES)
def test_holes_are_not_talked_away(name: str) -> None:
    """The evaluator says what Google would do, also where that is what nobody wanted."""
    document, claims = HOLES[name]
    verdict = shown(claims)
    assert asked(document, verdict if verdict.verified else by_hand(claims)).released


def test_no_token_no_key() -> None:
    stands(asked(compiled(gate()), None), "evidence", "there is none")
    stands(asked(compiled(gate()), None, principal="user:ops@example.com"), "evidence", "there is none")


def test_unverified_evidence_counts_for_nothing() -> None:
    wrong = replace(
        by_hand(token()), verified=False, problems=(Finding("token.signature", "does not verify"),)
    )
    decision = asked(compiled(gate()), wrong)
    stands(decision, "evidence token.signature", "does not verify")


def test_a_token_under_a_foreign_root_is_refused_by_its_root() -> None:
    verdict = confidential_space.verify(authority().token(token()), at=AT)
    decision = asked(compiled(gate()), verdict)
    assert not verdict.verified
    stands(decision, "evidence", "")


@pytest.mark.parametrize("kind", [Kind.TDX, Kind.MAA, Kind.NITRO_ENCLAVE, Kind.SEV_SNP])
def test_evidence_of_another_kind_is_no_token(kind: Kind) -> None:
    stands(asked(compiled(gate()), by_hand(token(), kind=kind)), "evidence", kind.value)


@pytest.mark.parametrize(
    ("at", "says"),
    [
        pytest.param(ISSUED + timedelta(hours=1), "has expired", id="replayed at the second of its end"),
        pytest.param(ISSUED + timedelta(days=400), "has expired", id="replayed a year later"),
        pytest.param(ISSUED - timedelta(minutes=5), "from later than the request", id="from the future"),
    ],
)
def test_a_token_counts_in_its_own_hour(at: datetime, says: str) -> None:
    stands(asked(compiled(gate()), shown(token()), at=at), "evidence", says)


def test_a_licence_ends_to_the_second() -> None:
    end = AT + timedelta(minutes=10)
    document, verdict = compiled(gate(not_after=end)), shown(token())
    assert asked(document, verdict, at=end - timedelta(seconds=1)).released
    decision = asked(document, verdict, at=end)
    stands(decision, "bindings[0].condition request.time", "")


def test_an_account_of_a_longer_licence_prolongs_nothing() -> None:
    """tune ends; the operator runs it with the account of serve beside its own, which never ends."""
    end = AT + timedelta(minutes=10)
    document = compiled(
        gate("tune", not_after=end, measurements=images(OTHER)), gate("serve"), gate("judge", not_after=end)
    )
    both = [f"flow-{stage}@mp-run.iam.gserviceaccount.com" for stage in ("tune", "serve")]
    verdict = shown({**token(digest=OTHER), "google_service_accounts": both})
    assert asked(document, verdict).released
    assert not asked(document, verdict, at=end).released
    # serve itself goes on.
    assert asked(document, shown(token()), at=end).released


def test_a_condition_on_the_resource_is_judged_when_it_is_named() -> None:
    document = body(bound("*", when="resource.name.startsWith('projects/p/')"))
    verdict = shown(token())
    assert asked(document, verdict, context={"resource.name": ("projects/p/locations/x",)}).released
    assert not asked(document, verdict, context={"resource.name": ("projects/q/locations/x",)}).released


def test_a_key_bound_to_everybody_opens_without_a_token() -> None:
    document = body(bound("allUsers"))
    assert asked(document, None).released
    assert asked(document, by_hand({})).released
    everybody = body(bound("allAuthenticatedUsers"))
    assert not asked(everybody, None).released
    assert asked(everybody, None, principal="user:anybody@example.com").released
    # Identities of a pool are not among them.
    assert not asked(everybody, shown(token())).released


def test_a_person_bound_by_name_opens_without_a_token() -> None:
    document = body(bound("user:ops@example.com"))
    assert asked(document, None, principal="user:ops@example.com").released
    assert not asked(document, None, principal="user:other@example.com").released


def test_a_document_that_changes_is_judged_anew() -> None:
    document = compiled(gate())
    verdict = shown(token())
    assert asked(document, verdict).released
    document["condition"] = document["condition"].replace("mp-run", "mp-other")
    assert not asked(document, verdict).released
    document["bindings"][0]["members"] = [f"attribute.image_digest/{OTHER}"]
    assert not asked(document, verdict).released


def _nested(levels: int) -> Body:
    found: Body = {}
    for _ in range(levels):
        found = {"a": found}
    return found


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({**token(), "deep": _nested(20_000)}, id="claims nested without end"),
        pytest.param({**token(), "dbgstat": 2**80}, id="a number beyond 64 bits"),
        pytest.param({**token(), "dbgstat": "\ud800"}, id="half a character"),
        pytest.param({**token(), "submods": []}, id="a list for an object"),
        pytest.param({**token(), "submods": None}, id="null for an object"),
        pytest.param({**token(), "iss": 7, "aud": {"a": 1}}, id="issuer and audience of wrong types"),
        pytest.param({}, id="nothing"),
    ],
)
def test_strange_claims_are_denied_without_a_traceback(claims: Body) -> None:
    decision = asked(compiled(gate()), by_hand(claims))
    assert not decision.released
    assert decision.because
    assert all(not one.holds for one in decision.because)
