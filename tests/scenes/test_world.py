"""The built-in world: deterministic, in time with itself, split without overlap, cached without loss."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from kfjax import media
from kfjax.scenes import MATERIALS, RECIPES, SOURCES, Corpus, Scene, corpus, make_scene, render_corpus, write_mp4
from kfjax.scenes.world.impacts import StruckBody
from kfjax.scenes.world.mechanisms import NOTE_COLOUR, Strokes
from kfjax.scenes.world.physics import Solid, Surface, simulate
from kfjax.scenes.world.recipes import combination_of, held_out_family, is_held_out


def test_the_same_arguments_make_the_same_scene():
    one, again, other = make_scene(7, duration_seconds=1.0), make_scene(7, duration_seconds=1.0), make_scene(8)
    assert one == again and one != other
    np.testing.assert_array_equal(one.frames((32, 32)), again.frames((32, 32)))
    np.testing.assert_array_equal(one.sound(), again.sound())


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_renders_and_keeps_its_promises(recipe):
    moved = []
    for seed in range(3):
        scene = make_scene(seed, duration_seconds=3.0, recipe=recipe)
        frames = scene.frames((64, 64))
        moved.append(np.abs(np.diff(frames.astype(int), axis=0)).max())
        assert frames.shape == (75, 64, 64, 3) and frames.dtype == np.uint8 and frames.std() > 3
        assert scene.caption == scene.caption.lower() and scene.caption.strip()
        assert set(scene.sources) == {event.source for event in scene.events} <= set(SOURCES)
        assert bool(scene.events) == (recipe != "silence")
        assert all(side % 2 == 0 for side in scene.size)
        for event in scene.events:
            assert 0 <= event.time_seconds < 3.0 and abs(event.x) <= 1 and event.loudness > 0.2
            assert event.loudness <= 1
            if not event.struck:
                times, x, loudness = np.array(event.path).T
                assert (np.diff(times) > 0).all() and (np.diff(times) < 0.0401).all()
                assert np.abs(x).max() <= 1 and loudness.min() >= 0 and loudness.max() <= 1
        for source in scene.sources:
            times = [e.time_seconds for e in scene.events if e.source == source and e.struck]
            assert (np.diff(times) >= 0.05).all()
    if recipe != "silence":
        assert min(moved) > 20


@pytest.mark.parametrize("seconds", [1.0, 2.5, 4.0, 8.0, 13.0])
def test_lengths_are_exact(seconds):
    scene = make_scene(3, duration_seconds=seconds)
    assert len(scene.frames((40, 40))) == scene.frame_count == round(25 * seconds)
    assert scene.sound().shape == (round(44100 * seconds), 2)
    assert scene.sound(16000).shape == (round(16000 * seconds), 2)
    assert scene.sound().dtype == np.float32


@pytest.mark.parametrize("recipe", ["bouncing", "footsteps", "rain"])
def test_a_small_drawing_looks_like_the_film_made_small(recipe):
    """What is trained on is drawn small; what is generated for is a film that was resized."""
    scene = make_scene(5, duration_seconds=0.4, recipe=recipe)
    own, small = scene.frames(), scene.frames((64, 64))
    assert own.shape[1:3] == scene.size[::-1]
    resized = np.stack([cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in own])
    assert np.abs(resized.astype(float) - small).mean() < 4


def test_a_ball_hits_where_its_motion_turns():
    """Free fall from rest: the time and speed of the first impact are known."""
    height, gravity, radius = 0.5, 4.0, 0.1
    ball = Solid(radius, (0.5, 0.9 - radius - height), bounciness=0.6)
    (track,) = simulate(
        [ball], [Surface((-2, 0.9), (3, 0.9))], duration_seconds=4.0, gravity=gravity, quietest_speed=0.3
    )
    impacts = track.impacts(quietest_speed=0.3)
    assert impacts[0].time_seconds == pytest.approx(np.sqrt(2 * height / gravity), abs=0.01)
    assert impacts[0].speed == pytest.approx(np.sqrt(2 * height * gravity), rel=0.05)
    speeds = [impact.speed for impact in impacts]
    assert len(speeds) >= 3 and np.allclose(np.divide(speeds[1:], speeds[:-1]), 0.6, atol=0.05)
    assert np.hypot(*track.velocity[-1]) < 0.02, "it comes to rest instead of chattering"


@pytest.mark.parametrize("material", MATERIALS)
def test_bounces_are_where_the_body_turns_back(material):
    checked = 0
    seeds = [s for s in range(60) if combination_of(s, "train", "bouncing").subject == material][:5]
    for scene in (make_scene(seed, recipe="bouncing") for seed in seeds):
        times = [event.time_seconds for event in scene.events]
        for body in (actor for actor in scene.stage.actors if isinstance(actor, StruckBody)):
            for impact in body.impacts:
                solid, floor = body.track.solid, scene.stage.backdrop.floor
                on_floor = abs(impact.y + solid.radius - floor) < 0.02 and impact.direction[1] < -0.9
                if not on_floor or solid.outline is not None:
                    continue
                index = round((impact.time_seconds - solid.start_seconds) * 500)
                assert body.track.velocity[index - 1, 1] > 0.1 and body.track.velocity[index + 1, 1] < 0.1
                around = body.track.position[max(index - 20, 0) : index + 20, 1]  # a frame to either side
                assert around.max() <= body.track.position[index, 1] + 0.012
                checked += any(abs(impact.time_seconds - time) < 0.051 for time in times)
    assert checked >= 3


def test_a_hammer_is_down_when_it_sounds():
    scene = make_scene(1, recipe="hammer")
    strokes = Strokes.random(8.0, np.random.default_rng(0))
    assert len(scene.events) >= 4
    for index, time in enumerate(strokes.times):
        assert strokes.lift(time) == pytest.approx(0, abs=1e-6)
        assert strokes.lift(time - 0.08) > 0.1 < strokes.lift(time - 0.04) + 0.2
        assert strokes.last(time)[1] == pytest.approx(strokes.swings[index] / 1.2)


def test_a_piano_key_lights_up_in_the_frame_of_its_note():
    for seed in range(4):
        scene = make_scene(seed, duration_seconds=4.0, recipe="piano")
        frames = scene.frames((64, 64)).astype(int)
        green = np.array(NOTE_COLOUR)
        lit = np.abs(frames / scene.stage.brightness - green).sum(-1) < 60
        columns = lit.any(axis=1)
        for event in scene.events:
            column = int((event.x + 1) / 2 * 64)
            near = columns[:, max(column - 2, 0) : column + 3].any(axis=1)
            onset = round(event.time_seconds * 25)
            assert near[onset : onset + 2].any(), f"seed {seed}: dark at {event}"


def test_seen_loudness_follows_speed():
    scene = make_scene(2, recipe="bouncing")
    (body, *_) = (actor for actor in scene.stage.actors if isinstance(actor, StruckBody))
    speeds = [impact.speed for impact in body.impacts]
    assert np.argmax(speeds) == 0 and speeds[0] > 1.5 * speeds[-1]


def test_the_splits_share_no_combination_and_every_subject_is_in_both():
    train = {combination_of(seed, "train") for seed in range(500)}
    held = {combination_of(seed, "heldout") for seed in range(500)}
    assert not train & held
    assert all(is_held_out(one) for one in held) and not any(is_held_out(one) for one in train)
    sources = lambda split: {part for one in split for part in one.subject.replace("+", ":").split(":")}
    assert set(MATERIALS) | {"bell", "clock", "piano", "rain", "engine", "gravel"} <= sources(train) & sources(held)
    families = [held_out_family(name, subject) for name, recipe in RECIPES.items() for subject in recipe.subjects]
    assert len(set(families)) >= 6, "no background is always held out"


def test_one_seed_means_different_scenes_in_the_two_splits():
    assert make_scene(4, recipe="hammer").events != make_scene(4, recipe="hammer", split="heldout").events


def test_captions_name_what_is_heard_in_few_words():
    words, names = (
        set(),
        {
            "footsteps": ("footsteps", "steps"),
            "metal": ("metal", "steel"),
            "wood": ("wood", "wooden"),
            "engine": ("engine", "car", "truck"),
            "clock": ("clock",),
            "bell": ("bell",),
        },
    )
    for seed in range(150):
        scene = make_scene(seed, duration_seconds=2.0)
        said = set(scene.caption.replace(",", "").split())
        words |= said
        for source in set(scene.sources) - {"rolling", "sliding"}:
            assert said & set(names.get(source, (source,))), (source, scene.caption)
        assert scene.sources or said & {"silence", "silent", "nothing", "no"}
    assert len(words) < 400


def test_metadata_goes_through_json_and_draws_again():
    scene = make_scene(11, duration_seconds=1.0, split="heldout")
    again = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
    assert again == scene
    np.testing.assert_array_equal(again.frames((32, 32)), scene.frames((32, 32)))


def test_mp4_opens_with_the_right_length(tmp_path):
    scene = make_scene(2, duration_seconds=2.0, recipe="bouncing")
    write_mp4(scene, tmp_path / "scene.mp4")
    info = media.probe(tmp_path / "scene.mp4")
    assert info.seconds == pytest.approx(2.0, abs=0.05)
    assert [file.name for file in tmp_path.iterdir()] == ["scene.mp4"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 0, "duration_seconds": 1e9}, "0.2 to 120"),
        ({"seed": 0, "split": "test"}, "heldout"),
        ({"seed": 0, "recipe": "opera"}, "bouncing"),
    ],
)
def test_wrong_arguments_are_told(arguments, said):
    with pytest.raises(ValueError, match=said):
        make_scene(arguments.pop("seed"), **arguments)


ORDER = {"seed": 5, "split": "train", "durations": {1.0: 2, 0.5: 1}, "size": 16}


def _bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_corpus_holds_its_scenes(tmp_path):
    made = render_corpus(tmp_path, 6, **ORDER)
    assert len(made) == 6 and {seconds: len(bucket) for seconds, bucket in made.buckets.items()} == {1.0: 4, 0.5: 2}
    bucket = Corpus(tmp_path).buckets[1.0]
    assert bucket.frames.shape == (4, 25, 16, 16, 3) and bucket.sound.shape == (4, 44100, 2)
    scene = bucket.scene(2)
    np.testing.assert_array_equal(bucket.frames[2], scene.frames((16, 16)))
    np.testing.assert_allclose(bucket.waveform(2), scene.sound(), atol=1e-4)


def test_an_interrupted_corpus_continues_to_the_same_bytes(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    render_corpus(whole, 6, **ORDER)
    render, calls = corpus._render, []

    def interrupted(job):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return render(job)

    monkeypatch.setattr(corpus, "_render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_corpus(broken, 6, **ORDER)
    with open(broken / "d1" / "scenes.jsonl", "a") as log:
        log.write('{"seed": 3, "half a li')
    assert len(Corpus(broken)) == 2
    calls.clear()
    monkeypatch.setattr(corpus, "_render", lambda job: calls.append(job) or render(job))
    render_corpus(broken, 6, **ORDER)
    assert len(calls) == 4
    assert _bytes(broken) == _bytes(whole)


def test_the_number_of_workers_changes_nothing(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    render_corpus(one, 4, **ORDER)
    render_corpus(two, 4, workers=2, **ORDER)
    assert _bytes(one) == _bytes(two)


def test_a_corpus_of_another_order_is_not_touched(tmp_path):
    render_corpus(tmp_path, 1, **ORDER)
    with pytest.raises(ValueError, match="another"):
        render_corpus(tmp_path, 2, **ORDER)
    with pytest.raises(ValueError, match=r"corpus\.json"):
        Corpus(tmp_path / "nothing")


def test_a_corpus_of_a_world_of_ones_own(tmp_path):
    def bells(seed, *, duration_seconds, split):
        return make_scene(seed, duration_seconds=duration_seconds, split=split, recipe="bell")

    made = render_corpus(tmp_path, 4, seed=1, split="heldout", durations={0.5: 1, 0.4: 1}, size=16, make=bells)
    scenes = [bucket.scene(i) for bucket in made.buckets.values() for i in range(len(bucket))]
    assert len(scenes) == 4 and {(scene.recipe, scene.split) for scene in scenes} == {("bell", "heldout")}
