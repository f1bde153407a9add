"""Encoding a corpus ahead of training: posteriors and stereo mels, stored beside the scenes.

Files in a bucket's folder: `posterior.npy` (float16 [scenes, n, 2d], mean then std, normalised), `mels.npy` (float16
[scenes, f, m, 2], log-mels of left and right) and `latents.json` (the codec's fingerprint and how many are done).
"""

from __future__ import annotations

import json
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from kfjax.codec.configs import CodecConfig
from kfjax.codec.mel import log_mel
from kfjax.codec.vae import MelVAE
from kfjax.nn.module import Params, bind
from kfjax.rates import Lengths, Rates, lengths
from kfjax.scenes import Bucket, Corpus
from kfjax.scenes.corpus import FULL_SCALE
from kfjax.storage import disk
from kfjax.storage.checkpoint import weights_fingerprint


class Latents(NamedTuple):
    """An encoded bucket, memory-mapped; `count` scenes of it are encoded."""

    posterior: np.ndarray  # f16 [scenes, n, 2d]
    mels: np.ndarray  # f16 [scenes, f, m, 2]
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple's own is not needed


def encode_corpus(corpus: Corpus, cfg: CodecConfig, vae: Params, rates: Rates, *, batch: int = 8) -> None:
    """Encode every rendered scene, `batch` at a time. Resumes; latents of another VAE are replaced.

    A corpus may be encoded while it is still being rendered, and again when more is there. Of several processes one
    encodes, and the others wait for it.
    """
    mark = weights_fingerprint(vae)
    for bucket in corpus.buckets.values():
        with disk.alone(bucket.folder / "latents.lock"):
            _encode_bucket(bucket, cfg, vae, rates, mark, batch)


def open_latents(bucket: Bucket, mark: str) -> Latents:
    """Open what `encode_corpus` wrote.

    Raises:
      ValueError: not encoded yet, or by another VAE.
    """
    note = _note(bucket)
    if note.get("fingerprint") != mark or not note["done"]:
        got = f"latents of codec {note['fingerprint']}" if note.get("done") else "no latents"
        raise ValueError(f"{bucket.folder}: got {got}, expected those of codec {mark}; encode the corpus")
    posterior, mels = (np.load(bucket.folder / f"{name}.npy", mmap_mode="r") for name in ("posterior", "mels"))
    return Latents(posterior, mels, note["done"])


def _encode_bucket(bucket: Bucket, cfg: CodecConfig, vae: Params, rates: Rates, mark: str, batch: int) -> None:
    size = lengths(bucket.seconds, rates)
    rendered = len(bucket)
    arrays, done = _open(bucket, cfg, size, mark)
    encode = jax.jit(lambda wave: _encode(vae, cfg, wave))
    for first in tqdm(range(done, rendered, batch), unit="batch", desc=f"encode {bucket.seconds:g} s", mininterval=5.0):
        rows = np.arange(first, min(first + batch, rendered))
        wave = np.zeros((batch, size.samples, 2), np.float32)
        sound = bucket.sound[rows][np.arange(batch) % len(rows)]  # a short last batch is filled up: one compilation
        wave[:, : sound.shape[1]] = sound[:, : size.samples].astype(np.float32) / FULL_SCALE
        for array, made in zip(arrays, encode(wave), strict=True):
            array[rows] = np.asarray(made)[: len(rows)]
        last = rows[-1] == rendered - 1
        if last or first // batch % 20 == 0:
            for array in arrays:
                array.flush()
            _write_note(bucket, mark, int(rows[-1]) + 1)


def _open(bucket: Bucket, cfg: CodecConfig, size: Lengths, mark: str) -> tuple[list[np.memmap], int]:
    """The bucket's arrays to write to, with room for all its scenes, and how many of them hold what `mark` makes."""
    room = len(bucket.frames)
    shapes = {"posterior": (room, size.latents, 2 * cfg.vae.latent_dim), "mels": (room, size.mel, cfg.mel.bands, 2)}
    note = _note(bucket)
    done = note["done"] if note.get("fingerprint") == mark else 0
    if not done:
        _write_note(bucket, mark, 0)  # first: what is emptied below must not be taken for another codec's latents
        for name, shape in shapes.items():
            np.lib.format.open_memmap(bucket.folder / f"{name}.npy", "w+", np.float16, shape)
    return [np.load(bucket.folder / f"{name}.npy", mmap_mode="r+") for name in shapes], done


def _encode(vae: Params, cfg: CodecConfig, wave):
    """[b t 2] -> (mean and std [b n 2d], log-mels [b f m 2]); the latents are of the mono mix."""
    channels = [log_mel(wave[..., c], cfg.mel) for c in range(2)]
    posterior = bind(MelVAE, cfg.vae, vae).encode(log_mel(wave.mean(-1), cfg.mel))
    return jax.numpy.concatenate(posterior, -1), jax.numpy.stack(channels, -1)


def _note(bucket: Bucket) -> dict:
    path = bucket.folder / "latents.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write_note(bucket: Bucket, mark: str, done: int) -> None:
    disk.write_text(bucket.folder / "latents.json", json.dumps({"fingerprint": mark, "done": done}), noted=False)
