"""Sentences about several events are English, and say what came when."""

import numpy as np
import pytest

from kfjax.data.captions import phrases
from kfjax.data.captions.keywords import is_clause, is_countable, is_single, keywords, names_side, tidy

CLAUSE, NAME = "a dog barks", "heavy rain"


def every(phrase, *captions) -> set[str]:
    return {phrase(*captions, np.random.default_rng(seed)) for seed in range(60)}


def test_order_is_told():
    assert "a dog barks, then a car passes" in every(phrases.before, CLAUSE, "a car passes")
    for caption in every(phrases.before, "ONE", "TWO"):
        assert caption.index("ONE") < caption.index("TWO")
    assert every(phrases.after, CLAUSE, NAME) == {"heavy rain after a dog barks", "heavy rain, after a dog barks"}


def test_a_name_and_a_clause_are_joined_otherwise():
    assert "a dog barks while a car passes" in every(phrases.during, CLAUSE, "a car passes")
    assert every(phrases.during, CLAUSE, NAME) == {"a dog barks with heavy rain", "a dog barks and heavy rain"}
    assert any("followed by" in caption for caption in every(phrases.before, CLAUSE, NAME))
    assert not any("followed by" in caption for caption in every(phrases.before, NAME, CLAUSE))


@pytest.mark.parametrize("caption, times, said", [
    (CLAUSE, 3, "a dog barks three times"),
    ("a door slam", 2, "a door slam, twice"),
    ("a bell is ringing", 4, "a bell is ringing, four times"),
    (CLAUSE, 9, "a dog barks several times"),
    ("", 2, ""),
])  # fmt: skip
def test_repetition_is_counted(caption, times, said):
    assert phrases.repeated(caption, times) == said


def test_of_a_clip_without_a_caption_nothing_is_said():
    """A caption of one part alone would be wrong of the whole."""
    for phrase in (phrases.before, phrases.after, phrases.during):
        assert every(phrase, CLAUSE, "") == every(phrase, "", CLAUSE) == {""}


def test_tags_of_quality():
    assert every(lambda rng: phrases.tagged(CLAUSE, "low quality", rng)) == {"a dog barks, low quality", "low quality"}
    assert phrases.tagged("", "high quality", np.random.default_rng(0)) == "high quality"
    with pytest.raises(ValueError, match="got 'bad', expected one of high quality, low quality"):
        phrases.tagged(CLAUSE, "bad", np.random.default_rng(0))


def test_sides_are_turned():
    assert phrases.turned("a car from left to right, leftovers") == "a car from right to left, leftovers"
    assert phrases.turned("a man left the room, left of a radio left on") == (
        "a man left the room, right of a radio left on"
    )


def test_clauses_and_names():
    clauses = ["a dog barks", "a glass ball bounces on the floor", "a bell is ringing", "rain falls", "a piano plays"]
    names = ["dogs barking", "the barks of a dog", "glass", "footsteps on gravel", "heavy rain", "three claps", ""]
    assert [is_clause(text) for text in clauses + names] == [True] * len(clauses) + [False] * len(names)


def test_single_events():
    single = ["a dog barks", "a car passes by", "the sound of a bell"]
    several = ["a dog barks and a bird sings", "rain, wind", "a bell rings while it rains", "rain with thunder", "",
               "Dog. Bark", "music/speech", "Bang! Silence"]  # fmt: skip
    assert [is_single(text) for text in single + several] == [True] * len(single) + [False] * len(several)
    assert is_countable("a dog barks")
    assert all(map(names_side, ["a dog on the left", "the right-hand door"])) and not names_side("leftovers, bright")
    assert not any(map(is_countable, ["two dogs bark", "a dog barks repeatedly", "4 knocks"]))


def test_keywords_are_of_kinds():
    found = keywords("A happy woman is singing loudly in a church, dogs barked twice.")
    assert found.sources == ("woman", "dog") and found.scenes == ("church",)
    assert found.actions == ("sing", "bark")
    assert found.emotions == ("happy",) and found.genders == ("woman",) and found.modifiers == ("loud",)
    assert keywords("ein Hund bellt") == keywords("") == ((),) * 6


def test_captions_are_tidy():
    assert tidy('  "A dog barks\n\tloudly."  ') == "a dog barks loudly"
    assert tidy('A man shouts "stop!"') == 'a man shouts "stop!"' and tidy('"A dog barks".') == "a dog barks"
    assert tidy("“Rain!”") == tidy('"Rain') == "rain" and tidy("Glass breaks!") == "glass breaks"
    assert tidy("TV noise.") == "TV noise" and tidy("\u202e\x00") == "" and tidy("Dog") == "dog"
    assert len(tidy("word " * 500)) <= 400 and tidy("x" * 999) == "x" * 400
