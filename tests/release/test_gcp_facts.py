"""Documents of Google read back: the same release, however it is written, gives the same facts."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import policies

from jewelhouse.model import AttestedKey, GcpAccount, Measurements, Platform, Tee
from jewelhouse.release import gcp
from jewelhouse.release.documents import read
from jewelhouse.release.facts import Facts, Opening, Power
from jewelhouse.release.gcp_facts import Member, member, timestamp
from jewelhouse.release.policy import Gate, ReleasePolicy

GOOGLE = (Platform.GCP_CONFIDENTIAL_SPACE, Platform.GCP_CVM)
POOL = "projects/100000000001/locations/global/workloadIdentityPools/jh-base"
DIGEST, OTHER = (f"sha256:{digit * 64}" for digit in "12")
SPRING = datetime(2027, 3, 1, tzinfo=UTC)
Body = dict[str, Any]


def compiled(stage: str = "serve", **changes: Any) -> Body:
    gate = Gate(
        stage=stage,
        platform=Platform.GCP_CONFIDENTIAL_SPACE,
        tee=Tee.TDX,
        account=GcpAccount(project="op-runtime", number="100000000003"),
        measurements=(Measurements(values={"image_digest": DIGEST}),),
        identity=f"llm-{stage}@op-runtime.iam.gserviceaccount.com",
        not_after=changes.get("not_after"),
    )
    owner = GcpAccount(project="mp-keys", number="100000000001")
    key = AttestedKey("base", Platform.GCP_CONFIDENTIAL_SPACE, "europe-west4")
    return gcp.compile(ReleasePolicy(key=key, owner=owner, gates=(gate,)))


def with_(**fields: Any) -> Body:
    return {**copy.deepcopy(compiled()), **fields}


def bound(*members: str, role: str = gcp.ROLE, when: str | None = None) -> Body:
    condition = {} if when is None else {"condition": {"expression": when}}
    return with_(bindings=[{"role": role, "members": list(members), **condition}])


@settings(max_examples=150, deadline=None)
@given(policies(platforms=GOOGLE))
def test_a_compiled_policy_is_read_back(policy: ReleasePolicy) -> None:
    document = gcp.compile(policy)
    found = gcp.parse(json.loads(json.dumps(document)))
    assert found == Facts(openings=gcp.openings(policy))
    assert found.openings


@settings(max_examples=100, deadline=None)
@given(policies(platforms=GOOGLE), st.randoms(use_true_random=False))
def test_order_changes_nothing(policy: ReleasePolicy, random: Any) -> None:
    document = gcp.compile(policy)
    shuffled = copy.deepcopy(document)
    base, _, gates = shuffled["condition"].rpartition(" && ((")
    alternatives = gates[:-2].split(") || (")
    random.shuffle(alternatives)
    shuffled["condition"] = "((" + ") || (".join(alternatives) + ")) && " + base
    for binding in shuffled["bindings"]:
        random.shuffle(binding["members"])
    random.shuffle(shuffled["bindings"])
    shuffled["mapping"] = dict(reversed(shuffled["mapping"].items()))
    assert gcp.parse(shuffled) == gcp.parse(document)


SAME: dict[str, Body] = {
    "double quotes": with_(condition=compiled()["condition"].replace("'", '"')),
    "spaces and lines": with_(condition=compiled()["condition"].replace(" && ", "\n  &&\t")),
    "brackets around everything": with_(condition=f"(({compiled()['condition']}))"),
    "== the other way round": with_(
        condition=compiled()["condition"].replace(
            "assertion.swname == 'CONFIDENTIAL_SPACE'", "'CONFIDENTIAL_SPACE' == assertion.swname"
        )
    ),
    "a list of one as ==": with_(
        condition=compiled()["condition"].replace(
            f"image_digest in ['{DIGEST}']", f"image_digest == '{DIGEST}'"
        )
    ),
    "a boolean by itself": with_(condition=compiled()["condition"].replace("secboot == true", "secboot")),
    "Google's way to ask for STABLE": with_(
        condition=compiled()["condition"]
        .replace("'STABLE' in ", "['STABLE'].exists(a, a in ")
        .replace("support_attributes", "support_attributes)")
    ),
    "an issuer without the slash": with_(issuer="https://confidentialcomputing.googleapis.com"),
    "an audience twice": with_(audiences=["https://sts.googleapis.com"] * 2),
    "the member with its pool": bound(
        f"principalSet://iam.googleapis.com/{POOL}/attribute.image_digest/{DIGEST}"
    ),
    "the whole pool, where the condition pins the image": bound(
        f"principalSet://iam.googleapis.com/{POOL}/*"
    ),
    "a member twice": bound("*", f"attribute.image_digest/{DIGEST}"),
    "the digest by a mapped attribute": with_(
        condition=compiled()["condition"].replace(
            "assertion.submods.container.image_digest in", "attribute.image_digest in"
        )
    ),
    "an attribute of another name": with_(
        mapping={
            "google.subject": gcp.SUBJECTS[Platform.GCP_CONFIDENTIAL_SPACE],
            "attribute.image": gcp.DIGEST,
        },
        bindings=[{"role": gcp.ROLE, "members": [f"attribute.image/{DIGEST}"]}],
    ),
    "one binding a member": with_(
        bindings=[
            {"role": gcp.ROLE, "members": [f"attribute.image_digest/{DIGEST}"]},
            {"role": gcp.ROLE, "members": [f"attribute.image_digest/{OTHER}"]},
        ]
    ),
    "a condition of a binding that is always true": bound("*", when="true"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_release_written_differently_is_the_same(name: str) -> None:
    assert gcp.parse(SAME[name]) == gcp.parse(compiled())


OTHERWISE: dict[str, Body] = {
    "another issuer": with_(issuer="https://accounts.google.com"),
    "one more audience": with_(audiences=["https://sts.googleapis.com", "https://example.com"]),
    "another audience": with_(audiences=["https://example.com"]),
    "a conjunct less": with_(
        condition=compiled()["condition"].replace("assertion.dbgstat == 'disabled-since-boot' && ", "")
    ),
    "or for and": with_(
        condition=compiled()["condition"].replace(" && assertion.secboot", " || assertion.secboot")
    ),
    "the text true": with_(condition=compiled()["condition"].replace("== true", "== 'true'")),
    "another image": with_(condition=compiled()["condition"].replace(DIGEST, OTHER)),
    "another image bound": bound(f"attribute.image_digest/{OTHER}"),
    "nobody bound": with_(bindings=[]),
    "everybody bound": bound("allUsers"),
    "a user beside the image": bound("*", "user:ops@example.com"),
    "a licence": compiled(not_after=SPRING),
    "a role that does not decrypt": bound("*", role="roles/cloudkms.signer"),
    "one more claim mapped": with_(
        mapping={**compiled()["mapping"], "attribute.gpu": "assertion.submods.nvidia_gpu.cc_mode"}
    ),
    "no subject": with_(mapping={"attribute.image_digest": gcp.DIGEST}),
    "no condition": with_(condition=""),
    "disabled": with_(disabled=True),
    "uploaded keys": with_(jwks='{"keys": []}'),
    "overrides empty, not absent": with_(
        condition=compiled()["condition"].replace("!has(assertion.submods.container.env_override) || ", "")
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_another_release_is_never_the_same(name: str) -> None:
    assert gcp.parse(OTHERWISE[name]) != gcp.parse(compiled())


def test_openings_say_all_that_a_token_must_prove() -> None:
    (opening,) = gcp.parse(compiled(not_after=SPRING)).openings
    assert opening.until == SPRING
    assert opening.principal is None
    assert dict(opening.claims) == {
        "assertion.aud": "https://sts.googleapis.com",
        "assertion.dbgstat": "disabled-since-boot",
        "assertion.google_service_accounts (has)": "llm-serve@op-runtime.iam.gserviceaccount.com",
        "assertion.hwmodel": "GCP_INTEL_TDX",
        "assertion.iss": "https://confidentialcomputing.googleapis.com",
        "assertion.secboot": "true",
        "assertion.submods.confidential_space.support_attributes (has)": "STABLE",
        "assertion.submods.container.cmd_override (empty)": "true",
        "assertion.submods.container.env_override (empty)": "true",
        "assertion.submods.container.image_digest": DIGEST,
        "assertion.submods.gce.instance_id": None,
        "assertion.submods.gce.project_id": "op-runtime",
        "assertion.submods.gce.project_number": "100000000003",
        "assertion.swname": "CONFIDENTIAL_SPACE",
    }


def claims(body: Body) -> list[dict[str, str | None]]:
    return sorted((dict(one.claims) for one in gcp.parse(body).openings), key=str)


def test_what_cannot_be_reduced_stays_as_its_text() -> None:
    (one,) = claims(with_(condition="1 < int(assertion.swversion[0]) && assertion.n.startsWith('x')"))
    assert one["int(assertion.swversion[0]) > 1"] == "true"
    assert one["assertion.n.startsWith('x')"] == "true"


def test_a_list_that_must_hold_two_values() -> None:
    (one,) = claims(with_(condition="'B' in assertion.l && 'A' in assertion.l"))
    assert (one["assertion.l (has)"], one["'B' in assertion.l"]) == ("A", "true")


def test_ends_are_the_earliest_of_several() -> None:
    moments = ("2028-01-01T00:00:00Z", "2027-01-01T00:00:00+01:00")
    ends = [f"request.time < timestamp('{moment}')" for moment in moments]
    (one,) = gcp.parse(bound("*", when=" && ".join(ends))).openings
    assert one.until == datetime(2026, 12, 31, 23, tzinfo=UTC)
    (one,) = gcp.parse(bound("*", when=f"({ends[0]}) || {ends[1]}")).openings
    assert one.until == datetime(2028, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "when",
    ["request.time <= timestamp('2027-01-01T00:00:00Z')", "request.time > timestamp('2027-01-01T00:00:00Z')",
     "request.time < timestamp('2027')", "resource.name.startsWith('projects/p/')"],
)  # fmt: skip
def test_conditions_of_bindings_that_are_no_end_are_kept_as_text(when: str) -> None:
    (one,) = gcp.parse(bound("*", when=when)).openings
    assert one.until is None
    assert one.claims[when] == "true"


def test_roles_beside_decryption_are_powers() -> None:
    document = with_(
        bindings=[
            {"role": "roles/cloudkms.admin", "members": ["user:ops@example.com"]},
            {"role": "roles/owner", "members": ["user:root@example.com"]},
            {"role": "projects/p/roles/mine", "members": ["group:all@example.com"]},
        ]
    )
    found = gcp.parse(document)
    assert found.powers == {
        Power("user:ops@example.com", "roles/cloudkms.admin"),
        Power("user:root@example.com", "roles/owner"),
        Power("group:all@example.com", "projects/p/roles/mine"),
    }
    assert [one.principal for one in found.openings] == ["user:root@example.com"]
    assert found.undecided == ("bindings[2]: what projects/p/roles/mine may do is not known here",)


def test_everybody_is_the_widest_opening() -> None:
    (one,) = gcp.parse(bound("*", "allUsers")).openings
    assert (one.principal, dict(one.claims)) == ("*", {})


@pytest.mark.parametrize(
    ("document", "says"),
    [
        pytest.param(with_(condition="assertion.a.lowerAscii() == 'x'"), "no function lower", id="function"),
        pytest.param(with_(condition="assertion.a =="), "condition: expected a value", id="half a condition"),
        pytest.param(
            with_(condition=" && ".join(f"assertion.a{n} in ['x','y','z']" for n in range(12))),
            "500 alternatives", id="too many alternatives",
        ),
        pytest.param(with_(audiences=[]), "audiences: none is listed", id="no audience"),
        pytest.param(with_(jwks="{}"), "jwks: tokens are verified", id="uploaded keys"),
        pytest.param(with_(mapping={"google.subject": "x*y"}), "mapping.google.subject: '*'", id="mapping"),
        pytest.param(bound("*", when="request.time.getHours() < 5"), "no function getHours()", id="hours"),
        pytest.param(
            bound(*(f"principalSet://iam.googleapis.com/{POOL}{end}/*" for end in ("", "2"))),
            "is not known to be this provider's", id="two pools",
        ),
        pytest.param(with_(condition=7), "condition: is not text", id="condition of a wrong type"),
        pytest.param(with_(mapping=[]), "mapping: is not an object", id="mapping of a wrong type"),
        pytest.param(with_(audiences="x"), "audiences: is not a list", id="audiences of a wrong type"),
        pytest.param(with_(bindings=[7]), "bindings[0]: has no role", id="binding of a wrong type"),
    ],
)  # fmt: skip
def test_what_is_undecided_is_said(document: Body, says: str) -> None:
    assert any(says in one for one in gcp.parse(document).undecided)


@pytest.mark.parametrize(
    ("text", "pool", "rest"),
    [
        (f"attribute.image_digest/{DIGEST}", "", f"attribute.image_digest/{DIGEST}"),
        (f"principalSet://iam.googleapis.com/{POOL}/attribute.a/b/c", POOL, "attribute.a/b/c"),
        (f"principalSet://iam.googleapis.com/{POOL}/group/g", POOL, "group/g"),
        (f"principalSet://iam.googleapis.com/{POOL}/*", POOL, "*"),
        (f"principal://iam.googleapis.com/{POOL}/subject/s::1", POOL, "subject/s::1"),
        (f"principal://iam.googleapis.com/{POOL}/attribute.a/b", "", ""),
        (f"principalSet://iam.googleapis.com/{POOL}/subject/s", "", ""),
        (f"principalSet://example.com/{POOL}/*", "", ""),
        ("serviceAccount:a@p.iam.gserviceaccount.com", "", ""),
        ("allUsers", "", ""),
        ("", "", ""),
    ],
)
def test_members(text: str, pool: str, rest: str) -> None:
    assert member(text) == Member(text=text, pool=pool, rest=rest)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2027-03-01T00:00:00Z", SPRING),
        ("2027-03-01T01:00:00+01:00", SPRING),
        ("2027-03-01T00:00:00.5Z", SPRING.replace(microsecond=500_000)),
        ("2027-03-01", None),
        ("2027-02-30T00:00:00Z", None),
        ("2027-03-01T00:00:00", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("٢٠٢٧-03-01T00:00:00Z", None),
    ],
)
def test_moments(text: str, found: datetime | None) -> None:
    assert timestamp(text) == found


def test_a_provider_as_gcloud_prints_it() -> None:
    """With what the kit never writes: uploaded keys, a switched off provider, the pool it is in."""
    ours = compiled()
    printed = {
        "name": f"{POOL}/providers/attestation",
        "state": "ACTIVE",
        "oidc": {"issuerUri": ours["issuer"], "allowedAudiences": ours["audiences"]},
        "attributeMapping": ours["mapping"],
        "attributeCondition": ours["condition"],
        "bindings": [{"role": gcp.ROLE, "members": [f"principalSet://iam.googleapis.com/{POOL}/*"]}],
    }
    assert gcp.parse(read(json.dumps(printed), "p").body) == gcp.parse(ours)
    uploaded = {**printed, "oidc": {**printed["oidc"], "jwksJson": "{}"}}
    assert "jwks: " in str(gcp.parse(read(json.dumps(uploaded), "p").body).undecided)
    assert not gcp.parse(read(json.dumps({**printed, "disabled": True}), "p").body).openings
    assert not gcp.parse(read(json.dumps({**printed, "state": "DELETED"}), "p").body).openings
    elsewhere = {**printed, "name": f"{POOL}-debug/providers/attestation"}
    assert "not known to be" in str(gcp.parse(read(json.dumps(elsewhere), "p").body).undecided)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["*", gcp.ROLE, "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    ["issuer", "audiences", "mapping", "condition", "bindings", "disabled", "jwks", "pool"]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(fields, json_values, max_size=4))
def test_no_document_gives_a_traceback(changes: Body) -> None:
    found = gcp.parse({**compiled(), **changes})
    assert isinstance(found, Facts)


ACCOUNTS = "assertion.google_service_accounts"
TWO = f"'a@x' in {ACCOUNTS} || 'b@x' in {ACCOUNTS}"
STAGE = f"'a@x' in {ACCOUNTS} ? 'one' : 'b@x' in {ACCOUNTS} ? 'two' : 'none'"


def by_stage(*members: str) -> frozenset[Opening]:
    document = {
        "issuer": "https://confidentialcomputing.googleapis.com",
        "audiences": ["https://sts.googleapis.com"],
        "mapping": {"google.subject": "assertion.sub", "attribute.stage": STAGE},
        "condition": TWO,
        "bindings": [{"role": "roles/cloudkms.cryptoKeyDecrypter", "members": list(members)}],
    }
    facts = gcp.parse(document)
    assert not facts.undecided
    return facts.openings


def denied(openings: frozenset[Opening]) -> set[str]:
    return {path for one in openings for path in one.claims if path.startswith("!(")}


def test_the_order_of_a_mapping_decides_nothing_where_all_of_it_is_admitted():
    openings = by_stage("attribute.stage/one", "attribute.stage/two")
    assert len(openings) == 2
    assert not denied(openings)


def test_the_order_of_a_mapping_counts_where_what_stands_before_is_not_admitted():
    """A token with both accounts is of the first, which nobody bound."""
    assert denied(by_stage("attribute.stage/two")) == {f"!('a@x' in {ACCOUNTS})"}
