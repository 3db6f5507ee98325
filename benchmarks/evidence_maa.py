"""`evidence/maa-vs-bare`: verifying a token of Azure Attestation against the signature checks that are in it.

Ours is `maa.verify` from the bytes of a guest token (5 KiB, as real ones are) and of a saved JWKS with two
keys, as real ones have, to the verdict: strict JSON of both, every claim, kid, quote, certificates, times.

Bare is the same seven signature checks done with `cryptography` alone, from the same token and the entry's
`x5c`: RS256 of the token and of the self-signed certificate, the P-256 signatures of quote and quoting
enclave, and the three of the processor's chain. It decodes and cuts out what is signed, loads certificates
and keys, calls the library's own checks (`verify`, `verify_directly_issued_by`), and looks at nothing else:
no JSON, no claim, no digest, no time, no pinned root.

Both run in turns; the value is the ratio of their medians.
"""

from __future__ import annotations

import base64
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from jewelhouse.evidence import maa, maa_keys
from jewelhouse.evidence.verdict import Endorsements

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from jewelhouse.rehearsal.minting_tokens import MaaAuthority, guest_claims

ROUNDS = 400
BOUND = 1.5


def measure() -> dict[str, tuple[float, float]]:
    authority = MaaAuthority.new()
    other = MaaAuthority.new(name="maa-other")
    token = authority.token(guest_claims(nonce=b"a nonce of the verifier"))
    saved = json.dumps({"keys": [*authority.jwks["keys"], *other.jwks["keys"]]}).encode()
    endorsements = Endorsements(files=(saved,))

    def whole() -> None:
        verdict = maa.verify(token, at=None, endorsements=endorsements, roots=authority.roots)
        assert verdict.verified, verdict.problems

    return {"evidence/maa-vs-bare": (_ratio(whole, _bare(token, authority)), BOUND)}


def _bare(token: bytes, authority: MaaAuthority) -> Callable[[], None]:
    text = authority.jwks["keys"][0]["x5c"][0]
    ecdsa = ec.ECDSA(hashes.SHA256())

    def bare() -> None:
        signed, signature = token.rsplit(b".", 1)
        certificate = x509.load_der_x509_certificate(base64.b64decode(text))
        rsa = certificate.public_key()
        assert isinstance(rsa, RSAPublicKey)
        rsa.verify(base64.urlsafe_b64decode(signature + b"=="), signed, padding.PKCS1v15(), hashes.SHA256())
        certificate.verify_directly_issued_by(certificate)
        extension = certificate.extensions.get_extension_for_oid(maa_keys.QUOTE_EXTENSION).value
        assert isinstance(extension, x509.UnrecognizedExtension)
        quote = extension.value[16:]
        leaf, middle, root = x509.load_pem_x509_certificates(quote[quote.index(b"-----BEGIN") :])
        attesting = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote[500:564])
        attesting.verify(_der(quote[436:500]), quote[:432], ecdsa)
        processor = leaf.public_key()
        assert isinstance(processor, ec.EllipticCurvePublicKey)
        processor.verify(_der(quote[948:1012]), quote[564:948], ecdsa)
        leaf.verify_directly_issued_by(middle)
        middle.verify_directly_issued_by(root)
        root.verify_directly_issued_by(root)

    return bare


def _der(signature: bytes) -> bytes:
    return encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))


def _ratio(ours: Callable[[], None], theirs: Callable[[], None]) -> float:
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(-20, ROUNDS):
        for work, taken in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            work()
            if round_ >= 0:
                taken.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])
