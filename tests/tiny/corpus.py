"""A handful of short, small scenes, rendered in a second."""

import shutil
from pathlib import Path

from kfjax.scenes import Corpus, render_corpus
from kfjax.scenes.encode import encode_corpus
from tests.tiny.system import CONFIG, tiny_system

DURATIONS = {1.0: 10, 0.7: 6}


def render(folder: Path, size: int = 32, durations=DURATIONS, split: str = "train") -> Corpus:
    return render_corpus(folder, sum(durations.values()), seed=3, split=split, durations=durations, size=size)


def encode(corpus: Corpus) -> Corpus:
    """By the tiny system's VAE."""
    encode_corpus(corpus, CONFIG.codec, tiny_system().params["vae"], CONFIG.rates, batch=2)
    return corpus


def copy(corpus: Corpus, folder: Path) -> Corpus:
    shutil.copytree(next(iter(corpus.buckets.values())).folder.parent, folder)
    return Corpus(folder)
