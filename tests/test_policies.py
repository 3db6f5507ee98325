"""The policy pack, rule by rule, without an engine: what it refuses and what it leaves alone."""

from __future__ import annotations

import ast
import base64
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from answers import answer, inputs_as_deployed, outputs
from pulumi_policy import (
    PolicyCustomTimeouts,
    PolicyResource,
    PolicyResourceOptions,
    ResourceValidationArgs,
    StackValidationArgs,
)
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, UnknownValueError, unknown_checking_proxy
from recording import record
from samples import ALL_STACKS, PROJECT, changed, lock, put, shipped, stack

from jewelhouse import lifecycle as graph
from jewelhouse.deploy import deploy
from jewelhouse.model import Cloud
from jewelhouse.release import compiler
from jewelhouse.settings import parse

PACK = PROJECT / "policies"
sys.path.append(str(PACK))

import guardrails  # noqa: E402
from guardrails.cel import demands  # noqa: E402

RULES = {rule.name: rule for rule in guardrails.RULES}
POLICIES = {policy.name: policy for policy in guardrails.policies()}
TABLE: dict[str, dict[str, list[dict[str, Any]]]] = {
    name: cases
    for cloud in ("aws", "azure", "gcp")
    for name, cases in yaml.safe_load((Path(__file__).parent / f"policies/{cloud}.yaml").read_text()).items()
}
# Rules whose cases are changes of a compiled policy, below.
BY_DOCUMENT = {
    "aws-kms-allow-attested",
    "aws-kms-deny-unattested",
    "aws-kms-not-for-anyone",
    "azure-key-release-policy",
    "gcp-attested-pool",
}
OPTIONS = PolicyResourceOptions(
    protect=False,
    ignore_changes=[],
    delete_before_replace=None,
    aliases=[],
    custom_timeouts=PolicyCustomTimeouts(0, 0, 0),
    additional_secret_outputs=[],
    parent=None,
)


def violations(name: str, token: str, props: dict[str, Any]) -> list[str]:
    """What the policy `name` reports about one resource, through the policy SDK's own arguments."""
    found: list[str] = []
    args = ResourceValidationArgs(token, unknown_checking_proxy(props), "urn", "name", OPTIONS, None)
    POLICIES[name].validate(args, lambda message, urn=None: found.append(message))
    return found


def cases(side: str) -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}-{index}")
        for name, sides in TABLE.items()
        for index, case in enumerate(sides[side])
    ]


@pytest.mark.parametrize(("name", "case"), cases("bad"))
def test_it_refuses(name, case):
    found = violations(name, case["type"], case["props"])
    assert any(case["says"] in message for message in found), found
    assert all(RULES[name].remedy in message for message in found)


@pytest.mark.parametrize(("name", "case"), cases("good"))
def test_it_leaves_alone(name, case):
    assert violations(name, case["type"], case["props"]) == []


def test_every_rule_has_cases_of_both_kinds():
    assert {*TABLE, *BY_DOCUMENT} == set(RULES)
    for name, sides in TABLE.items():
        assert sides["bad"], name
        assert sides["good"], name
        covered = {case["type"] for case in sides["bad"] + sides["good"]}
        assert covered & set(RULES[name].types), f"{name}: no case of its own types"


def test_every_policy_is_described_and_has_one_name():
    names = [policy.name for policy in guardrails.policies()]
    assert len(names) == len(set(names))
    for rule in (*guardrails.RULES, *guardrails.STACK_RULES):
        assert rule.description.endswith("."), rule.name
        assert rule.source, rule.name
        assert rule.remedy, rule.name
        assert not rule.remedy.endswith("."), rule.name


@pytest.mark.parametrize("package", ["pulumi_aws", "pulumi_azure_native", "pulumi_gcp"])
def test_every_type_token_exists_in_the_pinned_sdk(package):
    located = importlib.metadata.distribution(package.replace("_", "-")).locate_file(f"{package}/__init__.py")
    known = Path(str(located)).read_text()
    prefix = package.removeprefix("pulumi_").replace("_", "-") + ":"
    for rule in (*guardrails.RULES, *guardrails.STACK_RULES):
        for token in rule.types:
            if token.startswith(prefix):
                assert f'"{token}"' in known, f"{rule.name}: {token}"


def test_what_a_preview_cannot_know_is_no_violation_yet():
    props = {"securityRules": [], "properties": UNKNOWN_STRING_VALUE}
    with pytest.raises(UnknownValueError):
        violations("azure-vault-hardened", "azure-native:keyvault:Vault", props)
    member = {"role": "roles/cloudkms.cryptoKeyDecrypter", "member": UNKNOWN_STRING_VALUE}
    with pytest.raises(UnknownValueError):
        violations("gcp-decrypt-measured", "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember", member)


# Documents that the kit compiles itself: they pass as they are, and fail when one thing in them is weakened.


def compiled(name: str, cloud: Cloud) -> list[dict[str, Any]]:
    policies = graph.release_policies(shipped(name))
    return [compiler.compile(policy) for key, policy in policies.items() if key.cloud is cloud]


def kms(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "customerMasterKeySpec": "RSA_4096",
        "keyUsage": "ENCRYPT_DECRYPT",
        "policy": json.dumps(document),
    }


KMS_RULES = [name for name in RULES if name.startswith("aws-kms-")]


@pytest.mark.parametrize("name", ["dev", "prod-aws", "gpu", "federated"])
def test_compiled_key_policies_pass(name):
    documents = compiled(name, Cloud.AWS)
    assert documents
    for document in documents:
        for rule in KMS_RULES:
            assert violations(rule, "aws:kms/key:Key", kms(document)) == []


def statement(document: dict[str, Any], beginning: str) -> dict[str, Any]:
    return next(entry for entry in document["Statement"] if entry["Sid"].startswith(beginning))


def without(document: dict[str, Any], beginning: str) -> None:
    document["Statement"] = [e for e in document["Statement"] if not e["Sid"].startswith(beginning)]


IMAGE = "kms:RecipientAttestation:ImageSha384"
KMS_CHANGES = {
    "condition-dropped": (
        lambda d: statement(d, "Release").pop("Condition"),
        "aws-kms-allow-attested",
        "opens the key without attestation",
    ),
    "if-exists": (
        lambda d: statement(d, "Release").update(Condition={"StringEqualsIfExists": {IMAGE: "ab" * 48}}),
        "aws-kms-allow-attested",
        "stringequalsifexists",
    ),
    "for-all-values": (
        lambda d: statement(d, "Release").update(
            Condition={"ForAllValues:StringEquals": {IMAGE: ["ab" * 48]}}
        ),
        "aws-kms-allow-attested",
        "forallvalues",
    ),
    "pattern": (
        lambda d: statement(d, "Release").update(Condition={"StringLike": {IMAGE: "*"}}),
        "aws-kms-allow-attested",
        "stringlike",
    ),
    "debug-enclave": (
        lambda d: statement(d, "Release").update(Condition={"StringEquals": {IMAGE: "0" * 96}}),
        "aws-kms-allow-attested",
        "debug enclave",
    ),
    "role-and-instance-only": (
        lambda d: statement(d, "Release").update(
            Condition={"StringEquals": {f"kms:RecipientAttestation:PCR{n}": "ab" * 48 for n in (3, 4)}}
        ),
        "aws-kms-allow-attested",
        "another image may share",
    ),
    "nitrotpm-without-command-line": (
        lambda d: statement(d, "Release").update(
            Condition={"StringEquals": {"kms:RecipientAttestation:NitroTPMPCR4": "ab" * 48}}
        ),
        "aws-kms-allow-attested",
        "without PCR12",
    ),
    "secure-boot-off": (
        lambda d: statement(d, "Release").update(
            Condition={
                "StringEquals": {
                    "kms:RecipientAttestation:NitroTPMPCR7": guardrails.aws.aws_kms.SECURE_BOOT_OFF
                }
            }
        ),
        "aws-kms-allow-attested",
        "Secure Boot off",
    ),
    "administrator-decrypts": (
        lambda d: statement(d, "Administration")["Action"].append("kms:ReEncrypt*"),
        "aws-kms-allow-attested",
        "opens the key without attestation",
    ),
    "administrator-grants": (
        lambda d: statement(d, "Administration")["Action"].append("kms:CreateGrant"),
        "aws-kms-allow-attested",
        "allows grants",
    ),
    "administrator-does-all": (
        lambda d: statement(d, "Administration").update(Action="kms:*"),
        "aws-kms-not-for-anyone",
        "allows everything",
    ),
    "all-but": (
        lambda d: (
            statement(d, "Administration").pop("Action"),
            statement(d, "Administration").update(NotAction="kms:Decrypt"),
        ),
        "aws-kms-not-for-anyone",
        "allows everything",
    ),
    "everyone": (
        lambda d: d["Statement"].append(
            {"Sid": "Any", "Effect": "Allow", "Principal": "*", "Action": "kms:Encrypt", "Resource": "*"}
        ),
        "aws-kms-not-for-anyone",
        "allows everyone",
    ),
    "denials-gone": (
        lambda d: without(d, "DenyOther"),
        "aws-kms-deny-unattested",
        "nothing denies kms:decrypt",
    ),
    "grants-not-denied": (
        lambda d: without(d, "DenyGrants"),
        "aws-kms-deny-unattested",
        "nothing denies kms:CreateGrant",
    ),
    "two-keys-in-one-denial": (
        lambda d: statement(d, "DenyOther")["Condition"]["StringNotEqualsIgnoreCase"].update(
            {"kms:RecipientAttestation:PCR8": "ab" * 48}
        ),
        "aws-kms-deny-unattested",
        "all must hold",
    ),
    "denial-for-one-role": (
        lambda d: [
            entry.update(Principal={"AWS": "arn:aws:iam::1:role/x"})
            for entry in d["Statement"]
            if entry["Effect"] == "Deny"
        ],
        "aws-kms-deny-unattested",
        "nothing denies kms:decrypt",
    ),
}


@pytest.mark.parametrize("change", KMS_CHANGES)
def test_a_weakened_key_policy_is_refused(change):
    weaken, rule, says = KMS_CHANGES[change]
    document = json.loads(json.dumps(compiled("prod-aws", Cloud.AWS)[0]))
    weaken(document)
    found = violations(rule, "aws:kms/key:Key", kms(document))
    assert any(says in message for message in found), found


def test_attestation_rules_also_hold_for_symmetric_keys_that_speak_of_attestation():
    document = {
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::1:root"},
                "Action": "kms:*",
                "Resource": "*",
            },
            {
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::1:role/r"},
                "Action": "kms:Decrypt",
                "Condition": {"StringEquals": {IMAGE: "ab" * 48}},
            },
        ]
    }
    found = violations("aws-kms-allow-attested", "aws:kms/key:Key", {"policy": json.dumps(document)})
    assert any("opens the key without attestation" in message for message in found)


def vault_key(document: Any, **properties: Any) -> dict[str, Any]:
    data = document if isinstance(document, str) else _encoded(document)
    policy = {} if document is None else {"releasePolicy": {"data": data}}
    return {
        "properties": {
            "kty": "RSA-HSM",
            "keySize": 4096,
            "attributes": {"exportable": True},
            **policy,
            **properties,
        }
    }


def _encoded(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


@pytest.mark.parametrize("name", ["dev", "prod-azure", "gpu", "federated"])
def test_compiled_release_policies_pass(name):
    documents = compiled(name, Cloud.AZURE)
    assert documents
    for document in documents:
        assert violations("azure-key-release-policy", "azure-native:keyvault:Key", vault_key(document)) == []


def pinning(
    *claims: dict[str, Any], authority: str = "https://sharedweu.weu.attest.azure.net"
) -> dict[str, Any]:
    return {"version": "1.0.0", "anyOf": [{"authority": authority, "allOf": list(claims)}]}


KIND = {"claim": "x-ms-attestation-type", "equals": "sevsnpvm"}
COMPLIANT = {"claim": "x-ms-compliance-status", "equals": "azure-compliant-uvm"}


@pytest.mark.parametrize(
    ("props", "says"),
    [
        (vault_key(None), "no release policy says to whom"),
        (vault_key(None, attributes={}, keyOps=["release"]), "no release policy says to whom"),
        (vault_key(pinning(KIND, COMPLIANT), kty="RSA"), "not kept in an HSM"),
        (vault_key("@@@@"), "not base64url-encoded JSON"),
        (vault_key("bm90IGpzb24"), "not base64url-encoded JSON"),
        (vault_key({"version": "1.0.0", "allOf": []}), "must be a non-empty anyOf"),
        (vault_key({"version": "1.0.0", "anyOf": []}), "must be a non-empty anyOf"),
        (vault_key(pinning(KIND, COMPLIANT, authority="x.attest.azure.net")), "not an https address"),
        (vault_key(pinning(KIND)), "needs x-ms-compliance-status"),
        (vault_key(pinning(COMPLIANT)), "needs x-ms-attestation-type"),
        (vault_key(pinning(KIND, {"anyOf": [COMPLIANT, KIND]})), "needs x-ms-compliance-status"),
        (vault_key(pinning(KIND, {**COMPLIANT, "claim": "x"})), "needs x-ms-compliance-status"),
        (
            vault_key(pinning(KIND, COMPLIANT, {"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "true"})),
            "accepts debuggable guests",
        ),
    ],
)  # fmt: skip
def test_a_weakened_release_policy_is_refused(props, says):
    found = violations("azure-key-release-policy", "azure-native:keyvault:Key", props)
    assert any(says in message for message in found), found


@pytest.mark.parametrize(
    "props",
    [
        vault_key(pinning(KIND, COMPLIANT)),
        vault_key(pinning(COMPLIANT, {"anyOf": [KIND, {**KIND, "equals": "tdxvm"}]})),
        {"properties": {"kty": "RSA", "keyOps": ["sign"]}},
    ],
)
def test_sound_keys_are_left_alone(props):
    assert violations("azure-key-release-policy", "azure-native:keyvault:Key", props) == []


def pool(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "oidc": {"issuerUri": document["issuer"], "allowedAudiences": document["audiences"]},
        "attributeMapping": document["mapping"],
        "attributeCondition": document["condition"],
    }


PROVIDER = "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider"


@pytest.mark.parametrize("name", ["dev", "prod-gcp", "gpu", "federated"])
def test_compiled_pool_providers_pass(name):
    documents = compiled(name, Cloud.GCP)
    assert documents
    for document in documents:
        assert violations("gcp-attested-pool", PROVIDER, pool(document)) == []


def test_providers_of_plain_confidential_machines_pass():
    config = changed(
        stack("prod-gcp"),
        put("stages.serve.platform", "gcp-cvm"),
        put("artifacts.base.release", "standard"),
        put("artifacts.adapter.release", "standard"),
        put("images.server", {"gcp-cvm": {"reference": "projects/p/global/images/i-1", "declared": True}}),
    )
    for policy in graph.release_policies(parse(config, lock())).values():
        assert violations("gcp-attested-pool", PROVIDER, pool(compiler.compile(policy))) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: "", "the Confidential Space of anyone"),
        (
            lambda c: c.replace("assertion.swname == 'CONFIDENTIAL_SPACE' && ", ""),
            "without saying which product",
        ),
        (lambda c: c.replace(" && assertion.dbgstat == 'disabled-since-boot'", ""), "without dbgstat"),
        (lambda c: c.replace("disabled-since-boot", "enabled"), "without dbgstat"),
        (lambda c: c.replace("'STABLE' in", "'USABLE' in"), "without STABLE"),
        (lambda c: c.replace("GCP_INTEL_TDX", "GCP_SHIELDED_VM"), "without hwmodel"),
        (lambda c: f"({c}) || assertion.swname == 'CONFIDENTIAL_SPACE'", "without hwmodel"),
        (lambda c: f"true || {c}", "which product"),
        (lambda c: f"true ? true : ({c})", "which product"),
        (
            # Published for confidential GPUs: a debug image has the software name and the mode as well.
            lambda c: (
                "assertion.swname == 'CONFIDENTIAL_SPACE' && (assertion.submods.nvidia_gpu.cc_mode == 'ON'"
                " || 'STABLE' in assertion.submods.confidential_space.support_attributes)"
            ),
            "without dbgstat",
        ),
    ],
)
def test_a_weakened_pool_is_refused(change, says):
    document = compiled("prod-gcp", Cloud.GCP)[0]
    found = violations(
        "gcp-attested-pool", PROVIDER, pool({**document, "condition": change(document["condition"])})
    )
    assert any(says in message for message in found), found


def test_a_pool_that_binds_no_image_is_refused():
    document = compiled("prod-gcp", Cloud.GCP)[0]
    bare = "assertion.submods.container.image_digest in ["
    before, _, rest = document["condition"].partition(bare)
    weakened = {
        **document,
        "condition": before + "true" + rest.partition("]")[2],
        "mapping": {"google.subject": document["mapping"]["google.subject"]},
    }
    found = violations("gcp-attested-pool", PROVIDER, pool(weakened))
    assert any("image digest is neither" in message for message in found), found


def test_pools_of_other_issuers_are_none_of_its_business():
    props = {"oidc": {"issuerUri": "https://token.actions.githubusercontent.com"}}
    assert violations("gcp-attested-pool", PROVIDER, props) == []


@pytest.mark.parametrize(
    ("condition", "demanded"),
    [
        ("a", True),
        ("(a)", True),
        ("a && b", True),
        ("b && (a)", True),
        ("(a && b) || (c && a)", True),
        ("a || a", True),
        ("(b || c) && a", True),
        ("((a))", True),
        ("b || a", False),
        ("a || true", False),
        ("!a", False),
        ("!(a)", False),
        ("b && !(a && c)", False),
        ("c ? a : b", False),
        ("'a && a' == b", False),
        ("b == 'x || ' && a", True),
        ("[a, a].exists(x, x || a)", False),
        ("(a) || (b)", False),
        ("'\\'' == b && a", True),
        ("", False),
    ],
)
def test_what_a_condition_demands_on_every_way(condition, demanded):
    assert demands(condition, lambda part: part == "a") is demanded


def resources(*described: tuple[str, str, dict[str, list[str]]]) -> StackValidationArgs:
    made = {
        name: PolicyResource(token, {}, name, name, OPTIONS, None, None, [], {})
        for name, token, _ in described
    }
    for name, _, bound in described:
        made[name].property_dependencies = {key: [made[n] for n in names] for key, names in bound.items()}
    return StackValidationArgs(list(made.values()))


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (
            [
                ("b", "aws:s3/bucket:Bucket", {}),
                ("p", "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", {"bucket": ["b"]}),
                ("v", "aws:s3/bucketVersioning:BucketVersioning", {"bucket": ["b"]}),
            ],
            [],
        ),
        (
            [
                ("b", "aws:s3/bucket:Bucket", {}),
                ("v", "aws:s3/bucketVersioning:BucketVersioning", {"bucket": ["b"]}),
            ],
            ["nothing blocks public access"],
        ),
        (
            [
                ("a", "aws:s3/bucket:Bucket", {}),
                ("b", "aws:s3/bucket:Bucket", {}),
                ("p", "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", {"bucket": ["b"]}),
                ("v", "aws:s3/bucketVersioning:BucketVersioning", {"bucket": ["b"]}),
            ],
            ["nothing blocks public access", "keeps no earlier versions"],
        ),
    ],
)
def test_every_bucket_needs_its_guards(described, says):
    found: list[str] = []
    POLICIES["aws-s3-guarded"].validate(
        resources(*described), lambda message, urn=None: found.append(message)
    )
    assert len(found) == len(says)
    assert all(any(part in message for message in found) for part in says), found


@pytest.mark.parametrize("name", ALL_STACKS)
def test_the_kit_keeps_its_own_promises(name):
    recording = record(lambda: deploy(shipped(name)), outputs=outputs, call=answer)
    looked_at = 0
    for request in recording.resources:
        for rule in guardrails.RULES:
            if request.type in rule.types:
                looked_at += 1
                found = violations(rule.name, request.type, inputs_as_deployed(recording, request))
                assert not found, f"{request.name}: {found}"
    assert looked_at > 5


@pytest.mark.parametrize("name", ["dev", "gpu"])
def test_the_engine_runs_the_pack_over_a_stack_and_finds_nothing(name, engine):
    done = engine().operate("preview", name, "--policy-pack", str(PACK / "jewelhouse-policies"))
    assert done.ok, done.stdout + done.stderr
    assert "jewelhouse@v0.1.0" in done.stdout + done.stderr
    assert "[mandatory]" not in done.stdout


def test_the_pack_starts_without_the_kit(tmp_path):
    """As the engine starts it: an address and a directory; the pack answers with the port it listens on."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    with subprocess.Popen(
        [str(PACK / "jewelhouse-policies"), "127.0.0.1:1"],
        stdout=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert 1024 < int(process.stdout.readline()) < 65536
        finally:
            process.kill()


def test_the_pack_imports_nothing_of_the_kit():
    for path in (*PACK.glob("*.py"), *(PACK / "guardrails").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [name for name in named if name.split(".")[0] == "jewelhouse"], path
