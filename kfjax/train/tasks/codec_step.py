"""Training the Mel-VAE in the paper's four stages (Algorithm 2), generator and discriminator in one step.

1 mean square error; 2 the KL's weight rises; 3 the adversarial weight rises; 4 the encoder is frozen, and the decoder
and the discriminator go on. The stage is a function of the step number, so the whole run is one compiled step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from kfjax import config as strict
from kfjax.codec.discriminators import DiscriminatorConfig, MelDiscriminator
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.nn import module
from kfjax.nn.module import Params
from kfjax.scenes import Corpus
from kfjax.scenes.batches import SoundInput
from kfjax.storage.checkpoint import save_params
from kfjax.structs import TrainState
from kfjax.train.engine.loop import LoopConfig, Task
from kfjax.train.engine.optim import OptimConfig, make_optimizer, over
from kfjax.train.engine.update import Step, advance, apply_gradients
from kfjax.train.engine.validation import Figures, Validation
from kfjax.train.tasks import losses
from kfjax.train.tasks.model_directory import Product, in_codec, rows

Mels = Float[Array | np.ndarray, "b f m"]
#: The parts of the VAE that train; its other parameters are measured statistics.
TRAINED = ("encoder", "decoder")


@dataclass(frozen=True)
class Stages:
    """How long each stage lasts, in steps, and the weights it reaches.

    Attributes:
      kl_upper: KL weight at the end of stage 2, kept through stage 3.
      gan_upper: adversarial weight at the end of stage 3, kept through stage 4.
      kl_margin: nats a latent frame may carry before the KL costs anything (`losses.kl_margin`).
      r1_weight: weight of R1 in the discriminator's loss.
    """

    mse_steps: int = 1000
    kl_steps: int = 1000
    gan_steps: int = 1000
    decoder_steps: int = 1000
    kl_upper: float = 3e-4
    gan_upper: float = 0.03
    kl_margin: float = 20.0
    r1_weight: float = 1.0

    def __post_init__(self):
        negative = [f"{f.name} {getattr(self, f.name):g}" for f in fields(self) if getattr(self, f.name) < 0]
        if negative:
            raise ValueError(f"stages: got {', '.join(negative)}, expected 0 or more; 0 leaves a stage out")

    @property
    def steps(self) -> int:
        """Length of the whole run."""
        return self.mse_steps + self.kl_steps + self.gan_steps + self.decoder_steps


class StageWeights(NamedTuple):
    """What one step does. Scalars, traced where the step is."""

    stage: Array  # i32, 1 to 4
    kl: Array
    gan: Array
    encoder_trains: Array  # bool
    decoder_trains: Array  # bool
    disc_trains: Array  # bool


def weights_at(step: ArrayLike, stages: Stages) -> StageWeights:
    """Weights of step `step`, counted from 0 (paper, Algorithm 2).

    A ramp is linear over its stage and reaches the upper weight on the stage's last step. In stage 4 no trained
    parameter can change the KL, so its weight is 0. Steps beyond the end belong to stage 4.
    """
    kl_start = stages.mse_steps
    gan_start = kl_start + stages.kl_steps
    decoder_start = gan_start + stages.gan_steps
    step = jnp.asarray(step, jnp.int32)
    stage = 1 + losses.total((step >= start).astype(jnp.int32) for start in (kl_start, gan_start, decoder_start))
    ramp = lambda start, steps: jnp.clip((step - start + 1).astype(jnp.float32) / max(steps, 1), 0.0, 1.0)
    return StageWeights(
        stage=stage,
        kl=jnp.where((stage == 2) | (stage == 3), stages.kl_upper * ramp(kl_start, stages.kl_steps), 0.0),
        gan=jnp.where(stage >= 3, stages.gan_upper * ramp(gan_start, stages.gan_steps), 0.0),
        encoder_trains=stage < 4,
        decoder_trains=stage >= 1,
        disc_trains=stage >= 3,
    )


@dataclass(frozen=True)
class CodecTraining:
    """One run of the Mel-VAE. `stages.steps` is its length."""

    mel: MelConfig = field(default_factory=MelConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    stages: Stages = field(default_factory=Stages)
    optim: OptimConfig = field(default_factory=OptimConfig)
    discriminator_optim: OptimConfig = field(default_factory=lambda: OptimConfig(b1=0.5))

    def __post_init__(self):
        if self.mel.bands != self.vae.bands:
            raise ValueError(
                f"codec: got {self.vae.bands} bands in vae, expected the mel's {self.mel.bands}; make them equal"
            )


@dataclass(frozen=True)
class CodecData:
    """What a run reads.

    Attributes:
      folder, heldout: rendered corpora of scenes, to train on and to validate on ("" = no validation).
      validation_batches: batches of a validation.
      batch, frames: crops a step, mel frames a crop.
      survey_batches: batches from which the statistics of mels and latents are taken.
    """

    folder: str
    heldout: str = ""
    validation_batches: int = 8
    batch: int = 16
    frames: int = 172
    survey_batches: int = 20


@dataclass(frozen=True)
class CodecRun:
    """The config of a run."""

    task: Literal["codec"]
    data: CodecData
    loop: LoopConfig = field(default_factory=LoopConfig)
    training: CodecTraining = field(default_factory=CodecTraining)


#: nested dicts -> `CodecRun`
read = partial(strict.from_dict, CodecRun)


def abstract_params(run: CodecRun) -> Params:
    """Shapes of the parameters that train; allocates nothing and reads no data."""
    zeros = np.zeros(run.training.mel.bands, np.float32)
    return jax.eval_shape(lambda: init_params(run.training, jax.random.key(0), (zeros, zeros + 1)))


def make_task(run: CodecRun) -> Task:
    """The task for `engine.loop.run`, on the corpus's sound; exports vae.safetensors with its latent statistics."""
    data, cfg = run.data, replace(run.training, optim=over(run.training.optim, run.loop.steps))
    batch, survey = _sounds(run, data.folder), _survey(run)
    export = lambda ema, workdir: save_params(workdir / "vae.safetensors", with_statistics(run, ema["gen"]))
    look = Validation(codec_figures(cfg), _sounds(run, data.heldout), data.validation_batches) if data.heldout else None
    return codec_task(cfg, batch, mel_statistics(survey()))._replace(export=export, validate=look)


def with_statistics(run: CodecRun, gen: Params) -> Params:
    """The VAE with the mean and standard deviation of its latents, taken from the run's data.

    Raises:
      ValueError: the data is not there.
    """
    mean, std = latent_statistics(gen, run.training.vae, _survey(run)())
    return gen | {"latent_mean": mean, "latent_std": std}


def product(run: CodecRun, weights: Mapping[str, Params]) -> Product:
    """What a run gives to a model."""
    cfg = run.training
    return Product(
        made={"vae": lambda: with_statistics(run, weights["gen"])},
        trained=("vae",),
        system=lambda before: in_codec(before, cfg.mel, vae=cfg.vae),
        card=rows(Path(run.data.folder).name, run.loop, cfg.optim),
    )


def _sounds(run: CodecRun, folder: str) -> SoundInput:
    data, samples = run.data, run.data.frames * run.training.mel.hop
    return SoundInput(Corpus(folder), batch=data.batch, samples=samples, seed=run.loop.seed)


def _survey(run: CodecRun) -> Callable[[], Iterable[Mels]]:
    """Mels held apart from training batches: steps that no run reaches."""
    batch, mel = _sounds(run, run.data.folder), jax.jit(lambda wave: log_mel(wave, run.training.mel))
    return lambda: (np.asarray(mel(batch(10**9 + i)["wave"])) for i in range(run.data.survey_batches))


def codec_task(
    cfg: CodecTraining,
    batch: Callable[[int], dict[str, np.ndarray]],
    mel_statistics: tuple[np.ndarray, np.ndarray],
    panel: Callable[[Params, int, Path], dict[str, float]] | None = None,
) -> Task:
    """The task for `engine.loop.run`.

    Args:
      batch: step -> {"mel": [b f m]} or {"wave": [b t]}.
      mel_statistics: mean and standard deviation per band over the training data (`mel_statistics`).
    """
    return Task(
        init=lambda key: init_params(cfg, key, mel_statistics),
        init_opt=lambda params: init_opt(cfg, params),
        step=make_step(cfg),
        objective=make_objective(cfg),
        batch=batch,
        panel=panel,
    )


def init_params(cfg: CodecTraining, key: Array, mel_statistics: tuple[np.ndarray, np.ndarray]) -> Params:
    """{"gen": parameters of the VAE, "disc": of the discriminator}."""
    gen_key, disc_key = jax.random.split(key)
    mean, std = (jnp.asarray(x, jnp.float32) for x in mel_statistics)
    gen = module.init(MelVAE, cfg.vae, gen_key) | {"mel_mean": mean, "mel_std": std}
    return {"gen": gen, "disc": module.init(MelDiscriminator, cfg.discriminator, disc_key)}


def init_opt(cfg: CodecTraining, params: Params) -> Params:
    """State of the two optimisers, {"gen", "disc"}."""
    return {
        "gen": make_optimizer(cfg.optim).init(_trained(params["gen"])),
        "disc": make_optimizer(cfg.discriminator_optim).init(params["disc"]),
    }


def make_step(cfg: CodecTraining) -> Step:
    """(state, batch, key) -> (state, metrics): one update of the VAE, then one of the discriminator.

    Both see the same reconstruction. The averaged weights hold the average of the VAE and the discriminator as it is.
    A non-finite loss or gradient of either leaves both as they were.
    """
    tx, disc_tx = make_optimizer(cfg.optim), make_optimizer(cfg.discriminator_optim)

    def step(state: TrainState, batch: dict[str, Array], key: Array) -> tuple[TrainState, dict[str, Array]]:
        weights, mel = weights_at(state.step, cfg.stages), batch_mel(batch, cfg.mel)
        gen, disc = state.params["gen"], state.params["disc"]
        loss_fn = jax.value_and_grad(generator_loss, has_aux=True)
        (loss, (made, metrics)), grads = loss_fn(_trained(gen), gen, disc, mel, key, cfg, weights)
        new = apply_gradients(tx, grads, _trained(gen), state.opt_state["gen"], loss)
        # Weight decay and momentum move what has no gradient: a frozen encoder is put back, bit for bit.
        keep = lambda new, old: jnp.where(weights.encoder_trains, new, old)
        new_gen = gen | new.params | {"encoder": jax.tree.map(keep, new.params["encoder"], gen["encoder"])}

        new_disc, disc_opt, disc_finite, disc_metrics = jax.lax.cond(
            weights.disc_trains,
            lambda: _update_discriminator(disc_tx, disc, state.opt_state["disc"], gen, mel, made, cfg),
            lambda: (disc, state.opt_state["disc"], jnp.array(True), {"disc": jnp.float32(0), "r1": jnp.float32(0)}),
        )
        params, opt_state = {"gen": new_gen, "disc": new_disc}, {"gen": new.opt_state, "disc": disc_opt}
        finite = new.finite & disc_finite
        state = advance(state, params, opt_state, finite, cfg.optim.ema_decay, copied=("disc",))
        metrics |= disc_metrics | {"stage": weights.stage, "gradient_norm": new.norm, "skipped": state.skipped}
        return state, metrics

    return step


def make_objective(cfg: CodecTraining):
    """(state, batch, key) -> (what both updates of the step minimise, its terms), for `Task.objective`."""

    def objective(state: TrainState, batch: dict[str, Array], key: Array) -> tuple[Array, dict[str, Array]]:
        weights, mel = weights_at(state.step, cfg.stages), batch_mel(batch, cfg.mel)
        gen, disc = state.params["gen"], state.params["disc"]
        fixed, rival = jax.lax.stop_gradient((gen, disc))
        loss, (made, parts) = generator_loss(_trained(gen), fixed, rival, mel, key, cfg, weights)
        real, fake = standardise(mel, fixed), jax.lax.stop_gradient(standardise(made, gen))
        told, told_parts = jax.lax.cond(
            weights.disc_trains,
            lambda: discriminator_loss(disc, real, fake, cfg),
            lambda: (jnp.float32(0), {"disc": jnp.float32(0), "r1": jnp.float32(0)}),
        )
        return loss + told, parts | told_parts

    return objective


def generator_loss(
    trained: Params,
    gen: Params,
    disc: Params,
    mel: Float[Array, "b f m"],
    key: Array,
    cfg: CodecTraining,
    weights: StageWeights,
) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    """Loss of the VAE, its reconstruction and the parts. Differences are between standardised mels, so that
    every band counts alike.
    """
    vae = module.bind(MelVAE, cfg.vae, gen | trained)
    posterior = vae.posterior(mel)
    made = vae.decode_raw(posterior.sample(key))
    mse = losses.mse(standardise(made, gen), standardise(mel, gen))
    kl = losses.kl(posterior)
    # Without an adversary neither its forward nor its backward pass is run.
    adversarial = jax.lax.cond(
        weights.disc_trains,
        lambda x: losses.hinge_generator(module.bind(MelDiscriminator, cfg.discriminator, disc)(x)),
        lambda x: jnp.float32(0),
        standardise(made, gen),
    )
    loss = mse + weights.kl * losses.kl_margin(posterior, cfg.stages.kl_margin) + weights.gan * adversarial
    metrics = {"loss": loss, "mse": mse, "kl": kl, "adversarial": adversarial, "mel_l1": jnp.mean(jnp.abs(made - mel))}
    return loss, (made, metrics)


def codec_figures(cfg: CodecTraining) -> Figures:
    """Unweighted reconstruction losses, for `validation.Validation`: they compare across stages."""

    def figures(params: Params, batch: dict[str, Array], key: Array) -> dict[str, Array]:
        gen, weights = params["gen"], weights_at(0, cfg.stages)
        _, (_, parts) = generator_loss(_trained(gen), gen, params["disc"], batch_mel(batch, cfg.mel), key, cfg, weights)
        return {"loss": parts["mse"], "kl": parts["kl"], "mel_l1": parts["mel_l1"]}

    return figures


def discriminator_loss(
    disc: Params, real: Float[Array, "b f m"], fake: Float[Array, "b f m"], cfg: CodecTraining
) -> tuple[Array, dict[str, Array]]:
    """Hinge loss plus R1 at the real mels; both mels standardised."""
    discriminator = module.bind(MelDiscriminator, cfg.discriminator, disc)
    hinge = losses.hinge_discriminator(discriminator(real), discriminator(fake))
    penalty = losses.r1(discriminator, real)
    return hinge + cfg.stages.r1_weight * penalty, {"disc": hinge, "r1": penalty}


def _update_discriminator(tx: optax.GradientTransformation, disc, opt_state, gen, mel, made, cfg):
    real, fake = standardise(mel, gen), jax.lax.stop_gradient(standardise(made, gen))
    (loss, metrics), grads = jax.value_and_grad(discriminator_loss, has_aux=True)(disc, real, fake, cfg)
    new = apply_gradients(tx, grads, disc, opt_state, loss)
    return new.params, new.opt_state, new.finite, metrics


def batch_mel(batch: dict[str, Array], cfg: MelConfig) -> Float[Array, "b f m"]:
    """The batch's mel, computed where it comes as a wave, cut to an even number of frames."""
    mel = batch["mel"] if "mel" in batch else log_mel(batch["wave"], cfg)
    return mel[:, : mel.shape[1] // 2 * 2]


def standardise(mel: Float[Array, "b f m"], gen: Params) -> Float[Array, "b f m"]:
    """(mel - mean) / std per band."""
    return (mel - gen["mel_mean"][None, None]) / gen["mel_std"][None, None]


def mel_statistics(mels: Iterable[Mels], smallest: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per band over everything in `mels`; the latter at least `smallest`, so that
    the noise of an almost silent band is not amplified.
    """
    mean, variance = _moments((mel, 0.0) for mel in mels)
    return mean, np.maximum(np.sqrt(variance), smallest).astype(np.float32)


def latent_statistics(params: Params, cfg: VAEConfig, mels: Iterable[Mels]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel of the raw latents that the posteriors of `mels` draw.

    They go into the VAE's `latent_mean` and `latent_std` once its encoder is final. Mels of one shape compile once.
    """
    posterior = jax.jit(lambda mel: module.bind(MelVAE, cfg, params).posterior(mel))
    draws = (posterior(mel) for mel in mels)
    mean, variance = _moments((np.asarray(p.mean), np.square(np.asarray(p.std))) for p in draws)
    return mean, np.sqrt(variance).astype(np.float32)


def _moments(chunks: Iterable[tuple[Array | np.ndarray, np.ndarray | float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance over all but the last axis, of values that each have a mean and a variance."""
    count, total, square = 0, np.zeros(()), np.zeros(())
    for mean, variance in chunks:
        mean = np.asarray(mean, np.float64)
        axes = tuple(range(mean.ndim - 1))
        count += mean[..., 0].size
        total = total + mean.sum(axes)
        square = square + (np.square(mean) + variance).sum(axes)
    if not count:
        raise ValueError("statistics: got no data, expected at least one array; check the corpus folder")
    mean = total / count
    return mean.astype(np.float32), np.maximum(square / count - np.square(mean), 0.0).astype(np.float32)


def _trained(gen: Params) -> Params:
    return {name: gen[name] for name in TRAINED}
