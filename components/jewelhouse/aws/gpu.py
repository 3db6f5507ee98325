"""NitroTPM hosts: GPU (or any) instances that boot an attestable image and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import cloudwatch, ec2

from jewelhouse.aws.hosts import LOG_DAYS, METADATA
from jewelhouse.errors import JewelhouseError
from jewelhouse.hardware.aws import graviton, tpm_problem


@dataclass(frozen=True, kw_only=True)
class ConfidentialGpuArgs:
    """`image` is `ami-…`, built with boot mode uefi and NitroTPM, or `snap-…`, which is registered so.

    `uefi_data` are the Secure Boot keys to register with a snapshot (base64, `uefivars.py`). `user_data` is
    what the guest reads about its stage: nothing in it is trusted or secret. `spot` asks for spot capacity.
    """

    machine_type: str
    image: str
    subnet_ids: Sequence[pulumi.Input[str]]
    security_group_ids: Sequence[pulumi.Input[str]]
    profile_name: pulumi.Input[str]
    log_group: str
    user_data: pulumi.Input[str] | None = None
    uefi_data: str | None = None
    count: int = 1
    spot: bool = False
    disk_gib: int = 64
    after: Sequence[pulumi.Resource] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


class ConfidentialGpu(pulumi.ComponentResource):
    """Instances with NitroTPM whose boot measurements open attested keys (PCR4 with PCR12, or PCR7).

    A GPU cannot enter an enclave, so here the whole instance is the TEE: its image must have no interactive
    access. The kit adds none either: no key pair, no Systems Manager, no ingress.
    docs.aws.amazon.com/AWSEC2/latest/UserGuide/isolate-data-operators.html
    """

    instance_ids: list[pulumi.Output[str]]
    private_ips: list[pulumi.Output[str]]
    image_id: pulumi.Output[str]

    def __init__(self, name: str, args: ConfidentialGpuArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:ConfidentialGpu", name, {}, opts)
        problem = tpm_problem(args.machine_type)
        if problem:
            raise JewelhouseError(problem, where=name, remedy="for example g6e.4xlarge or p5.48xlarge")
        logs = cloudwatch.LogGroup(
            f"{name}-logs",
            name=args.log_group,
            retention_in_days=LOG_DAYS,
            tags=args.tags,
            opts=ResourceOptions(parent=self),
        )
        self.image_id = self._image(name, args)
        instances = [
            ec2.Instance(
                f"{name}-{index}",
                ami=self.image_id,
                instance_type=args.machine_type,
                subnet_id=args.subnet_ids[index % len(args.subnet_ids)],
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
                instance_market_options={"market_type": "spot"} if args.spot else None,
                user_data=args.user_data,
                user_data_replace_on_change=True,
                tags={**args.tags, "Name": f"{name}-{index}"},
                opts=ResourceOptions(parent=self, depends_on=[logs, *args.after]),
            )
            for index in range(args.count)
        ]
        self.instance_ids = [instance.id for instance in instances]
        self.private_ips = [instance.private_ip for instance in instances]
        self.register_outputs(
            {"instance_ids": self.instance_ids, "private_ips": self.private_ips, "image_id": self.image_id}
        )

    def _image(self, name: str, args: ConfidentialGpuArgs) -> pulumi.Output[str]:
        if args.image.startswith("ami-"):
            return pulumi.Output.from_input(args.image)
        if not args.image.startswith("snap-"):
            raise JewelhouseError(
                f"{args.image} is neither an image nor a snapshot", where=name, remedy="ami-… or snap-…"
            )
        # NitroTPM is a property of the registration: a stock image does not have it, and
        # ec2.AmiFromInstance cannot set it.
        return ec2.Ami(
            f"{name}-image",
            architecture="arm64" if graviton(args.machine_type.split(".")[0]) else "x86_64",
            boot_mode="uefi",
            tpm_support="v2.0",
            imds_support="v2.0",
            ena_support=True,
            virtualization_type="hvm",
            root_device_name="/dev/xvda",
            ebs_block_devices=[
                {"device_name": "/dev/xvda", "snapshot_id": args.image, "delete_on_termination": True}
            ],
            uefi_data=args.uefi_data,
            tags=args.tags,
            opts=ResourceOptions(parent=self),
        ).id
