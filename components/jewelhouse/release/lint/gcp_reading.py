"""A document of Google as its lint rules look at it: parts, trees and openings, read once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jewelhouse.release import cel
from jewelhouse.release.cel import Compare, Items, Literal, Node
from jewelhouse.release.documents import Document
from jewelhouse.release.facts import Facts, Opening
from jewelhouse.release.gcp_facts import Provider, parse, provider

DIGEST = "assertion.submods.container.image_digest"
REFERENCE = "assertion.submods.container.image_reference"
SUPPORT = "assertion.submods.confidential_space.support_attributes"
ACCOUNTS = "assertion.google_service_accounts"
HARDWARE = "assertion.hwmodel"
DEBUG = "assertion.dbgstat"
PROJECT = "assertion.submods.gce.project_id"
NUMBER = "assertion.submods.gce.project_number"
GPU = "assertion.submods.nvidia_gpu"
# Each with the hostile evidence that has it.
OVERRIDES: Mapping[str, str] = {
    "assertion.submods.container.cmd_override": "an overridden command",
    "assertion.submods.container.env_override": "an overridden environment",
}

# Claims of Google's tokens and their JSON types: confidential-space/docs/reference/token-claims and
# confidential-vm/docs/token-claims below docs.cloud.google.com/confidential-computing/, 2026-04;
# salrashid123/confidential_space: claims/claims.go; real tokens of project-oak/oak.
CLAIMS: Mapping[str, str] = {
    "aud": "text",
    "iss": "text",
    "sub": "text",
    "exp": "number",
    "iat": "number",
    "nbf": "number",
    "eat_nonce": "text or list",
    "eat_profile": "text",
    "secboot": "true or false",
    "oemid": "number",
    "hwmodel": "text",
    "swname": "text",
    "swversion": "list",
    "attester_tcb": "list",
    "dbgstat": "text",
    "tdx": "list or object",
    "google_service_accounts": "list",
    "submods": "object",
    "submods.confidential_space": "object",
    "submods.confidential_space.support_attributes": "list",
    "submods.confidential_space.monitoring_enabled": "object",
    "submods.confidential_space.monitoring_enabled.memory": "true or false",
    "submods.container": "object",
    "submods.container.image_reference": "text",
    "submods.container.image_digest": "text",
    "submods.container.image_id": "text",
    "submods.container.image_signatures": "list",
    "submods.container.restart_policy": "text",
    "submods.container.args": "list",
    "submods.container.env": "object",
    "submods.container.env_override": "object",
    "submods.container.cmd_override": "list",
    "submods.gce": "object",
    "submods.gce.zone": "text",
    "submods.gce.project_id": "text",
    "submods.gce.project_number": "text",
    "submods.gce.instance_name": "text",
    "submods.gce.instance_id": "text",
    "submods.nvidia_gpu": "object",
    "submods.nvidia_gpu.cc_mode": "text",
    "submods.nvidia_gpu.cc_feature": "text",
    "submods.nvidia_gpu.gpus": "list",
}
# Objects whose members are the workload's own.
OPEN_CLAIMS = ("submods.container.env", "submods.container.env_override", "tdx")
# Claims that real tokens leave out where there is nothing to say.
OPTIONAL = tuple(
    f"assertion.{name}"
    for name in (
        "submods.container.env_override",
        "submods.container.cmd_override",
        "submods.container.image_signatures",
        "submods.confidential_space.support_attributes",
        "submods.nvidia_gpu",
        "eat_nonce",
        "tdx",
    )
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`openings` are those that ask for a token, in a fixed order."""

    parts: Provider
    facts: Facts
    openings: tuple[Opening, ...]

    @property
    def condition(self) -> Node | None:
        return self.parts.trees.get("condition")

    def place(self, number: int) -> str:
        """Where an opening stands, as findings name it."""
        return "condition" if len(self.openings) == 1 else f"condition, opening {number + 1}"

    def space(self) -> Iterator[tuple[str, Opening]]:
        """Openings for Confidential Space, or for anything that is not kept to plain VMs."""
        for number, opening in enumerate(self.openings):
            if opening.claims.get("assertion.swname") != "GCE":
                yield self.place(number), opening

    def all(self) -> Iterator[tuple[str, Opening]]:
        for number, opening in enumerate(self.openings):
            yield self.place(number), opening


def reading(document: Document) -> Reading:
    """The parts of a document. Never raises."""
    try:
        said = json.dumps(document.body, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return _read(document.body)
    return _kept(said)


@lru_cache(maxsize=8)
def _kept(said: str) -> Reading:
    return _read(json.loads(said))


def _read(body: Mapping[str, Any]) -> Reading:
    facts = parse(body)
    openings = sorted((one for one in facts.openings if one.principal is None), key=repr)
    return Reading(parts=provider(body), facts=facts, openings=tuple(openings))


def nodes(read: Reading) -> Iterator[tuple[str, Node]]:
    """Every node of condition and mapping, with the place of its expression."""
    for where, tree in read.parts.trees.items():
        for node in cel.walk(tree):
            yield where, node


def compared(read: Reading) -> Iterator[tuple[str, str, Literal, str]]:
    """Place, claim path, literal and operator of every comparison, whichever way round it is written."""
    for where, node in nodes(read):
        if not isinstance(node, Compare):
            continue
        left, right = cel.path(node.left), cel.path(node.right)
        if node.operator == "in":
            if left and isinstance(node.right, Items):
                yield from (
                    (where, left, item, "==") for item in node.right.items if isinstance(item, Literal)
                )
            elif right and isinstance(node.left, Literal):
                yield where, right, node.left, "in"
        elif left and isinstance(node.right, Literal):
            yield where, left, node.right, node.operator
        elif right and isinstance(node.left, Literal):
            yield where, right, node.left, node.operator


def paths(node: Node) -> Iterator[str]:
    """The longest claim paths in an expression."""
    path = cel.path(node)
    if path is not None:
        yield path
        return
    for child in cel.children(node):
        yield from paths(child)
    if isinstance(node, cel.Has) and (found := cel.path(cel.Select(node.operand, node.field))):
        yield found


def optional(path: str) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in OPTIONAL)
