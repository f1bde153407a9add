"""What a flow run trains on, whichever its data, and the durations of its batches."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from kfjax.data.buckets import Buckets
from kfjax.nn.module import Params
from kfjax.train.engine.validation import Validation
from kfjax.train.tasks.flow.config import FlowRun

if TYPE_CHECKING:
    from kfjax.encoders.tokenizer import Tokenizer


class TrainingData(NamedTuple):
    """Batches, panel and validation of a run, each as in `Task`; the tokenizer of its captions, if they are text."""

    batch: Callable[[int], Any]
    tokenizer: Tokenizer | None = None
    panel: Callable[[Params, int, Path], dict[str, float]] | None = None
    validate: Validation | None = None


def make_buckets(run: FlowRun, of: Collection[float] | None = None) -> Buckets:
    """The durations of the steps; the same on every number of devices where `data.batch_multiple` is not 0.

    Args:
      of: the durations that held-out scenes have; None = no bounds.

    Raises:
      ValueError: bad settings; no duration of `of` among them.
    """
    data, weights = run.data, dict(run.data.buckets)
    if of is not None:
        weights = {seconds: weight for seconds, weight in weights.items() if seconds in of}
        if not weights:
            trained = ", ".join(f"{seconds:g}" for seconds, _ in data.buckets)
            raise ValueError(
                f"{data.heldout}: has scenes of {sorted(of)} s, expected some that are as long as those "
                f"that train (data.buckets: {trained} s); render them"
            )
    return Buckets(
        weights,
        batch_seconds=data.batch_seconds,
        multiple_of=data.batch_multiple or jax.device_count(),
        seed=run.loop.seed,
    )
