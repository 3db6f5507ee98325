"""A guest as a process of this machine: its image's measured settings, and the endpoints of stand-ins."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jewelhouse.errors import JewelhouseError

# Seconds until a stage that does not serve has to be done.
PATIENCE = 120
CLOSED, RECORD = "jewelhouse: closed: ", "jewelhouse-record: "
TEMPORARY = "temporary"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a guest ended. `closed`: what stayed shut and why, in its words; `record`: its signed record's
    content; `served`: what `visit` returned while it ran."""

    status: int
    closed: tuple[str, ...]
    record: Mapping[str, Any]
    output: str
    seconds: float
    served: Any = None

    @property
    def events(self) -> tuple[str, ...]:
        return tuple(one["event"] for one in self.record.get("events", ()))


@dataclass(frozen=True, kw_only=True)
class Guest:
    """What a guest is started with. `folder`: for its settings; `workspace`: in memory. `environment`: what
    the vendors' clients need besides (credentials of a loopback account). `program`: what Python runs."""

    folder: Path
    workspace: Path
    platform: str
    trust: Mapping[str, Any]
    stage: Mapping[str, Any]
    endpoints: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    workload: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = ("-m", "jewelhouse.guest")


Running = subprocess.Popen
Heard = Callable[[Running, str], None]
"""Told every line that a guest says, while it runs."""
Begun = Callable[[Running], None]


def start(
    guest: Guest,
    *,
    visit: Callable[[Running], Any] | None = None,
    heard: Heard = lambda process, line: None,
    begun: Begun = lambda process: None,
    patience: float = PATIENCE,
) -> Outcome:
    """Runs a guest to its end, or with `visit` until that has returned (a stage that serves). `begun` is told
    the process, `heard` what it says: both may end it.

    What it writes for a while goes to `temporary` of its folder. Raises JewelhouseError when it does not end
    in time.
    """
    files = {
        "image": {"name": "rehearsal", "platform": guest.platform, "environment": dict(guest.workload)},
        "trust": guest.trust,
        "settings": guest.stage,
        "endpoints": guest.endpoints,
    }
    guest.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *guest.program, "--workspace", str(guest.workspace)]
    for name, value in files.items():
        path = guest.folder / f"{name}.json"
        path.write_text(json.dumps(value), encoding="utf-8")
        command += [f"--{name}", str(path)]
    temporary = guest.folder / TEMPORARY
    temporary.mkdir(exist_ok=True)
    environment = {
        "TMPDIR": str(temporary),
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(guest.folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **guest.environment,
    }
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line)
            heard(process, line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    served = None
    try:
        begun(process)
        if visit is not None:
            served = visit(process)
            process.terminate()
        process.wait(patience)
    except subprocess.TimeoutExpired as error:
        raise JewelhouseError(
            f"has not ended after {patience:.0f} s", where=f"guest of {guest.stage.get('stage')}"
        ) from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(10)
    output = "".join(lines)
    return Outcome(
        status=process.returncode,
        closed=tuple(
            line.removeprefix(CLOSED).strip() for line in output.splitlines() if line.startswith(CLOSED)
        ),
        record=_record(output),
        output=output,
        seconds=time.monotonic() - began,
        served=served,
    )


def _record(output: str) -> Mapping[str, Any]:
    for line in output.splitlines():
        if line.startswith(RECORD):
            envelope = json.loads(line.removeprefix(RECORD))
            return json.loads(base64.b64decode(envelope["payload"]))
    return {}
