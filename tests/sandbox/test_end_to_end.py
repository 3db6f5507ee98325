"""A small program over the three packages, through the real CLI and engine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jewelhouse.sandbox.engine import Engine, Result, resources

PROGRAM = """
import json

import pulumi
import pulumi_aws as aws
import pulumi_azure_native as azure
import pulumi_gcp as gcp

config = pulumi.Config()
owner = aws.Provider(
    "owner",
    region="eu-central-1",
    allowed_account_ids=["111122223333"],
    assume_roles=[{"role_arn": "arn:aws:iam::111122223333:role/deployer"}],
)
on_aws = pulumi.ResourceOptions(provider=owner)
role = aws.iam.Role(
    "serve",
    assume_role_policy=json.dumps(
        {
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ]
        }
    ),
    opts=on_aws,
)
key = aws.kms.Key(
    "kek",
    customer_master_key_spec="RSA_4096",
    description=config.get("description") or "first",
    policy=role.arn.apply(
        lambda arn: json.dumps(
            {
                "Statement": [
                    {"Effect": "Allow", "Principal": {"AWS": who}, "Action": action, "Resource": "*"}
                    for who, action in (
                        ("arn:aws:iam::111122223333:role/deployer", "kms:PutKeyPolicy"),
                        (arn, "kms:Decrypt"),
                    )
                ]
            }
        )
    ),
    opts=on_aws,
)
on_azure = pulumi.ResourceOptions(
    provider=azure.Provider("operator", subscription_id="00000000-aaaa-bbbb-cccc-000000000001", tenant_id="t")
)
group = azure.resources.ResourceGroup("stage", location=config.get("location") or "westeurope", opts=on_azure)
identity = azure.managedidentity.UserAssignedIdentity(
    "stage", resource_group_name=group.name, location=group.location, opts=on_azure
)
on_google = pulumi.ResourceOptions(provider=gcp.Provider("keys", project="weights-owner"))
ring = gcp.kms.KeyRing("ring", location="europe-west4", opts=on_google)
token = pulumi.Output.secret("opensesame")
secret = aws.ssm.Parameter("token", type="SecureString", value=token, opts=on_aws)
asked = pulumi.InvokeOutputOptions(provider=owner)
public = aws.kms.get_public_key_output(key_id=key.key_id, opts=asked)
pulumi.export("publicKey", public.public_key_pem)
pulumi.export("principal", identity.principal_id)
pulumi.export("ring", ring.id)
pulumi.export("token", secret.value)
"""
COUNT = 6


class Stack:
    """The program as a stack `small` of a project of its own."""

    def __init__(self, engine: Engine, project: Path) -> None:
        self.engine = engine
        (project / "Pulumi.yaml").write_text("name: small\nruntime: python\n")
        (project / "__main__.py").write_text(PROGRAM)
        for directory in (engine.paths.state, engine.paths.world):
            directory.mkdir(parents=True, exist_ok=True)
        made = engine.run("stack", "init", "small", "--non-interactive")
        assert made.ok, made.stderr

    def run(self, operation: str, *arguments: str) -> Result:
        return self.engine.run(operation, "--stack", "small", "--non-interactive", "--yes", *arguments)

    def up(self, *arguments: str) -> Result:
        return self.run("up", "--skip-preview", *arguments)

    def preview(self) -> Mapping[str, int]:
        done = self.engine.run("preview", "--stack", "small", "--non-interactive", "--json")
        assert done.ok, done.stdout + done.stderr
        return json.loads(done.stdout)["changeSummary"]

    def config(self, name: str, value: str) -> None:
        assert self.engine.run("config", "set", name, value, "--stack", "small").ok

    def of_type(self, kind: str) -> list[Mapping[str, Any]]:
        return [found for found in resources(self.engine.export("small")) if found["type"] == kind]

    def world(self, statement: str, *values: str) -> None:
        """Changes the stand-in clouds by hand."""
        with sqlite3.connect(self.engine.paths.world / "world.sqlite") as database:
            database.execute(statement, values)
        database.close()


@pytest.fixture
def stack(engine: Callable[..., Engine], tmp_path: Path) -> Stack:
    project = tmp_path / "project"
    project.mkdir()
    return Stack(engine(project), project)


def test_a_stack_lives_from_up_to_destroy(stack: Stack) -> None:
    up = stack.up()
    assert up.ok, up.stdout + up.stderr
    assert len(resources(stack.engine.export("small"))) == COUNT
    outputs = stack.engine.outputs("small")
    assert outputs["publicKey"].startswith("-----BEGIN PUBLIC KEY-----")
    assert outputs["ring"].startswith("projects/weights-owner/locations/europe-west4/keyRings/ring-")
    assert stack.preview() == {"same": COUNT + 4}, "nothing changed, three providers and the stack included"

    state = json.dumps(stack.engine.export("small"))
    assert "opensesame" not in state

    stack.config("description", "second")
    before = stack.of_type("aws:kms/key:Key")[0]
    assert stack.preview()["update"] == 1
    assert stack.up().ok
    after = stack.of_type("aws:kms/key:Key")[0]
    assert (after["id"], after["outputs"]["description"]) == (before["id"], "second")

    stack.config("location", "northeurope")
    assert stack.preview()["replace"] == 2, "the group moves, and what is in it with it"
    old = stack.of_type("azure-native:resources:ResourceGroup")[0]["id"]
    assert stack.up().ok
    assert stack.of_type("azure-native:resources:ResourceGroup")[0]["id"] != old

    assert stack.run("refresh", "--skip-preview", "--expect-no-changes").ok
    down = stack.run("destroy", "--skip-preview")
    assert down.ok, down.stdout
    assert not resources(stack.engine.export("small"))
    again = stack.up()
    assert again.ok, f"names of the ring and the group are new: {again.stdout}"


def test_drift_shows_on_refresh_and_what_is_gone_is_made_again(stack: Stack) -> None:
    assert stack.up().ok
    key = stack.of_type("aws:kms/key:Key")[0]["id"]
    stack.world(
        "UPDATE resources SET inputs = json_set(inputs, '$.description', 'by hand') WHERE id = ?", key
    )
    stack.world("DELETE FROM resources WHERE type = ?", "aws:ssm/parameter:Parameter")
    assert not stack.run("refresh", "--skip-preview", "--expect-no-changes").ok
    assert stack.run("refresh", "--skip-preview").ok
    assert not stack.of_type("aws:ssm/parameter:Parameter")
    summary = stack.preview()
    assert (summary["update"], summary["create"]) == (1, 1)
    assert stack.up().ok
    assert stack.of_type("aws:kms/key:Key")[0]["outputs"]["description"] == "first"
    assert set(stack.preview()) == {"same"}


def test_a_creation_that_fails_half_way_converges(stack: Stack) -> None:
    (stack.engine.paths.world / "fail.json").write_text(
        json.dumps({"type": "aws:kms/key:Key", "name": "ke.", "times": 1})
    )
    failed = stack.up()
    assert not failed.ok
    assert "ThrottlingException: Rate exceeded" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert not stack.of_type("aws:kms/key:Key")
    assert stack.up().ok
    assert len(resources(stack.engine.export("small"))) == COUNT
    assert set(stack.preview()) == {"same"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            ('customer_master_key_spec="RSA_4096"', 'customer_master_key_spec="RSA_9000"'),
            "'RSA_9000' is not one of",
            id="value",
        ),
        pytest.param(
            ('"kms:PutKeyPolicy"', '"kms:DescribeKey"'), "will not allow you to update", id="lock-out"
        ),
    ],
)
def test_a_refusal_reaches_the_user_in_the_clouds_words(
    stack: Stack, change: tuple[str, str], words: str
) -> None:
    program = stack.engine.paths.project / "__main__.py"
    program.write_text(PROGRAM.replace(*change))
    done = stack.up()
    text = " ".join((done.stdout + done.stderr).split())
    assert not done.ok
    assert words in text
    assert "kek" in text, "the resource is named"
    assert "server.py" not in text
