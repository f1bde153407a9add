"""An earlier extraction of the same source, of which only some parts are made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from kfjax import features, rates
from kfjax.codec import codec_of
from kfjax.data.encode import FeatureEncoder, Loaded, stereo_mels
from kfjax.data.extract import PLAN
from kfjax.data.films import Source
from kfjax.data.shards import records
from kfjax.data.shards.marks import PARTS
from kfjax.data.shards.records import Example, Shard
from kfjax.data.sources import Cut
from kfjax.media import FrameSpec
from kfjax.nn.module import Params, bind
from kfjax.structs import StereoMels
from kfjax.system import SystemConfig
from kfjax.xla import sharding

#: Id of an excerpt -> its place.
Known = Mapping[str, tuple[Shard, int]]


class Reuse:
    """Takes over what the encoder's system would make alike, and makes the rest anew.

    Args:
      folder: of features.
      digest: of the source's rows; where it has changed the captions may have too.

    Attributes:
      stale: the parts that are made anew; "stereo" for what Mono2Stereo learns from, which a folder need not have.
      of: the number of the folder's shards; excerpts are looked for in the shard of the same number.

    Raises:
      ValueError: no finished extraction; one by an earlier version, of which it is not known what differs.
    """

    def __init__(self, folder: Path, encoder: FeatureEncoder, digest: str):
        self._folder, self._encoder = records.Folder(folder), encoder
        plan = folder / PLAN
        marks, self.of = self._folder.marks, self._folder.of
        if not marks.parts and marks.whole != encoder.fingerprint:
            raise ValueError(f"--from: {folder} does not say what made each of its parts; extract without --from")
        alike = plan.is_file() and records.read_json(plan).get("source") == digest
        differing = {*encoder.marks.differing(marks)} | (set() if alike else {"text"})
        has_stereo = all(records.STEREO[0] in shapes for shapes in self._folder.shapes.values())
        if encoder.stereo and ("vae" in differing or not has_stereo):
            differing.add("stereo")
        self.stale = tuple(name for name in (*PARTS, "stereo") if name in differing)

    def shard(self, number: int, of: int) -> Known:
        """The excerpts in one of the folder's shards."""
        if of != self.of:
            return {}
        known = {}
        for bucket in self._folder.buckets.values():
            for shard in bucket.shards:
                if shard.path.name.startswith(f"{number:05d}-of-"):
                    known |= {records.parse(shard[i]).id: (shard, i) for i in range(len(shard))}
        return known

    def load(self, known: Known, cut: Cut, source: Source) -> Loaded:
        """As `FeatureEncoder.load`; of an excerpt that is known, only what the stale parts see and hear is decoded."""
        if cut.id not in known:
            return self._encoder.load(cut, source)
        shard, number = known[cut.id]
        before = records.parse(shard[number])
        return self._encoder.load(cut, _Needed(source, self.stale))._replace(before=before)

    def __call__(self, loaded: Sequence[Loaded]) -> list[Example]:
        """The examples of known excerpts, all of one length, all with pictures or all without."""
        encoder, cfg = self._encoder, self._encoder.cfg
        whole = [loaded[i % len(loaded)] for i in range(encoder.batch)]
        made: dict[str, np.ndarray] = {}
        for part in self.stale:
            if part in ("clip", "sync") and loaded[0].cut.row.video is None:
                size = rates.lengths(loaded[0].cut.seconds, cfg.rates)
                shape = (size.clip, cfg.clip.out_dim) if part == "clip" else (size.sync, cfg.sync.width)
                made[part] = np.zeros((len(loaded), *shape), records.BFLOAT16)
            else:
                inputs = [np.stack(rows) for rows in zip(*(_inputs(one, part) for one in whole), strict=True)]
                placed = sharding.put_batch(tuple(inputs), encoder.mesh)
                params = {} if part == "stereo" else encoder.part(part)
                made |= jax.tree.map(np.asarray, _encode(params, cfg, part, *placed))
        rows = ({name: array[i] for name, array in made.items()} for i in range(len(loaded)))
        return [self._renewed(one, row) for one, row in zip(loaded, rows, strict=True)]

    def _renewed(self, one: Loaded, made: dict[str, np.ndarray]) -> Example:
        """The example of before with what was made; `made` is emptied."""
        assert one.before is not None
        given, stereo = one.before.given, one.before.stereo if self._encoder.stereo else None
        if "text" in self.stale:
            fresh = jax.tree.map(lambda x: np.asarray(x)[0], one.excerpt.given)
            given = fresh._replace(text_mask=made.pop("text_mask"))
        if "stereo" in self.stale:
            stereo = StereoMels(made.pop("mono"), made.pop("ratio"), np.asarray(one.side is not None))
        return one.before._replace(given=given, stereo=stereo, **made)


def _inputs(one: Loaded, part: str) -> tuple[np.ndarray, ...]:
    excerpt = one.excerpt
    if part == "text":
        return np.asarray(excerpt.text_ids)[0], np.asarray(excerpt.given.text_mask)[0]
    if part == "stereo":
        return one.wave, one.wave * 0 if one.side is None else one.side
    return ({"clip": excerpt.clip_frames, "sync": excerpt.sync_frames, "vae": one.wave[None]}[part][0],)


@partial(jax.jit, static_argnames=("cfg", "part"))
def _encode(
    params: Params, cfg: SystemConfig, part: str, x: jax.Array, other: jax.Array | None = None
) -> dict[str, Any]:
    """The arrays of an `Example` that one part makes; `other`: the mask of token ids, the side of a mono wave."""
    from kfjax.encoders.clip import CLIPVision
    from kfjax.encoders.synchformer import Synchformer

    if part == "text":
        assert other is not None
        text, mask = features.encode_text(params, cfg, x, other)
        return {"text": text.astype(jnp.bfloat16), "text_mask": jnp.asarray(mask)}
    if part == "stereo":
        assert other is not None
        return dict(zip(("mono", "ratio"), stereo_mels(x, other, cfg), strict=True))
    if part == "vae":
        made = codec_of(cfg.codec).encode({"vae": params}, cfg.codec, x)._asdict()
    elif part == "clip":
        made = {"clip": bind(CLIPVision, cfg.clip, params)(x)}
    else:
        made = {"sync": bind(Synchformer, cfg.sync, params)(x)}
    return {name: array.astype(jnp.bfloat16) for name, array in made.items()}


class _Needed:
    """Reads what the stale parts see and hear; a blank of the right shape takes the place of the rest."""

    def __init__(self, source: Source, stale: Sequence[str]):
        self._source, self._sees, self._hears = source, {"clip", "sync"} & {*stale}, bool({"vae", "stereo"} & {*stale})

    def read_frames(
        self, path: Any, specs: Sequence[FrameSpec], *, start_seconds: float = 0.0, counts: Sequence[int] | None = None
    ) -> tuple[list[np.ndarray], float]:
        if self._sees:
            return self._source.read_frames(path, specs, start_seconds=start_seconds, counts=counts)
        shapes = [(count, spec.size, spec.size, 3) for spec, count in zip(specs, counts or (), strict=True)]
        return [np.broadcast_to(np.uint8(0), shape) for shape in shapes], 0.0

    def read_audio(
        self, path: Any, sample_rate_hz: int, channels: Literal[1, 2] = 2, duration_seconds: float | None = None,
        start_seconds: float = 0.0,
    ) -> np.ndarray:  # fmt: skip
        if self._hears or duration_seconds is None:
            return self._source.read_audio(path, sample_rate_hz, channels, duration_seconds, start_seconds)
        samples = round(duration_seconds * sample_rate_hz)
        return np.broadcast_to(np.float32(1), (samples, channels))  # not silent: that was found out before
