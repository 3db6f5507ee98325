"""Who built an image from what: a signed in-toto statement with SLSA provenance, beside the image.

in-toto.io/Statement/v1, slsa.dev/provenance/v1, in a DSSE envelope (github.com/secure-systems-lab/dsse), signed
by a local key: Ed25519, or ECDSA as sigstore/model-signing's key method makes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jewelhouse import __version__
from jewelhouse.errors import JewelhouseError
from jewelhouse.images.recipe import Recipe
from jewelhouse.model import Platform
from jewelhouse.release.documents import strict

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://jewelhouse.dev/image/v1"
BUILDER = f"https://jewelhouse.dev/image/build@{__version__}"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
LARGEST = 4 * 1024 * 1024


class BadProvenance(JewelhouseError):
    """Provenance that nobody should rely on: malformed, not signed by a pinned key, or of another image."""


def statement(
    recipe: Recipe,
    platform: Platform,
    *,
    file: str,
    digest: str,
    measurements: Mapping[str, str],
    inputs: Mapping[str, Mapping[str, str]],
) -> bytes:
    """The statement in JSON. `digest`: `sha256:…` of the image `file`; `inputs` as in a lock file."""
    began = datetime.fromtimestamp(recipe.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {
        "_type": STATEMENT,
        "subject": [{"name": file, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": {"name": recipe.name, "digest": recipe.digest},
                    "platform": platform.value,
                    "epoch": began,
                },
                "internalParameters": {"tools": dict(inputs.get("tools", {}))},
                "resolvedDependencies": list(_dependencies(inputs)),
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                "byproducts": [
                    {"name": name, "annotations": {"value": value}}
                    for name, value in sorted(measurements.items())
                ],
            },
        },
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _dependencies(inputs: Mapping[str, Mapping[str, str]]) -> Iterable[dict[str, Any]]:
    for kind, values in sorted(inputs.items()):
        for name, said in sorted(values.items()):
            version, _, digest = said.rpartition("sha256:")
            if digest and kind != "tools":
                entry: dict[str, Any] = {"name": f"{kind}/{name}", "digest": {"sha256": digest}}
                if version.strip():
                    entry["annotations"] = {"version": version.strip()}
                yield entry


def sign(payload: bytes, key: Path, password: bytes | None = None) -> bytes:
    """The statement in an envelope, signed by the private key (PEM) in a file.

    Raises JewelhouseError for files that hold no key for signing.
    """
    from jewelhouse.weights import signing

    return signing.sign(payload, [signing.private_key(key, password)], PAYLOAD_TYPE)


def verify(envelope: bytes, signers: Sequence[str], *, digest: str) -> dict[str, Any]:
    """The statement in an envelope that one of `signers` (PEM) signed about the image of this digest.

    Raises BadProvenance.
    """
    from jewelhouse.weights import signing

    if len(envelope) > LARGEST:
        raise BadProvenance(f"has more than {LARGEST} bytes", where="provenance")
    try:
        keys = [signing.public_key(pem, "signer") for pem in signers]
        payload, _ = signing.verified(envelope, keys, 1, "provenance", PAYLOAD_TYPE)
        body = strict(payload.decode("utf-8"))
    except (signing.MalformedManifest, signing.Untrusted) as error:
        raise BadProvenance(error.what, where=error.where, remedy=error.remedy) from error
    except (ValueError, RecursionError) as error:
        raise BadProvenance(f"is not JSON: {error}", where="provenance") from error
    if not isinstance(body, dict) or body.get("_type") != STATEMENT or body.get("predicateType") != PREDICATE:
        raise BadProvenance("is no SLSA provenance", where="provenance")
    wanted = digest.removeprefix("sha256:")
    subjects = body.get("subject")
    named = [
        one["digest"].get("sha256")
        for one in (subjects if isinstance(subjects, list) else [])
        if isinstance(one, dict) and isinstance(one.get("digest"), dict)
    ]
    if named != [wanted]:
        raise BadProvenance(
            f"is about {', '.join(map(str, named)) or 'nothing'}, not about {digest}",
            where="provenance: subject",
        )
    return body
