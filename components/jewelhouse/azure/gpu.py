"""A confidential VM with a confidential H100 (NCC H100 v5)."""

from __future__ import annotations

import pulumi
from pulumi import ResourceOptions

from jewelhouse.azure.vm import ConfidentialVm, ConfidentialVmArgs
from jewelhouse.errors import JewelhouseError
from jewelhouse.hardware.azure import GPU_SIZE


class ConfidentialGpu(pulumi.ComponentResource):
    """A ConfidentialVm of the one size with a confidential GPU.

    Attestation on Azure does not see the GPU, so Key Vault cannot gate on it: the guest attests it before it
    asks for a key, and again after every reboot. Raises JewelhouseError for any other size.
    """

    id_: pulumi.Output[str]
    address: pulumi.Output[str]

    def __init__(self, name: str, args: ConfidentialVmArgs, opts: ResourceOptions | None = None) -> None:
        if args.size != GPU_SIZE:
            raise JewelhouseError(
                f"{args.size} has no confidential GPU", where=f"{name}.size", remedy=f"choose {GPU_SIZE}"
            )
        super().__init__("jewelhouse:azure:ConfidentialGpu", name, {}, opts)
        machine = ConfidentialVm(f"{name}-vm", args, opts=ResourceOptions(parent=self))
        self.id_ = machine.id_
        self.address = machine.address
        self.register_outputs({"id": self.id_, "address": self.address})
