import numpy as np
import pytest

from kfjax import rates
from kfjax.nn.alignment import align


def test_uniform_alignment_is_nearest_exact():
    """Values of torch's float32 nearest-exact; exact arithmetic reads 32 and 96 at the two ties."""
    source = np.asarray(align(np.eye(192, dtype=np.float32)[None], 345, "uniform", rates.Rates()))[0].argmax(1)
    assert (source[57], source[172]) == (31, 95)
    assert (source[0], source[344]) == (0, 191)
    assert (np.diff(source) >= 0).all()


@pytest.mark.parametrize("seconds", [2.5, 8.0, 13.0])
def test_timed_alignment_brings_tokens_back_at_their_own_time(seconds):
    clock = rates.Rates()
    lengths = rates.lengths(seconds, clock)
    tokens = np.eye(lengths.sync, dtype=np.float32)[None]
    weight = np.asarray(align(tokens, lengths.latents, "timed", clock))[0]  # [latent, token]
    np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-5)
    token_time = np.array(rates.sync_token_seconds(lengths.sync, clock))
    latent_time = (np.arange(lengths.latents) + 0.5) / clock.latent_hz
    inside = latent_time < token_time.max()
    # What every latent reads happened then, within half a token.
    assert np.abs(weight @ token_time - latent_time)[inside].max() < 0.041
    # And what every token saw comes back when it happened (the first and last are held to the ends).
    back = latent_time @ weight / weight.sum(0)
    held = (token_time > token_time.min()) & (token_time < token_time.max())
    assert np.abs(back - token_time)[held].max() < 0.02
