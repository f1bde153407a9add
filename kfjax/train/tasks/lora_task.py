"""LoRA as a task: the frozen parts, what trains beside them, and the model directory that a run leaves."""

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
from kfjax.train.tasks.lora import card, init_lora, save_tuned


def lora_task(task: Task, frozen: Params, run: FlowRun, tokenizer: Tokenizer | None) -> Task:
    """`task` with LoRA on the frozen network; exports lora.safetensors, and ema.safetensors with it merged in.

    Where it started from a model directory it leaves one, `model`, with the merged parts, the tokenizer and a card.

    Args:
      tokenizer: that reads the captions, with the words that are learnt; None where captions come encoded.
    """
    system, step, start, free = run.system, run.step, run.data.start, free_rows(run)
    whole = lambda params: {name: merged(params, step)[name] for name in frozen}

    def init(key: jax.Array) -> Params:
        words = {"words": frozen["text"]["embed"]["embedding"][-free:]} if free else {}
        return jax.tree.map(jnp.asarray, frozen | words) | {"lora": init_lora(frozen["mmdit"], step.lora, key)}

    def export(ema: Params, workdir: Path) -> None:
        new, tuned = trained(ema, step), whole(ema)
        save_params(workdir / "lora.safetensors", new.pop("lora") | new)
        save_params(workdir / "ema.safetensors", tuned)
        if Path(start).is_dir():
            added = tokenizer.words(system.text.vocab - free) if tokenizer and free else []
            parts = {name: tuned[name] for name in ("mmdit", *(("text",) if added else ()))}
            about = card(system.name, _settings(run), added)
            save_tuned(start, workdir / "model", parts, card=about, tokenizer=tokenizer if added else None)

    panel = task.panel
    look = panel and (lambda ema, number, folder: panel(whole(ema), number, folder))
    return task._replace(init=init, panel=look, export=export)


def reading_tokenizer(run: FlowRun, captions: Sequence[str]) -> Tokenizer:
    """The tokenizer of encoders that do not train, with the words of the captions that LoRA learns.

    Prints the new words, and which words of the captions remain outside the vocabulary.
    """
    known, free = _tokenizer(run), free_rows(run)
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
    tokenizer = _tokenizer(run)
    return max(0, text.vocab - tokenizer.vocab) if tokenizer.of_words else 0


def _tokenizer(run: FlowRun) -> Tokenizer:
    return Tokenizer.load(run.data.tokenizer or Path(run.data.start, TOKENIZER), run.system.text_tokens)


def _settings(run: FlowRun) -> dict[str, object]:
    """Those that a model's card names; of paths the names alone."""
    data, lora = run.data, run.step.lora
    trained_on = ", ".join(Path(folder).name for folder, _ in data.corpora) or Path(data.folder).name
    return {
        "trained on": trained_on, "loop.steps": run.loop.steps, "optim.learning_rate": run.optim.learning_rate,
        "step.lora.rank": lora.rank, "step.lora.alpha": lora.alpha, "step.lora.targets": ", ".join(lora.targets),
    }  # fmt: skip
