"""The audit trail of vaults and stores, and who is told when a key opens to somebody unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import monitor, operationalinsights

RETENTION_DAYS = 365
# Operations of a vault's own log: learn.microsoft.com/azure/key-vault/general/logging, 2026-10.
OPENING = ("KeyDecrypt", "KeyRelease")
# Through the data plane a release policy can be updated, and a key be taken elsewhere.
TAMPERING = ("KeyBackup", "KeyImport", "KeyRecover", "KeyRestore", "KeyRotate", "KeyUpdate")
# What the control plane logs; a role on the subscription opens keys too, so all of it is watched.
CHANGES = (
    "Microsoft.Authorization/roleAssignments/write",
    "Microsoft.Authorization/roleDefinitions/write",
    "Microsoft.Insights/diagnosticSettings/delete",
    "Microsoft.KeyVault/vaults/write",
    "Microsoft.KeyVault/vaults/delete",
    "Microsoft.KeyVault/vaults/keys/write",
    "Microsoft.KeyVault/vaults/accessPolicies/write",
)


@dataclass(frozen=True, kw_only=True)
class AuditTrailArgs:
    """`vaults` and `stores` by name; `known` are the application (client) ids that may ask for a release."""

    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    subscription: str
    vaults: Mapping[str, pulumi.Input[str]]
    stores: Mapping[str, pulumi.Input[str]]
    known: Sequence[pulumi.Input[str]]
    emails: Sequence[str] = ()
    destroyable: bool = False
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
            sku=operationalinsights.WorkspaceSkuArgs(
                name=operationalinsights.WorkspaceSkuNameEnum.PER_GB2018
            ),
            features=operationalinsights.WorkspaceFeaturesArgs(disable_local_auth=True),
            tags=args.tags,
            opts=ResourceOptions(parent=self, protect=not args.destroyable),
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
                    logs=[
                        monitor.DiagnosticsLogSettingsArgs(category=category, enabled=True)
                        for category in categories
                    ],
                    opts=child,
                )
        people = monitor.ActionGroup(
            f"{name}-people",
            resource_group_name=args.resource_group,
            location="Global",
            group_short_name="jewelhouse",
            enabled=True,
            email_receivers=[
                monitor.MicrosoftCommonEmailReceiverArgs(
                    name=f"mail-{index}", email_address=email, use_common_alert_schema=True
                )
                for index, email in enumerate(args.emails)
            ],
            tags=args.tags,
            opts=child,
        )
        known = pulumi.Output.all(*args.known)
        for label, description, query in (
            (
                "unknown-release",
                "an identity that is no stage's asked for a key",
                known.apply(unknown_release_query),
            ),
            ("tampering", "a key was changed or copied past its deployment", tampering_query()),
        ):
            monitor.ScheduledQueryRule(
                f"{name}-{label}",
                resource_group_name=args.resource_group,
                location=args.location,
                kind=monitor.Kind.LOG_ALERT,
                description=f"{name}: {description}",
                display_name=f"{name}: {label}",
                enabled=True,
                severity=0,
                evaluation_frequency="PT5M",
                # Logs arrive minutes late; a window of twice the frequency misses none of them.
                window_size="PT10M",
                scopes=[workspace.id],
                auto_mitigate=False,
                # The table exists only once the first vault has logged.
                skip_query_validation=True,
                criteria=monitor.ScheduledQueryRuleCriteriaArgs(
                    all_of=[
                        monitor.ConditionArgs(
                            query=query,
                            # The SDK's ConditionOperator ("gt") is that of another API under the same name.
                            operator="GreaterThan",
                            threshold=0,
                            time_aggregation=monitor.TimeAggregation.COUNT,
                        )
                    ]
                ),
                actions=monitor.ActionsArgs(action_groups=[people.id]),
                tags=args.tags,
                opts=child,
            )
        monitor.ActivityLogAlert(
            f"{name}-changes",
            resource_group_name=args.resource_group,
            location="Global",
            description=f"{name}: who may open keys may have changed",
            enabled=True,
            scopes=[f"/subscriptions/{args.subscription}"],
            condition=monitor.AlertRuleAllOfConditionArgs(
                all_of=[
                    monitor.AlertRuleAnyOfOrLeafConditionArgs(field="category", equals="Administrative"),
                    monitor.AlertRuleAnyOfOrLeafConditionArgs(
                        any_of=[
                            monitor.AlertRuleLeafConditionArgs(field="operationName", equals=operation)
                            for operation in CHANGES
                        ]
                    ),
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
    """KQL for requests for a key, granted or not, by anybody but the applications in `known`."""
    if not known:
        return _events(OPENING)
    identities = ", ".join(f'"{identity}"' for identity in sorted(known))
    return f"{_events(OPENING)} | where identity_claim_appid_g !in ({identities})"


def tampering_query() -> str:
    """KQL for changes of keys through the data plane, which no deployment makes."""
    return _events(TAMPERING)


def _events(operations: Sequence[str]) -> str:
    names = ", ".join(f'"{operation}"' for operation in operations)
    return (
        'AzureDiagnostics | where ResourceProvider == "MICROSOFT.KEYVAULT"'
        f" | where OperationName in ({names})"
    )
