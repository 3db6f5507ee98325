"""Attested keys: KMS keys whose policy releases to measured code alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi import ResourceOptions
from pulumi_aws import kms

from jewelhouse.model import Cloud
from jewelhouse.release import lint
from jewelhouse.release.documents import Document


@dataclass(frozen=True, kw_only=True)
class AttestedKeyArgs:
    """`document` is the compiled policy (`jewelhouse.release.aws.compile`) and `after` are the roles that
    it names, since KMS refuses a policy with a role that does not exist yet. `destroyable` lets
    `pulumi destroy` schedule the key's deletion, 30 days ahead."""

    document: Mapping[str, Any]
    after: Sequence[pulumi.Resource] = ()
    destroyable: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


class AttestedKey(pulumi.ComponentResource):
    """An RSA-4096 key: anyone wraps a data key to `public_key` (PEM), attested code alone unwraps it.

    Create it with a provider of the owner's account. The alias is for people: callers use `arn`, which
    nobody can point elsewhere. Raises RefusedPolicy for a document in which lint finds an error.
    """

    arn: pulumi.Output[str]
    key_id: pulumi.Output[str]
    public_key: pulumi.Output[str]

    def __init__(self, name: str, args: AttestedKeyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:aws:AttestedKey", name, {}, opts)
        lint.refuse([Document(name=name, cloud=Cloud.AWS, body=args.document)])
        key = kms.Key(
            f"{name}-key",
            description=f"Attested key {name}",
            customer_master_key_spec="RSA_4096",
            key_usage="ENCRYPT_DECRYPT",
            multi_region=False,
            deletion_window_in_days=30,
            # Inline, because destroying a separate kms.KeyPolicy writes `kms:*` for the whole account back
            # (hashicorp/terraform-provider-aws: internal/service/kms/key_policy.go).
            policy=json.dumps(args.document),
            bypass_policy_lockout_safety_check=False,
            tags=args.tags,
            opts=ResourceOptions(parent=self, protect=not args.destroyable, depends_on=list(args.after)),
        )
        kms.Alias(
            f"{name}-alias", name=f"alias/{name}", target_key_id=key.key_id, opts=ResourceOptions(parent=self)
        )
        self.arn = key.arn
        self.key_id = key.key_id
        # The public half is no output of the key. As an output invoke it waits for the key, so a preview of
        # a new key asks nothing.
        self.public_key = kms.get_public_key_output(
            key_id=key.arn, opts=pulumi.InvokeOutputOptions(parent=self)
        ).public_key_pem
        self.register_outputs({"arn": self.arn, "public_key": self.public_key})
