"""Rights on a key that stand in resources of their own: IAM members, role assignments, grants.

A document says who opens a key; each cloud lets somebody add to that from outside of the document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jewelhouse.model import Cloud
from jewelhouse.release import documents
from jewelhouse.release.facts import Power
from jewelhouse.release.resources import UNKNOWN, Resource

# Google: resource type -> the input that names the key or its ring.
MEMBERS: Mapping[str, str] = {
    "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember": "cryptoKeyId",
    "gcp:kms/cryptoKeyIAMBinding:CryptoKeyIAMBinding": "cryptoKeyId",
    "gcp:kms/keyRingIAMMember:KeyRingIAMMember": "keyRingId",
    "gcp:kms/keyRingIAMBinding:KeyRingIAMBinding": "keyRingId",
}
POLICIES = {
    "gcp:kms/cryptoKeyIAMPolicy:CryptoKeyIAMPolicy": "cryptoKeyId",
    "gcp:kms/keyRingIAMPolicy:KeyRingIAMPolicy": "keyRingId",
}
ASSIGNMENT = "azure-native:authorization:RoleAssignment"
# learn.microsoft.com/azure/role-based-access-control/built-in-roles/security, 2026-10.
RELEASE_USER = "08bbd89e-9f13-488c-ac41-acfcb10c90ab"
# Read the public half, wrap and unwrap what a disk needs: neither releases a key.
HARMLESS = {"21090545-7ca7-4776-b22c-e363652d74d2", "e147488a-f6f5-4113-8e2d-b22465e65bf6"}
GRANT = "aws:kms/grant:Grant"
KEY_POLICY = "aws:kms/keyPolicy:KeyPolicy"


@dataclass(frozen=True, kw_only=True)
class Attachments:
    """What resources beside the key add. `askers`: principals with the release role. `document`: a key policy
    in a resource of its own, which takes the place of the key's."""

    bindings: tuple[Mapping[str, Any], ...] = ()
    askers: tuple[str, ...] = ()
    powers: frozenset[Power] = frozenset()
    document: Mapping[str, Any] | None = None
    undecided: tuple[str, ...] = ()


def of(cloud: Cloud, key: Resource, everything: Iterable[Resource], own: Iterable[Resource]) -> Attachments:
    """What is attached to a key. `own` are the resources of its component, whose bindings are known already."""
    mine = {id(one) for one in own}
    others = [one for one in everything if id(one) not in mine and not one.gone]
    if cloud is Cloud.AWS:
        return _aws(key, others)
    if cloud is Cloud.AZURE:
        return _azure(key, others)
    return _google(key, others)


def _names(resource: Resource, place: str, key: Resource, *, ring: bool = False) -> bool:
    """Whether an input of a resource names the key: by its id, or as what the input comes from."""
    value = resource.value(place)
    if isinstance(value, str) and value != UNKNOWN:
        wanted = key.inputs.get("keyRing") if ring else key.id
        alternatives = {wanted, key.outputs.get("arn"), key.outputs.get("keyId")} if not ring else {wanted}
        return value in {one for one in alternatives if isinstance(one, str) and one}
    source = key.after.get("keyRing", ()) if ring else (key.urn,)
    return bool(set(source) & set(resource.after.get(place, ())))


def bound(resource: Resource) -> Iterator[tuple[str, str, str]]:
    """Role, member and condition of an IAM member or binding."""
    condition = resource.value("condition")
    expression = condition.get("expression", "") if isinstance(condition, dict) else ""
    members = resource.value("members") or [resource.value("member")]
    for member in members:
        yield str(resource.value("role")), str(member), str(expression)


def _google(key: Resource, others: Iterable[Resource]) -> Attachments:
    bindings: list[Mapping[str, Any]] = []
    undecided: list[str] = []
    for one in others:
        ring = "keyRing" in one.type.rpartition("/")[2]
        place = MEMBERS.get(one.type) or POLICIES.get(one.type)
        if place is None or not _names(one, place, key, ring=ring):
            continue
        if one.type in POLICIES:
            undecided.append(f"{one.name}: an IAM policy as a whole stands on the key")
            continue
        for role, member, expression in bound(one):
            if UNKNOWN in (role, member):
                undecided.append(f"{one.name}: who it lets in is not known before the deployment")
                continue
            condition = {"condition": {"expression": expression}} if expression else {}
            bindings.append({"role": role, "members": [member], **condition})
    return Attachments(bindings=tuple(bindings), undecided=tuple(undecided))


def _azure(key: Resource, others: Iterable[Resource]) -> Attachments:
    """Assignments beside those of the component; its own are the stages of the key's gates."""
    askers: list[str] = []
    powers: set[Power] = set()
    for one in others:
        if one.type != ASSIGNMENT or not _names(one, "scope", key):
            continue
        role = str(one.value("roleDefinitionId")).rpartition("/")[2]
        principal = str(one.value("principalId"))
        who = one.name if principal == UNKNOWN else principal
        if role == RELEASE_USER:
            askers.append(who)
        elif role not in HARMLESS:
            powers.add(Power(who, f"role {role} on the key"))
    return Attachments(askers=tuple(askers), powers=frozenset(powers))


def _aws(key: Resource, others: Iterable[Resource]) -> Attachments:
    powers: set[Power] = set()
    document, undecided = None, []
    for one in others:
        if one.type == GRANT and _names(one, "keyId", key):
            operations = ", ".join(sorted(map(str, one.value("operations") or ())))
            powers.add(Power(str(one.value("granteePrincipal")), f"a grant for {operations}"))
        elif one.type == KEY_POLICY and _names(one, "keyId", key):
            text = one.value("policy")
            if isinstance(text, str) and text != UNKNOWN:
                document = documents.read(text, one.name, Cloud.AWS).body
            else:
                undecided.append(f"{one.name}: its policy is not known before the deployment")
    return Attachments(powers=frozenset(powers), document=document, undecided=tuple(undecided))
