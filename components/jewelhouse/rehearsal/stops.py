"""Who stops each wrong run, and in which words: a run that ends for another reason has shown nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from jewelhouse.model import Cloud, Stage
from jewelhouse.rehearsal.services import Wrong


class Place(StrEnum):
    """Where a run is stopped: by a relying party that releases nothing, or by the guest itself."""

    SERVICE = "key service"
    GUEST = "guest"


@dataclass(frozen=True, kw_only=True)
class Stop:
    """`says`: a regular expression, found in what the one that stops it says."""

    by: Place
    says: str

    def unlike(self, refused: Sequence[str], closed: Sequence[str]) -> str:
        """What is not as expected; empty when all is. `refused`: what services say, `closed`: the guest."""
        if not closed:
            return "the guest says nothing"
        if self.by is Place.GUEST and refused:
            return "the guest should have stopped it, and a service did"
        if self.by is Place.SERVICE and not refused:
            return "a service should have stopped it, and none did"
        said = " ".join((*refused, *closed) if self.by is Place.SERVICE else closed)
        return "" if re.search(self.says, said) else f"it was stopped for another reason than {self.says!r}"


def _service(says: str) -> Stop:
    return Stop(by=Place.SERVICE, says=says)


def _guest(says: str) -> Stop:
    return Stop(by=Place.GUEST, says=says)


# By cloud; where platforms of one cloud differ, what each says.
STOPS: Mapping[Cloud, Mapping[Wrong, Stop]] = {
    Cloud.AWS: {
        Wrong.DEBUG: _service("PCR0 is zeros, as in a debug enclave|PCR4 0{96}"),
        Wrong.IMAGE: _service("does not admit this stage; PCR[04] (5a){48}"),
        Wrong.IDENTITY: _service("no Allow of kms:Decrypt names it"),
        Wrong.ACCOUNT: _service("no Allow of kms:Decrypt names it.*arn:aws:iam::999999999999:"),
        Wrong.ROOT: _service("the chain ends at the root .*could not be verified"),
        Wrong.REPLAYED: _guest("evidence: is for another public key"),
        Wrong.STALE: _service("is valid from .* not at .*could not be verified"),
        Wrong.FORGED: _guest("answers with a plaintext that everybody on the way reads"),
        Wrong.RELAY_ASKS: _service("InvalidSignatureException"),
        Wrong.RELAY_ANSWERS: _guest("CiphertextForRecipient: (is not for the key of this|is no Enveloped)"),
        Wrong.RELAY_TLS: _guest("who answers has no certificate of the key service"),
        Wrong.RELAY_REPLAYS: _guest("CiphertextForRecipient: is not for the key of this request"),
        Wrong.RELAY_RECIPIENT: _service("AccessDeniedException .*could not be verified"),
    },
    Cloud.AZURE: {
        Wrong.DEBUG: _service(r"Key Vault: Forbidden \(the token has no claim \S*x-ms-compliance-status"),
        Wrong.IMAGE: _service("Key Vault: Forbidden .*x-ms-sevsnpvm-hostdata"),
        Wrong.IDENTITY: _service("Caller is not authorized to perform action on resource"),
        Wrong.ACCOUNT: _service("Caller is not authorized to perform action on resource"),
        Wrong.ROOT: _service("Azure Attestation: .* is no pinned root"),
        Wrong.REPLAYED: _guest(r"token of https://\S+: is for another key"),
        Wrong.STALE: _guest(r"token of https://\S+: expired at .* it is stale"),
        Wrong.FORGED: _guest("answers with the key "),
        Wrong.RELAY_ASKS: _service("Key Vault: (Forbidden|BadParameter).*attestation"),
        Wrong.RELAY_ANSWERS: _guest("the reply is not signed by the certificate that it brings"),
        Wrong.RELAY_TLS: _guest("who answers has no certificate of the service"),
        Wrong.RELAY_REPLAYS: _guest(
            "that is not wrapped to this run's|TPM2_RSA_Decrypt: is refused by the TPM"
        ),
        Wrong.RELAY_RECIPIENT: _service("Azure Attestation: "),
    },
    Cloud.GCP: {
        Wrong.DEBUG: _service("Security Token Service: unauthorized_client .*dbgstat enabled"),
        Wrong.IMAGE: _service("Security Token Service: unauthorized_client .*image_digest"),
        Wrong.IDENTITY: _service("Security Token Service: unauthorized_client .*service_account"),
        Wrong.ACCOUNT: _service("Security Token Service: unauthorized_client .*project_id"),
        Wrong.ROOT: _service("Security Token Service: invalid_grant|akCert is not from the CA"),
        Wrong.REPLAYED: _guest("attestation token: answers another nonce"),
        Wrong.STALE: _service("Security Token Service: invalid_grant .*expired at"),
        Wrong.FORGED: _guest("answers with a plaintext of another checksum"),
        Wrong.RELAY_ASKS: _service("Cloud KMS: INVALID_ARGUMENT"),
        Wrong.RELAY_ANSWERS: _guest("answers with a plaintext of another checksum"),
        Wrong.RELAY_TLS: _guest("who answers has no certificate of the service"),
        Wrong.RELAY_ASKS: _service("Security Token Service: invalid_grant"),
        Wrong.RELAY_ANSWERS: _guest("answers with a plaintext of another checksum"),
        Wrong.RELAY_TLS: _guest("who answers has no certificate of the service"),
    },
}
# GPUs are attested before any key is asked for, on every platform.
GPU_STOPS: Mapping[Wrong, Stop] = {
    Wrong.GPU_DEBUG: _guest("GPUs: .*mode for developers"),
    Wrong.GPU_ROOT: _guest("evidence of the GPUs.* no pinned root"),
    Wrong.GPU_REPLAYED: _guest(r"report of GPU \d+: answers another nonce"),
    Wrong.GPU_MISSING: _guest(r"GPUs: are \d+, and the image demands"),
    Wrong.GPU_FORGED: _guest("is not made by the key"),
}


def of(stage: Stage, wrong: Wrong) -> Stop | None:
    """Who should stop a wrong run of a stage; None where nobody has written that down."""
    return STOPS[stage.cloud].get(wrong) or GPU_STOPS.get(wrong)
