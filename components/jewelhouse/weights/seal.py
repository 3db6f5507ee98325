"""Sealing: a tree of plaintext becomes ciphertext and a signed manifest, with public keys alone.

The order in which nothing is ever half there: sealed files go to a directory of their own in the store, the
source is looked at again, and only then one write of its manifest makes the new version the current one.
Readers of the version before keep what they read until it is retired.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import ArtifactKind
from jewelhouse.weights import manifest as form
from jewelhouse.weights import paths, resume, series, signing, sources, stream, wrap
from jewelhouse.weights.contents import Contents
from jewelhouse.weights.manifest import File, Manifest
from jewelhouse.weights.resume import Sealing
from jewelhouse.weights.signing import PrivateKey
from jewelhouse.weights.sources import Changed, Entry, Source, Tree
from jewelhouse.weights.stores import Missing, Store, StoreError
from jewelhouse.weights.work import WHOLE, Progress, each, processors, rounds, silent


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is sealed, to whom, by whom. `producer` is free text for people: who or what made it."""

    artifact: str
    kind: ArtifactKind
    version: int
    recipients: Sequence[wrap.Recipient]
    signers: Sequence[PrivateKey]
    producer: str
    expires: datetime


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """`kept`: files that an interrupted sealing had finished. `unchanged`: the version was there already."""

    manifest: Manifest
    kept: int = 0
    unchanged: bool = False


def seal(
    source: Source,
    store: Store,
    order: Order,
    *,
    now: datetime,
    states: Path | None = None,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Sealed:
    """Seals everything in `source` into `store` as one version of an artifact.

    `states` is where this machine keeps what is needed to go on after an interruption; with None a sealing
    that fails removes what it wrote. Sealing the same content as the same version again changes nothing.

    Raises NotSealable for links and devices, Changed when the source is written to meanwhile, JewelhouseError
    when the store holds this or a later version with other content, StoreError.
    """
    wrapped = wrap.wrap(bytes(wrap.DEK), order.recipients)
    tree = source.scan()
    sources.check(tree, source.url)
    if (there := _current(store, order)) is not None:
        _same(source, tree, order, there, {one.key: one.public for one in wrapped})
        return Sealed(manifest=there, unchanged=True)
    sealing = resume.begin(store, order.artifact, order.version, states, now)
    named = False
    try:
        files, kept = _files(source, tree, store, order, sealing, processors(jobs), progress)
        found = Manifest(
            artifact=order.artifact,
            kind=order.kind,
            version=order.version,
            wrapping=1,
            created=now.replace(microsecond=0),
            expires=order.expires.replace(microsecond=0),
            producer=order.producer,
            data=sealing.data,
            files=files,
            directories=tree.directories,
            keys=wrap.wrap(sealing.dek, order.recipients),
        )
        envelope = form.envelope(found, order.signers)
        if sealing.resumed:
            _tidy(store, found)
        named = True
        series.publish(store, form.name(found), envelope)
    except BaseException as error:
        sealing.close()
        # A manifest whose writing was cut off may be there all the same, and what it names has to be, too.
        if states is None and not named:
            # Who may only add leaves it to the owner's `prune`; why it failed is what matters here.
            with contextlib.suppress(StoreError):
                store.delete(f"data/{sealing.data}")
        if isinstance(error, OSError):
            raise StoreError(
                f"cannot be sealed: {error.strerror}", where=str(error.filename or source.url)
            ) from error
        raise
    sealing.end(store)
    return Sealed(manifest=found, kept=kept)


def _current(store: Store, order: Order) -> Manifest | None:
    """The manifest of this very version, when it is there. What it says can only lead to a refusal."""
    try:
        name, data = series.newest(store, form.SERIES, signing.LARGEST_ENVELOPE)
    except Missing:
        return None
    there = form.decode(signing.unpack(data, form.NAME).payload)
    where = f"{store.url}/{name}"
    if there.artifact != order.artifact:
        raise JewelhouseError(
            f"the store holds the artifact {there.artifact}",
            where=where,
            remedy="give each artifact a store of its own",
        )
    if there.version > order.version:
        raise JewelhouseError(
            f"the store holds version {there.version} already",
            where=where,
            remedy=f"seal as version {there.version + 1} or later: versions only rise",
        )
    if there.version < order.version:
        return None
    own = {signing.identity(key.public_key()): key.public_key() for key in order.signers}
    signing.verified(data, own.values(), len(own), where)
    return there


def _same(source: Source, tree: Tree, order: Order, there: Manifest, keys: Mapping[str, str]) -> None:
    listed = {file.path: file for file in there.files}
    same = (
        listed.keys() == tree.files.keys()
        and there.directories == tree.directories
        and all(listed[path].size == entry.size for path, entry in tree.files.items())
        and all(listed[path].shards == _digests(source, entry) for path, entry in tree.files.items())
    )
    if not same:
        raise JewelhouseError(
            f"the store holds version {there.version} with other content",
            where="--version",
            remedy=f"seal as version {there.version + 1}: what a version holds never changes",
        )
    if {one.key: one.public for one in there.keys} != keys:
        raise JewelhouseError(
            f"version {there.version} is sealed to other keys",
            where="--to",
            remedy="change who may open it by rewrap, or seal the next version",
        )


def _files(
    source: Source, tree: Tree, store: Store, order: Order, sealing: Sealing, jobs: int, progress: Progress
) -> tuple[tuple[File, ...], int]:
    """All files sealed, as the manifest lists them, and how many of them had been before."""
    files = dict(_finished(tree, store, order, sealing))
    kept = len(files)
    progress.total(sum(entry.size for entry in tree.files.values()))
    progress(sum(file.size for file in files.values()))
    began: dict[str, int] = {}
    one = _OneFile(source, store, order.artifact, order.version, sealing, jobs, progress)
    rest = [entry for path, entry in tree.files.items() if path not in files]
    local = store.path(form.SERIES) is not None and all(source.file(entry.path) is not None for entry in rest)

    def work(entry: Entry) -> tuple[int, File]:
        started = time.time_ns()
        return started, one.seal(entry)

    if (directory := store.path(f"data/{sealing.data}")) is not None:
        os.makedirs(directory, exist_ok=True)
    for lot, workers in rounds(rest, lambda entry: entry.size, jobs, local=local):
        for entry, (started, file) in each(work, lot, workers):
            began[entry.path] = started
            files[entry.path] = file
            sealing.finished(entry, file, started)
    sealing.flush()
    sources.reread(tree, source.scan(), source.url)
    _look_again(source, tree, files, began)
    return tuple(files[path] for path in tree.files), kept


def _finished(tree: Tree, store: Store, order: Order, sealing: Sealing) -> Iterator[tuple[str, File]]:
    """What was sealed before an interruption and is still as it was, on both sides."""
    if not sealing.done:
        return
    prefix = f"data/{sealing.data}"
    sizes = store.sizes(prefix)
    for path, (entry, file) in sealing.done.items():
        name = f"{prefix}/{paths.object_name(path)}"
        if tree.files.get(path) != entry or sizes.get(name) != stream.ciphertext_size(file.size):
            continue
        if sealing.again and store.path(name) is not None:
            bound = form.associated_data(order.artifact, order.version, path)
            try:
                for _ in Contents(store.reader(name), file, sealing.dek, bound).pieces():
                    pass
            except stream.Tampered:
                continue
        yield path, file


def _look_again(source: Source, tree: Tree, files: Mapping[str, File], began: Mapping[str, int]) -> None:
    """Reads once more what was written shortly before it was sealed: time stamps are too coarse to tell
    whether it was written again right after."""
    for path, started in began.items():
        entry = tree.files[path]
        if entry.changed > started - resume.COARSE and _digests(source, entry) != files[path].shards:
            raise Changed(
                f"changed while it was being sealed: {path!r}",
                where=source.url,
                remedy="let nothing write there and run again",
            )


def _digests(source: Source, entry: Entry) -> tuple[bytes, ...]:
    read = source.reader(entry.path)
    found = []
    for start in range(0, entry.size, form.SHARD):
        digest = hashlib.sha256()
        for offset in range(start, min(start + form.SHARD, entry.size), WHOLE):
            digest.update(read(offset, min(WHOLE, start + form.SHARD - offset, entry.size - offset)))
        found.append(digest.digest())
    return tuple(found)


def _tidy(store: Store, found: Manifest) -> None:
    """Removes what an interrupted sealing left of files that are no longer in the source."""
    expected = {found.object(file.path) for file in found.files}
    for name in store.sizes(f"data/{found.data}").keys() - expected:
        store.delete(name)


class _OneFile:
    """Seals one file, by the shortest way between where it is and where it goes."""

    def __init__(
        self,
        source: Source,
        store: Store,
        artifact: str,
        version: int,
        sealing: Sealing,
        jobs: int,
        progress: Progress,
    ) -> None:
        self.source, self.store, self.dek = source, store, sealing.dek
        self.artifact, self.version = artifact, version
        self.prefix = f"data/{sealing.data}/"
        self.jobs, self.progress = jobs, progress

    def seal(self, entry: Entry) -> File:
        name = self.prefix + paths.object_name(entry.path)
        bound = form.associated_data(self.artifact, self.version, entry.path)
        file, target = self.source.file(entry.path), self.store.path(name)
        if entry.size <= WHOLE:
            found = self._whole(entry, file, name, target, bound)
        elif file is not None and target is not None:
            found = self._streamed(entry, file, target, bound)
        else:
            found = self._spooled(entry, file, name, target, bound)
        return found

    def _whole(self, entry: Entry, file: str | None, name: str, target: str | None, bound: bytes) -> File:
        data = self.source.reader(entry.path)(0, entry.size + 1) if file is None else _content(file, entry)
        if len(data) != entry.size:
            raise _changed(entry, self.source.url)
        sealed = stream.encrypt(data, self.dek, bound)
        if target is None:
            self.store.put(name, sealed)
        else:
            _write(target, sealed)
        self.progress(entry.size)
        return File(entry.path, entry.size, (hashlib.sha256(data).digest(),) if data else ())

    def _streamed(self, entry: Entry, file: str, target: str, bound: bytes) -> File:
        made = stream.encrypt_file(file, target, self.dek, bound, jobs=self.jobs, progress=self.progress)
        if made.size != entry.size:
            raise _changed(entry, self.source.url)
        return File(entry.path, made.size, made.shards)

    def _spooled(self, entry: Entry, file: str | None, name: str, target: str | None, bound: bytes) -> File:
        """Through a file of this machine, which holds ciphertext only where the source is local."""
        with tempfile.TemporaryDirectory(prefix="jewelhouse-") as directory:
            if file is None:
                file = f"{directory}/source"
                _fetch(self.source, entry, file)
            sealed = target or f"{directory}/sealed"
            found = self._streamed(entry, file, sealed, bound)
            if target is None:
                self.store.put_file(name, Path(sealed))
            return found


def _content(file: str, entry: Entry) -> bytes:
    opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.read(opened, entry.size + 1)
    finally:
        os.close(opened)


def _write(target: str, data: bytes) -> None:
    # Not by a name of its own and a rename: until the journal or the manifest names it, nobody believes it.
    opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        written = os.write(opened, data)
        while written < len(data):
            written += os.write(opened, memoryview(data)[written:])
    finally:
        os.close(opened)


def _fetch(source: Source, entry: Entry, target: str) -> None:
    read = source.reader(entry.path)
    with open(target, "xb") as file:
        for offset in range(0, entry.size, WHOLE):
            file.write(read(offset, min(WHOLE, entry.size - offset)))


def _changed(entry: Entry, where: str) -> Changed:
    return Changed(
        f"changed while it was being sealed: {entry.path!r}",
        where=where,
        remedy="let nothing write there and run again: what did not change is not sealed again",
    )
