"""Operations counted from the configuration, against XLA's count of the program; what chips can do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from kfjax import rates
from kfjax.generators.mmdit.mmdit import MMDiT, MMDiTConfig
from kfjax.generators.mmdit.sizes import SIZES
from kfjax.nn.module import bind, shapes
from kfjax.structs import Features, Given
from kfjax.train.engine.flops import CHIPS, PARTS, block_flops, chip, mfu, mmdit_flops, mmdit_flops_by_part, train_flops

CFG = MMDiTConfig(
    width=256, heads=4, joint_depth=2, single_depth=2, clip_dim=128, sync_dim=96, text_dim=64, unroll=True
)
TEN = rates.lengths(10.0, rates.Rates())


def counted_by_xla(cfg: MMDiTConfig, lengths: rates.Lengths, text: int, batch: int) -> float:
    """Of the whole forward pass before any optimisation; nothing is compiled."""

    def forward(params, features, x, t):
        model = bind(MMDiT, cfg, params)
        return model(x, t, model.prepare(features, lengths.latents, rates.Rates()))

    array = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct((batch, *shape), dtype)
    features = Features(
        array(lengths.clip, cfg.clip_dim), array(lengths.sync, cfg.sync_dim), array(text, cfg.text_dim),
        Given(array(text, dtype=bool), array(), array(), array(dtype=bool), array(dtype=bool)),
    )  # fmt: skip
    lowered = jax.jit(forward).lower(shapes(MMDiT, cfg), features, array(lengths.latents, cfg.latent_dim), array())
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"sync_align": "timed", "final_cond": "global", "duration": "none"},
        {"joint_depth": 1, "single_depth": 1, "duration": "fourier", "timestep_features": 128},
        {"block_kernel": 1},
    ],
    ids=["published", "timed", "one of each", "dense blocks"],
)
def test_the_count_is_that_of_the_program(change):
    cfg, lengths = replace(CFG, **change), rates.lengths(8.0, rates.Rates())
    assert mmdit_flops(cfg, lengths, 77, 2) == pytest.approx(counted_by_xla(cfg, lengths, 77, 2), rel=0.01)


def test_parts_add_up_and_grow_with_the_batch():
    parts = mmdit_flops_by_part(SIZES["1.5b"], TEN, 77, 3)
    assert tuple(parts) == PARTS and all(parts.values())
    assert sum(parts.values()) == mmdit_flops(SIZES["1.5b"], TEN, 77, 3) == 3 * mmdit_flops(SIZES["1.5b"], TEN, 77, 1)
    assert max(parts, key=parts.get) == "conv"


def test_a_block_is_what_one_more_adds():
    of = lambda cfg: mmdit_flops_by_part(cfg, TEN, 77, 1)
    for kind in ("joint", "single"):
        more = of(replace(CFG, **{f"{kind}_depth": 3}))
        added = {part: more[part] - flops for part, flops in of(CFG).items()}
        assert {part: flops for part, flops in added.items() if flops} == block_flops(CFG, TEN, 77, kind)


def test_a_training_step_is_three_forward_passes_and_one_more_with_recomputation():
    forward = mmdit_flops(CFG, TEN, 77, 4)
    assert train_flops(CFG, TEN, 77, 4) == 3 * forward
    assert train_flops(CFG, TEN, 77, 4, hardware=True) == 4 * forward


def test_utilisation():
    assert mfu(0.5 * 918e12 * 64 * 2.0, seconds=2.0, chips=64, kind="v6e") == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"no peak known of 'cpu'; known are v4, v5e, v5p, v6e, A100, H100, H200"):
        mfu(1.0, 1.0, 1, "cpu")
    with pytest.raises(ValueError, match=r"got 0 s on 8 chips, expected both above 0"):
        mfu(1.0, 0.0, 8, "v5p")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"), ("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e"), ("v5p", "v5p"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H200", "H200"), ("NVIDIA A100-SXM4-80GB", "A100"),
    ],
)  # fmt: skip
def test_chips_by_the_names_that_jax_gives_them(kind, name):
    assert chip(kind) is CHIPS[name]


def test_a_cpu_has_no_known_peak():
    assert chip("cpu") is None and chip("TPU v9") is None
