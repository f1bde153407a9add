"""open_clip's two-tower files in kfjax's CLIP encoders, and back.

    parts = FAMILY.from_torch(state_dict, CONFIGS["dfn5b-vit-h-14-384"])     # {"clip": ..., "text": ...}
    state_dict = FAMILY.to_torch(parts, CONFIGS["dfn5b-vit-h-14-384"])

transformers' files of a whole CLIPModel are read too, by `from_transformers`; on the way back they become open_clip's,
with every value as it was. A file always holds both towers. The text projection and the temperature of the contrastive
loss belong to no encoder here; they are `unused`, and so is the text tower of the variants whose text no system reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.convert.family import Family, without
from kfjax.convert.rules import TRANSPOSE, How, Rule, State, dense, norm
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

#: A key that all files of transformers' layout have, and open_clip's have not.
TRANSFORMERS = "vision_model.embeddings.class_embedding"
#: Beginnings of keys: transformers' tower (its spelling), open_clip's.
_TOWERS = {"vision_model": "visual.", "text_model": ""}
_NAMES = {
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "vision_model.pre_layrnorm": "visual.ln_pre", "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}  # fmt: skip
_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def from_transformers(state: Mapping[str, np.ndarray]) -> State:
    """A state dict of transformers' CLIPModel in open_clip's layout: projections turned, q, k and v in one matrix.

    Keys that it does not know stay as they are, to be named as unused.
    """
    made: State = {}
    for key, value in state.items():
        stem, _, kind = key.rpartition(".")
        tower, _, rest = key.partition(".encoder.layers.")
        layer, _, name = rest.rpartition(".")[0].partition(".")
        block = f"{_TOWERS.get(tower, '')}transformer.resblocks.{layer}"
        if key in _NAMES:
            made[_NAMES[key]] = value
        elif stem in _NORMS:
            made[f"{_NORMS[stem]}.{kind}"] = value
        elif key in ("visual_projection.weight", "text_projection.weight"):
            made["visual.proj" if key[0] == "v" else "text_projection"] = np.ascontiguousarray(value.T)
        elif tower in _TOWERS and name in _LAYER:
            made[f"{block}.{_LAYER[name]}.{kind}"] = value
        elif tower in _TOWERS and name == "self_attn.q_proj":
            rows = [state.get(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            made[f"{block}.attn.in_proj_{kind}"] = np.concatenate([row for row in rows if row is not None])
        elif not (tower in _TOWERS and name in ("self_attn.k_proj", "self_attn.v_proj")) and kind != "position_ids":
            made[key] = value  # position_ids: a constant that older files carry
    return made
