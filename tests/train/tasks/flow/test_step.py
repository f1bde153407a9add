"""The generator's step: what the masks hide, what trains, what stays, what is skipped."""

import dataclasses
import re
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import features
from kfjax.codec.stereo import Mono2Stereo, join, to_bytes
from kfjax.flow import matching
from kfjax.rates import lengths
from kfjax.structs import Excerpt, FeatureBatch, Features, FlowBatch, Given, Posterior, StereoMels, TrainState
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.train.tasks import stereo_step
from kfjax.train.tasks.flow import step as flow_step
from kfjax.train.tasks.flow.step import ENCODERS, FlowStepConfig, trained, trained_parts
from kfjax.xla.sharding import data_mesh, put_batch
from tests.planted import blamed, plant
from tests.tiny.system import CONFIG, tiny_system

B, SIZE = 8, lengths(0.5, CONFIG.rates)
ALWAYS = FlowStepConfig(
    drop_video=0.0,
    drop_text=0.0,
    stereo_weight=0.5,
    align_weight=0.25,
    caption_weight=0.1,
    sound_weight=0.2,
    train_encoders=True,
)
#: The same numbers from code that is compiled in a fraction of the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
KINDS = ("video_text", "video", "text", "no_condition")
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
PARAMS = jax.device_put(jax.tree.map(lambda x: np.float32(5) * x, tiny_system().params | READOUTS))


def make_batch(seed=0) -> FlowBatch:
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    colours = lambda frames: rng.integers(0, 256, (B, frames, 1, 1, 3), np.uint8)
    excerpt = Excerpt(
        clip_frames=np.tile(colours(SIZE.clip), (1, 1, 32, 32, 1)),
        sync_frames=np.tile(colours(SIZE.sync_frames), (1, 1, 32, 32, 1)),
        text_ids=rng.integers(0, 64, (B, CONFIG.text_tokens), np.int32),
        given=Given.whole(np.ones((B, CONFIG.text_tokens), bool), 0.5),
    )
    posterior = Posterior(normal(B, SIZE.latents, 8), np.full((B, SIZE.latents, 8), 0.1, np.float32))
    return FlowBatch(excerpt, posterior, normal(B, SIZE.mel, 128) - 5, normal(B, SIZE.mel, 128) - 5)


BATCH, OTHER = make_batch(0), make_batch(1)


def with_inputs(batch: FlowBatch, **inputs) -> FlowBatch:
    given = {name: inputs.pop(name) for name in Given._fields if name in inputs}
    excerpt = batch.excerpt._replace(**inputs)
    return batch._replace(excerpt=excerpt._replace(given=excerpt.given._replace(**given)))


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
    draws = flow_step.draw(KEY, (5_000, 1, 1), FlowStepConfig(drop_video=0.3, drop_text=0.1, draws=4))
    video, text = draws.keep_video, draws.keep_text
    assert float(video.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(text.mean()) == pytest.approx(0.9, abs=0.02)
    assert float((video & text).mean()) == pytest.approx(0.63, abs=0.02)
    assert 0.2 < float(video.all(1).mean()) < 0.3  # draws of one example drop on their own: 0.7 ** 4


def test_what_is_absent_stays_absent_whatever_is_kept():
    nothing = with_inputs(BATCH, has_video=np.zeros(B, bool), has_text=np.zeros(B, bool))
    assert float(loss(nothing, ALWAYS)[1]["loss_no_condition_count"]) == B


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
    other = with_inputs(padded, text_ids=np.where(padded.excerpt.given.text_mask, padded.excerpt.text_ids, 7))
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
    nothing = jax.tree.map(np.zeros_like, PARAMS["caption"])
    _, metrics = compiled(PARAMS | {"caption": nothing}, BATCH, ALWAYS)
    excerpt = BATCH.excerpt
    words = flow_step.caption_words(excerpt.text_ids, excerpt.given.text_mask, CONFIG.text.vocab).sum(-1).mean()
    assert float(metrics["caption"]) == pytest.approx(np.log(2) * CONFIG.text.vocab / float(words), rel=1e-5)


def test_extracted_features_have_the_loss_of_their_clips():
    encoded = jax.jit(lambda params, excerpt: features.encode(params, CONFIG, excerpt))(PARAMS, BATCH.excerpt)
    extracted, cfg = FeatureBatch(encoded, BATCH.posterior), FlowStepConfig(sound_weight=0.2)
    network = {name: PARAMS[name] for name in ("mmdit", "sound")}
    got, expected = compiled(network, extracted, cfg)[0], loss(BATCH, cfg)[0]
    assert float(got) == pytest.approx(float(expected), rel=1e-6)
    half = extracted._replace(posterior=jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), BATCH.posterior))
    stored = jax.eval_shape(lambda: flow_step.loss(network, half, KEY, CONFIG, cfg)[0])
    assert stored.dtype == np.float32


def test_extracted_features_serve_no_step_that_needs_the_clips():
    with pytest.raises(ValueError, match=r"step.train_encoders True needs frames"):
        jax.eval_shape(lambda: flow_step.encode(PARAMS, FeatureBatch(None, BATCH.posterior), CONFIG, ALWAYS))


def test_several_draws_share_one_encoding(monkeypatch):
    seen = {}
    spy = lambda name, original: lambda *args, **how: seen.setdefault(name, original(*args, **how))
    monkeypatch.setattr(matching, "sample_times", spy("times", matching.sample_times))
    monkeypatch.setattr(features, "encode", spy("encoded", features.encode))
    cfg = dataclasses.replace(ALWAYS, draws=3)
    total, _ = jax.eval_shape(lambda b: flow_step.loss(PARAMS, b, KEY, CONFIG, cfg), BATCH)
    assert total.shape == ()
    assert seen["times"].shape == (3 * B,)
    assert seen["encoded"].clip.shape == (B, SIZE.clip, CONFIG.clip.out_dim)


GIVEN = FlowStepConfig(draws=2, known=0.6)


def drawn(cfg) -> flow_step.Draws:
    return flow_step.draw(KEY, BATCH.posterior.mean.shape, cfg)


@partial(jax.jit, static_argnames="cfg")
def loss_of(batch, draws, cfg):
    return flow_step.loss_of({"mmdit": PARAMS["mmdit"]}, batch, draws, CONFIG, cfg)


def test_known_latents_are_drawn_besides_all_else():
    plain, given = drawn(dataclasses.replace(GIVEN, known=0.0)), drawn(GIVEN)
    assert plain.known is None
    assert given.known.shape == (B, 2, SIZE.latents) and 0 < given.known.mean() < 1
    for name in plain._fields[:-1]:
        np.testing.assert_array_equal(getattr(plain, name), getattr(given, name))
    with pytest.raises(ValueError, match=r"got known 1\.5, expected a share from 0 to 1"):
        FlowStepConfig(known=1.5)


def test_known_latents_are_data_and_no_part_of_the_loss():
    batch, draws = extracted(), drawn(GIVEN)
    total, metrics = loss_of(batch, draws, GIVEN)
    assert float(total) == float(metrics["loss"])
    some = np.asarray(draws.known.any(-1))
    assert float(metrics["loss_known_count"]) == some.sum()
    away = lambda x: np.where(draws.known[..., None], x + 3, x)  # neither noise nor a drawn sample of them is seen
    assert float(loss_of(batch, draws._replace(noise=away(draws.noise)), GIVEN)[0]) == float(total)
    assert float(loss_of(batch, draws._replace(posterior=away(draws.posterior)), GIVEN)[0]) == float(total)
    everywhere = np.asarray(draws.known.all(1))  # known in both draws
    assert everywhere.any()
    moved_there = np.where(everywhere[..., None], batch.posterior.mean + 3, batch.posterior.mean)
    other = batch._replace(posterior=batch.posterior._replace(mean=moved_there))
    assert float(loss_of(other, draws, GIVEN)[0]) != pytest.approx(float(total), rel=1e-4)


def test_with_nothing_known_the_loss_is_the_plain_one():
    batch, none = extracted(), drawn(dataclasses.replace(GIVEN, known=0.0))
    plain, metrics = loss_of(batch, none, GIVEN)
    assert not [name for name in metrics if "known" in name]
    got, metrics = loss_of(batch, none._replace(known=np.zeros((B, 2, SIZE.latents), bool)), GIVEN)
    assert float(got) == pytest.approx(float(plain), rel=1e-6)
    assert float(metrics["loss_known"]) == float(metrics["loss_known_count"]) == 0.0


@pytest.mark.slow
def test_split_over_devices_the_loss_with_known_latents_is_the_same():
    alone, split = (flow_loss(batch, GIVEN) for batch in (BATCH, put_batch(BATCH, data_mesh())))
    assert split == pytest.approx(alone, rel=1e-5)


def test_losses_by_time_and_by_conditions():
    x, t = np.float32([1, 2, 4, 9]), np.float32([0, 0.05, 0.55, 1])
    video, text = np.array([True, True, False, True]), np.array([True, False, True, True])
    got = {name: float(value) for name, value in jax.jit(flow_step.by_kind)(x, t, video, text).items()}
    counts = {name.removesuffix("_count"): got.pop(name) for name in list(got) if name.endswith("_count")}
    assert counts.keys() == got.keys() and len(got) == 14
    assert {name: n for name, n in counts.items() if n} == {
        "loss_t0": 2, "loss_t5": 1, "loss_t9": 1, "loss_video_text": 2, "loss_video": 1, "loss_text": 1,
    }  # fmt: skip
    assert {name: x for name, x in got.items() if x} == {
        "loss_t0": 1.5, "loss_t5": 4, "loss_t9": 9, "loss_video_text": 5, "loss_video": 2, "loss_text": 4,
    }  # fmt: skip
    known = flow_step.by_kind(x, t, video, text, np.array([True, False, False, True]))
    assert (float(known["loss_known"]), float(known["loss_known_count"])) == (5, 2)


def test_the_parts_of_the_loss_make_up_the_whole():
    metrics = {name: float(value) for name, value in loss(BATCH, ALWAYS)[1].items()}
    for names in ([f"loss_t{i}" for i in range(10)], [f"loss_{kind}" for kind in KINDS]):
        assert sum(metrics[f"{name}_count"] for name in names) == B
        total = sum(metrics[name] * metrics[f"{name}_count"] for name in names)
        assert total / B == pytest.approx(metrics["loss"], rel=1e-5)


def extracted() -> FeatureBatch:
    """Random features at the lengths of the batch."""
    rng = np.random.default_rng(5)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    excerpt, cfg = BATCH.excerpt, CONFIG.mmdit
    encoded = Features(
        clip=normal(B, SIZE.clip, cfg.clip_dim), sync=normal(B, SIZE.sync, cfg.sync_dim),
        text=normal(B, CONFIG.text_tokens, cfg.text_dim),
        given=excerpt.given._replace(has_video=np.arange(B) % 3 > 0, has_text=np.arange(B) % 2 > 0),
    )  # fmt: skip
    return FeatureBatch(encoded, BATCH.posterior)


def of_features(batch: FlowBatch) -> FeatureBatch:
    """A batch of clips as `kfjax extract` leaves it, but for the rounding of the features."""
    mels = to_bytes(*join(batch.mel_left, batch.mel_right), CONFIG.codec.mel)
    encoded = jax.jit(lambda: features.encode(PARAMS, CONFIG, batch.excerpt))()
    return FeatureBatch(encoded, batch.posterior, StereoMels(*mels, np.ones(B, bool)))


def test_the_stereo_loss_on_features_is_that_on_clips():
    loss_of = jax.jit(stereo_step.make_loss(CONFIG))
    want, batch = float(loss_of(PARAMS, BATCH)), of_features(BATCH)
    assert float(loss_of(PARAMS, batch)) == pytest.approx(want, rel=2e-3)
    there = np.arange(B) < 3  # the others' bytes don't matter
    some, others = (jax.tree.map(lambda x, rows=rows: x[rows], batch) for rows in (there, ~there))
    mixed = batch._replace(stereo=StereoMels(*(np.where(there[:, None, None], x, 3) for x in batch.stereo[:2]), there))
    assert float(loss_of(PARAMS, mixed)) == pytest.approx(float(loss_of(PARAMS, some)), rel=1e-5)
    mono = others._replace(stereo=others.stereo._replace(there=np.zeros(B - 3, bool)))
    assert float(loss_of(PARAMS, mono)) == 0


@pytest.mark.slow
def test_mono2stereo_trains_along_on_features():
    cfg = FlowStepConfig(stereo_weight=0.5, compute_dtype="bfloat16")
    parts = {name: PARAMS[name] for name in ("mmdit", "stereo")}
    compute = lambda batch: flow_step.gradients(parts, {}, batch, KEY, CONFIG, cfg)
    (total, figures), grads = jax.jit(compute, compiler_options=QUICK)(of_features(BATCH))
    assert float(total) == pytest.approx(float(figures["loss"] + 0.5 * figures["stereo"]), rel=1e-5)
    for name in parts:
        moved = [np.abs(np.asarray(x)).max() for x in jax.tree.leaves(grads[name])]
        assert np.isfinite(moved).all() and max(moved) > 0


@partial(jax.jit, static_argnames="cfg", compiler_options=QUICK)
def gradients(batch, cfg):
    return flow_step.gradients({"mmdit": PARAMS["mmdit"]}, {}, batch, KEY, CONFIG, cfg)


def distance(got, expected) -> float:
    """Of two trees, relative to the second's norm."""
    got, expected = jax.device_get((got, expected))
    norm = lambda tree: np.sqrt(sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(tree)))
    return norm(jax.tree.map(np.subtract, got, expected)) / norm(expected)


WHOLE = FlowStepConfig(draws=2, known=0.5)


def half_batch() -> FeatureBatch:
    return jax.tree.map(lambda x: x[: B // 2], extracted())


@lru_cache(maxsize=1)
def whole_batch():
    return gradients(half_batch(), WHOLE)


def test_micro_batches_give_what_the_whole_batch_gives():
    whole, parts = whole_batch(), gradients(half_batch(), dataclasses.replace(WHOLE, accumulate=4))
    assert distance(parts[1], whole[1]) < 1e-5
    for name, value in whole[0][1].items():
        assert float(parts[0][1][name]) == pytest.approx(float(value), rel=1e-5), name
    assert float(parts[0][0]) == pytest.approx(float(whole[0][0]), rel=1e-5)


def test_a_batch_that_does_not_divide_into_micro_batches_is_refused():
    with pytest.raises(ValueError, match=r"batch of 8 in 3 micro-batches on data 1 x fsdp 1: expected a multiple of 3"):
        jax.eval_shape(lambda: gradients(extracted(), FlowStepConfig(accumulate=3)))
    with pytest.raises(ValueError, match=r"got accumulate 0, expected 1 or more"):
        FlowStepConfig(accumulate=0)


def test_bfloat16_computes_what_float32_does_in_short():
    short = dataclasses.replace(WHOLE, compute_dtype="bfloat16")
    run = jax.jit(lambda: flow_step.loss({"mmdit": PARAMS["mmdit"]}, half_batch(), KEY, CONFIG, short)[0])
    assert float(run()) == pytest.approx(float(whole_batch()[0][0]), rel=2e-2)


@pytest.mark.slow
def test_gradients_through_bfloat16_are_float32():
    short = gradients(half_batch(), dataclasses.replace(WHOLE, compute_dtype="bfloat16"))
    assert distance(short[1], whole_batch()[1]) < 0.1
    assert {x.dtype for x in jax.tree.leaves(short)} == {np.dtype(np.float32)}


def test_bfloat16_reaches_every_product_of_the_network():
    cfg = FlowStepConfig(compute_dtype="bfloat16")
    network = {"mmdit": PARAMS["mmdit"]}
    program = jax.jit(lambda: flow_step.loss(network, extracted(), KEY, CONFIG, cfg)).lower().as_text()
    operands = re.findall(r"(?:dot_general|convolution).* : \(tensor<.*x(\w+)>, tensor<.*x(\w+)>\) ->", program)
    assert len(operands) > 40 and set(operands) == {("bf16", "bf16")}


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
    zero = np.int32(0)
    # An average of its own: one equal to the parameters would hide that it moves.
    averaged = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), params)
    state = TrainState(zero, params, jax.jit(tx.init)(trained(params, cfg)), averaged, zero)
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
    new = jax.device_get(after.params["mmdit"])
    want = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, state.ema["mmdit"], new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.ema["mmdit"], want)


def test_a_bad_batch_changes_nothing(frozen):
    step, state = frozen
    bad = BATCH._replace(posterior=BATCH.posterior._replace(mean=np.full((B, SIZE.latents, 8), np.nan, np.float32)))
    after, metrics = step(state, bad, KEY)
    for name in ("params", "opt_state", "ema"):
        assert not any(moved(getattr(state, name), getattr(after, name)))
    assert (int(after.step), int(after.skipped), int(metrics["skipped"])) == (1, 1, 1)
    assert int(step(after, BATCH, KEY)[0].skipped) == 0


@pytest.mark.slow
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


def test_a_gradient_of_mono2stereo_that_is_not_finite_is_named(monkeypatch):
    plant(monkeypatch, Mono2Stereo, "out/kernel")
    params, zero = {name: PARAMS[name] for name in ("stereo", *ENCODERS)}, np.int32(0)
    loss_of = stereo_step.make_loss(CONFIG)
    found = blamed(
        lambda state, batch, key: (loss_of(state.params, batch), {}), TrainState(zero, params, (), params, zero), BATCH
    )
    assert found.startswith("gradients: stereo/out/kernel: ")
