"""Images of recipes: the same bytes wherever they are built, and one change in the right register."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from oracles import eif as aws
from samples import PROJECT

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import opening
from jewelhouse.images import assemble, build, dmverity, eif, oci, recipe, tools
from jewelhouse.images.tree import differences
from jewelhouse.model import Platform

RECIPE = """\
name: small
packages: [busybox-static]
guest: false
epoch: 2026-11-01T00:00:00Z
files:
  /opt/hello: {text: "hello"}
  /opt/where: {template: where.j2}
run: [/usr/bin/busybox, cat, /opt/hello]
targets:
  aws-enclave: {}
  aws-nitrotpm: {}
  gcp-confidential-space: {repository: europe-west4-docker.pkg.dev/op/images/small}
  azure-container: {repository: registry.example/small}
"""
ENCLAVE, SPACE, TPM = Platform.AWS_ENCLAVE, Platform.GCP_CONFIDENTIAL_SPACE, Platform.AWS_NITROTPM
CONTAINER = Platform.AZURE_CONTAINER


def written(folder: Path, text: str = RECIPE) -> recipe.Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(text)
    (folder / "where.j2").write_text("{{ name }} on {{ platform }}\n")
    return recipe.load(folder)


@pytest.fixture(scope="session", autouse=True)
def _packages(packages):
    """Skips where no image can be built."""
    packages("busybox-static")
    packages("linux-image-cloud-amd64")


@pytest.fixture
def made(image_cache, tmp_path):
    def _made(platform, text=RECIPE, name="one", **options):
        if platform is CONTAINER and dmverity.tool() is None:
            pytest.skip("dmverity-vhd is not built: run `make dmverity` (needs Go)")
        return build.build(
            written(tmp_path / name / "recipe", text), platform, tmp_path / name, cache=image_cache, **options
        )

    return _made


def content(one: build.Built) -> dict[str, bytes]:
    if one.path.is_file():
        return {one.path.name: one.path.read_bytes()}
    return {
        str(path.relative_to(one.path)): path.read_bytes() for path in one.path.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("platform", [ENCLAVE, TPM, SPACE, CONTAINER])
def test_two_builds_in_different_places_are_the_same_bytes(made, platform):
    one, two = made(platform), made(platform, name="another/place")
    first, second = content(one), content(two)
    differing = [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]
    assert not differing
    assert one.measurements == two.measurements
    for name in (build.SBOM,):
        assert (one.path.parent / name).read_bytes() == (two.path.parent / name).read_bytes()


CHANGES = {
    "a-file": RECIPE.replace('text: "hello"', 'text: "hullo"'),
    "a-template": RECIPE.replace("name: small", "name: smell"),
    "the-command-line": RECIPE + "kernel: {command-line: quiet}\n",
    "a-kernel-module": RECIPE + "kernel: {modules: [virtio_net]}\n",
}


@pytest.mark.parametrize(
    ("platform", "change", "registers"),
    [
        pytest.param(ENCLAVE, "a-file", {"PCR0", "PCR2"}, id="file-in-an-enclave"),
        pytest.param(ENCLAVE, "the-command-line", {"PCR0", "PCR1"}, id="command-line-of-an-enclave"),
        pytest.param(ENCLAVE, "a-kernel-module", {"PCR0", "PCR1"}, id="module-in-an-enclave"),
        pytest.param(TPM, "a-file", {"PCR4"}, id="file-on-a-disk-by-its-root-hash"),
        pytest.param(TPM, "the-command-line", {"PCR4"}, id="command-line-of-a-disk"),
        pytest.param(SPACE, "a-file", {"image_digest"}, id="file-in-a-container"),
        pytest.param(CONTAINER, "a-file", {"hostdata"}, id="file-in-a-confidential-container"),
    ],
)
def test_one_change_changes_the_right_registers_and_only_those(made, platform, change, registers):
    before, after = made(platform), made(platform, CHANGES[change], name="two")
    changed = {name for name, value in before.measurements.items() if after.measurements[name] != value}
    assert changed == registers


def test_trees_of_two_builds_say_which_file_differs(image_cache, tmp_path):
    trees = [
        assemble.assemble(written(tmp_path / name, text), SPACE, cache=image_cache).whole
        for name, text in (("one", RECIPE), ("two", CHANGES["a-file"]))
    ]
    assert [line.split(":")[0] for line in differences(*trees)] == ["opt/hello"]


def test_enclaves_measure_what_awss_builder_says(made):
    one = made(ENCLAVE)
    said = aws("read", one.path)
    assert (
        {name: said[name] for name in one.measurements} == one.measurements == eif.measure(one.path).registers
    )


def test_an_enclave_is_signed_with_a_key_of_the_platform_team(made, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:secp384r1",
                "-nodes",
            ),
            *("-keyout", key, "-out", certificate, "-subj", "/CN=images", "-days", "30"),
        ],
        check=True,
        capture_output=True,
    )
    from jewelhouse.images import eif_signature

    unsigned, signed = made(ENCLAVE), made(ENCLAVE, name="two", signer=eif_signature.load(key, certificate))
    assert set(signed.measurements) == {"PCR0", "PCR1", "PCR2", "PCR8"}
    assert signed.measurements["PCR0"] == unsigned.measurements["PCR0"]
    assert aws("read", signed.path)["PCR8"] == signed.measurements["PCR8"]


def test_what_did_not_change_is_not_built_again(made, monkeypatch):
    first = made(ENCLAVE)
    monkeypatch.setitem(build._MAKERS, ENCLAVE, lambda *_: pytest.fail("built again"))
    assert made(ENCLAVE) == first


def test_a_kept_image_that_somebody_changed_is_built_again(made):
    first = made(ENCLAVE)
    with first.path.open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    assert eif.measure(made(ENCLAVE).path).registers == first.measurements


def test_an_interrupted_build_leaves_nothing_under_its_name(made, monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(build._MAKERS, ENCLAVE, stop)
    with pytest.raises(KeyboardInterrupt):
        made(ENCLAVE)
    assert list((tmp_path / "one" / "small").iterdir()) == []


def test_a_platform_the_recipe_does_not_build_for_is_named(made):
    with pytest.raises(JewelhouseError, match="has no target gcp-cvm"):
        made(Platform.GCP_CVM)


def test_a_template_that_fails_is_named_with_its_file(made, tmp_path):
    one = tmp_path / "one" / "recipe"
    written(one)
    (one / "where.j2").write_text("{{ nobody }}")
    with pytest.raises(recipe.InvalidRecipe, match=r"where\.j2.*'nobody' is undefined"):
        build.build(recipe.load(one), SPACE, tmp_path / "out", cache=PROJECT / ".jewelhouse" / "images")


@pytest.mark.parametrize("platform", list(Platform))
def test_the_guest_in_an_image_is_what_it_imports_and_nothing_else(platform):
    assert assemble.GUEST_MODULES == opening.MODULES
    paths = {entry.path.removeprefix(f"{assemble.KIT}/") for entry in assemble.kit(platform)}
    others = {name for other, name in opening.MODULES.items() if other.cloud is not platform.cloud}
    assert not {f"guest/{name}.py" for name in others} & paths
    assert {"guest/__main__.py", "guest/run.py", "weights/stream.py", "errors.py"} <= paths
    strangers = {path.split("/")[0] for path in paths} & {
        "aws",
        "azure",
        "gcp",
        "cli",
        "sandbox",
        "deploy.py",
    }
    assert not strangers


def test_only_images_that_demand_gpus_hold_what_attests_them():
    def paths(gpus: bool) -> set[str]:
        return {entry.path.removeprefix(f"{assemble.KIT}/") for entry in assemble.kit(SPACE, gpus=gpus)}

    asking = {f"guest/{name}.py" for name in ("gpu", "nras", "nvml")}
    assert not asking & paths(False)
    assert asking | {"evidence/nvidia_eat.py"} <= paths(True)
    (without,) = assemble.guest_requirements(SPACE)
    first, more = assemble.guest_requirements(SPACE, gpus=True)
    assert first == without
    assert b"nvidia-ml-py==" in more
    assert b"nvidia-ml-py" not in without


def test_guest_and_trust_are_in_every_shipped_image(image_cache):
    one = recipe.load(PROJECT / "templates" / "images" / "server")
    files = assemble.assemble(one, SPACE, cache=image_cache).whole
    assert json.loads(b"".join(files["etc/jewelhouse/trust.json"].chunks())) == one.trust()
    assert not [path for path in files if path.endswith((".pyc", "sshd", "cloud-init"))]


def test_launch_policies_are_labels_of_the_image(made):
    text = RECIPE.replace(
        "images/small}\n  azure", "images/small, launch-policy: {log_redirect: never}}\n  azure"
    )
    assert oci.read(made(SPACE, text).path).labels == {"tee.launch_policy.log_redirect": "never"}


def subordinate(name):
    """Sees to it that a user has subordinate users and groups, as useradd gives people and not services."""
    for file in (Path("/etc/subuid"), Path("/etc/subgid")):
        text = file.read_text() if file.exists() else ""
        if f"{name}:" in text:
            continue
        if os.environ.get("CI") != "true":
            pytest.skip(f"{name} has no range in {file}; with CI=true this test would write one")
        file.write_text(f"{text}{name}:1000000:65536\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="the whole suite already runs without root")
def test_images_are_built_without_root_too(packages):
    if tools.path("newuidmap") is None or shutil.which("setpriv") is None:
        pytest.skip("newuidmap or setpriv is not installed")
    name = "nobody"
    subordinate(name)
    program = (
        "from pathlib import Path; from jewelhouse.images import rootfs; import sys; "
        "r = rootfs.build(rootfs.Request(suite='trixie', packages=('busybox-static',)), Path(sys.argv[1])); "
        "print(r.tar)"
    )
    # Not below the test's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory() as home:
        shutil.chown(home, name)
        person = ("setpriv", f"--reuid={name}", "--regid=nogroup", "--clear-groups")
        environment = {**os.environ, "HOME": home}
        if subprocess.run([*person, sys.executable, "-c", "import jewelhouse"], env=environment).returncode:
            pytest.skip(f"{name} cannot read this Python or checkout")
        done = subprocess.run(
            [*person, sys.executable, "-c", program, home], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).read_bytes() == packages("busybox-static").tar.read_bytes()
