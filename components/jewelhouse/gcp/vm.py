"""Confidential VMs that boot the stage's own image."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi import ResourceOptions

from jewelhouse.gcp import hosts
from jewelhouse.templates import render

# Where the guest writes the token that it asks Google Cloud Attestation for.
TOKEN_FILE = "/run/jewelhouse/attestation-token"


def metadata(settings: pulumi.Input[str]) -> Mapping[str, pulumi.Input[str]]:
    """Metadata with the cloud-init configuration of a host."""
    return {
        "user-data": pulumi.Output.from_input(settings).apply(
            lambda text: render("gcp/vm-user-data.yaml.j2", settings=base64.b64encode(text.encode()).decode())
        )
    }


@dataclass(frozen=True, kw_only=True)
class ConfidentialVmArgs(hosts.HostArgs):
    """`boot_image` is the stage's image, `settings` the JSON that says where keys and stores are."""

    boot_image: str
    settings: pulumi.Input[str]


class ConfidentialVm(pulumi.ComponentResource):
    """A group of VMs on TDX, SEV-SNP or SEV.

    Tokens of such a VM prove hardware, Secure Boot and the operator's identities, not the image it booted:
    what must be bound to an image runs in an EnclaveHost.
    """

    group: pulumi.Output[str]

    def __init__(self, name: str, args: ConfidentialVmArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:ConfidentialVm", name, {}, opts)
        child = ResourceOptions(parent=self)
        instances = hosts.template(name, args, args.boot_image, metadata(args.settings), child)
        self.group = hosts.group(name, args, instances, child).self_link
        self.register_outputs({"group": self.group})
