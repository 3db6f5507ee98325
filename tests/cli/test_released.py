"""`weights` on attested hardware: what a release opens there, and what stays shut."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aws_rehearsed import KEY, REGION, authority, credentials, no_pauses, place, rsa_key
from sealed import contents, signing_key, small, write

from jewelhouse.cli import main
from jewelhouse.guest import memory
from jewelhouse.model import ArtifactKind, Platform
from jewelhouse.rehearsal.minting_nitro import Authority
from jewelhouse.weights import seal, sources, stores, wrap

pytestmark = pytest.mark.usefixtures("no_pauses")
__all__ = ["no_pauses"]


@pytest.fixture
def files(tmp_path):
    """An artifact sealed to the attested key, and the settings of the stage that opens it."""
    source = small(tmp_path / "source")
    producer, public = write(tmp_path / "producer", signing_key("producer"))
    now = datetime.now(UTC)
    key = write(tmp_path / "attested", rsa_key(0))[1]
    seal.seal(
        sources.source(source),
        stores.store(tmp_path / "store"),
        seal.Order(
            artifact="base",
            kind=ArtifactKind.WEIGHTS,
            version=1,
            recipients=[wrap.recipient(key.read_text(), KEY, where="key")],
            signers=[signing_key("producer")],
            producer="tests",
            expires=now + timedelta(days=1),
        ),
        now=now,
    )
    settings = {
        "lifecycle": "flow",
        "stage": "finetune",
        "platform": "aws-nitrotpm",
        "region": REGION,
        "opens": {"base": {"key": KEY, "store": "s3://base-bucket"}},
    }
    (tmp_path / "stage.json").write_text(json.dumps(settings))
    return {
        "store": tmp_path / "store",
        "public": public,
        "producer": producer,
        "stage": tmp_path / "stage.json",
    }


@pytest.fixture
def shm():
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="jewelhouse-test-"))
    yield folder
    shutil.rmtree(folder)


def called(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code or 0


def here(tmp_path, **differently):
    return place(Platform.AWS_NITROTPM, **differently)


def released(files, tmp_path, machine):
    given = {name: value for name, value in asdict(machine.endpoints).items() if value}
    (tmp_path / "endpoints.json").write_text(json.dumps(given))
    return ("--release", files["stage"], "--endpoints", tmp_path / "endpoints.json")


def test_it_opens_into_memory_on_the_stages_machine(files, tmp_path, shm):
    with here(tmp_path) as machine:
        way = released(files, tmp_path, machine)
        code = called("weights", "unseal", files["store"], shm / "out", "--signer", files["public"], *way)
    assert code == 0
    assert contents(shm / "out") == contents(tmp_path / "source")


def test_a_key_is_added_there_without_touching_the_data(files, tmp_path):
    data = contents(files["store"] / "data")
    _, following = write(tmp_path / "next", rsa_key(1))
    with here(tmp_path) as machine:
        code = called(
            *("weights", "rewrap", files["store"], "--signer", files["public"], "--sign", files["producer"]),
            *("--to", f"kms:next={following}", *released(files, tmp_path, machine)),
        )
    assert (code, contents(files["store"] / "data")) == (0, data)
    assert len(list((files["store"] / "manifests").iterdir())) == 2


@pytest.mark.parametrize(
    ("differently", "says"),
    [
        pytest.param({"role": credentials("somebody-else")}, "does not admit", id="another-role"),
        pytest.param({"pcrs": {4: b"Z" * 48}}, "does not admit", id="another-image"),
        pytest.param(
            {"signed_by": Authority.new(datetime.now(UTC), "foreign"), "believed": authority()},
            "does not admit",
            id="evidence-under-a-foreign-root",
        ),
    ],
)
def test_on_another_machine_nothing_opens(files, tmp_path, shm, capsys, differently, says):
    with here(tmp_path, **differently) as machine:
        way = released(files, tmp_path, machine)
        code = called("weights", "unseal", files["store"], shm / "out", "--signer", files["public"], *way)
    assert code
    assert says in capsys.readouterr().err
    assert not any(path.is_file() for path in shm.rglob("*"))


def test_plaintext_does_not_go_to_a_disk(files, tmp_path, capsys):
    if memory.file_system(tmp_path) in memory.MEMORY:
        pytest.skip("the temporary directory is memory here")
    with here(tmp_path) as machine:
        way = released(files, tmp_path, machine)
        code = called(
            "weights", "unseal", files["store"], tmp_path / "out", "--signer", files["public"], *way
        )
        asked = list(machine.kms.log)
    assert (code, asked) == (2, [])
    assert "outside this machine's memory" in capsys.readouterr().err
