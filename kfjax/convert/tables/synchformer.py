"""The visual branch of public Synchformer files in kfjax's Synchformer, and back.

    params = FAMILY.from_torch(state_dict, CONFIGS["synchformer"])["sync"]
    state_dict = FAMILY.to_torch({"sync": params}, CONFIGS["synchformer"])

A file of the whole model (both branches and the transformer that compares them) is accepted as well as one of the
visual branch alone; only the keys under `vfeat_extractor.` are read. The network was grown from an image model and
still carries that one's 2-D patch embedding, which nothing reads: it is `unused`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kfjax.convert.family import Family, without
from kfjax.convert.rules import TRANSPOSE, How, Rule, dense, leading, norm, under
from kfjax.encoders.synchformer import Synchformer, SynchformerConfig
from kfjax.nn import module
from kfjax.system import UNUSED

CONFIGS = {"synchformer": SynchformerConfig()}

#: Where the visual branch lies in a file, and beginnings of the keys of all that is not visual.
VISUAL = "vfeat_extractor."
OTHERS = ("afeat_extractor.", "vproj.", "aproj.", "transformer.")


def shapes(cfg: SynchformerConfig) -> module.Params:
    """Shapes of the part that the table fills."""
    patches = {
        "weight": jax.ShapeDtypeStruct((cfg.width, 3, cfg.patch, cfg.patch), jnp.float32),
        "bias": jax.ShapeDtypeStruct((cfg.width,), jnp.float32),
    }
    return {"sync": {**module.shapes(Synchformer, cfg), UNUSED: {"patch_embed": patches}}}


def table(cfg: SynchformerConfig) -> list[Rule]:
    """The whole correspondence.

    Raises:
      ValueError: a configuration of our own stem, which no public file has.
    """
    if cfg.stem != "patch":
        raise ValueError(f"Synchformer: got stem={cfg.stem!r}, expected 'patch', the stem of the public weights")
    made = [
        Rule("cls_token", "cls_token", leading(2)),
        Rule("pos_embed", "pos_embed", leading(1)),
        Rule("temp_embed", "temp_embed", leading(1)),
        Rule("patch_embed_3d.proj.weight", "patch_embed/proj/kernel", _tubelets(cfg)),
        Rule("patch_embed_3d.proj.bias", "patch_embed/proj/bias"),
        *_blocks("blocks.{i}", "blocks"),
        *norm("norm", "norm"),
        *aggregation("spatial_attn_agg", "spatial_attn_agg"),
        Rule("patch_embed.proj.weight", "unused/patch_embed/weight"),
        Rule("patch_embed.proj.bias", "unused/patch_embed/bias"),
    ]
    return under("sync", made, key=VISUAL)


def _tubelets(cfg: SynchformerConfig) -> How:
    """A convolution that does not overlap, [out, colour, frame, y, x] <-> the matrix [(frame, y, x, colour), out]."""
    taps = (cfg.tubelet, cfg.patch, cfg.patch, 3)
    return TRANSPOSE.then(How(lambda x: x.reshape(-1, x.shape[-1]), lambda x: x.reshape(*taps, x.shape[-1])))


def _blocks(torch_key: str, jax_path: str) -> list[Rule]:
    made = []
    for name in ("norm1", "norm2", "norm3"):
        made += norm(f"{torch_key}.{name}", f"{jax_path}/{name}")
    for name in ("attn", "timeattn"):
        made += dense(f"{torch_key}.{name}.qkv", f"{jax_path}/{name}/qkv")
        made += dense(f"{torch_key}.{name}.proj", f"{jax_path}/{name}/proj")
    for name in ("fc1", "fc2"):
        made += dense(f"{torch_key}.mlp.{name}", f"{jax_path}/mlp/{name}")
    return made


def aggregation(torch_key: str, jax_path: str) -> list[Rule]:
    """The layer that sums up a time step; the sound's half has one like it."""
    return [
        Rule(f"{torch_key}.cls_token", f"{jax_path}/cls_token", leading(2)),
        Rule(f"{torch_key}.self_attn.in_proj_weight", f"{jax_path}/self_attn/in_proj/kernel", TRANSPOSE),
        Rule(f"{torch_key}.self_attn.in_proj_bias", f"{jax_path}/self_attn/in_proj/bias"),
        *dense(f"{torch_key}.self_attn.out_proj", f"{jax_path}/self_attn/out_proj"),
        *dense(f"{torch_key}.linear1", f"{jax_path}/linear1"),
        *dense(f"{torch_key}.linear2", f"{jax_path}/linear2"),
        *norm(f"{torch_key}.norm1", f"{jax_path}/norm1"),
        *norm(f"{torch_key}.norm2", f"{jax_path}/norm2"),
    ]


FAMILY = Family(
    "synchformer", "vfeat_extractor.patch_embed_3d.proj.weight", CONFIGS, table, shapes, read=without(*OTHERS),
    files=lambda variant: "synchformer_state_dict.pth",
)  # fmt: skip
