"""Drives a stand-in provider as the engine does: check, then create, update, read or delete."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from pulumi.provider.experimental import provider as protocol

from jewelhouse.sandbox.provider import INPUTS, StandIn, plain, property_value

ACCOUNT = "111122223333"
SUBSCRIPTION = "00000000-aaaa-bbbb-cccc-000000000001"
DEPLOYER = f"arn:aws:iam::{ACCOUNT}:role/deployer"
CONFIGURATION: dict[str, dict[str, Any]] = {
    "aws": {
        "region": "eu-central-1",
        "allowedAccountIds": json.dumps([ACCOUNT]),
        "assumeRoles": json.dumps([{"roleArn": DEPLOYER}]),
    },
    "azure-native": {"subscriptionId": SUBSCRIPTION, "tenantId": "00000000-0000-0000-0000-00000000000t"},
    "gcp": {"project": "weights-owner", "region": "europe-west4"},
}


class Made:
    """A resource that a provider made, with its properties."""

    def __init__(self, kind: str, name: str, identity: str, properties: dict[str, Any], inputs: Any) -> None:
        self.kind, self.name, self.id, self.properties, self.inputs = kind, name, identity, properties, inputs

    def __getitem__(self, name: str) -> Any:
        return plain(self.properties[name])

    def given(self) -> dict[str, Any]:
        """The checked inputs, plain."""
        return {name: plain(value) for name, value in self.inputs.items()}


class Driver:
    """One provider process of a package; `directory` is the world, which several may share."""

    def __init__(self, package: str, directory: Path, cache: Path, **configuration: Any) -> None:
        self.provider = StandIn(package, directory, cache)
        values = {**CONFIGURATION[package], **configuration}
        request = protocol.ConfigureRequest(
            {}, {name: property_value(value) for name, value in values.items()}, True, True
        )
        asyncio.run(self.provider.configure(request))

    def check(
        self, kind: str, inputs: dict[str, Any], name: str = "thing", old: Any = None, seed: bytes = b"seed"
    ) -> protocol.CheckResponse:
        return asyncio.run(
            self.provider.check(protocol.CheckRequest(_urn(kind, name), old or {}, _values(inputs), seed))
        )

    def failures(self, kind: str, inputs: dict[str, Any]) -> list[str]:
        """`property: reason` of every check failure."""
        found = self.check(kind, inputs).failures or []
        return [f"{failure.property}: {failure.reason}" for failure in found]

    def create(
        self, kind: str, inputs: dict[str, Any], name: str = "thing", *, preview: bool = False
    ) -> Made:
        checked = self.check(kind, inputs, name, seed=name.encode())
        assert not checked.failures, self.failures(kind, inputs)
        return self.make(kind, dict(checked.inputs or {}), name, preview=preview)

    def make(self, kind: str, checked: dict[str, Any], name: str, *, preview: bool = False) -> Made:
        done = asyncio.run(
            self.provider.create(protocol.CreateRequest(_urn(kind, name), checked, 0, preview))
        )
        return Made(kind, name, done.resource_id, dict(done.properties), checked)

    def diff(self, made: Made, inputs: dict[str, Any]) -> protocol.DiffResponse:
        checked = self.check(made.kind, inputs, made.name, made.inputs)
        assert not checked.failures, checked.failures
        request = protocol.DiffRequest(
            _urn(made.kind, made.name), made.id, made.properties, dict(checked.inputs or {}), []
        )
        return asyncio.run(self.provider.diff(request))

    def update(self, made: Made, inputs: dict[str, Any], *, preview: bool = False) -> Made:
        checked = self.check(made.kind, inputs, made.name, made.inputs)
        assert not checked.failures, checked.failures
        news = dict(checked.inputs or {})
        done = asyncio.run(
            self.provider.update(
                protocol.UpdateRequest(
                    _urn(made.kind, made.name), made.id, made.properties, news, 0, [], preview
                )
            )
        )
        return Made(made.kind, made.name, made.id, dict(done.properties or {}), news)

    def read(self, made: Made) -> protocol.ReadResponse:
        return asyncio.run(
            self.provider.read(
                protocol.ReadRequest(_urn(made.kind, made.name), made.id, made.properties, made.inputs)
            )
        )

    def delete(self, made: Made) -> None:
        request = protocol.DeleteRequest(_urn(made.kind, made.name), made.id, made.properties, 0)
        asyncio.run(self.provider.delete(request))

    def invoke(self, token: str, **args: Any) -> dict[str, Any]:
        done = asyncio.run(self.provider.invoke(protocol.InvokeRequest(token, _values(args))))
        assert not done.failures, [f"{failure.property}: {failure.reason}" for failure in done.failures]
        return {name: plain(value) for name, value in (done.return_value or {}).items()}


def _values(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: property_value(value) for name, value in inputs.items()}


def _urn(kind: str, name: str) -> str:
    # The parents' types stand before the resource's own.
    return f"urn:pulumi:dev::shop::jewelhouse:test:Component${kind}::{name}"


__all__ = ["ACCOUNT", "DEPLOYER", "INPUTS", "SUBSCRIPTION", "Driver", "Made"]
