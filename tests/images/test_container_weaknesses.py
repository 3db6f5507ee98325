"""What a container policy leaves open: nothing in ours, each thing in one that was changed, all in the real
one of a group that runs in the open."""

from __future__ import annotations

import base64
import json

import pytest
import real
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.images import container_policy
from jewelhouse.images.container_policy import POINTS, written
from jewelhouse.images.container_weaknesses import weaknesses

CONFIG = {"config": {"User": "0:0", "Entrypoint": ["/run"], "Env": ["PATH=/bin"]}}


@pytest.fixture(scope="module")
def policy():
    stage = container_policy._stage(CONFIG, "r.example/x", ["aa" * 32], ["JEWELHOUSE_STAGE"], where="")
    return written([stage, container_policy._pause()])


def test_ours_leaves_nothing_open(policy):
    assert weaknesses(policy) == ()


CHANGES = {
    "output-to-the-operator": (
        b'"allow_stdio_access":false',
        b'"allow_stdio_access":true',
        "containers[0].allow_stdio_access",
    ),
    "every-privilege": (b'"allow_elevated":false', b'"allow_elevated":true', "containers[0].allow_elevated"),
    "a-shell-inside": (
        b'"exec_processes":[]',
        b'"exec_processes":[{"command":["/bin/sh"],"signals":[]}]',
        "containers[0].exec_processes",
    ),
    "stacks": (b"allow_dump_stacks := false", b"allow_dump_stacks := true", "allow_dump_stacks"),
    "log-of-the-machine": (
        b"allow_runtime_logging := false",
        b"allow_runtime_logging := true",
        "allow_runtime_logging",
    ),
    "scratch-in-the-clear": (
        b"allow_unencrypted_scratch := false",
        b"allow_unencrypted_scratch := true",
        "allow_unencrypted_scratch",
    ),
    "environment-left-out": (
        b"allow_environment_variable_dropping := false",
        b"allow_environment_variable_dropping := true",
        "allow_environment_variable_dropping",
    ),
    "a-switch-nobody-knows": (
        b"allow_dump_stacks",
        b"allow_everything := true\nallow_dump_stacks",
        "allow_everything",
    ),
    "preload-behind-a-host-name": (b"^HOSTNAME=.+$", b"HOSTNAME=.+", "containers[0].env_rules[4]"),
    "anybody": (b'{"pattern":"0","strategy":"id"}', b'{"pattern":"","strategy":"any"}', "containers[0].user"),
    "no-layer": (b'"layers":["' + b"aa" * 32 + b'"]', b'"layers":[]', "containers[0].layers"),
    "an-older-interface": (b'api_version := "0.10.0"', b'api_version := "0.1.0"', "api_version"),
    "no-interface": (b'api_version := "0.10.0"\n', b"", "api_version"),
    "exec-open": (
        b"exec_in_container := data.framework.exec_in_container",
        b'exec_in_container := {"allowed": true}',
        "exec_in_container",
    ),
    "exec-of-a-policy-of-others": (
        b"data.framework.exec_in_container",
        b"data.framework.get_properties",
        "exec_in_container",
    ),
    "a-point-left-out": (b"scratch_mount := data.framework.scratch_mount\n", b"", "scratch_mount"),
    "containers-of-others": (
        b"did:x509:0:sha256:I__iuL25",
        b"did:x509:0:sha256:AAAAAAAA",
        "fragments[0].issuer",
    ),
    "processes-of-fragments": (
        b'"includes":["containers"',
        b'"includes":["external_processes"',
        "fragments[0].includes",
    ),
    "processes-beside": (
        b"allow_dump_stacks",
        b'external_processes := [{"command":["sh"]}]\nallow_dump_stacks',
        "external_processes",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_opening_is_found_by_its_place(policy, case):
    before, after, where = CHANGES[case]
    changed = policy.replace(before, after, 1)
    assert changed != policy
    assert [problem.where for problem in weaknesses(changed)] == [where]


def test_the_real_policy_of_an_open_group_is_open_everywhere():
    text = base64.b64decode(real.evidence("amd-sev-snp/azure-aci/uvm_security_policy.base64"))
    assert {problem.where for problem in weaknesses(text)} == set(POINTS)


junk = st.sampled_from(
    [
        None,
        [],
        {},
        1,
        "x",
        [None],
        [{"a": 1}],
        True,
        [{"env_rules": [1, {"strategy": []}], "user": {"group_idnames": [2]}}],
        [{"issuer": [], "includes": [{}], "layers": {}}],
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([*POINTS, "api_version", "containers", "fragments"]), junk))
def test_values_of_any_shape_are_judged(values):
    lines = [f"{name} := {json.dumps(value)}\n" for name, value in values.items()]
    found = weaknesses(("package policy\n" + "".join(lines)).encode())
    assert {"api_version", *POINTS} <= {problem.where for problem in found}
