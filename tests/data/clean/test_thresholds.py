"""Thresholds and near duplicates."""

import numpy as np
import pytest

from kfjax.data.clean.measure import Measured
from kfjax.data.clean.thresholds import CleanConfig, Limit, Seen, judge, parse

GOOD = {"silence_share": 0.1, "clipped_share": 0.0, "sound_fingerprint": "", "picture_fingerprint": ""}


def row(problem="", **measures) -> Measured:
    return Measured(0.0, 10.0, problem, {} if problem else GOOD | measures)


def mark(seed: int, flipped: int = 0) -> str:
    bits = np.random.default_rng(seed).integers(0, 2, 256)
    bits[np.random.default_rng(1000 + seed).permutation(256)[:flipped]] ^= 1
    return np.packbits(bits.astype(np.uint8)).tobytes().hex()


def reasons(*rows, share=0.2, **thresholds):
    return list(judge(rows, CleanConfig(10.0, 1.0, share, thresholds)))


def test_a_measure_beyond_its_limit_is_the_reason():
    found = reasons(
        row(), row(silence_share=0.3), row(silence_share=0.2), row(silence_share=None), row(problem="x: is empty"),
        row(silence_share=1.0, clipped_share=0.1),
        silence_share=Limit(most=0.2), clipped_share=Limit(most=0.01), mos=Limit(least=3.0),
    )  # fmt: skip
    assert found == [
        {}, {"silence_share": "silence_share 0.3 > 0.2"}, {}, {}, {"unusable": "x: is empty"},
        {"silence_share": "silence_share 1 > 0.2", "clipped_share": "clipped_share 0.1 > 0.01"},
    ]  # fmt: skip
    assert reasons(row(fps=5), fps=Limit(least=10.0)) == [{"fps": "fps 5 < 10"}]


def test_of_near_duplicates_the_first_stays():
    one, near, other = mark(0), mark(0, 25), mark(1)
    found = reasons(row(sound_fingerprint=one), row(sound_fingerprint=near), row(sound_fingerprint=other))
    assert [list(each) for each in found] == [[], ["duplicate"], []]
    refused_first = reasons(row(silence_share=1.0, sound_fingerprint=one), row(sound_fingerprint=one),
                            silence_share=Limit(most=0.2))  # fmt: skip
    assert refused_first[1] == {}


def test_a_duplicate_has_both_sound_and_picture_in_common():
    both = dict(sound_fingerprint=mark(0), picture_fingerprint=mark(1))
    for other, duplicate in (
        (both, True), (both | {"sound_fingerprint": mark(2)}, False), (both | {"picture_fingerprint": mark(2)}, False),
        (both | {"picture_fingerprint": ""}, False),
    ):  # fmt: skip
        assert bool(reasons(row(**both), row(**other))[1]) == duplicate
    assert reasons(row(), row()) == [{}, {}]  # silent and flat: nothing is known of them


def test_duplicates_in_a_corpus_are_found():
    """300 copies with up to 16 % of the bits changed among 600 excerpts: recall 0.95 at least, precision 1."""
    seen = Seen(0.2)
    assert not any(seen.has_or_adds(row(sound_fingerprint=mark(seed))) for seed in range(600))
    rng = np.random.default_rng(0)
    copies = [row(sound_fingerprint=mark(seed, int(rng.integers(0, 41)))) for seed in range(300)]
    assert np.mean([seen.has_or_adds(copy) for copy in copies]) >= 0.95


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": {"loud": {"most": 1.0}}}, "thresholds: got loud, which is no measure; expected some of"),
        ({"thresholds": {"mos": {"min": 1.0}}}, "unknown key thresholds.mos.min"),
        ({"thresholds": {"sound_fingerprint": {"most": 1.0}}}, "which is no measure"),
        ({"thresholds": {"kind": {"most": 1.0}}}, "which is no measure"),
        ({"networks": 1}, "unknown key config.networks; give --weights FOLDER"),
        ({"seconds": 0.0}, "got seconds 0 and shortest_seconds 1"),
        ({"second": 1.0}, "unknown key config.second; did you mean config.seconds"),
    ],
)
def test_wrong_settings_are_said(change, message):
    good = {"seconds": 10.0, "shortest_seconds": 1.0, "differing_share": 0.2, "thresholds": {"mos": {"least": 3.0}}}
    assert parse(good).thresholds == {"mos": Limit(least=3.0)}
    with pytest.raises(ValueError, match=message):
        parse(good | change)
