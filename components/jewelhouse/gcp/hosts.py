"""Confidential hosts: the instance template and the managed group behind every kind of host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import ResourceOptions
from pulumi_gcp import compute

from jewelhouse.errors import JewelhouseError
from jewelhouse.hardware import gcp as hardware
from jewelhouse.model import Tee

# Families that take no Persistent Disk: docs.cloud.google.com/compute/docs/disks/hyperdisks (2026-10).
HYPERDISK_FAMILIES = ("c4", "c4d")
# Disk types that a family refuses under confidential computing, by their beginning: Confidential VM supported
# configurations, 2026-10.
REFUSED_DISKS: Mapping[str, tuple[str, ...]] = {
    "c3d": ("hyperdisk-balanced", "hyperdisk-throughput"),
    "a3": ("hyperdisk-extreme",),
    **dict.fromkeys(HYPERDISK_FAMILIES, ("pd-",)),
}
# a3-highgpu-1g comes with 2 local SSDs of 375 GB; a template without them differs from every instance.
LOCAL_SSDS: Mapping[str, int] = {hardware.GPU_MACHINE: 2}
LOCAL_SSD_GB = 375
BOOT_DISK_GB = 30


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """What hosts of all kinds need.

    `repair` replaces a host whose workload ended (serving) instead of leaving it stopped (a run that is
    done). `provisioning` is on-demand, spot or flex-start; `run_duration` (seconds) ends flex-start
    capacity. `after` is what must be ready before a host starts: roles, keys, stores, network.
    """

    project: pulumi.Input[str]
    region: str
    zones: Sequence[str]
    machine_type: str
    tee: Tee
    subnetwork: pulumi.Input[str]
    service_account: pulumi.Input[str]
    count: int = 1
    disk_type: str | None = None
    repair: bool = True
    provisioning: str = "on-demand"
    run_duration: int | None = None
    labels: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    after: Sequence[pulumi.Resource] = ()


def template(
    name: str,
    args: HostArgs,
    boot_image: str,
    metadata: Mapping[str, pulumi.Input[str]],
    child: ResourceOptions,
) -> compute.RegionInstanceTemplate:
    """The template of confidential instances without an address outside their subnet.

    Metadata is read at boot only, so every change of it makes a new template and the group new instances.
    Raises JewelhouseError for a machine or disk that is not offered in the technology, and for a boot image
    that is a family: an alias never equals the image read back, and what it means changes without a diff.
    """
    offer = hardware.offer(args.machine_type, args.tee)
    if offer is None:
        raise JewelhouseError(
            f"{args.machine_type} is not offered with {args.tee}", where=name, source=hardware.SOURCE
        )
    if "/family/" in boot_image or "/images/" not in boot_image:
        raise JewelhouseError(
            f"{boot_image} is not one image",
            where=name,
            remedy="name it: projects/<project>/global/images/<image>",
        )
    return compute.RegionInstanceTemplate(
        f"{name}-template",
        project=args.project,
        region=args.region,
        machine_type=args.machine_type,
        min_cpu_platform=offer.min_cpu_platform,
        # The type alone: enable_confidential_compute means SEV and contradicts TDX.
        confidential_instance_config=compute.RegionInstanceTemplateConfidentialInstanceConfigArgs(
            confidential_instance_type=hardware.CONFIDENTIAL_TYPES[args.tee]
        ),
        shielded_instance_config=compute.RegionInstanceTemplateShieldedInstanceConfigArgs(
            enable_secure_boot=True, enable_vtpm=True, enable_integrity_monitoring=True
        ),
        scheduling=_scheduling(args, migrates=offer.migrates),
        reservation_affinity=compute.RegionInstanceTemplateReservationAffinityArgs(type="NO_RESERVATION"),
        disks=_disks(args, boot_image),
        network_interfaces=[
            compute.RegionInstanceTemplateNetworkInterfaceArgs(
                subnetwork=args.subnetwork, nic_type="GVNIC", stack_type="IPV4_ONLY"
            )
        ],
        service_account=compute.RegionInstanceTemplateServiceAccountArgs(
            email=args.service_account, scopes=["cloud-platform"]
        ),
        metadata={
            **metadata,
            "block-project-ssh-keys": "true",
            "enable-oslogin": "true",
            "serial-port-enable": "false",
        },
        labels=args.labels,
        opts=ResourceOptions.merge(child, ResourceOptions(replace_on_changes=["metadata"])),
    )


def _scheduling(args: HostArgs, *, migrates: bool) -> compute.RegionInstanceTemplateSchedulingArgs:
    if args.provisioning == "on-demand":
        return compute.RegionInstanceTemplateSchedulingArgs(
            provisioning_model="STANDARD",
            on_host_maintenance="MIGRATE" if migrates else "TERMINATE",
            automatic_restart=True,
        )
    # Deleted rather than stopped at their end: stopping an instance with local SSDs fails in the provider
    # (hashicorp/terraform-provider-google #26173) and leaves it running.
    spot = args.provisioning == "spot"
    return compute.RegionInstanceTemplateSchedulingArgs(
        provisioning_model="SPOT" if spot else "FLEX_START",
        preemptible=spot,
        on_host_maintenance="TERMINATE",
        automatic_restart=False,
        instance_termination_action="DELETE",
        max_run_duration=None
        if args.run_duration is None
        else compute.RegionInstanceTemplateSchedulingMaxRunDurationArgs(seconds=args.run_duration),
    )


def _disks(args: HostArgs, boot_image: str) -> list[compute.RegionInstanceTemplateDiskArgs]:
    boot = compute.RegionInstanceTemplateDiskArgs(
        boot=True,
        auto_delete=True,
        source_image=boot_image,
        disk_type=_disk_type(args),
        disk_size_gb=BOOT_DISK_GB,
        # Confidential VMs take disks over NVMe only.
        interface="NVME",
        mode="READ_WRITE",
        labels=args.labels,
    )
    local = compute.RegionInstanceTemplateDiskArgs(
        type="SCRATCH",
        disk_type="local-ssd",
        disk_size_gb=LOCAL_SSD_GB,
        interface="NVME",
        auto_delete=True,
    )
    return [boot, *[local] * LOCAL_SSDS.get(args.machine_type, 0)]


def _disk_type(args: HostArgs) -> str:
    family = args.machine_type.split("-")[0]
    chosen = args.disk_type or ("hyperdisk-balanced" if family in HYPERDISK_FAMILIES else "pd-balanced")
    if chosen.startswith(REFUSED_DISKS.get(family, ())):
        raise JewelhouseError(
            f"a confidential {args.machine_type} does not boot from {chosen}",
            where="disk_type",
            remedy="leave the disk type to the kit",
            source=hardware.SOURCE,
        )
    return chosen


def group(
    name: str, args: HostArgs, instances: compute.RegionInstanceTemplate, child: ResourceOptions
) -> compute.RegionInstanceGroupManager:
    """The group that keeps `count` instances of a template over the stage's zones."""
    zones = len(args.zones)
    return compute.RegionInstanceGroupManager(
        f"{name}-group",
        project=args.project,
        region=args.region,
        base_instance_name=name,
        distribution_policy_zones=list(args.zones),
        versions=[compute.RegionInstanceGroupManagerVersionArgs(instance_template=instances.self_link)],
        target_size=args.count,
        instance_lifecycle_policy=compute.RegionInstanceGroupManagerInstanceLifecyclePolicyArgs(
            default_action_on_failure="REPAIR" if args.repair else "DO_NOTHING",
            force_update_on_repair="YES",
        ),
        # One in each zone at a time: a regional group takes no other step above none. Spot capacity may
        # not hold a second set, so there the old ones go first.
        update_policy=compute.RegionInstanceGroupManagerUpdatePolicyArgs(
            type="PROACTIVE",
            minimal_action="REPLACE",
            instance_redistribution_type="NONE",
            replacement_method="SUBSTITUTE",
            max_surge_fixed=0 if args.provisioning == "spot" else zones,
            max_unavailable_fixed=zones if args.provisioning == "spot" else 0,
        ),
        # A first deployment has hosts before it has ciphertext; they become useful when it is sealed.
        wait_for_instances=False,
        opts=ResourceOptions.merge(child, ResourceOptions(depends_on=list(args.after))),
    )
