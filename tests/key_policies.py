"""Statements of KMS key policies, written short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jewelhouse.model import Cloud
from jewelhouse.release.documents import Document

A, B, C, D = (digit * 96 for digit in "abcd")
KEYS = {f"PCR{n}": f"kms:RecipientAttestation:PCR{n}" for n in (1, 2, 3, 4, 7, 8, 17)}
KEYS |= {f"TPM{n}": f"kms:RecipientAttestation:NitroTPMPCR{n}" for n in (4, 7, 11, 12, 16)}
KEYS |= {"PCR0": "kms:RecipientAttestation:ImageSha384"}
ROLE = "arn:aws:iam::444455556666:role/llm-tune"
OTHER_ROLE = "arn:aws:iam::444455556666:role/llm-serve"
ADMIN = "arn:aws:iam::111122223333:role/deployer"
OWNER_ROOT = "arn:aws:iam::111122223333:root"
ZERO = "0" * 96
OPENING = ["kms:Decrypt", "kms:ReEncryptFrom", "kms:DeriveSharedSecret", "kms:GenerateDataKey"]
OPENING += ["kms:GenerateDataKeyPair"]
Statement = dict[str, Any]


def allow(
    condition: Mapping[str, Any] | None = None, *, action: Any = "kms:Decrypt", principal: Any = ROLE
) -> Statement:
    found: Statement = {
        "Effect": "Allow",
        "Principal": principal if principal == "*" or isinstance(principal, dict) else {"AWS": principal},
        "Action": action,
        "Resource": "*",
    }
    return found | ({"Condition": condition} if condition else {})


def deny(
    condition: Mapping[str, Any] | None = None, *, action: Any = "kms:*", principal: Any = "*"
) -> Statement:
    return allow(condition, action=action, principal=principal) | {"Effect": "Deny"}


def equals(**values: Any) -> dict[str, Any]:
    return {"StringEqualsIgnoreCase": {KEYS[name]: value for name, value in values.items()}}


def differs(**values: Any) -> dict[str, Any]:
    return {"StringNotEqualsIgnoreCase": {KEYS[name]: value for name, value in values.items()}}


def null(name: str, value: Any = "true") -> dict[str, Any]:
    return {"Null": {KEYS[name]: value}}


ADMINISTRATION = allow(action=["kms:PutKeyPolicy", "kms:DescribeKey"], principal=ADMIN)
ATTESTED = allow(equals(PCR0=A, PCR1=B))
NO_GRANTS = deny(action="kms:CreateGrant")


def closing(**pins: Any) -> list[Statement]:
    """The Denies of a sound policy: one register a statement, and no grants."""
    anchor = next(iter(pins))
    return [
        deny(null(anchor), action=OPENING),
        *(deny(differs(**{name: values}), action=OPENING) for name, values in pins.items()),
        NO_GRANTS,
    ]


def sound(*extra: Statement, **pins: str) -> list[Statement]:
    """A sound policy for one image, with statements beside."""
    pins = pins or {"PCR0": A, "PCR1": B}
    return [ADMINISTRATION, allow(equals(**pins)), *closing(**pins), *extra]


def named(statements: Any, name: str = "key") -> Document:
    return Document(name=name, cloud=Cloud.AWS, body={"Version": "2012-10-17", "Statement": statements})
