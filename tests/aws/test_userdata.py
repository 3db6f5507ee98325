from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jewelhouse.aws import userdata
from jewelhouse.errors import JewelhouseError

DIGEST = "ab" * 32
STAGE = json.dumps({"stage": "tune", "note": "$(reboot) `id` \"quoted\" 'single'"})


def script(**changes: Any) -> str:
    values: dict[str, Any] = {
        "region": "eu-central-1",
        "bucket": "images-1a2b3c4",
        "image_digest": f"sha256:{DIGEST}",
        "cpus": 8,
        "memory": 32768,
        "log_group": "/jewelhouse/llm/tune",
        "stage": STAGE,
    }
    return userdata.enclave_parent(**{**values, **changes})


def files(text: str) -> dict[str, str]:
    """What the script writes, by path."""
    return {
        match[1]: match[2]
        for match in re.finditer(
            r"^cat >(\S+) <<'END-OF-FILE'\n(.*?)^END-OF-FILE$", text, re.DOTALL | re.MULTILINE
        )
    }


def syntax(text: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(text)
    checked = subprocess.run(["bash", "-n", tmp_path / "script"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_every_script_is_bash(tmp_path: Path) -> None:
    text = script()
    written = files(text)
    for body in (
        text,
        written["/usr/local/libexec/jewelhouse/run"],
        written["/usr/local/libexec/jewelhouse/health"],
    ):
        syntax(body, tmp_path)
        assert body.startswith("#!/bin/bash\n")
        assert "set -euo pipefail" in body


def test_the_allocator_file_is_what_its_parser_takes() -> None:
    text = files(script())["/etc/nitro_enclaves/allocator.yaml"]
    # Keys before `---` are skipped, and an unknown one fails: nitro-enclaves-allocator, parse_config.
    assert text.startswith("---\n")
    assert yaml.safe_load(text) == {"memory_mib": 32768, "cpu_count": 8}


@pytest.mark.parametrize(("memory", "pages"), [(1024, 1), (32768, 32), (2500, 3)])
def test_pages_of_1_gib_are_reserved_while_the_kernel_starts(memory: int, pages: int) -> None:
    text = script(memory=memory)
    assert f'grubby --update-kernel=ALL --args="hugepagesz=1G hugepages={pages}"' in text
    # The reservation needs a new start, after everything is in place.
    assert text.rstrip().endswith("systemctl reboot")
    assert text.index("systemctl enable") < text.index("grubby")


@pytest.mark.parametrize(
    ("region", "hosts"),
    [
        ("eu-central-1", {"kms.eu-central-1.amazonaws.com": 443, "s3.eu-central-1.amazonaws.com": 443}),
        ("cn-north-1", {"kms.cn-north-1.amazonaws.com.cn": 443, "s3.cn-north-1.amazonaws.com.cn": 443}),
        (
            "us-gov-west-1",
            {"kms.us-gov-west-1.amazonaws.com": 443, "s3.us-gov-west-1.amazonaws.com": 443},
        ),
    ],
)
def test_the_enclave_reaches_exact_hosts_and_no_others(region: str, hosts: dict[str, int]) -> None:
    text = script(region=region)
    allowed = yaml.safe_load(files(text)["/etc/jewelhouse/vsock-proxy.yaml"])
    found = {entry["address"]: entry["port"] for entry in allowed["allowlist"]}
    assert found == {**hosts, "169.254.169.254": 80}
    # vsock-proxy expands nothing, so a placeholder would be a host that does not exist.
    assert not re.search(r"[$*{}]", "".join(found))
    for proxy in userdata.proxies(region):
        assert f"{proxy.host} {proxy.port} >/etc/jewelhouse/proxy-{proxy.vsock_port}.env" in text
        assert f"jewelhouse-proxy@{proxy.vsock_port}.service" in text


def test_the_image_is_fetched_by_digest_and_checked() -> None:
    run = files(script())["/usr/local/libexec/jewelhouse/run"]
    assert f"digest={DIGEST}" in run
    assert f"--bucket images-1a2b3c4 --key sha256/{DIGEST}.eif" in run
    assert run.index("sha256sum --check") < run.index("nitro-cli run-enclave")
    assert 'matches "$image.part" || die' in run


def test_the_enclave_runs_without_debug() -> None:
    text = script()
    run = files(text)["/usr/local/libexec/jewelhouse/run"]
    assert "--debug-mode" not in text
    assert "--attach-console" not in text
    assert "run-enclave --eif-path" in run
    assert '--cpu-count 8 --memory "$memory"' in run


def test_a_failing_host_gives_itself_up() -> None:
    text = script()
    assert "trap 'echo" in text
    assert "systemctl poweroff' ERR" in text
    written = files(text)
    for unit in ("enclave.service", "health.service"):
        assert "OnFailure=jewelhouse-unhealthy.service" in written[f"/etc/systemd/system/jewelhouse-{unit}"]
    assert "systemctl poweroff" in written["/etc/systemd/system/jewelhouse-unhealthy.service"]
    enclave = written["/etc/systemd/system/jewelhouse-enclave.service"]
    assert "Requires=nitro-enclaves-allocator.service" in enclave
    for unit in ("jewelhouse-enclave.service", "jewelhouse-health.timer", "nitro-enclaves-allocator.service"):
        assert unit in text[text.index("systemctl enable") :]


def run_with(tools: dict[str, str], body: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script with stand-ins for the tools that need an EC2 host."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    for name, text in tools.items():
        (bin_directory / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_directory / name).chmod(0o755)
    return subprocess.run(
        ["bash", "-c", body],
        capture_output=True,
        text=True,
        env={"PATH": f"{bin_directory}:/usr/bin:/bin"},
    )


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq judges the health of an enclave")
@pytest.mark.parametrize(
    ("enclaves", "healthy"),
    [
        ([{"State": "RUNNING", "Flags": "NONE"}], True),
        ([{"State": "RUNNING", "Flags": "DEBUG_MODE"}], False),
        ([{"State": "TERMINATING", "Flags": "NONE"}], False),
        ([], False),
        ([{"State": "RUNNING", "Flags": "NONE"}, {"State": "RUNNING", "Flags": "NONE"}], False),
    ],
)
def test_health_is_one_running_enclave_without_debug(
    enclaves: list[dict[str, str]], healthy: bool, tmp_path: Path
) -> None:
    body = files(script())["/usr/local/libexec/jewelhouse/health"]
    done = run_with({"nitro-cli": f"echo '{json.dumps(enclaves)}'", "sleep": ""}, body, tmp_path)
    assert (done.returncode == 0) is healthy, done.stderr


def test_the_host_does_not_start_an_image_with_another_digest(tmp_path: Path) -> None:
    body = files(script(memory=0))["/usr/local/libexec/jewelhouse/run"]
    body = body.replace("/var/lib/jewelhouse", str(tmp_path / "images"))
    tools = {
        "aws": 'echo "something else" >"${@: -1}"',
        "nitro-cli": f"touch {tmp_path}/started",
        "sleep": "",
    }
    done = run_with(tools, body, tmp_path)
    assert done.returncode != 0
    assert f"not the one with digest {DIGEST}" in done.stderr
    assert not (tmp_path / "started").exists()


def test_the_host_does_not_start_short_of_pages(tmp_path: Path) -> None:
    body = files(script(memory=2**40))["/usr/local/libexec/jewelhouse/run"]
    done = run_with({"nitro-cli": f"touch {tmp_path}/started"}, body, tmp_path)
    assert done.returncode != 0
    assert f"the enclave needs {2**40}" in done.stderr
    assert not (tmp_path / "started").exists()


def test_what_the_guest_reads_arrives_as_it_is() -> None:
    written = files(script())
    assert written["/etc/jewelhouse/stage.json"] == STAGE + "\n"
    assert "ListenStream=vsock::8003" in written["/etc/systemd/system/jewelhouse-stage.socket"]


def test_logs_go_to_the_group_of_the_stage() -> None:
    agent = json.loads(files(script())["/etc/jewelhouse/cloudwatch-agent.json"])
    assert agent["agent"] == {"region": "eu-central-1"}
    (entry,) = agent["logs"]["logs_collected"]["files"]["collect_list"]
    assert entry["log_group_name"] == "/jewelhouse/llm/tune"


def test_nobody_logs_in() -> None:
    assert "systemctl mask --now sshd.service" in script()


def test_user_data_over_16_kib_is_refused() -> None:
    with pytest.raises(JewelhouseError, match="EC2 takes 16384"):
        script(stage="x" * 16384)


@pytest.mark.parametrize(
    "digest", ["", "latest", f"sha256:{DIGEST[:-1]}", f"sha512:{DIGEST}", f"sha256:{DIGEST}x"]
)
def test_an_image_is_named_by_digest_or_not_at_all(digest: str) -> None:
    with pytest.raises(JewelhouseError, match="does not name an enclave image"):
        script(image_digest=digest)
