"""What the stand-in Azure Resource Manager and its providers refuse, in their words where those are known."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping

from jewelhouse.hardware import azure as hardware
from jewelhouse.sandbox.clouds.common import Request, Rule
from jewelhouse.sandbox.world import World

HSM_TYPES = ("RSA-HSM", "EC-HSM", "oct-HSM")
ASSIGNMENT = "azure-native:authorization:RoleAssignment"
SET = "azure-native:compute:DiskEncryptionSet"
VERSIONED_KEY = re.compile(r"https://[^/]+/keys/[^/]+/[0-9a-f]{32}/?")


def vault(what: Request, world: World) -> Iterator[str]:
    if what.get("properties.enablePurgeProtection") is False:
        yield (
            'BadRequest: The property "enablePurgeProtection" cannot be set to false. '
            "Enabling the purge protection for a vault is an irreversible action."
        )
    days = what.get("properties.softDeleteRetentionInDays")
    if isinstance(days, int) and not 7 <= days <= 90:
        yield f"BadRequest: softDeleteRetentionInDays must be 7 to 90, found {days}"
    before = what.previous.inputs.get("properties", {}) if what.previous else {}
    if before.get("softDeleteRetentionInDays", days) != days:
        yield (
            'BadRequest: The property "softDeleteRetentionInDays" has been set already '
            "and it can't be modified."
        )


def key(what: Request, world: World) -> Iterator[str]:
    """Key Vault's rules for released keys: learn.microsoft.com/azure/key-vault/keys/policy-grammar."""
    kty = what.get("properties.kty")
    exportable = what.get("properties.attributes.exportable") is True
    policy = what.get("properties.releasePolicy")
    name = what.inputs.get("vaultName")
    found = world.find("azure-native", what.id.split("/keys/")[0], "azure-native:keyvault:Vault")
    if found is None:
        yield f"ResourceNotFound: The Resource 'Microsoft.KeyVault/vaults/{name}' was not found."
    premium = found is not None and str(found.inputs["properties"]["sku"]["name"]).lower() == "premium"
    if found is not None and not premium and (kty in HSM_TYPES or policy):
        yield "BadParameter: HSM-protected keys and release policies need a vault of SKU premium"
    if exportable and not policy:
        yield "BadParameter: AKV.SKR.1010: an exportable key must have a release policy"
    if policy and not exportable:
        yield "BadParameter: a release policy needs an exportable key"
    if exportable and kty not in HSM_TYPES:
        yield "BadParameter: an exportable key must be HSM-protected"
    if policy and isinstance(policy.get("data"), str):
        yield from release_policy(policy["data"])


def release_policy(data: str) -> Iterator[str]:
    try:
        document = json.loads(base64.urlsafe_b64decode(data + "=" * (-len(data) % 4)))
    except (ValueError, UnicodeDecodeError):
        document = None
    if not isinstance(document, dict):
        yield "BadParameter: the release policy is not base64url of a JSON object"
        return
    if document.get("version") != "1.0.0" or not isinstance(document.get("anyOf"), list):
        yield "BadParameter: the release policy needs version 1.0.0 and a root anyOf"
        return
    for index, authority in enumerate(document["anyOf"]):
        if "authority" not in authority or ("allOf" in authority) == ("anyOf" in authority):
            yield f"BadParameter: anyOf[{index}] needs an authority and either allOf or anyOf"
        elif not str(authority["authority"]).startswith("https://"):
            yield f"BadParameter: anyOf[{index}].authority must be an https URL"


def confidential_vm(what: Request, world: World) -> Iterator[str]:
    """The combinations of learn.microsoft.com/azure/confidential-computing that Compute refuses."""
    kind = what.get("securityProfile.securityType")
    profile = "storageProfile.osDisk.managedDisk.securityProfile"
    encryption = what.get(f"{profile}.securityEncryptionType")
    size = what.get("hardwareProfile.vmSize")
    disk_set = what.get(f"{profile}.diskEncryptionSet.id")
    if kind != "ConfidentialVM":
        if encryption:
            yield "BadRequest: 'managedDisk.securityProfile' can only be set for Confidential VMs"
        return
    if isinstance(size, str) and hardware.tee_of(size) is None:
        yield (
            f"BadRequest: The VM size '{size}' is not supported for creation of VMs and Virtual Machine "
            "Scale Set with 'ConfidentialVM' security type."
        )
    if not encryption:
        yield (
            "BadRequest: Required parameter for Confidential VMs 'managedDisk.securityProfile."
            "securityEncryptionType' is missing (null)"
        )
    if what.get("securityProfile.uefiSettings.vTpmEnabled") is not True:
        yield "BadRequest: vTPM must be enabled for Confidential VMs"
    if encryption == "DiskWithVMGuestState":
        if what.get("securityProfile.uefiSettings.secureBootEnabled") is not True:
            yield "BadRequest: Secure Boot must be enabled with DiskWithVMGuestState"
        if what.get("securityProfile.encryptionAtHost") is True:
            yield "BadRequest: encryptionAtHost cannot be used with DiskWithVMGuestState"
    elif disk_set:
        yield "BadRequest: a disk encryption set needs securityEncryptionType DiskWithVMGuestState"
    if isinstance(disk_set, str):
        found = world.find("azure-native", disk_set, SET)
        if found is None:
            yield f"NotFound: Disk encryption set {disk_set} was not found."
        elif found.inputs.get("encryptionType") != "ConfidentialVmEncryptedWithCustomerKey":
            yield "BadRequest: the disk encryption set is not of type ConfidentialVmEncryptedWithCustomerKey"


def encryption_set(what: Request, world: World) -> Iterator[str]:
    """MicrosoftDocs/azure-docs: articles/confidential-computing/key-rotation-offline.md."""
    if what.inputs.get("encryptionType") != "ConfidentialVmEncryptedWithCustomerKey":
        return
    if what.inputs.get("rotationToLatestKeyVersionEnabled") is True:
        yield "BadRequest: automatic key rotation is not supported for confidential VMs"
    url = what.get("activeKey.keyUrl")
    if isinstance(url, str) and not VERSIONED_KEY.fullmatch(url):
        yield f"BadRequest: activeKey.keyUrl must name a version of the key, found {url}"


def container_group(what: Request, world: World) -> Iterator[str]:
    if what.inputs.get("sku") == "Confidential":
        policy = what.get("confidentialComputeProperties.ccePolicy")
        if not policy:
            # Container Instances would make an allow-all policy up.
            yield "BadRequest: a confidential container group without ccePolicy admits any container"
        elif isinstance(policy, str) and not _base64(policy):
            yield "InvalidConfidentialComputeProperties: ccePolicy is not base64"
    if what.get("ipAddress.type") == "Public" and what.inputs.get("subnetIds"):
        yield "BadRequest: PrivateNetworkNotSupported: a group in a subnet cannot have a public IP address"


def _base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return True


def storage_name(what: Request, world: World) -> Iterator[str]:
    name = what.inputs.get("accountName")
    if isinstance(name, str) and not re.fullmatch(r"[a-z0-9]{3,24}", name):
        yield (
            f"AccountNameInvalid: {name} is not a valid storage account name. Storage account name must be "
            "between 3 and 24 characters in length and use numbers and lower-case letters only."
        )


def vault_name(what: Request, world: World) -> Iterator[str]:
    name = what.inputs.get("vaultName")
    if isinstance(name, str) and not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]", name):
        yield f"VaultNameNotValid: The vault name '{name}' is invalid: 3 to 24 letters, digits and hyphens"


def role_assignment(what: Request, world: World) -> Iterator[str]:
    """One principal has a role in a scope once, whatever the assignment is called."""
    parts = ("scope", "roleDefinitionId", "principalId")
    for thing in world.all("azure-native", ASSIGNMENT):
        if thing.id != what.id and all(thing.inputs.get(part) == what.inputs.get(part) for part in parts):
            yield "RoleAssignmentExists: The role assignment already exists."


def resource_group(what: Request, world: World) -> Iterator[str]:
    name = what.inputs.get("resourceGroupName")
    group = f"/subscriptions/{what.scope['subscription']}/resourceGroups/{name}"
    if isinstance(name, str) and world.find("azure-native", group) is None:
        yield f"ResourceGroupNotFound: Resource group '{name}' could not be found."


def parent(what: Request, world: World) -> Iterator[str]:
    """A child (`vaults/v/keys/k`) needs its parent; blob services are always there."""
    # A role assignment hangs on a scope that may belong to somebody else.
    path = re.sub(r"/(blobServices)/default(?=/)", "", what.id.split("/providers/")[-1])
    if what.id.count("/providers/") != 1 or path.count("/") < 4:
        return
    above = what.id.split("/providers/")[0] + "/providers/" + path.rsplit("/", 2)[0]
    if world.find("azure-native", above) is None:
        kind = "/".join([path.split("/")[0], *path.split("/")[1::2]])
        name = above.rsplit("/", 1)[-1]
        yield (
            f"ParentResourceNotFound: Failed to perform 'write' on resource(s) of type '{kind}', because the "
            f"parent resource '{name}' could not be found."
        )


def subnet_in_use(what: Request, world: World) -> Iterator[str]:
    users = sorted(
        thing.id.rsplit("/", 1)[-1] for thing in world.users("azure-native", what.id) if thing.id != what.id
    )
    if users:
        name = what.id.rsplit("/", 1)[-1]
        yield f"InUseSubnetCannotBeDeleted: Subnet {name} is in use by {users[0]} and cannot be deleted."


RULES: Mapping[str, tuple[Rule, ...]] = {
    "azure-native:keyvault:Vault": (vault_name, vault),
    "azure-native:keyvault:Key": (key,),
    "azure-native:storage:StorageAccount": (storage_name,),
    "azure-native:compute:VirtualMachine": (confidential_vm,),
    SET: (encryption_set,),
    ASSIGNMENT: (role_assignment,),
    "azure-native:containerinstance:ContainerGroup": (container_group,),
}
# Every resource in a group.
COMMON: tuple[Rule, ...] = (resource_group, parent)
DELETE_RULES: Mapping[str, tuple[Rule, ...]] = {"azure-native:network:Subnet": (subnet_in_use,)}
CREATE_ONLY: Mapping[str, str] = {
    "azure-native:keyvault:Key": (
        "BadRequest: This API can only be used for creating the first version of a new key."
    )
}
