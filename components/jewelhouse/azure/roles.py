"""Azure's built-in roles that the kit assigns, at the narrowest scope, under stable names."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import authorization

# learn.microsoft.com/azure/role-based-access-control/built-in-roles, 2026-10
ROLES: Mapping[str, str] = {
    "Key Vault Crypto Service Release User": "08bbd89e-9f13-488c-ac41-acfcb10c90ab",
    "Key Vault Crypto Service Encryption User": "e147488a-f6f5-4113-8e2d-b22465e65bf6",
    "Key Vault Reader": "21090545-7ca7-4776-b22c-e363652d74d2",
    "AcrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "Storage Blob Data Reader": "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1",
    "Storage Blob Data Contributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
}


def assign(
    name: str,
    role: str,
    *,
    scope: pulumi.Input[str],
    principal: pulumi.Input[str],
    subscription: str,
    opts: ResourceOptions,
) -> authorization.RoleAssignment:
    """Gives `principal` a built-in role on one resource.

    The principal is a managed identity or service principal: its type is named so that Azure accepts one that
    its directory does not show yet, and because the provider would say `User`.
    """
    return authorization.RoleAssignment(
        name,
        role_assignment_name=assignment_name(ROLES[role], scope, principal),
        role_definition_id=(
            f"/subscriptions/{subscription}/providers/Microsoft.Authorization/roleDefinitions/{ROLES[role]}"
        ),
        scope=scope,
        principal_id=principal,
        principal_type=authorization.PrincipalType.SERVICE_PRINCIPAL,
        opts=opts,
    )


def assignment_name(role: str, scope: pulumi.Input[str], principal: pulumi.Input[str]) -> pulumi.Output[str]:
    """A GUID out of what an assignment is about, the same from run to run.

    Azure refuses to change the principal or the scope of an assignment, so another principal needs another
    name ("RoleAssignmentUpdateNotPermitted").
    """
    return pulumi.Output.all(scope, principal).apply(
        lambda parts: str(uuid.uuid5(uuid.NAMESPACE_URL, f"{parts[0].lower()}/{role}/{parts[1].lower()}"))
    )
