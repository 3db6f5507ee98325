"""`jewelhouse image`: built, measured, locked, verified, sent; and why something is not."""

from __future__ import annotations

import json
import zlib

import pytest
import registry_stand_in
from samples import PROJECT
from sealed import signing_key, write

from jewelhouse.images import tools
from jewelhouse.images.eif_build import Parts, build


@pytest.fixture
def image(tmp_path):
    for name in ("kernel", "boot", "workload"):
        (tmp_path / name).write_bytes(name.encode())
    parts = Parts(
        kernel=tmp_path / "kernel",
        cmdline="console=ttyS0",
        ramdisks=[tmp_path / "boot", tmp_path / "workload"],
        metadata={},
    )
    return tmp_path / "image.eif", build(parts, tmp_path / "image.eif")


def test_machines_get_the_registers_alone(run, image):
    path, registers = image
    code, printed, _ = run("image", "measure", path, "--json")
    assert (code, json.loads(printed)) == (0, registers)
    assert set(registers) == {"PCR0", "PCR1", "PCR2"}


def test_people_see_what_is_inside(run, image):
    path, registers = image
    code, text, _ = run("image", "measure", path)
    assert code == 0
    assert "enclave image for x86_64" in text
    assert f"PCR0 {registers['PCR0']}" in text
    assert "not signed" in text


def test_a_malformed_image_exits_with_2_and_names_the_offset(run, image):
    path, _ = image
    path.write_bytes(path.read_bytes() + b"\0")
    code, _, complaint = run("image", "measure", path)
    assert code == 2
    assert "offset" in complaint
    assert "after its last section" in complaint


def test_a_missing_file_exits_with_2(run, tmp_path):
    code, _, complaint = run("image", "measure", tmp_path / "nothing")
    assert (code, "cannot be read" in complaint) == (2, True)


RECIPE = """\
name: small
packages: [busybox-static]
guest: false
run: [/usr/bin/busybox, sh]
files:
  /opt/hello: {text: "hello"}
targets:
  aws-enclave: {}
  gcp-confidential-space: {repository: "registry.example/images/small"}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, with one small recipe and the packages that this checkout has fetched."""
    if tools.path("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    (tmp_path / "Pulumi.yaml").write_text("name: p\nruntime: python\nstackConfigDir: stacks\n")
    (tmp_path / "stacks").mkdir()
    recipe = tmp_path / "templates" / "images" / "small"
    recipe.mkdir(parents=True)
    (recipe / "recipe.yaml").write_text(RECIPE)
    cache = tmp_path / ".jewelhouse" / "images"
    cache.mkdir(parents=True)
    for kept in (PROJECT / ".jewelhouse" / "images").glob("rootfs-*"):
        (cache / kept.name).symlink_to(kept)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_image_is_built_locked_and_verified(project, run):
    code, printed, _ = run("image", "build", "--platform", "aws-enclave", "--json")
    assert code == 0
    (one,) = json.loads(printed)
    assert run("image", "measure", one["path"], "--json")[1].strip() == json.dumps(one["measurements"])
    assert run("image", "lock")[:2] == (
        0,
        "small for aws-enclave: new\nsmall for gcp-confidential-space: new\n",
    )
    assert run("image", "lock")[1] == "nothing changed\n"
    assert run("image", "verify")[0] == 0


def test_a_changed_file_is_named_by_verify(project, run):
    run("image", "lock")
    recipe = project / "templates" / "images" / "small" / "recipe.yaml"
    recipe.write_text(RECIPE.replace("hello}", "x}").replace('"hello"', '"hullo"'))
    code, printed, _ = run("image", "verify", "--platform", "aws-enclave", "--json")
    assert code == 1
    lines = json.loads(printed)["small for aws-enclave"]
    assert [line.split(": ")[0] for line in lines][:3] == ["digest", "PCR0", "PCR2"]
    assert any(line.startswith("files: opt/hello: sha256:") for line in lines)


def test_an_image_that_was_changed_after_its_build_is_noticed_without_another(project, run):
    run("image", "lock")
    assert run("image", "verify", "--built")[0] == 0
    (path,) = (project / ".jewelhouse").rglob("image.eif")
    data = bytearray(path.read_bytes())
    # A byte of the workload's ramdisk, with the CRC made right again, as somebody would who means it.
    data[-200] ^= 1
    data[544:548] = zlib.crc32(bytes(data[548:]), zlib.crc32(bytes(data[:544]))).to_bytes(4, "big")
    path.write_bytes(data)
    code, printed, _ = run("image", "verify", "--built", "--platform", "aws-enclave", "--json")
    assert code == 1
    lines = json.loads(printed)["small for aws-enclave"]
    assert [line.split(":")[0] for line in lines] == ["digest", "PCR0", "PCR2"]


def test_an_image_that_was_never_locked_is_not_the_same(project, run):
    code, printed, _ = run("image", "verify", "--platform", "aws-enclave")
    assert code == 1
    assert "is not locked: jewelhouse image lock small" in printed


def test_a_container_goes_to_its_registry_and_is_compared_with_it(project, run):
    registry = registry_stand_in.Registry()
    with registry_stand_in.serving(registry) as serving:
        recipe = project / "templates" / "images" / "small" / "recipe.yaml"
        recipe.write_text(RECIPE.replace("registry.example", serving.host))
        run("image", "lock")
        code, printed, _ = run("image", "verify", "--registry", "--platform", "gcp-confidential-space")
        assert code == 1
        assert "registry: " in printed
        code, printed, _ = run("image", "push", "--tag", "next")
        assert code == 0
        assert "0 were there" in printed
        assert run("image", "verify", "--registry", "--platform", "gcp-confidential-space")[0] == 0
        assert "0 blobs sent" in run("image", "push")[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(("build", "smal"), "did you mean small?", id="misspelled-recipe"),
        pytest.param(
            ("build", "--platform", "azure-cvm"), "there are aws-enclave", id="platform-without-target"
        ),
        pytest.param(
            ("push", "--platform", "aws-enclave"), "only container images", id="enclaves-are-no-containers"
        ),
        pytest.param(
            ("lock", "--reference", "small=ami"), "NAME/PLATFORM=REFERENCE", id="reference-of-nothing"
        ),
    ],
)
def test_what_cannot_be_done_is_said_with_a_remedy(project, run, words, says):
    code, _, complaint = run("image", *words)
    assert code == 2
    assert says in complaint


def test_a_bad_recipe_is_named_with_its_line(project, run):
    (project / "templates" / "images" / "small" / "recipe.yaml").write_text(RECIPE + "more: 1\n")
    code, _, complaint = run("image", "build")
    assert code == 2
    assert "recipe.yaml:10" in complaint


def test_a_launch_digest_is_refused_where_no_evidence_holds_one(run, tmp_path):
    code, _, complaint = run(
        "image", "launch-digest", tmp_path / "OVMF.fd", "--vcpus", "2", "--platform", "azure-cvm"
    )
    assert code == 2
    assert "says nothing about an image on azure-cvm" in complaint


def test_provenance_is_that_of_the_locked_image_by_pinned_keys(project, run, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys")
    builder, public = write(keys / "builder", signing_key("builder"))
    _, stranger = write(keys / "stranger", signing_key("stranger"))
    run("image", "lock", "--platform", "aws-enclave", "--provenance-key", builder)
    (made,) = (project / ".jewelhouse").rglob("provenance.dsse.json")
    file = made.rename(keys / made.name)
    words = ("image", "provenance", file, "--name", "small", "--platform", "aws-enclave", "--signer")
    code, printed, _ = run(*words, public, "--json")
    assert (code, json.loads(printed)["verified"]) == (0, True)
    assert run(*words, stranger)[0] == 1
    recipe = project / "templates" / "images" / "small" / "recipe.yaml"
    recipe.write_text(RECIPE.replace('"hello"', '"hullo"'))
    run("image", "lock", "--platform", "aws-enclave")
    code, _, complaint = run(*words, public)
    assert code == 1
    assert "provenance" in complaint
