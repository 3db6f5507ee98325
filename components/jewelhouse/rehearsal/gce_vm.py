"""A confidential VM on Google Cloud in a rehearsal: its vTPM, its metadata server, and who attests it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jewelhouse.guest import tsm
from jewelhouse.model import Tee
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal.gce_metadata import Instance, Metadata
from jewelhouse.rehearsal.gce_vtpm import GceVtpm
from jewelhouse.rehearsal.google_attestation import GoogleAttestation
from jewelhouse.rehearsal.minting_td import Host
from jewelhouse.rehearsal.minting_tokens import GoogleAuthority
from jewelhouse.rehearsal.services import Wrong

BELIEVED, FOREIGN = "rehearsal", "foreign"
EXPIRED = timedelta(hours=2)


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a VM's evidence is made with: `signer` of tokens, `tls` of services, `replay` a recorded token."""

    folder: Path
    signer: GoogleAuthority
    tls: http.Authority
    wrong: Wrong
    replay: bytes | None


@dataclass(frozen=True, kw_only=True)
class Attesting:
    """A VM's vTPM, its metadata server and who attests it; `endpoints`: where they are."""

    machine: GceVtpm
    metadata: Metadata
    service: GoogleAttestation
    endpoints: dict[str, str]

    def refused(self) -> list[str]:
        return [f"Google Cloud Attestation: {one.refused}" for one in self.service.log if one.refused]


def attesting(tee: Tee, instance: Instance, around: Around, stack: ExitStack) -> Attesting:
    """A VM and the service that attests it."""
    host = Host(name=FOREIGN if around.wrong is Wrong.ROOT else BELIEVED)
    tdx = tee is Tee.TDX
    stale = around.wrong is Wrong.STALE
    machine = stack.enter_context(
        GceVtpm(around.folder, name=FOREIGN if around.wrong is Wrong.ROOT else BELIEVED)
    )
    metadata = stack.enter_context(Metadata(instance))
    service = stack.enter_context(
        GoogleAttestation(
            around.signer,
            instance,
            name=BELIEVED,
            authority=around.tls,
            quotes=(lambda data: Host(name=BELIEVED).verified(data, datetime.now(UTC))) if tdx else None,
            clock=lambda: datetime.now(UTC) - (EXPIRED if stale else timedelta()),
            replay=around.replay,
        )
    )
    endpoints = {
        "attestation": service.url,
        "imds": metadata.url,
        "tpm": str(machine.path),
        "event_log": str(machine.event_log),
        # Where there is no such interface, as on SEV: this machine's own must not be asked.
        "tsm": str(around.folder / "tsm"),
    }
    if tdx:
        stack.enter_context(reports(around.folder / "tsm", host.quote))
    return Attesting(machine=machine, metadata=metadata, service=service, endpoints=endpoints)


@contextmanager
def reports(path: Path, quote: Callable[[bytes], bytes]) -> Iterator[None]:
    """The kernel's interface to quotes, as a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    data = connection.recv(tsm.DATA, socket.MSG_WAITALL)
                    connection.sendall(quote(data))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
