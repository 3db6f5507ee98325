"""Enclave hosts: a group of EC2 parents that each run one Nitro enclave."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import autoscaling, cloudwatch, ec2

from jewelhouse.aws import userdata
from jewelhouse.aws.hosts import LOG_DAYS, METADATA, amazon_linux
from jewelhouse.errors import JewelhouseError
from jewelhouse.hardware.aws import enclave_problem


@dataclass(frozen=True, kw_only=True)
class EnclaveHostArgs:
    """`cpus` and `memory` (MiB) go to the enclave. `image_digest` is the `sha256:…` of the EIF file, which
    lies in `image_bucket` under `userdata.image_key`; `stage` is what the guest reads about its stage: not
    trusted, not secret. `spot` asks for spot capacity. `after` is what must be ready before a host starts."""

    region: str
    machine_type: str
    cpus: int
    memory: int
    image_digest: str
    image_bucket: pulumi.Input[str]
    stage: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    security_group_ids: Sequence[pulumi.Input[str]]
    profile_arn: pulumi.Input[str]
    log_group: str
    count: int = 1
    spot: bool = False
    disk_gib: int = 32
    after: Sequence[pulumi.Resource] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


class EnclaveHost(pulumi.ComponentResource):
    """A scaling group over the zones: its hosts reserve memory in 1 GiB pages, fetch the enclave image by its
    digest, run it without debug, and switch themselves off when it does not run, so that they are replaced.
    The parent is not trusted with anything: it relays TLS that ends inside the enclave.

    An enclave that ends counts as broken, so its workload stays up when it is done.
    """

    group_name: pulumi.Output[str]
    group_arn: pulumi.Output[str]
    launch_template_id: pulumi.Output[str]

    def __init__(self, name: str, args: EnclaveHostArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:EnclaveHost", name, {}, opts)
        problem = enclave_problem(args.machine_type)
        if problem:
            raise JewelhouseError(problem, where=name, remedy="for example m7i.xlarge")
        userdata.image_key(args.image_digest)
        logs = cloudwatch.LogGroup(
            f"{name}-logs",
            name=args.log_group,
            retention_in_days=LOG_DAYS,
            tags=args.tags,
            opts=ResourceOptions(parent=self),
        )
        script = pulumi.Output.all(args.image_bucket, args.stage).apply(
            lambda values: userdata.enclave_parent(
                region=args.region,
                bucket=values[0],
                image_digest=args.image_digest,
                cpus=args.cpus,
                memory=args.memory,
                log_group=args.log_group,
                stage=values[1],
            )
        )
        template = ec2.LaunchTemplate(
            f"{name}-template",
            image_id=amazon_linux(args.machine_type),
            instance_type=args.machine_type,
            # Only a launch can set this; hibernation would exclude it.
            enclave_options={"enabled": True},
            metadata_options=ec2.LaunchTemplateMetadataOptionsArgs(**METADATA),
            monitoring={"enabled": True},
            iam_instance_profile={"arn": args.profile_arn},
            # No key pair, and no addresses of its own: both come with interfaces that are named here.
            network_interfaces=[
                {
                    "device_index": 0,
                    "associate_public_ip_address": "false",
                    "delete_on_termination": "true",
                    "security_groups": list(args.security_group_ids),
                }
            ],
            block_device_mappings=[
                {
                    "device_name": "/dev/xvda",
                    "ebs": {
                        "encrypted": "true",
                        "volume_type": "gp3",
                        "volume_size": args.disk_gib,
                        "delete_on_termination": "true",
                    },
                }
            ],
            instance_market_options={"market_type": "spot"} if args.spot else None,
            # A host that switches itself off is gone, and the group starts another.
            instance_initiated_shutdown_behavior="terminate",
            user_data=script.apply(lambda text: base64.b64encode(text.encode()).decode()),
            update_default_version=True,
            tag_specifications=[
                {"resource_type": kind, "tags": {**args.tags, "Name": name}}
                for kind in ("instance", "volume")
            ],
            tags=args.tags,
            opts=ResourceOptions(parent=self),
        )
        group = autoscaling.Group(
            f"{name}-group",
            min_size=args.count,
            max_size=args.count,
            desired_capacity=args.count,
            vpc_zone_identifiers=list(args.subnet_ids),
            launch_template={"id": template.id, "version": template.latest_version.apply(str)},
            health_check_type="EC2",
            health_check_grace_period=300,
            # A changed template rolls through the group; while it does, keys hold both images' tuples.
            instance_refresh={"strategy": "Rolling", "preferences": {"min_healthy_percentage": 50}},
            # Hosts wait for their image, which may be uploaded later: an update does not wait for them.
            wait_for_capacity_timeout="0",
            tags=[
                {"key": key, "value": value, "propagate_at_launch": False}
                for key, value in sorted(args.tags.items())
            ],
            opts=ResourceOptions(parent=self, depends_on=[logs, *args.after]),
        )
        self.group_name = group.name
        self.group_arn = group.arn
        self.launch_template_id = template.id
        self.register_outputs({"group_name": self.group_name, "group_arn": self.group_arn})
