"""Sounds longer than one pass, on a tiny system: what they depend on, that they come in pieces, what they compile."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from kfjax import generation, media, rates
from kfjax.codec.bigvgan import BigVGAN, BigVGANConfig
from kfjax.making import longform, model_codec
from kfjax.nn.module import init
from kfjax.pipeline import Model
from kfjax.structs import Schedule
from kfjax.xla.programs import Program
from tests.tiny import media_files as files
from tests.tiny.system import CONFIG, tiny_system

RATE = 44100
WINDOWS = {"window": 2, "overlap": 1, "steps": 3}


@pytest.fixture(scope="module")
def model():
    return Model(tiny_system())


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """4.3 s of numbered pictures at 25 fps."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    media.write_video(path, (files.numbered(i) for i in range(107)), 25)
    return path


@pytest.fixture(scope="module")
def whole(model, film):
    return model.generate(film, "a bell rings", **WINDOWS)


def levels(wave):
    """Of each tenth of a second, dB."""
    power = np.square(wave[: len(wave) // 4410 * 4410]).reshape(-1, 4410, 2).mean((1, 2))
    return 10 * np.log10(power + 1e-10)


def test_a_long_sound(whole):
    assert whole.waveforms.shape == (1, round(4.28 * RATE), 2)
    assert 1e-3 < np.abs(whole.waveform).max() <= 1
    assert (levels(whole.waveform) > -80).all()


def test_a_stream_has_the_same_bytes_and_comes_in_pieces(model, film, whole):
    told = []
    stream = model.stream(film, "a bell rings", progress=lambda what, share: told.append((what, share)), **WINDOWS)
    assert (stream.seconds, stream.sample_rate_hz) == (pytest.approx(4.28), RATE)
    pieces = [next(stream)]
    first = len(told)
    pieces += stream
    assert len(pieces) >= 4 and first < len(told)
    assert np.concatenate(pieces).tobytes() == whole.waveform.tobytes()
    assert told[0][0] == "reading" and any(what.startswith("window 4 of 4") for what, _ in told)
    shares = [share for _, share in told]
    assert all(0 <= share <= 1 for share in shares)


def test_windows_in_batches_sound_the_same(model, film, whole):
    """Latents agree to rounding; the vocoder's phases do not, see `kfjax.generation`."""
    three = model.generate(film, "a bell rings", batch=3, **WINDOWS).waveform
    assert np.abs(levels(three) - levels(whole.waveform)).max() < 1.5


def test_windows_and_versions_on_several_devices(model, film, whole, monkeypatch):
    """Each device samples a window, or a version, of its own; they are those of one device, but for rounding."""
    several, made = Model(tiny_system(), devices=2), []
    sample = generation.sample_on
    monkeypatch.setattr(generation, "sample_on", lambda mesh, *a, **k: made.append(sample(mesh, *a, **k)) or made[-1])
    many = several.generate(film, "a bell rings", **WINDOWS).waveform
    assert len(made) and all(len(x.sharding.device_set) == 2 and len(x) == 2 for x in made)
    assert np.abs(levels(many) - levels(whole.waveform)).max() < 1.5
    made.clear()
    several.generate(None, "a bell rings", duration=1.0, samples=3, steps=2)
    split = np.concatenate(made)
    made.clear()
    model.generate(None, "a bell rings", duration=1.0, samples=3, steps=2, batch=1)
    np.testing.assert_allclose(split[:3], np.concatenate(made), atol=1e-5)
    with pytest.raises(ValueError, match=r"devices: got 9, expected 1 to 8, which are here"):
        Model(tiny_system(), devices=9)


def test_frames_are_read_when_they_are_due(model, film, monkeypatch):
    read = []
    frames = media.frames_in_windows
    monkeypatch.setattr(media, "frames_in_windows", lambda *a: (read.append(1) or f for f in frames(*a)))
    stream = model.stream(film, "a bell rings", **(WINDOWS | {"steps": 1}))
    next(stream)
    assert len(read) < 4
    list(stream)
    assert len(read) == 4


def test_what_a_long_sound_depends_on(model, film, whole):
    again = model.generate(film, "a bell rings", **WINDOWS)
    assert again.waveform.tobytes() == whole.waveform.tobytes()
    two = model.generate(film, "a bell rings", samples=2, **WINDOWS)
    assert two.waveform.tobytes() == whole.waveform.tobytes() != two.waveforms[1].tobytes()
    others = [
        model.generate(film, "a bell rings", seed=1, **WINDOWS),
        model.generate(film, "rain on a roof", **WINDOWS),
        model.generate(film, "a bell rings", negative_prompt="wind", **WINDOWS),
        model.generate(None, "a bell rings", duration=4.28, **WINDOWS),
    ]
    assert len({other.waveform.tobytes() for other in (whole, *others)}) == 5


def test_no_program_for_each_length(model, film):
    quick = WINDOWS | {"steps": 1}
    model.generate(film, "a bell rings", **quick)
    programs = [value._begun for value in vars(generation).values() if isinstance(value, Program)]
    assert len(programs) == 6
    before = [len(program) for program in programs]
    for seconds in (3.1, 4.2):
        assert len(model.generate(film, "a bell rings", duration=seconds, **quick).waveform) == round(seconds * RATE)
    assert [len(program) for program in programs] == before
    model.generate(None, "a bell rings", duration=4.2, **quick)  # of text alone
    before = [len(program) for program in programs]
    for seconds in (7, 9):
        made = model.generate(None, "a bell rings", duration=seconds, **quick)
        assert len(made.waveform) == seconds * RATE
    assert [len(program) for program in programs] == before


def test_long_by_itself(film):
    """Beyond what the model makes in one pass, without being told."""
    cfg = replace(CONFIG, defaults=replace(CONFIG.defaults, longest=3.0, window=2, overlap=1))
    model = Model(tiny_system()._replace(cfg=cfg))
    alone, told = model.generate(film, "a bell rings", steps=3), model.generate(film, "a bell rings", **WINDOWS)
    assert alone.waveform.tobytes() == told.waveform.tobytes()


def test_a_recording_in_a_long_sound(model, film, whole):
    given = np.random.default_rng(0).uniform(-0.2, 0.2, (6 * RATE, 2)).astype(np.float32)
    made = model.generate(film, "a bell rings", audio=given, keep=[(0, 1.5), (3, 4.2)], **WINDOWS).waveform
    fade = round(0.02 * RATE)
    for first, last in ((0, 1.5), (3.03, 4.17)):
        kept = slice(round(first * RATE), round(last * RATE) - fade)
        np.testing.assert_array_equal(made[kept], given[kept])
    between = slice(round(1.6 * RATE), round(2.9 * RATE))
    assert np.abs(made[between]).max() > 1e-3
    assert not np.array_equal(made[between], whole.waveform[between])


def test_a_reference_shortens_the_window(model, film, tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    media.write_wav(tmp_path / "tone.wav", tone, RATE)
    like = model.generate(film, "a bell rings", reference=tmp_path / "tone.wav", **WINDOWS)
    other = model.generate(film, "a bell rings", reference=tmp_path / "tone.wav", duration=1.0, steps=3)
    plain = model.generate(film, "a bell rings", duration=1.0, steps=3)
    assert len(like.waveform) == round(4.28 * RATE)
    assert not np.array_equal(other.waveform, plain.waveform)


def test_variations_begin_part_of_the_way(model, film, monkeypatch):
    """The less strength, the nearer the latents are to the recording's; at full strength nothing of it is left."""
    seen, call = [], Program.__call__

    def noted(program, *args, **constants):
        seen.extend([np.asarray(args[1])] if program.name == "decode" else [])
        return call(program, *args, **constants)

    monkeypatch.setattr(Program, "__call__", noted)
    given = 0.2 * np.random.default_rng(1).standard_normal((RATE, 2)).astype(np.float32)
    for strength in (0.1, 0.6, 1.0):
        model.generate(film, "a bell rings", duration=1.0, steps=10, audio=given, strength=strength)
    model.generate(film, "a bell rings", duration=1.0, steps=10)
    own = model.codec.encode(given)
    apart = [np.abs(x[0, : len(own)] - own).mean() for x in seen]
    assert apart[0] < 0.5 * apart[1] and apart[1] < apart[2]
    np.testing.assert_allclose(seen[2], seen[3], atol=1e-5)


def test_stems(model, film):
    for options in ({"duration": 1.0}, WINDOWS):
        both = model.generate(film, "a bell rings", music_prompt="a piano", music_gain=0.5, **options)
        alone = model.generate(film, "a bell rings", **options)
        assert both.stems["effects"].tobytes() == alone.waveforms.tobytes()
        np.testing.assert_allclose(both.waveforms, alone.waveforms + 0.5 * both.stems["music"], atol=1e-5)
        stream = model.stream(film, "a bell rings", music_prompt="a piano", music_gain=0.5, **options)
        assert np.concatenate([*stream]).tobytes() == both.waveform.tobytes()


def test_redone_under_the_same_music_seed_the_music_goes_on(model, film):
    """The seed of the music is that of the sound unless it is given."""
    options = {"music_prompt": "a piano", "duration": 2.0, "steps": 3}
    take = model.generate(film, "a bell rings", seed=1, **options)
    for seeds in ({"seed": 1}, {"seed": 2, "music_seed": 1}):
        again = model.generate(film, "wind", audio=take.waveform, redo=[(0.6, 1.4)], **seeds, **options)
        assert again.stems["music"].tobytes() == take.stems["music"].tobytes()
        assert not np.array_equal(again.waveform, take.waveform)
    other = model.generate(film, "a bell rings", seed=1, music_seed=2, **options)
    assert other.stems["effects"].tobytes() == take.stems["effects"].tobytes()
    assert not np.array_equal(other.stems["music"], take.stems["music"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"duration": 3601}, "expected 0.1 to 3600 s"),
        ({"window": 2, "overlap": 2}, "overlap: got 2 s of windows of 2 s"),
        ({"window": 0, "overlap": 1}, "window: got 0"),
        ({"keep": [(0, 1)]}, "got no audio"),
        ({"strength": 2.0}, "strength: got 2"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance interval: got 0.5 to 0.2"),
        ({"schedule": "cosine"}, "schedule: got 'cosine'"),
        ({"loudness": 3.0}, "loudness: got 3"),
        ({"music_gain": -1.0}, "music gain: got -1"),
    ],
)
def test_arguments_that_do_not_fit(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(None, "a bell rings", **({"duration": 5.0} | options))


def test_where_a_variation_starts():
    noise, latents = np.zeros((1, 4, 2), np.float32), np.ones((4, 2), np.float32)
    start = lambda first, sway: longform.started(noise, latents, Schedule(10, first, 10 - first, sway))
    np.testing.assert_allclose(start(0, -1.0), noise)
    np.testing.assert_allclose(start(5, 0.0), 0.5, rtol=1e-6)
    np.testing.assert_allclose(start(5, -1.0), 1 - np.cos(np.pi / 4), rtol=1e-6)


def test_a_long_recording_is_encoded_in_windows(model, monkeypatch):
    """As it is at once, but for what its windows hear of their borders: nothing."""
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, (20 * RATE, 2)).astype(np.float32)
    whole = model.codec.encode(wave)
    monkeypatch.setattr(rates, "MAX_SECONDS", 10.0)
    np.testing.assert_allclose(model.codec.encode(wave), whole, atol=1e-4)
    monkeypatch.setattr(model_codec, "BORDER_LATENTS", 0)
    assert np.abs(model.codec.encode(wave) - whole).max() > 1e-3


def test_many_latents_are_decoded_in_pieces(model, monkeypatch):
    """As they are at once, whatever is kept; the light vocoder's phases differ, its levels do not."""
    latents = np.random.default_rng(0).standard_normal((2, 215, CONFIG.mmdit.latent_dim)).astype(np.float32)
    whole = model.codec.decode(latents).waveforms
    monkeypatch.setattr(rates, "MAX_SECONDS", 3.0)
    monkeypatch.setattr(model_codec, "SECONDS", 2.0)
    pieces = model.codec.decode(latents)
    assert pieces.waveforms.shape == whole.shape
    for piece, one in zip(pieces.waveforms, whole, strict=True):
        assert np.abs(levels(piece) - levels(one)).max() < 1.0
    with pytest.raises(ValueError, match="got 155041 of them, expected"):
        model.codec.decode(np.zeros((155041, CONFIG.mmdit.latent_dim), np.float32))


def test_a_model_of_the_public_kind(film, monkeypatch):
    """BigVGAN, mono, known latents noised again: windows in batches make the same samples, both ears the same."""
    vocoder = BigVGANConfig(width=16, rates=(8, 8, 8), block_kernels=(3,), dilations=(1,))
    cfg = replace(CONFIG, known_as="renoised", codec=replace(CONFIG.codec, vocoder=vocoder, stereo=None))
    params = dict(tiny_system().params) | {"vocoder": jax.jit(lambda: init(BigVGAN, vocoder, jax.random.key(0)))()}
    del params["stereo"]
    model = Model(tiny_system()._replace(cfg=cfg, params=params))
    one = model.generate(film, "a bell rings", **WINDOWS).waveform
    three = model.generate(film, "a bell rings", batch=3, **WINDOWS).waveform
    assert np.abs(one).max() > 1e-3 and np.array_equal(one[:, 0], one[:, 1])
    assert np.linalg.norm(three - one) < 1e-4 * np.linalg.norm(one)
    latents = np.random.default_rng(0).standard_normal((215, CONFIG.mmdit.latent_dim)).astype(np.float32)
    whole = model.codec.decode(latents).waveform
    monkeypatch.setattr(rates, "MAX_SECONDS", 3.0)
    monkeypatch.setattr(model_codec, "SECONDS", 2.0)
    np.testing.assert_allclose(model.codec.decode(latents).waveform, whole, atol=1e-4)
    given = np.random.default_rng(0).uniform(-0.2, 0.2, (6 * RATE, 2)).astype(np.float32)
    kept = model.generate(film, "a bell rings", audio=given, keep=[(0, 2)], **WINDOWS).waveform
    np.testing.assert_array_equal(kept[: round(1.97 * RATE)], given[: round(1.97 * RATE)])
    assert not np.allclose(kept[round(2.5 * RATE) :], one[round(2.5 * RATE) :], atol=1e-3)
