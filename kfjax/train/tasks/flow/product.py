"""What a run of the generator, or of Mono2Stereo, gives to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from kfjax.encoders.tokenizer import Tokenizer
from kfjax.nn.module import Params
from kfjax.scenes import Corpus
from kfjax.scenes.batches import captions
from kfjax.system import ENCODERS, SystemConfig
from kfjax.train.tasks.flow import step as flow_step
from kfjax.train.tasks.flow.config import FlowRun
from kfjax.train.tasks.lora import merge, with_words
from kfjax.train.tasks.lora_task import free_rows, known_tokenizer
from kfjax.train.tasks.model_directory import Made, Product, in_codec, is_model, names, rows


def product(run: FlowRun, weights: Mapping[str, Params]) -> Product:
    """Of a run of either task; on features the encoders are those that made them."""
    data, lora, stereo = run.data, run.step.lora, run.task == "stereo"
    free = free_rows(run) if not stereo else 0
    trained = ("stereo",) if stereo else flow_step.trained_parts(run.step)
    named = dict.fromkeys(ENCODERS, data.encoders) | {"vae": data.vae, "vocoder": data.vocoder}
    given = Product(
        made={name: partial(weights.__getitem__, name) for name in run.system.names if name in weights},
        trained=trained,
        system=partial(_system, run, "stereo" in trained),
        card=rows(_trained_on(run), run.loop, run.optim),
        start=data.start,
        places={} if data.extracted else named,
        features=[str(folder) for folder, _ in data.corpora],
        codec=data.codec,
        tokenizer=partial(_tokenizer, run, free),
    )
    if stereo or not lora.rank:
        return given
    card = {"step.lora.rank": lora.rank, "step.lora.alpha": lora.alpha, "step.lora.targets": ", ".join(lora.targets)}
    return given._replace(
        made=_with_lora(run, weights, given.made),
        trained=("text", "mmdit"),
        card={**given.card, **card},
        first_word=run.system.text.vocab - free if free else None,
        as_parent=True,
    )


def _with_lora(run: FlowRun, weights: Mapping[str, Params], made: Made) -> Made:
    merged = made | {"mmdit": lambda: merge(weights["mmdit"], weights["lora"], run.step.lora)}
    if "words" in weights:
        return merged | {"text": lambda: with_words(weights["text"], cast(Any, weights["words"]))}
    if is_model(run.data.start):
        merged.pop("text", None)
    return merged


def _system(run: FlowRun, stereo: bool, before: SystemConfig | None) -> SystemConfig | None:
    """The run's own; of features, whose encoders and codec are a parent's, the parent's with what was trained.

    Args:
      stereo: Mono2Stereo was trained.
    """
    if before is None:
        return run.system
    switches = {name: getattr(before.mmdit, name, False) for name in ("remat", "unroll")}  # of training alone
    own = replace(run.system, mmdit=replace(run.system.mmdit, **switches))
    if not run.data.extracted or (is_model(run.data.start) and run.task == "flow"):
        return own
    codec = {"stereo": own.codec.stereo} if stereo else {}
    whole = in_codec(before, own.codec.mel, **codec)
    if whole is None or run.task == "stereo":
        return whole
    return replace(whole, mmdit=own.mmdit, name=own.name, known_as=own.known_as, defaults=own.defaults)


def _tokenizer(run: FlowRun, free: int) -> Tokenizer | None:
    """Of the captions: with the words that LoRA learnt; None where the run has none of its own."""
    if free:
        return known_tokenizer(run).extended(captions(Corpus(run.data.folder)), free)
    if run.data.extracted or not Path(run.data.tokenizer).is_file():
        return None
    return Tokenizer.load(run.data.tokenizer, run.system.text_tokens)


def _trained_on(run: FlowRun) -> str:
    """Names of its corpora."""
    if run.data.synthetic:
        return "random features"
    return names(run.data.corpora) or Path(run.data.folder).name
