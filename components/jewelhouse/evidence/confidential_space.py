"""Tokens of Google Cloud Attestation: Confidential Space workloads and plain Confidential VMs.

Two flavours of one token, RS256. PKI: the header's `x5c` chains to the Confidential Space Root CA pinned
here, so the token verifies by itself. OIDC: the key is one of Google's rotating JWKS, saved with the token
and handed in; nothing in it shows that it is Google's, so that rests on how the file was fetched, and the
verdict says so.

`dbgstat` and the support attributes are all that tells a debug image from a hardened one. Claims that do not
apply are absent, or `null` in older tokens, and never empty. Sources, 2026-04, below
docs.cloud.google.com/confidential-computing/: confidential-space/docs/reference/token-claims,
confidential-vm/docs/token-claims, confidential-space/docs/connect-external-resources.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from jewelhouse.evidence import tokens, x5c
from jewelhouse.evidence.tokens import Token, plain, shown
from jewelhouse.evidence.verdict import (
    NO_ENDORSEMENTS,
    Endorsements,
    Finding,
    Kind,
    MalformedEvidence,
    Verdict,
    moment,
)

# SHA-256 of the certificate of the Confidential Space Root CA, valid 2024-01-19 to 2034-01-16:
# published by way of confidentialcomputing.googleapis.com/.well-known/attestation-pki-root (project-oak/oak:
# oak_attestation_gcp/data/confidential_space_root.pem, commit 578b951).
ROOTS = frozenset({"148b293821bb0c6a317f413c8ba475814091cb22d49b9e3c94198db8e8f86c39"})

ISSUER = "https://confidentialcomputing.googleapis.com"
JWKS = (
    "https://www.googleapis.com/service_accounts/v1/metadata/jwk/"
    "signer@confidentialspace-sign.iam.gserviceaccount.com"
)
KINDS: Mapping[str, Kind] = {"CONFIDENTIAL_SPACE": Kind.CONFIDENTIAL_SPACE, "GCE": Kind.GCE_VM}
# Token claims reference, 2026-04. GCP_SHIELDED_VM is there too: measured boot without memory encryption.
CONFIDENTIAL_HARDWARE = ("GCP_AMD_SEV", "GCP_AMD_SEV_ES", "GCP_INTEL_TDX")
NOT_CONFIDENTIAL = "GCP_SHIELDED_VM"
# IANA private enterprise number of Google.
GOOGLE = 11129
DEBUG_OFF = "disabled-since-boot"
CHAIN_LIMIT = 4
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse(data: bytes) -> Token:
    """The token, unverified. Raises MalformedEvidence for what is no token of Google Cloud Attestation."""
    token = tokens.read(data)
    if token.claims.get("iss") != ISSUER and not {"swname", "hwmodel"} & token.claims.keys():
        raise MalformedEvidence("has no claim of Google Cloud Attestation", where="token.payload")
    return token


def verify(
    data: bytes,
    *,
    at: datetime | None,
    endorsements: Endorsements = NO_ENDORSEMENTS,
    nonce: bytes | None = None,
    roots: frozenset[str] = ROOTS,
) -> Verdict:
    """Verifies a token by the chain in its header, or by a saved JWKS when it has none.

    roots: SHA-256 of root certificates. nonce: as it stands in `eat_nonce`, or the bytes whose hex or base64
    stands there. Raises MalformedEvidence for bytes that are no such token; all else is in the verdict.
    """
    token = parse(data)
    problems: list[Finding] = []
    checked: list[str] = []
    claims = token.claims
    tokens.check_header(token, problems)
    if "jku" in token.header:
        problems.append(Finding("header.jku", "is not accepted: keys of this issuer are handed in"))
    if tokens.text(claims, ("iss",), problems, required=True) not in (ISSUER, None):
        problems.append(Finding("iss", f"is {shown(claims['iss'])}, expected {ISSUER}"))
    times = tokens.check_times(claims, at, problems)
    if "x5c" in token.header:
        chain = _by_chain(token, times.at, roots, problems, checked)
    else:
        chain = _by_jwks(token, endorsements, problems, checked)
    _audience(claims, problems, checked)
    kind = _kind(claims, problems)
    debug = _debug(kind, claims, problems, checked)
    _hardware(claims, problems)
    measurements = _measurements(kind, claims, problems)
    bound = _nonce(claims, nonce, problems, checked)
    return Verdict(
        kind=kind,
        verified=not problems,
        debug=debug,
        at=times.at,
        issued=times.issued,
        expires=times.expires,
        chain=chain,
        measurements=measurements,
        claims=claims,
        nonce=bound,
        checked=tuple(checked),
        problems=tuple(problems),
    )


def _by_chain(
    token: Token, at: datetime, roots: frozenset[str], problems: list[Finding], checked: list[str]
) -> tuple[str, ...]:
    """PKI flavour: leaf, intermediate, root, each issued by the next, all valid at `at`."""
    listed = token.header["x5c"]
    found: list[Finding] = []
    chain: tuple[str, ...] = ()
    if not isinstance(listed, list) or not 2 <= len(listed) <= CHAIN_LIMIT:
        found.append(Finding("header.x5c", f"expected a list of 2 to {CHAIN_LIMIT} certificates"))
    else:
        try:
            certificates = [x5c.decode(text) for text in listed]
            chain = tuple(x5c.line(one) for one in certificates)
            _check_signature(token, certificates[0], found)
            _check_chain(certificates, at, roots, found)
        except x5c.UNREADABLE as error:
            found.append(Finding("header.x5c", f"cannot be read: {error}"))
    problems.extend(found)
    if found or token.header.get("alg") != tokens.ALGORITHM:
        return ()
    checked.append(f"signature {tokens.ALGORITHM}, chain of {len(chain)} to the pinned root")
    return chain


def _check_signature(token: Token, leaf: x509.Certificate, problems: list[Finding]) -> None:
    key = leaf.public_key()
    if not isinstance(key, RSAPublicKey) or key.key_size not in tokens.RSA_BITS:
        problems.append(Finding("header.x5c[0]", "is not an RSA key of 2048 bits or more"))
    elif not tokens.signed_by(token, key):
        problems.append(
            Finding(
                "signature", "is not by the token's own certificate: the token or its signature was changed"
            )
        )


def _check_chain(
    certificates: list[x509.Certificate], at: datetime, roots: frozenset[str], problems: list[Finding]
) -> None:
    root = certificates[-1]
    if root.fingerprint(hashes.SHA256()).hex() not in roots:
        problems.append(
            Finding(
                "header.x5c",
                f"ends at a foreign root, {x5c.line(root)}: not Google's Confidential Space Root CA",
            )
        )
    for place, one in enumerate(certificates):
        where = f"header.x5c[{place}]"
        begin, end = one.not_valid_before_utc, one.not_valid_after_utc
        if not begin <= at <= end:
            problems.append(
                Finding(where, f"is valid from {moment(begin)} to {moment(end)}, not at {moment(at)}")
            )
        try:
            one.verify_directly_issued_by(certificates[min(place + 1, len(certificates) - 1)])
        except (InvalidSignature, ValueError, TypeError):
            problems.append(
                Finding(where, "was not issued by the certificate after it, or by itself as the last")
            )
        if not _may_issue(one, place):
            what = "may not issue certificates" if place else "is a CA, which signs no tokens"
            problems.append(Finding(where, what))


def _may_issue(certificate: x509.Certificate, place: int) -> bool:
    """Whether basic constraints and key usage fit the place: 0 is the leaf, which must not issue."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return place == 0
    if place == 0:
        return not constraints.ca
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    # A path length counts the intermediates below: the leaf is none.
    return (
        constraints.ca
        and usage.key_cert_sign
        and (constraints.path_length is None or place - 1 <= constraints.path_length)
    )


def _by_jwks(
    token: Token, endorsements: Endorsements, problems: list[Finding], checked: list[str]
) -> tuple[str, ...]:
    """OIDC flavour: the key of that name in a JWKS that was handed in."""
    keys = [key for key in tokens.jwks(endorsements, problems) if "n" in key.members]
    candidates = tokens.named(token, keys, JWKS, problems)
    if not candidates:
        return ()
    found, kid = candidates[0], plain(candidates[0].kid)
    if len(candidates) > 1:
        problems.append(Finding("signature", f"two different keys that were handed in are both named {kid}"))
        return ()
    try:
        key = tokens.rsa_key(found.members, found.where)
    except MalformedEvidence as error:
        problems.append(Finding(error.where or found.where, error.what))
        return ()
    if not tokens.signed_by(token, key):
        problems.append(
            Finding("signature", f"is not by {kid}: the token was changed, or the key is another")
        )
        return ()
    if token.header.get("alg") != tokens.ALGORITHM:
        return ()
    checked.append(
        f"signature {tokens.ALGORITHM} by {kid} of the JWKS that was handed in; that the file is Google's "
        f"rests on how it was fetched ({JWKS})"
    )
    return (f"{ISSUER} kid {kid}",)


def _audience(claims: Mapping[str, Any], problems: list[Finding], checked: list[str]) -> None:
    """There must be one. Which, is for the policy to say: outside Google's STS every verifier has its own."""
    audience = claims.get("aud")
    listed = audience if isinstance(audience, list) else [audience]
    names = [one for one in listed if isinstance(one, str) and one]
    if not names or len(names) != len(listed):
        problems.append(Finding("aud", f"is {shown(audience)}, expected text"))
    else:
        checked.append(f"audience: {', '.join(map(plain, names))}")


def _kind(claims: Mapping[str, Any], problems: list[Finding]) -> Kind:
    name = tokens.text(claims, ("swname",), problems, required=True)
    if name is not None and name not in KINDS:
        problems.append(Finding("swname", f"is {shown(name)}, expected {' or '.join(KINDS)}"))
    return KINDS.get(name or "", Kind.CONFIDENTIAL_SPACE)


def _debug(kind: Kind, claims: Mapping[str, Any], problems: list[Finding], checked: list[str]) -> bool:
    """Debug unless the token says otherwise; a plain VM's token does not speak of it."""
    status = tokens.text(claims, ("dbgstat",), problems, required=kind is Kind.CONFIDENTIAL_SPACE)
    if kind is Kind.GCE_VM and claims.get("dbgstat") is None:
        checked.append("not verified: tokens of a plain Confidential VM do not say whether debugging is off")
        return False
    if status not in (None, DEBUG_OFF, "enabled"):
        problems.append(Finding("dbgstat", f"is {shown(status)}, expected {DEBUG_OFF} or enabled"))
    return status != DEBUG_OFF


def _hardware(claims: Mapping[str, Any], problems: list[Finding]) -> None:
    model = tokens.text(claims, ("hwmodel",), problems, required=True)
    if model == NOT_CONFIDENTIAL:
        problems.append(
            Finding("hwmodel", f"is {model}: measured boot, but memory is not encrypted; not confidential")
        )
    elif model is not None and model not in CONFIDENTIAL_HARDWARE:
        problems.append(Finding("hwmodel", f"is {shown(model)}, expected {', '.join(CONFIDENTIAL_HARDWARE)}"))
    maker = claims.get("oemid")
    if maker != GOOGLE or isinstance(maker, bool):
        problems.append(Finding("oemid", f"is {shown(maker)}, expected Google's number {GOOGLE}"))
    if not isinstance(claims.get("secboot"), bool):
        problems.append(Finding("secboot", f"is {shown(claims.get('secboot'))}, expected true or false"))


def _measurements(kind: Kind, claims: Mapping[str, Any], problems: list[Finding]) -> dict[str, str]:
    """Digests of manifest and configuration of the container, which a plain VM's token does not have."""
    if kind is not Kind.CONFIDENTIAL_SPACE:
        return {}
    found = {}
    for name in ("image_digest", "image_id"):
        path = ("submods", "container", name)
        value = tokens.text(claims, path, problems, required=name == "image_digest")
        if value is None:
            continue
        if _DIGEST.fullmatch(value):
            found[name] = value
        else:
            problems.append(Finding(".".join(path), f"is {shown(value)}, expected sha256: and 64 hex digits"))
    return found


def _nonce(
    claims: Mapping[str, Any], asked: bytes | None, problems: list[Finding], checked: list[str]
) -> bytes | None:
    """`eat_nonce`: text, or a list of up to six when the workload asked for several."""
    value = claims.get("eat_nonce")
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in listed):
        problems.append(Finding("eat_nonce", f"is {shown(value)}, expected text or a list of it"))
        listed = []
    first = listed[0].encode() if listed else None
    if asked is None:
        return first
    spellings = {
        asked,
        asked.hex().encode(),
        *(encode(asked) for encode in (base64.b64encode, base64.urlsafe_b64encode)),
        base64.urlsafe_b64encode(asked).rstrip(b"="),
    }
    if asked and any(one.encode() in spellings for one in listed):
        checked.append("nonce: eat_nonce")
        return asked
    problems.append(Finding("eat_nonce", f"expected {shown(asked.hex())}, found {shown(value)}"))
    return first
