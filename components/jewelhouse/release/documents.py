"""Native policy documents as files hold them, recognised by what is in them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Cloud

# Names that only documents of Google have.
GOOGLE = {"condition", "mapping", "attributeCondition", "attributeMapping", "oidc"}


@dataclass(frozen=True, kw_only=True)
class Document:
    """A policy document of one key service. `name` says where it came from: file, key, resource.

    AWS: a KMS key policy (`Statement`). Azure: a Key Vault release policy (`version`, `anyOf`), decoded.
    Google: `issuer`, `audiences`, `mapping`, `condition` of a workload identity provider and the `bindings`
    of the key, in the form that `release.gcp.compile` gives.
    disk: Azure: the key encrypts the disk of a confidential VM, so the platform's own token opens it.
    """

    name: str
    cloud: Cloud
    body: Mapping[str, Any]
    disk: bool = False


def read(text: str | bytes, name: str, kind: Cloud | None = None) -> Document:
    """The document in a file, of whatever cloud it is.

    Takes JSON; base64 or base64url of JSON, alone or as `data` of a Key Vault `release_policy`; and a
    workload identity provider as `gcloud iam workload-identity-pools providers describe --format json`
    prints it, with the `bindings` of the key beside its fields. `kind` says what it must be.

    Raises JewelhouseError for anything else.
    """
    body = _json(text, name)
    if not isinstance(body, dict):
        raise JewelhouseError("is not a JSON object", where=name, remedy="give a policy document as JSON")
    if set(body) >= {"contentType", "data"} or (set(body) == {"data"} and isinstance(body["data"], str)):
        body = _json(_decoded(str(body["data"]), name), name)
    found = _recognised(body) if isinstance(body, dict) else None
    if found is None or (kind is not None and found is not kind):
        raise JewelhouseError(
            f"is not a policy document of {kind}" if kind else "is no policy document that the kit knows",
            where=name,
            remedy="a KMS key policy has Statement, a Key Vault release policy version and anyOf, "
            "a Google document condition, mapping and bindings",
        )
    return Document(name=name, cloud=found, body=_normal(body) if found is Cloud.GCP else body)


def _recognised(body: Mapping[str, Any]) -> Cloud | None:
    if "Statement" in body:
        return Cloud.AWS
    # A wrong root (`allOf`) is still a release policy: lint says what is wrong with it.
    if "anyOf" in body or "allOf" in body:
        return Cloud.AZURE
    return Cloud.GCP if GOOGLE & body.keys() else None


def _normal(body: Mapping[str, Any]) -> dict[str, Any]:
    """Google's own spelling of a provider, as this kit spells it."""
    if not any(name in body for name in ("attributeCondition", "attributeMapping", "oidc")):
        return dict(body)
    oidc = body.get("oidc")
    oidc = oidc if isinstance(oidc, dict) else {}
    pool, provider, _ = str(body.get("name", "")).partition("/providers/")
    return {
        "issuer": oidc.get("issuerUri", ""),
        "audiences": oidc.get("allowedAudiences", []),
        "mapping": body.get("attributeMapping", {}),
        "condition": body.get("attributeCondition", ""),
        "bindings": body.get("bindings", []),
        # Each of these changes what is released: keys that replace the issuer's, a provider that is switched
        # off, the pool whose members the bindings may name.
        **({"jwks": oidc["jwksJson"]} if oidc.get("jwksJson") else {}),
        **{name: body[name] for name in ("disabled", "state") if name in body},
        **({"pool": pool} if provider else {}),
    }


def strict(text: str | bytes) -> Any:
    """JSON in which each member is there once and each number is one.

    A member that is there twice is read by some with its first value and by others with its last, so that a
    service could enforce another policy than the one that was judged. Raises ValueError and RecursionError.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(name for name in found if sum(other == name for other, _ in pairs) > 1)
            raise ValueError(f"{twice[:80]!r} is there twice")
        return found

    def no_number(name: str) -> Any:
        raise ValueError(f"{name} is no number")

    return json.loads(text, object_pairs_hook=once, parse_constant=no_number)


def _json(text: str | bytes, name: str) -> Any:
    try:
        return strict(text)
    except RecursionError as error:
        raise JewelhouseError("is nested too deeply", where=name) from error
    except (ValueError, UnicodeDecodeError) as error:
        raw = text.encode() if isinstance(text, str) else text
        if raw.strip()[:1] not in (b"{", b"["):
            try:
                return strict(_decoded(raw.decode("ascii"), name))
            except (JewelhouseError, ValueError, RecursionError):
                pass
        raise JewelhouseError(f"is not JSON: {error}", where=name) from error


def _decoded(text: str, name: str) -> bytes:
    """Key Vault takes base64url; Azure's templates write plain base64. Both decode here."""
    plain = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise JewelhouseError("its data is not base64", where=name) from error
