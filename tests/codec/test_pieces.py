import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import system
from kfjax.codec import audio_codec, pieces, vae
from kfjax.codec.configs import BigVGANConfig, CodecConfig, StereoConfig, VAEConfig, VocoderConfig
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.pieces import Pieces, halo
from kfjax.codec.stereo import at_mel_times
from kfjax.codec.vae import MelVAE
from kfjax.nn import module
from kfjax.pipeline import BUILT_IN

MEL = MelConfig(sample_rate_hz=800, n_fft=32, hop=8, bands=6, fmax_hz=400.0)
STEREO = StereoConfig(bands=6, width=8, depth=2, clip_dim=4, mel_hz=100.0)
VAE = VAEConfig(bands=6, latent_dim=3, width=8, mel_blocks=1, latent_blocks=2)
#: Convolutions from end to end; named by the part that reaches furthest.
CODECS = {
    "vocoder": CodecConfig(MEL, VAE, STEREO, BigVGANConfig(6, 8, (4, 2), (3, 5), (2,))),
    "stereo": CodecConfig(MEL, VAE, dataclasses.replace(STEREO, depth=9), BigVGANConfig(6, 4, (8,), (3,), (1,))),
}
#: With the light vocoder.
LIGHT = CodecConfig(
    MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=20, fmax_hz=8000.0),
    VAEConfig(bands=20, latent_dim=8, width=16, mel_blocks=1, latent_blocks=1),
    StereoConfig(bands=20, width=16, depth=1, clip_dim=4, mel_hz=125.0),
    VocoderConfig(
        bands=20, width=16, hidden=32, depth=1, n_fft=512, hop=128, sample_rate_hz=16000, rounds=8, matches=8
    ),
)


def decoder(cfg: CodecConfig):
    """(latents, seen, overlap) -> wave, with every parameter moved off its initial value."""
    rng = np.random.default_rng(0)
    shapes = audio_codec.shapes(cfg)
    drawn = lambda x: np.float32(0.3) * rng.standard_normal(x.shape, dtype=np.float32)
    lengths = ("g", "mel_std", "latent_std")
    params = jax.tree.map_with_path(
        lambda path, x: np.ones(x.shape, np.float32) if path[-1].key in lengths else drawn(x), shapes
    )

    @jax.jit
    def decode(latents, seen=None, overlap=None):
        return audio_codec.decode(params, cfg, latents, seen, jnp.array([True]), overlap=overlap)

    return decode


def inputs(cfg: CodecConfig, total: int):
    """Latents, and what the stereo part sees: of the whole sound, and for every mel frame."""
    rng = np.random.default_rng(total)
    latents = rng.standard_normal((1, total, cfg.vae.latent_dim), dtype=np.float32)
    if cfg.stereo is None:
        return latents, None, None
    seen = rng.standard_normal((1, 1 + total // 4, cfg.stereo.clip_dim), dtype=np.float32)
    return latents, seen, np.asarray(at_mel_times(seen, 2 * total, cfg.stereo))


def joined(decode, cfg, latents, seen, window, *, step=None):
    """The pieces side by side, fed `step` latents at a time or all at once."""
    made = Pieces(decode, cfg, latents.shape[1], window)
    waves = []
    for at in range(0, latents.shape[1], step or latents.shape[1]):
        part = latents[:, at : at + (step or latents.shape[1])]
        rows = None if seen is None else seen[:, 2 * at : 2 * (at + part.shape[1])]
        waves += made.feed(part, rows)
    return np.concatenate(waves, 1)


@pytest.fixture(scope="module", params=CODECS)
def codec(request):
    return CODECS[request.param], decoder(CODECS[request.param])


def test_convolutions_in_pieces_are_the_whole(codec):
    cfg, decode = codec
    window = 2 * halo(cfg) + 5
    latents, seen, rows = inputs(cfg, 2 * window + 3)
    whole = np.asarray(decode(latents, seen))
    assert whole.std() > 0.01
    np.testing.assert_allclose(joined(decode, cfg, latents, rows, window), whole, atol=1e-4)


def test_halo_is_the_receptive_field(codec):
    """What is not a number spreads as far as a latent reaches, and no further."""
    cfg, decode = codec
    reach = halo(cfg)
    latents, seen, _ = inputs(cfg, 4 * reach + 13)
    latents[:, reach + 4] = np.nan
    (hit,) = np.isnan(np.asarray(decode(latents, seen))).reshape(latents.shape[1], -1).any(1).nonzero()
    assert (hit.min(), hit.max()) == (4, 2 * reach + 4)


def test_sizes_of_the_built_in_and_the_public_codecs():
    built_in = system.load_config(BUILT_IN / "config.json").codec
    public = CodecConfig(vae=VAEConfig("edm2"), stereo=None, vocoder=BigVGANConfig())
    assert (halo(built_in), halo(public), pieces.latents_of(public, pieces.SECONDS)) == (25, 32, 345)


class Repeated:
    """A decoder whose every sample is its latent, which notes what it is asked for."""

    def __init__(self, samples: int = 16):
        self.samples = samples
        self.windows, self.overlaps = [], []

    def __call__(self, latents, seen, overlap):
        self.windows.append(latents[0, :, 0])
        self.overlaps.append(overlap)
        assert seen is None or (seen[:, ::2] == latents).all()
        return np.repeat(latents[..., :1], self.samples, 1).repeat(2, 2).astype(np.float32)


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("extra", [0, 1, 5, 23, 40])
def test_windows_are_alike_and_reach_from_end_to_end(extra, step):
    cfg = CODECS["vocoder"]
    window = 2 * halo(cfg) + 6
    count = np.arange(window + extra, dtype=np.float32)
    latents, decode = count[None, :, None], Repeated()
    wave = joined(decode, cfg, latents, latents.repeat(2, 1), window, step=step)
    np.testing.assert_allclose(wave[0, :, 0], count.repeat(16), atol=1e-4)
    assert {len(piece) for piece in decode.windows} == {window}
    assert decode.windows[0][0] == 0 and decode.windows[-1][-1] == count[-1]
    assert decode.overlaps == [None] * len(decode.windows)
    assert len(decode.windows) == 1 + -(-extra // 5)


def test_sounds_up_to_a_window_are_decoded_whole():
    decode = Repeated(256)
    made = Pieces(decode, LIGHT, 7, 9)
    assert [wave.shape for wave in made.feed(np.zeros((1, 7, 1)))] == [(1, 7 * 256, 2)]
    assert decode.overlaps == [None]


def test_what_does_not_fit_is_refused():
    cfg = CODECS["vocoder"]
    least = 2 * halo(cfg) + 2
    with pytest.raises(ValueError, match=f"window: got {least - 1} latents, expected at least {least}"):
        Pieces(Repeated(), cfg, 1000, least - 1)
    made = Pieces(Repeated(), cfg, 100, least)
    with pytest.raises(ValueError, match="latents: got 101, expected 100"):
        made.feed(np.zeros((1, 101, 3)))
    with pytest.raises(ValueError, match="seen: got 9 rows, expected 10"):
        Pieces(Repeated(), cfg, 100, least).feed(np.zeros((1, 5, 3)), np.zeros((1, 9, 4)))


def test_reach_of_the_edm2_vae_without_its_attention(monkeypatch):
    monkeypatch.setattr(vae.MPAttention, "__call__", lambda self, x: x)
    cfg = dataclasses.replace(VAE, variant="edm2")
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), module.shapes(MelVAE, cfg))
    latents = np.zeros((1, 60, 3), np.float32)
    latents[:, 30] = np.nan
    mel = jax.jit(lambda x: module.bind(MelVAE, cfg, params).decode(x))(latents)
    (hit,) = np.isnan(mel).any((0, 2)).nonzero()
    near, fine = pieces._vae_reach(cfg)
    assert (hit.min(), hit.max()) == (2 * (30 - near) - fine, 2 * (30 + near) + 1 + fine)


def test_windows_of_the_edm2_vae_agree_nearly():
    """Drawn weights attend to all latents nearly alike: the worst case."""
    mono = dataclasses.replace(CODECS["stereo"], stereo=None)
    cfg = dataclasses.replace(mono, vae=dataclasses.replace(VAE, variant="edm2"))
    decode, window = decoder(cfg), 2 * halo(cfg) + 31
    latents, *_ = inputs(cfg, 2 * window)
    whole = np.asarray(decode(latents))
    error = joined(decode, cfg, latents, None, window) - whole
    assert error.std() < 0.15 * whole.std()


def test_light_codec_keeps_what_is_known_and_sounds_as_the_whole():
    decode, mel = decoder(LIGHT), jax.jit(lambda wave: log_mel(wave, LIGHT.mel))
    window = 2 * halo(LIGHT) + 21
    latents, seen, rows = inputs(LIGHT, 3 * window)
    whole = np.asarray(decode(latents, seen))
    mel_of = lambda wave: np.asarray(mel(wave[..., 0] / np.abs(whole).max()))
    forgetful = lambda latents, seen, overlap: decode(latents, seen, overlap._replace(weight=0 * overlap.weight))
    apart = [
        np.abs(mel_of(joined(way, LIGHT, latents, rows, window)) - mel_of(whole)).mean((0, 2))
        for way in (decode, forgetful)
    ]
    assert apart[0].mean() < 0.03 and apart[0].max() < 0.5 * apart[1].max()
