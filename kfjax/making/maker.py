"""A request becomes sound: its stages called, in one pass or in windows, with programs compiled side by side.

Durations of one pass are rounded up to buckets and the waveform is cut, so that each of the three programs compiles
once a bucket, that of sampling also per set of guidance branches; windows have one length. Steps, schedule, guidance,
seed and prompts are traced and compile nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from kfjax import features, generation, media, rates
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.making import longform
from kfjax.making.mastering import Limiter
from kfjax.making.model_codec import ModelCodec
from kfjax.making.recording import ReferenceSound
from kfjax.making.request import Request
from kfjax.making.sound import added, finite, within_range
from kfjax.nn.module import AnyArray, Params
from kfjax.storage import checkpoint
from kfjax.structs import Features, Known, Noise, Reference, Schedule, Video
from kfjax.system import ENCODERS, SystemConfig
from kfjax.xla import memory, sharding

MOST_AT_ONCE = 8  # versions of a clip's sound, or windows of a long one, unless told
PART_SECONDS = 0.5  # of sampling, between two reports of progress
REFERENCE = 2**32 - 1  # number of a reference's noise; no version or stretch has it

Say = Callable[[str, float], None]  # (what happens now, share that is done)


def silent(what: str, share: float) -> None:
    """Tells nobody."""
    del what, share


def part_of(say: Say, first: float, size: float) -> Say:
    """Tells `say` of a part of the work, which begins at the share `first`."""
    return silent if say is silent else lambda what, share: say(what, first + size * share)


class Maker:
    """Makes what is asked for with one model.

    Attributes:
      parts: names -> weights on the device; those of a large system are freed with the returned dict.
      resident: the weights stay on the device.
      mesh: devices that versions, or windows, are split over while they are sampled.
    """

    def __init__(
        self,
        cfg: SystemConfig,
        dtype: jnp.dtype,
        tokenizer: Tokenizer,
        parts: Callable[..., Mapping[str, Params]],
        resident: bool,
        mesh: Mesh | None = None,
    ):
        self.cfg, self.dtype, self.tokenizer = cfg, dtype, tokenizer
        self.parts, self.resident, self.mesh = parts, resident, mesh
        self.codec = ModelCodec(cfg, parts)

    def raw(self, asked: Request, samples: int, batch: int | None, say: Say) -> Iterator[Iterator[np.ndarray]]:
        """The pieces of every version from left to right, f32 [t, 2], which may go beyond ±1; of one pass it is one."""
        if asked.windows is None:
            yield from (iter([wave]) for wave in self._one_pass(asked, samples, batch, say))
        else:
            for number in range(samples):
                yield self._long(asked, number, batch, part_of(say, number / samples, 1 / samples))

    def finished(self, asked: Request, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """f32 [t, 2] within ±1, with what is kept of the original and of the recording.

        One pass is turned down as a whole where it would go beyond ±1; windows go through a limiter.

        Raises:
          ValueError: NaN or infinite samples.
        """
        rate, given, position = self.cfg.rates.sample_rate_hz, asked.recording, 0
        pieces = (finite(piece) for piece in pieces)
        if asked.original is not None:
            pieces = added(pieces, iter([asked.original]))
        if asked.windows is None:
            pieces = map(within_range, pieces)
        else:
            pieces = Limiter(rate).through(pieces)
        for piece in pieces:
            yield piece if given is None else given.spliced(piece, rate, asked.seconds, position)
            position += len(piece)

    def _one_pass(
        self, asked: Request, samples: int, batch: int | None, say: Say
    ) -> Iterator[Float[np.ndarray, "t 2"]]:
        """The waves of every version, which may go beyond ±1."""
        say("reading", 0.0)
        lengths = rates.lengths(bucket_seconds(asked.seconds), self.cfg.rates)
        reference, known = self._given(asked, lengths.latents)
        at_once = self._at_once(
            samples, batch, lengths, has_video=asked.video is not None, branches=asked.branches, method=asked.method,
            schedule=asked.schedule, reference=reference, known=known,
        )  # fmt: skip
        frames = None if asked.video is None else _read(asked.video, self.cfg, lengths)
        say("encoding", 0.02)
        encoded = self._encoded(frames, asked, lengths)
        latents = self._sampled(asked, encoded, reference, known, samples, at_once, say)
        codec, done = self.parts(*self.cfg.codec.names), 0
        for made, kept in latents:
            say("decoding", 0.8 + 0.2 * done / samples)
            for wave in np.asarray(generation.decode(codec, made, encoded[0], cfg=self.cfg))[:kept]:
                yield wave[: rates.exact_samples(asked.seconds, self.cfg.rates)]
                done += 1

    def _sampled(
        self,
        asked: Request,
        encoded: tuple[Features, Features | None],
        reference: Reference | None,
        known: Known | None,
        samples: int,
        at_once: int,
        say: Say,
    ) -> list[tuple[jax.Array, int]]:
        """Latents of all versions in batches, and how many of each count. The generator is let go at the end."""
        mmdit, latents = self.parts("mmdit")["mmdit"], []
        if self.mesh is not None:
            mmdit = jax.device_put(mmdit, sharding.replicated(self.mesh))
        scales = np.array([*asked.weights.values()], np.float32)
        length = rates.lengths(bucket_seconds(asked.seconds), self.cfg.rates).latents
        for rows, kept in generation.batches(samples, at_once):
            noise = Noise(np.full(at_once, asked.seed, np.uint32), rows.astype(np.uint32))
            x = generation.draw(noise, shape=(length, self.cfg.mmdit.latent_dim))
            given = known
            if known is not None:
                given = known._replace(noise=x)
                x = longform.started(np.asarray(x), np.asarray(known.latents), asked.schedule)
            sample = lambda schedule, x, given=given: generation.sample_on(
                self.mesh, mmdit, *encoded, scales, schedule, x, reference, given,
                cfg=self.cfg, branches=asked.branches, method=asked.method,
            )  # fmt: skip
            told = None if say is silent else _told(say, rows[:kept], samples, int(asked.schedule.taken))
            made = _in_parts(sample, jnp.asarray(x), asked.schedule, told)
            latents.append((made if self.mesh is None else jax.device_put(made, jax.devices()[0]), kept))
        return latents

    def _long(self, asked: Request, number: int, batch: int | None, say: Say) -> Iterator[Float[np.ndarray, "t 2"]]:
        """The wave of one version from left to right, which may go beyond ±1."""
        assert asked.windows is not None
        say("reading", 0.0)
        lengths = rates.lengths(asked.windows[0], self.cfg.rates)
        plan = longform.make_plan(self.cfg, asked)
        count = len(plan.first)
        reference, known = self._given(asked, plan.total)
        one = None if known is None else jax.tree.map(lambda leaf: leaf[:, : lengths.latents], known)
        at_once = self._at_once(
            count, batch, lengths, has_video=asked.video is not None, branches=asked.branches,
            method=asked.method, schedule=asked.schedule, reference=reference, known=one, windows=True,
        )  # fmt: skip
        params = self.parts(*self.cfg.names)  # all of them at once: windows are encoded, sampled and decoded in turn
        encoders, seconds = {name: params[name] for name in ENCODERS}, self._conditioned_seconds(asked)
        features_of = lambda frames, prompt: self._features(encoders, frames, prompt, lengths, seconds)
        negative = features_of(None, asked.negative_prompt) if asked.avoids else None
        alone = features_of(None, asked.prompt) if asked.video is None else None
        encode = lambda frames: features_of(frames, asked.prompt) if alone is None else alone
        latents = None if known is None else np.asarray(known.latents)[0]
        long = longform.LongSound(
            self.cfg,
            params,
            asked,
            encode,
            negative,
            reference,
            latents,
            number=number,
            at_once=at_once,
            mesh=self.mesh,
            say=say,
        )
        yield from long.pieces()

    def _given(self, asked: Request, latents: int) -> tuple[Reference | None, Known | None]:
        """The reference, and the recording's latents with what of them is known; its noise is still to come."""
        reference = known = None
        if (heard := asked.reference) is not None:
            reference = self._reference(asked, heard)
        if (recording := asked.recording) is not None:
            mask = recording.known(latents, self.cfg.rates.latent_hz, asked.seconds)
            length = latents * self.cfg.rates.hop * self.cfg.rates.downsample
            wave = np.pad(recording.wave, ((0, max(0, length - len(recording.wave))), (0, 0)))[:length]
            own = self.codec.encode(wave)[None]
            known = Known(own, mask[None], np.zeros_like(own))
        return reference, known

    def _reference(self, asked: Request, heard: ReferenceSound) -> Reference:
        seconds = len(heard.wave) / self.cfg.rates.sample_rate_hz
        lengths = rates.lengths(seconds, self.cfg.rates)
        frames = None
        if heard.film:
            assert asked.reference_path is not None
            specs, counts = features.frame_specs(self.cfg), (lengths.clip, lengths.sync_frames)
            read, _ = media.read_frames(asked.reference_path, specs, start_seconds=heard.start_seconds, counts=counts)
            frames = Video(*read, seconds=0.0)
        encoded = self._features(self.parts(*ENCODERS), frames, "", lengths, seconds)
        count = int(seconds * self.cfg.rates.latent_hz)  # whole ones alone
        own = self.codec.encode(heard.wave)[None, :count]
        noise = generation.draw(Noise(np.full(1, asked.seed, np.uint32), np.full(1, REFERENCE, np.uint32)),
                                shape=own.shape[1:])  # fmt: skip
        return Reference(encoded, Known(own, np.ones((1, count), bool), np.asarray(noise)))

    def _at_once(
        self, wanted: int, batch: int | None, lengths: rates.Lengths, *, windows: bool = False, **program
    ) -> int:
        """How many of `wanted` are made at once. The programs of one device are being compiled when this returns."""
        limit = memory.limit_bytes(jax.devices()[0])
        devices = 1 if self.mesh is None else self.mesh.size
        wanted, batch = -(-wanted // devices), batch and -(-batch // devices)
        count = min(wanted, batch or (1 if limit is None else MOST_AT_ONCE))
        begin = partial(generation.begin, self.cfg, self.dtype, self.tokenizer, lengths, windows=windows, **program)
        parts = [*begin(count=count).values()]
        if batch is not None or limit is None:
            return devices * count
        while count > 1 and not self._fits(parts, limit, together=windows):
            count //= 2
            parts = [*begin(count=count).values()]
        return devices * count

    def _fits(self, parts: Sequence[generation.StageProgram], limit: float, *, together: bool) -> bool:
        try:
            return max(needed for _, _, needed in self.memory(parts, together=together)) <= limit
        except RuntimeError as error:  # a compiler may refuse what is too large
            if memory.refused(error) is None:
                raise
            return False

    def memory(
        self, parts: Sequence[generation.StageProgram], *, together: bool = False
    ) -> Iterator[tuple[int, float, float]]:
        """Bytes of each stage: its weights, its working memory, and all that is held meanwhile.

        Args:
          together: the weights of all stages are held, as while a long sound is made.
        """
        weights = [_bytes(part.weights) for part in parts]
        for own, part in zip(weights, parts, strict=True):
            used = memory.Memory.of(part.begun.compiled.result())
            working = used.arguments - own + used.temporaries + used.outputs
            if jax.default_backend() == "cpu" and not self.resident:
                working = max(working, checkpoint.reading_bytes(part.weights))
            yield own, working, (sum(weights) if self.resident or together else own) + working

    def _encoded(self, video: Video | None, asked: Request, lengths: rates.Lengths) -> tuple[Features, Features | None]:
        """Features [1, ...] of the clip, and of the negative prompt if there is one."""
        encoders, seconds = self.parts(*ENCODERS), self._conditioned_seconds(asked)
        made = self._features(encoders, video, asked.prompt, lengths, seconds)
        avoided = None
        if asked.avoids:
            avoided = self._features(encoders, None, asked.negative_prompt, lengths, seconds)
        return jax.block_until_ready((made, avoided))  # the next part is read when these are let go

    def _conditioned_seconds(self, asked: Request) -> float:
        """How long the generator is told that the sound is: a window, or all of it, after the reference."""
        before = 0.0 if asked.reference is None else len(asked.reference.wave) / self.cfg.rates.sample_rate_hz
        return before + (asked.seconds if asked.windows is None else float(asked.windows[0]))

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


def _told(progress: Say, versions: np.ndarray, samples: int, steps: int) -> Callable[[int], None]:
    """Tells `progress` how many steps are done of these versions."""
    first, last = versions[0] + 1, versions[-1] + 1
    which = "" if samples == 1 else f" {first} of {samples}" if first == last else f" {first} to {last} of {samples}"
    share = lambda done: 0.2 + 0.6 * (versions[0] + len(versions) * done / steps) / samples
    return lambda done: progress(f"sampling{which}, step {done} of {steps}", share(done))


def _in_parts(
    sample: Callable, x: Float[AnyArray, "b n d"], schedule: Schedule, told: Callable[[int], None] | None
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


def bucket_seconds(seconds: float) -> float:
    """The bucket that `seconds` is rounded up to: at least 1, in steps of 0.5, from 4 of 1, from 16
    of 4."""
    step = 0.5 if seconds <= 4 else 1.0 if seconds <= 16 else 4.0
    return max(1.0, math.ceil(seconds / step - 1e-6) * step)


def _read(video: str | Path | Video, cfg: SystemConfig, lengths: rates.Lengths) -> Video:
    """Frames for the encoders; the last one is repeated to the end of the bucket."""
    counts = lengths.clip, lengths.sync_frames
    if isinstance(video, Video):
        parts = zip((video.clip_frames, video.sync_frames), counts, strict=True)
        frames = [np.concatenate([x, np.repeat(x[-1:], max(0, n - len(x)), 0)])[:n] for x, n in parts]
    else:
        frames, _ = media.read_frames(video, features.frame_specs(cfg), counts=counts)
    return Video(*frames, seconds=0.0)


def _bytes(params: Params) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
