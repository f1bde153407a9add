"""An evaluation from its request to results.json: generated sounds against true ones, by the measures of the field.

A model first generates what is not there yet; a folder of sounds is measured as it is. results.json is the same for the
same sounds, to the digit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from kfjax import __version__, command, media, pipeline, rates, system
from kfjax.convert import hub
from kfjax.data.extract import share
from kfjax.data.shards import records
from kfjax.evals import benchmarks, generation, measures, report, shards
from kfjax.evals.benchmarks import BENCHMARKS, Benchmark, BenchmarkExample, Matching, SceneExample
from kfjax.evals.measures import SAMPLE_RATE_HZ, Pair, Score
from kfjax.evals.shards import ClipFigures
from kfjax.scenes.evaluation import SceneProtocol, classifier_file, classifier_for
from kfjax.scenes.scores import Synchrony, correlations, listen, meanings, struck_times, synchronies
from kfjax.scenes.sounds import SceneSounds
from kfjax.scenes.source_classifier import SourceClassifier
from kfjax.storage import disk
from kfjax.system import SystemConfig

#: Groups of measures that need the scenes' ground truth.
OF_SCENES = ("scenes", "meaning")
#: Folders of the output: sounds that a model has made, and figures of shards.
GENERATED, MEASURED = "generated", "measured"
#: Edge of the scenes' frames, unless the model's encoders need another.
_SCENE_SIZE = 64


@dataclass(frozen=True)
class EvaluationRequest:
    """The arguments of `kfjax evaluate`; `weights` and `output` may be in a bucket."""

    target: str
    benchmark: str
    output: Path
    references: Path | None = None
    manual_dir: Path | None = None
    metrics: tuple[str, ...] | None = None
    weights: Path | None = None
    limit: int | None = None
    seconds: float | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    pictures: int = 3
    process: str = "0/1"


def evaluate(request: EvaluationRequest) -> dict[str, Any]:
    """Generate if need be, measure, and write results.json, report.md, files.csv and pictures into `request.output`.

    Of several processes each makes and measures its shards; the one that finds all of them measured writes the results.
    Where the output is in a bucket, each has the files that it needs on its disk, and uploads what it made after every
    shard.

    Returns:
      What results.json holds; nothing while shards are missing.

    Raises:
      ValueError: no such target, benchmark or group; no clip with both sounds.
    """
    if disk.in_bucket(request.output):
        request.output.check_bucket()
    with disk.Staged(request.output) as staged:
        try:
            return _evaluated(replace(request, output=staged.folder), staged)
        except ValueError as error:
            if (here := str(staged.folder)) == str(request.output) or here not in str(error):
                raise
            raise ValueError(str(error).replace(here, str(request.output))) from error


def _evaluated(request: EvaluationRequest, staged: disk.Staged) -> dict[str, Any]:
    """In the folder of `staged`, which `request.output` is."""
    number, processes = share(request.process)
    benchmark, groups = _benchmark(request), chosen_groups(request)
    examples, beyond = _examples(request, benchmark, modelled := _is_model(request.target))
    folder, cfg, failed, made = Path(request.target), None, [], None
    mine = [example for clips in shards.cut(examples)[number::processes] for example in clips]
    if modelled:
        folder = request.output / GENERATED
        own = {generation.NOTE, *(f"{example.name}.wav" for example in mine)}
        staged.pull_all(lambda name: name.removeprefix(f"{GENERATED}/") in own)
        settings = generation.Settings(request.target, request.seed, request.steps, request.guidance)
        cfg, failed = generation.generate(settings, mine, folder, staged.push)
        made = records.read_json(folder / generation.NOTE)
    if modelled:
        matching = _own_sounds(examples, beyond, folder, set(disk.sizes(request.output)))
    else:
        matching = benchmarks.match(examples, folder, beyond=beyond)
    staged.pull_all(lambda name: name.startswith(f"{MEASURED}/"))
    work = shards.Shards(
        request.output / MEASURED, examples, [group for group in groups if group not in OF_SCENES],
        request.weights or pipeline.cache_folder() / "metrics", matching.pairs, made,
    )  # fmt: skip
    for k in range(number, len(work.clips), processes):
        work.measure(k, failed)
        staged.push()
    staged.pull_all(lambda name: name.startswith(f"{MEASURED}/"))
    if missing := work.missing():
        told = "by other processes or another run"
        command.say(f"{missing} of {len(work.clips)} shards are still to be measured, {told}")
        return {}
    if modelled:  # those of other processes too
        matching = _own_sounds(examples, beyond, folder, staged.names())
    protocol = _protocol(request, benchmark, len(examples), cfg)
    return _write(request, groups, cfg.name if cfg else folder.name, protocol, matching, work.joined(), staged)


def _write(
    request: EvaluationRequest, groups: Sequence[str], target: str, protocol: Mapping[str, Any], matching: Matching,
    measured: ClipFigures, staged: disk.Staged,
) -> dict[str, Any]:  # fmt: skip
    """The results of all clips and what is drawn of them. Of sounds in a bucket only those are fetched."""
    own = measured.figures()
    pairs = [pair for pair in matching.pairs if pair[0].name in own]
    if not pairs:
        if not matching.pairs:
            raise ValueError(
                f"{request.target}: no clip could be given a sound ({measured.unreadable[0]}); mend the clips"
            )
        why = measured.unreadable[0]
        raise ValueError(f"{request.target}: got no clip whose two sounds can be read ({why}); mend or remake them")
    results = {
        "target": target, "key": request.benchmark,
        "protocol": {**protocol, "networks": ", ".join(measured.networks.values()) or "none"},
        "matching": _account(matching, pairs, measured.unreadable), "scores": measured.scores(),
        "unavailable": measured.unavailable,
    }  # fmt: skip

    def fetch(pairs: Sequence[Pair]) -> None:
        files = {path for _, path in pairs}
        staged.pull_all(lambda name: staged.folder / name in files)

    if set(groups) & set(OF_SCENES):
        fetch(pairs)
        results["scenes"] = scene_figures(pairs, built_in_classifier() if "meaning" in groups else None)
    results = plain(results)
    records.write_json(request.output / "results.json", results)
    shown = report.drawn(pairs, own, request.pictures)
    fetch([*shown.alone, *shown.together])
    report.write(request.output, results, own, report.pictures(request.output / "pictures", shown))
    return results


def chosen_groups(request: EvaluationRequest) -> list[str]:
    """The groups of measures asked for; all that the benchmark has by default.

    Raises:
      ValueError: one that is none, or that this benchmark does not have.
    """
    known = [*measures.OWN, *measures.NETWORKS, *(OF_SCENES if request.benchmark == "scenes" else ())]
    if request.metrics is None:
        return known
    unknown = [name for name in request.metrics if name not in known]
    if unknown or not request.metrics:
        got = unknown[0] if unknown else "nothing"
        raise ValueError(f"--metrics: got {got}, expected some of {', '.join(known)}")
    return [name for name in known if name in request.metrics]


def scene_figures(pairs: Sequence[Pair], classifier: SourceClassifier | None) -> dict[str, Any]:
    """The scores of `kfjax.scenes.scores`: of generated sound, ceiling (true sound) and floor (the next scene's)."""
    scenes = [example.scene for example, _ in pairs if isinstance(example, SceneExample)]
    hear = lambda waves: listen(waves, scenes, SAMPLE_RATE_HZ, classifier)
    made = hear(media.read_audio(path, SAMPLE_RATE_HZ)[: len(example.sound(SAMPLE_RATE_HZ))] for example, path in pairs)
    true = hear(example.sound(SAMPLE_RATE_HZ) for example, _ in pairs)
    heard = {"generated": made, "ceiling": true}
    figures: dict[str, Any] = {"space": correlations(heard, "generated")}
    if any(struck_times(scene) for scene in scenes):
        figures |= _struck(synchronies(heard, scenes, "generated"))
    if classifier is not None and any(len(scene.sources) == 1 for scene in scenes):
        figures["meaning"] = {kind: own.accuracy for kind, own in meanings(heard, scenes, "generated").items()}
    return figures


def built_in_classifier() -> SourceClassifier:
    """The source classifier, trained on true sounds and on the built-in codec's reconstructions; kept in the cache."""
    loaded, plan = system.load(pipeline.BUILT_IN), SceneProtocol()
    codec = {name: loaded.params[name] for name in ("vae", "vocoder")}
    file = classifier_file(pipeline.cache_folder() / "scenes", plan, codec)
    if not file.exists():
        command.say(f"the source classifier listens to {plan.classifier_clips} sounds, once: minutes")
    return classifier_for(SceneSounds(loaded), plan, file)


def plain(value: Any) -> Any:
    """For JSON: named tuples as dicts, numbers to four decimals, what is not finite as null."""
    if isinstance(value, tuple) and (fields := getattr(value, "_asdict", None)):
        value = fields()
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return round(float(value), 4) if math.isfinite(value) else None
    return value


def _benchmark(request: EvaluationRequest) -> Benchmark:
    if request.benchmark not in BENCHMARKS:
        raise ValueError(f"--benchmark: got {request.benchmark!r}, expected one of {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[request.benchmark]
    if request.benchmark == "folder" and request.references is None:
        raise ValueError("--benchmark folder: got no --references; give the folder or table with the true clips")
    if request.seconds is None:
        return benchmark
    rates.check_seconds(request.seconds)
    return replace(benchmark, seconds=request.seconds)


def _is_model(target: str) -> bool:
    """Whether sounds are to be generated. Raises ValueError for what is neither a model nor a folder of sounds."""
    folder = disk.path(target)
    if target == "built-in" or (folder / system.CONFIG).is_file():
        return True
    if disk.in_bucket(folder):
        raise ValueError(
            f"got {target}, expected a model directory there (with {system.CONFIG}); sounds belong on a disk"
        )
    if folder.is_dir():
        return False
    if target in hub.MODELS:
        return True
    raise ValueError(f"got {target}, expected a folder of generated sounds, or a model: {hub.no_model(target)}")


def _examples(
    request: EvaluationRequest, benchmark: Benchmark, modelled: bool
) -> tuple[Sequence[BenchmarkExample], Sequence[BenchmarkExample]]:
    """The clips to measure, and those of the benchmark beyond the limit."""
    if request.benchmark == "scenes":
        count, size = request.limit or benchmark.clips, _SCENE_SIZE
        assert count is not None  # this benchmark has a default
        if modelled:
            size = pipeline.config_of(request.target).sync.size
        own = pipeline.cache_folder() / "scenes" / f"heldout-{count}x{benchmark.seconds:g}-{size}"
        place = command.local_path(str(request.references or own))
        return benchmarks.scene_examples(place, count, benchmark.seconds, size), []
    if request.references is not None:
        if request.manual_dir is not None:
            raise ValueError("got --references and --manual-dir, expected one of them; leave one out")
        rows = benchmarks.references(request.references)
    else:
        from kfjax.data import builders

        rows = builders.read_rows(benchmark.corpus, benchmark.split, manual_dir=request.manual_dir)
    examples = benchmarks.file_examples(rows, benchmark.seconds)
    return examples[: request.limit], examples[request.limit :] if request.limit else []


def _own_sounds(
    examples: Sequence[BenchmarkExample], beyond: Sequence[BenchmarkExample], folder: Path, names: Collection[str]
) -> Matching:
    """The clips that a model made a sound for. There may be none, if it can't be given any.

    Args:
      folder: of the sounds, which need not be there yet.
      names: of all files of the output, relative to it.
    """
    sounds = {path.name for path in map(PurePosixPath, names) if path.parts[0] == GENERATED and path.suffix == ".wav"}
    file = lambda example: f"{example.name}.wav"
    pairs = [(example, folder / file(example)) for example in examples if file(example) in sounds]
    missing = [example.name for example in examples if file(example) not in sounds]
    return Matching(pairs, missing, sorted(sounds - {*map(file, examples), *map(file, beyond)}))


def _protocol(request: EvaluationRequest, benchmark: Benchmark, clips: int, cfg: SystemConfig | None) -> dict[str, Any]:
    """What is needed to reproduce the figures. `cfg` is of the model that generated; None: elsewhere."""
    protocol = {
        "benchmark": benchmark.title, "clips": clips, "seconds_of_each": benchmark.seconds,
        "sample_rate": f"{SAMPLE_RATE_HZ} Hz, stereo; networks hear mono at their own",
    }  # fmt: skip
    if cfg is None:
        return protocol | {"generated": "elsewhere", "kfjax": __version__}
    steps, guidance = request.steps, request.guidance
    return protocol | {
        "generated_from": benchmark.says, "seed": request.seed,
        "steps": cfg.defaults.steps if steps is None else steps,
        "guidance": cfg.defaults.guidance if guidance is None else guidance, "kfjax": __version__,
    }  # fmt: skip


def _account(matching: Matching, pairs: Sequence[Pair], unreadable: Sequence[str]) -> dict[str, Any]:
    """Counts and names: measured, missing, unreadable. A clip whose generation failed is unreadable, not missing."""
    said = {line.partition(":")[0] for line in unreadable}
    return {
        "measured": len(pairs), "missing": [name for name in matching.missing if name not in said],
        "extra": matching.extra, "unreadable": list(unreadable),
    }  # fmt: skip


def _struck(made: Mapping[str, Synchrony]) -> dict[str, Any]:
    """Synchrony over the scenes with impacts, overall and by recipe."""
    return {
        # Population to sample standard error.
        "synchrony": {kind: Score(own.f1, own.error * _sampled(own.scenes), own.scenes) for kind, own in made.items()},
        "pooled": {kind: own.pooled for kind, own in made.items()},
        "recipes": {name: {kind: own.recipes[name][0] for kind, own in made.items()} | {"scenes": count}
                    for name, (_, count) in made["ceiling"].recipes.items()},
    }  # fmt: skip


def _sampled(count: int) -> float:
    return math.sqrt(count / (count - 1)) if count > 1 else math.nan
