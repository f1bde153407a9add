"""The whole public Synchformer in kfjax's SyncScorer, and back: both branches and the transformer that compares them.

    parts = FAMILY.from_torch(state_dict, CONFIGS["synchformer"])             # {"sync": ..., "judge": ...}
    logits = bind(SyncScorer, cfg, judge(parts))(frames, wave)
    state_dict = FAMILY.to_torch(parts, CONFIGS["synchformer"])

The file is the same that `synchformer.py` reads the visual branch from (checkpoint 24-01-04T16-39-21 of
github.com/v-iashin/Synchformer, its `model` entry; elsewhere `synchformer_state_dict.pth`), and fills the same part
with it. The rest is a part of its own, which generation never reads.
"""

from __future__ import annotations

from collections.abc import Mapping

from kfjax.convert.family import Family
from kfjax.convert.rules import Rule, dense, leading, norm, under
from kfjax.convert.tables import synchformer
from kfjax.listeners.sync_scorer import SyncScorer, SyncScorerConfig
from kfjax.nn import module
from kfjax.system import UNUSED

CONFIGS = {"synchformer": SyncScorerConfig()}


def shapes(cfg: SyncScorerConfig) -> module.Params:
    """Shapes of the parts that the table fills."""
    network = module.shapes(SyncScorer, cfg)
    return {"judge": {name: network[name] for name in network if name != "visual"}, **synchformer.shapes(cfg.visual)}


def judge(parts: Mapping[str, module.Params]) -> module.Params:
    """The parameters of `SyncScorer` from both parts."""
    return {**parts["judge"], "visual": {name: value for name, value in parts["sync"].items() if name != UNUSED}}


def table(cfg: SyncScorerConfig) -> list[Rule]:
    """The whole correspondence.

    Raises:
      ValueError: a picture half with our own stem, which no public file has.
    """
    return [
        *synchformer.table(cfg.visual),
        *under("judge/audio", _audio(), key="afeat_extractor."),
        *dense("vproj", "judge/visual_proj"),
        *dense("aproj", "judge/audio_proj"),
        *under("judge/transformer", _transformer(), key="transformer."),
    ]


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
        *synchformer.aggregation("freq_attn_agg", "freq_attn_agg"),
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


FAMILY = Family(
    "synchformer-whole", "transformer.OFF_tok", CONFIGS, table, shapes,
    files=lambda variant: "synchformer_state_dict.pth",
)  # fmt: skip
