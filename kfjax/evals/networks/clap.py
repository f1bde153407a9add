"""CLAP (arXiv 2211.06687): a joint embedding of captions and sounds, by transformers' PyTorch model.

The only networks of kfjax that run on PyTorch, which the extra `eval` brings: two more transformers, a Swin and a
RoBERTa, would be a lot of code for one figure. Nothing of it is imported before weights have been found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from kfjax.command import install
from kfjax.evals.networks.base import Unavailable

#: What the folder is searched for: any CLAP without fusion will do, this one is the field's for sound of all kinds.
MODEL = "laion/larger_clap_general"
#: Tokens that LAION's own code lets through (github.com/LAION-AI/CLAP).
_TOKENS = 77


def load(folder: str | Path) -> Clap:
    """The CLAP model in a folder or in one of those in it, as the hub has it: configuration, weights, tokenizer.

    Raises:
      Unavailable: there is none, it is not whole, it is one with fusion (which hears a sound differently each time), or
        PyTorch and transformers are not installed.
    """
    path = _model_folder(Path(folder))
    from safetensors import SafetensorError

    try:
        from transformers import ClapModel, ClapProcessor
    except ImportError as error:  # transformers says so late where PyTorch is missing
        raise Unavailable(f"CLAP needs torch and transformers ({error}); {install('eval')}") from None
    try:
        model = ClapModel.from_pretrained(path, local_files_only=True)
        processor = ClapProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, ImportError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Unavailable(f"{path}: got no whole CLAP model ({reason}); {_get(path)}") from None
    if getattr(model.config.audio_config, "enable_fusion", False):
        raise Unavailable(f"{path}: got a CLAP with fusion, expected one without; {_get(path)}")
    return Clap(path.name, model, processor)


def _model_folder(folder: Path) -> Path:
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in (folder, *inside):
        if _kind(path / "config.json") == "clap":
            return path
    raise Unavailable(f"{folder}: got no CLAP model, expected a folder of one; {_get(folder / Path(MODEL).name)}")


def _get(target: Path) -> str:
    return f"get it with: hf download {MODEL} --local-dir {target}"


def _kind(config: Path) -> str:
    """What transformers calls the model, "" where there is none."""
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class Clap:
    """A `networks.TextAudioSpace`.

    The network's input is ten seconds. Shorter sounds are repeated until they fill it, as in its training; longer ones
    are cut into pieces, the last of which ends with the sound, and their vectors are averaged.

    Attributes:
      name: of the model's folder.
      sample_rate_hz: of the sounds.
    """

    def __init__(self, name: str, model: Any, processor: Any):
        self.name, self._model = f"CLAP {name}", model.eval()
        self._features, self._tokenizer = processor.feature_extractor, processor.tokenizer
        self.sample_rate_hz = int(self._features.sampling_rate)

    def embed_audio(self, waves: Float32[np.ndarray, "b t"]) -> Float32[np.ndarray, "b d"]:
        """Vectors of sounds, of length 1 or (of several pieces) less."""
        size = self._features.nb_max_samples
        last = max(0, waves.shape[1] - size)
        starts = [*range(0, last, size), last]
        pieces = np.stack([waves[:, start : start + size] for start in starts], axis=1)
        inputs = self._features(
            list(pieces.reshape(-1, pieces.shape[-1])), sampling_rate=self.sample_rate_hz, return_tensors="pt",
            truncation="rand_trunc", padding="repeatpad",
        )  # fmt: skip
        return self._vectors(self._model.get_audio_features, inputs).reshape(len(waves), len(starts), -1).mean(axis=1)

    def embed_text(self, captions: Sequence[str]) -> Float32[np.ndarray, "b d"]:
        """Vectors of captions, of length 1; what is beyond 77 tokens is cut off."""
        inputs = self._tokenizer(list(captions), padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt")
        return self._vectors(self._model.get_text_features, inputs)

    def _vectors(self, apply: Any, inputs: Any) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return apply(**inputs).pooler_output.numpy()
