"""Sound that is given: which of it stands, in the result and for the network."""

import math

import av
import numpy as np
import pytest

from kfjax import media
from kfjax.making.recording import (
    BORDER_LATENTS,
    Recording,
    as_stereo,
    checked_spans,
    complement,
    parse_spans,
    read_recording,
    read_reference,
)
from kfjax.rates import Rates

RATES, RATE = Rates(), 44100


def noise(seconds, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * RATE), 2)).astype(np.float32)


@pytest.mark.parametrize(
    "text, spans",
    [("0-3", [(0, 3)]), ("1.5-2, 4-6.25", [(1.5, 2), (4, 6.25)]), ("3-", [(3, math.inf)]), (".5-1.", [(0.5, 1)])],
)
def test_spans_as_people_write_them(text, spans):
    assert parse_spans(text, "keep") == tuple(spans)


@pytest.mark.parametrize("text", ["", "3", "a-b", "3-1-2", "-2", "1:00-2:00", "0-3;4-5"])
def test_other_words_for_spans(text):
    with pytest.raises(ValueError, match=r"^redo: got "):
        parse_spans(text, "redo")


@pytest.mark.parametrize(
    "spans, message",
    [
        ([(2, 2)], "expected a span within 0-8 seconds that"),
        ([(3, 2)], "not empty"),
        ([(7, 9)], "within 0-8"),
        ([(-1, 2)], "within 0-8"),
        ([(0, 3), (2, 5)], "0-3 and 2-5, which overlap"),
    ],
)
def test_spans_that_do_not_fit(spans, message):
    with pytest.raises(ValueError, match=message):
        checked_spans(spans, 8.0, "keep")


def test_spans_are_ordered_and_complemented():
    spans = checked_spans([(5, math.inf), (1, 2)], 8.0, "redo")
    assert spans == ((1, 2), (5, 8.0))
    assert complement(spans, 8.0) == ((0.0, 1), (2, 5))
    assert complement(complement(spans, 8.0), 8.0) == spans


def test_known_latents_hear_nothing_but_what_is_kept():
    hz = RATES.latent_hz
    given = Recording(noise(8), ((0.0, 2.0), (4.0, 6.0)), 1.0)
    mask = given.known(345, hz, 8.0)
    at = np.arange(345)
    border = BORDER_LATENTS / hz
    for latent in np.flatnonzero(mask):
        start, end = latent / hz, (latent + 1) / hz
        assert end <= 2 - border + 1e-6 or (4 + border - 1e-6 <= start and end <= 6 - border + 1e-6)
    expected = (at + 1) / hz <= 2 - border
    expected |= (at / hz >= 4 + border) & ((at + 1) / hz <= 6 - border)
    assert np.abs(mask.sum() - expected.sum()) <= 3 and mask[0]


def test_a_span_at_the_end_reaches_the_last_latent():
    assert Recording(noise(8), ((6.0, 8.0),), 1.0).known(345, RATES.latent_hz, 8.0)[-1]


@pytest.mark.parametrize("kept, message", [(((2.0, 2.4),), "at least 0.6 s"), (((0.0, 8.0),), "leave something")])
def test_too_little_or_too_much_is_kept(kept, message):
    with pytest.raises(ValueError, match=message):
        Recording(noise(8), kept, 1.0).known(345, RATES.latent_hz, 8.0)


def test_the_kept_span_is_the_recording_sample_for_sample():
    given, made = Recording(noise(8), ((0.0, 2.0), (4.0, 6.0)), 1.0), noise(8, 1)
    got, fade = given.spliced(made, RATE, 8.0), round(0.02 * RATE)
    two, four, six = (round(s * RATE) for s in (2, 4, 6))
    for first, last in ((0, two - fade), (four + fade, six - fade)):
        np.testing.assert_array_equal(got[first:last], given.wave[first:last])
    for first, last in ((two, four), (six, len(made))):
        np.testing.assert_array_equal(got[first:last], made[first:last])
    share = (np.arange(fade) + 0.5)[:, None] / fade
    between = slice(four, four + fade)
    np.testing.assert_allclose(got[between], share * given.wave[between] + (1 - share) * made[between], atol=1e-6)
    assert not np.array_equal(made, got) and np.array_equal(made, noise(8, 1))


@pytest.mark.parametrize("size", [1000, 44100, 100000])
def test_pieces_are_spliced_as_the_whole(size):
    given, made = Recording(noise(8), ((0.5, 2.0), (4.0, 8.0)), 1.0), noise(8, 1)
    pieces = [given.spliced(made[i : i + size], RATE, 8.0, i) for i in range(0, len(made), size)]
    np.testing.assert_array_equal(np.concatenate(pieces), given.spliced(made, RATE, 8.0))


def test_what_is_kept_and_what_is_made_anew():
    kept = read_recording(noise(8), RATES, 8.0, keep=[(0, 3)])
    redone = read_recording(noise(8), RATES, 8.0, redo=[(3, 8)])
    assert kept.kept == redone.kept == ((0, 3),) and kept.strength == 1
    assert read_recording(noise(3.5), RATES, 8.0, keep=[(0, 3)]).kept == ((0, 3),)
    changed = read_recording(noise(8), RATES, 8.0, strength=0.5)
    assert changed.kept == () and changed.strength == 0.5
    assert len(read_recording(noise(9), RATES, 8.0, strength=0.5).wave) == 8 * RATE


@pytest.mark.parametrize(
    "wave, options, message",
    [
        (noise(8), {}, "none of keep, redo and strength"),
        (noise(8), {"keep": [(0, 1)], "redo": [(2, 3)]}, "got both"),
        (noise(2), {"keep": [(0, 3)]}, "is 2.00 s long, expected at least the 3.00 s"),
        (noise(2), {"strength": 0.5}, "expected at least the 8.00 s"),
        (noise(7), {"redo": [(2, 3)]}, "expected at least the 8.00 s"),
        (np.full((RATE, 2), np.nan), {"strength": 1.0}, "NaN"),
        (np.zeros((4, RATE, 2, 1)), {"strength": 1.0}, "got shape"),
        (np.zeros((RATE, 6)), {"strength": 1.0}, "got shape"),
    ],
)
def test_recordings_that_do_not_fit(wave, options, message):
    with pytest.raises(ValueError, match=message):
        read_recording(wave, RATES, 8.0, **options)


def test_mono_and_other_rates(tmp_path):
    np.testing.assert_array_equal(as_stereo(noise(1)[:, 0], RATE), np.repeat(noise(1)[:, :1], 2, 1))
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000 * 2) / 16000)
    media.write_wav(tmp_path / "tone.wav", tone.astype(np.float32), 16000)
    wave = as_stereo(tmp_path / "tone.wav", RATE)
    assert wave.shape == (2 * RATE, 2)
    np.testing.assert_array_equal(wave[:, 0], wave[:, 1])
    true = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    assert np.abs(wave[1000:-1000, 0] - true[1000:-1000]).max() < 0.01


def test_five_channels_and_one_for_effects(tmp_path):
    wave = np.zeros((48000, 6), np.float32)
    wave[:, 0] = 0.5 * np.sin(np.arange(48000) / 10)
    with av.open(str(tmp_path / "a.wav"), "w") as target:
        stream = target.add_stream("pcm_f32le", rate=48000, layout="5.1")
        frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), "flt", "5.1")
        frame.sample_rate, frame.pts = 48000, 0
        target.mux([*stream.encode(frame), *stream.encode(None)])
    given = read_recording(tmp_path / "a.wav", RATES, 1.0, keep=[(0, 0.5)])
    assert given.wave.shape == (RATE, 2)
    assert np.abs(given.wave[:, 0]).max() > 0.4 and not given.wave[:, 1].any()


def test_a_reference_of_ten_minutes(tmp_path):
    wave = np.full(600 * 8000, 0.01, np.float32)
    wave[400 * 8000 : 403 * 8000] = 0.5 * np.sin(np.arange(3 * 8000) / 5)
    media.write_wav(tmp_path / "long.wav", wave, 8000)
    found = read_reference(tmp_path / "long.wav", RATES)
    assert len(found.wave) == 3 * RATE and found.start_seconds == 400.0


def test_the_loudest_part_of_a_reference(tmp_path):
    wave = 0.01 * noise(20)
    wave[round(11.2 * RATE) : round(13.9 * RATE)] *= 50
    media.write_wav(tmp_path / "long.wav", wave, RATE)
    found = read_reference(tmp_path / "long.wav", RATES)
    assert len(found.wave) == 3 * RATE and found.start_seconds == 11.0 and not found.film
    media.write_wav(tmp_path / "short.wav", noise(1.7), RATE)
    assert len(read_reference(tmp_path / "short.wav", RATES).wave) == 1.5 * RATE


@pytest.mark.parametrize("wave, message", [(0 * noise(2), "is silent"), (noise(0.3), "0.30 s of sound, expected at")])
def test_references_that_say_nothing(tmp_path, wave, message):
    media.write_wav(tmp_path / "reference.wav", wave, RATE)
    with pytest.raises(ValueError, match=message):
        read_reference(tmp_path / "reference.wav", RATES)
