"""Evidence of any format: recognised by its content, handed to the module that verifies it.

Files in the wild hold the raw bytes, or their base64 or hex text with white space; tokens; JSON; and an
attestation document behind a length of four bytes. A name or an extension is never asked.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from types import ModuleType
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.evidence.verdict import NO_ENDORSEMENTS, Endorsements, MalformedEvidence, Verdict

# No evidence comes near it: the largest known is a detached EAT of eight GPUs, about 100 KiB.
LIMIT = 4 * 1024 * 1024

TOKEN = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
NITRO = re.compile(rb"\xd2?\x84\x44\xa1\x01\x38\x22")
# Issuer of a token -> the module that verifies it.
ISSUERS = (
    (re.compile(r"https://[a-z0-9.-]+\.attest\.azure\.net/?"), "maa"),
    (re.compile(r"https://confidentialcomputing\.googleapis\.com/?"), "confidential_space"),
    (re.compile(r"https://nras\.attestation(-[a-z]+)?\.nvidia\.com/?"), "nvidia_eat"),
)


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """Evidence as its module takes it: `module` of `jewelhouse.evidence`, and the bytes without wrapping.
    `wrapping` says what was around them."""

    module: str
    data: bytes
    wrapping: tuple[str, ...] = ()


def recognise(data: bytes) -> Recognised:
    """What `data` is, by content. Raises MalformedEvidence when it is no evidence of a known format."""
    if len(data) > LIMIT:
        raise MalformedEvidence(f"has {len(data)} bytes, evidence has at most {LIMIT}")
    if not data.strip():
        raise MalformedEvidence("is empty")
    for wrapping, inside in _unwrapped(data):
        for module, matches in FORMATS:
            found = matches(inside)
            if found is not None:
                taken_off = len(inside) - len(found)
                framed = (*wrapping, f"{taken_off} bytes of framing") if taken_off else wrapping
                return Recognised(module=module, data=found, wrapping=framed)
    raise MalformedEvidence(
        "is no evidence of a format that is known",
        remedy="known: Nitro Enclave and NitroTPM documents, tokens of Microsoft Azure Attestation and of "
        "Google Cloud Attestation, SEV-SNP reports, TDX quotes, NVIDIA reports and tokens",
    )


def verify(
    data: bytes,
    *,
    at: datetime | None,
    endorsements: Endorsements = NO_ENDORSEMENTS,
    nonce: bytes | None = None,
) -> Verdict:
    """Verifies evidence of any known format at a moment; `at=None` means at the evidence's own time.

    Raises MalformedEvidence when the bytes are of no known format, and JewelhouseError when the libraries
    for evidence are not installed. Whatever else is wrong is in the verdict.
    """
    found = recognise(data)
    return _module(found.module).verify(found.data, at=at, endorsements=endorsements, nonce=nonce)


def _module(name: str) -> ModuleType:
    try:
        return import_module(f"jewelhouse.evidence.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("jewelhouse"):
            raise
        raise JewelhouseError(
            f"evidence needs the library {error.name}",
            remedy="pip install 'jewelhouse[evidence]'",
        ) from error


def _unwrapped(data: bytes) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """The data as it is, then without one or two layers of text encoding."""
    yield (), data
    layers: list[tuple[tuple[str, ...], bytes]] = [((), data)]
    for _ in range(2):
        layers = [
            ((*wrapping, name), decoded)
            for wrapping, inside in layers
            for name, decode in (("hex", _hex), ("base64", _base64))
            if (decoded := decode(inside))
        ]
        yield from layers


def _hex(data: bytes) -> bytes | None:
    text = b"".join(data.split()).removeprefix(b"0x")
    if len(text) % 2 or not re.fullmatch(rb"[0-9A-Fa-f]+", text):
        return None
    return binascii.unhexlify(text)


def _base64(data: bytes) -> bytes | None:
    text = b"".join(data.split()).replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _nitro(data: bytes) -> bytes | None:
    """COSE_Sign1 with the protected header `{alg: ES384}`, tagged or not. dstack keeps it behind two bytes of
    variants and its length as a compact integer of SCALE (Dstack-TEE/dstack; docs.polkadot.com, SCALE)."""
    if NITRO.match(data):
        return data
    compact = int.from_bytes(data[2:4], "little")
    if NITRO.match(data, 4) and compact & 3 == 1 and 4 + (compact >> 2) <= len(data):
        return data[4 : 4 + (compact >> 2)]
    return None


def _snp(data: bytes) -> bytes | None:
    version = int.from_bytes(data[:4], "little")
    return data if 1000 <= len(data) <= 1300 and 1 <= version <= 9 else None


def _tdx(data: bytes) -> bytes | None:
    """Quote header: version, attestation key type, then TEE type 0x81. An SGX quote has TEE type 0."""
    return data if int.from_bytes(data[:2], "little") in (4, 5) and data[4:8] == b"\x81\0\0\0" else None


def _spdm(data: bytes) -> bytes | None:
    """An SPDM 1.1 GET_MEASUREMENTS request, with which NVIDIA's reports begin."""
    return data if data[:2] == b"\x11\xe0" and len(data) > 100 else None


def _json(data: bytes) -> Any:
    if data.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _nvidia_json(data: bytes) -> bytes | None:
    value = _json(data)
    entries = value if isinstance(value, list) else [value]
    fits = entries and all(
        isinstance(entry, dict) and {"evidence", "certificate"} <= entry.keys() for entry in entries
    )
    return data if fits else None


def _nvidia_eat(data: bytes) -> bytes | None:
    """A detached EAT: `[["JWT", token], {"GPU-0": token}]`."""
    value = _json(data)
    if isinstance(value, list) and value and isinstance(value[0], list) and value[0][:1] == ["JWT"]:
        return data
    return None


def _issuer(data: bytes) -> str | None:
    """`iss` of a token, unverified: it only chooses who verifies it."""
    token = data.strip()
    if not TOKEN.fullmatch(token):
        return None
    payload = token.split(b".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return None
    issuer = claims.get("iss") if isinstance(claims, dict) else None
    return issuer if isinstance(issuer, str) else None


def _token_of(module: str) -> Callable[[bytes], bytes | None]:
    def matches(data: bytes) -> bytes | None:
        issuer = _issuer(data)
        if issuer is None:
            return None
        return data if any(name == module and form.fullmatch(issuer) for form, name in ISSUERS) else None

    return matches


# How each format shows itself: the evidence inside the bytes, or None. The most telling come first.
FORMATS: tuple[tuple[str, Callable[[bytes], bytes | None]], ...] = (
    ("nitro", _nitro),
    ("tdx", _tdx),
    ("nvidia", _spdm),
    ("nvidia", _nvidia_json),
    ("nvidia_eat", _nvidia_eat),
    ("nvidia_eat", _token_of("nvidia_eat")),
    ("maa", _token_of("maa")),
    ("confidential_space", _token_of("confidential_space")),
    ("snp", _snp),
)
