"""The optimiser: AdamW under the paper's learning-rate schedule (eq. 8), clipped."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax.numpy as jnp
import optax


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule and the average of the weights that is used for sampling."""

    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-6
    gamma: float = 1e6
    power: float = 0.5
    warmup: float = 0.99
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 1e-6
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    decay_steps: int = 0  # linear decay to the final rate over the last steps of a run of `total_steps`; 0 = none
    total_steps: int = 0


def over(cfg: OptimConfig, steps: int) -> OptimConfig:
    """The settings for a run of `steps`: a schedule that decays over a run's end must know where the end is."""
    return replace(cfg, total_steps=steps)


def inverse_lr(cfg: OptimConfig) -> optax.Schedule:
    """max(final, base · (1 + t/γ)^-p) · (1 - w^(t+1)), paper eq. 8."""

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rate = cfg.learning_rate * (1 + step / cfg.gamma) ** -cfg.power
        if cfg.decay_steps:
            rate = rate * jnp.clip((cfg.total_steps - step) / cfg.decay_steps, 0.0, 1.0)
        return jnp.maximum(cfg.final_learning_rate, rate) * (1 - cfg.warmup ** (step + 1))

    return schedule


def make_optimizer(cfg: OptimConfig) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.adamw(inverse_lr(cfg), b1=cfg.b1, b2=cfg.b2, weight_decay=cfg.weight_decay),
    )
