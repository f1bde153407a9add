"""Sound to latents, once, ahead of training: posteriors and stereo mels beside the scenes they come from.

Files in a bucket's folder: `posterior.npy` (float16 [scenes, n, 2d], mean then std, normalised), `mels.npy` (float16
[scenes, f, m, 2], log-mels of left and right) and `latents.json` (the codec's fingerprint and how many are done).
"""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from kfjax.codec.audio_codec import CodecConfig
from kfjax.codec.mel import log_mel
from kfjax.codec.vae import MelVAE
from kfjax.data.scenes import Bucket, Corpus
from kfjax.module import Params, bind, flatten
from kfjax.rates import lengths


class Latents(NamedTuple):
    """An encoded bucket, memory-mapped."""

    posterior: np.ndarray  # f16 [scenes, n, 2d]
    mels: np.ndarray  # f16 [scenes, f, m, 2]
    count: int


def fingerprint(vae: Params) -> str:
    """Short hash of what makes latents (all of a VAE but its decoder): they must not train a generator for another."""
    digest = hashlib.sha256()
    encoder = {name: part for name, part in vae.items() if name != "decoder"}
    for name, leaf in sorted(flatten(encoder).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()[:16]


def encode_corpus(corpus: Corpus, cfg: CodecConfig, vae: Params, *, batch: int = 8) -> None:
    """Encode every rendered scene. Resumes; latents of another VAE are replaced."""
    mark = fingerprint(vae)
    for bucket in corpus.buckets.values():
        _encode_bucket(bucket, cfg, vae, mark, batch)


def open_latents(bucket: Bucket, mark: str) -> Latents:
    """Open what `encode_corpus` wrote.

    Raises:
      ValueError: not encoded yet, or by another VAE.
    """
    note = _note(bucket)
    if note.get("fingerprint") != mark:
        raise ValueError(f"{bucket.folder}: got latents of codec {note.get('fingerprint')}, expected {mark}; encode the corpus")
    arrays = (np.load(bucket.folder / name, mmap_mode="r") for name in ("posterior.npy", "mels.npy"))
    return Latents(*arrays, note["done"])


def _encode_bucket(bucket: Bucket, cfg: CodecConfig, vae: Params, mark: str, batch: int) -> None:
    size = lengths(bucket.seconds)
    total = len(bucket)
    shapes = {"posterior": (total, size.latents, 2 * cfg.vae.latent_dim), "mels": (total, size.mel, cfg.mel.bands, 2)}
    note = _note(bucket)
    done = note.get("done", 0) if note.get("fingerprint") == mark and note.get("total") == total else 0
    mode = "r+" if done else "w+"
    arrays = {
        name: np.lib.format.open_memmap(bucket.folder / f"{name}.npy", mode=mode, dtype=np.float16, shape=None if done else shape)
        for name, shape in shapes.items()
    }
    encode = jax.jit(lambda wave: _encode(vae, cfg, wave))
    for first in tqdm(range(done, total, batch), unit="batch", desc=f"encode {bucket.seconds:g} s", mininterval=5.0):
        rows = np.arange(first, min(first + batch, total))
        wave = np.zeros((batch, size.samples, 2), np.float32)
        sound = bucket.sound[rows][np.arange(batch) % len(rows)]  # a short last batch repeats itself: one compile
        wave[:, : sound.shape[1]] = sound[:, : size.samples].astype(np.float32) / 32767.0
        posterior, mels = encode(wave)
        arrays["posterior"][rows] = np.asarray(posterior)[: len(rows)]
        arrays["mels"][rows] = np.asarray(mels)[: len(rows)]
        if (first // batch) % 20 == 0 or rows[-1] == total - 1:
            for array in arrays.values():
                array.flush()
            _write_note(bucket, {"fingerprint": mark, "done": int(rows[-1]) + 1, "total": total})


def _encode(vae: Params, cfg: CodecConfig, wave):
    """[b t 2] -> (mean and std [b n 2d], log-mels [b f m 2]); the latents are of the mono mix."""
    channels = [log_mel(wave[..., c], cfg.mel) for c in range(2)]
    posterior = bind(MelVAE, cfg.vae, vae).encode(log_mel(wave.mean(-1), cfg.mel))
    return jax.numpy.concatenate(posterior, -1), jax.numpy.stack(channels, -1)


def _note(bucket: Bucket) -> dict:
    path = bucket.folder / "latents.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write_note(bucket: Bucket, note: dict) -> None:
    temporary = Path(bucket.folder / "latents.json.tmp")
    temporary.write_text(json.dumps(note))
    os.replace(temporary, bucket.folder / "latents.json")
