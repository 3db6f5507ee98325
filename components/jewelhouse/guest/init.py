"""The first process of an enclave image or a measured disk: makes the system usable, says what was measured,
runs the guest, and switches the machine off when the guest ends. There is no shell and no login to fall to.

Standard library only, and nothing of the kit: it runs before anything else, as `/init` of an enclave's first
ramdisk. aws/aws-nitro-enclaves-sdk-bootstrap: init/init.c (mounts, heartbeat); kernel.org
Documentation/filesystems/ramfs-rootfs-initramfs.rst.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# (what, where, type, flags): nosuid 2, nodev 4, noexec 8, nosymfollow is not used.
MOUNTS = (
    ("proc", "/proc", "proc", 2 | 4 | 8),
    ("sysfs", "/sys", "sysfs", 2 | 4 | 8),
    ("devtmpfs", "/dev", "devtmpfs", 2 | 8),
    ("tmpfs", "/dev/shm", "tmpfs", 2 | 4 | 8),
    ("tmpfs", "/run", "tmpfs", 2 | 4),
    ("tmpfs", "/tmp", "tmpfs", 2 | 4),
    ("configfs", "/sys/kernel/config", "configfs", 2 | 4 | 8),
)
MODULES = Path("/lib/jewelhouse/modules")
SETTINGS = Path("/etc/jewelhouse/image.json")
# What AWS's `run-enclave` waits for: a byte sent to port 9000 of the parent and the same byte back.
PARENT = 3
HEARTBEAT_PORT = 9000
HEARTBEAT = b"\xb7"
# linux/nsm.h: _IOWR(0x0A, 0, struct nsm_raw)
NSM_CALL = 0xC0200A00
NSM_REPLY = 0x3000
FINIT_MODULE = 313 if os.uname().machine == "x86_64" else 273
POWER_OFF, RESTART = 0x4321FEDC, 0x01234567
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Never returns when it is the first process; the machine goes off with the guest."""
    status = 1
    try:
        status = _run()
    except BaseException as error:
        say(f"stopped: {type(error).__name__}: {error}")
    finally:
        say(f"the guest ended with {status}; switching off")
        os.sync()
        if os.getpid() == 1:
            # An enclave has no way to switch itself off; it ends when it would start again.
            LIBC.reboot(POWER_OFF if os.path.isdir("/sys/firmware/acpi") else RESTART)
    sys.exit(status)


def _run() -> int:
    mount_all()
    settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    load_modules()
    say(f"{settings['name']} on {settings['platform']}, kernel {os.uname().release}")
    say(f"measurements {json.dumps(measurements(), sort_keys=True)}")
    if settings["platform"] == "aws-enclave":
        beat()
    interface_up("lo")
    for command in settings["before"]:
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise OSError(f"{command[0]} ended with {done.returncode}")
    return guard(settings["run"], settings["environment"])


def say(text: str) -> None:
    """A line on the console; the host sees it, so nothing secret is ever in it."""
    print(f"jewelhouse: {text}", flush=True)


def mount_all() -> None:
    """What a program expects to find mounted; what is there already stays."""
    for what, where, kind, flags in MOUNTS:
        if kind == "configfs" and not os.path.isdir(where):
            continue
        os.makedirs(where, exist_ok=True)
        if os.path.ismount(where):
            continue
        if LIBC.mount(what.encode(), where.encode(), kind.encode(), flags, None):
            code = ctypes.get_errno()
            if code != errno.EBUSY:
                raise OSError(code, f"{where} cannot be mounted: {os.strerror(code)}")


def load_modules() -> None:
    """The image's kernel modules, in the order in which the build wrote them down."""
    order = MODULES / "order"
    for name in order.read_text(encoding="ascii").split() if order.exists() else ():
        file = os.open(MODULES / f"{name}.ko", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if LIBC.syscall(FINIT_MODULE, file, b"", 0):
                code = ctypes.get_errno()
                # EEXIST: loaded already. ENODEV: the machine lacks what it drives.
                if code not in (errno.EEXIST, errno.ENODEV):
                    raise OSError(code, f"module {name} cannot be loaded: {os.strerror(code)}")
        finally:
            os.close(file)


def measurements() -> Mapping[str, str]:
    """Registers as this machine's own hardware reports them, by name; empty where there is none to ask."""
    if os.path.exists("/dev/nsm"):
        return dict(_nsm_registers())
    return dict(_tpm_registers())


def _nsm_registers() -> Iterator[tuple[str, str]]:
    device = os.open("/dev/nsm", os.O_RDWR | os.O_CLOEXEC)
    try:
        for index in (0, 1, 2, 3, 4, 8):
            # {"DescribePCR": {"index": n}} in CBOR, and back {"DescribePCR": {"lock": bool, "data": bytes}}
            request = b"\xa1\x6bDescribePCR\xa1\x65index" + bytes([index])
            reply = nsm_call(device, request)
            at = reply.find(b"\x64data\x58\x30")
            if at >= 0:
                yield f"PCR{index}", reply[at + 7 : at + 55].hex()
    finally:
        os.close(device)


def nsm_call(device: int, request: bytes) -> bytes:
    """One request to the Nitro security module and its reply, both CBOR."""
    asked = ctypes.create_string_buffer(request, len(request))
    answer = ctypes.create_string_buffer(NSM_REPLY)
    message = bytearray(
        struct.pack(
            "QQQQ", ctypes.addressof(asked), len(request), ctypes.addressof(answer), ctypes.sizeof(answer)
        )
    )
    fcntl.ioctl(device, NSM_CALL, message, True)
    length = struct.unpack("QQQQ", message)[3]
    return answer.raw[:length]


def _tpm_registers() -> Iterator[tuple[str, str]]:
    for bank in ("sha256", "sha384"):
        directory = Path(f"/sys/class/tpm/tpm0/pcr-{bank}")
        for index in (0, 4, 7, 11, 12):
            file = directory / str(index)
            if file.exists():
                yield f"{bank}:PCR{index}", file.read_text(encoding="ascii").strip().lower()


def beat() -> None:
    """Tells the parent that the enclave runs. Without it AWS's tool ends the enclave, nothing else depends
    on it, so a missing parent is only said."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as parent:
            parent.settimeout(10)
            parent.connect((PARENT, HEARTBEAT_PORT))
            parent.sendall(HEARTBEAT)
            if parent.recv(1) != HEARTBEAT:
                raise OSError("the parent answered something else")
    except OSError as error:
        say(f"no heartbeat: {error}")


def interface_up(name: str) -> None:
    """Brings a network interface up (`lo`), as a fresh network namespace has it down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        request = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(channel, 0x8913, request))[1]
        fcntl.ioctl(channel, 0x8914, struct.pack("16sH14x", name.encode(), flags | 1))


def guard(command: list[str], environment: Mapping[str, str]) -> int:
    """Runs the guest and waits for it, and for every orphan, as a first process must. Returns its status."""
    program = file_digest(command[0])
    say(f"running {' '.join(command)} ({program})")
    child = subprocess.Popen(
        command, env={"PATH": "/usr/bin:/bin", "HOME": "/run", **environment}, cwd="/", start_new_session=True
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: child.terminate())
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status)


def file_digest(path: str) -> str:
    """What a program on disk is: its SHA-256."""
    with open(path, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no file")
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


if __name__ == "__main__":
    main()
