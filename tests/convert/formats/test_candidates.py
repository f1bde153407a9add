"""Which state dict of a file is meant: by prefixes and nesting, as trainings leave them."""

import numpy as np
import pytest

from kfjax.convert.formats import candidates

WANTED = "audio.weight"
STATE = {WANTED: np.ones(2), "b.weight": np.zeros(3)}


def prefixed(prefix: str, state=STATE) -> dict:
    return {prefix + key: value for key, value in state.items()}


def chosen(found, inside=None, holding=(WANTED,)):
    """The state dict, and what was said."""
    said = []
    return candidates.choose(found, inside, holding, said.append), " ".join(said)


@pytest.mark.parametrize("prefix", [
    "module.", "_orig_mod.", "model.", "ema.", "ema_model.", "module._orig_mod.", "model.module._orig_mod.", "net_g.",
])  # fmt: skip
def test_prefixes_are_taken_off_with_a_word(prefix):
    for found, name in (
        (prefixed(prefix), prefix[:-1]), ({"state_dict": prefixed(prefix)}, f"state_dict.{prefix[:-1]}"),
        ({"epoch": np.array(3), "optimizer": {"state": {0: STATE}}, "deep": {"er": prefixed(prefix)}},
         f"deep.er.{prefix[:-1]}"),
    ):  # fmt: skip
        state, said = chosen(found)
        assert state.keys() == STATE.keys() and state[WANTED] is STATE[WANTED]
        assert said == f"taken is {name}, the only state dict in it"


def test_a_plain_state_dict_is_taken_without_a_word():
    assert chosen(STATE) == (STATE, "")
    assert chosen(STATE, holding=()) == (STATE, "")
    assert chosen(prefixed("model."), holding=()) == (prefixed("model."), "")


@pytest.mark.parametrize("weights, average", [
    ("model", "ema"), ("state_dict", "state_dict_ema"), ("model", "model_ema"), ("weights", "ema_state_dict"),
    ("net", "EMA"),
])  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_of_weights_and_their_average_the_average_is_taken(weights, average, prefix):
    other = {key: value + 1 for key, value in STATE.items()}
    found = {weights: prefixed(prefix, other), average: prefixed(prefix), "optimizer": {"state": {}}, "step": 3}
    names = [".".join(filter(None, (key, prefix[:-1]))) for key in (weights, average)]
    state, said = chosen(found)
    assert state[WANTED] is STATE[WANTED]
    assert said == f"taken is {names[1]}, the moving average; others in it (--inside): {names[0]}"
    for inside in (weights, names[0]):
        state, said = chosen(found, inside)
        assert state[WANTED] is other[WANTED] and not said


def test_side_by_side_in_one_dict():
    found = prefixed("model.") | prefixed("ema.") | {"loss.weight": np.ones(1)}
    state, said = chosen(found)
    assert state.keys() == STATE.keys() and "taken is ema" in said
    assert chosen(found, "model")[0].keys() == STATE.keys()
    state, said = chosen(STATE | prefixed("ema_model."), "")
    assert state.keys() == STATE.keys() and not said
    assert "others in it (--inside): ''" in chosen(STATE | prefixed("ema_model."))[1]


def test_an_average_kept_beside_what_it_averages():
    ema = prefixed("ema_model.") | prefixed("online_model.") | {"step": np.array(3), "initted": np.array(True)}
    assert "taken is ema.ema_model, the moving" in chosen({"model": STATE, "ema": ema})[1]


@pytest.mark.parametrize("found, inside, message", [
    ({"a": STATE, "b": STATE}, None, "several state dicts: a, b; name one with --inside"),
    ({"ema_1": STATE, "ema_2": STATE}, None, "several state dicts: ema_1, ema_2"),
    ({"a": STATE, "b": STATE}, "c", "no part c; expected one of a, b"),
    ({"model": STATE, "step": 3}, "step", "its step is a int, expected tensors"),
    ({"model": prefixed("x."), "ema": prefixed("y.") | prefixed("z.")}, "ema", "several state dicts: ema.y, ema.z"),
    ({"step": 3, "\x1b[31m": []}, None, r"it holds a dict of step, \x1b[31m, not only tensors"),
    ([STATE], None, "it holds a list, not only tensors"),
])  # fmt: skip
def test_what_is_not_guessed(found, inside, message):
    with pytest.raises(ValueError) as error:
        chosen(found, inside)
    assert message in str(error.value)


def test_dicts_without_end():
    found = {"a": STATE}
    found["b"] = found
    with pytest.raises(ValueError, match="several state dicts"):
        chosen(found)
    wide = STATE
    for _ in range(5):
        wide = {str(i): wide for i in range(100)}
    with pytest.raises(ValueError, match="more than 100000 dicts"):
        chosen(wide)
