"""A flow run on rendered scenes: their latents, tokens and frames in batches, and the held-out ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kfjax.data.buckets import Buckets
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.nn.module import Params
from kfjax.scenes import Corpus
from kfjax.scenes.batches import SceneInput, captions, tokenizer_from
from kfjax.scenes.encode import encode_corpus
from kfjax.scenes.panel import flow_panel
from kfjax.storage.checkpoint import weights_fingerprint
from kfjax.structs import FlowBatch
from kfjax.system import part_shapes
from kfjax.train.engine.validation import Figures, Validation
from kfjax.train.tasks.flow.config import FlowRun
from kfjax.train.tasks.flow.step import flow_figures
from kfjax.train.tasks.inputs import TrainingData, make_buckets
from kfjax.train.tasks.lora_task import reading_tokenizer
from kfjax.train.tasks.weights import read_part


def material(run: FlowRun) -> TrainingData:
    """Batches of `data.folder`, whose latents are encoded where they are not yet; with `data.heldout` also panel and
    validation.

    Raises:
      ValueError: scenes or weights that are not there or do not fit.
    """
    data, system, corpus = run.data, run.system, Corpus(run.data.folder)
    paths = {"vae": data.vae or data.start}
    if data.heldout:  # the panel alone decodes to sound
        paths["vocoder"] = data.vocoder or data.start
    expected = part_shapes(system, *paths)
    codec = {name: read_part(path, name, expected[name]) for name, path in paths.items()}
    encode_corpus(corpus, system.codec, codec["vae"], system.rates)
    if run.step.train_encoders:
        tokenizer = tokenizer_from(corpus, system.text_tokens, Path(data.tokenizer))
    else:
        tokenizer = reading_tokenizer(run, captions(corpus))
    options = {"duration_jitter": data.duration_jitter, "joined": data.joined, "emphasis": dict(data.emphasis)}
    told = not run.step.train_encoders  # by `reading_tokenizer`
    batches = scene_input(run, tokenizer, corpus, codec["vae"], make_buckets(run), told=told, **options)
    if not data.heldout:
        return TrainingData(batches, tokenizer)
    panel = flow_panel(system, tokenizer, codec, Corpus(data.heldout), **asdict(run.panel))
    look = held_out(run, tokenizer, codec["vae"], flow_figures(system, run.step))
    return TrainingData(batches, tokenizer, panel, look)


def held_out(run: FlowRun, tokenizer: Tokenizer, vae: Params, figures: Figures) -> Validation:
    """`figures` of the scenes of `data.heldout`: not mirrored, conditioned on their true durations."""
    corpus = Corpus(run.data.heldout)
    encode_corpus(corpus, run.system.codec, vae, run.system.rates)
    batches = scene_input(run, tokenizer, corpus, vae, make_buckets(run, corpus.buckets), flip=False)
    return Validation(figures, batches, run.data.validation_batches)


def scene_input(
    run: FlowRun, tokenizer: Tokenizer, corpus: Corpus, vae: Params, buckets: Buckets, **options: Any
) -> Callable[[int], FlowBatch]:
    """step -> `FlowBatch` of an encoded corpus; `options` of `SceneInput`."""
    mark = weights_fingerprint(vae)
    batches = SceneInput(run.system, tokenizer, corpus, buckets, seed=run.loop.seed, fingerprint=mark, **options)
    return lambda step: FlowBatch(*batches(step))
