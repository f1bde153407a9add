"""Training the vocoder: a regression on magnitudes at its three resolutions, without a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kfjax import config as strict
from kfjax import pipeline
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.pieces import vae_halo
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.vocoder import Vocoder, VocoderConfig
from kfjax.data.crops import RecordingCrops
from kfjax.data.encode import marks_of
from kfjax.data.shards.marks import PARTS
from kfjax.dsp import stft
from kfjax.nn import module
from kfjax.scenes import Corpus
from kfjax.scenes.batches import SoundInput
from kfjax.scenes.waves import training_wave
from kfjax.storage import disk
from kfjax.storage.checkpoint import save_params
from kfjax.train.engine.loop import LoopConfig, Task
from kfjax.train.engine.optim import OptimConfig, make_optimizer, over
from kfjax.train.engine.update import gradients_of, make_step
from kfjax.train.engine.validation import Validation
from kfjax.train.tasks.model_directory import MADE, Product, in_codec, is_model, names, rows
from kfjax.train.tasks.weights import read_part

if TYPE_CHECKING:
    from kfjax.train.tasks.bigvgan_step import BigVGANRun, BigVGANTraining

#: Spectral magnitudes below this count as silence in the loss (a full-scale sine is n_fft / 4).
_QUIET = 1e-4
#: Held-out training sounds have seeds from here on.
HELD_OUT = 10**6
VALIDATION_BATCHES = 4


@dataclass(frozen=True)
class VocoderTraining:
    """What one vocoder run does."""

    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    mel: MelConfig = field(default_factory=MelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch: int = 8
    frames: int = 64
    gain_db: float = 40.0
    pieces: int = 2000
    piece_seconds: float = 2.0
    seed: int = 0


class Reading(NamedTuple):
    """What a vocoder in training reads of a wave.

    Attributes:
      frozen: parts that it takes, which do not train: they are with the vocoder's own in the state, where they are an
        argument of the step's program and split like all else. A constant would be written out in it.
      mel: (those parts, batch with "wave" [b t]) -> log-mel [b f m].
    """

    frozen: module.Params
    mel: Callable[[module.Params, Mapping[str, Array]], Float[Array, "b f m"]]


def own_mel(cfg: MelConfig) -> Reading:
    """The wave's own log-mel."""
    return Reading({}, lambda frozen, batch: log_mel(batch["wave"], cfg))


def decoded_mel(cfg: MelConfig, vae: VAEConfig, params: module.Params) -> Reading:
    """The log-mel that a VAE gives back: of the wave, or of the batch's "latents", which have `vae_halo` more on either
    side."""

    def mel(frozen: module.Params, batch: Mapping[str, Array]) -> Float[Array, "b f m"]:
        network, wave = module.bind(MelVAE, vae, frozen["vae"]), batch["wave"]
        if "latents" not in batch:
            return network.decode(network.encode(log_mel(wave, cfg)).mean)
        first = 2 * vae_halo(vae)
        return network.decode(batch["latents"].astype(jnp.float32))[:, first : first + wave.shape[1] // cfg.hop]

    return Reading({"vae": params}, mel)


def vocoder_loss(
    params: module.Params, cfg: VocoderTraining, wave: Float[Array, "b t"], mel: Float[Array, "b f m"]
) -> tuple[Array, dict[str, Array]]:
    """Mean `magnitude_loss` over the vocoder's resolutions, and its parts.

    Args:
      wave: the target, t = f * hop.
      mel: the vocoder's input.
    """
    made = module.bind(Vocoder, cfg.vocoder, params).magnitudes(mel)
    parts = {
        f"window_{n_fft}": magnitude_loss(magnitude, jnp.abs(stft(wave, n_fft, hop)))
        for magnitude, (n_fft, hop) in zip(made, cfg.vocoder.grids, strict=True)
    }
    loss = jnp.mean(jnp.stack(list(parts.values())))
    return loss, {"loss": loss, **parts}


def magnitude_loss(made: Float[Array, "b f k"], target: Float[Array, "b f k"]) -> Float[Array, ""]:
    """Spectral convergence plus mean absolute log-magnitude difference (arXiv:1910.11480, eq. 3-5).

    Convergence is taken per item, so that quiet sounds weigh as much as loud ones.
    """
    made, target = made + _QUIET, target + _QUIET
    error = jnp.sum(jnp.square(made - target), (1, 2)) / jnp.sum(jnp.square(target), (1, 2))
    return jnp.mean(jnp.sqrt(error + 1e-8)) + jnp.mean(jnp.abs(jnp.log(made / target)))


def vocoder_task(
    cfg: VocoderTraining,
    folder: str | Path,
    reading: Reading | None = None,
    batch: Callable[[int], Mapping[str, Any]] | None = None,
) -> Task:
    """The task for `engine.loop.run`; a few sounds to validate on are rendered into `folder` once.

    Args:
      reading: default: the wave's own log-mel.
      batch: default: of sounds that are rendered too.
    """
    tx, reading = make_optimizer(cfg.optim), reading or own_mel(cfg.mel)
    batch = batch or partial(crops, render_pool(Path(folder), cfg), cfg)
    unseen = render_pool(Path(folder), cfg, held_out=True)

    own = lambda params: {"vocoder": params["vocoder"]}

    def loss(params: module.Params, batch: dict[str, Array], key: Array) -> tuple[Array, dict[str, Array]]:
        del key  # nothing here is drawn
        return vocoder_loss(params["vocoder"], cfg, batch["wave"], reading.mel(params, batch))

    def init(key: Array) -> module.Params:
        return {"vocoder": module.init(Vocoder, cfg.vocoder, key)} | jax.tree.map(jnp.asarray, reading.frozen)

    figures = lambda params, batch, key: loss(params, batch, key)[1]
    return Task(
        init=init,
        init_opt=lambda params: tx.init(own(params)),
        step=make_step(gradients_of(loss), tx, own, cfg.optim.ema_decay),
        objective=lambda state, batch, key: loss(state.params, batch, key),
        batch=batch,
        validate=Validation(figures, partial(crops, unseen, cfg), VALIDATION_BATCHES),
        export=lambda ema, workdir: save_params(workdir / "vocoder.safetensors", ema["vocoder"]),
    )


@dataclass(frozen=True)
class VocoderData:
    """What a run reads.

    Attributes:
      folder: where the sounds are kept that are made once.
      vae: model directory or weights file of a VAE: the vocoder is fine-tuned on the mels that it decodes; "" = trained
        from nothing.
      start: model directory or weights file of the vocoder that is fine-tuned.
      scenes: corpus of rendered scenes to fine-tune on.
      corpora: in place of `scenes`, (folder of `kfjax extract`, weight) of each, whose latents `vae` made and decodes.
      sources: of each of `corpora` what was extracted, where it is now; () = where it was.
    """

    folder: str
    vae: str = ""
    scenes: str = ""
    start: str = ""
    corpora: tuple[tuple[str, float], ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class VocoderRun:
    """The config of a run; `vae` is that of `data.vae`."""

    task: Literal["vocoder"]
    data: VocoderData
    loop: LoopConfig = field(default_factory=LoopConfig)
    training: VocoderTraining = field(default_factory=VocoderTraining)
    vae: VAEConfig = field(default_factory=VAEConfig)


#: nested dicts -> `VocoderRun`
read = partial(strict.from_dict, VocoderRun)


def abstract_params(run: VocoderRun) -> module.Params:
    """Shapes of the parameters that train; allocates nothing and reads no data."""
    return {"vocoder": module.shapes(Vocoder, run.training.vocoder)}


def make_task(run: VocoderRun) -> Task:
    """The task for `engine.loop.run`; exports vocoder.safetensors.

    With `data.vae` the vocoder goes on from `data.start`, on recordings and their mels as the VAE decodes them.

    Raises:
      ValueError: data or weights that are not there or do not fit.
    """
    data, cfg = run.data, replace(run.training, optim=over(run.training.optim, run.loop.steps))
    batch = feature_crops(run)
    if not data.vae:
        return vocoder_task(cfg, data.folder)
    reading = decoded_mel(cfg.mel, run.vae, read_part(data.vae, "vae", module.shapes(MelVAE, run.vae)))
    start = {"vocoder": read_part(data.start, "vocoder", module.shapes(Vocoder, cfg.vocoder))} | reading.frozen
    if batch is None:
        batch = SoundInput(Corpus(data.scenes), batch=cfg.batch, samples=cfg.frames * cfg.mel.hop, seed=cfg.seed)
    return vocoder_task(cfg, data.folder, reading, batch)._replace(init=lambda key: jax.tree.map(jnp.asarray, start))


def feature_crops(run: VocoderRun | BigVGANRun) -> RecordingCrops | None:
    """Crops of the recordings of `data.corpora` and their latents; None without corpora.

    Raises:
      ValueError: as `RecordingCrops`; no `data.vae` to decode the latents, or one of another model than the features.
    """
    data, cfg = run.data, run.training
    if not data.corpora:
        return None
    if not data.vae:
        raise ValueError("config.data.vae: got none with data.corpora, expected the model whose VAE made the latents")
    sizes = {"latents": -(-cfg.frames // 2), "samples": cfg.frames * cfg.mel.hop, "context": vae_halo(run.vae)}
    made = RecordingCrops(data.corpora, cfg.mel, batch=cfg.batch, seed=cfg.seed, places=data.sources, **sizes)
    if is_model(data.vae) and "vae" in (marks := marks_of(pipeline.load_system(data.vae, PARTS))).differing(made.marks):
        raise ValueError(f"config.data.vae: got {data.vae} of {marks.whole}, expected the VAE of {made.marks.whole}, "
                         "which made the features; give that model")  # fmt: skip
    return made


def product(run: VocoderRun, weights: Mapping[str, module.Params]) -> Product:
    """What a run gives to a model."""
    cfg = run.training
    return Product(
        made={"vocoder": lambda: weights["vocoder"]},
        trained=("vocoder",),
        system=lambda before: in_codec(before, cfg.mel, vocoder=cfg.vocoder),
        card=rows(names(run.data.corpora) or Path(run.data.scenes).name or MADE, run.loop, cfg.optim),
        start=run.data.start,
        places={"vae": run.data.vae},
        features=[folder for folder, _ in run.data.corpora],
    )


def render_pool(folder: Path, cfg: VocoderTraining | BigVGANTraining, *, held_out: bool = False) -> np.ndarray:
    """float16 [pieces, samples], rendered at the first call and read from the file after it; of held-out sounds as many
    as a batch has. Of several processes one renders, and the others wait for it."""
    first, pieces, name = (HELD_OUT, cfg.batch, "heldout") if held_out else (0, cfg.pieces, "waves")
    path = folder / f"{name}_{pieces}x{cfg.piece_seconds:g}s_{cfg.mel.sample_rate_hz}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with disk.alone(path.with_suffix(".lock")):
            if not path.exists():
                _render(path, first, pieces, cfg)
    return np.load(path, mmap_mode="r")


def _render(path: Path, first: int, pieces: int, cfg: VocoderTraining | BigVGANTraining) -> None:
    """The training sounds from number `first` on."""
    shape = (pieces, round(cfg.piece_seconds * cfg.mel.sample_rate_hz))
    unfinished = path.with_suffix(".part")
    pool = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
    for i in range(pieces):
        pool[i] = training_wave(first + i, cfg.piece_seconds, cfg.mel.sample_rate_hz)
    pool.flush()
    disk.replace(unfinished, path)


def crops(pool: np.ndarray, cfg: VocoderTraining | BigVGANTraining, step: int) -> dict[str, np.ndarray]:
    """Batch `step`: random crops of random pieces at random levels down to -`gain_db`, {"wave": f32 [b t]}."""
    rng = np.random.default_rng((cfg.seed, step))
    size = cfg.frames * cfg.vocoder.hop
    pieces = rng.integers(0, len(pool), cfg.batch)
    starts = rng.integers(0, pool.shape[1] - size + 1, cfg.batch)
    waves = np.stack([pool[i, start : start + size] for i, start in zip(pieces, starts, strict=True)])
    gains = 10 ** (-rng.uniform(0, cfg.gain_db, (cfg.batch, 1)) / 20)
    return {"wave": (waves * gains).astype(np.float32)}
