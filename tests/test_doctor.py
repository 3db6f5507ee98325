from __future__ import annotations

from pathlib import Path

import pytest
from samples import PROJECT

from jewelhouse.doctor import Finding, look
from jewelhouse.model import Cloud

CREDENTIALS = {
    "AWS credentials": ("AWS_PROFILE", "prod"),
    "Azure credentials": ("ARM_CLIENT_ID", "id"),
    "Google Cloud credentials": ("GOOGLE_APPLICATION_CREDENTIALS", __file__),
}


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any credential."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for prefix in ("AWS_", "ARM_", "AZURE_", "GOOGLE_", "PULUMI_"):
        for name in [name for name in __import__("os").environ if name.startswith(prefix)]:
            monkeypatch.delenv(name)


def found(*clouds: Cloud, sandbox: bool = False) -> dict[str, Finding]:
    return {finding.name: finding for finding in look(PROJECT, clouds=clouds, sandbox=sandbox)}


def test_missing_credentials_stop_a_deployment_and_say_how_to_get_them() -> None:
    findings = found(*Cloud)
    for name in CREDENTIALS:
        assert not findings[name].ok
        assert findings[name].needed
        assert findings[name].mend


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_in_the_environment_are_enough(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*CREDENTIALS[name])
    assert found(*Cloud)[name].ok


def test_only_the_clouds_of_a_stack_are_asked_for() -> None:
    names = set(found(Cloud.GCP))
    assert "Google Cloud credentials" in names
    assert not {"AWS credentials", "Azure credentials", "Provider plugin aws"} & names


def test_the_sandbox_needs_no_credentials() -> None:
    findings = found(sandbox=True)
    assert not [name for name in findings if "credentials" in name]
    assert {"Stand-in provider aws", "Stand-in provider azure-native", "Stand-in provider gcp"} <= set(
        findings
    )


def test_packages_are_compared_with_their_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found()["Python packages"].ok
    real = __import__("importlib.metadata", fromlist=["version"]).version
    monkeypatch.setattr(
        "jewelhouse.doctor.importlib.metadata.version",
        lambda name: "1.0" if name == "pydantic" else real(name),
    )
    wrong = found()["Python packages"]
    assert not wrong.ok
    assert "pydantic is 1.0, pinned is" in wrong.found
    assert "requirements.txt" in wrong.mend


def test_a_missing_cli_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jewelhouse.doctor.install.find_cli", lambda paths: None)
    finding = found()["Pulumi CLI and Python language host"]
    assert not finding.ok
    assert "pulumi.com/docs/install" in finding.mend


def test_what_only_verifies_evidence_does_not_stop_a_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    real = __import__("importlib.metadata", fromlist=["version"]).version
    monkeypatch.setattr(
        "jewelhouse.doctor.importlib.metadata.version",
        lambda name: "1.0" if name == "cbor2" else real(name),
    )
    wrong = found()["Python packages for evidence"]
    assert not wrong.ok
    assert not wrong.needed
    assert "requirements-evidence.txt" in wrong.mend
    assert found(sandbox=True)["Python packages for evidence"].needed
