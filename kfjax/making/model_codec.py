"""A loaded model's codec by itself: sound to latents, and latents to sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kfjax import generation, media, rates
from kfjax.codec import codec_of
from kfjax.codec.pieces import BORDER_LATENTS, SECONDS, Pieces, latents_of
from kfjax.command import local_path
from kfjax.making.sound import Sound, finite, within_range
from kfjax.nn.module import Params
from kfjax.structs import Features, Given
from kfjax.system import SystemConfig
from kfjax.xla.programs import Program

#: Of a window in which a long sound is encoded.
WINDOW_LATENTS = 345


class ModelCodec:
    """A model's codec by itself: `Model.codec`.

    latents = model.codec.encode("speech.wav")     # f32 [n, d]
    model.codec.decode(latents).save("again.wav")
    """

    def __init__(self, cfg: SystemConfig, parts: Callable[..., Mapping[str, Params]]):
        self._cfg, self._parts = cfg, parts

    def encode(self, sound: str | Path | np.ndarray) -> np.ndarray:
        """Normalised latents of a sound, the mean of the posterior.

        Args:
          sound: a file with sound, resampled to the model's rate; or samples at that rate within ±1, [t], [t, 1 or 2]
            or a batch [b, t, 1 or 2]. Stereo becomes mono by the mean. 0.1 seconds to an hour; in windows beyond a
            minute.

        Returns:
          f32 [n, d], of a batch [b, n, d], at `cfg.rates.latent_hz`; silence follows the sound up to a whole latent.

        Raises:
          ValueError: another shape, a length out of range, samples that are NaN or infinite.
          MediaError: a file without sound that can be read; a ValueError too.
        """
        cfg = self._cfg
        if isinstance(sound, str | Path):
            sound = media.read_audio(local_path(sound), cfg.rates.sample_rate_hz)
        wave = np.asarray(sound, np.float32)
        wave = wave[:, None] if wave.ndim == 1 else wave
        if wave.ndim not in (2, 3) or wave.shape[-1] not in (1, 2):
            raise ValueError(f"sound: got shape {np.shape(sound)}, expected [t], [t, 1 or 2] or [b, t, 1 or 2]")
        if not np.isfinite(wave).all():
            raise ValueError("sound: got NaN or infinite samples, expected numbers within ±1")
        mono = wave.mean(-1)
        seconds, unit = mono.shape[-1] / cfg.rates.sample_rate_hz, cfg.rates.hop * cfg.rates.downsample
        rates.check_seconds(seconds, rates.LONGEST_SECONDS)
        samples = -(-mono.shape[-1] // unit) * unit
        batch = np.atleast_2d(np.pad(mono, [(0, 0)] * (mono.ndim - 1) + [(0, samples - mono.shape[-1])]))
        params = self._parts("vae")
        encode = lambda batch: np.asarray(_latents(params, batch, cfg=cfg))
        latents = encode(batch) if seconds <= rates.MAX_SECONDS else _in_windows(encode, batch, unit)
        return latents if wave.ndim == 3 else latents[0]

    def decode(self, latents: np.ndarray) -> Sound:
        """Sound of latents, of `downsample · hop` samples each; turned down where it would go beyond ±1.

        Args:
          latents: normalised, f32 [n, d] or a batch [b, n, d], as `encode` returns them; in pieces beyond a minute.

        Returns:
          Stereo sound, without a video; a batch becomes its samples. Where the model has a Mono2Stereo it places the
          sound as for a prompt alone: no picture says where its source is.

        Raises:
          ValueError: another shape, a length that `encode` never returns, or latents that decode to NaN or infinite
            samples.
        """
        cfg, batch = self._cfg, np.asarray(latents, np.float32)
        batch = batch[None] if batch.ndim == 2 else batch
        if batch.ndim != 3 or batch.shape[-1] != cfg.mmdit.latent_dim:
            shapes = f"[n, {cfg.mmdit.latent_dim}] or [b, n, {cfg.mmdit.latent_dim}]"
            raise ValueError(f"latents: got shape {np.shape(latents)}, expected {shapes}, as encode returns them")
        least, at_once = (rates.lengths(limit, cfg.rates).latents for limit in (rates.MIN_SECONDS, rates.MAX_SECONDS))
        most = math.ceil(rates.LONGEST_SECONDS * cfg.rates.latent_hz)
        if not least <= (count := batch.shape[1]) <= most:
            raise ValueError(f"latents: got {count} of them, expected {least} to {most}; cut or join them")
        seconds, params = count / cfg.rates.latent_hz, self._parts(*cfg.codec.names)
        if count <= at_once:
            waves = generation.decode(params, batch, _unseen(cfg, seconds), cfg=cfg)
        else:
            waves = np.concatenate([_in_pieces(params, latents[None], cfg) for latents in batch])
        sounds = np.stack([within_range(finite(wave)) for wave in np.asarray(waves)])
        return Sound(sounds, cfg.rates.sample_rate_hz, seconds)


@Program
def _latents(params: Params, wave: Float[Array, "b t"], *, cfg: SystemConfig) -> Float[Array, "b n d"]:
    return jnp.asarray(codec_of(cfg.codec).encode(params, cfg.codec, wave).mean)


def _in_windows(
    encode: Callable[[np.ndarray], np.ndarray], batch: Float[np.ndarray, "b t"], unit: int
) -> Float[np.ndarray, "b n d"]:
    """Latents of a long sound: of each window those that hear no border of it, but at the sound's own ends."""
    count, parts, done = batch.shape[1] // unit, [], 0
    while done < count:
        first = max(0, min(done - BORDER_LATENTS, count - WINDOW_LATENTS))
        made = encode(batch[:, first * unit : (first + WINDOW_LATENTS) * unit])
        end = count if first + WINDOW_LATENTS >= count else first + WINDOW_LATENTS - BORDER_LATENTS
        parts.append(made[:, done - first : end - first])
        done = end
    return np.concatenate(parts, 1)


def _in_pieces(
    params: Mapping[str, Params], latents: Float[np.ndarray, "1 n d"], cfg: SystemConfig
) -> Float[np.ndarray, "1 t 2"]:
    """The sound of latents that are too many for one decoding."""
    has_video, width, rows = np.zeros(1, bool), latents_of(cfg.codec, SECONDS), None
    if cfg.codec.stereo is not None:
        row = np.asarray(generation.seen(_unseen(cfg, SECONDS), cfg=cfg, latents=width))[:, :1]
        rows = np.repeat(row, cfg.rates.downsample * latents.shape[1], 1)  # of no picture all are the same
    window = lambda *given: generation.decode_piece(params, given[0], given[1], has_video, given[2], cfg=cfg)
    return np.concatenate([*Pieces(window, cfg.codec, latents.shape[1], width).feed(latents, rows)], 1)


def _unseen(cfg: SystemConfig, seconds: float) -> Features:
    """Features of neither video nor prompt, [1, ...]."""
    blank = lambda length, dim: np.zeros((1, length, dim), np.float32)
    lengths = rates.lengths(min(seconds, rates.MAX_SECONDS), cfg.rates)  # the last latent may reach beyond
    given = Given.whole(np.zeros((1, cfg.text_tokens), bool), seconds)
    absent = given._replace(has_video=np.zeros(1, bool), has_text=np.zeros(1, bool))
    return Features(
        clip=blank(lengths.clip, cfg.clip.out_dim), sync=blank(lengths.sync, cfg.sync.width),
        text=blank(cfg.text_tokens, cfg.text.width), given=absent,
    )  # fmt: skip
