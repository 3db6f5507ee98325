"""Releases in a confidential VM on Google Cloud: tokens by Google Cloud Attestation, asked for by the guest.

The vTPM's quote, by the attestation key that Google certified for this VM, the log of the boot, identity
tokens of the VM's service account and, on TDX, the hardware's quote go to the service, which answers with a
token. Such a token proves hardware, Secure Boot, project and service account; it names no image and does not
say that debugging is off, so no release to it proves which code asks: what needs that runs in Confidential
Space. On SEV the vTPM is the host's, and the service has Google's word for the hardware.

The flow is that of `gotpm token`: google/go-tpm-tools: cmd/token.go, client/attest.go, verifier/rest/rest.go;
fields: docs.cloud.google.com/confidential-computing/docs/reference/rest/v1/projects.locations.challenges/
verifyAttestation (2026-11).
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from jewelhouse.evidence import tokens
from jewelhouse.evidence.verdict import Kind, MalformedEvidence
from jewelhouse.evidence.x5c import UNREADABLE
from jewelhouse.guest import google, google_web, tpm, tsm
from jewelhouse.guest.opening import Asked, Closed, Opened, Opener
from jewelhouse.guest.settings import Endpoints, Stage

SERVICE = "https://confidentialcomputing.googleapis.com"
METADATA = "http://metadata.google.internal"
ACCOUNT = "instance/service-accounts/default"
# Where Google keeps certificate and template of a VM's attestation key (RSA): go-tpm-tools: client/handles.go
CERTIFICATE, TEMPLATE = 0x01C10000, 0x01C10001
PCRS = tuple(range(24))
CHALLENGE = re.compile(r"projects/[^/\s]+/locations/[^/\s]+/challenges/[^/\s?#]+")
PLACE = re.compile(r"projects/[0-9]+/zones/(?P<region>[a-z]+-[a-z]+[0-9]+)-[a-z]")
PROJECT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
# Certificates above the attestation key's own, and addresses tried for each (client/attest.go).
LONGEST, ADDRESSES = 4, 3
CA_ISSUERS = AuthorityInformationAccessOID.CA_ISSUERS


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens keys by tokens of this VM. Raises Closed."""
    google_web.isolate(endpoints)

    def opened(asked: Asked) -> Opened:
        return google.release(asked, endpoints, partial(token, endpoints), Kind.GCE_VM)

    return opened


def prepare(stage: Stage, endpoints: Endpoints) -> Endpoints:
    """How the stage's buckets are reached. Raises Closed."""
    return google.prepared(stage, endpoints, partial(token, endpoints))


def token(endpoints: Endpoints, nonces: Sequence[str]) -> bytes:
    """A token for Google's token service that carries `nonces`. Raises Closed."""
    with google_web.session(endpoints) as connections:
        services = _Services(endpoints, connections)
        challenge = services.asked(f"{services.parent}/challenges", {})
        name, nonce = challenge.get("name"), challenge.get("tpmNonce")
        if not isinstance(name, str) or not CHALLENGE.fullmatch(name) or not isinstance(nonce, str):
            raise Closed("answers with no challenge", where=SERVICE)
        body = {
            **evidence(endpoints, connections, _raw(nonce)),
            "gcpCredentials": {"serviceAccountIdTokens": [services.identity(name)]},
            "tokenOptions": {
                "audience": google.AUDIENCE,
                "nonce": list(nonces),
                "tokenType": "TOKEN_TYPE_OIDC",
            },
        }
        found = services.asked(f"{name}:verifyAttestation", body).get("oidcClaimsToken")
    if not isinstance(found, str) or not found.isascii():
        raise Closed("answers without a token", where=SERVICE)
    return found.encode()


def evidence(endpoints: Endpoints, connections: requests.Session, nonce: bytes) -> dict[str, Any]:
    """What is sent to be verified: the quote of the vTPM over all its registers, and on TDX the hardware's.

    Raises Closed.
    """
    path = Path(endpoints.tpm) if endpoints.tpm else tpm.DEVICE
    with tpm.opened(path) as call:
        certificate = tpm.nv_read(call, CERTIFICATE)
        with tpm.primary(call, tpm.ENDORSEMENT, tpm.nv_read(call, TEMPLATE)) as key:
            quoted = tpm.quote(call, key.handle, PCRS, nonce)
            values = tpm.pcr_values(call, PCRS)
    signature = struct.pack(">HH", tpm.RSASSA, tpm.SHA256) + tpm.sized(quoted.signature)
    found: dict[str, Any] = {
        "tpmAttestation": {
            "quotes": [
                {
                    "rawQuote": _b64(quoted.statement),
                    "rawSignature": _b64(signature),
                    "hashAlgo": tpm.SHA256,
                    "pcrValues": {str(index): _b64(value) for index, value in zip(PCRS, values, strict=True)},
                }
            ],
            "tcgEventLog": _b64(
                tpm.boot_log(Path(endpoints.event_log) if endpoints.event_log else tpm.EVENT_LOG)
            ),
            "akCert": _b64(certificate),
            "certChain": [_b64(one) for one in _issuers(certificate, connections)],
        }
    }
    quote = tsm.quote(endpoints, nonce.ljust(tsm.DATA, b"\0"))
    if quote is not None:
        found["tdCcel"] = {"tdQuote": _b64(quote)}
    return found


def _issuers(certificate: bytes, connections: requests.Session) -> Iterator[bytes]:
    """The certificates above an attestation key's, from where each names its issuer's. The service verifies
    them; here they only have to be there."""
    for _ in range(LONGEST):
        addresses = _addresses(certificate)
        if not addresses:
            return
        certificate = _first(addresses, connections)
        yield certificate
    raise Closed(f"has more than {LONGEST} certificates above it", where="attestation key")


def _addresses(certificate: bytes) -> list[str]:
    try:
        access = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.AuthorityInformationAccess
        )
    except x509.ExtensionNotFound:
        return []
    except UNREADABLE as error:
        raise Closed("cannot be read", where="certificate of the attestation key") from error
    found = [one.access_location for one in access.value if one.access_method == CA_ISSUERS]
    return [one.value for one in found if isinstance(one, x509.UniformResourceIdentifier)][:ADDRESSES]


def _first(addresses: Sequence[str], connections: requests.Session) -> bytes:
    said = ""
    for address in addresses:
        try:
            data = _got(connections, address, {})
            return x509.load_der_x509_certificate(data).public_bytes(Encoding.DER)
        except Closed as error:
            said = error.what
        except UNREADABLE:
            said = "answers with no certificate"
    raise Closed(said, where=addresses[0])


class _Services:
    """The metadata service, which names the VM to itself, and Google Cloud Attestation in the VM's region."""

    def __init__(self, endpoints: Endpoints, connections: requests.Session) -> None:
        self._connections = connections
        self._metadata = endpoints.imds or METADATA
        self._service = endpoints.attestation or SERVICE
        project, place = self._about("project/project-id"), self._about("instance/zone")
        zone = PLACE.fullmatch(place)
        if zone is None or not PROJECT.fullmatch(project):
            raise Closed(
                f"names project {ascii(project)[:80]} and zone {ascii(place)[:80]}", where=self._metadata
            )
        self.parent = f"projects/{project}/locations/{zone['region']}"
        self._bearer = self._access()

    def identity(self, audience: str) -> str:
        """The service account's identity token for one challenge."""
        return self._about(f"{ACCOUNT}/identity", audience=audience, format="full")

    def asked(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that Google Cloud Attestation answers with. Raises Closed with its words."""
        status, data = google_web.asked(
            self._connections,
            "POST",
            f"{self._service}/v1/{path}",
            json=body,
            headers={"Authorization": f"Bearer {self._bearer}"},
        )
        found = _object(data, SERVICE)
        if status != 200:
            said = tokens.member(found, "error", "message")
            raise Closed(
                f"refuses: {google_web.spoken(str(status), str(said or 'it does not say why'))}",
                where=SERVICE,
                remedy="look at the service account's role confidentialcomputing.workloadUser",
            )
        return found

    def _access(self) -> str:
        where = f"{self._metadata}/{ACCOUNT}/token"
        found = _object(self._about(f"{ACCOUNT}/token").encode(), where).get("access_token")
        if not isinstance(found, str) or not found.isascii() or not found.isprintable():
            raise Closed("gives no access token of the service account", where=where)
        return found

    def _about(self, path: str, **query: str) -> str:
        """A value of the metadata service. Raises Closed."""
        address = f"{self._metadata}/computeMetadata/v1/{path}"
        found = _got(self._connections, address, {"Metadata-Flavor": "Google"}, **query)
        try:
            return found.decode("ascii").strip()
        except UnicodeDecodeError as error:
            raise Closed("answers with what is no text", where=address) from error


def _got(connections: requests.Session, address: str, headers: dict[str, str], **query: str) -> bytes:
    status, data = google_web.asked(connections, "GET", address, params=query, headers=headers)
    if status != 200 or not data:
        raise Closed(f"answers with status {status} and {len(data)} bytes", where=address)
    return data


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        return tokens.json_object(data, "reply")
    except MalformedEvidence as error:
        raise Closed(f"answers with a reply that {error.what}", where=where) from error


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _raw(text: str) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Closed("answers with a nonce that is not base64", where=SERVICE) from error
    # What a TPM takes as qualifying data, and a report of the hardware as report data.
    if not 16 <= len(found) <= 64:
        raise Closed(f"answers with a nonce of {len(found)} bytes", where=SERVICE)
    return found
