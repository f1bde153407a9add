"""The generator's step: what the masks hide, what trains, what stays, what is skipped."""
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_system import CONFIG, tiny_system

from kfjax import features
from kfjax.flow import matching
from kfjax.rates import lengths
from kfjax.sharding import data_mesh, put_batch
from kfjax.structs import Excerpt, FeatureBatch, Features, FlowBatch, Posterior, TrainState
from kfjax.train import flow_step
from kfjax.train.flow_step import ENCODERS, FlowStepConfig, trained, trained_parts
from kfjax.train.optim import OptimConfig, make_optimizer

B, SIZE = 8, lengths(1.0)
ALWAYS = FlowStepConfig(
    drop_video=0.0, drop_text=0.0, stereo_weight=0.5, align_weight=0.25, caption_weight=0.1,
    sound_weight=0.2, train_encoders=True,
)
NEVER = FlowStepConfig(drop_video=1.0, drop_text=1.0)
KEY = jax.random.key(1)
READOUTS = {
    "readout": {"kernel": np.full((CONFIG.mmdit.width, 8), 0.01, np.float32), "bias": np.zeros(8, np.float32)},
    "caption": {
        "kernel": np.full((CONFIG.clip.out_dim, CONFIG.text.vocab), 0.01, np.float32),
        "bias": np.zeros(CONFIG.text.vocab, np.float32),
    },
    "sound": {"kernel": np.full((CONFIG.text.width, 16), 0.01, np.float32), "bias": np.zeros(16, np.float32)},
}
# Larger than the tiny system's own weights: what is seen and read must show in the loss.
PARAMS = jax.tree.map(lambda x: 5.0 * jnp.asarray(x), tiny_system().params | READOUTS)


def make_batch(seed=0) -> FlowBatch:
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    colours = lambda frames: rng.integers(0, 256, (B, frames, 1, 1, 3), np.uint8)
    excerpt = Excerpt(
        clip_frames=np.tile(colours(SIZE.clip), (1, 1, 32, 32, 1)),
        sync_frames=np.tile(colours(SIZE.sync_frames), (1, 1, 32, 32, 1)),
        text_ids=rng.integers(0, 64, (B, CONFIG.text_tokens), np.int32),
        text_mask=np.ones((B, CONFIG.text_tokens), bool),
        seconds_start=np.zeros(B, np.float32),
        seconds_total=np.ones(B, np.float32),
        has_video=np.ones(B, bool),
        has_text=np.ones(B, bool),
    )
    posterior = Posterior(normal(B, SIZE.latents, 8), np.full((B, SIZE.latents, 8), 0.1, np.float32))
    return FlowBatch(excerpt, posterior, normal(B, SIZE.mel, 128) - 5, normal(B, SIZE.mel, 128) - 5)


BATCH, OTHER = make_batch(0), make_batch(1)


def with_inputs(batch: FlowBatch, **inputs) -> FlowBatch:
    return batch._replace(excerpt=batch.excerpt._replace(**inputs))


@partial(jax.jit, static_argnames="cfg")
def compiled(params, batch, cfg):
    return flow_step.loss(params, batch, KEY, CONFIG, cfg)


def loss(batch, cfg):
    return compiled(PARAMS, batch, cfg)


def flow_loss(batch, cfg) -> float:
    return float(loss(batch, cfg)[1]["loss"])


VIDEO = {"clip_frames": OTHER.excerpt.clip_frames, "sync_frames": OTHER.excerpt.sync_frames}
TEXT = {"text_ids": OTHER.excerpt.text_ids}


def test_dropped_conditions_do_not_matter():
    base = flow_loss(BATCH, NEVER)
    assert flow_loss(with_inputs(BATCH, **VIDEO, **TEXT), NEVER) == base
    off = np.zeros(B, bool)
    assert flow_loss(with_inputs(BATCH, has_video=off, has_text=off), ALWAYS) == pytest.approx(base, rel=1e-5)


@pytest.mark.parametrize("changed", [VIDEO, TEXT], ids=["video", "text"])
def test_kept_conditions_do_matter(changed):
    assert flow_loss(with_inputs(BATCH, **changed), ALWAYS) != pytest.approx(flow_loss(BATCH, ALWAYS), rel=1e-5)


def test_conditions_are_dropped_independently_and_at_their_rates():
    cfg = FlowStepConfig(drop_video=0.3, drop_text=0.1)
    ones = jnp.ones(20_000, bool)
    encoded = Features(*[None] * 6, has_video=ones, has_text=ones)
    got = flow_step.drop(encoded, KEY, cfg)
    assert float(got.has_video.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(got.has_text.mean()) == pytest.approx(0.9, abs=0.02)
    assert float((got.has_video & got.has_text).mean()) == pytest.approx(0.63, abs=0.02)
    nothing = encoded._replace(has_video=~ones, has_text=~ones)
    assert not flow_step.drop(nothing, KEY, FlowStepConfig(drop_video=0.0)).has_video.any()


def test_the_other_losses_are_added_with_their_weights():
    total, metrics = loss(BATCH, ALWAYS)
    assert all(float(metrics[name]) > 0.1 for name in ("stereo", "align", "caption", "sound"))
    weights = {"loss": 1, "stereo": 0.5, "align": 0.25, "caption": 0.1, "sound": 0.2}
    parts = sum(weight * metrics[name] for name, weight in weights.items())
    assert float(total) == pytest.approx(float(parts), rel=1e-5)
    plain, metrics = loss(BATCH, NEVER)
    assert float(plain) == float(metrics["loss"]) and not {"stereo", "align", "caption", "sound"} & set(metrics)


def test_the_read_outs_hear_of_nothing_where_no_video_is_seen():
    _, metrics = loss(with_inputs(BATCH, has_video=np.zeros(B, bool)), ALWAYS)
    assert float(metrics["align"]) == float(metrics["caption"]) == 0.0


def test_the_sound_is_read_from_words_and_not_from_padding():
    padded = with_inputs(BATCH, text_mask=np.arange(CONFIG.text_tokens)[None] < np.full((B, 1), 2))
    other = with_inputs(padded, text_ids=np.where(padded.excerpt.text_mask, padded.excerpt.text_ids, 7))
    assert float(loss(padded, ALWAYS)[1]["sound"]) == float(loss(other, ALWAYS)[1]["sound"])
    _, metrics = loss(with_inputs(BATCH, has_text=np.zeros(B, bool)), ALWAYS)
    assert float(metrics["sound"]) == 0.0


def test_the_read_outs_start_at_zero():
    start = flow_step.init_readouts(CONFIG, ALWAYS)
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, READOUTS)
    assert not any(leaf.any() for leaf in jax.tree.leaves(start))
    assert flow_step.init_readouts(CONFIG, NEVER) == {}


def test_words_of_a_caption_count_once_and_padding_never():
    ids, mask = np.array([[3, 1, 3, 0]]), np.array([[True, True, True, False]])
    np.testing.assert_array_equal(flow_step.caption_words(ids, mask, 5), [[0, 1, 0, 1, 0]])


def test_an_untrained_read_out_of_the_caption_misses_every_word_by_half():
    nothing = jax.tree.map(jnp.zeros_like, PARAMS["caption"])
    _, metrics = compiled(PARAMS | {"caption": nothing}, BATCH, ALWAYS)
    excerpt = BATCH.excerpt
    words = flow_step.caption_words(excerpt.text_ids, excerpt.text_mask, CONFIG.text.vocab).sum(-1).mean()
    assert float(metrics["caption"]) == pytest.approx(np.log(2) * CONFIG.text.vocab / float(words), rel=1e-5)


def test_extracted_features_have_the_loss_of_their_clips():
    encoded = jax.jit(lambda params, excerpt: features.encode(params, CONFIG, excerpt))(PARAMS, BATCH.excerpt)
    extracted, cfg = FeatureBatch(encoded, BATCH.posterior), FlowStepConfig(sound_weight=0.2)
    network = {name: PARAMS[name] for name in ("mmdit", "sound")}
    got, expected = compiled(network, extracted, cfg)[0], loss(BATCH, cfg)[0]
    assert float(got) == pytest.approx(float(expected), rel=1e-6)
    half = extracted._replace(posterior=jax.tree.map(jnp.bfloat16, BATCH.posterior))
    stored = jax.eval_shape(lambda: flow_step.loss(network, half, KEY, CONFIG, cfg)[0])
    assert stored.dtype == np.float32


def test_extracted_features_serve_no_step_that_needs_the_clips():
    with pytest.raises(ValueError, match=r"train_encoders True needs frames, stereo_weight 0.5 needs mels"):
        jax.eval_shape(lambda: flow_step.encode(PARAMS, FeatureBatch(None, BATCH.posterior), CONFIG, ALWAYS))


def test_several_draws_share_one_encoding(monkeypatch):
    seen = {}
    spy = lambda name, original: lambda *args: seen.setdefault(name, original(*args))
    monkeypatch.setattr(matching, "sample_times", spy("times", matching.sample_times))
    monkeypatch.setattr(features, "encode", spy("encoded", features.encode))
    cfg = dataclasses.replace(ALWAYS, draws=3)
    total, _ = jax.eval_shape(lambda b: flow_step.loss(PARAMS, b, KEY, CONFIG, cfg), BATCH)
    assert total.shape == ()
    assert seen["times"].shape == (3 * B,)
    assert seen["encoded"].clip.shape == (B, SIZE.clip, CONFIG.clip.out_dim)


def test_early_and_late_losses():
    x, t = jnp.array([1.0, 2.0, 4.0, 9.0]), jnp.array([0.1, 0.2, 0.5, 0.9])
    assert float(flow_step._mean_where(x, t < 0.3)) == 1.5
    assert float(flow_step._mean_where(x, t > 0.95)) == 0.0


def test_what_trains():
    assert trained_parts(FlowStepConfig()) == ("mmdit",)
    assert set(trained_parts(ALWAYS)) == {*ENCODERS, "mmdit", "stereo"}
    assert set(trained(PARAMS, ALWAYS)) == {*ENCODERS, "mmdit", "stereo", *READOUTS}
    assert set(trained(PARAMS, FlowStepConfig())) == {"mmdit"}


def start(cfg: FlowStepConfig):
    """(step, fresh state): weight decay and the average would move what is not kept still."""
    tx = make_optimizer(OptimConfig(learning_rate=1e-2, warmup=0.0, weight_decay=0.5))
    names = (*ENCODERS, "mmdit", "stereo", *READOUTS)
    params = {name: PARAMS[name] for name in names}
    zero = jnp.zeros((), jnp.int32)
    # An average of its own: one equal to the parameters would hide that it moves.
    averaged = jax.tree.map(lambda x: x + 0.1, params)
    state = TrainState(zero, params, tx.init(trained(params, cfg)), averaged, zero)
    return jax.jit(flow_step.make_step(CONFIG, cfg, tx)), state


def moved(old, new) -> list[bool]:
    return [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]


@pytest.fixture(scope="module")
def frozen():
    return start(FlowStepConfig(drop_video=0.0, drop_text=0.0))


def test_frozen_parts_stay_bit_for_bit(frozen):
    step, state = frozen
    after, metrics = step(state, BATCH, KEY)
    for name in (*ENCODERS, "stereo", "readout"):
        assert not any(moved(state.params[name], after.params[name]))
        assert not any(moved(state.ema[name], after.ema[name]))
    assert all(moved(state.params["mmdit"], after.params["mmdit"]))
    assert int(after.step) == 1 and int(metrics["skipped"]) == 0 and float(metrics["gradient_norm"]) > 0


def test_the_average_follows_quickly_at_first(frozen):
    step, state = frozen
    after, _ = step(state, BATCH, KEY)
    want = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, state.ema["mmdit"], after.params["mmdit"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.ema["mmdit"], want)


def test_a_bad_batch_changes_nothing(frozen):
    step, state = frozen
    bad = BATCH._replace(posterior=BATCH.posterior._replace(mean=np.full((B, SIZE.latents, 8), np.nan, np.float32)))
    after, metrics = step(state, bad, KEY)
    for name in ("params", "opt_state", "ema"):
        assert not any(moved(getattr(state, name), getattr(after, name)))
    assert (int(after.step), int(after.skipped), int(metrics["skipped"])) == (1, 1, 1)
    assert int(step(after, BATCH, KEY)[0].skipped) == 0


def test_split_over_devices_the_step_is_the_same(frozen):
    step, state = frozen
    (one, alone), (two, split) = step(state, BATCH, KEY), step(state, put_batch(BATCH, data_mesh()), KEY)
    assert float(split["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-5)
    assert float(split["gradient_norm"]) == pytest.approx(float(alone["gradient_norm"]), rel=1e-4)
    del one, two


@pytest.mark.slow
def test_training_the_encoders_reaches_every_one():
    step, state = start(ALWAYS)
    after, _ = step(state, BATCH, KEY)
    for name in trained(PARAMS, ALWAYS):
        # Keys' biases cancel in the softmax: their gradients are rounding, or nothing.
        assert np.mean(moved(state.params[name], after.params[name])) > 0.9, name
