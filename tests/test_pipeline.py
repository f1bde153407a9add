"""The spine on a tiny system: exact lengths, what the sound depends on, what recompiles, what is written."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

import kfjax
from kfjax import features, generation, media, pipeline, rates
from kfjax.making import maker
from kfjax.making.maker import bucket_seconds
from kfjax.making.request import resolve
from kfjax.making.sound import Sound, added, finite, within_range
from kfjax.media.write import sample_paths
from kfjax.pipeline import Model
from kfjax.structs import Video
from kfjax.xla.programs import Program
from tests.tiny import media_files as files
from tests.tiny.system import CONFIG, tiny_system, write_model

RATE_HZ = 44100
SHARED = Path(os.environ.get("KFJAX_SHARED", Path(__file__).parents[2] / "shared"))
REAL_CLIPS = sorted(path for path in (SHARED / "clips").glob("*") if path.suffix in (".mp4", ".mov"))


@pytest.fixture(scope="module")
def model():
    return Model(tiny_system())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """0.8 s of numbered pictures at 30 fps with a steady tone."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(0.8 * RATE_HZ)) / RATE_HZ)
    media.write_video(path, (files.numbered(i) for i in range(24)), 30, tone, RATE_HZ)
    return path


@pytest.fixture(scope="module")
def other_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "other.mp4"
    media.write_video(path, (255 - files.numbered(7 * i) for i in range(24)), 30)
    return path


@pytest.fixture(scope="module")
def result(model, clip):
    return model.generate(clip, "a bell rings")


def test_result(result, clip):
    assert result.waveforms.shape == (1, round(0.8 * RATE_HZ), 2)
    assert result.waveform.dtype == np.float32
    assert 1e-3 < np.abs(result.waveform).max() <= 1
    assert not np.array_equal(result.waveform[:, 0], result.waveform[:, 1])
    assert (result.sample_rate_hz, result.seconds, result.video) == (RATE_HZ, pytest.approx(0.8), clip)


def test_words_that_are_not_read_are_told(model, result):
    assert result.unread == model.unread("a bell rings") == model.unread("") == ""
    assert model.unread("a tiger growls") == """prompt: not in this model's vocabulary: tiger, growls; read: "a\""""
    long = "a bell rings on wood and rain on a roof and wind and a bell rings"  # 15 are read
    assert model.unread(long) == f'prompt: beyond its 15 tokens: rings; read: "{long.removesuffix(" rings")}"'
    both = model.unread(f"frog {long}")
    assert "vocabulary: frog; beyond its 15 tokens: bell rings; read: " in both
    many = model.unread(" ".join(f"w{chr(97 + k)}" for k in range(14)) + " a" * 200)
    assert len(many) < 400 and many.count("\n") == 0


def test_progress_is_told_within_the_sampling_and_changes_no_byte(model, clip, result, monkeypatch):
    monkeypatch.setattr(maker, "PART_SECONDS", 0.0)  # a report for each step
    quiet = model.generate(clip, "a bell rings", steps=5, samples=2, method="heun")
    told = []
    made = model.generate(clip, "a bell rings", steps=5, samples=2, method="heun", progress=lambda *a: told.append(a))
    np.testing.assert_array_equal(made.waveforms, quiet.waveforms)
    names = [what for what, _ in told]
    steps = [f"sampling {k} of 2, step {done} of 5" for k in (1, 2) for done in range(5)]
    assert names == ["reading", "encoding", *steps, "decoding", "decoding", "done"]
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    alone = []
    same = model.generate(clip, "a bell rings", progress=lambda what, share: alone.append(what))
    np.testing.assert_array_equal(same.waveforms, result.waveforms)
    assert alone[2:4] == ["sampling, step 0 of 2", "sampling, step 1 of 2"]


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.7333, 0.8])
def test_length_is_exact(model, clip, seconds):
    assert len(model.generate(clip, duration=seconds).waveform) == round(seconds * RATE_HZ)


def test_buckets():
    """Never shorter than what is asked for, long enough to cut from, few."""
    asked = np.arange(0.1, 60.0, 0.0371)
    buckets = np.array([bucket_seconds(s) for s in asked])
    assert (buckets >= asked - 1e-6).all()
    assert len(set(buckets.tolist())) < 35
    clock = rates.Rates()
    lasts = [rates.lengths(bucket, clock).samples for bucket in buckets]
    assert all(last >= rates.exact_samples(s, clock) for s, last in zip(asked, lasts, strict=True))
    assert [bucket_seconds(s) for s in (0.2, 1, 2.5, 5, 8, 13, 60)] == [1, 1, 2.5, 5, 8, 13, 60]


def test_what_the_sound_depends_on(model, clip, other_clip, result):
    again = model.generate(clip, "a bell rings").waveform
    assert again.tobytes() == result.waveform.tobytes()
    others = {
        "seed": model.generate(clip, "a bell rings", seed=1),
        "prompt": model.generate(clip, "rain on a roof"),
        "no prompt": model.generate(clip),
        "video": model.generate(other_clip, "a bell rings"),
        "no video": model.generate(None, "a bell rings", duration=0.8),
        "steps": model.generate(clip, "a bell rings", steps=3),
        "method": model.generate(clip, "a bell rings", method="heun"),
        "guidance": model.generate(clip, "a bell rings", guidance=2.0),
        "video guidance": model.generate(clip, "a bell rings", video_guidance=2.0),
        "negative prompt": model.generate(clip, "a bell rings", negative_prompt="wind"),
        "negative guidance": model.generate(clip, "a bell rings", negative_prompt="wind", negative_guidance=3.0),
    }
    waves = {name: other.waveform.tobytes() for name, other in others.items()} | {"none": result.waveform.tobytes()}
    assert len(set(waves.values())) == len(waves), "two of these made no difference"


def test_kept_programs_give_the_bits_of_traced_ones(model, clip, result, monkeypatch):
    monkeypatch.setattr(Program, "__call__", lambda self, *args, **constants: self.jitted(*args, **constants))
    assert model.generate(clip, "a bell rings").waveform.tobytes() == result.waveform.tobytes()


def test_scales_equal_to_the_default_change_nothing(model, clip, result):
    same = model.generate(clip, "a bell rings", steps=2, video_guidance=3.0, text_guidance=3.0)
    assert same.waveform.tobytes() == result.waveform.tobytes()


def test_version_k_is_the_same_however_many_are_asked_for(model, clip, result):
    three = model.generate(clip, "a bell rings", samples=3)
    assert three.waveforms.shape == (3, *result.waveform.shape)
    assert three.waveform.tobytes() == result.waveform.tobytes()
    assert len({wave.tobytes() for wave in three.waveforms}) == 3


def test_versions_made_at_once_are_those_made_alone(model, clip, result):
    alone = model.generate(clip, "a bell rings", samples=3).waveforms
    told = []
    made = model.generate(clip, "a bell rings", samples=3, batch=2, progress=lambda *said: told.append(said))
    levels = [20 * np.log10(np.sqrt(np.square(waves).mean((1, 2)))) for waves in (made.waveforms, alone)]
    np.testing.assert_allclose(*levels, atol=0.5)  # its phases are found by iteration: see test_generation.py
    assert {what.split(",")[0] for what, _ in told if "sampling" in what} == {"sampling 1 to 2 of 3", "sampling 3 of 3"}
    assert [share for _, share in told] == sorted(share for _, share in told)


@pytest.mark.parametrize(("room", "count"), [(None, 1), (1.01, 8), (0.99, 4), (0.0, 1)])
def test_as_many_versions_at_once_as_memory_has_room_for(model, monkeypatch, room, count):
    """The limit is simulated; what is needed comes from real programs."""
    size = rates.lengths(1.0, CONFIG.rates)
    needed = lambda versions: max(
        held
        for _, _, held in model._maker.memory(
            [*generation.begin(CONFIG, model.dtype, model.tokenizer, size, count=versions).values()]
        )
    )
    limit = None if room is None else room * needed(8)
    monkeypatch.setattr(pipeline.memory, "limit_bytes", lambda device: limit)
    assert model._maker._at_once(64, None, size) == count
    assert model._maker._at_once(2, None, size) == min(count, 2)
    assert model._maker._at_once(64, 8, size) == 8


def test_a_batch_that_the_compiler_refuses_is_halved(model, monkeypatch):
    size, memory = rates.lengths(1.0, CONFIG.rates), model._maker.memory

    def refusing(parts, **options):
        if parts[1].begun.outputs.shape[0] > 2:
            raise RuntimeError("Used 20.00G of 15.75G hbm. Exceeded hbm capacity by 4.25G.")
        return memory(parts, **options)

    monkeypatch.setattr(model._maker, "memory", refusing)
    monkeypatch.setattr(pipeline.memory, "limit_bytes", lambda device: 1e12)
    assert model._maker._at_once(64, None, size) == 2
    monkeypatch.setattr(model._maker, "memory", lambda parts, together: [][1])
    with pytest.raises(IndexError):
        model._maker._at_once(64, None, size)


def test_frames_in_memory(model, clip, result):
    frames, seconds = media.read_frames(clip, features.frame_specs(CONFIG), counts=(7, 20))
    video = Video(*frames, seconds=seconds)
    assert model.generate(video, "a bell rings").waveform.tobytes() == result.waveform.tobytes()


def test_nothing_recompiles(model, clip, result):
    """One program per bucket and number of branches: steps, scales, seeds, prompts and shorter durations are data."""
    model.generate(clip, "a bell rings", negative_prompt="wind")
    compiled = []

    def listen(event: str, seconds: float, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda x: x * 1.2345)(np.ones(7))
    assert len(compiled) == 1, "the listener hears nothing"
    model.generate(clip, "a bell rings", steps=7, guidance=1.5, seed=3)
    model.generate(clip, "wind", video_guidance=2.0, text_guidance=2.0, samples=2, duration=0.5)
    model.generate(clip, "", negative_prompt="rain", negative_guidance=2.0)
    assert len(compiled) == 1


def test_keep_original(model, clip, other_clip, result):
    mixed = model.generate(clip, "a bell rings", keep_original=0.5)
    tone = 0.5 * media.read_audio(clip, RATE_HZ, duration_seconds=0.8)
    np.testing.assert_allclose(mixed.waveform[: len(tone)], result.waveform[: len(tone)] + tone, atol=1e-6)
    with pytest.raises(media.MediaError, match="has no sound"):
        model.generate(other_clip, keep_original=1.0)


def test_loud_sound_is_turned_down():
    loud = np.full((10, 2), 1.5, np.float32)
    loud[3] = 3.0
    assert np.abs(within_range(loud)).max() == 1
    with pytest.raises(ValueError, match="NaN"):
        finite(np.full((10, 2), np.nan, np.float32))


def test_sounds_are_added_however_they_are_cut():
    one, other = np.random.default_rng(0).standard_normal((2, 100, 2)).astype(np.float32)
    cut = lambda wave, *places: iter(np.split(wave, places))
    whole = one + 0.5 * np.pad(other[:70], ((0, 30), (0, 0)))
    for mine, others in (((30, 31), (10, 60)), ((), (5,)), ((50,), ())):
        np.testing.assert_allclose(np.concatenate([*added(cut(one, *mine), cut(other[:70], *others), 0.5)]), whole)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_save_copies_the_picture(tmp_path, clip, result, name):
    assert result.save(tmp_path / name) == [tmp_path / name]
    assert files.picture_packets(tmp_path / name)[0] == files.picture_packets(clip)[0]
    saved = media.read_audio(tmp_path / name, RATE_HZ)
    assert saved.shape == result.waveform.shape


def test_save_sound_alone(tmp_path, clip, result):
    two = Sound(np.concatenate([result.waveforms, -result.waveforms]), RATE_HZ, 0.8, clip)
    paths = two.save(tmp_path / "a.wav")
    assert paths == [tmp_path / "a-1.wav", tmp_path / "a-2.wav"] == sample_paths(tmp_path / "a.wav", 2)
    np.testing.assert_allclose(media.read_audio(paths[1], RATE_HZ), -result.waveform, atol=1e-4)


def test_text_alone_has_no_picture(tmp_path, result):
    with pytest.raises(media.MediaError, match="no picture"):
        Sound(result.waveforms, RATE_HZ, 0.8, None).save(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "neither a video nor a prompt"),
        ({"prompt": " "}, "neither a video nor a prompt"),
        ({"prompt": "x" * 1001}, "prompt: got 1001 characters"),
        ({"prompt": "rain", "steps": 0}, "steps: got 0, expected a whole number from 1"),
        ({"prompt": "rain", "steps": 2.5}, "steps: got 2.5"),
        ({"prompt": "rain", "seed": -1}, "seed: got -1"),
        ({"prompt": "rain", "samples": 0}, "samples: got 0"),
        ({"prompt": "rain", "batch": 0}, "batch: got 0"),
        ({"prompt": "rain", "guidance": -1.0}, "guidance: got -1"),
        ({"prompt": "rain", "negative_guidance": 2.0}, "no negative prompt"),
        ({"prompt": "rain", "duration": 0.0}, "duration: got 0 s, expected 0.1 to 3600 s"),
        ({"prompt": "rain", "duration": 1e9}, "duration: got 1e\\+09 s"),
        ({"prompt": "rain", "duration": float("nan")}, "duration: got nan s"),
        ({"prompt": "rain", "method": "rk4"}, "method: got 'rk4'"),
        ({"prompt": "rain", "keep_original": 1.0}, "keep original: got no video file"),
    ],
)
def test_arguments_are_checked(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**arguments)


def test_longer_than_the_video(model, clip):
    with pytest.raises(ValueError, match=r"duration: got 2 s, but .*clip.mp4 has 0.800 s"):
        model.generate(clip, duration=2)


def test_text_alone_defaults_to_eight_seconds():
    assert resolve(CONFIG, None, "rain").seconds == 8.0


def test_load(tmp_path, clip, result):
    """From a directory: the same sound as from memory."""
    loaded = kfjax.load(write_model(tmp_path / "model"))
    assert not loaded.built_in
    assert loaded.generate(clip, "a bell rings").waveform.tobytes() == result.waveform.tobytes()


def test_a_missing_built_in_model_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "BUILT_IN", tmp_path / "absent")
    with pytest.raises(ValueError, match="no built-in model"):
        kfjax.load()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("KFJAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert pipeline.cache_folder() == tmp_path / "kfjax"
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "own"))
    assert pipeline.cache_folder() == tmp_path / "own"


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL_CLIPS, ids=lambda path: path.name)
def test_real_clips(tmp_path, model, path):
    """Exact length, stereo, the picture's packets as they were; the same seed repeats, another does not."""
    sounds = [model.generate(path, seed=seed) for seed in (0, 0, 1)]
    waves = [sound.waveform for sound in sounds]
    assert waves[0].shape == (round(media.probe(path).seconds * RATE_HZ), 2)
    assert waves[0].tobytes() == waves[1].tobytes() != waves[2].tobytes()
    output = tmp_path / f"out{path.suffix}"
    sounds[0].save(output)
    assert files.picture_packets(output)[0] == files.picture_packets(path)[0]
    assert media.read_audio(output, RATE_HZ).shape == waves[0].shape
