"""Lint of release policies: the kit's own before they are deployed, and any that are found in the wild.

A module for each cloud holds `RULES`; each rule fires on a mistake that somebody published.
"""

from __future__ import annotations

from importlib import import_module

from jewelhouse.model import Cloud
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.rules import Finding, Hit, Rule, Severity

__all__ = ["Finding", "Hit", "Rule", "Severity", "lint", "rules"]


def rules(cloud: Cloud) -> tuple[Rule, ...]:
    """Every rule for documents of a cloud."""
    # Only the rules of used clouds are loaded.
    return import_module(f"jewelhouse.release.lint.{cloud}").RULES


def lint(document: Document) -> tuple[Finding, ...]:
    """Everything that the rules of its cloud find in a document, errors first."""
    found = [
        Finding(
            rule=rule,
            document=document.name,
            where=hit.where,
            what=hit.what,
            counterexample=hit.counterexample,
        )
        for rule in rules(document.cloud)
        for hit in rule.check(document)
    ]
    return tuple(sorted(found, key=lambda finding: list(Severity).index(finding.rule.severity)))
