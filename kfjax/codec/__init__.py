"""Codecs: waveform <-> latents. Each kind has its own configuration and parts, all have one interface.

    posterior = codec_of(cfg).encode(params, cfg, wave)
    wave = codec_of(cfg).decode(params, cfg, latents, seen, has_video)

A new kind is a configuration (of its own `kind`, in the type of `SystemConfig.codec`, with `names` and `parts()` as
`CodecConfig` has them), a module with the two functions, and a line in `codec_of`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
from jaxtyping import Bool, Float

from kfjax.nn.module import Params
from kfjax.structs import Array, Posterior

if TYPE_CHECKING:
    from kfjax.codec.configs import CodecConfig
    from kfjax.codec.pieces import Overlap


@runtime_checkable
class Codec(Protocol):
    """A module with two functions of the parameters of its parts."""

    def encode(self, params: Params, cfg: Any, wave: Float[Array, "b t"]) -> Posterior:
        """Posterior over normalised latents [b n d] of a mono waveform in [-1, 1] of whole latents."""
        ...

    def decode(
        self,
        params: Params,
        cfg: Any,
        latents: Float[Array, "b n d"],
        seen: Float[Array, "b v i"] | None,
        has_video: Bool[Array, " b"],
        *,
        overlap: Overlap | None = None,
        coherent: bool = True,
    ) -> Float[jax.Array, "b t 2"]:
        """Stereo waveform of normalised latents, which may go beyond ±1.

        Args:
          seen: the video's per-frame features, for codecs that place sources; others do not read them.
          has_video: where False, `seen` does not matter.
          overlap: what is known of a piece of a long sound, see `pieces`; None for a whole one.
          coherent: both channels share one phase; see `audio_codec.decode`.
        """
        ...


def codec_of(cfg: CodecConfig) -> Codec:
    """The codec of a configuration."""
    from kfjax.codec import audio_codec  # slow to import
    from kfjax.codec.configs import CodecConfig

    codecs: dict[type, Codec] = {CodecConfig: audio_codec}
    return codecs[type(cfg)]
