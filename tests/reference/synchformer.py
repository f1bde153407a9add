"""A plain PyTorch version of the whole Synchformer in the public layout: a second opinion for tests.

Module names are the public state dict's keys; what it computes is written from the published description, in the
straightforward way (dense masks, torch's own encoder layer and STFT). It takes the same `SyncScorerConfig`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kfjax.encoders.synchformer import SynchformerConfig
from kfjax.listeners.ast import SpectrogramTransformerConfig
from kfjax.listeners.sync_scorer import SyncScorerConfig


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)


def holder(**modules: nn.Module) -> nn.Module:
    """A module that only gives its children a name in the state dict."""
    made = nn.Module()
    for name, module in modules.items():
        made.add_module(name, module)
    return made


class Aggregation(nn.TransformerEncoderLayer):
    def __init__(self, width: int, heads: int, mlp_ratio: int):
        super().__init__(
            width, heads, mlp_ratio * width, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1))[:, 0]


class Packed(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.proj(attend(*self.qkv(x).chunk(3, -1), self.heads, mask))


class VisualBlock(nn.Module):
    def __init__(self, cfg: SynchformerConfig):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(cfg.width, cfg.eps) for _ in range(3))
        self.attn, self.timeattn = Packed(cfg.width, cfg.heads), Packed(cfg.width, cfg.heads)
        hidden = cfg.mlp_ratio * cfg.width
        self.mlp = holder(fc1=nn.Linear(cfg.width, hidden), fc2=nn.Linear(hidden, cfg.width))

    def forward(self, x: Tensor, same_place: Tensor, same_time: Tensor) -> Tensor:
        x = x + self.timeattn(self.norm3(x), same_place)
        x = x + self.attn(self.norm1(x), same_time)
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Visual(nn.Module):
    def __init__(self, cfg: SynchformerConfig):
        super().__init__()
        self.cfg, width, patch = cfg, cfg.width, cfg.patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + cfg.cells, width))
        self.temp_embed = nn.Parameter(torch.zeros(1, cfg.steps, width))
        self.patch_embed = holder(proj=nn.Conv2d(3, width, patch, patch))  # in the public files, never called
        kernel = (cfg.tubelet, patch, patch)
        self.patch_embed_3d = holder(proj=nn.Conv3d(3, width, kernel, kernel))
        self.blocks = nn.ModuleList(VisualBlock(cfg) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(width, cfg.eps)
        self.spatial_attn_agg = Aggregation(width, cfg.heads, cfg.mlp_ratio)

    def forward(self, frames: Tensor) -> Tensor:
        """[b f H W 3] in 0..255 -> [b segments steps width]."""
        cfg = self.cfg
        pixels = (frames / 127.5 - 1).permute(0, 4, 1, 2, 3)
        segments = pixels.unfold(2, cfg.frames, cfg.segment_step).permute(0, 2, 1, 5, 3, 4)
        x = self.patch_embed_3d.proj(segments.flatten(0, 1)).flatten(2).transpose(1, 2)
        places = self.pos_embed[:, 1:].repeat(1, cfg.steps, 1)
        x = x + places + self.temp_embed.repeat_interleave(cfg.cells, 1)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
        place = torch.arange(cfg.cells).repeat(cfg.steps)
        time = torch.arange(cfg.steps).repeat_interleave(cfg.cells)
        masks = [F.pad(axis[:, None] == axis, (1, 0, 1, 0), value=True) for axis in (place, time)]
        for block in self.blocks:
            x = block(x, *masks)
        x = self.spatial_attn_agg(self.norm(x[:, 1:]).reshape(-1, cfg.cells, cfg.width))
        return x.reshape(len(frames), -1, cfg.steps, cfg.width)


class AudioLayer(nn.Module):
    def __init__(self, cfg: SpectrogramTransformerConfig):
        super().__init__()
        width, hidden = cfg.width, cfg.mlp_ratio * cfg.width
        self.heads = cfg.heads
        qkv = holder(query=nn.Linear(width, width), key=nn.Linear(width, width), value=nn.Linear(width, width))
        self.attention = holder(attention=qkv, output=holder(dense=nn.Linear(width, width)))
        self.intermediate = holder(dense=nn.Linear(width, hidden))
        self.output = holder(dense=nn.Linear(hidden, width))
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width, cfg.eps), nn.LayerNorm(width, cfg.eps)

    def forward(self, x: Tensor) -> Tensor:
        y, qkv = self.layernorm_before(x), self.attention.attention
        x = x + self.attention.output.dense(attend(qkv.query(y), qkv.key(y), qkv.value(y), self.heads))
        return x + self.output.dense(F.gelu(self.intermediate.dense(self.layernorm_after(x))))


def mel_filters(cfg: SpectrogramTransformerConfig) -> Tensor:
    """HTK triangles of height 1, one at a time. [bins bands]"""
    to_mel = lambda hz: 2595 * torch.log10(1 + torch.tensor(hz, dtype=torch.float64) / 700)
    corners = 700 * (10 ** (torch.linspace(0, to_mel(cfg.sample_rate_hz / 2), cfg.bands + 2).double() / 2595) - 1)
    hz = torch.arange(cfg.n_fft // 2 + 1) * cfg.sample_rate_hz / cfg.n_fft
    filters = torch.zeros(len(hz), cfg.bands, dtype=torch.float64)
    for band in range(cfg.bands):
        low, middle, high = corners[band : band + 3]
        up, down = (hz >= low) & (hz <= middle), (hz > middle) & (hz <= high)
        filters[up, band] = ((hz - low) / (middle - low))[up].double()
        filters[down, band] = ((high - hz) / (high - middle))[down].double()
    return filters.float()


def log_mel(segments: Tensor, cfg: SpectrogramTransformerConfig) -> Tensor:
    """[g n] -> [g frames bands], normalised."""
    window = torch.hann_window(cfg.window)
    spectrum = torch.stft(
        segments, cfg.n_fft, cfg.hop, cfg.window, window, center=True, pad_mode="reflect", return_complex=True
    )
    log = torch.log(spectrum.abs().square().transpose(1, 2) @ mel_filters(cfg) + 1e-6)
    log = F.pad(log, (0, 0, 0, max(0, cfg.frames - log.shape[1])))[:, : cfg.frames]
    return (log - cfg.log_mean) / (2 * cfg.log_std)


class Audio(nn.Module):
    def __init__(self, cfg: SpectrogramTransformerConfig):
        super().__init__()
        self.cfg, width = cfg, cfg.width
        embeddings = holder(patch_embeddings=holder(projection=nn.Conv2d(1, width, cfg.patch, cfg.patch_step)))
        embeddings.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        embeddings.distillation_token = nn.Parameter(torch.zeros(1, 1, width))
        embeddings.position_embeddings = nn.Parameter(torch.zeros(1, 2 + cfg.rows * cfg.steps, width))
        encoder = holder(layer=nn.ModuleList(AudioLayer(cfg) for _ in range(cfg.depth)))
        self.ast = holder(embeddings=embeddings, encoder=encoder, layernorm=nn.LayerNorm(width, cfg.eps))
        self.freq_attn_agg = Aggregation(width, cfg.heads, cfg.mlp_ratio)

    def forward(self, wave: Tensor) -> Tensor:
        """[b t] -> [b segments steps width]."""
        cfg, embeddings = self.cfg, self.ast.embeddings
        segments = wave.unfold(1, cfg.segment_samples, cfg.segment_step)
        spectrogram = log_mel(segments.flatten(0, 1), cfg).transpose(1, 2)[:, None]
        x = embeddings.patch_embeddings.projection(spectrogram).flatten(2).transpose(1, 2)
        first = torch.cat([embeddings.cls_token, embeddings.distillation_token], 1).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1) + embeddings.position_embeddings
        for layer in self.ast.encoder.layer:
            x = layer(x)
        x = self.ast.layernorm(x)[:, 2:].unflatten(1, (cfg.rows, cfg.steps)).transpose(1, 2)
        return self.freq_attn_agg(x.flatten(0, 1)).reshape(len(wave), -1, cfg.steps, cfg.width)


class OffsetBlock(nn.Module):
    def __init__(self, cfg: SyncScorerConfig):
        super().__init__()
        width, hidden = cfg.width, cfg.mlp_ratio * cfg.width
        self.heads = cfg.heads
        self.ln1, self.ln2 = nn.LayerNorm(width, cfg.eps), nn.LayerNorm(width, cfg.eps)
        names = ("query", "key", "value", "proj")
        self.attn = holder(**{name: nn.Linear(width, width) for name in names})
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        y, attn = self.ln1(x), self.attn
        x = x + attn.proj(attend(attn.query(y), attn.key(y), attn.value(y), self.heads))
        return x + self.mlp(self.ln2(x))


class OffsetTransformer(nn.Module):
    def __init__(self, cfg: SyncScorerConfig):
        super().__init__()
        width = cfg.width
        self.vis_in_lnorm, self.aud_in_lnorm, self.ln_f = (nn.LayerNorm(width, cfg.eps) for _ in range(3))
        self.OFF_tok, self.MOD_tok = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.pos_emb_cfg = nn.Module()
        self.pos_emb_cfg.pos_emb = nn.Parameter(torch.zeros(1, 2 + cfg.visual_tokens + cfg.audio_tokens, width))
        self.blocks = nn.Sequential(*(OffsetBlock(cfg) for _ in range(cfg.depth)))
        self.off_head = nn.Linear(width, cfg.classes)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        off, mod = (token.expand(len(visual), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        x = torch.cat([off, self.vis_in_lnorm(visual), mod, self.aud_in_lnorm(audio)], 1) + self.pos_emb_cfg.pos_emb
        return self.off_head(self.ln_f(self.blocks(x))[:, 0])


class Synchformer(nn.Module):
    def __init__(self, cfg: SyncScorerConfig):
        super().__init__()
        self.vfeat_extractor, self.afeat_extractor = Visual(cfg.visual), Audio(cfg.audio)
        self.vproj, self.aproj = nn.Linear(cfg.visual.width, cfg.width), nn.Linear(cfg.audio.width, cfg.width)
        self.transformer = OffsetTransformer(cfg)

    def forward(self, frames: Tensor, wave: Tensor) -> Tensor:
        visual, audio = self.vfeat_extractor(frames), self.afeat_extractor(wave)
        return self.transformer(self.vproj(visual).flatten(1, 2), self.aproj(audio).flatten(1, 2))
