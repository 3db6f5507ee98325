"""Unified kernel images: one EFI program of kernel, ramdisk and command line, built by `ukify` and read strictly.

uapi-group.org/specifications/specs/unified_kernel_image; systemd: src/ukify/ukify.py, src/boot/efi/stub.c.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import pe

# Order in which the stub measures what it finds, from systemd 252 on; later versions added to the end and, with
# 256, .ucode (src/fundamental/uki.c). The signature of the register cannot be part of it.
MEASURED = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrpkey",
)
UNMEASURED = (
    ".pcrsig",
    ".sdmagic",
    ".text",
    ".data",
    ".rodata",
    ".reloc",
    ".dynamic",
    ".rela",
    ".dynsym",
    ".dynstr",
)
# What a machine picks one of at boot, so that its registers follow from no image alone.
CHOSEN = (".profile", ".dtbauto", ".hwids", ".efifw")
MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub (\d{3,4})[^#]* ####")
CMDLINE_LIMIT = 64 * 1024


class MalformedUki(JewelhouseError):
    """A file that is no unified kernel image, or one whose registers cannot be known before it boots."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What goes into a unified kernel image. `uname` is the kernel's release. `os_release` the text of that file."""

    stub: Path
    kernel: Path
    initrd: Path
    cmdline: str
    os_release: str
    uname: str


@dataclass(frozen=True, kw_only=True)
class Uki:
    """A unified kernel image, read: `stub` is the version of its systemd stub."""

    path: Path
    program: pe.Program
    stub: int
    cmdline: str


def build(parts: Parts, destination: Path, *, ukify: Path, signer: tuple[Path, Path] | None = None) -> None:
    """Writes the image, which appears under its name when it is whole. `signer`: key and certificate (PEM) for
    Secure Boot; needs sbsign.

    Raises JewelhouseError for a command line that no kernel takes, and with what ukify says.
    """
    if any(character in parts.cmdline for character in "\n\0") or not parts.cmdline.isascii():
        raise JewelhouseError("takes ASCII without newline or NUL: every byte is measured", where="cmdline")
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".uki-") as temporary:
        made = Path(temporary) / "uki.efi"
        (Path(temporary) / "cmdline").write_text(parts.cmdline, encoding="ascii")
        (Path(temporary) / "os-release").write_text(parts.os_release, encoding="utf-8")
        command = [
            *(sys.executable, str(ukify), "build"),
            f"--linux={parts.kernel}",
            f"--initrd={parts.initrd}",
            f"--stub={parts.stub}",
            f"--cmdline=@{temporary}/cmdline",
            f"--os-release=@{temporary}/os-release",
            f"--uname={parts.uname}",
            f"--output={made}",
        ]
        if signer is not None:
            key, certificate = signer
            command += [f"--secureboot-private-key={key}", f"--secureboot-certificate={certificate}"]
        # A configuration of this machine has no say.
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "XDG_CONFIG_HOME": temporary}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=temporary)
        if done.returncode or not made.is_file():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise JewelhouseError(f"ukify failed: {said[-1] if said else done.returncode}", where="uki")
        read(made)
        made.replace(destination)


def read(path: Path) -> Uki:
    """Reads an image and checks that its registers follow from it. Raises MalformedUki."""
    try:
        program = pe.read(path)
        with path.open("rb") as file:
            return _read(path, program, file)
    except OSError as error:
        raise MalformedUki(f"cannot be read: {error.strerror}", where=str(path)) from error
    except pe.MalformedProgram as error:
        raise MalformedUki(error.what, where=f"{path}: {error.where}") from error


def _read(path: Path, program: pe.Program, file) -> Uki:
    def refuse(what: str) -> MalformedUki:
        return MalformedUki(what, where=str(path))

    names = [section.name for section in program.sections]
    for name in (".linux", ".cmdline", ".sdmagic"):
        if name not in names:
            raise refuse(f"has no section {name}, so it is no unified kernel image that boots by itself")
    for name in names:
        if name in CHOSEN:
            raise refuse(f"has a section {name}: what is measured depends on the machine")
        if name not in MEASURED and name not in UNMEASURED:
            raise refuse(f"has a section {name}, and nobody knows whether it is measured")
    for section in program.sections:
        if section.name in (".sdmagic", ".cmdline") and section.size > CMDLINE_LIMIT:
            raise refuse(f"has {section.size} bytes in {section.name}")
    magic = program.section(".sdmagic")
    cmdline = program.section(".cmdline")
    assert magic is not None
    assert cmdline is not None
    found = MAGIC.search(b"".join(pe.content(file, magic)))
    if found is None:
        raise refuse("does not say which systemd stub it has")
    text = b"".join(pe.content(file, cmdline)).rstrip(b"\0")
    if not text.isascii() or b"\0" in text:
        raise refuse("has a command line that is no text")
    return Uki(path=path, program=program, stub=int(found[1]), cmdline=text.decode("ascii"))
