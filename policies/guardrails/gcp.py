"""Google Cloud: keys bound to measured containers, confidential hosts, no external addresses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pulumi_policy import Severity

from .cel import demands
from .rule import Rule, at, items, rule, true

RULES: list[Rule] = []
HOSTS = (
    "gcp:compute/instance:Instance",
    "gcp:compute/instanceTemplate:InstanceTemplate",
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate",
)
PUBLIC = frozenset({"allUsers", "allAuthenticatedUsers"})
ANYWHERE = frozenset({"0.0.0.0/0", "::/0"})
# Roles that hold useToDecrypt: cloud.google.com/kms/docs/reference/permissions-and-roles
DECRYPTING = frozenset(
    {
        "roles/cloudkms.cryptoKeyDecrypter",
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        "roles/cloudkms.cryptoKeyDecrypterViaDelegation",
        "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation",
        "roles/cloudkms.cryptoOperator",
        "roles/owner",
        "roles/editor",
    }
)
# A principal set by a mapped attribute. `/*` would be all of the pool, `group/` and `subject/` know no code.
MEASURED = re.compile(
    r"principalSet://iam\.googleapis\.com/projects/\d+/locations/global/workloadIdentityPools/[a-z0-9-]+"
    r"/attribute\.(image_digest/sha256:[0-9a-f]{64}|(?!image_digest)[a-z0-9_]+/[^/*]+)"
)
# Parts of a provider's condition, in the claims of real tokens. GCP_SHIELDED_VM is no confidential hardware.
# Debug images carry swname, and on GPUs cc_mode, as well: dbgstat and STABLE tell them apart.
_HWMODEL = r"'GCP_(INTEL_TDX|AMD_SEV)'"
SPACE = re.compile(r"assertion\.swname ?== ?'CONFIDENTIAL_SPACE'")
PLAIN_VM = re.compile(r"assertion\.swname ?== ?'GCE'")
HARDWARE = re.compile(rf"assertion\.hwmodel ?(== ?{_HWMODEL}|in ?\[{_HWMODEL}(, ?{_HWMODEL})*\])")
SPACE_CLAIMS: Mapping[str, re.Pattern[str]] = {
    "dbgstat": re.compile(r"assertion\.dbgstat ?== ?'disabled-since-boot'"),
    "STABLE": re.compile(r"'STABLE' in assertion\.submods\.confidential_space\.support_attributes"),
}
DIGEST = re.compile(r"assertion\.submods\.container\.image_digest ?(==|in) ?\[?'sha256:[0-9a-f]{64}'.*")
# Google's own agents, which use a bucket's or disk's key on behalf of the service.
AGENT = re.compile(
    r"serviceAccount:service-\d+@(gs-project-accounts|compute-system|gcp-sa-[a-z-]+)\.iam\.gserviceaccount\.com"
)


@rule(
    RULES,
    "gcp-no-external-address",
    "gcp:compute/address:Address",
    "gcp:compute/globalAddress:GlobalAddress",
    "gcp:compute/routerNat:RouterNat",
    *HOSTS,
    remedy="Use Private Google Access on the restricted range",
    source="cloud.google.com/vpc/docs/configure-private-google-access",
)
def no_external_address(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Nothing in a confidential stack has an external address."""
    if token in HOSTS:
        for card in items(props, "networkInterfaces"):
            if at(card, "accessConfigs") is not None or at(card, "ipv6AccessConfigs") is not None:
                yield "a network interface has an external address"
    elif token == "gcp:compute/routerNat:RouterNat":
        yield "NAT is a way out to the internet"
    elif (props.get("addressType") or "EXTERNAL") != "INTERNAL":
        yield "the address is external"


@rule(
    RULES,
    "gcp-closed-firewall",
    "gcp:compute/firewall:Firewall",
    remedy="Deny all, then allow named ranges and service accounts to ports that the stage serves",
    source="cloud.google.com/firewall/docs/firewalls",
)
def closed_firewall(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No firewall rule lets the internet or a login in, or hosts out to everywhere."""
    if not items(props, "allows") or true(props.get("disabled")):
        return
    if (props.get("direction") or "INGRESS") == "INGRESS":
        sources = {*items(props, "sourceRanges")}
        named = [*items(props, "sourceTags"), *items(props, "sourceServiceAccounts")]
        for anywhere in sorted(sources & ANYWHERE):
            yield f"ingress is open to {anywhere}"
        if not sources and not named:
            yield "ingress without a source is open to everyone"
        if any(_admits(allow, 22) or _admits(allow, 3389) for allow in items(props, "allows")):
            yield "ingress lets a login port in"
    else:
        ranges = {*items(props, "destinationRanges")}
        if not ranges or ranges & ANYWHERE:
            yield "egress is open to everywhere"


def _admits(allow: Any, port: int) -> bool:
    if str(at(allow, "protocol")) not in ("tcp", "all", "6"):
        return False
    ports = items(allow, "ports")
    if not ports:
        return True
    for entry in ports:
        first, _, last = str(entry).partition("-")
        if int(first) <= port <= int(last or first):
            return True
    return False


@rule(
    RULES,
    "gcp-key-hsm",
    "gcp:kms/cryptoKey:CryptoKey",
    remedy="HSM, RSA_DECRYPT_OAEP_4096_SHA256, 30 days before destruction",
    source="cloud.google.com/kms/docs/algorithms",
    severity=Severity.CRITICAL,
)
def key_hsm(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Keys that open weights live in an HSM and do not go away by accident."""
    if props.get("purpose") != "ASYMMETRIC_DECRYPT":
        return
    if at(props, "versionTemplate.protectionLevel") != "HSM":
        yield "the key is not kept in an HSM"
    algorithm = str(at(props, "versionTemplate.algorithm"))
    if not re.fullmatch(r"RSA_DECRYPT_OAEP_(3072|4096)_SHA(256|512)", algorithm):
        yield f"{algorithm} is too weak to wrap a data key for years"
    destroyed = props.get("destroyScheduledDuration")
    if destroyed is not None and float(str(destroyed).rstrip("s")) < 30 * 86400:
        yield f"a destroyed version is gone after {destroyed}"


@rule(
    RULES,
    "gcp-decrypt-measured",
    "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember",
    "gcp:kms/cryptoKeyIAMBinding:CryptoKeyIAMBinding",
    "gcp:kms/cryptoKeyIAMPolicy:CryptoKeyIAMPolicy",
    "gcp:kms/keyRingIAMMember:KeyRingIAMMember",
    "gcp:kms/keyRingIAMBinding:KeyRingIAMBinding",
    "gcp:kms/keyRingIAMPolicy:KeyRingIAMPolicy",
    "gcp:projects/iAMMember:IAMMember",
    "gcp:projects/iAMBinding:IAMBinding",
    remedy="Bind the key to principalSet://.../attribute.image_digest/sha256:... of the measured image",
    source="cloud.google.com/confidential-computing/confidential-space/docs/create-grant-access-confidential-resources",
    severity=Severity.CRITICAL,
)
def decrypt_measured(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Only a measured container image may decrypt."""
    bindings: list[tuple[str, list[str]]] = [
        (str(props.get("role")), [*items(props, "members"), *items(props, "member")])
    ]
    if token.endswith("IAMPolicy"):
        try:
            document = json.loads(str(props.get("policyData")))
        except json.JSONDecodeError:
            yield "the IAM policy is not JSON"
            return
        bindings = [(str(at(b, "role")), list(items(b, "members"))) for b in items(document, "bindings")]
    for role, members in bindings:
        if role in DECRYPTING:
            for member in members:
                if not MEASURED.fullmatch(str(member)) and not AGENT.fullmatch(str(member)):
                    yield f"{member} has {role} whatever code it runs"


@rule(
    RULES,
    "gcp-attested-pool",
    "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider",
    remedy="Demand swname, hwmodel, dbgstat and STABLE support on every way through the condition",
    source="cloud.google.com/confidential-computing/confidential-space/docs/reference/token-claims",
    severity=Severity.CRITICAL,
)
def attested_pool(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """A provider of attested identities takes tokens of production Confidential Space only."""
    issuer = str(at(props, "oidc.issuerUri") or "").rstrip("/")
    if issuer != "https://confidentialcomputing.googleapis.com":
        return
    condition = props.get("attributeCondition")
    if not condition:
        yield "without a condition the Confidential Space of anyone may enter"
        return
    text = str(condition)
    space = _demands(text, SPACE)
    if not space and not _demands(text, PLAIN_VM):
        yield "the condition can be met without saying which product made the token (swname)"
    for claim, pattern in {"hwmodel": HARDWARE, **(SPACE_CLAIMS if space else {})}.items():
        if not _demands(text, pattern):
            yield f"the condition can be met without {claim}"
    mapping = (props.get("attributeMapping") or {}).items()
    mapped = any(
        name.startswith("attribute.") and "container.image_digest" in value for name, value in mapping
    )
    if space and not mapped and not _demands(text, DIGEST):
        yield "the image digest is neither in the condition nor in an attribute to bind keys to"


def _demands(condition: str, pattern: re.Pattern[str]) -> bool:
    return demands(condition, lambda part: pattern.fullmatch(part) is not None)


@rule(
    RULES,
    "gcp-vm-confidential",
    *HOSTS,
    remedy="Set confidentialInstanceType, Secure Boot and onHostMaintenance TERMINATE",
    source="cloud.google.com/confidential-computing/confidential-vm/docs/supported-configurations",
    severity=Severity.CRITICAL,
)
def vm_confidential(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Every virtual machine is a confidential one."""
    kind = at(props, "confidentialInstanceConfig.confidentialInstanceType")
    if kind not in ("SEV", "SEV_SNP", "TDX"):
        if not true(at(props, "confidentialInstanceConfig.enableConfidentialCompute")):
            yield "the virtual machine is not confidential"
        return
    if kind != "SEV" and true(at(props, "confidentialInstanceConfig.enableConfidentialCompute")):
        yield f"enableConfidentialCompute means SEV and must not stand beside {kind}"
    if not true(at(props, "shieldedInstanceConfig.enableSecureBoot")):
        yield "Secure Boot is off"
    if kind != "SEV" and at(props, "scheduling.onHostMaintenance") != "TERMINATE":
        yield f"{kind} cannot migrate: onHostMaintenance must be TERMINATE"


@rule(
    RULES,
    "gcp-production-image",
    *HOSTS,
    remedy="Use a resolved production image and a container pinned by digest",
    source="cloud.google.com/confidential-computing/confidential-space/docs/confidential-space-images",
    severity=Severity.CRITICAL,
)
def production_image(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Confidential Space runs its production image and a container fixed by its digest."""
    images = [
        *(str(at(disk, "sourceImage") or "") for disk in items(props, "disks")),
        str(at(props, "bootDisk.initializeParams.image") or ""),
    ]
    if any("confidential-space-debug" in image for image in images):
        yield "the debug image lets its operator log in as root"
    reference = at(props, "metadata.tee-image-reference")
    if reference is not None and not re.search(r"@sha256:[0-9a-f]{64}$", str(reference)):
        yield f"{reference} can name other bytes tomorrow"
    if str(at(props, "metadata.tee-container-log-redirect") or "false") not in ("false", "cloud_logging"):
        yield "the container writes to the serial console"


@rule(
    RULES,
    "gcp-no-login",
    *HOSTS,
    "gcp:compute/projectMetadata:ProjectMetadata",
    "gcp:serviceaccount/key:Key",
    remedy="Nobody logs in to a confidential host: replace it instead",
    source="cloud.google.com/compute/docs/troubleshooting/troubleshooting-using-serial-console",
)
def no_login(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """No SSH keys, no serial console, no start-up script from outside, no keys of service accounts."""
    if token == "gcp:serviceaccount/key:Key":
        yield "a key of a service account never expires"
        return
    for name in ("ssh-keys", "sshKeys"):
        if at(props, f"metadata.{name}"):
            yield f"{name} lets somebody log in"
    if str(at(props, "metadata.serial-port-enable") or "false").lower() in ("1", "true"):
        yield "the serial console is a way in"


@rule(
    RULES,
    "gcp-bucket-closed",
    "gcp:storage/bucket:Bucket",
    "gcp:storage/bucketIAMMember:BucketIAMMember",
    "gcp:storage/bucketIAMBinding:BucketIAMBinding",
    "gcp:storage/bucketACL:BucketACL",
    "gcp:storage/bucketAccessControl:BucketAccessControl",
    remedy="Uniform access, publicAccessPrevention enforced, versioning, named members",
    source="cloud.google.com/storage/docs/public-access-prevention",
)
def bucket_closed(token: str, props: Mapping[str, Any]) -> Iterator[str]:
    """Buckets know IAM only, never the public, and keep what is overwritten."""
    if token in ("gcp:storage/bucketACL:BucketACL", "gcp:storage/bucketAccessControl:BucketAccessControl"):
        yield "access control lists go around IAM"
    elif token == "gcp:storage/bucket:Bucket":
        if not true(props.get("uniformBucketLevelAccess")):
            yield "objects may have access lists of their own"
        if props.get("publicAccessPrevention") != "enforced":
            yield "the bucket may be made public"
        if not true(at(props, "versioning.enabled")) and at(props, "retentionPolicy") is None:
            yield "what is overwritten is lost"
    else:
        for member in sorted(PUBLIC & {*items(props, "members"), *items(props, "member")}):
            yield f"{member} may read the bucket"
