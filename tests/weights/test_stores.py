"""Stores: directories and object stores alike, through the real clients."""

from __future__ import annotations

import os
import threading

import pytest
from sealed import NOW, contents, opener, order, small, trust

from jewelhouse.rehearsal.s3 import s3
from jewelhouse.weights import manifest as form
from jewelhouse.weights import resume, seal, sources, stores, unseal
from jewelhouse.weights.stores import Missing, StoreError


@pytest.fixture
def bucket(monkeypatch):
    pytest.importorskip("s3fs")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with s3() as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", found.url)
        yield found


def remote(bucket, url="s3://weights/base"):
    options = {
        "endpoint_url": bucket.url,
        "skip_instance_cache": True,
        "config_kwargs": {"retries": {"max_attempts": 1}, "s3": {"addressing_style": "path"}},
    }
    return stores.store(url, **options)


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        return remote(request.getfixturevalue("bucket"))
    if request.param == "memory":
        found = stores.store("memory://bucket/base")
        found.system.store.clear()
        return found
    return stores.store(tmp_path / "store")


def test_every_store_does_the_same(place):
    with pytest.raises(Missing, match="is not there"):
        place.get("manifest.json", 10)
    assert place.sizes("data") == {}
    place.put("manifest.json", b"one")
    place.put("manifest.json", b"two!")
    place.put("data/1-ab/x", bytes(range(100)))
    place.put("data/2-cd/y", b"")
    assert place.get("manifest.json", 4) == b"two!"
    with pytest.raises(StoreError, match="larger than 3 bytes"):
        place.get("manifest.json", 3)
    assert place.sizes("data") == {"data/1-ab/x": 100, "data/2-cd/y": 0}
    assert place.sizes("data/1-ab") == {"data/1-ab/x": 100}
    assert place.reader("data/1-ab/x")(10, 5) == bytes(range(10, 15))
    with pytest.raises(Missing):
        place.reader("data/1-ab/gone")(0, 5)
    place.delete("data/2-cd/y")
    place.delete("data/2-cd/y")
    place.delete("data/1-ab")
    assert place.sizes("data") == {}


def test_a_file_is_put_whole(place, tmp_path):
    (tmp_path / "file").write_bytes(b"z" * 6_000_000)
    place.put_file("data/1-ab/z", tmp_path / "file")
    assert place.get("data/1-ab/z", 10_000_000) == b"z" * 6_000_000


@pytest.mark.parametrize("size", [0, 1, 5000, (5 << 20) + 1])
def test_an_artifact_travels_through_s3_by_its_real_client(tmp_path, bucket, size):
    source = small(tmp_path / "source", weights=os.urandom(size), config=b"{}")
    store = remote(bucket)
    done = seal.seal(sources.source(source), store, order(), now=NOW, states=tmp_path / "states")
    assert set(bucket.objects) == {
        f"weights/base/{form.name(done.manifest)}",
        *(f"weights/base/{done.manifest.object(path)}" for path in ("weights", "config")),
    }
    unseal.unseal(
        remote(bucket), tmp_path / "out", trust(), artifact="base", opener=opener(tmp_path), now=NOW
    )
    assert contents(tmp_path / "out") == contents(source)


def test_a_source_can_lie_in_s3(tmp_path, bucket):
    expected = {"deep/large": os.urandom((5 << 20) + 1), "odd name #%+": b"odd"}
    bucket.objects.update({f"plain/x/{path}": data for path, data in expected.items()})
    options = {"endpoint_url": bucket.url, "skip_instance_cache": True}
    source = sources.source("s3://plain/x", **options)
    seal.seal(source, stores.store(tmp_path / "store"), order(), now=NOW)
    unseal.unseal(
        stores.store(tmp_path / "store"),
        tmp_path / "out",
        trust(),
        artifact="base",
        opener=opener(tmp_path),
        now=NOW,
    )
    assert {path: (tmp_path / "out" / path).read_bytes() for path in expected} == expected


def test_a_store_that_dies_while_it_is_sealed_to_is_gone_on_with(tmp_path, bucket, monkeypatch):
    monkeypatch.setattr(resume, "COARSE", 0)
    source = small(tmp_path / "source", **{f"file-{n}": bytes([n]) * 5000 for n in range(6)})
    manifest = "weights/base/manifests/0000000000000003-0000000000000001.json"
    bucket.dropped.add(manifest)
    dying = remote(bucket)
    dying.system.retries = 1
    with pytest.raises(StoreError, match=f"s3://{manifest}"):
        seal.seal(sources.source(source), dying, order(), now=NOW, states=tmp_path / "states")
    assert manifest not in bucket.objects
    bucket.dropped.clear()
    done = seal.seal(sources.source(source), remote(bucket), order(), now=NOW, states=tmp_path / "states")
    assert done.kept == 6
    unseal.complete(remote(bucket), done.manifest)


def test_a_store_that_cannot_be_reached_says_which(tmp_path):
    pytest.importorskip("s3fs")
    gone = stores.store(
        "s3://weights/base",
        endpoint_url="http://127.0.0.1:9",
        key="test",
        secret="test",
        skip_instance_cache=True,
        config_kwargs={"retries": {"max_attempts": 1}, "connect_timeout": 1},
    )
    with pytest.raises(StoreError, match=r"s3://weights/base/manifest\.json"):
        gone.get("manifest.json", 10)


def test_readers_of_a_directory_see_an_object_whole_while_it_is_replaced(tmp_path):
    store = stores.store(tmp_path / "store")
    one, two = b"1" * 300_000, b"2" * 300_000
    store.put("manifest.json", one)
    stop = threading.Event()
    seen = set()

    def look():
        while not stop.is_set():
            seen.add(store.get("manifest.json", 1_000_000))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(40):
        store.put("manifest.json", (one, two)[number % 2])
    stop.set()
    reader.join()
    assert seen <= {one, two}
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["manifest.json"]


def test_a_directory_that_cannot_be_written_says_why(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        stores.store(tmp_path / "store").put("manifest.json", b"")


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    import fsspec

    def missing(scheme, **options):
        raise ImportError("Install gcsfs to access GCS")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(StoreError, match="needs the library gcsfs") as raised:
        stores.store("gs://bucket/x")
    assert "jewelhouse[weights]" in raised.value.remedy
