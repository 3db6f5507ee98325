"""Rights on a key that stand in resources of their own: IAM members, role assignments, grants.

A document says who opens a key; each cloud lets somebody add to that from outside of the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jewelhouse.model import Cloud
from jewelhouse.release import documents
from jewelhouse.release.facts import Power
from jewelhouse.release.resources import UNKNOWN, EngineState, Resource

# Google: resource type -> the input that names the key or its ring.
MEMBERS: Mapping[str, str] = {
    "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": "cryptoKeyId",
    "gcp:kms/cryptoKeyIAMBinding:CryptoKeyIAMBinding": "cryptoKeyId",
    "gcp:kms/keyRingIAMMember:KeyRingIAMMember": "keyRingId",
    "gcp:kms/keyRingIAMBinding:KeyRingIAMBinding": "keyRingId",
}
POLICIES: Mapping[str, str] = {
    "gcp:kms/cryptoKeyIAMPolicy:CryptoKeyIAMPolicy": "cryptoKeyId",
    "gcp:kms/keyRingIAMPolicy:KeyRingIAMPolicy": "keyRingId",
}
POOL = "gcp:iam/workloadIdentityPool:WorkloadIdentityPool"
PROVIDERS = (
    "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider",
    "gcp:iam/workloadIdentityPoolManagedIdentity:WorkloadIdentityPoolManagedIdentity",
)
DENY = "gcp:iam/denyPolicy:DenyPolicy"
DECRYPTION = "cloudkms.googleapis.com/cryptoKeyVersions.useToDecrypt"
ASSIGNMENT = "azure-native:authorization:RoleAssignment"
# learn.microsoft.com/azure/role-based-access-control/built-in-roles/security, 2026-10.
RELEASE_USER = "08bbd89e-9f13-488c-ac41-acfcb10c90ab"
# Read the public half, wrap and unwrap what a disk needs: neither releases a key.
HARMLESS = {"21090545-7ca7-4776-b22c-e363652d74d2", "e147488a-f6f5-4113-8e2d-b22465e65bf6"}
# What of other things may be read or written over a whole group: none of it is a right on keys.
ELSEWHERE = {
    "acdd72a7-3385-48ef-bd42-f606fba81ae7",  # Reader
    "7f951dda-4ed3-4680-a7ca-43fe172d538d",  # AcrPull
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",  # Storage Blob Data Reader
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe",  # Storage Blob Data Contributor
}
GROUPS = "/providers/microsoft.management/managementgroups/"
GRANT = "aws:kms/grant:Grant"
KEY_POLICY = "aws:kms/keyPolicy:KeyPolicy"
ATTACHED: Mapping[str, str] = {**MEMBERS, **POLICIES, GRANT: "keyId", KEY_POLICY: "keyId"}


@dataclass(frozen=True, kw_only=True)
class Attachments:
    """What resources beside a key add to it. `askers`: principals with the release role. `document`: a key
    policy in a resource of its own, which takes the place of the key's. `used`: the resources, by URN."""

    bindings: tuple[Mapping[str, Any], ...] = ()
    askers: tuple[str, ...] = ()
    powers: frozenset[Power] = frozenset()
    document: Mapping[str, Any] | None = None
    undecided: tuple[str, ...] = ()
    used: frozenset[str] = frozenset()


def of(cloud: Cloud, key: Resource | None, own: Iterable[Resource], state: EngineState) -> Attachments:
    """What is attached to a key. `own` are the resources of its component, which are known already."""
    own = list(own)
    mine = {one.urn for one in own}
    others = [one for one in state.resources if one.urn not in mine and not one.gone]
    if key is None:
        return Attachments()
    if cloud is Cloud.AWS:
        return _aws(key, others)
    if cloud is Cloud.AZURE:
        return _azure(key, others)
    return _google(key, own, others, state)


def loose(resources: Iterable[Resource], used: set[str]) -> Iterator[str]:
    """Rights on some key that is not in a preview, since it stays the same."""
    for one in resources:
        inside = "AttestedKey" in one.parent
        if one.type in ATTACHED and one.urn not in used and not one.gone and not inside:
            yield f"{one.name} ({one.type}) adds to a key that is not in it: compare a saved plan"


def _names(resource: Resource, place: str, key: Resource, *, ring: bool = False) -> bool:
    """Whether an input of a resource names the key: by what it comes from, or by an id written out."""
    sources = key.after.get("keyRing", ()) if ring else (key.urn,)
    if set(sources) & set(resource.after.get(place, ())):
        return True
    value = resource.value(place)
    if not isinstance(value, str) or value == UNKNOWN:
        return False
    rings = key.inputs.get("keyRing")
    return value == rings if ring else any(value.endswith(one) for one in _ids(key))


def _ids(key: Resource) -> Iterator[str]:
    """How a key is named. Plans have no ids, so these are made of what ids are made of."""
    inputs, outputs = key.inputs, key.outputs
    known = [key.id, outputs.get("arn"), outputs.get("keyId")]
    if inputs.get("keyRing") and inputs.get("name"):
        known.append(f"{inputs['keyRing']}/cryptoKeys/{inputs['name']}")
    if inputs.get("vaultName") and inputs.get("keyName"):
        known.append(f"/vaults/{inputs['vaultName']}/keys/{inputs['keyName']}")
    yield from (one for one in known if isinstance(one, str) and one and UNKNOWN not in one)


def bound(resource: Resource) -> Iterator[tuple[str, str, str]]:
    """Role, member and condition of an IAM member or binding."""
    condition = resource.value("condition")
    expression = condition.get("expression", "") if isinstance(condition, dict) else ""
    for member in resource.value("members") or [resource.value("member")]:
        yield str(resource.value("role")), str(member), str(expression)


def _google(key: Resource, own: list[Resource], others: list[Resource], state: EngineState) -> Attachments:
    bindings: list[Mapping[str, Any]] = []
    undecided: list[str] = []
    used: set[str] = set()
    for one in others:
        place = ATTACHED.get(one.type)
        if place is None or not _names(one, place, key, ring=place == "keyRingId"):
            continue
        used.add(one.urn)
        if one.type in POLICIES:
            undecided.append(f"{one.name}: an IAM policy as a whole stands on the key")
            continue
        for role, member, expression in bound(one):
            if UNKNOWN in (role, member):
                undecided.append(f"{one.name}: who it lets in is not known before the deployment")
                continue
            condition = {"condition": {"expression": expression}} if expression else {}
            bindings.append({"role": role, "members": [member], **condition})
    pools = [one for one in own if one.type == POOL]
    for one in others:
        if one.type in PROVIDERS and any(_in_pool(one, pool) for pool in pools):
            undecided.append(f"{one.name}: a further provider exchanges tokens for the key's pool")
    return Attachments(
        bindings=tuple(bindings),
        undecided=tuple(undecided),
        powers=frozenset(_undenied(own, state)) if state.whole else frozenset(),
        used=frozenset(used),
    )


def _in_pool(provider: Resource, pool: Resource) -> bool:
    named = provider.value("workloadIdentityPoolId")
    if isinstance(named, str) and named != UNKNOWN:
        return named == pool.value("workloadIdentityPoolId")
    return pool.urn in provider.after.get("workloadIdentityPoolId", ())


def _undenied(own: list[Resource], state: EngineState) -> Iterator[Power]:
    """Who could decrypt without evidence because no deny policy of the key's project is before them.

    IAM allows by union, so an owner of the project opens its keys unless a deny policy says otherwise:
    docs.cloud.google.com/iam/docs/deny-overview.
    """
    projects = {str(one.value("project")) for one in own if one.type == POOL} - {"None", UNKNOWN}
    for project in projects:
        rules = [
            rule.get("denyRule")
            for one in state.resources
            if one.type == DENY
            and not one.gone
            and str(one.value("parent")).endswith(f"projects%2F{project}")
            for rule in one.value("rules") or ()
        ]
        standing = [
            rule
            for rule in rules
            if isinstance(rule, dict)
            and DECRYPTION in rule.get("deniedPermissions", ())
            and "principalSet://goog/public:all" in rule.get("deniedPrincipals", ())
        ]
        if not standing:
            yield Power(
                f"whoever may use keys of project {project}", "decrypt without evidence: no deny policy"
            )
        pools = {str(one.value("workloadIdentityPoolId")) for one in state.resources if one.type == POOL}
        for name in {str(one) for rule in standing for one in rule.get("exceptionPrincipals", ())}:
            found = re.fullmatch(
                r"principalSet://iam\.googleapis\.com/.+/workloadIdentityPools/([^/]+)/\*", name
            )
            if name != UNKNOWN and (found is None or found[1] not in pools):
                yield Power(name, f"pass the deny policy of project {project}")


def _azure(key: Resource, others: Iterable[Resource]) -> Attachments:
    """Assignments beside those of the component, on the key or on what it lies in: Azure hands rights down.
    The component's own are the stages of the key's gates."""
    askers: list[str] = []
    powers: set[Power] = set()
    for one in others:
        if one.type != ASSIGNMENT:
            continue
        itself = _names(one, "scope", key)
        if not itself and not _above(one, key):
            continue
        role = str(one.value("roleDefinitionId")).rpartition("/")[2]
        principal = str(one.value("principalId"))
        who = one.name if principal == UNKNOWN else principal
        if role == RELEASE_USER:
            askers.append(who)
        elif role not in HARMLESS and (itself or role not in ELSEWHERE):
            powers.add(Power(who, f"use role {role} on {'the key' if itself else 'what the key lies in'}"))
    return Attachments(askers=tuple(askers), powers=frozenset(powers))


def _above(assignment: Resource, key: Resource) -> bool:
    """Whether an assignment is on the vault, resource group, subscription or management group of a key."""
    scope = assignment.value("scope")
    if not isinstance(scope, str) or scope == UNKNOWN:
        sources = set(assignment.after.get("scope", ()))
        places = {*key.after.get("vaultName", ()), *key.after.get("resourceGroupName", ())}
        return bool(sources & places) and not any("keyvault:Key::" in source for source in sources)
    if key.id.startswith("/"):
        return within(key.id, scope)
    # A plan has no ids: who is given a whole subscription there is taken to be over every key.
    ends = (
        f"/vaults/{key.inputs.get('vaultName')}",
        f"/resourcegroups/{key.inputs.get('resourceGroupName')}",
    )
    whole = scope.lower().rstrip("/")
    return whole.endswith(tuple(end.lower() for end in ends)) or _high(whole)


def within(resource: str, scope: str) -> bool:
    """Whether a resource of Azure lies in the scope of an assignment; ids are the same in any case. What a
    management group holds is not to be seen in an id, so it is taken to hold everything.

    learn.microsoft.com/azure/role-based-access-control/scope-overview, 2026-11.
    """
    whole = scope.lower().rstrip("/")
    return bool(scope) and (f"{resource.lower()}/".startswith(f"{whole}/") or whole.startswith(GROUPS))


def _high(scope: str) -> bool:
    return not scope or scope.startswith(GROUPS) or bool(re.fullmatch(r"/subscriptions/[^/]+", scope))


def _aws(key: Resource, others: Iterable[Resource]) -> Attachments:
    powers: set[Power] = set()
    used: set[str] = set()
    document, undecided = None, []
    for one in others:
        if one.type not in (GRANT, KEY_POLICY) or not _names(one, "keyId", key):
            continue
        used.add(one.urn)
        text = one.value("policy")
        if one.type == GRANT:
            operations = ", ".join(sorted(map(str, one.value("operations") or ())))
            powers.add(Power(str(one.value("granteePrincipal")), f"use a grant for {operations}"))
        elif isinstance(text, str) and text != UNKNOWN:
            document = documents.read(text, one.name, Cloud.AWS).body
        else:
            undecided.append(f"{one.name}: its policy is not known before the deployment")
    return Attachments(
        powers=frozenset(powers), document=document, undecided=tuple(undecided), used=frozenset(used)
    )
