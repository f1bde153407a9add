"""A plain PyTorch version of PANNs' Cnn14 in the public layout: a second opinion for tests.

Module names are the public state dict's keys; what it computes is written from the published description. It takes the
same `Cnn14Config`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kfjax.listeners.panns import Cnn14Config


class Transform(nn.Module):
    """The windowed Fourier transform as two strided convolutions."""

    def __init__(self, cfg: Cnn14Config):
        super().__init__()
        self.pad = cfg.n_fft // 2
        for part in ("conv_real", "conv_imag"):
            self.add_module(part, nn.Conv1d(1, cfg.n_fft // 2 + 1, cfg.n_fft, cfg.hop, bias=False))

    def forward(self, wave: Tensor) -> Tensor:
        padded = F.pad(wave[:, None], (self.pad, self.pad), mode="reflect")
        return (self.conv_real(padded).square() + self.conv_imag(padded).square()).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, eps: float):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs, eps), nn.BatchNorm2d(outputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()


class Cnn14(nn.Module):
    def __init__(self, cfg: Cnn14Config):
        super().__init__()
        self.spectrogram_extractor = nn.Module()
        self.spectrogram_extractor.stft = Transform(cfg)
        self.logmel_extractor = nn.Module()
        self.logmel_extractor.melW = nn.Parameter(torch.zeros(cfg.n_fft // 2 + 1, cfg.bands))
        self.bn0 = nn.BatchNorm2d(cfg.bands, cfg.eps)
        self.depth, width = len(cfg.widths), cfg.widths[-1]
        for i, (inputs, outputs) in enumerate(pairwise((1, *cfg.widths)), 1):
            self.add_module(f"conv_block{i}", Block(inputs, outputs, cfg.eps))
        self.fc1, self.fc_audioset = nn.Linear(width, width), nn.Linear(width, cfg.classes)

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """[b t] -> embedding [b d], logits [b classes]."""
        mel = self.spectrogram_extractor.stft(wave) @ self.logmel_extractor.melW
        x = 10 * mel.clamp(min=1e-10).log10()
        x = self.bn0(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)[:, None]  # bands are bn0's channels
        for i in range(1, self.depth + 1):
            x = getattr(self, f"conv_block{i}")(x)
            x = F.avg_pool2d(x, 2) if i < self.depth else x
        x = x.mean(3)
        embedding = self.fc1(x.amax(2) + x.mean(2)).relu()
        return embedding, self.fc_audioset(embedding)
