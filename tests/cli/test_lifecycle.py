import json

import jsonschema
import pytest
import yaml
from samples import ALL_STACKS, PROJECT, STACKS, changed, put, stack

from jewelhouse.cli import main


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.chdir(STACKS.parent)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        out, err = capsys.readouterr()
        code = stopped.value.code
        return (code if isinstance(code, int) else 0), out, err

    return call


@pytest.mark.parametrize("name", ALL_STACKS)
def test_check_accepts_the_shipped_stacks(run, name):
    code, out, _ = run("lifecycle", "check", "--stack", name, "--json")
    assert code == 0
    assert json.loads(out)["valid"] is True


def test_check_says_what_is_weakened_and_declared(run):
    code, out, _ = run("lifecycle", "check", "--file", PROJECT / "docs/widened/Pulumi.prod-aws.yaml")
    assert code == 0
    assert "weakened by destroyable" in out
    assert "declared by hand" in out


def test_a_bad_file_is_refused_with_every_path_and_no_traceback(run, tmp_path):
    bad = changed(
        stack("dev"), put("stages.train.platform", "nowhere"), put("artifacts.base.owner", "nobody")
    )
    (tmp_path / "Pulumi.bad.yaml").write_text(yaml.safe_dump({"config": {"jewelhouse:lifecycle": bad}}))
    (tmp_path / "images.lock.yaml").write_text((STACKS / "images.lock.yaml").read_text())
    code, out, err = run("lifecycle", "check", "--file", str(tmp_path / "Pulumi.bad.yaml"))
    assert code == 2
    assert "stages.train.platform" in err
    assert "artifacts.base.owner" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stack", "prd-aws"], "did you mean prod-aws?"),
        (["--file", "no-such-file.yaml"], "cannot be read"),
        ([], "--stack S or by --file F"),
        (["--stack", "dev", "--file", "x"], "--stack S or by --file F"),
    ],
)
def test_what_cannot_be_read_is_exit_2_with_a_remedy(run, arguments, says):
    code, out, err = run("lifecycle", "check", *arguments)
    assert code == 2
    assert says in out + err


def test_schema_accepts_every_shipped_stack_and_refuses_a_typo(run):
    code, out, _ = run("lifecycle", "schema")
    assert code == 0
    schema = json.loads(out)
    for name in ALL_STACKS:
        document = json.loads(json.dumps({"config": {"jewelhouse:lifecycle": stack(name)}}, default=str))
        jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            {
                "config": {
                    "jewelhouse:lifecycle": changed(stack("prod-aws"), put("stages.finetune.opend", []))
                }
            },
            schema,
        )


@pytest.mark.parametrize(
    ("form", "begins"), [("svg", "<svg"), ("mermaid", "flowchart LR"), ("table", "Who opens")]
)
def test_show_draws_the_lifecycle(run, form, begins):
    code, out, _ = run("lifecycle", "show", "--stack", "federated", "--format", form)
    assert code == 0
    assert out.startswith(begins)
    assert "aggregate" in out


def test_show_json_names_keys(run):
    _, out, _ = run("lifecycle", "show", "--stack", "dev", "--json")
    assert json.loads(out)["stages"]["serve"]["keys"] == [
        "base-gcp-confidential-space-europe-west4",
        "adapter-gcp-confidential-space-europe-west4",
    ]
