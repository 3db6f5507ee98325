"""The service account that a stage runs as: it may ask for tokens and pull its image, and open nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pulumi
from pulumi import ResourceOptions
from pulumi_gcp import artifactregistry, projects, serviceaccount

from jewelhouse.errors import JewelhouseError

# What a host needs in the operator's project: docs.cloud.google.com/confidential-computing/
# confidential-space/docs/deploy-workloads (2026-04). Decryption is not among it: the key service releases to
# attested principals, and this account is only one of the things that they prove.
PROJECT_ROLES = {
    "attest": "roles/confidentialcomputing.workloadUser",
    "log": "roles/logging.logWriter",
}


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of Artifact Registry."""

    location: str
    project: str
    name: str


def repository(reference: str, where: str = "") -> Repository:
    """The repository of `europe-west4-docker.pkg.dev/project/repository/image@sha256:...`.

    Raises JewelhouseError, at the YAML path `where`, for other registries: the stages' network cannot reach
    them.
    """
    match = re.match(r"([a-z0-9-]+)-docker\.pkg\.dev/([a-z0-9-]+)/([a-z0-9-]+)/", reference)
    if match is None:
        raise JewelhouseError(
            f"{reference} is not in Artifact Registry, and the stages' network reaches nothing else",
            where=where,
            remedy="push the image to <location>-docker.pkg.dev/<project>/<repository>/ and lock it there",
        )
    return Repository(location=match[1], project=match[2], name=match[3])


@dataclass(frozen=True, kw_only=True)
class WorkloadIdentityArgs:
    """`account_id` is deterministic, since release policies name the account before it exists."""

    project: pulumi.Input[str]
    account_id: pulumi.Input[str]
    description: pulumi.Input[str]
    repository: Repository | None = None


class WorkloadIdentity(pulumi.ComponentResource):
    """A stage's service account with the roles of a confidential host."""

    email: pulumi.Output[str]
    member: pulumi.Output[str]

    def __init__(self, name: str, args: WorkloadIdentityArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:WorkloadIdentity", name, {}, opts)
        child = ResourceOptions(parent=self)
        account = serviceaccount.Account(
            f"{name}-account",
            project=args.project,
            account_id=args.account_id,
            display_name=args.account_id,
            description=args.description,
            opts=child,
        )
        member = pulumi.Output.concat("serviceAccount:", account.email)
        for slug, role in PROJECT_ROLES.items():
            projects.IAMMember(f"{name}-{slug}", project=args.project, role=role, member=member, opts=child)
        if args.repository is not None:
            artifactregistry.RepositoryIamMember(
                f"{name}-pull",
                project=args.repository.project,
                location=args.repository.location,
                repository=args.repository.name,
                role="roles/artifactregistry.reader",
                member=member,
                opts=child,
            )
        self.email = account.email
        self.member = member
        self.register_outputs({"email": self.email, "member": self.member})
