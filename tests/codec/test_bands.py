import numpy as np
import pytest

from kfjax.codec import bands
from kfjax.codec.mel import MelConfig, mel_basis


@pytest.mark.parametrize("count, n_fft, rate", [(128, 2048, 44100), (40, 512, 16000)])
def test_filters_are_the_mel_s(count, n_fft, rate):
    want = mel_basis(MelConfig(sample_rate_hz=rate, n_fft=n_fft, hop=n_fft // 4, bands=count, fmax_hz=rate / 2))
    np.testing.assert_allclose(bands.filters(count, n_fft, rate), want, rtol=1e-4, atol=1e-8)


def test_bands_interpolate_to_bins():
    weights = bands.to_bins(40, 512, 16000)
    assert weights.shape == (40, 257)
    np.testing.assert_allclose(weights.sum(0), 1.0, rtol=1e-6)
    assert (weights >= 0).all()
