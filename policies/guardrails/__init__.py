"""CrossGuard policies for confidential stacks: what the components promise, held for any program.

One module a cloud; each rule is a function over one resource's inputs. Nothing here imports the kit, so the
pack runs in an environment of its own.
"""

from __future__ import annotations

from pulumi_policy import Policy, ResourceValidationPolicy, StackValidationPolicy

from . import aws, azure, gcp
from .rule import Rule, StackRule

RULES: tuple[Rule, ...] = (*aws.RULES, *azure.RULES, *gcp.RULES)
STACK_RULES: tuple[StackRule, ...] = aws.STACK_RULES


def policies() -> list[Policy]:
    """Every rule as a policy of the pack."""
    return [
        *(ResourceValidationPolicy(validate=rule.validate, **rule.labels) for rule in RULES),
        *(StackValidationPolicy(validate=rule.validate, **rule.labels) for rule in STACK_RULES),
    ]
