"""The layers that the encoders, the codec and the generator share. Batch, time, channels last.

Modules compute in the dtype of their parameters and inputs; norms, rotations and softmax go through float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Literal, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from kfjax.nn.module import AnyArray

Convolution = Literal["library", "gemms", "unfolded"]
#: How convolutions along time are computed, and by what attention, on each platform. What they compute is the same;
#: experiments/0009-train-speed measures which is faster.
CONVOLUTION: dict[str, Convolution] = {"cpu": "library", "gpu": "library", "tpu": "library"}
ATTENTION: dict[str, Literal["xla", "cudnn"]] = {"cpu": "xla", "gpu": "xla", "tpu": "xla"}

linear_init = nnx.initializers.xavier_uniform()
zeros_init = nnx.initializers.zeros_init()


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = True, zero: bool = False) -> nnx.Linear:
    """Dense layer, Xavier-uniform kernel and zero bias; `zero=True` starts at zero (adaLN, output layers)."""
    init = zeros_init if zero else linear_init
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, rngs=rngs)


class Conv1d(nnx.Conv):
    """1-D convolution along time, 'same' zero padding, with or without bias."""

    # flax's further argument, `out_sharding`, is not offered.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[AnyArray, "b n i"]
    ) -> Float[Array, "b m o"]:
        bias = None if self.bias is None else self.bias[...]
        x, kernel, bias = self.promote_dtype((x, self.kernel[...], bias), dtype=self.dtype)
        y = convolve(x, kernel, stride=cast(int, self.strides))
        return y if bias is None else y + bias[None, None]


def conv(
    inputs: int, outputs: int, kernel: int, rngs: nnx.Rngs, *, bias: bool = True, zero: bool = False, stride: int = 1
) -> Conv1d:
    """1-D convolution along time, 'same' zero padding; `zero=True` starts at zero (output layers)."""
    init = zeros_init if zero else nnx.initializers.lecun_normal()
    return Conv1d(inputs, outputs, (kernel,), strides=stride, use_bias=bias, kernel_init=init, rngs=rngs)


def convolve(
    x: Float[AnyArray, "b n i"],
    kernel: Float[AnyArray, "w i o"],
    *,
    stride: int = 1,
    how: Convolution | None = None,
) -> Float[Array, "b m o"]:
    """1-D convolution along time, zeros around it ('same' padding): m = n / stride, rounded up.

    Args:
      how: "library", XLA's own; "gemms", a matrix product for each tap of the kernel, summed (the paper's §6.4);
        "unfolded", one matrix product of all taps, whose inputs are laid side by side. None: what `CONVOLUTION` says.
    """
    how = how or CONVOLUTION[_platform()]
    if how == "library":
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride,), "SAME", dimension_numbers=numbers)
    taps, inputs, outputs = kernel.shape
    ((before, after),) = jax.lax.padtype_to_pads((x.shape[1],), (taps,), (stride,), "SAME")
    padded = jnp.pad(x, ((0, 0), (before, after), (0, 0)))
    last = padded.shape[1] - taps  # where the last window begins
    shifted = [padded[:, tap : tap + last + 1 : stride] for tap in range(taps)]
    if how == "unfolded":
        return jnp.concatenate(shifted, -1) @ kernel.reshape(taps * inputs, outputs)
    return reduce(add, [part @ weight for part, weight in zip(shifted, kernel, strict=True)])


def _platform() -> str:
    """What is being compiled for: the chips of the mesh that is set, which may not be here, or else jax's default."""
    chips = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if chips is None else chips.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def layer_norm(x: Float[Array, "*b h"], eps: float = 1e-5) -> Float[Array, "*b h"]:
    """LayerNorm without affine parameters, in float32. eps is torch's 1e-5, not flax's 1e-6."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis. The default eps is float32's, torch's meaning of `eps=None`."""

    def __init__(self, width: int, *, eps: float = 1.1920929e-07):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.eps = eps

    def __call__(self, x: Float[AnyArray, "*b h"]) -> Float[Array, "*b h"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        return (y * jnp.expand_dims(self.scale[...], range(y.ndim - 1))).astype(x.dtype)


def modulate(
    x: Float[Array, "b n h"], shift: Float[Array, "b _ h"], scale: Float[Array, "b _ h"]
) -> Float[Array, "b n h"]:
    """adaLN: LayerNorm, then (1 + scale) and shift from the condition."""
    return layer_norm(x) * (1 + scale) + shift


def rope(length: int, dim: int, *, scale: float = 1.0, theta: float = 1e4) -> Float[Array, "2 n half"]:
    """Rotation table (cos, sin) for `length` positions; `scale` stretches the positions (aligned RoPE)."""
    frequencies = 1.0 / theta ** (jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * (frequencies * scale)[None]
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def rotate(x: Float[Array, "b n k e"], table: Float[Array, "2 n e//2"]) -> Float[Array, "b n k e"]:
    """Turn adjacent channel pairs (2i, 2i+1) by the table's angles, in float32."""
    y = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = y[..., 0], y[..., 1]
    cos, sin = table[:, None, :, None, :]  # [1, n, 1, e/2] each
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape).astype(x.dtype)


def attention(
    q: Float[Array, "b n k e"],
    k: Float[Array, "b j k e"],
    v: Float[Array, "b j k e"],
    *,
    bias: Float[Array, "_ k n j"] | None = None,
    mask: Bool[Array, "_b _ _ j"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b n k e"]:
    """softmax(q kᵀ · scale + bias) v per head; scale defaults to 1/√e. Softmax in float32."""
    plain = bias is None and mask is None
    if plain and q.dtype.itemsize == 2 and ATTENTION[_platform()] == "cudnn":
        return fused_attention(q, k, v, scale=scale)
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=scale)


def fused_attention(
    q: Float[Array, "b n k e"],
    k: Float[Array, "b j k e"],
    v: Float[Array, "b j k e"],
    *,
    scale: float | None = None,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> Float[Array, "b n k e"]:
    """`attention` by cuDNN, in half precision on a GPU: products of all tokens with all are never in memory.

    Its backward pass needs multiples of eight tokens, so both lengths are filled up and the filling is not heeded.
    """
    b, n, j = q.shape[0], q.shape[1], k.shape[1]
    whole = lambda x: jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8), (0, 0), (0, 0)))
    filled = n % 8 or j % 8
    lengths = [jnp.full((b,), size, jnp.int32) for size in (n, j)] if filled else [None, None]
    y = jax.nn.dot_product_attention(
        whole(q), whole(k), whole(v), scale=scale, implementation=implementation,
        query_seq_lengths=lengths[0], key_value_seq_lengths=lengths[1],
    )  # fmt: skip
    return y[:, :n]


def hidden_width(width: int, ratio: float = 4.0, multiple: int = 256) -> int:
    """SwiGLU's inner width: 2/3 · ratio · width, rounded up to `multiple`."""
    return multiple * -(-int(2 * ratio * width / 3) // multiple)


class MLP(nnx.Module):
    """SwiGLU without biases: w2(silu(w1 x) · w3 x)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        self.w1 = linear(inputs, hidden, rngs, bias=False)
        self.w2 = linear(hidden, outputs, rngs, bias=False)
        self.w3 = linear(inputs, hidden, rngs, bias=False)

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return self.w2(jax.nn.silu(self.w1(x)) * self.w3(x))


class ConvMLP(nnx.Module):
    """SwiGLU whose three maps are 1-D convolutions of one kernel size."""

    def __init__(self, width: int, hidden: int, kernel: int, *, rngs: nnx.Rngs):
        self.w1 = conv(width, hidden, kernel, rngs, bias=False)
        self.w2 = conv(hidden, width, kernel, rngs, bias=False)
        self.w3 = conv(width, hidden, kernel, rngs, bias=False)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        return self.w2(jax.nn.silu(self.w1(x)) * self.w3(x))


def in_turn(apply: Callable[[Array], Array], x: Shaped[AnyArray, "n ..."], most: int) -> Shaped[Array, "n ..."]:
    """apply(x) in pieces of `most` rows, one after the other: the memory of a piece, not of the whole. 0: all at once.

    The last piece is filled up with zeros, so rows must not depend on each other.
    """
    count = x.shape[0]
    if not most or count <= most:
        return apply(x)
    pieces = -(-count // most)
    filled = jnp.pad(x, ((0, pieces * most - count), *((0, 0),) * (x.ndim - 1)))
    y = jax.lax.map(apply, filled.reshape(pieces, most, *x.shape[1:]))
    return y.reshape(pieces * most, *y.shape[2:])[:count]
