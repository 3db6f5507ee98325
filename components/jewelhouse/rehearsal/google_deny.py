"""Deny policies of IAM, as they are deployed: what no binding gets past.

docs.cloud.google.com/iam/docs/deny-overview, .../iam/docs/principal-identifiers (2026-11).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

EVERYBODY = "principalSet://goog/public:all"


def against(
    policies: Sequence[Mapping[str, Any]], resource: str, permission: str, principals: Collection[str]
) -> str:
    """The name of the policy that denies, or nothing. A rule that cannot be judged denies.

    `policies`: the properties of iam.DenyPolicy; only those on the resource's project are looked at.
    """
    project = resource.split("/")[1]
    for policy in policies:
        parent = unquote(str(policy.get("parent", "")))
        if parent != f"cloudresourcemanager.googleapis.com/projects/{project}":
            continue
        for rule in policy.get("rules") or ():
            if _denies(rule.get("denyRule") or {}, permission, principals):
                return f"deny policy {policy.get('name')}"
    return ""


def _denies(rule: Mapping[str, Any], permission: str, principals: Collection[str]) -> bool:
    # Deny policies write a permission with its service's domain: cloudkms.googleapis.com/cryptoKeyVersions...
    service, _, name = permission.partition(".")
    full = f"{service}.googleapis.com/{name}"
    if full not in (rule.get("deniedPermissions") or ()) or full in (rule.get("exceptionPermissions") or ()):
        return False
    denied = rule.get("deniedPrincipals") or ()
    if EVERYBODY not in denied and not set(principals) & set(denied):
        return False
    return not set(principals) & set(rule.get("exceptionPrincipals") or ())
