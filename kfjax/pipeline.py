"""A loaded model: from a video file and a prompt to a sound.

    model = load()                                          # the built-in model
    sound = model.generate("clip.mp4", prompt="a ball bounces on wood", seed=1)
    sound.save("clip_with_sound.mp4")

What a person gives becomes a `Request`, which `kfjax.making` turns into sound by the spine, `kfjax.generation`.
Compiled programs are kept for the next process, which then imports no network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kfjax import generation, rates, system
from kfjax.flow import sampler
from kfjax.making import limits
from kfjax.making.limits import MAX_PROMPT_CHARACTERS as MAX_PROMPT_CHARACTERS
from kfjax.making.limits import MAX_SAMPLES as MAX_SAMPLES
from kfjax.making.limits import TEXT_ONLY_SECONDS as TEXT_ONLY_SECONDS
from kfjax.making.maker import Maker, bucket_seconds, part_of, silent
from kfjax.making.mastering import to_loudness
from kfjax.making.model_codec import ModelCodec
from kfjax.making.recording import Span
from kfjax.making.request import Asked, Request, resolve
from kfjax.making.sound import Sound, Stream, added
from kfjax.nn.module import Params
from kfjax.storage import cache, disk
from kfjax.storage.cache import cache_folder as cache_folder
from kfjax.structs import Video
from kfjax.system import System, SystemConfig
from kfjax.xla import memory, programs, sharding

BUILT_IN = Path(__file__).parent / "assets" / "model"
SMALL_WORLD = (
    "the built-in model knows only the small world it was trained on (drawn impacts, rolling, footsteps, rain, engines)"
)
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

    def __init__(
        self, system: System, *, built_in: bool = False, dtype: Dtype | None = None, devices: int | None = None
    ):
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
        mesh = None if devices in (None, 1) else _mesh(devices)
        self._maker = Maker(self.cfg, self.dtype, self.tokenizer, self._parts, self._resident, mesh)

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
        schedule: sampler.ScheduleKind | None = None,
        method: sampler.Method = "euler",
        guidance: float | None = None,
        video_guidance: float | None = None,
        text_guidance: float | None = None,
        negative_guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        samples: int = 1,
        batch: int | None = None,
        keep_original: float | None = None,
        audio: str | Path | np.ndarray | None = None,
        keep: Sequence[Span] = (),
        redo: Sequence[Span] = (),
        strength: float | None = None,
        reference: str | Path | None = None,
        music_prompt: str = "",
        music_gain: float = 1.0,
        music_seed: int | None = None,
        loudness: float | None = None,
        window: int | None = None,
        overlap: int | None = None,
        progress: Progress | None = None,
    ) -> Sound:
        """Generate sound for a video, a prompt or both. The same arguments give the same bytes.

        Args:
          video: a file, or frames already at the encoders' rates and sizes; None: from the prompt alone.
          prompt: describes the sound; empty: the video alone decides.
          negative_prompt: describes what must not be heard.
          duration: seconds of sound, from the start of the video, up to an hour. Default: the video's length; 8
            without one.
          steps: of the integration, 1 to 1000. Default: the model's.
          schedule: "uniform", or "sway": most steps early. Default: sway where there are fewer than 10.
          method: "euler", or "heun": twice the work a step, second order.
          guidance: scale of classifier-free guidance, 0 to 100. Default: the model's.
          video_guidance, text_guidance: separate scales; each defaults to `guidance`.
          negative_guidance: how strongly `negative_prompt` is avoided. Default: the model's.
          guidance_interval: times from 0 (noise) to 1 in which guidance acts. Default: always.
          seed: 0 to 2³²-1.
          samples: how many versions, 1 to 64; version k is the same however many are asked for. Where several are
            made at once, it is so up to rounding, see `kfjax.generation`.
          batch: how many versions, or windows of a long sound, are made at once. Default: as many as fit into an
            accelerator's memory, up to 8; on a CPU, which gains nothing, one after the other.
          keep_original: mixes in the video's own sound times this: its main track; others follow it in a saved video.
          audio: a recording that the sound goes on from, a file or f32 [t, 1 or 2] at the model's rate; its second 0
            is the sound's. Give also what of it stands:
          keep: (from, to) in seconds, which stand, sample for sample but for 20 ms at their borders; or
          redo: (from, to) in seconds, which are made anew, while the rest stands; or
          strength: above 0 and up to 1, how far from the recording everything else may go.
          reference: a file whose sound this shall be like; of a film its picture counts too. Its loudest 3 seconds.
          music_prompt: describes music that is made beside the sound, without the picture, as a stem of its own.
          music_gain: of the music in the mix, 0 to 100.
          music_seed: of the music. Default: `seed`. Given that of a take, the music goes on where the take is redone.
          loudness: integrated loudness of the result, above -70 to 0 LUFS, such as -23; its true peak stays below
            -1 dB.
          window, overlap: whole seconds of the windows that a long sound is made in, and that neighbours share.
            Default: the model's, for sounds longer than it makes in one pass.
          progress: called with (name of the stage, share that is done).

        Returns:
          The sound: `samples` waveforms of exactly the duration; with music also the two stems.

        Raises:
          ValueError: an argument out of its range, or that does not go with the others.
          MediaError: a file that can't be read; a ValueError too.
        """
        limits.check(samples=samples, batch=batch, loudness=loudness)
        asked = resolve(
            self.cfg, video, prompt, negative_prompt=negative_prompt, duration=duration, steps=steps,
            schedule=schedule, method=method, guidance=guidance, video_guidance=video_guidance,
            text_guidance=text_guidance, negative_guidance=negative_guidance, guidance_interval=guidance_interval,
            seed=seed, keep_original=keep_original, audio=audio, keep=keep, redo=redo, strength=strength,
            reference=reference, music_prompt=music_prompt, music_gain=music_gain, music_seed=music_seed,
            window=window, overlap=overlap,
        )  # fmt: skip
        say = progress or silent
        waves, stems = self._waves(asked, samples, batch, say)
        if loudness is not None:
            waves = np.stack([to_loudness(wave, self.cfg.rates.sample_rate_hz, loudness) for wave in waves])
        say("done", 1.0)
        path = None if isinstance(asked.video, Video) else asked.video
        prompts = {"prompt": prompt, "negative prompt": negative_prompt, "music prompt": music_prompt}
        unread = "; ".join(filter(None, (self.unread(text, name=name) for name, text in prompts.items())))
        kept = asked.original is not None
        return Sound(waves, self.cfg.rates.sample_rate_hz, asked.seconds, path, unread, kept, stems)

    def _waves(
        self, asked: Request, samples: int, batch: int | None, say: Progress
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """f32 [samples, t, 2] of the sound; with music also its stems."""
        made = self._maker
        whole = lambda asked, pieces: np.concatenate([*made.finished(asked, pieces)])
        if (music := asked.music) is None:
            waves = [whole(asked, pieces) for pieces in made.raw(asked, samples, batch, say)]
            return waves[0][None] if samples == 1 else np.stack(waves), {}
        halves = (part_of(say, first, 0.5) for first in (0.0, 0.5))
        effects, others = ([np.concatenate([*pieces]) for pieces in made.raw(one, samples, batch, told)]
                           for one, told in zip((asked, music), halves, strict=True))  # fmt: skip
        alone = {"effects": np.stack([whole(asked, iter([wave])) for wave in effects]),
                 "music": np.stack([whole(music, iter([wave])) for wave in others])}  # fmt: skip
        mixed = [
            added(iter([one]), iter([other]), asked.music_gain) for one, other in zip(effects, others, strict=True)
        ]
        return np.stack([whole(asked, pieces) for pieces in mixed]), alone

    def stream(
        self,
        video: str | Path | Video | None = None,
        prompt: str = "",
        *,
        batch: int | None = None,
        progress: Progress | None = None,
        **asked: Unpack[Asked],
    ) -> Stream:
        """Generate one sound piece by piece: the first ones are there long before a long sound is whole.

        A sound of several windows comes a window at a time, one of a single pass at once. All of it together is what
        `generate` returns for the same arguments, byte for byte.

        Args:
          batch, progress, asked: as `generate`.

        Returns:
          An iterator over f32 [t, 2] within ±1, which knows `seconds` and `sample_rate_hz`.

        Raises:
          ValueError, MediaError: as `generate`, before anything is made.
        """
        limits.check(batch=batch)
        request, say, made = resolve(self.cfg, video, prompt, **asked), progress or silent, self._maker
        pieces = next(made.raw(request, 1, batch, say))
        if request.music is not None:
            pieces = added(pieces, next(made.raw(request.music, 1, batch, silent)), request.music_gain)
        path = None if isinstance(request.video, Video) else request.video
        return Stream(
            made.finished(request, pieces), self.cfg.rates.sample_rate_hz, request.seconds, path,
            request.original is not None,
        )  # fmt: skip

    @property
    def codec(self) -> ModelCodec:
        """Its codec by itself: sound to latents, and back."""
        return self._maker.codec

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
        asked = resolve(self.cfg, video, "sound", duration=duration)
        lengths = rates.lengths(asked.windows[0] if asked.windows else bucket_seconds(asked.seconds), self.cfg.rates)
        windows = asked.windows is not None
        parts = generation.begin(self.cfg, self.dtype, self.tokenizer, lengths, windows=windows)
        rows = dict(zip(parts, self._maker.memory([*parts.values()], together=windows), strict=True))
        process = memory.process_bytes() if jax.default_backend() == "cpu" else 0
        title = f"MB, {self.dtype}, {lengths.latents} latents"
        lines = [f"{'stage':8}{'weights':>12}{'working':>12}{'at most':>12}  {title}"]
        if process:
            lines.append(f"{'process':8}{'':24}{process / 1e6:12.1f}  Python and programs, part of every stage")
        for name, (weights, working, held) in rows.items():
            numbers = weights, working, process + held
            lines.append(f"{name:8}" + "".join(f"{number / 1e6:12.1f}" for number in numbers))
        return "\n".join(lines)


def load(model: str | Path = "built-in", *, dtype: Dtype | None = None, devices: int | None = None) -> Model:
    """Read a model and set up the program cache.

    Args:
      model: "built-in", the small model that ships with the package; a model directory; or the name of a published
        model (`kfjax.convert.hub.MODELS`), which is fetched and converted once.
      dtype: of encoders and generator. Default: float32 on a CPU, bfloat16 on an accelerator.
      devices: how many of this machine's devices versions of a sound, or windows of a long one, are split over while
        they are sampled. Each holds the generator. Default: 1.

    Raises:
      ValueError: no such model, or one that does not fit together; parts that could not be fetched; fewer devices.
    """
    start()
    return Model(load_system(model), built_in=str(model) == "built-in", dtype=dtype, devices=devices)


def _mesh(devices: int) -> Mesh:
    here = jax.local_devices()
    if not 1 <= devices <= len(here):
        raise ValueError(f"devices: got {devices}, expected 1 to {len(here)}, which are here")
    return sharding.make_mesh({"data": devices}, here[:devices])


def load_system(model: str | Path, parts: Collection[str] = (), codec: str | Path = "") -> System:
    """The configuration, weights and tokenizer of a model, by the names that `load` takes.

    Args:
      parts: that are needed; the others may be missing. Default: all.
      codec: the model, by the same names, whose codec takes the place of this one's.

    Raises:
      ValueError: no such model, or one that does not fit together; parts that could not be fetched.
    """
    found = system.load(folder_of(model), parts)
    if not codec:
        return found
    own = [name for name in parts or found.cfg.codec.names if name in ("vae", "vocoder")]
    other = system.load(folder_of(codec), own)
    return system.with_weights_of_codec(found, other._replace(params={name: other.params[name] for name in own}))


def folder_of(model: str | Path) -> Path:
    """The model directory of a model, by the names that `load` takes; what has a name is fetched.

    Raises:
      ValueError: as `load_system`.
    """
    if str(model) == "built-in":
        if not BUILT_IN.is_dir():
            raise ValueError(f"this installation has no built-in model (expected {BUILT_IN}); give another model")
        return BUILT_IN
    folder, name = disk.path(model), str(model)
    if disk.in_bucket(folder) or folder.exists():
        return folder
    from kfjax.convert import hub  # every family of public weights, with its networks

    if name not in hub.MODELS:
        raise ValueError(hub.no_model(name))
    return hub.fetch(name, cache_folder() / "models")


def config_of(model: str | Path) -> SystemConfig:
    """The configuration of a model, by the names that `load` takes. Nothing is fetched.

    Raises:
      ValueError: no such model, or a folder that is none.
    """
    folder = BUILT_IN if str(model) == "built-in" else disk.path(model)
    if disk.in_bucket(folder) or folder.exists():
        if not (folder / system.CONFIG).is_file():
            raise ValueError(f"no {system.CONFIG} in {folder}; expected a model directory or a system's name")
        return system.load_config(cache.local(folder / system.CONFIG))
    from kfjax.convert import hub, systems

    if (found := systems.named(str(model))) is None:
        raise ValueError(hub.no_model(str(model)))
    return found


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


def _cast(x: jax.Array | np.ndarray, dtype: jnp.dtype) -> jax.Array | np.ndarray:
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
