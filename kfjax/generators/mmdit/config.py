"""Sizes and switches of the generator. Nothing here knows the network: see `kfjax.encoders.configs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kfjax.nn.module import Remat


@dataclass(frozen=True)
class MMDiTConfig:
    """Sizes and switches of the generator. `width` is 64 per head in every published size."""

    width: int
    heads: int
    joint_depth: int
    single_depth: int
    latent_dim: int = 40
    clip_dim: int = 1280
    sync_dim: int = 768
    text_dim: int = 768
    mlp_ratio: float = 4.0
    hidden_multiple: int = 256
    empty_text_tokens: int = 1  # rows of the learned empty text; 77 where a whole empty prompt is stored
    rope: Literal["aligned", "unscaled", "none"] = "aligned"
    duration: Literal["discrete", "fourier", "none"] = "discrete"
    sync_align: Literal["uniform", "timed"] = "uniform"
    sync: Literal["seen", "hidden"] = "seen"  # hidden: the learned empty sync features stand for all films'
    block_kernel: Literal[3, 1] = 3  # of the audio and clip streams; 1: dense layers, as in the text stream
    final_cond: Literal["extended", "global"] = "extended"
    activation: Literal["silu", "selu"] = "silu"  # selu: MMAudio's first version (none on clip and text)
    timestep_features: int | None = None  # Fourier features of t; None = width
    timestep_scale: float = 1e4  # largest angle at t = 1, radians
    rms_eps: float = 1.1920929e-07
    remat: Remat | bool = False  # see module.scan_blocks
    unroll: bool = False  # blocks written out instead of looped over; for training on a CPU

    @property
    def hidden(self) -> int:
        from kfjax.nn.layers import hidden_width

        return hidden_width(self.width, self.mlp_ratio, self.hidden_multiple)
