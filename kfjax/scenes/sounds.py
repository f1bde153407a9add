"""Generation for many scenes, in batches; each stage is compiled once per duration.

    sounds = SceneSounds(system.load("model"))
    for wave in sounds.generate(captions, 8.0, films=(bucket, rows)):       # float32 [t, 2] each

A scene's noise comes from the seed and the scene's own number: its latents are the same in any batch, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import jax
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from kfjax import features, generation, rates
from kfjax.codec.configs import CodecConfig
from kfjax.codec.mel import log_mel
from kfjax.codec.vae import MelVAE
from kfjax.codec.vocoder import Vocoder
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.flow import sampler
from kfjax.nn.module import Params, bind
from kfjax.scenes import Bucket
from kfjax.structs import Excerpt, Noise
from kfjax.system import System, SystemConfig

_BATCH_SECONDS, _LARGEST_BATCH = 64.0, 16


class SceneSounds:
    """Generates sounds for scenes, and reconstructs true sounds by the codec.

    Args:
      system: to evaluate; its encoders take square frames of one size.
      steps, guidance, negative: of sampling; each defaults to the system's own.
      seed: of all noise.

    Raises:
      ValueError: the two encoders need frames of different sizes; a corpus has one.
    """

    def __init__(
        self,
        system: System,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        negative: float | None = None,
        seed: int = 0,
    ):
        self.cfg: SystemConfig = system.cfg
        if self.cfg.clip.size != self.cfg.sync.size:
            sizes = f"{self.cfg.clip.size} and {self.cfg.sync.size}"
            raise ValueError(f"frames: the encoders see sizes {sizes}, expected one size; a corpus holds no other")
        defaults = self.cfg.defaults
        self.steps = defaults.steps if steps is None else steps
        self.guidance = defaults.guidance if guidance is None else guidance
        self.negative = defaults.negative if negative is None else negative
        self.seed = seed
        self._tokenizer, self._params = system.tokenizer, jax.device_put(system.params)

    def generate(
        self,
        prompts: Sequence[str],
        seconds: float,
        *,
        films: tuple[Bucket, Sequence[int]] | None = None,
        negatives: Sequence[str] | None = None,
    ) -> Iterator[np.ndarray]:
        """One float32 [t, 2] sound within ±1 a prompt, t = round(seconds · rate), in order.

        Args:
          prompts: captions; "" = video alone.
          seconds: of every sound.
          films: a bucket of rendered scenes and its row for each prompt; None: from text alone.
          negatives: negative prompts, one a prompt.
        """
        guidance = sampler.Guidance(self.guidance, self.guidance, self.negative if negatives else 0.0)
        weights = {name: np.float32(x) for name, x in guidance.weights(has_video=films is not None).items()}
        lengths = rates.lengths(seconds, self.cfg.rates)
        numbers = np.arange(len(prompts), dtype=np.uint32) if films is None else np.array(films[1], np.uint32)
        avoided = self._tokenizer.encode(list(negatives)) if negatives and self.negative else None
        batches = list(generation.batches(len(prompts), _batch_size(seconds)))
        for rows, kept in tqdm(batches, f"batches of {seconds:g} s", mininterval=5.0, leave=False):
            chosen = [prompts[int(i)] for i in rows]
            if films is None:
                excerpt = features.make_excerpt(self.cfg, self._tokenizer, lengths, seconds, None, chosen)
            else:
                excerpt = scene_excerpt(self.cfg, self._tokenizer, films[0], [films[1][i] for i in rows], chosen)
            noise = Noise(np.full(len(rows), self.seed, np.uint32), numbers[rows])
            texts = None if avoided is None else tuple(part[rows] for part in avoided)
            made = _generate(
                self._params, self.cfg, excerpt, noise, weights, sampler.schedule(self.steps), lengths.latents,
                avoided=texts,
            )  # fmt: skip
            for wave in np.asarray(made)[:kept, : rates.exact_samples(seconds, self.cfg.rates)]:
                yield wave / max(1.0, float(np.abs(wave).max()))

    def through_codec(self, waves: Iterable[np.ndarray], seconds: float, *, vae: bool = True) -> Iterator[np.ndarray]:
        """Each sound [t] or [t, 2] of `seconds`, reconstructed by VAE and vocoder, or the vocoder alone: [t]."""
        return (wave for wave, _ in self._coded(waves, seconds, vae))

    def codec_mels(self, waves: Iterable[np.ndarray], seconds: float, *, vae: bool = True) -> Iterator[np.ndarray]:
        """The log-mels [f, m] from which `through_codec` makes its sounds: the VAE's, or the true ones."""
        return (mel for _, mel in self._coded(waves, seconds, vae))

    def _coded(self, waves: Iterable[np.ndarray], seconds: float, vae: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = rates.lengths(seconds, self.cfg.rates).samples
        codec, waves = {name: self._params[name] for name in ("vae", "vocoder")}, iter(waves)
        batch = _batch_size(seconds)
        while chosen := [wave.reshape(len(wave), -1).mean(-1) for wave in islice(waves, batch)]:
            padded = np.zeros((batch, size), np.float32)
            for row, wave in zip(padded, chosen, strict=False):
                row[: len(wave)] = wave[:size]
            made, mels = (np.asarray(x) for x in _through_codec(codec, self.cfg.codec, padded, vae=vae))
            yield from ((out[: len(wave)], mel) for out, mel, wave in zip(made, mels, chosen, strict=False))


def scene_excerpt(
    cfg: SystemConfig, tokenizer: Tokenizer, bucket: Bucket, rows: Sequence[int], prompts: Sequence[str]
) -> Excerpt:
    """The films of some rendered scenes, each with a prompt ("" for none), as the encoders read them.

    Raises:
      ValueError: the films were rendered at another size than the encoders'.
    """
    size = rates.lengths(bucket.seconds, cfg.rates)
    if bucket.frames.shape[2] != cfg.sync.size:
        raise ValueError(
            f"{bucket.folder}: got films of {bucket.frames.shape[2]} pixels, expected {cfg.sync.size}; "
            "render the corpus at that size"
        )
    frames = np.stack([bucket.frames[i] for i in rows])
    shown = np.minimum(np.arange(size.sync_frames), frames.shape[1] - 1)
    # The first frame at or after each time, as the decoder of files chooses them.
    looked = np.ceil(np.arange(size.clip) / cfg.rates.clip_hz * cfg.rates.sync_hz - 1e-6).astype(int)
    blank = features.make_excerpt(cfg, tokenizer, size, bucket.seconds, None, prompts)
    return blank._replace(
        clip_frames=frames[:, np.minimum(looked, frames.shape[1] - 1)],
        sync_frames=frames[:, shown],
        given=blank.given._replace(has_video=np.ones(len(rows), bool)),
    )


def _batch_size(seconds: float) -> int:
    return max(1, min(_LARGEST_BATCH, int(_BATCH_SECONDS / seconds)))


_generate = jax.jit(generation.generate, static_argnames=("cfg", "latents"))


@partial(jax.jit, static_argnames=("cfg", "vae"))
def _through_codec(
    params: Params, cfg: CodecConfig, wave: Float[Array, "b t"], *, vae: bool
) -> tuple[Float[Array, "b t"], Float[Array, "b f m"]]:
    mel = log_mel(wave, cfg.mel)
    if vae:
        network = bind(MelVAE, cfg.vae, params["vae"])
        mel = network.decode(network.encode(mel).mean)
    return bind(Vocoder, cfg.vocoder, params["vocoder"])(mel), mel
