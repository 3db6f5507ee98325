"""`jewelhouse release evaluate|lint|compile`: decisions and findings, for people and for machines."""

from __future__ import annotations

import json

import pytest
import real
from samples import ALL_STACKS, shipped

from jewelhouse.lifecycle import release_policies
from jewelhouse.release import compiler
from jewelhouse.release.policy_json import from_json

VALID = "aws-nitro/evervault-valid.bin"
JWKS = "azure-maa/sharedweu-certs-snapshot.jsonc"
TOKEN = "azure-maa/tvl-sharedweu-cvm.jwt"
ROLE = "arn:aws:iam::444455556666:role/tune"


@pytest.fixture
def policy(tmp_path):
    """A key policy that pins one image, in a file."""

    def write(image: str, **changes):
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": ROLE},
            "Action": "kms:Decrypt",
            "Resource": "*",
            "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:ImageSha384": image}},
            **changes,
        }
        path = tmp_path / "policy.json"
        path.write_text(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
        return path

    return write


def image_of(run, name: str) -> str:
    return json.loads(run("evidence", "show", real.path(name), "--json")[1])["measurements"]["PCR0"]


def test_real_evidence_of_the_pinned_image_is_released(run, policy):
    path = policy(image_of(run, VALID))
    arguments = ("release", "evaluate", "-p", path, "-e", real.path(VALID), "--principal", ROLE)
    code, printed, _ = run(*arguments, "--at", "evidence", "--json")
    found = json.loads(printed)
    assert (code, found["decision"]) == (0, "release")
    assert found["evidence"]["kind"] == "nitro-enclave"
    assert found["proofs"] == dict.fromkeys(
        ("genuine", "debug-off", "image", "config", "identity"), "enforced"
    )
    assert all(reason["holds"] for reason in found["because"])
    code, text, _ = run(*arguments, "--at", "evidence")
    assert text.startswith("release at 2022-10-13T08:58:02Z, the evidence's own time and not now")
    # The same today: the document is long over.
    code, text, _ = run(*arguments)
    assert code == 1
    assert "could not be verified" in text


@pytest.mark.parametrize(
    ("attack", "options", "says"),
    [
        ("another role", ("--principal", ROLE + "r"), "no Allow of kms:Decrypt names it"),
        ("nobody", (), "no Allow of kms:Decrypt names it"),
        ("another action", ("--principal", ROLE, "--action", "kms:ReEncryptFrom"), "no Allow"),
    ],
)
def test_denials_name_what_stood_against(run, policy, attack, options, says):
    path = policy(image_of(run, VALID))
    code, text, _ = run(
        "release", "evaluate", "-p", path, "-e", real.path(VALID), "--at", "evidence", *options
    )
    assert code == 1
    assert says in text


def test_a_call_without_evidence_is_denied(run, policy):
    code, text, _ = run("release", "evaluate", "-p", policy("ab" * 48), "--principal", ROLE, "--explain")
    assert code == 1
    assert "found absent" in text
    assert f"ImageSha384 would have to be {'ab' * 48}, it is nothing" in text


def test_context_grants_and_identity_policies_are_read(run, policy, tmp_path):
    path = policy("ab" * 48, Condition={"StringEquals": {"aws:SourceVpce": "vpce-1"}})
    base = ("release", "evaluate", "-p", path)
    assert run(*base, "--principal", ROLE, "--context", "aws:SourceVpce=vpce-1")[0] == 0
    assert run(*base, "--principal", ROLE, "--context", "aws:SourceVpce=vpce-2")[0] == 1
    grants = tmp_path / "grants.json"
    grants.write_text(json.dumps({"Grants": [{"GranteePrincipal": ROLE + "2", "Operations": ["Decrypt"]}]}))
    assert run(*base, "--principal", ROLE + "2", "--grants", grants)[0] == 0
    everything = tmp_path / "identity.json"
    everything.write_text(
        json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Deny", "Action": "kms:*", "Resource": "*"}],
            }
        )
    )
    arguments = ("--principal", ROLE, "--context", "aws:SourceVpce=vpce-1", "--identity-policy", everything)
    assert run(*base, *arguments)[0] == 1


def test_the_published_default_policy_and_a_real_token(run):
    arguments = ("-e", real.path(TOKEN), "--with", real.path(JWKS), "--explain")
    published = real.path("azure-maa/policies/public_SKR_policy-datadisk.json")
    code, text, _ = run("release", "evaluate", "-p", published, *arguments, "--at", "2022-12-23T23:01:00Z")
    assert code == 0
    assert "anyOf[10].authority" in text
    # One second after its end.
    code, text, _ = run("release", "evaluate", "-p", published, *arguments, "--at", "2022-12-24T07:00:19Z")
    assert code == 1
    flat = real.path("azure-maa/policies/vm-releasePolicyTemplate.json")
    assert run("release", "evaluate", "-p", flat, *arguments, "--at", "2022-12-23T23:01:00Z")[0] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--context", "aws:SourceVpce"), "is not KEY=VALUE"),
        (("--at", "evidence"), "no evidence whose time"),
        (("--kind", "azure"), "is not a policy document of azure"),
        (("--grants", "/nowhere"), "cannot be read"),
    ],
)
def test_what_cannot_be_judged_exits_with_2(run, policy, options, says):
    code, _, complaint = run("release", "evaluate", "-p", policy("ab" * 48), *options)
    assert code == 2
    assert says in complaint


@pytest.mark.parametrize("stack", ALL_STACKS)
def test_every_shipped_stack_lints_without_an_error(run, stack):
    code, printed, _ = run("release", "lint", "--stack", stack, "--json")
    findings = json.loads(printed)["findings"]
    assert code == 0
    severities = {finding["severity"] for finding in findings if not finding["id"].startswith("JH-ALL")}
    assert severities <= {"note"}, findings


def test_a_bad_policy_is_an_error_with_its_remedy_and_a_counter_example(run, policy):
    path = policy("ab" * 48, Condition={"StringEqualsIfExists": {"kms:RecipientAttestation:PCR0": "ab" * 48}})
    code, printed, _ = run("release", "lint", path, "--json")
    findings = json.loads(printed)["findings"]
    assert code == 1
    assert all(
        set(finding) >= {"id", "severity", "where", "what", "remedy", "source"} for finding in findings
    )
    examples = [finding["counterexample"] for finding in findings if "counterexample" in finding]
    assert any(example["evidence"] is None for example in examples)
    code, text, _ = run("release", "lint", path)
    assert "would be released to" in text
    assert "error" in text.splitlines()[-1]


def test_several_files_are_linted_together(run, tmp_path):
    paths = []
    for stack in ("prod-aws", "prod-azure", "prod-gcp"):
        for key, one in release_policies(shipped(stack)).items():
            paths.append(tmp_path / f"{key.name}.json")
            paths[-1].write_text(json.dumps(compiler.compile(one)))
    code, text, _ = run("release", "lint", *paths)
    assert code == 0
    assert f"{len(paths)} documents: " in text


def test_neutral_policies_come_back(run):
    _, printed, _ = run("release", "compile", "--stack", "gpu", "--neutral")
    policies = {key.name: policy for key, policy in release_policies(shipped("gpu")).items()}
    assert {name: from_json(value) for name, value in json.loads(printed).items()} == policies


def test_text_of_a_policy_cannot_write_to_the_terminal(run, policy):
    path = policy("ab" * 48, Sid="\x1b]0;owned\x07\x1b[2J\u202eevil [red]x[/]", Principal={"AWS": "\x1b[31m"})
    for arguments in (("lint", path), ("evaluate", "-p", path, "--principal", "\x1b[32m")):
        _, text, complaint = run("release", *arguments)
        assert not set("\x1b\x07\u202e") & set(text + complaint)
