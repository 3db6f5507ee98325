"""A serial console that kernel, guest and workload write to: what is believed of it, and what is not."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest.opening import Closed
from jewelhouse.guest.record import Record
from jewelhouse.rehearsal import console
from jewelhouse.rehearsal.minting_nitro import Authority, recipient, registers

AUTHORITY = Authority.new(datetime.now(UTC), "rehearsal")
BOOT = "[    0.000000] Linux version 6.12\njewelhouse: finetuner on aws-enclave, kernel 6.12\n"
END = "jewelhouse: the guest ended with {}; switching off\n[    9.9] reboot: machine restart\n"
DENIED = "arn:aws:kms:key/1: the release policy does not admit this stage"


def record(stage="finetune", refused=False):
    made = Record(lifecycle="flow", stage=stage, platform="aws-enclave", began=datetime.now(UTC))
    made.ran(0)
    if refused:
        where, _, what = DENIED.partition(": ")
        made.refused(Closed(what, where=where, remedy="compare the evidence"))
    return made


def document(bound):
    return AUTHORITY.document(
        registers(),
        indefinite=True,
        timestamp=int(datetime.now(UTC).timestamp() * 1000),
        public_key=recipient(),
        nonce=None,
        user_data=bound,
    )


def line(made):
    return f"jewelhouse-record: {made.signed().decode()}\n"


OWN, OTHER = record(), record("served by the workload")
REFUSED = record(refused=True)
EVIDENCE, REFUSED_EVIDENCE = document(OWN.bound), document(REFUSED.bound)


def changed(made):
    """The guest's record with another content, its signature as it was."""
    envelope = json.loads(made.signed())
    body = json.loads(base64.b64decode(envelope["payload"]))
    body["events"] = [{"event": "sealed", "artifact": "adapter"}]
    envelope["payload"] = base64.b64encode(json.dumps(body).encode()).decode()
    return f"jewelhouse-record: {json.dumps(envelope)}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param(line(OTHER), "", id="record-of-its-own-before"),
        pytest.param("", line(OTHER), id="record-of-its-own-after-by-what-it-left-running"),
        pytest.param(changed(OWN), changed(OWN), id="changed-record-of-the-guest"),
        pytest.param("jewelhouse-record: {}\njewelhouse-record: \n", "", id="what-is-no-record"),
        pytest.param("jewelhouse-record: " + "[" * 20_000 + "\n", "", id="record-without-a-bottom"),
        pytest.param("jewelhouse: closed: base: nobody may open it\n", "", id="closed-door"),
        pytest.param(END.format(0), "", id="end-of-the-guest"),
        pytest.param("\x1b[2J\x1b[1;1H\0\x07 \ud83d\n", "", id="sequences-for-a-terminal"),
    ],
)
def test_what_a_workload_prints_is_not_taken_for_the_guests_words(before, after):
    text = BOOT + before + line(OWN) + after + END.format(3)
    said = console.read(text.replace("\n", "\r\n"), [EVIDENCE])
    assert said.record["stage"] == "finetune"
    assert [one["event"] for one in said.record["events"]] == ["ran"]
    assert said.closed == ()
    assert said.status == 3


def test_a_workload_that_asks_for_evidence_of_its_own_key_is_not_the_guest():
    text = BOOT + line(OWN) + line(OTHER) + END.format(0)
    assert console.read(text, [EVIDENCE, document(OTHER.bound)]).record["stage"] == "finetune"


def test_a_closed_door_counts_when_the_guests_record_has_it():
    lies = "jewelhouse: closed: base: was opened by somebody else\n"
    text = (
        BOOT + f"{lies}jewelhouse: closed: {DENIED}\n  compare the evidence\n" + line(REFUSED) + END.format(1)
    )
    assert console.read(text, [REFUSED_EVIDENCE]).closed == (DENIED,)


def test_a_guest_that_asked_for_no_evidence_ran_no_workload_and_is_believed():
    text = BOOT + "jewelhouse: closed: settings: cannot be had\n" + END.format(1)
    said = console.read(text, [])
    assert (said.status, said.closed, said.record) == (1, ("settings: cannot be had",), {})


@pytest.mark.parametrize(
    ("text", "evidence", "says"),
    [
        pytest.param(BOOT + END.format(0), [EVIDENCE], "has shown 0 records", id="evidence-without-a-record"),
        pytest.param(
            BOOT + line(OTHER) + END.format(0),
            [EVIDENCE],
            "none by the key that its evidence names",
            id="workload-that-signs-for-a-guest-it-killed",
        ),
        pytest.param(
            BOOT + line(OWN)[:-40] + "\n" + END.format(0), [EVIDENCE], "0 records", id="record-cut-off"
        ),
        pytest.param(
            BOOT + line(OWN) + END.format(0),
            [document(None)],
            "none by the key",
            id="evidence-that-names-no-key",
        ),
        pytest.param(BOOT, [], "without a word of its first process", id="machine-that-was-cut-off"),
        pytest.param(
            BOOT + "[ 3.1] Kernel panic - not syncing: No working init found.\n",
            [],
            "Kernel panic - not syncing: No working init found",
            id="kernel-that-gave-up",
        ),
        pytest.param(
            BOOT + "echo jewelhouse: the guest ended with 0; switching off\n",
            [],
            "without a word",
            id="end-in-the-middle-of-a-line",
        ),
        pytest.param("", [EVIDENCE], "without a word", id="silence"),
    ],
)
def test_a_console_that_proves_nothing_is_an_error(text, evidence, says):
    with pytest.raises(JewelhouseError, match=says):
        console.read(text, evidence)


LINES = st.lists(
    st.sampled_from([line(OTHER), line(REFUSED), changed(OWN), END.format(0), "jewelhouse: closed: x: y\n"])
    | st.text(max_size=30).map(lambda text: f"jewelhouse-record: {text}\n")
    | st.text(max_size=30),
    max_size=6,
)


@given(lines=LINES, own=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_text_makes_another_record_of_it(lines, own):
    text = "".join(lines) + "\n" + (line(OWN) if own else "") + END.format(0)
    try:
        said = console.read(text, [EVIDENCE])
    except JewelhouseError:
        assert not own
    else:
        assert own
        assert said.record["stage"] == "finetune"
        assert said.closed == ()
