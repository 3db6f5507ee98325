"""Attested keys in Cloud HSM, and the deny policy that leaves decryption to attested code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi import ResourceOptions
from pulumi_gcp import iam, kms

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Cloud
from jewelhouse.names import short
from jewelhouse.release import lint
from jewelhouse.release.documents import Document

DESTROY_AFTER = f"{30 * 24 * 3600}s"
# A pool belongs to one key, so its only provider needs no name of its own.
PROVIDER_ID = "attestation"
# Permissions in the form of deny policies: docs.cloud.google.com/iam/docs/deny-permissions-support.
OPENING = (
    "cloudkms.googleapis.com/cryptoKeyVersions.useToDecrypt",
    "cloudkms.googleapis.com/cryptoKeyVersions.useToDecryptViaDelegation",
)


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who may open a key: a principal set, until `condition` ends it. `slug` tells it from its siblings."""

    slug: str
    member: pulumi.Output[str]
    condition: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class AttestedKeyArgs:
    """`document` is the compiled release policy (`jewelhouse.release.gcp.compile`).

    `project` and `project_number` are the owner's; `destroyable` lets `pulumi destroy` schedule the
    destruction of the key, after which what is wrapped to it stays closed for ever.
    """

    project: pulumi.Input[str]
    project_number: str
    location: pulumi.Input[str]
    document: Mapping[str, Any]
    labels: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    destroyable: bool = False


class AttestedKey(pulumi.ComponentResource):
    """An RSA key in Cloud HSM that opens to the principals of its own workload identity pool.

    `version` is the key version that unwraps, `public_key` the PEM that anyone wraps to, `audience` what
    the guest exchanges its token for, `principals` who may read the artifact's ciphertext too.

    Raises RefusedPolicy for a document in which lint finds an error, and JewelhouseError for members that
    are not what the pool maps from a token.
    """

    key: pulumi.Output[str]
    version: pulumi.Output[str]
    public_key: pulumi.Output[str]
    pool: pulumi.Output[str]
    audience: pulumi.Output[str]
    principals: tuple[Principal, ...]

    def __init__(self, name: str, args: AttestedKeyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:AttestedKey", name, {}, opts)
        lint.refuse([Document(name=name, cloud=Cloud.GCP, body=args.document)])
        _check(name, args.document)
        child = ResourceOptions(parent=self)
        ring = kms.KeyRing(f"{name}-ring", project=args.project, location=args.location, opts=child)
        key = kms.CryptoKey(
            f"{name}-key",
            key_ring=ring.id,
            purpose="ASYMMETRIC_DECRYPT",
            version_template=kms.CryptoKeyVersionTemplateArgs(
                algorithm="RSA_DECRYPT_OAEP_4096_SHA256", protection_level="HSM"
            ),
            destroy_scheduled_duration=DESTROY_AFTER,
            deletion_policy="DELETE" if args.destroyable else "PREVENT",
            labels=args.labels,
            opts=ResourceOptions.merge(child, ResourceOptions(protect=not args.destroyable)),
        )
        pool = iam.WorkloadIdentityPool(
            f"{name}-pool",
            project=args.project,
            # Ids of deleted pools stay taken for 30 days and the engine makes none up, so that `up` after
            # `destroy` would collide. The ring's name ends in random characters, new for each new ring.
            workload_identity_pool_id=ring.name.apply(lambda ring_name: pool_id(name, ring_name)),
            display_name=short(name, 32),
            description=f"Attested code that may open {name}"[:256],
            opts=child,
        )
        document = args.document
        provider = iam.WorkloadIdentityPoolProvider(
            f"{name}-attestation",
            project=args.project,
            workload_identity_pool_id=pool.workload_identity_pool_id,
            workload_identity_pool_provider_id=PROVIDER_ID,
            display_name="Google Cloud Attestation",
            oidc=iam.WorkloadIdentityPoolProviderOidcArgs(
                issuer_uri=document["issuer"], allowed_audiences=document["audiences"]
            ),
            attribute_mapping=document["mapping"],
            attribute_condition=document["condition"],
            opts=child,
        )
        self.pool = pulumi.Output.all(pool.workload_identity_pool_id, pool.name).apply(
            lambda values: pool_path(args.project_number, values[0], values[1])
        )
        self.audience = pulumi.Output.all(self.pool, provider.id).apply(
            lambda values: f"//iam.googleapis.com/{values[0]}/providers/{PROVIDER_ID}"
        )
        self.principals = tuple(
            Principal(
                slug=slug(member),
                member=pulumi.Output.concat("principalSet://iam.googleapis.com/", self.pool, "/", member),
                condition=binding.get("condition"),
            )
            for binding in document["bindings"]
            for member in binding["members"]
        )
        roles = [binding["role"] for binding in document["bindings"] for _ in binding["members"]]
        bindings = [
            kms.CryptoKeyIAMMember(
                f"{name}-opens-{principal.slug}",
                crypto_key_id=key.id,
                role=role,
                member=principal.member,
                condition=kms.CryptoKeyIAMMemberConditionArgs(**principal.condition)
                if principal.condition
                else None,
                opts=child,
            )
            for principal, role in zip(self.principals, roles, strict=True)
        ]
        # The one invoke of the kit: no resource hands out a public key. A new HSM key is still being
        # generated when its creation returns, so this waits for the bindings, which take their time.
        version = kms.get_kms_crypto_key_version_output(
            crypto_key=key.id,
            opts=pulumi.InvokeOutputOptions(parent=self, depends_on=[key, *bindings]),
        )
        self.key = key.id
        self.version = version.apply(lambda found: found.name)
        self.public_key = version.apply(lambda found: found.public_keys[0].pem)
        self.register_outputs(
            {
                "key": self.key,
                "version": self.version,
                "public_key": self.public_key,
                "pool": self.pool,
                "audience": self.audience,
            }
        )


def _check(name: str, document: Mapping[str, Any]) -> None:
    for binding in document["bindings"]:
        for member in binding["members"]:
            if not re.fullmatch(r"attribute\.[a-z0-9_]+/.+", member):
                raise JewelhouseError(
                    f"{member} is not an attribute of a token",
                    where=name,
                    remedy="bind attribute.image_digest/sha256:... or what else the mapping yields",
                )


def pool_id(name: str, ring_name: str) -> str:
    """Id of a key's pool: 4 to 32 of [a-z0-9-], not beginning with `gcp-`, ending like its key ring."""
    readable = re.sub(r"[^a-z0-9-]", "-", name.lower())[:21].strip("-")
    return f"jh-{readable}-{ring_name[-7:].lower()}"


def pool_path(project_number: str, pool: str, name: str) -> str:
    """Path of a pool inside principal sets, by project number.

    `name` is the pool's name as Google returns it. Raises JewelhouseError where it has another number: a
    principal set of another project would open the key to that project's pool.
    """
    found = re.match(r"projects/(\d+)/", name or "")
    if found and found[1] != project_number:
        raise JewelhouseError(
            f"the project of pool {pool} has number {found[1]}, configured is {project_number}",
            where="parties.*.gcp.number",
            remedy="take the number that `gcloud projects describe` prints",
        )
    return f"projects/{project_number}/locations/global/workloadIdentityPools/{pool}"


def slug(member: str) -> str:
    """Short name of a member: 12 digits of its image digest, or its stage."""
    value = member.rpartition("/")[2]
    return value.removeprefix("sha256:")[:12] if value.startswith("sha256:") else value


@dataclass(frozen=True, kw_only=True)
class AttestedOnlyArgs:
    """`pools` are the paths of all pools of attested keys in the owner's project."""

    project: str
    pools: Sequence[pulumi.Input[str]]
    destroyable: bool = False


class AttestedOnly(pulumi.ComponentResource):
    """Denies decryption in the owner's project to everyone but the pools of its attested keys.

    IAM allows by union: an owner of the project, or a decrypter of the folder above, could open the key
    without any evidence. A deny policy wins over all of these, and changing it takes the organisation's
    Deny Admin. It holds for the whole project, so services that encrypt with keys of their own
    (CMEK) belong in another one.
    """

    def __init__(self, name: str, args: AttestedOnlyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("jewelhouse:gcp:AttestedOnly", name, {}, opts)
        policy = iam.DenyPolicy(
            f"{name}-deny",
            parent=f"cloudresourcemanager.googleapis.com%2Fprojects%2F{args.project}",
            display_name="Only attested code decrypts",
            rules=[
                iam.DenyPolicyRuleArgs(
                    description="Decryption with KMS keys, but for the pools of attested keys",
                    deny_rule=iam.DenyPolicyRuleDenyRuleArgs(
                        denied_principals=["principalSet://goog/public:all"],
                        denied_permissions=list(OPENING),
                        exception_principals=[
                            pulumi.Output.concat("principalSet://iam.googleapis.com/", pool, "/*")
                            for pool in args.pools
                        ],
                    ),
                )
            ],
            opts=ResourceOptions(parent=self, protect=not args.destroyable),
        )
        self.policy = policy.id
        self.register_outputs({"policy": self.policy})
