"""What stands against a lifecycle as a whole: names, the graph, accounts, machines, images, licences.

Everything is found in one pass; each problem names the YAML path and a remedy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module

from jewelhouse.checks import graph, images, parties, terms
from jewelhouse.checks.scope import Scope
from jewelhouse.errors import JewelhouseError, Problem
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import Lifecycle
from jewelhouse.release import compiler, lint
from jewelhouse.release.documents import Document


def problems(
    lifecycle: Lifecycle, *, broken: frozenset[str] = frozenset(), now: datetime | None = None
) -> list[Problem]:
    """Everything that stands against a lifecycle.

    `broken` holds the YAML paths of entries that failed on their own: their names count as known, and
    nothing more is said about them. `now` decides about expired licences.
    """
    scope = Scope(lifecycle, broken, now or datetime.now(UTC))
    found = [*graph.problems(scope), *parties.problems(scope)]
    for stage in lifecycle.stages.values():
        where = f"stages.{stage.name}"
        image = lifecycle.images.get((stage.image, stage.platform))
        # Only the tables of used clouds are loaded.
        hardware = import_module(f"jewelhouse.hardware.{stage.cloud}")
        found += hardware.problems(stage, image, where)
        found += images.of_stage(scope, stage, where)
        found += terms.of_stage(scope, stage, where)
    found += images.problems(scope)
    if not found and not broken:
        found += _uncompilable(lifecycle)
    return list(dict.fromkeys(found))


def _uncompilable(lifecycle: Lifecycle) -> list[Problem]:
    """What the release compilers refuse, and what lint calls an error in what they make: gates that prove too
    little, documents over a service's limit."""
    found: list[Problem] = []
    for key, policy in release_policies(lifecycle).items():
        try:
            lint.refuse([Document(name=key.name, cloud=key.cloud, body=compiler.compile(policy))])
        except JewelhouseError as error:
            found += error.problems
    return found
