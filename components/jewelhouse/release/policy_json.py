"""The JSON form of a neutral release policy, which round-trips.

`{"key": {"artifact", "platform", "region"}, "owner": {"cloud", ...}, "gates": [{"stage", "platform", "tee",
"account", "measurements", ...}]}`: the field names of the model, times in ISO 8601, what is empty left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from jewelhouse.errors import Problem, Problems
from jewelhouse.model import (
    Account,
    AttestedKey,
    AwsAccount,
    AzureAccount,
    Cloud,
    GcpAccount,
    Measurements,
    Platform,
    Tee,
)
from jewelhouse.release.policy import Gate, ReleasePolicy

ACCOUNTS: Mapping[Cloud, type[Any]] = {
    Cloud.AWS: AwsAccount,
    Cloud.AZURE: AzureAccount,
    Cloud.GCP: GcpAccount,
}
# A member that is not there, which is reported once and by its own path.
ABSENT: Any = object()


class MalformedPolicy(Problems):
    """JSON that is no neutral release policy; one problem for each thing that is wrong."""


def to_json(policy: ReleasePolicy) -> dict[str, Any]:
    """A policy as JSON values; `from_json` gives an equal policy back."""
    return _plain(policy)


def _plain(value: Any) -> Any:
    if isinstance(value, Measurements):
        return dict(value.values)
    if dataclasses.is_dataclass(value):
        found = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        cloud = next((cloud for cloud, kind in ACCOUNTS.items() if isinstance(value, kind)), None)
        found = {name: item for name, item in found.items() if item not in (None, [])}
        return {"cloud": cloud.value, **found} if cloud else found
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    return value.isoformat() if isinstance(value, datetime) else value


def from_json(value: Any) -> ReleasePolicy:
    """The policy in a JSON value. Raises MalformedPolicy with everything that is wrong, by its path."""
    reader = _Reader()
    policy = reader.policy(value)
    if reader.problems:
        raise MalformedPolicy(reader.problems)
    return policy


class _Reader:
    """Reads field by field and keeps what is wrong, so that all of it is reported at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, where: str, what: str) -> None:
        self.problems.append(Problem(where=where, what=what))

    def object(self, value: Any, where: str, required: set[str], optional: set[str]) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            if value is not ABSENT:
                self.wrong(where, "is not an object")
            return {}
        for name in sorted(required - value.keys()):
            self.wrong(f"{where}.{name}", "is missing")
        for name in sorted(value.keys() - required - optional):
            self.wrong(f"{where}.{name}", "is not known")
        return value

    def list(self, value: Any, where: str) -> list[tuple[str, Any]]:
        if isinstance(value, list):
            return [(f"{where}[{index}]", item) for index, item in enumerate(value)]
        self.wrong(where, "is not a list")
        return []

    def text(self, value: Any, where: str) -> str:
        if isinstance(value, str) and value:
            return value
        if value is not ABSENT:
            self.wrong(where, f"is not text: {value!r:.80}")
        return ""

    def one_of(self, kind: type[StrEnum], value: Any, where: str) -> Any:
        choices = {str(item): item for item in kind}
        if isinstance(value, str) and value in choices:
            return choices[value]
        if value is not ABSENT:
            self.wrong(where, f"{value!r:.80} is none of {', '.join(choices)}")
        return next(iter(choices.values()))

    def policy(self, value: Any) -> ReleasePolicy:
        found = self.object(value, "policy", {"key", "owner", "gates"}, set())
        key = self.object(found.get("key", ABSENT), "key", {"artifact", "platform", "region"}, set())
        return ReleasePolicy(
            key=AttestedKey(
                self.text(key.get("artifact", ABSENT), "key.artifact"),
                self.one_of(Platform, key.get("platform", ABSENT), "key.platform"),
                self.text(key.get("region", ABSENT), "key.region"),
            ),
            owner=self.account(found.get("owner", ABSENT), "owner"),
            gates=tuple(self.gate(gate, where) for where, gate in self.list(found.get("gates", []), "gates")),
        )

    def account(self, value: Any, where: str) -> Account:
        cloud = value.get("cloud", ABSENT) if isinstance(value, dict) else ABSENT
        kind = ACCOUNTS[self.one_of(Cloud, cloud, f"{where}.cloud")]
        fields = dataclasses.fields(kind)
        required = {field.name for field in fields if field.default is dataclasses.MISSING}
        found = self.object(value, where, required | {"cloud"}, {field.name for field in fields})
        return kind(
            **{
                name: self.field(name, found.get(name, ABSENT), f"{where}.{name}")
                for name in (field.name for field in fields)
                if name in found or name in required
            }
        )

    def field(self, name: str, value: Any, where: str) -> str | tuple[str, ...]:
        if name == "sealers":
            return tuple(self.text(item, path) for path, item in self.list(value, where))
        return self.text(value, where)

    def gate(self, value: Any, where: str) -> Gate:
        texts = {"identity", "gpu", "authority", "authority_policy"}
        found = self.object(
            value, where, {"stage", "platform", "tee", "account"}, texts | {"measurements", "not_after"}
        )
        measurements = self.list(found.get("measurements", []), f"{where}.measurements")
        return Gate(
            stage=self.text(found.get("stage", ABSENT), f"{where}.stage"),
            platform=self.one_of(Platform, found.get("platform", ABSENT), f"{where}.platform"),
            tee=self.one_of(Tee, found.get("tee", ABSENT), f"{where}.tee"),
            account=self.account(found.get("account", ABSENT), f"{where}.account"),
            measurements=tuple(self.measurements(item, path) for path, item in measurements),
            not_after=self.time(found.get("not_after", ABSENT), f"{where}.not_after"),
            **{name: self.text(found[name], f"{where}.{name}") for name in sorted(texts & found.keys())},
        )

    def measurements(self, value: Any, where: str) -> Measurements:
        if not isinstance(value, dict):
            self.wrong(where, "is not an object of names and digests")
            return Measurements()
        return Measurements(
            values={name: self.text(digest, f"{where}.{name}") for name, digest in value.items()}
        )

    def time(self, value: Any, where: str) -> datetime | None:
        if value is ABSENT:
            return None
        try:
            found = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            self.wrong(where, f"{value!r:.80} is not a time in ISO 8601")
            return None
        if found.tzinfo is None:
            self.wrong(where, f"{value} has no time zone")
        return found
