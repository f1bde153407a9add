"""Batches of extracted features: the same for any number of processes, and what the folders hold."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from kfjax.data.batches import FeatureInput, Place, SyntheticInput, example_shapes, fillings, join
from kfjax.data.buckets import Buckets
from kfjax.data.shards import records
from kfjax.encoders.clip import CLIPTextConfig
from tests.tiny import features as tiny_features
from tests.tiny.system import CONFIG

WEIGHTS = {1.0: 3.0, 2.0: 1.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Excerpts with video and caption, with a caption alone (of one duration), and with video alone."""
    root = tmp_path_factory.mktemp("features")
    return [
        tiny_features.write(root / "both", CONFIG, {1.0: 10, 2.0: 7}, shards=3),
        tiny_features.write(root / "texts", CONFIG, {1.0: 6}, has_video=False),
        tiny_features.write(root / "videos", CONFIG, {1.0: 5, 2.0: 5}, has_text=False),
    ]


def make(folders, weights=WEIGHTS, shares=(2.0, 1.0, 1.0), seed=4, size=8, cfg=CONFIG, **options) -> FeatureInput:
    buckets = Buckets(weights, batch_seconds=size * max(weights, default=1.0), multiple_of=size, seed=seed)
    return FeatureInput(cfg, list(zip(folders, shares, strict=False)), buckets, seed=seed, **options)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def stored(folders, place: Place) -> records.Example:
    return records.parse(records.Folder(folders[place.corpus]).buckets[place.seconds][place.record])


def test_a_batch_holds_its_excerpts(folders):
    made = make(folders)
    for step in range(2):
        features, posterior, _ = made(step)
        for row, (place,) in enumerate(made.places(step)):
            example = stored(folders, place)
            assert features.given.seconds_total[row] == place.seconds and features.given.seconds_start[row] == 0
            for name in ("has_video", "has_text", "text_mask"):
                np.testing.assert_array_equal(getattr(features.given, name)[row], getattr(example.given, name))
            for name in ("clip", "sync", "text"):
                np.testing.assert_array_equal(getattr(features, name)[row], getattr(example, name))
            np.testing.assert_array_equal(posterior.mean[row], example.mean)
            np.testing.assert_array_equal(posterior.std[row], example.std)
    assert {x.dtype for x in (features.clip, features.sync, features.text, *posterior)} == {records.BFLOAT16}


def test_corpora_are_mixed_by_share(folders):
    """All kinds come in one batch; texts has no excerpts of 2 s, and leaves its share to the others."""
    made = make(folders, size=12)
    steps = [next(step for step in range(99) if made.buckets.of(step)[0] == which) for which in (0, 1)]
    for step, counts in zip(steps, ([12, 6, 6], [8, 0, 4]), strict=True):
        assert list(np.bincount([place.corpus for (place,) in made.places(step)], minlength=3)) == counts
    given = made(steps[0]).features.given
    kinds = set(zip(given.has_video, given.has_text, strict=True))
    assert {(False, True), (True, False), (True, True)} == kinds


def test_every_excerpt_comes_before_any_comes_again(folders):
    made = make(folders[:1], {1.0: 1.0}, size=5)
    rounds = [[place.record for step in (k, k + 1) for (place,) in made.places(step)] for k in range(0, 6, 2)]
    assert all(sorted(found) == list(range(10)) for found in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


@pytest.mark.parametrize("joined", [0.0, 0.5])
def test_any_number_of_processes_shares_the_same_batches(folders, joined):
    """1, 2 and 4 processes, each with an input of its own, read each row of one global batch once."""
    whole = make(folders[::2], joined=joined, weights={2.0: 1.0})
    for processes in (1, 2, 4):
        each = [make(folders[::2], joined=joined, weights={2.0: 1.0}, threads=1) for _ in range(processes)]
        for step in (0, 3):
            parts = [made.runs(step, (k,), processes) for k, made in enumerate(each)]
            assert_same(jax.tree.map(lambda *rows: np.concatenate(rows), *parts), whole(step))
    some = whole.runs(7, (0, 3), 4)  # on a torus a process's runs have gaps
    assert_same(some, jax.tree.map(lambda x: x[[0, 1, 6, 7]], whole(7)))


def test_batches_depend_on_seed_and_step_alone(folders):
    made, again, other = make(folders), make(folders, threads=1), make(folders, seed=5)
    ids = [made.places(step) for step in range(3)]
    assert [again.places(step) for step in (2, 0)] == [ids[2], ids[0]]
    assert [other.places(step) for step in range(3)] != ids
    assert len({str(places) for places in ids}) == 3
    assert len(made.places(10**6)) in made.buckets.sizes  # far on


def test_joined_excerpts(folders):
    made = make(folders, {2.0: 1.0}, shares=(1.0, 8.0, 1.0), joined=0.5, size=64)
    places = made.places(0)
    assert 16 <= sum(len(parts) == 2 for parts in places) <= 48
    features, posterior, _ = made(0)
    halves = 0
    for row, parts in enumerate(places):
        if len(parts) == 1:
            continue
        first, second = (stored(folders, place) for place in parts)
        assert {place.seconds for place in parts} == {1.0}
        assert features.given.seconds_total[row] == 2 and not features.given.has_video[row]
        n = len(first.mean)
        np.testing.assert_array_equal(posterior.mean[row, :n], first.mean)
        np.testing.assert_array_equal(posterior.std[row, n:], second.std[: len(posterior.std[row]) - n])
        assert features.given.has_text[row] == (first.given.has_text and second.given.has_text)
        np.testing.assert_array_equal(features.text[row, :10], [*first.text[:5], *second.text[:5]])
        np.testing.assert_array_equal(features.given.text_mask[row], np.arange(CONFIG.text_tokens) < 10)
        halves += features.given.has_text[row]
    assert halves


def test_ways_to_fill():
    assert fillings(10.0, [2.5, 5.0, 10.0]) == [(5.0, 5.0), (5.0, 2.5, 2.5), (2.5, 2.5, 2.5, 2.5)]
    assert fillings(10.0, [3.3, 6.7, 4.0]) == [(6.7, 3.3)] and fillings(1.0, [0.2, 0.7, 1.0]) == []
    assert fillings(0.9, [0.3]) == [(0.3, 0.3, 0.3)]


def test_excerpts_of_several_durations_are_joined(tmp_path):
    """Every way comes, in every order; all processes agree."""
    folder = tiny_features.write(tmp_path / "many", CONFIG, {0.5: 9, 1.0: 9, 2.0: 4})
    made = make([folder], {2.0: 1.0}, shares=(1.0,), joined=1.0, size=32)
    places = made.places(0)
    ways = {tuple(place.seconds for place in parts) for parts in places}
    assert ways == {(1.0, 1.0), (1.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0), (0.5,) * 4}
    for part in (0.5, 1.0):
        assert {place.record for parts in places for place in parts if place.seconds == part} == set(range(9))
    features, posterior, _ = made(0)
    row = next(k for k, parts in enumerate(places) if len(parts) == 4)
    parts = [stored([folder], place) for place in places[row]]
    n = len(parts[0].mean)
    for k, part in enumerate(parts):
        np.testing.assert_array_equal(
            posterior.mean[row, k * n : (k + 1) * n], part.mean[: len(posterior.mean[row]) - k * n]
        )
    assert not features.given.has_video.any() and not features.given.has_text[row]  # 20 words of 16
    assert_same(made.runs(0, (1,), 2), jax.tree.map(lambda x: x[16:], made(0)))


def test_captions_too_long_together_are_left_out():
    shapes = example_shapes(CONFIG, 2.0)
    for words, has_text in ((8, True), (9, False)):  # of 16
        parts = [tiny_features.example(CONFIG, 1.0, i, words=words) for i in range(2)]
        assert join(parts, 2.0, shapes).given.has_text == has_text


def test_synthetic_batches():
    buckets = Buckets(WEIGHTS, batch_seconds=16.0, multiple_of=8, seed=0)
    made = SyntheticInput(CONFIG, buckets, seed=1)
    step = next(k for k in range(99) if buckets.of(k)[0] == 1)
    features, posterior, stereo = batch = made(step)
    assert stereo is None
    for name, shape in example_shapes(CONFIG, 2.0).items():
        array = (features._asdict() | features.given._asdict() | posterior._asdict())[name]
        assert array.shape == (8, *shape) and array.dtype == (bool if name == "text_mask" else records.BFLOAT16)
    assert posterior.std.min() >= 0 and features.given.has_video.all() and (features.given.seconds_total == 2).all()
    assert_same(made.runs(step, (1, 3), 4), jax.tree.map(lambda x: x[[2, 3, 6, 7]], batch))
    assert made(step) is batch


def test_stereo_is_that_of_the_excerpts_and_other_corpora_count_as_mono(folders, tmp_path):
    both = tiny_features.write(tmp_path / "stereo", CONFIG, {1.0: 5, 0.5: 4}, stereo=True)
    mono = tiny_features.write(tmp_path / "mono", CONFIG, {1.0: 5, 0.5: 4}, stereo=False)
    paths = [both, mono, folders[0]]
    made = make(paths, {1.0: 1.0}, (2.0, 1.0, 1.0), stereo=True)
    batch, places = made(0), made.places(0)
    assert {place.corpus for (place,) in places} == {0, 1, 2}
    for row, (place,) in enumerate(places):
        example = stored(paths, place)
        assert batch.stereo.there[row] == (place.corpus == 0)
        mels = example.stereo if place.corpus == 0 else (0, 0)
        for got, want in zip(batch.stereo[:2], mels[:2], strict=True):
            np.testing.assert_array_equal(got[row], np.broadcast_to(want, got[row].shape))
    assert [x.dtype for x in batch.stereo] == [np.uint8, np.int8, bool]
    joined = make([both], {1.0: 1.0}, (1.0,), stereo=True, joined=1.0)(0)
    assert not joined.stereo.there.any() and not joined.features.given.has_video.any()
    synthetic = SyntheticInput(CONFIG, made.buckets, seed=1, stereo=True)(0)
    assert [x.shape for x in synthetic.stereo] == [x.shape for x in batch.stereo] and synthetic.stereo.there.all()
    with pytest.raises(ValueError, match=r"both.*: got features without stereo, .*; extract them anew with --stereo"):
        make(folders[:1], {1.0: 1.0}, (1.0,), stereo=True)


@pytest.mark.parametrize("options, message", [
    ({"weights": {4.0: 1.0}}, r"no features of 4 s in any corpus; there are some of \[1\.0, 2\.0\] s"),
    ({"weights": {2.0: 1.0}, "shares": (2.0, 1.0)}, r"texts: got excerpts of \[1\.0\] s, expected some of \[2\.0\] s"),
    ({"joined": 0.1}, r"no features of 0\.5 s in any corpus"),
    ({"joined": 1.5}, r"data\.joined: got 1\.5, expected a share from 0 to 1"),
    ({"shares": (1.0, 0.0)}, r"data\.corpora: got .*expected pairs of a folder and a weight above 0"),
    ({"shares": (1.0, float("inf"))}, r"data\.corpora: got .*expected pairs of a folder and a weight above 0"),
    ({"shares": ()}, r"data\.corpora: got \(\), expected pairs"),
    ({"weights": {}}, r"data\.buckets: got \{\}, expected pairs of seconds and a weight above 0"),
    ({"fingerprint": "feed"}, r"got features of encoders 0123456789abcdef, expected those of feed"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(folders, options, message):
    with pytest.raises(ValueError, match=message):
        make(folders, **options)


def test_features_of_other_shapes_are_refused(folders):
    other = dataclasses.replace(CONFIG, text_tokens=77)
    with pytest.raises(ValueError, match=r"text of 1 s is \(16, 16\), the system's is \(77, 16\)"):
        make(folders, cfg=other)
    tower = CLIPTextConfig(length=16, width=16)
    with pytest.raises(ValueError, match="with a CLIP text tower"):
        make(folders, cfg=dataclasses.replace(CONFIG, text=tower), joined=0.5)
    with pytest.raises(ValueError, match=r"a batch of 8 examples does not divide by 3; set data\.batch_multiple to 3"):
        make(folders[:1], {2.0: 1.0}).runs(0, (0,), 3)


def test_corpora_of_two_encoders_are_refused(folders, tmp_path):
    alien = tiny_features.write(tmp_path / "alien", CONFIG, {1.0: 2}, fingerprint="beef")
    with pytest.raises(ValueError, match=r"alien: got features of encoders beef, expected those of 0123456789abcdef"):
        make([folders[0], alien], {1.0: 1.0})


def test_a_record_that_its_index_does_not_describe_is_named(folders, tmp_path):
    folder = tiny_features.write(tmp_path / "mixed", CONFIG, {1.0: 3})
    made = make([folder], {1.0: 1.0})
    odd = dataclasses.replace(CONFIG, text_tokens=1)  # would broadcast
    (shard,) = (tmp_path / "mixed").glob("1s/*")
    records.write(tmp_path / "odd", {1.0: [tiny_features.example(odd, 1.0, i) for i in range(3)]}, tiny_features.MARK)
    shard.write_bytes(next((tmp_path / "odd").glob("1s/*")).read_bytes())
    with pytest.raises(ValueError, match=r"mixed, excerpt \d of 1 s: text is \(1, 16\), expected \(16, 16\)"):
        made(0)


def test_reading_imports_no_accelerator():
    """What the reading threads run is numpy: nothing that they could start on a device."""
    code = "import sys, kfjax.data.shards.records; print([m for m in ('jax', 'flax') if m in sys.modules])"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "[]\n"
