"""Ten thousand files of 4 KiB: sealed, against hashing and encrypting them one after the other by hand.

The plain program reads each file, takes its SHA-256, encrypts it with one AES-256-GCM key and writes it: no
key of its own a file, no manifest, no signature, nothing to go on with after an interruption. Both work file
by file, from memory into new files in memory (/dev/shm where there is one: creating files on a disk takes
longer than all the rest, and is never the same twice); the ratio per file and per byte is the same.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import turns
from jewelhouse.model import ArtifactKind
from jewelhouse.weights import resume, seal, sources, stores, wrap

FILES = 10_000
SIZE = 4096
ROUNDS = 7
MEMORY = Path("/dev/shm")


def plain(source: Path, destination: Path) -> None:
    key = AESGCM(os.urandom(32))
    digests = {}
    for directory, _, names in os.walk(source):
        target = os.path.join(destination, os.path.relpath(directory, source))
        os.makedirs(target, exist_ok=True)
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                data = file.read()
            digests[path] = hashlib.sha256(data).hexdigest()
            nonce = os.urandom(12)
            with open(os.path.join(target, name), "wb") as file:
                file.write(nonce + key.encrypt(nonce, data, None))


def measure() -> dict[str, tuple[float, float]]:
    public = rsa.generate_private_key(public_exponent=65537, key_size=4096).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    now = datetime.now(UTC)
    order = seal.Order(
        artifact="base",
        kind=ArtifactKind.WEIGHTS,
        version=1,
        recipients=[wrap.recipient(pem, "kms:benchmark", where="benchmark")],
        signers=[ed25519.Ed25519PrivateKey.generate()],
        producer="benchmark",
        expires=now + timedelta(days=1),
    )
    number = itertools.count()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as temporary:
        root = Path(temporary)
        source = root / "source"
        for index in range(FILES):
            path = source / f"{index // 100:03}" / f"{index:05}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(SIZE))
        # What was written a moment ago is read twice, in case it changes again under the same time stamp.
        time.sleep(resume.COARSE / 1e9)

        def ours() -> None:
            store = stores.store(root / f"ours-{next(number)}")
            done = seal.seal(sources.source(source), store, order, now=now, states=root / "states")
            if len(done.manifest.files) != FILES:
                raise SystemExit("not every file was sealed")

        took = turns.medians(
            {"plain": lambda: plain(source, root / f"plain-{next(number)}"), "ours": ours}, ROUNDS
        )
    return {"seal/small-files": (took["ours"] / took["plain"], 1.5)}


if __name__ == "__main__":
    print(measure())
