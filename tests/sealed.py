"""Keys, trees and sealed stores for the tests of `jewelhouse.weights`."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from jewelhouse.model import ArtifactKind
from jewelhouse.weights import seal, sources, stores, wrap
from jewelhouse.weights.manifest import Manifest, Trust
from jewelhouse.weights.stores import Store

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
YEAR = timedelta(days=365)


@cache
def rsa_key(name: str, bits: int = 4096) -> rsa.RSAPrivateKey:
    """One key a name, made once: making RSA-4096 takes a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def signing_key(name: str) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


PRODUCER = signing_key("producer")


@cache
def ec_key(curve: str) -> ec.EllipticCurvePrivateKey:
    curves = {
        "p256": ec.SECP256R1,
        "p384": ec.SECP384R1,
        "p521": ec.SECP521R1,
        "k1": ec.SECP256K1,
    }
    return ec.generate_private_key(curves[curve]())


def pem(key: Any) -> str:
    """The public half."""
    public = key if hasattr(key, "public_bytes") else key.public_key()
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


def write(path: Path, key: Any) -> tuple[Path, Path]:
    """Private and public half as files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    private, public = path.with_suffix(".key.pem"), path.with_suffix(".pub.pem")
    private.write_bytes(private_pem(key))
    public.write_text(pem(key))
    return private, public


def recipient(name: str = "first", key: str | None = None) -> wrap.Recipient:
    return wrap.recipient(pem(rsa_key(name)), key or f"kms:{name}", where=name)


def opener(tmp_path: Path, name: str = "first") -> wrap.Opener:
    return wrap.with_private_key(write(tmp_path / "keys" / name, rsa_key(name))[0])


def trust(*names: str, **settings: Any) -> Trust:
    return Trust(signers=tuple(pem(signing_key(name)) for name in names or ("producer",)), **settings)


def order(**changes: Any) -> seal.Order:
    made: dict[str, Any] = {
        "artifact": "base",
        "kind": ArtifactKind.WEIGHTS,
        "version": 3,
        "recipients": [recipient()],
        "signers": [PRODUCER],
        "producer": "tests",
        "expires": NOW + YEAR,
    }
    return seal.Order(**{**made, **changes})


def newest(store: Path, series: str = "manifests") -> Path:
    """The current manifest or mandate of a store on disk."""
    return max((store / series).iterdir())


# Names that a shell, a URL, a terminal or a JSON writer could trip over; and the plain ones of a checkpoint.
ODD = (
    "model-00001-of-00002.safetensors",
    "config.json",
    "-rf",
    "a b",
    "new\nline",
    "tab\there",
    'quote"back\\slash',
    "percent%2F..%00",
    "query?#fragment*[1]{2}",
    "~",
    "$(HOME)",
    "ünïcödé-模型-🦩",
    "e\u0301-decomposed",
    "\x7f\x1b[31m",
    "deep/" + "d/" * 60 + "leaf",
    "l" * 255,
    "manifest.json",
    "data/3-0000000000000000/x",
)


def tree(root: Path) -> Path:
    """A source with empty files and directories, odd names, sparse and many-segment files."""
    for index, name in enumerate(ODD):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"content {index}".encode() * index)
    (root / "empty" / "inner").mkdir(parents=True)
    (root / "nothing").touch()
    (root / "two-segments").write_bytes(os.urandom((1 << 20) + 1))
    with (root / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    return root


def small(root: Path, **files: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in (files or {"config.json": b"{}", "weights.bin": b"w" * 5000}).items():
        (root / name).write_bytes(content)
    return root


def sealed(
    tmp_path: Path, source: Path | None = None, to: str = "store", **changes: Any
) -> tuple[Store, Manifest]:
    """A store with one version in it."""
    store = stores.store(to if "://" in to else tmp_path / to)
    done = seal.seal(sources.source(source or small(tmp_path / "source")), store, order(**changes), now=NOW)
    return store, done.manifest


def contents(root: Path) -> dict[str, bytes | None]:
    """Everything below a directory: bytes of files, None for directories."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


@dataclass
class Counting:
    """Progress that adds up."""

    size: int = 0
    done: int = 0
    lock: Any = field(default_factory=Lock)

    def total(self, size: int, /) -> None:
        self.size += size

    def __call__(self, done: int, /) -> None:
        with self.lock:
            self.done += done


def openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
