"""Every example is a project that runs as it stands: under mocks, and under the real engine."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import inventory
import pytest
import yaml
from answers import answer, inputs_as_deployed, outputs
from pulumi_policy import ResourceValidationArgs
from recording import Recording, record
from samples import PROJECT

from jewelhouse.sandbox.engine import Engine, Result

sys.path.append(str(PROJECT / "policies"))

import guardrails

EXAMPLES = sorted(path.parent for path in PROJECT.glob("examples/*/Pulumi.yaml"))
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)


def settings(example: Path, **changes: str) -> dict[str, str]:
    """The example's configuration: what Pulumi.yaml gives by default, and changes of it."""
    project = yaml.safe_load((example / "Pulumi.yaml").read_text())
    defaults = {key: value["default"] for key, value in project["config"].items()}
    return {
        f"{project['name']}:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in {**defaults, **changes}.items()
    }


def run(example: Path, **changes: str) -> Recording:
    return record(
        lambda: runpy.run_path(str(example / "__main__.py"), run_name="__main__"),
        project=example.name,
        config=settings(example, **changes),
        outputs=outputs,
        call=answer,
    )


def violations(recording: Recording) -> list[str]:
    found: list[str] = []
    for request in recording.resources:
        args = ResourceValidationArgs(
            request.type, inputs_as_deployed(recording, request), request.urn, request.name, None, None
        )
        for rule in guardrails.RULES:
            rule.validate(args, lambda message, urn=None, name=rule.name: found.append(f"{name}: {message}"))
    return found


def test_there_is_an_example_for_each_cloud_and_one_for_the_policy_pack():
    names = {example.name.split("-")[0] for example in EXAMPLES}
    assert names >= {"aws", "azure", "gcp", "policy"}


@each_example
def test_it_registers_what_it_promises(example):
    inventory.check(run(example), PROJECT / f"tests/examples/{example.name}.yaml")


@each_example
def test_it_keeps_the_policies(example):
    assert violations(run(example)) == []


@each_example
def test_it_exports_what_its_readme_names(example):
    exports = run(example).exports
    text = (example / "README.md").read_text()
    assert exports
    named = [name for name in exports if f"`{name}`" in text]
    assert named or example.name == "policy-pack"


@each_example
def test_it_is_a_project_of_its_own(example):
    project = yaml.safe_load((example / "Pulumi.yaml").read_text())
    assert project["name"] == example.name
    assert project["runtime"]["options"] == {"toolchain": "pip", "virtualenv": "../../.venv"}
    assert "plugins" not in project
    assert all({"type", "default", "description"} <= set(value) for value in project["config"].values())


def test_the_careless_program_is_refused():
    found = violations(run(PROJECT / "examples/policy-pack", careless="true"))
    assert {message.split(":")[0] for message in found} == {"aws-no-key-pair", "aws-imdsv2"}


@pytest.fixture
def project(tmp_path):
    """A copy of an example where the engine may write its stack file."""

    def copy(example: Path) -> Path:
        (tmp_path / ".venv").symlink_to(PROJECT / ".venv")
        return Path(shutil.copytree(example, tmp_path / "examples" / example.name))

    return copy


PACK = str(PROJECT / "policies/jewelhouse-policies")


@pytest.fixture
def pulumi(project, engine) -> Callable[..., Result]:
    """Runs `pulumi` on an example, in a sandbox and a stack of its own."""
    engines: dict[Path, Engine] = {}

    def run(example: Path, *arguments: str) -> Result:
        if example not in engines:
            engines[example] = engine(project(example))
            made = engines[example].run("stack", "init", "test", "--non-interactive")
            assert made.ok, made.stderr
        return engines[example].run(*arguments, "--non-interactive", "--stack", "test")

    return run


@each_example
def test_it_goes_up_and_comes_down_under_the_real_engine(example, pulumi):
    weaker = (
        ("--config", "destroyable=true") if "destroyable" in (example / "Pulumi.yaml").read_text() else ()
    )
    for arguments in (
        ("up", "--yes", "--skip-preview", "--policy-pack", PACK, *weaker),
        ("preview", "--expect-no-changes", "--policy-pack", PACK),
        ("destroy", "--yes", "--skip-preview"),
    ):
        done = pulumi(example, *arguments)
        assert done.ok, done.stdout + done.stderr


def test_keys_of_an_example_are_protected_unless_it_says_otherwise(pulumi):
    example = PROJECT / "examples/aws-enclave"
    up = pulumi(example, "up", "--yes", "--skip-preview")
    assert up.ok, up.stdout + up.stderr
    refused = pulumi(example, "destroy", "--yes", "--skip-preview")
    assert not refused.ok
    assert "protected" in refused.stdout + refused.stderr
    # Hosts may be gone by then, but not what cannot be made again.
    left = json.loads(pulumi(example, "stack", "export").stdout)["deployment"]["resources"]
    types = [resource["type"] for resource in left]
    assert types.count("aws:kms/key:Key") == 3
    assert types.count("aws:s3/bucket:Bucket") == 2
    for arguments in (
        ("up", "--yes", "--skip-preview", "--config", "destroyable=true"),
        ("destroy", "--yes", "--skip-preview"),
    ):
        done = pulumi(example, *arguments)
        assert done.ok, done.stdout + done.stderr


def test_the_engine_stops_the_careless_program(pulumi):
    example = PROJECT / "examples/policy-pack"
    done = pulumi(example, "preview", "--config", "careless=true", "--policy-pack", PACK)
    assert not done.ok
    for rule in ("aws-no-key-pair", "aws-imdsv2", "aws-s3-guarded"):
        assert rule in done.stdout
