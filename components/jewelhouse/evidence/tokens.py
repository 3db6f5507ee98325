"""Signed tokens, as Azure Attestation and Google Cloud Attestation both issue them.

JWS is RFC 7515, JWK RFC 7517, JWT RFC 7519. Everything is read once and strictly: a member that stands
twice, a number that JSON does not have or text that is no text would let two readers see two tokens. Nothing
is ever fetched: a token that names an address for its key has the key handed in, as a saved JWKS.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from jwt.algorithms import RSAAlgorithm

from jewelhouse.evidence.verdict import Endorsements, Finding, MalformedEvidence, moment

# The largest known token, Google's with its chain, has 11 KiB; a saved JWKS of Azure has 15 KiB.
TOKEN_LIMIT = 64 * 1024
JWKS_LIMIT = 1024 * 1024
DEPTH_LIMIT = 32
# Saved copies that hold one key each with another certificate: more are not a way to find the right one.
NAMED_LIMIT = 8
# Signatures that Azure and Google use, and the smallest key that either of them ever published.
ALGORITHM = "RS256"
RSA_BITS = range(2048, 8193)
# 9999-12-31T23:59:59Z, the last second that datetime has.
LAST_SECOND = 253402300799

# Header members by which a token would choose its own key or the way it is read. `jku` is for the format.
REFUSED_MEMBERS = ("crit", "jwk", "x5u", "b64", "zip", "enc")

# A string or comment without an end reaches to the end of the file, so that no byte is looked at twice.
_COMMENTS = re.compile(
    rb'("(?:[^"\\]++|\\.)*+(?:"|\Z|\\\Z))|//[^\r\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/|\Z)', re.DOTALL
)
_RS256 = RSAAlgorithm(RSAAlgorithm.SHA256)


@dataclass(frozen=True, kw_only=True)
class Token:
    """A compact JWS taken apart. `signed` are the bytes that `signature` is over."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Jwk:
    """One key of a saved JWKS, as it stands there; `where` says in which file and place."""

    kid: str
    members: Mapping[str, Any]
    where: str


@dataclass(frozen=True, kw_only=True)
class Times:
    """`at`: the moment of appraisal, the token's own where none was asked for."""

    at: datetime
    issued: datetime | None
    expires: datetime | None


def read(data: bytes) -> Token:
    """Splits and decodes a compact JWS; white space around it, which files have, is no part of it.

    Raises MalformedEvidence when it is none, or when header or payload can be read in two ways.
    """
    text = data.strip(b" \t\r\n")
    if len(text) > TOKEN_LIMIT:
        raise MalformedEvidence(f"has {len(text)} bytes, a token has at most {TOKEN_LIMIT}", where="token")
    parts = text.split(b".")
    if len(parts) != 3:
        raise MalformedEvidence(
            f"has {len(parts)} parts between dots, a signed token has 3: header, payload, signature",
            where="token",
        )
    return Token(
        header=json_object(decode(parts[0], "token.header"), "token.header"),
        claims=json_object(decode(parts[1], "token.payload"), "token.payload"),
        signed=text[: text.rindex(b".")],
        signature=decode(parts[2], "token.signature"),
    )


def decode(part: bytes, where: str) -> bytes:
    """base64url without padding, in the one spelling that it has (RFC 7515 section 2)."""
    try:
        if b"+" in part or b"/" in part or b"=" in part:
            raise ValueError("is base64 of another alphabet or with padding")
        text = part.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(part) % 4)
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise MalformedEvidence("is not base64url without padding", where=where) from error
    # The decoder ignores the unused bits of the last character.
    if (
        len(part) % 4
        and base64.urlsafe_b64encode(raw[len(raw) // 3 * 3 :])[: len(part) % 4] != part[-(len(part) % 4) :]
    ):
        raise MalformedEvidence("is base64url with bits left over at its end", where=where)
    return raw


def json_object(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object that every reader reads alike. Raises MalformedEvidence."""
    value = strict_json(raw, where)
    if not isinstance(value, dict):
        raise MalformedEvidence("is not a JSON object", where=where)
    return value


def strict_json(raw: bytes, where: str) -> Any:
    """JSON without doubled members, NaN, infinite numbers, unpaired surrogates or deep nesting."""
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
        # Brackets inside text count too, which only means that the value is walked for nothing.
        if raw.count(b"{") + raw.count(b"[") > DEPTH_LIMIT:
            _check_depth(value, where)
        if b"\\" in raw:
            # Only an escape can make half a surrogate pair, which no text has.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise MalformedEvidence("is not UTF-8 text", where=where) from error
    except RecursionError as error:
        raise MalformedEvidence("is nested too deeply", where=where) from error
    except _Refused as error:
        raise MalformedEvidence(f"has {error}", where=where) from error
    except json.JSONDecodeError as error:
        raise MalformedEvidence(f"is not JSON: {error}", where=where) from error
    except ValueError as error:
        # Python reads no whole number of more than 4,300 digits.
        raise MalformedEvidence("has a number that is too large", where=where) from error
    return value


class _Refused(ValueError):
    """JSON that is legal or nearly so, and that two readers would not read alike."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        (name, count), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise _Refused(f"a member {count} times: {shown(name)}")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"a number out of range: {text[:20]}")
    return value


def _constant(text: str) -> Any:
    raise _Refused(f"{text}, which is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_float=_number, parse_constant=_constant)


def _check_depth(value: Any, where: str) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH_LIMIT):
        below: list[Any] = []
        for parent in level:
            children = parent.values() if isinstance(parent, dict) else parent
            below.extend(child for child in children if isinstance(child, dict | list))
        level = below
        if not level:
            return
    raise MalformedEvidence(f"is nested deeper than {DEPTH_LIMIT}", where=where)


def signed_by(token: Token, key: RSAPublicKey) -> bool:
    """Whether the signature holds. The algorithm is RS256 whatever the header says."""
    return _RS256.verify(token.signed, key, token.signature)


def check_header(token: Token, problems: list[Finding]) -> None:
    """Algorithm, type, and no member by which a token would bring its own rules."""
    algorithm = token.header.get("alg")
    if algorithm != ALGORITHM:
        problems.append(
            Finding("header.alg", f"is {shown(algorithm)}: only {ALGORITHM} is accepted for this issuer")
        )
    if token.header.get("typ", "JWT") != "JWT":
        problems.append(Finding("header.typ", f"is {shown(token.header['typ'])}, expected JWT"))
    if not isinstance(token.header.get("kid"), str):
        problems.append(Finding("header.kid", "does not name the key that signed"))
    problems.extend(
        Finding(f"header.{name}", "is not accepted: a token does not bring its own key or encoding")
        for name in REFUSED_MEMBERS
        if name in token.header
    )


def check_times(claims: Mapping[str, Any], at: datetime | None, problems: list[Finding]) -> Times:
    """`iat`, `nbf` and `exp` in whole seconds, and the moment between them. No leeway: the moment is given.

    RFC 7519 sections 4.1.4 to 4.1.6: from `nbf`, and before `exp`.
    """
    found: dict[str, datetime | None] = {}
    for name in ("iat", "nbf", "exp"):
        value = claims.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LAST_SECOND:
            problems.append(Finding(name, f"is {shown(value)}, expected seconds since 1970"))
            found[name] = None
        else:
            found[name] = datetime.fromtimestamp(value, UTC)
    issued, start, expires = found["iat"], found["nbf"], found["exp"]
    if at is None:
        # Without a time of its own it cannot be appraised at it; the problem above already refuses it.
        at = issued or datetime.fromtimestamp(0, UTC)
    if issued is not None and expires is not None and expires <= issued:
        problems.append(Finding("exp", f"{moment(expires)} is not after iat {moment(issued)}"))
    if issued is not None and at < issued:
        problems.append(Finding("iat", f"was issued at {moment(issued)}, after {moment(at)}"))
    if start is not None and at < start:
        problems.append(Finding("nbf", f"is valid from {moment(start)}, not yet at {moment(at)}"))
    if expires is not None and at >= expires:
        problems.append(Finding("exp", f"expired at {moment(expires)}, before {moment(at)}"))
    return Times(at=at, issued=issued, expires=expires)


def jwks(endorsements: Endorsements, problems: list[Finding]) -> list[Jwk]:
    """The keys of every saved JWKS among the files, comments (JSONC) allowed. Other files are left alone."""
    found: list[Jwk] = []
    for number, raw in enumerate(endorsements.files, 1):
        where = f"endorsement {number}"
        if raw[:256].lstrip()[:1] not in (b"{", b"/", b"\xef") or b'"keys"' not in raw:
            continue
        if len(raw) > JWKS_LIMIT:
            problems.append(Finding(where, f"has {len(raw)} bytes, a JWKS has at most {JWKS_LIMIT}"))
            continue
        try:
            keys = _commented(raw, where).get("keys")
        except MalformedEvidence as error:
            problems.append(Finding(where, f"a JWKS that {error.what}"))
            continue
        found.extend(
            Jwk(kid=key["kid"], members=key, where=f"{where} keys[{place}]")
            for place, key in enumerate(keys if isinstance(keys, list) else ())
            if isinstance(key, dict) and isinstance(key.get("kid"), str)
        )
    return found


def _commented(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object, or one with comments, as people save it."""
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return json_object(raw, where)
    except MalformedEvidence:
        # Strings are matched first and kept: base64 has `//` inside.
        plain = _COMMENTS.sub(lambda found: found.group(1) or b" ", raw)
        if plain == raw:
            raise
    return json_object(plain, where)


def named(token: Token, keys: Sequence[Jwk], address: str, problems: list[Finding]) -> list[Jwk]:
    """The keys that `kid` names, each once however many files hold it. None is a problem that says what to
    save from which address."""
    kid = token.header.get("kid")
    found: list[Jwk] = []
    for key in keys:
        if key.kid == kid and all(key.members != other.members for other in found):
            found.append(key)
        if len(found) > NAMED_LIMIT:
            problems.append(Finding("signature", f"more than {NAMED_LIMIT} keys are named {shown(kid)}"))
            return []
    if not found and isinstance(kid, str):
        held = f"of {len(keys)} keys handed in" if keys else "as no JWKS was handed in"
        what = f"cannot be verified: no key {plain(kid)} {held}; save {address} beside the token"
        problems.append(Finding("signature", what))
    return found


def rsa_key(members: Mapping[str, Any], where: str) -> RSAPublicKey:
    """The key of a JWK that verifies RS256 signatures. Raises MalformedEvidence."""
    if members.get("use", "sig") != "sig" or members.get("alg", ALGORITHM) != ALGORITHM:
        raise MalformedEvidence(f"is not a key for {ALGORITHM} signatures", where=where)
    modulus, exponent = rsa_numbers(members, where)
    try:
        return RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise MalformedEvidence(f"is no RSA key: {error}", where=where) from error


def rsa_numbers(members: Mapping[str, Any], where: str) -> tuple[int, int]:
    """`n` and `e` of an RSA JWK, of a size that services use (RFC 7518 section 6.3.1)."""
    if members.get("kty") != "RSA":
        raise MalformedEvidence(f"kty is {shown(members.get('kty'))}, expected RSA", where=where)
    numbers = []
    for name in ("n", "e"):
        value = members.get(name)
        if not isinstance(value, str) or not value.isascii():
            raise MalformedEvidence(f"{name} is {shown(value)}, expected base64url", where=where)
        numbers.append(int.from_bytes(decode(value.encode(), f"{where}.{name}"), "big"))
    modulus, exponent = numbers
    if modulus.bit_length() not in RSA_BITS or modulus % 2 == 0:
        raise MalformedEvidence(f"is an RSA key of {modulus.bit_length()} bits", where=where)
    if not 65537 <= exponent < 2**32 or exponent % 2 == 0:
        raise MalformedEvidence("has an RSA exponent that no service uses", where=where)
    return modulus, exponent


def member(value: Any, *path: str) -> Any:
    """What stands at a path; None where it is absent, `null`, or below something that has no members."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def text(
    claims: Any, path: tuple[str, ...], problems: list[Finding], *, required: bool = False
) -> str | None:
    """A claim that is text. Another type is a problem; absent or `null` is one only where it is required."""
    value = member(claims, *path)
    if isinstance(value, str) and value:
        return value
    if value is not None or required:
        problems.append(Finding(".".join(path), f"is {shown(value)}, expected text"))
    return None


def shown(value: Any) -> str:
    """A value as a message shows it: without control characters, cut to a length that fits a line."""
    if value is None:
        return "absent"
    try:
        written = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        written = repr(type(value).__name__)
    return written if len(written) <= 80 else f"{written[:77]}..."


def plain(value: str) -> str:
    """Text of a token or certificate in a line for people: as it is when it is short and printable."""
    return value if len(value) <= 80 and value.isprintable() else shown(value)
