# ---
# jupyter:
#   colab:
#     name: kfjax tour
#     provenance: []
#     toc_visible: true
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: colab,kernelspec
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Ten minutes through kfjax
#
# From a film to its sound, one part at a time, with the small model that comes with the package: features, one block
# of the network, one sampling, one training step, and the same step on eight devices. It all runs on a CPU; a GPU or
# a TPU is used where there is one.
#
# The whole in one line: **noise becomes the latents of a sound, along straight paths, by a network that looks at the
# frames and reads the prompt; a codec turns latents into a waveform.**

# %% tags=["set-up"]
# @title Install { display-mode: "form" }
# ruff: noqa: E402
import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Empty: the released version; inside a clone, that clone. Else the address of a git repository of kfjax.
REPOSITORY = ""  # @param {type: "string"}
missing = [name for name in ("kfjax", "cv2", "pymunk") if importlib.util.find_spec(name) is None]
if missing:
    clone = Path.cwd().resolve().parent
    tpu = glob.glob("/dev/accel*") or any(name.startswith(("COLAB_TPU", "TPU_ACC")) for name in os.environ)
    extra = "[cuda,data]" if shutil.which("nvidia-smi") else "[tpu,data]" if tpu else "[data]"
    if "kfjax" not in missing:
        wanted = "kfjax[data]"  # what is here stays, and gets what this notebook needs besides
    elif REPOSITORY:
        wanted = f"kfjax{extra} @ git+{REPOSITORY}"
    else:
        wanted = f"{clone if (clone / 'kfjax' / 'pipeline.py').is_file() else 'kfjax'}{extra}"
    if subprocess.call([sys.executable, "-m", "pip", "install", "-q", wanted]):
        raise RuntimeError(f"pip could not install {wanted} (why, it says above); REPOSITORY takes another source")

# %% tags=["set-up"]
# @title Import { display-mode: "form" }
import jax

# Eight CPU devices, for the last part. This must be said before jax looks for devices; others stay as they are.
if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", 8)
if jax.config.jax_platforms and "cpu" not in jax.config.jax_platforms:
    jax.config.update("jax_platforms", f"{jax.config.jax_platforms},cpu")

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from IPython.display import Audio, Image, display

from kfjax import features, media, pipeline, plot, rates, system
from kfjax.codec import audio_codec
from kfjax.flow import sampler
from kfjax.generators import generator_of
from kfjax.generators.mmdit.blocks import JointBlock
from kfjax.metrics.onsets import detect_onsets, onset_f1
from kfjax.nn import module
from kfjax.nn.layers import rope, rotate
from kfjax.nn.module import bind
from kfjax.plan.hlo import collectives
from kfjax.scenes import make_scene, write_mp4
from kfjax.structs import FeatureBatch, Schedule, TrainState, Video
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.train.tasks.flow.step import FlowStepConfig, make_step
from kfjax.xla import sharding

pipeline.use_program_cache()
folder = Path("kfjax_tour")
folder.mkdir(exist_ok=True)


def show(picture: str) -> None:
    display(Image(str(folder / picture), width=800))


def table(named: dict) -> None:
    for name, x in named.items():
        print(f"{name:14} {x.dtype!s:8} {list(x.shape)}")


print(f"{jax.devices()[0].device_kind}, and {len(jax.devices('cpu'))} CPU devices")

# %% [markdown]
# ## 1. A film whose truth is known
#
# The corpus that trains the built-in model is a program: it draws a scene, and knows every event in it. So do the
# dashed lines in the picture below know when the ball hits the ground, and the diamonds where. This ball, on this
# background, is held out: the model has never seen them together.

# %%
SECONDS = 3.0  # @param {type: "number"}

scene = make_scene(5, duration_seconds=SECONDS, recipe="bouncing", split="heldout")
true, rate = scene.sound(), 44100
struck = [event.time_seconds for event in scene.events if event.struck]
where = [[(event.time_seconds, event.x)] for event in scene.events if event.struck]
plot.overview(
    folder / "scene.png", true, rate, frames=scene.frames((96, 96)), marks=struck, positions=where, title=scene.caption
)
show("scene.png")
display(Audio(true.T, rate=rate, normalize=False))

# %% [markdown]
# ## 2. Seconds become lengths
#
# One file, `kfjax/rates.py`, knows how long everything is. A second has 43.07 latents (44100 samples, hop 512, halved
# by the codec), 8 frames for the encoder that sees *what*, 25 for the one that sees *when*. The network itself knows
# no lengths: it takes what comes.

# %%
size = rates.lengths(SECONDS, rates.Rates())
print(size)
print(f"{rates.Rates().latent_hz:.2f} latents a second")

# %% [markdown]
# ## 3. Features
#
# A *system* is a configuration, nested dicts of weights, and a tokenizer. Three encoders read a film and its caption:
# `clip` sees single frames, `sync` sees motion (eight tokens for every segment of 16 frames, a segment every 8
# frames), `text` reads. The same function serves training and generation.

# %%
MODEL = str(pipeline.BUILT_IN)
cfg, params, tokenizer = system.load(MODEL)
for name, part in params.items():
    print(f"{name:8} {module.count(part):>9,} parameters")

# %%
write_mp4(scene, folder / "scene.mp4", silent=True)
frames, _ = media.read_frames(folder / "scene.mp4", features.frame_specs(cfg), counts=(size.clip, size.sync_frames))
excerpt = features.make_excerpt(cfg, tokenizer, size, SECONDS, Video(*frames, SECONDS), [scene.caption])
encoded = jax.jit(features.encode, static_argnums=1)(params, cfg, excerpt)
named = encoded._asdict()
table(named | named.pop("given")._asdict())

# %% [markdown]
# Missing things have one mechanism: the masks `has_video` and `has_text`. A film that isn't there, guidance's branch
# without conditions, and what training drops at random are all the same mask, and what lies behind a mask does not
# matter:

# %%
Network = generator_of(cfg.mmdit)
prepare = jax.jit(lambda params, seen: bind(Network, cfg.mmdit, params["mmdit"]).prepare(seen, size.latents, cfg.rates))
blind = encoded._replace(given=encoded.given._replace(has_video=jnp.array([False])))
other = blind._replace(clip=blind.clip + 100.0, sync=-blind.sync)
same = jax.tree.map(jnp.array_equal, prepare(params, blind), prepare(params, other))
print("conditions without a film, whatever the film:", {name: bool(x) for name, x in same._asdict().items()})
assert all(same), "a masked film made a difference"

# %% [markdown]
# `prepare` made all that depends on neither the noise nor the time: computed once for a whole sampling.

# %%
conditions = prepare(params, encoded)
table(conditions._asdict())

# %% [markdown]
# ## 4. One block
#
# A joint block has three streams of tokens: audio (the latents being made), clip and text. Each has weights of its
# own; one attention lets all look at all. `align`, the sync features at the rate of the latents, modulates every
# audio token by itself: that is how a moment in the film reaches its moment in the sound.
#
# Attention must know that latent 43 and frame 8 are the same second. *Aligned RoPE* turns both by angles on one time
# axis. Below: for every latent, the frame at which the turned vectors agree best, with and without.

# %%
n, v, dim = size.latents, size.clip, cfg.mmdit.width // cfg.mmdit.heads


def nearest_frame(scale: float) -> np.ndarray:
    """For each latent, the clip frame whose turned vector is most like its own. [n]"""
    ones = lambda length: jnp.ones((1, length, 1, dim))
    audio, frame = rotate(ones(n), rope(n, dim)), rotate(ones(v), rope(v, dim, scale=scale))
    return np.asarray(jnp.einsum("bnke,bjke->nj", audio, frame).argmax(1))


latent_seconds = np.arange(n) / n * SECONDS
for name, scale in (("aligned", n / v), ("unscaled", 1.0)):
    apart = np.abs(nearest_frame(scale) / v * SECONDS - latent_seconds)
    print(f"{name:9} the frame attended to is at most {apart.max():.2f} s away")

# %%
first = jax.tree.map(lambda x: x[0], params["mmdit"]["joint"])  # blocks are stacked along axis 0, for a scan
noise = jax.random.normal(jax.random.key(0), (1, n, cfg.mmdit.width))
streams = noise, conditions.clip, conditions.text
pooled = conditions.pooled[:, None]
tables = rope(n, dim), rope(v, dim, scale=n / v)


@jax.jit
def block(weights, streams):
    condition = jax.nn.silu(pooled + conditions.align), jax.nn.silu(pooled)
    return bind(JointBlock, cfg.mmdit, weights)(streams, *condition, tables)


after = block(first, streams)
table(dict(zip(("audio", "clip", "text"), after, strict=True)))
moved = float(jnp.abs(after[0] - noise).mean())
print(f"{module.count(first):,} parameters; numbers of the audio stream moved by {moved:.2f} on average")

# %% [markdown]
# A block that starts from nothing does nothing: the gates of its residuals begin at zero, so that a deep network
# begins as the identity.

# %%
fresh = module.init(JointBlock, cfg.mmdit, jax.random.key(0))
unmoved = jax.tree.map(jnp.array_equal, block(fresh, streams), streams)
print("a fresh block returns its input:", all(map(bool, unmoved)))

# %% [markdown]
# ## 5. One sampling
#
# Flow matching: at time t the point is $x_t = (1-t)\,\text{noise} + t\,\text{data}$, and the network knows the
# velocity. Sampling follows it from 0 to 1. Guidance evaluates the network with and without conditions, in one batch,
# and goes further in the direction that they make a difference. The number of steps is data: nothing compiles anew.


# %%
@jax.jit
def sample(params, encoded, noise, steps, guidance):
    network = bind(Network, cfg.mmdit, params["mmdit"])
    ready = network.prepare(sampler.branch_features(encoded, ("full", "empty")), n, cfg.rates)
    weights = jnp.stack([guidance, 1 - guidance])
    latents = sampler.sample(network, ready, noise, weights, Schedule.whole(steps))
    seen = features.seen_by_stereo(cfg, encoded, n)
    return audio_codec.decode(params, cfg.codec, latents, seen, encoded.given.has_video)[0]


latent_noise = jax.random.normal(jax.random.key(1), (1, n, cfg.mmdit.latent_dim))
sounds, heard = {"true": true}, []
for steps in (1, 20):
    wave = np.asarray(sample(params, encoded, latent_noise, steps, 3.0))[: len(true)]
    wave = wave / max(1.0, np.abs(wave).max())
    onsets, name = detect_onsets(wave, rate), f"{steps} step{'s' * (steps > 1)}"
    pairs = onset_f1(onsets, struck).pairs
    sounds[name] = wave
    heard.append(plot.Onsets(name, struck, onsets, pairs))
    print(f"{name}: {len(pairs)} of {len(struck)} events heard within 50 ms")
    display(Audio(wave.T, rate=rate, normalize=False))
plot.versions(folder / "steps.png", sounds, rate, frames=scene.frames((96, 96)), marks=struck, onsets=heard)
show("steps.png")

# %% [markdown]
# One step already finds the moments, since the film says them. The ringing of the ball takes more.

# %% [markdown]
# ## 6. One training step
#
# The codec tells what the true sound's latents are; the network learns the velocity towards them. Here a network of
# one joint and one single block starts from nothing, on eight copies of our one scene, so that there is something to
# see in a few steps. Its last layer begins at zero, so the first loss is the mean square of the velocities
# themselves. Everything that is random comes from the key. Most of the time goes into compiling, once; on two cores
# about half a minute.

# %%
TRAIN_STEPS = 20  # @param {type: "integer"}

small = replace(cfg, mmdit=replace(cfg.mmdit, width=64, heads=1, joint_depth=1, single_depth=1))
mono = np.zeros((1, size.samples), np.float32)
mono[0, : len(true)] = true.mean(1)
posterior = jax.jit(audio_codec.encode, static_argnums=1)(params, cfg.codec, mono)
eight = lambda tree: jax.tree.map(lambda x: np.repeat(np.asarray(x), 8, 0), tree)
batch = FeatureBatch(eight(encoded), eight(posterior))

tx = make_optimizer(OptimConfig(learning_rate=3e-3, warmup=0.8))
step = make_step(small, FlowStepConfig(), tx)


def start() -> TrainState:
    weights = {"mmdit": module.init(generator_of(small.mmdit), small.mmdit, jax.random.key(0))}
    return TrainState(jnp.int32(0), weights, tx.init(weights), weights, jnp.int32(0))


with jax.default_device(jax.devices("cpu")[0]):  # so small that every machine's CPU will do
    once, losses = jax.jit(step), []
    state = jax.jit(start)()
    for k in range(TRAIN_STEPS):
        state, metrics = once(state, batch, jax.random.fold_in(jax.random.key(2), k))
        losses.append(float(metrics["loss"]))
print(f"{module.count(state.params):,} parameters")
print(f"loss: {losses[0]:.3f} at the first step, {losses[-1]:.3f} at step {TRAIN_STEPS}")

# %% [markdown]
# ## 7. The same step on eight devices
#
# Where an array lies is said outside of the model: a mesh of devices, and a table of rules from a parameter's name to
# the axes it is split along (`kfjax/xla/sharding.py`). Here two groups of four: each group holds the parameters once,
# in four parts, and sees half the batch. The eight devices are one CPU in disguise; eight chips take the same lines.

# %%
mesh = sharding.make_mesh({"data": 2, "fsdp": 4}, devices=jax.devices("cpu")[:8])
with jax.set_mesh(mesh):
    spread = sharding.shard_init(start, mesh)()
    for name, x in list(module.flatten(spread.params).items())[:6]:
        print(f"{name:34} {list(x.shape)!s:18} on each device {x.sharding.shard_shape(x.shape)}")
    placed, key = sharding.put_batch(batch, mesh), jax.random.fold_in(jax.random.key(2), 0)
    inputs = spread, placed, jax.device_put(key, sharding.replicated(mesh))
    compiled = jax.jit(step).lower(*inputs).compile()

# %% [markdown]
# The compiled program says what the devices send one another in a step: parameters are gathered where they are used,
# gradients are summed.

# %%
for sent in collectives(compiled.as_text()):
    print(f"{sent.kind:18} {sent.count:4} times, {sent.wire_bytes / 1e6:6.2f} MB received by each device")

# %% [markdown]
# And what matters most: the step is the same step. Same keys, same loss, up to rounding.

# %%
_, metrics = compiled(*inputs)
print(f"first loss on one device {losses[0]:.6f}, on eight {float(metrics['loss']):.6f}")
assert abs(float(metrics["loss"]) - losses[0]) < 1e-4 * losses[0]

# %% [markdown]
# ## Where to read on
#
# - The whole, from a video file to one with sound: [pipeline.py](../kfjax/pipeline.py); what it calls, for a batch of
#   any size: [generation.py](../kfjax/generation.py)
# - Frames and captions become features: [features.py](../kfjax/features.py), [encoders](../kfjax/encoders)
# - The network and its blocks: [mmdit.py](../kfjax/generators/mmdit/mmdit.py),
#   [blocks.py](../kfjax/generators/mmdit/blocks.py)
# - Modules as functions over plain dicts: [module.py](../kfjax/nn/module.py)
# - Paths, sampling, guidance: [matching.py](../kfjax/flow/matching.py), [sampler.py](../kfjax/flow/sampler.py)
# - The codec: [audio_codec.py](../kfjax/codec/audio_codec.py)
# - The training step, and the loop: [flow_step.py](../kfjax/train/tasks/flow/step.py),
#   [loop.py](../kfjax/train/engine/loop.py)
# - Meshes and rules: [sharding.py](../kfjax/xla/sharding.py)
# - Why it is as it is: [decisions](../docs/decisions)
