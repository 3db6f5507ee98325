"""Who may import whom, and what every component of the cloud packages keeps to."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import LOOKUPS, answer, outputs
from recording import Recording, record
from samples import ALL_STACKS, PROJECT, shipped

import jewelhouse
from jewelhouse.deploy import deploy

PACKAGE = Path(jewelhouse.__file__).parent
CLOUDS = {"aws": "pulumi_aws", "azure": "pulumi_azure_native", "gcp": "pulumi_gcp"}
# A module may import from its own layer and from those above it in this list.
LAYERS = (
    {"errors"},
    {"model"},
    {"names", "outputs", "templates", "yamlpath"},
    {"release", "evidence", "images", "weights", "hardware"},
    {"guest"},
    {"lifecycle", "checks", "settings", "stackfile", "picture"},
    {"aws", "azure", "gcp"},
    {"deploy"},
    {"rehearsal", "sandbox", "doctor"},
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FIRST_CLOUD = RANK["aws"]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "guest" not in path.parts)


def part(path: Path) -> str:
    """`release` for release/aws.py, `model` for model.py, '' for the package itself."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(path: Path, *, anywhere: bool = True) -> Iterator[str]:
    """Dotted names that a file imports; only on import of the file itself unless `anywhere`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = part(path)
    if not own:
        assert not list(imported(path))
        return
    assert own in RANK, f"{own} has no layer: give it one"
    for name in imported(path):
        if name.startswith("jewelhouse.") and name != "jewelhouse.__version__":
            other = name.split(".")[1]
            assert RANK[other] <= RANK[own], f"{own} must not import {name}"
            assert other == own or not {own, other} <= set(CLOUDS), f"{own} must not import {name}"
        root = name.split(".")[0]
        if root.startswith("pulumi"):
            assert RANK[own] >= FIRST_CLOUD, f"{own} lies below the cloud packages and imports {root}"
        if root in CLOUDS.values() and own in CLOUDS:
            assert root == CLOUDS[own], f"{own} imports {root}"


def test_no_module_needs_itself_to_be_imported():
    modules = {
        ".".join(("jewelhouse", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in MODULES
    }
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {
        name: {
            target if target in modules else target.rpartition(".")[0]
            for target in imported(path, anywhere=False)
            if target.startswith("jewelhouse")
        }
        - {name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def loaded(program: str) -> set[str]:
    """The cloud SDKs that a fresh interpreter has loaded after `program`."""
    report = (
        f"import sys; print(*sorted({{m.split('.')[0] for m in sys.modules}} & {set(CLOUDS.values())!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT / "tests",
    )
    return set(done.stdout.split())


def test_the_program_and_the_command_line_load_no_cloud_sdk():
    assert loaded("import jewelhouse.deploy, jewelhouse.settings, jewelhouse.cli") == set()


@pytest.mark.parametrize(("cloud", "sdk"), CLOUDS.items())
def test_a_stack_of_one_cloud_loads_one_sdk(cloud, sdk):
    program = f"""
import sys
sys.path.insert(0, ".")
from answers import answer, outputs
from jewelhouse.deploy import deploy
from recording import record
from samples import shipped
record(lambda: deploy(shipped("prod-{cloud}")), outputs=outputs, call=answer)
"""
    assert loaded(program) == {sdk}


# Components, by their source.


def component_classes() -> list[tuple[str, Path, ast.ClassDef]]:
    found = []
    for cloud in CLOUDS:
        for path in sorted((PACKAGE / cloud).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and any(
                    "ComponentResource" in ast.unparse(base) for base in node.bases
                ):
                    found.append((cloud, path, node))
    return found


COMPONENTS = component_classes()
each_component = pytest.mark.parametrize(
    ("cloud", "path", "node"), COMPONENTS, ids=[f"{cloud}.{node.name}" for cloud, _, node in COMPONENTS]
)
ROLES = {
    "PrivateNetwork",
    "WorkloadIdentity",
    "AttestedKey",
    "ConfidentialVm",
    "ConfidentialGpu",
    "EnclaveHost",
}
ROLES |= {"SealedStore", "AuditTrail"}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_cloud_has_every_role_by_the_same_name(cloud):
    assert set(importlib.import_module(f"jewelhouse.{cloud}").__all__) >= ROLES


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    return [call for call in ast.walk(node) if isinstance(call, ast.Call) and ast.unparse(call.func) == name]


@each_component
def test_a_component_registers_its_outputs_once_and_last(cloud, path, node):
    constructor = next(
        item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    )
    last = constructor.body[-1]
    assert isinstance(last, ast.Expr), f"{path.name}: {node.name}"
    assert calls(last, "self.register_outputs"), (
        f"{path.name}: {node.name} does not end with register_outputs"
    )
    assert len(calls(node, "self.register_outputs")) == 1


@each_component
def test_a_component_has_the_standard_constructor(cloud, path, node):
    constructor = next(
        item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    )
    assert [argument.arg for argument in constructor.args.args] == ["self", "name", "args", "opts"]
    (call,) = calls(constructor, "super().__init__")
    token, name, *_, opts = call.args
    assert ast.literal_eval(token) == f"jewelhouse:{cloud}:{node.name}"
    assert (ast.unparse(name), ast.unparse(opts)) == ("name", "opts")
    # Options of the component are its own: children would inherit aliases, protection and imports.
    uses = [item for item in ast.walk(constructor) if isinstance(item, ast.Name) and item.id == "opts"]
    assert len(uses) == 1, f"{path.name}: {node.name} passes opts on"


@each_component
def test_arguments_are_frozen_by_keyword_and_exported(cloud, path, node):
    component = getattr(importlib.import_module(f"jewelhouse.{cloud}.{path.stem}"), node.name)
    annotation = inspect.signature(component).parameters["args"].annotation
    assert annotation.endswith("Args")
    package = importlib.import_module(f"jewelhouse.{cloud}")
    assert {node.name, annotation} <= set(package.__all__)
    arguments = getattr(package, annotation)
    assert arguments.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(arguments))


# Components, by what they register.

recordings: dict[str, Recording] = {}
# Made once for several components, so the child of none.
SHARED = {"azure-native:resources:ResourceGroup"}


def recorded(name: str) -> Recording:
    if name not in recordings:
        recordings[name] = record(lambda: deploy(shipped(name)), outputs=outputs, call=answer)
    return recordings[name]


@pytest.mark.parametrize("name", ALL_STACKS)
def test_children_have_a_parent_its_name_and_an_explicit_provider(name):
    components = {request.urn: request for request in recorded(name).components}
    for request in recorded(name).resources:
        if request.type.startswith("pulumi:providers:"):
            continue
        if request.custom:
            if request.type not in SHARED:
                assert request.parent in components, f"{request.name} ({request.type}) has no parent"
            assert request.provider, f"{request.name} ({request.type}) has an ambient provider"
        if request.parent in components:
            parent = components[request.parent].name
            assert request.name.startswith(f"{parent}-"), f"{request.name} under {parent}"


@pytest.mark.parametrize("name", ALL_STACKS)
def test_every_component_reports_its_outputs_once(name):
    recording = recorded(name)
    for component in recording.components:
        assert len(recording.component_outputs.get(component.urn, [])) == 1, component.name


@pytest.mark.parametrize("name", ALL_STACKS)
def test_a_preview_asks_the_clouds_nothing_that_an_input_could_say(name):
    # A public key is no input of anything: the key service makes it, and only a lookup tells it.
    assert {token for token, _ in recorded(name).calls} <= set(LOOKUPS)
