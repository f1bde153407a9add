"""Training BigVGAN against discriminators of periods and resolutions; generator and discriminators in one step.

Source: BigVGAN (Lee et al., arXiv 2206.04658) with its multi-period and multi-resolution discriminators, least-squares
losses and feature matching (HiFi-GAN, arXiv 2010.05646, eq. 1-7); the mel loss is that of several scales, which the
second version of the public code brought. That version's constant-Q discriminator is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kfjax import config as strict
from kfjax.codec.bigvgan import BigVGAN, BigVGANConfig
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.wave_discriminators import Layers, WaveDiscriminatorConfig, WaveDiscriminators
from kfjax.data.recordings import Recordings
from kfjax.nn import module
from kfjax.nn.module import Params
from kfjax.scenes import Corpus
from kfjax.scenes.batches import SoundInput
from kfjax.storage.checkpoint import save_params
from kfjax.structs import TrainState
from kfjax.train.engine.loop import LoopConfig, Task
from kfjax.train.engine.optim import OptimConfig, make_optimizer, over
from kfjax.train.engine.update import Metrics, Step, advance, apply_gradients
from kfjax.train.engine.validation import Figures, Validation
from kfjax.train.tasks.losses import total
from kfjax.train.tasks.model_directory import MADE, Product, in_codec, names, rows
from kfjax.train.tasks.vocoder_step import Reading, crops, decoded_mel, feature_crops, own_mel, render_pool
from kfjax.train.tasks.weights import read_part

Batch = dict[str, Array]
#: AdamW as both networks are published with; the schedule is ours (`optim.inverse_lr`).
_OPTIM = OptimConfig(learning_rate=1e-4, b1=0.8, b2=0.99, weight_decay=0.01, clip_norm=500.0)


@dataclass(frozen=True)
class BigVGANTraining:
    """One run.

    Attributes:
      mel: what the generator reads.
      mel_scales: (window, bands) of the mels that are compared; hops of a quarter window.
      mel_weight, feature_weight: beside the adversarial loss, whose weight is 1.
      batch, frames: crops a step, mel frames a crop.
      gain_db, pieces, piece_seconds, seed: of the sounds (`vocoder_step.crops`, `vocoder_step.render_pool`).

    Raises:
      ValueError: a generator of other bands or another hop than the mel's.
    """

    vocoder: BigVGANConfig = field(default_factory=BigVGANConfig)
    discriminator: WaveDiscriminatorConfig = field(default_factory=WaveDiscriminatorConfig)
    mel: MelConfig = field(default_factory=MelConfig)
    mel_scales: tuple[tuple[int, int], ...] = (
        (32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320),
    )  # fmt: skip
    mel_weight: float = 15.0
    feature_weight: float = 2.0
    optim: OptimConfig = _OPTIM
    discriminator_optim: OptimConfig = _OPTIM
    batch: int = 32
    frames: int = 128
    gain_db: float = 20.0
    pieces: int = 2000
    piece_seconds: float = 2.0
    seed: int = 0

    def __post_init__(self):
        got, want = (self.vocoder.bands, self.vocoder.hop), (self.mel.bands, self.mel.hop)
        if got != want:
            raise ValueError(
                f"vocoder: got {got[0]} bands and {got[1]} samples a frame, expected the mel's {want[0]} and {want[1]};"
                " change vocoder.bands or vocoder.rates, whose product is the hop"
            )


def init_params(cfg: BigVGANTraining, key: Array, start: Params | None = None) -> Params:
    """{"gen": the generator, drawn or `start`, "disc": the discriminators, drawn}; what does not train is not here."""
    gen_key, disc_key = jax.random.split(key)
    gen = module.init(BigVGAN, cfg.vocoder, gen_key) if start is None else jax.tree.map(jnp.asarray, start)
    return {"gen": gen, "disc": module.init(WaveDiscriminators, cfg.discriminator, disc_key)}


def init_opt(cfg: BigVGANTraining, params: Params) -> Params:
    """State of the two optimisers, {"gen", "disc"}."""
    return {
        "gen": make_optimizer(cfg.optim).init(params["gen"]),
        "disc": make_optimizer(cfg.discriminator_optim).init(params["disc"]),
    }


def make_step(cfg: BigVGANTraining, reading: Reading) -> Step:
    """(state, batch, key) -> (state, metrics): one update of the discriminators, then one of the generator.

    The batch has "wave" [b, f · hop] in [-1, 1]. The generator runs once: the discriminators are updated on its output,
    and its own loss is then taken with the updated ones. A non-finite loss or gradient of either leaves both as they
    were.
    """
    tx, disc_tx = make_optimizer(cfg.optim), make_optimizer(cfg.discriminator_optim)

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        del key  # nothing here is drawn
        gen, disc, wave = state.params["gen"], state.params["disc"], batch["wave"]
        read = reading.mel(state.params, batch)
        made, pull_back = jax.vjp(lambda gen: module.bind(BigVGAN, cfg.vocoder, gen)(read), gen)
        disc_loss, disc_grads = jax.value_and_grad(discriminator_loss)(disc, wave, made, cfg)
        new_disc = apply_gradients(disc_tx, disc_grads, disc, state.opt_state["disc"], disc_loss)
        (loss, parts), slope = jax.value_and_grad(generator_loss, has_aux=True)(made, wave, new_disc.params, cfg)
        (grads,) = pull_back(slope)
        new_gen = apply_gradients(tx, grads, gen, state.opt_state["gen"], loss)

        params = {"gen": new_gen.params, "disc": new_disc.params}
        opt_state = {"gen": new_gen.opt_state, "disc": new_disc.opt_state}
        finite = new_gen.finite & new_disc.finite
        state = advance(state, params, opt_state, finite, cfg.optim.ema_decay, copied=("disc",))
        norms = {"gradient_norm": new_gen.norm, "disc_gradient_norm": new_disc.norm}
        return state, {"loss": loss, **parts, "disc": disc_loss, **norms, "skipped": state.skipped}

    return step


def generator_loss(
    made: Float[Array, "b t"], wave: Float[Array, "b t"], disc: Params, cfg: BigVGANTraining
) -> tuple[Array, dict[str, Array]]:
    """The generator's loss, and its terms, unweighted."""
    discriminators = module.bind(WaveDiscriminators, cfg.discriminator, disc)
    fake = discriminators(made)
    parts = {
        "mel": mel_distance(made, wave, cfg),
        "adversarial": fooled(fake),
        "feature": feature_distance(discriminators(wave), fake),
    }
    loss = cfg.mel_weight * parts["mel"] + parts["adversarial"] + cfg.feature_weight * parts["feature"]
    return loss, parts


def make_objective(cfg: BigVGANTraining, reading: Reading):
    """(state, batch, key) -> (what both updates of the step minimise, its terms), for `Task.objective`.

    The generator's loss is taken with the discriminators as they were before their update.
    """

    def objective(state: TrainState, batch: Batch, key: Array) -> tuple[Array, Batch]:
        del key  # nothing here is drawn
        gen, disc, wave = state.params["gen"], state.params["disc"], batch["wave"]
        made = module.bind(BigVGAN, cfg.vocoder, gen)(reading.mel(state.params, batch))
        told = discriminator_loss(disc, wave, jax.lax.stop_gradient(made), cfg)
        loss, parts = generator_loss(made, wave, jax.lax.stop_gradient(disc), cfg)
        return loss + told, parts | {"disc": told}

    return objective


def make_figures(cfg: BigVGANTraining, reading: Reading) -> Figures:
    """The generator's mel loss, for `validation.Validation`."""

    def figures(params: Params, batch: Batch, key: Array) -> dict[str, Array]:
        del key  # nothing here is drawn
        made = module.bind(BigVGAN, cfg.vocoder, params["gen"])(reading.mel(params, batch))
        return {"mel": mel_distance(made, batch["wave"], cfg)}

    return figures


def discriminator_loss(
    disc: Params, wave: Float[Array, "b t"], made: Float[Array, "b t"], cfg: BigVGANTraining
) -> Float[Array, ""]:
    """Least squares: scores of true waves should be 1, of generated ones 0; mean over each map, summed over maps."""
    discriminators = module.bind(WaveDiscriminators, cfg.discriminator, disc)
    return told_apart(discriminators(wave), discriminators(made))


def told_apart(real: Sequence[Layers], fake: Sequence[Layers]) -> Float[Array, ""]:
    """The least squares of `discriminator_loss` (arXiv 2010.05646, eq. 1)."""
    return total(jnp.mean(jnp.square(1 - r[-1])) + jnp.mean(jnp.square(f[-1])) for r, f in zip(real, fake, strict=True))


def fooled(fake: Sequence[Layers]) -> Float[Array, ""]:
    """Least squares: generated waves should score 1; mean over each map, summed over discriminators (eq. 2)."""
    return total(jnp.mean(jnp.square(1 - f[-1])) for f in fake)


def feature_distance(real: Sequence[Layers], fake: Sequence[Layers]) -> Float[Array, ""]:
    """Mean absolute difference of every layer's map, scores included, summed over layers and discriminators (eq. 4)."""
    return total(jnp.mean(jnp.abs(a - b)) for r, f in zip(real, fake, strict=True) for a, b in zip(r, f, strict=True))


def mel_distance(made: Float[Array, "b t"], wave: Float[Array, "b t"], cfg: BigVGANTraining) -> Float[Array, ""]:
    """Mean absolute difference of decadic log-mels up to half the sample rate, summed over `mel_scales`."""
    rate = cfg.mel.sample_rate_hz
    scales = [
        MelConfig(rate, window, window // 4, bands, 0.0, rate / 2, "log10", cfg.mel.floor)
        for window, bands in cfg.mel_scales
    ]
    return total(jnp.mean(jnp.abs(log_mel(made, scale) - log_mel(wave, scale))) for scale in scales)


@dataclass(frozen=True)
class BigVGANData:
    """What a run reads.

    Attributes:
      folder: where sounds are kept that are made or decoded once.
      sounds: folder of recordings or of rendered scenes; "" = sounds made from nothing.
      heldout: as `sounds`, for validation; "" = none.
      validation_batches: batches of a validation.
      start: directory of converted parts, or a weights file, whose vocoder is the start; "" = drawn.
      vae: the same, of a VAE: the generator reads the mels that it decodes; "" = those of the sounds.
      corpora: in place of `sounds`, (folder of `kfjax extract`, weight) of each, whose latents `vae` made and decodes.
      sources: of each of `corpora` what was extracted, where it is now; () = where it was.
    """

    folder: str
    sounds: str = ""
    heldout: str = ""
    validation_batches: int = 8
    start: str = ""
    vae: str = ""
    corpora: tuple[tuple[str, float], ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class BigVGANRun:
    """The config of a run; `vae` is that of `data.vae`."""

    task: Literal["bigvgan"]
    data: BigVGANData
    loop: LoopConfig = field(default_factory=LoopConfig)
    training: BigVGANTraining = field(default_factory=BigVGANTraining)
    vae: VAEConfig = field(default_factory=VAEConfig)


#: nested dicts -> `BigVGANRun`
read = partial(strict.from_dict, BigVGANRun)


def abstract_params(run: BigVGANRun) -> Params:
    """Shapes of the parameters that train; allocates nothing and reads no data."""
    return jax.eval_shape(lambda: init_params(run.training, jax.random.key(0)))


def make_task(run: BigVGANRun) -> Task:
    """The task for `engine.loop.run`; exports the averaged generator as vocoder.safetensors.

    Raises:
      ValueError: data or weights that are not there or do not fit.
    """
    cfg, steps, data = run.training, run.loop.steps, run.data
    cfg = replace(cfg, optim=over(cfg.optim, steps), discriminator_optim=over(cfg.discriminator_optim, steps))
    start = read_part(data.start, "vocoder", module.shapes(BigVGAN, cfg.vocoder)) if data.start else None
    reading = _reading(run)
    validate = None
    if data.heldout:
        sounds = _sounds(data.heldout, data.folder, cfg)
        validate = Validation(make_figures(cfg, reading), sounds, data.validation_batches)
    return Task(
        init=lambda key: init_params(cfg, key, start) | jax.tree.map(jnp.asarray, reading.frozen),
        init_opt=partial(init_opt, cfg),
        step=make_step(cfg, reading),
        objective=make_objective(cfg, reading),
        batch=feature_crops(run) or _sounds(data.sounds, data.folder, cfg),
        validate=validate,
        export=lambda ema, workdir: save_params(workdir / "vocoder.safetensors", ema["gen"]),
    )


def product(run: BigVGANRun, weights: Mapping[str, Params]) -> Product:
    """What a run gives to a model."""
    cfg = run.training
    return Product(
        made={"vocoder": lambda: weights["gen"]},
        trained=("vocoder",),
        system=lambda before: in_codec(before, cfg.mel, vocoder=cfg.vocoder),
        card=rows(names(run.data.corpora) or Path(run.data.sounds).name or MADE, run.loop, cfg.optim),
        start=run.data.start,
        places={"vae": run.data.vae},
        features=[folder for folder, _ in run.data.corpora],
    )


def _reading(run: BigVGANRun) -> Reading:
    """The wave's own log-mel; with `data.vae` the one that this VAE decodes."""
    mel, vae = run.training.mel, run.vae
    if not run.data.vae:
        return own_mel(mel)
    return decoded_mel(mel, vae, read_part(run.data.vae, "vae", module.shapes(MelVAE, vae)))


def _sounds(sounds: str, folder: str, cfg: BigVGANTraining) -> Callable[[int], dict[str, np.ndarray]]:
    """step -> {"wave": f32 [b, frames · hop]}; in `folder` lies what is made or decoded once."""
    samples = cfg.frames * cfg.mel.hop
    if not sounds:
        return partial(crops, render_pool(Path(folder), cfg), cfg)
    if Path(sounds, "corpus.json").exists():
        return SoundInput(Corpus(sounds), batch=cfg.batch, samples=samples, seed=cfg.seed)
    return Recordings(
        sounds, folder, cfg.mel.sample_rate_hz, batch=cfg.batch, samples=samples, gain_db=cfg.gain_db, seed=cfg.seed
    )
