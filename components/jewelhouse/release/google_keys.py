"""The document of a key in Cloud KMS, put together from its resources: provider and bindings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from jewelhouse.release import attachments
from jewelhouse.release.resources import UNKNOWN, Resource
from jewelhouse.release.snapshots import KeyView

PROVIDER = "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider"
# A pool whose provider is gone exchanges no token.
NO_PROVIDER: dict[str, Any] = {"issuer": "", "audiences": ["nobody"], "mapping": {}, "condition": ""}
EVERYBODY = "*"


def document(
    members: Iterable[Resource], known: KeyView | None, *, whole: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Provider and bindings, and what about them is not certain.

    `known`: the key in the stack's outputs, which stands in for what is not known before the deployment and,
    without the `whole` state, for what does not change.
    """
    members = list(members)
    undecided: list[str] = []
    stated = dict(known.document) if known is not None else {}
    providers = [one for one in members if one.type == PROVIDER and not one.gone]
    found = _provider(providers[0]) if providers else {**NO_PROVIDER}
    if len(providers) > 1:
        undecided.append("several providers exchange tokens for the key's pool")
    if UNKNOWN in json.dumps(found):
        undecided.extend([] if known else ["its provider is not known before the deployment"])
        found = {}
    elif not providers and not whole:
        found = {}
    bindings, open_ends = _bindings(members)
    if open_ends and known is None:
        undecided.append("which tokens of its pool are bound is not known before the deployment")
        bindings += [{**binding, "members": [EVERYBODY]} for binding in open_ends]
    if known is not None and (open_ends or not whole):
        bindings = [*stated.get("bindings", ()), *bindings]
    return {**NO_PROVIDER, **stated, **found, "bindings": bindings}, tuple(undecided)


def _provider(resource: Resource) -> dict[str, Any]:
    oidc = resource.value("oidc")
    oidc = oidc if isinstance(oidc, dict) else {}
    found: dict[str, Any] = {
        "issuer": oidc.get("issuerUri", ""),
        "audiences": oidc.get("allowedAudiences", []),
        "mapping": resource.value("attributeMapping") or {},
        "condition": resource.value("attributeCondition") or "",
    }
    # An issuer's own keys, and a provider that is switched off, decide as well.
    if oidc.get("jwksJson") not in (None, "", UNKNOWN):
        found["jwks"] = oidc["jwksJson"]
    if resource.value("disabled") is True:
        found["disabled"] = True
    return found


def _bindings(members: Iterable[Resource]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Bindings by role and condition, and those whose members are made of unknown ids."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    open_ends: list[dict[str, Any]] = []
    for one in members:
        if one.type not in attachments.MEMBERS or one.gone:
            continue
        for role, member, condition in attachments.bound(one):
            if member == UNKNOWN:
                open_ends.append(_binding(role, [], condition))
            else:
                grouped[role, condition].append(member)
    return [
        _binding(role, found, condition) for (role, condition), found in sorted(grouped.items())
    ], open_ends


def _binding(role: str, members: list[str], condition: str) -> dict[str, Any]:
    found: dict[str, Any] = {"role": role, "members": members}
    return {**found, "condition": {"expression": condition}} if condition else found
