"""Who owns, who operates, and that their accounts exist and lie apart."""

from __future__ import annotations

from collections.abc import Iterator

from jewelhouse.checks.scope import Scope
from jewelhouse.errors import Problem
from jewelhouse.hardware import GPU_VERIFIER
from jewelhouse.model import Account, AwsAccount, AzureAccount, Cloud, GcpAccount, Party, Platform, Stage
from jewelhouse.names import aws_partition
from jewelhouse.yamlpath import suggestion

ACCOUNT = {Cloud.AWS: "account", Cloud.AZURE: "subscription", Cloud.GCP: "project"}


def problems(scope: Scope) -> Iterator[Problem]:
    parties = scope.known("parties")
    for party in scope.lifecycle.parties.values():
        yield from _party(party)
    for artifact in scope.lifecycle.artifacts.values():
        if artifact.owner not in parties:
            yield Problem(
                where=f"artifacts.{artifact.name}.owner",
                what=f"{artifact.owner} is not a party",
                remedy=_suggested(artifact.owner, parties),
            )
        for licence in artifact.licences:
            for index, holder in enumerate(licence.holders):
                if holder not in parties:
                    yield Problem(
                        where=f"artifacts.{artifact.name}.licences.{licence.tier}.holders[{index}]",
                        what=f"{holder} is not a party",
                        remedy=_suggested(holder, parties),
                    )
    for stage in scope.lifecycle.stages.values():
        if stage.operator not in parties:
            yield Problem(
                where=f"stages.{stage.name}.operator",
                what=f"{stage.operator} is not a party",
                remedy=_suggested(stage.operator, parties),
            )
    yield from _missing(scope)
    for stage in scope.lifecycle.stages.values():
        yield from _prepared(scope, stage)
        yield from _apart(scope, stage)


def _suggested(name: str, parties: set[str]) -> str:
    return suggestion(name, parties) or f"declare parties.{name}"


def _party(party: Party) -> Iterator[Problem]:
    if not any(party.account(cloud) for cloud in Cloud):
        yield Problem(
            where=f"parties.{party.name}",
            what="has no account on any cloud",
            remedy="add aws, azure or gcp, or remove the party",
        )
    if party.aws and party.aws.deployer.split(":")[4:5] != [party.aws.account]:
        yield Problem(
            where=f"parties.{party.name}.aws.deployer",
            what=f"{party.aws.deployer} is not a role of account {party.aws.account}, "
            "and whoever administers a key can rewrite its policy",
            remedy=f"for example arn:aws:iam::{party.aws.account}:role/jewelhouse-deployer",
        )


def _missing(scope: Scope) -> Iterator[Problem]:
    """Accounts that must exist: one problem for each, with everything that needs it."""
    needs: dict[tuple[str, Cloud], list[str]] = {}
    for stage in scope.lifecycle.stages.values():
        if stage.operator in scope.lifecycle.parties and not scope.account(stage.operator, stage.cloud):
            needs.setdefault((stage.operator, stage.cloud), []).append(f"runs {stage.name}")
        for _, artifact in scope.artifacts(tuple(dict.fromkeys((*stage.opens, *stage.seals)))):
            if artifact.owner in scope.lifecycle.parties and not scope.account(artifact.owner, stage.cloud):
                what = f"owns {artifact.name}, which {stage.name} opens or seals there"
                needs.setdefault((artifact.owner, stage.cloud), []).append(what)
    for (party, cloud), reasons in needs.items():
        yield Problem(
            where=f"parties.{party}.{cloud}",
            what=f"is missing: {party} {'; '.join(reasons)}",
            remedy=f"give {party} its own {ACCOUNT[cloud]} on {cloud}",
        )


def _prepared(scope: Scope, stage: Stage) -> Iterator[Problem]:
    """What an account must say about itself for what is put into it."""
    runs_in = scope.account(stage.operator, stage.cloud)
    if (
        stage.platform is Platform.AZURE_CVM
        and isinstance(runs_in, AzureAccount)
        and runs_in.orchestrator is None
    ):
        yield Problem(
            where=f"parties.{stage.operator}.azure.orchestrator",
            what="is missing: confidential VMs keep their disk keys with Azure's orchestrator",
            remedy="az ad sp show --id bf7b6499-ff71-4aa2-97a4-f372087be7f0 --query id",
            source="MicrosoftDocs/azure-docs quick-create-confidential-vm-arm.md, 2026-10",
        )
    # A store's owner too: the stage reads and writes there under its managed identity.
    for _, artifact in scope.artifacts((*stage.opens, *stage.seals)):
        owns = scope.account(artifact.owner, stage.cloud)
        if (
            isinstance(owns, AzureAccount)
            and isinstance(runs_in, AzureAccount)
            and owns.tenant != runs_in.tenant
        ):
            yield Problem(
                where=f"parties.{artifact.owner}.azure.tenant",
                what=f"is {owns.tenant}, but {stage.operator} runs {stage.name} in tenant {runs_in.tenant}: "
                "its managed identity can have no role in another tenant",
                remedy="use subscriptions of one tenant, each administered by its own party",
                source="learn.microsoft.com/entra managed-identities-faq, 2026-10",
            )
    yield from _registry(scope, stage, runs_in)
    yield from _verifier(scope, stage, runs_in)
    partition = aws_partition(stage.region)
    owners = {artifact.owner for _, artifact in scope.artifacts(stage.opens)}
    for party in sorted({stage.operator, *owners}):
        account = scope.account(party, stage.cloud)
        if isinstance(account, GcpAccount) and account.number is None and party in owners:
            yield Problem(
                where=f"parties.{party}.gcp.number",
                what=f"is missing: {party} owns keys there, and principal sets name projects by number",
                remedy="in quotes, from: gcloud projects describe --format='value(projectNumber)' "
                + account.project,
            )
        if isinstance(account, AwsAccount) and account.deployer.split(":")[1:2] != [partition]:
            yield Problem(
                where=f"parties.{party}.aws.deployer",
                what=f"{account.deployer} is not in the partition of {stage.region}, where {stage.name} runs",
                remedy=f"for example arn:{partition}:iam::{account.account}:role/jewelhouse-deployer",
            )


def _apart(scope: Scope, stage: Stage) -> Iterator[Problem]:
    if scope.lifecycle.allow_same_owner:
        return
    noun = ACCOUNT[stage.cloud]
    for _, artifact in scope.artifacts(stage.opens):
        boundary = scope.shared(artifact, stage)
        if boundary:
            yield Problem(
                where=f"artifacts.{artifact.name}.owner",
                what=f"{artifact.owner} keeps the key in the same {noun} that runs {stage.name}: {boundary}",
                remedy=f"keep it in another {noun} than the operator's (an administrator of both can rewrite "
                "key policies and make grants), or set allow-same-owner: true, which is shown everywhere",
                source="Dstack-TEE/dstack docs/aws-attested-instance-security-evaluation.md, 2026-08",
            )


def _registry(scope: Scope, stage: Stage, runs_in: Account | None) -> Iterator[Problem]:
    """A private registry is reached by its own private endpoint, so images must lie in that one."""
    image = scope.lifecycle.images.get((stage.image, stage.platform))
    if stage.platform is not Platform.AZURE_CONTAINER or not isinstance(runs_in, AzureAccount) or not image:
        return
    if runs_in.registry is None:
        return
    server = f"{runs_in.registry.rsplit('/', 1)[-1].lower()}.azurecr.io"
    found = image.reference.split("/")[0]
    if found != server:
        yield Problem(
            where=f"parties.{stage.operator}.azure.registry",
            what=f"is {server}, but the image of {stage.name} lies in {found}",
            remedy="copy the image into the operator's registry (its digest stays), and name it there",
        )


# What a service that others may connect to is called, and an account's setting for it.
_FORWARDER = {Cloud.AZURE: "private link service", Cloud.GCP: "service attachment"}


def _verifier(scope: Scope, stage: Stage, runs_in: Account | None) -> Iterator[Problem]:
    """Where the guest attests GPUs it asks NVIDIA's service, and the networks have no way out."""
    image = scope.lifecycle.images.get((stage.image, stage.platform))
    if not isinstance(runs_in, AzureAccount | GcpAccount) or image is None or not image.gpus:
        return
    where, forwarder = f"parties.{stage.operator}.{stage.cloud}.gpu-verifier", _FORWARDER[stage.cloud]
    if runs_in.gpu_verifier is None:
        yield Problem(
            where=where,
            what=f"is missing: {stage.name} has its GPU attested by {GPU_VERIFIER}, which its network does "
            "not reach, so it would never open anything",
            remedy=f"forward TCP to port 443 of that host behind a {forwarder}, and name it here",
            source="docs.nvidia.com/attestation, NRAS API, 2026-10",
        )
    elif stage.cloud is Cloud.GCP and (region := runs_in.gpu_verifier.split("/")[3]) != stage.region:
        yield Problem(
            where=where,
            what=f"lies in {region}, but {stage.name} runs in {stage.region}: an endpoint of Private "
            "Service Connect reaches services of its own region",
            remedy=f"name a {forwarder} in {stage.region}",
            source="docs.cloud.google.com/vpc/docs/private-service-connect, 2026-10",
        )
