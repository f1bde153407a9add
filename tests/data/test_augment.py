"""Clips made of clips: sound and picture stay together, events are counted, faults are what they say."""

import numpy as np
import pytest

from kfjax.data import augment
from kfjax.data.augment import FAULTS, Clip, ClipPart

RATE_HZ, SECONDS, FRAMES_HZ = 8000, 4.0, (8.0, 25.0)
TAIL = 100


def clip(*events: float, caption="a dog barks", stereo=True, seconds=SECONDS, level=0.5, picture=True) -> Clip:
    """Bursts of 0.2 s at the events, on the left; frame k of rate r shows the number k."""
    wave = np.zeros((round(seconds * RATE_HZ) + TAIL, 2), np.float32)
    for time in events:
        first = round(time * RATE_HZ)
        wave[first : first + RATE_HZ // 5, 0] = level * np.sin(0.7 * np.arange(RATE_HZ // 5))
    frames = tuple(
        np.broadcast_to(
            np.arange(int(rate * seconds), dtype=np.uint8)[:, None, None, None], (int(rate * seconds), 4, 6, 3)
        )
        for rate in FRAMES_HZ
    )
    return Clip(wave if stereo else wave[:, 0], RATE_HZ, frames if picture else (), FRAMES_HZ if picture else (),
                caption, seconds)  # fmt: skip


def onsets(made: Clip) -> list[float]:
    loud = np.abs(made.wave).reshape(len(made.wave), -1).max(1) > 0.05
    loud = np.convolve(loud, np.ones(RATE_HZ // 20), "same") > 0
    return [round(float(k) / RATE_HZ, 1) for k in np.flatnonzero(np.diff(loud.astype(int)) == 1)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def shown(made: Clip, kind: int) -> list[int]:
    return made.frames[kind][:, 0, 0, 0].tolist()


def test_a_whole_clip_is_itself():
    one = clip(1.0, 2.5)
    made = augment.montage([ClipPart(one, 0.0, SECONDS)], "x")
    np.testing.assert_array_equal(made.wave, one.wave)
    for kind in (0, 1):
        assert shown(made, kind) == shown(one, kind)


def test_sound_and_picture_of_a_piece_stay_together():
    made = augment.montage([ClipPart(clip(), 1.0, 1.0), ClipPart(clip(2.5), 2.0, 3.0)], "two")
    assert made.seconds == SECONDS and len(made.wave) == len(clip().wave) and made.caption == "two"
    assert onsets(made) == [1.5]
    assert shown(made, 0) == [*range(8, 16), *range(16, 32), *[31] * 8]  # beyond the end the last is held
    assert shown(made, 1) == [*range(25, 50), *range(50, 100), *[99] * 25]


def test_nothing_clicks_where_pieces_meet():
    one = clip()._replace(wave=np.ones((round(SECONDS * RATE_HZ) + TAIL, 2), np.float32))
    made = augment.montage([ClipPart(one, 0, 2.0), ClipPart(one, 0, 2.0)], "")
    assert np.abs(np.diff(made.wave, axis=0)).max() < 0.05 and made.wave[[0, -1]].min() == 1


@pytest.mark.parametrize("seed", range(4))
def test_before_and_after(seed):
    first, second = clip(1.0, caption="a dog barks"), clip(3.0, caption="a car passes", level=0.2)
    made = augment.before(first, second, np.random.default_rng(seed))
    later = augment.after(first, second, np.random.default_rng(seed))
    for whole, levels in ((made, (0.5, 0.2)), (later, (0.2, 0.5))):
        assert len(onsets(whole)) == 2 and len(whole.wave) == len(first.wave)
        half = round(onsets(whole)[1] * RATE_HZ) - 400
        assert [np.abs(whole.wave[:half]).max(), np.abs(whole.wave[half:]).max()] == pytest.approx(levels, abs=0.01)
    dog, car = (made.caption.index(word) for word in ("dog", "car"))
    assert (dog < car) or " after " in made.caption
    assert later.caption.startswith("a dog barks") and "after a car passes" in later.caption
    assert augment.before(first, second, np.random.default_rng(0), caption="both").caption == "both"


def test_during(rng):
    one, other = clip(1.0, caption="a dog barks"), clip(3.0, caption="rain")._replace(caption="rain")
    made = augment.during(one, other, rng)
    assert onsets(made) == [1.0, 3.0] and made.caption in ("a dog barks with rain", "a dog barks and rain")
    assert [frames.shape for frames in made.frames] == [frames.shape for frames in one.frames]
    assert shown(made, 1) == shown(one, 1)
    energies = np.square(made.wave).sum(0)
    assert (energies > 0).all()  # one of them comes from the middle, as its own left does on the right half
    assert augment.during(one, clip(3.0, picture=False), rng).frames == ()
    mono = augment.during(clip(1.0, stereo=False), clip(3.0, stereo=False), rng)
    assert mono.wave.ndim == 1 and onsets(mono) == [1.0, 3.0]


def test_sides_of_the_stage_keep_their_power():
    wave = np.random.default_rng(0).standard_normal((20_000, 2)).astype(np.float32)
    for side in (0, 1):
        made = augment._narrowed(wave, side)
        assert np.square(made).sum() == pytest.approx(np.square(wave).sum(), rel=0.05)
        outer = np.zeros_like(wave)
        outer[:, side] = wave[:, side]
        np.testing.assert_array_equal(augment._narrowed(outer, side), outer)


@pytest.mark.parametrize("seed", range(6))
def test_repeated(seed):
    made = augment.repeated(clip(2.6), np.random.default_rng(seed))
    assert made is not None
    times = onsets(made)
    said = {2: "twice", 3: "three times", 4: "four times"}[len(times)]
    assert made.caption == f"a dog barks {said}"
    assert np.diff(times) == pytest.approx(SECONDS / len(times), abs=0.11)
    assert made.frames[1].shape[0] == 100 and len(made.wave) == len(clip().wave)


def test_what_is_long_is_not_repeated(rng):
    assert augment.repeated(clip(0.2, 3.5), rng) is None
    assert augment.repeated(clip(), rng) is None


def test_what_lies_beyond_the_seconds_is_no_event(rng):
    """A codec reads up to a whole latent: what is heard there belongs to no excerpt."""
    one = clip(1.0)
    one.wave[-TAIL:] = 0.9
    assert augment.sounding(one) == pytest.approx((1.0, 1.2))
    beyond = clip()
    beyond.wave[-TAIL:] = 0.9
    assert augment.sounding(beyond) == (0.0, SECONDS) and augment.repeated(beyond, rng) is None


def test_mirrored(rng):
    one = clip(1.0, caption="a car from the left")
    ramp = np.arange(6, dtype=np.uint8)[None, None, :, None]
    one = one._replace(frames=tuple(frames * 0 + ramp for frames in one.frames))
    made = augment.mirrored(one, rng)
    assert made.caption == "a car from the right" and made.frames[0][0, 0, :, 0].tolist() == [5, 4, 3, 2, 1, 0]
    assert not made.wave[:, 0].any()
    gains = [
        float(augment.mirrored(one, np.random.default_rng(k)).wave[:, 1].sum() / one.wave[:, 0].sum())
        for k in range(30)
    ]
    assert {np.sign(gain) for gain in gains} == {-1, 1} and 0.5 < min(map(abs, gains)) < max(map(abs, gains)) < 2
    loud = one._replace(wave=one.wave * 2)
    assert max(np.abs(augment.mirrored(loud, np.random.default_rng(k)).wave).max() for k in range(8)) <= 1


def test_faults_are_what_they_say():
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((44100, 2)).astype(np.float32)
    power = lambda wave, low, high: float(np.square(np.abs(np.fft.rfft(wave, axis=0))[low:high]).sum())
    for name, fault in FAULTS.items():
        made = fault(noise, 44100, np.random.default_rng(1))
        assert made.shape == noise.shape and made.dtype == np.float32 and np.isfinite(made).all(), name
        assert not np.array_equal(made, noise), name
        assert fault(noise[:, 0], 44100, np.random.default_rng(1)).shape == (44100,), name
    narrow = augment.narrow_band(noise, 44100, rng)
    assert power(narrow, 10_000, None) < 1e-3 * power(noise, 10_000, None)
    assert power(narrow, 0, 2000) == pytest.approx(power(noise, 0, 2000), rel=0.1)
    assert power(augment.windy(noise, 44100, rng), 5, 200) > 2 * power(noise, 5, 200)
    assert np.abs(augment.overdriven(noise, 44100, rng)).max() < 0.52 * np.abs(noise).max()
    silent = augment.noisy(np.zeros_like(noise), 44100, rng)
    assert 10 ** (-55.1 / 20) < np.sqrt(np.mean(np.square(silent))) < 10 ** (-34.9 / 20)
    coded = augment.lossy(noise, 44100, np.random.default_rng(1))
    assert power(coded, 16_000, None) < 0.1 * power(noise, 16_000, None)
    click = np.zeros((44100, 1), np.float32)
    click[1000] = 1
    rung = augment.room(click, 44100, rng)
    assert not rung[:1000].any() or np.abs(rung[:1000]).max() < 1e-6
    assert np.square(rung[20_000:]).sum() > 0 and np.abs(rung).argmax() == 1000


def test_twins_are_one_to_three_faults_and_reproducible():
    wave = clip(1.0).wave
    found = [augment.degraded(wave, RATE_HZ * 5, np.random.default_rng(seed)) for seed in range(40)]
    assert {len(kinds) for _, kinds in found} == {1, 2, 3}
    assert {kind for _, kinds in found for kind in kinds} == set(FAULTS)
    assert all(np.abs(made).max() <= 1 for made, _ in found)
    for seed in range(10):  # copied mono is what mono is
        mono, _ = augment.degraded(wave[:, 0], RATE_HZ * 5, np.random.default_rng(seed))
        made, _ = augment.degraded(wave[:, [0, 0]], RATE_HZ * 5, np.random.default_rng(seed))
        np.testing.assert_array_equal(made, np.stack([mono, mono], 1))
    again, kinds = augment.degraded(wave, RATE_HZ * 5, np.random.default_rng(7))
    np.testing.assert_array_equal(again, found[7][0])
    assert kinds == found[7][1]
