"""IAM policy documents whose values may be Pulumi outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

Principal = Mapping[str, Any] | str
Resources = Sequence[pulumi.Input[str]] | str | None


def document(*statements: Mapping[str, Any]) -> pulumi.Output[str]:
    """The JSON of a policy document; known at preview as far as its values are."""
    return pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": list(statements)})


def roles(arns: Sequence[pulumi.Input[str]]) -> Principal:
    return {"AWS": list(arns)}


def service(name: str) -> Principal:
    return {"Service": name}


def allow(
    sid: str,
    actions: Sequence[str],
    resources: Resources,
    *,
    principal: Principal | None = None,
    condition: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An Allow; `resources` is None in trust policies alone, which speak of their own role."""
    return _statement("Allow", sid, actions, resources, principal, condition)


def deny(
    sid: str,
    actions: Sequence[str],
    resources: Resources,
    *,
    condition: Mapping[str, Any],
) -> dict[str, Any]:
    """A Deny for everyone to whom the condition applies."""
    return _statement("Deny", sid, actions, resources, "*", condition)


def _statement(
    effect: str,
    sid: str,
    actions: Sequence[str],
    resources: Resources,
    principal: Principal | None,
    condition: Mapping[str, Any] | None,
) -> dict[str, Any]:
    # KMS drops a statement without actions or resources silently, which would void a Deny.
    if not actions or (resources is not None and not resources):
        raise ValueError(f"statement {sid} needs actions and resources")
    return {
        "Sid": sid,
        "Effect": effect,
        **({"Principal": principal} if principal is not None else {}),
        "Action": list(actions),
        **({"Resource": resources} if resources is not None else {}),
        **({"Condition": condition} if condition else {}),
    }
