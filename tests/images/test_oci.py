"""OCI layouts: equal trees are equal digests, others' tools read them, and every change is found."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.images.oci import Image, MalformedLayout, read, write
from jewelhouse.images.tree import Entry, Kind, tree

FILES = tree(
    [
        Entry(path="usr/bin/serve", kind=Kind.FILE, mode=0o755, content=b"#!/bin/sh\necho served\n"),
        Entry(path="bin", kind=Kind.LINK, mode=0o777, target="usr/bin"),
    ]
)
IMAGE = Image(
    layers=[FILES],
    entrypoint=["/usr/bin/serve", "--all"],
    environment={"B": "2", "A": "1"},
    labels={"tee.launch_policy.log_redirect": "never"},
    epoch=1_760_000_000,
)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    return found


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_two_builds_are_the_same_files(tmp_path):
    first, second = write(IMAGE, tmp_path / "one"), write(IMAGE, tmp_path / "two")
    assert first == second == read(tmp_path / "one")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_skopeo_sees_the_same_digest_and_configuration(tmp_path):
    made = write(IMAGE, tmp_path / "image")
    inspect = [tool("skopeo"), "inspect", f"oci:{tmp_path / 'image'}"]
    shown = json.loads(subprocess.run(inspect, check=True, capture_output=True).stdout)
    assert shown["Digest"] == made.manifest
    assert shown["Layers"] == [digest for digest, _ in made.layers]
    assert shown["Labels"] == IMAGE.labels
    assert shown["Env"] == ["A=1", "B=2"]
    config = json.loads(subprocess.run([*inspect, "--config"], check=True, capture_output=True).stdout)
    assert config["config"]["Entrypoint"] == list(IMAGE.entrypoint)


def test_umoci_unpacks_the_tree(tmp_path):
    write(IMAGE, tmp_path / "image")
    index = json.loads((tmp_path / "image" / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (tmp_path / "image" / "index.json").write_text(json.dumps(index))
    command = [tool("umoci"), "unpack", "--rootless", "--image", f"{tmp_path / 'image'}:latest"]
    subprocess.run([*command, tmp_path / "bundle"], check=True, capture_output=True)
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "usr/bin/serve").read_bytes() == b"#!/bin/sh\necho served\n"
    assert os.access(root / "usr/bin/serve", os.X_OK)
    assert os.readlink(root / "bin") == "usr/bin"


@pytest.mark.parametrize(
    "change",
    [
        {"entrypoint": ["/usr/bin/serve"]},
        {"environment": {"A": "1"}},
        {"labels": {}},
        {"user": "1000:1000"},
        {"directory": "/srv"},
        {"architecture": "aarch64"},
        {"epoch": 1},
        {"layers": [FILES, FILES]},
        {"layers": [tree([*FILES.values(), Entry(path="x", kind=Kind.FILE, mode=0o644)])]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_changes_the_digest_that_is_attested(tmp_path, change):
    before, after = write(IMAGE, tmp_path / "a"), write(replace(IMAGE, **change), tmp_path / "b")
    assert before.manifest != after.manifest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"entrypoint": []}, "needs an entry point"),
        ({"architecture": "riscv64"}, "not built for"),
        ({"labels": {"tee.launch_policy.allow_everything": "true"}}, "is no launch policy"),
        ({"labels": {"tee.launch_policy.log_redirect": "sometimes"}}, "cannot be 'sometimes'"),
        ({"labels": {"tee.launch_policy.allow_env_override": "A B"}}, "cannot be"),
    ],
)
def test_what_would_not_launch_is_refused_and_nothing_is_left(tmp_path, change, says):
    with pytest.raises(JewelhouseError, match=says):
        write(replace(IMAGE, **change), tmp_path / "image")
    assert not list(tmp_path.iterdir())


def blob(directory, digest):
    return directory / "blobs" / "sha256" / digest.removeprefix("sha256:")


DAMAGE = {
    "a layer changed": lambda d, m: blob(d, m.layers[0][0]).write_bytes(b"x" * m.layers[0][1]),
    "a layer cut": lambda d, m: blob(d, m.layers[0][0]).write_bytes(b""),
    "a layer gone": lambda d, m: blob(d, m.layers[0][0]).unlink(),
    "the configuration changed": lambda d, m: blob(d, m.config).write_bytes(
        blob(d, m.config).read_bytes().replace(b"--all", b"--any")
    ),
    "the manifest changed": lambda d, m: blob(d, m.manifest).write_bytes(
        blob(d, m.manifest).read_bytes() + b" "
    ),
    "a blob too many": lambda d, m: (d / "blobs" / "sha256" / ("0" * 64)).write_bytes(b""),
    "a layer by link": lambda d, m: (
        shutil.copy(blob(d, m.layers[0][0]), d / "elsewhere"),
        blob(d, m.layers[0][0]).unlink(),
        blob(d, m.layers[0][0]).symlink_to(d / "elsewhere"),
    ),
    "no index": lambda d, m: (d / "index.json").unlink(),
    "two images": lambda d, m: (d / "index.json").write_text(
        json.dumps({"manifests": json.loads((d / "index.json").read_text())["manifests"] * 2})
    ),
    "another layout": lambda d, m: (d / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}'),
    "a digest that leads out": lambda d, m: (d / "index.json").write_text(
        (d / "index.json").read_text().replace(m.manifest, "sha256:../../../etc/passwd")
    ),
    "a member twice": lambda d, m: (d / "index.json").write_text('{"manifests": [], "manifests": []}'),
    "deep nesting": lambda d, m: (d / "index.json").write_text("[" * 100_000),
    "no object": lambda d, m: (d / "index.json").write_text("[]"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_found(tmp_path, name):
    made = write(IMAGE, tmp_path / "image")
    DAMAGE[name](tmp_path / "image", made)
    with pytest.raises(MalformedLayout):
        read(tmp_path / "image")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_byte_of_any_file_is_found_or_means_nothing(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("oci") / "image"
    made = write(IMAGE, directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with contextlib.suppress(MalformedLayout):
        # Beside the digests, the index holds the platform and its own type.
        assert read(directory).manifest == made.manifest
        assert path.name == "index.json"
