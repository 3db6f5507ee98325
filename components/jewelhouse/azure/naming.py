"""Names that Azure wants unique in the world, short, and of few characters."""

from __future__ import annotations

import hashlib

import pulumi


def unique(prefix: str, name: str, resource_group: pulumi.Input[str]) -> pulumi.Output[str]:
    """A name of 24 lower-case letters and digits for a vault or a storage account.

    The provider's own naming knows no limits of length or characters (pulumi/pulumi-azure-native#4294). The
    resource group's name has its random digits, so that a stack which comes up again after it went down does
    not meet the names of its soft-deleted vaults.
    """

    def named(group: str) -> str:
        return prefix + hashlib.sha256(f"{group}/{name}".encode()).hexdigest()[: 24 - len(prefix)]

    return pulumi.Output.from_input(resource_group).apply(named)
