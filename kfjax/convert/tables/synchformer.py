"""The visual branch of public Synchformer files in kfjax's Synchformer, and back.

    tree = from_torch(state_dict, CONFIGS["synchformer"])
    tokens = bind(Synchformer, cfg, tree["visual"])(frames)
    state_dict = to_torch(tree, CONFIGS["synchformer"])

A file of the whole model (both branches and the transformer that compares them) is accepted as well as one of the
visual branch alone; only the keys under `vfeat_extractor.` are read. The network was grown from an image model and
still carries that one's 2-D patch embedding; nobody reads it, and it waits in `unused` for the way back.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kfjax import module
from kfjax.convert import rules
from kfjax.convert.rules import TRANSPOSE, How, Rule, dense, leading, norm
from kfjax.encoders.synchformer import Synchformer, SynchformerConfig

CONFIGS = {"synchformer": SynchformerConfig()}

#: Where the visual branch lies in a file, and beginnings of the keys of all that is not visual.
VISUAL = "vfeat_extractor."
OTHERS = ("afeat_extractor.", "vproj.", "aproj.", "transformer.")


def from_torch(state: Mapping[str, np.ndarray], cfg: SynchformerConfig) -> module.Params:
    """`{"visual": parameters of Synchformer(cfg), "unused": {...}}` from a public state dict.

    Raises:
      ValueError: names every missing, unused and misshapen key at once.
    """
    state = {key: value for key, value in state.items() if not key.startswith(OTHERS)}
    return rules.to_jax(state, table(cfg), shapes(cfg))


def to_torch(params: module.Params, cfg: SynchformerConfig) -> rules.State:
    """The public state dict of the visual branch: the exact inverse of `from_torch`.

    Raises:
      ValueError: parameters of another tree.
    """
    return rules.to_torch(params, table(cfg))


def shapes(cfg: SynchformerConfig) -> module.Params:
    """Shapes of the tree that the table fills."""
    patches = {
        "weight": jax.ShapeDtypeStruct((cfg.width, 3, cfg.patch, cfg.patch), jnp.float32),
        "bias": jax.ShapeDtypeStruct((cfg.width,), jnp.float32),
    }
    return {"visual": module.shapes(Synchformer, cfg), "unused": {"patch_embed": patches}}


def table(cfg: SynchformerConfig) -> list[Rule]:
    """The whole correspondence.

    Raises:
      ValueError: a configuration of our own stem, which no public file has.
    """
    if cfg.stem != "patch":
        raise ValueError(f"Synchformer: got stem={cfg.stem!r}, expected 'patch', the stem of the public weights")
    visual = [
        Rule("cls_token", "cls_token", leading(2)),
        Rule("pos_embed", "pos_embed", leading(1)),
        Rule("temp_embed", "temp_embed", leading(1)),
        Rule("patch_embed_3d.proj.weight", "patch_embed/proj/kernel", _tubelets(cfg)),
        Rule("patch_embed_3d.proj.bias", "patch_embed/proj/bias"),
        *_blocks("blocks.{i}", "blocks"),
        *norm("norm", "norm"),
        *_aggregation("spatial_attn_agg", "spatial_attn_agg"),
    ]
    return [
        *(Rule(VISUAL + torch_key, f"visual/{jax_path}", how) for torch_key, jax_path, how in visual),
        Rule(f"{VISUAL}patch_embed.proj.weight", "unused/patch_embed/weight"),
        Rule(f"{VISUAL}patch_embed.proj.bias", "unused/patch_embed/bias"),
    ]


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


def _aggregation(torch_key: str, jax_path: str) -> list[Rule]:
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
