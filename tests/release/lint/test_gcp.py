"""Every rule fires on its mistake, is silent without it, and shows the hole where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from google_cases import (
    DIGEST,
    OPERATOR,
    POOL,
    SPACE,
    VM,
    Body,
    body,
    bound,
    compiled,
    condition,
    gate,
    mapped,
)
from hypothesis import given, settings
from policies_made import policies
from samples import ALL_STACKS, shipped

from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud, GcpAccount, Tee
from jewelhouse.release import gcp
from jewelhouse.release.documents import Document
from jewelhouse.release.lint import Finding, Severity, lint
from jewelhouse.release.lint.gcp import RULES
from jewelhouse.release.lint.hostile_gcp import attested, example, hostile
from jewelhouse.release.policy import ReleasePolicy

GOOD = compiled(gate())["condition"]
BASE = "assertion.swname == 'CONFIDENTIAL_SPACE'"
MEMBER = f"principalSet://{POOL}/attribute.image_digest/{DIGEST}"
# MedPerf's older clause, which released keys to a debug image with a confidential GPU.
CC_OR_STABLE = (
    f"{BASE} && (assertion.submods.nvidia_gpu.cc_mode == 'ON' || "
    "'STABLE' in assertion.submods.confidential_space.support_attributes)"
)


def document(found: Mapping[str, Any]) -> Document:
    return Document(name="base", cloud=Cloud.GCP, body=found)


def findings(found: Mapping[str, Any]) -> dict[str, Finding]:
    """By rule; a rule that fires more than once is there with its first finding."""
    by_rule: dict[str, Finding] = {}
    for one in lint(document(found)):
        by_rule.setdefault(one.rule.id, one)
    return by_rule


def without(clause: str) -> Body:
    assert clause in GOOD, clause
    return body(condition(GOOD.replace(f"{clause} && ", "").replace(f" && {clause}", "")))


def also(clause: str) -> Body:
    return body(condition(f"{GOOD} && {clause}"))


def instead(clause: str, other: str) -> Body:
    assert clause in GOOD, clause
    return body(condition(GOOD.replace(clause, other)))


DEBUG_OFF = "assertion.dbgstat == 'disabled-since-boot'"
STABLE = "'STABLE' in assertion.submods.confidential_space.support_attributes"
HARDWARE = "assertion.hwmodel == 'GCP_INTEL_TDX'"
PROJECT = "assertion.submods.gce.project_id == 'mp-run'"
NUMBER = "assertion.submods.gce.project_number == '724467010559'"
USABLE = STABLE.replace("STABLE", "USABLE")
IMAGE = f"assertion.submods.container.image_digest in ['{DIGEST}']"
ACCOUNT = "'flow-serve@mp-run.iam.gserviceaccount.com' in assertion.google_service_accounts"
ENV = (
    "(!has(assertion.submods.container.env_override) || size(assertion.submods.container.env_override) == 0)"
)


def any_image(*clauses: str, text: str = GOOD) -> Body:
    """The whole pool under a condition without the digest, and with `clauses` for it."""
    return body(condition(text.replace(IMAGE, " && ".join(clauses) or "true")), bound("*"))


# Rule, mistake, its document, a part of what is found, and True where evidence shows the hole.
BAD: list[tuple[Any, ...]] = [
    ("001", "no condition", body(condition("")), "none", True),
    ("001", "a condition of spaces", body(condition("  ")), "none"),
    ("002", "a mapping that is a list", body(mapping=[]), "not an object"),
    ("003", "a function of an extension", body(condition("assertion.swname.lowerAscii() == 'x'")), "lower"),
    ("003", "a binding by the hour", body(bound("*", when="request.time.getHours() < 5")), "getHours"),
    ("004", "a condition over the limit", body(condition(f"{GOOD} && {'true && ' * 500} true")), "4096"),
    ("004", "a mapping over the limit", body(mapped(x=f"'{'x' * 2050}'")), "2048"),
    ("005", "a misspelt variable", body(condition("asertion.swname == 'x'")), "assertion?"),
    ("005", "an attribute inside the mapping", body(mapped(x="attribute.image_digest")), "attribute"),
    ("006", "a claim for a condition", body(condition("assertion.swname")), "a claim that is text"),
    ("006", "a text for a condition", body(condition("'true'")), "a text"),
    ("007", "a misspelt claim", also("assertion.submods.contianer.image_id == 'x'"), "container.image_id"),
    ("008", "dbgstat 'enable' of Google's page", instead("'disabled-since-boot'", "'enable'"), "enabled"),
    ("008", "INTEL_TDX of Google's page", instead("GCP_INTEL_TDX", "INTEL_TDX"), "GCP_INTEL_TDX"),
    ("008", "a value for SEV-SNP", instead("GCP_INTEL_TDX", "GCP_AMD_SEV_SNP"), "GCP_AMD_SEV"),
    ("008", "cc_mode in small letters", also("assertion.submods.nvidia_gpu.cc_mode == 'on'"), "ON"),
    ("008", "a negated value that never is", also("assertion.dbgstat != 'enable'"), "enabled"),
    ("008", "an attribute that never is", also(STABLE.replace("STABLE", "stable")), "STABLE"),
    ("009", "a list compared as a text", also("assertion.google_service_accounts == 'x'"), "is list"),
    ("009", "a project number as a number", also("assertion.submods.gce.project_number == 7"), "is text"),
    ("009", "secboot as a text", instead("secboot == true", "secboot == 'true'"), "true or false"),
    ("009", "in of a text", also("'GCP' in assertion.hwmodel"), "nothing is in it"),
    ("010", "the published size() of an override", instead(
        ENV, "size(assertion.submods.container.env_override) == 0"), "absent when empty"),
    ("011", "a negated GPU claim", also("!(assertion.submods.nvidia_gpu.cc_mode == 'OFF')"), "negated"),
    ("011", "a choice by the GPU", also(
        "(assertion.submods.nvidia_gpu.cc_mode == 'ON' ? true : assertion.secboot)"), "test of a choice"),
    ("012", "no subject", body(mapping={"attribute.image_digest": gcp.DIGEST}), "google.subject"),
    ("012", "an attribute in capitals", body(mapping={**body()["mapping"], "attribute.X": "'x'"}), "no attr"),
    ("013", "assertion.sub for a subject", body(mapped(subject="assertion.sub")), "127"),
    ("014", "signatures mapped", body(mapped(
        s="assertion.submods.container.image_signatures.map(s, s.key_id)")), "signatures"),
    ("014", "a list mapped", body(mapped(v="assertion.swversion")), "list"),
    ("015", "the GPU mapped", body(mapped(gpu="assertion.submods.nvidia_gpu.cc_mode")), "exchange fails"),
    ("016", "a pattern without ends", also("assertion.sub.matches('mp-run')"), "any part"),
    ("016", "a pattern with a hole", also("assertion.sub.matches('^a|b$')"), "any part"),
    ("016", "contains", also("assertion.sub.contains('mp-run')"), "any part"),
    ("017", "a prefix inside a name", also("assertion.sub.startsWith('https://x/projects/mp')"), "go on"),
    ("018", "a foreign issuer", body(issuer="https://accounts.google.com"), "accounts.google.com"),
    ("018", "no issuer", body(issuer=""), "nothing"),
    ("019", "Intel Trust Authority", body(issuer="https://portal.trustauthority.intel.com"), "Intel"),
    ("020", "uploaded keys", body(jwks='{"keys": []}'), "uploaded"),
    ("021", "another audience", body(audiences=["https://example.com"]), "example.com"),
    ("021", "no audience", body(audiences=[]), "none is listed"),
    ("022", "allUsers", body(bound(MEMBER, "allUsers")), "allUsers", True),
    ("022", "allAuthenticatedUsers", body(bound(MEMBER, "allAuthenticatedUsers")), "allAuth", True),
    ("023", "a service account", body(bound(MEMBER, "serviceAccount:ci@p.iam")), "ci@p"),
    ("024", "a set named as a subject", body(bound(MEMBER, MEMBER.replace("Set:", ":"))), "no principal"),
    ("024", "a pool by the project's id", body(bound(MEMBER.replace("100000000001", "mp-keys"))), "number"),
    ("025", "an attribute that is not mapped", body(bound(MEMBER, "attribute.stage/serve")), "not mapped"),
    ("026", "the whole pool", body(bound(f"principalSet://{POOL}/*")), "every token"),
    ("027", "two pools", body(bound(MEMBER, MEMBER.replace("jh-base", "jh-debug"))), "jh-debug"),
    ("028", "attested code as an owner", body(bound(MEMBER, role="roles/owner")), "roles/owner"),
    ("029", "more than decryption", body(bound(MEMBER, role="roles/cloudkms.cryptoOperator")), "more"),
    ("030", "impersonation", body(bound(MEMBER, role="roles/iam.workloadIdentityUser")), "impersonates"),
    ("031", "an operator who edits", body(bound("user:o@example.com", role="roles/cloudkms.admin")), "o@ex"),
    ("032", "a custom role", body(bound("group:a@example.com", role="projects/p/roles/mine")), "not known"),
    ("033", "a window of time", body(bound(MEMBER, when="request.time > timestamp('2027-01-01T00:00:00Z')")),
     "more than the end"),
    ("033", "an end that is none", body(bound(MEMBER, when="request.time < timestamp('2027')")), "no mom"),
    ("034", "cc_mode not OFF", also("assertion.submods.nvidia_gpu.cc_mode != 'OFF'"), "OFF", True),
    ("034", "DEVTOOLS", also("assertion.submods.nvidia_gpu.cc_mode in ['ON', 'DEVTOOLS']"), "DEVTOOLS", True),
    ("040", "swname alone", body(condition(BASE)), "debug image passes", True),
    ("040", "cc_mode or STABLE", body(condition(CC_OR_STABLE)), "debug image passes", True),
    ("040", "neither dbgstat nor STABLE", body(condition(
        GOOD.replace(f"{DEBUG_OFF} && ", "").replace(f"{STABLE} && ", ""))), "debug image passes", True),
    ("041", "a pool shared with debug", body(condition(f"({GOOD}) || assertion.dbgstat == 'enabled'")),
     "meant to pass", True),
    ("042", "STABLE alone", without(DEBUG_OFF), "only the support attributes", True),
    ("043", "no support attributes", without(STABLE), "out of support", True),
    ("044", "LATEST", instead("'STABLE'", "'LATEST'"), "LATEST"),
    ("045", "EXPERIMENTAL", instead("'STABLE'", "'EXPERIMENTAL'"), "experimental", True),
    ("046", "no hwmodel", without(HARDWARE), "hwmodel is not pinned", True),
    ("047", "GCP_SHIELDED_VM", instead("'GCP_INTEL_TDX'", "'GCP_SHIELDED_VM'"), "not confidential", True),
    ("047", "GCP_SHIELDED_VM among others", instead(
        HARDWARE, "assertion.hwmodel in ['GCP_INTEL_TDX', 'GCP_SHIELDED_VM']"), "not confidential", True),
    ("048", "no digest", any_image(), "image_digest is not pinned", True),
    ("049", "a tag", any_image("assertion.submods.container.image_reference == 'eu-docker.pkg.dev/p/i/s:v1'"),
     "by its name", True),
    ("049", "a repository", any_image(
        "assertion.submods.container.image_reference.startsWith('eu-docker.pkg.dev/p/i/')"), "by its name"),
    ("050", "no project", body(condition(GOOD.replace(f"{PROJECT} && {NUMBER} && ", ""))), "project", True),
    ("051", "a project without its number", without(NUMBER), "without project_number"),
    ("052", "no service account", without(ACCOUNT), "no service account", True),
    ("053", "no Secure Boot", without("assertion.secboot == true"), "secboot", True),
    ("054", "no swname", without(BASE), "swname"),
    ("055", "an environment that may be set", without(ENV), "env_override", True),
    ("056", "dbgstat not enabled", instead(DEBUG_OFF, "assertion.dbgstat != 'enabled'"), "!= 'enabled'"),
    ("056", "a negated account", also("!('x' in assertion.google_service_accounts)"), "'x' in"),
    ("057", "a hole beside the condition", body(
        condition(f"({GOOD}) || ({BASE} && {IMAGE} && {USABLE})")), "pinned"),
    ("058", "a GPU without its mode", also(
        "assertion.submods.nvidia_gpu.gpus.exists(g, g.hwmodel == 'GCP_NVIDIA_H100')"), "cc_mode", True),
    ("059", "a plain Confidential VM", compiled(gate(platform=VM)), "no image"),
    ("060", "a condition that contradicts itself", also("assertion.swname == 'GCE'"), "no token"),
    ("060", "another image bound", body(bound(f"attribute.image_digest/sha256:{'9' * 64}")), "no token"),
    ("060", "nobody bound", body(bindings=[]), "no token"),
    ("061", "more alternatives than can be judged", body(condition(
        " && ".join(f"assertion.submods.container.env.A{n} in ['x', 'y', 'z']" for n in range(12)))), "500"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "found", "says", "evidence"),
    [pytest.param(rule, *(*rest, False)[:3], id=f"{rule} {mistake}") for rule, mistake, *rest in BAD],
)
def test_a_rule_fires_on_its_mistake(rule: str, found: Body, says: str, evidence: bool) -> None:
    fired = [one for one in lint(document(found)) if one.rule.id == f"JH-GCP-{rule}"]
    assert fired, sorted(findings(found))
    assert any(says in f"{one.where} {one.what}" for one in fired), [one.what for one in fired]
    shown = [one.counterexample for one in fired if one.counterexample is not None]
    assert bool(shown) is evidence, shown
    for one in shown:
        assert json.dumps(one)
        assert all(reason["holds"] for reason in one["because"])


def test_every_rule_has_a_bad_case_and_its_words() -> None:
    assert {f"JH-GCP-{rule}" for rule, *_ in BAD} == {rule.id for rule in RULES}
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert all((rule.title, rule.why, rule.remedy, rule.source)), rule.id
        assert not rule.title.endswith("."), rule.id


CLEAN: Mapping[str, Body] = {
    "one stage": compiled(gate()),
    "two stages and a licence": compiled(gate(), gate("tune", gpu="H100")),
    "a stage with a GPU": compiled(gate(gpu="H100")),
    "SEV": compiled(gate(tee=Tee.SEV)),
    "an anchored pattern": also("assertion.submods.gce.project_id.matches('^mp-(run|test)$')"),
    "a prefix that ends a name": also(
        "assertion.submods.container.image_reference.startsWith('eu.pkg.dev/p/i/')"
    ),
    "signatures in the condition": also(
        "has(assertion.submods.container.image_signatures) && ['A:b'].exists(s, s in "
        "assertion.submods.container.image_signatures.map(g, g.signature_algorithm+':'+g.key_id))"
    ),
    "a GPU where there is one": also(
        "(!has(assertion.submods.nvidia_gpu) || assertion.submods.nvidia_gpu.cc_mode == 'ON')"
    ),
    "a member with its pool": body(bound(MEMBER)),
    "a role beside that reads": body(
        bindings=[*body()["bindings"], {"role": "roles/cloudkms.publicKeyViewer", "members": ["user:a@b.c"]}]
    ),
}


@pytest.mark.parametrize("name", CLEAN)
def test_sound_documents_are_clean(name: str) -> None:
    assert findings(CLEAN[name]) == {}


def test_an_operator_without_a_number_is_noted() -> None:
    assert set(findings(compiled(gate(account=GcpAccount(project=OPERATOR.project))))) == {"JH-GCP-051"}


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_compiled_documents_of_shipped_stacks_are_clean(stack: str) -> None:
    for key, policy in release_policies(shipped(stack)).items():
        if key.cloud is Cloud.GCP:
            found = lint(document(gcp.compile(policy)))
            assert all(one.rule.severity is Severity.NOTE for one in found), found
            assert {one.rule.id for one in found} == ({"JH-GCP-059"} if key.platform is VM else set())


def test_the_published_condition_is_not_enough() -> None:
    """Google's own base condition and codelab binding, with what they leave open."""
    found = findings(body(condition(f"{BASE} && {STABLE}"), bound(f"principalSet://{POOL}/*")))
    errors = {one for one, finding in found.items() if finding.rule.severity is Severity.ERROR}
    assert errors == {"JH-GCP-046", "JH-GCP-048", "JH-GCP-050"}


def test_findings_are_json() -> None:
    for one in lint(document(body(condition(CC_OR_STABLE)))):
        assert json.loads(json.dumps(one.json()))["id"].startswith("JH-GCP-")


@pytest.mark.parametrize(
    "found",
    [{}, {"condition": None}, {"bindings": [{}]}, {"mapping": {"google.subject": 7}},
     {"condition": "(" * 5000},
     {"bindings": [{"role": 7, "members": "x"}]}, {"audiences": {"a": 1}}],
)  # fmt: skip
def test_strange_documents_give_findings_and_no_traceback(found: Body) -> None:
    assert any(one.rule.severity is Severity.ERROR for one in lint(document(found)))


def test_a_sound_document_loads_no_cel() -> None:
    """The Pulumi program lints what it deploys, and Google's library takes 50 MB."""
    code = (
        "import sys\nfrom jewelhouse.release import documents, lint\n"
        "assert lint.lint(documents.read(sys.stdin.read(), 'base')) == ()\n"
        "heavy = ('cel_expr', 'cryptography', 'evaluate.')\n"
        "print([name for name in sys.modules if any(one in name for one in heavy)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(compiled(gate())), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("[]", "['jewelhouse.release.evaluate.decision']")


def test_rules_fire_without_the_cel_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jewelhouse.release.evaluate.gcp", None)
    found = findings(body(condition(BASE)))
    assert found["JH-GCP-040"].counterexample is None


# What is released must have been found.


def released(found: Mapping[str, Any]) -> list[str]:
    pytest.importorskip("cel_expr_python")
    from jewelhouse.release.evaluate import evaluate

    whole = document(found)
    return [name for name, verdict, request in hostile(whole) if evaluate(whole, verdict, request).released]


@settings(max_examples=30, deadline=None)
@given(policies(platforms=(SPACE, VM)))
def test_compiled_policies_release_to_nothing_hostile(policy: ReleasePolicy) -> None:
    from jewelhouse.release.evaluate import evaluate

    whole = document(gcp.compile(policy))
    assert all(one.rule.severity is Severity.NOTE for one in lint(whole))
    assert released(whole.body) == []
    # And to all that it is meant for: hostile evidence is made by one change of these.
    for opening in attested(gcp.openings(policy)):
        claims, request = example(opening)
        verdict = next(v for name, v, _ in hostile(whole) if name.startswith("opening 0"))
        assert verdict is not None
        good = type(verdict)(kind=verdict.kind, verified=True, debug=False, at=verdict.at, claims=claims)
        assert evaluate(whole, good, request).released


def test_hostile_evidence_has_every_attack_by_name() -> None:
    names = {name.rpartition(": ")[2] for name, _, _ in hostile(document(compiled(gate(gpu="H100"))))}
    assert names >= {
        *("no token", "no token, any Google account", "the debug image", "an experimental image"),
        *("an image out of support", "hardware that is not confidential", "a plain Confidential VM"),
        *("another project", "another service account", "another image", "an overridden environment"),
        *("an overridden command", "a GPU with its mode off", "a GPU in developer mode", "no GPU"),
        *("a foreign issuer", "a token for another audience", "secure boot off"),
        *("assertion.submods.gce.project_number changed", "assertion.submods.gce.project_number missing"),
        *("assertion.hwmodel missing", "assertion.google_service_accounts missing"),
    }


@pytest.mark.parametrize(
    ("rule", "found"), [pytest.param(rule, found, id=f"{rule} {name}") for rule, name, found, *_ in BAD]
)
def test_whatever_hostile_evidence_opens_is_found(rule: str, found: Body) -> None:
    if released(found):
        assert any(one.rule.severity is not Severity.NOTE for one in lint(document(found)))
