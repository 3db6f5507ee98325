"""The smallest change of evidence or policy that would turn a decision round.

Found on the openings of the document (`release.facts`), and said only after the evaluator itself agreed on
the changed evidence.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

from jewelhouse.evidence.verdict import Kind, Verdict, moment
from jewelhouse.model import Cloud
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import evaluate
from jewelhouse.release.evaluate.decision import Decision, Request
from jewelhouse.release.facts import Opening

# Beyond it a list of changes explains nothing.
SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an evaluator is asked about: evidence and request, changed together."""

    verdict: Verdict | None
    request: Request


def explain(
    document: Document, verdict: Verdict | None, request: Request, decision: Decision
) -> tuple[str, ...]:
    """What would flip `decision`, a sentence each, the smallest change first; empty when nothing is known."""
    if verdict is not None and not verdict.verified:
        return ("evidence: it must verify before anything it claims counts",)
    try:
        openings = import_module(f"jewelhouse.release.{document.cloud}").parse(document.body).openings
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    asked = Asked(verdict, request)
    if decision.released:
        return tuple(_closing(document, asked, openings))[:SHOWN]
    return tuple(_opening(document, asked, openings))


def _opening(document: Document, asked: Asked, openings: frozenset[Opening]) -> Iterator[str]:
    """For a denial: the fewest changes that meet one opening."""
    if not openings:
        yield "policy: nothing opens it at all; it needs a gate"
        return
    by_distance = sorted(
        (list(_unmet(document, asked, opening)) for opening in openings),
        key=lambda unmet: (len(unmet), str(unmet)),
    )
    for unmet in by_distance:
        changed = asked
        for path, wanted in unmet:
            changed = _changed(document, changed, path, wanted)
        if evaluate(document, changed.verdict, changed.request).released:
            break
    else:
        return
    for path, wanted in unmet:
        found = _found(document, asked, path)
        shown = "nothing" if found is None else found
        yield f"evidence: {path} would have to be {wanted or 'there'}, it is {shown}"
    debug = asked.verdict is not None and asked.verdict.debug
    if debug:
        yield "policy: no change should admit debug evidence; run the production image"
    elif unmet and all(_found(document, asked, path) is not None for path, _ in unmet):
        pinned = " and ".join(f"{path} = {_found(document, asked, path)}" for path, _ in unmet)
        yield f"policy: a gate with {pinned} instead would open it"


def _closing(document: Document, asked: Asked, openings: frozenset[Opening]) -> Iterator[str]:
    """For a release: each single claim without which it is denied."""
    met = [opening for opening in openings if not list(_unmet(document, asked, opening))]
    for path, wanted in dict.fromkeys(item for opening in met for item in _clauses(opening)):
        if wanted is None:
            continue
        changed = _changed(document, asked, path, _other(path, wanted))
        if not evaluate(document, changed.verdict, changed.request).released:
            yield f"evidence: any other {path} than {wanted} is denied"


def _clauses(opening: Opening) -> Iterator[tuple[str, str | None]]:
    if opening.principal is not None:
        yield "principal", opening.principal
    yield from opening.claims.items()
    if opening.until is not None:
        yield "request time before", moment(opening.until)


def _unmet(document: Document, asked: Asked, opening: Opening) -> Iterator[tuple[str, str | None]]:
    for path, wanted in _clauses(opening):
        found = _found(document, asked, path)
        if path == "request time before":
            if opening.until is not None and asked.request.at >= opening.until:
                yield path, wanted
        elif path == "principal" and wanted == "*":
            continue
        elif document.cloud is Cloud.GCP and asked.verdict is not None:
            holds = import_module("jewelhouse.release.evaluate.gcp").holds
            if not holds(path, wanted, asked.verdict.claims):
                yield path, wanted
        elif path.endswith(" (has)"):
            if found is None or wanted not in found.split(", "):
                yield path, wanted
        elif found is None or (wanted is not None and found.lower() != wanted.lower()):
            yield path, wanted


def _other(path: str, wanted: str) -> str:
    """A value of the same shape that differs."""
    if path == "principal":
        return wanted.replace(":role/", ":role/other-") if ":role/" in wanted else f"{wanted}-other"
    last = {"0": "1", "1": "0"}.get(wanted[-1:], "0")
    return wanted[:-1] + last if wanted else "other"


def _found(document: Document, asked: Asked, path: str) -> str | None:
    """What evidence or request say for a claim path, as text; None where they say nothing."""
    if path == "request time before":
        return moment(asked.request.at)
    if document.cloud is Cloud.AWS:
        if path == "principal":
            return asked.request.principal
        context = import_module("jewelhouse.release.evaluate.aws").context_of(asked.verdict, asked.request)
        values = {key.lower(): values for key, values in context.items()}.get(path.lower())
        return None if values is None else ", ".join(values)
    if asked.verdict is None or path == "principal":
        return None
    value: Any = asked.verdict.claims
    for part in _parts(document, path):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return ", ".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _parts(document: Document, path: str) -> list[str]:
    """The members on the way to a claim of a token."""
    plain = path.split(" (")[0]
    if document.cloud is Cloud.AZURE:
        return ["iss"] if plain == "authority" else plain.split(".")
    return plain.removeprefix("assertion.").split(".")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _changed(document: Document, asked: Asked, path: str, wanted: str | None) -> Asked:
    """Evidence and request with one claim as the policy wants it."""
    verdict, request = asked.verdict, asked.request
    if path == "request time before":
        end = wanted or ""
        found = datetime.fromisoformat(end.replace("Z", "+00:00"))
        return Asked(verdict, dataclasses.replace(request, at=found - timedelta(seconds=1)))
    value = "any" if wanted is None else wanted
    if document.cloud is Cloud.AWS:
        if path == "principal":
            return Asked(verdict, dataclasses.replace(request, principal=wanted))
        register = _register(path)
        if register is None:
            return Asked(verdict, dataclasses.replace(request, context={**request.context, path: (value,)}))
        shown = verdict or _document(path, request)
        measurements = {**shown.measurements, register: value}
        return Asked(dataclasses.replace(shown, measurements=measurements), request)
    if verdict is None or path == "principal":
        return asked
    claims = copy.deepcopy(dict(verdict.claims))
    if document.cloud is Cloud.GCP:
        import_module("jewelhouse.release.gcp_claims").meet(claims, path, wanted)
        return Asked(dataclasses.replace(verdict, claims=claims), request)
    *parents, last = _parts(document, path)
    place: Any = claims
    for part in parents:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            return asked
    place[last] = [*place.get(last, []), value] if path.endswith(" (has)") else _like(place.get(last), value)
    return Asked(dataclasses.replace(verdict, claims=claims), request)


def _document(path: str, request: Request) -> Verdict:
    """A document of the kind that a condition key is about, for a call that showed none."""
    kind = Kind.NITRO_TPM if "nitrotpm" in path.lower() else Kind.NITRO_ENCLAVE
    return Verdict(kind=kind, verified=True, debug=False, at=request.at)


def _register(path: str) -> str | None:
    """The register behind a condition key of KMS."""
    name = path.rpartition(":")[2] if path.lower().startswith("kms:recipientattestation:") else ""
    if name.lower() == "imagesha384":
        return "PCR0"
    return name.removeprefix("NitroTPM") or None


def _like(before: Any, value: str) -> Any:
    """The wanted text in the JSON type that the claim has."""
    if isinstance(before, bool) or (before is None and value in ("true", "false")):
        return value == "true"
    if isinstance(before, int) and value.lstrip("-").isdigit():
        return int(value)
    return value
