"""Openings and powers in words that a reviewer knows: stages, images, accounts, what is no longer proven."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from jewelhouse.model import Cloud, Proof
from jewelhouse.release.facts import Opening, Power
from jewelhouse.release.snapshots import KeyView, Snapshot

ACCOUNT = "assertion.google_service_accounts (has)"
PROJECT = "assertion.submods.gce.project_id"
NUMBER = "assertion.submods.gce.project_number"
NESTED = "x-ms-isolation-tee."
TOKEN = "assertion."
# Condition keys of KMS for registers; PCR0 of an enclave has a name of its own.
# docs.aws.amazon.com/kms/latest/developerguide/conditions-nitro-enclave.html, conditions-nitro-tpm.html
REGISTER = re.compile(r"kms:RecipientAttestation:(?:NitroTPM)?(PCR\d+|ImageSha384)", re.IGNORECASE)
# What names the code, beside registers.
MEASURED: Mapping[str, str] = {
    "x-ms-sevsnpvm-hostdata": "hostdata",
    "assertion.submods.container.image_digest": "digest",
}
# What a claim requires in words, and what it proves. Claims of Key Vault: MicrosoftDocs/azure-docs
# articles/confidential-computing/skr-policy-examples.md; of Google: docs.cloud.google.com,
# confidential-computing/confidential-space/docs/reference/token-claims; 2026.
REQUIRED: Mapping[str, tuple[str, Proof]] = {
    "authority": ("the attestation endpoint", Proof.GENUINE),
    "x-ms-attestation-type": ("the kind of TEE", Proof.GENUINE),
    "x-ms-compliance-status": ("compliance with Azure's baseline", Proof.GENUINE),
    "x-ms-sevsnpvm-is-debuggable": ("debug off", Proof.DEBUG_OFF),
    "x-ms-sevsnpvm-hostdata": ("the measured container policy", Proof.IMAGE),
    "x-ms-sevsnpvm-vmpl": ("the privilege level", Proof.CONFIG),
    "x-ms-policy-hash": ("the policy of the attestation provider", Proof.GENUINE),
    "secureboot": ("Secure Boot", Proof.CONFIG),
    "assertion.iss": ("the issuer", Proof.GENUINE),
    "assertion.aud": ("the audience", Proof.IDENTITY),
    "assertion.hwmodel": ("the hardware", Proof.GENUINE),
    "assertion.swname": ("the kind of image", Proof.IMAGE),
    "assertion.secboot": ("Secure Boot", Proof.CONFIG),
    "assertion.dbgstat": ("debug off", Proof.DEBUG_OFF),
    "assertion.submods.confidential_space.support_attributes (has)": (
        "a supported production image of Confidential Space",
        Proof.DEBUG_OFF,
    ),
    "assertion.submods.container.image_digest": ("the image", Proof.IMAGE),
    "assertion.submods.container.cmd_override (empty)": ("the image's own arguments", Proof.CONFIG),
    "assertion.submods.container.env_override (empty)": ("the image's own environment", Proof.CONFIG),
    PROJECT: ("the operator's project", Proof.IDENTITY),
    NUMBER: ("the operator's project number", Proof.IDENTITY),
    ACCOUNT: ("the stage's service account", Proof.IDENTITY),
    "assertion.submods.nvidia_gpu.cc_mode": ("confidential mode of the GPU", Proof.GPU),
}
# What a right leads to: docs.aws.amazon.com/kms/latest/developerguide/kms-api-permissions-reference.html
LEADS: Mapping[str, str] = {
    "kms:CreateGrant": "hand out grants, which carry no attestation",
    "kms:DeleteImportedKeyMaterial": "delete the key's material",
    "kms:DisableKey": "disable the key",
    "kms:ImportKeyMaterial": "import material that it knows",
    "kms:PutKeyPolicy": "change the key policy",
    "kms:ReEncryptFrom": "wrap the data key to another key",
    "kms:ReplicateKey": "replicate the key, with another policy",
    "kms:ScheduleKeyDeletion": "delete the key",
    "kms:UpdatePrimaryRegion": "move the primary key",
}


def who(opening: Opening, key: KeyView, snapshot: Snapshot) -> str:
    """Who asks by an opening: the stage behind the role or service account, else the name itself."""
    if opening.principal is not None:
        return principal(opening.principal, snapshot)
    account = opening.claims.get(ACCOUNT)
    if account is not None:
        stage = snapshot.identities.get(account)
        return f"stage {stage} ({account})" if stage else f"service account {account}"
    if key.cloud is Cloud.GCP:
        where = opening.claims.get(PROJECT)
        return f"any service account of project {where}" if where else "any service account of any project"
    stages = sorted(key.askers)
    return f"stage {' or '.join(stages)}" if stages else "whoever has the release role"


def principal(name: str, snapshot: Snapshot) -> str:
    """A principal of AWS or Google by what it is."""
    if name == "*":
        return "anyone"
    arn = re.fullmatch(r"arn:aws[a-z-]*:(?:iam|sts)::(\d+):(root|.+)", name)
    stage = snapshot.identities.get(name)
    if arn and arn[2] == "root":
        return f"whoever account {arn[1]} lets"
    if arn:
        named = f"{arn[2].replace('/', ' ', 1)} of account {arn[1]}"
        return f"stage {stage} ({named})" if stage else named
    return name.replace(":", " ", 1) if re.match(r"(user|group|serviceAccount|domain):", name) else name


def measured(opening: Opening, snapshot: Snapshot, *, whole: bool = False) -> str:
    """The image that an opening names, with the first digits of what is compared; empty for none.

    PCR0 of an enclave is its image: the registers that are parts of it are only told for `whole`.
    """
    found = sorted(
        ((label, value) for path, value in opening.claims.items() if value and (label := register(path))),
        key=lambda one: (one[0] != "PCR0", one[0]),
    )
    if not found:
        return ""
    if found[0][0] == "PCR0" and not whole:
        found = found[:1]
    names = dict.fromkeys(snapshot.images[value] for _, value in found if value in snapshot.images)
    values = ", ".join(f"{label} {short(value)}" for label, value in found)
    return f"image {' or '.join(names)} ({values})" if names else f"an image that nothing names ({values})"


def register(path: str) -> str | None:
    """The name of the measurement that a claim path compares, or None when it is none."""
    found = REGISTER.fullmatch(path)
    if found:
        return "PCR0" if found[1].lower() == "imagesha384" else found[1].upper()
    return MEASURED.get(path.removeprefix(NESTED))


def short(value: str) -> str:
    """Enough of a digest to tell it from others."""
    plain = value.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{20,}", plain):
        return value
    return "all zeros" if set(plain) == {"0"} else f"{plain[:12]}…"


def requirement(path: str, value: str | None) -> tuple[str, Proof | None]:
    """What a claim requires, in words, and what it proves if that is known."""
    if register(path):
        return f"the measured image ({register(path)})", Proof.IMAGE
    if path.startswith("assertion.submods.nvidia_gpu.gpus"):
        return "the GPU's model", Proof.GPU
    found = REQUIRED.get(path) or REQUIRED.get(path.removeprefix(NESTED))
    asked = path if value is None or value == "true" else f"{path} = {short(value)}"
    if found is None:
        return asked, None
    return f"{found[0]} ({asked})", found[1]


def until(moment: datetime | None) -> str:
    return "without an end" if moment is None else f"until {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def opened(opening: Opening, key: KeyView, snapshot: Snapshot) -> str:
    """A whole opening: who, with which image or evidence, until when."""
    image = measured(opening, snapshot)
    if image:
        shown = f"with {image}"
    elif opening.claims:
        shown = "with any image"
    else:
        shown = "with any evidence or none"
    end = f", {until(opening.until)}" if opening.until else ""
    return f"{who(opening, key, snapshot)} {shown}{end}"


def less(before: Opening, after: Opening) -> Iterator[str]:
    """What `after` no longer asks for, or asks for otherwise, beside image and person."""
    for path, value in before.claims.items():
        if register(path) and path in after.claims:
            continue
        words, proof = requirement(path, value)
        if path not in after.claims:
            lost = f", so {proof} is no longer proven" if proof else ""
            yield f"no longer requires {words}{lost}"
        elif after.claims[path] != value:
            now = after.claims[path]
            yield f"requires {words} no longer, but {'any value' if now is None else short(now)}"


def may(power: Power, snapshot: Snapshot) -> str:
    """A power in words: who may do what, and what it leads to."""
    action, _, condition = power.what.partition(" if ")
    lead = LEADS.get(action)
    said = f"{lead} ({action})" if lead else action
    return f"{principal(power.principal, snapshot)} may {said}" + (f" if {condition}" if condition else "")
