"""The whole public Synchformer in kfjax's SyncJudge, and back: both branches and the transformer that compares them.

    tree = from_torch(state_dict, CONFIGS["synchformer"])
    logits = bind(SyncJudge, cfg, tree["judge"])(frames, wave)
    state_dict = to_torch(tree, CONFIGS["synchformer"])

The file is the same that `synchformer.py` reads the visual branch from (checkpoint 24-01-04T16-39-21 of
github.com/v-iashin/Synchformer, its `model` entry; elsewhere `synchformer_state_dict.pth`). As there, the 2-D patch
embedding that nobody reads waits in `unused` for the way back.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kfjax import module
from kfjax.convert import rules
from kfjax.convert.rules import Rule, dense, leading, norm
from kfjax.convert.tables import synchformer
from kfjax.listeners.sync_scorer import SyncJudge, SyncJudgeConfig

CONFIGS = {"synchformer": SyncJudgeConfig()}


def from_torch(state: Mapping[str, np.ndarray], cfg: SyncJudgeConfig) -> module.Params:
    """`{"judge": parameters of SyncJudge(cfg), "unused": {...}}` from a public state dict.

    Raises:
      ValueError: names every missing, unused and misshapen key at once.
    """
    return rules.to_jax(state, table(cfg), shapes(cfg))


def to_torch(params: module.Params, cfg: SyncJudgeConfig) -> rules.State:
    """The public state dict: the exact inverse of `from_torch`.

    Raises:
      ValueError: parameters of another tree.
    """
    return rules.to_torch(params, table(cfg))


def shapes(cfg: SyncJudgeConfig) -> module.Params:
    """Shapes of the tree that the table fills."""
    return {"judge": module.shapes(SyncJudge, cfg), "unused": synchformer.shapes(cfg.visual)["unused"]}


def table(cfg: SyncJudgeConfig) -> list[Rule]:
    """The whole correspondence.

    Raises:
      ValueError: a picture half with our own stem, which no public file has.
    """
    network = [
        *_under("afeat_extractor", "audio", [*_audio(), *_aggregation(cfg)]),
        *dense("vproj", "visual_proj"),
        *dense("aproj", "audio_proj"),
        *_under("transformer", "transformer", _transformer()),
    ]
    visual = synchformer.table(cfg.visual)
    read = [rule for rule in visual if not rule.jax_path.startswith("unused/")]
    unread = [rule for rule in visual if rule.jax_path.startswith("unused/")]
    return [rule._replace(jax_path=f"judge/{rule.jax_path}") for rule in [*read, *network]] + unread


def _audio() -> list[Rule]:
    layer, block = "ast.encoder.layer.{i}", "blocks"
    return [
        Rule("ast.embeddings.cls_token", "cls_token", leading(2)),
        Rule("ast.embeddings.distillation_token", "distillation_token", leading(2)),
        Rule("ast.embeddings.position_embeddings", "pos_embed", leading(1)),
        *dense("ast.embeddings.patch_embeddings.projection", "patch_embed"),
        *(
            rule
            for name in ("query", "key", "value")
            for rule in dense(f"{layer}.attention.attention.{name}", f"{block}/{name}")
        ),
        *dense(f"{layer}.attention.output.dense", f"{block}/out"),
        *dense(f"{layer}.intermediate.dense", f"{block}/fc1"),
        *dense(f"{layer}.output.dense", f"{block}/fc2"),
        *norm(f"{layer}.layernorm_before", f"{block}/norm1"),
        *norm(f"{layer}.layernorm_after", f"{block}/norm2"),
        *norm("ast.layernorm", "norm"),
    ]


def _transformer() -> list[Rule]:
    layer, block = "blocks.{i}", "blocks"
    return [
        Rule("OFF_tok", "offset_token", leading(2)),
        Rule("MOD_tok", "modality_token", leading(2)),
        Rule("pos_emb_cfg.pos_emb", "pos_embed", leading(1)),
        *norm("vis_in_lnorm", "visual_norm"),
        *norm("aud_in_lnorm", "audio_norm"),
        *(rule for name in ("query", "key", "value") for rule in dense(f"{layer}.attn.{name}", f"{block}/{name}")),
        *dense(f"{layer}.attn.proj", f"{block}/out"),
        *dense(f"{layer}.mlp.0", f"{block}/fc1"),
        *dense(f"{layer}.mlp.2", f"{block}/fc2"),
        *norm(f"{layer}.ln1", f"{block}/norm1"),
        *norm(f"{layer}.ln2", f"{block}/norm2"),
        *norm("ln_f", "norm"),
        *dense("off_head", "head"),
    ]


def _aggregation(cfg: SyncJudgeConfig) -> list[Rule]:
    """The layer that sums up a time step, the same as the picture half's."""
    torch_key, jax_path = f"{synchformer.VISUAL}spatial_attn_agg.", "visual/spatial_attn_agg/"
    return [
        Rule(
            rule.torch_key.replace(torch_key, "freq_attn_agg."),
            rule.jax_path.replace(jax_path, "freq_attn_agg/"),
            rule.how,
        )
        for rule in synchformer.table(cfg.visual)
        if rule.torch_key.startswith(torch_key)
    ]


def _under(torch_key: str, jax_path: str, made: list[Rule]) -> list[Rule]:
    return [Rule(f"{torch_key}.{rule.torch_key}", f"{jax_path}/{rule.jax_path}", rule.how) for rule in made]
