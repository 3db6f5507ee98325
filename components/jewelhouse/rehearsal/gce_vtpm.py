"""A VM's vTPM as Google Cloud furnishes it: swtpm, with template and certificate of the attestation key.

google/go-tpm-tools: client/handles.go, client/template.go (2026-11). Needs `swtpm` (Debian: package swtpm).
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from jewelhouse.guest import gcp_cvm, tpm
from jewelhouse.rehearsal import vtpm
from jewelhouse.rehearsal.minting_sgx import certificate, rsa_key

# TPMT_PUBLIC: a restricted signing key, RSASSA with SHA-256.
TEMPLATE = (
    struct.pack(">HHI", tpm.ALG_RSA, tpm.SHA256, vtpm.ATTESTING)
    + tpm.sized(b"")
    + struct.pack(">HHHHI", tpm.ALG_NULL, tpm.RSASSA, tpm.SHA256, tpm.BITS, 0)
    + tpm.sized(b"")
)
AUTHORITY = "EK/AK CA Root"


def authority(name: str) -> x509.Certificate:
    """The certificate of who certifies attestation keys of VMs, by the name of a throw-away root."""
    key = rsa_key(f"{name} {AUTHORITY}")
    return certificate(AUTHORITY, key.public_key(), AUTHORITY, key, ca=True)


class GceVtpm(vtpm.Vtpm):
    """`name`: the root that certifies its attestation key. `issuers`: addresses of that root's certificate,
    as the key's own certificate names them. A context manager."""

    def __init__(self, folder: Path, *, name: str, issuers: tuple[str, ...] = ()) -> None:
        super().__init__(folder, lambda data: b"")
        self.name, self.issuers = name, issuers

    def _furnish(self, call: tpm.Call) -> None:
        with tpm.primary(call, tpm.ENDORSEMENT, TEMPLATE) as key:
            modulus, exponent = key.numbers
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        extensions: tuple[x509.ExtensionType, ...] = ()
        if self.issuers:
            found = AuthorityInformationAccessOID.CA_ISSUERS
            extensions = (
                x509.AuthorityInformationAccess(
                    x509.AccessDescription(found, x509.UniformResourceIdentifier(one)) for one in self.issuers
                ),
            )
        issuer = rsa_key(f"{self.name} {AUTHORITY}")
        named = certificate("gce vm", public, AUTHORITY, issuer, ca=False, extensions=extensions)
        vtpm.store(call, gcp_cvm.TEMPLATE, TEMPLATE)
        vtpm.store(call, gcp_cvm.CERTIFICATE, named.public_bytes(serialization.Encoding.DER))
        for index in range(8):
            vtpm.extend(call, index, hashlib.sha256(f"boot of register {index}".encode()).digest())
