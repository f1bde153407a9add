"""Sizes of the encoders. Nothing here knows a network: a model whose programs are kept is loaded without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["quick_gelu", "gelu"]
#: Total stride of the three steps; a patch is a multiple of it.
STEM_STRIDE = 16


@dataclass(frozen=True)
class CLIPVisionConfig:
    """Sizes of the image tower; the defaults are MetaCLIP's ViT-bigG/14 QuickGELU.

    Raises:
      ValueError: sizes that do not divide each other.
    """

    size: int = 224  # height and width of a frame, pixels
    patch: int = 14
    width: int = 1664
    depth: int = 48
    heads: int = 16
    mlp_width: int = 8192
    out_dim: int = 1280
    eps: float = 1e-5
    activation: Activation = "quick_gelu"
    normalize: bool = True  # output vectors of length 1
    stem: Literal["patch", "conv"] = "patch"  # "conv" is ours, for small models trained from nothing
    stem_widths: tuple[int, int, int] = (32, 64, 96)
    position_std: float = 0.02  # of the untrained positions; see docs/decisions/0008
    frames_at_once: int = 0  # frames that share memory; 0 = all

    def __post_init__(self):
        _require_heads(self.width, self.heads)
        if self.size < self.patch:
            raise ValueError(f"CLIP: got size={self.size}, expected at least one patch of {self.patch} pixels")
        if self.stem == "conv" and (self.patch % STEM_STRIDE or self.size % self.patch):
            raise ValueError(
                f"CLIP: got stem='conv' with size={self.size} and patch={self.patch}, expected a patch that is a "
                f"multiple of {STEM_STRIDE} and divides the size; change them or choose stem='patch'"
            )

    @property
    def cells(self) -> int:
        """Patches of a frame. Rows and columns that do not fill a patch are not read, as in the public towers."""
        return (self.size // self.patch) ** 2


@dataclass(frozen=True)
class CLIPTextConfig:
    """Sizes of the text tower; the defaults are those of ViT-H/14.

    Raises:
      ValueError: heads that do not divide the width.
    """

    vocab: int = 49408
    length: int = 77
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_width: int = 4096
    eps: float = 1e-5
    activation: Activation = "quick_gelu"
    normalize: bool = True  # output vectors of length 1
    kind: Literal["clip"] = "clip"

    def __post_init__(self):
        _require_heads(self.width, self.heads)


def _require_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"CLIP: got width={width} and heads={heads}, expected a width that is a multiple of heads")


@dataclass(frozen=True)
class SynchformerConfig:
    """Sizes. The defaults are the public ViT-B/16; `stem="conv"` is ours, for small models trained from nothing.

    Raises:
      ValueError: sizes that do not divide each other.
    """

    size: int = 224  # height and width of a frame, pixels
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16  # pixels per token along each side
    frames: int = 16  # frames in a segment
    tubelet: int = 2  # frames per token
    segment_step: int = 8  # frames from one segment to the next
    mlp_ratio: int = 4
    eps: float = 1e-6
    stem: Literal["patch", "conv"] = "patch"
    stem_widths: tuple[int, int, int] = (32, 64, 96)
    motion_gain: float = 2.0  # of the frame differences that the "conv" stem sees
    picture_gain: float = 1.0  # of the frames themselves; what stands still must not drown what moves
    position_std: float = 0.02  # of the untrained positions; see docs/decisions/0008
    segments_at_once: int = 0  # segments that share memory; 0 = all

    def __post_init__(self):
        divisions = [
            ("size", "patch"), ("width", "heads"), ("frames", "segment_step"), ("segment_step", "tubelet"),
        ]  # fmt: skip
        for whole, part in divisions:
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"Synchformer: got {whole}={getattr(self, whole)} and {part}={getattr(self, part)}, "
                    f"expected {whole} to be a multiple of {part}; change one of them"
                )
        if self.stem == "conv" and (self.patch % STEM_STRIDE or self.tubelet != 2):
            raise ValueError(
                f"Synchformer: got stem='conv' with patch={self.patch} and tubelet={self.tubelet}, expected a patch "
                f"that is a multiple of {STEM_STRIDE} and tubelet=2; change them or choose stem='patch'"
            )

    @property
    def steps(self) -> int:
        """Time steps, and so tokens, of a segment."""
        return self.frames // self.tubelet

    @property
    def cells(self) -> int:
        """Spatial tokens of a time step."""
        return (self.size // self.patch) ** 2


@dataclass(frozen=True)
class T5Config:
    """Sizes; the defaults are T5-Base's."""

    vocab: int = 32128
    width: int = 768
    depth: int = 12
    heads: int = 12
    head_dim: int = 64
    hidden: int = 3072
    buckets: int = 32  # of relative positions, half for each direction
    max_distance: int = 128  # all larger distances share the last bucket
    eps: float = 1e-6
    gain: float = 1.0  # times the output; a small generator's text stream starts out deaf to features of size 1
    kind: Literal["t5"] = "t5"
