"""MMAudio's flow networks (five public variants) in kfjax's MMDiT, and back.

    params = FAMILY.from_torch(state_dict, CONFIGS["large_44k_v2"])["mmdit"]
    state_dict = FAMILY.to_torch({"mmdit": params}, CONFIGS["large_44k_v2"])

The public file also holds the latents' mean and deviation over the training set. Here they belong to the codec and
the network does not use them: params["unused"]["latent"] = {"mean": [d], "std": [d]}.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kfjax.convert.family import Family, without
from kfjax.convert.rules import TRANSPOSE, Rule, dense, interleaved, leading, under
from kfjax.generators.mmdit.mmdit import MMDiT, MMDiTConfig
from kfjax.nn import module
from kfjax.system import UNUSED


def _config(heads: int, joint_depth: int, single_depth: int, latent_dim: int, *, v2: bool = False) -> MMDiTConfig:
    return MMDiTConfig(
        width=64 * heads,
        heads=heads,
        joint_depth=joint_depth,
        single_depth=single_depth,
        latent_dim=latent_dim,
        clip_dim=1024,
        text_dim=1024,
        empty_text_tokens=77,
        duration="none",
        final_cond="global",
        activation="silu" if v2 else "selu",
        timestep_features=None if v2 else 256,
        timestep_scale=1e4 if v2 else 1.0,
    )


CONFIGS = {
    "small_16k": _config(7, 4, 8, 20),
    "small_44k": _config(7, 4, 8, 40),
    "medium_44k": _config(14, 4, 8, 40),
    "large_44k": _config(14, 7, 14, 40),
    "large_44k_v2": _config(14, 7, 14, 40, v2=True),
}


def shapes(cfg: MMDiTConfig) -> module.Params:
    """Shapes of the part that the table fills."""
    channel = jax.ShapeDtypeStruct((cfg.latent_dim,), jnp.float32)
    return {"mmdit": {**module.shapes(MMDiT, cfg), UNUSED: {"latent": {"mean": channel, "std": channel}}}}


def table(cfg: MMDiTConfig) -> list[Rule]:
    """The whole correspondence for one variant."""
    # In v2 an activation sits between the clip and text projections' two maps, and takes an index.
    second = 2 if cfg.activation == "silu" else 1
    last = cfg.joint_depth - 1
    made = [
        *dense("audio_input_proj.0", "audio_in"),
        *_swiglu("audio_input_proj.2", "audio_mlp"),
        *dense("clip_input_proj.0", "clip_in"),
        *_swiglu(f"clip_input_proj.{second}", "clip_mlp"),
        *dense("sync_input_proj.0", "sync_in"),
        *_swiglu("sync_input_proj.2", "sync_mlp"),
        *dense("text_input_proj.0", "text_in"),
        *_swiglu(f"text_input_proj.{second}", "text_mlp"),
        Rule("sync_pos_emb", "sync_position", leading(2)),
        Rule("empty_clip_feat", "empty_clip", leading(1)),
        Rule("empty_sync_feat", "empty_sync", leading(1)),
        Rule("empty_string_feat", "empty_text"),
        *dense("clip_cond_proj", "clip_pool"),
        *dense("text_cond_proj", "text_pool"),
        *_swiglu("global_cond_mlp", "pool_mlp"),
        *dense("t_embed.mlp.0", "timestep/inner"),
        *dense("t_embed.mlp.2", "timestep/outer"),
        *(_joint("joint_blocks.{i}", "joint", cfg) if last else ()),
        *_joint(f"joint_blocks.{last}", "joint_last", cfg, last=True),
        *_stream("fused_blocks.{i}", "single/audio", cfg),
        *dense("final_layer.adaLN_modulation.1", "final/modulation"),
        *dense("final_layer.conv", "final/conv"),
        Rule("latent_mean", "unused/latent/mean", leading(2)),
        Rule("latent_std", "unused/latent/std", leading(2)),
    ]
    return under("mmdit", made)


def _swiglu(torch_key: str, jax_path: str) -> list[Rule]:
    return [Rule(f"{torch_key}.{w}.weight", f"{jax_path}/{w}/kernel", TRANSPOSE) for w in ("w1", "w2", "w3")]


def _stream(torch_key: str, jax_path: str, cfg: MMDiTConfig, *, keys_only: bool = False) -> list[Rule]:
    made = [
        *dense(f"{torch_key}.attn.qkv", f"{jax_path}/qkv", interleaved(cfg.heads)),
        Rule(f"{torch_key}.attn.q_norm.weight", f"{jax_path}/q_norm/scale"),
        Rule(f"{torch_key}.attn.k_norm.weight", f"{jax_path}/k_norm/scale"),
        *dense(f"{torch_key}.adaLN_modulation.1", f"{jax_path}/modulation"),
    ]
    if not keys_only:
        made += dense(f"{torch_key}.linear1", f"{jax_path}/out")
        made += _swiglu(f"{torch_key}.ffn", f"{jax_path}/mlp")
    return made


def _joint(torch_key: str, jax_path: str, cfg: MMDiTConfig, *, last: bool = False) -> list[Rule]:
    return [
        *_stream(f"{torch_key}.latent_block", f"{jax_path}/audio", cfg),
        *_stream(f"{torch_key}.clip_block", f"{jax_path}/clip", cfg, keys_only=last),
        *_stream(f"{torch_key}.text_block", f"{jax_path}/text", cfg, keys_only=last),
    ]


FAMILY = Family(
    "mmaudio", "audio_input_proj.0.weight", CONFIGS, table, shapes, files=lambda variant: f"mmaudio_{variant}.pth",
    read=without("latent_rot", "clip_rot", "t_embed.freqs"),  # tables that older files carry and nobody reads
)  # fmt: skip
