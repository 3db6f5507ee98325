"""The release diff: what becomes more open is told, and what changes nothing is no difference."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import TEES, account, gates, policies
from samples import ALL_STACKS, changed, lock, put, shipped, stack
from snapshots_made import snapshot_of

from jewelhouse.cli.diff import of
from jewelhouse.model import AttestedKey as Key
from jewelhouse.model import AwsAccount, Cloud, GcpAccount, Lifecycle, Measurements, Platform, Proof
from jewelhouse.release.diff import diff
from jewelhouse.release.difference import Change, Difference, Kind
from jewelhouse.release.policy import Gate, ReleasePolicy
from jewelhouse.release.proofs import State
from jewelhouse.release.snapshots import Snapshot, facts_of
from jewelhouse.settings import parse

Edit = Callable[[dict[str, Any]], None]
END = datetime(2027, 1, 1, tzinfo=UTC)
LATER = datetime(2028, 1, 1, tzinfo=UTC)
REGIONS = {Cloud.AWS: "eu-central-1", Cloud.AZURE: "westeurope", Cloud.GCP: "europe-west4"}
AWS, NITROTPM, CONTAINER, CVM, SPACE, VM = (
    Platform.AWS_ENCLAVE,
    Platform.AWS_NITROTPM,
    Platform.AZURE_CONTAINER,
    Platform.AZURE_CVM,
    Platform.GCP_CONFIDENTIAL_SPACE,
    Platform.GCP_CVM,
)


def measured(platform: Platform, digit: str) -> tuple[Measurements, ...]:
    values = {
        AWS: dict.fromkeys(("PCR0", "PCR1", "PCR2"), digit * 96),
        NITROTPM: {"PCR4": digit * 96, "PCR12": "0" * 96},
        CONTAINER: {"hostdata": digit * 64},
        SPACE: {"image_digest": f"sha256:{digit * 64}"},
    }
    return (Measurements(values=values[platform]),) if platform in values else ()


def gate(platform: Platform, stage: str = "serve", **changes: Any) -> Gate:
    where = account(platform.cloud, 2)
    identity = None
    if isinstance(where, AwsAccount):
        identity = f"arn:aws:iam::{where.account}:role/flow-{stage}"
    elif isinstance(where, GcpAccount):
        identity = f"flow-{stage}@{where.project}.iam.gserviceaccount.com"
    first = Gate(
        stage=stage,
        platform=platform,
        tee=TEES[platform][0],
        account=where,
        measurements=measured(platform, "1"),
        identity=identity,
    )
    return replace(first, **changes)


def policy(platform: Platform, *found: Gate, artifact: str = "base") -> ReleasePolicy:
    return ReleasePolicy(
        key=Key(artifact, platform, REGIONS[platform.cloud]),
        owner=account(platform.cloud, 1),
        gates=found or (gate(platform),),
    )


def edited(snapshot: Snapshot, edit: Edit) -> Snapshot:
    """A snapshot with its documents changed by hand, as in a key policy of somebody else."""

    def view(old: Any) -> Any:
        document = copy.deepcopy(dict(old.document))
        edit(document)
        return replace(old, document=document, facts=facts_of(old.cloud, document))

    return replace(snapshot, keys={name: view(key) for name, key in snapshot.keys.items()})


def said(found: Difference) -> str:
    return "\n".join(line for change in found.changes for line in (change.what, *change.details))


def kinds(found: Difference) -> set[Kind]:
    return {change.kind for change in found.changes}


def widening(found: Difference) -> list[Change]:
    return [change for change in found.changes if change.wider]


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same JSON with names, statements and alternatives in another order."""
    if isinstance(value, Mapping):
        names = list(value)
        chance.shuffle(names)
        return {name: shuffled(value[name], chance) for name in names}
    if isinstance(value, list):
        found = [shuffled(one, chance) for one in value]
        chance.shuffle(found)
        return found
    return value


# On Google a token with the service accounts of two stages counts as the stage whose licence ends first, so
# there a gate with an end does close something, to such a token. No VM has two of its own.
one_account_each = policies((AWS, NITROTPM, CONTAINER, CVM)) | policies((SPACE, VM), ends=False)


@settings(max_examples=60, deadline=None)
@given(policies())
def test_nothing_differs_from_itself(made):
    assert not diff(snapshot_of(made), snapshot_of(made)).changes


@settings(max_examples=40, deadline=None)
@given(policies(), st.randoms(use_true_random=False))
def test_order_and_formatting_are_no_difference(made, chance):
    def reordered(document: dict[str, Any]) -> None:
        found = json.loads(json.dumps(shuffled(document, chance), indent=chance.choice([None, 1, 4])))
        document.clear()
        document.update(found)

    one = snapshot_of(made)
    found = diff(one, edited(one, reordered))
    assert found.verdict == "equal", said(found)


@settings(max_examples=40, deadline=None)
@given(policies(), st.randoms(use_true_random=False))
def test_the_order_of_gates_is_no_difference(made, chance):
    mixed = list(made.gates)
    chance.shuffle(mixed)
    assert not diff(snapshot_of(made), snapshot_of(replace(made, gates=tuple(mixed)))).changes


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_further_gate_never_closes_anything(data):
    made = data.draw(one_account_each)
    platform = made.key.platform
    further = data.draw(gates(platform, "zz-further", ends=platform.cloud is Cloud.AWS))
    found = diff(snapshot_of(made), snapshot_of(replace(made, gates=(*made.gates, further))))
    assert Kind.CLOSED not in kinds(found), said(found)
    back = diff(snapshot_of(replace(made, gates=(*made.gates, further))), snapshot_of(made))
    assert not widening(back), said(back)


@settings(max_examples=40, deadline=None)
@given(one_account_each.filter(lambda made: made.key.platform is not CVM))
def test_each_gate_that_is_taken_away_is_one_that_is_newly_there_the_other_way_round(made):
    fewer = replace(made, gates=made.gates[:1])
    there, back = (
        diff(snapshot_of(made), snapshot_of(fewer)),
        diff(snapshot_of(fewer), snapshot_of(made)),
    )
    assert there.verdict in ("equal", "not wider"), said(there)
    assert back.verdict == ("wider" if len(made.gates) > 1 else "equal")


def renamed_stage(made: ReleasePolicy) -> ReleasePolicy:
    return replace(made, gates=tuple(replace(one, stage=f"{one.stage}-new") for one in made.gates))


def renamed_key(made: ReleasePolicy) -> ReleasePolicy:
    return replace(made, key=replace(made.key, artifact=f"{made.artifact}-new"))


@pytest.mark.parametrize("platform", list(Platform), ids=str)
@pytest.mark.parametrize("rename", [renamed_stage, renamed_key])
def test_a_new_name_alone_opens_nothing(platform, rename):
    found = diff(snapshot_of(policy(platform)), snapshot_of(rename(policy(platform))))
    assert found.verdict == "equal", said(found)


def test_a_renamed_artifact_is_told_without_being_a_change():
    found = diff(snapshot_of(policy(AWS)), snapshot_of(renamed_key(policy(AWS))))
    assert found.renamed == (("base", "base-new"),)


def test_two_artifacts_whose_names_are_swapped_are_no_renaming():
    """Whoever opened the recipe would open the weights without a word."""
    other = gate(AWS, "train", measurements=measured(AWS, "2"))
    one = snapshot_of(policy(AWS), policy(AWS, other, artifact="recipe"))
    two = snapshot_of(policy(AWS, artifact="recipe"), policy(AWS, other))
    found = diff(one, two)
    assert found.verdict == "wider"
    assert {change.key for change in widening(found)} == {
        "base-aws-enclave-eu-central-1",
        "recipe-aws-enclave-eu-central-1",
    }


# One change of a gate of each platform: (platform, before, after, kind of the change, words).
WIDER = [
    pytest.param(
        AWS,
        {"measurements": measured(AWS, "1") + measured(AWS, "2")},
        Kind.IMAGE,
        "beside",
        id=f"{AWS}-roll-out",
    ),
    pytest.param(
        SPACE,
        {"measurements": measured(SPACE, "1") + measured(SPACE, "2")},
        Kind.IMAGE,
        "beside",
        id=f"{SPACE}-roll-out",
    ),
    pytest.param(
        CONTAINER,
        {"measurements": measured(CONTAINER, "1") + measured(CONTAINER, "2")},
        Kind.IMAGE,
        "beside",
        id=f"{CONTAINER}-roll-out",
    ),
    pytest.param(
        NITROTPM,
        {"measurements": measured(NITROTPM, "1") + measured(NITROTPM, "2")},
        Kind.IMAGE,
        "beside",
        id=f"{NITROTPM}-roll-out",
    ),
    pytest.param(
        AWS, {"measurements": measured(AWS, "2")}, Kind.IMAGE, "in place of", id=f"{AWS}-image-replaced"
    ),
    pytest.param(
        SPACE, {"measurements": measured(SPACE, "2")}, Kind.IMAGE, "in place of", id=f"{SPACE}-image-replaced"
    ),
    pytest.param(
        CONTAINER,
        {"measurements": measured(CONTAINER, "2")},
        Kind.IMAGE,
        "in place of",
        id=f"{CONTAINER}-image-replaced",
    ),
    pytest.param(AWS, {"not_after": LATER}, Kind.LONGER, "2028-01-01", id=f"{AWS}-licence-extended"),
    pytest.param(SPACE, {"not_after": LATER}, Kind.LONGER, "2028-01-01", id=f"{SPACE}-licence-extended"),
    pytest.param(VM, {"not_after": LATER}, Kind.LONGER, "2028-01-01", id=f"{VM}-licence-extended"),
    pytest.param(AWS, {"not_after": None}, Kind.LONGER, "without an end", id=f"{AWS}-licence-without-end"),
    pytest.param(
        SPACE, {"not_after": None}, Kind.LONGER, "without an end", id=f"{SPACE}-licence-without-end"
    ),
    pytest.param(
        AWS,
        {"identity": "arn:aws:iam::000000000002:role/other"},
        Kind.OPENS,
        "role other",
        id=f"{AWS}-other-role",
    ),
    pytest.param(
        AWS,
        {"account": account(Cloud.AWS, 3), "identity": "arn:aws:iam::000000000003:role/flow-serve"},
        Kind.OPENS,
        "account 000000000003",
        id=f"{AWS}-other-account",
    ),
    pytest.param(
        SPACE,
        {"identity": "somebody@project-2.iam.gserviceaccount.com"},
        Kind.OPENS,
        "somebody@project-2",
        id=f"{SPACE}-other-service-account",
    ),
    pytest.param(
        CONTAINER,
        {"account": account(Cloud.AZURE, 3)},
        Kind.ASKS,
        "00000000-0000-0000-0000-000000000003",
        id=f"{CONTAINER}-other-subscription",
    ),
    pytest.param(
        CVM,
        {"account": account(Cloud.AZURE, 3)},
        Kind.ASKS,
        "00000000-0000-0000-0000-000000000003",
        id=f"{CVM}-other-subscription",
    ),
]


@pytest.mark.parametrize(("platform", "change", "kind", "says"), WIDER)
def test_what_lets_more_in_is_wider_and_says_so(platform, change, kind, says):
    end = END if platform.cloud is not Cloud.AZURE and "not_after" in change else None
    before = gate(platform, not_after=end)
    found = diff(
        snapshot_of(policy(platform, before)), snapshot_of(policy(platform, replace(before, **change)))
    )
    assert found.wider
    assert kind in {change.kind for change in widening(found)}, said(found)
    assert says in "\n".join(line for one in widening(found) for line in (one.what, *one.details))


@pytest.mark.parametrize("platform", [AWS, NITROTPM, CONTAINER, SPACE], ids=str)
def test_the_end_of_a_roll_out_only_closes(platform):
    both = gate(platform, measurements=measured(platform, "2") + measured(platform, "1"))
    new = replace(both, measurements=measured(platform, "2"))
    found = diff(snapshot_of(policy(platform, both)), snapshot_of(policy(platform, new)))
    assert found.verdict == "not wider", said(found)
    assert kinds(found) == {Kind.CLOSED}
    assert "111111111111" in said(found)


@pytest.mark.parametrize("platform", [AWS, NITROTPM, SPACE, VM], ids=str)
@pytest.mark.parametrize(("before", "after"), [(LATER, END), (None, END)], ids=["shorter", "ends-at-all"])
def test_a_licence_that_ends_earlier_only_closes(platform, before, after):
    one = gate(platform, not_after=before)
    found = diff(
        snapshot_of(policy(platform, one)), snapshot_of(policy(platform, replace(one, not_after=after)))
    )
    assert found.verdict == "not wider", said(found)


@pytest.mark.parametrize("platform", list(Platform), ids=str)
def test_a_new_stage_is_named_and_wider(platform):
    further = gate(platform, "train")
    found = diff(snapshot_of(policy(platform)), snapshot_of(policy(platform, gate(platform), further)))
    assert found.wider
    assert "train" in "\n".join(line for one in widening(found) for line in (one.what, *one.details))
    assert Kind.CLOSED not in kinds(found), said(found)


@pytest.mark.parametrize("platform", list(Platform), ids=str)
def test_a_stage_that_is_gone_is_named_and_tighter(platform):
    further = gate(platform, "train")
    found = diff(snapshot_of(policy(platform, gate(platform), further)), snapshot_of(policy(platform)))
    assert found.verdict == "not wider", said(found)
    assert "train" in said(found)


def statement(**changes: Any) -> Edit:
    """A further statement in a key policy."""

    def edit(document: dict[str, Any]) -> None:
        document["Statement"].append({"Sid": "Further", "Effect": "Allow", "Resource": "*", **changes})

    return edit


def without(sid: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        kept = [one for one in document["Statement"] if one["Sid"] != sid]
        assert len(kept) < len(document["Statement"])
        document["Statement"] = kept

    return edit


def released_to(principal: Any) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        (one,) = (one for one in document["Statement"] if one["Sid"].startswith("Release"))
        one["Principal"] = principal

    return edit


def without_claim(claim: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        for alternative in document["anyOf"]:
            kept = [one for one in alternative["allOf"] if one["claim"] != claim]
            assert len(kept) < len(alternative["allOf"]), alternative
            alternative["allOf"] = kept

    return edit


def authority(value: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        for alternative in document["anyOf"]:
            alternative["authority"] = value

    return edit


def without_clause(pattern: str) -> Edit:
    """Takes a clause out of a condition, with the `&&` on one side of it."""

    def edit(document: dict[str, Any]) -> None:
        found = re.sub(rf"{pattern} && | && {pattern}", "", document["condition"])
        assert found != document["condition"], document["condition"]
        document["condition"] = found

    return edit


def bound_to(member: str, role: str = "roles/cloudkms.cryptoKeyDecrypter") -> Edit:
    def edit(document: dict[str, Any]) -> None:
        document["bindings"].append({"role": role, "members": [member]})

    return edit


PROJECT = r"assertion\.submods\.gce\.project_id == '[^']*' && [\w.]*project_number == '[^']*'"
DIGEST = r"assertion\.submods\.container\.image_digest in \[[^]]*\]"


def any_image(document: dict[str, Any]) -> None:
    without_clause(DIGEST)(document)
    document["bindings"][0]["members"] = ["*"]


DELEGATED = released_to({"AWS": "arn:aws:iam::000000000002:root"})
ELSEWHERE = authority("https://mine.weu.attest.azure.net")
INSTEAD = (DELEGATED, ELSEWHERE)
ADMIN = {"AWS": "arn:aws:iam::000000000001:role/jewelhouse-deployer"}
HANDS = {"AWS": "arn:aws:iam::000000000009:role/somebody"}
BY_HAND = [
    pytest.param(AWS, released_to("*"), "anyone", id="aws-principal-star"),
    pytest.param(AWS, DELEGATED, "account 000000000002", id="aws-delegated-to-an-account"),
    pytest.param(
        AWS,
        statement(Principal=HANDS, Action="kms:PutKeyPolicy"),
        "change the key policy",
        id="aws-somebody-may-put-a-policy",
    ),
    pytest.param(
        AWS, statement(Principal=HANDS, Action="kms:*"), "role somebody", id="aws-somebody-may-do-anything"
    ),
    pytest.param(CONTAINER, ELSEWHERE, "the attestation endpoint", id="azure-endpoint-of-somebody-else"),
    pytest.param(CONTAINER, without_claim("x-ms-sevsnpvm-hostdata"), "image", id="azure-image-unpinned"),
    pytest.param(CONTAINER, without_claim("x-ms-sevsnpvm-is-debuggable"), "debug", id="azure-debug-let-in"),
    pytest.param(
        CONTAINER,
        without_claim("x-ms-sevsnpvm-vmpl"),
        "the privilege level",
        id="azure-privilege-level-dropped",
    ),
    pytest.param(
        CVM,
        without_claim("x-ms-isolation-tee.x-ms-sevsnpvm-is-debuggable"),
        "debug",
        id="azure-vm-debug-let-in",
    ),
    pytest.param(SPACE, any_image, "with any image", id="google-image-unpinned"),
    pytest.param(SPACE, without_clause(r"assertion\.dbgstat == '[^']*'"), "debug", id="google-debug-let-in"),
    pytest.param(
        SPACE,
        without_clause(r"'STABLE' in [\w.]*support_attributes"),
        "production image",
        id="google-support-attribute-dropped",
    ),
    pytest.param(
        SPACE, without_clause(r"assertion\.hwmodel == '[^']*'"), "the hardware", id="google-any-hardware"
    ),
    pytest.param(SPACE, without_clause(PROJECT), "project", id="google-any-project"),
    pytest.param(
        SPACE,
        without_clause(r"\(!has\([\w.]*env_override\) \|\| [^)]*\) == 0\)"),
        "environment",
        id="google-environment-of-the-operator",
    ),
    pytest.param(
        SPACE, bound_to("user:eve@example.com"), "eve@example.com", id="google-key-bound-to-a-person"
    ),
    pytest.param(
        SPACE,
        bound_to("user:eve@example.com", "roles/owner"),
        "eve@example.com",
        id="google-owner-of-the-key",
    ),
    pytest.param(
        SPACE, bound_to("allUsers"), "anyone with any evidence or none", id="google-key-bound-to-all-users"
    ),
]


def twice_allowed(document: dict[str, Any]) -> None:
    (one,) = (one for one in document["Statement"] if one["Sid"].startswith("Release"))
    document["Statement"].append({**one, "Sid": "Again"})


def split_alternative(document: dict[str, Any]) -> None:
    document["anyOf"] = [*document["anyOf"], copy.deepcopy(document["anyOf"][0])]


@pytest.mark.parametrize(
    ("platform", "edit"),
    [
        pytest.param(SPACE, without_clause(DIGEST), id="google-digest-that-the-binding-names-as-well"),
        pytest.param(AWS, twice_allowed, id="aws-allowed-twice"),
        pytest.param(CONTAINER, split_alternative, id="azure-alternative-twice"),
        pytest.param(AWS, without("DenyWithoutDocument"), id="aws-denial-that-another-one-repeats"),
    ],
)
def test_documents_that_release_the_same_are_equal_though_written_otherwise(platform, edit):
    one = snapshot_of(policy(platform))
    found = diff(one, edited(one, edit))
    assert found.verdict == "equal", said(found)


@pytest.mark.parametrize(("platform", "edit", "says"), BY_HAND)
def test_a_document_widened_by_hand_is_wider(platform, edit, says):
    one = snapshot_of(policy(platform))
    found = diff(one, edited(one, edit))
    assert found.wider, said(found)
    assert says in said(found)
    back = diff(edited(one, edit), one)
    # Back again closes; whoever took another's place gives it up to that one.
    assert back.verdict == "not wider" or edit in INSTEAD, said(back)


def test_the_grant_path_left_open_is_told():
    one = snapshot_of(policy(AWS))

    def edit(document: dict[str, Any]) -> None:
        without("DenyGrants")(document)
        statement(Principal=ADMIN, Action="kms:CreateGrant")(document)

    found = diff(one, edited(one, edit))
    assert Kind.POWER_GAINED in kinds(found)
    assert "grants, which carry no attestation" in said(found)


def test_the_hash_of_an_endpoints_policy_dropped_is_wider():
    pinned = gate(CONTAINER, authority="https://mine.weu.attest.azure.net", authority_policy="w" * 42 + "A")
    found = diff(
        snapshot_of(policy(CONTAINER, pinned)),
        edited(snapshot_of(policy(CONTAINER, pinned)), without_claim("x-ms-policy-hash")),
    )
    assert found.wider
    assert "the policy of the attestation provider" in said(found)


def test_another_owner_of_the_key_is_wider():
    made = policy(AWS)
    other = replace(made, owner=account(Cloud.AWS, 4))
    found = diff(snapshot_of(made), snapshot_of(other))
    assert Kind.OWNER in {change.kind for change in widening(found)}


def test_an_operator_that_comes_to_hold_the_key_itself_is_a_lost_proof():
    made = policy(AWS)
    other = replace(made, owner=account(Cloud.AWS, 2))
    found = diff(snapshot_of(made), snapshot_of(other))
    lost = [change.what for change in widening(found) if change.kind is Kind.PROOF_LOST]
    assert any(Proof.OWNER_APART in what for what in lost), said(found)


def test_proofs_are_lost_with_a_platform_that_proves_less():
    """From an image that is pinned to one that cannot be."""
    before = snapshot_of(policy(SPACE))
    after = snapshot_of(policy(VM))
    found = diff(before, after)
    assert found.wider
    assert Proof.IMAGE in said(found), said(found)


def test_a_new_key_for_a_known_artifact_is_wider():
    before = snapshot_of(policy(AWS))
    after = snapshot_of(policy(AWS), policy(NITROTPM, gate(NITROTPM, "train")))
    found = diff(before, after)
    assert [change.kind for change in widening(found)] == [Kind.NEW_KEY]
    assert "train" in said(found)


def test_a_wholly_new_artifact_is_not_wider():
    before = snapshot_of(policy(AWS))
    after = snapshot_of(policy(AWS), policy(AWS, gate(AWS, "train"), artifact="recipe"))
    found = diff(before, after)
    assert found.verdict == "not wider"
    assert kinds(found) == {Kind.NEW_ARTIFACT}
    assert "train" in said(found)


def test_an_artifact_that_is_gone_is_not_wider():
    before = snapshot_of(policy(AWS), policy(AWS, gate(AWS, "train"), artifact="recipe"))
    found = diff(before, snapshot_of(policy(AWS)))
    assert found.verdict == "not wider"
    assert kinds(found) == {Kind.GONE_ARTIFACT}


def test_the_first_revision_of_a_stack_is_not_wider():
    found = diff(Snapshot(source="nothing", keys={}), snapshot_of(policy(AWS), policy(SPACE, artifact="x")))
    assert found.verdict == "not wider"


def undecidable(document: dict[str, Any]) -> None:
    for one in document["Statement"]:
        if one["Sid"].startswith("Release"):
            one["Condition"]["DateLessThan"] = {"aws:CurrentTime": "next spring"}


def test_a_document_that_cannot_be_reduced_is_never_called_equal():
    one = snapshot_of(policy(AWS))
    found = diff(one, edited(one, undecidable))
    assert found.unsure
    assert found.verdict in ("undecided", "wider")
    assert Kind.UNDECIDED in kinds(found)


def test_a_document_is_equal_to_itself_even_where_it_cannot_be_reduced():
    one = edited(snapshot_of(policy(AWS)), undecidable)
    assert diff(one, edited(one, lambda _: None)).verdict == "equal"


def lifecycle(name: str, *changes: Any) -> Lifecycle:
    return parse(changed(stack(name), *changes), lock())


@pytest.mark.parametrize("name", ALL_STACKS)
def test_a_shipped_stack_is_equal_to_itself(name):
    assert diff(of("one", shipped(name)), of("two", shipped(name))).verdict == "equal"


@pytest.mark.parametrize(("setting", "says"), [("destroyable", "destroyed"), ("allow-same-owner", "same")])
def test_a_setting_that_weakens_the_whole_lifecycle_is_wider(setting, says):
    config = [put(setting, ...)] if setting in stack("prod-aws") else []
    before = of("before", lifecycle("prod-aws", *config))
    after = of("after", lifecycle("prod-aws", put(setting, True)))
    found = diff(before, after)
    assert [change.kind for change in widening(found)] == [Kind.WEAKENED]
    assert says in said(found) or "may" in said(found)
    assert diff(after, before).verdict == "not wider"


@settings(max_examples=40, deadline=None)
@given(policies(), policies())
def test_a_difference_is_told_whole_in_json(one, two):
    found = diff(snapshot_of(one), snapshot_of(two))
    printed = json.loads(json.dumps(found.json()))
    assert printed["verdict"] in ("wider", "undecided", "not wider", "equal")
    assert len(printed["changes"]) == len(found.changes)
    assert (printed["verdict"] == "equal") == (not found.changes)
    # Whatever is dangerous stands first.
    flags = [change["wider"] for change in printed["changes"]]
    assert flags == sorted(flags, reverse=True)


def test_states_that_prove_less_than_another_are_ranked():
    from jewelhouse.release.diff import RANK

    assert set(RANK) == set(State)
