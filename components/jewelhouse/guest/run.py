"""One run of a stage: keys released, artifacts opened into memory, the workload run, what it made sealed.

Closed at every door: nothing runs before all that the stage opens is open, nothing leaves but ciphertext, and
whatever fails ends the run.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import memory, opening
from jewelhouse.guest.opening import Asked, Closed, Opener
from jewelhouse.guest.record import Record
from jewelhouse.guest.settings import THE_CLOUD, Endpoints, Stage, Trust
from jewelhouse.weights import mandate, manifest, rewrap, seal, series, signing, sources, stores, unseal
from jewelhouse.weights.mandate import Mandate
from jewelhouse.weights.manifest import Manifest

OPENED, SEALING = "JEWELHOUSE_OPENED", "JEWELHOUSE_SEALING"
# What the workload gets to see of the guest's own environment: nothing that a host could set.
PASSED = ("PATH", "HOME", "LANG", "PYTHONUNBUFFERED")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run needs. `parent`: a folder in memory; `environment`: the workload's own."""

    stage: Stage
    trust: Trust
    opener: Opener
    parent: Path
    endpoints: Endpoints = THE_CLOUD
    environment: Mapping[str, str] | None = None
    report: Callable[[str], None] = print


def run(given: Run, record: Record) -> int:
    """Runs the stage and returns the status of its workload; what happened is in the record.

    Raises JewelhouseError for every door that stayed closed; then the workload has not run, or what it made
    has not left.
    """
    try:
        return _run(given, record)
    except JewelhouseError as error:
        record.refused(error)
        raise


def _run(given: Run, record: Record) -> int:
    _allowed(given)
    if given.trust.gpu is not None:
        opening.gpus().attest(given.trust.gpu, given.stage.platform, record, given.endpoints)
    with memory.workspace(given.parent) as folder:
        opened, sealing = folder / "opened", folder / "sealing"
        for directory in (opened, sealing):
            directory.mkdir(mode=0o700)
        for artifact in sorted(given.stage.opens):
            if artifact not in given.trust.rewraps or given.trust.rewraps[artifact].unseal:
                found = _open(given, record, artifact, opened / artifact)
                given.report(f"opened {artifact} version {found.version}, {found.size} bytes")
        for artifact in sorted(given.stage.rewraps):
            done = _rewrap(given, record, artifact)
            keys = ", ".join(one.key for one in done.keys)
            given.report(f"{artifact} version {done.version} opens by {keys}")
        # Looked at before the work is done, not after.
        mandates = {
            artifact: _mandate(given, artifact, given.trust.seals[artifact], one.store, mandate.SEALS)
            for artifact, one in sorted(given.stage.seals.items())
        }
        for artifact in mandates:
            (sealing / artifact).mkdir(mode=0o700)
        status = _work(given, opened, sealing)
        record.ran(status)
        if status:
            raise Closed(f"the workload ended with {status}; nothing that it made leaves", where="run")
        for artifact, one in mandates.items():
            made = _seal(given, record, artifact, one, sealing / artifact)
            given.report(f"sealed {artifact} version {made.version}, {made.size} bytes")
    return status


def _allowed(given: Run) -> None:
    """That the host asks for nothing but what is measured."""
    for what, asked, trusted in (
        ("open", given.stage.opens, given.trust.opens),
        ("seal", given.stage.seals, given.trust.seals),
        ("rewrap", given.stage.rewraps, given.trust.rewraps.keys() & given.stage.opens.keys()),
    ):
        if unknown := sorted(set(asked) - set(trusted)):
            raise Closed(
                f"was told to {what} {', '.join(unknown)}, and its image knows only "
                f"{', '.join(sorted(trusted)) or 'nothing'}",
                where="stage settings",
                remedy=f"name it under trust.{what}s of the image's recipe",
            )


def _open(given: Run, record: Record, artifact: str, destination: Path) -> Manifest:
    found = unseal.unseal(
        _store(given, given.stage.opens[artifact].store),
        destination,
        _trusted(given, artifact),
        artifact=artifact,
        opener=_opener(given, record, artifact),
        now=datetime.now(UTC),
    ).manifest
    record.opened(found)
    return found


def _trusted(given: Run, artifact: str) -> manifest.Trust:
    trusted = given.trust.opens[artifact]
    if not trusted.signers:
        raise Closed(
            "its image trusts nobody to sign it",
            where=artifact,
            remedy=f"name signers under trust.opens.{artifact} of the image's recipe",
        )
    return manifest.Trust(
        signers=trusted.signers,
        minimum_version=trusted.minimum_version,
        minimum_wrapping=trusted.minimum_wrapping,
    )


def _opener(given: Run, record: Record, artifact: str) -> Callable[[Manifest], bytes]:
    key = given.stage.opens[artifact].key
    return lambda found: _release(given, record, artifact, found.wrapped(key).ciphertext, key)


def _rewrap(given: Run, record: Record, artifact: str) -> Manifest:
    """Wraps the data key to those keys of the owner's mandate that cannot open it yet; the data stays."""
    place = given.stage.opens[artifact].store
    store, trusted = _store(given, place), _trusted(given, artifact)
    one = _mandate(given, artifact, given.trust.rewraps[artifact].signers, place, mandate.REWRAPS)
    found = unseal.current(store, trusted, artifact=artifact, now=datetime.now(UTC))
    there = {key.key for key in found.keys}
    if not (missing := [recipient for recipient in one.recipients if recipient.key not in there]):
        return found
    key = one.key(lambda wrapped: _release(given, record, artifact, wrapped, one.signing_key.key))
    done = rewrap.add(
        store,
        trusted,
        missing,
        artifact=artifact,
        opener=_opener(given, record, artifact),
        signers=[key],
        now=datetime.now(UTC),
    )
    record.rewrapped(done)
    return done


def _release(given: Run, record: Record, artifact: str, wrapped: bytes, key: str) -> bytes:
    credentials = next((one.credentials for one in given.stage.opens.values() if one.key == key), None)
    opened = given.opener(
        Asked(artifact=artifact, key=key, wrapped=wrapped, credentials=credentials, bound=record.bound)
    )
    record.released(artifact, key, opened.kind, opened.evidence)
    return opened.dek


def _store(given: Run, url: str) -> stores.Store:
    options = given.endpoints.stores
    return stores.store(url, **{**options.get(url.partition("://")[0], {}), **options.get(url, {})})


def _mandate(given: Run, artifact: str, signers: Sequence[str], place: str, part: str) -> Mandate:
    if not signers:
        raise Closed(
            "its image trusts nobody to say to whom it is sealed",
            where=artifact,
            remedy="name signers of mandates for it under trust of the image's recipe",
        )
    found = mandate.current(
        _store(given, place),
        [signing.public_key(pem, f"trust of {artifact}") for pem in signers],
        artifact=artifact,
        now=datetime.now(UTC),
        part=part,
    )
    if not any(one.key == found.signing_key.key for one in given.stage.opens.values()):
        raise Closed(
            f"its signing key is wrapped to {found.signing_key.key}, which this stage does not open",
            where=f"{artifact}: {mandate.NAME}",
        )
    return found


def _work(given: Run, opened: Path, sealing: Path) -> int:
    environment = {name: os.environ[name] for name in PASSED if name in os.environ}
    environment |= {**(given.environment or {}), OPENED: str(opened), SEALING: str(sealing)}
    return subprocess.run(given.trust.run, env=environment, cwd=opened, check=False).returncode


def _seal(given: Run, record: Record, artifact: str, one: Mandate, made: Path) -> Manifest:
    store = _store(given, given.stage.seals[artifact].store)
    key = one.key(lambda wrapped: _release(given, record, artifact, wrapped, one.signing_key.key))
    done = seal.seal(
        sources.source(made),
        store,
        seal.Order(
            artifact=artifact,
            kind=one.kind,
            version=_next(store, one, artifact),
            recipients=one.recipients,
            signers=[key],
            producer=f"{given.stage.lifecycle}/{given.stage.stage}",
            expires=one.expires,
        ),
        now=datetime.now(UTC),
    ).manifest
    record.sealed(done)
    return done


def _next(store: stores.Store, one: Mandate, artifact: str) -> int:
    """One more than the version that is there; what others put there does not count."""
    try:
        _, data = series.newest(store, manifest.SERIES, signing.LARGEST_ENVELOPE)
    except stores.Missing:
        return 1
    try:
        # Whether it has expired matters to readers, not to the number that comes after it.
        payload, _ = signing.verified(data, [signing.public_key(one.signer)], 1, manifest.NAME)
        found = manifest.decode(payload)
    except (signing.Untrusted, signing.MalformedManifest) as error:
        raise Closed(
            f"the store holds a manifest that is not this stage's: {error.what}",
            where=artifact,
            remedy="look at who wrote it; move it away before the stage runs again",
        ) from error
    return found.version + 1
