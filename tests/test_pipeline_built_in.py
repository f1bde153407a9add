"""The model that is used where none is named: its weights are there and make a sound."""

import numpy as np

import kfjax
from kfjax.commands.jobs import EXAMPLE


def test_the_built_in_model_makes_a_sound():
    model = kfjax.load()
    sound = model.generate(EXAMPLE, "glass balls fall on the ground", duration=1.0, steps=1)
    assert model.built_in and sound.waveforms.shape == (1, 44100, 2)
    assert np.isfinite(sound.waveforms).all() and 0.01 < np.abs(sound.waveforms).max() <= 1
    assert sound.unread == "" != model.unread("老虎")
