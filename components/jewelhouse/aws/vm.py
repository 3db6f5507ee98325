"""Confidential VMs on AMD SEV-SNP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import ec2

from jewelhouse.aws.hosts import METADATA
from jewelhouse.errors import JewelhouseError
from jewelhouse.hardware.aws import SNP_SIZES, supports_snp

# What KMS says about evidence of SEV-SNP: it verifies documents of Nitro Enclaves and NitroTPM only.
# docs.aws.amazon.com/kms/latest/developerguide/conditions-attestation.html
KEY_RELEASE = "none: KMS verifies no SEV-SNP report; open attested keys from aws-enclave or aws-nitrotpm"


@dataclass(frozen=True, kw_only=True)
class ConfidentialVmArgs:
    """`image_id` needs the boot mode uefi or uefi-preferred; `security_group_ids` come from a
    `PrivateNetwork`."""

    machine_type: str
    image_id: pulumi.Input[str]
    subnet_id: pulumi.Input[str]
    security_group_ids: Sequence[pulumi.Input[str]]
    profile_name: pulumi.Input[str]
    user_data: pulumi.Input[str] | None = None
    after: Sequence[pulumi.Resource] = ()
    disk_gib: int = 32
    tags: Mapping[str, str] = field(default_factory=dict)


class ConfidentialVm(pulumi.ComponentResource):
    """An instance whose memory AMD SEV-SNP encrypts and whose launch it measures.

    KMS cannot gate a key on its report (`key_release` says so in the outputs): encrypted memory keeps the
    operator out of it, but an attested key has no way to tell this VM from another. SEV-SNP and Nitro
    Enclaves exclude each other. AWS adds 10 % to its price.
    """

    instance_id: pulumi.Output[str]
    private_ip: pulumi.Output[str]
    key_release: str

    def __init__(self, name: str, args: ConfidentialVmArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:ConfidentialVm", name, {}, opts)
        if not supports_snp(args.machine_type):
            raise JewelhouseError(
                f"{args.machine_type} has no SEV-SNP",
                where=name,
                remedy=f"choose one of the families {', '.join(sorted(SNP_SIZES))} in a smaller size",
                source="docs.aws.amazon.com/AWSEC2/latest/UserGuide/sev-snp.html, 2026-10",
            )
        instance = ec2.Instance(
            f"{name}-instance",
            ami=args.image_id,
            instance_type=args.machine_type,
            # Core count and threads stay unset: EC2 wants both or neither.
            cpu_options={"amd_sev_snp": "enabled"},
            subnet_id=args.subnet_id,
            associate_public_ip_address=False,
            vpc_security_group_ids=list(args.security_group_ids),
            iam_instance_profile=args.profile_name,
            metadata_options=ec2.InstanceMetadataOptionsArgs(**METADATA),
            root_block_device={
                "encrypted": True,
                "volume_type": "gp3",
                "volume_size": args.disk_gib,
                "delete_on_termination": True,
            },
            user_data=args.user_data,
            user_data_replace_on_change=True,
            tags={**args.tags, "Name": name},
            opts=ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.instance_id = instance.id
        self.private_ip = instance.private_ip
        self.key_release = KEY_RELEASE
        self.register_outputs(
            {"instance_id": self.instance_id, "private_ip": self.private_ip, "key_release": self.key_release}
        )
