"""A plain PyTorch eager BigVGAN in the public layout: a second opinion for tests and benchmarks.

Module names are the public state dict's keys; what it computes is written from the published description, in the
straightforward way. It takes the same `BigVGANConfig`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kfjax.codec.bigvgan import BigVGANConfig


class WeightNorm(nn.Module):
    def __init__(self, *shape: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(shape[0], 1, 1))
        self.weight_v = nn.Parameter(torch.randn(*shape))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.folded = None

    def weight(self) -> Tensor:
        if self.folded is not None:
            return self.folded
        return self.weight_g * self.weight_v / self.weight_v.flatten(1).norm(dim=1)[:, None, None]


class Conv(WeightNorm):
    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, bias: bool = True):
        super().__init__(outputs, inputs, kernel, outputs=outputs, bias=bias)
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight()
        padding = self.dilation * (weight.shape[-1] // 2)
        return F.conv1d(x, weight, self.bias, padding=padding, dilation=self.dilation)


class Up(WeightNorm):
    def __init__(self, inputs: int, outputs: int, rate: int):
        super().__init__(inputs, outputs, 2 * rate, outputs=outputs)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(x, self.weight(), self.bias, stride=self.rate, padding=self.rate // 2)


def kaiser_sinc(taps: int = 12, cutoff: float = 0.25, half_width: float = 0.3) -> Tensor:
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * half_width + 7.95
    beta = 0.1102 * (attenuation - 8.7)  # Kaiser's rule above 50 dB
    time = torch.arange(-taps // 2, taps // 2) + 0.5
    filter = torch.kaiser_window(taps, periodic=False, beta=beta) * torch.sinc(2 * cutoff * time)
    return (filter / filter.sum())[None, None]


class Resample(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("filter", kaiser_sinc())


class Upsample(Resample):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (5, 5), mode="replicate")
        weight = self.filter.expand(x.shape[1], -1, -1)
        return 2 * F.conv_transpose1d(x, weight, stride=2, groups=x.shape[1])[..., 15:-15]


class LowPass(Resample):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (5, 6), mode="replicate")
        return F.conv1d(x, self.filter.expand(x.shape[1], -1, -1), stride=2, groups=x.shape[1])


class Downsample(nn.Module):
    def __init__(self):
        super().__init__()
        self.lowpass = LowPass()

    def forward(self, x: Tensor) -> Tensor:
        return self.lowpass(x)


class SnakeBeta(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x + torch.sin(x * alpha).square() / (beta + 1e-9)


class Activation(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.upsample, self.act, self.downsample = Upsample(), SnakeBeta(width), Downsample()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.act(self.upsample(x)))


class Block(nn.Module):
    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()
        self.convs1 = nn.ModuleList([Conv(width, width, kernel, dilation) for dilation in dilations])
        self.convs2 = nn.ModuleList([Conv(width, width, kernel) for _ in dilations])
        self.activations = nn.ModuleList([Activation(width) for _ in range(2 * len(dilations))])

    def forward(self, x: Tensor) -> Tensor:
        for i, (conv1, conv2) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            x = x + conv2(self.activations[2 * i + 1](conv1(self.activations[2 * i](x))))
        return x


class TorchBigVGAN(nn.Module):
    def __init__(self, cfg: BigVGANConfig):
        super().__init__()
        self.cfg = cfg
        widths = [cfg.width // 2**i for i in range(len(cfg.rates) + 1)]
        self.conv_pre = Conv(cfg.bands, widths[0], 7)
        self.ups = nn.ModuleList(
            [nn.ModuleList([Up(widths[i], widths[i + 1], rate)]) for i, rate in enumerate(cfg.rates)]
        )
        self.resblocks = nn.ModuleList(
            [Block(width, kernel, cfg.dilations) for width in widths[1:] for kernel in cfg.block_kernels]
        )
        self.activation_post = Activation(widths[-1])
        self.conv_post = Conv(widths[-1], 1, 7, bias=cfg.output_bias)

    def forward(self, log_mel: Tensor) -> Tensor:
        """(b, bands, f) -> (b, t)"""
        x = self.conv_pre(log_mel)
        count = len(self.cfg.block_kernels)
        for i, (up,) in enumerate(self.ups):
            x = up(x)
            x = torch.stack([block(x) for block in self.resblocks[i * count : (i + 1) * count]]).mean(0)
        x = self.conv_post(self.activation_post(x))[:, 0]
        return x.tanh() if self.cfg.output == "tanh" else x.clamp(-1, 1)

    @torch.no_grad()
    def randomise(self, seed: int) -> TorchBigVGAN:
        """Every parameter drawn, none at its neutral value; scales keep the waveform well within [-1, 1]."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            parameter.normal_(0, 0.3, generator=generator)
            if name.endswith("weight_g"):
                # A transposed convolution's length belongs to an input, whose energy spreads over the rate.
                scale = 2 if name.startswith("ups") else 0.15 if "conv_post" in name else 0.4
                parameter.exp_().mul_(scale)
        return self

    @torch.no_grad()
    def fold(self) -> TorchBigVGAN:
        """Kernels computed once and for all, as its users do before inference."""
        for layer in self.modules():
            if isinstance(layer, WeightNorm):
                layer.folded = layer.weight()
        return self
