"""Excerpts of video and sound files to records, a batch at a time, on all devices of this process."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kfjax import config, features, media, rates
from kfjax.codec import codec_of, stereo
from kfjax.codec.mel import log_mel
from kfjax.data import remote, sources
from kfjax.data.clean.measures.sound import side_db
from kfjax.data.films import Source, Windows
from kfjax.data.shards.marks import PARTS, Marks
from kfjax.data.shards.records import Example
from kfjax.data.sources import Cut
from kfjax.encoders.tokenizer import Unread
from kfjax.nn.module import Params
from kfjax.rates import Lengths
from kfjax.storage import checkpoint
from kfjax.structs import Excerpt, Features, Posterior, StereoMels, Video
from kfjax.system import System, SystemConfig, with_stereo
from kfjax.xla import sharding

#: A sound whose peak stays below this (-60 dB of full scale) is silence.
SILENT_PEAK = 1e-3
#: Left minus right this far below left plus right is copied mono, as for `kfjax clean`.
COPIED_DB = -60.0


class Loaded(NamedTuple):
    """An excerpt ready to be encoded."""

    cut: Cut
    excerpt: Excerpt  # a batch of one
    wave: np.ndarray  # f32 [t], mono
    side: np.ndarray | None  # f32 [t], half of left minus right; None: the recording is mono
    unread: Unread  # of the caption
    before: Example | None = None  # what an earlier extraction made of it


def marks_of(system: System) -> Marks:
    """Of all that decides features and latents: weights of the encoders and of the codec's encoder, their
    configuration, how frames, sound and captions are prepared. Not the precision of the computation."""
    cfg, rates = system.cfg, system.cfg.rates
    weights = {name: checkpoint.weights_fingerprint(system.params[name]) for name in PARTS}
    parts = [config.to_dict(part) for part in (cfg.clip, cfg.sync, cfg.text, cfg.codec.vae, cfg.codec.mel)]
    parts[2].pop("kind")  # features that were stored before configurations had it stay valid
    settings = {
        "parts": parts,
        "rates": config.to_dict(rates),
        "frames": [cfg.clip_resize, cfg.sync_resize],
        "text_tokens": cfg.text_tokens,
        "weights": weights,
    }
    words = _vocabulary(system)
    whole = _short(json.dumps(settings, sort_keys=True).encode() + words)
    clip, sync, text, vae, mel = parts
    del clip["frames_at_once"], sync["segments_at_once"]  # they change memory alone
    of_parts = {
        "clip": [clip, rates.clip_hz, cfg.clip_resize],
        "sync": [sync, rates.sync_hz, rates.segment_frames, rates.segment_step, cfg.sync_resize],
        "text": [text, cfg.text_tokens, _short(words)],
        "vae": [vae, mel, rates.sample_rate_hz, rates.hop, rates.downsample],
    }
    mark = lambda name: _short(json.dumps([of_parts[name], weights[name]], sort_keys=True).encode())
    return Marks(whole, {name: mark(name) for name in PARTS}, cfg.name)


def encoders_fingerprint(system: System) -> str:
    """Short hash of all that decides features and latents, see `marks_of`."""
    return marks_of(system).whole


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _vocabulary(system: System) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        system.tokenizer.save(path)
        return path.read_bytes()


class FeatureEncoder:
    """A system's encoders and codec, on all devices of this process.

    Args:
      batch: excerpts at once; rounded up to a multiple of the devices.
      stereo: make what Mono2Stereo learns from; None: where the system has a Mono2Stereo.

    Attributes:
      marks, fingerprint: see `marks_of`; the latter is of the whole.

    Raises:
      ValueError: `stereo` with a mel that Mono2Stereo can't read.
    """

    def __init__(self, system: System, batch: int, stereo: bool | None = None):
        devices = jax.local_devices()
        self.marks = marks_of(system)
        self.fingerprint = self.marks.whole
        self.cfg, self.tokenizer = system.cfg, system.tokenizer
        self.stereo = system.cfg.codec.stereo is not None if stereo is None else stereo
        if self.stereo:
            with_stereo(system.cfg)  # refuses mels that it can't read
        self.batch = -(-batch // len(devices)) * len(devices)
        self.mesh = sharding.make_mesh({"data": len(devices)}, devices)
        #: Name of a part -> its weights on the devices, from when it is first asked for.
        self.part = cache(lambda name: self._placed(name, system.params[name]))

    def _placed(self, name: str, params: Params) -> Params:
        # The codec stays in float32: rounding in it is audible.
        dtype = jnp.float32 if name == "vae" or jax.default_backend() == "cpu" else jnp.bfloat16
        cast = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
        return jax.device_put(jax.tree.map(cast, params), sharding.replicated(self.mesh))

    @property
    def windows(self) -> Windows:
        """How `load` wants the frames of an excerpt."""
        of = lambda cut: rates.lengths(cut.seconds, self.cfg.rates)
        return Windows(features.frame_specs(self.cfg), lambda cut: (of(cut).clip, of(cut).sync_frames))

    def load(self, cut: Cut, source: Source = media) -> Loaded:
        """Decode an excerpt; touches no device.

        Args:
          source: what reads files.

        Raises:
          ValueError: files that don't decode, sound that is silent or ends early.
        """
        with remote.fetched(cut.row) as row:
            return self._load(cut._replace(row=row), source)

    def _load(self, cut: Cut, source: Source) -> Loaded:
        row, size = cut.row, rates.lengths(cut.seconds, self.cfg.rates)
        wave, side = self._sound(cut, size, source)
        video = None
        if row.video is not None:
            counts, specs = (size.clip, size.sync_frames), features.frame_specs(self.cfg)
            frames, _ = source.read_frames(row.video, specs, start_seconds=cut.start_seconds, counts=counts)
            video = Video(*frames, seconds=cut.seconds)
        else:
            size = rates.lengths(rates.MIN_SECONDS, self.cfg.rates)  # blank frames of masked video: a few
        excerpt = features.make_excerpt(self.cfg, self.tokenizer, size, cut.seconds, video, [row.caption])
        return Loaded(cut, excerpt, wave, side, self.tokenizer.unread(row.caption))

    def _sound(
        self, cut: Cut, size: Lengths, source: Source
    ) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"] | None]:
        """Mono and side, as much as the codec wants; silent beyond the end of the file."""
        path, hz = cut.row.sound, self.cfg.rates.sample_rate_hz
        channels = source.read_audio(path, hz, 2, size.samples / hz, cut.start_seconds)
        wave = channels.mean(1)
        where = f"{cut.seconds:g} seconds from {cut.start_seconds:g}"
        if len(wave) < (cut.seconds - sources.SHORT_SECONDS) * hz - 1:
            raise media.MediaError(f"{path}: has {len(wave) / hz:.2f} seconds of sound of the {where}; cut it there")
        if not np.abs(wave).max() >= SILENT_PEAK:
            raise media.MediaError(f"{path}: is silent in the {where}; there is nothing to learn")
        padded = lambda wave: np.pad(wave, (0, size.samples - len(wave)))
        if not self.stereo or side_db(channels) < COPIED_DB:
            return padded(wave), None
        return padded(wave), padded((channels[:, 0] - channels[:, 1]) / 2)

    def __call__(self, loaded: Sequence[Loaded]) -> list[Example]:
        """Encode up to `batch` excerpts of one length, all with pictures or all without."""
        cut = loaded[0].cut
        whole = [loaded[i % len(loaded)] for i in range(self.batch)]  # a short batch is filled up: one compilation
        excerpt = jax.tree.map(lambda *parts: np.concatenate(parts), *(one.excerpt for one in whole))
        waves = np.stack([one.wave for one in whole])
        sides = np.stack([waves[0] * 0 if one.side is None else one.side for one in whole]) if self.stereo else None
        inputs = sharding.put_batch((excerpt, waves, sides), self.mesh)
        blank = None if cut.row.video is not None else rates.lengths(cut.seconds, self.cfg.rates)
        params = {name: self.part(name) for name in PARTS}
        made = jax.tree.map(np.asarray, _encode(params, self.cfg, *inputs, blank=blank))
        return [self._example(one, jax.tree.map(lambda x, i=i: x[i], made)) for i, one in enumerate(loaded)]

    def _example(self, one: Loaded, made: tuple[Features, Posterior, tuple[np.ndarray, ...]]) -> Example:
        encoded, posterior, mels = made
        stereo_mels = StereoMels(mels[0], mels[1], np.asarray(one.side is not None)) if mels else None
        return Example(one.cut.id, **encoded._asdict(), **posterior._asdict(), stereo=stereo_mels)


@partial(jax.jit, static_argnames=("cfg", "blank"))
def _encode(
    params: Params,
    cfg: SystemConfig,
    excerpt: Excerpt,
    wave: Float[Array, "b t"],
    side: Float[Array, "b t"] | None,
    *,
    blank: Lengths | None,
) -> tuple[Features, Posterior, tuple[Array, ...]]:
    """Features and latents in bfloat16, and with `side` the bytes that Mono2Stereo learns from.

    With `blank`, of sound alone: zeros of these lengths as visual features.
    """
    posterior = codec_of(cfg.codec).encode(params, cfg.codec, wave)
    if blank is None:
        encoded = features.encode(params, cfg, excerpt)
    else:
        text, mask = features.encode_text(params["text"], cfg, excerpt.text_ids, excerpt.given.text_mask)
        encoded = Features(
            clip=jnp.zeros((len(wave), blank.clip, cfg.clip.out_dim), jnp.bfloat16),
            sync=jnp.zeros((len(wave), blank.sync, cfg.sync.width), jnp.bfloat16),
            text=text,
            given=excerpt.given._replace(text_mask=mask),
        )
    rounded = lambda x: x.astype(jnp.bfloat16) if x.ndim == 3 else x
    mels = () if side is None else stereo_mels(wave, side, cfg)
    return jax.tree.map(rounded, encoded), jax.tree.map(rounded, posterior), mels


def stereo_mels(wave: Float[Array, "b t"], side: Float[Array, "b t"], cfg: SystemConfig) -> tuple[Array, Array]:
    """See `codec.stereo.to_bytes`."""
    left, right = (log_mel(channel, cfg.codec.mel) for channel in (wave + side, wave - side))
    return stereo.to_bytes(*stereo.join(left, right), cfg.codec.mel)
