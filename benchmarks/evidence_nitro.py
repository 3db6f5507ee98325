"""Whole verification of an attestation document against the bare signature checks that it contains.

Bare: five ECDSA P-384 checks by `cryptography`: the document's own, and each certificate's by the key of the
one above it (four), with certificates and keys loaded beforehand. Whole: `nitro.verify` on the bytes of the
document, certificates read anew each time. The document is minted in the shape of a real one.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from jewelhouse.evidence import nitro
from jewelhouse.rehearsal.minting_nitro import AT, Authority

ROUNDS = 60


def interleaved(whole: Callable[[], object], bare: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median time of `whole` over that of `bare`, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    whole()
    bare()
    for _ in range(rounds):
        for taken, work in zip(times, (whole, bare), strict=True):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
    return statistics.median(times[0]) / statistics.median(times[1])


def measure() -> dict[str, tuple[float, float]]:
    authority = Authority.new()
    data = authority.document(nonce=b"n" * 32, public_key=b"k" * 294)
    message = cbor2.loads(data)
    signed = cbor2.dumps(["Signature1", message[0], b"", message[2]])
    r, s = (int.from_bytes(half, "big") for half in (message[3][:48], message[3][48:]))
    checks = [(authority.keys[-1].public_key(), utils.encode_dss_signature(r, s), signed)] + [
        (above.public_key(), below.signature, below.tbs_certificate_bytes)
        for above, below in zip(authority.keys, authority.certificates[1:], strict=False)
    ]
    algorithm = ec.ECDSA(hashes.SHA384())

    def bare() -> None:
        for key, signature, text in checks:
            key.verify(signature, text, algorithm)

    def whole() -> None:
        if not nitro.verify(data, at=AT, roots=authority.roots).verified:
            sys.exit("the document does not verify")

    return {"evidence/nitro-vs-bare": (interleaved(whole, bare), 1.5)}
