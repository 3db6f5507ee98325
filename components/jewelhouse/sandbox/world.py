"""The memory of the stand-in clouds: what exists, under which names, and what was deleted but holds its name.

One SQLite file, since several provider processes run at once and the next run must find what this one made.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS resources (
  package TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL, scope TEXT NOT NULL,
  inputs TEXT NOT NULL, outputs TEXT NOT NULL, PRIMARY KEY (package, type, scope, id)
);
CREATE TABLE IF NOT EXISTS names (
  space TEXT NOT NULL, name TEXT NOT NULL, holder TEXT NOT NULL, until REAL, PRIMARY KEY (space, name)
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Thing:
    """One existing resource; `scope` is the account and region, the subscription or the project."""

    type: str
    id: str
    scope: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class World:
    """What exists. All methods are atomic; `names` are held until given back or until a time.

    `cache` keeps what is slow to make and belongs to no world: RSA keys.
    """

    def __init__(self, directory: Path, cache: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.cache = cache or directory
        self._path = directory / "world.sqlite"
        self.directory = directory
        # Many processes start at once; SQLite waits for others everywhere but in a change of its journal.
        with (directory / "world.lock").open("w") as lock:
            flock(lock, LOCK_EX)
            with self._open() as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(_TABLES)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=30)
        # A throw-away world outlives a killed process, and need not outlive a power failure.
        db.execute("PRAGMA synchronous = OFF")
        try:
            with db:
                yield db
        finally:
            db.close()

    def put(self, package: str, thing: Thing) -> None:
        with self._open() as db:
            db.execute(
                "INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?, ?, ?)",
                (
                    package,
                    thing.type,
                    thing.id,
                    thing.scope,
                    json.dumps(thing.inputs),
                    json.dumps(thing.outputs),
                ),
            )

    def get(self, package: str, kind: str, scope: str, identity: str) -> Thing | None:
        with self._open() as db:
            row = db.execute(
                "SELECT type, id, scope, inputs, outputs FROM resources "
                "WHERE package = ? AND type = ? AND scope = ? AND id = ?",
                (package, kind, scope, identity),
            ).fetchone()
        return _thing(row) if row else None

    def remove(self, package: str, kind: str, scope: str, identity: str) -> None:
        with self._open() as db:
            db.execute(
                "DELETE FROM resources WHERE package = ? AND type = ? AND scope = ? AND id = ?",
                (package, kind, scope, identity),
            )

    def all(self, package: str, kind: str) -> list[Thing]:
        with self._open() as db:
            rows = db.execute(
                "SELECT type, id, scope, inputs, outputs FROM resources WHERE package = ? AND type = ?",
                (package, kind),
            ).fetchall()
        return [_thing(row) for row in rows]

    def find(self, package: str, identity: str, kind: str = "") -> Thing | None:
        """A resource by its id in any account, subscription or project; without case, as in ARM."""
        with self._open() as db:
            row = db.execute(
                "SELECT type, id, scope, inputs, outputs FROM resources "
                "WHERE package = ? AND lower(id) = lower(?) AND (? = '' OR type = ?)",
                (package, identity, kind, kind),
            ).fetchone()
        return _thing(row) if row else None

    def users(self, package: str, identity: str) -> list[Thing]:
        """Resources whose inputs name an id."""
        with self._open() as db:
            rows = db.execute(
                "SELECT type, id, scope, inputs, outputs FROM resources "
                "WHERE package = ? AND instr(inputs, ?)",
                (package, json.dumps(identity)),
            ).fetchall()
        return [_thing(row) for row in rows]

    def remove_below(self, package: str, identity: str) -> None:
        """Removes everything whose path begins with an id: what goes with a resource group."""
        with self._open() as db:
            db.execute(
                "DELETE FROM resources WHERE package = ? AND lower(id) LIKE ? ESCAPE '!'",
                (package, re.sub(r"([!%_])", r"!\1", identity.lower()) + "/%"),
            )

    def take(self, space: str, name: str, holder: str) -> bool:
        """Holds a name in a name space; False when somebody else has it, or it is still soft-deleted."""
        with self._open() as db:
            db.execute("DELETE FROM names WHERE until IS NOT NULL AND until < ?", (time.time(),))
            row = db.execute(
                "SELECT holder, until FROM names WHERE space = ? AND name = ?", (space, name)
            ).fetchone()
            if row and (row[0] != holder or row[1] is not None):
                return False
            db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?, NULL)", (space, name, holder))
        return True

    def holder(self, space: str, name: str) -> tuple[str, bool] | None:
        """(holder, soft-deleted) of a name, or None when it is free."""
        with self._open() as db:
            row = db.execute(
                "SELECT holder, until FROM names "
                "WHERE space = ? AND name = ? AND (until IS NULL OR until > ?)",
                (space, name, time.time()),
            ).fetchone()
        return (row[0], row[1] is not None) if row else None

    def give_back(self, space: str, name: str, *, after: float = 0) -> None:
        """Frees a name, at once or `after` seconds of soft deletion."""
        with self._open() as db:
            if after:
                db.execute(
                    "UPDATE names SET until = ? WHERE space = ? AND name = ?",
                    (time.time() + after, space, name),
                )
            else:
                db.execute("DELETE FROM names WHERE space = ? AND name = ?", (space, name))

    def number(self, series: str, name: str) -> int:
        """0, 1, 2, ... in the order in which names of a series are first asked for."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            found = db.execute("SELECT value FROM facts WHERE name = ?", (f"{series} {name}",)).fetchone()
            if found:
                return int(found[0])
            count = db.execute("SELECT COUNT(*) FROM facts WHERE name LIKE ?", (f"{series} %",)).fetchone()[0]
            db.execute("INSERT INTO facts VALUES (?, ?)", (f"{series} {name}", str(count)))
        return count

    def fails(self, kind: str, name: str) -> str | None:
        """The error that a test asked for in `fail.json`, counted down; None when this creation goes through.

        `{"type": "aws:s3/bucket:Bucket", "name": ".*-store", "times": 2, "message": "..."}`: `name` is a
        regular expression over the resource's whole name (default: any), `message` defaults to throttling.
        """
        path = self.directory / "fail.json"
        if not path.is_file():
            return None
        with path.open("r+", encoding="utf-8") as file:
            flock(file, LOCK_EX)
            wish = json.load(file)
            if wish["type"] != kind or not re.fullmatch(wish.get("name", ".*"), name) or wish["times"] < 1:
                return None
            wish["times"] -= 1
            file.seek(0)
            file.truncate()
            json.dump(wish, file)
        return wish.get("message", "ThrottlingException: Rate exceeded")


def _thing(row: tuple[str, str, str, str, str]) -> Thing:
    return Thing(row[0], row[1], row[2], json.loads(row[3]), json.loads(row[4]))
