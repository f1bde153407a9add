"""The loss on held-out examples under fixed noise and times: the curve changes only with the model.

A training loss is a new draw of examples, noise and times at each step; its variance hides the progress of a
thousand steps. Here every evaluation, in this run, a resumed one or another run with the same seed, uses the same
examples, noise and times, so that two figures are a paired comparison.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from kfjax.train.engine.prefetch import placed
from kfjax.xla.sharding import replicated

#: (parameters, batch, key) -> means over the batch by name; pure. NAME_count: of how many examples NAME is the mean.
Figures = Callable[[Any, Any, jax.Array], dict[str, jax.Array]]


class Validation:
    """(averaged parameters, step) -> figures, for `Task.validate`. Every process of a run calls it.

    The parameters stay as they are sharded; each shape of batch is compiled once.

    Args:
      figures: what is measured of a batch, such as `flow_step.flow_figures`.
      batch: number -> the global batch of held-out examples, as `Task.batch`.
      batches: how many of them, from 0 on.
      seed: of noise and times.

    Raises:
      ValueError: no batches.
    """

    def __init__(self, figures: Figures, batch: Callable[[int], Any], batches: int, *, seed: int = 0):
        if batches < 1:
            raise ValueError(f"validation: got {batches} batches, expected 1 or more")
        self._figures, self._batch, self._batches, self._seed = figures, batch, batches, seed
        self._compiled: dict[Mesh | None, Figures] = {}

    def __call__(self, params: Any, step: int) -> dict[str, float]:
        """Means over all batches; `step` does not matter."""
        mesh = _mesh(params)
        if mesh not in self._compiled:
            everywhere = None if mesh is None else replicated(mesh)
            self._compiled[mesh] = jax.jit(self._figures, out_shardings=everywhere)
        figures, clips = [], []
        for i in range(self._batches):
            batch = self._batch(i) if mesh is None else placed(self._batch, i, mesh)
            clips.append(jax.tree.leaves(batch)[0].shape[0])
            figures.append(self._compiled[mesh](params, batch, jax.random.fold_in(jax.random.key(self._seed), i)))
        return _means(jax.device_get(figures), clips)


def _mesh(params: Any) -> Mesh | None:
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params))
    meshes = (sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding))
    return next((mesh for mesh in meshes if isinstance(mesh, Mesh)), None)


def _means(figures: list[dict[str, Any]], clips: list[int]) -> dict[str, float]:
    """Each figure's mean over the batches, by its counts where it has some, else by the batches' sizes."""
    total, count = defaultdict(float), defaultdict(float)
    for batch, size in zip(figures, clips, strict=True):
        for name in (name for name in batch if not name.endswith("_count")):
            weight = float(batch.get(f"{name}_count", size))
            total[name] += weight * float(batch[name]) if weight else 0.0
            count[name] += weight
    return {name: total[name] / count[name] for name in total if count[name]}
