"""Releases inside a Nitro Enclave: evidence by the security module, KMS through the parent's proxies."""

from __future__ import annotations

import secrets

from jewelhouse.evidence.verdict import Kind
from jewelhouse.guest import kms, nsm, vsock
from jewelhouse.guest.opening import Asked, Opened, Opener
from jewelhouse.guest.settings import Endpoints, Stage


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens keys by attestation documents of this enclave.

    Inside an enclave it first mixes the module's random numbers into the kernel's and brings up the relays,
    which stores need too. Raises Closed without a security module, or when the relays do not start.
    """
    with nsm.module(endpoints.nsm) as call:
        if endpoints.nsm is None:
            nsm.seed(call)
    if endpoints.kms is None:
        vsock.connect(stage)
    client = kms.client(stage, endpoints)

    def opened(asked: Asked) -> Opened:
        with nsm.module(endpoints.nsm) as call:
            return kms.release(
                client,
                asked,
                lambda public, nonce: nsm.attestation(
                    call, public_key=public, nonce=nonce, user_data=asked.bound or None
                ),
                Kind.NITRO_ENCLAVE,
                secrets.token_bytes(kms.NONCE),
            )

    return opened
