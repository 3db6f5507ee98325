"""Snapshots from exports, plans and previews: the resources are believed, and nothing they add is missed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from exports_made import (
    RELEASE_ROLE,
    STACK,
    export_of,
    identity_of,
    plan_of,
    preview_of,
    resource,
    resources_of,
    urn,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import ALL_STACKS, changed, lock, put, shipped, stack

from jewelhouse.cli.diff import of
from jewelhouse.errors import JewelhouseError
from jewelhouse.release import states
from jewelhouse.release.diff import Difference, Kind, diff
from jewelhouse.release.resources import SECRET, SIGNATURE, UNKNOWN
from jewelhouse.sandbox.engine import Engine
from jewelhouse.settings import parse

DEV = shipped("dev")
AWS_KEY = "fraud-dev-base-aws-enclave-eu-central-1-key"
GOOGLE_KEY = "base-space-europe-west4-key"
AZURE_KEY = "corpus-azure-container-westeurope-key"
ATTESTATION = "base-space-europe-west4-attestation"
AZURE_GROUP = "/subscriptions/s/resourceGroups/g"
ASKS = "11112222-3333-4444-5555-666677778888 may newly ask"
OTHER_ROLE = "/providers/Microsoft.Authorization/roleDefinitions/00482a5a-887f-4fb3-b363-3b7fe8e74483"
Edit = Callable[[dict[str, dict[str, Any]], dict[str, Any]], None]


def told(found: Difference) -> str:
    return "\n".join(line for change in found.changes for line in (change.what, *change.details))


def snapshot(value: Mapping[str, Any]) -> Any:
    return states.snapshot("made", json.loads(json.dumps(value)))


def edited(edit: Edit, value: dict[str, Any] | None = None) -> dict[str, Any]:
    """An export with its resources, by name, and the outputs of its stack changed."""
    export = copy.deepcopy(value or export_of(DEV))
    found = export["deployment"]["resources"]
    by_name = {one["urn"].split("::")[3]: one for one in found}
    edit(by_name, found[0]["outputs"])
    export["deployment"]["resources"] = list({**by_name, "jewelhouse-made": found[0]}.values())
    return export


@pytest.mark.parametrize("name", ALL_STACKS)
@pytest.mark.parametrize("made", [export_of, plan_of, lambda one: plan_of(one, new=True), preview_of])
def test_a_stack_that_is_deployed_unchanged_is_equal_to_its_file(name, made):
    lifecycle = shipped(name)
    found = diff(of("file", lifecycle), snapshot(made(lifecycle)))
    assert found.verdict == "equal", told(found)
    back = diff(snapshot(made(lifecycle)), of("file", lifecycle))
    assert back.verdict == "equal", told(back)


def test_keys_are_known_without_the_outputs_of_the_kit():
    def silent(_: dict[str, Any], outputs: dict[str, Any]) -> None:
        outputs.clear()

    found = snapshot(edited(silent))
    assert set(found.keys) == set(of("file", DEV).keys)
    assert found.keys["corpus-azure-container-westeurope"].askers == {"train": None}
    assert found.weakened is None


def hole(text: str) -> str:
    document = json.loads(text)
    document["Statement"] = [
        {"Sid": "Hole", "Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
    ]
    return json.dumps(document)


def policy_by_hand(found: dict[str, dict[str, Any]], _: Any) -> None:
    found[AWS_KEY]["outputs"]["policy"] = hole(found[AWS_KEY]["inputs"]["policy"])


def policy_by_code(found: dict[str, dict[str, Any]], _: Any) -> None:
    policy_by_hand(found, _)
    found[AWS_KEY]["inputs"]["policy"] = found[AWS_KEY]["outputs"]["policy"]


def condition_dropped(found: dict[str, dict[str, Any]], _: Any) -> None:
    for side in ("inputs", "outputs"):
        text = found[ATTESTATION][side]["attributeCondition"]
        found[ATTESTATION][side]["attributeCondition"] = text.replace(
            "assertion.dbgstat == 'disabled-since-boot' && ", ""
        )


def own_keys_of_an_issuer(found: dict[str, dict[str, Any]], _: Any) -> None:
    found[ATTESTATION]["outputs"]["oidc"]["jwksJson"] = '{"keys": []}'


def without_deny_policy(found: dict[str, dict[str, Any]], _: Any) -> None:
    del found["mp-strongroom-dev-deny"]


def past_the_deny_policy(found: dict[str, dict[str, Any]], _: Any) -> None:
    rule = found["mp-strongroom-dev-deny"]["outputs"]["rules"][0]["denyRule"]
    rule["exceptionPrincipals"] = [*rule["exceptionPrincipals"], "principal://goog/subject/eve@example.com"]


def other_release_policy(found: dict[str, dict[str, Any]], _: Any) -> None:
    other = found["open-base-azure-cvm-westeurope-key"]["inputs"]["properties"]
    found[AZURE_KEY]["inputs"]["properties"] = other


@pytest.mark.parametrize(
    ("edit", "verdict", "says"),
    [
        pytest.param(policy_by_hand, "wider", "anyone", id="aws-policy-changed-by-hand-and-refreshed"),
        pytest.param(policy_by_code, "wider", "anyone", id="aws-policy-that-the-outputs-do-not-tell"),
        pytest.param(condition_dropped, "wider", "debug off", id="google-debug-clause-dropped"),
        pytest.param(own_keys_of_an_issuer, "undecided", "jwks", id="google-provider-with-keys-of-its-own"),
        pytest.param(without_deny_policy, "wider", "no deny policy", id="google-deny-policy-gone"),
        pytest.param(past_the_deny_policy, "wider", "eve@example.com", id="google-person-past-the-denial"),
        pytest.param(other_release_policy, "wider", "hostdata", id="azure-release-policy-of-another-key"),
    ],
)
def test_what_resources_say_is_believed_and_not_the_outputs(edit, verdict, says):
    found = diff(snapshot(export_of(DEV)), snapshot(edited(edit)))
    assert found.verdict == verdict, told(found)
    assert says in told(found)


BESIDE = [
    pytest.param(
        resource(
            "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember",
            "eve",
            cryptoKeyId=identity_of("gcp:kms/cryptoKey:CryptoKey", GOOGLE_KEY),
            role="roles/cloudkms.cryptoKeyDecrypter",
            member="user:eve@example.com",
        ),
        "wider",
        "user eve@example.com with any evidence or none",
        id="google-person-bound-to-the-key",
    ),
    pytest.param(
        resource(
            "gcp:kms/keyRingIAMMember:KeyRingIAMMember",
            "eve",
            keyRingId=f"projects/p/locations/l/keyRings/ring-of-{GOOGLE_KEY}",
            role="roles/cloudkms.cryptoKeyDecrypter",
            member="user:eve@example.com",
        ),
        "wider",
        "user eve@example.com",
        id="google-person-bound-to-the-ring",
    ),
    pytest.param(
        resource(
            "gcp:kms/cryptoKeyIAMBinding:CryptoKeyIAMBinding",
            "eve",
            cryptoKeyId=identity_of("gcp:kms/cryptoKey:CryptoKey", GOOGLE_KEY),
            role="roles/cloudkms.admin",
            members=["group:admins@example.com"],
        ),
        "wider",
        "admins@example.com",
        id="google-administrators-of-the-key",
    ),
    pytest.param(
        resource(
            "gcp:kms/cryptoKeyIAMPolicy:CryptoKeyIAMPolicy",
            "whole",
            cryptoKeyId=identity_of("gcp:kms/cryptoKey:CryptoKey", GOOGLE_KEY),
            policyData="{}",
        ),
        "undecided",
        "an IAM policy as a whole",
        id="google-policy-of-the-whole-key",
    ),
    pytest.param(
        resource(
            "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider",
            "second",
            workloadIdentityPoolId="jh-base-space-europe-west4",
        ),
        "undecided",
        "a further provider",
        id="google-second-provider-of-the-pool",
    ),
    pytest.param(
        resource(
            "azure-native:authorization:RoleAssignment",
            "eve",
            scope=identity_of("azure-native:keyvault:Key", AZURE_KEY),
            principalId="11112222-3333-4444-5555-666677778888",
            roleDefinitionId=RELEASE_ROLE,
        ),
        "wider",
        "11112222-3333-4444-5555-666677778888 may newly ask",
        id="azure-further-principal-may-ask",
    ),
    pytest.param(
        resource(
            "azure-native:authorization:RoleAssignment",
            "eve",
            scope=identity_of("azure-native:keyvault:Key", AZURE_KEY),
            principalId="11112222-3333-4444-5555-666677778888",
            roleDefinitionId=OTHER_ROLE,
        ),
        "wider",
        "00482a5a-887f-4fb3-b363-3b7fe8e74483",
        id="azure-administrator-of-the-key",
    ),
    *(
        pytest.param(
            resource(
                "azure-native:authorization:RoleAssignment",
                "eve",
                scope=scope,
                principalId="11112222-3333-4444-5555-666677778888",
                roleDefinitionId=role,
            ),
            "wider",
            says,
            id=f"azure-{place}",
        )
        for place, scope, role, says in [
            (
                "asker-of-the-vault",
                f"{AZURE_GROUP}/providers/Microsoft.KeyVault/vaults/v",
                RELEASE_ROLE,
                ASKS,
            ),
            ("asker-of-the-subscription", "/subscriptions/s/", RELEASE_ROLE, ASKS),
            ("asker-of-everything", "/", RELEASE_ROLE, ASKS),
            (
                "asker-of-a-management-group",
                "/providers/Microsoft.Management/managementGroups/all",
                RELEASE_ROLE,
                ASKS,
            ),
            ("administrator-of-the-subscription", "/subscriptions/s", OTHER_ROLE, "what the key lies in"),
        ]
    ),
    pytest.param(
        resource(
            "aws:kms/grant:Grant",
            "leak",
            keyId=f"id-of-{AWS_KEY}",
            granteePrincipal="arn:aws:iam::999999999999:role/eve",
            operations=["Decrypt"],
        ),
        "wider",
        "role eve of account 999999999999 may use a grant for Decrypt",
        id="aws-grant",
    ),
    pytest.param(
        resource(
            "aws:kms/keyPolicy:KeyPolicy",
            "other",
            keyId=f"id-of-{AWS_KEY}",
            policy=hole('{"Version": "2012-10-17", "Statement": []}'),
        ),
        "wider",
        "anyone",
        id="aws-policy-in-a-resource-of-its-own",
    ),
]


@pytest.mark.parametrize(("further", "verdict", "says"), BESIDE)
@pytest.mark.parametrize("made", [export_of, plan_of], ids=["export", "plan"])
def test_what_somebody_attached_beside_the_kit_is_seen(made, further, verdict, says):
    found = diff(of("file", DEV), snapshot(made(DEV, further)))
    assert found.verdict == verdict, told(found)
    assert says in told(found)
    back = diff(snapshot(made(DEV, further)), of("file", DEV))
    # Back again nobody comes in; an administrator may get back what the other policy took away.
    assert not {change.kind for change in back.changes if change.wider} - {Kind.POWER_GAINED}


def over_the_group(group: str) -> dict[str, Any]:
    return resource(
        "azure-native:authorization:RoleAssignment",
        "eve",
        scope=f"/SUBSCRIPTIONS/s/resourceGroups/{group}",
        principalId="11112222-3333-4444-5555-666677778888",
        roleDefinitionId=RELEASE_ROLE,
    )


@pytest.mark.parametrize("made", [export_of, plan_of], ids=["export", "plan"])
def test_a_right_on_the_group_of_a_key_is_found_by_its_name(made):
    """Exports have ids; plans have the names that ids are made of."""
    assert ASKS in told(diff(of("file", DEV), snapshot(made(DEV, over_the_group("g")))))


@pytest.mark.parametrize(
    "place", [("azure-native:keyvault:Vault", "v"), ("azure-native:resources:ResourceGroup", "g")]
)
def test_a_right_on_a_place_that_does_not_exist_yet_is_found_by_what_it_comes_from(place):
    further = over_the_group("g")
    further["inputs"]["scope"] = UNKNOWN
    further["propertyDependencies"] = {"scope": [urn(*place)]}
    assert ASKS in told(diff(of("file", DEV), snapshot(plan_of(DEV, further, new=True))))


@pytest.mark.parametrize("made", [export_of, plan_of], ids=["export", "plan"])
@pytest.mark.parametrize(
    ("scope", "role"),
    [
        ("/subscriptions/s/resourceGroups/other", RELEASE_ROLE),
        ("/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v2", RELEASE_ROLE),
        (f"{AZURE_GROUP}/providers/Microsoft.KeyVault/vaults/v/keys/other", RELEASE_ROLE),
        (
            AZURE_GROUP,
            "/providers/Microsoft.Authorization/roleDefinitions/acdd72a7-3385-48ef-bd42-f606fba81ae7",
        ),
    ],
    ids=["another group", "another vault", "another key", "a reader"],
)
def test_a_right_on_something_else_in_azure_changes_nothing(made, scope, role):
    further = resource(
        "azure-native:authorization:RoleAssignment",
        "eve",
        scope=scope,
        principalId="11112222-3333-4444-5555-666677778888",
        roleDefinitionId=role,
    )
    assert diff(of("file", DEV), snapshot(made(DEV, further))).verdict == "equal"


def test_a_right_on_a_key_that_does_not_exist_yet_is_found_by_what_it_comes_from():
    further = resource(
        "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember",
        "eve",
        cryptoKeyId=UNKNOWN,
        role="roles/cloudkms.cryptoKeyDecrypter",
        member="user:eve@example.com",
    )
    further["propertyDependencies"] = {
        "cryptoKeyId": [one["urn"] for one in resources_of(DEV) if one["urn"].endswith(f"::{GOOGLE_KEY}")]
    }
    found = diff(of("file", DEV), snapshot(plan_of(DEV, further, new=True)))
    assert found.verdict == "wider"
    assert "eve@example.com" in told(found)


@pytest.mark.parametrize(
    "kind",
    ["gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember", "aws:kms/grant:Grant", "aws:kms/keyPolicy:KeyPolicy"],
)
def test_a_right_that_a_preview_adds_to_a_key_that_is_not_in_it_is_undecided(kind):
    place = "cryptoKeyId" if kind.startswith("gcp") else "keyId"
    further = resource(kind, "eve", **{place: "id-of-some-key"})
    found = diff(of("file", DEV), snapshot(preview_of(DEV, further, op="create")))
    assert found.verdict == "undecided"
    assert "compare a saved plan" in told(found)


def changed_resource(name: str, **inputs: Any) -> dict[str, Any]:
    (one,) = (one for one in resources_of(DEV) if one["urn"].endswith(f"::{name}"))
    return {**one, "inputs": {**one["inputs"], **inputs}, "outputs": {}}


def test_a_preview_that_changes_a_provider_alone_is_read_with_the_rest_of_its_key():
    condition = changed_resource(ATTESTATION)["inputs"]["attributeCondition"]
    wider = condition.replace("assertion.dbgstat == 'disabled-since-boot' && ", "")
    found = diff(
        of("file", DEV), snapshot(preview_of(DEV, changed_resource(ATTESTATION, attributeCondition=wider)))
    )
    assert found.verdict == "wider"
    assert "debug off" in told(found)


def test_a_preview_that_changes_a_key_policy_is_read():
    text = changed_resource(AWS_KEY)["inputs"]["policy"]
    found = diff(of("file", DEV), snapshot(preview_of(DEV, changed_resource(AWS_KEY, policy=hole(text)))))
    assert found.verdict == "wider"
    assert "anyone" in told(found)


def test_a_preview_of_a_new_key_whose_members_are_not_known_is_undecided_and_not_missed():
    other = parse(changed(stack("prod-gcp"), put("name", "fraud-dev")), lock())
    further = [one for one in resources_of(other) if "adapter" in one["urn"]]
    for one in further:
        one["inputs"] = {**one.get("inputs", {})}
        if "member" in one["inputs"]:
            one["inputs"]["member"] = one["inputs"]["cryptoKeyId"] = UNKNOWN
    aws = shipped("prod-aws")
    found = diff(of("file", aws), snapshot(preview_of(aws, *further, op="create")))
    assert found.verdict == "undecided"
    assert "adapter" in told(found)


def test_a_deleted_key_is_gone_from_a_preview():
    gone = [one for one in resources_of(DEV) if "cases-aws-enclave" in one["urn"] and "inputs" in one]
    found = diff(of("file", DEV), snapshot(preview_of(DEV, *gone, op="delete")))
    assert found.verdict == "not wider"
    assert Kind.GONE_ARTIFACT in {change.kind for change in found.changes}


def test_a_resource_that_waits_to_be_deleted_is_none():
    stale = resource(
        "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember",
        "eve",
        cryptoKeyId=identity_of("gcp:kms/cryptoKey:CryptoKey", GOOGLE_KEY),
        role="roles/cloudkms.cryptoKeyDecrypter",
        member="user:eve@example.com",
    )
    found = diff(of("file", DEV), snapshot(export_of(DEV, {**stale, "delete": True})))
    assert found.verdict == "equal", told(found)


def test_a_provider_that_is_switched_off_opens_nothing():
    def switched_off(found: dict[str, dict[str, Any]], _: Any) -> None:
        found[ATTESTATION]["outputs"]["disabled"] = True

    found = diff(snapshot(export_of(DEV)), snapshot(edited(switched_off)))
    assert found.verdict == "not wider"
    assert {change.kind for change in found.changes} == {Kind.CLOSED}


def test_a_pool_without_its_provider_opens_nothing():
    def gone(found: dict[str, dict[str, Any]], _: Any) -> None:
        del found[ATTESTATION]

    found = diff(snapshot(export_of(DEV)), snapshot(edited(gone)))
    assert found.verdict == "not wider"


def test_other_keys_that_release_to_attested_code_are_compared_between_deployments():
    text = json.loads(changed_resource(AWS_KEY)["inputs"]["policy"])
    beside = resource("aws:kms/key:Key", "mine", policy=json.dumps(text))
    before, after = export_of(DEV, beside), export_of(DEV, beside)
    after["deployment"]["resources"][-1]["outputs"]["policy"] = json.dumps(
        {
            **text,
            "Statement": [
                *text["Statement"],
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": "arn:aws:iam::999999999999:role/eve"},
                    "Action": "kms:PutKeyPolicy",
                    "Resource": "*",
                },
            ],
        }
    )
    found = diff(snapshot(before), snapshot(after))
    assert found.verdict == "wider"
    assert "role eve of account 999999999999 may change the key policy" in told(found)
    # A stack file does not have it, and that is no difference.
    assert diff(of("file", DEV), snapshot(before)).verdict == "equal"


def secret(value: Any) -> dict[str, Any]:
    return {SIGNATURE: SECRET, "ciphertext": f"v1:{len(json.dumps(value))}"}


def secret_outputs(found: dict[str, dict[str, Any]], outputs: dict[str, Any]) -> None:
    outputs["policies"] = secret(outputs["policies"])


def secret_document(found: dict[str, dict[str, Any]], outputs: dict[str, Any]) -> None:
    for one in outputs["policies"].values():
        one["document"] = secret(one["document"])


def secret_policy(found: dict[str, dict[str, Any]], outputs: dict[str, Any]) -> None:
    for side in ("inputs", "outputs"):
        found[AWS_KEY][side]["policy"] = secret(found[AWS_KEY][side]["policy"])


@pytest.mark.parametrize("edit", [secret_outputs, secret_document, secret_policy])
def test_a_secret_is_refused_with_its_reason(edit):
    with pytest.raises(JewelhouseError, match="is a secret in this file") as refused:
        snapshot(edited(edit))
    assert refused.value.where.startswith("made: ")
    assert "public" in refused.value.remedy


def test_secrets_that_decide_nothing_are_left_alone():
    def labels(found: dict[str, dict[str, Any]], outputs: dict[str, Any]) -> None:
        found[GOOGLE_KEY]["outputs"]["effectiveLabels"] = secret({})
        outputs["artifacts"]["base"] = secret({})

    assert diff(of("file", DEV), snapshot(edited(labels))).verdict == "equal"


def unknown_document(value: dict[str, Any]) -> None:
    state = value["resourcePlans"][STACK]["state"]
    next(iter(state["policies"].values()))["document"] = UNKNOWN


def no_keys(value: dict[str, Any]) -> None:
    value["resourcePlans"] = {urn: plan for urn, plan in value["resourcePlans"].items() if urn == STACK}
    value["resourcePlans"][STACK]["state"] = {}


def not_a_platform(value: dict[str, Any]) -> None:
    next(iter(value["resourcePlans"][STACK]["state"]["policies"].values()))["platform"] = "mainframe"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (unknown_document, "not known before the deployment"),
        (no_keys, "has no attested key"),
        (not_a_platform, "is not what this kit puts out"),
        (lambda value: value.update(resourcePlans=[]), "is not what the engine writes"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_says_what_to_do(edit, says):
    plan = plan_of(DEV)
    edit(plan)
    with pytest.raises(JewelhouseError) as refused:
        snapshot(plan)
    assert says in refused.value.what
    assert refused.value.where.startswith("made")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(UNKNOWN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, item in items for place in places(item, (*path, key))]


EXPORT = export_of(shipped("prod-gcp"))
PLACES = places(EXPORT)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), anything)
def test_no_export_however_strange_ends_in_a_traceback(place, instead):
    value = copy.deepcopy(EXPORT)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = instead
    if not states.recognised(value):
        return
    try:
        found = states.snapshot("made", value)
    except JewelhouseError:
        return
    assert diff(found, found).verdict in ("equal", "undecided")


def test_a_real_export_and_a_real_plan_are_read(engine: Callable[..., Engine], tmp_path) -> None:
    run, name = engine(), "prod-gcp"
    done = run.operate("up", name)
    assert done.ok, done.stdout[-4000:]
    export = run.export(name)
    lifecycle = shipped(name)
    found = diff(of("file", lifecycle), states.snapshot("export", export))
    assert found.verdict == "equal", told(found)

    plan = tmp_path / "plan.json"
    changes = {"destroyable": True, "stages.serve-b": {**stack(name)["stages"]["serve"]}}
    done = run.operate("preview", name, "--save-plan", str(plan), changes=changes)
    assert done.ok, done.stdout[-4000:]
    after = states.snapshot("plan", json.loads(plan.read_text()))
    wanted = of("file", parse(changed(stack(name), *(put(*one) for one in changes.items())), lock()))
    assert diff(wanted, after).verdict == "equal", told(diff(wanted, after))
    found = diff(states.snapshot("export", export), after)
    assert found.verdict == "wider"
    assert "destroyable" in told(found)
    assert "stage serve-b" in told(found)
