from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jewelhouse.errors import InvalidImages
from jewelhouse.images.lock import load
from jewelhouse.model import Platform

GOOD = {
    "version": 1,
    "images": {
        "server": {
            "aws-enclave": {
                "reference": "sha256:" + "a" * 64,
                "size": 1,
                "measurements": {"PCR0": "b" * 96},
                "previous": [{"PCR0": "c" * 96}],
            }
        }
    },
}


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "images.lock.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_current_values_come_before_those_being_rolled_out_of(tmp_path):
    image = load(write(tmp_path, GOOD)).images["server", Platform.AWS_ENCLAVE]
    assert [values["PCR0"][0] for values in image.measurements] == ["b", "c"]
    assert not image.declared


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "is not YAML"),
        ("", "must be a mapping"),
        ({**GOOD, "version": 2}, "version"),
        ({**GOOD, "imgs": {}}, "imgs: is not a known setting"),
        ({"version": 1}, "images: is missing"),
        ({"version": 1, "images": {"server": {}}}, "images.server: must map platforms to images"),
        (
            {"version": 1, "images": {"server": {"aws-enclav": {}}}},
            "images.server.aws-enclav: is not a platform",
        ),
        (
            {"version": 1, "images": {"server": {"aws-enclave": {}}}},
            "images.server.aws-enclave.reference: is missing",
        ),
        (
            {
                "version": 1,
                "images": {"server": {"aws-enclave": {"reference": "x", "measurements": {"PCR99": "0"}}}},
            },
            "PCR99",
        ),
        (
            {
                "version": 1,
                "images": {"server": {"aws-enclave": {"reference": "x", "measurements": {"PCR0": 0}}}},
            },
            "put it in quotes",
        ),
        (
            {
                "version": 1,
                "images": {"server": {"aws-enclave": {"reference": "x", "previous": [{"PCR0": "c" * 96}]}}},
            },
            "images.server.aws-enclave.measurements: is missing beside `previous`",
        ),
    ],
)
def test_a_bad_lock_is_refused_with_file_and_path(tmp_path, content, says):
    with pytest.raises(InvalidImages) as caught:
        load(write(tmp_path, content))
    assert says in str(caught.value)
    assert "images.lock.yaml" in str(caught.value)


def test_a_missing_lock_names_the_file(tmp_path):
    with pytest.raises(InvalidImages, match=r"images\.lock\.yaml: there is no image lock file"):
        load(tmp_path / "images.lock.yaml")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.one_of(values, st.builds(lambda inner: {"version": 1, "images": {"server": inner}}, values)))
def test_any_content_loads_or_is_refused_with_problems(tmp_path_factory, content):
    path = write(tmp_path_factory.mktemp("lock"), yaml.safe_dump(content))
    try:
        load(path)
    except InvalidImages as error:
        refused = error.problems
        assert refused
