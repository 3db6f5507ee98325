"""Lint rules for release policies of Azure Key Vault."""

from __future__ import annotations

from jewelhouse.release.lint import azure_authorities, azure_claims, azure_pins, azure_shapes, azure_syntax
from jewelhouse.release.lint.rules import Rule

RULES: tuple[Rule, ...] = tuple(
    sorted(
        (
            *azure_syntax.RULES,
            *azure_authorities.RULES,
            *azure_shapes.RULES,
            *azure_pins.RULES,
            *azure_claims.RULES,
        ),
        key=lambda rule: rule.id,
    )
)
