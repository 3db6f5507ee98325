"""Unified kernel images: kernel, ramdisk and command line in one file that firmware measures as one.

Built by systemd's ukify on systemd's stub, both from the packages of the image's own suite; what was built is
read back and compared with what went in. `read` takes anybody's.
Sources: uapi-group.org, Unified Kernel Image; systemd/systemd: src/fundamental/uki.h and src/boot/pe.c
(2026-11).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import pe

# What the stub hands to the kernel, in the order in which it measures them.
_SECTIONS_252 = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrsig", ".pcrpkey")
_SECTIONS_254 = (*_SECTIONS_252[:6], ".uname", ".sbat", ".pcrsig", ".pcrpkey")
_SECTIONS_256 = (*_SECTIONS_254[:4], ".ucode", *_SECTIONS_254[4:])
_SECTIONS_257 = (*_SECTIONS_256, ".profile", ".dtbauto", ".hwids")
_SECTIONS_258 = (*_SECTIONS_257, ".efifw")
# A signature of the values that PCR11 will have cannot be measured into it.
UNMEASURED = ".pcrsig"
# Of several of these the stub takes the one that fits the machine it runs on.
BY_MACHINE = (".dtbauto", ".efifw")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What one version of the stub does: the `sections` that it knows, in the order of PCR11, and whether it
    starts the kernel through the firmware, which then measures it into PCR4."""

    sections: tuple[str, ...]
    kernel_by_firmware: bool


# Sections: systemd/systemd: src/fundamental/tpm-pcr.h and uki.h of each version. How the kernel is started:
# systemd/systemd#24777 (252), #36076 (257) and #37372 (258), and aws/NitroTPM-Tools:
# nitro-tpm-pcr-compute/src/main.rs (2026-11).
RULES: Mapping[int, Rules] = {
    252: Rules(sections=_SECTIONS_252, kernel_by_firmware=True),
    253: Rules(sections=_SECTIONS_252, kernel_by_firmware=True),
    254: Rules(sections=_SECTIONS_254, kernel_by_firmware=True),
    255: Rules(sections=_SECTIONS_254, kernel_by_firmware=True),
    256: Rules(sections=_SECTIONS_256, kernel_by_firmware=True),
    257: Rules(sections=_SECTIONS_257, kernel_by_firmware=True),
    258: Rules(sections=_SECTIONS_258, kernel_by_firmware=False),
    259: Rules(sections=_SECTIONS_258, kernel_by_firmware=False),
}
MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub ((\d{3})[!-~]*) ####\0*")
# Kernels before 5.8 have no ramdisk protocol; older stubs start them without the firmware.
KERNEL_VERSION = 1
# COMMAND_LINE_SIZE of x86 and arm64 is 2048 with the NUL behind it; the kernel cuts what is longer.
MOST_COMMAND_LINE = 2047
SMALL = 1 << 16
# An empty one would be left out by ukify, or filled in from the machine that builds.
ANY = re.compile(r"[^\0]+")
RELEASE = re.compile(r"[\w.+~-]+", re.ASCII)


class MalformedUki(JewelhouseError):
    """The file is no unified kernel image that can be measured beforehand; says what is wrong and where."""

    def __init__(self, what: str, path: Path, offset: int, remedy: str = "") -> None:
        super().__init__(what, where=f"{path.name}: offset {offset}", remedy=remedy)
        self.offset = offset


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a unified kernel image is made of. `uname`: the kernel's release, as `uname -r` says it."""

    stub: Path
    kernel: Path
    initrd: Path
    cmdline: str
    os_release: str
    uname: str


@dataclass(frozen=True, kw_only=True)
class Uki:
    """A unified kernel image, checked. `sections` are those that its default profile uses, by name, in the
    order in which the stub measures them; `stub` is the stub's full version."""

    image: pe.Image
    kernel: pe.Image
    stub: str
    rules: Rules
    sections: Mapping[str, pe.Section]
    cmdline: str

    @property
    def measured(self) -> tuple[pe.Section, ...]:
        return tuple(section for name, section in self.sections.items() if name != UNMEASURED)


def build(parts: Parts, destination: Path, *, ukify: Path, signer: tuple[Path, Path] | None = None) -> None:
    """Writes a unified kernel image, signed for Secure Boot with `signer`: private key and certificate, PEM.

    The same parts give the same bytes. `ukify` is the program of Debian's systemd-ukify, which runs in this
    Python. Raises JewelhouseError for parts that no image can have, and whatever ukify says; leaves nothing
    half-written.
    """
    check_command_line(parts.cmdline)
    for name, text, wanted in (("os-release", parts.os_release, ANY), ("uname", parts.uname, RELEASE)):
        if not wanted.fullmatch(text):
            raise JewelhouseError(
                f"{text[:80]!r} is none", where=name, remedy="take it from the image's packages"
            )
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".uki-") as temporary:
        directory = Path(temporary)
        made = directory / "made"
        (directory / "cmdline").write_bytes(parts.cmdline.encode())
        (directory / "os-release").write_bytes(parts.os_release.encode())
        _run(parts, made, directory, ukify)
        _compare(parts, read(made))
        if signer is not None:
            from jewelhouse.images import authenticode

            authenticode.sign(made, key=signer[0], certificate=signer[1])
        made.chmod(0o644)
        made.replace(destination)


def check_command_line(cmdline: str) -> None:
    """Raises JewelhouseError for what the kernel would not get as it is written."""
    for wrong, what in (
        (not cmdline, "is empty: the stub would take anybody's"),
        (not cmdline.isascii() or not cmdline.isprintable(), "has characters other than printable ASCII"),
        (len(cmdline) > MOST_COMMAND_LINE, f"has {len(cmdline)} bytes, the kernel takes {MOST_COMMAND_LINE}"),
    ):
        if wrong:
            raise JewelhouseError(what, where="kernel.command-line", remedy="one line of plain text")


def _run(parts: Parts, made: Path, directory: Path, ukify: Path) -> None:
    """Texts go by file: ukify takes what begins with @ for the name of one, and merges spaces."""
    command = [
        *(sys.executable, "-I", str(ukify), "build", "--config=/dev/null", f"--output={made}"),
        *(f"--stub={parts.stub}", f"--linux={parts.kernel}", f"--initrd={parts.initrd}"),
        *(f"--cmdline=@{directory / 'cmdline'}", f"--os-release=@{directory / 'os-release'}"),
        *(f"--uname={parts.uname}", "--no-sign-kernel"),
    ]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": str(directory)}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode or not made.is_file():
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise JewelhouseError(f"ukify failed: {lines[-1]}", where=str(ukify))


def _compare(parts: Parts, made: Uki) -> None:
    """The image must hold exactly what was given, whatever ukify did with it."""
    wanted = {
        ".linux": _digest(parts.kernel),
        ".initrd": _digest(parts.initrd),
        ".cmdline": hashlib.sha256(parts.cmdline.encode()).digest(),
        ".osrel": hashlib.sha256(parts.os_release.encode()).digest(),
        ".uname": hashlib.sha256(parts.uname.encode()).digest(),
    }
    if set(made.sections) != {*wanted, ".sbat"}:
        raise JewelhouseError(f"ukify wrote sections {', '.join(made.sections)}", where=made.image.path.name)
    for name, digest in wanted.items():
        if pe.digests(made.image, made.sections[name], ["sha256"])["sha256"] != digest:
            raise JewelhouseError(f"ukify wrote another {name} than it was given", where=made.image.path.name)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read(path: Path) -> Uki:
    """A unified kernel image, its sections as the stub in it finds them for the default profile.

    Raises MalformedUki for a file that is none, for one that different versions of stub and firmware would
    read differently, and for stubs whose rules are not known.
    """
    try:
        image = pe.read(path)
        pe.in_memory(image)
        stub, rules = _stub(image)
        sections = _sections(image, rules)
        linux = sections[".linux"]
        kernel = pe.read(path, linux.offset, linux.size)
        cmdline = _command_line(image, sections)
    except pe.MalformedPe as error:
        raise MalformedUki(error.what, path, error.offset) from error
    if kernel.machine is not image.machine:
        raise MalformedUki("has a kernel for another machine than its stub", path, linux.offset)
    if kernel.version < KERNEL_VERSION:
        raise MalformedUki(
            "has a kernel older than 5.8, which stubs start in different ways", path, linux.offset
        )
    return Uki(image=image, kernel=kernel, stub=stub, rules=rules, sections=sections, cmdline=cmdline)


def _stub(image: pe.Image) -> tuple[str, Rules]:
    found = image.named(".sdmagic")
    if len(found) != 1:
        raise MalformedUki(f"has {len(found)} sections .sdmagic: no systemd stub", image.path, image.headers)
    magic = MAGIC.fullmatch(pe.data(image, found[0], SMALL))
    if magic is None:
        raise MalformedUki("does not say which systemd stub it has", image.path, found[0].offset)
    version = int(magic[2])
    if version not in RULES:
        raise MalformedUki(
            f"has the stub of systemd {version}; what {min(RULES)} to {max(RULES)} measure is known",
            image.path,
            found[0].offset,
            remedy="build it with a stub of one of these",
        )
    return magic[1].decode(), RULES[version]


def _sections(image: pe.Image, rules: Rules) -> dict[str, pe.Section]:
    """Those before the first .profile are for all profiles; those from there to the next override them."""
    known = set(rules.sections)
    scopes: list[dict[str, pe.Section]] = [{}]
    for section in image.sections:
        if section.name in BY_MACHINE:
            raise MalformedUki(
                f"has {section.name}, whose measurement depends on the machine", image.path, section.offset
            )
        if section.name not in known:
            # Stubs before 256 compare only the beginnings of names.
            if section.name.startswith(rules.sections):
                raise MalformedUki(
                    f"has {section.name}, which stubs take for another section", image.path, section.offset
                )
            continue
        if not section.size:
            continue
        if section.size > section.raw:
            raise MalformedUki(
                f"states {section.size} bytes of {section.name} and has {section.raw}",
                image.path,
                section.offset,
            )
        if section.name == ".profile":
            scopes.append({})
        if section.name in scopes[-1]:
            raise MalformedUki(f"has two sections {section.name}", image.path, section.offset)
        scopes[-1][section.name] = section
    chosen = {name: section for scope in scopes[:2] for name, section in scope.items()}
    if ".linux" not in chosen:
        raise MalformedUki(
            "has no kernel: it is an addon or no unified kernel image", image.path, image.headers
        )
    return {name: chosen[name] for name in rules.sections if name in chosen}


def _command_line(image: pe.Image, sections: Mapping[str, pe.Section]) -> str:
    """Without the NUL or newline that some builders leave behind it."""
    if ".cmdline" not in sections:
        raise MalformedUki(
            "has no command line of its own, so it takes anybody's", image.path, sections[".linux"].offset
        )
    section = sections[".cmdline"]
    text = pe.data(image, section, SMALL).rstrip(b"\0\n")
    if not text.isascii() or not text.decode("ascii").isprintable():
        raise MalformedUki(
            "has a command line that is not one line of plain text", image.path, section.offset
        )
    return text.decode("ascii")
