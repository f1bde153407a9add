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


class Schedule(NamedTuple):
    """Which steps sampling takes, of all the steps from noise (t = 0) to data (t = 1). All of it is traced.

    Step i begins at t = u + sway (cos(pi u / 2) - 1 + u), u = i / steps. sway 0: uniform steps; -1: most of them early,
    where few steps lose most (F5-TTS, arXiv 2410.06885).
    """

    steps: Array  # i32 []
    first: Array  # i32 [] or [b], the first that an example takes
    taken: Array  # i32 [], how many it takes
    sway: Array  # f32 [], -1 to 1
    guided: Array | None = None  # f32 [2], guidance acts for t in [from, to); None: always

    @classmethod
    def whole(
        cls, steps: int | Array, sway: float | Array = 0.0, guided: tuple[float, float] | None = None
    ) -> Schedule:
        """All steps, from noise to data."""
        number = lambda x, dtype: dtype(x) if isinstance(x, int | float) else x  # traced ones stay
        interval = None if guided is None else np.array(guided, np.float32)
        count = number(steps, np.int32)
        return cls(count, np.zeros((), np.int32), count, number(sway, np.float32), interval)


class Known(NamedTuple):
    """Latents that are given: they condition the others and are returned as they are."""

    latents: Array  # f32 [b n d], normalised; irrelevant where the mask is False
    mask: Array  # bool [b n]
    noise: Array  # f32 [b n d], what they are noised with for weights that take them so (`SystemConfig.known_as`)


class Reference(NamedTuple):
    """A sound before the excerpt that the excerpt shall sound like, and the features of its film or of none."""

    features: Features
    known: Known  # all of it


class Posterior(NamedTuple):
    """Gaussian over normalised latents."""

    mean: Array  # [b, n, d]
    std: Array  # [b, n, d]

    def sample(self, key: jax.Array) -> jax.Array:
        import jax

        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return jax.numpy.asarray(self.mean + self.std * noise)


class FlowBatch(NamedTuple):
    """One bucket's examples. `mel_left` and `mel_right` are log-mels of the channels, for Mono2Stereo."""

    excerpt: Excerpt
    posterior: Posterior
    mel_left: Array  # [b, f, m]
    mel_right: Array  # [b, f, m]


class StereoMels(NamedTuple):
    """What Mono2Stereo learns from, in the bytes of `codec.stereo.to_bytes`; without b where it is of one example."""

    mono: Array  # u8 [b, f, m], log-mel of the mono
    ratio: Array  # i8 [b, f, m], log(left / right)
    there: Array  # bool [b]; False for recordings in mono, whose bytes are irrelevant


class FeatureBatch(NamedTuple):
    """One bucket's examples, encoded beforehand. Training on it runs no encoder and sees neither frames nor waves."""

    features: Features
    posterior: Posterior
    stereo: StereoMels | None = None  # where Mono2Stereo trains


class TrainState(NamedTuple):
    """All that a training run carries from step to step (the data position is `step`)."""

    step: Array  # i32 []
    params: Any
    opt_state: Any
    ema: Any
    skipped: Array  # i32 [], non-finite steps in a row
