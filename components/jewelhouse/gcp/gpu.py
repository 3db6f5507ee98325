"""Hosts with a confidential H100: one GPU in single passthrough on TDX, bought as spot or flex-start."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi import CustomTimeouts, ResourceOptions
from pulumi_gcp import compute

from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp import enclave, hosts, vm
from jewelhouse.hardware import gcp as hardware
from jewelhouse.model import Tee

# Capacity of H100s comes in minutes or hours, not within the provider's 20 minutes.
PATIENCE = CustomTimeouts(create="2h", update="2h", delete="1h")


@dataclass(frozen=True, kw_only=True)
class ConfidentialGpuArgs(hosts.HostArgs):
    """With `container` the host is a Confidential Space, otherwise it boots `boot_image`.

    The image of a plain VM brings the driver with LKCA and UVM persistence set up: switching these on takes a
    reboot, after which the H100 no longer attests until the VM was off.
    """

    settings: pulumi.Input[str]
    container: str | None = None
    boot_image: str = enclave.BOOT_IMAGE


class ConfidentialGpu(pulumi.ComponentResource):
    """A group of a3-highgpu-1g instances in confidential mode."""

    group: pulumi.Output[str]

    def __init__(self, name: str, args: ConfidentialGpuArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:ConfidentialGpu", name, {}, opts)
        _check(name, args)
        child = ResourceOptions(parent=self)
        if args.container is not None:
            boot_image = enclave.production(args.boot_image)
            metadata = enclave.metadata(args.container, args.settings, gpu=True)
        else:
            boot_image, metadata = args.boot_image, vm.metadata(args.settings)
        instances = hosts.template(name, args, boot_image, metadata, child)
        if args.provisioning == "flex-start":
            self.group = _flex_start(name, args, instances, child)
        else:
            self.group = hosts.group(name, args, instances, child).self_link
        self.register_outputs({"group": self.group})


def _check(name: str, args: ConfidentialGpuArgs) -> None:
    """Raises JewelhouseError for what Google does not offer with a confidential GPU.

    docs.cloud.google.com/confidential-computing/confidential-vm/docs/
    create-a-confidential-vm-instance-with-gpu (2026-04)
    """
    if args.machine_type != hardware.GPU_MACHINE or args.tee is not Tee.TDX:
        raise JewelhouseError(
            f"{args.machine_type} with {args.tee} has no confidential GPU",
            where=name,
            remedy=f"choose {hardware.GPU_MACHINE} with tdx",
            source=hardware.SOURCE,
        )
    if args.provisioning not in ("spot", "flex-start"):
        raise JewelhouseError(
            f"confidential GPUs are not sold {args.provisioning}",
            where=name,
            remedy="choose spot or flex-start",
            source=hardware.SOURCE,
        )
    low, high = hardware.FLEX_SECONDS
    if args.provisioning == "flex-start" and not low <= (args.run_duration or 0) <= high:
        raise JewelhouseError(
            f"flex-start capacity for {args.run_duration} seconds",
            where=name,
            remedy=f"set a duration of {low} to {high} seconds",
            source=hardware.SOURCE,
        )
    if args.container is None and args.boot_image == enclave.BOOT_IMAGE:
        raise JewelhouseError(
            "neither a container nor an image of its own", where=name, remedy="set container or boot_image"
        )


def _flex_start(
    name: str,
    args: ConfidentialGpuArgs,
    instances: compute.RegionInstanceTemplate,
    child: ResourceOptions,
) -> pulumi.Output[str]:
    """A group that begins empty and a request that fills it when capacity comes.

    The request raises the group's size, so the size of 0 here is not enforced again. A new template replaces
    the group with its instances: they would otherwise run the old image until their time is up.
    """
    group = compute.InstanceGroupManager(
        f"{name}-group",
        project=args.project,
        zone=args.zones[0],
        base_instance_name=name,
        versions=[compute.InstanceGroupManagerVersionArgs(instance_template=instances.self_link)],
        target_size=0,
        instance_lifecycle_policy=compute.InstanceGroupManagerInstanceLifecyclePolicyArgs(
            default_action_on_failure="DO_NOTHING"
        ),
        update_policy=compute.InstanceGroupManagerUpdatePolicyArgs(
            type="OPPORTUNISTIC", minimal_action="REPLACE", max_surge_fixed=0, max_unavailable_fixed=1
        ),
        wait_for_instances=False,
        opts=ResourceOptions.merge(
            child,
            ResourceOptions(
                depends_on=list(args.after),
                ignore_changes=["targetSize"],
                replace_on_changes=["versions"],
                delete_before_replace=True,
                custom_timeouts=PATIENCE,
            ),
        ),
    )
    compute.ResizeRequest(
        f"{name}-capacity",
        project=args.project,
        zone=args.zones[0],
        instance_group_manager=group.name,
        description=f"Flex-start capacity of {name}",
        resize_by=args.count,
        requested_run_duration=compute.ResizeRequestRequestedRunDurationArgs(seconds=str(args.run_duration)),
        opts=ResourceOptions.merge(child, ResourceOptions(custom_timeouts=PATIENCE)),
    )
    return group.self_link
