"""The policy of a confidential container group: which containers start in it, from which layers, and how.

Azure measures its SHA-256 into the evidence as `hostdata`. Form and defaults are those of `az confcom
acipolicygen` (github.com/Azure/azure-cli-extensions: src/confcom/azext_confcom/data/internal_config.json and
customer_rego_policy.txt, 2026-11) with everything off that would let an operator look in; what each name does
is decided by github.com/Microsoft/hcsshim v0.12.9: pkg/securitypolicy/framework.rego.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import dmverity, oci
from jewelhouse.images.rego import Module, Reference, read
from jewelhouse.templates import render

API, FRAMEWORK = "0.10.0", "0.2.3"

# What the utility machine asks the policy about (hcsshim v0.12.9: pkg/securitypolicy/api.rego).
POINTS = (
    "mount_device",
    "unmount_device",
    "mount_overlay",
    "unmount_overlay",
    "create_container",
    "exec_in_container",
    "exec_external",
    "shutdown_container",
    "signal_container_process",
    "plan9_mount",
    "plan9_unmount",
    "get_properties",
    "dump_stacks",
    "runtime_logging",
    "load_fragment",
    "scratch_mount",
    "scratch_unmount",
)

# `get_properties` tells the service sizes and process ids, without which it takes the group for dead.
# Dropping capabilities lets a container have fewer than the service asks for; exactly those of the policy
# remain. Dropping environment would start a container with less than what was set for it.
SWITCHES: Mapping[str, bool] = {
    "allow_properties_access": True,
    "allow_dump_stacks": False,
    "allow_runtime_logging": False,
    "allow_environment_variable_dropping": False,
    "allow_unencrypted_scratch": False,
    "allow_capability_dropping": True,
}

# Microsoft's own containers of a group, such as the one that hands out tokens of the managed identity.
FRAGMENTS: tuple[Mapping[str, Any], ...] = (
    {
        "feed": "mcr.microsoft.com/aci/aci-cc-infra-fragment",
        "includes": ["containers", "fragments"],
        "issuer": "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s"
        "::eku:1.3.6.1.4.1.311.76.59.1.3",
        "minimum_svn": "1",
    },
)

# What the service adds to every container's environment. The enforcer looks for a pattern anywhere in
# `NAME=value`: without its anchors, `HOSTNAME=.+` would let `LD_PRELOAD=/x:HOSTNAME=y` through.
SERVICE_ENVIRONMENT = (
    "^(?i:FABRIC)_[^=]+=.+$",
    "^HOSTNAME=.+$",
    "^TE?MP=.+$",
    "^FabricPackageFileName=.+$",
    "^HostedServiceName=.+$",
    "^IDENTITY_API_VERSION=.+$",
    "^IDENTITY_HEADER=.+$",
    "^IDENTITY_SERVER_THUMBPRINT=.+$",
    "^azurecontainerinstance_restarted_by=.+$",
)
TERMINAL = "TERM=xterm"
SETTINGS = ("JEWELHOUSE_STAGE",)
"""Environment that a deployment sets: its name is measured, its value is not trusted by the guest."""

NAME_RESOLUTION: Mapping[str, Any] = {
    "destination": "/etc/resolv.conf",
    "options": ["rbind", "rshared", "rw"],
    "source": "sandbox:///tmp/atlas/resolvconf/.+",
    "type": "bind",
}
# A server listens on port 443; nothing else that a stage does needs a privilege.
CAPABILITIES = ("CAP_NET_BIND_SERVICE",)
PAUSE_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
# The container that holds the group's namespaces; one static program, pinned by its layer.
PAUSE_LAYER = "16b514057a06ad665f92c02863aca074fd5976c755d26bff16365299169e8415"
ANYBODY: Mapping[str, Any] = {
    "group_idnames": [{"pattern": "", "strategy": "any"}],
    "umask": "0022",
    "user_idname": {"pattern": "", "strategy": "any"},
}

_NUMERIC = re.compile(r"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def of_layout(
    layout: Path,
    *,
    reference: str,
    cache: Path,
    settings: Sequence[str] = SETTINGS,
    report: Callable[[str], None] = lambda text: None,
) -> bytes:
    """The policy that lets exactly the image of an OCI layout start, under its pinned `reference`.

    Layers are hashed by dmverity.root_hashes, which raises where its tool is missing; `cache` keeps the
    hashes. Raises MalformedLayout for a bad layout, JewelhouseError for an image that no policy can pin.
    """
    found = oci.read(layout)
    if not reference.endswith(f"@{found.manifest}"):
        raise JewelhouseError(
            f"{reference} does not name the image {found.manifest}",
            where=str(layout),
            remedy="write registry/name@sha256:<digest>",
        )
    blobs = layout / "blobs" / "sha256"
    config = json.loads((blobs / found.config.removeprefix("sha256:")).read_bytes())
    hashes = dmverity.root_hashes(blobs, [digest for digest, _ in found.layers], cache / "dmverity", report)
    return written([_stage(config, reference, hashes, settings, where=str(layout)), _pause()])


def written(containers: Sequence[Mapping[str, Any]]) -> bytes:
    """A policy of these containers, the same bytes for the same containers."""
    text = render(
        "images/container-policy.rego.j2",
        api=API,
        framework=FRAMEWORK,
        fragments=[_json(fragment) for fragment in FRAGMENTS],
        containers=[_json(container) for container in containers],
        switches=SWITCHES.items(),
        points=POINTS,
    )
    return text.encode()


def encoded(policy: bytes) -> str:
    """As a container group takes it."""
    return base64.b64encode(policy).decode()


def hostdata(policy: bytes) -> str:
    """SHA-256 of the policy's text, as evidence reports it."""
    return hashlib.sha256(policy).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _stage(
    config: Mapping[str, Any], reference: str, layers: Sequence[str], settings: Sequence[str], *, where: str
) -> dict[str, Any]:
    image = config["config"]
    user = _NUMERIC.fullmatch(str(image.get("User", "")))
    if user is None:
        raise JewelhouseError(
            f"runs as {image.get('User')!r}; a policy pins a user and a group by number",
            where=where,
            remedy="build the image with a user such as 0:0",
        )
    if wrong := [name for name in settings if not _SETTING.fullmatch(name)]:
        raise JewelhouseError(f"{wrong[0]!r} is no name of environment", where=where)
    own = [{"pattern": value, "required": True, "strategy": "string"} for value in image.get("Env") or ()]
    given = [{"pattern": f"^{name}=.+$", "required": True, "strategy": "re2"} for name in settings]
    service = [{"pattern": pattern, "required": False, "strategy": "re2"} for pattern in SERVICE_ENVIRONMENT]
    return _container(
        id=reference,
        name="stage",
        command=[*image["Entrypoint"], *(image.get("Cmd") or ())],
        env_rules=[
            *own,
            {"pattern": TERMINAL, "required": False, "strategy": "string"},
            *given,
            *service,
        ],
        layers=list(layers),
        mounts=[NAME_RESOLUTION],
        no_new_privileges=True,
        capabilities=_capabilities(CAPABILITIES),
        working_dir=image.get("WorkingDir") or "/",
        user={
            "group_idnames": [{"pattern": user[2], "strategy": "id"}],
            "umask": "0022",
            "user_idname": {"pattern": user[1], "strategy": "id"},
        },
    )


def _pause() -> dict[str, Any]:
    return _container(
        name="pause-container",
        command=["/pause"],
        env_rules=[
            {
                "pattern": "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "required": True,
                "strategy": "string",
            },
            {"pattern": TERMINAL, "required": False, "strategy": "string"},
        ],
        layers=[PAUSE_LAYER],
        mounts=[],
        no_new_privileges=False,
        capabilities=_capabilities(PAUSE_CAPABILITIES),
        working_dir="/",
        user=ANYBODY,
    )


def _container(**values: Any) -> dict[str, Any]:
    """A container into which nobody looks: no terminal, no second process, no signals, no elevation."""
    return {
        "allow_elevated": False,
        "allow_stdio_access": False,
        "exec_processes": [],
        "seccomp_profile_sha256": "",
        "signals": [],
        **values,
    }


def _capabilities(names: Sequence[str]) -> dict[str, list[str]]:
    has = list(names)
    return {"ambient": [], "bounding": has, "effective": has, "inheritable": [], "permitted": has}


def differences(before: bytes, after: bytes) -> tuple[str, ...]:
    """What a policy says otherwise than another, one line for each value, by its path. Order counts: layers
    are mounted in theirs. Raises MalformedRego for a policy that cannot be read."""
    return tuple(_different("", _plain(read(before)), _plain(read(after))))


def _plain(module: Module) -> dict[str, Any]:
    return {"package": module.package, "import": list(module.imports), **module.values}


def _different(where: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        lines: list[str] = []
        for name in [*before, *(name for name in after if name not in before)]:
            path = f"{where}.{name}" if where else name
            if name not in after:
                lines.append(f"{path}: {_said(before[name])} is gone")
            elif name not in before:
                lines.append(f"{path}: {_said(after[name])} is new")
            else:
                lines += _different(path, before[name], after[name])
        return lines
    if isinstance(before, list) and isinstance(after, list):
        lines = []
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            lines += _different(f"{where}[{number}]", one, other)
        for number in range(len(after), len(before)):
            lines.append(f"{where}[{number}]: {_said(before[number])} is gone")
        for number in range(len(before), len(after)):
            lines.append(f"{where}[{number}]: {_said(after[number])} is new")
        return lines
    # True and 1 are equal in Python, not in Rego.
    same = type(before) is type(after) and before == after
    return [] if same else [f"{where}: {_said(before)} became {_said(after)}"]


def _said(value: Any) -> str:
    return str(value) if isinstance(value, Reference) else json.dumps(value, sort_keys=True, default=str)
