"""What a native document lets happen, in one form for the three clouds: the openings it has.

`release.aws`, `release.azure` and `release.gcp` each have `parse(document) -> Facts`, for their own documents
and for those that others wrote. Two documents with equal facts release the same evidence, however they are
written; that is what `release diff` compares. What `parse` cannot reduce to this form it names in
`undecided`, and nothing that rests on such facts may be called equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One way in: whoever meets all of it has the key released.

    principal: who must ask, in the cloud's own form (role ARN, `*`, member of a principal set); None where
    the document leaves that to another place (Azure: role assignments on the key).
    claims: claim path -> the one value it must have. Paths are the cloud's own: condition keys of KMS,
    `authority` and claims of Key Vault, `assertion...` of Google. A value of None: the claim must be there.
    A path may carry a relation in parentheses at its end where it is not equality: `request.time (<)`,
    `assertion.google_service_accounts (has)`.
    until: the end of a licence (UTC), after which this opening is closed.
    """

    principal: str | None = None
    claims: Mapping[str, str | None] = field(default_factory=dict)
    until: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", MappingProxyType(dict(sorted(self.claims.items()))))

    def __hash__(self) -> int:
        return hash((self.principal, tuple(self.claims.items()), self.until))

    def within(self, other: Opening) -> bool:
        """Whether everything that passes here passes there too, so that this one adds nothing."""
        return (
            other.principal in (self.principal, "*")
            and all(
                path in self.claims and (value is None or self.claims[path] == value)
                for path, value in other.claims.items()
            )
            and (other.until is None or (self.until is not None and self.until <= other.until))
        )


@dataclass(frozen=True, order=True)
class Power:
    """An administrative right beside the openings, by which a key could be opened later: `principal` may
    `what` (`kms:PutKeyPolicy`, `kms:CreateGrant`, another IAM role on the key)."""

    principal: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Openings and powers of a document. `undecided` names, place by place, what could not be reduced."""

    openings: frozenset[Opening] = frozenset()
    powers: frozenset[Power] = frozenset()
    undecided: tuple[str, ...] = ()


def reduced(openings: Iterable[Opening]) -> frozenset[Opening]:
    """Without openings that lie within another one: the normal form in which facts are compared."""
    distinct = list(dict.fromkeys(openings))
    return frozenset(
        one for one in distinct if not any(one is not other and one.within(other) for other in distinct)
    )
