"""Premium vaults and the attested keys in them: RSA in an HSM, released only under their policy.

The control plane creates keys and never updates them ("This API can only be used for creating the first
version of a new key"), so a key's name carries the hash of its policy: a changed policy is a new key beside
the old one, and at no moment is there a key without its gate. The provider adds random digits to the name:
the old key stays in its vault, and whoever returns to an earlier policy must not meet its name again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import keyvault

from jewelhouse.azure.naming import unique
from jewelhouse.azure.roles import assign
from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Cloud
from jewelhouse.release import azure as release
from jewelhouse.release import lint
from jewelhouse.release.documents import Document

# Releasing is the only way to the private half: no decrypt, no unwrapKey, not even inside the HSM.
KEY_OPERATIONS = ("encrypt", "wrapKey", "release")
DISK_KEY_OPERATIONS = ("wrapKey", "unwrapKey", "release")
SOFT_DELETE_DAYS = 90


@dataclass(frozen=True, kw_only=True)
class VaultArgs:
    """`disk_orchestrator` lets Azure's own services past the network rules, since they release disk keys to
    VMs that do not run yet; otherwise nothing passes.
    """

    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    tenant: str
    disk_orchestrator: bool = False
    destroyable: bool = False
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class Vault(pulumi.ComponentResource):
    """A premium vault: roles instead of policies, purge protection, no public network.

    Whoever deploys it needs to create vaults and keys (Key Vault Contributor) and role assignments on them.
    Keys are made through the control plane, so that takes no data-plane role and no network path.
    """

    id_: pulumi.Output[str]
    vault_name: pulumi.Output[str]
    uri: pulumi.Output[str]

    def __init__(self, name: str, args: VaultArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:Vault", name, {}, opts)
        vault = keyvault.Vault(
            f"{name}-vault",
            vault_name=unique("jh", name, args.resource_group),
            resource_group_name=args.resource_group,
            location=args.location,
            properties=keyvault.VaultPropertiesArgs(
                tenant_id=args.tenant,
                sku=keyvault.SkuArgs(family="A", name=keyvault.SkuName.PREMIUM),
                enable_rbac_authorization=True,
                enable_purge_protection=True,
                enable_soft_delete=True,
                soft_delete_retention_in_days=SOFT_DELETE_DAYS,
                enabled_for_deployment=False,
                enabled_for_disk_encryption=False,
                enabled_for_template_deployment=False,
                public_network_access="Disabled",
                network_acls=keyvault.NetworkRuleSetArgs(
                    bypass="AzureServices" if args.disk_orchestrator else "None", default_action="Deny"
                ),
            ),
            tags=args.tags,
            opts=ResourceOptions(parent=self, protect=not args.destroyable),
        )
        self.id_ = vault.id
        self.vault_name = vault.name
        self.uri = vault.properties.vault_uri.apply(str)
        self.register_outputs({"id": self.id_, "name": self.vault_name, "uri": self.uri})


@dataclass(frozen=True, kw_only=True)
class AttestedKeyArgs:
    """`document` is the compiled release policy (`jewelhouse.release.azure.compile`).

    `releases` maps stage names to the principals that may ask for a release. `sealers` are service principals
    that may read the public half, and need nothing more: sealing wraps to it outside of the vault.
    """

    resource_group: pulumi.Input[str]
    subscription: str
    vault_name: pulumi.Input[str]
    document: Mapping[str, Any]
    releases: Mapping[str, pulumi.Input[str]]
    sealers: Sequence[str] = ()
    key_size: int = 4096
    operations: Sequence[str] = KEY_OPERATIONS
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class AttestedKey(pulumi.ComponentResource):
    """An exportable RSA-HSM key with its release policy, and the roles on this one key.

    The key is kept when the stack lets go of it: what is wrapped to it would be lost with it. `uri` names
    the key, `versioned_uri` its first and only version; its public half is read from there by sealers.

    Raises RefusedPolicy for a document in which lint finds an error.
    """

    id_: pulumi.Output[str]
    uri: pulumi.Output[str]
    versioned_uri: pulumi.Output[str]
    assignments: tuple[pulumi.Resource, ...]

    def __init__(self, name: str, args: AttestedKeyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:AttestedKey", name, {}, opts)
        disk = args.operations is DISK_KEY_OPERATIONS
        lint.refuse([Document(name=name, cloud=Cloud.AZURE, body=args.document, disk=disk)])
        _check(name, args)
        key = keyvault.Key(
            f"{name}-key-{fingerprint(args)}",
            resource_group_name=args.resource_group,
            vault_name=args.vault_name,
            properties=keyvault.KeyPropertiesArgs(
                kty=keyvault.JsonWebKeyType.RS_A_HSM,
                key_size=args.key_size,
                key_ops=list(args.operations),
                attributes=keyvault.KeyAttributesArgs(enabled=True, exportable=True),
                release_policy=keyvault.KeyReleasePolicyArgs(
                    content_type=release.CONTENT_TYPE, data=release.encode(args.document)
                ),
            ),
            tags=args.tags,
            opts=ResourceOptions(
                parent=self,
                retain_on_delete=True,
                replace_on_changes=["properties"],
                # Not even tags can be updated, and another tag is no reason for another key.
                ignore_changes=["tags"],
            ),
        )
        self.id_ = key.id
        self.uri = key.key_uri
        self.versioned_uri = key.key_uri_with_version
        child = ResourceOptions(parent=self)
        self.assignments = (
            *(
                assign(
                    f"{name}-release-{stage}",
                    "Key Vault Crypto Service Release User",
                    scope=key.id,
                    principal=principal,
                    subscription=args.subscription,
                    opts=child,
                )
                for stage, principal in args.releases.items()
            ),
            *(
                assign(
                    f"{name}-sealer-{index}",
                    "Key Vault Reader",
                    scope=key.id,
                    principal=sealer,
                    subscription=args.subscription,
                    opts=child,
                )
                for index, sealer in enumerate(args.sealers)
            ),
        )
        self.register_outputs({"id": self.id_, "uri": self.uri, "versioned_uri": self.versioned_uri})


def _check(name: str, args: AttestedKeyArgs) -> None:
    if not args.releases:
        raise JewelhouseError(
            "nobody may ask for a release, so what is wrapped to the key would be lost",
            where=name,
            remedy="name the principal of each stage that opens the artifact",
        )
    both = sorted({who for who in args.releases.values() if isinstance(who, str)} & set(args.sealers))
    if both:
        raise JewelhouseError(
            f"{', '.join(both)} seals and opens",
            where=name,
            remedy="keep sealing identities apart from those that keys are released to",
        )


def fingerprint(args: AttestedKeyArgs) -> str:
    """A short hash over all that the service would not let us change."""
    fixed = json.dumps(
        {
            "document": release.digest(args.document),
            "size": args.key_size,
            "operations": list(args.operations),
        },
        sort_keys=True,
    )
    return hashlib.sha256(fixed.encode()).hexdigest()[:12]
