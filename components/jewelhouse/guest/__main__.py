"""`python -m jewelhouse.guest`: one run of one stage, then the end. Status 0 only when all went well."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import memory, opening, settings, where
from jewelhouse.guest.record import Record
from jewelhouse.guest.run import Run, run
from jewelhouse.guest.settings import THE_CLOUD
from jewelhouse.model import Platform

IMAGE = Path("/etc/jewelhouse/image.json")
TRUST = Path("/etc/jewelhouse/trust.json")


def main(arguments: list[str] | None = None) -> int:
    """Runs the stage that the host names, as far as the measured settings allow it."""
    given = _arguments(arguments)
    memory.lock_down()
    # A stage that serves ends by being told to; what is open has to go then, too.
    signal.signal(signal.SIGTERM, _stop)
    record: Record | None = None
    status = 1
    try:
        parent = given.workspace or memory.somewhere()
        # Before anything else: what a run that was killed may have left.
        memory.clear(parent)
        image = json.loads(settings.read(given.image, "image"))
        trust = settings.trust(settings.read(given.trust, "trust"))
        endpoints = (
            settings.endpoints(settings.read(given.endpoints, "endpoints")) if given.endpoints else THE_CLOUD
        )
        platform = Platform(image["platform"])
        data = (
            settings.read(given.settings, "settings") if given.settings else where.stage(platform, endpoints)
        )
        stage = settings.stage(data)
        if stage.platform is not platform:
            raise settings.InvalidSettings(
                f"are for {stage.platform}, this image was built for {platform}", where="stage.platform"
            )
        record = Record(
            lifecycle=stage.lifecycle,
            stage=stage.stage,
            platform=stage.platform,
            began=datetime.now(UTC),
        )
        endpoints = opening.prepare(stage, endpoints)
        status = run(
            Run(
                stage=stage,
                trust=trust,
                opener=opening.opener(stage, endpoints),
                parent=parent,
                endpoints=endpoints,
                environment=image.get("environment", {}),
                report=_say,
            ),
            record,
        )
    except JewelhouseError as error:
        for problem in error.problems:
            _say(f"closed: {problem}")
        if record is not None and "refused" not in [one["event"] for one in record.events]:
            record.refused(error)
    except SystemExit:
        _say("told to stop")
        status = 128 + signal.SIGTERM
    if record is not None:
        signed = record.signed()
        print(f"jewelhouse-record: {signed.decode()}", flush=True)
        if given.record:
            given.record.write_bytes(signed)
    return status


def _stop(*_: object) -> None:
    raise SystemExit


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jewelhouse.guest", description=__doc__)
    for name, default, says in (
        ("image", IMAGE, "what this image is (measured)"),
        ("trust", TRUST, "what it trusts (measured)"),
        ("workspace", None, "folder in memory for what is open; /run or /dev/shm without it"),
        ("settings", None, "the stage's settings; asked of the platform without it"),
        ("endpoints", None, "services elsewhere than in the cloud, for a rehearsal"),
        ("record", None, "file for the signed record of the run, beside the console"),
    ):
        parser.add_argument(f"--{name}", type=Path, default=default, help=says)
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(f"jewelhouse: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
