"""Unsealing: what a manifest names, and nothing else, becomes plaintext once all of it has been verified.

Verified files are collected out of sight, in `.jewelhouse.partial` of the destination, and appear under their
names when the last one is whole. What a run that was cut short had verified is hashed and not fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import manifest as form
from jewelhouse.weights import paths, series, signing, stores, stream
from jewelhouse.weights.contents import Contents, contents
from jewelhouse.weights.manifest import File, Manifest, Trust
from jewelhouse.weights.stores import RemoteStore, Store, StoreError
from jewelhouse.weights.work import WAITING, WHOLE, Progress, each, processors, rounds, silent
from jewelhouse.weights.wrap import Opener


class Incomplete(StoreError):
    """The store does not hold exactly what the manifest names."""


class Occupied(JewelhouseError):
    """The destination holds something else."""


@dataclass(frozen=True, kw_only=True)
class Unsealed:
    """`kept`: files that an earlier run had unsealed."""

    manifest: Manifest
    kept: int = 0


def current(store: Store, trust: Trust, *, artifact: str | None, now: datetime) -> Manifest:
    """The current manifest of a store, once this reader may believe it. Raises Untrusted and its like."""
    name, data = series.newest(store, form.SERIES, signing.LARGEST_ENVELOPE)
    found = form.read(data, trust, now=now, artifact=artifact)
    if name != form.name(found):
        raise form.Untrusted(
            f"holds version {found.version}, wrapping {found.wrapping}: somebody gave it a later name",
            where=f"{store.url}/{name}",
        )
    return found


def complete(store: Store, found: Manifest) -> None:
    """Raises Incomplete unless the store holds what the manifest names, in its size, and nothing besides."""
    sizes = store.sizes(f"data/{found.data}")
    problems = []
    for file in found.files:
        size = sizes.pop(found.object(file.path), None)
        if size is None:
            problems.append(f"{file.path!r} is missing")
        elif size != stream.ciphertext_size(file.size):
            problems.append(
                f"{file.path!r} has {size} bytes of ciphertext, expected {stream.ciphertext_size(file.size)}"
            )
    problems += [f"{name} is in no manifest" for name in sorted(sizes)]
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise Incomplete("; ".join(problems[:20]) + more, where=store.url)


def verify(
    store: Store,
    trust: Trust,
    *,
    artifact: str | None,
    now: datetime,
    opener: Opener | None = None,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Manifest:
    """The current manifest, with the store complete; with an opener every byte has been opened and matches.

    Nothing is written. Raises Untrusted, Incomplete, Tampered, NotOpened.
    """
    found = current(store, trust, artifact=artifact, now=now)
    complete(store, found)
    if opener is not None:
        progress.total(found.size)
        dek = opener(found)

        def read(part: tuple[Contents, int]) -> None:
            reading, index = part
            for piece in reading.shard(index):
                progress(len(piece))

        parts = (
            (reading, index)
            for reading in (contents(store, found, file, dek) for file in found.files)
            for index in range(reading.shards)
        )
        workers = processors(jobs) if store.path(form.SERIES) is not None else max(processors(jobs), WAITING)
        for _ in each(read, parts, workers):
            pass
    return found


def unseal(
    store: Store,
    destination: str | os.PathLike[str],
    trust: Trust,
    *,
    artifact: str | None,
    opener: Opener,
    now: datetime,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Unsealed:
    """Unseals the current version of an artifact into a directory, or to an fsspec URL.

    `opener` is called once, with the verified manifest. Files are readable by their owner alone (0600, 0700).
    Raises Untrusted, MalformedManifest, Incomplete, Occupied, NotOpened, Tampered, StoreError; then nothing
    of this version stands under its name that did not before.
    """
    found = current(store, trust, artifact=artifact, now=now)
    complete(store, found)
    progress.total(found.size)
    target = stores.store(destination)
    if isinstance(target, RemoteStore):
        _refuse_others(dict.fromkeys(target.sizes(""), True), found, target.url)
        _upload(store, found, opener(found), target, max(processors(jobs), WAITING), progress)
        return Unsealed(manifest=found)
    root = Path(target.url)
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _Directory(store, found, root, processors(jobs), progress).fill(opener)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", where=str(error.filename or root)) from error


class _Directory:
    """A local destination."""

    def __init__(self, store: Store, found: Manifest, root: Path, jobs: int, progress: Progress) -> None:
        self.store, self.manifest, self.root = store, found, root
        self.jobs, self.progress = jobs, progress
        self.partial = root / paths.PARTIAL
        self.whole = self.partial / "whole"
        self.local = store.path(form.SERIES) is not None

    def fill(self, opener: Opener) -> Unsealed:
        there = _held(self.root)
        _refuse_others(there, self.manifest, str(self.root))
        kept = {file.path for file in self.manifest.files if file.path in there and self._standing(file)}
        if self.partial.is_symlink():
            raise Occupied("is a symbolic link", where=str(self.partial))
        self.whole.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept_aside = set()
        for file in self.manifest.files:
            if file.path not in kept and _matches(self.whole / paths.object_name(file.path), file):
                kept_aside.add(file.path)
                self.progress(file.size)
        rest = [file for file in self.manifest.files if file.path not in kept | kept_aside]
        dek = opener(self.manifest)
        for lot, workers in rounds(rest, lambda file: file.size, self.jobs, local=self.local):
            for _ in each(lambda file: self._unseal(file, dek), lot, workers):
                pass
        self._appear(file for file in self.manifest.files if file.path not in kept)
        return Unsealed(manifest=self.manifest, kept=len(kept) + len(kept_aside))

    def _standing(self, file: File) -> bool:
        if not _matches(self.root / file.path, file):
            raise Occupied(
                "holds other content",
                where=str(self.root / file.path),
                remedy="unseal into an empty directory",
            )
        self.progress(file.size)
        return True

    def _unseal(self, file: File, dek: bytes) -> None:
        name = paths.object_name(file.path)
        part = self.partial / f"{name}.part"
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            (self._small if file.size <= WHOLE else self._large)(file, dek, part)
            os.rename(part, self.whole / name)
        finally:
            # What did not verify is not kept.
            part.unlink(missing_ok=True)

    def _small(self, file: File, dek: bytes, part: Path) -> None:
        for piece in contents(self.store, self.manifest, file, dek).pieces():
            part.write_bytes(piece)
            self.progress(len(piece))

    def _large(self, file: File, dek: bytes, part: Path) -> None:
        bound = self.manifest.associated_data(file.path)
        source = self.store.path(self.manifest.object(file.path))
        if source is not None:
            stream.decrypt_file(
                Path(source), part, dek, bound, shards=file.shards, jobs=self.jobs, progress=self.progress
            )
            os.chmod(part, 0o600)
            return
        reading = contents(self.store, self.manifest, file, dek)
        with open(part, "r+b", buffering=0) as out:
            out.truncate(file.size)

            def shard(index: int) -> None:
                offset = index * form.SHARD
                for piece in reading.shard(index):
                    os.pwrite(out.fileno(), piece, offset)
                    offset += len(piece)
                    self.progress(len(piece))

            for _ in each(shard, range(reading.shards), max(self.jobs, WAITING)):
                pass

    def _appear(self, files: Iterable[File]) -> None:
        made: set[str] = {""}

        def directory(path: str) -> None:
            if path not in made:
                directory(path.rpartition("/")[0])
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.root / path, 0o700)
                made.add(path)

        for path in self.manifest.directories:
            directory(path)
        for file in files:
            directory(file.path.rpartition("/")[0])
            os.rename(self.whole / paths.object_name(file.path), self.root / file.path)
        shutil.rmtree(self.partial)


def _held(root: Path) -> dict[str, bool]:
    """What a destination holds: files (True) and directories. Links and devices are refused."""
    found: dict[str, bool] = {}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                if path == paths.PARTIAL:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    found[path] = False
                    waiting.append(f"{path}/")
                elif entry.is_file(follow_symlinks=False):
                    found[path] = True
                else:
                    raise Occupied("is neither file nor directory", where=str(root / path))
    return found


def _refuse_others(there: dict[str, bool], found: Manifest, where: str) -> None:
    """A workload takes all that lies in its directory for the artifact: nothing else may be in it."""
    files = {file.path for file in found.files}
    directories = set(found.directories)
    for path in (*files, *found.directories):
        while path := path.rpartition("/")[0]:
            directories.add(path)
    others = [path for path, is_file in there.items() if path not in (files if is_file else directories)]
    if others:
        raise Occupied(
            f"holds what is not of this artifact: {', '.join(map(repr, sorted(others)[:10]))}",
            where=where,
            remedy="unseal into an empty directory",
        )


def _matches(path: Path, file: File) -> bool:
    """Whether a file of this machine holds what the manifest says."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    with open(opened, "rb", buffering=0) as content:
        if os.fstat(opened).st_size != file.size:
            return False
        for expected in file.shards:
            digest = hashlib.sha256()
            left = form.SHARD
            while left and (piece := content.read(min(WHOLE, left))):
                digest.update(piece)
                left -= len(piece)
            if digest.digest() != expected:
                return False
    return True


def _upload(
    store: Store, found: Manifest, dek: bytes, target: RemoteStore, workers: int, progress: Progress
) -> None:
    def one(file: File) -> None:
        reading = contents(store, found, file, dek)
        if file.size <= WHOLE:
            target.put(file.path, b"".join(reading.pieces()))
            progress(file.size)
            return
        try:
            with target.writing(file.path) as out:
                for piece in reading.pieces():
                    out.write(piece)
                    progress(len(piece))
        except BaseException:
            target.delete(file.path)
            raise

    for _ in each(one, found.files, workers):
        pass
