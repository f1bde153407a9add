"""FLOPs of a training step and peak FLOP/s of chips, counted from the configuration, not from a program.

    forward = mmdit_flops(cfg, rates.lengths(10.0, rates.Rates()), text_tokens=77, batch=32)
    flops = train_flops(cfg, rates.lengths(10.0, rates.Rates()), text_tokens=77, batch=32)
    utilisation = mfu(flops, seconds=0.5, chips=64, kind="v6e")

A multiplication and the addition after it are two operations. Norms, activations, softmax and the optimiser are left
out: they are bound by memory, not by the matrix units. XLA's own count of a compiled program does not give utilisation:
it counts the body of a loop over blocks once, and rematerialised operations as new ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from kfjax.generators.mmdit.config import MMDiTConfig
from kfjax.rates import Lengths

#: What the operations are spent on: dense layers, the attention's two products, convolutions (feed-forward ones too),
#: dense feed-forward layers, and shift, scale and gate from the condition.
PARTS = ("projections", "attention", "conv", "mlp", "adaln")


@dataclass(frozen=True)
class Chip:
    """Peak figures of one chip, dense bfloat16, as its maker states them.

    `links_bytes_per_second`: of all its links to other chips together, in one direction.
    """

    kind: str
    flops_per_second: float
    hbm_bytes: float
    hbm_bytes_per_second: float
    links_bytes_per_second: float


_GB, _GIB = 1e9, 2.0**30
#: Sources: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} (links: the stated Gbit/s over 8); NVIDIA's data sheets of
#: A100 80GB SXM, H100 SXM and H200 SXM (dense: half of the figures with sparsity; links: half of NVLink's two ways).
CHIPS = {
    chip.kind: chip
    for chip in (
        Chip("v4", 275e12, 32 * _GIB, 1228 * _GB, 300 * _GB),
        Chip("v5e", 197e12, 16 * _GIB, 819 * _GB, 200 * _GB),
        Chip("v5p", 459e12, 95 * _GIB, 2765 * _GB, 600 * _GB),
        Chip("v6e", 918e12, 32 * _GIB, 1600 * _GB, 400 * _GB),
        Chip("A100", 312e12, 80 * _GIB, 2039 * _GB, 300 * _GB),
        Chip("H100", 989.4e12, 80 * _GIB, 3350 * _GB, 450 * _GB),
        Chip("H200", 989.4e12, 141 * _GIB, 4800 * _GB, 450 * _GB),
    )
}
#: What jax calls the TPUs; a GPU's name holds ours.
_TPU_NAMES = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p",
              "TPU v6 lite": "v6e", "TPU v6e": "v6e"}  # fmt: skip


def chip(kind: str) -> Chip | None:
    """The chip of that name, ours or jax's `device.device_kind`; None where its figures are not known, as of a CPU."""
    name = _TPU_NAMES.get(kind) or next((name for name in CHIPS if name in kind), "")
    return CHIPS.get(name)


def mfu(flops: float, seconds: float, chips: int, kind: str) -> float:
    """Model FLOP/s utilisation: the share of `chips`' peak that `flops` in `seconds` make, 0 to 1.

    Raises:
      ValueError: a kind whose peak is not known; a time or a number of chips that is not positive.
    """
    found = chip(kind)
    if found is None:
        raise ValueError(f"mfu: no peak known of {kind!r}; known are {', '.join(CHIPS)}")
    if not (seconds > 0 and chips > 0):
        raise ValueError(f"mfu: got {seconds:g} s on {chips} chips, expected both above 0")
    return flops / (seconds * chips * found.flops_per_second)


def train_flops(cfg: MMDiTConfig, lengths: Lengths, text_tokens: int, batch: int, *, hardware: bool = False) -> float:
    """Operations of one training step of the generator: the forward pass three times.

    `hardware`: with rematerialisation, where every block's forward pass runs again in the backward pass: four times
    at most. Model FLOP/s utilisation is defined without it.
    """
    return (4 if hardware else 3) * mmdit_flops(cfg, lengths, text_tokens, batch)


def mmdit_flops(cfg: MMDiTConfig, lengths: Lengths, text_tokens: int, batch: int) -> float:
    """Operations of one forward pass of the generator on `batch` examples: conditions and velocity."""
    return sum(mmdit_flops_by_part(cfg, lengths, text_tokens, batch).values())


def mmdit_flops_by_part(cfg: MMDiTConfig, lengths: Lengths, text_tokens: int, batch: int) -> dict[str, float]:
    """`mmdit_flops`, by `PARTS`. A convolution's zeros at both ends are counted, the chips multiply them too.

    The last joint block computes its unused queries, as it is written; unrolled, XLA may leave them out.
    """
    n, v, text = lengths.latents, lengths.clip, text_tokens
    spent = Counter({part: 0.0 for part in PARTS})
    spent.update(_conditions(cfg, lengths, text))
    last = _stream(cfg, n, cfg.block_kernel, per_token=True) + _keys_only(cfg, v) + _keys_only(cfg, text)
    spent.update(_times(Counter(block_flops(cfg, lengths, text, "joint")), cfg.joint_depth - 1))
    spent.update(last + _attention(cfg, n, n + v + text))
    spent.update(_times(Counter(block_flops(cfg, lengths, text, "single")), cfg.single_depth))
    conditioned = n if cfg.final_cond == "extended" else 1
    spent.update(adaln=2 * conditioned * cfg.width * 2 * cfg.width, conv=2 * n * 7 * cfg.width * cfg.latent_dim)
    return {part: batch * spent[part] for part in PARTS}


def block_flops(
    cfg: MMDiTConfig, lengths: Lengths, text_tokens: int, kind: Literal["joint", "single"]
) -> dict[str, float]:
    """Operations of one block's forward pass on one example, by `PARTS`; of the joint blocks not the last one's."""
    n, v, text = lengths.latents, lengths.clip, text_tokens
    spent = _stream(cfg, n, cfg.block_kernel, per_token=True)
    if kind == "joint":
        spent += _stream(cfg, v, cfg.block_kernel) + _stream(cfg, text, 1)
        n += v + text
    return dict(spent + _attention(cfg, n, n))


def _conditions(cfg: MMDiTConfig, lengths: Lengths, text: int) -> Counter:
    """One example's way to the blocks' width: four modalities and the pooled vectors."""
    h, n, v, s = cfg.width, lengths.latents, lengths.clip, lengths.sync
    pooled = 2 if cfg.duration == "none" else 3  # clip and text; their sum
    dense = v * cfg.clip_dim + text * cfg.text_dim + 2 * h + h + (cfg.timestep_features or h)
    mlp = 3 * text + 3 + (5 if pooled == 3 else 0)  # SwiGLU has three maps; the duration's two inner ones read 2 h
    conv = 7 * (n * cfg.latent_dim + s * cfg.sync_dim) + 3 * cfg.hidden * (7 * n + 3 * v + 3 * s)
    aligned = s * n if cfg.sync_align == "timed" else 0  # a soft upsampling is a matrix product
    return Counter(projections=2 * h * (dense + aligned), mlp=2 * h * cfg.hidden * mlp, conv=2 * h * conv)


def _stream(cfg: MMDiTConfig, tokens: int, kernel: int, *, per_token: bool = False) -> Counter:
    """A stream's layers but the attention itself. `per_token`: every token has a condition of its own."""
    h = cfg.width
    feed, out = 2 * tokens * kernel * 3 * h * cfg.hidden, 2 * tokens * kernel * h * h
    spent = Counter(projections=2 * tokens * h * 3 * h, adaln=2 * (tokens if per_token else 1) * h * 6 * h)
    return spent + (Counter(projections=out, mlp=feed) if kernel == 1 else Counter(conv=out + feed))


def _keys_only(cfg: MMDiTConfig, tokens: int) -> Counter:
    h = cfg.width
    return Counter(projections=2 * tokens * h * 3 * h, adaln=2 * h * 2 * h)


def _attention(cfg: MMDiTConfig, queries: int, keys: int) -> Counter:
    return Counter(attention=2 * 2 * queries * keys * cfg.width)


def _times(spent: Counter, count: int) -> Counter:
    return Counter({part: count * flops for part, flops in spent.items()})
