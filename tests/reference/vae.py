"""A plain PyTorch version of MMAudio's Mel-VAE in the public layout: a second opinion for tests and benchmarks.

Module names are the public state dict's keys; what it computes is written from the published description, channels
second as there. It takes the same `VAEConfig`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kfjax.codec.vae import VAEConfig


class Conv(nn.Module):
    """The kernel is normalised at every use; the public code does it once, after loading."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel))

    def forward(self, x: Tensor) -> Tensor:
        rms = self.weight.square().mean((1, 2), keepdim=True).sqrt()
        weight = self.weight / ((1e-4 + rms) * math.sqrt(self.weight[0].numel()))
        return F.conv1d(x, weight, padding=self.weight.shape[2] // 2)


def silu(x: Tensor) -> Tensor:
    return F.silu(x) / 0.596


def unit(x: Tensor) -> Tensor:
    return x / (1e-4 + x.square().mean(1, keepdim=True).sqrt())


def mix(x: Tensor, y: Tensor) -> Tensor:
    return (0.7 * x + 0.3 * y) / math.sqrt(0.58)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.conv2 = Conv(inputs, outputs, 3), Conv(outputs, outputs, 3)
        if inputs != outputs:
            self.nin_shortcut = Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = unit(x)
        y = self.conv2(silu(self.conv1(silu(x))))
        return mix(self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x, y).clamp(-256, 256)


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.qkv, self.proj_out = Conv(width, 3 * width, 1), Conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (unit(part) for part in self.qkv(x).unflatten(1, (-1, 3)).unbind(2))
        weights = (q.transpose(1, 2) @ k / math.sqrt(x.shape[1])).softmax(-1)
        return mix(x, self.proj_out(v @ weights.transpose(1, 2)))


class Middle(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = Block(width, width), Attention(width), Block(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Down(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width, 1), Conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class Up(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest-exact"))


class Level(nn.Module):
    def __init__(self, inputs: int, outputs: int, depth: int, **rate: nn.Module):
        super().__init__()
        self.block = nn.ModuleList(Block(outputs if i else inputs, outputs) for i in range(depth))
        for name, module in rate.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for module in [*self.block, *(module for name, module in self.named_children() if name != "block")]:
            x = module(x)
        return x


class Encoder(nn.Module):
    def __init__(self, cfg: VAEConfig):
        super().__init__()
        w = cfg.width
        self.conv_in = Conv(cfg.bands, w, 3)
        self.down = nn.ModuleList([Level(w, w, 2, downsample=Down(w)), Level(w, 2 * w, 2), Level(2 * w, 4 * w, 2)])
        self.mid = Middle(4 * w)
        self.conv_out = Conv(4 * w, 2 * cfg.latent_dim, 3)
        self.learnable_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(silu(self.mid(x))) * (self.learnable_gain + 1)


class Decoder(nn.Module):
    def __init__(self, cfg: VAEConfig):
        super().__init__()
        w = cfg.width
        self.conv_in = Conv(cfg.latent_dim, 4 * w, 3)
        self.mid = Middle(4 * w)
        self.up = nn.ModuleList(
            [Level(2 * w, w, 3), Level(4 * w, 2 * w, 3, upsample=Up(2 * w)), Level(4 * w, 4 * w, 3)]
        )
        self.conv_out = Conv(w, cfg.bands, 3)
        self.learnable_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(silu(x)) * (self.learnable_gain + 1)


class VAE(nn.Module):
    """Log-mel [b m f] <-> the network's own latents [b d f/2]."""

    def __init__(self, cfg: VAEConfig):
        super().__init__()
        self.encoder, self.decoder = Encoder(cfg), Decoder(cfg)
        self.register_buffer("data_mean", torch.zeros(1, cfg.bands, 1))
        self.register_buffer("data_std", torch.ones(1, cfg.bands, 1))

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior."""
        mean, log_variance = self.encoder((mel - self.data_mean) / self.data_std).chunk(2, 1)
        return mean, (log_variance.clamp(-30, 20) / 2).exp()

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent) * self.data_std + self.data_mean
