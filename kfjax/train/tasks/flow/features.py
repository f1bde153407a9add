"""A flow run on extracted features, or on random ones: encoders are neither run nor read."""

from __future__ import annotations

from typing import Literal

from kfjax import pipeline
from kfjax.data.batches import FeatureInput, SyntheticInput
from kfjax.data.encode import marks_of
from kfjax.data.shards.marks import PARTS, Marks
from kfjax.train.engine.validation import Figures, Validation
from kfjax.train.tasks.flow.config import FlowData, FlowRun
from kfjax.train.tasks.flow.step import flow_figures, lacking
from kfjax.train.tasks.inputs import TrainingData, make_buckets
from kfjax.train.tasks.weights import is_folder


def material(run: FlowRun, figures: Figures | None = None) -> TrainingData:
    """Batches of `data.corpora`, or random ones, and the validation on `data.validation`.

    Args:
      figures: of the validation; default: the flow step's.

    Raises:
      ValueError: settings that need scenes; features that are not there or of other encoders.
    """
    data, buckets = run.data, make_buckets(run)
    if (stereo := run.task == "stereo" or bool(run.step.stereo_weight)) and run.system.codec.stereo is None:
        raise ValueError(f"config.step.stereo_weight: got {run.step.stereo_weight}, but the system has no Mono2Stereo; "
                         "set it to 0, or train one for it with task=stereo")  # fmt: skip
    if wrong := lacking(run.step):
        advice = "unset, or train on scenes (data.folder, no data.corpora)"
        raise ValueError(f"config: got extracted features to train on, but {', '.join(wrong)}; {advice}")
    if data.heldout:
        raise ValueError(
            f"config.data.heldout: got {data.heldout} with extracted features, expected none, since a "
            "panel needs encoders; leave it empty, and give held-out features as data.validation"
        )
    if data.synthetic:
        return TrainingData(SyntheticInput(run.system, buckets, seed=run.loop.seed, stereo=stereo))
    mark = data.fingerprint or _start_marks(data)
    options = {"seed": run.loop.seed, "stereo": stereo}
    batches = FeatureInput(run.system, data.corpora, buckets, fingerprint=mark, joined=data.joined, **options)
    if not data.validation:
        return TrainingData(batches)
    held = FeatureInput(run.system, data.validation, buckets, fingerprint=batches.marks, **options)
    look = Validation(figures or flow_figures(run.system, run.step), held, data.validation_batches)
    return TrainingData(batches, validate=look)


def _start_marks(data: FlowData) -> Marks | Literal[""]:
    """Of the encoders of the model `data.start`, and the codec in its slot; "" where it is none."""
    return marks_of(pipeline.load_system(data.start, PARTS, data.codec)) if is_folder(data.start) else ""
