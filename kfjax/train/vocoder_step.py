"""Training the vocoder on waveforms: spectra at several resolutions, mel, and the slopes of phase. No adversary."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from kfjax import module
from kfjax.codec.mel import MelConfig, log_mel, mel_basis, stft
from kfjax.codec.vocoder import Spectrum, Vocoder, VocoderConfig
from kfjax.data.waves import training_wave
from kfjax.structs import TrainState
from kfjax.train.loop import Task
from kfjax.train.optim import OptimConfig, ema, guarded_update, make_optimizer

#: Spectral magnitudes below this count as silence in the loss (a full-scale sine is n_fft / 4).
_QUIET = 1e-4
#: Held-out training sounds have seeds from here on.
HELD_OUT = 10**6


@dataclass(frozen=True)
class VocoderTraining:
    """What one vocoder run does.

    `windows` are the STFT lengths at which the made wave is compared, each with a quarter of it as hop; without any,
    no wave is made and the predicted spectrum alone is trained, at half the cost: the first stage.
    """

    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    mel: MelConfig = field(default_factory=MelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch: int = 8
    frames: int = 64
    windows: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    phase_weight: float = 1.0
    gain_db: float = 40.0
    pieces: int = 2000
    piece_seconds: float = 2.0
    seed: int = 0


def vocoder_loss(
    params: module.Params, cfg: VocoderTraining, batch: dict[str, Array], key: Array
) -> tuple[Array, dict[str, Array]]:
    """Loss of one batch and its parts.

    Args:
      batch: "wave" [b, f * hop]; optionally "mel" [b f m], the codec's decoded mel of it, to fine-tune on.
      key: draws the vocoder's phase noise.
    """
    wave = batch["wave"]
    mel = log_mel(wave, cfg.mel)
    net = module.bind(Vocoder, cfg.vocoder, params)
    spectrum = net.spectrum(batch.get("mel", mel))
    target = stft(wave, cfg.vocoder.n_fft, cfg.vocoder.hop)
    power = jnp.square(spectrum.magnitude) + _QUIET**2
    parts = {
        "magnitude": magnitude_loss(power, _power(target)),
        "mel": _mel_error(jnp.sqrt(power), mel, cfg.mel),
        "phase": phase_slope_loss(spectrum, target),
    }
    if cfg.windows:
        # The slopes of phase learn from the target's slopes: through the waveform they would learn little but noise.
        fixed = jax.lax.stop_gradient(spectrum)._asdict() | {"magnitude": spectrum.magnitude}
        fixed |= {"onset": spectrum.onset, "noise": spectrum.noise}
        made = net.waveform(Spectrum(**fixed), key=key)
        parts["stft"] = jnp.mean(jnp.stack([stft_loss(made, wave, window) for window in cfg.windows]))
        parts["made_mel"] = jnp.mean(jnp.abs(log_mel(made, cfg.mel) - mel))
    weights = {"phase": cfg.phase_weight}
    loss = sum(weights.get(name, 1.0) * part for name, part in parts.items())
    return loss, {"loss": loss, **parts}


def _mel_error(magnitude: Float[Array, "b f k"], mel: Float[Array, "b f m"], cfg: MelConfig) -> Float[Array, ""]:
    return jnp.mean(jnp.abs(jnp.log(jnp.maximum(magnitude @ mel_basis(cfg), cfg.floor)) - mel))


def stft_loss(made: Float[Array, "b t"], wave: Float[Array, "b t"], window: int) -> Float[Array, ""]:
    """`magnitude_loss` of two waves' spectra with this window and a quarter of it as hop."""
    return magnitude_loss(*jnp.split(_power(stft(jnp.concatenate([made, wave]), window, window // 4)), 2))


def magnitude_loss(made: Float[Array, "b f k"], target: Float[Array, "b f k"]) -> Float[Array, ""]:
    """Spectral convergence plus mean absolute log-magnitude difference of power spectra (arXiv:1910.11480, eq. 3-5).

    Convergence is taken per item, so that quiet sounds weigh as much as loud ones.
    """
    difference = jnp.sum(jnp.square(jnp.sqrt(made) - jnp.sqrt(target)), (1, 2))
    convergence = jnp.sqrt(difference / jnp.sum(target, (1, 2)) + 1e-8)
    return jnp.mean(convergence) + 0.5 * jnp.mean(jnp.abs(jnp.log(made) - jnp.log(target)))


def _power(spec: Complex[Array, "b f k"]) -> Float[Array, "b f k"]:
    return jnp.square(spec.real) + jnp.square(spec.imag) + _QUIET**2


def phase_slope_loss(spectrum: Spectrum, target: Complex[Array, "b f k"]) -> Float[Array, ""]:
    """1 - cos of the error in the phase's step from frame to frame and in its slope along frequency.

    Unlike the phase itself both follow from what is heard. Bins weigh by the square root of their magnitudes' product.
    """
    n_fft = 2 * (target.shape[-1] - 1)
    unit = lambda z: z * jax.lax.rsqrt(jnp.square(z.real) + jnp.square(z.imag) + 1e-8)
    weight = jnp.sqrt(jnp.sqrt(jnp.square(target.real) + jnp.square(target.imag) + 1e-12))
    phasor = unit(target)
    hop = n_fft // 4
    bins = np.arange(target.shape[-1])
    centre = np.exp(-2j * np.pi / n_fft * (bins * hop % n_fft)).astype(np.complex64)[None, None]
    step = phasor[:, 1:] * jnp.conj(phasor[:, :-1]) * centre * jnp.exp(-1j * spectrum.advance[:, 1:])
    slope = -phasor[..., 1:] * jnp.conj(phasor[..., :-1])
    slope = slope * jnp.exp(2j * np.pi / n_fft * spectrum.delay[..., 1:])
    step_weight, slope_weight = weight[:, 1:] * weight[:, :-1], weight[..., 1:] * weight[..., :-1]
    mean = lambda w, z: jnp.sum(w * (1 - z.real)) / (jnp.sum(w) + 1e-8)
    return mean(step_weight, step) + mean(slope_weight, slope)


def vocoder_task(cfg: VocoderTraining, folder: str | Path) -> Task:
    """The task for `train.loop.run`; the training sounds are rendered into `folder` once."""
    tx = make_optimizer(cfg.optim)
    pool = render_pool(Path(folder), cfg)

    def step(state: TrainState, batch, key):
        loss_fn = jax.value_and_grad(partial(vocoder_loss, cfg=cfg, batch=batch, key=key), has_aux=True)
        (loss, parts), grads = loss_fn(state.params)
        params, opt_state, finite, norm = guarded_update(tx, grads, state.params, state.opt_state, loss)
        averaged = ema(state.ema, params, jnp.minimum(cfg.optim.ema_decay, (1 + state.step) / (10 + state.step)))
        skipped = jnp.where(finite, 0, state.skipped + 1)
        return TrainState(state.step + 1, params, opt_state, averaged, skipped), {**parts, "grad_norm": norm}

    return Task(
        init=lambda key: module.init(Vocoder, cfg.vocoder, key),
        init_opt=tx.init,
        step=step,
        batch=partial(crops, pool, cfg),
    )


def render_pool(folder: Path, cfg: VocoderTraining) -> np.ndarray:
    """float16 [pieces, samples], rendered at the first call and read from the file after it."""
    path = folder / f"waves_{cfg.pieces}x{cfg.piece_seconds:g}s_{cfg.mel.sample_rate_hz}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (cfg.pieces, round(cfg.piece_seconds * cfg.mel.sample_rate_hz))
        unfinished = path.with_suffix(".part")
        pool = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
        for seed in range(cfg.pieces):
            pool[seed] = training_wave(seed, cfg.piece_seconds, cfg.mel.sample_rate_hz)
        pool.flush()
        unfinished.rename(path)
    return np.load(path, mmap_mode="r")


def crops(pool: np.ndarray, cfg: VocoderTraining, step: int) -> dict[str, np.ndarray]:
    """Batch `step`: random crops of random pieces at random levels down to -`gain_db`, {"wave": f32 [b t]}."""
    rng = np.random.default_rng((cfg.seed, step))
    size = cfg.frames * cfg.vocoder.hop
    pieces = rng.integers(0, len(pool), cfg.batch)
    starts = rng.integers(0, pool.shape[1] - size + 1, cfg.batch)
    waves = np.stack([pool[i, start : start + size] for i, start in zip(pieces, starts, strict=True)])
    gains = 10 ** (-rng.uniform(0, cfg.gain_db, (cfg.batch, 1)) / 20)
    return {"wave": (waves * gains).astype(np.float32)}
