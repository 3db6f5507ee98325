"""Which way a key opens on which platform."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from aws_rehearsed import closed, stage

from jewelhouse.guest import opening
from jewelhouse.guest.opening import Asked, Closed, Opened
from jewelhouse.guest.settings import THE_CLOUD
from jewelhouse.model import Platform


def test_every_platform_has_its_way():
    assert set(opening.MODULES) == set(Platform)


@pytest.mark.parametrize("platform", [Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM])
def test_the_module_is_there(platform):
    assert importlib.util.find_spec(f"jewelhouse.guest.{opening.MODULES[platform]}")


def test_an_image_for_another_platform_says_so(monkeypatch):
    monkeypatch.setattr(opening, "MODULES", {Platform.AWS_ENCLAVE: "of_another_image"})
    assert "this image cannot run on aws-enclave: jewelhouse.guest.of_another_image is not in it" in closed(
        lambda: opening.opener(stage(), THE_CLOUD)
    )


def test_secrets_are_in_no_representation():
    asked = Asked(artifact="base", key="key", wrapped=b"wrapped secret", bound=b"")
    opened = Opened(dek=b"the secret", kind="nitro-enclave", evidence=b"\xd2 long evidence")
    for one in (asked, opened):
        assert "secret" not in repr(one)
        assert "long evidence" not in repr(one)


def test_a_closed_door_is_one_of_the_kits_errors():
    error = Closed("stays closed", where="base", remedy="look at its gates")
    assert str(error) == "base: stays closed\n  look at its gates"


def test_no_clients_are_loaded_before_a_platform_is_chosen():
    """An image holds the clients of its own cloud alone."""
    program = "import jewelhouse.guest.opening, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = {name.split(".")[0] for name in done.stdout.split()}
    assert not found & {"boto3", "botocore", "azure", "google", "pulumi"}
