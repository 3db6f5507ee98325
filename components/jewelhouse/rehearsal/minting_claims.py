"""Claims of tokens of Azure Attestation and Google Cloud Attestation, as real ones have them."""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from jewelhouse.rehearsal.minting_sgx import rsa_key

ISSUED = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MAA_ISSUER = "https://sharedweu.weu.attest.azure.net"
GOOGLE_ISSUER = "https://confidentialcomputing.googleapis.com"

Path = tuple[str, ...] | str


def put(claims: Mapping[str, Any], changes: Mapping[Path, Any]) -> dict[str, Any]:
    """A copy with changes: the key is a claim's name, or a tuple of names from the top; `...` removes it."""
    value = copy.deepcopy(dict(claims))
    for path, new in changes.items():
        *parents, last = (path,) if isinstance(path, str) else path
        at: dict[str, Any] = value
        for parent in parents:
            at = at.setdefault(parent, {})
        if new is ...:
            at.pop(last, None)
        else:
            at[last] = new
    return value


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def jwk_rsa(key: rsa.RSAPublicKey, **members: Any) -> dict[str, Any]:
    numbers = key.public_numbers()
    return {
        "kty": "RSA",
        "n": b64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)),
        "e": b64url(numbers.e.to_bytes(3)),
        **members,
    }


def _times(issued: datetime, life: timedelta) -> dict[str, int]:
    start = int(issued.timestamp())
    return {"iat": start, "nbf": start, "exp": start + int(life.total_seconds())}


SNP = {
    "x-ms-sevsnpvm-authorkeydigest": "00" * 48,
    "x-ms-sevsnpvm-bootloader-svn": 4,
    "x-ms-sevsnpvm-familyId": "01" + "00" * 15,
    "x-ms-sevsnpvm-guestsvn": 2,
    "x-ms-sevsnpvm-hostdata": "00" * 32,
    "x-ms-sevsnpvm-idkeydigest": "57" * 48,
    "x-ms-sevsnpvm-imageId": "02" + "00" * 15,
    "x-ms-sevsnpvm-is-debuggable": False,
    "x-ms-sevsnpvm-launchmeasurement": "ad" * 48,
    "x-ms-sevsnpvm-microcode-svn": 115,
    "x-ms-sevsnpvm-migration-allowed": False,
    "x-ms-sevsnpvm-reportdata": "c6" * 32 + "00" * 32,
    "x-ms-sevsnpvm-reportid": "cf" * 32,
    "x-ms-sevsnpvm-smt-allowed": True,
    "x-ms-sevsnpvm-snpfw-svn": 8,
    "x-ms-sevsnpvm-tee-svn": 0,
    "x-ms-sevsnpvm-vmpl": 0,
}
TDX = {
    "dbgstat": "disabled",
    "attester_tcb_status": "UpToDate",
    "tdx_mrtd": "5a" * 48,
    "tdx_rtmr0": "00" * 48,
    "tdx_rtmr1": "01" * 48,
    "tdx_rtmr2": "02" * 48,
    "tdx_rtmr3": "03" * 48,
    "tdx_mrseam": "3d" * 48,
    "tdx_report_data": "c6" * 32 + "00" * 32,
    "tdx_seamsvn": 3,
    "tdx_td_attributes_debug": False,
    "tdx_tee_tcb_svn": "03" + "00" * 15,
}


def guest_claims(
    tee: str = "sevsnpvm",
    *,
    issued: datetime = ISSUED,
    issuer: str = MAA_ISSUER,
    nonce: bytes = b"",
    kek: str | None = "TpmEphemeralEncryptionKey",
) -> dict[str, Any]:
    """`azurevm`, as guest attestation inside a confidential VM gets it: the TEE's claims are nested."""
    keys = [] if kek is None else [jwk_rsa(rsa_key("kek").public_key(), kid=kek, key_ops=["encrypt"])]
    return {
        **_times(issued, timedelta(hours=8)),
        "iss": issuer,
        "jti": "ce" * 32,
        "secureboot": True,
        "x-ms-attestation-type": "azurevm",
        "x-ms-azurevm-attestation-protocol-ver": "2.0",
        "x-ms-azurevm-attested-pcrs": [0, 1, 2, 3, 4, 5, 6, 7],
        "x-ms-azurevm-bootdebug-enabled": False,
        "x-ms-azurevm-dbvalidated": True,
        "x-ms-azurevm-dbxvalidated": True,
        "x-ms-azurevm-debuggersdisabled": True,
        "x-ms-azurevm-default-securebootkeysvalidated": True,
        "x-ms-azurevm-elam-enabled": False,
        "x-ms-azurevm-flightsigning-enabled": False,
        "x-ms-azurevm-hvci-policy": 0,
        "x-ms-azurevm-hypervisordebug-enabled": False,
        "x-ms-azurevm-is-windows": False,
        "x-ms-azurevm-kerneldebug-enabled": False,
        "x-ms-azurevm-osbuild": "NotApplication",
        "x-ms-azurevm-osdistro": "Ubuntu",
        "x-ms-azurevm-ostype": "Linux",
        "x-ms-azurevm-osversion-major": 24,
        "x-ms-azurevm-osversion-minor": 4,
        "x-ms-azurevm-signingdisabled": True,
        "x-ms-azurevm-testsigning-enabled": False,
        "x-ms-azurevm-vmid": "6506B531-1634-431E-99D2-42B7D3414AD0",
        "x-ms-isolation-tee": {
            "x-ms-attestation-type": tee,
            "x-ms-compliance-status": "azure-compliant-cvm",
            "x-ms-runtime": {
                "keys": [
                    jwk_rsa(rsa_key("ak").public_key(), kid="HCLAkPub", key_ops=["sign"]),
                    jwk_rsa(rsa_key("ek").public_key(), kid="HCLEkPub", key_ops=["encrypt"]),
                ],
                "user-data": "00" * 64,
                "vm-configuration": {
                    "console-enabled": True,
                    "secure-boot": True,
                    "tpm-enabled": True,
                    "vmUniqueId": "6506B531-1634-431E-99D2-42B7D3414AD0",
                },
            },
            **(SNP if tee == "sevsnpvm" else TDX),
        },
        "x-ms-policy-hash": "wm9mHlvTU82e8UqoOy1Yj1FBRSNkfe99-69IYDq9eWs",
        "x-ms-runtime": {"client-payload": {"nonce": base64.b64encode(nonce).decode()}, "keys": keys},
        "x-ms-ver": "1.0",
    }


def platform_claims(
    tee: str = "sevsnpvm",
    *,
    issued: datetime = ISSUED,
    issuer: str = MAA_ISSUER,
    compliance: str = "azure-compliant-cvm",
    hostdata: str = "00" * 32,
    nonce: bytes = b"",
    kek: str | None = "HCLTransferKey",
) -> dict[str, Any]:
    """`sevsnpvm` or `tdxvm`, as the platform and confidential containers get it: everything at the top."""
    keys = [] if kek is None else [jwk_rsa(rsa_key("kek").public_key(), kid=kek, key_ops=["encrypt"])]
    body = {**SNP, "x-ms-sevsnpvm-hostdata": hostdata} if tee == "sevsnpvm" else dict(TDX)
    return {
        **_times(issued, timedelta(hours=8)),
        "iss": issuer,
        "jti": "3b" * 32,
        **({"nonce": nonce.decode()} if nonce else {}),
        "x-ms-attestation-type": tee,
        "x-ms-compliance-status": compliance,
        "x-ms-policy-hash": "9NY0VnTQ-IiBriBplVUpFbczcDaEBUwsiFYAzHu_gco",
        "x-ms-runtime": {"keys": keys},
        **body,
        "x-ms-ver": "1.0",
    }


def container_claims(hostdata: str = "fe" * 32, **more: Any) -> dict[str, Any]:
    """A confidential container group: flat, `azure-compliant-uvm`, hostdata is its policy."""
    return platform_claims(
        **{"compliance": "azure-compliant-uvm", "kek": "skr-key", **more, "hostdata": hostdata}
    )


def space_claims(
    *,
    issued: datetime = ISSUED,
    audience: str = "https://sts.googleapis.com",
    digest: str = "sha256:" + "e2" * 32,
    hwmodel: str = "GCP_INTEL_TDX",
    project: str = "mp-run",
    number: str = "724467010559",
    account: str = "serve@mp-run.iam.gserviceaccount.com",
    nonce: str | list[str] | None = None,
    gpu: bool = False,
) -> dict[str, Any]:
    """A hardened Confidential Space workload, as the production image's token shows it."""
    claims: dict[str, Any] = {
        "aud": audience,
        **_times(issued, timedelta(hours=1)),
        "iss": GOOGLE_ISSUER,
        "sub": f"https://www.googleapis.com/compute/v1/projects/{project}/zones/europe-west4-a/instances/serve",
        "eat_profile": "https://cloud.google.com/confidential-computing/confidential-space/docs/"
        "reference/token-claims",
        "secboot": True,
        "oemid": 11129,
        "hwmodel": hwmodel,
        "swname": "CONFIDENTIAL_SPACE",
        "swversion": ["260100"],
        "attester_tcb": ["INTEL"],
        "dbgstat": "disabled-since-boot",
        "submods": {
            "confidential_space": {
                "support_attributes": ["LATEST", "STABLE", "USABLE"],
                "monitoring_enabled": {"memory": False},
            },
            "container": {
                "image_reference": f"europe-west4-docker.pkg.dev/{project}/images/server@{digest}",
                "image_digest": digest,
                "restart_policy": "Never",
                "image_id": "sha256:" + "95" * 32,
                "env": {"HOSTNAME": "serve", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"},
                "args": ["/usr/local/bin/serve"],
            },
            "gce": {
                "zone": "europe-west4-a",
                "project_id": project,
                "project_number": number,
                "instance_name": "serve",
                "instance_id": "3087957179640521392",
            },
        },
        "tdx": {"gcp_attester_tcb_status": "UpToDate", "gcp_attester_tcb_date": "2024-03-13T00:00:00Z"},
        "google_service_accounts": [account],
    }
    if nonce is not None:
        claims["eat_nonce"] = nonce
    if gpu:
        claims["submods"]["nvidia_gpu"] = {
            "cc_mode": "ON",
            "cc_feature": "SPT",
            "gpus": [{"hwmodel": "GCP_NVIDIA_H100", "driver_version": "575.57.08"}],
        }
    return claims


def debug_claims(**more: Any) -> dict[str, Any]:
    """The debug image: `dbgstat` enabled and support_attributes absent, not empty."""
    return put(
        space_claims(**more),
        {"dbgstat": "enabled", ("submods", "confidential_space", "support_attributes"): ...},
    )


def vm_claims(**more: Any) -> dict[str, Any]:
    """A plain Confidential VM: no container, no Confidential Space, no dbgstat."""
    return put(
        space_claims(**more),
        {
            "swname": "GCE",
            "dbgstat": ...,
            ("submods", "confidential_space"): ...,
            ("submods", "container"): ...,
        },
    )
