"""A Key Vault release policy as its lint rules read it: alternative by alternative, with what each pins.

Claim names and values: MicrosoftDocs/azure-security-docs articles/attestation/claim-sets.md,
attestation-token-examples.md and trust-domain-extensions-eat-profile.md; the tokens in the READMEs of
Azure/confidential-computing-cvm-guest-attestation and Azure-Samples/microsoft-azure-attestation; 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from jewelhouse.release import azure_grammar
from jewelhouse.release.azure_facts import Term, TooMany, terms
from jewelhouse.release.azure_grammar import Condition, Entry
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.rules import Hit

NESTED = "x-ms-isolation-tee."
TYPE = "x-ms-attestation-type"
COMPLIANCE = "x-ms-compliance-status"
CVM, UVM = "azure-compliant-cvm", "azure-compliant-uvm"
HOSTDATA = "x-ms-sevsnpvm-hostdata"
VMPL = "x-ms-sevsnpvm-vmpl"
LAUNCH = "x-ms-sevsnpvm-launchmeasurement"
SNP_DEBUG = "x-ms-sevsnpvm-is-debuggable"
TDX_DEBUG = "tdx_td_attributes_debug"
SGX_DEBUG = "x-ms-sgx-is-debuggable"
POLICY_HASH = "x-ms-policy-hash"
POLICY_SIGNER = "x-ms-policy-signer"
GUEST = "azurevm"
SNP, TDX, SGX = "sevsnpvm", "tdxvm", "sgx"

# What the boot chain of a VM says, on top of guest tokens, where it keeps debuggers and unsigned code out.
BOOT_CHAIN: Mapping[str, str] = {
    "secureboot": "true",
    "x-ms-azurevm-bootdebug-enabled": "false",
    "x-ms-azurevm-dbvalidated": "true",
    "x-ms-azurevm-dbxvalidated": "true",
    "x-ms-azurevm-debuggersdisabled": "true",
    "x-ms-azurevm-default-securebootkeysvalidated": "true",
    "x-ms-azurevm-flightsigning-enabled": "false",
    "x-ms-azurevm-hypervisordebug-enabled": "false",
    "x-ms-azurevm-kerneldebug-enabled": "false",
    "x-ms-azurevm-signingdisabled": "true",
    "x-ms-azurevm-testsigning-enabled": "false",
}
# The value that a pin of these must have: any other asks for the weakness.
SAFE: Mapping[str, str] = {
    **BOOT_CHAIN,
    SNP_DEBUG: "false",
    "x-ms-sevsnpvm-migration-allowed": "false",
    VMPL: "0",
    TDX_DEBUG: "false",
    "dbgstat": "disabled",
    SGX_DEBUG: "false",
}
_SNP_NAMES = (
    "authorkeydigest bootloader-svn familyId guestsvn hostdata idkeydigest imageId is-debuggable "
    "launchmeasurement microcode-svn migration-allowed reportdata reportid smt-allowed snpfw-svn tee-svn vmpl"
)
_TDX_NAMES = (
    "mrconfigid mrowner mrownerconfig mrseam mrsignerseam mrtd report_data rtmr0 rtmr1 rtmr2 rtmr3 "
    "seam_attributes seamsvn td_attributes td_attributes_debug td_attributes_key_locker "
    "td_attributes_perfmon td_attributes_protection_keys td_attributes_septve_disable tee_tcb_svn xfam"
)
_VM_NAMES = (
    "attestation-protocol-ver attested-pcrs elam-enabled hvci-policy is-windows osbuild osdistro ostype "
    "osversion-major osversion-minor vmid"
)
SNP_CLAIMS = frozenset(f"x-ms-sevsnpvm-{name}" for name in _SNP_NAMES.split())
TDX_CLAIMS = frozenset(
    (
        *(f"tdx_{name}" for name in _TDX_NAMES.split()),
        "dbgstat",
        "attester_tcb_status",
        "eat_profile",
        "intuse",
    )
)
VM_CLAIMS = frozenset((*BOOT_CHAIN, *(f"x-ms-azurevm-{name}" for name in _VM_NAMES.split())))
# These are another value in every token, or in every run of a VM.
FLEETING = frozenset(
    ("exp", "iat", "jti", "nbf", "nonce", "x-ms-sevsnpvm-reportdata", "x-ms-sevsnpvm-reportid")
) | {"tdx_report_data"}
COMMON = frozenset((TYPE, POLICY_HASH, POLICY_SIGNER, "x-ms-ver", "iss", *FLEETING))
ARRAYS = ("x-ms-azurevm-attested-pcrs", "x-ms-runtime.keys", f"{NESTED}x-ms-runtime.keys")
OBJECTS = ("x-ms-isolation-tee", "x-ms-runtime", f"{NESTED}x-ms-runtime", POLICY_SIGNER)

# The values that attestation issues, where they are a closed set.
VALUES: Mapping[str, frozenset[str]] = {
    TYPE: frozenset((GUEST, SNP, TDX, SGX)),
    f"{NESTED}{TYPE}": frozenset((SNP, TDX)),
    COMPLIANCE: frozenset((CVM, UVM)),
    f"{NESTED}{COMPLIANCE}": frozenset((CVM,)),
    **{
        f"{prefix}{name}": frozenset(("true", "false"))
        for name, safe in SAFE.items()
        if safe in ("true", "false")
        for prefix in (("",) if name in VM_CLAIMS else ("", NESTED))
    },
    **{f"{prefix}{VMPL}": frozenset("0123") for prefix in ("", NESTED)},
}


class Shape(StrEnum):
    """Which tokens an alternative can be met by."""

    GUEST = "guest"
    PLATFORM = "platform"
    SGX = "sgx"
    MIXED = "mixed"
    ANY = "any"


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One way through the document. pins: claim -> text, of its `equals` alone."""

    where: str
    entry: Entry
    term: Term
    pins: Mapping[str, str]
    shape: Shape

    def pinned(self, claim: str) -> str | None:
        """The value of a claim of the TEE, wherever this shape has it."""
        return self.pins.get(f"{NESTED}{claim}") or self.pins.get(claim)

    @property
    def tee(self) -> str | None:
        """The TEE that the alternative names, or whose claims it pins."""
        found = self.pinned(TYPE) if self.shape is not Shape.GUEST else self.pins.get(f"{NESTED}{TYPE}")
        if found not in (None, GUEST):
            return found
        families = self.families
        return next(iter(families)) if len(families) == 1 else None

    @property
    def families(self) -> frozenset[str]:
        """The TEEs whose claims stand in the alternative."""
        found = set()
        for condition in self.term:
            name = plain(condition.claim)
            if name in SNP_CLAIMS or name.startswith("x-ms-sevsnpvm-"):
                found.add(SNP)
            elif name.startswith("tdx_") or name in TDX_CLAIMS:
                found.add(TDX)
            elif name.startswith("x-ms-sgx-"):
                found.add(SGX)
            elif name == TYPE and condition.operator == "equals" and condition.text in (SNP, TDX, SGX):
                found.add(condition.text)
        return frozenset(found)

    @property
    def container(self) -> bool:
        """Whether it is met by confidential containers."""
        flat = self.shape is Shape.PLATFORM
        return flat and (self.pins.get(COMPLIANCE) == UVM or HOSTDATA in self.pins)


def plain(claim: str) -> str:
    """A claim's own name, without the object of the TEE."""
    return claim.removeprefix(NESTED)


def alternatives(document: Document) -> tuple[Alternative, ...]:
    """Every alternative of every authority; those of an authority with too many are left out."""
    found = []
    for entry in azure_grammar.read(document.body).entries:
        try:
            expanded = terms(entry)
        except TooMany:
            continue
        everywhere = (
            set.intersection(*({one.where for one in term} for term in expanded)) if expanded else set()
        )
        for term in expanded:
            own = next((one.where for one in term if one.where not in everywhere), entry.where)
            found.append(
                Alternative(
                    where=own,
                    entry=entry,
                    term=term,
                    pins={one.claim: one.text for one in term if one.operator == "equals"},
                    shape=_shape(term),
                )
            )
    return tuple(found)


def all_conditions(document: Document) -> Iterator[Condition]:
    for entry in azure_grammar.read(document.body).entries:
        yield from azure_grammar.conditions(entry.body)


def _shape(term: Term) -> Shape:
    shapes = {shape for one in term if (shape := _shape_of(one)) is not None}
    if len(shapes) > 1:
        return Shape.MIXED
    return next(iter(shapes), Shape.ANY)


def _shape_of(condition: Condition) -> Shape | None:
    claim = condition.claim
    if claim.startswith(NESTED) or claim in VM_CLAIMS or claim.startswith("x-ms-azurevm-"):
        return Shape.GUEST
    if claim.startswith("x-ms-sgx-"):
        return Shape.SGX
    if claim == TYPE and condition.operator == "equals":
        return {GUEST: Shape.GUEST, SNP: Shape.PLATFORM, TDX: Shape.PLATFORM, SGX: Shape.SGX}.get(
            condition.text
        )
    if claim == COMPLIANCE or claim in TDX_CLAIMS or claim.startswith(("x-ms-sevsnpvm-", "tdx_")):
        return Shape.PLATFORM
    return None


def merged(hits: Iterable[Hit]) -> Iterator[Hit]:
    """One hit for what is found in the same words at many places: policies repeat themselves by authority."""
    places: dict[str, list[Hit]] = {}
    for hit in hits:
        places.setdefault(hit.what, []).append(hit)
    for what, found in places.items():
        wheres = list(dict.fromkeys(hit.where for hit in found))
        more = f", and so at {len(wheres) - 1} more places" if len(wheres) > 1 else ""
        shown = next((hit.counterexample for hit in found if hit.counterexample), None)
        yield Hit(where=wheres[0], what=f"{what}{more}", counterexample=shown)
