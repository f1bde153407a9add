"""Every struct that crosses a module boundary. NamedTuples: pytrees without registration.

Axes: b batch, n latents, d latent channels, f mel frames, m mel bins, t samples, c audio channels,
v CLIP frames, s sync tokens, l text tokens, h width, k heads, e head dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

if TYPE_CHECKING:
    import jax

Array = Union["jax.Array", np.ndarray]  # by name: who reads records only need not import jax


class Video(NamedTuple):
    """An excerpt's frames at the two rates the encoders see, uint8 RGB, resized while decoding."""

    clip_frames: Array  # u8 [v, size, size, 3] (with a leading b where batched)
    sync_frames: Array  # u8 [sync frames, size, size, 3]
    seconds: float | Array


class Given(NamedTuple):
    """What is given beside frames and words: which of them there are, and the times. It goes from the excerpt to the
    generator as it is, so that a new condition is one more field. A False presence mask makes what it masks irrelevant.
    """

    text_mask: Array  # bool [b, l]
    seconds_start: Array  # f32 [b], of the excerpt in the whole
    seconds_total: Array  # f32 [b], of the whole
    has_video: Array  # bool [b]
    has_text: Array  # bool [b]

    @classmethod
    def whole(cls, text_mask: Array, seconds: float) -> Given:
        """A batch of excerpts that are the whole, `seconds` long, with video and text."""
        b = len(text_mask)
        start, total = np.zeros(b, np.float32), np.full(b, seconds, np.float32)
        return cls(text_mask, start, total, np.ones(b, bool), np.ones(b, bool))


class Excerpt(NamedTuple):
    """What the encoders read: a batch of frames and token ids."""

    clip_frames: Array  # u8 [b, v, H, W, 3]
    sync_frames: Array  # u8 [b, frames, H, W, 3]
    text_ids: Array  # i32 [b, l]
    given: Given


class Features(NamedTuple):
    """What the generator reads."""

    clip: Array  # [b, v, clip_dim]
    sync: Array  # [b, s, sync_dim]
    text: Array  # [b, l, text_dim]
    given: Given


class Conditions(NamedTuple):
    """Everything of the conditioning that depends on neither x nor t: computed once per sampling."""

    clip: Array  # [b, v, h]
    text: Array  # [b, l, h]
    align: Array  # [b, n, h]
    pooled: Array  # [b, h]


class Noise(NamedTuple):
    """What each example's noise is drawn from."""

    seed: Array  # u32 [b]
    number: Array  # u32 [b], tells apart the examples of one seed


class Posterior(NamedTuple):
    """Gaussian over normalised latents."""

    mean: Array  # [b, n, d]
    std: Array  # [b, n, d]

    def sample(self, key: jax.Array) -> jax.Array:
        import jax

        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return jax.numpy.asarray(self.mean + self.std * noise)


class FlowBatch(NamedTuple):
    """One bucket's examples. `mel_left` and `mel_right` are log-mels of the ears, for Mono2Stereo."""

    excerpt: Excerpt
    posterior: Posterior
    mel_left: Array  # [b, f, m]
    mel_right: Array  # [b, f, m]


class FeatureBatch(NamedTuple):
    """One bucket's examples, encoded beforehand. Training on it runs no encoder and sees neither frames nor mels."""

    features: Features
    posterior: Posterior


class TrainState(NamedTuple):
    """All that a training run carries from step to step (the data position is `step`)."""

    step: Array  # i32 []
    params: Any
    opt_state: Any
    ema: Any
    skipped: Array  # i32 [], non-finite steps in a row
