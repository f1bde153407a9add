"""open_clip's two-tower files in kfjax's CLIP encoders, and back.

    parts = FAMILY.from_torch(state_dict, CONFIGS["dfn5b-vit-h-14-384"])     # {"clip": ..., "text": ...}
    state_dict = FAMILY.to_torch(parts, CONFIGS["dfn5b-vit-h-14-384"])

A file always holds both towers. The text projection and the temperature of the contrastive loss belong to no encoder
here; they are `unused`, and so is the text tower of the variants whose text no system reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from kfjax.convert.family import Family, without
from kfjax.convert.rules import TRANSPOSE, How, Rule, dense, norm
from kfjax.encoders.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig
from kfjax.nn import module
from kfjax.system import UNUSED


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of the two towers of one file, and whether systems read the text tower."""

    vision: CLIPVisionConfig
    text: CLIPTextConfig
    reads_text: bool = True

    @property
    def places(self) -> tuple[str, str]:
        """Paths of the text tower and of what belongs to no encoder."""
        return ("text", "text/unused") if self.reads_text else ("clip/unused/text", "clip/unused/rest")


CONFIGS = {
    # Trained at 378 pixels and read at 384: both are 27 patches, and what fills no patch is not read.
    "dfn5b-vit-h-14-384": CLIPConfig(
        vision=CLIPVisionConfig(size=384, width=1280, depth=32, heads=16, mlp_width=5120, out_dim=1024),
        text=CLIPTextConfig(width=1024, depth=24, heads=16, mlp_width=4096),
    ),
    "metaclip-vit-bigG-14-quickgelu": CLIPConfig(
        vision=CLIPVisionConfig(size=224, width=1664, depth=48, heads=16, mlp_width=8192, out_dim=1280),
        text=CLIPTextConfig(width=1280, depth=32, heads=20, mlp_width=5120),
        reads_text=False,
    ),
}


def shapes(cfg: CLIPConfig) -> module.Params:
    """Shapes of the parts that the table fills."""
    vision, text = module.shapes(CLIPVision, cfg.vision), module.shapes(CLIPText, cfg.text)
    projection = jax.ShapeDtypeStruct((cfg.text.width, cfg.vision.out_dim), jnp.float32)
    rest = {"text_projection": projection, "logit_scale": jax.ShapeDtypeStruct((), jnp.float32)}
    if cfg.reads_text:
        return {"clip": vision, "text": {**text, UNUSED: rest}}
    return {"clip": {**vision, UNUSED: {"text": text, "rest": rest}}}


def table(cfg: CLIPConfig) -> list[Rule]:
    """The whole correspondence for one file."""
    text, rest = cfg.places
    return [
        Rule("visual.conv1.weight", "clip/conv1/kernel", _patches(cfg.vision.patch)),
        Rule("visual.class_embedding", "clip/class_embedding"),
        Rule("visual.positional_embedding", "clip/positional_embedding"),
        *norm("visual.ln_pre", "clip/ln_pre"),
        *_blocks("visual.transformer.resblocks.{i}", "clip/blocks"),
        *norm("visual.ln_post", "clip/ln_post"),
        Rule("visual.proj", "clip/proj"),
        Rule("token_embedding.weight", f"{text}/token_embedding/embedding"),
        Rule("positional_embedding", f"{text}/positional_embedding"),
        *_blocks("transformer.resblocks.{i}", f"{text}/blocks"),
        *norm("ln_final", f"{text}/ln_final"),
        Rule("text_projection", f"{rest}/text_projection"),
        Rule("logit_scale", f"{rest}/logit_scale"),
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


FAMILY = Family(
    "clip", "visual.conv1.weight", CONFIGS, table, shapes, files=lambda variant: "open_clip_model.safetensors",
    read=without("attn_mask"),  # the causal mask, a constant that some files carry
)  # fmt: skip
