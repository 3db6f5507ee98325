"""Outlives a guest that is killed, by as long as it takes to end what it started and remove what was open.

A program of its own, so that nothing of the guest's memory is in it; standard library only. It is told the
folder, and that the guest is no more by the end of its standard input.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

ATTEMPTS, PAUSE = 100, 0.05


def main() -> int:
    """Waits for the end of the guest. Status 1 where something is left."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    sys.stdin.buffer.read()
    for _ in range(ATTEMPTS):
        for process in workers(folder):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() and not workers(folder):
            return 0
        time.sleep(PAUSE)
    print(f"jewelhouse: {folder} cannot be removed", file=sys.stderr, flush=True)
    return 1


def workers(folder: Path) -> list[int]:
    """Processes that were told of the folder, or work in it: a workload and all that it started."""
    named, found = os.fsencode(f"={folder}/"), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if named in (entry / "environ").read_bytes() or _within(entry / "cwd", folder):
                found.append(int(entry.name))
        except OSError:
            # It ended meanwhile, or is another user's.
            continue
    return found


def _within(link: Path, folder: Path) -> bool:
    return os.readlink(link).removesuffix(" (deleted)").startswith(f"{folder}/")


if __name__ == "__main__":
    sys.exit(main())
