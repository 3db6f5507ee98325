"""The Key Vault release policy of an attested key, and that of a confidential VM's disk key.

Grammar: MicrosoftDocs/azure-security-docs articles/key-vault/includes/key-management-policy-grammar.md. Only
`equals` is emitted, with values as text: that is what the page's prose allows and what Microsoft's samples pin
(microsoft/confidential-sidecar-containers examples/skr/aci/importkeyconfig.json).

There are two token shapes. A confidential VM's guest attestation nests the TEE's claims under
`x-ms-isolation-tee`; platform tokens (container groups, disk keys) have them at the top. A policy of one shape
never matches a token of the other.
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
from jewelhouse.release.policy import Gate, ReleasePolicy

CONTENT_TYPE = "application/json; charset=utf-8"
NESTED = "x-ms-isolation-tee."
TEE_TYPES: Mapping[Tee, str] = {Tee.SEV_SNP: "sevsnpvm", Tee.TDX: "tdxvm"}
# A custom provider is named by its own URL; the shared ones follow one form.
AUTHORITY = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)*\.attest\.azure\.net")

PROOFS: Mapping[Platform, Mapping[Proof, tuple[str, str]]] = {
    Platform.AZURE_CONTAINER: {
        Proof.GENUINE: ("enforced", "attestation verifies the SEV-SNP report to AMD's root"),
        Proof.DEBUG_OFF: ("enforced", "x-ms-sevsnpvm-is-debuggable is false"),
        Proof.FIRMWARE: ("not-possible", "floors of firmware versions need an operator that is not documented to work"),
        Proof.IMAGE: ("enforced", "hostdata is the digest of the policy that pins every layer"),
        Proof.CONFIG: ("enforced", "command, environment and mounts are in the same policy"),
        Proof.IDENTITY: ("enforced", "only the stage's managed identity has the release role on the key"),
        Proof.GPU: ("not-possible", "container groups have no GPU: choose azure-cvm and check the GPU in the guest"),
        Proof.NO_BYPASS: ("enforced", "the key leaves the vault by release only, and its policy cannot be updated"),
    },
    Platform.AZURE_CVM: {
        Proof.GENUINE: ("enforced", "attestation verifies the TEE to its vendor's root"),
        Proof.DEBUG_OFF: ("enforced", "azure-compliant-cvm excludes debuggable guests"),
        Proof.FIRMWARE: ("enforced", "azure-compliant-cvm: Azure's paravisor and Secure Boot"),
        Proof.IMAGE: ("not-possible", "Key Vault cannot see a VM's disk image: choose azure-container"),
        Proof.CONFIG: ("not-possible", "Key Vault cannot see what runs in a VM: choose azure-container"),
        Proof.IDENTITY: ("enforced", "only the stage's managed identity has the release role on the key"),
        Proof.GPU: ("not-possible", "attestation sees no GPU: the guest checks it before it asks for the key"),
        Proof.NO_BYPASS: ("enforced", "the key leaves the vault by release only, and its policy cannot be updated"),
    },
}


def compile(policy: ReleasePolicy) -> dict[str, Any]:
    """The release policy document: one authority entry for each different gate.

    Raises JewelhouseError for a gate that admits any code, an authority that is not known or that its owner
    could loosen, and a TEE that the platform does not attest.
    """
    if not isinstance(policy.owner, AzureAccount):
        raise JewelhouseError("the key's owner has no Azure subscription", where=policy.key.name)
    if not policy.gates:
        raise JewelhouseError("a release policy needs a gate", where=policy.key.name)
    entries = {
        json.dumps(entry, sort_keys=True): entry
        for entry in (
            {"authority": authority(policy, gate), "allOf": list(_conditions(gate))} for gate in policy.gates
        )
    }
    return {"version": "1.0.0", "anyOf": [entries[text] for text in sorted(entries)]}


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
    if not AUTHORITY.fullmatch(host):
        raise JewelhouseError(f"{gate.authority} is not an attestation endpoint of Azure", where=where)
    if gate.authority_policy is None:
        raise JewelhouseError(
            "whoever owns a custom attestation provider could loosen its policy",
            where=f"stages.{gate.stage}.authority-policy",
            remedy="pin the x-ms-policy-hash of the provider's policy",
        )
    return host


def _conditions(gate: Gate) -> Iterator[dict[str, Any]]:
    if gate.platform is Platform.AZURE_CONTAINER:
        yield from _container(gate)
    elif gate.platform is Platform.AZURE_CVM:
        yield _equals(f"{NESTED}x-ms-attestation-type", _tee_type(gate))
        yield _equals(f"{NESTED}x-ms-compliance-status", "azure-compliant-cvm")
        if gate.tee is Tee.SEV_SNP:
            yield _equals(f"{NESTED}x-ms-sevsnpvm-is-debuggable", "false")
        yield _equals("secureboot", "true")
    else:
        raise JewelhouseError(
            f"Key Vault cannot judge evidence of {gate.platform}", where=f"stages.{gate.stage}.platform"
        )
    if gate.authority_policy is not None:
        yield _equals("x-ms-policy-hash", gate.authority_policy)


def _container(gate: Gate) -> Iterator[dict[str, Any]]:
    where = f"stages.{gate.stage}.image"
    if gate.tee is not Tee.SEV_SNP:
        raise JewelhouseError(f"container groups run on sev-snp, not {gate.tee}", where=f"stages.{gate.stage}.tee")
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
    yield _equals("x-ms-attestation-type", "sevsnpvm")
    yield _equals("x-ms-compliance-status", "azure-compliant-uvm")
    yield _equals("x-ms-sevsnpvm-is-debuggable", "false")
    yield _equals("x-ms-sevsnpvm-vmpl", "0")
    allowed = [_equals("x-ms-sevsnpvm-hostdata", digest) for digest in digests]
    yield allowed[0] if len(allowed) == 1 else {"anyOf": allowed}


def _tee_type(gate: Gate) -> str:
    if gate.tee not in TEE_TYPES:
        raise JewelhouseError(f"Azure does not attest {gate.tee}", where=f"stages.{gate.stage}.tee")
    return TEE_TYPES[gate.tee]


def _equals(claim: str, value: str) -> dict[str, Any]:
    return {"claim": claim, "equals": value}


def disk_policy(region: str, tee: Tee, authority_url: str | None = None) -> dict[str, Any]:
    """Release policy of the key that encrypts a confidential VM's OS disk.

    The platform's own token opens it, so its claims are flat and its authority ends in a slash, as in
    Azure/confidential-computing-cvm cvm_deployment/key/skr-policy.json; only this region and TEE.
    """
    endpoint = authority_url or attestation_endpoint(region)
    if endpoint is None:
        raise JewelhouseError(f"no shared attestation endpoint is known for {region}", where=region)
    conditions = [
        _equals("x-ms-attestation-type", TEE_TYPES[tee]),
        _equals("x-ms-compliance-status", "azure-compliant-cvm"),
    ]
    return {"version": "1.0.0", "anyOf": [{"authority": f"{endpoint.rstrip('/')}/", "allOf": conditions}]}


def canonical(document: Mapping[str, Any]) -> bytes:
    """The bytes of a document: compact JSON with sorted keys, so that equal policies are equal bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def encode(document: Mapping[str, Any]) -> str:
    """A document as Key Vault takes it: base64url without padding."""
    return base64.urlsafe_b64encode(canonical(document)).rstrip(b"=").decode()


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document in hex; its first digits go into the key's name, since keys are create-only."""
    return hashlib.sha256(canonical(document)).hexdigest()
