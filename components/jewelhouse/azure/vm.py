"""Confidential VMs with SEV-SNP or TDX, their disks under a customer key that only the platform opens."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_azure_native import compute, network

from jewelhouse.azure.key import DISK_KEY_OPERATIONS, AttestedKey, AttestedKeyArgs, Vault, VaultArgs
from jewelhouse.azure.roles import assign
from jewelhouse.model import Tee
from jewelhouse.release.azure import disk_policy

# Azure's documentation uses 3072 bits for disk keys (quick-create-confidential-vm-arm.md).
DISK_KEY_BITS = 3072
DISK_GIB = 64


@dataclass(frozen=True, kw_only=True)
class DiskEncryptionArgs:
    """`orchestrator` is the object id, in this tenant, of Azure's Confidential VM Orchestrator."""

    location: str
    resource_group: pulumi.Input[str]
    subscription: str
    tenant: str
    tee: Tee
    orchestrator: str
    destroyable: bool = False
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class DiskEncryption(pulumi.ComponentResource):
    """A vault and key of their own for OS disks, and the disk encryption set that uses them.

    The key opens to the platform token of a compliant VM only, never to a stage. It does not rotate by
    itself: Azure has no automatic rotation for confidential disks (key-rotation-offline.md).
    """

    id_: pulumi.Output[str]
    vault: pulumi.Output[str]
    ready: tuple[pulumi.Resource, ...]

    def __init__(self, name: str, args: DiskEncryptionArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:DiskEncryption", name, {}, opts)
        child = ResourceOptions(parent=self)
        vault = Vault(
            f"{name}-disks",
            VaultArgs(
                location=args.location,
                resource_group=args.resource_group,
                tenant=args.tenant,
                disk_orchestrator=True,
                destroyable=args.destroyable,
                tags=args.tags,
            ),
            opts=child,
        )
        key = AttestedKey(
            f"{name}-disk",
            AttestedKeyArgs(
                resource_group=args.resource_group,
                subscription=args.subscription,
                vault_name=vault.vault_name,
                document=disk_policy(args.location, args.tee),
                releases={"orchestrator": args.orchestrator},
                key_size=DISK_KEY_BITS,
                operations=DISK_KEY_OPERATIONS,
                tags=args.tags,
            ),
            opts=child,
        )
        encryption = compute.DiskEncryptionSet(
            f"{name}-set",
            resource_group_name=args.resource_group,
            location=args.location,
            encryption_type=compute.DiskEncryptionSetType.CONFIDENTIAL_VM_ENCRYPTED_WITH_CUSTOMER_KEY,
            active_key=compute.KeyForDiskEncryptionSetArgs(
                key_url=key.versioned_uri, source_vault=compute.SourceVaultArgs(id=vault.id_)
            ),
            identity=compute.EncryptionSetIdentityArgs(
                type=compute.DiskEncryptionSetIdentityType.SYSTEM_ASSIGNED
            ),
            rotation_to_latest_key_version_enabled=False,
            tags=args.tags,
            opts=child,
        )
        wraps = assign(
            f"{name}-disk-wraps",
            "Key Vault Crypto Service Encryption User",
            scope=key.id_,
            principal=encryption.identity.apply(lambda identity: identity.principal_id if identity else ""),
            subscription=args.subscription,
            opts=child,
        )
        self.id_ = encryption.id
        self.vault = vault.id_
        # A VM needs both roles before it exists, or it never boots.
        self.ready = (wraps, *key.assignments)
        self.register_outputs({"id": self.id_, "vault": self.vault})


@dataclass(frozen=True, kw_only=True)
class ConfidentialVmArgs:
    """`image` is `publisher:offer:sku:version` or the id of a gallery image version; `identity` the stage's.

    `user_data` is cloud-init text. `zone` is '1', '2' or '3'.
    """

    location: pulumi.Input[str]
    resource_group: pulumi.Input[str]
    subnet: pulumi.Input[str]
    size: str
    image: str
    identity: pulumi.Input[str]
    disk_encryption: pulumi.Input[str]
    user_data: pulumi.Input[str]
    zone: str | None = None
    depends_on: Sequence[pulumi.Resource] = ()
    tags: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)


class ConfidentialVm(pulumi.ComponentResource):
    """A VM whose memory and disk are closed to the host; no public address, no extensions, no login.

    Key Vault can bind a release to the class of the VM, not to its disk image: see the proofs of azure-cvm.
    """

    id_: pulumi.Output[str]
    address: pulumi.Output[str]

    def __init__(self, name: str, args: ConfidentialVmArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:azure:ConfidentialVm", name, {}, opts)
        child = ResourceOptions(parent=self)
        interface = network.NetworkInterface(
            f"{name}-interface",
            resource_group_name=args.resource_group,
            location=args.location,
            enable_accelerated_networking=False,
            ip_configurations=[
                network.NetworkInterfaceIPConfigurationArgs(
                    name="private",
                    private_ip_allocation_method="Dynamic",
                    subnet=network.SubnetArgs(id=args.subnet),
                )
            ],
            tags=args.tags,
            opts=child,
        )
        machine = compute.VirtualMachine(
            f"{name}-machine",
            resource_group_name=args.resource_group,
            location=args.location,
            zones=[args.zone] if args.zone else None,
            hardware_profile=compute.HardwareProfileArgs(vm_size=args.size),
            identity=compute.VirtualMachineIdentityArgs(
                type=compute.ResourceIdentityType.USER_ASSIGNED, user_assigned_identities=[args.identity]
            ),
            security_profile=compute.SecurityProfileArgs(
                security_type=compute.SecurityTypes.CONFIDENTIAL_VM,
                uefi_settings=compute.UefiSettingsArgs(secure_boot_enabled=True, v_tpm_enabled=True),
            ),
            storage_profile=compute.StorageProfileArgs(
                image_reference=_image(args.image),
                os_disk=compute.OSDiskArgs(
                    create_option=compute.DiskCreateOptionTypes.FROM_IMAGE,
                    delete_option=compute.DiskDeleteOptionTypes.DELETE,
                    disk_size_gb=DISK_GIB,
                    os_type=compute.OperatingSystemTypes.LINUX,
                    managed_disk=compute.ManagedDiskParametersArgs(
                        storage_account_type=compute.StorageAccountTypes.PREMIUM_LRS,
                        security_profile=compute.VMDiskSecurityProfileArgs(
                            security_encryption_type=compute.SecurityEncryptionTypes.DISK_WITH_VM_GUEST_STATE,
                            disk_encryption_set=compute.DiskEncryptionSetParametersArgs(
                                id=args.disk_encryption
                            ),
                        ),
                    ),
                ),
            ),
            os_profile=compute.OSProfileArgs(
                computer_name=name[:64],
                admin_username="nobody-logs-in",
                allow_extension_operations=False,
                custom_data=pulumi.Output.from_input(args.user_data).apply(
                    lambda text: base64.b64encode(text.encode()).decode()
                ),
                linux_configuration=compute.LinuxConfigurationArgs(
                    disable_password_authentication=True,
                    provision_vm_agent=False,
                    ssh=compute.SshConfigurationArgs(
                        public_keys=[
                            compute.SshPublicKeyArgs(
                                path="/home/nobody-logs-in/.ssh/authorized_keys", key_data=nobodys_key()
                            )
                        ]
                    ),
                ),
            ),
            network_profile=compute.NetworkProfileArgs(
                network_interfaces=[compute.NetworkInterfaceReferenceArgs(id=interface.id, primary=True)]
            ),
            diagnostics_profile=compute.DiagnosticsProfileArgs(
                boot_diagnostics=compute.BootDiagnosticsArgs(enabled=False)
            ),
            tags=args.tags,
            opts=ResourceOptions.merge(
                child,
                ResourceOptions(
                    depends_on=list(args.depends_on),
                    # None of these change in place: encryption, image and user data are fixed at creation.
                    replace_on_changes=["securityProfile", "storageProfile", "osProfile"],
                    delete_before_replace=True,
                ),
            ),
        )
        self.id_ = machine.id
        self.address = interface.ip_configurations.apply(
            lambda found: (found[0].private_ip_address or "") if found else ""
        )
        self.register_outputs({"id": self.id_, "address": self.address})


def _image(reference: str) -> compute.ImageReferenceArgs:
    if reference.startswith("/"):
        return compute.ImageReferenceArgs(id=reference)
    publisher, offer, sku, version = reference.split(":")
    return compute.ImageReferenceArgs(publisher=publisher, offer=offer, sku=sku, version=version)


def nobodys_key() -> str:
    """An SSH public key to which nobody has the private half.

    Azure wants a key or a password for every Linux VM. This Ed25519 point is the SHA-256 of a sentence, so no
    private key was ever made for it; sshd is masked besides, and the network lets nothing in.
    """
    kind = b"ssh-ed25519"
    point = hashlib.sha256(b"jewelhouse: nobody logs in to a confidential host").digest()
    blob = struct.pack(">I", len(kind)) + kind + struct.pack(">I", len(point)) + point
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} nobody"
