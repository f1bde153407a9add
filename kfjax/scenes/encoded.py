"""Scenes encoded once and sampled many times: for experiments on sampler and codec.

    scenes = EncodedScenes(system, captions, 5.0, films=(bucket, rows))
    latents = scenes.latents(Guidance(3, 3), steps=20, method="heun", seed=1)
    for wave in scenes.sounds(latents): ...                                     # float32 [t, 2] each

Noise comes from the seed and the scene's own number, as in `SceneSounds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from kfjax import features, generation, rates
from kfjax.codec.vae import MelVAE
from kfjax.flow import sampler
from kfjax.nn.module import Params, bind
from kfjax.scenes import Bucket
from kfjax.scenes.sounds import scene_excerpt
from kfjax.structs import Features, Noise
from kfjax.system import ENCODERS, System, SystemConfig

_BATCH = 4


class EncodedScenes:
    """The features of some scenes, with sampling and decoding.

    Args:
      system: with a Mono2Stereo in its codec.
      prompts: one a scene; "" = video alone.
      seconds: of every sound.
      films: a bucket of rendered scenes and its row for each prompt; None: from text alone.
    """

    def __init__(
        self,
        system: System,
        prompts: Sequence[str],
        seconds: float,
        *,
        films: tuple[Bucket, Sequence[int]] | None = None,
    ):
        self.cfg: SystemConfig = system.cfg
        self._params = jax.device_put(system.params)
        self._lengths = rates.lengths(seconds, self.cfg.rates)
        self._samples = rates.exact_samples(seconds, self.cfg.rates)
        self._filmed = films is not None
        numbers = np.arange(len(prompts), dtype=np.uint32) if films is None else np.array(films[1], np.uint32)
        encoders = {name: self._params[name] for name in ENCODERS}
        self._batches: list[tuple[Features, Int[np.ndarray, " b"], int]] = []
        for rows, kept in generation.batches(len(prompts), _BATCH):
            chosen = [prompts[int(i)] for i in rows]
            if films is None:
                excerpt = features.make_excerpt(self.cfg, system.tokenizer, self._lengths, seconds, None, chosen)
            else:
                own = [films[1][i] for i in rows]
                excerpt = scene_excerpt(self.cfg, system.tokenizer, films[0], own, chosen)
            self._batches.append((generation.encode(encoders, excerpt, cfg=self.cfg), numbers[rows], kept))

    def __len__(self) -> int:
        return sum(kept for _, _, kept in self._batches)

    def latents(
        self,
        guidance: sampler.Guidance,
        steps: int,
        method: sampler.Method = "euler",
        seed: int = 0,
        *,
        kind: sampler.ScheduleKind | None = None,
        guided: tuple[float, float] | None = None,
        batches: int | None = None,
    ) -> Float[np.ndarray, "b n d"]:
        """Sampled latents of every scene, or of the first `batches` of four: enough to see how long it takes."""
        weights = guidance.weights(has_video=self._filmed)
        if guided is not None:
            weights = {"full": 0.0} | weights  # outside the interval it counts alone
        made = []
        for encoded, numbers, kept in self._batches[:batches]:
            noise = Noise(np.full(len(numbers), seed, np.uint32), numbers)
            x = generation.draw(noise, shape=(self._lengths.latents, self.cfg.mmdit.latent_dim))
            latents = generation.sample(
                self._params["mmdit"], encoded, None, np.array([*weights.values()], np.float32),
                sampler.schedule(steps, kind, guided), x, cfg=self.cfg, branches=tuple(weights), method=method,
            )  # fmt: skip
            made.append(np.asarray(latents)[:kept])
        return np.concatenate(made)

    def mels(self, latents: Float[np.ndarray, "b n d"]) -> Iterator[Float[np.ndarray, "f m"]]:
        """The mono log-mel of each scene from which its sound is made, natural logarithm."""
        for row in latents:
            yield np.asarray(_mel(self._params["vae"], self.cfg, row[None])[0])

    def sounds(
        self, latents: Float[np.ndarray, "b n d"], *, coherent: bool = True
    ) -> Iterator[Float[np.ndarray, "t 2"]]:
        """The sound of each scene as the codec gives it, which may go beyond ±1; latents may be those of the first
        scenes alone.

        Args:
          coherent: vocode once and pan; otherwise each channel's mel is vocoded by itself.
        """
        codec = {name: self._params[name] for name in self.cfg.codec.names}
        for scene, latent in enumerate(latents):
            encoded, _, _ = self._batches[scene // _BATCH]
            own = jax.tree.map(lambda x, i=scene % _BATCH: x[i : i + 1], encoded)
            wave = generation.decode(codec, latent[None], own, cfg=self.cfg, coherent=coherent)[0]
            yield np.asarray(wave)[: self._samples]


@partial(jax.jit, static_argnames="cfg")
def _mel(params: Params, cfg: SystemConfig, latents: Float[Array, "1 n d"]) -> Float[Array, "1 f m"]:
    return bind(MelVAE, cfg.codec.vae, params).decode(latents)
