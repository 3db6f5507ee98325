"""Before any stage runs: whether each attested key is guarded by what the lifecycle compiles to.

What somebody changed by hand in the cloud, or in the stack's state, lies in the deployed document; the
release diff says whom it lets open what.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from jewelhouse import lifecycle as graph
from jewelhouse.model import Lifecycle
from jewelhouse.rehearsal.scenes import Scene
from jewelhouse.rehearsal.services import Wrong
from jewelhouse.release import diff, snapshots, states
from jewelhouse.release.difference import Change
from jewelhouse.release.snapshots import Snapshot

REMEDY = "pulumi up --refresh makes it again what the lifecycle compiles to"


def scenes(lifecycle: Lifecycle, export: Mapping[str, Any]) -> Iterator[Scene]:
    """A scene for each attested key, and one for what concerns none of them alone."""
    compiled, deployed = _compiled(lifecycle), states.snapshot("the stack", export)
    changes: dict[str, list[Change]] = defaultdict(list)
    for change in diff.diff(compiled, deployed).changes:
        if change.wider or change.unsure:
            changes[change.key].append(change)
    for key in sorted({*compiled.keys, *filter(None, changes)}):
        yield _scene(key, changes.get(key, []))
    if "" in changes:
        yield _scene("the stack", changes[""])


def _scene(key: str, changes: list[Change]) -> Scene:
    said = tuple("; ".join((one.what, *one.details)) for one in changes)
    return Scene(
        stage=key,
        wrong=Wrong.WIDENED,
        expected=not said,
        stopped=said,
        note=f"{said[0]}. {REMEDY}" if said else "guarded by what the lifecycle compiles to",
    )


def _compiled(lifecycle: Lifecycle) -> Snapshot:
    return snapshots.of_policies(
        "the lifecycle",
        graph.release_policies(lifecycle).values(),
        images={name: lifecycle.image(stage) for name, stage in lifecycle.stages.items()},
        artifacts=lifecycle.artifacts,
        weakened=graph.weakenings(lifecycle),
    )
