"""Who calls KMS, and which principals of a policy mean them.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html and
reference_policies_elements_notprincipal.html (2026-10).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from jewelhouse.release.aws_statements import Statement, account_of, is_root

SESSION = re.compile(r"(arn:aws[a-z-]*):sts::(\d{12}):assumed-role/([^/]+)/.+")
SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(\.cn)?")


class Named(Enum):
    """How a policy names a caller. ACCOUNT delegates: the account's identity policies must allow too."""

    NOT = 0
    ACCOUNT = 1
    ITSELF = 2


@dataclass(frozen=True)
class Caller:
    """The caller's own ARN, the ARN of its role for a session, and its account."""

    principal: str | None

    @property
    def account(self) -> str | None:
        return account_of(self.principal) if self.principal else None

    @property
    def role(self) -> str | None:
        """ARN of the role behind a session. A session does not tell the role's path."""
        session = SESSION.fullmatch(self.principal or "")
        return f"{session[1]}:iam::{session[2]}:role/{session[3]}" if session else None

    @property
    def arn(self) -> str | None:
        """What `aws:PrincipalArn` says: the role's ARN for a session."""
        return self.role or self.principal

    @property
    def is_service(self) -> bool:
        return self.principal is not None and re.fullmatch(SERVICE, self.principal) is not None

    def is_meant(self, named: str) -> Named:
        """How one principal of a policy names this caller."""
        if named == "*":
            return Named.ITSELF
        if self.principal is None:
            return Named.NOT
        if named == self.principal or (self.role is not None and _same_role(named, self.role)):
            return Named.ITSELF
        if is_root(named) and account_of(named) == self.account:
            return Named.ACCOUNT
        return Named.NOT

    def named_by(self, statement: Statement) -> Named:
        """How a statement names this caller, its NotPrincipal taken into account."""
        found = [self.is_meant(named) for named in statement.principals]
        if not statement.not_principal:
            return max(found, key=lambda named: named.value, default=Named.NOT)
        if statement.allow:
            return Named.NOT if any(named is not Named.NOT for named in found) else Named.ITSELF
        # A Deny spares only those whose account is listed beside them; for a session its role will do.
        spared = Named.ITSELF in found and (Named.ACCOUNT in found or self.account is None)
        return Named.NOT if spared else Named.ITSELF


def _same_role(named: str, role: str) -> bool:
    """A role's name is unique in its account, so its path does not matter."""
    prefix, _, name = role.partition(":role/")
    return named.startswith(f"{prefix}:role/") and named.rpartition("/")[2] == name
