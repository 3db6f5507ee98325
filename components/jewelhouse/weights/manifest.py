"""The manifest of a sealed artifact: what is in it, who may open it, until when it is valid.

The layout of a store:

    manifests/<version>-<wrapping>.json   manifests in their envelopes (DSSE v1); the last one is current
    data/<data>/<object>                  sealed files; a manifest names its own directory, which nothing else
                                          writes to
    mandates/<time>.json                  whom a stage seals for (`mandate`); the last one is current

Nothing is ever replaced (`series`).

A reader believes nothing before the signature, and after it in this order: form, artifact, versions, times.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import ArtifactKind
from jewelhouse.weights import canonical, paths, series, signing
from jewelhouse.weights.signing import MalformedManifest, PrivateKey, PublicKey, Untrusted

__all__ = ["File", "MalformedManifest", "Manifest", "Trust", "Untrusted", "Wrapped", "read"]

SERIES = "manifests"
# What messages call it.
NAME = "manifest"
FORMAT = "jewelhouse.weights/v1"
CIPHER = "AES256_GCM_HKDF_1MB"
SHARD = 64 * 1024 * 1024
WRAPPING = "RSA-OAEP-256"
# A clock that is behind by more than this would take expired manifests for valid ones.
SKEW = timedelta(minutes=5)

ARTIFACT = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
DATA = re.compile(r"[0-9]{1,16}-[0-9a-f]{16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
KEY = re.compile(r"[!-~]{1,512}")
LONGEST_PRODUCER = 256
MOST_KEYS = 64


class File(NamedTuple):
    """One sealed file: its size in bytes and the SHA-256 of each 64 MiB of its plaintext.

    AES-GCM does not commit to its key: the signed digests are what fixes the content.
    """

    path: str
    size: int
    shards: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """The DEK, wrapped to one public key.

    key: its identity as the one who opens knows it (ARN, Key Vault key URI, cryptoKeyVersion, digest).
    public: SHA-256 of its SubjectPublicKeyInfo. policy: SHA-256 of the canonical JSON of the release policy
    that guarded it when the DEK was wrapped, where that was known.
    """

    key: str
    algorithm: str
    public: str
    ciphertext: bytes
    policy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What a later version of the kit adds. Who does not know a critical one refuses the manifest."""

    value: str
    critical: bool


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`version` rises with the content, `wrapping` with each change of who may open the same content."""

    artifact: str
    kind: ArtifactKind
    version: int
    wrapping: int
    created: datetime
    expires: datetime
    producer: str
    data: str
    files: tuple[File, ...]
    directories: tuple[str, ...]
    keys: tuple[Wrapped, ...]
    extensions: Mapping[str, Extension] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of plaintext."""
        return sum(file.size for file in self.files)

    def wrapped(self, key: str) -> Wrapped:
        """The DEK as wrapped to a key of this identity. Raises Untrusted when it is sealed to others only."""
        for one in self.keys:
            if one.key == key:
                return one
        raise Untrusted(
            f"is not sealed to {key}",
            where=NAME,
            remedy=f"it is sealed to {', '.join(one.key for one in self.keys)}; rewrap adds a key",
        )

    def associated_data(self, path: str) -> bytes:
        return associated_data(self.artifact, self.version, path)

    def object(self, path: str) -> str:
        """Where a file lies in the store."""
        return f"data/{self.data}/{paths.object_name(path)}"


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a reader has decided beforehand: in a TEE these settings are inside the measured image.

    signers: PEM of the public keys of which `threshold` must have signed. `minimum_version` and
    `minimum_wrapping` are floors: what is below them has been retired.
    Raises JewelhouseError for keys that sign no manifests and for settings that would accept anything.
    """

    signers: tuple[str, ...]
    minimum_version: int = 1
    minimum_wrapping: int = 1
    threshold: int = 1
    keys: tuple[PublicKey, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys = {signing.identity(key): key for key in map(signing.public_key, self.signers)}
        if not 1 <= self.threshold <= len(keys):
            raise JewelhouseError(
                f"asks for signatures of {self.threshold} among {len(keys)} different signers",
                where="trust settings",
                remedy="pin at least one signer, and no fewer than must sign",
            )
        if self.minimum_version < 1 or self.minimum_wrapping < 1:
            raise JewelhouseError("a floor is below 1", where="trust settings")
        object.__setattr__(self, "keys", tuple(keys.values()))


def associated_data(artifact: str, version: int, path: str) -> bytes:
    """What the encryption of a file binds besides its bytes: it opens as no other file, version, artifact.

    The canonical JSON of `[FORMAT, artifact, version, path]`.
    """
    return b'["%b","%b",%d,%b]' % (FORMAT.encode(), artifact.encode(), version, canonical.text(path))


def read(data: bytes, trust: Trust, *, now: datetime, artifact: str | None) -> Manifest:
    """The manifest in an envelope, once everything about it holds for this reader.

    `artifact` is what it must be of; None takes any that the signers sign, which is for people who look at
    the answer, not for a stage.

    Raises MalformedManifest, or Untrusted: unknown signer, other artifact, retired version, expired, made in
    the future, unknown critical extension.
    """
    payload, _ = signing.verified(data, trust.keys, trust.threshold, NAME)
    found = decode(payload)
    _believable(found, trust, now, artifact)
    return found


def name(manifest: Manifest) -> str:
    """What a store has the manifest under."""
    return f"{SERIES}/{series.number(manifest.version)}-{series.number(manifest.wrapping)}.json"


def _believable(found: Manifest, trust: Trust, now: datetime, artifact: str | None) -> None:
    unknown = [name for name, one in found.extensions.items() if one.critical]
    checks = (
        (
            artifact is not None and found.artifact != artifact,
            "artifact",
            f"is {found.artifact}, expected {artifact}",
        ),
        (
            found.version < trust.minimum_version,
            "version",
            f"{found.version} has been retired: the floor is {trust.minimum_version}",
        ),
        (
            found.wrapping < trust.minimum_wrapping,
            "wrapping",
            f"{found.wrapping} has been retired: the floor is {trust.minimum_wrapping}",
        ),
        (now >= found.expires, "expires", f"expired at {moment(found.expires)}, now {moment(now)}"),
        (
            found.created > now + SKEW,
            "created",
            f"{moment(found.created)} is in the future, now {moment(now)}: one of the clocks is wrong",
        ),
        (bool(unknown), "extensions", f"this version of the kit does not know {', '.join(unknown)}"),
    )
    for wrong, where, what in checks:
        if wrong:
            raise Untrusted(what, where=f"{NAME}: {where}")


def envelope(manifest: Manifest, keys: Sequence[PrivateKey]) -> bytes:
    """The manifest signed. Raises MalformedManifest when no reader would accept it."""
    # Paths have been checked where the files were found; a reader checks them again.
    decode(encode(dataclasses.replace(manifest, files=(), directories=())))
    signed = signing.sign(encode(manifest), keys)
    if len(signed) > signing.LARGEST_ENVELOPE:
        raise MalformedManifest(
            f"{len(manifest.files)} files make a manifest that no reader accepts",
            where=NAME,
            remedy="seal fewer, larger files: pack them into archives or shards",
        )
    return signed


def encode(manifest: Manifest) -> bytes:
    """The canonical JSON that is signed."""
    return canonical.encoded(
        {
            "format": FORMAT,
            "cipher": CIPHER,
            "artifact": manifest.artifact,
            "kind": manifest.kind.value,
            "version": manifest.version,
            "wrapping": manifest.wrapping,
            "created": moment(manifest.created),
            "expires": moment(manifest.expires),
            "producer": manifest.producer,
            "data": manifest.data,
            "directories": list(manifest.directories),
            "files": [
                {"path": file.path, "shards": [shard.hex() for shard in file.shards], "size": file.size}
                for file in manifest.files
            ],
            "keys": [
                {
                    "key": one.key,
                    "algorithm": one.algorithm,
                    "public": one.public,
                    "ciphertext": base64.b64encode(one.ciphertext).decode(),
                    "policy": one.policy,
                }
                for one in manifest.keys
            ],
            "extensions": {
                name: {"critical": one.critical, "value": one.value}
                for name, one in manifest.extensions.items()
            },
        }
    )


def decode(payload: bytes) -> Manifest:
    """The manifest in canonical JSON, whoever it is from. Raises MalformedManifest with all that is wrong."""
    try:
        value = canonical.read(payload)
    except ValueError as error:
        raise MalformedManifest(f"its payload {error}", where=NAME) from error
    # The format first: what another format may hold is not this one's to say.
    for name, known in (("format", FORMAT), ("cipher", CIPHER)):
        if isinstance(value, dict) and value.get(name, known) != known:
            raise MalformedManifest(
                f"is {str(value[name])[:80]!r}, this kit reads {known}", where=f"{NAME}: {name}"
            )
    body = _members(value, {"format", "cipher", *_FIELDS}, NAME)
    found = Manifest(**{name: convert(body[name], f"{NAME}: {name}") for name, convert in _FIELDS.items()})
    if found.expires <= found.created:
        raise MalformedManifest("expires before it was created", where=f"{NAME}: expires")
    if not found.data.startswith(f"{found.version}-"):
        raise MalformedManifest("is the directory of another version", where=f"{NAME}: data")
    _orderly(found)
    return found


def _orderly(found: Manifest) -> None:
    names = [file.path for file in found.files]
    problems = [f"{one.where!r} {one.what}" for one in islice(paths.faults(names, found.directories), 20)]
    if problems:
        raise MalformedManifest("; ".join(problems), where=f"{NAME}: files")
    if names != sorted(names) or list(found.directories) != sorted(found.directories):
        raise MalformedManifest("files and directories are not in order", where=f"{NAME}: files")
    identities = [one.key for one in found.keys]
    if not 0 < len(identities) <= MOST_KEYS or len(set(identities)) != len(identities):
        raise MalformedManifest(f"needs 1 to {MOST_KEYS} different keys", where=f"{NAME}: keys")


def moment(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _members(value: Any, expected: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedManifest("is not an object", where=where)
    if value.keys() != expected:
        wrong = [f"{name[:80]!r} is not known" for name in value.keys() - expected]
        wrong += [f"{name!r} is missing" for name in expected - value.keys()]
        raise MalformedManifest("; ".join(sorted(wrong)), where=where)
    return value


def _text(pattern: re.Pattern[str]) -> Callable[[Any, str], str]:
    def convert(value: Any, where: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise MalformedManifest(f"does not match {pattern.pattern}", where=where)
        return value

    return convert


def _kind(value: Any, where: str) -> ArtifactKind:
    try:
        return ArtifactKind(value)
    except ValueError as error:
        raise MalformedManifest(f"is none of {', '.join(ArtifactKind)}", where=where) from error


def _number(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise MalformedManifest("is not a whole number from 1", where=where)
    return value


def _time(value: Any, where: str) -> datetime:
    try:
        found = datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise MalformedManifest("is not a time like 2026-11-23T10:00:00Z", where=where) from error
    if moment(found) != value:
        raise MalformedManifest("is not a time like 2026-11-23T10:00:00Z", where=where)
    return found


def _producer(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_PRODUCER or not value.isprintable():
        raise MalformedManifest(f"is not printable text of 1 to {LONGEST_PRODUCER} characters", where=where)
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedManifest("is not a list", where=where)
    return value


def _directories(value: Any, where: str) -> tuple[str, ...]:
    found = _list(value, where)
    if not all(isinstance(one, str) for one in found):
        raise MalformedManifest("holds something that is no path", where=where)
    return tuple(found)


_FILE_MEMBERS = {"path", "shards", "size"}


def _files(value: Any, where: str) -> tuple[File, ...]:
    found = []
    for index, one in enumerate(_list(value, where)):
        # Checked in place: an artifact may have a hundred thousand files.
        if not isinstance(one, dict) or one.keys() != _FILE_MEMBERS:
            _members(one, _FILE_MEMBERS, f"{where}[{index}]")
        path, size, shards = one["path"], one["size"], one["shards"]
        if not isinstance(path, str):
            raise MalformedManifest("has a path that is no text", where=f"{where}[{index}]")
        if type(size) is not int or size < 0:
            raise MalformedManifest("has a size that is no count of bytes", where=f"{where}[{index}]")
        if not isinstance(shards, list) or len(shards) != -(-size // SHARD):
            raise MalformedManifest("does not have one digest each 64 MiB", where=f"{where}[{index}]")
        if not all(isinstance(shard, str) and _DIGEST.fullmatch(shard) for shard in shards):
            raise MalformedManifest("has a shard that is no SHA-256", where=f"{where}[{index}]")
        found.append(File(path, size, tuple(map(bytes.fromhex, shards))))
    return tuple(found)


def _keys(value: Any, where: str) -> tuple[Wrapped, ...]:
    return tuple(_wrapped(one, f"{where}[{index}]") for index, one in enumerate(_list(value, where)))


def _wrapped(value: Any, where: str) -> Wrapped:
    body = _members(value, {"key", "algorithm", "public", "ciphertext", "policy"}, where)
    if body["algorithm"] != WRAPPING:
        raise MalformedManifest(f"is not {WRAPPING}", where=f"{where}.algorithm")
    try:
        ciphertext = base64.b64decode(body["ciphertext"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise MalformedManifest("is not base64", where=f"{where}.ciphertext") from error
    if len(ciphertext) < 512 or base64.b64encode(ciphertext).decode() != body["ciphertext"]:
        raise MalformedManifest("is not a DEK under RSA of 4096 bits", where=f"{where}.ciphertext")
    policy = body["policy"]
    return Wrapped(
        key=_text(KEY)(body["key"], f"{where}.key"),
        algorithm=body["algorithm"],
        public=_text(_DIGEST)(body["public"], f"{where}.public"),
        ciphertext=ciphertext,
        policy=None if policy is None else _text(_DIGEST)(policy, f"{where}.policy"),
    )


def _extensions(value: Any, where: str) -> dict[str, Extension]:
    if not isinstance(value, dict):
        raise MalformedManifest("is not an object", where=where)
    found = {}
    for name, one in value.items():
        body = _members(one, {"critical", "value"}, f"{where}.{name[:80]}")
        if not isinstance(body["critical"], bool) or not isinstance(body["value"], str):
            raise MalformedManifest("needs critical, yes or no, and a text", where=f"{where}.{name[:80]}")
        found[_text(KEY)(name, where)] = Extension(value=body["value"], critical=body["critical"])
    return found


_FIELDS: Mapping[str, Callable[[Any, str], Any]] = {
    "artifact": _text(ARTIFACT),
    "kind": _kind,
    "version": _number,
    "wrapping": _number,
    "created": _time,
    "expires": _time,
    "producer": _producer,
    "data": _text(DATA),
    "directories": _directories,
    "files": _files,
    "keys": _keys,
    "extensions": _extensions,
}
