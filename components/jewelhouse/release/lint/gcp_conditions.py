"""What lint looks for in the expressions, mapping and bindings of a Google document as they are written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from jewelhouse.release import cel
from jewelhouse.release.cel import Call, Choice, Compare, Has, Items, Literal, Macro, Many, Node, Not
from jewelhouse.release.documents import Document
from jewelhouse.release.gcp import AUDIENCE, ISSUER
from jewelhouse.release.gcp_facts import (
    ATTRIBUTE,
    DECRYPTING,
    LIMITS,
    OTHER_ROLES,
    asked,
    issuer_of,
    timestamp,
)
from jewelhouse.release.lint.gcp_reading import (
    CLAIMS,
    GPU,
    OPEN_CLAIMS,
    SUPPORT,
    compared,
    nodes,
    optional,
    paths,
    reading,
)
from jewelhouse.release.lint.hostile_gcp import counterexample
from jewelhouse.release.lint.rules import Hit

TRUST_AUTHORITY = "https://portal.trustauthority.intel.com"
# Closed sets of values (token claims reference, 2026-04): a comparison with anything else never holds.
VALUES = {
    "assertion.swname": ("CONFIDENTIAL_SPACE", "GCE"),
    "assertion.dbgstat": ("disabled-since-boot", "enabled"),
    "assertion.hwmodel": ("GCP_AMD_SEV", "GCP_AMD_SEV_ES", "GCP_INTEL_TDX", "GCP_SHIELDED_VM"),
    "assertion.submods.nvidia_gpu.cc_mode": ("ON", "OFF", "DEVTOOLS"),
    "assertion.submods.nvidia_gpu.cc_feature": ("SPT",),
    "assertion.submods.container.restart_policy": ("Never", "Always", "OnFailure"),
    SUPPORT: ("LATEST", "STABLE", "USABLE", "EXPERIMENTAL"),
}
ADMINISTERS = ("roles/owner", "roles/cloudkms.admin", "roles/iam.securityAdmin")
NEEDED_ROLE = "roles/cloudkms.cryptoKeyDecrypter"
EVERYBODY = ("allUsers", "allAuthenticatedUsers")


def types(document: Document) -> Iterator[Hit]:
    for what in reading(document).parts.strange:
        where, _, why = what.partition(": ")
        yield Hit(where=where, what=why)


def no_condition(document: Document) -> Iterator[Hit]:
    if not reading(document).parts.condition.strip():
        shown = counterexample(document, "the debug image", "another project", "another image")
        yield Hit(where="condition", what="the provider has none", counterexample=shown)


def unreadable(document: Document) -> Iterator[Hit]:
    for where, why in reading(document).parts.unread.items():
        yield Hit(where=where, what=why)
    for binding in reading(document).parts.bindings:
        try:
            if binding.condition:
                cel.parse(binding.condition)
        except cel.CelError as error:
            yield Hit(where=f"{binding.where}.condition", what=str(error))


def too_long(document: Document) -> Iterator[Hit]:
    parts = reading(document).parts
    sized = [("condition", parts.condition, LIMITS["condition"])]
    sized += [(f"mapping.{name}", text, LIMITS["mapping"]) for name, text in parts.mapping.items()]
    for where, text, limit in sized:
        if len(text) > limit:
            yield Hit(where=where, what=f"has {len(text)} characters, Google takes {limit}")
    if len(parts.mapping) > LIMITS["attributes"]:
        yield Hit(where="mapping", what=f"has {len(parts.mapping)} attributes, Google takes 50")


def undeclared(document: Document) -> Iterator[Hit]:
    for where, tree in reading(document).parts.trees.items():
        known = {"assertion", "google", "attribute"} if where == "condition" else {"assertion"}
        for name in sorted(cel.free_names(tree) - known):
            close = difflib.get_close_matches(name, known, 1)
            yield Hit(where=where, what=f"{name} is not declared" + (f": {close[0]}?" if close else ""))


def not_boolean(document: Document) -> Iterator[Hit]:
    tree = reading(document).condition
    kind = None if tree is None else _kind(tree)
    if kind is not None:
        yield Hit(where="condition", what=f"is {kind}, and no yes or no")


def _kind(node: Node) -> str | None:
    """What an expression certainly is where that is no boolean; None where it is one or may be."""
    match node:
        case Literal(bool()):
            return None
        case Literal(str()):
            return "a text"
        case Literal():
            return "a number"
        case Items() | Macro("map" | "filter", _, _, _):
            return "a list"
        case Call("size" | "int", _, _):
            return "a number"
        case Call("string" | "extract", _, _) | Many("+", _):
            return "a text"
        case Choice(_, yes, no):
            return _kind(yes) or _kind(no)
        case _:
            path = cel.path(node)
            kind = CLAIMS.get(path.removeprefix("assertion.")) if path else None
            return f"a claim that is {kind}" if kind and kind != "true or false" else None


def unknown_claim(document: Document) -> Iterator[Hit]:
    for where, tree in reading(document).parts.trees.items():
        for path in sorted(set(paths(tree))):
            name = path.removeprefix("assertion.")
            if not path.startswith("assertion.") or name in CLAIMS:
                continue
            if any(name.startswith(f"{one}.") for one in OPEN_CLAIMS):
                continue
            close = difflib.get_close_matches(name, CLAIMS, 1, 0.8)
            yield Hit(
                where=where, what=f"tokens have no {name}" + (f": {close[0]} is meant?" if close else "")
            )


def impossible_value(document: Document) -> Iterator[Hit]:
    for where, path, literal, operator in compared(reading(document)):
        known = VALUES.get(path)
        if known and isinstance(literal.value, str) and operator in ("==", "!=", "in"):
            if literal.value in known:
                continue
            close = difflib.get_close_matches(literal.value, known, 1, 0.5)
            what = f"no token has {path.removeprefix('assertion.')} {literal.value!r}"
            yield Hit(where=where, what=f"{what}; it says {close[0] if close else ' or '.join(known)}")


def wrong_type(document: Document) -> Iterator[Hit]:
    for where, path, literal, operator in compared(reading(document)):
        kind = CLAIMS.get(path.removeprefix("assertion."))
        if kind is None or literal.value is None:
            continue
        given = {str: "text", bool: "true or false", int: "number", float: "number"}[type(literal.value)]
        name = path.removeprefix("assertion.")
        if operator == "in":
            if kind in ("text", "number", "true or false"):
                yield Hit(where=where, what=f"{name} is {kind}, nothing is in it")
        elif given not in kind:
            yield Hit(where=where, what=f"{name} is {kind}, and is compared with {cel.show(literal)}")


def size_of_absent(document: Document) -> Iterator[Hit]:
    read = reading(document)
    for where, opening in read.all():
        for path in opening.claims:
            found = re.fullmatch(r"size\((assertion[\w.]+)\) \(number\)", path, re.ASCII)
            if found and optional(found[1]) and opening.claims[path] == "0":
                yield Hit(where=where, what=f"{found[1]} is absent when empty, and size() then fails")


def absent_decides(document: Document) -> Iterator[Hit]:
    """A claim that tokens may lack inside a negation, or as the test of a choice."""
    for where, node in nodes(reading(document)):
        if isinstance(node, Not) and not isinstance(node.operand, Has):
            read, what = paths(node.operand), "negated"
        elif isinstance(node, Choice):
            read, what = paths(node.test), "the test of a choice"
        else:
            continue
        guarded = {
            cel.path(cel.Select(one.operand, one.field)) for one in cel.walk(node) if isinstance(one, Has)
        }
        for path in sorted(set(read) - guarded):
            if optional(path):
                yield Hit(where=where, what=f"{path} is {what}, and tokens may lack it")


def no_subject(document: Document) -> Iterator[Hit]:
    mapping = reading(document).parts.mapping
    if "google.subject" not in mapping:
        yield Hit(where="mapping", what="google.subject is not mapped, so no token is ever exchanged")
    for name in sorted(mapping):
        if not ATTRIBUTE.fullmatch(name) or len(name) > LIMITS["name"]:
            yield Hit(where=f"mapping.{name}", what="is no attribute that Google takes")


def long_subject(document: Document) -> Iterator[Hit]:
    tree = reading(document).parts.trees.get("mapping.google.subject")
    if tree is not None and "assertion.sub" in set(paths(tree)):
        yield Hit(where="mapping.google.subject", what="assertion.sub can pass 127 bytes")


def mapped_list(document: Document) -> Iterator[Hit]:
    for where, tree in reading(document).parts.trees.items():
        if not where.startswith("mapping.") or where == "mapping.google.groups":
            continue
        path = cel.path(tree)
        kind = CLAIMS.get((path or "").removeprefix("assertion."), "text")
        signatures = any(one.endswith(".image_signatures") for one in paths(tree))
        if signatures or isinstance(tree, Macro) or ("text" not in kind and path):
            what = "signatures" if signatures else kind if path else "a list"
            yield Hit(where=where, what=f"maps {what}, and an attribute is one text")


def mapped_optional(document: Document) -> Iterator[Hit]:
    for where, tree in reading(document).parts.trees.items():
        if where.startswith("mapping."):
            for path in sorted({one for one in paths(tree) if optional(one)}):
                if not any(isinstance(one, Has) for one in cel.walk(tree)):
                    yield Hit(where=where, what=f"{path} is absent from some tokens, and the exchange fails")


def unanchored(document: Document) -> Iterator[Hit]:
    for where, node in nodes(reading(document)):
        if isinstance(node, Call) and node.name == "matches" and node.target is not None:
            pattern = node.arguments[0]
            text = pattern.value if isinstance(pattern, Literal) and isinstance(pattern.value, str) else ""
            if not (text.startswith("^") and text.endswith("$")) or "|" in re.sub(r"\(.*?\)", "", text):
                yield Hit(where=where, what=f"{cel.show(node)} holds for any part of the claim")
        elif isinstance(node, Call) and node.name == "contains":
            yield Hit(where=where, what=f"{cel.show(node)} holds for any part of the claim")


def open_prefix(document: Document) -> Iterator[Hit]:
    for where, node in nodes(reading(document)):
        if isinstance(node, Call) and node.name in ("startsWith", "endsWith"):
            text = node.arguments[0]
            value = text.value if isinstance(text, Literal) and isinstance(text.value, str) else ""
            edge = value[-1:] if node.name == "startsWith" else value[:1]
            if edge not in ("/", "@", ":"):
                yield Hit(where=where, what=f"{cel.show(node)} also holds for names that go on")


def issuer(document: Document) -> Iterator[Hit]:
    found = issuer_of(reading(document).parts.issuer)
    if found not in (issuer_of(ISSUER), TRUST_AUTHORITY):
        yield Hit(where="issuer", what=f"{found or 'nothing'} is not Google Cloud Attestation")


def trust_authority(document: Document) -> Iterator[Hit]:
    if issuer_of(reading(document).parts.issuer) == TRUST_AUTHORITY:
        yield Hit(where="issuer", what="Intel Trust Authority judges the evidence, TDX only")


def uploaded_keys(document: Document) -> Iterator[Hit]:
    if reading(document).parts.keys:
        yield Hit(where="jwks", what="tokens are verified with keys that somebody uploaded")


def audience(document: Document) -> Iterator[Hit]:
    audiences = reading(document).parts.audiences
    if not audiences:
        yield Hit(where="audiences", what="none is listed, so it is the provider's own name")
    for one in audiences:
        if one != AUDIENCE:
            yield Hit(where="audiences", what=f"{one} is not the audience of the launcher's token")


def everybody(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        for one in binding.members:
            if one.text in EVERYBODY:
                shown = counterexample(document, "no token", "no token, any Google account")
                yield Hit(where=binding.where, what=f"{one.text} has {binding.role}", counterexample=shown)


def without_token(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        for one in binding.members:
            named = not one.rest and one.text not in EVERYBODY and _is_member(one.text)
            if named and binding.role in DECRYPTING:
                yield Hit(where=binding.where, what=f"{one.text} decrypts without any evidence")


def _is_member(text: str) -> bool:
    return not text.startswith(("principal:", "principalSet:", "attribute.")) and ":" in text


def malformed_member(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        for one in binding.members:
            if not one.rest and one.text not in EVERYBODY and not _is_member(one.text):
                yield Hit(where=binding.where, what=f"{one.text} names no principal of a pool")
            elif one.pool and not re.match(r"projects/\d+/", one.pool):
                yield Hit(where=binding.where, what=f"{one.pool} has the project's id, a pool has its number")


def unmapped(document: Document) -> Iterator[Hit]:
    parts = reading(document).parts
    for binding in parts.bindings:
        for one in binding.members:
            wanted = asked(one.rest)
            if wanted is not None and wanted[0] not in parts.mapping and wanted[0] != "google.subject":
                yield Hit(where=binding.where, what=f"{wanted[0]} is not mapped, so {one.rest} names nobody")


def whole_pool(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        if any(one.rest == "*" for one in binding.members):
            yield Hit(where=binding.where, what="the members are every token that the pool exchanges")


def other_pool(document: Document) -> Iterator[Hit]:
    for pool in sorted(reading(document).parts.foreign):
        yield Hit(where="bindings", what=f"{pool} is not known to be the pool of this provider")


def administers(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        if binding.role in ADMINISTERS and any(one.rest for one in binding.members):
            yield Hit(where=binding.where, what=f"attested code has {binding.role}")


def more_than_decrypts(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        attested = any(one.rest for one in binding.members)
        if attested and binding.role not in (NEEDED_ROLE, *ADMINISTERS, "roles/iam.workloadIdentityUser"):
            known = OTHER_ROLES.get(binding.role, "more than decryption")
            yield Hit(where=binding.where, what=f"attested code has {binding.role}: {known}")


def impersonates(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        if binding.role == "roles/iam.workloadIdentityUser":
            yield Hit(where=binding.where, what="attested code impersonates a service account")


def edits(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        named = [one.text for one in binding.members if not one.rest]
        if binding.role in ADMINISTERS and named:
            yield Hit(where=binding.where, what=f"{', '.join(named)} may change who decrypts")


def unknown_role(document: Document) -> Iterator[Hit]:
    for binding in reading(document).parts.bindings:
        if binding.role not in DECRYPTING and binding.role not in OTHER_ROLES:
            yield Hit(where=binding.where, what=f"what {binding.role} may do is not known here")


def strange_end(document: Document) -> Iterator[Hit]:
    """A condition on a binding that is not the end of a licence."""
    for binding in reading(document).parts.bindings:
        for path in _conditions(binding.condition):
            yield Hit(where=f"{binding.where}.condition", what=path)


def _conditions(text: str) -> Iterator[str]:
    try:
        tree = cel.parse(text) if text else None
    except cel.CelError:
        return
    if tree is None:
        return
    for node in tree.operands if isinstance(tree, Many) and tree.operator == "&&" else (tree,):
        match node:
            case Compare("<", left, Call("timestamp", None, (Literal(str(moment)),))) if (
                cel.path(left) == "request.time"
            ):
                if timestamp(moment) is None:
                    yield f"{moment!r} is no moment, so the binding never holds"
            case _:
                yield f"{cel.show(node)} is more than the end of a licence"


def gpu_not_on(document: Document) -> Iterator[Hit]:
    for where, path, literal, operator in compared(reading(document)):
        if path == f"{GPU}.cc_mode" and (operator == "!=" or literal.value in ("OFF", "DEVTOOLS")):
            shown = counterexample(document, "a GPU in developer mode", "a GPU with its mode off")
            yield Hit(where=where, what=f"cc_mode {operator} {literal.value}", counterexample=shown)
