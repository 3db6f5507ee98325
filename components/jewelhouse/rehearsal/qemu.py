"""A machine without disks and network, its processor emulated, and what its serial console says."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.rehearsal import channel
from jewelhouse.rehearsal.channel import Channel, Connect

QEMU = "qemu-system-x86_64"
# Emulation of the newest processor that it has: what is slower is there everywhere, and an image's kernel
# starts no differently for the host below it.
ACCELERATOR = ("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1")
# Several clocks: on `microvm` a kernel finds one to measure the processor by, and on a host that does other
# work it may fail to, and then waits for ever ("tsc: Unable to calibrate against PIT").
MACHINE = "pc,usb=off,vmport=off,i8042=off"
# No devices that nobody asked for, above all no network; and a machine that stops where it would start again.
BARE = ("-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot")
# The longest that a console may become; a workload may write without end.
CONSOLE = 16 * 1024 * 1024


def boot(
    kernel: Path,
    ramdisks: Path,
    cmdline: str,
    *,
    memory: int,
    patience: float,
    connect: Connect | None = None,
) -> str:
    """Runs a machine until it switches itself off, and returns what its serial console said.

    `memory` in MiB, `patience` in seconds. `connect` leads where the machine may connect to, over the line
    of `channel`; without it the machine has no line. Raises JewelhouseError with the end of the console when
    it does not end in time or writes without end, and when QEMU is not there or does not start.
    """
    program = shutil.which(QEMU)
    if program is None:
        raise JewelhouseError("is not installed", where=QEMU, remedy="install qemu-system-x86")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jewelhouse-qemu-")))
        serial, said = directory / "serial", stack.enter_context(tempfile.TemporaryFile())
        line: list[str] = []
        if connect is not None:
            stack.enter_context(_line(directory / "line", connect))
            line = [
                *("-chardev", f"socket,id=line,path={directory / 'line'}"),
                *("-device", "virtio-serial-pci"),
                *("-device", f"virtserialport,chardev=line,name={channel.PORT}"),
            ]
        machine = subprocess.Popen(
            [
                *(program, "-M", MACHINE, "-m", str(memory), *ACCELERATOR, *BARE),
                *("-kernel", str(kernel), "-initrd", str(ramdisks), "-append", cmdline),
                *("-serial", f"file:{serial}", *line),
            ],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        stack.callback(_end, machine)
        problem = _wait(machine, serial, patience)
        text = _text(serial)
        if not problem and machine.returncode:
            said.seek(0)
            last = said.read().decode("utf-8", "replace").strip()[-500:]
            problem = f"ended with {machine.returncode}: {last}"
        if problem:
            raise JewelhouseError(
                problem, where="machine", remedy=f"its console ends:\n{text[-1500:]}" if text else ""
            )
        return text


def _wait(machine: subprocess.Popen[bytes], serial: Path, patience: float) -> str:
    until = time.monotonic() + patience
    while machine.poll() is None:
        if time.monotonic() > until:
            return f"has not switched itself off after {patience:.0f} s"
        if serial.exists() and serial.stat().st_size > CONSOLE:
            return f"wrote more than {CONSOLE} bytes to its console"
        time.sleep(0.1)
    return ""


def _end(machine: subprocess.Popen[bytes]) -> None:
    machine.kill()
    machine.wait()


def _text(serial: Path) -> str:
    if not serial.exists():
        return ""
    with serial.open("rb") as file:
        text = file.read(CONSOLE).decode("utf-8", "replace").replace("\r", "")
    # Sequences for a terminal, which firmware writes, are no part of what was said.
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|c)", "", text)


@contextmanager
def _line(path: Path, connect: Connect) -> Iterator[None]:
    """The host's end of the line, which QEMU connects to when it starts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=_lead, args=(listener, connect), daemon=True)
        thread.start()
        try:
            yield
        finally:
            # Wakes the thread if no machine ever came.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def _lead(listener: socket.socket, connect: Connect) -> None:
    try:
        line, _ = listener.accept()
    except OSError:
        return
    with line, suppress(OSError):
        # A machine that speaks no frames, or is gone, has no line any more; its console says what it missed.
        Channel(line.recv, line.sendall, connect).run()


def to(services: dict[str, Callable[[], socket.socket]]) -> Connect:
    """Leads to services by their names and to nothing else."""

    def connect(name: str) -> socket.socket:
        if name not in services:
            raise ConnectionRefusedError(f"there is no service {name[:80]!r}")
        return services[name]()

    return connect
