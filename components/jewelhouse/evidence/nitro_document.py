"""The form of an attestation document: COSE_Sign1 around a map in CBOR, read strictly.

aws/aws-nitro-enclaves-nsm-api docs/attestation_process.md, sections 2.2 (document), 3.1 (COSE) and 3.2.2
(fields). It wants optional fields to be absent rather than null; documents of AWS have nulls.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import cbor2

from jewelhouse.evidence.verdict import Kind, MalformedEvidence

# Section 3.1; real documents have under 5 KiB. What is around the payload has 110 bytes.
PAYLOAD_LIMIT = 16 * 1024
LIMIT = PAYLOAD_LIMIT + 128
TAGGED = b"\xd2"
# `{1: -35}`, ES384, in its one shortest form.
PROTECTED = b"\xa1\x01\x38\x22"
DIGESTS = {"SHA256": 32, "SHA384": 48, "SHA512": 64}
# Field -> least and most bytes. The grammar of section 2.2 says 0 to 1024 for all, the rules are narrower.
OPTIONAL = {"public_key": (1, 1024), "user_data": (0, 512), "nonce": (0, 512)}
REQUIRED = ("module_id", "digest", "timestamp", "certificate", "cabundle")
REGISTERS = {"pcrs": Kind.NITRO_ENCLAVE, "nitrotpm_pcrs": Kind.NITRO_TPM}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, kw_only=True)
class Document:
    """An attestation document as it was read: nothing in it is verified.

    registers: index -> value. timestamp: UTC, to the millisecond. certificate and bundle: DER; the bundle
    begins with the root. protected, payload, signature: the parts of the COSE_Sign1.
    """

    kind: Kind
    module_id: str
    digest: str
    timestamp: datetime
    registers: Mapping[int, bytes]
    certificate: bytes
    bundle: Sequence[bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    protected: bytes
    payload: bytes
    signature: bytes

    @property
    def milliseconds(self) -> int:
        """The timestamp as it stands in the document, since 1970."""
        return (self.timestamp - EPOCH) // MILLISECOND

    @property
    def measurements(self) -> dict[str, str]:
        return {f"PCR{index}": value.hex() for index, value in sorted(self.registers.items())}


def parse(data: bytes) -> Document:
    """Reads a document to its last byte.

    Raises MalformedEvidence, naming the field, for anything that the specification does not allow.
    """
    if len(data) > LIMIT:
        raise MalformedEvidence(f"has {len(data)} bytes, a document has at most {LIMIT}")
    message = decoded(data.removeprefix(TAGGED), "document")
    if not isinstance(message, list) or len(message) != 4:
        raise MalformedEvidence("is no COSE_Sign1 of four members", where="document")
    protected, unprotected, payload, signature = message
    if not all(isinstance(part, bytes) for part in (protected, payload, signature)):
        raise MalformedEvidence("is no COSE_Sign1: a member is not a byte string", where="document")
    if unprotected != {}:
        raise MalformedEvidence("must be empty", where="unprotected header")
    if protected != PROTECTED:
        raise MalformedEvidence("names another algorithm than ES384", where="protected header")
    if len(signature) != 96:
        raise MalformedEvidence(f"has {len(signature)} bytes, ES384 has 96", where="signature")
    if len(payload) > PAYLOAD_LIMIT:
        raise MalformedEvidence(f"has {len(payload)} bytes, at most {PAYLOAD_LIMIT}", where="payload")
    return _document(decoded(payload, "payload"), protected, payload, signature)


def decoded(data: bytes, where: str) -> Any:
    """One CBOR value of bytes from outside, and nothing behind it.

    No tag inside is followed: documents have none, and tags bring numbers without bound, references and
    values of other types. Raises MalformedEvidence.
    """
    stream = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(
        stream, semantic_decoders=_NO_TAGS, max_depth=8, allow_duplicate_keys=False, read_size=1
    )
    try:
        value = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise MalformedEvidence("is not CBOR of one value without tags", where=where) from error
    if stream.tell() != len(data):
        raise MalformedEvidence(f"has {len(data) - stream.tell()} bytes behind its end", where=where)
    return value


def _refused(*_: Any) -> NoReturn:
    raise ValueError("a tag")


class _NoTags(dict[int, Any]):
    """Answers every tag: the library would read about twenty of them by itself."""

    def __missing__(self, tag: int) -> Any:
        return _refused


_NO_TAGS = _NoTags()


def _document(value: Any, protected: bytes, payload: bytes, signature: bytes) -> Document:
    if not isinstance(value, dict):
        raise MalformedEvidence("is not a map", where="payload")
    names = [name for name in REGISTERS if name in value]
    if len(names) != 1:
        raise MalformedEvidence("must have pcrs or nitrotpm_pcrs, and not both", where="payload")
    for name in (*REQUIRED, *names):
        if name not in value:
            raise MalformedEvidence("is missing", where=name)
    unknown = [str(name)[:40] for name in value if name not in (*REQUIRED, *OPTIONAL, *names)]
    if unknown:
        raise MalformedEvidence(f"has the unknown fields {', '.join(unknown)}", where="payload")
    if not isinstance(value["module_id"], str) or not value["module_id"]:
        raise MalformedEvidence("is not text", where="module_id")
    digest = value["digest"]
    if digest not in list(DIGESTS):
        raise MalformedEvidence(f"is none of {', '.join(DIGESTS)}", where="digest")
    return Document(
        kind=REGISTERS[names[0]],
        module_id=value["module_id"],
        digest=digest,
        timestamp=_time(value["timestamp"]),
        registers=_registers(value[names[0]], DIGESTS[digest], names[0]),
        certificate=_bytes(value["certificate"], "certificate", 1, 1024),
        bundle=_bundle(value["cabundle"]),
        **{name: _optional(value.get(name), name, *sizes) for name, sizes in OPTIONAL.items()},
        protected=protected,
        payload=payload,
        signature=signature,
    )


def _time(value: Any) -> datetime:
    # Milliseconds since 1970; the year 9999 is where a calendar ends.
    if type(value) is not int or not 0 < value < 253_402_300_800_000:
        raise MalformedEvidence("is no time in milliseconds", where="timestamp")
    return EPOCH + value * MILLISECOND


def _registers(value: Any, length: int, where: str) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= 32:
        raise MalformedEvidence("is not a map of 1 to 32 registers", where=where)
    for index, register in value.items():
        if type(index) is not int or not 0 <= index < 32:
            raise MalformedEvidence(f"has a register {index!r:.40}", where=where)
        _bytes(register, f"{where}[{index}]", length, length)
    return value


def _bundle(value: Any) -> list[bytes]:
    if not isinstance(value, list) or not value:
        raise MalformedEvidence("is not a list of certificates", where="cabundle")
    return [_bytes(item, f"cabundle[{index}]", 1, 1024) for index, item in enumerate(value)]


def _optional(value: Any, where: str, least: int, most: int) -> bytes | None:
    return None if value is None else _bytes(value, where, least, most)


def _bytes(value: Any, where: str, least: int, most: int) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedEvidence("is not a byte string", where=where)
    if not least <= len(value) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise MalformedEvidence(f"has {len(value)} bytes, it must have {wanted}", where=where)
    return value
