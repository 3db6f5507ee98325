"""What can happen to a run from outside: its guest is killed, a key service or the store dies, anywhere."""

from __future__ import annotations

import random
import re
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jewelhouse.model import Cloud, Stage
from jewelhouse.rehearsal import machine
from jewelhouse.rehearsal.http import Answer, Asked, Authority
from jewelhouse.rehearsal.process import CLOSED, RECORD, Outcome, Running
from jewelhouse.rehearsal.relay import Between, Handing, Relay
from jewelhouse.rehearsal.s3 import Folders, s3
from jewelhouse.rehearsal.scenes import Troubles
from jewelhouse.rehearsal.services import Services

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# Endpoints of what a key is asked of.
KEY_SERVICES = ("kms", "sts", "maa", "vault")
# How many times each signal comes at some moment or other.
MOMENTS = 2
# Bytes that a file may have when the memory is full; artifacts are larger, settings are not.
FULL = 64 * 1024
# How often a service fails before it is well again: fewer times than clients ask.
FAILURES = 2
# Seconds that a hanging service takes, and after which the guest gives up: the same clients, less patient.
HANGING, LIMIT = 3, 1
CLIENTS: Mapping[Cloud, tuple[str, str]] = {
    Cloud.AWS: ("kms", "READ"),
    Cloud.AZURE: ("azure_web", "READ"),
    Cloud.GCP: ("google_web", "PATIENCE"),
}
IMPATIENT = (
    "import runpy\nfrom jewelhouse.guest import {module}\n{module}.{name} = {limit}\n"
    "runpy.run_module('jewelhouse.guest', run_name='__main__', alter_sys=True)"
)
INTERNAL = Answer(status=500, body=b'{"__type": "KMSInternalException", "error": {"code": "InternalError"}}')
THROTTLED: Mapping[Cloud, Answer] = {
    Cloud.AWS: Answer(status=400, body=b'{"__type": "ThrottlingException", "message": "Rate exceeded"}'),
    Cloud.AZURE: Answer(status=429, body=b'{"error": {"code": "Throttled", "message": "Rate limit"}}'),
    Cloud.GCP: Answer(status=429, body=b'{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}'),
}
NO_ROOM = Answer(status=507, kind="application/xml", body=b"<Error><Code>InsufficientStorage</Code></Error>")
GONE = Answer(cut=-1)
MANIFESTS = "/manifests/"
# Python's warnings about a library: a path, and a line of source.
WARNINGS = ("/", " ")


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """One thing that happens. `ends`: whether the run must not get through; None where that is a matter of
    moments."""

    name: str
    troubles: Troubles
    ends: bool | None = True


def of(stage: Stage, undisturbed: Outcome, seed: int) -> Iterator[Disturbance]:
    """All that is played for a stage, by how it went when nothing happened."""
    yield from _kills(undisturbed, random.Random(seed))
    yield from _key_services(stage)
    yield Disturbance(name="memory full while artifacts are opened", troubles=Troubles(begun=_no_room))
    yield from _stores(stage)


def _kills(undisturbed: Outcome, moments: random.Random) -> Iterator[Disturbance]:
    for number in SIGNALS:
        yield killed(number, "as it begins", after=-1)
        for index, line in enumerate(said(undisturbed)):
            yield killed(number, f"after {_short(line)!r}", after=index)
        for _ in range(MOMENTS):
            moment = moments.uniform(0, undisturbed.seconds)
            yield Disturbance(
                name=f"guest ended by {number.name} after {moment:.3f} s",
                troubles=Troubles(begun=lambda process, n=number, at=moment: _later(process, n, at)),
                ends=None,
            )
    for when, first in (("as it asks the key service", True), ("before the key service answers", False)):
        yield _killed_asking(when, first)


def said(outcome: Outcome) -> list[str]:
    """What a guest and its workload say in a run, without what was closed."""
    return [line for line in outcome.output.splitlines() if _told(line)]


def _told(line: str) -> bool:
    return not line.startswith((CLOSED, *WARNINGS))


def _short(line: str) -> str:
    text = "its record" if line.startswith(RECORD) else line.removeprefix("jewelhouse: ")
    # What differs from run to run is no name of a moment.
    return re.split(" (version|port) ", text)[0][:40]


def killed(number: signal.Signals, when: str, *, after: int) -> Disturbance:
    """The guest is killed after so many lines, counted from 0; at once with -1."""
    heard: list[str] = []

    def listen(process: Running, line: str) -> None:
        if _told(line):
            heard.append(line)
        if len(heard) == after + 1:
            process.send_signal(number)

    def begun(process: Running) -> None:
        if after < 0:
            process.send_signal(number)

    # The last line may be its last act.
    ends = True if after < 0 and number is signal.SIGKILL else None
    return Disturbance(
        name=f"guest ended by {number.name} {when}", troubles=Troubles(begun=begun, heard=listen), ends=ends
    )


def _later(process: Running, number: signal.Signals, seconds: float) -> None:
    timer = threading.Timer(seconds, process.send_signal, [number])
    timer.daemon = True
    timer.start()


def _no_room(process: Running) -> None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL, FULL))


def _killed_asking(when: str, first: bool) -> Disturbance:
    running: list[Running] = []

    def does(asked: Asked, hand_on: Handing) -> Answer:
        reply = GONE if first else hand_on(asked)
        running[0].kill()
        return reply

    return Disturbance(
        name=f"guest ended by SIGKILL {when}",
        troubles=Troubles(begun=running.append, between=key_services(does)),
    )


def _key_services(stage: Stage) -> Iterator[Disturbance]:
    module, name = CLIENTS[stage.cloud]
    impatient = IMPATIENT.format(module=module, name=name, limit=LIMIT)
    throttled = THROTTLED[stage.cloud]
    yield Disturbance(
        name="key service not there", troubles=Troubles(between=key_services(lambda asked, hand_on: GONE))
    )
    yield Disturbance(
        name="key service dies in the middle of its answers", troubles=Troubles(between=key_services(_halved))
    )
    yield _dies_after_the_first()
    yield Disturbance(
        name="key service hangs",
        troubles=Troubles(between=key_services(_hangs), program=("-c", impatient)),
    )
    yield Disturbance(
        name="key service throttles", troubles=Troubles(between=key_services(_always(throttled)))
    )
    for what, answer in (("fails", INTERNAL), ("throttles", throttled), ("loses connections", GONE)):
        yield Disturbance(
            name=f"key service {what} {FAILURES} times",
            troubles=Troubles(between=key_services(_times(FAILURES, answer))),
            ends=False,
        )


def _halved(asked: Asked, hand_on: Handing) -> Answer:
    reply = hand_on(asked)
    return replace(reply, cut=len(reply.body) // 2)


def _hangs(asked: Asked, hand_on: Handing) -> Answer:
    time.sleep(HANGING)
    return GONE


def _always(answer: Answer) -> Between:
    return lambda asked, hand_on: answer


def _times(times: int, answer: Answer) -> Between:
    left = [answer] * times
    return lambda asked, hand_on: left.pop() if left else hand_on(asked)


def _dies_after_the_first() -> Disturbance:
    opened = threading.Event()

    def heard(process: Running, line: str) -> None:
        if line.startswith("jewelhouse: opened "):
            opened.set()

    return Disturbance(
        name="key service dies after the first release",
        troubles=Troubles(
            heard=heard,
            between=key_services(lambda asked, hand_on: GONE if opened.is_set() else hand_on(asked)),
        ),
        # A stage with one artifact asks no more, another may have asked already.
        ends=None,
    )


def key_services(does: Between) -> Callable[[Services], AbstractContextManager[Services]]:
    """A relay before each key service, which does what it is told."""

    @contextmanager
    def between(given: Services) -> Iterator[Services]:
        own = Authority("jewelhouse rehearsal chaos")
        endpoints = dict(given.endpoints)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jewelhouse-chaos-")))
            believed = Path(endpoints["certificates"]).read_bytes() if "certificates" in endpoints else b""
            for name in KEY_SERVICES:
                url = str(endpoints.get(name, ""))
                if url.startswith("http"):
                    tls = url.startswith("https")
                    relay = Relay(
                        url,
                        does,
                        identity=own.identity() if tls else None,
                        believes=believed if tls else None,
                    )
                    endpoints[name] = stack.enter_context(relay).url
            if believed:
                both = folder / "authorities.pem"
                both.write_bytes(believed + own.pem)
                endpoints["certificates"] = str(both)
            yield replace(given, endpoints=endpoints)

    return between


def _stores(stage: Stage) -> Iterator[Disturbance]:
    def one(name: str, does: Between, ends: bool | None = True) -> Disturbance:
        return Disturbance(name=name, troubles=Troubles(between=store(stage, does)), ends=ends)

    yield one("store loses a connection", _times(1, GONE), ends=False)
    yield one("store dies while it is read", _after(3, lambda asked: asked.method == "GET"))
    if stage.seals:
        yield one("store dies while it is written to", _after(0, _writes))
        yield one("store full", lambda asked, hand_on: NO_ROOM if _writes(asked) else hand_on(asked))
        yield one("store keeps half of a file and dies", torn())
        yield one("store keeps a manifest and does not say so", _unsaid)


def _writes(asked: Asked) -> bool:
    return asked.method in ("PUT", "POST")


def _after(times: int, counted: Callable[[Asked], bool]) -> Between:
    """All goes well so many times; from then on nobody is there."""
    seen: list[Asked] = []

    def does(asked: Asked, hand_on: Handing) -> Answer:
        if counted(asked):
            seen.append(asked)
        return GONE if len(seen) > times else hand_on(asked)

    return does


def torn() -> Between:
    """The first file that is written stays half, as an interrupted copy does in a plain folder."""
    dead = threading.Event()

    def does(asked: Asked, hand_on: Handing) -> Answer:
        if dead.is_set():
            return GONE
        if not _writes(asked):
            return hand_on(asked)
        dead.set()
        hand_on(replace(asked, body=asked.body[: len(asked.body) // 2]))
        return GONE

    return does


def _unsaid(asked: Asked, hand_on: Handing) -> Answer:
    reply = hand_on(asked)
    return GONE if _writes(asked) and MANIFESTS in asked.path else reply


def store(stage: Stage, does: Between) -> Callable[[Services], AbstractContextManager[Services]]:
    """The stage's stores over HTTP, through a relay that does what it is told."""

    @contextmanager
    def between(given: Services) -> Iterator[Services]:
        folders = Folders({})
        with s3(folders) as buckets, Relay(buckets.url, does) as relay:

            def settings(value: dict[str, Any]) -> dict[str, Any]:
                changed, folders.folders = machine.buckets(given.settings(value))
                return changed

            options = machine.bucket_options(relay.url, stage.region)
            # fsspec asks again by itself; both together take minutes to believe that a store is dead.
            options["config_kwargs"] = {**options["config_kwargs"], "retries": {"total_max_attempts": 1}}
            yield replace(given, settings=settings, endpoints={**given.endpoints, "stores": {"s3": options}})

    return between
