"""`jewelhouse release evaluate` and `lint`: what a key service would decide, what is wrong with a policy."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jewelhouse import lifecycle as graph
from jewelhouse.cli.evidence import appraised
from jewelhouse.cli.lifecycle import FileOption, StackOption, chosen
from jewelhouse.cli.options import AtOption, JsonOption, NonceOption, WithOption, content, shown
from jewelhouse.cli.options import moment as time_of
from jewelhouse.errors import JewelhouseError
from jewelhouse.evidence.verdict import moment
from jewelhouse.model import Cloud
from jewelhouse.release import compiler, documents
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Decision, Request, evaluate
from jewelhouse.release.evaluate.explain import explain
from jewelhouse.release.lint import Finding, Severity, everywhere, lint
from jewelhouse.release.lint.everywhere import Deployment
from jewelhouse.yamlpath import suggestion

KindOption = Annotated[Cloud | None, typer.Option("--kind", help="What the document must be.")]
COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}


def evaluate_policy(
    policy: Annotated[
        Path | None, typer.Option("--policy", "-p", help="Native policy document; - for standard input.")
    ] = None,
    stack: StackOption = None,
    file: FileOption = None,
    key: Annotated[
        str | None, typer.Option("--key", "-k", help="Key of the stack, in the place of --policy.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", "-e", help="Evidence; without it a call that shows none.")
    ] = None,
    endorsements: WithOption = None,
    at: AtOption = "now",
    challenge: NonceOption = None,
    principal: Annotated[
        str | None, typer.Option("--principal", help="ARN of the role or user that calls KMS.")
    ] = None,
    action: Annotated[str, typer.Option("--action", help="Action of KMS.")] = "kms:Decrypt",
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context", metavar="KEY=VALUE", help="Condition key of AWS with its value. Repeatable."
        ),
    ] = None,
    grants: Annotated[
        Path | None, typer.Option("--grants", help="Grants on the key, as `aws kms list-grants` prints them.")
    ] = None,
    identity_policies: Annotated[
        list[Path] | None, typer.Option("--identity-policy", help="IAM policy of the principal. Repeatable.")
    ] = None,
    key_arn: Annotated[
        str | None,
        typer.Option("--key-arn", metavar="ARN", help="The AWS key, for identity policies that name keys."),
    ] = None,
    kind: KindOption = None,
    with_explanation: Annotated[
        bool, typer.Option("--explain", help="Also say what smallest change would turn it round.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether a key would be released to evidence, and which clause decided. Exit 0 release, 1 deny."""
    if (policy is None) == (key is None):
        raise JewelhouseError("name one policy: --policy FILE, or --key with --stack", where="--policy")
    document = documents.read(content(policy), str(policy), kind) if policy else _of_key(key, stack, file)
    verdict = appraised(evidence, endorsements, at, challenge) if evidence is not None else None
    now = verdict.at if verdict is not None else time_of(at)
    if now is None:
        raise JewelhouseError("there is no evidence whose time it could be", where="--at")
    request = Request(
        at=now,
        principal=principal,
        action=action,
        context=_context(context or ()),
        grants=tuple(_list(grants, "Grants")) if grants else (),
        identity_policies=tuple(_object(path) for path in identity_policies or ()),
        resource=key_arn,
    )
    decision = evaluate(document, verdict, request)
    if with_explanation:
        decision = dataclasses.replace(decision, explained=explain(document, verdict, request, decision))
    if as_json:
        typer.echo(json.dumps(decision.json(), indent=2))
    else:
        _print_decision(decision, own_time=at == "evidence")
    if not decision.released:
        sys.exit(1)


def lint_policies(
    files: Annotated[list[Path] | None, typer.Argument(metavar="POLICY…", help="Native documents.")] = None,
    stack: StackOption = None,
    file: FileOption = None,
    kind: KindOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what is wrong with release policies: files, or the documents of a stack. Exit 1 on an error."""
    found = [documents.read(content(path), str(path), kind) for path in files or ()]
    findings: list[Finding] = []
    if stack is not None or file is not None or not found:
        lifecycle = chosen(stack, file)
        policies = graph.release_policies(lifecycle)
        found += [
            Document(name=key.name, cloud=key.cloud, body=compiler.compile(policy))
            for key, policy in policies.items()
        ]
        deployment = Deployment(
            policies=tuple(policies.values()),
            images={name: lifecycle.image(stage) for name, stage in lifecycle.stages.items() if stage.opens},
            weakened=graph.weakenings(lifecycle),
            now=datetime.now(UTC),
        )
        findings += everywhere.lint(deployment)
    findings += [finding for document in found for finding in lint(document)]
    findings.sort(key=lambda finding: list(Severity).index(finding.rule.severity))
    if as_json:
        typer.echo(json.dumps({"findings": [finding.json() for finding in findings]}, indent=2))
    else:
        _print_findings(findings, len(found))
    if any(finding.rule.severity is Severity.ERROR for finding in findings):
        sys.exit(1)


def _of_key(name: str | None, stack: str | None, file: Path | None) -> Document:
    """The compiled document of a stack's key."""
    policies = {key.name: policy for key, policy in graph.release_policies(chosen(stack, file)).items()}
    if name not in policies:
        raise JewelhouseError(
            f"there is no key {name}", where="--key", remedy=suggestion(name or "", policies)
        )
    policy = policies[name]
    return Document(name=name, cloud=policy.key.cloud, body=compiler.compile(policy))


def _context(pairs: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise JewelhouseError(f"{pair} is not KEY=VALUE", where="--context")
        found[key] = (*found.get(key, ()), value)
    return found


def _object(path: Path) -> Mapping[str, Any]:
    try:
        value = documents.strict(content(path))
    except (ValueError, RecursionError) as error:
        raise JewelhouseError(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise JewelhouseError("is not a JSON object", where=str(path))
    return value


def _list(path: Path, name: str) -> list[Mapping[str, Any]]:
    value = _object(path).get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise JewelhouseError(f"has no list {name}", where=str(path), remedy="aws kms list-grants --key-id …")
    return value


def _print_decision(decision: Decision, *, own_time: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    word = "[green]release[/]" if decision.released else "[red]deny[/]"
    own = ", the evidence's own time and not now" if own_time else ""
    console.print(f"{word} at {moment(decision.at)}{own}")
    for reason in decision.because:
        mark = "[green]✓[/]" if reason.holds else "[red]✗[/]"
        console.print(f"{mark} {shown(reason.where)}" + (f"  {shown(reason.claim)}" if reason.claim else ""))
        for name, value in (("expected", reason.expected), ("found", reason.found)):
            if value:
                console.print(f"    {name} {shown(value)}")
        if reason.what:
            console.print(f"    {shown(reason.what)}")
    if decision.explained:
        console.print("What would turn it round:")
        for line in decision.explained:
            console.print(f"  {shown(line)}")


def _print_findings(findings: list[Finding], documents_read: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        severity = finding.rule.severity
        console.print(
            f"[{COLOURS[severity]}]{severity}[/] [bold]{finding.rule.id}[/] "
            f"{shown(finding.document)}: {shown(finding.where)}"
        )
        console.print(f"  {shown(finding.what)}")
        console.print(f"  {shown(finding.rule.remedy)}")
        if finding.counterexample is not None:
            console.print(f"  would be released to: {shown(json.dumps(finding.counterexample))}")
        console.print(f"  source: {shown(finding.rule.source)}", style="dim")
    counts = ", ".join(
        f"{count} {severity}{'s' if count != 1 else ''}"
        for severity in Severity
        if (count := sum(finding.rule.severity is severity for finding in findings))
    )
    console.print(f"{documents_read} document{'s' if documents_read != 1 else ''}: {counts or 'clean'}")
