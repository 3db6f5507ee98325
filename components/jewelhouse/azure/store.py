"""Storage of ciphertext: no account keys, no public network, nothing overwritten for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import storage

from jewelhouse.azure.naming import unique
from jewelhouse.azure.roles import assign

CONTAINER = "sealed"
UNDELETE_DAYS = 30
# How long each version of a blob can neither be changed nor deleted.
WORM_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class SealedStoreArgs:
    """`readers` open the artifact, `writers` seal it: principals by name of their stage. `sealers` are
    service principals that bring it.

    `destroyable` turns off the retention that would keep the account from being deleted.
    """

    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    subscription: str
    readers: Mapping[str, pulumi.Input[str]]
    writers: Mapping[str, pulumi.Input[str]]
    sealers: Sequence[str] = ()
    destroyable: bool = False
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class SealedStore(pulumi.ComponentResource):
    """A storage account with one container, in which every version is kept and immutable.

    The retention is unlocked, since Azure creates none that is locked: its owner locks it once the days are
    settled, which nothing undoes.

    Flat rather than hierarchical: versions and immutability of versions are not offered for hierarchical
    namespaces (learn.microsoft.com/azure/storage/blobs/storage-feature-support-in-storage-accounts).
    """

    account: pulumi.Output[str]
    url: pulumi.Output[str]
    assignments: tuple[pulumi.Resource, ...]

    def __init__(self, name: str, args: SealedStoreArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:SealedStore", name, {}, opts)
        child = ResourceOptions(parent=self)
        kept = ResourceOptions(parent=self, protect=not args.destroyable)
        account = storage.StorageAccount(
            f"{name}-account",
            account_name=unique("jh", name, args.resource_group),
            resource_group_name=args.resource_group,
            location=args.location,
            kind=storage.Kind.STORAGE_V2,
            sku=storage.SkuArgs(name=storage.SkuName.STANDARD_ZRS),
            access_tier=storage.AccessTier.HOT,
            allow_blob_public_access=False,
            allow_shared_key_access=False,
            allow_cross_tenant_replication=False,
            allowed_copy_scope=storage.AllowedCopyScope.PRIVATE_LINK,
            default_to_o_auth_authentication=True,
            enable_https_traffic_only=True,
            is_hns_enabled=False,
            is_local_user_enabled=False,
            is_sftp_enabled=False,
            minimum_tls_version=storage.MinimumTlsVersion.TLS1_2,
            public_network_access=storage.PublicNetworkAccess.DISABLED,
            network_rule_set=storage.NetworkRuleSetArgs(
                bypass=storage.Bypass.NONE, default_action=storage.DefaultAction.DENY
            ),
            encryption=storage.EncryptionArgs(
                key_source=storage.KeySource.MICROSOFT_STORAGE, require_infrastructure_encryption=True
            ),
            immutable_storage_with_versioning=storage.ImmutableStorageAccountArgs(
                enabled=True,
                immutability_policy=storage.AccountImmutabilityPolicyPropertiesArgs(
                    state=storage.AccountImmutabilityPolicyState.DISABLED
                    if args.destroyable
                    else storage.AccountImmutabilityPolicyState.UNLOCKED,
                    immutability_period_since_creation_in_days=WORM_DAYS,
                    allow_protected_append_writes=False,
                ),
            ),
            tags=args.tags,
            opts=kept,
        )
        service = storage.BlobServiceProperties(
            f"{name}-versions",
            resource_group_name=args.resource_group,
            account_name=account.name,
            blob_services_name="default",
            is_versioning_enabled=True,
            change_feed=storage.ChangeFeedArgs(enabled=True),
            delete_retention_policy=storage.DeleteRetentionPolicyArgs(enabled=True, days=UNDELETE_DAYS),
            container_delete_retention_policy=storage.DeleteRetentionPolicyArgs(
                enabled=True, days=UNDELETE_DAYS
            ),
            opts=child,
        )
        container = storage.BlobContainer(
            f"{name}-container",
            resource_group_name=args.resource_group,
            account_name=account.name,
            container_name=CONTAINER,
            public_access=storage.PublicAccess.NONE,
            opts=ResourceOptions.merge(kept, ResourceOptions(depends_on=[service])),
        )
        self.account = account.id
        writing = {**args.writers, **{f"sealer-{n}": sealer for n, sealer in enumerate(args.sealers)}}
        self.url = account.name.apply(lambda made: f"abfs://{CONTAINER}@{made}.dfs.core.windows.net")
        self.assignments = tuple(
            assign(
                f"{name}-{verb}-{stage}",
                role,
                scope=container.id,
                principal=principal,
                subscription=args.subscription,
                opts=child,
            )
            for verb, role, principals in (
                ("reads", "Storage Blob Data Reader", args.readers),
                ("writes", "Storage Blob Data Contributor", writing),
            )
            for stage, principal in principals.items()
        )
        self.register_outputs({"account": self.account, "url": self.url})
