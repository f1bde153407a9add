"""open_clip's two-tower files in kfjax's CLIP encoders, and back.

    tree = from_torch(state_dict, CONFIGS["dfn5b-vit-h-14-384"])
    vectors = bind(CLIPVision, cfg.vision, tree["vision"])(frames)
    hidden = bind(CLIPText, cfg.text, tree["text"])(ids)
    state_dict = to_torch(tree, CONFIGS["dfn5b-vit-h-14-384"])

A file always holds both towers, so the tree has both, `vision` and `text`; a system takes those that it runs. The text
projection and the temperature of the contrastive loss belong to no encoder here and wait in `unused` for the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from kfjax import module
from kfjax.convert import rules
from kfjax.convert.rules import TRANSPOSE, How, Rule, dense, norm
from kfjax.encoders.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig

#: The causal mask, a constant that some files carry and the original makes itself.
BUFFERS = ("attn_mask",)


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of the two towers of one file."""

    vision: CLIPVisionConfig
    text: CLIPTextConfig


CONFIGS = {
    # Trained at 378 pixels and read at 384: both are 27 patches, and what fills no patch is not read.
    "dfn5b-vit-h-14-384": CLIPConfig(
        vision=CLIPVisionConfig(size=384, width=1280, depth=32, heads=16, mlp_width=5120, out_dim=1024),
        text=CLIPTextConfig(width=1024, depth=24, heads=16, mlp_width=4096),
    ),
    "metaclip-vit-bigG-14-quickgelu": CLIPConfig(
        vision=CLIPVisionConfig(size=224, width=1664, depth=48, heads=16, mlp_width=8192, out_dim=1280),
        text=CLIPTextConfig(width=1280, depth=32, heads=20, mlp_width=5120),
    ),
}


def from_torch(state: Mapping[str, np.ndarray], cfg: CLIPConfig) -> module.Params:
    """`{"vision": of CLIPVision(cfg.vision), "text": of CLIPText(cfg.text), "unused": {...}}` from a public state dict.

    Raises:
      ValueError: names every missing, unused and misshapen key at once.
    """
    state = {key: value for key, value in state.items() if key not in BUFFERS}
    return rules.to_jax(state, table(cfg), shapes(cfg))


def to_torch(params: module.Params, cfg: CLIPConfig) -> rules.State:
    """The public state dict: the exact inverse of `from_torch`, without the mask.

    Raises:
      ValueError: parameters of another tree.
    """
    return rules.to_torch(params, table(cfg))


def shapes(cfg: CLIPConfig) -> module.Params:
    """Shapes of the tree that the table fills."""
    projection = jax.ShapeDtypeStruct((cfg.text.width, cfg.vision.out_dim), jnp.float32)
    return {
        "vision": module.shapes(CLIPVision, cfg.vision),
        "text": module.shapes(CLIPText, cfg.text),
        "unused": {"text_projection": projection, "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)},
    }


def table(cfg: CLIPConfig) -> list[Rule]:
    """The whole correspondence for one file."""
    return [
        Rule("visual.conv1.weight", "vision/conv1/kernel", _patches(cfg.vision.patch)),
        Rule("visual.class_embedding", "vision/class_embedding"),
        Rule("visual.positional_embedding", "vision/positional_embedding"),
        *norm("visual.ln_pre", "vision/ln_pre"),
        *_blocks("visual.transformer.resblocks.{i}", "vision/blocks"),
        *norm("visual.ln_post", "vision/ln_post"),
        Rule("visual.proj", "vision/proj"),
        Rule("token_embedding.weight", "text/token_embedding/embedding"),
        Rule("positional_embedding", "text/positional_embedding"),
        *_blocks("transformer.resblocks.{i}", "text/blocks"),
        *norm("ln_final", "text/ln_final"),
        Rule("text_projection", "unused/text_projection"),
        Rule("logit_scale", "unused/logit_scale"),
    ]


def _patches(side: int) -> How:
    """A convolution that does not overlap, [out, colour, y, x] <-> the matrix [(y, x, colour), out]."""
    return TRANSPOSE.then(How(lambda x: x.reshape(-1, x.shape[-1]), lambda x: x.reshape(side, side, 3, x.shape[-1])))


def _blocks(torch_key: str, jax_path: str) -> list[Rule]:
    return [
        *norm(f"{torch_key}.ln_1", f"{jax_path}/ln_1"),
        *norm(f"{torch_key}.ln_2", f"{jax_path}/ln_2"),
        Rule(f"{torch_key}.attn.in_proj_weight", f"{jax_path}/attn/in_proj/kernel", TRANSPOSE),
        Rule(f"{torch_key}.attn.in_proj_bias", f"{jax_path}/attn/in_proj/bias"),
        *dense(f"{torch_key}.attn.out_proj", f"{jax_path}/attn/out_proj"),
        *dense(f"{torch_key}.mlp.c_fc", f"{jax_path}/mlp/c_fc"),
        *dense(f"{torch_key}.mlp.c_proj", f"{jax_path}/mlp/c_proj"),
    ]
