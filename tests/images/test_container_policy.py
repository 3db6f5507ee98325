"""Policies of confidential container groups: hcsshim's own enforcer lets the pinned image start and nothing
else, the same image gives the same policy, and the tool's layer hashes are what the kernel would check."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import shutil
import struct
import subprocess

import pytest
import real
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import enforced

from jewelhouse.errors import JewelhouseError
from jewelhouse.evidence import maa
from jewelhouse.images import container_policy, dmverity, oci, rego
from jewelhouse.images.container_policy import (
    POINTS,
    SWITCHES,
    differences,
    encoded,
    hostdata,
    of_layout,
    written,
)
from jewelhouse.images.rego import MalformedRego, Reference
from jewelhouse.images.tree import Entry, Kind, tree
from jewelhouse.model import AttestedKey, AzureAccount, Cloud, Measurements, Platform, Tee
from jewelhouse.rehearsal.minting_tokens import ISSUED, MaaAuthority, container_claims
from jewelhouse.release import azure
from jewelhouse.release.documents import Document
from jewelhouse.release.evaluate import Request, evaluate
from jewelhouse.release.policy import Gate, ReleasePolicy

HASHES = ("aa" * 32, "bb" * 32)
COMMAND = ["/usr/bin/python3", "-m", "jewelhouse.guest"]
IMAGE = oci.Image(
    layers=[
        tree([Entry(path="usr/bin/python3", kind=Kind.FILE, mode=0o755, content=b"first layer")]),
        tree([Entry(path="etc/jewelhouse/trust.json", kind=Kind.FILE, mode=0o644, content=b"{}")]),
    ],
    entrypoint=COMMAND,
    environment={"PATH": "/usr/bin:/bin", "MODE": "strict"},
    epoch=1,
)
RESOLVER = {
    "destination": "/etc/resolv.conf",
    "options": ["rbind", "rshared", "rw"],
    "source": "/run/gcs/c/sandbox/sandboxMounts/tmp/atlas/resolvconf/abc",
    "type": "bind",
}
# What the service asks for without being told otherwise.
USUAL = [f"CAP_{name}" for name in ("CHOWN", "SETUID", "NET_RAW", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A layout, and the policy of it with hashes that are known beforehand."""
    path = tmp_path_factory.mktemp("image") / "layout"
    layout = oci.write(IMAGE, path)
    cache = path.parent / "cache"
    kept = cache / "dmverity" / dmverity.VERSION
    kept.mkdir(parents=True)
    for (digest, _), known in zip(layout.layers, HASHES, strict=True):
        (kept / digest.removeprefix("sha256:")).write_text(known)
    return path, layout, cache


@pytest.fixture(scope="module")
def policy(made):
    path, layout, cache = made
    return of_layout(path, reference=f"r.example/trainer@{layout.manifest}", cache=cache)


def started(**changes):
    """The start of a container as the service asks for it, with what an operator changed."""
    layers = changes.pop("layers", list(HASHES))
    mounts = [{"do": "mount_device", "target": f"/l{n}", "hash": layer} for n, layer in enumerate(layers)]
    # The topmost layer is named first.
    overlay = {
        "do": "mount_overlay",
        "container": "c",
        "target": "/root",
        "layers": [f"/l{number}" for number in reversed(range(len(layers)))],
    }
    environment = changes.pop("environment", [])
    create = {
        "do": "create_container",
        "container": "c",
        "command": COMMAND,
        "environment": ["PATH=/usr/bin:/bin", "MODE=strict", "JEWELHOUSE_STAGE={}", *environment],
        "directory": "/",
        "mounts": [RESOLVER],
        "noNewPrivileges": True,
        "user": {"ID": "0", "Name": "root"},
        "groups": [{"ID": "0", "Name": "root"}],
        "umask": "0022",
        "capabilities": USUAL,
        **changes,
    }
    return [*mounts, overlay, create]


def refusals(policy, steps):
    return [answer["Refused"] for answer in enforced(policy.decode(), steps)]


def test_the_pinned_image_starts_without_a_terminal_and_with_one_privilege(policy):
    *mounts, answer = enforced(policy.decode(), started())
    assert [one["Refused"] for one in mounts] == [None] * 3
    assert answer["Refused"] is None
    assert answer["Stdio"] is False
    assert answer["Capabilities"] == ["CAP_NET_BIND_SERVICE"]
    assert sorted(answer["Environment"]) == ["JEWELHOUSE_STAGE={}", "MODE=strict", "PATH=/usr/bin:/bin"]


SERVICE = [
    "TERM=xterm",
    "HOSTNAME=wk-caas-1",
    "TMP=/tmp",
    "TEMP=/tmp",
    "Fabric_ApplicationHostId=1",
    "FABRIC_NODE_NAME=x",
    "FabricPackageFileName=x",
    "HostedServiceName=caas",
    "IDENTITY_API_VERSION=2020-05-01",
    "IDENTITY_HEADER=ey.JhbG",
    "IDENTITY_SERVER_THUMBPRINT=65AB",
    "azurecontainerinstance_restarted_by=x",
]


def test_what_the_service_adds_to_the_environment_is_let_through(policy):
    assert refusals(policy, started(environment=SERVICE))[-1] is None


ATTACKS = {
    "another-command": {"command": ["/bin/sh"]},
    "one-more-argument": {"command": [*COMMAND, "--debug"]},
    "one-argument-less": {"command": COMMAND[:-1]},
    "another-directory": {"directory": "/tmp"},
    "code-by-preload": {"environment": ["LD_PRELOAD=/tmp/x.so"]},
    "code-by-python-path": {"environment": ["PYTHONPATH=/tmp"]},
    # The enforcer looks for a pattern anywhere in the text: these would pass one without its anchors.
    "preload-that-ends-in-a-name-that-is-let-through": {"environment": ["LD_PRELOAD=/x:HOSTNAME=y"]},
    "python-path-that-ends-in-TMP": {"environment": ["PYTHONPATH=/evil:TMP=x"]},
    "startup-that-ends-in-settings": {"environment": ["PYTHONSTARTUP=/JEWELHOUSE_STAGE=x"]},
    "preload-behind-a-line": {"environment": ["HOSTNAME=x\nLD_PRELOAD=/x"]},
    "line-before-a-name": {"environment": ["LD_PRELOAD=/x\nHOSTNAME=x"]},
    "fabric-inside-a-name": {"environment": ["XFABRIC_A=1"]},
    "own-value-changed": {"environment": ["MODE=lax"]},
    "path-changed": {"environment": ["PATH=/tmp:/usr/bin"]},
    "elevated": {"privileged": True},
    "new-privileges": {"noNewPrivileges": False},
    "another-user": {"user": {"ID": "1000", "Name": "x"}},
    "another-user-of-the-same-name": {"user": {"ID": "1000", "Name": "root"}},
    "another-group": {"groups": [{"ID": "0", "Name": "root"}, {"ID": "4", "Name": "adm"}]},
    "another-mask": {"umask": "0000"},
    "the-privilege-it-needs-taken-away": {"capabilities": ["CAP_CHOWN"]},
    "a-filter-of-system-calls": {"seccomp": "00" * 32},
    "a-folder-over-its-code": {"mounts": [RESOLVER, {**RESOLVER, "destination": "/usr/lib"}]},
    "a-folder-of-the-host": {"mounts": [{**RESOLVER, "source": "/host", "destination": "/etc/resolv.conf"}]},
    "the-resolver-executable": {"mounts": [{**RESOLVER, "options": ["rbind", "rw", "exec"]}]},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_operator_who_changes_how_it_starts_is_refused(policy, attack):
    *mounts, answer = refusals(policy, started(**copy.deepcopy(ATTACKS[attack])))
    assert mounts == [None] * 3
    assert answer is not None


ANCHORED = [
    attack for attack in ATTACKS if "ends-in" in attack or "line" in attack or "inside-a-name" in attack
]


@pytest.mark.parametrize("attack", ANCHORED)
def test_without_anchors_the_same_attack_passes(policy, attack):
    """Why the patterns differ from those that `az confcom` writes."""
    loose = re.sub(rb'"\^([^"]+)\$"', rb'"\1"', policy)
    assert loose != policy
    assert refusals(loose, started(**copy.deepcopy(ATTACKS[attack])))[-1] is None


@pytest.mark.parametrize("name", ["PATH", "MODE", "JEWELHOUSE_STAGE"])
def test_what_was_set_for_it_is_not_left_out(policy, name):
    steps = started()
    steps[-1]["environment"] = [one for one in steps[-1]["environment"] if not one.startswith(f"{name}=")]
    assert refusals(policy, steps)[-1] is not None


@pytest.mark.parametrize(
    "layers",
    [["cc" * 32], [HASHES[1], HASHES[0]], [HASHES[0]], [HASHES[0], HASHES[0]], [*HASHES, HASHES[1]]],
    ids=["a-foreign-layer", "layers-swapped", "trust-settings-left-out", "one-twice", "one-more"],
)
def test_other_layers_are_not_mounted(policy, layers):
    # A refused step stops the life of the container; the last one is never reached.
    assert refusals(policy, started(layers=layers))[-1] is not None


INSIDE = {
    "a-shell": {"do": "exec_in_container", "command": ["/bin/sh"], "environment": [], "directory": "/"},
    "its-own-command-again": {
        "do": "exec_in_container",
        "command": COMMAND,
        "environment": [],
        "directory": "/",
    },
    "a-process-beside-it": {
        "do": "exec_external",
        "command": ["/bin/sh"],
        "environment": [],
        "directory": "/",
    },
    "its-stacks": {"do": "dump_stacks"},
    "the-machine's-log": {"do": "runtime_logging"},
    "a-signal": {"do": "signal", "signal": 15, "command": COMMAND},
    "scratch-in-the-clear": {"do": "scratch_mount", "target": "/scratch", "encrypted": False},
    "a-fragment-of-another": {
        "do": "load_fragment",
        "issuer": "did:x509:0:sha256:AAAA::eku:1.2.3",
        "feed": "mcr.microsoft.com/aci/aci-cc-infra-fragment",
        "rego": 'package fragment\nsvn := "9"\nframework_version := "0.2.3"\ncontainers := []\n',
    },
    "a-fragment-of-another-feed": {
        "do": "load_fragment",
        "issuer": container_policy.FRAGMENTS[0]["issuer"],
        "feed": "evil.example/fragment",
        "rego": 'package fragment\nsvn := "9"\nframework_version := "0.2.3"\ncontainers := []\n',
    },
    "a-fragment-before-the-first": {
        "do": "load_fragment",
        "issuer": container_policy.FRAGMENTS[0]["issuer"],
        "feed": container_policy.FRAGMENTS[0]["feed"],
        "rego": 'package fragment\nsvn := "0"\nframework_version := "0.2.3"\ncontainers := []\n',
    },
}


@pytest.mark.parametrize("look", INSIDE)
def test_nobody_looks_into_a_running_container(policy, look):
    base = started()
    step = {**base[-1], **INSIDE[look], "container": "c"}
    *before, answer = refusals(policy, [*base, step])
    assert before == [None] * 4
    assert answer is not None


ALLOWED = {
    "sizes-and-process-ids": {"do": "get_properties"},
    "encrypted-scratch": {"do": "scratch_mount", "target": "/scratch", "encrypted": True},
    "an-end": {"do": "shutdown", "container": "c"},
    "containers-of-the-service": {
        **INSIDE["a-fragment-before-the-first"],
        "rego": 'package fragment\nsvn := "1"\nframework_version := "0.2.3"\ncontainers := []\n',
    },
}


@pytest.mark.parametrize("step", ALLOWED)
def test_what_a_group_needs_to_live_is_let_through(policy, step):
    assert refusals(policy, [*started(), ALLOWED[step]]) == [None] * 5


def test_the_container_that_holds_the_namespaces_starts(policy):
    pause = started(
        layers=[container_policy.PAUSE_LAYER],
        command=["/pause"],
        mounts=[],
        noNewPrivileges=False,
        user={"ID": "65535", "Name": ""},
        groups=[{"ID": "65535", "Name": ""}],
        capabilities=list(container_policy.PAUSE_CAPABILITIES),
    )
    pause[-1]["environment"] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert refusals(policy, pause) == [None] * 3


@pytest.mark.parametrize("name", [name for name, value in SWITCHES.items() if not value])
def test_each_switch_that_is_off_would_open_something(policy, name):
    """The enforcer knows every switch by its name: what is refused with it off is let through with it on."""
    opened = policy.replace(f"{name} := false".encode(), f"{name} := true".encode())
    assert opened != policy
    steps = {
        "allow_dump_stacks": [{"do": "dump_stacks"}],
        "allow_runtime_logging": [{"do": "runtime_logging"}],
        "allow_unencrypted_scratch": [{"do": "scratch_mount", "target": "/s", "encrypted": False}],
        "allow_environment_variable_dropping": started(environment=["LD_PRELOAD=/x"]),
    }[name]
    assert refusals(policy, steps)[-1] is not None
    assert refusals(opened, steps)[-1] is None


def test_a_policy_is_what_it_was_computed_to_be(policy, made):
    path, layout, cache = made
    again = of_layout(path, reference=f"r.example/trainer@{layout.manifest}", cache=cache)
    assert again == policy
    assert base64.b64decode(encoded(policy), validate=True) == policy
    assert hostdata(policy) == hashlib.sha256(policy).hexdigest()
    module = rego.read(policy)
    assert module.package == "policy"
    assert {point: module.values[point] for point in POINTS} == {
        point: Reference(f"data.framework.{point}") for point in POINTS
    }
    assert {name: module.values[name] for name in SWITCHES} == dict(SWITCHES)
    stage, pause = module.values["containers"]
    assert stage["layers"] == list(HASHES)
    assert stage["id"].endswith(layout.manifest)
    for container in (stage, pause):
        assert container["allow_elevated"] is container["allow_stdio_access"] is False
        assert container["exec_processes"] == container["signals"] == []


def test_every_pattern_is_anchored(policy):
    stage, _ = rego.read(policy).values["containers"]
    patterns = [rule["pattern"] for rule in stage["env_rules"] if rule["strategy"] == "re2"]
    assert patterns
    assert all(pattern.startswith("^") and pattern.endswith("$") for pattern in patterns)


def test_a_key_is_released_to_this_policy_and_to_no_other(policy):
    """From the policy's text to Key Vault's decision: hostdata as pinned, and as evidence says it."""
    gate = Gate(
        stage="train",
        platform=Platform.AZURE_CONTAINER,
        tee=Tee.SEV_SNP,
        account=AzureAccount(subscription=f"{1:032x}", tenant=f"{2:032x}"),
        measurements=(Measurements(values={"hostdata": hostdata(policy)}),),
    )
    key = AttestedKey("base", Platform.AZURE_CONTAINER, "westeurope")
    body = azure.compile(ReleasePolicy(key=key, owner=gate.account, gates=(gate,)))
    document = Document(name="policy.json", cloud=Cloud.AZURE, body=body)
    opened = policy.replace(b"allow_dump_stacks := false", b"allow_dump_stacks := true")
    authority = MaaAuthority.new()
    decisions = []
    for text in (policy, opened):
        token = authority.token(container_claims(hostdata(text)))
        verdict = maa.verify(token, at=ISSUED, endorsements=authority.endorsements, roots=authority.roots)
        assert verdict.verified, verdict.problems
        decisions.append(evaluate(document, verdict, Request(at=ISSUED)).released)
    assert decisions == [True, False]


def test_the_reference_must_name_the_image(made):
    path, _, cache = made
    for reference in ("r.example/trainer:latest", f"r.example/trainer@sha256:{'0' * 64}"):
        with pytest.raises(JewelhouseError, match="does not name the image"):
            of_layout(path, reference=reference, cache=cache)


@pytest.mark.parametrize("user", ["", "root", "0", "0:root", "-1:0", "0:0:0", "00:0"])
def test_a_user_that_is_no_number_is_refused(tmp_path, user):
    image = oci.Image(layers=IMAGE.layers, entrypoint=COMMAND, user=user)
    layout = oci.write(image, tmp_path / "layout")
    kept = tmp_path / "dmverity" / dmverity.VERSION
    kept.mkdir(parents=True)
    for digest, _ in layout.layers:
        (kept / digest.removeprefix("sha256:")).write_text("aa" * 32)
    with pytest.raises(JewelhouseError, match="by number"):
        of_layout(tmp_path / "layout", reference=f"r.example/x@{layout.manifest}", cache=tmp_path)


def test_a_setting_that_is_a_pattern_is_refused(made):
    path, layout, cache = made
    with pytest.raises(JewelhouseError, match="no name of environment"):
        of_layout(path, reference=f"r.example/x@{layout.manifest}", cache=cache, settings=["A|.*"])


def test_differences_are_said_by_their_place(policy):
    other = policy.replace(HASHES[1].encode(), b"cc" * 32)
    assert differences(policy, other) == (f'containers[0].layers[1]: "{HASHES[1]}" became "{"cc" * 32}"',)
    other = policy.replace(b"allow_dump_stacks := false", b"allow_dump_stacks := true")
    assert differences(policy, other) == ("allow_dump_stacks: false became true",)
    other = policy.replace(b"data.framework.exec_in_container", b'{"allowed": true}')
    assert differences(policy, other) == (
        'exec_in_container: data.framework.exec_in_container became {"allowed": true}',
    )
    other = policy.replace(b"allow_runtime_logging := false\n", b"")
    assert differences(policy, other) == ("allow_runtime_logging: false is gone",)
    assert differences(other, policy) == ("allow_runtime_logging: false is new",)
    assert differences(policy, policy) == ()


def test_true_and_one_are_not_the_same():
    assert differences(b"package p\na := true\n", b"package p\na := 1\n") == ("a: true became 1",)


def test_the_policy_of_a_real_group_is_read_and_is_its_hostdata():
    """The evidence of a group that runs in the open: every point allowed, as its differences say."""
    text = base64.b64decode(real.evidence("amd-sev-snp/azure-aci/uvm_security_policy.base64"))
    report = real.evidence("amd-sev-snp/azure-aci/snp_report.bin")
    # HOST_DATA of the report (AMD 56860, ATTESTATION_REPORT).
    assert report[0xC0:0xE0].hex() == hostdata(text)
    module = rego.read(text)
    assert module.package == "policy"
    assert set(module.values) == {"api_svn", *POINTS}
    ours = written([])
    lines = differences(text, ours)
    assert set(POINTS) <= {line.split(":")[0].split(".")[0] for line in lines}


def test_our_policy_has_what_the_real_one_asks_about():
    text = base64.b64decode(real.evidence("amd-sev-snp/azure-aci/uvm_security_policy.base64"))
    theirs, ours = rego.read(text).values, rego.read(written([])).values
    assert {name for name in theirs if name != "api_svn"} <= set(ours)


MALFORMED = {
    "nothing": (b"", "no package"),
    "no-package": (b"a := 1\n", "no package"),
    "not-text": (b'package p\na := "\xff"\n', "no UTF-8"),
    "a-rule-with-a-body": (b"package p\nallow { input.x }\n", "no plain"),
    "a-default": (b"package p\ndefault allow := true\n", "no plain"),
    "a-function": (b"package p\nf(x) := true\n", "no plain"),
    "a-name-twice": (b"package p\na := 1\na := 2\n", "a second value"),
    "a-member-twice": (b'package p\na := {"b": 1, "b": 2}\n', "twice"),
    "two-statements-in-a-line": (b"package p\na := 1 b := 2\n", "after a value"),
    "a-condition-after-the-value": (b"package p\na := true if input.x\n", "after a value"),
    "an-else": (b"package p\na := false else := true\n", "after a value"),
    "an-expression": (b"package p\na := 1 + 1\n", "after a value"),
    "a-reference-to-input": (b"package p\na := input.x\n", "no value"),
    "an-indexed-reference": (b"package p\na := data.x[0]\n", "after a value"),
    "a-call": (b"package p\na := count([])\n", "no value"),
    "a-comprehension": (b"package p\na := [x | x := 1]\n", "no value"),
    "a-raw-string": (b"package p\na := `x`\n", "no value"),
    "a-fraction": (b"package p\na := 1.5\n", "no value"),
    "a-huge-number": (b"package p\na := 99999999999999999999\n", "no value"),
    "half-a-character": (b'package p\na := "\\ud800"\n', "half of a character"),
    "a-string-over-lines": (b'package p\na := "x\ny"\n', "string"),
    "an-open-list": (b"package p\na := [1,\n", "no value"),
    "an-open-object": (b'package p\na := {"b": 1\n', "lacks ','"),
    "too-deep": (b"package p\na := " + b"[" * 100 + b"]" * 100 + b"\n", "nested"),
    "an-import-after-values": (b"package p\na := 1\nimport future.keywords\n", "no plain"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_text_that_is_no_plain_policy_is_refused(case):
    data, said = MALFORMED[case]
    with pytest.raises(MalformedRego, match=re.escape(said)):
        rego.read(data)


def test_a_comma_at_the_end_is_read_as_in_rego_or_refused():
    with pytest.raises(MalformedRego):
        rego.read(b"package p\na := [1,]\n")


def test_where_it_went_wrong_is_said():
    with pytest.raises(MalformedRego) as raised:
        rego.read(b"package p\n\na := [1, nonsense]\n")
    assert raised.value.where == "line 3, column 10"


def test_comments_and_space_say_nothing():
    text = b"# by hand\npackage p # the package\n\n# a\na := [ # one\n  1\n]\n"
    assert rego.read(text).values == {"a": [1]}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(values, st.sampled_from([None, 2]))
def test_every_json_value_is_read_as_json_reads_it(value, indent):
    text = json.dumps(value, indent=indent)
    assert rego.read(f"package p\na := {text}\n".encode()).values["a"] == json.loads(text)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200)
    | st.text(alphabet='packge p\n:=[]{},"\\u0dtrfalsn1#.', max_size=80).map(str.encode)
)
def test_any_bytes_are_a_policy_or_malformed(data):
    for candidate in (data, b"package p\na := " + data):
        try:
            rego.read(candidate)
        except MalformedRego:
            continue


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_said_or_refused(data, policy):
    place = data.draw(st.integers(0, len(policy) - 1))
    changed = bytearray(policy)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        lines = differences(policy, bytes(changed))
    except MalformedRego:
        return
    same = rego.read(policy) == rego.read(bytes(changed))
    assert bool(lines) is not same


def tool():
    found = dmverity.tool()
    if found is None:
        pytest.skip("dmverity-vhd is not built: run `make dmverity` (needs Go)")
    return found


def test_layers_hash_the_same_alone_together_and_from_the_cache(made, tmp_path):
    tool()
    path, layout, _ = made
    blobs = path / "blobs" / "sha256"
    digests = [digest for digest, _ in layout.layers]
    told: list[str] = []
    both = dmverity.root_hashes(blobs, digests, tmp_path / "one", told.append)
    alone = tuple(dmverity.root_hashes(blobs, [digest], tmp_path / "two")[0] for digest in digests)
    assert both == alone
    assert len(set(both)) == 2
    assert dmverity.root_hashes(blobs, [*reversed(digests), digests[0]], tmp_path / "one", told.append) == (
        *reversed(both),
        both[0],
    )
    assert len(told) == 1


def test_a_root_hash_is_the_one_that_the_kernel_checks(made, tmp_path):
    """The tool's disk image of a layer: cryptsetup checks its dm-verity tree against the root hash."""
    veritysetup = shutil.which("veritysetup") or shutil.which("veritysetup", path="/usr/sbin:/sbin")
    if veritysetup is None:
        pytest.skip("veritysetup is not installed: apt-get install cryptsetup-bin")
    program = tool()
    path, layout, _ = made
    blobs = path / "blobs" / "sha256"
    digests = [digest for digest, _ in layout.layers]
    found = dmverity.root_hashes(blobs, digests, tmp_path / "cache")
    dmverity._write_tarball(blobs, digests, tmp_path / "image.tar")
    subprocess.run(
        [
            program,
            "--tarball",
            tmp_path / "image.tar",
            "create",
            "--image",
            dmverity._NAME,
            "--out-dir",
            tmp_path,
        ],
        check=True,
        capture_output=True,
    )
    for digest, known in zip(digests, found, strict=True):
        disk = tmp_path / f"{digest.removeprefix('sha256:')}.vhd"
        # ext4 superblock: blocks and the logarithm of their size (kernel.org: filesystems/ext4/super.html).
        superblock = disk.read_bytes()[1024:2048]
        blocks, exponent = (
            struct.unpack_from("<I", superblock, 4)[0],
            struct.unpack_from("<I", superblock, 24)[0],
        )
        offset = blocks * (1024 << exponent)
        check = [veritysetup, "verify", str(disk), str(disk), known, f"--hash-offset={offset}"]
        done = subprocess.run(check, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        wrong = subprocess.run([*check[:4], "00" * 32, check[5]], capture_output=True)
        assert wrong.returncode != 0


def test_a_layer_that_is_no_tar_is_refused(tmp_path):
    tool()
    digest = f"sha256:{'11' * 32}"
    (tmp_path / ("11" * 32)).write_bytes(b"no tar at all" * 1000)
    with pytest.raises(JewelhouseError, match="failed with 1"):
        dmverity.root_hashes(tmp_path, [digest], tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*"))


def test_without_the_tool_it_is_said_how_to_get_it(made, tmp_path, monkeypatch):
    path, layout, _ = made
    monkeypatch.setenv("JEWELHOUSE_DMVERITY_VHD", str(tmp_path / "missing"))
    with pytest.raises(JewelhouseError, match="is missing") as raised:
        of_layout(path, reference=f"r.example/x@{layout.manifest}", cache=tmp_path)
    assert "make dmverity" in raised.value.remedy


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "failed with 3"),
        ("echo nothing", "hashes of 0 layers"),
        (f"echo Layer 0 root hash: {'aa' * 32}", "hashes of 1 layers"),
        (f"echo Layer 7 root hash: {'aa' * 32}; echo Layer 1 root hash: {'bb' * 32}", "hashes of 2 layers"),
    ],
    ids=["fails", "silent", "a-layer-left-out", "another-layer"],
)
def test_a_tool_that_does_not_answer_for_every_layer_is_not_believed(
    made, tmp_path, monkeypatch, script, said
):
    path, layout, _ = made
    program = tmp_path / "tool"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("JEWELHOUSE_DMVERITY_VHD", str(program))
    with pytest.raises(JewelhouseError, match=said):
        of_layout(path, reference=f"r.example/x@{layout.manifest}", cache=tmp_path / "cache")


@pytest.mark.parametrize("kept", ["", "aa", "zz" * 32, "aa" * 32 + "\nbb", "\u00e4"])
def test_a_cache_that_holds_something_else_is_computed_again(made, tmp_path, monkeypatch, kept):
    path, layout, _ = made
    digest = layout.layers[0][0]
    place = tmp_path / dmverity.VERSION / digest.removeprefix("sha256:")
    place.parent.mkdir(parents=True)
    place.write_text(kept, encoding="utf-8")
    program = tmp_path / "tool"
    program.write_text(f"#!/bin/sh\necho Layer 0 root hash: {'dd' * 32}\n")
    program.chmod(0o755)
    monkeypatch.setenv("JEWELHOUSE_DMVERITY_VHD", str(program))
    assert dmverity.root_hashes(path / "blobs" / "sha256", [digest], tmp_path) == ("dd" * 32,)
    assert place.read_text().strip() == "dd" * 32
