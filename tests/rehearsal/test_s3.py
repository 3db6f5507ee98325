"""Buckets that lie in folders: what one stage puts is a file for the next, and nothing leads out of them."""

from __future__ import annotations

import pytest

from jewelhouse.rehearsal.s3 import Folders, s3
from jewelhouse.weights import stores
from jewelhouse.weights.stores import StoreError


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "base" / "data").mkdir(parents=True)
    (tmp_path / "base" / "data" / "0").write_bytes(b"sealed")
    return Folders({"base": tmp_path / "base"})


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("base/../secret", id="up"),
        pytest.param("base/data/../../secret", id="up-from-below"),
        pytest.param("base//etc/passwd", id="absolute"),
        pytest.param("base/./data/0", id="another-name-of-the-same"),
        pytest.param("base/data\0/0", id="nul"),
        pytest.param("other/data/0", id="another-bucket"),
        pytest.param("base", id="bucket-without-key"),
        pytest.param("base/data", id="folder"),
        pytest.param("base/data/0/1", id="below-a-file"),
    ],
)
def test_a_key_that_is_no_object_reads_nothing(folders, key):
    assert key not in folders
    with pytest.raises(KeyError):
        folders[key]


@pytest.mark.parametrize("key", ["base/../planted", "base//tmp/planted", "other/planted", "base/a/../../b"])
def test_a_key_that_leads_out_writes_and_removes_nothing(folders, key, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyError):
        folders[key] = b"planted"
    with pytest.raises(KeyError):
        del folders[key]
    assert sorted(tmp_path.rglob("*")) == before


def remote(bucket, url="s3://base"):
    pytest.importorskip("s3fs")
    return stores.store(
        url,
        endpoint_url=bucket.url,
        key="rehearsal",
        secret="rehearsal",
        client_kwargs={"region_name": "eu-central-1"},
        config_kwargs={"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 1}},
        skip_instance_cache=True,
    )


def test_the_real_client_finds_the_files_and_leaves_files(folders, tmp_path):
    with s3(folders) as bucket:
        store = remote(bucket)
        assert store.get("data/0", 100) == b"sealed"
        assert store.sizes("data") == {"data/0": 6}
        store.put("made/one", b"by the stage")
        assert (tmp_path / "base" / "made" / "one").read_bytes() == b"by the stage"
        store.delete("made/one")
        assert not (tmp_path / "base" / "made" / "one").exists()


def test_the_real_client_is_told_that_a_bucket_is_not_there(folders):
    with s3(folders) as bucket, pytest.raises(StoreError):
        remote(bucket, "s3://other").put("x", b"planted")
