"""Releases in a confidential VM on Azure: evidence of vTPM and hardware, by guest attestation.

The vTPM lives in the paravisor, inside the TEE: hardware's report vouches for its attestation key, that key
for the registers and for a decryption key made for this run, to which Key Vault wraps what it releases.
Protocol: Azure/azure-guest-attestation-sdk (crates/azure-guest-attestation-sdk/src/{client,guest_attest}),
edgelesssys/go-azguestattestation (maa/gettoken.go, maa/decrypttoken.go), 2026-11.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from jewelhouse.evidence import tokens
from jewelhouse.evidence.verdict import Kind, MalformedEvidence
from jewelhouse.guest import azure_web, hcl, maa, tpm
from jewelhouse.guest.maa import b64, b64url
from jewelhouse.guest.opening import Asked, Closed, Opened, Opener
from jewelhouse.guest.settings import Endpoints, Stage
from jewelhouse.guest.vault import Vaults

REPORT, CERTIFICATE, ATTESTATION_KEY = 0x01400001, 0x01C101D0, 0x81000003
# What Microsoft's client quotes on Linux: the firmware's registers, which the log of the boot explains.
PCRS = tuple(range(8))
KID = "TpmEphemeralEncryptionKey"
# An encrypted token: additional data of AES-GCM, sizes of its key.
TRANSPORT, KEY_SIZES = b"Transport Key", (16, 32)
NONCE = 32


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens keys by guest attestation of this VM. Raises Closed for settings that lead nowhere."""
    authority = maa.authority(stage)
    vaults = Vaults(stage, endpoints)
    path = Path(endpoints.tpm) if endpoints.tpm else tpm.DEVICE

    def opened(asked: Asked) -> Opened:
        with (
            tpm.opened(path) as call,
            tpm.ephemeral(call, PCRS, secrets.token_bytes(tpm.BITS // 8)) as key,
        ):
            nonce = secrets.token_bytes(NONCE)
            info = evidence(call, key, endpoints, {"nonce": nonce, "record": asked.bound})
            reply = maa.attest(
                endpoints, authority, maa.GUEST, {"AttestationInfo": b64url(json.dumps(info).encode())}
            )
            token = decrypted(
                reply, lambda wrapped: tpm.decrypt(call, key, PCRS, wrapped, tpm.PKCS1), authority
            )
            seen = maa.check(
                token,
                maa.Asked(authority=authority, kind="azurevm", key=key.numbers, nonce=b64(nonce)),
            )
            dek = vaults.release(
                asked,
                token.decode("ascii"),
                lambda wrapped: tpm.decrypt(call, key, PCRS, wrapped, tpm.OAEP_SHA1),
                seen,
                KID,
            )
        return Opened(dek=dek, kind=Kind.MAA.value, evidence=token)

    return opened


def evidence(
    call: tpm.Call, key: tpm.Key, endpoints: Endpoints, payload: Mapping[str, bytes]
) -> dict[str, Any]:
    """The AttestationInfo of this VM: hardware's report, the vTPM's quote, and the key of this run.

    Raises Closed.
    """
    report = hcl.parse(tpm.nv_read(call, REPORT))
    attesting = tpm.read_public(call, ATTESTATION_KEY)
    if tpm.numbers(attesting) != report.key:
        raise Closed("is not the key that the hardware vouches for", where=f"vTPM key {ATTESTATION_KEY:#x}")
    quoted = tpm.quote(call, ATTESTATION_KEY, PCRS, payload["nonce"])
    values = tpm.pcr_values(call, PCRS)
    certified = tpm.certify(call, key.handle, ATTESTATION_KEY, b"")
    return {
        "AttestationProtocolVersion": "2.0",
        **_system(),
        "TcgLogs": b64(tpm.boot_log(Path(endpoints.event_log) if endpoints.event_log else tpm.EVENT_LOG)),
        "ClientPayload": {name: b64(value) for name, value in payload.items()},
        "TpmInfo": {
            "AikCert": b64(tpm.nv_read(call, CERTIFICATE)),
            "AikPub": b64(tpm.sized(attesting)),
            "PcrQuote": b64(quoted.statement),
            "PcrSignature": b64(quoted.signature),
            "PcrSet": list(PCRS),
            "PCRs": [
                {"Index": index, "Digest": b64(value)} for index, value in zip(PCRS, values, strict=True)
            ],
            "EncKeyPub": b64(tpm.sized(key.public)),
            "EncKeyCertifyInfo": b64(certified.statement),
            "EncKeyCertifyInfoSignature": b64(certified.signature),
        },
        "IsolationInfo": {"Type": report.tee.name, "Evidence": _isolation(report, endpoints)},
    }


def _isolation(report: hcl.Report, endpoints: Endpoints) -> dict[str, str]:
    """SNP: base64url, the report with its certificates from the host. TDX: base64, a quote by the host."""
    if report.tee.name == "SevSnp":
        chain = azure_web.certificates(
            azure_web.metadata(endpoints, "GET", "/metadata/THIM/amd/certification")
        )
        proof = {"SnpReport": b64url(report.report), "VcekCertChain": b64url(chain)}
        return {"Proof": b64url(json.dumps(proof).encode()), "RunTimeData": b64url(report.runtime)}
    where = "metadata service /acc/tdquote"
    found = azure_web.metadata(endpoints, "POST", "/acc/tdquote", json={"report": b64url(report.report)}).get(
        "quote"
    )
    try:
        if not isinstance(found, str):
            raise MalformedEvidence("is absent", where="quote")
        quote = tokens.decode(found.rstrip("=").replace("+", "-").replace("/", "_").encode(), "quote")
    except MalformedEvidence as error:
        raise Closed(f"answers with a quote that {error.what}", where=where) from error
    return {"Proof": b64(quote), "RunTimeData": b64(report.runtime)}


def _system() -> dict[str, Any]:
    """Names of the operating system as the service wants them; nobody relies on them."""
    named: dict[str, str] = {}
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        named = {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
    except FileNotFoundError:
        named = {}
    major, _, minor = named.get("VERSION_ID", "").partition(".")
    return {
        "OSType": b64(b"Linux"),
        "OSDistro": b64(named.get("NAME", os.uname().sysname).encode()),
        "OSVersionMajor": int(major) if major.isdigit() else 0,
        "OSVersionMinor": int(minor) if minor.isdigit() else 0,
        "OSBuild": b64(b"NotApplication"),
    }


def decrypted(reply: str, decrypt: Any, where: str) -> bytes:
    """The token of a reply, which is encrypted to this run's key. Raises Closed for another shape."""
    try:
        body = tokens.json_object(tokens.decode(reply.encode(), "envelope"), "envelope")
        wrapped = _member(body, "EncryptedInnerKey")
        vector = _member(body.get("EncryptionParams"), "Iv")
        content, tag = _member(body, "Jwt"), _member(body, "AuthenticationData")
    except MalformedEvidence as error:
        raise Closed(f"answers with a token whose {error.where} {error.what}", where=where) from error
    key = bytearray(decrypt(wrapped))
    try:
        if len(key) not in KEY_SIZES or len(vector) != 12 or len(tag) != 16:
            raise ValueError("another size")
        return AESGCM(bytes(key)).decrypt(vector, content + tag, TRANSPORT)
    except (ValueError, InvalidTag) as error:
        raise Closed(
            "answers with a token that is not for this run's key",
            where=where,
            remedy="somebody between here and the service changed or replayed the reply",
        ) from error
    finally:
        key[:] = bytes(len(key))


def _member(body: Any, name: str) -> bytes:
    text = tokens.member(body, name)
    if not isinstance(text, str):
        raise MalformedEvidence("is absent", where=name)
    # The service writes base64 with padding; its older client took the other alphabet, too.
    return tokens.decode(text.rstrip("=").replace("+", "-").replace("/", "_").encode(), name)
