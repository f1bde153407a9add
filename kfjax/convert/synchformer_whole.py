"""The whole public Synchformer (checkpoint 24-01-04T16-39-21, also `synchformer_state_dict.pth`), and back.

    params, unused = from_torch(state_dict, SyncJudgeConfig())
    state_dict = to_torch(params, unused, SyncJudgeConfig())

Keys as in github.com/v-iashin/Synchformer. The file also holds a picture-patch layer that the network never calls
but that a strict load asks for; it is kept apart, so that what is written back is what was read, bit for bit.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kfjax import module
from kfjax.convert import rules
from kfjax.convert.rules import TRANSPOSE, How, Rule, leading
from kfjax.encoders.sync_judge import SyncJudge, SyncJudgeConfig
from kfjax.encoders.synchformer import SynchformerConfig


class Unused(NamedTuple):
    """The 2-D patch layer beside the one that is called."""

    weight: np.ndarray  # [width, 3, patch, patch]
    bias: np.ndarray  # [width]


def from_torch(state: Mapping[str, np.ndarray], cfg: SyncJudgeConfig) -> tuple[module.Params, Unused]:
    """Parameters of `SyncJudge(cfg)` and the unused layer from a public state dict.

    Raises:
      ValueError: names every missing, unused and misshapen key at once.
    """
    tree = rules.to_jax(state, table(cfg), shapes(cfg))
    return tree["judge"], Unused(**tree["unused"])


def to_torch(params: module.Params, unused: Unused, cfg: SyncJudgeConfig) -> rules.State:
    """The public state dict: the exact inverse of `from_torch`."""
    return rules.to_torch({"judge": params, "unused": unused._asdict()}, table(cfg))


def shapes(cfg: SyncJudgeConfig) -> module.Params:
    """Shapes of the tree that the table fills: `judge` (the network) and `unused` (weight, bias)."""
    width, patch = cfg.visual.width, cfg.visual.patch
    unused = Unused(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((width, 3, patch, patch), (width,))))
    return {"judge": module.shapes(SyncJudge, cfg), "unused": unused._asdict()}


def table(cfg: SyncJudgeConfig) -> list[Rule]:
    """The whole correspondence; of `cfg` only the tubelet's size matters."""
    network = [
        *_visual("vfeat_extractor", "visual", cfg.visual),
        *_audio("afeat_extractor", "audio"),
        *_dense("vproj", "visual_proj"),
        *_dense("aproj", "audio_proj"),
        *_transformer("transformer", "transformer"),
    ]
    unused = [Rule(f"vfeat_extractor.patch_embed.proj.{name}", f"unused/{name}") for name in Unused._fields]
    return [rule._replace(jax_path=f"judge/{rule.jax_path}") for rule in network] + unused


def _visual(torch_key: str, jax_path: str, cfg: SynchformerConfig) -> list[Rule]:
    made = [
        Rule("cls_token", "cls_token", leading(2)),
        Rule("pos_embed", "pos_embed", leading(1)),
        Rule("temp_embed", "temp_embed", leading(1)),
        Rule("patch_embed_3d.proj.weight", "patch_embed/proj/kernel", _tubelet(cfg)),
        Rule("patch_embed_3d.proj.bias", "patch_embed/proj/bias"),
        *(rule for name in ("norm1", "norm2", "norm3") for rule in _norm(f"blocks.{{i}}.{name}", f"blocks/{name}")),
        *(
            rule
            for name in ("attn.qkv", "attn.proj", "timeattn.qkv", "timeattn.proj", "mlp.fc1", "mlp.fc2")
            for rule in _dense(f"blocks.{{i}}.{name}", f"blocks/{name.replace('.', '/')}")
        ),
        *_norm("norm", "norm"),
        *_aggregation("spatial_attn_agg"),
    ]
    return _under(torch_key, jax_path, made)


def _audio(torch_key: str, jax_path: str) -> list[Rule]:
    layer, block = "ast.encoder.layer.{i}", "blocks"
    made = [
        Rule("ast.embeddings.cls_token", "cls_token", leading(2)),
        Rule("ast.embeddings.distillation_token", "distillation_token", leading(2)),
        Rule("ast.embeddings.position_embeddings", "pos_embed", leading(1)),
        *_dense("ast.embeddings.patch_embeddings.projection", "patch_embed"),
        *(
            rule
            for name in ("query", "key", "value")
            for rule in _dense(f"{layer}.attention.attention.{name}", f"{block}/{name}")
        ),
        *_dense(f"{layer}.attention.output.dense", f"{block}/out"),
        *_dense(f"{layer}.intermediate.dense", f"{block}/fc1"),
        *_dense(f"{layer}.output.dense", f"{block}/fc2"),
        *_norm(f"{layer}.layernorm_before", f"{block}/norm1"),
        *_norm(f"{layer}.layernorm_after", f"{block}/norm2"),
        *_norm("ast.layernorm", "norm"),
        *_aggregation("freq_attn_agg"),
    ]
    return _under(torch_key, jax_path, made)


def _transformer(torch_key: str, jax_path: str) -> list[Rule]:
    layer, block = "blocks.{i}", "blocks"
    made = [
        Rule("OFF_tok", "offset_token", leading(2)),
        Rule("MOD_tok", "modality_token", leading(2)),
        Rule("pos_emb_cfg.pos_emb", "pos_embed", leading(1)),
        *_norm("vis_in_lnorm", "visual_norm"),
        *_norm("aud_in_lnorm", "audio_norm"),
        *(rule for name in ("query", "key", "value") for rule in _dense(f"{layer}.attn.{name}", f"{block}/{name}")),
        *_dense(f"{layer}.attn.proj", f"{block}/out"),
        *_dense(f"{layer}.mlp.0", f"{block}/fc1"),
        *_dense(f"{layer}.mlp.2", f"{block}/fc2"),
        *_norm(f"{layer}.ln1", f"{block}/norm1"),
        *_norm(f"{layer}.ln2", f"{block}/norm2"),
        *_norm("ln_f", "norm"),
        *_dense("off_head", "head"),
    ]
    return _under(torch_key, jax_path, made)


def _aggregation(name: str) -> list[Rule]:
    """An encoder layer with its own class token, named alike on both sides."""
    return [
        Rule(f"{name}.cls_token", f"{name}/cls_token", leading(2)),
        Rule(f"{name}.self_attn.in_proj_weight", f"{name}/self_attn/in_proj/kernel", TRANSPOSE),
        Rule(f"{name}.self_attn.in_proj_bias", f"{name}/self_attn/in_proj/bias"),
        *_dense(f"{name}.self_attn.out_proj", f"{name}/self_attn/out_proj"),
        *_dense(f"{name}.linear1", f"{name}/linear1"),
        *_dense(f"{name}.linear2", f"{name}/linear2"),
        *_norm(f"{name}.norm1", f"{name}/norm1"),
        *_norm(f"{name}.norm2", f"{name}/norm2"),
    ]


def _dense(torch_key: str, jax_path: str) -> list[Rule]:
    return [
        Rule(f"{torch_key}.weight", f"{jax_path}/kernel", TRANSPOSE),
        Rule(f"{torch_key}.bias", f"{jax_path}/bias"),
    ]


def _norm(torch_key: str, jax_path: str) -> list[Rule]:
    return [Rule(f"{torch_key}.weight", f"{jax_path}/scale"), Rule(f"{torch_key}.bias", f"{jax_path}/bias")]


def _under(torch_key: str, jax_path: str, made: list[Rule]) -> list[Rule]:
    return [Rule(f"{torch_key}.{rule.torch_key}", f"{jax_path}/{rule.jax_path}", rule.how) for rule in made]


def _tubelet(cfg: SynchformerConfig) -> How:
    """Conv3d [out, colour, frame, y, x] <-> matrix [(frame, y, x, colour), out]."""
    return How(
        lambda x: x.transpose(2, 3, 4, 1, 0).reshape(-1, x.shape[0]),
        lambda x: x.reshape(cfg.tubelet, cfg.patch, cfg.patch, 3, -1).transpose(4, 3, 0, 1, 2),
    )
