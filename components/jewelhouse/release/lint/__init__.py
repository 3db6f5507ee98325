"""Lint of release policies: the kit's own before they are deployed, and any that are found in the wild.

A module for each cloud holds `RULES`; each rule fires on a mistake that somebody published.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from jewelhouse.errors import Problem, Problems
from jewelhouse.model import Cloud
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.rules import Finding, Hit, Rule, Severity

__all__ = ["Finding", "Hit", "RefusedPolicy", "Rule", "Severity", "lint", "refuse", "rules"]


class RefusedPolicy(Problems):
    """Policy documents with lint errors: nothing is deployed with them."""


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


def refuse(documents: Iterable[Document]) -> None:
    """Raises RefusedPolicy when any of the documents has an error, with all of them.

    Runs in the Pulumi program before anything is registered, and in every component that makes a key.
    """
    problems = [
        Problem(
            where=f"{finding.document}: {finding.where}",
            what=f"{finding.rule.id} {finding.what}",
            remedy=finding.rule.remedy,
            source=finding.rule.source,
        )
        for document in documents
        for finding in lint(document)
        if finding.rule.severity is Severity.ERROR
    ]
    if problems:
        raise RefusedPolicy(problems)
