"""The model card: what the model is, what it was trained on, what was measured, what it cannot do."""

from __future__ import annotations

from typing import Any

from experiments.harness import markdown

CARD = """\
# kfjax {name}

Video, a caption or both -> stereo sound at {rate} Hz, {parameters:.1f} million parameters ({parts}), stored as {dtype}.
Of the architecture of Kling-Foley (arXiv:2506.19774), small. Made so that `kfjax generate` works offline and at once;
it is no model for real footage.

## Training

On scenes that `kfjax.scenes` makes, and on nothing else: drawn films of impacts of wood, metal, glass, rubber and
stone, rolling and sliding, footsteps, a clock, a bell, a piano, rain, wind, fire, passing engines, mixtures, silence,
with modal and noise synthesis for sound. No recorded sound, no photographed picture.
Generator: {step} steps{before}{hours}.
Commands: `experiments/0003-built-in-model/retrain.sh`.

## Use

Defaults: {steps} Euler steps, guidance {guidance:g}. Captions like those it was trained on work best: "a wooden ball
bounces on the floor, three knocks", "heavy rain", "a clock ticks fast", "a hammer strikes a glass block".

## Measured

{measured}

## Limits

- It knows the things above, and only as they are drawn there. On real footage it follows motion at most.
- Lengths from 1 to 13 s were trained; longer ones are possible, untested.
- A source that a negative prompt names becomes rarer, it does not always vanish.
- No speech, no singing, no music but single piano notes.

Licence: Apache-2.0, weights included.
"""


def model_card(cfg: Any, facts: dict[str, Any], results: dict[str, Any] | None) -> str:
    """Text of MODEL_CARD.md.

    Args:
      cfg: the `SystemConfig`.
      facts: step, before (steps of the run that it started from), dtype, parameters (part -> count), hours (what was
        trained -> hours).
      results: of evaluate.py, or None while nothing has been measured.
    """
    counts = facts["parameters"]
    hours = ", ".join(f"{name} {own:.1f} h" for name, own in facts["hours"].items() if own)
    return CARD.format(
        name=cfg.name, rate=cfg.rates.sample_rate_hz, parameters=sum(counts.values()) / 1e6,
        parts=", ".join(f"{name} {count / 1e6:.1f}" for name, count in counts.items()),
        dtype=facts["dtype"], step=f"{facts['step']:,}",
        before=f", from weights of {facts['before']:,} steps of an earlier version" if facts["before"] else "",
        hours=f"; on two CPU cores: {hours}" if hours else "",
        steps=cfg.defaults.steps, guidance=cfg.defaults.guidance,
        measured="\n".join(figures(results)) if results else "Not measured yet.",
    )  # fmt: skip


def figures(results: dict[str, Any]) -> list[str]:
    """The main figures as a Markdown table, each beside ceiling and floor."""
    settings, body = results["settings"], []
    measures = ("synchrony", "onset F1 (±50 ms)", "f1"), ("meaning", "right source", "accuracy")
    for kind in ("video and caption", "video", "caption"):
        for measure, words, figure in measures:
            if kind in (own := results.get(measure, {})):
                body.append((f"{words} from {kind}", *(own[k][figure] for k in (kind, "ceiling", "floor"))))
    if own := results.get("space"):
        score = own["video and caption"], own["ceiling"], own["floor"]
        body.append(("level difference of the channels against position, correlation", *score))
    if longest := max(results.get("length", {}), key=float, default=None):
        own = results["length"][longest]
        body.append((f"onset F1 at {longest} s", own["f1"], own["ceiling"], ""))
    for name, own in results.get("negative", {}).items():
        without, with_it = (own[f"named, {how}"]["rate"] for how in ("without", "with"))
        words = f"a source is heard ({name}): without → with a negative prompt that names it"
        body.append((words, f"{without:.2f} → {with_it:.2f}", "", ""))
    intro = (
        f"{settings['scenes']} held-out scenes of {settings['seconds']:g} s, {settings['steps']} steps, guidance "
        f"{settings['guidance']:g}; `python -m experiments 0003/evaluate`."
    )
    return [intro, "", *markdown(["", "generated", "true sound", "another film's"], body)]
