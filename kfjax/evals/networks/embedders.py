"""PANNs' Cnn14 and ImageBind in JAX, with the interfaces of `networks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from kfjax.convert.tables import imagebind, panns
from kfjax.data import tables
from kfjax.evals.networks import weights
from kfjax.evals.networks.base import Tags
from kfjax.listeners import fbank
from kfjax.listeners.imagebind import ImageBindAudio, ImageBindConfig, ImageBindVision
from kfjax.listeners.panns import Cnn14, Cnn14Config
from kfjax.media import FrameSpec
from kfjax.nn.module import Params, bind

#: AudioSet's table of classes (storage.googleapis.com/us_audioset/youtube_corpus/v1/csv), where the folder has it.
LABELS = "class_labels_indices.csv"
#: The public benchmark listens with the first (github.com/hkchengrex/av-benchmark, `av_bench/extraction_models.py`).
PANNS_VARIANTS = ("16k", "32k")
#: Frames a second of ImageBind's input: one every other second (av-benchmark).
IMAGEBIND_HZ = 0.5
_CLIPS_AT_ONCE = 8


def load_panns(folder: str | Path) -> Panns:
    """Cnn14 with the weights in a folder, that for 16 kHz before that for 32 kHz.

    Raises:
      Unavailable: neither is there.
    """
    variant, parts = weights.find(folder, "panns", PANNS_VARIANTS)
    cfg = panns.CONFIGS[variant]
    return Panns(cfg, parts[panns.part(cfg)], _labels(Path(folder), cfg.classes))


def load_imagebind(folder: str | Path) -> ImageBind:
    """ImageBind's towers for pictures and sound with the weights in a folder.

    Raises:
      Unavailable: they are not there.
    """
    variant, parts = weights.find(folder, "imagebind", tuple(imagebind.CONFIGS))
    return ImageBind(imagebind.CONFIGS[variant], parts["imagebind"])


class Panns:
    """A `networks.AudioClassifier`.

    Attributes:
      name: with the rate, which makes another network.
      sample_rate_hz: of the sounds.
      labels: names of the classes; their numbers where the folder has no table of them.
    """

    def __init__(self, cfg: Cnn14Config, params: Params, labels: Sequence[str]):
        self.name = f"PANNs Cnn14, {cfg.sample_rate_hz / 1000:g} kHz"
        self.sample_rate_hz, self.labels = cfg.sample_rate_hz, tuple(labels)
        self._params = jax.device_put(params)
        self._hear = compiled(lambda params, waves: bind(Cnn14, cfg, params)(waves))

    def tags(self, waves: Float32[np.ndarray, "b t"]) -> Tags:
        """Embedding and logits of sounds; their mean is subtracted first, as in the public benchmark.

        Raises:
          ValueError: sounds of less than 0.31 s.
        """
        heard = self._hear(self._params, waves - waves.mean(axis=1, keepdims=True))
        return Tags(np.asarray(heard.embedding), np.asarray(heard.logits))


class ImageBind:
    """A `networks.VideoAudioSpace`: cosines of its vectors are the IB-score.

    A video is embedded as overlapping pairs of frames two seconds apart, in three square crops; a sound as three
    clips of two seconds; the vectors of each are averaged. The public benchmark does the same, but takes the left
    channel of stereo, not the mean of both.

    Attributes:
      name: of the network.
      sample_rate_hz: of the sounds.
      frame_spec: of the pictures.
    """

    def __init__(self, cfg: ImageBindConfig, params: Params):
        self.name, self.sample_rate_hz = "ImageBind", fbank.SAMPLE_RATE_HZ
        self.frame_spec = FrameSpec(IMAGEBIND_HZ, cfg.vision.size, "crops")
        self._params = jax.device_put(params)
        vision, audio = (replace(tower, clips_at_once=_CLIPS_AT_ONCE) for tower in (cfg.vision, cfg.audio))
        self._see = compiled(lambda params, clips: bind(ImageBindVision, vision, params)(clips))
        self._hear = compiled(lambda params, mels: bind(ImageBindAudio, audio, params)(mels))

    def embed_audio(self, waves: Float32[np.ndarray, "b t"]) -> Float32[np.ndarray, "b d"]:
        """Vectors of sounds, mono within ±1 at 16 kHz.

        Raises:
          ValueError: sounds of less than 25 ms.
        """
        return np.asarray(self._hear(self._params["audio"], fbank.clip_log_mels(waves)))

    def embed_video(self, frames: UInt8[np.ndarray, "b v size width 3"]) -> Float32[np.ndarray, "b d"]:
        """Vectors of videos, each frame as one or several square crops; a single frame is paired with itself."""
        b, v, size, width, _ = frames.shape
        squares = frames.reshape(b, v, size, width // size, size, 3).transpose(0, 3, 1, 2, 4, 5)
        first, second = (squares[:, :, :-1], squares[:, :, 1:]) if v > 1 else (squares, squares)
        clips = np.stack([first, second], axis=3).reshape(b, -1, 2, size, size, 3)
        return np.asarray(self._see(self._params["vision"], clips))


def compiled(apply: Callable) -> Callable:
    """`jax.jit` in full float32: by default accelerators multiply in fewer bits, and figures would depend on them."""

    def exact(*inputs):
        with jax.default_matmul_precision("highest"):
            return apply(*inputs)

    return jax.jit(exact)


def _labels(folder: Path, classes: int) -> tuple[str, ...]:
    path = folder / LABELS
    if not path.is_file():
        return tuple(map(str, range(classes)))
    rows = tables.published(path, ["display_name"], header=True)
    names = tuple(row["display_name"] for row in rows if row["display_name"])
    if len(names) != classes:
        raise ValueError(f"{path}: got {len(names)} classes, expected {classes}; get the table again, or remove it")
    return names
