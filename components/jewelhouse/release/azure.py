"""The Key Vault release policy of an attested key, and that of a confidential VM's disk key.

Grammar: MicrosoftDocs/azure-security-docs articles/key-vault/includes/key-management-policy-grammar.md. Only
`equals` is emitted, with values as text: that is what the page's prose allows and what Microsoft's samples
pin (microsoft/confidential-sidecar-containers: examples/skr/aci/importkeyconfig.json).

There are two token shapes. A confidential VM's guest attestation nests the TEE's claims under
`x-ms-isolation-tee`; platform tokens (container groups, disk keys) have them at the top. A policy of one
shape never matches a token of the other.

Who may ask for a release is not in the policy: that is a role on the key. So of several stages that open one
key, each may show the evidence of any of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.hardware.azure import attestation_endpoint
from jewelhouse.model import AzureAccount, Platform, Proof, Tee
from jewelhouse.release.azure_facts import AUTHORITY as AUTHORITY_CLAIM
from jewelhouse.release.azure_facts import parse
from jewelhouse.release.facts import Opening, reduced
from jewelhouse.release.policy import Gate, ReleasePolicy

__all__ = [
    "AUTHORITY",
    "CONTENT_TYPE",
    "NESTED",
    "PROOFS",
    "SHARED_HOST",
    "TEE_TYPES",
    "authority",
    "canonical",
    "check_end",
    "compile",
    "digest",
    "disk_policy",
    "encode",
    "openings",
    "parse",
]

CONTENT_TYPE = "application/json; charset=utf-8"
NESTED = "x-ms-isolation-tee."
TEE_TYPES: Mapping[Tee, str] = {Tee.SEV_SNP: "sevsnpvm", Tee.TDX: "tdxvm"}
# A custom provider is named by its own URL; the shared ones follow one form.
AUTHORITY = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)*\.attest\.azure\.net")
SHARED_HOST = re.compile(r"https://shared(?P<code>[a-z0-9]+)\.(?P<zone>[a-z0-9]+)\.attest\.azure\.net")


_IDENTITY = ("enforced", "only managed identities of stages have the release role, on this key alone")
_NO_BYPASS = (
    "enforced",
    "no operation but release reaches the private half, and the policy is never updated",
)
_FIRMWARE = (
    "not-possible",
    "a floor of versions needs an operator other than equals; attestation keeps its own",
)
PROOFS: Mapping[Platform, Mapping[Proof, tuple[str, str]]] = {
    # Claims: MicrosoftDocs/azure-docs articles/confidential-computing/skr-policy-examples.md, 2026-10.
    Platform.AZURE_CONTAINER: {
        Proof.GENUINE: ("enforced", "attestation verifies the SEV-SNP report to AMD's root"),
        Proof.DEBUG_OFF: ("enforced", "x-ms-sevsnpvm-is-debuggable is false"),
        Proof.FIRMWARE: _FIRMWARE,
        Proof.IMAGE: ("enforced", "hostdata is the digest of the policy that pins every layer"),
        Proof.CONFIG: ("enforced", "command, environment and mounts are in the same policy"),
        Proof.IDENTITY: _IDENTITY,
        Proof.GPU: (
            "not-possible",
            "container groups have no GPU: choose azure-cvm and check the GPU in the guest",
        ),
        Proof.NO_BYPASS: _NO_BYPASS,
    },
    # Claims: skr-flow-confidential-vm-sev-snp.md in the same folder; launch measurements of VMs cover Azure's
    # firmware and not the disk, and attestation has no policy that reads a dm-verity digest
    # (how-to-attest-linux-workload-dm-verity-ima.md).
    Platform.AZURE_CVM: {
        Proof.GENUINE: ("enforced", "attestation verifies the TEE to its vendor's root"),
        Proof.DEBUG_OFF: ("enforced", "azure-compliant-cvm excludes debuggable guests"),
        Proof.FIRMWARE: _FIRMWARE,
        Proof.IMAGE: ("not-possible", "Key Vault cannot see a VM's disk image: choose azure-container"),
        Proof.CONFIG: ("not-possible", "Key Vault cannot see what runs in a VM: choose azure-container"),
        Proof.IDENTITY: _IDENTITY,
        Proof.GPU: (
            "not-possible",
            "attestation sees no GPU: the guest checks it before it asks for the key",
        ),
        Proof.NO_BYPASS: _NO_BYPASS,
    },
}


def compile(policy: ReleasePolicy) -> dict[str, Any]:
    """The release policy document: one entry per attestation endpoint, with what all of its gates require and
    the rest as alternatives.

    Raises JewelhouseError for a gate that admits any code, an endpoint that is not known or that its owner
    could loosen, a TEE that the platform does not attest, and a licence that ends (`check_end`).
    """
    if not isinstance(policy.owner, AzureAccount):
        raise JewelhouseError("the key's owner has no Azure subscription", where=policy.key.name)
    if not policy.gates:
        raise JewelhouseError(
            "a release policy needs a gate", where=policy.key.name, remedy="let a stage open the artifact"
        )
    by_authority: dict[str, list[list[dict[str, Any]]]] = {}
    for gate in policy.gates:
        check_end(policy, gate)
        by_authority.setdefault(authority(policy, gate), []).extend(_alternatives(policy, gate))
    return {
        "version": "1.0.0",
        "anyOf": [
            {"authority": endpoint, "allOf": _all_of(alternatives)}
            for endpoint, alternatives in sorted(by_authority.items())
        ],
    }


def openings(policy: ReleasePolicy) -> frozenset[Opening]:
    """What a neutral policy is to open, from its gates alone: `parse(compile(policy))` must find the same.

    Raises JewelhouseError as `compile` does.
    """
    return reduced(
        Opening(
            claims={
                AUTHORITY_CLAIM: authority(policy, gate),
                **{condition["claim"]: condition["equals"] for condition in conditions},
            }
        )
        for gate in policy.gates
        for conditions in _alternatives(policy, gate)
    )


def check_end(policy: ReleasePolicy, gate: Gate) -> None:
    """Raises JewelhouseError for a gate that ends: Key Vault has no way to end a release at a time.

    A policy knows no clock, and a key is released after it expired: "Operations outside the nbf / exp window
    are automatically disallowed, except for decrypt, release, unwrap, and verify"
    (MicrosoftDocs/azure-security-docs articles/key-vault/keys/about-keys.md).
    """
    if gate.not_after is not None:
        raise JewelhouseError(
            f"the licence of {gate.stage} ends on {gate.not_after:%Y-%m-%d}, and Key Vault also releases "
            "expired keys",
            where=f"artifacts.{policy.artifact}.licences",
            remedy="open it on AWS or Google Cloud, or give the tier no end and remove the stage in time",
            source="learn.microsoft.com/azure/key-vault/keys/about-keys, date-time controlled operations",
        )


def _all_of(alternatives: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What every alternative requires, then any of what is left of each."""
    common = [condition for condition in alternatives[0] if all(condition in other for other in alternatives)]
    rests: list[list[dict[str, Any]]] = []
    for alternative in alternatives:
        rest = [condition for condition in alternative if condition not in common]
        if not rest:
            # The others only ask for more than this one.
            return common
        if rest not in rests:
            rests.append(rest)
    any_of = [rest[0] if len(rest) == 1 else {"allOf": rest} for rest in rests]
    return [*common, {"anyOf": sorted(any_of, key=canonical)}]


def authority(policy: ReleasePolicy, gate: Gate) -> str:
    """The attestation endpoint whose tokens a gate accepts, without a trailing slash: `iss` never has one."""
    where = f"stages.{gate.stage}.authority"
    if gate.authority is None:
        shared = attestation_endpoint(policy.key.region)
        if shared is None:
            raise JewelhouseError(
                f"no shared attestation endpoint is known for {policy.key.region}",
                where=where,
                remedy="set `authority` and `authority-policy` of your own attestation provider",
            )
        return shared
    host = gate.authority.rstrip("/")
    shared_host = SHARED_HOST.fullmatch(host)
    if not AUTHORITY.fullmatch(host) or (shared_host and shared_host["code"] != shared_host["zone"]):
        raise JewelhouseError(
            f"{gate.authority} is not an attestation endpoint of Azure",
            where=where,
            remedy="it reads https://<name>.<region code>.attest.azure.net",
        )
    if gate.authority_policy is None:
        raise JewelhouseError(
            "whoever owns a custom attestation provider could loosen its policy",
            where=f"stages.{gate.stage}.authority-policy",
            remedy="pin the x-ms-policy-hash of the provider's policy",
        )
    return host


def _alternatives(policy: ReleasePolicy, gate: Gate) -> Iterator[list[dict[str, Any]]]:
    """The sets of conditions of a gate: one for each image that a container may have."""
    pinned = [] if gate.authority_policy is None else [_equals("x-ms-policy-hash", gate.authority_policy)]
    if gate.platform is not policy.key.platform:
        raise JewelhouseError(
            f"evidence of {gate.platform} never opens a key for {policy.key.platform}",
            where=f"stages.{gate.stage}.platform",
        )
    if gate.platform is Platform.AZURE_CONTAINER:
        for digest in _hostdata(gate):
            yield [
                _equals("x-ms-attestation-type", "sevsnpvm"),
                _equals("x-ms-compliance-status", "azure-compliant-uvm"),
                _equals("x-ms-sevsnpvm-is-debuggable", "false"),
                _equals("x-ms-sevsnpvm-vmpl", "0"),
                *pinned,
                _equals("x-ms-sevsnpvm-hostdata", digest),
            ]
    elif gate.platform is Platform.AZURE_CVM:
        snp = [_equals(f"{NESTED}x-ms-sevsnpvm-is-debuggable", "false")] if gate.tee is Tee.SEV_SNP else []
        yield [
            _equals(f"{NESTED}x-ms-attestation-type", _tee_type(gate.tee, f"stages.{gate.stage}.tee")),
            _equals(f"{NESTED}x-ms-compliance-status", "azure-compliant-cvm"),
            *snp,
            _equals("secureboot", "true"),
            *pinned,
        ]
    else:
        raise JewelhouseError(
            f"Key Vault cannot judge evidence of {gate.platform}", where=f"stages.{gate.stage}.platform"
        )


def _hostdata(gate: Gate) -> list[str]:
    where = f"stages.{gate.stage}.image"
    if gate.tee is not Tee.SEV_SNP:
        raise JewelhouseError(
            f"container groups run on sev-snp, not {gate.tee}",
            where=f"stages.{gate.stage}.tee",
            remedy="set tee: sev-snp",
        )
    digests = sorted({measurements.get("hostdata") or "" for measurements in gate.measurements})
    if not digests:
        raise JewelhouseError(
            "the gate has no measurements, so any container would open the key",
            where=where,
            remedy="build the image, or declare its hostdata in images.lock.yaml",
        )
    for digest in digests:
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or set(digest) == {"0"}:
            raise JewelhouseError(
                f"hostdata {digest!r} is not the SHA-256 of a container policy",
                where=where,
                remedy="hostdata is 64 lower-case hex digits; a VM's is all zero",
            )
    return digests


def _tee_type(tee: Tee, where: str) -> str:
    if tee not in TEE_TYPES:
        raise JewelhouseError(f"Azure does not attest {tee}", where=where, remedy="choose sev-snp or tdx")
    return TEE_TYPES[tee]


def _equals(claim: str, value: str) -> dict[str, Any]:
    return {"claim": claim, "equals": value}


def disk_policy(region: str, tee: Tee) -> dict[str, Any]:
    """Release policy of the key that encrypts a confidential VM's OS disk.

    The platform's own token opens it, so its claims are flat and its authority ends in a slash, as in
    Azure/confidential-computing-cvm cvm_deployment/key/skr-policy.json; only this region and TEE.
    """
    endpoint = attestation_endpoint(region)
    if endpoint is None:
        raise JewelhouseError(
            f"no shared attestation endpoint is known for {region}, and only those open disks",
            where=region,
            remedy="choose a region that `jewelhouse lifecycle check` knows for azure-cvm",
        )
    conditions = [
        _equals("x-ms-attestation-type", _tee_type(tee, region)),
        _equals("x-ms-compliance-status", "azure-compliant-cvm"),
    ]
    return {"version": "1.0.0", "anyOf": [{"authority": f"{endpoint}/", "allOf": conditions}]}


def canonical(document: Mapping[str, Any]) -> bytes:
    """The bytes of a document: compact JSON with sorted keys, so that equal policies are equal bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def encode(document: Mapping[str, Any]) -> str:
    """A document as Key Vault takes it: base64url without padding."""
    return base64.urlsafe_b64encode(canonical(document)).rstrip(b"=").decode()


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document in hex; its first digits go into the key's name, since keys are create-only."""
    return hashlib.sha256(canonical(document)).hexdigest()
