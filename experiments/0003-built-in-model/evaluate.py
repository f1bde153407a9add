"""What the built-in model can do, on scenes it never saw: every figure beside its ceiling and its floor.

    python -m experiments 0003/evaluate kfjax/assets/model --output results.json \
        --wavs speech.wav music.wav

Held-out scenes are rendered once into a folder, and so is the classifier of sources; run again, they are read back.
--quick takes a tenth of everything: enough to see where a training stands.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace
from pathlib import Path

from experiments.harness import held_out, made, markdown, plain, write_json
from kfjax import media, pipeline, system
from kfjax.scenes.evaluation import MEASURES, Evaluation, SceneProtocol, classifier_file
from kfjax.scenes.sounds import SceneSounds

COLUMNS = ("video and caption", "video", "caption", "floor", "ceiling", "codec ceiling")


def arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", type=Path, help="model directory")
    add("--scenes", type=int, default=200)
    add("--seconds", type=float, default=8.0)
    add("--steps", type=int, help="of sampling; default: the model's")
    add("--guidance", type=float, help="default: the model's")
    add("--negative", type=float, help="scale of negative prompts; default: the model's")
    add("--seed", type=int, default=0, help="of the noise")
    add("--quick", action="store_true", help="a tenth of everything")
    add("--only", default=",".join(MEASURES), help="measures, separated by commas (default: %(default)s)")
    add("--corpus", type=Path, help="folder of held-out scenes; rendered if missing (default: runs/heldout-…)")
    add("--wavs", type=Path, nargs="*", default=[], help="recordings for the codec, 10 s of each")
    add("--output", type=Path, default=Path("results.json"))
    args = parser.parse_args(argv)
    args.only = tuple(name for name in MEASURES if name in args.only.split(","))
    if not args.only:
        parser.error(f"--only: expected some of {', '.join(MEASURES)}")
    return args


def plan_of(args: argparse.Namespace):
    plan = SceneProtocol(scenes=args.scenes, seconds=args.seconds)
    if not args.quick:
        return plan
    share = lambda count: max(1, count // 10)
    tenths = {name: share(getattr(plan, name)) for name in ("scenes", "other_scenes", "codec_scenes", "pairs")}
    return replace(plan, classifier_clips=4 * share(plan.classifier_clips), **tenths)


def recordings(paths: list[Path], sample_rate_hz: int):
    return {path.stem: media.read_audio(path, sample_rate_hz, 1, duration_seconds=10.0)[:, 0] for path in paths}


def main(argv=None) -> dict:
    args = arguments(argv)
    pipeline.use_program_cache()
    start, plan, model = time.monotonic(), plan_of(args), system.load(args.model)
    sounds = SceneSounds(model, steps=args.steps, guidance=args.guidance, negative=args.negative, seed=args.seed)
    corpus = held_out(args.corpus, plan, model.cfg.sync.size)
    folder = next(iter(corpus.buckets.values())).folder.parent
    classifier = classifier_file(folder, plan, {name: model.params[name] for name in ("vae", "vocoder")})
    evaluation = Evaluation(sounds, corpus, plan, classifier, classifies=bool({"meaning", "negative"} & set(args.only)))
    settings = {name: getattr(sounds, name) for name in ("steps", "guidance", "negative")}
    settings |= {"scenes": len(evaluation.scenes), "seconds": plan.seconds, "seed": args.seed}
    results = {"made": made(), "settings": {"model": model.cfg.name} | settings}
    for name in args.only:
        extra = (recordings(args.wavs, evaluation.rate),) if name == "codec" else ()
        results[name] = plain(getattr(evaluation, name)(*extra))
        print(table(name, results[name]), flush=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        results["cost"] = {
            "seconds": round(time.monotonic() - start),
            "cpu_seconds": round(time.process_time()),
            "peak_gib": round(peak, 2),
            **evaluation.cost,
        }
        write_json(args.output, results)
    print(f"{results['cost']['seconds']} s, at most {results['cost']['peak_gib']} GiB; {args.output}")
    return results


def table(measure: str, result: dict) -> str:
    """One measure as a Markdown table."""
    return "\n".join(["", f"### {measure}", "", *TABLES[measure](result)])


def _synchrony(result: dict) -> list[str]:
    kinds = [kind for kind in COLUMNS if kind in result]
    named = ("pooled", "precision", "recall", "scenes")
    total = [[kind, _f1(result[kind]), *(result[kind][name] for name in named)] for kind in kinds]
    recipes = [
        [f"{name} ({n})", *(result[kind]["recipes"][name][0] for kind in kinds)]
        for name, (_, n) in result["ceiling"]["recipes"].items()
    ]
    share = f"{100 * result['share of ceiling']:.1f} % of the ceiling."
    whole = markdown(["onsets within ±50 ms", "mean F1", "pooled F1", *named[1:]], total)
    return [*whole, "", share, "", *markdown(["mean F1 of", *kinds], recipes)]


def _f1(own: dict) -> str:
    return f"{own['f1']:.3f} ± {own['error']:.3f}"


def _meaning(result: dict) -> list[str]:
    kinds = [kind for kind in COLUMNS if kind in result]
    body = [[f"all ({result['ceiling']['sounds']})", *(result[kind]["accuracy"] for kind in kinds)]]
    body += [[source, *(result[kind]["sources"][source] for kind in kinds)] for source in result["ceiling"]["sources"]]
    wrong = [
        f"- {kind}: " + ", ".join(f"{pair} {n}" for pair, n in list(result[kind]["confusions"].items())[:6])
        for kind in kinds
        if result[kind]["confusions"] and kind != "floor"
    ]
    return [*markdown(["right source", *kinds], body), "", "Most frequent mistakes (true > heard):", "", *wrong]


def _negative(result: dict) -> list[str]:
    columns = ("named, without", "named, with", "other, without", "other, with")
    body = [
        [f"{name}, {what} ({score[columns[0]]['sounds']})", *(score[column][key] for column in columns)]
        for name, score in result.items()
        for what, key in (("present", "rate"), ("probability", "probability"))
    ]
    return markdown(["source", *columns], body)


def _space(result: dict) -> list[str]:
    return markdown(["level difference against position", *result], [["correlation", *result.values()]])


def _length(result: dict) -> list[str]:
    named = ("pooled", "ceiling", "relative", "scenes")
    body = [
        [f"{seconds} s", own["samples"], _f1(own), *(own[name] for name in named)]
        for seconds, own in sorted(result.items(), key=lambda item: float(item[0]))
    ]
    return markdown(["length", "samples", "mean F1", "pooled F1", *named[1:]], body)


def _codec(result: dict) -> list[str]:
    ways = list(next(iter(result.values())))
    both = lambda score: f"{score['mel_l1']:.3f} / {score['stft']:.3f}"
    body = [[f"{name} ({own[ways[0]]['sounds']})", *(both(own[way]) for way in ways)] for name, own in result.items()]
    return markdown(["mel L1 / STFT distance", *ways], body)


TABLES = {
    "synchrony": _synchrony, "meaning": _meaning, "negative": _negative, "space": _space, "length": _length,
    "codec": _codec,
}  # fmt: skip
