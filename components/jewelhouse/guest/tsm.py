"""Quotes of the hardware through the kernel's own interface: configfs, /sys/kernel/config/tsm/report.

Documentation/ABI/testing/configfs-tsm of the Linux kernel (6.7 and later; 2026-11).
"""

from __future__ import annotations

import secrets
import socket
import stat
from pathlib import Path

from jewelhouse.guest.opening import Closed
from jewelhouse.guest.settings import Endpoints

REPORTS = Path("/sys/kernel/config/tsm/report")
TDX = "tdx_guest"
DATA, LARGEST = 64, 64 * 1024


def quote(endpoints: Endpoints, data: bytes) -> bytes | None:
    """A TDX quote over 64 bytes; None on hardware that has none. Raises Closed where it fails."""
    path = Path(endpoints.tsm) if endpoints.tsm else REPORTS
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(path, error) from error
    try:
        found = _over(path, data) if stat.S_ISSOCK(kind) else _report(path, data)
    except OSError as error:
        raise _failed(path, error) from error
    if found is not None and not 0 < len(found) <= LARGEST:
        raise Closed(f"gives a quote of {len(found)} bytes", where=str(path))
    return found


def _report(path: Path, data: bytes) -> bytes | None:
    entry = path / f"jewelhouse-{secrets.token_hex(8)}"
    entry.mkdir()
    try:
        if (entry / "provider").read_text(encoding="ascii").strip() != TDX:
            return None
        (entry / "inblob").write_bytes(data)
        # The kernel counts requests: another number means that somebody else's request came in between.
        asked = (entry / "generation").read_text(encoding="ascii")
        with (entry / "outblob").open("rb", buffering=0) as file:
            found = b""
            while piece := file.read(LARGEST):
                found += piece
        if (entry / "generation").read_text(encoding="ascii") != asked:
            raise Closed("was asked by somebody else, too", where=str(entry))
        return found
    finally:
        entry.rmdir()


def _over(path: Path, data: bytes) -> bytes:
    """In a rehearsal: the data go out, the quote comes back until the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(data)
        found = b""
        while len(found) <= LARGEST and (piece := connection.recv(LARGEST)):
            found += piece
        return found


def _failed(path: Path, error: OSError) -> Closed:
    return Closed(
        f"gives no quote: {error.strerror or error}",
        where=str(path),
        remedy="mount configfs and run as root; the VM needs its host's quoting service",
    )
