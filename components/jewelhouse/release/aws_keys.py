"""Condition keys of KMS key policies: which registers of which Evidence they carry, and their spelling.

Sources, as of 2026-10: docs.aws.amazon.com/kms/latest/developerguide/conditions-nitro-enclave.html and
conditions-nitro-tpm.html, policy-conditions.html beside them, and
docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from jewelhouse.model import Platform

ZERO = "0" * 96
# PCR7 of every NitroTPM instance with Secure Boot off (aws/NitroTPM-Tools: nitro-tpm-pcr-compute).
SECURE_BOOT_OFF = (
    "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"
)
# PCR2 of every enclave image with one ramdisk (tkhq/qos: README), so it tells nothing on its own.
ONE_RAMDISK = (
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
)

# Register name -> condition key, for what a gate may pin. PCR0 is what KMS also calls ImageSha384.
CONDITION_KEYS: Mapping[Platform, Mapping[str, str]] = {
    Platform.AWS_ENCLAVE: {
        "PCR0": "kms:RecipientAttestation:ImageSha384",
        **{f"PCR{n}": f"kms:RecipientAttestation:PCR{n}" for n in (1, 2, 3, 4, 8)},
    },
    Platform.AWS_NITROTPM: {f"PCR{n}": f"kms:RecipientAttestation:NitroTPMPCR{n}" for n in range(24)},
}

# Condition key -> (platform, register), for everything that KMS compares.
REGISTERS: Mapping[str, tuple[Platform, str]] = {
    "kms:RecipientAttestation:ImageSha384": (Platform.AWS_ENCLAVE, "PCR0"),
    **{f"kms:RecipientAttestation:PCR{n}": (Platform.AWS_ENCLAVE, f"PCR{n}") for n in range(1, 32)},
    **{key: (Platform.AWS_NITROTPM, name) for name, key in CONDITION_KEYS[Platform.AWS_NITROTPM].items()},
}
ATTESTATION = "kms:recipientattestation"

# The calls that take a Recipient, hence the only ones whose context has these keys (API_Decrypt.html and the
# pages of the others). ReEncrypt, Encrypt, Sign and CreateGrant have none (aws-nitro-enclaves-sdk-c#127).
RECIPIENT_ACTIONS = (
    "kms:Decrypt",
    "kms:DeriveSharedSecret",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateRandom",
)

# Every request has these, so `IfExists` and an absent key make no difference to them.
ALWAYS_THERE = frozenset({"aws:CurrentTime", "aws:EpochTime", "aws:SecureTransport", "kms:CallerAccount"})

# Keys of a request from outside KMS's own; each says in its name what it binds to.
CLOSING = frozenset(
    {
        "aws:PrincipalAccount",
        "aws:PrincipalArn",
        "aws:PrincipalOrgID",
        "aws:PrincipalOrgPaths",
        "aws:SourceVpc",
        "aws:SourceVpce",
        "aws:SourceVpcArn",
        "kms:CallerAccount",
    }
)
NETWORK = frozenset(
    {"aws:SourceIp", "aws:SourceVpc", "aws:SourceVpcArn", "aws:SourceVpce", "aws:VpcSourceIp"}
)
_OTHERS = (
    "aws:CalledVia",
    "aws:CalledViaFirst",
    "aws:CalledViaLast",
    "aws:MultiFactorAuthAge",
    "aws:MultiFactorAuthPresent",
    "aws:PrincipalIsAWSService",
    "aws:PrincipalServiceName",
    "aws:PrincipalType",
    "aws:ResourceAccount",
    "aws:ResourceOrgID",
    "aws:SourceAccount",
    "aws:SourceArn",
    "aws:SourceOrgID",
    "aws:ViaAWSService",
    "aws:userid",
    "aws:username",
    "kms:BypassPolicyLockoutSafetyCheck",
    "kms:EncryptionAlgorithm",
    "kms:EncryptionContextKeys",
    "kms:GrantConstraintType",
    "kms:GrantIsForAWSResource",
    "kms:GrantOperations",
    "kms:GranteePrincipal",
    "kms:KeyOrigin",
    "kms:KeySpec",
    "kms:KeyUsage",
    "kms:MultiRegion",
    "kms:ReEncryptOnSameKey",
    "kms:RequestAlias",
    "kms:ResourceAliases",
    "kms:RetiringPrincipal",
    "kms:ScheduleKeyDeletionPendingWindowInDays",
    "kms:ViaService",
)
_SPELLING = {key.lower(): key for key in (*REGISTERS, *ALWAYS_THERE, *CLOSING, *NETWORK, *_OTHERS)}
# Two names for the digest of the whole image.
_SPELLING["kms:recipientattestation:pcr0"] = "kms:RecipientAttestation:ImageSha384"
_PREFIXES = {
    "kms:encryptioncontext:": "kms:EncryptionContext:",
    "aws:principaltag/": "aws:PrincipalTag/",
    "aws:requesttag/": "aws:RequestTag/",
    "aws:resourcetag/": "aws:ResourceTag/",
}


def canonical(key: str) -> str:
    """A condition key in its documented spelling: IAM compares their names without regard to case."""
    lower = key.lower()
    if lower in _SPELLING:
        return _SPELLING[lower]
    prefix = next((prefix for prefix in _PREFIXES if lower.startswith(prefix)), None)
    return _PREFIXES[prefix] + key[len(prefix) :].lower() if prefix else lower


def is_attestation(key: str) -> bool:
    """Whether a key belongs to the Evidence of a request, also one that KMS does not know."""
    return key.lower() == ATTESTATION or key.lower().startswith(f"{ATTESTATION}:")


def is_digest(value: str) -> bool:
    """Whether KMS could show this value for a register: SHA-384 in lower-case hex."""
    return re.fullmatch(r"[0-9a-f]{96}", value) is not None
