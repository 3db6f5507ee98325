"""Policy documents are recognised by what is in them, however a file wraps them."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Cloud
from jewelhouse.release import azure, compiler
from jewelhouse.release.documents import read


def compiled(cloud: Cloud) -> dict:
    return compiler.compile(next(iter(release_policies(shipped(f"prod-{cloud}")).values())))


@pytest.mark.parametrize("cloud", Cloud)
def test_compiled_documents_are_recognised(cloud):
    document = read(json.dumps(compiled(cloud)), "file")
    assert (document.cloud, document.body, document.name) == (cloud, compiled(cloud), "file")


AZURE = compiled(Cloud.AZURE)
TEXT = json.dumps(AZURE).encode()


@pytest.mark.parametrize(
    ("wrapped", "said"),
    [
        (TEXT, "plain"),
        (azure.encode(AZURE).encode(), "base64url without padding, as the vault takes it"),
        (base64.b64encode(TEXT), "plain base64, as templates write it"),
        (base64.encodebytes(TEXT), "base64 in lines"),
        (
            json.dumps(
                {"contentType": "application/json; charset=utf-8", "data": azure.encode(AZURE)}
            ).encode(),
            "release_policy of a key",
        ),
        (json.dumps({"data": azure.encode(AZURE)}).encode(), "only its data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_vault_policy_in_every_wrapping(wrapped, said):
    document = read(wrapped, said)
    assert (document.cloud, document.body) == (Cloud.AZURE, AZURE)


def test_a_provider_as_gcloud_prints_it():
    ours = compiled(Cloud.GCP)
    described = {
        "name": "projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "state": "ACTIVE",
        "oidc": {"issuerUri": ours["issuer"], "allowedAudiences": ours["audiences"]},
        "attributeMapping": ours["mapping"],
        "attributeCondition": ours["condition"],
        "bindings": ours["bindings"],
    }
    found = read(json.dumps(described), "provider").body
    assert {name: found[name] for name in ours} == ours


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ("7", "not a JSON object"),
        ('"Statement"', "not a JSON object"),
        ("{}", "no policy document that the kit knows"),
        ('{"contentType": "x", "data": "%%%"}', "not base64"),
        ('{"contentType": "x", "data": "e30"}', "no policy document that the kit knows"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "is not JSON"),
        ('{"Statement": [], "Statement": [{"Effect": "Allow"}]}', "'Statement' is there twice"),
        (
            '{"version": "1.0.0", "anyOf": [{"authority": "a", "authority": "b"}]}',
            "'authority' is there twice",
        ),
        ('{"version": NaN, "anyOf": []}', "NaN is no number"),
    ],
)
def test_anything_else_is_refused(text, says):
    with pytest.raises(JewelhouseError, match=says) as raised:
        read(text, "the-file.json")
    assert raised.value.where == "the-file.json"


def test_a_document_of_another_cloud_than_said_is_refused():
    with pytest.raises(JewelhouseError, match="not a policy document of aws"):
        read(TEXT, "policy.json", Cloud.AWS)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(JewelhouseError):
        assert read(data, "file").cloud in Cloud
