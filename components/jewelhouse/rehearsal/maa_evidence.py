"""What a stand-in of Azure Attestation verifies of the evidence that it is sent, and the claims that follow.

What the service takes from the log of the boot, the stand-in takes from the paravisor's word for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.evidence import snp, snp_report
from jewelhouse.evidence.certificates import Root
from jewelhouse.evidence.verdict import Endorsements, MalformedEvidence, Verdict
from jewelhouse.guest import hcl, tpm
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal import snp_guest, vtpm
from jewelhouse.rehearsal.minting_claims import TDX, guest_claims, jwk_rsa, platform_claims, put

Quotes = Callable[[bytes], Verdict]


class Unbelieved(Exception):
    """Evidence that does not hold, and why."""


def raw(value: Any, name: str) -> bytes:
    """base64 of either alphabet, with padding or without."""
    try:
        text = value.rstrip("=").replace("-", "+").replace("_", "/")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (AttributeError, binascii.Error) as error:
        raise Unbelieved(f"{name} is not base64") from error


def inner(value: Any, name: str) -> dict[str, Any]:
    """A JSON object inside of base64."""
    try:
        found = json.loads(raw(value, name))
    except ValueError as error:
        raise Unbelieved(f"{name} is not JSON") from error
    if not isinstance(found, dict):
        raise Unbelieved(f"{name} is no object")
    return found


def container(body: Mapping[str, Any], at: datetime, roots: Sequence[Root], issuer: str) -> dict[str, Any]:
    """Claims of a container group: report, certificates, statement about the utility machine, runtime data.

    Raises Unbelieved.
    """
    proof = inner(body.get("report"), "report")
    data = body.get("runtimeData")
    if not isinstance(data, dict) or data.get("dataType") != "JSON":
        raise Unbelieved("runtimeData is no JSON")
    runtime = raw(data.get("data"), "runtimeData.data")
    report, claims = _snp(proof, runtime, at, roots)
    statements = inner(proof.get("Endorsements"), "Endorsements").get("Uvm", [])
    known = {snp_guest.stated(raw(one, "Uvm")) for one in statements}
    # Attestation says nothing about compliance of a machine in debug mode or one that is not Microsoft's.
    compliant = report.measurement.hex() in known and not report.debug
    made = platform_claims(issued=at, issuer=issuer, compliance="azure-compliant-uvm", kek=None)
    return put(
        {**made, **claims},
        {
            "x-ms-runtime": inner(data.get("data"), "runtimeData"),
            **({} if compliant else {"x-ms-compliance-status": ...}),
        },
    )


def guest(
    info: Mapping[str, Any], at: datetime, roots: Sequence[Root], quotes: Quotes | None, issuer: str
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Claims of a confidential VM, and the key to encrypt the token to. Raises Unbelieved."""
    try:
        isolation, said = info["IsolationInfo"], info["TpmInfo"]
        evidence = isolation["Evidence"]
        runtime = raw(evidence["RunTimeData"], "RunTimeData")
        if isolation["Type"] == "SevSnp":
            report, claims = _snp(inner(evidence["Proof"], "Proof"), runtime, at, roots)
            tee, debug = "sevsnpvm", report.debug
        else:
            claims, debug = _tdx(raw(evidence["Proof"], "Proof"), runtime, quotes)
            tee = "tdxvm"
        configuration = json.loads(runtime)["vm-configuration"]
        key = _vtpm(said, json.loads(runtime)["keys"])
        if not raw(info["TcgLogs"], "TcgLogs"):
            raise Unbelieved("the log of the boot is empty")
    except (KeyError, TypeError, ValueError) as error:
        raise Unbelieved(f"the request lacks a part: {error}") from error
    except Closed as error:
        raise Unbelieved(f"{error.where} {error.what}") from error
    if configuration["secure-boot"] is not True:
        # The service's own policy for VMs asks for it.
        raise Unbelieved("the policy of this service denies VMs without secure boot")
    made = guest_claims(tee, issued=at, issuer=issuer, kek=None)
    nested = {**made["x-ms-isolation-tee"], **claims, "x-ms-runtime": json.loads(runtime)}
    if debug:
        del nested["x-ms-compliance-status"]
    public = rsa.RSAPublicNumbers(key[1], key[0]).public_key()
    claims = put(
        made,
        {
            "x-ms-isolation-tee": nested,
            "x-ms-azurevm-attested-pcrs": said["PcrSet"],
            "x-ms-azurevm-vmid": configuration["vmUniqueId"],
            "x-ms-runtime": {
                "client-payload": info["ClientPayload"],
                "keys": [jwk_rsa(public, kid="TpmEphemeralEncryptionKey", key_ops=["encrypt"])],
            },
        },
    )
    return claims, key


def _snp(
    proof: Mapping[str, Any], runtime: bytes, at: datetime, roots: Sequence[Root]
) -> tuple[snp_report.Report, dict[str, Any]]:
    data = raw(proof.get("SnpReport"), "SnpReport")
    chain = raw(proof.get("VcekCertChain"), "VcekCertChain")
    try:
        verdict = snp.verify(
            data,
            at=at,
            endorsements=Endorsements(files=(chain,)),
            nonce=hashlib.sha256(runtime).digest(),
            roots=roots,
        )
    except MalformedEvidence as error:
        raise Unbelieved(f"SnpReport {error}") from error
    _believed(verdict)
    report = snp_report.parse(data)
    return report, snp_claims(report)


def _believed(verdict: Verdict) -> None:
    if not verdict.verified:
        raise Unbelieved("; ".join(f"{one.where} {one.what}" for one in verdict.problems[:3]))


def snp_claims(report: snp_report.Report) -> dict[str, Any]:
    """The fields of a report by the names that the service gives to them."""
    own = {
        "authorkeydigest": report.author_key_digest.hex(),
        "familyId": report.family_id.hex(),
        "guestsvn": report.guest_svn,
        "hostdata": report.host_data.hex(),
        "idkeydigest": report.id_key_digest.hex(),
        "imageId": report.image_id.hex(),
        "is-debuggable": report.debug,
        "launchmeasurement": report.measurement.hex(),
        "migration-allowed": bool(report.policy >> 18 & 1),
        "reportdata": report.report_data.hex(),
        "reportid": report.report_id.hex(),
        "smt-allowed": bool(report.policy >> 16 & 1),
        "vmpl": report.vmpl,
    }
    return {f"x-ms-sevsnpvm-{name}": value for name, value in own.items()}


def _tdx(quote: bytes, runtime: bytes, quotes: Quotes | None) -> tuple[dict[str, Any], bool]:
    if quotes is None:
        raise Unbelieved("quotes of TDX are not verified here")
    verdict = quotes(quote)
    _believed(verdict)
    found = {name.lower(): value for name, value in verdict.measurements.items()}
    bound = found.get("reportdata", "")
    if not bound.startswith(hashlib.sha256(runtime).hexdigest()):
        raise Unbelieved("the quote is not bound to the runtime data")
    said = {
        **{f"tdx_{name}": value for name, value in found.items() if f"tdx_{name}" in TDX},
        "tdx_report_data": bound,
        "tdx_td_attributes_debug": verdict.debug,
    }
    return said, verdict.debug


def _vtpm(said: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """The run's key, once the vTPM's attestation key, the quote and the certification hold together."""
    attesting = tpm.Reader(raw(said["AikPub"], "AikPub"), "AikPub").sized()
    public = rsa.RSAPublicNumbers(*reversed(tpm.numbers(attesting))).public_key()
    bound = next((key for key in keys if key["kid"] == hcl.ATTESTATION_KEY), None)
    if bound is None or jwk_rsa(public)["n"] != bound["n"]:
        raise Unbelieved("AikPub is not the key that the hardware's report is bound to")
    quote, statement = raw(said["PcrQuote"], "PcrQuote"), raw(said["EncKeyCertifyInfo"], "EncKeyCertifyInfo")
    for signature, signed in (("PcrSignature", quote), ("EncKeyCertifyInfoSignature", statement)):
        try:
            public.verify(raw(said[signature], signature), signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as error:
            raise Unbelieved(f"{signature} is not by AikPub") from error
    indices = [one["Index"] for one in said["PCRs"]]
    values = [raw(one["Digest"], "PCRs") for one in said["PCRs"]]
    selected, digest = vtpm.quoted(quote)
    if indices != list(said["PcrSet"]) or selected != tpm.selection(indices):
        raise Unbelieved("the quote is of other registers than PcrSet")
    if digest != hashlib.sha256(b"".join(values)).digest():
        raise Unbelieved("the quote is of other values than PCRs")
    key = tpm.Reader(raw(said["EncKeyPub"], "EncKeyPub"), "EncKeyPub").sized()
    if vtpm.certified(statement) != vtpm.name(key):
        raise Unbelieved("EncKeyCertifyInfo is about another key than EncKeyPub")
    if vtpm.policy(key) != tpm.policy_of(indices, values):
        raise Unbelieved("EncKeyPub works with other registers than those of the quote")
    return tpm.numbers(key)
