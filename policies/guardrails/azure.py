"""Azure: keys that leave a vault only under a release policy, confidential hosts, private endpoints."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pulumi_policy import Severity

from .rule import Rule, at, items, rule

RULES: list[Rule] = []
INTERNET = frozenset({"*", "Internet", "0.0.0.0/0", "::/0", "any", "Any"})
# learn.microsoft.com/azure/role-based-access-control/built-in-roles/security
RELEASE_ROLES: Mapping[str, str] = {
    "08bbd89e-9f13-488c-ac41-acfcb10c90ab": "Key Vault Crypto Service Release User",
    "12338af0-0e69-4776-bea7-57ae8d297424": "Key Vault Crypto User",
}


@rule(
    RULES,
    "azure-no-public-address",
    "azure-native:network:PublicIPAddress",
    "azure-native:network:PublicIPPrefix",
    "azure-native:network:NatGateway",
    "azure-native:network:NetworkInterface",
    "azure-native:containerinstance:ContainerGroup",
    remedy="Use private endpoints and private addresses",
    source="learn.microsoft.com/azure/private-link/private-endpoint-overview",
)
def no_public_address(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Nothing in a confidential stack has a public address."""
    if token == "azure-native:network:NetworkInterface":
        if any(at(address, "publicIPAddress") for address in items(props, "ipConfigurations")):
            yield "the network interface has a public address"
    elif token == "azure-native:containerinstance:ContainerGroup":
        if at(props, "ipAddress.type") == "Public":
            yield "the container group has a public address"
    else:
        yield f"{token.rsplit(':', 1)[-1]} joins the network to the internet"


@rule(
    RULES,
    "azure-closed-network",
    "azure-native:network:NetworkSecurityGroup",
    "azure-native:network:SecurityRule",
    remedy="Allow named subnets and service tags only, and deny the rest",
    source="learn.microsoft.com/azure/virtual-network/network-security-groups-overview",
)
def closed_network(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No security rule lets the internet in or hosts out to it."""
    rules = items(props, "securityRules") if token.endswith("Group") else (props,)
    for entry in rules:
        if at(entry, "access") != "Allow":
            continue
        inbound = at(entry, "direction") == "Inbound"
        side = "source" if inbound else "destination"
        prefixes = {*items(entry, f"{side}AddressPrefix"), *items(entry, f"{side}AddressPrefixes")}
        for prefix in sorted(prefixes & INTERNET):
            yield f"rule {at(entry, 'name') or ''} allows {'in from' if inbound else 'out to'} {prefix}"


@rule(
    RULES,
    "azure-vault-hardened",
    "azure-native:keyvault:Vault",
    remedy="Premium, RBAC, purge protection, public access off, network default Deny",
    source="learn.microsoft.com/azure/confidential-computing/quick-create-confidential-vm-arm",
)
def vault_hardened(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """A vault keeps deleted keys, judges callers by role, and listens on private endpoints only."""
    if at(props, "properties.sku.name") != "premium":
        yield "only premium vaults hold keys that a release policy can guard in an HSM"
    if at(props, "properties.enablePurgeProtection") is not True:
        yield "somebody can purge deleted keys, and with them the weights"
    if at(props, "properties.enableRbacAuthorization") is not True:
        yield "access policies cannot be limited to one key"
    if at(props, "properties.publicNetworkAccess") not in ("Disabled", "disabled"):
        yield "the vault answers on the internet"
    if at(props, "properties.networkAcls.defaultAction") not in (None, "Deny"):
        yield "the vault's network rules let others in"
    days = at(props, "properties.softDeleteRetentionInDays")
    if days is not None and int(days) < 90:
        yield f"deleted keys are gone after {int(days)} days"


@rule(
    RULES,
    "azure-key-release-policy",
    "azure-native:keyvault:Key",
    remedy="Give every exportable key an RSA-HSM type and a release policy that pins attestation",
    source="MicrosoftDocs/azure-security-docs: articles/key-vault/includes/key-management-policy-grammar.md",
    severity=Severity.CRITICAL,
)
def key_release_policy(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """A key that may leave its vault leaves it only to attested code."""
    exportable = at(props, "properties.attributes.exportable") is True
    data = at(props, "properties.releasePolicy.data")
    if not exportable and data is None and "release" not in items(props, "properties.keyOps"):
        return
    if str(at(props, "properties.kty")) not in ("RSA-HSM", "EC-HSM"):
        yield f"a key of type {at(props, 'properties.kty')} is not kept in an HSM"
    if data is None:
        yield "the key may be exported, and no release policy says to whom"
        return
    policy = _decoded(data)
    if policy is None:
        yield "the release policy is not base64url-encoded JSON"
        return
    authorities = policy.get("anyOf")
    if not isinstance(authorities, list) or not authorities:
        yield "the root of a release policy must be a non-empty anyOf"
        return
    for entry in authorities:
        yield from _weak_authority(entry)


def _decoded(data: Any) -> dict[str, Any] | None:
    try:
        text = str(data)
        raw = base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4))
        policy = json.loads(raw)
    except (binascii.Error, ValueError):
        return None
    return policy if isinstance(policy, dict) else None


def _weak_authority(entry: Any) -> Iterator[str]:
    authority = str(at(entry, "authority") or "")
    if not authority.startswith("https://"):
        yield f"authority {authority!r} is not an https address"
    pinned = dict(_required(entry))
    kinds = {claim.rsplit(".", 1)[-1]: claim for claim in pinned}
    for claim in ("x-ms-attestation-type", "x-ms-compliance-status"):
        if claim not in kinds:
            yield f"{authority} needs {claim}: without it any evidence of that authority opens the key"
    for claim, value in pinned.items():
        if claim.endswith("is-debuggable") and str(value).lower() != "false":
            yield f"{authority} accepts debuggable guests"


def _required(entry: Any) -> Iterator[tuple[str, Any]]:
    """Claims that every way through an authority pins, with their values."""
    if not isinstance(entry, Mapping):
        return
    if "claim" in entry:
        if "equals" in entry:
            yield str(entry["claim"]), entry["equals"]
        return
    for part in entry.get("allOf") or []:
        yield from _required(part)
    alternatives = [dict(_required(part)) for part in entry.get("anyOf") or []]
    for claim in set.intersection(*map(set, alternatives)) if alternatives else ():
        yield claim, alternatives[0][claim]


@rule(
    RULES,
    "azure-release-role-on-key",
    "azure-native:authorization:RoleAssignment",
    remedy="Assign it on the key: .../vaults/<vault>/keys/<key>",
    source="learn.microsoft.com/azure/key-vault/general/rbac-guide",
)
def release_role_on_key(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Roles that release or use keys reach one key, not a vault or a subscription."""
    role = str(props.get("roleDefinitionId") or "").rsplit("/", 1)[-1].lower()
    if role in RELEASE_ROLES and "/keys/" not in str(props.get("scope")):
        yield f"{RELEASE_ROLES[role]} reaches more than one key"


@rule(
    RULES,
    "azure-vm-confidential",
    "azure-native:compute:VirtualMachine",
    remedy="ConfidentialVM with vTPM, Secure Boot and a disk encrypted under your own key",
    source="learn.microsoft.com/azure/confidential-computing/confidential-vm-overview",
    severity=Severity.CRITICAL,
)
def vm_confidential(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Every virtual machine is a confidential one, disk included."""
    if at(props, "securityProfile.securityType") != "ConfidentialVM":
        yield "the virtual machine is not confidential"
        return
    if at(props, "securityProfile.uefiSettings.vTpmEnabled") is not True:
        yield "the virtual machine has no vTPM to attest with"
    if at(props, "securityProfile.uefiSettings.secureBootEnabled") is not True:
        yield "Secure Boot is off, and shared attestation providers refuse such guests"
    disk = at(props, "storageProfile.osDisk.managedDisk.securityProfile")
    encryption = at(disk, "securityEncryptionType")
    if encryption not in ("DiskWithVMGuestState", "NonPersistedTPM"):
        yield "the OS disk is not confidential: its host can read and change it"
    if encryption == "DiskWithVMGuestState" and at(disk, "diskEncryptionSet.id") is None:
        yield "the OS disk is encrypted under a key of the platform's"


@rule(
    RULES,
    "azure-vm-no-login",
    "azure-native:compute:VirtualMachine",
    "azure-native:compute:VirtualMachineExtension",
    "azure-native:compute:VirtualMachineRunCommandByVirtualMachine",
    remedy="Put what the guest needs into its image, and replace it instead of logging in",
    source="learn.microsoft.com/azure/virtual-machines/linux/create-ssh-secured-vm-from-template",
)
def vm_no_login(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No password, and no agent that runs commands inside a confidential guest."""
    if token != "azure-native:compute:VirtualMachine":
        yield f"{token.rsplit(':', 1)[-1]} runs commands inside the guest"
        return
    linux = at(props, "osProfile.linuxConfiguration")
    if linux is not None and at(linux, "disablePasswordAuthentication") is not True:
        yield "the virtual machine takes a password"
    if at(props, "osProfile.allowExtensionOperations") is True:
        yield "extensions may run commands inside the guest"


@rule(
    RULES,
    "azure-disk-encryption-set",
    "azure-native:compute:DiskEncryptionSet",
    remedy="Use ConfidentialVmEncryptedWithCustomerKey, and rotate by a new set with the machines stopped",
    source="learn.microsoft.com/azure/confidential-computing/key-rotation-offline",
)
def disk_encryption_set(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Disk encryption sets are made for confidential machines, whose keys do not rotate by themselves."""
    if props.get("encryptionType") != "ConfidentialVmEncryptedWithCustomerKey":
        yield f"{props.get('encryptionType')} cannot encrypt the disk of a confidential machine"
    if props.get("rotationToLatestKeyVersionEnabled") is True:
        yield "automatic rotation breaks confidential machines"


@rule(
    RULES,
    "azure-container-confidential",
    "azure-native:containerinstance:ContainerGroup",
    remedy="Use the Confidential SKU with the container policy that the image's build generated",
    source="learn.microsoft.com/azure/container-instances/container-instances-confidential-overview",
    severity=Severity.CRITICAL,
)
def container_confidential(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Container groups are confidential and run nothing but what their policy measures."""
    if props.get("sku") != "Confidential":
        yield "the container group is not confidential"
        return
    encoded = at(props, "confidentialComputeProperties.ccePolicy")
    if not encoded:
        yield "without a container policy any container may run in the group"
        return
    try:
        policy = base64.b64decode(str(encoded), validate=True).decode()
    except (binascii.Error, ValueError):
        yield "the container policy is not base64 text"
        return
    squeezed = "".join(policy.split())
    # The open policy that `az confcom acipolicygen` prints for debugging answers every request alike.
    if 'create_container:={"allowed":true}' in squeezed or 'exec_in_container:={"allowed":true}' in squeezed:
        yield "the container policy allows everything"
    for name in ("allow_dump_stacks", "allow_runtime_logging", "allow_unencrypted_scratch"):
        if f"{name}:=true" in squeezed:
            yield f"the container policy sets {name}"


@rule(
    RULES,
    "azure-storage-closed",
    "azure-native:storage:StorageAccount",
    "azure-native:storage:BlobContainer",
    remedy="Roles instead of keys, no public access, TLS 1.2 or later, private endpoints",
    source="learn.microsoft.com/azure/storage/blobs/security-recommendations",
)
def storage_closed(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Storage accounts know roles only, and nobody reaches them from the internet."""
    if token == "azure-native:storage:BlobContainer":
        if props.get("publicAccess") not in (None, "None"):
            yield f"the container is public ({props['publicAccess']})"
        return
    if props.get("allowSharedKeyAccess") is not False:
        yield "whoever has the account key has everything in it"
    if props.get("allowBlobPublicAccess") is not False:
        yield "containers may be made public"
    if props.get("publicNetworkAccess") != "Disabled":
        yield "the account answers on the internet"
    modern = props.get("minimumTlsVersion") in ("TLS1_2", "TLS1_3")
    if props.get("enableHttpsTrafficOnly") is False or not modern:
        yield "the account takes unencrypted or outdated connections"
