"""Serves a provider to the engine; a refusal reaches the user in the cloud's words, without a traceback."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
from pulumi.provider.experimental.provider import Provider
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS
from pulumi.runtime.proto import provider_pb2_grpc

from jewelhouse.sandbox.clouds.common import Refused


class _Servicer(ProviderServicer):
    """The SDK's servicer wraps every error into one with its stack; the refusal stays as its context."""


def _worded(method: str) -> Any:
    inherited = getattr(ProviderServicer, method)

    async def call(self: _Servicer, request: Any, context: Any) -> Any:
        try:
            return await inherited(self, request, context)
        except Exception as error:
            if isinstance(error.__context__, Refused):
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error.__context__))
            raise

    return call


for _method in ("Check", "Diff", "Create", "Read", "Update", "Delete", "Invoke", "Configure"):
    setattr(_Servicer, _method, _worded(_method))


def run(arguments: list[str], version: str, provider: Provider) -> None:
    """Listens on a loopback port, prints it for the engine and serves until the engine stops the process."""
    engine = next((argument for argument in arguments if not argument.startswith("-")), "")

    async def listen() -> None:
        served = grpc.aio.server(options=_GRPC_CHANNEL_OPTIONS)
        servicer = _Servicer(arguments, version, provider, engine_address=engine)
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, served)
        port = served.add_insecure_port("127.0.0.1:0")
        await served.start()
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        await served.wait_for_termination()

    try:
        asyncio.run(listen())
    except KeyboardInterrupt:
        return
