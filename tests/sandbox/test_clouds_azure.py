"""What the stand-in Azure makes and refuses."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from driving import SUBSCRIPTION, Driver, Made

from jewelhouse.sandbox.clouds.common import Refused

GROUP = "azure-native:resources:ResourceGroup"
VAULT = "azure-native:keyvault:Vault"
KEY = "azure-native:keyvault:Key"
VM = "azure-native:compute:VirtualMachine"
DISK_SET = "azure-native:compute:DiskEncryptionSet"
ACCOUNT = "azure-native:storage:StorageAccount"
CONTAINERS = "azure-native:containerinstance:ContainerGroup"
PREFIX = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/g"


def encoded(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


RELEASE = encoded(
    {
        "version": "1.0.0",
        "anyOf": [
            {"authority": "https://sharedweu.weu.attest.azure.net", "allOf": [{"claim": "a", "equals": "b"}]}
        ],
    }
)


@pytest.fixture
def group(azure: Driver) -> Made:
    return azure.create(GROUP, {"resourceGroupName": "g", "location": "westeurope"})


def vault(azure: Driver, name: str = "strongroom", **properties: Any) -> Made:
    given = {
        "sku": {"family": "A", "name": "premium"},
        "tenantId": "t",
        "enablePurgeProtection": True,
        **properties,
    }
    return azure.create(VAULT, {"resourceGroupName": "g", "vaultName": name, "properties": given}, name)


def key_inputs(**changes: Any) -> dict[str, Any]:
    properties = {
        "kty": "RSA-HSM",
        "keySize": 4096,
        "attributes": {"exportable": True},
        "releasePolicy": {"data": RELEASE},
        **changes,
    }
    kept = {name: value for name, value in properties.items() if value is not None}
    return {"resourceGroupName": "g", "vaultName": "strongroom", "keyName": "kek", "properties": kept}


def vm_inputs(size: str = "Standard_DC4as_v6", **changes: Any) -> dict[str, Any]:
    """A correct confidential VM; changes are `securityType`, `uefi`, `encryption`, `host`, `disk_set`."""
    disk: dict[str, Any] = {"securityEncryptionType": changes.get("encryption", "DiskWithVMGuestState")}
    if "disk_set" in changes:
        disk["diskEncryptionSet"] = {"id": changes["disk_set"]}
    managed = {"securityProfile": disk} if disk["securityEncryptionType"] else {}
    return {
        "resourceGroupName": "g",
        "vmName": "host",
        "hardwareProfile": {"vmSize": size},
        "storageProfile": {"osDisk": {"createOption": "FromImage", "managedDisk": managed}},
        "securityProfile": {
            "securityType": changes.get("securityType", "ConfidentialVM"),
            "uefiSettings": changes.get("uefi", {"vTpmEnabled": True, "secureBootEnabled": True}),
            "encryptionAtHost": changes.get("host", False),
        },
    }


def test_ids_have_the_real_shapes(azure: Driver, group: Made) -> None:
    assert group.id == PREFIX
    room = vault(azure)
    assert room.id == f"{PREFIX}/providers/Microsoft.KeyVault/vaults/strongroom"
    assert room["properties"]["vaultUri"] == "https://strongroom.vault.azure.net/"
    key = azure.create(KEY, key_inputs())
    assert key.id == f"{room.id}/keys/kek"
    assert key["keyUriWithVersion"].startswith("https://strongroom.vault.azure.net/keys/kek/")
    account = azure.create(
        ACCOUNT,
        {
            "resourceGroupName": "g",
            "accountName": "sealed",
            "kind": "StorageV2",
            "sku": {"name": "Standard_LRS"},
        },
    )
    assert account["primaryEndpoints"]["dfs"] == "https://sealed.dfs.core.windows.net/"
    container = azure.create(
        "azure-native:storage:BlobContainer",
        {"resourceGroupName": "g", "accountName": "sealed", "containerName": "weights"},
    )
    assert container.id == f"{account.id}/blobServices/default/containers/weights"


def test_a_released_key_is_created_once_and_never_updated(azure: Driver, group: Made) -> None:
    vault(azure)
    made = azure.create(KEY, key_inputs())
    with pytest.raises(Refused, match="can only be used for creating the first version of a new key"):
        azure.update(made, {**key_inputs(), "tags": {"a": "b"}})
    with pytest.raises(Refused, match=r"cannot create already existing resource|Conflict"):
        azure.create(KEY, key_inputs(), "second")


@pytest.mark.parametrize(
    ("sku", "changes", "words"),
    [
        pytest.param("standard", {}, "need a vault of SKU premium", id="standard-vault"),
        pytest.param(
            "standard", {"kty": "RSA"}, "need a vault of SKU premium", id="standard-vault-with-policy"
        ),
        pytest.param("premium", {"releasePolicy": None}, "must have a release policy", id="no-policy"),
        pytest.param(
            "premium", {"attributes": {"exportable": False}}, "needs an exportable key", id="not-exportable"
        ),
        pytest.param("premium", {"kty": "RSA"}, "must be HSM-protected", id="software"),
        pytest.param("premium", {"releasePolicy": {"data": "e30"}}, "root anyOf", id="empty-policy"),
        pytest.param("premium", {"releasePolicy": {"data": "?"}}, "not base64url", id="not-base64"),
        pytest.param(
            "premium",
            {"releasePolicy": {"data": encoded({"version": "1.0.0", "allOf": []})}},
            "root anyOf",
            id="root-all-of",
        ),
        pytest.param(
            "premium",
            {"releasePolicy": {"data": encoded({"version": "1.0.0", "anyOf": [{"authority": "https://a"}]})}},
            "either allOf or anyOf",
            id="no-conditions",
        ),
        pytest.param(
            "premium",
            {
                "releasePolicy": {
                    "data": encoded(
                        {"version": "1.0.0", "anyOf": [{"authority": "sharedweu.weu", "allOf": []}]}
                    )
                }
            },
            "must be an https URL",
            id="authority-without-scheme",
        ),
    ],
)
def test_keys_that_key_vault_refuses(
    azure: Driver, group: Made, sku: str, changes: dict[str, Any], words: str
) -> None:
    vault(azure, sku={"family": "A", "name": sku})
    with pytest.raises(Refused, match=words):
        azure.create(KEY, key_inputs(**changes))


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"enablePurgeProtection": False}, "cannot be set to false"),
        ({"softDeleteRetentionInDays": 5}, "must be 7 to 90"),
    ],
)
def test_vaults_that_are_refused(azure: Driver, group: Made, properties: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        vault(azure, **properties)


def test_names_of_deleted_vaults_and_keys_stay_taken(azure: Driver, group: Made) -> None:
    room = vault(azure)
    key = azure.create(KEY, key_inputs())
    azure.delete(key)
    with pytest.raises(Refused, match="deleted but recoverable"):
        azure.create(KEY, key_inputs())
    azure.delete(room)
    with pytest.raises(Refused, match="already exists in deleted state"):
        vault(azure)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        pytest.param(vm_inputs("Standard_D4as_v5"), "'Standard_D4as_v5' is not supported", id="size"),
        pytest.param(
            vm_inputs(encryption=None), r"securityEncryptionType' is missing \(null\)", id="encryption"
        ),
        pytest.param(vm_inputs(uefi={"secureBootEnabled": True}), "vTPM must be enabled", id="vtpm"),
        pytest.param(vm_inputs(uefi={"vTpmEnabled": True}), "Secure Boot must be enabled", id="secure-boot"),
        pytest.param(vm_inputs(host=True), "encryptionAtHost cannot be used", id="encryption-at-host"),
        pytest.param(
            vm_inputs(securityType="TrustedLaunch"),
            "can only be set for Confidential VMs",
            id="not-confidential",
        ),
        pytest.param(
            vm_inputs(encryption="VMGuestStateOnly", disk_set="/x"),
            "needs securityEncryptionType",
            id="disk-set",
        ),
        pytest.param(vm_inputs(disk_set=f"{PREFIX}/none"), "NotFound: Disk encryption set", id="no-disk-set"),
    ],
)
def test_confidential_vms_that_compute_refuses(
    azure: Driver, group: Made, inputs: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        azure.create(VM, inputs)


def test_confidential_vms_that_compute_takes(azure: Driver, group: Made) -> None:
    made = azure.create(VM, vm_inputs())
    assert made["vmId"]
    azure.create(VM, {**vm_inputs(encryption="VMGuestStateOnly"), "vmName": "second"}, "second")
    plain = {
        **vm_inputs("Standard_D4as_v5", encryption=None, securityType="TrustedLaunch"),
        "vmName": "third",
    }
    azure.create(VM, plain, "third")


@pytest.mark.parametrize(
    ("kind", "url", "rotation", "words"),
    [
        (
            "ConfidentialVmEncryptedWithCustomerKey",
            "https://v.vault.azure.net/keys/k",
            False,
            "must name a version",
        ),
        (
            "ConfidentialVmEncryptedWithCustomerKey",
            f"https://v.vault.azure.net/keys/k/{'0' * 32}",
            True,
            "rotation",
        ),
    ],
)
def test_disk_encryption_sets_of_confidential_vms(
    azure: Driver, group: Made, kind: str, url: str, rotation: bool, words: str
) -> None:
    inputs = {
        "resourceGroupName": "g",
        "diskEncryptionSetName": "disks",
        "encryptionType": kind,
        "activeKey": {"keyUrl": url},
        "rotationToLatestKeyVersionEnabled": rotation,
    }
    with pytest.raises(Refused, match=words):
        azure.create(DISK_SET, inputs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"confidentialComputeProperties": {}}, "admits any container"),
        ({"confidentialComputeProperties": {"ccePolicy": "package policy"}}, "not base64"),
        (
            {"ipAddress": {"type": "Public", "ports": []}, "subnetIds": [{"id": "/s"}]},
            "cannot have a public IP",
        ),
    ],
)
def test_container_groups_that_are_refused(
    azure: Driver, group: Made, changes: dict[str, Any], words: str
) -> None:
    inputs = {
        "resourceGroupName": "g",
        "containerGroupName": "trainer",
        "sku": "Confidential",
        "osType": "Linux",
        "containers": [],
        "confidentialComputeProperties": {"ccePolicy": base64.b64encode(b"package policy").decode()},
    }
    azure.create(CONTAINERS, inputs)
    with pytest.raises(Refused, match=words):
        azure.create(CONTAINERS, {**inputs, "containerGroupName": "other", **changes}, "other")


def test_a_private_endpoint_has_a_card_with_an_address(azure: Driver, group: Made) -> None:
    endpoint = {"resourceGroupName": "g", "privateEndpointName": "to-verifier", "location": "westeurope"}
    made = azure.create("azure-native:network:PrivateEndpoint", endpoint)
    card = made["networkInterfaces"][0]["id"].rsplit("/", 1)[-1]
    token = "azure-native:network:getNetworkInterface"
    answer = azure.invoke(token, resourceGroupName="g", networkInterfaceName=card)
    (found,) = answer["ipConfigurations"]
    assert found["privateIPAddress"].startswith("10.")
    with pytest.raises(
        Refused, match=r"networkInterfaces/other\.nic' under resource group 'g' was not found"
    ):
        azure.invoke(token, resourceGroupName="g", networkInterfaceName="other.nic")


def test_what_is_not_there(azure: Driver, group: Made) -> None:
    with pytest.raises(Refused, match="ResourceGroupNotFound: Resource group 'none'"):
        azure.create(
            VAULT,
            {
                "resourceGroupName": "none",
                "properties": {"sku": {"family": "A", "name": "premium"}, "tenantId": "t"},
            },
        )
    with pytest.raises(Refused, match="vaults/strongroom' was not found"):
        azure.create(KEY, key_inputs())
    with pytest.raises(
        Refused, match=r"ParentResourceNotFound: .* 'Microsoft.Storage/storageAccounts/containers'.*'none'"
    ):
        azure.create(
            "azure-native:storage:BlobContainer",
            {"resourceGroupName": "g", "accountName": "none", "containerName": "weights"},
        )


def test_storage_account_names_are_global(azure: Driver, group: Made) -> None:
    inputs = {
        "resourceGroupName": "g",
        "accountName": "sealed",
        "kind": "StorageV2",
        "sku": {"name": "Standard_LRS"},
    }
    azure.create(ACCOUNT, inputs)
    azure.create(GROUP, {"resourceGroupName": "h", "location": "westeurope"})
    with pytest.raises(Refused, match="StorageAccountAlreadyTaken"):
        azure.create(ACCOUNT, {**inputs, "resourceGroupName": "h"}, "other")
    with pytest.raises(Refused, match="AccountNameInvalid"):
        azure.create(ACCOUNT, {**inputs, "accountName": "Sealed-Store"}, "third")


def test_a_principal_has_a_role_in_a_scope_once(azure: Driver, group: Made) -> None:
    kind = "azure-native:authorization:RoleAssignment"
    given = {"scope": group.id, "roleDefinitionId": "/r", "principalId": "p", "roleAssignmentName": "1"}
    made = azure.create(kind, given)
    assert made.id == f"{group.id}/providers/Microsoft.Authorization/roleAssignments/1"
    with pytest.raises(Refused, match="RoleAssignmentExists"):
        azure.create(kind, {**given, "roleAssignmentName": "2"}, "again")
    azure.create(kind, {**given, "roleAssignmentName": "2", "principalId": "q"}, "other")


def test_a_resource_group_takes_what_is_in_it_along(azure: Driver, group: Made) -> None:
    room = vault(azure)
    azure.delete(group)
    assert not azure.read(room).resource_id


def test_a_dated_type_is_the_same_as_the_undated_one(azure: Driver, group: Made) -> None:
    made = azure.create(
        "azure-native:keyvault/v20241101:Vault",
        {
            "resourceGroupName": "g",
            "vaultName": "strongroom",
            "properties": {"sku": {"family": "A", "name": "premium"}, "tenantId": "t"},
        },
    )
    assert made["properties"]["vaultUri"]
    azure.create(KEY, key_inputs())


def test_functions_answer(azure: Driver, group: Made) -> None:
    assert azure.invoke("azure-native:authorization:getClientConfig")["subscriptionId"] == SUBSCRIPTION
    vault(azure)
    found = azure.invoke("azure-native:keyvault:getVault", resourceGroupName="g", vaultName="strongroom")
    assert found["properties"]["vaultUri"] == "https://strongroom.vault.azure.net/"
    with pytest.raises(Refused, match=r"ResourceNotFound.*vaults/keys/none"):
        azure.invoke(
            "azure-native:keyvault:getKey", resourceGroupName="g", vaultName="strongroom", keyName="none"
        )
