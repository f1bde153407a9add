"""A plain PyTorch version of ImageBind's two towers in the public layout: a second opinion for tests.

Module names are the public state dict's keys; what it computes is written from the published description, with torch's
own multi-head attention. It takes the same `ImageBindConfig`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kfjax.listeners.imagebind import ImageBindAudioConfig, ImageBindConfig, ImageBindVisionConfig, TowerConfig

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Block(nn.Module):
    def __init__(self, cfg: TowerConfig, extra: bool):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(cfg.width, cfg.eps), nn.LayerNorm(cfg.width, cfg.eps)
        self.attn = nn.MultiheadAttention(cfg.width, cfg.heads, add_bias_kv=extra, batch_first=True)
        hidden = cfg.mlp_ratio * cfg.width
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(cfg.width, hidden), "fc2": nn.Linear(hidden, cfg.width)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_1(x)
        x = x + self.attn(y, y, y)[0]
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm_2(x))))


class Stem(nn.Module):
    """Convolution over patches, class token, positions; each under its name in the file."""

    def __init__(self, cfg: ImageBindVisionConfig | ImageBindAudioConfig):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.width))
        self.pos_embedding_helper = nn.Module()
        self.pos_embedding_helper.pos_embed = nn.Parameter(torch.zeros(1, 1 + cfg.cells, cfg.width))
        self.rgbt_stem = nn.Module()
        if isinstance(cfg, ImageBindVisionConfig):
            kernel = (cfg.frames, cfg.patch, cfg.patch)
            self.rgbt_stem.proj = nn.Sequential(nn.Identity(), nn.Conv3d(3, cfg.width, kernel, kernel, bias=False))
            self.norm = nn.Identity()
        else:
            self.rgbt_stem.proj = nn.Conv2d(1, cfg.width, cfg.patch, cfg.patch_step, bias=False)
            self.rgbt_stem.norm_layer = nn.LayerNorm(cfg.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rgbt_stem.proj(x).flatten(2).transpose(1, 2)
        x = self.rgbt_stem.norm_layer(x) if hasattr(self.rgbt_stem, "norm_layer") else x
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embedding_helper.pos_embed


def trunk(cfg: TowerConfig, extra: bool) -> nn.Module:
    made = nn.Module()
    first = nn.Identity() if extra else nn.LayerNorm(cfg.width, cfg.eps)
    made.pre_transformer_layer = nn.Sequential(first)
    made.blocks = nn.Sequential(*(Block(cfg, extra) for _ in range(cfg.depth)))
    return made


def head(cfg: TowerConfig) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(cfg.width, cfg.eps), nn.Identity(), nn.Linear(cfg.width, cfg.out_dim, bias=False))


class ImageBind(nn.Module):
    def __init__(self, cfg: ImageBindConfig):
        super().__init__()
        self.cfg, towers = cfg, {"vision": cfg.vision, "audio": cfg.audio}
        self.modality_preprocessors = nn.ModuleDict({name: Stem(tower) for name, tower in towers.items()})
        self.modality_trunks = nn.ModuleDict({name: trunk(tower, name == "audio") for name, tower in towers.items()})
        self.modality_heads = nn.ModuleDict({name: head(tower) for name, tower in towers.items()})
        scale = nn.Module()
        scale.register_buffer("log_logit_scale", torch.zeros(()))
        self.modality_postprocessors = nn.ModuleDict({"audio": nn.Sequential(nn.Identity(), scale)})

    def unit(self, name: str, x: Tensor) -> Tensor:
        """[b c ...] -> vectors of length 1 of every clip, [b c d]."""
        y = self.modality_preprocessors[name](x.flatten(0, 1))
        y = self.modality_trunks[name].blocks(self.modality_trunks[name].pre_transformer_layer(y))
        y = self.modality_heads[name](y)[:, 0]
        return F.normalize(y, dim=-1).unflatten(0, x.shape[:2])

    def vision(self, clips: Tensor) -> Tensor:
        """[b c 2 H W 3] in 0..255 -> [b d]."""
        pixels = (clips / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        return self.unit("vision", pixels.permute(0, 1, 5, 2, 3, 4)).mean(1)

    def audio(self, spectrograms: Tensor) -> Tensor:
        """[b c bands frames], natural logarithms -> [b d]."""
        scale = self.modality_postprocessors["audio"][1].log_logit_scale.exp().clamp(max=100)
        normalized = (spectrograms + 4.268) / 9.138
        return (self.unit("audio", normalized[:, :, None]) * scale).mean(1)
