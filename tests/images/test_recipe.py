"""Recipes: what a person writes wrong is named with file, line and what to do."""

from __future__ import annotations

import contextlib
import json
import textwrap

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import PROJECT

from jewelhouse.guest import settings as guest
from jewelhouse.images import recipe

SHIPPED = ("aggregator", "finetuner", "gpu-server", "server", "trainer")
KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"
GOOD = """\
name: model
packages: [python3]
requirements: requirements.txt
files:
  /opt/run.py: {source: run.py}
  /opt/settings: {template: settings.j2, mode: "0600"}
environment: {LEVEL: low}
run: [/usr/bin/python3, /opt/run.py]
trust:
  opens:
    base: {signers: [owner.pem], minimum-version: 3}
targets:
  aws-enclave: {}
  gcp-confidential-space:
    repository: europe-west4-docker.pkg.dev/op/images/model
    launch-policy: {log_redirect: never}
"""
HASHED = f"numpy==2.4.6 --hash=sha256:{'a' * 64}\n"


@pytest.fixture
def folder(tmp_path):
    for name, text in (
        ("recipe.yaml", GOOD),
        ("run.py", "print()"),
        ("settings.j2", "{{ name }} on {{ platform }}"),
        ("requirements.txt", HASHED),
        ("owner.pem", KEY),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def problems(folder):
    with pytest.raises(recipe.InvalidRecipe) as caught:
        recipe.load(folder)
    return caught.value.problems


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_right_and_trust_nobody_until_told_whom(name):
    found = recipe.load(PROJECT / "templates" / "images" / name)
    assert found.name == name
    for part in ("opens", "seals"):
        assert all(one["signers"] == [] for one in found.trust()[part].values())


def test_trust_settings_carry_the_keys_themselves(folder):
    assert recipe.load(folder).trust() == {
        "opens": {"base": {"signers": [KEY], "minimum-version": 3, "minimum-wrapping": 1}},
        "seals": {},
        "rewraps": {},
        "run": ["/usr/bin/python3", "/opt/run.py"],
    }


@pytest.mark.parametrize(
    ("was", "becomes", "line", "says"),
    [
        pytest.param("name: model", "nmae: model", 1, "did you mean name?", id="misspelled-setting"),
        pytest.param("name: model", "name: Model!", 1, "has not the form", id="name-that-no-lock-file-takes"),
        pytest.param("[python3]", "[python3, -o=x]", 2, "has not the form", id="package-that-is-an-option"),
        pytest.param("run.py}", "gone.py}", 5, "there is no file gone.py", id="file-that-is-not-there"),
        pytest.param("{source: run.py}", "{source: ../run.py}", 5, "outside", id="file-from-elsewhere"),
        pytest.param("source: run.py", "source: run.py, text: x", 5, "exactly one", id="two-contents"),
        pytest.param("/opt/run.py: ", "opt/run.py: ", 5, "write /opt/run.py", id="relative-path"),
        pytest.param("/opt/run.py: ", "/opt/../init: ", 5, "no path inside", id="path-that-climbs"),
        pytest.param(
            "/opt/run.py: ", "/etc/jewelhouse/trust.json: ", 5, "belongs to the kit", id="trust-replaced"
        ),
        pytest.param("/opt/run.py: ", "/init: ", 5, "belongs to the kit", id="first-process-replaced"),
        pytest.param('mode: "0600"', "mode: 0600", 6, "must be text", id="mode-that-yaml-reads-as-a-number"),
        pytest.param("LEVEL: low", "LEVEL: low, A-B: x", 7, "", id="variable-no-shell-knows"),
        pytest.param("run: [/usr/bin/python3, /opt/run.py]", "run: []", 8, "", id="nothing-to-run"),
        pytest.param("owner.pem", "run.py", 11, "no public key", id="signer-that-is-no-key"),
        pytest.param("minimum-version: 3", "minimum-version: 0", 11, "", id="floor-that-is-none"),
        pytest.param("aws-enclave: {}", "aws-lambda: {}", 13, "aws-lambda", id="platform-nobody-has"),
        pytest.param(
            "    repository: europe-west4-docker.pkg.dev/op/images/model\n",
            "",
            14,
            "registry/path",
            id="container-without-a-registry",
        ),
        pytest.param(
            "log_redirect: never", "log_redirct: never", 16, "is no launch policy", id="unknown-launch-policy"
        ),
        pytest.param("log_redirect: never", "log_redirect: yes_", 16, "debugonly", id="unknown-value-of-one"),
        pytest.param("name: model", "name: model\nname: other", 2, "written twice", id="key-written-twice"),
        pytest.param("name: model", "name: [model", 2, "is not YAML", id="no-yaml"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_what_to_do(folder, was, becomes, line, says):
    assert was in GOOD
    (folder / "recipe.yaml").write_text(GOOD.replace(was, becomes, 1))
    found = problems(folder)
    assert any(f"recipe.yaml:{line}" in problem.where for problem in found), [str(one) for one in found]
    assert any(says in str(problem) for problem in found), [str(one) for one in found]


def test_everything_wrong_is_said_at_once(folder):
    text = (
        GOOD.replace("run.py}", "gone.py}").replace("owner.pem", "nobody.pem").replace("/opt/settings", "x")
    )
    (folder / "recipe.yaml").write_text(text)
    assert len(problems(folder)) == 3


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("numpy", id="any-version"),
        pytest.param("numpy==2.4.6", id="no-digest"),
        pytest.param("numpy>=2 --hash=sha256:" + "a" * 64, id="range"),
        pytest.param("--index-url=https://evil.example", id="another-index"),
        pytest.param("numpy @ https://evil.example/numpy.whl", id="an-address"),
        pytest.param("-e .", id="a-folder"),
    ],
)
def test_requirements_that_fix_no_bytes_are_refused(folder, line):
    (folder / "requirements.txt").write_text(f"{HASHED}{line}\n")
    assert "pins no file" in problems(folder)[0].what


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "secret"
    other.write_text("secret")
    (folder / "run.py").unlink()
    (folder / "run.py").symlink_to(other)
    assert "there is no file" in problems(folder)[0].what


@pytest.mark.parametrize("name", ["recipe.yaml", "run.py", "settings.j2", "requirements.txt", "owner.pem"])
def test_one_byte_of_any_file_changes_the_digest(folder, name):
    before = recipe.load(folder).digest
    with (folder / name).open("a") as file:
        file.write("\n")
    assert recipe.load(folder).digest != before


def test_what_an_editor_or_python_leaves_behind_does_not_change_it(folder):
    before = recipe.load(folder).digest
    (folder / ".swp").write_text("x")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "run.pyc").write_text("x")
    assert recipe.load(folder).digest == before


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*yaml.safe_load(GOOD), "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            ),
            max_leaves=8,
        ),
    )
)
def test_whatever_is_written_is_refused_in_words(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("r")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    with contextlib.suppress(recipe.InvalidRecipe):
        recipe.load(folder)


@pytest.mark.parametrize(
    "text", ["", "- a", "a: &a [*a]", "? [a]\n: b", "a: !!python/object:os.system x", textwrap.dedent("\tx")]
)
def test_other_yaml_is_refused_in_words(folder, text):
    (folder / "recipe.yaml").write_text(text)
    assert problems(folder)


ON_GPUS = GOOD.replace("targets:\n  aws-enclave: {}\n", "  gpu: {count: 1, architecture: HOPPER}\ntargets:\n")


def test_a_demand_of_gpus_is_in_the_trust_settings_in_full(folder):
    assert "gpu" not in recipe.load(folder).trust()
    (folder / "recipe.yaml").write_text(ON_GPUS)
    trust = recipe.load(folder).trust()
    demanded = {"count": 1, "architecture": "HOPPER", "mode": "SPT", "driver": [], "vbios": []}
    assert trust["gpu"] == demanded
    assert guest.trust(json.dumps(trust).encode()).gpu is not None


@pytest.mark.parametrize(
    ("was", "becomes", "line", "says"),
    [
        pytest.param("count: 1, ", "", 12, "trust.gpu.count", id="no-number"),
        pytest.param("count: 1", "count: 0", 12, "trust.gpu.count", id="none-of-them"),
        pytest.param("count: 1", "count: 16", 12, "trust.gpu.count", id="more-than-machines-have"),
        pytest.param("HOPPER", "ADA", 12, "trust.gpu.architecture", id="no-confidential-mode"),
        pytest.param("HOPPER", "HOPPER, mode: PPCIE", 12, "trust.gpu.mode", id="links-in-the-clear"),
        pytest.param(
            "HOPPER", "HOPPER, driver: [latest]", 12, "trust.gpu.driver", id="no-version-of-a-driver"
        ),
        pytest.param("HOPPER", "HOPPER, vbios: [96]", 12, "trust.gpu.vbios", id="no-version-of-firmware"),
        pytest.param("HOPPER", "HOPPER, drivers: []", 12, "did you mean driver?", id="misspelled"),
        pytest.param(
            "targets:\n",
            "targets:\n  aws-nitrotpm: {}\n",
            14,
            "no GPU that can be attested",
            id="wrong-cloud",
        ),
        pytest.param("name: model", "guest: false\nname: model", 13, "guest is false", id="nobody-to-ask"),
    ],
)
def test_what_is_wrong_about_gpus_is_named_with_its_line(folder, was, becomes, line, says):
    assert was in ON_GPUS
    (folder / "recipe.yaml").write_text(ON_GPUS.replace(was, becomes, 1))
    found = problems(folder)
    assert any(f"recipe.yaml:{line}" in problem.where for problem in found), [str(one) for one in found]
    assert any(says in str(problem) for problem in found), [str(one) for one in found]


def test_the_server_on_gpus_serves_as_the_other_one():
    """A recipe takes files of its own folder only, so the workload is there twice."""
    images = PROJECT / "templates" / "images"
    for name in ("serve.py", "requirements.in", "requirements.txt"):
        assert (images / "gpu-server" / name).read_bytes() == (images / "server" / name).read_bytes()
