"""A plain PyTorch eager version of the generator in MMAudio's public layout: a second opinion for tests and benchmarks.

Module names are the public state dict's keys; what it computes is written from the published description, in the
straightforward way. It takes the same `MMDiTConfig` (the parts that MMAudio knows).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kfjax.generators.mmdit.mmdit import MMDiTConfig


class Conv(nn.Conv1d):
    """Convolution along time of channels-last tokens, 'same' zero padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int, kernel: int = 1):
        super().__init__()
        make = lambda i, o: nn.Linear(i, o, bias=False) if kernel == 1 else Conv(i, o, kernel, bias=False)
        self.w1, self.w2, self.w3 = make(width, hidden), make(hidden, width), make(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def rope(length: int, dim: int, scale: float) -> tuple[Tensor, Tensor]:
    angle = torch.arange(length)[:, None] * (1e4 ** -(torch.arange(0, dim, 2) / dim) * scale)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = table
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Attention(nn.Module):
    """Projections and norms only: a joint block attends over several of these."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)

    def project(self, x: Tensor, table: tuple[Tensor, Tensor] | None) -> list[Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, -1, 3)).transpose(1, 2).unbind(-1)
        q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        return [q, k, v]


class Stream(nn.Module):
    def __init__(self, cfg: MMDiTConfig, kernel: int, keys_only: bool = False):
        super().__init__()
        width = cfg.width
        self.width, self.keys_only = width, keys_only
        self.attn = Attention(width, cfg.heads)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, (2 if keys_only else 6) * width))
        if not keys_only:
            self.linear1 = nn.Linear(width, width) if kernel == 1 else Conv(width, width, kernel)
            self.ffn = SwiGLU(width, cfg.hidden, kernel)

    def norm(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=1e-5) * (1 + scale) + shift

    def before(self, x: Tensor, condition: Tensor, table) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        shift, scale, *rest = self.adaLN_modulation(condition).split(self.width, -1)
        return self.attn.project(self.norm(x, shift, scale), table), tuple(rest)

    def after(self, x: Tensor, attended: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        gate_attention, shift, scale, gate_mlp = rest
        x = x + self.linear1(attended) * gate_attention
        return x + self.ffn(self.norm(x, shift, scale)) * gate_mlp

    def forward(self, x: Tensor, condition: Tensor, table) -> Tensor:
        qkv, rest = self.before(x, condition, table)
        return self.after(x, attend(*qkv), rest)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Joint(nn.Module):
    def __init__(self, cfg: MMDiTConfig, last: bool):
        super().__init__()
        self.last = last
        self.latent_block = Stream(cfg, 3)
        self.clip_block, self.text_block = Stream(cfg, 3, last), Stream(cfg, 1, last)

    def forward(self, x, clip, text, extended, pooled, tables):
        (a, ra), (c, rc), (t, rt) = (
            self.latent_block.before(x, extended, tables[0]),
            self.clip_block.before(clip, pooled, tables[1]),
            self.text_block.before(text, pooled, None),
        )
        attended = attend(*(torch.cat(parts, 2) for parts in zip(a, c, t, strict=True)))
        parts = attended.split([x.shape[1], clip.shape[1], text.shape[1]], 1)
        x = self.latent_block.after(x, parts[0], ra)
        if self.last:
            return x, clip, text
        return x, self.clip_block.after(clip, parts[1], rc), self.text_block.after(text, parts[2], rt)


class Timestep(nn.Module):
    def __init__(self, cfg: MMDiTConfig):
        super().__init__()
        self.features, self.scale = cfg.timestep_features or cfg.width, cfg.timestep_scale
        self.mlp = nn.Sequential(nn.Linear(self.features, cfg.width), nn.SiLU(), nn.Linear(cfg.width, cfg.width))

    def forward(self, t: Tensor) -> Tensor:
        index = torch.arange(0, self.features, 2, dtype=torch.float64) / self.features
        angle = t[:, None] * (self.scale * 1e4**-index).float()
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1))


class Final(nn.Module):
    def __init__(self, cfg: MMDiTConfig):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(cfg.width, 2 * cfg.width))
        self.conv = Conv(cfg.width, cfg.latent_dim, 7)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, -1)
        return self.conv(F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) + shift)


class TorchMMDiT(nn.Module):
    """The whole network. `prepare` once, then `forward(x, t, conditions)` every step."""

    def __init__(self, cfg: MMDiTConfig):
        super().__init__()
        self.cfg, h, hidden = cfg, cfg.width, cfg.hidden
        first = nn.SiLU if cfg.activation == "silu" else nn.SELU
        # The first version has no activation on clip and text, so its second map sits one index earlier.
        between = [nn.SiLU()] if cfg.activation == "silu" else []
        proj = nn.Sequential
        self.audio_input_proj = proj(Conv(cfg.latent_dim, h, 7), first(), SwiGLU(h, hidden, 7))
        self.clip_input_proj = proj(nn.Linear(cfg.clip_dim, h), *between, SwiGLU(h, hidden, 3))
        self.sync_input_proj = proj(Conv(cfg.sync_dim, h, 7), first(), SwiGLU(h, hidden, 3))
        self.text_input_proj = proj(nn.Linear(cfg.text_dim, h), *between, SwiGLU(h, hidden))
        self.clip_cond_proj, self.text_cond_proj = nn.Linear(h, h), nn.Linear(h, h)
        self.global_cond_mlp = SwiGLU(h, hidden)
        self.t_embed = Timestep(cfg)
        self.joint_blocks = nn.ModuleList(Joint(cfg, i == cfg.joint_depth - 1) for i in range(cfg.joint_depth))
        self.fused_blocks = nn.ModuleList(Stream(cfg, 3) for _ in range(cfg.single_depth))
        self.final_layer = Final(cfg)
        for name, shape in {
            "sync_pos_emb": (1, 1, 8, cfg.sync_dim),
            "empty_clip_feat": (1, cfg.clip_dim),
            "empty_sync_feat": (1, cfg.sync_dim),
            "empty_string_feat": (cfg.empty_text_tokens, cfg.text_dim),
            "latent_mean": (1, 1, cfg.latent_dim),
            "latent_std": (1, 1, cfg.latent_dim),
        }.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def randomise(self, seed: int) -> TorchMMDiT:
        """Fan-in scaled weights everywhere, so that no path is silent (at the usual start the output is zero)."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                norm_scale = name.endswith("_norm.weight")
                fan_in = math.prod(p.shape[1:]) if p.ndim > 1 and "feat" not in name else 1
                std = 0.2 if p.ndim == 1 else fan_in**-0.5
                p.copy_(torch.randn(p.shape, generator=generator) * std + norm_scale)
        return self

    def prepare(self, clip: Tensor, sync: Tensor, text: Tensor, latents: int) -> tuple[Tensor, ...]:
        """clip [b v h], text [b l h], align [b n h], pooled [b h] of features that are all present."""
        sync = (sync.unflatten(1, (-1, 8)) + self.sync_pos_emb).flatten(1, 2)
        clip, sync, text = self.clip_input_proj(clip), self.sync_input_proj(sync), self.text_input_proj(text)
        align = F.interpolate(sync.transpose(1, 2), latents, mode="nearest-exact").transpose(1, 2)
        pooled = self.global_cond_mlp(self.clip_cond_proj(clip.mean(1)) + self.text_cond_proj(text.mean(1)))
        return clip, text, align, pooled

    def empty(self, clip: int, sync: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """The learned features of a missing video and an empty prompt, ready for `prepare`."""
        text = self.empty_string_feat.expand(batch, -1, -1)
        return self.empty_clip_feat.expand(batch, clip, -1), self.empty_sync_feat.expand(batch, sync, -1), text

    def forward(self, x: Tensor, t: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
        clip, text, align, pooled = conditions
        pooled = (self.t_embed(t) + pooled)[:, None]
        extended = pooled + align
        dim, n, v = self.cfg.width // self.cfg.heads, x.shape[1], clip.shape[1]
        tables = rope(n, dim, 1.0), rope(v, dim, n / v)
        x = self.audio_input_proj(x)
        for block in self.joint_blocks:
            x, clip, text = block(x, clip, text, extended, pooled, tables)
        for block in self.fused_blocks:
            x = block(x, extended, tables[0])
        return self.final_layer(x, pooled)


def euler(model: TorchMMDiT, x: Tensor, branches: tuple[Tensor, ...], steps: int, scale: float) -> Tensor:
    """Euler steps under ordinary guidance; `branches` are conditions of [conditional, empty] along the batch."""
    for i in range(steps):
        t = torch.full((2 * x.shape[0],), i / steps)
        full, empty = model(torch.cat([x, x]), t, branches).chunk(2)
        x = x + (scale * full + (1 - scale) * empty) / steps
    return x
