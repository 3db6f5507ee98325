"""What a stack on AWS exports once it is up: its keys' policies, and the policy of a stage's role."""

from __future__ import annotations

import json
from typing import Any

from exports_made import export_of, outputs_of, resource

from jewelhouse import lifecycle as graph
from jewelhouse.model import AttestedKey, Lifecycle


def uri(lifecycle: Lifecycle, key: AttestedKey) -> str:
    owner = graph.release_policies(lifecycle)[key].owner
    return f"arn:aws:kms:{key.region}:{owner.boundary}:key/{key.name}"


def deployed(lifecycle: Lifecycle, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Export and outputs of the stack, with the policy that the kit gives a stage's role."""
    keys = sorted(graph.opens_by_key(lifecycle))
    outputs = outputs_of(lifecycle)
    for name in outputs["artifacts"]:
        outputs["artifacts"][name] = {
            "keys": [{"name": key.name, "uri": uri(lifecycle, key)} for key in keys if key.artifact == name]
        }
    statement = {
        "Effect": "Allow",
        "Action": ["kms:Decrypt"],
        "Resource": [uri(lifecycle, key) for key in keys],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    role = outputs["stages"][stage]["identity"].rpartition("/")[2]
    return export_of(
        lifecycle, resource("aws:iam/rolePolicy:RolePolicy", "permissions", role=role, policy=policy)
    ), outputs
