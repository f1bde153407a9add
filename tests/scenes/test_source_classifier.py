import numpy as np
import pytest

from kfjax.metrics.onsets import band_levels_db
from kfjax.scenes.source_classifier import SourceClassifier, alter
from kfjax.scenes.world.event import Event
from kfjax.scenes.world.sound import render_sound

RATE = 44100
HEARD = ("wood", "glass", "piano", "rain", "engine")


def clip(sources, seed):
    rng = np.random.default_rng(seed)
    events = []
    for source in sources:
        if source in ("rain", "engine"):
            events.append(Event(0.0, source, "weather", 0.0, rng.uniform(0.3, 0.8), 2.0))
        else:
            times = np.sort(rng.uniform(0.1, 1.8, 4))
            events += [Event(t, source, "impact", rng.uniform(-1, 1), rng.uniform(0.3, 1)) for t in times]
    return render_sound(events, 2.0, seed)


@pytest.fixture(scope="module")
def classifier():
    labels = [{source} for source in HEARD] * 4 + [{"wood", "rain"}, {"glass", "engine"}, {"piano", "rain"}, set()] * 4
    return SourceClassifier.fit([clip(heard, seed) for seed, heard in enumerate(labels)], labels, seed=0, copies=2)


@pytest.mark.parametrize("source", HEARD)
def test_single_sources_are_named(classifier, source):
    assert classifier.predict(clip({source}, 1000)) == source
    assert classifier.predict(clip({source}, 1001)[:, 0]) == source


def test_mixtures_and_silence(classifier):
    both = classifier.probabilities(clip({"wood", "rain"}, 1002))
    alone = classifier.probabilities(clip({"wood"}, 1003))
    assert both["rain"] > 0.5 > alone["rain"] and both["wood"] > 0.5 < alone["wood"]
    assert max(classifier.probabilities(render_sound([], 2.0, 0)).values()) < 0.5
    assert all(np.isfinite(list(classifier.probabilities(np.zeros((RATE, 2))).values())))


def test_fit_is_repeatable_and_survives_saving(classifier, tmp_path):
    classifier.save(tmp_path / "classifier.npz")
    wave = clip({"glass"}, 1004)
    assert SourceClassifier.load(tmp_path / "classifier.npz").probabilities(wave) == classifier.probabilities(wave)
    few = [clip({"wood"}, 0), clip({"rain"}, 1)]
    once, again = (SourceClassifier.fit(few, ["wood", "rain"], seed=3, copies=1) for _ in range(2))
    np.testing.assert_array_equal(once.weights, again.weights)


def test_a_saved_classifier_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """Processes of an evaluation share one file, and one of them may be killed while it writes."""
    made = SourceClassifier(np.zeros(2), np.ones(2), np.zeros((2, 1)), np.zeros(1), ("wood",))
    made.save(tmp_path / "classifier.npz")
    before = (tmp_path / "classifier.npz").read_bytes()

    def half(file, **_):
        (file if hasattr(file, "write") else file.open("wb")).write(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        made.save(tmp_path / "classifier.npz")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_a_classifier_of_other_sources(tmp_path):
    waves = [clip({source}, seed) for seed in range(3) for source in ("wood", "rain")]
    classifier = SourceClassifier.fit(waves, ["knock", "water"] * 3, seed=0, copies=1, sources=("water", "knock"))
    classifier.save(tmp_path / "classifier.npz")
    loaded = SourceClassifier.load(tmp_path / "classifier.npz")
    assert loaded.sources == ("water", "knock")
    assert [loaded.predict(wave) for wave in waves[:2]] == ["knock", "water"]
    with pytest.raises(ValueError, match="label 'wood': expected sources among water, knock"):
        SourceClassifier.fit(waves[:1], ["wood"], seed=0, sources=("water", "knock"))


def test_altered_levels_stay_levels():
    levels = band_levels_db(clip({"wood"}, 5), RATE)
    altered = alter(levels, np.random.default_rng(0))
    assert altered.shape == levels.shape and np.isfinite(altered).all() and not np.allclose(altered, levels)


def test_unknown_label():
    with pytest.raises(ValueError, match="trombone"):
        SourceClassifier.fit([np.zeros(RATE)], ["trombone"], seed=0)
