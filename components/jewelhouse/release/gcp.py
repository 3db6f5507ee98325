"""The workload identity provider and the IAM bindings of an attested key in Cloud KMS.

Cloud KMS sees no evidence. Google Cloud Attestation judges it and signs a token, the workload identity pool
of the key admits tokens whose claims meet the provider's condition, and the key's bindings name what the pool
maps from them. Sources, 2026-04, below docs.cloud.google.com/confidential-computing/:
confidential-space/docs/create-grant-access-confidential-resources, .../reference/token-claims, and
confidential-vm/docs/token-claims.

The first of these pages says `dbgstat == "enable"` and `hwmodel == "INTEL_TDX"`; tokens say `enabled` and
`GCP_INTEL_TDX`. Conditions here hold the values of real tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import GcpAccount, Platform, Proof, Tee
from jewelhouse.release.clauses import Alternative, Clause, simplified
from jewelhouse.release.facts import Opening
from jewelhouse.release.gcp_facts import gathered, issuer_of, parse
from jewelhouse.release.policy import Gate, ReleasePolicy

__all__ = ["compile", "openings", "parse"]

ISSUER = "https://confidentialcomputing.googleapis.com/"
# Audience of the token that the Confidential Space launcher fetches every hour.
AUDIENCE = "https://sts.googleapis.com"
ROLE = "roles/cloudkms.cryptoKeyDecrypter"

# iam.googleapis.com v1, WorkloadIdentityPoolProvider: attributeCondition, attributeMapping.
CONDITION_LIMIT = 4096
MAPPING_LIMIT = 2048

# TEE -> hwmodel claim. Confidential Space runs on SEV and TDX only (deploy-workloads, 2026-04; on SEV-SNP its
# verifier answered UNSUPPORTED_CC_TECHNOLOGY in 2026-06), and no page lists a value for SEV-SNP.
HARDWARE: Mapping[Tee, str] = {Tee.SEV: "GCP_AMD_SEV", Tee.TDX: "GCP_INTEL_TDX"}
GPUS: Mapping[str, str] = {"H100": "GCP_NVIDIA_H100"}

# google.subject takes 127 bytes. `assertion.sub` holds the instance's self link, which passes that limit for
# long project names, and then every exchange fails; digest, project number and instance id always fit.
SUBJECTS: Mapping[Platform, str] = {
    Platform.GCP_CONFIDENTIAL_SPACE: (
        '"gcpcs::"+assertion.submods.container.image_digest'
        '+"::"+assertion.submods.gce.project_number+"::"+assertion.submods.gce.instance_id'
    ),
    Platform.GCP_CVM: (
        '"gcpcvm::"+assertion.submods.gce.project_number+"::"+assertion.submods.gce.instance_id'
    ),
}
DIGEST = "assertion.submods.container.image_digest"
ACCOUNTS = "assertion.google_service_accounts"

# What every token of the platform must say. Debug and hardened images share swname; only dbgstat and the
# support attributes tell them apart, and a GPU clause alone would admit a debug image.
BASE: Mapping[Platform, tuple[str, ...]] = {
    Platform.GCP_CONFIDENTIAL_SPACE: (
        "assertion.swname == 'CONFIDENTIAL_SPACE'",
        "'STABLE' in assertion.submods.confidential_space.support_attributes",
        "assertion.dbgstat == 'disabled-since-boot'",
        "assertion.secboot == true",
        # Real tokens omit these claims when nothing is overridden, and size() of an absent claim is an error.
        *(
            f"(!has(assertion.submods.container.{name}) || size(assertion.submods.container.{name}) == 0)"
            for name in ("cmd_override", "env_override")
        ),
    ),
    # dbgstat is absent from these tokens or `enabled`, and no claim names an image.
    Platform.GCP_CVM: ("assertion.swname == 'GCE'", "assertion.secboot == true"),
}

_CHOOSE_SPACE = "choose gcp-confidential-space"
_FIRMWARE = "Google patches the firmware; tokens state a TCB status for TDX only"
PROOFS: Mapping[Platform, Mapping[Proof, tuple[str, str]]] = {
    Platform.GCP_CONFIDENTIAL_SPACE: {
        Proof.GENUINE: ("enforced", "Google Cloud Attestation verifies the hardware; hwmodel is pinned"),
        Proof.DEBUG_OFF: ("enforced", "dbgstat disabled-since-boot and a STABLE image"),
        Proof.FIRMWARE: ("not-possible", _FIRMWARE),
        Proof.IMAGE: ("enforced", "image_digest, in the condition and in the principal set"),
        Proof.CONFIG: ("enforced", "arguments and environment are those of the image: overrides are refused"),
        Proof.IDENTITY: ("enforced", "operator's project and the stage's service account"),
        Proof.GPU: ("enforced", "nvidia_gpu: confidential mode on, H100"),
        Proof.NO_BYPASS: ("enforced", "a deny policy leaves decryption to the attested pools of the owner"),
    },
    Platform.GCP_CVM: {
        Proof.GENUINE: ("enforced", "Google Cloud Attestation verifies the hardware; hwmodel is pinned"),
        Proof.DEBUG_OFF: ("not-possible", f"tokens of a plain VM do not say it: {_CHOOSE_SPACE}"),
        Proof.FIRMWARE: ("not-possible", _FIRMWARE),
        Proof.IMAGE: ("not-possible", f"tokens of a plain VM name no image: {_CHOOSE_SPACE}"),
        Proof.CONFIG: ("not-possible", f"tokens of a plain VM name no arguments: {_CHOOSE_SPACE}"),
        Proof.IDENTITY: ("enforced", "operator's project and the stage's service account"),
        Proof.GPU: ("not-possible", f"tokens of a plain VM name no GPU: {_CHOOSE_SPACE}"),
        Proof.NO_BYPASS: ("enforced", "a deny policy leaves decryption to the attested pools of the owner"),
    },
}


def compile(policy: ReleasePolicy) -> dict[str, Any]:
    """Provider and bindings of the key.

    `issuer`, `audiences`, `mapping`, `condition`: the provider in the key's own workload identity pool.
    `bindings`: the key's IAM bindings in IAM's form; a member is what follows the pool in a principal set
    (`attribute.image_digest/sha256:...`), since pool and project number are known when it is deployed.

    Raises JewelhouseError for a gate that would admit anything but its measured image where a token names
    one, and for expressions over Google's limits.
    """
    where = policy.key.name
    if not isinstance(policy.owner, GcpAccount):
        raise JewelhouseError("the key's owner has no Google Cloud project", where=where)
    if not policy.gates:
        raise JewelhouseError("a release policy needs a gate", where=where)
    platform = policy.key.platform
    if platform not in BASE:
        raise JewelhouseError(f"Google Cloud Attestation cannot judge evidence of {platform}", where=where)
    gates = [" && ".join(_clauses(policy, gate)) for gate in policy.gates]
    condition = " && ".join((*BASE[platform], "(" + " || ".join(f"({gate})" for gate in gates) + ")"))
    mapping, bindings = _principals(policy)
    _check(condition, CONDITION_LIMIT, "attribute condition", where)
    for name, expression in mapping.items():
        _check(expression, MAPPING_LIMIT, f"mapping of {name}", where)
    return {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "mapping": mapping,
        "condition": condition,
        "bindings": bindings,
    }


def _clauses(policy: ReleasePolicy, gate: Gate) -> Iterator[str]:
    """What a token must say to pass as this stage, after it met the base of its platform."""
    where = f"stages.{gate.stage}"
    account = gate.account
    if gate.platform is not policy.key.platform or not isinstance(account, GcpAccount):
        raise JewelhouseError(f"a gate of {gate.platform} cannot open {policy.key.name}", where=where)
    if gate.tee not in HARDWARE:
        raise JewelhouseError(
            f"Google Cloud Attestation has no hwmodel for {gate.tee}, so no token would ever match",
            where=f"{where}.tee",
            remedy="choose tdx or sev",
            source="Confidential Space: deploy workloads, token claims, 2026-04",
        )
    suffix = re.escape(f"@{account.project}.iam.gserviceaccount.com")
    if gate.identity is None or not re.fullmatch(rf"[a-z][a-z0-9-]{{4,28}}[a-z0-9]{suffix}", gate.identity):
        raise JewelhouseError(
            f"a gate needs the service account of its stage in {account.project}, found {gate.identity!r}",
            where=where,
            remedy="its id is made of lifecycle and stage, 6 to 30 of [a-z0-9-]: choose names that fit",
        )
    yield f"assertion.hwmodel == {literal(HARDWARE[gate.tee])}"
    yield f"assertion.submods.gce.project_id == {literal(account.project)}"
    if account.number is not None:
        yield f"assertion.submods.gce.project_number == {literal(account.number)}"
    yield f"{literal(gate.identity)} in {ACCOUNTS}"
    if gate.platform is Platform.GCP_CVM:
        return
    yield f"{DIGEST} in [{', '.join(literal(digest) for digest in _digests(gate))}]"
    if gate.gpu is not None:
        if gate.gpu not in GPUS:
            raise JewelhouseError(
                f"tokens have no value for a {gate.gpu}",
                where=f"{where}.gpu",
                remedy=f"choose {' or '.join(GPUS)}",
                source="Confidential Space: token claims, 2026-04",
            )
        yield "assertion.submods.nvidia_gpu.cc_mode == 'ON'"
        yield f"assertion.submods.nvidia_gpu.gpus.exists(gpu, gpu.hwmodel == {literal(GPUS[gate.gpu])})"


def _digests(gate: Gate) -> list[str]:
    """Image digests of a gate: the current one, and during a roll-out the previous one too."""
    where = f"stages.{gate.stage}.image"
    if not gate.measurements:
        raise JewelhouseError(
            "the gate has no measurements, so any container would open the key",
            where=where,
            remedy="build the image, or declare its image_digest in images.lock.yaml",
        )
    found = []
    for measurements in gate.measurements:
        digest = measurements.get("image_digest")
        if digest is None or set(measurements.values) != {"image_digest"}:
            raise JewelhouseError(
                f"tokens compare image_digest, found {', '.join(measurements.values) or 'nothing'}",
                where=where,
                remedy="pin the digest of the container's manifest as image_digest",
            )
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or digest == "sha256:" + "0" * 64:
            raise JewelhouseError(
                f"{digest!r} is not the digest of a container",
                where=where,
                remedy="write sha256: and 64 lower-case hex digits, as the registry shows it",
            )
        found.append(digest)
    return sorted(set(found))


@dataclass(frozen=True, kw_only=True)
class _Members:
    """How the gates of a policy are bound.

    A member is an image digest. An IAM condition on its binding ends a licence at the moment of the call to
    KMS. Where gates share a digest but end at different times, a digest cannot tell them apart, so these bind
    the stage instead, which the mapping reads from the service account; so do plain VMs, which have none.

    `digests`: those that end at one time, and when. `stages`: gates that are bound by their stage. `order`:
    gates as the mapping looks for them. A token falls under the first that it has the account of, so every
    gate that ends stands before those that end later or never, also where it is bound by its digest: an
    operator who adds the account of a stage with a longer licence gains nothing.
    """

    digests: Mapping[str, datetime | None]
    stages: tuple[Gate, ...]
    order: tuple[Gate, ...]


def _members(policy: ReleasePolicy) -> _Members:
    ends: dict[str, set[datetime | None]] = {}
    vm = policy.key.platform is Platform.GCP_CVM
    for gate in () if vm else policy.gates:
        for digest in _digests(gate):
            ends.setdefault(digest, set()).add(gate.not_after)
    stages = [gate for gate in policy.gates if vm or any(len(ends[digest]) > 1 for digest in _digests(gate))]
    order = [gate for gate in policy.gates if stages and (gate in stages or gate.not_after is not None)]
    order.sort(key=lambda gate: (gate.not_after or datetime.max.replace(tzinfo=UTC), gate.stage))
    return _Members(
        digests={digest: end for digest, found in sorted(ends.items()) if len(found) == 1 for end in found},
        stages=tuple(stages),
        order=tuple(order),
    )


def _principals(policy: ReleasePolicy) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The attribute mapping and the bindings that name what it maps."""
    platform = policy.key.platform
    found = _members(policy)
    members = {f"attribute.image_digest/{digest}": end for digest, end in found.digests.items()}
    mapping = {"google.subject": SUBJECTS[platform]}
    if platform is Platform.GCP_CONFIDENTIAL_SPACE:
        mapping["attribute.image_digest"] = DIGEST
    if found.stages:
        choices = (
            f"{literal(gate.identity or '')} in {ACCOUNTS} ? {literal(gate.stage)} : " for gate in found.order
        )
        mapping["attribute.stage"] = "".join(choices) + "'none'"
        members |= {f"attribute.stage/{gate.stage}": gate.not_after for gate in found.stages}
    grouped: dict[datetime | None, list[str]] = {}
    for member, end in sorted(members.items()):
        grouped.setdefault(end, []).append(member)
    return mapping, [_binding(end, members) for end, members in grouped.items()]


def openings(policy: ReleasePolicy) -> frozenset[Opening]:
    """What a policy lets happen, said without its document: `parse(compile(policy)).openings` is the same.

    Raises JewelhouseError for a policy that cannot be compiled.
    """
    compile(policy)
    space = policy.key.platform is Platform.GCP_CONFIDENTIAL_SPACE
    base = {
        Clause("assertion.iss", "==", issuer_of(ISSUER)),
        Clause("assertion.aud", "==", AUDIENCE),
        Clause("assertion.swname", "==", "CONFIDENTIAL_SPACE" if space else "GCE"),
        Clause("assertion.secboot", "==", "true"),
        # The subject is made of these.
        Clause("assertion.submods.gce.project_number", "exists"),
        Clause("assertion.submods.gce.instance_id", "exists"),
    }
    if space:
        base |= {
            Clause("assertion.dbgstat", "==", "disabled-since-boot"),
            Clause("assertion.submods.confidential_space.support_attributes", "has", "STABLE"),
            Clause("assertion.submods.container.cmd_override", "empty"),
            Clause("assertion.submods.container.env_override", "empty"),
        }
    bound = _members(policy)
    found: list[tuple[Alternative, datetime | None, None]] = []
    for gate in policy.gates:
        for digest in _digests(gate) if space else [None]:
            met = frozenset(base | _clauses_of(gate, digest))
            if digest is not None and digest in bound.digests:
                found += [(one, bound.digests[digest], None) for one in simplified([met])]
            for stage in bound.stages:
                before = bound.order[: bound.order.index(stage)]
                among = {Clause(ACCOUNTS, "has", stage.identity or "")}
                among |= {Clause(ACCOUNTS, "not has", one.identity or "") for one in before}
                found += [(one, stage.not_after, None) for one in simplified([met | among])]
    return gathered(found)


def _clauses_of(gate: Gate, digest: str | None) -> set[Clause]:
    assert isinstance(gate.account, GcpAccount)
    found = {
        Clause("assertion.hwmodel", "==", HARDWARE[gate.tee]),
        Clause("assertion.submods.gce.project_id", "==", gate.account.project),
        Clause(ACCOUNTS, "has", gate.identity or ""),
    }
    if gate.account.number is not None:
        found.add(Clause("assertion.submods.gce.project_number", "==", gate.account.number))
    if digest is not None:
        found.add(Clause(DIGEST, "==", digest))
        if gate.gpu is not None:
            model = (
                f"assertion.submods.nvidia_gpu.gpus.exists(item1, item1.hwmodel == {literal(GPUS[gate.gpu])})"
            )
            found |= {Clause("assertion.submods.nvidia_gpu.cc_mode", "==", "ON"), Clause(model, "holds")}
    return found


def _binding(end: datetime | None, members: list[str]) -> dict[str, Any]:
    binding: dict[str, Any] = {"role": ROLE, "members": members}
    if end is not None:
        moment = end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        binding["condition"] = {
            "title": f"licence until {moment}",
            "expression": f"request.time < timestamp({literal(moment)})",
        }
    return binding


def literal(value: str) -> str:
    """`value` as a CEL string literal: JSON's escapes are CEL's too, but for the quote."""
    inside = json.dumps(value, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("'", "\\'")
    return f"'{inside}'"


def _check(expression: str, limit: int, what: str, where: str) -> None:
    if len(expression) > limit:
        raise JewelhouseError(
            f"the {what} has {len(expression)} characters, Google takes {limit}",
            where=where,
            remedy="let fewer stages open one artifact, finish a roll-out, or run stages in another region",
            source="IAM API v1: WorkloadIdentityPoolProvider",
        )
