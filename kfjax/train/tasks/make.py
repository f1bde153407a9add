"""From a configuration to a `Task`: what `kfjax train CONFIG` runs.

A configuration is an `ml_collections.ConfigDict` with `task` (codec | vocoder | bigvgan | flow | stereo), `loop`
(`LoopConfig`) and what the task itself reads; every key is checked, none is optional by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kfjax import config as strict
from kfjax import module
from kfjax.checkpoint import load_params, save_params
from kfjax.sharding import training_hangs
from kfjax.train.engine.loop import LoopConfig, Task
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.train.engine.throughput import Work

if TYPE_CHECKING:
    from kfjax.data.buckets import Buckets
    from kfjax.encoders.tokenizer import Tokenizer
    from kfjax.scenes import Corpus
    from kfjax.structs import FlowBatch
    from kfjax.system import SystemConfig
    from kfjax.train.engine.validation import Figures, Validation
    from kfjax.train.tasks.flow_step import FlowStepConfig
    from kfjax.train.tasks.vocoder_step import VocoderTraining


def make_task(config: ConfigDict) -> tuple[Task, LoopConfig]:
    """The task and the loop's settings.

    Raises:
      ValueError: an unknown task or key, data that is not there, or a jax that can't train on these devices.
    """
    if hangs := training_hangs(jax.default_backend()):
        raise ValueError(hangs)
    makers: dict[str, Callable[[ConfigDict, LoopConfig], Task]] = {
        "codec": _codec,
        "vocoder": _vocoder,
        "bigvgan": _bigvgan,
        "flow": _flow,
        "stereo": _stereo,
    }
    if config.task not in makers:
        raise ValueError(f"config.task: got {config.task!r}, expected one of {', '.join(makers)}")
    loop = strict.from_dict(LoopConfig, config.loop.to_dict(), where="config.loop")
    return makers[config.task](config, loop), loop


def abstract_params(config: ConfigDict) -> Any:
    """Shapes of the parameters a configuration trains; allocates nothing and reads no data."""
    if config.task == "codec":
        from kfjax.train.tasks.codec_step import CodecTraining, init_params

        cfg = strict.from_dict(CodecTraining, config.training.to_dict(), where="config.training")
        zeros = np.zeros(cfg.mel.bands, np.float32)
        return jax.eval_shape(lambda: init_params(cfg, jax.random.key(0), (zeros, zeros + 1)))
    if config.task == "vocoder":
        from kfjax.codec.vocoder import Vocoder
        from kfjax.train.tasks.vocoder_step import VocoderTraining

        cfg = strict.from_dict(VocoderTraining, config.training.to_dict(), where="config.training")
        return {"vocoder": module.shapes(Vocoder, cfg.vocoder)}
    if config.task == "bigvgan":
        from kfjax.train.tasks.bigvgan_step import abstract_bigvgan

        return abstract_bigvgan(config)
    from kfjax.train.tasks.flow_step import FlowStepConfig, init_readouts, trained_parts
    from kfjax.train.tasks.lora import init_lora
    from kfjax.train.tasks.lora_task import free_rows

    system = _system(config)
    step = strict.from_dict(FlowStepConfig, config.step.to_dict(), where="config.step")
    if config.task == "stereo":
        return _part_shapes(system, ("stereo",))
    if step.lora.rank:
        network = _part_shapes(system, ("mmdit",))["mmdit"]
        free = free_rows(config, system, step)
        words = {"words": jax.ShapeDtypeStruct((free, system.text.width), np.float32)} if free else {}
        return words | {"lora": jax.eval_shape(lambda: init_lora(network, step.lora, jax.random.key(0)))}
    return _part_shapes(system, trained_parts(step)) | jax.eval_shape(lambda: init_readouts(system, step))


def _part_shapes(system: SystemConfig, names: Iterable[str]) -> module.Params:
    parts = system.parts()
    return {name: module.shapes(*parts[name]) for name in names}


def _system(config: ConfigDict) -> SystemConfig:
    """Of a run that starts from a model directory, that directory's system, with what the config says changed.

    Raises:
      ValueError: nothing to start from where the config says; an unknown key or a bad value.
    """
    from kfjax.system import SystemConfig, load_config

    values, start = config.system.to_dict(), config.data.start
    if start and not Path(start).exists():
        raise ValueError(f"config.data.start: nothing at {start}; expected a model directory or a weights file")
    if _is_folder(start):
        path = Path(start, "config.json")
        if not path.is_file():
            raise ValueError(f"config.data.start: no config.json in {start}; expected a model directory")
        stored = ConfigDict(strict.to_dict(load_config(path)), type_safe=False)
        stored.update(values)
        values = stored.to_dict()
    return strict.from_dict(SystemConfig, values, where="config.system")


def _is_folder(path: str) -> bool:
    return bool(path) and Path(path).is_dir()  # "" is nothing, for pathlib it is the current folder


def _weights(path: str, shapes: module.Params) -> module.Params:
    """Some parts of a model directory, or of a weights file that may hold others too.

    Raises:
      ValueError: no weights there, or weights of other shapes.
    """
    from kfjax.system import load

    stored = load(path).params if _is_folder(path) else load_params(path)
    missing = sorted(shapes.keys() - stored.keys())
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; expected a model directory, or a flow run's weights")
    found = {name: stored[name] for name in shapes}
    got, want = ({path: leaf.shape for path, leaf in module.flatten(tree).items()} for tree in (found, shapes))
    wrong = sorted(name for name in got.keys() | want.keys() if got.get(name, ...) != want.get(name, ...))
    if wrong:
        raise ValueError(f"{path} does not fit config.system: they differ in {', '.join(wrong[:6])}; give its system")
    return found


def _part(path: str, name: str, shapes: module.Params) -> module.Params:
    """One part's weights, from a file of its own or from a model directory."""
    return _weights(path, {name: shapes})[name] if _is_folder(path) else load_params(path, shapes)


def _optim(config: ConfigDict, loop: LoopConfig) -> OptimConfig:
    """A schedule that decays over the run's end must know where the end is."""
    return replace(strict.from_dict(OptimConfig, config.to_dict(), where="config.optim"), total_steps=loop.steps)


def _codec(config: ConfigDict, loop: LoopConfig) -> Task:
    """Mel-VAE by Algorithm 2 on the corpus's sound; exports vae.safetensors with its latent statistics."""
    from kfjax.codec.mel import log_mel
    from kfjax.scenes import Corpus
    from kfjax.scenes.crops import SoundInput
    from kfjax.train.engine.validation import Validation
    from kfjax.train.tasks.codec_step import CodecTraining, codec_figures, codec_task, latent_statistics, mel_statistics

    cfg = strict.from_dict(CodecTraining, config.training.to_dict(), where="config.training")
    cfg = replace(cfg, optim=replace(cfg.optim, total_steps=loop.steps))
    data, size = config.data, config.data.frames * cfg.mel.hop
    sound = lambda folder: SoundInput(Corpus(folder), batch=data.batch, samples=size, seed=loop.seed)
    batch = sound(data.folder)
    mel = jax.jit(lambda wave: log_mel(wave, cfg.mel))
    # Held apart from training batches: steps that no run reaches.
    survey = lambda: (np.asarray(mel(batch(10**9 + i)["wave"])) for i in range(data.survey_batches))

    def export(ema: Any, workdir: Path) -> None:
        gen = ema["gen"]
        mean, std = latent_statistics(gen, cfg.vae, survey())
        save_params(workdir / "vae.safetensors", gen | {"latent_mean": mean, "latent_std": std})

    look = Validation(codec_figures(cfg), sound(data.heldout), data.validation_batches) if data.heldout else None
    return codec_task(cfg, batch, mel_statistics(survey()))._replace(export=export, validate=look)


def _vocoder(config: ConfigDict, loop: LoopConfig) -> Task:
    """The light vocoder; exports vocoder.safetensors. With `data.vae`, fine-tuning on what that VAE decodes."""
    from kfjax.train.tasks.vocoder_step import VocoderTraining, vocoder_task

    cfg = strict.from_dict(VocoderTraining, config.training.to_dict(), where="config.training")
    cfg = replace(cfg, optim=replace(cfg.optim, total_steps=loop.steps))
    return _fine_tuned(cfg, config) if config.data.vae else vocoder_task(cfg, config.data.folder)


def _fine_tuned(cfg: VocoderTraining, config: ConfigDict) -> Task:
    """The vocoder goes on from `data.start`, on the corpus's sound and its mels as the VAE decodes them."""
    from kfjax.codec.vae import MelVAE, VAEConfig
    from kfjax.codec.vocoder import Vocoder
    from kfjax.scenes import Corpus
    from kfjax.scenes.crops import SoundInput
    from kfjax.train.tasks.vocoder_step import decoded_mel, vocoder_task

    data, vae = config.data, strict.from_dict(VAEConfig, config.vae.to_dict(), where="config.vae")
    reading = decoded_mel(cfg.mel, vae, load_params(data.vae, module.shapes(MelVAE, vae)))
    start = {"vocoder": load_params(data.start, module.shapes(Vocoder, cfg.vocoder))} | reading.frozen
    return vocoder_task(cfg, data.folder, reading)._replace(
        init=lambda key: jax.tree.map(jnp.asarray, start),
        batch=SoundInput(Corpus(data.scenes), batch=cfg.batch, samples=cfg.frames * cfg.mel.hop, seed=cfg.seed),
    )


def _bigvgan(config: ConfigDict, loop: LoopConfig) -> Task:
    """The full vocoder; exports vocoder.safetensors."""
    from kfjax.train.tasks.bigvgan_step import bigvgan_task

    return bigvgan_task(config, loop)


def _flow(config: ConfigDict, loop: LoopConfig) -> Task:
    """The generator, from nothing or from `data.start`.

    On extracted features (`data.corpora`) or random ones (`data.synthetic`), or else on the corpus of scenes in
    `data.folder`, with its encoders where they train.
    """
    from kfjax.system import ENCODERS, init_parts
    from kfjax.train.tasks import flow_step
    from kfjax.train.tasks.lora_task import lora_task

    system = _system(config)
    step = strict.from_dict(flow_step.FlowStepConfig, config.step.to_dict(), where="config.step")
    data, names = config.data, flow_step.trained_parts(step)
    extracted = data.synthetic or bool(data.corpora)
    if not (extracted or data.folder):
        raise ValueError(
            "config.data: got neither corpora, folder nor synthetic; expected one of them to train on, "
            "e.g. data.corpora=(('FEATURES', 1.0),) with a folder that kfjax extract made"
        )
    material = (_flow_features if extracted else _flow_scenes)(config, loop, system, step)
    frozen = _frozen(config, system, step, () if extracted else ENCODERS)
    tx = make_optimizer(_optim(config.optim, loop))

    def init(key: jax.Array) -> module.Params:
        parts = init_parts(system, names, key) | flow_step.init_readouts(system, step)
        if _is_folder(data.start) or (data.start and extracted):  # it may hold the encoders too
            start = _weights(data.start, {name: parts[name] for name in names})
        else:
            start = load_params(data.start, parts | frozen) if data.start else {}
        return parts | jax.tree.map(jnp.asarray, start | frozen)

    task = Task(
        init=init,
        init_opt=lambda params: tx.init(flow_step.trained(params, step)),
        step=flow_step.make_step(system, step, tx),
        batch=material.batch,
        panel=material.panel,
        validate=material.validate,
        objective=lambda state, batch, key: flow_step.loss(state.params, batch, key, system, step),
        work=_flow_work(config, system, 0 if step.lora.rank or not extracted else step.draws),
    )
    return lora_task(task, frozen, config, system, step, material.tokenizer) if step.lora.rank else task


def _flow_work(config: ConfigDict, system: SystemConfig, draws: int) -> Callable[[Any], Work]:
    """What a step does. Operations are counted for `draws` above 0: where the whole network and it alone trains."""
    from kfjax.rates import lengths
    from kfjax.train.engine.flops import train_flops

    sizes = {lengths(s, system.rates).latents: (s, lengths(s, system.rates)) for s, _ in config.data.buckets}

    def work(batch: Any) -> Work:
        clips, latents, _ = batch.posterior.mean.shape
        seconds, size = sizes[latents]
        flops = train_flops(system.mmdit, size, system.text_tokens, clips * draws)
        return Work(clips, audio_seconds=clips * seconds, flops=flops)

    return work


class _Material(NamedTuple):
    """What a flow run learns from and how it is looked at, each as in `Task`; the tokenizer that read its captions."""

    batch: Callable[[int], Any]
    tokenizer: Tokenizer | None = None
    panel: Callable[[module.Params, int, Path], dict[str, float]] | None = None
    validate: Validation | None = None


def _flow_features(config: ConfigDict, loop: LoopConfig, system: SystemConfig, step: FlowStepConfig) -> _Material:
    """Extracted features, or random ones: encoders are neither run nor read."""
    from kfjax.data.batches import FeatureInput, SyntheticInput
    from kfjax.train.engine.validation import Validation, flow_figures

    data, buckets = config.data, _buckets(config, loop)
    lacks = {"train_encoders": "frames", "stereo_weight": "mels of both ears", "caption_weight": "token ids"}
    wrong = [f"step.{name} {getattr(step, name)} needs {what}" for name, what in lacks.items() if getattr(step, name)]
    if wrong:
        advice = "unset, or train on scenes (data.folder, no data.corpora)"
        raise ValueError(f"config: got extracted features to train on, but {', '.join(wrong)}; {advice}")
    if data.heldout:
        raise ValueError(
            f"config.data.heldout: got {data.heldout} with extracted features, expected none, since a "
            "panel needs encoders; leave it empty, and give held-out features as data.validation"
        )
    if data.synthetic:
        return _Material(SyntheticInput(system, buckets, seed=loop.seed))
    mark = data.fingerprint or _model_fingerprint(data.start)
    batches = FeatureInput(system, data.corpora, buckets, seed=loop.seed, fingerprint=mark, joined=data.joined)
    if not data.validation:
        return _Material(batches)
    held = FeatureInput(system, data.validation, buckets, seed=loop.seed, fingerprint=batches.fingerprint)
    return _Material(batches, validate=Validation(flow_figures(system, step), held, data.validation_batches))


def _model_fingerprint(start: str) -> str:
    """Of the encoders that a run's result will be used with; "" where it starts from no model directory."""
    from kfjax import system
    from kfjax.data.encode import fingerprint

    return fingerprint(system.load(start)) if _is_folder(start) else ""


def _buckets(config: ConfigDict, loop: LoopConfig, of: Container[float] | None = None) -> Buckets:
    """Which durations steps have; the same on every number of devices where `data.batch_multiple` is not 0.

    Args:
      of: the durations that held-out scenes have; None = no bounds.

    Raises:
      ValueError: bad settings; no duration of `of` among them.
    """
    from kfjax.data.buckets import Buckets

    data = config.data
    weights = {float(seconds): weight for seconds, weight in data.buckets}
    if of is not None:
        weights = {seconds: weight for seconds, weight in weights.items() if seconds in of}
        if not weights:
            trained = ", ".join(f"{seconds:g}" for seconds, _ in data.buckets)
            raise ValueError(
                f"{data.heldout}: has scenes of {sorted(of)} s, expected some that are as long as those "
                f"that train (data.buckets: {trained} s); render them"
            )
    return Buckets(
        weights,
        batch_seconds=data.batch_seconds,
        multiple_of=data.batch_multiple or jax.device_count(),
        seed=loop.seed,
    )


def _flow_scenes(config: ConfigDict, loop: LoopConfig, system: SystemConfig, step: FlowStepConfig) -> _Material:
    """An encoded corpus; with held-out scenes they are looked at too."""
    from kfjax.scenes import Corpus
    from kfjax.scenes.batches import captions, tokenizer_from
    from kfjax.scenes.encode import encode_corpus
    from kfjax.scenes.panel import flow_panel
    from kfjax.train.engine.validation import flow_figures
    from kfjax.train.tasks.lora_task import reading_tokenizer

    data, corpus = config.data, Corpus(config.data.folder)
    codec_parts = ("vae", "vocoder") if data.heldout else ("vae",)  # only the panel listens
    shapes = _part_shapes(system, codec_parts)
    codec = {name: _part(data[name] or data.start, name, shapes[name]) for name in codec_parts}
    encode_corpus(corpus, system.codec, codec["vae"], system.rates)
    if step.train_encoders:
        tokenizer = tokenizer_from(corpus, system.text_tokens, Path(data.tokenizer))
    else:
        tokenizer = reading_tokenizer(config, system, step, captions(corpus))
    emphasis, buckets = dict(data.emphasis), _buckets(config, loop)
    batches = _scene_input(
        system, tokenizer, corpus, codec["vae"], buckets, loop, duration_jitter=data.duration_jitter, emphasis=emphasis
    )
    if not data.heldout:
        return _Material(batches, tokenizer)
    panel = flow_panel(system, tokenizer, codec, Corpus(data.heldout), config.panel.to_dict())
    look = _held_out(config, loop, system, tokenizer, codec["vae"], flow_figures(system, step))
    return _Material(batches, tokenizer, panel, look)


def _held_out(
    config: ConfigDict,
    loop: LoopConfig,
    system: SystemConfig,
    tokenizer: Tokenizer,
    vae: module.Params,
    figures: Figures,
) -> Validation:
    """`figures` of the scenes of `data.heldout`, as they are: not mirrored, told their true durations."""
    from kfjax.scenes import Corpus
    from kfjax.scenes.encode import encode_corpus
    from kfjax.train.engine.validation import Validation

    corpus = Corpus(config.data.heldout)
    encode_corpus(corpus, system.codec, vae, system.rates)
    buckets = _buckets(config, loop, of=corpus.buckets)
    batches = _scene_input(system, tokenizer, corpus, vae, buckets, loop, flip=False)
    return Validation(figures, batches, config.data.validation_batches)


def _frozen(config: ConfigDict, system: SystemConfig, step: FlowStepConfig, reads: Sequence[str]) -> module.Params:
    """The parts that a flow run reads and leaves as they are; `reads`: the encoders that it runs."""
    start, encoders = config.data.start, config.data.encoders or config.data.start
    if step.lora.rank:
        return _weights(start, _part_shapes(system, (*reads, "mmdit")))
    if step.train_encoders or not reads:
        return {}
    shapes = _part_shapes(system, reads)
    return _weights(encoders, shapes) if _is_folder(encoders) else load_params(encoders, shapes)


def _stereo(config: ConfigDict, loop: LoopConfig) -> Task:
    """Mono2Stereo alone, on the frozen encoders of a flow run; exports stereo.safetensors."""
    from kfjax.encoders.tokenizer import Tokenizer
    from kfjax.scenes import Corpus
    from kfjax.scenes.encode import encode_corpus
    from kfjax.system import ENCODERS, SystemConfig, init_parts
    from kfjax.train.tasks import stereo_step

    system = strict.from_dict(SystemConfig, config.system.to_dict(), where="config.system")
    corpus, optim = Corpus(config.data.folder), _optim(config.optim, loop)
    vae = load_params(config.data.vae, _part_shapes(system, ("vae",))["vae"])
    encode_corpus(corpus, system.codec, vae, system.rates)
    tokenizer = Tokenizer.load(config.data.tokenizer, system.text_tokens)
    run = load_params(config.data.encoders)
    encoders = {name: run[name] for name in ENCODERS}
    loss = stereo_step.make_loss(system)
    figures = lambda params, batch, key: {"loss": loss(params, batch)}
    return Task(
        init=lambda key: init_parts(system, ("stereo",), key) | jax.tree.map(jnp.asarray, encoders),
        init_opt=lambda params: make_optimizer(optim).init({"stereo": params["stereo"]}),
        step=stereo_step.make_step(loss, optim),
        objective=lambda state, batch, key: (loss(state.params, batch), {}),
        batch=_scene_input(system, tokenizer, corpus, vae, _buckets(config, loop), loop),
        validate=_held_out(config, loop, system, tokenizer, vae, figures) if config.data.heldout else None,
        export=lambda ema, workdir: save_params(workdir / "stereo.safetensors", ema["stereo"]),
    )


def _scene_input(
    system: SystemConfig,
    tokenizer: Tokenizer,
    corpus: Corpus,
    vae: module.Params,
    buckets: Buckets,
    loop: LoopConfig,
    **options: Any,
) -> Callable[[int], FlowBatch]:
    """step -> `FlowBatch` of an encoded corpus of scenes; `options` of `data.input.SceneInput`."""
    from kfjax.checkpoint import fingerprint
    from kfjax.scenes.batches import SceneInput
    from kfjax.structs import FlowBatch

    batches = SceneInput(system, tokenizer, corpus, buckets, seed=loop.seed, fingerprint=fingerprint(vae), **options)
    return lambda step: FlowBatch(*batches(step))
