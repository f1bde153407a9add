"""LoRA as a task: the frozen parts, and what trains beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from kfjax.command import say
from kfjax.encoders.configs import T5Config
from kfjax.encoders.tokenizer import MOST_LISTED, Tokenizer
from kfjax.nn.module import Params
from kfjax.storage.checkpoint import save_params
from kfjax.system import TOKENIZER
from kfjax.train.engine.loop import Task
from kfjax.train.tasks.flow.config import FlowRun
from kfjax.train.tasks.flow.step import merged, trained
from kfjax.train.tasks.lora import init_lora
from kfjax.train.tasks.weights import folder_of


def lora_task(task: Task, frozen: Params, run: FlowRun) -> Task:
    """`task` with LoRA on the frozen network; exports lora.safetensors, and ema.safetensors with it merged in."""
    step, free = run.step, free_rows(run)
    whole = lambda params: {name: merged(params, step)[name] for name in frozen}

    def init(key: jax.Array) -> Params:
        words = {"words": frozen["text"]["embed"]["embedding"][-free:]} if free else {}
        return jax.tree.map(jnp.asarray, frozen | words) | {"lora": init_lora(frozen["mmdit"], step.lora, key)}

    def export(ema: Params, workdir: Path) -> None:
        new = trained(ema, step)
        save_params(workdir / "lora.safetensors", new.pop("lora") | new)
        save_params(workdir / "ema.safetensors", whole(ema))

    panel = task.panel
    look = panel and (lambda ema, number, folder: panel(whole(ema), number, folder))
    return task._replace(init=init, panel=look, export=export)


def reading_tokenizer(run: FlowRun, captions: Sequence[str]) -> Tokenizer:
    """The tokenizer of encoders that do not train, with the words of the captions that LoRA learns.

    Prints the new words, and which words of the captions remain outside the vocabulary.
    """
    known, free = known_tokenizer(run), free_rows(run)
    tokenizer = known.extended(captions, free)
    if learnt := tokenizer.words(known.vocab):
        shown = ", ".join(learnt[:MOST_LISTED]) + (", …" if len(learnt) > MOST_LISTED else "")
        say(f"words that are new to the model, and learnt: {len(learnt)} ({shown})")
    if lost := tokenizer.unread_captions(captions):
        advice = ""
        if run.step.lora.rank and tokenizer.of_words and any(tokenizer.unread(caption).unknown for caption in captions):
            full = f"all {run.system.text.vocab} rows of the text encoder's table are taken"
            advice = f"; {full if run.step.lora.words else 'step.lora.words=True learns words'}"
        say(f"not read: {lost}{advice}")
    return tokenizer


def free_rows(run: FlowRun) -> int:
    """Last rows of the text encoder's table, which LoRA may give to new words; 0 where none are learnt.

    Extracted features hold captions as they were encoded: their words can't be learnt any more.
    """
    lora, text = run.step.lora, run.system.text
    if not (lora.rank and lora.words) or run.data.extracted or not isinstance(text, T5Config):
        return 0
    tokenizer = known_tokenizer(run)
    return max(0, text.vocab - tokenizer.vocab) if tokenizer.of_words else 0


def known_tokenizer(run: FlowRun) -> Tokenizer:
    """The tokenizer that the run starts from."""
    return Tokenizer.load(run.data.tokenizer or folder_of(run.data.start) / TOKENIZER, run.system.text_tokens)
