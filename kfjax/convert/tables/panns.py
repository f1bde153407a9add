"""PANNs' Cnn14 files in kfjax's Cnn14, and back.

    params = FAMILY.from_torch(state_dict, CONFIGS["32k"])["panns-32k"]
    state_dict = FAMILY.to_torch({"panns-32k": params}, CONFIGS["32k"])

The public files (zenodo.org/records/3987831) keep the state dict under `model`, beside the state of the training's
sampler. How many batches each batch norm has seen matters to training only and waits in `unused` for the way back.
"""

from __future__ import annotations

import jax
import numpy as np

from kfjax.convert.family import Family
from kfjax.convert.rules import TRANSPOSE, How, Rule, dense, under
from kfjax.listeners.panns import Cnn14, Cnn14Config
from kfjax.nn import module
from kfjax.system import UNUSED

CONFIGS = {"32k": Cnn14Config(), "16k": Cnn14Config(sample_rate_hz=16000, n_fft=512, hop=160)}
FILES = {"32k": "Cnn14_mAP=0.431.pth", "16k": "Cnn14_16k_mAP=0.438.pth"}

#: A filter for every bin, [bins, 1, n_fft] <-> the matrix [n_fft, bins].
_FILTERS = How(lambda x: x[:, 0].T, lambda x: x.T[:, None])
_COUNT = jax.ShapeDtypeStruct((), np.int64)


def part(cfg: Cnn14Config) -> str:
    """A part for each rate, so that one directory can hold both: "panns-32k"."""
    return f"panns-{cfg.sample_rate_hz // 1000}k"


def shapes(cfg: Cnn14Config) -> module.Params:
    """Shapes of the part that the table fills."""
    blocks = {i: {"bn1": _COUNT, "bn2": _COUNT} for i in range(len(cfg.widths))}
    return {part(cfg): {**module.shapes(Cnn14, cfg), UNUSED: {"bn0": _COUNT, "blocks": blocks}}}


def table(cfg: Cnn14Config) -> list[Rule]:
    """The whole correspondence."""
    made = [
        Rule("spectrogram_extractor.stft.conv_real.weight", "spectrogram/real", _FILTERS),
        Rule("spectrogram_extractor.stft.conv_imag.weight", "spectrogram/imaginary", _FILTERS),
        Rule("logmel_extractor.melW", "spectrogram/mel"),
        *_batch_norm("bn0", "bn0"),
    ]
    for i in range(len(cfg.widths)):
        for n in (1, 2):
            block = f"conv_block{i + 1}"
            made.append(Rule(f"{block}.conv{n}.weight", f"blocks/{i}/conv{n}/kernel", TRANSPOSE))
            made += _batch_norm(f"{block}.bn{n}", f"blocks/{i}/bn{n}")
    made += dense("fc1", "fc1") + dense("fc_audioset", "fc_audioset")
    return under(part(cfg), made)


def _batch_norm(torch_key: str, path: str) -> list[Rule]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    learnt = [Rule(f"{torch_key}.{theirs}", f"{path}/{ours}") for theirs, ours in names.items()]
    return [*learnt, Rule(f"{torch_key}.num_batches_tracked", f"unused/{path}")]


FAMILY = Family("panns", "logmel_extractor.melW", CONFIGS, table, shapes, files=FILES.__getitem__, inside="model")
