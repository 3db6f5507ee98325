"""Every shipped stack through the real CLI and engine; the engine's own state is what is asserted on."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from samples import ALL_STACKS, STACKS, lock, shipped

from jewelhouse import lifecycle as graph
from jewelhouse.model import Cloud, Platform
from jewelhouse.release import compiler
from jewelhouse.sandbox.engine import Engine, resources

KEYS = {
    Cloud.AWS: "aws:kms/key:Key",
    Cloud.AZURE: "azure-native:keyvault:Key",
    Cloud.GCP: "gcp:kms/cryptoKey:CryptoKey",
}
PACKAGES = {Cloud.AWS: "aws", Cloud.AZURE: "azure-native", Cloud.GCP: "gcp"}


def up(engine: Engine, name: str, **changes: Any) -> None:
    done = engine.operate("up", name, changes=changes.get("changes"))
    assert done.ok, done.stdout[-6000:] + done.stderr[-3000:]


def of_type(engine: Engine, name: str, token: str) -> list[Mapping[str, Any]]:
    return [resource for resource in resources(engine.export(name)) if resource["type"] == token]


@pytest.mark.parametrize("name", ALL_STACKS)
def test_a_stack_goes_up_rests_and_comes_down(engine: Callable[..., Engine], name: str) -> None:
    lifecycle, run = shipped(name), engine()
    before = {path.name: path.read_bytes() for path in STACKS.iterdir()}

    up(run, name)
    state = resources(run.export(name))
    assert not [resource["urn"] for resource in state if resource.get("initErrors")]
    assert set(run.preview(name)) == {"same"}

    outputs = run.outputs(name)
    assert set(outputs["stages"]) == set(lifecycle.stages)
    assert set(outputs["policies"]) == {key.name for key in graph.opens_by_key(lifecycle)}
    for key, policy in graph.release_policies(lifecycle).items():
        assert outputs["policies"][key.name]["document"] == compiler.compile(policy)
    for artifact in lifecycle.artifacts:
        wanted = {key.name for key in graph.keys_of(lifecycle, artifact)}
        assert {key["name"] for key in outputs["artifacts"][artifact]["keys"]} == wanted
        assert outputs["artifacts"][artifact]["stores"], f"{artifact} has no store"
        for key in outputs["artifacts"][artifact]["keys"]:
            if not key["platform"].startswith("azure"):
                assert key["public_key"].startswith("-----BEGIN PUBLIC KEY-----")

    used = {
        resource["type"].split(":")[0] for resource in state if not resource["type"].startswith("jewelhouse")
    }
    assert used == {PACKAGES[cloud] for cloud in graph.clouds(lifecycle)}
    # Nothing goes through an ambient default provider: it would deploy into whoever's account is at hand.
    assert not [resource["urn"] for resource in state if "::default" in resource.get("provider", "")]

    kept = [r for r in state if r["type"] in KEYS.values() and (r.get("protect") or r.get("retainOnDelete"))]
    if lifecycle.destroyable:
        changes = None
    else:
        assert kept, "keys of a stack that is not destroyable are protected or retained"
        changes = {"destroyable": True}
        up(run, name, changes=changes)
    done = run.operate("destroy", name, changes=changes)
    assert done.ok, done.stdout[-4000:]
    assert not resources(run.export(name))
    # Down and up again: nothing collides with what the clouds keep for a while under its old name.
    if name == "prod-gcp":
        up(run, name)
    assert {path.name: path.read_bytes() for path in STACKS.iterdir()} == before


def test_keys_of_a_protected_stack_are_not_destroyed(engine: Callable[..., Engine]) -> None:
    run = engine()
    up(run, "prod-gcp")
    before = len(resources(run.export("prod-gcp")))
    done = run.operate("destroy", "prod-gcp")
    assert not done.ok
    assert "protect" in done.stdout + done.stderr
    # Nothing at all is deleted, rather than everything that the keys need around them.
    assert len(resources(run.export("prod-gcp"))) == before


def test_stacks_of_one_operator_stand_beside_each_other(engine: Callable[..., Engine]) -> None:
    run = engine()
    for name in ("prod-gcp", "gpu"):
        up(run, name)
    assert set(run.preview("prod-gcp")) == {"same"}


def test_a_failed_up_leaves_a_state_from_which_the_next_converges(engine: Callable[..., Engine]) -> None:
    run = engine()
    run.paths.world.mkdir(parents=True, exist_ok=True)
    (run.paths.world / "fail.json").write_text(
        json.dumps({"type": "aws:s3/bucket:Bucket", "times": 1, "message": "InternalError: try again"})
    )
    failed = run.operate("up", "prod-aws")
    assert not failed.ok
    assert "InternalError: try again" in failed.stdout
    some = len(resources(run.export("prod-aws")))
    assert some > 0
    up(run, "prod-aws")
    assert len(resources(run.export("prod-aws"))) > some
    assert set(run.preview("prod-aws")) == {"same"}


def test_drift_is_seen_by_refresh_and_mended_by_up(engine: Callable[..., Engine]) -> None:
    run = engine()
    up(run, "prod-aws")
    database = sqlite3.connect(run.paths.world / "world.sqlite")
    with database:
        rows = database.execute(
            "SELECT id, inputs FROM resources WHERE type = ?", (KEYS[Cloud.AWS],)
        ).fetchall()
        identity, inputs = rows[0][0], json.loads(rows[0][1])
        opened = json.loads(inputs["policy"])
        opened["Statement"].append(
            {"Sid": "Hole", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
        )
        inputs["policy"] = json.dumps(opened)
        database.execute("UPDATE resources SET inputs = ? WHERE id = ?", (json.dumps(inputs), identity))
    database.close()
    seen = run.operate("refresh", "prod-aws", "--expect-no-changes")
    assert not seen.ok, "somebody widened a key policy by hand, and refresh did not see it"
    run.operate("refresh", "prod-aws")
    assert run.preview("prod-aws").get("update") == 1
    up(run, "prod-aws")
    policies = [key["inputs"]["policy"] for key in of_type(run, "prod-aws", KEYS[Cloud.AWS])]
    assert not [policy for policy in policies if "Hole" in policy]


def rolled(platform: Platform, image: str) -> dict[str, Any]:
    """The image with a new measurement current and the old one still admitted, for configuration."""
    found = lock().images[image, platform]
    name, value = next(iter(found.measurements[0].values.items()))
    prefix, digits = value[:7], value[7:]
    new = prefix + digits[::-1]
    current = {**found.measurements[0].values, name: new}
    return {
        platform.value: {
            "reference": found.reference,
            "measurements": current,
            "previous": [dict(found.measurements[0].values)],
            "declared": True,
        }
    }


def attested(engine: Engine) -> dict[str, dict[str, Any]]:
    """Policies of the attested keys on AWS by key id; keys of logs and stores are not among them."""
    policies = {
        key["id"]: json.loads(key["inputs"]["policy"]) for key in of_type(engine, "prod-aws", KEYS[Cloud.AWS])
    }
    return {
        identity: policy
        for identity, policy in policies.items()
        if "DenyWithoutDocument" in {statement["Sid"] for statement in policy["Statement"]}
    }


def test_an_image_rolls_out_without_an_interval_on_aws(engine: Callable[..., Engine]) -> None:
    run = engine()
    up(run, "prod-aws")
    before = attested(run)
    entry = rolled(Platform.AWS_ENCLAVE, "finetuner")
    entry["aws-enclave"]["size"] = 536870912
    up(run, "prod-aws", changes={"images": {"finetuner": entry}})
    after = attested(run)
    # The same key, its policy changed in one call, and every statement that released before still there.
    assert set(after) == set(before)
    pcr0 = lock().images["finetuner", Platform.AWS_ENCLAVE].measurements[0]["PCR0"]
    for identity, policy in after.items():
        released = [s for s in policy["Statement"] if s["Effect"] == "Allow" and s["Action"] == "kms:Decrypt"]
        conditions = Counter(
            s["Condition"]["StringEqualsIgnoreCase"]["kms:RecipientAttestation:ImageSha384"] for s in released
        )
        assert conditions[pcr0] == 1, identity
        assert len(conditions) == 2, identity


def test_an_image_rolls_out_without_an_interval_on_google(engine: Callable[..., Engine]) -> None:
    run = engine()
    up(run, "prod-gcp")
    up(run, "prod-gcp", changes={"images": {"server": _google_roll()}})
    members = [
        member["inputs"]["member"]
        for member in of_type(run, "prod-gcp", "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember")
        if "image_digest" in member["inputs"]["member"]
    ]
    old = lock().images["server", Platform.GCP_CONFIDENTIAL_SPACE].measurements[0]["image_digest"]
    assert len([member for member in members if member.endswith(old)]) == len(members) / 2


def _google_roll() -> dict[str, Any]:
    entry = rolled(Platform.GCP_CONFIDENTIAL_SPACE, "server")
    reference = entry["gcp-confidential-space"]["reference"]
    digest = entry["gcp-confidential-space"]["measurements"]["image_digest"]
    entry["gcp-confidential-space"]["reference"] = f"{reference.split('@')[0]}@{digest}"
    vm = lock().images["server", Platform.GCP_CVM]
    return {**entry, "gcp-cvm": {"reference": vm.reference, "declared": True}}


def test_a_changed_policy_is_a_new_key_beside_the_old_one_on_azure(engine: Callable[..., Engine]) -> None:
    run, token = engine(), KEYS[Cloud.AZURE]
    up(run, "prod-azure")
    before = {key["id"] for key in of_type(run, "prod-azure", token)}
    up(
        run,
        "prod-azure",
        changes={
            "stages.train.authority": "https://mine.weu.attest.azure.net",
            "stages.train.authority-policy": "wm9mHlvTU82e8UqoOy1Yj1FBRSNkfe99-69IYDq9eWs",
        },
    )
    after = {key["id"] for key in of_type(run, "prod-azure", token)}
    assert len(after) == len(before)
    # The two keys of the changed stage are new ones; those of disks and of the other stage stay.
    gone = before - after
    assert len(gone) == 2
    assert all(name in identity for identity, name in zip(sorted(gone), ("corpus", "recipe"), strict=True))
    # The vault keeps the old keys (retained), so nothing that is wrapped to them is lost.
    database = sqlite3.connect(run.paths.world / "world.sqlite")
    kept = {row[0] for row in database.execute("SELECT id FROM resources WHERE type = ?", (token,))}
    database.close()
    assert gone <= kept


def test_an_invalid_lifecycle_registers_nothing(engine: Callable[..., Engine]) -> None:
    run = engine()
    done = run.operate("up", "prod-aws", changes={"stages.finetune.machine.type": "t3.micro"})
    assert not done.ok
    shown = done.stdout + done.stderr
    assert "stages.finetune.machine.type: t3.micro cannot host a Nitro Enclave" in shown
    assert "Traceback" not in shown
    assert not resources(run.export("prod-aws"))
