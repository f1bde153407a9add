"""Weights that a run reads: from a model in one file, and from a system that lacks parts."""

import json

import pytest

from kfjax import config, system
from kfjax.system import ENCODERS, part_shapes
from kfjax.train.tasks.weights import read_parts
from tests.tiny.system import CONFIG, tiny_system, write_model
from tests.trees import assert_equal


@pytest.fixture
def encoders_alone(tmp_path):
    tiny = tiny_system()
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(CONFIG)))
    tiny.tokenizer.save(tmp_path / "tokenizer.json")
    for name in ENCODERS:
        system.save_params(tmp_path / f"{name}.safetensors", tiny.params[name])
    return tmp_path


def test_parts_of_a_system_that_lacks_others(encoders_alone):
    got = read_parts(str(encoders_alone), part_shapes(CONFIG, *ENCODERS))
    assert_equal(got, {name: tiny_system().params[name] for name in ENCODERS})
    stereo = part_shapes(CONFIG, "stereo")
    assert read_parts(str(encoders_alone), stereo, optional=("stereo",)) == {}
    with pytest.raises(ValueError, match="is not a whole model: missing stereo"):
        read_parts(str(encoders_alone), stereo)


def test_an_optional_part_of_a_model_in_one_file(tmp_path):
    got = read_parts(str(write_model(tmp_path / "model")), part_shapes(CONFIG, "stereo"), optional=("stereo",))
    assert_equal(got["stereo"], tiny_system().params["stereo"])
