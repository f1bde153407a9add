"""ImageBind's file in kfjax's two towers, and back.

    towers = FAMILY.from_torch(state_dict, CONFIGS["huge"])["imagebind"]      # {"vision": ..., "audio": ...}
    state_dict = FAMILY.to_torch({"imagebind": towers}, CONFIGS["huge"])

The public file (imagebind_huge.pth, dl.fbaipublicfiles.com/imagebind) holds six towers; only those for pictures and
sound are read, from a file of all six or of these two.
"""

from __future__ import annotations

from kfjax.convert.family import Family, without
from kfjax.convert.rules import TRANSPOSE, How, Rule, dense, leading, norm, under
from kfjax.listeners.imagebind import (
    ImageBindAudio,
    ImageBindConfig,
    ImageBindVision,
    ImageBindVisionConfig,
)
from kfjax.nn import module

CONFIGS = {"huge": ImageBindConfig()}

#: Beginnings of the keys of the towers that nothing here reads.
OTHERS = tuple(
    f"modality_{stage}.{tower}."
    for stage in ("preprocessors", "trunks", "heads", "postprocessors")
    for tower in ("text", "depth", "thermal", "imu")
)


def shapes(cfg: ImageBindConfig) -> module.Params:
    """Shapes of the part that the table fills."""
    vision, audio = module.shapes(ImageBindVision, cfg.vision), module.shapes(ImageBindAudio, cfg.audio)
    return {"imagebind": {"vision": vision, "audio": audio}}


def table(cfg: ImageBindConfig) -> list[Rule]:
    """The whole correspondence for one file."""
    made = [
        Rule("modality_preprocessors.vision.rgbt_stem.proj.1.weight", "vision/patch_embed/kernel", _pairs(cfg.vision)),
        *norm("modality_trunks.vision.pre_transformer_layer.0", "vision/norm_pre"),
        *_trunk("vision", extra=False),
        Rule("modality_preprocessors.audio.rgbt_stem.proj.weight", "audio/patch_embed/kernel", TRANSPOSE),
        *norm("modality_preprocessors.audio.rgbt_stem.norm_layer", "audio/patch_norm"),
        *_trunk("audio", extra=True),
        Rule("modality_postprocessors.audio.1.log_logit_scale", "audio/log_scale"),
    ]
    return under("imagebind", made)


def _pairs(cfg: ImageBindVisionConfig) -> How:
    """A convolution that does not overlap, [out, colour, frame, y, x] <-> the matrix [(frame, y, x, colour), out]."""
    taps = (cfg.frames, cfg.patch, cfg.patch, 3)
    return TRANSPOSE.then(How(lambda x: x.reshape(-1, x.shape[-1]), lambda x: x.reshape(*taps, x.shape[-1])))


def _trunk(tower: str, *, extra: bool) -> list[Rule]:
    layer, block = f"modality_trunks.{tower}.blocks.{{i}}", f"{tower}/trunk/blocks"
    made = [
        Rule(f"modality_preprocessors.{tower}.cls_token", f"{tower}/trunk/cls_token", leading(2)),
        Rule(f"modality_preprocessors.{tower}.pos_embedding_helper.pos_embed", f"{tower}/trunk/pos_embed", leading(1)),
        *norm(f"{layer}.norm_1", f"{block}/norm_1"),
        *norm(f"{layer}.norm_2", f"{block}/norm_2"),
        Rule(f"{layer}.attn.in_proj_weight", f"{block}/attn/in_proj/kernel", TRANSPOSE),
        Rule(f"{layer}.attn.in_proj_bias", f"{block}/attn/in_proj/bias"),
        *dense(f"{layer}.attn.out_proj", f"{block}/attn/out_proj"),
        *dense(f"{layer}.mlp.fc1", f"{block}/fc1"),
        *dense(f"{layer}.mlp.fc2", f"{block}/fc2"),
        *norm(f"modality_heads.{tower}.0", f"{tower}/trunk/norm"),
        Rule(f"modality_heads.{tower}.2.weight", f"{tower}/trunk/proj/kernel", TRANSPOSE),
    ]
    seen_by_all = [Rule(f"{layer}.attn.{name}", f"{block}/attn/{name}", leading(2)) for name in ("bias_k", "bias_v")]
    return made + seen_by_all if extra else made


FAMILY = Family(
    "imagebind", "modality_trunks.audio.blocks.0.attn.bias_k", CONFIGS, table, shapes, read=without(*OTHERS),
    files=lambda variant: f"imagebind_{variant}.pth",
)  # fmt: skip
