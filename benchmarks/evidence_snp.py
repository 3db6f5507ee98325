"""`evidence/snp-vs-bare`: verifying a SEV-SNP report against the signature checks that are in it.

Ours is `snp.verify` from the bytes of a Milan report and of two PEM files (VCEK; ASK and ARK with RSA keys of
4,096 bits, as AMD's are) to the verdict: PEM, certificates, dates, CA rules, pinned root, every field of the
report, the VCEK's chip and patch levels against it, and all claims written out.

Bare is `cryptography` alone doing the same four signature checks: ECDSA P-384 of the report, and RSASSA-PSS
of VCEK, ASK and ARK. It is handed signatures, signed bytes and keys as DER, cut out beforehand, and loads the
three keys, since a key must be loaded to check with it; it parses no certificate and looks at nothing else.

Both run in turns; the value is the ratio of their medians.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from jewelhouse.evidence import certificates, snp

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from jewelhouse.rehearsal import minting_snp as minting

ROUNDS = 400
BOUND = 1.5


def measure() -> dict[str, tuple[float, float]]:
    machine = minting.Machine(bits=4096)
    data, endorsements, roots = minting.report(machine), machine.endorsements, machine.roots

    def whole() -> None:
        verdict = snp.verify(data, at=minting.NOW, endorsements=endorsements, nonce=b"nonce", roots=roots)
        assert verdict.verified, verdict.problems

    return {"evidence/snp-vs-bare": (_ratio(whole, _bare(data, machine)), BOUND)}


def _bare(data: bytes, machine: minting.Machine) -> Callable[[], None]:
    vcek, ask, ark = (certificates.read(der) for der in machine.chain)
    signed = data[:0x2A0]
    r, s = (int.from_bytes(data[at : at + 72], "little") for at in (0x2A0, 0x2E8))
    signature = encode_dss_signature(r, s)
    ecdsa = ec.ECDSA(hashes.SHA384())
    pss, sha384 = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48), hashes.SHA384()

    def bare() -> None:
        chip: Any = load_der_public_key(vcek.key)
        chip.verify(signature, signed, ecdsa)
        signer: Any = load_der_public_key(ask.key)
        signer.verify(vcek.signature, vcek.signed, pss, sha384)
        root: Any = load_der_public_key(ark.key)
        root.verify(ask.signature, ask.signed, pss, sha384)
        root.verify(ark.signature, ark.signed, pss, sha384)

    return bare


def _ratio(whole: Callable[[], None], bare: Callable[[], None]) -> float:
    times: dict[Callable[[], None], list[float]] = {whole: [], bare: []}
    for _ in range(ROUNDS):
        for run, taken in times.items():
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[whole]) / statistics.median(times[bare])


if __name__ == "__main__":
    for name, (value, bound) in measure().items():
        print(f"{name} {value:.2f} {bound}")
