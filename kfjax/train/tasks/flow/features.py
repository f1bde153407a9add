"""A flow run on extracted features, or on random ones: encoders are neither run nor read."""

from __future__ import annotations

from kfjax import system
from kfjax.data.batches import FeatureInput, SyntheticInput
from kfjax.data.encode import encoders_fingerprint
from kfjax.train.engine.validation import Validation
from kfjax.train.tasks.flow.config import FlowRun
from kfjax.train.tasks.flow.step import flow_figures, lacking
from kfjax.train.tasks.inputs import TrainingData, make_buckets
from kfjax.train.tasks.weights import is_folder


def material(run: FlowRun) -> TrainingData:
    """Batches of `data.corpora`, or random ones, and the validation on `data.validation`.

    Raises:
      ValueError: settings that need scenes; features that are not there or of other encoders.
    """
    data, buckets = run.data, make_buckets(run)
    if wrong := lacking(run.step):
        advice = "unset, or train on scenes (data.folder, no data.corpora)"
        raise ValueError(f"config: got extracted features to train on, but {', '.join(wrong)}; {advice}")
    if data.heldout:
        raise ValueError(
            f"config.data.heldout: got {data.heldout} with extracted features, expected none, since a "
            "panel needs encoders; leave it empty, and give held-out features as data.validation"
        )
    if data.synthetic:
        return TrainingData(SyntheticInput(run.system, buckets, seed=run.loop.seed))
    mark = data.fingerprint or _start_fingerprint(data.start)
    batches = FeatureInput(run.system, data.corpora, buckets, seed=run.loop.seed, fingerprint=mark, joined=data.joined)
    if not data.validation:
        return TrainingData(batches)
    held = FeatureInput(run.system, data.validation, buckets, seed=run.loop.seed, fingerprint=batches.fingerprint)
    look = Validation(flow_figures(run.system, run.step), held, data.validation_batches)
    return TrainingData(batches, validate=look)


def _start_fingerprint(start: str) -> str:
    """Of the encoders of the model directory `start`; "" where it is none."""
    return encoders_fingerprint(system.load(start)) if is_folder(start) else ""
