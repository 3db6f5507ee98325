"""Programs that building and checking images needs, where they are, and how they get there.

Standard library only: `tools/install_tools.py` reads this table before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Debian keeps some of its tools where only root looks.
ELSEWHERE = "/usr/sbin:/sbin:/usr/local/sbin"


@dataclass(frozen=True)
class Tool:
    """One program (or file) with its package on Debian and Ubuntu. `builds`: images cannot be built without;
    the others boot images and compare them with what other hands compute. `version`: what makes it print its
    version, nothing where only its package has one."""

    name: str
    package: str
    use: str
    builds: bool = False
    version: Sequence[str] = ("--version",)


# Packages of Debian 12 and Ubuntu 24.04 (packages.debian.org, packages.ubuntu.com, 2026-11).
TOOLS = (
    Tool("mmdebstrap", "mmdebstrap", "root file systems from Debian packages", builds=True),
    Tool("newuidmap", "uidmap", "builds without root", version=()),
    Tool("qemu-system-x86_64", "qemu-system-x86", "boots what was built"),
    Tool("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", "firmware of booted disks", version=()),
    Tool("swtpm", "swtpm", "TPM of booted disks"),
    Tool("swtpm_setup", "swtpm-tools", "TPM of booted disks"),
    Tool("fsck.erofs", "erofs-utils", "compares root file systems of disks", version=("-V",)),
    Tool("sfdisk", "fdisk", "compares partition tables"),
    Tool("sgdisk", "gdisk", "compares partition tables"),
    Tool("veritysetup", "cryptsetup-bin", "compares dm-verity trees"),
    Tool("skopeo", "skopeo", "compares container images"),
    Tool("umoci", "umoci", "compares container images"),
    Tool("buildah", "buildah", "builds container images beside ours"),
    Tool("cpio", "cpio", "compares ramdisks"),
    Tool("sbsign", "sbsigntool", "compares Secure Boot signatures"),
    Tool("osslsigncode", "osslsigncode", "compares Secure Boot signatures"),
    Tool("mdir", "mtools", "compares EFI system partitions", version=("-V",)),
    Tool("fsck.fat", "dosfstools", "compares EFI system partitions", version=()),
    Tool("modinfo", "kmod", "compares kernel modules"),
    Tool("tpm2", "tpm2-tools", "evidence of Azure's virtual TPM"),
    Tool("openssl", "openssl", "compares signatures and envelopes", version=("version",)),
    Tool("jq", "jq", "runs the scripts that hosts start with"),
    Tool("chromium", "chromium", "looks at the pages that are written"),
)


def path(name: str) -> Path | None:
    """Where a program or file is, or None."""
    if name.startswith("/"):
        return Path(name) if Path(name).is_file() else None
    found = shutil.which(name) or shutil.which(name, path=f"{os.environ.get('PATH', '')}:{ELSEWHERE}")
    return Path(found) if found else None


def version(tool: Tool) -> str:
    """What a program, or else its Debian package, says its version is; empty where neither is there."""
    there = path(tool.name)
    if there is None:
        return ""
    if tool.version:
        words = [word.strip("(),") for word in _said([str(there), *tool.version]).split()]
        if found := next((word for word in words if word[:1].isdigit()), ""):
            return found
    return _said(["dpkg-query", "--show", "--showformat=${Version}", tool.package])


def _said(command: Sequence[str]) -> str:
    """The first line that a command prints."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return lines[0] if lines and not done.returncode else ""
