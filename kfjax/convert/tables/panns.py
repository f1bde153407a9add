"""PANNs' Cnn14 files in kfjax's Cnn14, and back.

    tree = from_torch(state_dict, CONFIGS["32k"])
    heard = bind(Cnn14, cfg, tree["cnn14"])(wave)
    state_dict = to_torch(tree, CONFIGS["32k"])

The public files (zenodo.org/records/3987831) keep the state dict under `model`, beside the state of the training's
sampler. How many batches each batch norm has seen matters to training only and waits in `unused` for the way back.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from kfjax import module
from kfjax.checkpoint import unflatten
from kfjax.convert import rules
from kfjax.convert.rules import TRANSPOSE, How, Rule, dense
from kfjax.listeners.panns import Cnn14, Cnn14Config

CONFIGS = {"32k": Cnn14Config(), "16k": Cnn14Config(sample_rate_hz=16000, n_fft=512, hop=160)}
FILES = {"32k": "Cnn14_mAP=0.431.pth", "16k": "Cnn14_16k_mAP=0.438.pth"}

#: A filter for every bin, [bins, 1, n_fft] <-> the matrix [n_fft, bins].
_FILTERS = How(lambda x: x[:, 0].T, lambda x: x.T[:, None])
_COUNT = jax.ShapeDtypeStruct((), np.int64)


def from_torch(state: Mapping[str, np.ndarray], cfg: Cnn14Config) -> module.Params:
    """`{"cnn14": parameters of Cnn14(cfg), "unused": {...}}` from a public state dict.

    Raises:
      ValueError: names every missing, unused and misshapen key at once.
    """
    made = rules.to_jax(state, table(cfg), shapes(cfg))
    return unflatten(module.flatten(made))  # modules in a list have integers for names


def to_torch(params: module.Params, cfg: Cnn14Config) -> rules.State:
    """The public state dict: the exact inverse of `from_torch`.

    Raises:
      ValueError: parameters of another tree.
    """
    return rules.to_torch(params, table(cfg))


def shapes(cfg: Cnn14Config) -> module.Params:
    """Shapes of the tree that the table fills."""
    blocks = {i: {"bn1": _COUNT, "bn2": _COUNT} for i in range(len(cfg.widths))}
    return {"cnn14": module.shapes(Cnn14, cfg), "unused": {"bn0": _COUNT, "blocks": blocks}}


def table(cfg: Cnn14Config) -> list[Rule]:
    """The whole correspondence."""
    made = [
        Rule("spectrogram_extractor.stft.conv_real.weight", "cnn14/spectrogram/real", _FILTERS),
        Rule("spectrogram_extractor.stft.conv_imag.weight", "cnn14/spectrogram/imaginary", _FILTERS),
        Rule("logmel_extractor.melW", "cnn14/spectrogram/mel"),
        *_batch_norm("bn0", "bn0"),
    ]
    for i in range(len(cfg.widths)):
        for n in (1, 2):
            block = f"conv_block{i + 1}"
            made.append(Rule(f"{block}.conv{n}.weight", f"cnn14/blocks/{i}/conv{n}/kernel", TRANSPOSE))
            made += _batch_norm(f"{block}.bn{n}", f"blocks/{i}/bn{n}")
    return made + dense("fc1", "cnn14/fc1") + dense("fc_audioset", "cnn14/fc_audioset")


def _batch_norm(torch_key: str, path: str) -> list[Rule]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    learnt = [Rule(f"{torch_key}.{theirs}", f"cnn14/{path}/{ours}") for theirs, ours in names.items()]
    return [*learnt, Rule(f"{torch_key}.num_batches_tracked", f"unused/{path}")]
