"""Confidential Space: one measured container on a hardened image that nobody can log in to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi import ResourceOptions

from jewelhouse.errors import JewelhouseError
from jewelhouse.gcp import hosts
from jewelhouse.model import Tee

# A production image of Confidential Space by its resolved name (May 2026). Release conditions ask for STABLE,
# which an image loses when newer ones have replaced it, so this name moves on with the kit:
# docs.cloud.google.com/confidential-computing/confidential-space/docs/confidential-space-images
BOOT_IMAGE = "projects/confidential-space-images/global/images/confidential-space-260500"
# Where the launcher keeps the token that it renews every hour.
TOKEN_FILE = "/run/container_launcher/attestation_verifier_claims_token"
# Instance metadata that the guest reads: where keys and ciphertext are. Nothing in it is trusted; what the
# guest trusts is inside its measured image.
SETTINGS = "jewelhouse-stage"


def metadata(
    container: str, settings: pulumi.Input[str], *, gpu: bool = False
) -> Mapping[str, pulumi.Input[str]]:
    """Metadata of the launcher; every value is text. go-tpm-tools: launcher/spec/launch_spec.go

    No `tee-cmd` and no `tee-env-*`: release conditions refuse overrides. The container starts once, since a
    launcher that restarts it reboots the guest, after which an H100 no longer attests.

    Raises JewelhouseError for a container that is not pinned by its digest.
    """
    if not re.search(r"@sha256:[0-9a-f]{64}$", container):
        raise JewelhouseError(
            f"{container} is not pinned by its digest",
            where="container",
            remedy="append @sha256:... as the registry shows it",
        )
    return {
        "tee-image-reference": container,
        "tee-restart-policy": "Never",
        "tee-container-log-redirect": "false",
        **({"tee-install-gpu-driver": "true"} if gpu else {}),
        SETTINGS: settings,
    }


def production(boot_image: str) -> str:
    """`boot_image`, unless it is a debug or preview image.

    Raises JewelhouseError: debug images let root in and have no support attributes, preview images are
    EXPERIMENTAL only, so neither meets any release condition.
    """
    name = boot_image.rsplit("/", 1)[-1]
    if not re.fullmatch(r"confidential-space-\d{6}", name):
        raise JewelhouseError(
            f"{name} is not a production image of Confidential Space",
            where="boot_image",
            remedy=f"name a release such as {BOOT_IMAGE.rsplit('/', 1)[-1]}",
        )
    return boot_image


@dataclass(frozen=True, kw_only=True)
class EnclaveHostArgs(hosts.HostArgs):
    """`container` is the digest-pinned workload, `settings` the JSON that says where keys and stores are."""

    container: str
    settings: pulumi.Input[str]
    boot_image: str = BOOT_IMAGE


class EnclaveHost(pulumi.ComponentResource):
    """A group of Confidential Space instances that run one container."""

    group: pulumi.Output[str]

    def __init__(self, name: str, args: EnclaveHostArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:EnclaveHost", name, {}, opts)
        if args.tee not in (Tee.SEV, Tee.TDX):
            raise JewelhouseError(
                f"Confidential Space does not attest {args.tee}",
                where=name,
                remedy="choose tdx or sev",
                source="Confidential Space: deploy workloads, 2026-04",
            )
        child = ResourceOptions(parent=self)
        instances = hosts.template(
            name, args, production(args.boot_image), metadata(args.container, args.settings), child
        )
        self.group = hosts.group(name, args, instances, child).self_link
        self.register_outputs({"group": self.group})
