"""The audit trail of vaults and stores, and who is told when a key opens to somebody unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import monitor, operationalinsights

RETENTION_DAYS = 365
# Operations that open a key or change who may: learn.microsoft.com/azure/key-vault/general/logging
OPENING = ("KeyRelease", "KeyUnwrap", "KeyDecrypt")
CHANGES = (
    "Microsoft.Authorization/roleAssignments/write",
    "Microsoft.KeyVault/vaults/write",
    "Microsoft.KeyVault/vaults/delete",
    "Microsoft.KeyVault/vaults/keys/write",
)


@dataclass(frozen=True, kw_only=True)
class AuditTrailArgs:
    """`vaults` and `stores` by name; `known` are the client ids that keys may be released to."""

    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    resource_group_id: pulumi.Input[str]
    vaults: Mapping[str, pulumi.Input[str]]
    stores: Mapping[str, pulumi.Input[str]]
    known: Sequence[pulumi.Input[str]]
    emails: Sequence[str] = ()
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class AuditTrail(pulumi.ComponentResource):
    """A Log Analytics workspace that every vault and store writes to, with alerts."""

    workspace: pulumi.Output[str]

    def __init__(self, name: str, args: AuditTrailArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:AuditTrail", name, {}, opts)
        child = ResourceOptions(parent=self)
        workspace = operationalinsights.Workspace(
            f"{name}-workspace",
            resource_group_name=args.resource_group,
            location=args.location,
            retention_in_days=RETENTION_DAYS,
            sku=operationalinsights.WorkspaceSkuArgs(name=operationalinsights.WorkspaceSkuNameEnum.PER_GB2018),
            features=operationalinsights.WorkspaceFeaturesArgs(disable_local_auth=True),
            tags=args.tags,
            opts=child,
        )
        for kind, targets, categories in (
            ("vault", args.vaults, ("AuditEvent",)),
            ("store", args.stores, ("StorageRead", "StorageWrite", "StorageDelete")),
        ):
            for target, resource in targets.items():
                monitor.DiagnosticSetting(
                    f"{name}-{kind}-{target}",
                    name=f"{name}-{target}"[:64],
                    resource_uri=resource
                    if kind == "vault"
                    else pulumi.Output.concat(resource, "/blobServices/default"),
                    workspace_id=workspace.id,
                    logs=[monitor.DiagnosticsLogSettingsArgs(category=category, enabled=True) for category in categories],
                    opts=child,
                )
        people = monitor.ActionGroup(
            f"{name}-people",
            resource_group_name=args.resource_group,
            location="Global",
            group_short_name="jewelhouse",
            enabled=True,
            email_receivers=[
                monitor.MicrosoftCommonEmailReceiverArgs(name=f"mail-{index}", email_address=email, use_common_alert_schema=True)
                for index, email in enumerate(args.emails)
            ],
            tags=args.tags,
            opts=child,
        )
        monitor.ScheduledQueryRule(
            f"{name}-unknown-release",
            resource_group_name=args.resource_group,
            location=args.location,
            kind="LogAlert",
            description="A key was opened by an identity that is no stage's",
            display_name=f"{name}: key opened by an unknown identity",
            enabled=True,
            severity=0,
            evaluation_frequency="PT5M",
            window_size="PT5M",
            scopes=[workspace.id],
            auto_mitigate=False,
            criteria=monitor.ScheduledQueryRuleCriteriaArgs(
                all_of=[
                    monitor.ConditionArgs(
                        query=pulumi.Output.all(*args.known).apply(unknown_release_query),
                        operator=monitor.ConditionOperator.GREATER_THAN,
                        threshold=0,
                        time_aggregation=monitor.TimeAggregation.COUNT,
                    )
                ]
            ),
            actions=monitor.ActionsArgs(action_groups=[people.id]),
            tags=args.tags,
            opts=child,
        )
        for operation in CHANGES:
            label = operation.removeprefix("Microsoft.").replace("/", "-").lower()
            monitor.ActivityLogAlert(
                f"{name}-{label}",
                resource_group_name=args.resource_group,
                location="Global",
                activity_log_alert_name=f"{name}-{label}"[:100],
                description=f"{operation}: who may open keys may have changed",
                enabled=True,
                scopes=[args.resource_group_id],
                condition=monitor.AlertRuleAllOfConditionArgs(
                    all_of=[
                        monitor.AlertRuleAnyOfOrLeafConditionArgs(field="category", equals="Administrative"),
                        monitor.AlertRuleAnyOfOrLeafConditionArgs(field="operationName", equals=operation),
                    ]
                ),
                actions=monitor.ActionListArgs(
                    action_groups=[monitor.ActionGroupArgs(action_group_id=people.id)]
                ),
                tags=args.tags,
                opts=child,
            )
        self.workspace = workspace.id
        self.register_outputs({"workspace": self.workspace})


def unknown_release_query(known: Sequence[str]) -> str:
    """KQL for key operations that open a key, by anybody but the identities in `known` (client ids)."""
    operations = ", ".join(f'"{operation}"' for operation in OPENING)
    identities = ", ".join(f'"{identity}"' for identity in sorted(known))
    return (
        "AzureDiagnostics"
        ' | where ResourceProvider == "MICROSOFT.KEYVAULT"'
        f" | where OperationName in ({operations})"
        f" | where identity_claim_appid_g !in ({identities})"
    )
