"""Bills of materials: complete, valid to the schema, the same for the same image."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import attested
import pytest

from jewelhouse.model import Platform

pytest.importorskip("cyclonedx")
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from jewelhouse.images import sbom

DIGEST = f"sha256:{'9' * 64}"


def bill(folder, *, assembled=None, kernel=attested.KERNEL, digest=DIGEST, platform=Platform.AWS_ENCLAVE):
    return sbom.document(
        attested.recipe(folder), platform, assembled or attested.assembled(), kernel, digest=digest
    )


def by_reference(data: bytes) -> dict[str, dict]:
    return {one["bom-ref"]: one for one in json.loads(data)["components"]}


def test_the_library_s_strict_schema_holds_and_it_reads_the_bill_back(tmp_path):
    """Independent oracle: CycloneDX's own JSON schema 1.6, without unknown members."""
    data = bill(tmp_path)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    again: Any = Bom.from_json(json.loads(data))  # pyright: ignore[reportAttributeAccessIssue]
    assert {str(one.bom_ref.value) for one in again.components} == set(by_reference(data))
    assert again.validate()


def test_a_bill_that_breaks_the_schema_is_noticed_by_this_oracle(tmp_path):
    value = json.loads(bill(tmp_path))
    value["components"][0]["hashes"][0]["content"] = "no digest"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(value)) is not None


def test_every_package_stands_there_as_scanners_name_it_with_the_digest_of_its_file(tmp_path):
    found = {name: one["hashes"] for name, one in by_reference(bill(tmp_path)).items()}
    own = hashlib.sha256(b"print()").hexdigest()
    assert found == {
        name: [{"alg": "SHA-256", "content": digest}]
        for name, digest in {
            "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=trixie": "b" * 64,
            "pkg:deb/debian/libstdc%2B%2B6@2:14.2.0-19~x?arch=amd64&distro=trixie": "c" * 64,
            "pkg:deb/debian/ca-certificates@20250419?arch=all&distro=trixie": "d" * 64,
            "pkg:deb/debian/linux-image-6.12@6.12.95-1?distro=trixie": "f" * 64,
            "pkg:pypi/numpy@2.4.6": "e" * 64,
            f"/{attested.FILE}": own,
        }.items()
    }


def test_package_urls_lose_nothing_of_a_debian_version(tmp_path):
    for one in by_reference(bill(tmp_path)).values():
        if "purl" in one:
            url = PackageURL.from_string(one["purl"])
            assert (url.name, url.version) == (one["name"], one["version"])
            assert unquote(one["purl"].partition("@")[2].partition("?")[0]) == one["version"]


def test_the_bill_names_its_image_its_platform_and_the_image_s_own_time(tmp_path):
    value = json.loads(bill(tmp_path))
    subject = value["metadata"]["component"]
    assert subject["hashes"] == [{"alg": "SHA-256", "content": "9" * 64}]
    assert (subject["name"], subject["type"]) == ("server", "operating-system")
    assert subject["properties"] == [{"name": "jewelhouse:platform", "value": "aws-enclave"}]
    assert datetime.fromisoformat(value["metadata"]["timestamp"]) == datetime(2026, 11, 1, tzinfo=UTC)
    inside = next(one for one in value["dependencies"] if one["ref"] == subject["bom-ref"])
    assert set(inside["dependsOn"]) == set(by_reference(bill(tmp_path)))


def test_the_same_image_has_the_same_bill_wherever_and_whenever_it_is_made(tmp_path, monkeypatch):
    first = bill(tmp_path / "a")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    assert bill(tmp_path / "b") == first


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"assembled": attested.assembled(content=b"print(1)")}, id="own-file"),
        pytest.param({"assembled": attested.assembled(libc="0" * 64)}, id="rebuilt-package-of-one-version"),
        pytest.param({"kernel": {}}, id="kernel"),
        pytest.param({"digest": f"sha256:{'8' * 64}"}, id="image"),
        pytest.param({"platform": Platform.GCP_CONFIDENTIAL_SPACE}, id="platform"),
    ],
)
def test_another_image_never_shares_a_serial_number(tmp_path, changed):
    serial = json.loads(bill(tmp_path))["serialNumber"]
    other = json.loads(bill(tmp_path, **changed))["serialNumber"]
    assert serial.startswith("urn:uuid:")
    assert serial != other
