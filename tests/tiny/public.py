"""Public weights of the true layout at small sizes: every part of an MMAudio system, as files on disk."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from kfjax.codec.bigvgan import BigVGANConfig
from kfjax.codec.vae import VAEConfig
from kfjax.convert import families, hub, systems
from kfjax.convert.formats import files
from kfjax.convert.tables import bigvgan, clip, mmaudio, synchformer, synchformer_whole, vae
from kfjax.convert.tables.clip import CLIPConfig
from kfjax.encoders.clip import CLIPTextConfig, CLIPVisionConfig
from kfjax.encoders.synchformer import SynchformerConfig
from kfjax.listeners.ast import SpectrogramTransformerConfig
from kfjax.listeners.sync_scorer import SyncScorerConfig

VARIANT, NAME = "tiny_44k", "mmaudio-tiny-44k"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["!", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]

FLOW = replace(
    mmaudio.CONFIGS["small_44k"], width=64, heads=1, joint_depth=2, single_depth=1, latent_dim=8, clip_dim=16,
    text_dim=16, sync_dim=16,
)  # fmt: skip
VAE = VAEConfig(variant="edm2", latent_dim=8, width=8)
VOCODER = BigVGANConfig(width=64, block_kernels=(3,), dilations=(1,))
TOWERS = CLIPConfig(
    vision=CLIPVisionConfig(size=32, patch=16, width=16, depth=1, heads=2, mlp_width=32, out_dim=16),
    text=CLIPTextConfig(vocab=len(WORDS), width=16, depth=1, heads=2, mlp_width=32),
)
SYNC = SynchformerConfig(size=32, width=16, depth=1, heads=2)
JUDGE = SyncScorerConfig(
    visual=SYNC, audio=SpectrogramTransformerConfig(width=16, depth=1, heads=2), width=16, depth=1, heads=2
)


def announce(monkeypatch) -> None:
    """Make the small variants known beside the public ones."""
    for module, name, cfg in (
        (mmaudio, VARIANT, FLOW), (vae, "44k", VAE), (bigvgan, "44k", VOCODER), (clip, systems.CLIP, TOWERS),
        (synchformer, "synchformer", SYNC), (synchformer_whole, "synchformer", JUDGE),
    ):  # fmt: skip
        monkeypatch.setitem(module.CONFIGS, name, cfg)
    monkeypatch.setitem(systems.SYSTEMS, VARIANT, systems.mmaudio_system(VARIANT))
    flow = hub.HubFile("someone/flows", f"weights/mmaudio_{VARIANT}.pth", 1, "CC0")
    sources = tuple(source._replace(checksum="") for source in (flow, *hub.CODECS["44k"], *hub.ENCODERS))
    monkeypatch.setitem(hub.MODELS, NAME, sources)


def state(family: str, variant: str, dtype=np.float32) -> dict[str, np.ndarray]:
    """Random values in the public layout."""
    rng = np.random.default_rng(len(family))
    known = families.named(family)
    made = {key: (0.05 * rng.standard_normal(shape)).astype(dtype) for key, shape in known.layout(variant).items()}
    return {key: np.abs(x) + np.asarray(0.5, dtype) if key.endswith("std") else x for key, x in made.items()}


WHOLE = {
    "mmaudio": VARIANT, "mmaudio-vae": "44k", "bigvgan": "44k", "clip": systems.CLIP,
    "synchformer-whole": "synchformer",
}  # fmt: skip


def write(folder: Path) -> Path:
    """All files of the small system; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for family, variant in WHOLE.items():
        known = families.named(family)
        name = "open_clip_pytorch_model.bin" if family == "clip" else known.files(variant)
        files.write_state(folder / name, state(family, variant), inside=known.inside)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def write_hub_cache(cache: Path, folder: Path) -> None:
    """The files of `folder` as huggingface_hub keeps what it has downloaded."""
    for source in hub.MODELS[NAME]:
        commit = hub.REVISIONS.get(source.repo, "0" * 40)
        repo = cache / ("models--" + source.repo.replace("/", "--"))
        target = repo / "snapshots" / commit / source.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / source.name).read_bytes())
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(commit)


def leaves(tree) -> list[np.ndarray]:
    return jax.tree.leaves(tree)
