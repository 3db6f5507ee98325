"""Properties of the stack configuration: what is written is what is meant, in YAML, JSON and the schema."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from samples import ALL_STACKS, lock, shipped, stack

from jewelhouse.errors import InvalidLifecycle, Problem
from jewelhouse.images.lock import ImageLock
from jewelhouse.model import Lifecycle, Platform
from jewelhouse.settings import parse, schema

SCHEMA = jsonschema.Draft202012Validator(schema())
NOW = datetime(2026, 11, 1, tzinfo=UTC)
LOCK = lock()

# Places that go together: platform, TEE, region, image of the shipped lock file, machines.
PLACES: tuple[tuple[Platform, str, str, str, tuple[dict[str, Any] | None, ...]], ...] = (
    (Platform.AZURE_CONTAINER, "sev-snp", "westeurope", "trainer", (None,)),
    (Platform.AZURE_CVM, "sev-snp", "westeurope", "server", ({"type": "Standard_DC2as_v6"},)),
    (Platform.AZURE_CVM, "tdx", "westeurope", "server", ({"type": "Standard_DC16es_v6", "count": 2},)),
    (
        Platform.AWS_ENCLAVE,
        "nitro",
        "eu-central-1",
        "finetuner",
        (
            {"type": "m7i.xlarge", "enclave": {"cpus": 2, "memory": "8GiB"}},
            {"type": "m7i.4xlarge", "count": 3, "enclave": {"cpus": 8, "memory": "32768MiB"}},
        ),
    ),
    (Platform.AWS_NITROTPM, "nitro", "eu-central-1", "server", ({"type": "g6e.4xlarge"},)),
    (
        Platform.GCP_CONFIDENTIAL_SPACE,
        "tdx",
        "europe-west4",
        "server",
        ({"type": "c3-standard-4"}, {"type": "c3-standard-22", "count": 2}),
    ),
)
GUID = "{}0000000-0000-4000-8000-00000000000{}"


def parties(draw: Any) -> dict[str, Any]:
    found = {}
    for digit, name in enumerate(("model-provider", "data-owner", "operator"), start=1):
        aws: dict[str, Any] = {"account": str(digit) * 12}
        if draw(st.booleans()):
            aws["deployer"] = f"arn:aws:iam::{str(digit) * 12}:role/ops/deploy-{digit}"
        azure: dict[str, Any] = {
            "subscription": GUID.format(digit, 1),
            # One tenant: managed identities have no roles in another.
            "tenant": GUID.format(1, 2),
            "orchestrator": GUID.format(digit, 3),
        }
        if draw(st.booleans()):
            azure["sealers"] = [GUID.format(digit, 4)]
        if draw(st.booleans()):
            group = f"/subscriptions/{azure['subscription']}/resourceGroups/images"
            azure["registry"] = f"{group}/providers/Microsoft.ContainerRegistry/registries/jewelhouse"
        gcp = {"project": f"project-of-{digit}", "number": f"10000000000{digit}"}
        if draw(st.booleans()):
            group = f"/subscriptions/{azure['subscription']}/resourceGroups/hub"
            azure["gpu-verifier"] = f"{group}/providers/Microsoft.Network/privateLinkServices/nras"
            gcp["gpu-verifier"] = "projects/hub/regions/europe-west4/serviceAttachments/nras"
        found[name] = {"aws": aws, "azure": azure, "gcp": gcp}
    return found


@st.composite
def configurations(draw: Any) -> dict[str, Any]:
    """A valid lifecycle: stages one after another, each opening some of what there is so far."""
    artifacts: dict[str, dict[str, Any]] = {}
    stages: dict[str, dict[str, Any]] = {}
    for number in range(draw(st.integers(1, 3))):
        artifacts[f"given-{number}"] = {
            "kind": draw(st.sampled_from(["dataset", "recipe", "weights", "adapter"])),
            "owner": draw(st.sampled_from(["model-provider", "data-owner"])),
            "supplied": True,
        }
    for number in range(draw(st.integers(1, 4))):
        platform, tee, region, image, machines = draw(st.sampled_from(PLACES))
        opens = draw(st.lists(st.sampled_from(sorted(artifacts)), min_size=1, max_size=3, unique=True))
        stage: dict[str, Any] = {
            "kind": draw(st.sampled_from(["training", "fine-tuning", "evaluation", "inference"])),
            "platform": platform.value,
            "region": region,
            "image": image,
            "opens": opens,
        }
        if platform.cloud != "aws" or draw(st.booleans()):
            stage["tee"] = tee
        if (machine := draw(st.sampled_from(machines))) is not None:
            stage["machine"] = machine
        if draw(st.booleans()):
            sealed = f"made-{number}"
            artifacts[sealed] = {"kind": "weights", "owner": "model-provider"}
            stage["seals"] = [sealed]
        stages[f"stage-{number}"] = stage
    used = {name for stage in stages.values() for name in (*stage["opens"], *stage.get("seals", ()))}
    artifacts = {name: value for name, value in artifacts.items() if name in used}
    # Key Vault also releases expired keys, so a licence on Azure has no end.
    endless = {name for stage in stages.values() if "azure" in stage["platform"] for name in stage["opens"]}
    for name, value in artifacts.items():
        if draw(st.booleans()):
            tier: dict[str, Any] = {
                "holders": ["operator"],
                "kinds": ["training", "fine-tuning", "evaluation", "inference"],
            }
            if name not in endless and draw(st.booleans()):
                tier["expires"] = draw(st.sampled_from(["2030-06-30", "2031-01-02T03:04:05+02:00"]))
            value["licences"] = {"tier": tier}
        if draw(st.booleans()):
            value["require"] = ["genuine", "no-bypass"]
    config: dict[str, Any] = {
        "name": draw(st.sampled_from(["a", "fraud-llm", "x1-2-3"])),
        "parties": parties(draw),
        "artifacts": artifacts,
        "stages": stages,
    }
    for key, value in (("destroyable", True), ("allow-same-owner", True), ("alarm-emails", ["a@b.example"])):
        if draw(st.booleans()):
            config[key] = value
    return config


def written(lifecycle: Lifecycle) -> dict[str, Any]:
    """A lifecycle as configuration again, field by field, with its images inline."""
    config = plain(lifecycle)
    for artifact in config["artifacts"].values():
        artifact["licences"] = {licence.pop("tier"): licence for licence in artifact["licences"]}
    for stage in config["stages"].values():
        if machine := stage["machine"]:
            if enclave := machine["enclave"]:
                enclave["memory"] = f"{enclave['memory']}MiB"
            if machine["run-duration"]:
                machine["run-duration"] = f"{machine['run-duration']}s"
    config["images"] = {}
    for (name, platform), image in lifecycle.images.items():
        entry = plain(image)
        del entry["platform"]
        current, *previous = [each["values"] for each in entry["measurements"]] or [{}]
        entry |= {"measurements": current, "previous": previous, "gpu": entry.pop("gpus")}
        config["images"].setdefault(name, {})[platform.value] = entry
    return {"name": lifecycle.name, **config}


def plain(value: Any) -> Any:
    """Values of the model as they stand in a file; entries are named by their key, not inside."""
    if dataclasses.is_dataclass(value):
        return {
            field.name.replace("_", "-"): plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in ("name", "images")
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else value


def in_yaml(config: Any) -> Any:
    return yaml.safe_load(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.parametrize("name", ALL_STACKS)
def test_a_shipped_lifecycle_survives_being_written_and_read(name):
    lifecycle = shipped(name)
    assert parse(in_yaml(written(lifecycle)), ImageLock({})) == lifecycle


@given(configurations())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_lifecycle_survives_being_written_and_read(config):
    lifecycle = parse(config, LOCK, now=NOW)
    again = written(lifecycle)
    assert parse(again, ImageLock({}), now=NOW) == lifecycle
    assert parse(in_yaml(again), ImageLock({}), now=NOW) == lifecycle
    assert parse(json.loads(json.dumps(again)), ImageLock({}), now=NOW) == lifecycle
    assert written(parse(again, ImageLock({}), now=NOW)) == again


@given(configurations())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_schema_accepts_what_the_settings_accept(config):
    lifecycle = parse(config, LOCK, now=NOW)
    SCHEMA.validate(document(config))
    SCHEMA.validate(document(written(lifecycle)))


@given(configurations(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_order_of_keys_means_nothing(config, random):
    assert parse(shuffled(config, random), LOCK, now=NOW) == parse(config, LOCK, now=NOW)


def document(config: Any) -> dict[str, Any]:
    return {"config": {"jewelhouse:lifecycle": config}}


def shuffled(value: Any, random: Any) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    random.shuffle(keys)
    return {key: shuffled(value[key], random) for key in keys}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything that is not a mapping, and of every mapping."""
    yield path
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))


def put_at(config: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(config)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


OTHER_VALUES = (
    None,
    True,
    False,
    0,
    3,
    3.0,
    3.5,
    -1,
    "",
    "3",
    "true",
    "yes",
    "x",
    "A B",
    [],
    ["x"],
    {},
    {"x": 1},
)


@given(st.sampled_from(["dev", "gpu", "federated", "prod-azure"]), st.data())
@settings(max_examples=400, deadline=None)
def test_what_the_schema_refuses_the_settings_refuse_too(name, data):
    config = stack(name)
    path = data.draw(st.sampled_from([path for path in leaves(config) if path]))
    changed = put_at(config, path, data.draw(st.sampled_from(OTHER_VALUES)))
    assume(not SCHEMA.is_valid(json.loads(json.dumps(document(changed), default=str))))
    with pytest.raises(InvalidLifecycle) as caught:
        parse(changed, LOCK, now=NOW)
    assert caught.value.problems


@given(st.sampled_from(["dev", "gpu", "federated", "prod-azure"]), st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_ends_in_a_lifecycle_or_in_problems_with_a_path(name, data):
    config = stack(name)
    for _ in range(data.draw(st.integers(1, 3))):
        paths = [path for path in leaves(config) if path]
        config = put_at(config, data.draw(st.sampled_from(paths)), data.draw(st.sampled_from(OTHER_VALUES)))
    found: tuple[Problem, ...] = ()
    try:
        parse(config, LOCK, now=NOW)
    except InvalidLifecycle as invalid:
        found = invalid.problems
    assert all(problem.where and problem.what for problem in found)


@given(st.sampled_from(ALL_STACKS), st.data())
@settings(max_examples=100, deadline=None)
def test_an_unknown_key_is_refused_wherever_it_stands(name, data):
    config = stack(name)
    mappings = [path for path in leaves(config) if isinstance(at(config, path), dict) and fixed(path)]
    path = data.draw(st.sampled_from(mappings))
    changed = copy.deepcopy(config)
    at(changed, path)[data.draw(st.sampled_from(["reginn", "allow_same_owner", "alarm_emails", "Kind"]))] = (
        "x"
    )
    assert not SCHEMA.is_valid(json.loads(json.dumps(document(changed), default=str)))
    with pytest.raises(InvalidLifecycle):
        parse(changed, LOCK, now=NOW)


def at(config: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        config = config[key]
    return config


def fixed(path: tuple[Any, ...]) -> bool:
    """Whether the mapping there has a fixed set of keys rather than names."""
    return not path or path[-1] not in ("parties", "artifacts", "stages", "images", "licences")
