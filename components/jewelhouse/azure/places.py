"""What several stages of a subscription and region share: provider, resource group, network, vaults."""

from __future__ import annotations

import pulumi_azure_native as azure_native
from pulumi import ResourceOptions
from pulumi_azure_native import resources

from jewelhouse.azure.key import Vault, VaultArgs
from jewelhouse.azure.network import PrivateNetwork, PrivateNetworkArgs
from jewelhouse.azure.verifier import GpuVerifierLink, GpuVerifierLinkArgs
from jewelhouse.azure.vm import DiskEncryption, DiskEncryptionArgs
from jewelhouse.model import AzureAccount, Lifecycle, Stage


class Places:
    """Makes each shared resource once, when it is first asked for."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.tags = {"jewelhouse-lifecycle": lifecycle.name}
        self.providers: dict[str, azure_native.Provider] = {}
        self.groups: dict[tuple[str, str], resources.ResourceGroup] = {}
        self.networks: dict[tuple[str, str], PrivateNetwork] = {}
        self.verifiers: dict[tuple[str, str], GpuVerifierLink] = {}
        self.vaults: dict[tuple[str, str], Vault] = {}
        self.disks: dict[tuple[str, str, str], DiskEncryption] = {}

    def party(self, account: AzureAccount) -> str:
        """A readable name for a subscription: the first party that has it."""
        return next(party.name for party in self.lifecycle.parties.values() if party.azure == account)

    def provider(self, account: AzureAccount) -> azure_native.Provider:
        if account.subscription not in self.providers:
            self.providers[account.subscription] = azure_native.Provider(
                f"azure-{self.party(account)}",
                subscription_id=account.subscription,
                tenant_id=account.tenant,
            )
        return self.providers[account.subscription]

    def opts(self, account: AzureAccount) -> ResourceOptions:
        return ResourceOptions(provider=self.provider(account))

    def group(self, account: AzureAccount, region: str) -> resources.ResourceGroup:
        place = (account.subscription, region)
        if place not in self.groups:
            self.groups[place] = resources.ResourceGroup(
                f"{self.lifecycle.name}-{self.party(account)}-{region}",
                location=region,
                tags=self.tags,
                opts=self.opts(account),
            )
        return self.groups[place]

    def network(self, account: AzureAccount, region: str) -> PrivateNetwork:
        place = (account.subscription, region)
        if place not in self.networks:
            self.networks[place] = PrivateNetwork(
                f"{self.party(account)}-{region}",
                PrivateNetworkArgs(
                    location=region, resource_group=self.group(account, region).name, tags=self.tags
                ),
                opts=self.opts(account),
            )
        return self.networks[place]

    def gpu_verifier(self, account: AzureAccount, region: str) -> GpuVerifierLink:
        assert account.gpu_verifier is not None
        place = (account.subscription, region)
        if place not in self.verifiers:
            network = self.network(account, region)
            self.verifiers[place] = GpuVerifierLink(
                f"{self.party(account)}-{region}-gpu-verifier",
                GpuVerifierLinkArgs(
                    location=region,
                    resource_group=self.group(account, region).name,
                    network=network.network,
                    subnet=network.endpoints,
                    forwarder=account.gpu_verifier,
                    tags=self.tags,
                ),
                opts=self.opts(account),
            )
        return self.verifiers[place]

    def vault(self, account: AzureAccount, region: str) -> Vault:
        place = (account.subscription, region)
        if place not in self.vaults:
            self.vaults[place] = Vault(
                f"{self.party(account)}-{region}",
                VaultArgs(
                    location=region,
                    resource_group=self.group(account, region).name,
                    tenant=account.tenant,
                    destroyable=self.lifecycle.destroyable,
                    tags=self.tags,
                ),
                opts=self.opts(account),
            )
        return self.vaults[place]

    def disk_encryption(self, stage: Stage, account: AzureAccount) -> DiskEncryption:
        assert account.orchestrator is not None
        place = (account.subscription, stage.region, stage.tee.value)
        if place not in self.disks:
            self.disks[place] = DiskEncryption(
                f"{self.party(account)}-{stage.region}-{stage.tee}",
                DiskEncryptionArgs(
                    location=stage.region,
                    resource_group=self.group(account, stage.region).name,
                    subscription=account.subscription,
                    tenant=account.tenant,
                    tee=stage.tee,
                    orchestrator=account.orchestrator,
                    destroyable=self.lifecycle.destroyable,
                    tags=self.tags,
                ),
                opts=self.opts(account),
            )
        return self.disks[place]
