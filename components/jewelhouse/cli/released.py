"""What opens an artifact for `jewelhouse weights`: a development key, or a release to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jewelhouse.cli.options import content
from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import wrap
from jewelhouse.weights.manifest import Manifest

UnwrapOption = Annotated[
    Path | None, typer.Option("--unwrap", metavar="KEY.pem", help="Development key that opens it.")
]
ReleaseOption = Annotated[
    Path | None,
    typer.Option(
        "--release",
        metavar="STAGE.json",
        help="Open by a release to this machine, which must be attested as the stage's; the settings that "
        "the stage is given.",
    ),
]
EndpointsOption = Annotated[
    Path | None,
    typer.Option("--endpoints", metavar="FILE", help="Services elsewhere than in the cloud (a rehearsal)."),
]


def opener(
    unwrap: Path | None, password: bytes | None, release: Path | None = None, endpoints: Path | None = None
) -> wrap.Opener | None:
    """What gives a manifest's data key, or None when neither way was named.

    Raises JewelhouseError for both at once, and what is wrong with the key or the settings.
    """
    if unwrap and release:
        raise JewelhouseError("opens by --unwrap or by --release, not by both", where="--release")
    if release:
        return _released(release, endpoints)
    return wrap.with_private_key(unwrap, password) if unwrap else None


def in_memory(destination: str) -> None:
    """Raises NotMemory for a destination that would keep plaintext on a disk or carry it away."""
    from jewelhouse.guest import memory

    place = Path(destination).absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    if "://" in destination or memory.file_system(there) not in memory.MEMORY:
        raise memory.NotMemory(
            "lies outside this machine's memory",
            where=destination,
            remedy="what a release opens stays in memory: give a folder on tmpfs, such as /dev/shm/opened",
        )


def _released(release: Path, endpoints: Path | None) -> wrap.Opener:
    # The clouds' clients take their time to load.
    from jewelhouse.guest import opening, settings

    stage = settings.stage(content(release))
    places = settings.endpoints(content(endpoints)) if endpoints else settings.THE_CLOUD
    places = opening.prepare(stage, places)
    released = opening.opener(stage, places)

    def opened(found: Manifest) -> bytes:
        if found.artifact not in stage.opens:
            raise opening.Closed(
                f"does not open {found.artifact}",
                where=f"stage {stage.stage}",
                remedy=f"it opens {', '.join(sorted(stage.opens))}",
            )
        asked = stage.opens[found.artifact]
        return released(
            opening.Asked(
                artifact=found.artifact,
                key=asked.key,
                wrapped=found.wrapped(asked.key).ciphertext,
                credentials=asked.credentials,
            )
        ).dek

    return opened
