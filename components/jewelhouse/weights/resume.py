"""What is kept of a sealing while it runs, so that an interrupted one goes on where it was.

The DEK is random and must survive the process, but must not lie anywhere in the clear. It is kept in two
halves: encrypted under a resume key in the store, and the resume key, with the list of finished files, in a
file of this machine that only its owner reads. Either half alone opens nothing; both go when the sealing is
done, and the local one is void after seven days. Deriving the DEK from the signing key would need neither,
but then whoever ever gets that key opens every version ever sealed with it.

Finished means: the object was written whole before the line that names it, several to a line. A line that a
crash tore is no line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import canonical
from jewelhouse.weights.manifest import File
from jewelhouse.weights.sources import Entry
from jewelhouse.weights.stores import Missing, Store

FORMAT = "jewelhouse.sealing/v1"
LIFETIME = timedelta(days=7)
# Time stamps of files are this coarse at worst (FAT): who writes twice within it may leave the same stamp.
COARSE = 2_000_000_000
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LIMIT = 64 * 1024
# Small files that a crash may cost at most, for fewer writes.
BATCH = 64


def directory() -> Path:
    """Where states of this user lie: `$XDG_STATE_HOME/jewelhouse/sealing`, else below ~/.local/state."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "jewelhouse" / "sealing"


@dataclass(kw_only=True)
class Sealing:
    """One sealing under way. `resumed`: an earlier run left something of it. `again`: finished files must be
    read once more before they are believed, because the machine was restarted and may have lost what it had
    not written to disk."""

    dek: bytes = field(repr=False)
    data: str
    done: dict[str, tuple[Entry, File]]
    again: bool = False
    resumed: bool = False
    _log: IO[bytes] | None = None
    _path: Path | None = None
    _waiting: list[tuple[Any, ...]] = field(default_factory=list)

    def finished(self, entry: Entry, file: File, began: int) -> None:
        """Notes a file whose object is whole. `began`: time in ns when reading it began."""
        # A file that was touched this recently could change again without a trace.
        if self._log is None or (entry.changed and entry.changed > began - COARSE):
            return
        self._waiting.append((*entry, b"".join(file.shards).hex()))
        if len(self._waiting) >= BATCH or file.size >= 1 << 20:
            self.flush()

    def flush(self) -> None:
        if self._log is not None and self._waiting:
            self._log.write(json.dumps(self._waiting).encode() + b"\n")
            self._log.flush()
            self._waiting.clear()

    def close(self) -> None:
        """Leaves the sealing to be gone on with."""
        if self._log is not None:
            self.flush()
            self._log.close()
            self._log = None

    def end(self, store: Store) -> None:
        """The manifest is published: nothing is left of what could open the artifact."""
        if self._path is not None:
            store.delete(_half(self.data))
            self._path.unlink(missing_ok=True)
        self._waiting.clear()
        self.close()


def begin(store: Store, artifact: str, version: int, states: Path | None, now: datetime) -> Sealing:
    """The sealing of this version into this store that was interrupted, or a new one.

    `states` is the directory for local halves; None keeps nothing and a sealing cannot be gone on with.
    Raises JewelhouseError when the same sealing runs already.
    """
    if states is None:
        return Sealing(dek=secrets.token_bytes(32), data=_fresh(version), done={})
    path = _local(states, store, artifact, version)
    log = _locked(path)
    try:
        found = _resumed(log, store, artifact, version, now)
        if found is None:
            _forget_expired(states, now)
            found = _started(log, store, artifact, version, now)
    except BaseException:
        log.close()
        raise
    found._log, found._path = log, path
    return found


def _fresh(version: int) -> str:
    return f"{version}-{secrets.token_hex(8)}"


def _local(states: Path, store: Store, artifact: str, version: int) -> Path:
    place = store.url if "://" in store.url else os.path.abspath(store.url)
    return states / f"{hashlib.sha256(canonical.write([place, artifact, version])).hexdigest()[:32]}.state"


def _locked(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b")
    except OSError as error:
        raise JewelhouseError(
            f"cannot keep the state of the sealing: {error.strerror}",
            where=str(path),
            remedy="set XDG_STATE_HOME to a directory of your own, or seal with --no-resume",
        ) from error
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        log.close()
        raise JewelhouseError("is being sealed by another process", where=str(path)) from error
    info = os.fstat(log.fileno())
    if info.st_uid != os.getuid() or info.st_mode & 0o077:
        log.close()
        raise JewelhouseError(
            "can be read by others", where=str(path), remedy="remove it; the sealing then begins anew"
        )
    return log


def _half(data: str) -> str:
    return f"sealing/{data}"


def _bound(artifact: str, version: int, data: str) -> bytes:
    return canonical.write([FORMAT, artifact, version, data])


def _started(log: IO[bytes], store: Store, artifact: str, version: int, now: datetime) -> Sealing:
    dek, key, nonce = secrets.token_bytes(32), secrets.token_bytes(32), secrets.token_bytes(12)
    data = _fresh(version)
    head = {
        "format": FORMAT,
        "artifact": artifact,
        "version": version,
        "store": store.url,
        "data": data,
        "until": (now + LIFETIME).isoformat(),
        "boot": _boot(),
        "resume-key": b64encode(key).decode(),
    }
    store.put(_half(data), nonce + AESGCM(key).encrypt(nonce, dek, _bound(artifact, version, data)))
    log.seek(0)
    log.truncate()
    log.write(json.dumps(head).encode() + b"\n")
    log.flush()
    return Sealing(dek=dek, data=data, done={})


def _resumed(log: IO[bytes], store: Store, artifact: str, version: int, now: datetime) -> Sealing | None:
    """What can be gone on with; None where nothing was begun, time is up, or one half is gone."""
    text = log.read()
    lines = text.split(b"\n")
    # What follows the last end of line was torn.
    log.seek(len(text) - len(lines[-1]))
    log.truncate()
    try:
        head = json.loads(lines[0])
        if head["format"] != FORMAT or datetime.fromisoformat(head["until"]) <= now:
            return None
        data = head["data"]
        sealed = store.get(_half(data), _LIMIT)
        opened = AESGCM(b64decode(head["resume-key"])).decrypt(
            sealed[:12], sealed[12:], _bound(artifact, version, data)
        )
        done = dict(_done(lines[1:-1]))
        again = head["boot"] != _boot()
    except (ValueError, KeyError, TypeError, InvalidTag, Missing):
        return None
    return Sealing(dek=opened, data=data, done=done, again=again, resumed=True)


def _done(lines: Iterable[bytes]) -> Iterable[tuple[str, tuple[Entry, File]]]:
    for line in lines:
        for path, size, mark, changed, shards in json.loads(line):
            raw = bytes.fromhex(shards)
            digests = tuple(raw[at : at + 32] for at in range(0, len(raw), 32))
            mark = tuple(mark) if isinstance(mark, list) else mark
            yield path, (Entry(path, size, mark, changed), File(path, size, digests))


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        # Where a restart cannot be told, every resumption counts as one.
        return secrets.token_hex(16)


def _forget_expired(states: Path, now: datetime) -> None:
    for path in states.glob("*.state"):
        try:
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                head = json.loads(file.readline() or b"{}")
            if datetime.fromisoformat(head["until"]) <= now.astimezone(UTC):
                path.unlink(missing_ok=True)
        except (OSError, ValueError, KeyError, TypeError):
            # Another sealing holds it, or it is none of ours.
            continue
