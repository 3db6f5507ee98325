"""The published JSON Schema of manifests: for tools of others, kept beside the reader that decides."""

from __future__ import annotations

from typing import Any

from jewelhouse.model import ArtifactKind
from jewelhouse.weights import canonical
from jewelhouse.weights import manifest as form

_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TIME = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"}
_COUNT = {"type": "integer", "minimum": 1, "maximum": canonical.LARGEST}
_PATH = {
    "type": "string",
    "minLength": 1,
    "pattern": r"^(?!/)(?!(.*/)?\.\.?(/|$))(?!.*//)(?!.*/$)[^\u0000]+$",
    "description": "Relative, parts divided by /, no empty part, no . or .., at most 255 bytes a part.",
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the payload. What it cannot say is in docs/weights.md: canonical form,
    order, paths that meet, number of digests, versions and times."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifest of a sealed artifact",
        "description": "Payload of a DSSE v1 envelope; canonical JSON (RFC 8785).",
        **_object(
            {
                "format": {"const": form.FORMAT},
                "cipher": {
                    "const": form.CIPHER,
                    "description": "Tink's streaming AEAD of each file; its key is the DEK.",
                },
                "artifact": {"type": "string", "pattern": _anchored(form.ARTIFACT.pattern)},
                "kind": {"enum": [kind.value for kind in ArtifactKind]},
                "version": {**_COUNT, "description": "Rises with the content; each has a DEK of its own."},
                "wrapping": {**_COUNT, "description": "Rises with each change of who may open it."},
                "created": _TIME,
                "expires": _TIME,
                "producer": {"type": "string", "minLength": 1, "maxLength": form.LONGEST_PRODUCER},
                "data": {
                    "type": "string",
                    "pattern": _anchored(form.DATA.pattern),
                    "description": "Directory of the sealed files, below data/ of the store.",
                },
                "directories": {"type": "array", "items": _PATH, "description": "Those that are empty."},
                "files": {
                    "type": "array",
                    "items": _object(
                        {
                            "path": _PATH,
                            "size": {"type": "integer", "minimum": 0, "maximum": canonical.LARGEST},
                            "shards": {
                                "type": "array",
                                "items": _DIGEST,
                                "description": "SHA-256 of each 64 MiB of plaintext.",
                            },
                        }
                    ),
                },
                "keys": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": form.MOST_KEYS,
                    "items": _object(
                        {
                            "key": {"type": "string", "pattern": _anchored(form.KEY.pattern)},
                            "algorithm": {"const": form.WRAPPING},
                            "public": {**_DIGEST, "description": "SHA-256 of the SubjectPublicKeyInfo."},
                            "ciphertext": {"type": "string", "contentEncoding": "base64"},
                            "policy": {
                                "anyOf": [_DIGEST, {"type": "null"}],
                                "description": "SHA-256 of the release policy's canonical JSON.",
                            },
                        }
                    ),
                },
                "extensions": {
                    "type": "object",
                    "propertyNames": {"pattern": _anchored(form.KEY.pattern)},
                    "additionalProperties": _object(
                        {"critical": {"type": "boolean"}, "value": {"type": "string"}}
                    ),
                },
            }
        ),
    }


def _anchored(pattern: str) -> str:
    return f"^{pattern}$"
