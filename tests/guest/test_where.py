"""Where the guest finds its stage's settings: each platform's own place, or a clear word."""

from __future__ import annotations

import pytest

from jewelhouse.guest import where
from jewelhouse.guest.settings import THE_CLOUD, Endpoints, InvalidSettings
from jewelhouse.model import Platform
from jewelhouse.rehearsal.ec2 import Metadata
from jewelhouse.rehearsal.http import Answer, Asked, Service

DOCUMENT = b'{"stage": "finetune"}'


def test_a_nitrotpm_host_reads_its_user_data_by_version_2_only():
    with Metadata(None, user_data=DOCUMENT) as metadata:
        assert where.stage(Platform.AWS_NITROTPM, Endpoints(imds=metadata.url)) == DOCUMENT


def test_a_host_without_user_data_says_so():
    with Metadata(None) as metadata, pytest.raises(InvalidSettings, match="cannot be had"):
        where.stage(Platform.AWS_NITROTPM, Endpoints(imds=metadata.url))


def test_confidential_space_asks_the_metadata_server_as_google_wants_to_be_asked():
    def answer(asked: Asked) -> Answer:
        right = asked.path.endswith("/attributes/jewelhouse-stage")
        right = right and asked.headers.get("metadata-flavor") == "Google"
        return Answer(body=DOCUMENT) if right else Answer(status=403)

    with Service(answer) as service:
        assert where.stage(Platform.GCP_CONFIDENTIAL_SPACE, Endpoints(imds=service.url)) == DOCUMENT


def test_a_confidential_container_reads_its_measured_environment(monkeypatch):
    monkeypatch.setenv(where.VARIABLE, DOCUMENT.decode())
    assert where.stage(Platform.AZURE_CONTAINER, THE_CLOUD) == DOCUMENT
    monkeypatch.delenv(where.VARIABLE)
    with pytest.raises(InvalidSettings, match="JEWELHOUSE_STAGE is not set"):
        where.stage(Platform.AZURE_CONTAINER, THE_CLOUD)


@pytest.mark.parametrize("platform", [Platform.AZURE_CVM, Platform.GCP_CVM])
def test_hosts_with_cloud_init_read_its_file(platform, tmp_path, monkeypatch):
    monkeypatch.setattr(where, "FILE", tmp_path / "stage.json")
    with pytest.raises(InvalidSettings, match="cannot be had"):
        where.stage(platform, THE_CLOUD)
    (tmp_path / "stage.json").write_bytes(DOCUMENT)
    assert where.stage(platform, THE_CLOUD) == DOCUMENT


def test_an_enclave_without_a_parent_says_so():
    with pytest.raises(InvalidSettings, match="settings of the stage on aws-enclave"):
        where.stage(Platform.AWS_ENCLAVE, THE_CLOUD)


def test_every_platform_has_a_place():
    assert set(where._SOURCES) == set(Platform)


def test_no_proxy_of_the_environment_gets_to_see_it(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Metadata(None, user_data=DOCUMENT) as metadata:
        assert where.stage(Platform.AWS_NITROTPM, Endpoints(imds=metadata.url)) == DOCUMENT
