"""From a video file and a prompt to a sound: what a user gives is checked, and `kfjax.generation` called.

    model = load()                                          # the built-in model
    sound = model.generate("clip.mp4", prompt="a ball bounces on wood", seed=1)
    sound.save("clip_with_sound.mp4")

Durations are rounded up to buckets and the waveform is cut, so that each of the three programs compiles once a bucket,
that of sampling also per set of guidance branches; steps, guidance, seed and prompts are traced and compile nothing.
Traced and compiled programs are kept for the next process, which then imports no network.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kfjax import checkpoint, features, generation, limits, media, memory, programs, rates, sharding, system
from kfjax.command import local_path
from kfjax.flow import sampler
from kfjax.limits import MAX_PROMPT_CHARACTERS as MAX_PROMPT_CHARACTERS
from kfjax.limits import MAX_SAMPLES as MAX_SAMPLES
from kfjax.media.duration import excerpt_seconds, sound_seconds
from kfjax.model_codec import ModelCodec
from kfjax.module import Params
from kfjax.sound import Sound, finished
from kfjax.structs import Features, Noise, Schedule, Video
from kfjax.system import ENCODERS, System, SystemConfig

BUILT_IN = Path(__file__).parent / "assets" / "model"
SMALL_WORLD = (
    "the built-in model knows only the small world it was trained on (drawn impacts, rolling, footsteps, rain, engines)"
)
TEXT_ONLY_SECONDS = 8.0
MOST_AT_ONCE = 8  # versions of a clip's sound, unless told
PART_SECONDS = 0.5  # of sampling, between two reports of progress
MOST_WORDS, MOST_BEYOND = 20, 100  # of what a prompt loses, unknown words and characters named in one line

Progress = Callable[[str, float], None]  # (what happens now, share that is done)
Dtype = Literal["float32", "bfloat16"]


class Model:
    """A system ready to generate; made by `load`.

    Attributes:
      cfg: its `SystemConfig`: networks, rates, defaults of sampling.
      built_in: it is the small model of the package.
      dtype: of encoders and generator; the codec runs in float32.
      tokenizer: of its prompts.
    """

    def __init__(self, system: System, *, built_in: bool = False, dtype: Dtype | None = None):
        # Switches of training, which cost compile time here.
        self.cfg = replace(system.cfg, mmdit=replace(system.cfg.mmdit, remat=False, unroll=False))
        self.built_in = built_in
        self.dtype = jnp.dtype(dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16"))
        self.tokenizer = system.tokenizer
        # A system in one file is small and stays on the device; the parts of a large one come and go.
        self._resident = isinstance(system.params, dict)
        self._params = system.params
        if self._resident:
            self._params = {name: jax.tree.map(self._place(name), part) for name, part in system.params.items()}

    def _place(self, part: str) -> Callable[[jax.Array | np.ndarray], jax.Array]:
        """Onto the device: the codec in float32, because rounding in it is audible, all other parts in `dtype`."""
        if part in self.cfg.codec.names:
            return jax.device_put
        return lambda x: jax.device_put(_cast(x, self.dtype))

    def _parts(self, *names: str) -> Mapping[str, Params]:
        """These parts on the device; those of a large system are freed with the returned dict."""
        if isinstance(self._params, system.PartFiles):
            return {name: self._params.read(name, self._place(name)) for name in names}
        return {name: self._params[name] for name in names}

    def generate(
        self,
        video: str | Path | Video | None = None,
        prompt: str = "",
        *,
        negative_prompt: str = "",
        duration: float | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        video_guidance: float | None = None,
        text_guidance: float | None = None,
        negative_guidance: float | None = None,
        seed: int = 0,
        samples: int = 1,
        method: sampler.Method = "euler",
        batch: int | None = None,
        keep_original: float | None = None,
        progress: Progress | None = None,
    ) -> Sound:
        """Generate sound for a video, a prompt or both. The same arguments give the same bytes.

        Args:
          video: a file, or frames already at the encoders' rates and sizes; None: from the prompt alone.
          prompt: describes the sound; empty: the video alone decides.
          negative_prompt: describes what must not be heard.
          duration: seconds of sound, from the start of the video. Default: the video's length; 8 without one.
          steps: of the integration, 1 to 1000. Default: the model's.
          guidance: scale of classifier-free guidance, 0 to 100. Default: the model's.
          video_guidance, text_guidance: separate scales; each defaults to `guidance`.
          negative_guidance: how strongly `negative_prompt` is avoided. Default: the model's.
          seed: 0 to 2³²-1.
          samples: how many versions, 1 to 64; version k is the same however many are asked for. Where several are
            made at once, it is so up to rounding, see `kfjax.generation`.
          method: "euler", or "heun": twice the work a step, second order.
          batch: how many versions are made at once. Default: as many as fit into an accelerator's memory, up to 8; on
            a CPU, which gains nothing, one after the other.
          keep_original: mixes in the video's own sound times this: its main track; others follow it in a saved video.
          progress: called with (name of the stage, share that is done).

        Returns:
          The sound: `samples` waveforms of exactly the duration.

        Raises:
          ValueError: an argument out of its range.
          MediaError: a file that can't be read; a ValueError too.
        """
        limits.check(
            prompt=prompt, negative_prompt=negative_prompt, seed=seed, samples=samples, steps=steps, guidance=guidance,
            video_guidance=video_guidance, text_guidance=text_guidance, negative_guidance=negative_guidance,
            method=method, batch=batch, keep_original=keep_original,
        )  # fmt: skip
        if video is None and not prompt.strip():
            raise ValueError("got neither a video nor a prompt, expected at least one; give a file, a prompt or both")
        video = video if video is None or isinstance(video, Video) else local_path(video)
        steps = self.cfg.defaults.steps if steps is None else steps
        scales = self._scales(guidance, video_guidance, text_guidance, negative_guidance, negative_prompt)
        seconds = _seconds(video, duration)
        original = _original(video, keep_original, seconds, self.cfg.rates.sample_rate_hz)

        say = progress or (lambda what, share: None)
        say("reading", 0.0)
        lengths = rates.lengths(bucket_seconds(seconds), self.cfg.rates)
        weights = scales.weights(has_video=video is not None)
        at_once = self._at_once(
            samples, batch, lengths, has_video=video is not None, branches=tuple(weights), method=method
        )
        frames = None if video is None else _read(video, self.cfg, lengths)
        say("encoding", 0.02)
        avoided = negative_prompt if scales.negative else None
        encoded, negative = self._encoded(frames, prompt, avoided, lengths, seconds)
        mmdit = self._parts("mmdit")["mmdit"]
        latents = []
        for rows, kept in generation.batches(samples, at_once):
            sample = partial(
                generation.sample, mmdit, encoded, negative, np.array([*weights.values()], np.float32),
                cfg=self.cfg, branches=tuple(weights), method=method,
            )  # fmt: skip
            noise = Noise(np.full(at_once, seed, np.uint32), rows.astype(np.uint32))
            x = generation.draw(noise, shape=(lengths.latents, self.cfg.mmdit.latent_dim))
            told = progress and _told(progress, rows[:kept], samples, steps)
            latents.append((_in_parts(sample, x, sampler.schedule(steps), told), kept))
        del mmdit, sample
        codec, waves = self._parts(*self.cfg.codec.names), []
        for made, kept in latents:
            say("decoding", 0.8 + 0.2 * len(waves) / samples)
            for wave in np.asarray(generation.decode(codec, made, encoded, cfg=self.cfg))[:kept]:
                waves.append(finished(wave[: rates.exact_samples(seconds, self.cfg.rates)], original))
        say("done", 1.0)
        path = None if isinstance(video, Video) else video
        unread = "; ".join(filter(None, (self.unread(prompt), self.unread(negative_prompt, name="negative prompt"))))
        kept = original is not None
        return Sound(np.stack(waves), self.cfg.rates.sample_rate_hz, seconds, path, unread, kept)

    @property
    def codec(self) -> ModelCodec:
        """Its codec by itself: sound to latents, and back."""
        return ModelCodec(self.cfg, self._parts)

    def unread(self, prompt: str, name: str = "prompt") -> str:
        """Words outside the vocabulary and text beyond the last token, in one line; empty if all of it is read.

        Args:
          name: what the line calls the prompt.
        """
        unknown, beyond, read = self.tokenizer.unread(prompt)
        words = [*unknown[:MOST_WORDS], *(["…"] if unknown[MOST_WORDS:] else [])]
        lost = [f"not in this model's vocabulary: {', '.join(words)}"] if unknown else []
        cut = beyond[:MOST_BEYOND] + "…" * (len(beyond) > MOST_BEYOND)
        lost += [f"beyond its {self.tokenizer.room} tokens: {cut}"] if beyond else []
        lost += ["read: " + (f'"{read}"' if read else "nothing")] if lost else []
        return f"{name}: {'; '.join(lost)}" if lost else ""

    def memory_report(self, video: str | Path | Video | None = None, duration: float | None = None) -> str:
        """Memory of every stage for one clip, from its compiled program: no weights are read.

        On a CPU the process's peak so far, compiling included, is part of each sum; elsewhere sums are of the device's
        memory.

        Raises:
          ValueError: as `generate`.
        """
        lengths = rates.lengths(bucket_seconds(_seconds(video, duration)), self.cfg.rates)
        parts = generation.begin(self.cfg, self.dtype, self.tokenizer, lengths)
        rows = dict(zip(parts, self._memory([*parts.values()]), strict=True))
        process = _process_bytes() if jax.default_backend() == "cpu" else 0
        title = f"MB, {self.dtype}, {lengths.latents} latents"
        lines = [f"{'stage':8}{'weights':>12}{'working':>12}{'at most':>12}  {title}"]
        if process:
            lines.append(f"{'process':8}{'':24}{process / 1e6:12.1f}  Python and programs, part of every stage")
        for name, (weights, working, held) in rows.items():
            numbers = weights, working, process + held
            lines.append(f"{name:8}" + "".join(f"{number / 1e6:12.1f}" for number in numbers))
        return "\n".join(lines)

    def _at_once(self, samples: int, batch: int | None, lengths: rates.Lengths, **program) -> int:
        """How many versions are made at once. Their programs are being compiled when this returns."""
        limit = memory.limit_bytes(jax.devices()[0])
        count = min(samples, batch or (1 if limit is None else MOST_AT_ONCE))
        begin = partial(generation.begin, self.cfg, self.dtype, self.tokenizer, lengths, **program)
        parts = [*begin(versions=count).values()]
        if batch is not None or limit is None:
            return count
        while count > 1 and limit < max(needed for _, _, needed in self._memory(parts)):
            count //= 2
            parts = [*begin(versions=count).values()]
        return count

    def _memory(self, parts: Sequence[generation.StageProgram]) -> Iterator[tuple[int, float, float]]:
        """Bytes of each stage: its weights, its working memory, and all that is held meanwhile."""
        weights = [_bytes(part.weights) for part in parts]
        for own, part in zip(weights, parts, strict=True):
            used = memory.Memory.of(part.begun.compiled.result())
            working = used.arguments - own + used.temporaries + used.outputs
            if jax.default_backend() == "cpu" and not self._resident:
                working = max(working, checkpoint.reading_bytes(part.weights))
            yield own, working, (sum(weights) if self._resident else own) + working

    def _scales(self, guidance, video, text, negative, negative_prompt: str) -> sampler.Guidance:
        defaults, avoided = self.cfg.defaults, bool(negative_prompt.strip())
        general = defaults.guidance if guidance is None else guidance
        return sampler.Guidance(
            video=general if video is None else video,
            text=general if text is None else text,
            negative=(defaults.negative if negative is None else negative) if avoided else 0.0,
        )

    def _encoded(
        self, video: Video | None, prompt: str, negative: str | None, lengths: rates.Lengths, seconds: float
    ) -> tuple[Features, Features | None]:
        """Features [1, ...] of the clip, and of the negative prompt if there is one."""
        encoders = self._parts(*ENCODERS)
        made = self._features(encoders, video, prompt, lengths, seconds)
        avoided = None if negative is None else self._features(encoders, None, negative, lengths, seconds)
        return jax.block_until_ready((made, avoided))  # the next part is read when these are let go

    def _features(
        self, encoders: Mapping[str, Params], video: Video | None, prompt: str, lengths: rates.Lengths, seconds: float
    ) -> Features:
        # Without a video the encoders see the fewest frames they take: one compiled program for all durations.
        shape = lengths if video is not None else rates.lengths(rates.MIN_SECONDS, self.cfg.rates)
        excerpt = features.make_excerpt(self.cfg, self.tokenizer, shape, seconds, video, [prompt])
        encoded = generation.encode(encoders, excerpt, cfg=self.cfg)
        if video is not None:
            return encoded
        # The masks make these features irrelevant; only their lengths count.
        blank = lambda x, length: np.zeros((1, length, x.shape[-1]), x.dtype)
        return encoded._replace(clip=blank(encoded.clip, lengths.clip), sync=blank(encoded.sync, lengths.sync))


def load(model: str | Path = "built-in", *, dtype: Dtype | None = None) -> Model:
    """Read a model and set up the program cache.

    Args:
      model: "built-in", the small model that ships with the package; a model directory; or the name of a published
        model (`kfjax.convert.hub.MODELS`), which is fetched and converted once.
      dtype: of encoders and generator. Default: float32 on a CPU, bfloat16 on an accelerator.

    Raises:
      ValueError: no such model, or one that does not fit together; parts that could not be fetched; no device.
    """
    start()
    return Model(load_system(model), built_in=str(model) == "built-in", dtype=dtype)


def load_system(model: str | Path) -> System:
    """The configuration, weights and tokenizer of a model, by the names that `load` takes.

    Raises:
      ValueError: no such model, or one that does not fit together; parts that could not be fetched.
    """
    if str(model) == "built-in":
        if not BUILT_IN.is_dir():
            raise ValueError(f"this installation has no built-in model (expected {BUILT_IN}); give another model")
        return system.load(BUILT_IN)
    folder, name = local_path(model), str(model)
    if folder.exists():
        return system.load(folder)
    from kfjax.convert import hub  # every family of public weights, with its networks

    if name not in hub.MODELS:
        raise ValueError(hub.no_model(name))
    return system.load(hub.fetch(name, cache_folder() / "models"))


def cache_folder() -> Path:
    """Where compiled programs are kept: $KFJAX_CACHE, else kfjax/ in the user's cache folder."""
    if own := os.environ.get("KFJAX_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kfjax"


def start() -> None:
    """Start the backend and the program cache; called before anything is computed.

    Raises:
      ValueError: the backend that JAX_PLATFORMS names does not start.
    """
    sharding.devices()
    use_program_cache()


def use_program_cache() -> None:
    """Keep compiled programs on disk for the next process, unless jax has been told where already."""
    if programs.folder():
        return
    folder = cache_folder() / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that can't be written to costs time, not the sound
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def bucket_seconds(seconds: float) -> float:
    """The bucket that `seconds` is rounded up to: at least 1, in steps of 0.5, from 4 of 1, from 16
    of 4."""
    step = 0.5 if seconds <= 4 else 1.0 if seconds <= 16 else 4.0
    return max(1.0, math.ceil(seconds / step - 1e-6) * step)


def _told(progress: Progress, versions: np.ndarray, samples: int, steps: int) -> Callable[[int], None]:
    """Tells `progress` how many steps are done of these versions."""
    first, last = versions[0] + 1, versions[-1] + 1
    which = "" if samples == 1 else f" {first} of {samples}" if first == last else f" {first} to {last} of {samples}"
    share = lambda done: 0.2 + 0.6 * (versions[0] + len(versions) * done / steps) / samples
    return lambda done: progress(f"sampling{which}, step {done} of {steps}", share(done))


def _in_parts(
    sample: Callable, x: Float[jax.Array, "b n d"], schedule: Schedule, told: Callable[[int], None] | None
) -> jax.Array:
    """Latents of all the steps. With `told`, in parts of about `PART_SECONDS`, and it is called before each."""
    done, steps = 0, int(schedule.taken)
    part = steps if told is None else 1
    while done < steps:
        if told is not None:
            told(done)
        begun = time.monotonic()
        taken = min(part, steps - done)
        now = schedule._replace(first=np.int32(schedule.first + done), taken=np.int32(taken))
        x = jax.block_until_ready(sample(now, x))
        part = max(1, int(PART_SECONDS / (time.monotonic() - begun) * taken))
        done += taken
    return jnp.asarray(x)


def _process_bytes() -> int:
    """Peak memory of this process; 0 if the system does not report it."""
    try:  # on Linux ru_maxrss begins at what the parent process held
        with open("/proc/self/status") as status:
            return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _bytes(params: Params) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def _cast(x: jax.Array | np.ndarray, dtype: jnp.dtype) -> jax.Array | np.ndarray:
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _seconds(video: str | Path | Video | None, duration: float | None) -> float:
    """How long the sound is. Raises ValueError for a duration that is impossible or longer than the video."""
    if isinstance(video, Video):
        rates.check_seconds(float(video.seconds))
        return excerpt_seconds(float(video.seconds), duration, "the video")
    if video is not None:
        return sound_seconds(video, duration)
    if duration is not None:
        rates.check_seconds(duration)
    return TEXT_ONLY_SECONDS if duration is None else float(duration)


def _read(video: str | Path | Video, cfg: SystemConfig, lengths: rates.Lengths) -> Video:
    """Frames for the encoders; the last one is repeated to the end of the bucket."""
    counts = lengths.clip, lengths.sync_frames
    if isinstance(video, Video):
        parts = zip((video.clip_frames, video.sync_frames), counts, strict=True)
        frames = [np.concatenate([x, np.repeat(x[-1:], max(0, n - len(x)), 0)])[:n] for x, n in parts]
    else:
        frames, _ = media.read_frames(video, features.frame_specs(cfg), counts=counts)
    return Video(*frames, seconds=0.0)


def _original(
    video: str | Path | Video | None, gain: float | None, seconds: float, sample_rate_hz: int
) -> np.ndarray | None:
    """The video's own sound times `gain`; None without a gain."""
    if gain is None:
        return None
    if video is None or isinstance(video, Video):
        raise ValueError("keep original: got no video file, expected one with sound; give one or leave the gain out")
    return np.float32(gain) * media.read_audio(video, sample_rate_hz, duration_seconds=seconds)
