"""LoRA as a task: the frozen parts, what trains beside them, and the model directory that a run leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from kfjax.checkpoint import save_params
from kfjax.command import say
from kfjax.encoders.configs import T5Config
from kfjax.encoders.tokenizer import MOST_LISTED, Tokenizer
from kfjax.module import Params
from kfjax.system import TOKENIZER, SystemConfig
from kfjax.train.engine.loop import Task
from kfjax.train.tasks.flow_step import FlowStepConfig, merged, trained
from kfjax.train.tasks.lora import card, init_lora, save_tuned


def lora_task(
    task: Task,
    frozen: Params,
    config: ConfigDict,
    system: SystemConfig,
    step: FlowStepConfig,
    tokenizer: Tokenizer | None,
) -> Task:
    """`task` with LoRA on the frozen network; exports lora.safetensors, and ema.safetensors with it merged in.

    Where it started from a model directory it leaves one, `model`, with the merged parts, the tokenizer and a card.

    Args:
      tokenizer: that reads the captions, with the words that are learnt; None where captions come encoded.
    """
    start, free = config.data.start, free_rows(config, system, step)
    whole = lambda params: {name: merged(params, step)[name] for name in frozen}

    def init(key: jax.Array) -> Params:
        words = {"words": frozen["text"]["embed"]["embedding"][-free:]} if free else {}
        return jax.tree.map(jnp.asarray, frozen | words) | {"lora": init_lora(frozen["mmdit"], step.lora, key)}

    def export(ema: Params, workdir: Path) -> None:
        new, tuned = trained(ema, step), whole(ema)
        save_params(workdir / "lora.safetensors", new.pop("lora") | new)
        save_params(workdir / "ema.safetensors", tuned)
        if Path(start).is_dir():
            added = tokenizer.words(system.text.vocab - free) if free else []
            parts = {name: tuned[name] for name in ("mmdit", *(("text",) if added else ()))}
            save_tuned(start, workdir / "model", parts, card=card(system.name, _settings(config), added),
                       tokenizer=tokenizer if added else None)  # fmt: skip

    look = task.panel and (lambda ema, number, folder: task.panel(whole(ema), number, folder))
    return task._replace(init=init, panel=look, export=export)


def reading_tokenizer(
    config: ConfigDict, system: SystemConfig, step: FlowStepConfig, captions: Sequence[str]
) -> Tokenizer:
    """The tokenizer of encoders that do not train, with the words of the captions that LoRA learns.

    Says which these are, and what of the captions stays unread.
    """
    known, free = _tokenizer(config, system), free_rows(config, system, step)
    tokenizer = known.extended(captions, free)
    if learnt := tokenizer.words(known.vocab):
        shown = ", ".join(learnt[:MOST_LISTED]) + (", …" if len(learnt) > MOST_LISTED else "")
        say(f"words that are new to the model, and learnt: {len(learnt)} ({shown})")
    if lost := tokenizer.unread_captions(captions):
        advice = ""
        if step.lora.rank and tokenizer.of_words and any(tokenizer.unread(caption).unknown for caption in captions):
            full = f"all {system.text.vocab} rows of the text encoder's table are taken"
            advice = f"; {full if step.lora.words else 'step.lora.words=True learns words'}"
        say(f"not read: {lost}{advice}")
    return tokenizer


def free_rows(config: ConfigDict, system: SystemConfig, step: FlowStepConfig) -> int:
    """Last rows of the text encoder's table, which LoRA may give to new words; 0 where none are learnt.

    Extracted features hold captions as they were encoded: their words can't be learnt any more.
    """
    if not (step.lora.rank and step.lora.words) or config.data.synthetic or config.data.corpora:
        return 0
    if not isinstance(system.text, T5Config):
        return 0
    tokenizer = _tokenizer(config, system)
    return max(0, system.text.vocab - tokenizer.vocab) if tokenizer.of_words else 0


def _tokenizer(config: ConfigDict, system: SystemConfig) -> Tokenizer:
    return Tokenizer.load(config.data.tokenizer or Path(config.data.start, TOKENIZER), system.text_tokens)


def _settings(config: ConfigDict) -> dict[str, object]:
    """Those that a model's card names; of paths the names alone."""
    data, lora = config.data, config.step.lora
    trained_on = ", ".join(Path(folder).name for folder, _ in data.corpora) or Path(data.folder).name
    return {
        "trained on": trained_on, "loop.steps": config.loop.steps, "optim.learning_rate": config.optim.learning_rate,
        "step.lora.rank": lora.rank, "step.lora.alpha": lora.alpha, "step.lora.targets": ", ".join(lora.targets),
    }  # fmt: skip
