"""Fusing by rules: what is heard comes first, and nothing is said that no text says."""

import numpy as np
import pytest

from kfjax.data.captions.keywords import words
from kfjax.data.captions.rules import RuleFuser, Texts
from kfjax.data.captions.words import bases

PARK = "A brown dog runs in a park."


@pytest.mark.parametrize("texts, caption", [
    (Texts(), ""),
    (Texts(caption="Rain."), "rain"),
    (Texts(caption="rain", audio="heavy rain on a roof"), "heavy rain on a roof"),
    (Texts(video=PARK), "a brown dog runs in a park"),
    (Texts(audio="barking", video=PARK), "a brown dog barking in a park"),
    (Texts(audio="laughing", video="two men talk in a park"), "two men laughing in a park"),
    (Texts(audio="A dog barks.", video="a man and a dog on a street"), "a dog barks on a street"),
    (Texts(audio="a dog barks indoors", video=PARK), "a dog barks indoors"),
    (Texts(audio="a dog barks", tags=("Dog", "Bark", "Traffic_noise", "Wind", "Music")),
     "a dog barks, with traffic noise and wind"),
    (Texts(tags=("Dog", "dog", "Bell", "")), "dog and bell"),
])  # fmt: skip
def test_by_hand(texts, caption):
    assert RuleFuser()([texts]) == [caption]


def test_nothing_is_invented():
    rng = np.random.default_rng(0)
    pieces = ["", "barking", "a man speaks", PARK, "rain on a roof", "thunder", "someone plays a piano in a church"]
    pick = lambda: pieces[int(rng.integers(len(pieces)))]
    clips = [Texts(pick(), pick(), pick(), (pick(), pick())) for _ in range(200)]
    for texts, caption in zip(clips, RuleFuser()(clips), strict=True):
        given = {base for text in (*texts[:3], *texts.tags) for word in words(text) for base in bases(word)}
        assert {word for word in words(caption)} - {"with", "and"} <= given
        assert bool(caption) == any((*texts[:3], *filter(None, texts.tags)))
