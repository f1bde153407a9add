"""A sound longer than one pass: its windows are read, encoded, sampled and decoded from left to right.

Nothing grows with the sound but its latents (7 KB a second, for each copy) and, where a caller keeps it, the sound
itself: frames and features are held while their window is sampled. Every stage is the program that a clip of one
window runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from kfjax import features, generation, media, rates
from kfjax.codec.pieces import Overlap, Pieces
from kfjax.making import windows
from kfjax.making.limits import MAX_SAMPLES
from kfjax.making.request import Request
from kfjax.nn.module import Params
from kfjax.structs import Features, Known, Noise, Reference, Schedule, Video
from kfjax.system import SystemConfig
from kfjax.xla import sharding

Encode = Callable[[Video | None], Features]  # of a window
Say = Callable[[str, float], None]


@dataclass
class LongSound:
    """One version of a sound in windows.

    Attributes:
      params: of every part of the system.
      encode: the features of a window's frames.
      negative: those of the negative prompt.
      reference: what stands before every window.
      latents: of the recording where one is given, f32 [n d].
      number: which version.
      at_once: windows in a batch.
      mesh: devices that the windows of a batch are split over.
    """

    cfg: SystemConfig
    params: Mapping[str, Params]
    asked: Request
    encode: Encode
    negative: Features | None = None
    reference: Reference | None = None
    latents: Float[np.ndarray, "n d"] | None = None
    number: int = 0
    at_once: int = 1
    mesh: Mesh | None = None
    say: Say = lambda what, share: None
    plan: windows.WindowPlan = field(init=False)
    _features: dict[int, Features] = field(init=False, default_factory=dict)

    def __post_init__(self):
        assert self.asked.windows is not None  # a sound of one pass is not made here
        self.plan = make_plan(self.cfg, self.asked)
        self._lengths = rates.lengths(self.asked.windows[0], self.cfg.rates)
        self._frames = self._read() if self.asked.video is not None else None
        network = self.params["mmdit"]
        self._network = network if self.mesh is None else jax.device_put(network, sharding.replicated(self.mesh))

    def pieces(self) -> Iterator[Float[np.ndarray, "t 2"]]:
        """The sound from left to right, which may go beyond ±1; each piece as soon as it is final."""
        samples, position = rates.exact_samples(self.asked.seconds, self.cfg.rates), 0
        decoder = Pieces(self._decode, self.cfg.codec, self.plan.total, self.plan.latents)
        for latents, rows in self._sampled():
            for wave in decoder.feed(latents[None], rows):
                piece = wave[0, : samples - position]
                position += len(piece)
                if len(piece):
                    yield piece

    def _sampled(self) -> Iterator[tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "1 f i"] | None]]:
        """Latents that are final, and what Mono2Stereo sees of each of their mel frames."""
        rows: deque[tuple[int, np.ndarray]] = deque()  # of windows that are sampled, and the mel frame they begin with
        per = self.cfg.rates.downsample

        def finished(window: int) -> None:
            encoded = self._features.pop(window)
            if self.cfg.codec.stereo is not None:
                found = np.asarray(generation.seen(encoded, cfg=self.cfg, latents=self.plan.latents))
                rows.append((per * self.plan.first[window], found))

        frame = 0
        for latents in windows.advance(
            self.plan, self._noise(), int(self.asked.schedule.taken), self._step, at_once=self.at_once,
            finished=finished,
        ):  # fmt: skip
            stop = frame + per * len(latents)
            yield latents, self._rows_of(rows, frame, stop)
            frame = stop

    def _rows_of(self, rows: deque[tuple[int, np.ndarray]], frame: int, stop: int) -> np.ndarray | None:
        """Rows of these mel frames: each from the window in whose middle it lies. Windows before them are let go."""
        if not rows:
            return None
        middle = lambda i: (rows[i][0] + rows[i - 1][0] + rows[i - 1][1].shape[1]) // 2
        parts = []
        for i, (first, found) in enumerate(rows):
            begin = frame if i == 0 else max(frame, middle(i))
            end = stop if i == len(rows) - 1 else min(stop, middle(i + 1))
            parts.append(found[:, max(0, begin - first) : max(0, end - first)])
        while len(rows) > 1 and middle(1) <= stop:
            rows.popleft()
        return np.concatenate(parts, 1)

    def _decode(self, latents: np.ndarray, rows: np.ndarray | None, overlap: Overlap | None) -> jax.Array:
        codec = {name: self.params[name] for name in self.cfg.codec.names}
        has_video = np.array([self.asked.video is not None])
        return generation.decode_piece(codec, latents, rows, has_video, overlap, cfg=self.cfg)

    def _step(self, some: Sequence[int], step: int, x: Float[np.ndarray, "w n d"]) -> Float[np.ndarray, "w n d"]:
        """One step of the sampler for these windows; a short batch repeats itself."""
        rows = [some[i % len(some)] for i in range(self.at_once)]
        own = x[np.arange(self.at_once) % len(some)]
        for window in some:
            if window not in self._features:
                self._features[window] = self.encode(None if self._frames is None else next(self._frames))
        encoded = _stacked([self._features[row] for row in rows])
        negative = None if self.negative is None else _stacked([self.negative] * self.at_once)
        schedule = self.asked.schedule._replace(first=np.int32(self.asked.schedule.first + step), taken=np.int32(1))
        known = None if self._known is None else _rows(self._known, [self.plan.slice(row) for row in rows])
        scales = np.array([*self.asked.weights.values()], np.float32)
        made = generation.sample_on(
            self.mesh, self._network, encoded, negative, scales, schedule, own, self.reference, known,
            cfg=self.cfg, branches=self.asked.branches, method=self.asked.method,
        )  # fmt: skip
        self._tell(step, some)
        return np.asarray(made)[: len(some)]

    def _tell(self, step: int, some: Sequence[int]) -> None:
        count = len(self.plan.first)
        share = (some[0] + (step + 1) / int(self.asked.schedule.taken)) / (count + 1)
        self.say(f"window {some[0] + 1} of {count}, step {step + 1}", 0.05 + 0.95 * min(1.0, share))

    def _noise(self) -> Float[np.ndarray, "n d"]:
        """Noise of the whole: each stretch of a window's length has its own number."""
        length, count = self.plan.latents, -(-self.plan.total // self.plan.latents)
        numbers = [self.number + MAX_SAMPLES * stretch for stretch in range(count)]
        draw = lambda number: generation.draw(
            Noise(np.full(1, self.asked.seed, np.uint32), np.full(1, number, np.uint32)),
            shape=(length, self.cfg.mmdit.latent_dim),
        )
        noise = np.concatenate([np.asarray(draw(number))[0] for number in numbers])[: self.plan.total]
        self._known, given = None, self.asked.recording
        if given is not None and self.latents is not None:
            mask = given.known(self.plan.total, self.plan.hz, self.asked.seconds)
            self._known = Known(self.latents, mask, noise.copy())
            noise = started(noise, self.latents, self.asked.schedule)
        return noise

    def _read(self) -> Iterator[Video]:
        """Every window's frames; a video is decoded once."""
        counts = self._lengths.clip, self._lengths.sync_frames
        video = self.asked.video
        if isinstance(video, Video):
            hz = self.cfg.rates.clip_hz, self.cfg.rates.sync_hz
            for start in self.plan.starts:
                clip, sync = (_held(start, count, rate) for count, rate in zip(counts, hz, strict=True))
                last = len(video.clip_frames) - 1, len(video.sync_frames) - 1
                frames = video.clip_frames[np.minimum(clip, last[0])], video.sync_frames[np.minimum(sync, last[1])]
                yield Video(*frames, seconds=0.0)
            return
        assert video is not None
        specs = features.frame_specs(self.cfg)
        for frames in media.frames_in_windows(video, specs, [(start, counts) for start in self.plan.starts]):
            yield Video(*frames, seconds=0.0)


def make_plan(cfg: SystemConfig, asked: Request) -> windows.WindowPlan:
    """The windows of a request.

    Raises:
      ValueError: windows and overlap that do not go together.
    """
    assert asked.windows is not None
    return windows.make_plan(asked.seconds, cfg.rates, *asked.windows, guard=cfg.defaults.guard)


def started(
    noise: Float[np.ndarray, "*b n d"], latents: Float[np.ndarray, "*c n d"], schedule: Schedule
) -> Float[np.ndarray, "*b n d"]:
    """The point on the way from noise to these latents where the schedule begins."""
    u = float(schedule.first) / float(schedule.steps)
    t = u + float(schedule.sway) * (np.cos(np.pi / 2 * u) - 1 + u)
    return noise if t == 0 else ((1 - t) * noise + t * latents).astype(np.float32)


def _held(start: int, count: int, hz: float) -> np.ndarray:
    """Numbers of a window's frames."""
    return round(start * hz) + np.arange(count)


def _stacked(parts: Sequence[Features]) -> Features:
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _rows(known: Known, places: Sequence[slice]) -> Known:
    return jax.tree.map(lambda leaf: np.stack([leaf[place] for place in places]), known)
