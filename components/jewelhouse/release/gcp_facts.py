"""What a document of Google lets happen, read back from provider, mapping and bindings.

A token opens the key when the provider takes its issuer and audience, every mapped attribute has a value, the
condition is true, and a binding with a role that decrypts names what the mapping made of it. Sources: IAM API
v1, WorkloadIdentityPoolProvider (pub.dev/documentation/googleapis, iam_v1); docs.cloud.google.com/iam/docs/
principal-identifiers; .../iam/docs/roles-permissions/cloudkms, 2026-04.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jewelhouse.release import cel, clauses
from jewelhouse.release.cel import CelError, Compare, Literal, Node
from jewelhouse.release.clauses import Alternative, Clause, TooMany
from jewelhouse.release.facts import Facts, Opening, Power, reduced

# Roles with cloudkms.cryptoKeyVersions.useToDecrypt, which asymmetricDecrypt needs.
DECRYPTING = frozenset(
    {
        "roles/cloudkms.cryptoKeyDecrypter",
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        "roles/cloudkms.cryptoOperator",
        "roles/owner",
    }
)
# Roles of Cloud KMS without it: what they let their members do instead.
OTHER_ROLES: Mapping[str, str] = {
    "roles/cloudkms.admin": "changes who may decrypt (cloudkms.cryptoKeys.setIamPolicy)",
    "roles/cloudkms.cryptoKeyDecrypterViaDelegation": "decrypts through other Google services only",
    "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation": "decrypts through other Google services only",
    "roles/cloudkms.cryptoKeyEncrypter": "encrypts",
    "roles/cloudkms.cryptoKeyEncrypterViaDelegation": "encrypts through other Google services only",
    "roles/cloudkms.publicKeyViewer": "reads the public key",
    "roles/cloudkms.signer": "signs",
    "roles/cloudkms.signerVerifier": "signs and verifies",
    "roles/cloudkms.verifier": "verifies",
    "roles/cloudkms.viewer": "reads the key's description",
    "roles/cloudkms.importer": "imports key material",
    "roles/iam.workloadIdentityUser": "impersonates the service account it is bound on",
    "roles/iam.securityAdmin": "changes who may decrypt (setIamPolicy)",
    "roles/viewer": "reads the key's description",
    "roles/browser": "reads the project's hierarchy",
}

# Characters of an expression, attributes beside Google's own, bytes of the subject and of everything mapped
# (IAM API v1, WorkloadIdentityPoolProvider; IAM API v1, Expr in bindings).
LIMITS = {
    "condition": 4096,
    "mapping": 2048,
    "attributes": 50,
    "name": 100,
    "subject": 127,
    "mapped": 8192,
    "binding": 16_384,
}
ATTRIBUTE = re.compile(r"google\.subject|google\.groups|attribute\.[a-z0-9_]+")
POOL = re.compile(
    r"principal(?:Set)?://iam\.googleapis\.com/"
    r"(?P<pool>projects/[^/]+/locations/global/workloadIdentityPools/[^/]+)/(?P<rest>.+)",
    re.DOTALL,
)
RELATIVE = re.compile(
    r"attribute\.(?P<attribute>[^/]+)/(?P<value>.+)|subject/(?P<subject>.+)|group/(?P<group>.+)|(?P<all>\*)",
    re.DOTALL,
)
UNTIL = "request.time"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of a binding. `rest` is what follows its pool (`attribute.image_digest/sha256:...`), empty for
    members that no token makes (`user:...`, `allUsers`); `pool` the pool's path where the member names one.
    """

    text: str
    pool: str = ""
    rest: str = ""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A binding as the document has it, at its place `where`."""

    where: str
    role: str
    members: tuple[Member, ...]
    condition: str = ""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """The parts of a document by type. `strange` names what is not of the type that Google writes."""

    issuer: str
    audiences: tuple[str, ...]
    mapping: Mapping[str, str]
    condition: str
    bindings: tuple[Binding, ...]
    disabled: bool = False
    keys: bool = False
    pool: str = ""
    strange: tuple[str, ...] = ()
    trees: Mapping[str, Node] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def foreign(self) -> frozenset[str]:
        """Pools in the bindings that are not known to be this provider's.

        A document need not say which pool its provider is in. Then it is the one that the bindings name; of
        several only one can be it.
        """
        named = frozenset(one.pool for binding in self.bindings for one in binding.members if one.pool)
        if self.pool:
            return named - {self.pool}
        return named if len(named) > 1 else frozenset()


def provider(document: Mapping[str, Any]) -> Provider:
    """The document by its parts. Never raises: what is of a wrong type is left out and named."""
    strange: list[str] = []

    def text(name: str) -> str:
        value = document.get(name, "")
        if not isinstance(value, str):
            strange.append(f"{name}: is not text")
            return ""
        return value

    mapping = {}
    found = document.get("mapping", {})
    if not isinstance(found, Mapping):
        strange.append("mapping: is not an object")
        found = {}
    for name, expression in found.items():
        if isinstance(name, str) and isinstance(expression, str):
            mapping[name] = expression
        else:
            strange.append(f"mapping.{name}: is not text")
    audiences = document.get("audiences", [])
    if not isinstance(audiences, list | tuple) or not all(isinstance(one, str) for one in audiences):
        strange.append("audiences: is not a list of texts")
        audiences = []
    condition = text("condition")
    trees: dict[str, Node] = {}
    unread: dict[str, str] = {}
    for where, expression in [("condition", condition), *((f"mapping.{n}", e) for n, e in mapping.items())]:
        if not expression:
            continue
        try:
            trees[where] = cel.parse(expression)
        except CelError as error:
            unread[where] = str(error)
    return Provider(
        issuer=text("issuer"),
        audiences=tuple(audiences),
        mapping=mapping,
        condition=condition,
        bindings=tuple(_bindings(document.get("bindings", []), strange)),
        disabled=document.get("disabled") is True or document.get("state", "ACTIVE") != "ACTIVE",
        keys=bool(document.get("jwks")),
        pool=text("pool"),
        strange=tuple(strange),
        trees=trees,
        unread=unread,
    )


def _bindings(found: Any, strange: list[str]) -> Iterator[Binding]:
    if not isinstance(found, list | tuple):
        strange.append("bindings: is not a list")
        return
    for number, one in enumerate(found):
        where = f"bindings[{number}]"
        members = one.get("members", []) if isinstance(one, Mapping) else None
        role = one.get("role") if isinstance(one, Mapping) else None
        if not isinstance(role, str) or not isinstance(members, list | tuple):
            strange.append(f"{where}: has no role and members")
            continue
        condition = one.get("condition")
        expression = condition.get("expression") if isinstance(condition, Mapping) else condition
        if expression is not None and not isinstance(expression, str):
            strange.append(f"{where}.condition: has no expression")
            # Not a binding without a condition: one whose condition nothing meets.
            expression = "false"
        if not all(isinstance(member, str) for member in members):
            strange.append(f"{where}.members: is not a list of texts")
        yield Binding(
            where=where,
            role=role,
            members=tuple(member(text) for text in members if isinstance(text, str)),
            condition=expression or "",
        )


def member(text: str) -> Member:
    """A member as IAM writes it, or as `release.gcp.compile` does: what follows the pool."""
    full = POOL.fullmatch(text)
    rest = full["rest"] if full else text
    if RELATIVE.fullmatch(rest) is None or (full is not None and not _fits(text, rest)):
        return Member(text=text)
    return Member(text=text, pool=full["pool"] if full else "", rest=rest)


def _fits(text: str, rest: str) -> bool:
    """`principal://` names one subject, `principalSet://` everything else."""
    return text.startswith("principal://") is rest.startswith("subject/")


def asked(rest: str) -> tuple[str, Node] | None:
    """What a member asks of a mapped attribute, and which; None where it is every token of the pool."""
    found = RELATIVE.fullmatch(rest)
    if found is None or found["all"]:
        return None
    google = cel.Name("google")
    if found["subject"]:
        return "google.subject", Compare("==", cel.Select(google, "subject"), Literal(found["subject"]))
    if found["group"]:
        return "google.groups", Compare("in", Literal(found["group"]), cel.Select(google, "groups"))
    name = found["attribute"]
    return (
        f"attribute.{name}",
        Compare("==", cel.Select(cel.Name("attribute"), name), Literal(found["value"])),
    )


def issuer_of(text: str) -> str:
    """Google's page registers its issuer with a slash at the end, and tokens have none."""
    return text.removesuffix("/")


def parse(document: Mapping[str, Any]) -> Facts:
    """Openings and powers of a document, its own or one that others wrote; never raises."""
    parts = provider(document)
    undecided = list(parts.strange)
    undecided += [f"{where}: {why}" for where, why in parts.unread.items()]
    if parts.disabled:
        return Facts(powers=frozenset(_powers(parts)), undecided=tuple(undecided))
    if parts.keys:
        undecided.append("jwks: tokens are verified with keys of the document, not with Google's")
    if not parts.audiences:
        undecided.append("audiences: none is listed, so it is the provider's own name")
    openings: list[tuple[Alternative, datetime | None, str | None]] = []
    try:
        admitted = _admitted(parts)
    except TooMany as error:
        undecided.append(f"condition: {error}")
        admitted = frozenset([frozenset([Clause(parts.condition, "holds")])])
    for binding in parts.bindings:
        if binding.role not in DECRYPTING:
            if binding.role not in OTHER_ROLES:
                undecided.append(f"{binding.where}: what {binding.role} may do is not known here")
            continue
        try:
            openings += _openings(parts, binding, admitted)
        except TooMany as error:
            undecided.append(f"{binding.where}: {error}")
        except CelError as error:
            undecided.append(f"{binding.where}.condition: {error}")
            openings += _openings(parts, binding, admitted, unread=True)
    undecided += [f"bindings: {pool} is not known to be this provider's" for pool in sorted(parts.foreign)]
    return Facts(openings=gathered(openings), powers=frozenset(_powers(parts)), undecided=tuple(undecided))


def _admitted(parts: Provider) -> frozenset[Alternative]:
    """Tokens that the provider exchanges."""
    if "google.subject" not in parts.mapping:
        return frozenset()
    base = {Clause("assertion.iss", "==", issuer_of(parts.issuer))}
    for where, tree in parts.trees.items():
        if where != "condition":
            base |= clauses.needed(clauses.canonical(tree))
    base |= {
        Clause(f"{where} has a value: {parts.mapping[where.removeprefix('mapping.')]}", "holds")
        for where in parts.unread
        if where != "condition"
    }
    found = frozenset([frozenset(base)])
    audiences = parts.audiences or ("the provider's own name",)
    found = clauses.both(found, [frozenset([Clause("assertion.aud", "==", one)]) for one in audiences])
    if "condition" in parts.unread:
        return clauses.both(found, [frozenset([Clause(parts.condition, "holds")])])
    if "condition" in parts.trees:
        tree = clauses.substituted(parts.trees["condition"], mapped(parts))
        found = clauses.both(found, clauses.alternatives(tree))
    return found


def mapped(parts: Provider) -> dict[str, Node]:
    """What `google.subject` and `attribute.x` stand for."""
    return {
        where.removeprefix("mapping."): tree for where, tree in parts.trees.items() if where != "condition"
    }


def _openings(
    parts: Provider, binding: Binding, admitted: frozenset[Alternative], *, unread: bool = False
) -> Iterator[tuple[Alternative, datetime | None, str | None]]:
    """Of one binding, each member with each alternative. Raises CelError for a condition it cannot read."""
    during: Iterable[tuple[datetime | None, Alternative]] = [(None, frozenset())]
    if unread:
        during = [(None, frozenset([Clause(binding.condition, "holds")]))]
    elif binding.condition:
        during = list(_during(cel.parse(binding.condition)))
    for one in binding.members:
        who = {"allUsers": "*"}.get(one.text, one.text)
        if not one.rest:
            for until, more in during:
                yield more, until, who
            continue
        if one.pool in parts.foreign:
            # Whoever that pool's own providers admit: nothing of this document stands before it.
            for until, more in during:
                yield more, until, one.text
            continue
        matching = admitted
        wanted = asked(one.rest)
        if wanted is not None:
            name, expression = wanted
            if name not in parts.mapping:
                continue
            if f"mapping.{name}" in parts.unread:
                matching = clauses.both(
                    admitted, [frozenset([Clause(f"{name} maps to {one.rest}", "holds")])]
                )
            else:
                tree = clauses.substituted(expression, mapped(parts))
                matching = clauses.both(admitted, clauses.alternatives(tree))
        for until, more in during:
            for found in clauses.both(matching, [more]):
                yield found, until, None


# Above this many alternatives they stay as they are: as exact, but not in their shortest form.
NEEDLESS = 256
Found = tuple[Alternative, datetime | None, str | None]


def gathered(found: Iterable[Found]) -> frozenset[Opening]:
    """Openings from alternatives, ends and principals, without those that lie within others."""
    distinct = set(found)
    adding = [
        one for one in distinct if not any(other is not one and _within(one, other) for other in distinct)
    ]
    return reduced(_opening(*one) for one in _without_needless(adding))


def _within(one: Found, other: Found) -> bool:
    """Whether everything that passes by `one` passes by `other` too."""
    clauses_of, until, principal = one
    more, end, who = other
    return (
        who in (principal, "*")
        and more <= clauses_of
        and (end is None or (until is not None and until <= end))
    )


def _without_needless(found: Iterable[Found]) -> list[Found]:
    """Alternatives without a `not has` whose other case opens as well.

    An attribute that is mapped by `a in accounts ? 'one' : b in accounts ? 'two' : ...` admits the second
    with `not a` alone. Where `a` with all the rest opens too, whether `a` holds decides nothing.
    """
    made = sorted(found, key=lambda one: (len(one[0]), sorted(one[0])))
    if len(made) > NEEDLESS:
        return made
    again = True
    while again:
        again = False
        for index, (clauses_of, until, principal) in enumerate(made):
            for clause in [one for one in clauses_of if one.relation == "not has"]:
                rest = clauses_of - {clause}
                case = rest | {Clause(clause.path, "has", clause.value)}
                # Without another value in the list it could be absent, which is an error and so no release.
                listed = any(one.path == clause.path and one.relation == "has" for one in rest)
                if listed and any(_within((case, until, principal), other) for other in made):
                    made[index], again = (rest, until, principal), True
                    break
    return made


def _opening(found: Alternative, until: datetime | None, principal: str | None) -> Opening:
    claims: dict[str, str | None] = {}
    for clause in sorted(found):
        path, value = clause.claim()
        if path in claims:
            # A list that must hold several values: each further one as its own text.
            path, value = f"{cel.literal(clause.value)} in {clause.path}", "true"
        claims[path] = value
    return Opening(principal=principal, claims=claims, until=until)


def _during(tree: Node) -> Iterator[tuple[datetime | None, Alternative]]:
    """When a binding holds: the end of its licence, and whatever else its condition says."""
    for found in clauses.alternatives(tree):
        ends: list[datetime] = []
        rest: set[Clause] = set()
        for clause in found:
            end = _end(clause)
            if end is None:
                rest.add(clause)
            else:
                ends.append(end)
        yield min(ends, default=None), frozenset(rest)


def _end(clause: Clause) -> datetime | None:
    if clause.relation != "holds":
        return None
    match cel.parse(clause.path) if clause.path.startswith("request.time <") else None:
        case Compare("<", left, cel.Call("timestamp", None, (Literal(str(text)),))):
            return timestamp(text) if cel.path(left) == UNTIL else None
        case _:
            return None


def timestamp(text: str) -> datetime | None:
    """A moment as CEL's timestamp() reads it (RFC 3339); None for what it refuses."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", text, re.ASCII):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _powers(parts: Provider) -> Iterator[Power]:
    for binding in parts.bindings:
        if binding.role not in DECRYPTING or binding.role == "roles/owner":
            for one in binding.members:
                yield Power(principal=one.text, what=binding.role)
